"""Run a command of this repository from any folder: sotglp COMMAND [arguments]

`python -m scripts COMMAND` is the same in a clone. Flags and exit codes are those of the command's module; configs/ is
found in the clone, and all other paths, such as data and output, are relative to the current folder.

{commands}

sotglp COMMAND --help explains a command.

Exit code: 0 done, 2 a mistake of the user; others as the command's --help says.
"""

import contextlib
import importlib
import io
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
COMMANDS = {
    "train": "train",
    **{name: f"scripts.{name}" for name in ("run", "compare", "transfer", "ood_detection")},
    **{name: f"scripts.{name}" for name in ("predict", "visualize", "report", "export", "ood", "localize")},
    **{name: f"scripts.{name}" for name in ("table", "plots", "overview", "archive", "encode")},
    **{"check": "datasets.check", "prepare": "datasets.prepare", "doctor": "dassl.doctor"},
}


def summary(module):
    """Return the words that a command's module begins with; it is not imported."""
    path = HOME.joinpath(*module.split(".")).with_suffix(".py")
    with open(path, encoding="utf-8") as file:
        return file.readline().removeprefix('"""').partition(":")[0]


def called(text):
    """Return the text of a command's --help with the commands as they are called here."""
    for name, module in COMMANDS.items():
        text = text.replace(f"python -m {module} ", f"sotglp {name} ").replace(f"python {module}.py", f"sotglp {name}")
    return text


def start(module, arguments):
    """Return the exit code of a command.

    Args:
        module: its module, which has a `main(argv)`.
        arguments: list of words.
    """
    main = importlib.import_module(module).main
    if not {"-h", "--help"} & set(arguments):
        return main(arguments)
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            return main(arguments)
    finally:
        print(called(text.getvalue()), end="")


def main(argv=None):
    """Run the command and return its exit code."""
    # First on the path, as where `python -m` runs in the clone: other packages have modules of the same names.
    sys.path.insert(0, str(HOME))
    from dassl.utils import check_availability, command

    @command
    def run(argv):
        if not argv or argv[0] in ("-h", "--help"):
            width = max(map(len, COMMANDS))
            lines = [f"  {name:{width}}  {summary(module)}" for name, module in COMMANDS.items()]
            print(__doc__.strip().format(commands="\n".join(lines)))
            return 0
        name, *arguments = argv
        check_availability(name, list(COMMANDS), "command")
        return start(COMMANDS[name], arguments)

    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
