"""Checkpoints: files of tensors and plain containers, written whole or not at all."""

import io
import os.path as osp
import pickle
import pickletools
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from . import legacy
from .commands import UserError
from .distributed import is_main
from .files import BEST, checkpoint_name, copy_file, replacing

SLACK = 64 * 2**20  # bytes that a checkpoint may have beside its tensors
ALLOCATORS = ("bytearray", "Tensor")  # torch's own loading takes both, with a number as their size


def get_random_state():
    """Return the states of all random generators (Python, NumPy, torch, GPUs) in tensors and plain containers."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state):
    """Set the states that `get_random_state` returned, except those of GPUs that this machine lacks."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, cuda_state in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda_state, device)


def strip_data_parallel(state_dict):
    """Return a state dict without the "module." that DataParallel puts before every name."""
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def save_tensors(obj, fpath):
    """Save an object by torch.save, as `replacing` writes a file.

    Raises:
        UserError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    with replacing(fpath, "wb") as file:
        file.write(buffer.getbuffer())


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Write the checkpoint <save_dir>/<model_name>, and its name to <save_dir>/checkpoint.

    That file names the last checkpoint in its first line, and in its second line the one before it, in case the last
    one is damaged. Of the checkpoints within epochs only those two are kept. The states of the random generators are
    added to `state` (unless it has "random_state"), so that a resumed run draws the numbers of an unbroken one.

    Args:
        state: Dict with "state_dict", "epoch" (number of finished epochs), and other tensors and plain values. "batch"
            is the number of finished batches of the next epoch, if any.
        save_dir: Folder of the checkpoint.
        is_best: Also copy the file to model-best.pth.tar.
        remove_module_from_keys: Remove DataParallel's "module." from the names of weights.
        model_name: File name; if empty, model.pth.tar-<epoch> or model.pth.tar-<epoch>-<batch>.

    Raises:
        UserError: A file cannot be written.
    """
    if not is_main():
        return
    state = {"random_state": get_random_state(), **state}
    if remove_module_from_keys:
        state["state_dict"] = strip_data_parallel(state["state_dict"])
    part = f"-{state['batch']}" if "batch" in state else ""
    model_name = model_name or f"{checkpoint_name(state['epoch'])}{part}"
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
        copy_file(fpath, osp.join(save_dir, BEST))


def load_checkpoint(fpath, most=None):
    """Return the content of a checkpoint, on the CPU. The file can neither run code nor take more memory than its size.

    The schedulers and optimizers that upstream Dassl pickled are left out.

    Args:
        fpath: Path of the file.
        most: Bytes that the file may have, see `most_bytes`; None for any number.

    Raises:
        ValueError: `fpath` is None.
        FileNotFoundError: The file is missing.
        UserError: The file is damaged, too large, or holds objects that could run code.
    """
    if fpath is None:
        raise ValueError("the path of a checkpoint is None")
    if not osp.isfile(fpath):
        raise FileNotFoundError(f"no checkpoint at {fpath}")
    try:
        check_size(fpath, most)
        check_sums(fpath)
        check_pickles(fpath)
        try:
            checkpoint = torch.load(fpath, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            checkpoint = torch.load(fpath, map_location="cpu", weights_only=False, pickle_module=legacy)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"cannot read checkpoint {fpath}, which is damaged or unsafe: {error}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{fpath} is no checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


def most_bytes(*models):
    """Return the most bytes that a checkpoint of models can have: eight times their own, and 64 MiB.

    Beside the weights it has the moments of an optimizer, and may be in another precision.
    """
    tensors = [value for model in models for value in model.state_dict().values() if isinstance(value, torch.Tensor)]
    return 8 * sum(tensor.numel() * tensor.element_size() for tensor in tensors) + SLACK


def check_size(fpath, most=None):
    """Check the size of a checkpoint before it is read; arguments as in `load_checkpoint`.

    Raises:
        ValueError: It has more than `most` bytes, or is an archive of much more than its own size.
    """
    size = unpacked = osp.getsize(fpath)
    if zipfile.is_zipfile(fpath):
        with zipfile.ZipFile(fpath) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > size + SLACK:
        raise ValueError(f"it is a file of {in_units(size)} that unpacks to {in_units(unpacked)}")
    if most is not None and unpacked > most:
        raise ValueError(f"it has {in_units(unpacked)}, but a checkpoint of this model has at most {in_units(most)}")


def in_units(size):
    """Return a number of bytes in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def check_pickles(fpath):
    """Check that the pickles of a checkpoint call nothing that makes a large object of a number.

    Raises:
        ValueError: They name such a function.
    """
    if zipfile.is_zipfile(fpath):
        with zipfile.ZipFile(fpath) as archive:
            streams = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
        pickles = [(io.BytesIO(stream), 1) for stream in streams]
    else:
        pickles = [(open(fpath, "rb"), 5)]  # as torch saved before 1.6: four small ones around the checkpoint's
    for stream, count in pickles:
        with stream:
            for _ in range(count):
                words = []
                for code, argument, _ in pickletools.genops(stream):
                    if code.name == "GLOBAL":
                        words = argument.split(" ", 1)
                    elif isinstance(argument, str):
                        words = [*words[-1:], argument]  # of a STACK_GLOBAL, the last two
                    if code.name in ("GLOBAL", "STACK_GLOBAL") and words[-1] in ALLOCATORS:
                        raise ValueError(f"it calls {'.'.join(words)}, which can take any memory")


def check_sums(fpath):
    """Check the checksums in a checkpoint, which torch writes but does not check.

    Raises:
        ValueError: A checksum is wrong.
    """
    if zipfile.is_zipfile(fpath):  # upstream Dassl's oldest checkpoints are none
        with zipfile.ZipFile(fpath) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")


def saved_names(fdir):
    """Return the names in the file `checkpoint` of a folder, the newest first; none if it is missing."""
    fpath = osp.join(fdir, "checkpoint")
    if not osp.isfile(fpath):
        return []
    with open(fpath, encoding="utf-8") as file:
        return file.read().split()


def load_last_checkpoints(fdir, most=None):
    """Return the readable ones of a folder's last two checkpoints, the newest first; `most` as in `load_checkpoint`.

    Raises:
        UserError: None is readable.
    """
    checkpoints, damaged, names = [], [], saved_names(fdir)
    if not names:
        damaged.append(f"{osp.join(fdir, 'checkpoint')} names no checkpoint")
    for name in names:
        try:
            checkpoints.append(load_checkpoint(osp.join(fdir, name), most))
        except (UserError, FileNotFoundError) as error:
            damaged.append(str(error))
            print(f"{error}: trying the one before it")
    if damaged and not checkpoints:
        raise UserError(f"{'; '.join(damaged)}: delete {fdir} to start anew")
    return checkpoints


def restore_checkpoint(checkpoint, model, optimizer=None, scheduler=None):
    """Load a checkpoint's states into model, optimizer, scheduler and the random generators.

    Raises:
        UserError: The weights or the optimizer's parameter groups do not fit.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
        if optimizer is not None and checkpoint["optimizer"] is not None:
            optimizer.load_state_dict(checkpoint["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "the checkpoint to resume from does not fit this model: it has other classes or settings"
        ) from error
    if scheduler is not None and checkpoint["scheduler"] is not None:
        schedule = checkpoint["scheduler"]
        if "successor" in schedule:  # upstream Dassl's warm-up keeps the epochs in another object
            schedule = {**schedule, "last_epoch": checkpoint["epoch"]}
        scheduler.load_state_dict(schedule)
    if "random_state" in checkpoint:
        set_random_state(checkpoint["random_state"])


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    """Load the last checkpoint of a folder.

    Returns:
        The number of its finished epochs.

    Raises:
        UserError: No checkpoint is readable, or it does not fit.
    """
    checkpoint = load_last_checkpoints(fdir, most_bytes(model))[0]
    restore_checkpoint(checkpoint, model, optimizer, scheduler)
    print(f"Resumed from {fdir}, {checkpoint['epoch']} epochs finished")
    return checkpoint["epoch"]


def load_pretrained_weights(model, weight_path):
    """Load the weights of a file whose names and sizes fit the model; print the names of the others.

    Args:
        model: The model.
        weight_path: File of a state dict, or of a dict that has one as "state_dict".
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
        print(f"Discarded because of an unknown name or another size: {discarded}")


def count_num_param(model=None, params=None):
    """Return the number of elements of a model's parameters, or of `params` (tensors or parameter groups)."""
    if model is not None:
        params = model.parameters()
    count = 0
    for param in params:
        tensors = param["params"] if isinstance(param, dict) else [param]
        count += sum(tensor.numel() for tensor in tensors)
    return count
