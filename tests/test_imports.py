"""Arrows between the floors of the house (docs/layout.md): no import points up, and none closes a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = {"sotglp"}
BELOW_SCRIPTS = {"dassl", "sotglp", "sotglp.toolbox", "datasets", "trainers", "train"}
# room: the rooms that it may import, from the lowest floor to the highest
ARROWS = {
    "dassl": {"dassl"},
    "sotglp": LIBRARY,
    "sotglp.toolbox": {*LIBRARY, "sotglp.toolbox", "dassl"},
    "datasets": {"datasets", "dassl"},
    "clip": {"clip", *LIBRARY},
    "trainers": {"trainers", *LIBRARY, "sotglp.toolbox", "dassl"},
    "train": {"dassl"},
    "scripts": {"scripts", *BELOW_SCRIPTS},
    "benchmarks": {"benchmarks", "scripts", *BELOW_SCRIPTS},
}
# `sotglp.load`, the library's door to a trained run.
DOOR = ("sotglp", "sotglp.toolbox")
# On one floor, but apart: both are made of scripts.groups.
APART = {"scripts.table", "scripts.plots"}


def modules(root):
    """Return {name: path} of the modules of all rooms of a checkout."""
    paths = [path for room in ARROWS for path in [*root.glob(f"{room}.py"), *(root / room).rglob("*.py")]]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(name, path, known):
    """Return the modules of the house that a module imports, wherever in it, strings given to importlib included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            # `from a import b` imports a.b if that is a module, else a.
            found.update(f"{source}.{a.name}" if f"{source}.{a.name}" in known else source for a in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "__import__"):
            found.update(arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))
    return {module for module in found if module in known or module.split(".")[0] in ARROWS}


def room_of(module):
    """Return the room that a module is in."""
    return "sotglp.toolbox" if module.startswith("sotglp.toolbox") else module.split(".")[0]


def arrows(root):
    """Return {module: the modules of the house that it imports}, without the door."""
    known = modules(root)
    found = {name: imports(name, path, known) for name, path in known.items()}
    found["sotglp"] = {target for target in found.get("sotglp", ()) if room_of(target) != DOOR[1]}
    return found


def wrong_arrows(root):
    """Return "module -> module" of the imports that ARROWS or APART does not allow."""
    return sorted(
        f"{name} -> {target}"
        for name, targets in arrows(root).items()
        for target in targets
        if room_of(target) not in ARROWS[room_of(name)] or {name, target} == APART
    )


def circle(root):
    """Return the modules of a circle of imports, None if there is none."""
    graph = arrows(root)
    try:
        TopologicalSorter({name: graph[name] & graph.keys() - {name} for name in graph}).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_arrow_points_up():
    assert wrong_arrows(ROOT) == []


def test_no_import_closes_a_circle():
    assert circle(ROOT) is None


def test_at_the_root_lies_one_command():
    assert {path.name for path in ROOT.glob("*.py")} == {"setup.py", "train.py"}


def lay_out(folder, files):
    """Write {path: code} into a folder."""
    for name, code in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)


@pytest.mark.parametrize(
    "module, line",
    [
        ("sotglp/toolbox/predictor.py", "from scripts.run import make_runs"),
        ("sotglp/matching.py", "def f():\n    from dassl.utils import UserError"),
        ("dassl/doctor.py", "import trainers"),
        ("dassl/engine/base.py", "importlib.import_module('sotglp.backbones')"),
        ("train.py", "from scripts import table"),
        ("datasets/reading.py", "import sotglp"),
        ("trainers/coop.py", "def f():\n    import train"),
        ("scripts/table.py", "def f():\n    from scripts import plots"),
    ],
)
def test_an_arrow_put_back_is_found(tmp_path, module, line):
    targets = ("scripts/run.py", "scripts/plots.py", "dassl/utils/__init__.py", "train.py", "sotglp/backbones.py")
    lay_out(tmp_path, dict.fromkeys(targets, "") | {module: f"{line}\n"})
    (arrow,) = wrong_arrows(tmp_path)
    assert arrow.startswith(module.removesuffix(".py").replace("/", "."))


@pytest.mark.parametrize("line", ["from scripts import compare", "def f():\n    from scripts.compare import report"])
def test_a_circle_put_back_is_found(tmp_path, line):
    lay_out(tmp_path, {"scripts/compare.py": "from scripts import visualize\n", "scripts/visualize.py": f"{line}\n"})
    assert {"scripts.compare", "scripts.visualize"} == set(circle(tmp_path))
