"""Trainers, one method a file. Every module in this folder is imported, so that its trainers are registered."""

from dassl.engine import TRAINER_REGISTRY
from dassl.plugins import REPORTS
from dassl.utils import import_modules
from sotglp.backbones import cached_backbones

OURS = (  # files of this repository; any other file here is a third party's
    *("sotglp", "zsclip", "coop", "cocoop", "kgcoop", "prograd", "plot", "plotpp", "locoop", "gallop"),
    *("gda", "clap", "lppp", "twosfs", "tipadapter", "linearprobe", "cliplora", "maple", "promptsrc", "tcp"),
)


def registered(of_ours):
    """Return the names of our trainers, or those of third parties with their files."""
    modules = {name: TRAINER_REGISTRY.get(name).__module__ for name in TRAINER_REGISTRY.registered_names()}
    chosen = {name: module for name, module in modules.items() if (module.removeprefix("trainers.") in OURS) == of_ours}
    return ", ".join(name if of_ours else f"{name} ({module.replace('.', '/')}.py)" for name, module in chosen.items())


REPORTS["CLIP weights"] = lambda: ", ".join(["small", *cached_backbones()])
REPORTS["trainers"] = lambda: registered(of_ours=True) or "none"
REPORTS["third-party trainers"] = lambda: registered(of_ours=False) or "none"

import_modules(__name__, __path__)
