"""Read what a repository uses of the toolbox, from its Python, YAML and shell files. Nothing of it is run."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .config.merge import BASE
from .uses import FLAG, KEY, Path_, Place, Uses, read_python

PARTS = {"config", "data", "engine", "optim", "utils"}  # a package that has them all is a copy of dassl


def read_repository(folder: str | Path) -> Uses:
    """Return what the files of a folder use of the toolbox."""
    uses = Uses()
    for path in files_of(Path(folder)):
        name, kind = path.relative_to(folder).as_posix(), {".yml": ".yaml"}.get(path.suffix, path.suffix)
        uses.files[kind] += 1
        try:
            {".py": read_python, ".yaml": read_yaml, ".sh": read_shell}[kind](path, name, uses)
        except (SyntaxError, yaml.YAMLError, ValueError, RecursionError, MemoryError, OSError) as error:
            mark = getattr(error, "problem_mark", None)
            line = getattr(error, "lineno", None) or (mark.line + 1 if mark else 1)
            reason = getattr(error, "msg", None) or getattr(error, "problem", None) or error
            python = "Python {}.{}".format(*sys.version_info)
            parser = {".py": f"{python} cannot parse it", ".yaml": "it is not YAML", ".sh": "it is not text"}[kind]
            text = f"not read, because {parser}: {' '.join(str(reason).split())}"
            uses.unreadable.append((text, Place(name, line)))
    return uses


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the Python, YAML and shell files of a folder, without those of copies of dassl and of hidden folders."""
    for root, folders, names in os.walk(folder):
        copies = [name for name in folders if is_copy(Path(root, name))]
        if copies and "setup.py" in names and Path(root) != folder:  # a checkout of Dassl inside the repository
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name not in copies and name[0] != "." and name != "__pycache__")
        yield from (Path(root, name) for name in sorted(names) if name.endswith((".py", ".yaml", ".yml", ".sh")))


def is_copy(folder: Path) -> bool:
    """Return whether a folder is a copy of dassl, under any name."""
    return all((folder / part).is_dir() or (folder / f"{part}.py").is_file() for part in PARTS) and (
        folder.name == "dassl" or (folder / "engine" / "trainer.py").is_file()
    )


def read_yaml(path: Path, name: str, uses: Uses) -> None:
    """Add the config keys of a YAML file."""
    tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if isinstance(tree, yaml.MappingNode):
        uses.yaml += list(leaves(tree, (), name))


def leaves(tree: yaml.MappingNode, above: Path_, name: str) -> Iterator[tuple[Path_, Any, Place]]:
    """Yield (path, value, place) of the values of a YAML mapping."""
    for key, value in tree.value:
        path = (*above, str(key.value))
        if path == (BASE,):
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from leaves(value, path, name)
        else:
            words = [item.value for item in value.value] if isinstance(value, yaml.SequenceNode) else value.value
            yield path, words, Place(name, key.start_mark.line + 1)


def read_shell(path: Path, name: str, uses: Uses) -> None:
    """Add the flags and the KEY VALUE pairs that a script passes to Python."""
    program, going_on = "", False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            words = shlex.split(line.rstrip("\\ "), comments=True)
        except ValueError:  # a quotation over several lines
            words = line.split()
        if not going_on:
            program = ""
        going_on = bool(words) and line.rstrip().endswith("\\")
        for word, following in zip(words, [*words[1:], ""], strict=False):
            if word in ("&&", "||", "|", ";", "&"):  # another command
                program = ""
            elif word.endswith(".py"):
                program = Path(word).name
            elif program == "train.py" and FLAG.match(word):
                uses.passed.append((word.split("=")[0], Place(name, number)))
            elif program and KEY.fullmatch(word):
                uses.pairs.append((tuple(word.split(".")), following, Place(name, number)))
