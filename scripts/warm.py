"""What every run imports, and no command that only plans them: the fork server of scripts.processes imports it once."""

import warnings

import open_clip  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import train  # noqa: F401
from dassl.plugins import load_plugins

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the command that plans the runs reports unavailable plugins
    load_plugins()
