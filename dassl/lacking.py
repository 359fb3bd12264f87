"""Compare what a repository uses with what the toolbox has."""

import ast
import functools
import importlib
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from yacs.config import CfgNode

from .uses import OPEN, Call, Class, Path_, Place, Uses

# Flags of the train.py that the repositories of the family share, and of the one of this checkout.
FLAGS = (
    *("--root", "--output-dir", "--resume", "--seed", "--source-domains", "--target-domains", "--transforms"),
    *("--config-file", "--dataset-config-file", "--trainer", "--backbone", "--head", "--eval-only", "--model-dir"),
    *("--load-epoch", "--no-train", "--help"),
)
Finding = tuple[str, Place]


def report(uses: Uses) -> list[str]:
    """Return what the toolbox lacks, a line each with the first file and line, and what could not be read."""
    places: dict[str, list[Place]] = defaultdict(list)
    for find in (lacking_imports, lacking_members, lacking_arguments, lacking_keys, lacking_names, lacking_flags):
        for text, place in find(uses):
            places[text].append(place)
    lines = [f"{place.file}:{place.line}: {text}" for text, place in uses.unreadable]
    for text, found in places.items():
        more = len(set(found)) - 1
        lines.append(
            f"{found[0].file}:{found[0].line}: {text}"
            + (f" (and at {more} other place{'s' * (more > 1)})" if more else "")
        )
    python, configs, scripts = uses.files.values()
    lines += [] if uses.imports else ["no file imports dassl"]
    what = f"{len(places)} missing" if places else "nothing is missing"
    return [*lines, f"{what}; read {python} Python files, {configs} YAML files, {scripts} shell scripts"]


@functools.cache
def look_up(module: str, name: str = "") -> tuple[Any, str]:
    """Return what a name stands for in the toolbox and "", or None and why it is missing."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        owner, _, last = module.rpartition(".")
        if name and owner and (found := look_up(owner, last)[0]) is not None:  # dassl.utils.Registry.register
            return getattr(found, name, None), ""
        return None, f"there is no module {module}"
    try:
        return (getattr(found, name) if name else found), ""
    except ImportError as error:  # left out, with the reason
        return None, str(error)
    except AttributeError:
        try:
            return importlib.import_module(f"{module}.{name}"), ""
        except ImportError:
            return None, f"{module} has no {name}"


def lacking_imports(uses: Uses) -> Iterator[Finding]:
    """Yield modules and names that cannot be imported."""
    for module, name, place in uses.imports:
        if reason := look_up(module, name)[1]:
            yield reason, place


def lineage(info: Class, classes: Iterable[Class]) -> tuple[list[Class], list[type]] | None:
    """Return the classes of the repository that a class is made of, and those of the toolbox below them.

    Returns:
        (classes of the repository, classes of the toolbox); None if some base is neither.
    """
    own, ours, waiting = [info], [], list(info.bases)
    for base in waiting:
        if ":" in base:
            found = look_up(*base.split(":"))[0]
            if not isinstance(found, type):
                return None
            ours.append(found)
        elif base != "object":
            named = [other for other in classes if other.name == base.split(".")[-1] and other not in own]
            if not named:
                return None
            nearest = next((other for other in named if other.file == info.file), named[0])
            own.append(nearest)
            waiting += nearest.bases
    return own, ours


@functools.cache
def members(cls: type) -> frozenset[str]:
    """Return the names of a class's attributes, those that its methods set included."""
    names = set(dir(cls))
    for part in cls.__mro__:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
        except (OSError, TypeError):  # built in
            continue
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        names |= {
            node.attr for node in attributes if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
        }
    return frozenset(names)


def lacking_members(uses: Uses) -> Iterator[Finding]:
    """Yield attributes and methods that classes of the repository expect of their bases in the toolbox."""
    for info in uses.classes:
        family = lineage(info, uses.classes)
        if family and family[1]:
            own, ours = family
            derived = [other for other in uses.classes if info.name in other.bases]  # they may define it
            defined = set().union(*(part.defines for part in [*own, *derived]), *map(members, ours))
            above = set().union(*(part.defines for part in own[1:]), *map(members, ours))
            wanted = [(name, place) for name, place in info.uses if name not in defined]
            wanted += [(call.name, call.place) for call in info.above if call.name not in above]
            if OPEN not in defined:
                yield from ((f"{ours[0].__name__} has no {name}", place) for name, place in wanted)
    trainer = look_up("dassl.engine", "TrainerX")[0]
    for call in calls_of_ours(uses):
        if call.name not in members(trainer):
            yield f"TrainerX has no {call.name}", call.place


def calls_of_ours(uses: Uses) -> list[Call]:
    """Return the calls of methods of a trainer that no class of the repository defines."""
    own = set().union(*(part.defines for part in uses.classes))
    return [call for call in uses.of_trainer if call.name not in own]


def lacking_arguments(uses: Uses) -> Iterator[Finding]:
    """Yield calls with arguments that a function or a method of the toolbox does not take."""
    for call in uses.calls:
        yield from refused(look_up(*call.name.split(":"))[0], call, call.name.split(":")[1])
    for info in uses.classes:
        family = lineage(info, uses.classes)
        if family and family[1]:
            own, ours = family
            for calls, parts in ((info.calls, own), (info.above, own[1:])):
                for call in calls:
                    if not any(call.name in part.defines for part in parts):
                        method = next((getattr(cls, call.name) for cls in ours if hasattr(cls, call.name)), None)
                        yield from refused(method, call, f"{ours[0].__name__}.{call.name}", ours[0])
    trainer = look_up("dassl.engine", "TrainerX")[0]
    for call in calls_of_ours(uses):
        yield from refused(getattr(trainer, call.name, None), call, f"TrainerX.{call.name}", trainer)


def refused(function: Any, call: Call, title: str, owner: type | None = None) -> Iterator[Finding]:
    """Yield a call whose arguments a function does not take; `owner` is the class if it is a method."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # missing, or built in
        return
    is_static = owner is not None and isinstance(inspect.getattr_static(owner, call.name, None), staticmethod)
    given = call.positional + (owner is not None and not is_static)
    try:
        signature.bind(*[None] * given, **dict.fromkeys(call.keywords))
    except TypeError as error:
        yield f"{title}{signature} {error}", call.place


def default_keys() -> dict[str, Any]:
    """Return the toolbox's config keys as a nested dict; a value is None."""
    from dassl.config import get_cfg_default

    def nested(node: Mapping[str, Any]) -> dict[str, Any]:
        return {key: nested(value) if isinstance(value, CfgNode) else None for key, value in node.items()}

    return nested(get_cfg_default())


def missing_part(tree: Mapping[str, Any], path: Path_) -> str:
    """Return the shortest beginning of a path that a tree of keys does not have; "" if it has the path."""
    node: Any = tree
    for depth, name in enumerate(path, start=1):
        if node is None or OPEN in node or name == OPEN:
            return ""
        if name not in node:
            return ".".join(path[:depth])
        node = node[name]
    return ""


def add_key(tree: dict[str, Any], path: Path_, value: Any = None) -> None:
    """Add a key to a tree, if the node above it is there."""
    if missing_part(tree, path[:-1]):
        return
    node: Any = tree
    for name in path[:-1]:
        node = node.get(name) if node else None
    if isinstance(node, dict):
        node.setdefault(path[-1], value)


def known_keys(uses: Uses) -> dict[str, Any]:
    """Return the tree of the toolbox's config keys and of those that the repository adds."""
    tree = default_keys()
    for path, value, _ in sorted(uses.sets, key=lambda item: (len(item[0]), item[1] is None)):
        add_key(tree, path, value)
    return tree


def lacking_keys(uses: Uses) -> Iterator[Finding]:
    """Yield config keys that neither the toolbox nor the repository has."""
    tree = known_keys(uses)
    inner = {name for node in tree.values() if node for name in node}  # a function may take a node as its cfg

    def is_key(path: Path_) -> bool:
        # A path of one name may be another object's, and so may small letters.
        return bool(path) and (path[0] in tree or (len(path) > 1 and path[0].isupper() and path[0] not in inner))

    in_code = [(path[:-1], place) for path, _, place in uses.sets] + uses.reads
    wanted = [(path, place) for path, place in in_code if is_key(path)]
    wanted += [
        (path, place)
        for path, _, place in configuration_files(uses, tree)
        if not any(path[: len(node)] == node for node in uses.new_allowed)
    ]
    wanted += [(path, place) for path, _, place in uses.pairs if path[0] in tree]
    for path, place in wanted:
        if missing := missing_part(tree, path):
            yield f"there is no config key {missing}", place


def configuration_files(uses: Uses, tree: Mapping[str, Any]) -> list[tuple[Path_, Any, Place]]:
    """Return the values of those YAML files that have a node of the configuration."""
    files = {place.file for path, _, place in uses.yaml if tree.get(path[0]) is not None}
    return [item for item in uses.yaml if item[2].file in files]


def lacking_names(uses: Uses) -> Iterator[Finding]:
    """Yield names of transforms, samplers, evaluators and data sets that neither has."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.data.samplers import SAMPLERS
    from dassl.data.transforms.transforms import TRANSFORMS
    from dassl.evaluation.build import EVALUATOR_REGISTRY

    known: dict[str, tuple[str, Iterable[str]]] = {
        "INPUT.TRANSFORMS": ("transform", TRANSFORMS),
        "DATALOADER.TRAIN_X.SAMPLER": ("sampler", SAMPLERS),
        "DATALOADER.TEST.SAMPLER": ("sampler", SAMPLERS),
    }
    if uses.registered <= {info.name for info in uses.classes}:  # otherwise names are made when it runs
        for key, kind, registry in (
            ("TEST.EVALUATOR", "evaluator", EVALUATOR_REGISTRY),
            ("DATASET.NAME", "data set", DATASET_REGISTRY),
        ):
            known[key] = (kind, {*registry.registered_names(), *uses.registered})
    for path, value, place in uses.yaml + uses.pairs:
        kind, names = known.get(".".join(path), ("", ()))
        values = value if isinstance(value, list) else [value]
        for name in values if kind else []:
            if isinstance(name, str) and name.isidentifier() and name not in names:
                yield f"there is no {kind} {name}", place


def lacking_flags(uses: Uses) -> Iterator[Finding]:
    """Yield flags that the repository's train.py declares, or its scripts pass, and train.py of this checkout lacks."""
    for flag, place in [*uses.declared.items(), *uses.passed]:
        if flag not in FLAGS:
            own = "the repository's own has" if flag in uses.declared else "nor has the repository's own"
            yield f"train.py here has no flag {flag}, {own}", place
