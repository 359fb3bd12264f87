"""What Python code uses of the toolbox: imports, calls, members, config keys and flags. Nothing of it is run."""

import ast
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

ROOTS: dict[str, tuple[str, ...]] = {
    "cfg": (),
    "_cfg": (),
    "_C": (),
    "optim_cfg": ("OPTIM",),
}  # names of configurations
KEY = re.compile(r"[A-Z]\w*(\.\w+)+")
FLAG = re.compile(r"--[A-Za-z][\w-]*")
OPEN = "*"  # in a node: it may have any key

Path_ = tuple[str, ...]  # ("TRAINER", "NAME")


class Place(NamedTuple):
    """A line of a file; the file is relative to the repository."""

    file: str
    line: int


class Call(NamedTuple):
    """A call with the number of its positional arguments and the names of the others."""

    name: str
    positional: int
    keywords: tuple[str, ...]
    place: Place


@dataclass(eq=False)
class Class:
    """A class of the repository: its bases, what it defines, and what it uses of itself."""

    name: str
    file: str
    bases: list[str]  # "module:name" for a class of dassl
    defines: set[str] = field(default_factory=set)
    uses: list[tuple[str, Place]] = field(default_factory=list)  # self.NAME
    calls: list[Call] = field(default_factory=list)  # self.NAME(...)
    above: list[Call] = field(default_factory=list)  # super().NAME(...)


@dataclass
class Uses:
    """What a repository uses."""

    imports: list[tuple[str, str, Place]] = field(default_factory=list)  # module and name; "" for the module itself
    calls: list[Call] = field(default_factory=list)  # of "module:name"
    of_trainer: list[Call] = field(default_factory=list)  # of methods of what build_trainer returned
    classes: list[Class] = field(default_factory=list)
    registered: set[str] = field(default_factory=set)  # names of classes, and "*" or a variable if that is unclear
    reads: list[tuple[Path_, Place]] = field(default_factory=list)
    sets: list[tuple[Path_, Any, Place]] = field(default_factory=list)  # the value is a dict if it is a node
    new_allowed: list[Path_] = field(default_factory=list)  # nodes to which a YAML file may add keys
    yaml: list[tuple[Path_, Any, Place]] = field(default_factory=list)
    pairs: list[tuple[Path_, Any, Place]] = field(default_factory=list)  # KEY VALUE
    declared: dict[str, Place] = field(default_factory=dict)  # flags of train.py
    passed: list[tuple[str, Place]] = field(default_factory=list)  # flags that scripts pass to train.py
    unreadable: list[tuple[str, Place]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=lambda: {".py": 0, ".yaml": 0, ".sh": 0})


def read_python(path: Path, name: str, uses: Uses) -> None:
    """Add what a Python file uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes
        tree = ast.parse(path.read_bytes())
    PythonReader(name, uses).visit(tree)


class PythonReader(ast.NodeVisitor):
    """A visitor that adds what a Python file uses to `uses`."""

    def __init__(self, file: str, uses: Uses) -> None:
        self.file, self.uses = file, uses
        self.names: dict[str, str] = {}  # local name -> "module:name" of dassl
        self.configs: dict[str, Path_ | None] = dict(ROOTS)  # local name -> the node that it holds
        self.trainers: set[str] = set()  # local names of what build_trainer returned
        self.classes: list[Class] = []
        self.decorators: set[int] = set()
        self.optional = False  # inside a try that catches an ImportError

    def place(self, node: Any) -> Place:
        return Place(self.file, node.lineno)

    # Imports

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "dassl":
                self.use_import(alias.name, "", node)
                self.names[alias.asname or "dassl"] = f"{alias.name if alias.asname else 'dassl'}:"

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0 and (node.module or "").split(".")[0] == "dassl":
            for alias in node.names:
                self.use_import(node.module or "", "" if alias.name == "*" else alias.name, node)
                self.names[alias.asname or alias.name] = f"{node.module}:{alias.name}"

    def use_import(self, module: str, name: str, node: Any) -> None:
        if not self.optional:
            self.uses.imports.append((module, name, self.place(node)))

    def visit_Try(self, node: ast.Try) -> None:
        caught = " ".join(ast.unparse(handler.type) if handler.type else "Exception" for handler in node.handlers)
        before = self.optional
        self.optional |= any(error in caught for error in ("ImportError", "ModuleNotFoundError", "Exception"))
        for statement in node.body:
            self.visit(statement)
        self.optional = before
        for child in [*node.handlers, *node.orelse, *node.finalbody]:
            self.visit(child)

    def of_dassl(self, node: ast.AST) -> str:
        """Return "module:name" of what an expression names in dassl; "" if it names something else."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, "")
        if isinstance(node, ast.Attribute) and (owner := self.of_dassl(node.value)):
            module, name = owner.split(":")
            if not name:
                return f"{module}:{node.attr}"
            if module == "dassl" or isinstance(node.value, ast.Attribute):  # a package in a package
                return f"{module}.{name}:{node.attr}"
        return ""

    # Classes and calls

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [self.of_dassl(base) or ast.unparse(base) for base in node.bases]
        info = Class(node.name, self.file, bases)
        for child in node.body:
            targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
            info.defines |= {target.id for target in targets if isinstance(target, ast.Name)}
            info.defines |= {child.name} if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else set()
        for decorator in node.decorator_list:
            if "register" in ast.unparse(decorator):
                self.uses.registered.add(node.name)
                self.decorators.add(id(decorator))
        self.uses.classes.append(info)
        self.classes.append(info)
        self.generic_visit(node)
        self.classes.pop()

    def visit_FunctionDef(self, node: Any) -> None:
        outside = self.configs, self.trainers
        arguments = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
        self.configs = self.configs | {name: ROOTS.get(name) for name in arguments}
        self.trainers = self.trainers - arguments
        self.generic_visit(node)
        self.configs, self.trainers = outside

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute):
            self.see_method(node, function)
        if target := self.of_dassl(function):
            self.see_call(self.uses.calls, target, node)
        if isinstance(function, ast.Name) and function.id in ("hasattr", "getattr", "setattr") and len(node.args) > 1:
            self.see_attribute_by_name(node)
        self.generic_visit(node)

    def see_method(self, node: ast.Call, function: ast.Attribute) -> None:
        """Note a call of a method: of self, super(), a trainer, a configuration, a parser or a registry."""
        owner, first = function.value, node.args[0] if node.args else None
        if isinstance(owner, ast.Name) and owner.id == "self" and self.classes:
            self.see_call(self.classes[-1].calls, function.attr, node)
        if isinstance(owner, ast.Name) and owner.id in self.trainers:
            self.see_call(self.uses.of_trainer, function.attr, node)
        if isinstance(owner, ast.Call) and ast.unparse(owner.func) == "super" and self.classes:
            self.see_call(self.classes[-1].above, function.attr, node)
        path = self.node_of(owner)
        if path is not None and function.attr == "set_new_allowed":
            self.uses.new_allowed.append(path)
        if path is not None and function.attr == "merge_from_list" and isinstance(first, (ast.List, ast.Tuple)):
            for key, value in zip(first.elts[::2], first.elts[1::2], strict=False):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    self.uses.pairs.append(((*path, *key.value.split(".")), literal(value), self.place(key)))
        if function.attr == "add_argument" and Path(self.file).name == "train.py":
            flags = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            for flag in filter(FLAG.fullmatch, flags):
                self.uses.declared.setdefault(flag, self.place(node))
        if function.attr == "register" and id(node) not in self.decorators:
            self.uses.registered.add(first.id if isinstance(first, ast.Name) else OPEN)

    def see_call(self, calls: list[Call], name: str, node: ast.Call) -> None:
        keywords = [keyword.arg for keyword in node.keywords]
        if None not in keywords and not any(isinstance(arg, ast.Starred) for arg in node.args):
            calls.append(Call(name, len(node.args), tuple(map(str, keywords)), self.place(node)))

    def see_attribute_by_name(self, node: ast.Call) -> None:
        """Note hasattr, getattr and setattr: what they name may be missing, or is added."""
        owner, name = node.args[:2]
        known = isinstance(name, ast.Constant) and isinstance(name.value, str)
        attribute = str(name.value) if isinstance(name, ast.Constant) and known else OPEN
        path = self.node_of(owner)
        if path is not None:
            self.uses.sets.append(((*path, attribute), None, self.place(node)))
        elif ast.unparse(owner) == "self" and self.classes:
            self.classes[-1].defines.add(attribute)

    # Config keys

    def node_of(self, node: ast.AST) -> Path_ | None:
        """Return the path of a config key that an expression reads, () for the configuration itself, else None."""
        if isinstance(node, ast.Name):
            return self.configs.get(node.id)
        if isinstance(node, ast.Attribute):
            path = self.node_of(node.value)
            if path is None:
                return ROOTS.get(node.attr)
            return None if hasattr(CfgNode, node.attr) else (*path, node.attr)
        if isinstance(node, ast.Subscript) and (path := self.node_of(node.value)) is not None:
            index = node.slice
            return (*path, index.value if isinstance(index, ast.Constant) and isinstance(index.value, str) else OPEN)
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self.see_key(node):
            return
        if isinstance(node.value, ast.Name) and node.value.id == "self" and self.classes:
            info = self.classes[-1]
            if isinstance(node.ctx, ast.Load):
                info.uses.append((node.attr, self.place(node)))
            else:
                info.defines.add(node.attr)
        if (target := self.of_dassl(node)) and ":" in target and isinstance(node.ctx, ast.Load):
            module, name = target.split(":")
            self.use_import(module, name, node)
            return
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not self.see_key(node):
            self.generic_visit(node)

    def see_key(self, node: Any) -> bool:
        path = self.node_of(node)
        if path and isinstance(node.ctx, ast.Load):
            self.uses.reads.append((path, self.place(node)))
        return bool(path)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.see_assignment(node.targets, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.see_assignment([node.target], node.value)

    def see_assignment(self, targets: list[ast.expr], value: ast.expr | None) -> None:
        if value is not None:
            self.visit(value)
        paths = [self.node_of(target) for target in targets if not isinstance(target, ast.Name)]
        held = next(filter(None, paths), self.node_of(value) if value is not None else None)
        for target in targets:
            path = None if isinstance(target, ast.Name) else self.node_of(target)
            if path:
                self.uses.sets.append((path, new_node(value), self.place(target)))
            elif not isinstance(target, ast.Name):
                self.visit(target)
            elif held is not None or target.id in self.configs:
                self.configs[target.id] = ROOTS.get(target.id) if held is None else held
            if isinstance(target, ast.Name) and isinstance(value, ast.Call):
                if self.of_dassl(value.func).endswith(":build_trainer"):
                    self.trainers.add(target.id)


def new_node(value: ast.expr | None) -> dict[str, Any] | None:
    """Return the keys of a new config node `CN()` or `CN({...})`; None for a value, or a node of unknown keys."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func).split(".")[-1] not in ("CN", "CfgNode"):
        return None
    if not value.args and not value.keywords:
        return {}
    keys = literal(value.args[0]) if value.args and not value.keywords else None
    return keys if isinstance(keys, dict) else None


def literal(node: ast.expr) -> Any:
    """Return the value of a literal; None for other expressions."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
