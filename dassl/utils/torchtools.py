"""Checkpoints: written whole or not at all, made of tensors and plain containers only."""

import os
import os.path as osp
import pickle
import random
import shutil
import warnings

import numpy as np
import torch

from . import legacy
from .tools import UserError, mkdir_if_missing


def get_random_state():
    """State of every random generator (Python, NumPy, torch, GPUs) in tensors and plain containers."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state):
    """Put back what `get_random_state` returned; GPUs that this machine lacks are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, cuda_state in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda_state, device)


def strip_data_parallel(state_dict):
    """Remove the "module." that DataParallel puts before every name."""
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Write `<save_dir>/<model_name>` and its name into `<save_dir>/checkpoint`.

    Args:
        state: dict with "state_dict" and "epoch" (epochs finished), and any tensors and plain values.
        is_best: also copy the file to model-best.pth.tar.
        remove_module_from_keys: strip DataParallel's prefix.
        model_name: file name; model.pth.tar-<epoch> if empty.

    The states of the random generators are added, so that a resumed run draws what an unbroken one does.
    """
    mkdir_if_missing(save_dir)
    state = {**state, "random_state": get_random_state()}
    if remove_module_from_keys:
        state["state_dict"] = strip_data_parallel(state["state_dict"])
    model_name = model_name or f"model.pth.tar-{state['epoch']}"
    fpath = osp.join(save_dir, model_name)
    torch.save(state, f"{fpath}.tmp")
    os.replace(f"{fpath}.tmp", fpath)
    print(f"Checkpoint saved to {fpath}")

    last = osp.join(save_dir, "checkpoint")
    with open(f"{last}.tmp", "w", encoding="utf-8") as file:
        file.write(f"{model_name}\n")
    os.replace(f"{last}.tmp", last)
    if is_best:
        shutil.copy(fpath, osp.join(save_dir, "model-best.pth.tar"))


def load_checkpoint(fpath):
    """Read a checkpoint to the CPU. The file cannot run code.

    Upstream's checkpoints hold pickled schedulers and optimizers, which are left out.

    Raises:
        ValueError: `fpath` is None.
        FileNotFoundError: there is no such file.
        UserError: the file is damaged, or holds what could run code.
    """
    if fpath is None:
        raise ValueError("the path of a checkpoint is None")
    if not osp.isfile(fpath):
        raise FileNotFoundError(f"no checkpoint at {fpath}")
    try:
        try:
            return torch.load(fpath, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(fpath, map_location="cpu", weights_only=False, pickle_module=legacy)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"cannot read checkpoint {fpath}, damaged or not to be trusted: {error}") from error


def load_last_checkpoint(fdir):
    """Read the checkpoint that was saved last in a folder: the one its file `checkpoint` names."""
    with open(osp.join(fdir, "checkpoint"), encoding="utf-8") as file:
        return load_checkpoint(osp.join(fdir, file.readline().strip()))


def restore_checkpoint(checkpoint, model, optimizer=None, scheduler=None):
    """Put a checkpoint's states into model, optimizer and scheduler, and back into the random generators.

    Raises:
        UserError: the weights or the optimizer's groups are not those of the checkpoint.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
        if optimizer is not None and checkpoint["optimizer"] is not None:
            optimizer.load_state_dict(checkpoint["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            "the checkpoint to resume from does not fit this model: other classes or settings made it"
        ) from error
    if scheduler is not None and checkpoint["scheduler"] is not None:
        schedule = checkpoint["scheduler"]
        if "successor" in schedule:  # upstream's warm-up, which kept the epochs in an object of its own
            schedule = {**schedule, "last_epoch": checkpoint["epoch"]}
        scheduler.load_state_dict(schedule)
    if "random_state" in checkpoint:
        set_random_state(checkpoint["random_state"])


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    """Restore what was saved last in `fdir`; return the number of epochs finished then."""
    checkpoint = load_last_checkpoint(fdir)
    restore_checkpoint(checkpoint, model, optimizer, scheduler)
    print(f"Resumed from {fdir}, {checkpoint['epoch']} epochs finished")
    return checkpoint["epoch"]


def load_pretrained_weights(model, weight_path):
    """Copy the weights of a file whose names and sizes fit the model; tell what was left out.

    The file may hold a state dict, or a checkpoint with one under "state_dict".
    """
    checkpoint = load_checkpoint(weight_path)
    weights = strip_data_parallel(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    fitting = {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}
    if not fitting:
        warnings.warn(f"No weight of {weight_path} fits the model: none was loaded", stacklevel=2)
        return
    model.load_state_dict({**own, **fitting})
    print(f"Loaded pretrained weights from {weight_path}")
    discarded = [name for name in weights if name not in fitting]
    if discarded:
        print(f"Discarded for an unknown name or another size: {discarded}")


def count_num_param(model=None, params=None):
    """Number of elements of a model's parameters, or of `params` (tensors, or dicts holding "params")."""
    if model is not None:
        params = model.parameters()
    count = 0
    for param in params:
        tensors = param["params"] if isinstance(param, dict) else [param]
        count += sum(tensor.numel() for tensor in tensors)
    return count
