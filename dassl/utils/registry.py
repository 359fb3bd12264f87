"""Registries: classes by name, so that a configuration can choose one."""

import importlib
import pkgutil
import warnings

from .commands import UserError
from .tools import check_availability

REGISTRIES = {}  # {name: Registry}: so the configuration finds registered classes without importing them


class Registry:
    """Classes by name. `@REGISTRY.register()` above a class, or `REGISTRY.register(cls)`, adds it."""

    def __init__(self, name):
        self._name = name
        self._objects = {}
        self._fallbacks = set()
        REGISTRIES[name] = self

    def register(self, obj=None, force=False, fallback=False):
        """Add a class under its `__name__`; without `obj`, return a decorator that does.

        Args:
            obj: The class.
            force: Replace another class of this name.
            fallback: Leave the name to any other class that takes it, before or after.

        Raises:
            KeyError: The name is taken.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, force, fallback)
        name = obj.__name__
        if name in self._objects and not (force or fallback or name in self._fallbacks):
            raise KeyError(f'An object named "{name}" was already registered in "{self._name}" registry')
        if fallback and name in self._objects:
            return obj
        (self._fallbacks.add if fallback else self._fallbacks.discard)(name)
        self._objects[name] = obj
        return obj

    def get(self, name):
        """Return the class of a name.

        Raises:
            KeyError: The name is unknown; the message lists the known names.
        """
        try:
            check_availability(name, self.registered_names(), f"{self._name} entry")
        except UserError as error:
            raise KeyError(str(error)) from None
        return self._objects[name]

    def build(self, name, what, cfg, **kwargs):
        """Return an object of the class of a name.

        Args:
            name: The name.
            what: What the name stands for, with its config key, for the error message.
            cfg: The configuration; the first argument of the class.
            **kwargs: Further arguments of the class.

        Raises:
            UserError: The name is unknown; the message lists the known names.
        """
        check_availability(name, self.registered_names(), what)
        if cfg.VERBOSE:
            print(f"Loading {self._name.lower()}: {name}")
        return self._objects[name](cfg, **kwargs)

    def find(self, name):
        """Return the class of a name; None if the name is unknown."""
        return self._objects.get(name)

    def extend_cfg(self, cfg):
        """Let every class that has an `extend_cfg` add its keys to a configuration."""
        for obj in self._objects.values():
            if hasattr(obj, "extend_cfg"):
                obj.extend_cfg(cfg)

    def registered_names(self):
        """Return the names in the order of registration."""
        return list(self._objects)


def import_modules(package, path, leave_out=()):
    """Import every module of a package, so that its classes register themselves.

    If a module cannot be imported, a warning is issued and the others are still imported.

    Args:
        package: `__name__` of the package.
        path: `__path__` of the package.
        leave_out: Names of modules that register nothing.
    """
    for module in pkgutil.iter_modules(path):
        if module.name not in leave_out:
            try:
                importlib.import_module(f"{package}.{module.name}")
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                warnings.warn(f"{package}/{module.name}.py is left out: {reason}", stacklevel=2)
