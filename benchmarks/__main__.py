"""Run all benchmarks, one after the other: python -m benchmarks [--json FILE]; 25 minutes on 2 cores

Each prints its table. `python -m benchmarks.NAME` runs one alone, and with other sizes (see its --help).

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import benchmark_parser
from dassl.utils import command

PARTS = {
    "a training step, and without each part of what makes it fast": ["step", "--turns", "1"],
    "classes": ["step", "--turns", "1", "--classes", "10", "100", "1000", "--kinds", "sotglp", "--steps", "2"],
    "images": ["step", "--turns", "1", "--images", "1", "4", "16", "--kinds", "sotglp"],
    "local prompts": ["step", "--turns", "1", "--local", "1", "4", "8", "--kinds", "sotglp"],
    "memory under one budget": [
        *("step", "--turns", "1", "--steps", "1", "--classes", "100", "1000", "--kinds", "budget of 0.25 GiB")
    ],
    "text tower": ["text_tower"],
    "transport": ["transport"],
    "evaluation": ["evaluation"],
    "loading": ["loading"],
    "encoding": ["encode"],
    "a busy machine": ["busy"],
    "warm start": ["comparison", "--turns", "1"],
}


@command
def main(argv=None):
    """Run the benchmarks; return the exit code."""
    args = benchmark_parser(__doc__).parse_args(argv)
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, (name, *words) in PARTS.items():
            print(f"\n{what}: python -m benchmarks.{' '.join([name, *words])}", flush=True)
            path = Path(folder) / "measured.json"
            code = subprocess.call([sys.executable, "-m", f"benchmarks.{name}", *words, "--json", str(path)])
            if code:
                return code
            measured[what] = json.loads(path.read_text(encoding="utf-8"))
            if args.json:  # after each part, so that an interruption loses only one
                Path(args.json).write_text(json.dumps(measured, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
