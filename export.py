"""Export a trained run: python export.py RUN_FOLDER [--out FOLDER].

Writes three files that need neither the text tower nor this repository:
  model.onnx        preprocessed images (n, 3, S, S) -> probabilities and the OOD score; metadata: class names, pixels
  head.safetensors  text features, projection, logit scale; metadata: the same, and the method's settings
  classify.py       python classify.py IMAGE ...: uses model.onnx with numpy, pillow and onnxruntime
Any method can be exported whose image tower is frozen and whose text is the same for all images.

Exit code: 0 done, 2 a mistake of the user.
"""

import argparse
import sys
from pathlib import Path

from dassl.utils import UserError
from train import Parser


def parse_args(argv):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument("--out", type=Path, help="folder of the files; by default export/ in the run's folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the script; return its exit code: 0, or 2 for a mistake of the user."""
    user_errors = (ValueError, OSError)
    try:
        args = parse_args(argv)
        try:
            from sotglp.export import export
        except ModuleNotFoundError as error:
            raise UserError(f'{error.name} is missing, which exporting needs: pip install -e ".[export]"') from error
        out = args.out or args.run / "export"
        difference = export(args.run, out)
    except user_errors as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if not args.quiet:
        for path in sorted(out.iterdir()):
            print(f"{path.stat().st_size / 2**20:8.2f} MiB  {path}")
        print(f"model.onnx gives the predictor's probabilities of three images of noise, to {difference:.0e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
