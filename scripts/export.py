"""Export a trained run: python -m scripts.export RUN_FOLDER [--out FOLDER]

The command writes four files, which work without the text tower and without this repository:

  model.onnx        preprocessed images (n, 3, S, S) -> probabilities and the OOD score; metadata: class names, pixels
  head.safetensors  text features, projection, logit scale; metadata: the same, and the method's settings
  classify.py       python classify.py IMAGE ...: uses model.onnx with numpy, pillow and onnxruntime
  images.py         reads images, as the run did

It exports a method if its image tower is frozen and its text is the same for all images.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted.
"""

import sys
from pathlib import Path

from dassl.config import read_config
from dassl.utils import Parser, UserError, command, user_input


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument("--out", type=Path, help="folder for the files; by default export/ in the run's folder")
    parser.add_argument("--score", help="OOD score of the model, as in scripts.predict")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_args(argv)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = parse_args(argv)
    read_config(args.run)  # reports a folder that is no run before torch is imported
    try:
        from sotglp.toolbox.export import export
    except ModuleNotFoundError as error:
        raise UserError(f'the export needs {error.name}, which is missing: pip install -e ".[export]"') from error
    out = args.out or args.run / "export"
    with user_input():
        difference = export(args.run, out, args.score)
    if not args.quiet:
        for path in sorted(out.iterdir()):
            print(f"{path.stat().st_size / 2**20:8.2f} MiB  {path}")
        print(f"On three images of noise, model.onnx and the predictor agree to {difference:.0e} in all probabilities")
    return 0


if __name__ == "__main__":
    sys.exit(main())
