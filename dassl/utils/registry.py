"""Names for classes, so that a configuration can choose one."""

import importlib
import pkgutil
import warnings

from .tools import UserError, check_availability


class Registry:
    """Objects by name. `@REGISTRY.register()` above a class, or `REGISTRY.register(cls)`, adds it."""

    def __init__(self, name):
        self._name = name
        self._objects = {}
        self._fallbacks = set()

    def register(self, obj=None, force=False, fallback=False):
        """Add `obj` under its `__name__`; used as a decorator if no `obj` is given.

        Args:
            force: replace what has the name.
            fallback: leave the name to whatever else takes it, before or after.

        Raises:
            KeyError: the name is taken.
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
        """Return the object of that name.

        Raises:
            KeyError: there is none; the message lists what there is.
        """
        try:
            check_availability(name, self.registered_names(), f"{self._name} entry")
        except UserError as error:
            raise KeyError(str(error)) from None
        return self._objects[name]

    def build(self, name, what, cfg, **kwargs):
        """Make the object that a configuration asks for: call the one of that name with `cfg`.

        Args:
            what: what the name is of, with its key, for the error.

        Raises:
            UserError: there is none; the line lists what there is.
        """
        check_availability(name, self.registered_names(), what)
        if cfg.VERBOSE:
            print(f"Loading {self._name.lower()}: {name}")
        return self._objects[name](cfg, **kwargs)

    def extend_cfg(self, cfg):
        """Let every object that has an `extend_cfg` add its keys to a configuration."""
        for obj in self._objects.values():
            if hasattr(obj, "extend_cfg"):
                obj.extend_cfg(cfg)

    def registered_names(self):
        """Names in the order in which they were registered."""
        return list(self._objects)


def import_modules(package, path, leave_out=()):
    """Import every module of a package, so that what is in it registers itself.

    One that cannot be imported is left out with a warning: the others stay usable.

    Args:
        package, path: its `__name__` and `__path__`.
        leave_out: names of modules that register nothing.
    """
    for module in pkgutil.iter_modules(path):
        if module.name not in leave_out:
            try:
                importlib.import_module(f"{package}.{module.name}")
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                warnings.warn(f"{package}/{module.name}.py is left out: {reason}", stacklevel=2)
