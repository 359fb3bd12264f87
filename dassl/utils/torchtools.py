"""Checkpoints: written whole or not at all, made of tensors and plain containers only."""

import io
import os.path as osp
import pickle
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from . import legacy
from .distributed import is_main
from .files import copy_file, replacing
from .tools import UserError


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


def save_tensors(obj, fpath):
    """torch.save, to a file that is whole or what it was before. Raises UserError if it cannot be written."""
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    with replacing(fpath, "wb") as file:
        file.write(buffer.getbuffer())


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Write `<save_dir>/<model_name>`, and its name as the first line of `<save_dir>/checkpoint`.

    The second line is the one saved before, for when the last one is damaged. Of an epoch's parts only those two stay.

    Args:
        state: dict with "state_dict" and "epoch" (epochs finished), and any tensors and plain values; "batch", if there
            is one, are the batches finished of the next epoch.
        is_best: also copy the file to model-best.pth.tar.
        remove_module_from_keys: strip DataParallel's prefix.
        model_name: file name; model.pth.tar-<epoch>, or model.pth.tar-<epoch>-<batch>, if empty.

    The states of the random generators are added, unless there is a "random_state", so that a resumed run draws what an
    unbroken one does.
    """
    if not is_main():
        return
    state = {"random_state": get_random_state(), **state}
    if remove_module_from_keys:
        state["state_dict"] = strip_data_parallel(state["state_dict"])
    part = f"-{state['batch']}" if "batch" in state else ""
    model_name = model_name or f"model.pth.tar-{state['epoch']}{part}"
    fpath = osp.join(save_dir, model_name)
    save_tensors(state, fpath)
    print(f"Checkpoint saved to {fpath}")

    kept = [model_name, *(name for name in saved_names(save_dir)[:1] if name != model_name)]
    with replacing(osp.join(save_dir, "checkpoint")) as file:
        file.writelines(f"{name}\n" for name in kept)
    for path in Path(save_dir).glob("model.pth.tar-*-*"):
        if path.name not in kept:
            path.unlink()
    if is_best:
        copy_file(fpath, osp.join(save_dir, "model-best.pth.tar"))


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
        check_sums(fpath)
        try:
            checkpoint = torch.load(fpath, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            checkpoint = torch.load(fpath, map_location="cpu", weights_only=False, pickle_module=legacy)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"cannot read checkpoint {fpath}, damaged or not to be trusted: {error}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{fpath} is no checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


def check_sums(fpath):
    """Raise ValueError if a part of a checkpoint has not the checksum that torch wrote, and does not look at."""
    if zipfile.is_zipfile(fpath):  # what upstream's oldest are not
        with zipfile.ZipFile(fpath) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")


def saved_names(fdir):
    """Names of the checkpoints of a folder that were saved last, the newest first; none without its `checkpoint`."""
    fpath = osp.join(fdir, "checkpoint")
    if not osp.isfile(fpath):
        return []
    with open(fpath, encoding="utf-8") as file:
        return file.read().split()


def load_last_checkpoints(fdir):
    """The checkpoints of a folder that were saved last and can be read, the newest first.

    Raises:
        UserError: none can be read.
    """
    checkpoints, damaged, names = [], [], saved_names(fdir)
    if not names:
        damaged.append(f"{osp.join(fdir, 'checkpoint')} names no checkpoint")
    for name in names:
        try:
            checkpoints.append(load_checkpoint(osp.join(fdir, name)))
        except (UserError, FileNotFoundError) as error:
            damaged.append(str(error))
            print(f"{error}: looking for the one saved before")
    if damaged and not checkpoints:
        raise UserError(f"{'; '.join(damaged)}: delete {fdir} to start anew")
    return checkpoints


def restore_checkpoint(checkpoint, model, optimizer=None, scheduler=None):
    """Put a checkpoint's states into model, optimizer and scheduler, and back into the random generators.

    Raises:
        UserError: the weights or the optimizer's groups are not those of the checkpoint.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
        if optimizer is not None and checkpoint["optimizer"] is not None:
            optimizer.load_state_dict(checkpoint["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
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
    checkpoint = load_last_checkpoints(fdir)[0]
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
