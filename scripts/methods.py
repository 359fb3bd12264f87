"""The list of methods (configs/comparisons/methods.yaml), and the names of files in configs/."""

from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from dassl.config import find_file
from dassl.utils import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
METHODS = CONFIGS / "comparisons" / "methods.yaml"
ALL_SHOTS = -1  # all training images, as DATASET.NUM_SHOTS says it
PROTOCOLS = ("published", "strict")  # as the key PROTOCOL says it


@dataclass(frozen=True)
class Method:
    """An entry of methods.yaml, whose first lines explain the keys; options and new_classes are words for train.py."""

    name: str
    trainer: str
    variant: str
    options: tuple = ()
    trained: bool = True
    published: str = ""
    core: bool = True
    class_specific: bool = False
    new_classes: tuple = ()
    patches: str = ""
    protocol: str = "published"

    @property
    def any_classes(self):
        """Whether it predicts other classes than those that it learned from."""
        return not self.class_specific or bool(self.new_classes)

    def by(self, protocol):
        """Return the method by one of PROTOCOLS; its name, and so its rows in tables, says strict."""
        if protocol == self.protocol:
            return self
        return replace(self, name=f"{self.name}, {protocol}", protocol=protocol)


def names(folder):
    """Return the sorted names of the YAML files in a folder of configs/."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def check_name(name, known, kind):
    """Raise UserError unless a name is known."""
    if name not in known:
        raise UserError(f"unknown {kind} {name}: take one of: {'; '.join(known)}")


def whole_number(text, least, kind):
    """Return the number in a text.

    Args:
        text: the text, or a number.
        least: the smallest number allowed.
        kind: name of the quantity, for the error.

    Raises:
        UserError: It is no whole number, or too small.
    """
    text = str(text)
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UserError(f"{kind} must be whole numbers from {least}, not {text or 'nothing'}")
    return int(text)


def read_yaml(path):
    """Return the mapping in a YAML file.

    Raises:
        UserError: The file cannot be read, or holds no mapping.
    """
    try:
        content = yaml.safe_load(Path(find_file(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold KEY: VALUE lines")
    return content


def read_methods(path=METHODS):
    """Return {name: Method} of all methods in a file.

    Raises:
        UserError: The file cannot be read, or an entry is incomplete.
    """
    methods = {}
    for name, entry in read_yaml(path).items():
        try:
            words = {
                key: tuple(word for pair in entry.pop(key, ()) for word in pair.split(maxsplit=1))
                for key in ("options", "new_classes")
            }
            methods[name] = Method(name, **words, **entry)
        except (TypeError, AttributeError) as error:
            raise UserError(f"{path}: {name}: give trainer and variant, and see the keys in its first lines") from error
        for key, of_key in words.items():
            if len(of_key) % 2:
                raise UserError(f'{path}: {name}: {key} must be a list of "KEY VALUE"')
    return methods


def choose_methods(path, chosen, protocol="published"):
    """Return methods of a file, in its order.

    Args:
        path: the file.
        chosen: names of methods, or ["all"]; empty or None for the core methods.
        protocol: one of PROTOCOLS.

    Raises:
        UserError: The file is wrong, or a name is unknown.
    """
    known = read_methods(path)
    if chosen == ["all"]:
        chosen = list(known)
    for name in chosen or ():
        check_name(name, known, "method")
    return [method.by(protocol) for name, method in known.items() if (name in chosen if chosen else method.core)]


def shots_of(text):
    """Return the number of shots in a text, or ALL_SHOTS for "all" and "-1".

    Raises:
        UserError: It is neither that nor a whole number from 1.
    """
    if str(text).lower() in ("all", str(ALL_SHOTS)):
        return ALL_SHOTS
    return whole_number(text, 1, "shots (images per class, or all)")


def shots_word(number):
    """Return a number of shots as text."""
    return "all" if number == ALL_SHOTS else str(number)


def apart(protocol):
    """Return the end of the folders' names of a protocol's results."""
    return "" if protocol == "published" else f"_{protocol}"


def shots_text(number):
    """Return a number of shots in words."""
    return "all images" if number == ALL_SHOTS else f"{number} shot{'s' * (number > 1)}"


def unique(values):
    """Return the values as a list without repetitions, in their order."""
    return list(dict.fromkeys(values))
