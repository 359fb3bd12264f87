"""What every run imports, and no command that only plans them: the fork server of scripts.processes imports it once."""

import signal
import warnings

import open_clip  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import train  # noqa: F401
from dassl.plugins import load_plugins

# Slurm sends it to all processes of a job whose time is ending; the one of submitit stops the runs (scripts.slurm).
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the command that plans the runs reports unavailable plugins
    load_plugins()
