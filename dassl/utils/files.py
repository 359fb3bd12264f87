"""Files that are written whole or not at all, and folders that belong to one run."""

import contextlib
import csv
import hashlib
import json
import os
import os.path as osp
import shutil
import socket
from pathlib import Path

from .commands import UserError
from .distributed import is_main

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

BEST = "model-best.pth.tar"  # the checkpoint that was best on validation


@contextlib.contextmanager
def replacing(fpath, mode="w", **options):
    """Open a file for writing that replaces `fpath` when the block ends and all of it is on the disk.

    Until then, and after an error, `fpath` stays as it was. Missing folders are made. Of several processes that train
    as one run, only the first one writes.

    Args:
        fpath: Path of the file.
        mode: As for `open`.
        **options: As for `open`.

    Raises:
        UserError: The file cannot be written: the disk is full, permission is missing, ...
    """
    if not is_main():
        with open(os.devnull, mode) as nowhere:
            yield nowhere
        return
    partial = f"{fpath}.{os.getpid()}.tmp"  # other processes may write the same file, e.g. a split
    try:
        os.makedirs(osp.dirname(fpath) or ".", exist_ok=True)
        with open(partial, mode, **({} if "b" in mode else {"encoding": "utf-8"}), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, fpath)
        sync_folder(osp.dirname(fpath))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {fpath}: {reason}; an earlier version of it is unchanged") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def sync_folder(folder):
    """Write the names in a folder to the disk, so that they survive a power cut; Windows opens no folders."""
    if os.name == "nt":
        return
    handle = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(fpath):
    with open(fpath, encoding="utf-8") as file:
        return json.load(file)


def write_json(obj, fpath):
    """Write a JSON file with indent 4, as `replacing` does."""
    with replacing(fpath) as file:
        json.dump(obj, file, indent=4, ensure_ascii=False)


def write_csv(rows, fpath):
    """Write rows of values to a CSV file, as `replacing` does."""
    with replacing(fpath, newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def hash_file(fpath):
    """Return 16 hexadecimal digits that identify the content of a file."""
    digest = hashlib.sha256()
    with open(fpath, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()[:16]


def checkpoint_name(epoch):
    """Return the file name of the checkpoint after `epoch` epochs; None means the best on validation."""
    return BEST if epoch is None else f"model.pth.tar-{epoch}"


def copy_file(source, target):
    """Copy a file, as `replacing` does."""
    with open(source, "rb") as read, replacing(target, "wb") as written:
        shutil.copyfileobj(read, written)


@contextlib.contextmanager
def owned(folder):
    """Lock a folder against other runs while the block runs; a process that dies releases its lock.

    A missing folder is made. Files that a killed process left unfinished are removed.

    Raises:
        UserError: Another process holds the lock (the message names it), or the folder is not writable.
    """
    if not is_main():  # the first process owns it for all
        yield
        return
    fpath = osp.join(folder, "lock")
    try:
        os.makedirs(folder or ".", exist_ok=True)
        file = lock(fpath)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    try:
        for partial in Path(folder).rglob("*.tmp"):
            partial.unlink()
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(fpath)
        file.close()


def owner(folder):
    """Return the process that holds the lock of a run's folder, in words; None if there is none.

    Of a process on another machine it is not known whether it still lives.
    """
    try:
        words = Path(folder, "lock").read_text(encoding="utf-8").strip()
        _, number, _, machine = words.split()
        if machine == socket.gethostname():
            check_process(int(number))
    except (FileNotFoundError, ProcessLookupError, ValueError):  # ValueError: it is just being written
        return None
    except PermissionError:  # another user's process
        pass
    return words


def check_process(number):
    """Check that a process lives.

    Raises:
        ProcessLookupError: It does not.
        PermissionError: It is another user's.
    """
    if os.name != "nt":
        os.kill(number, 0)
        return
    import psutil  # on Windows signal 0 is Ctrl-C

    if not psutil.pid_exists(number):
        raise ProcessLookupError(number)


def lock(fpath):
    """Lock a file and return it open; it holds the name of the process.

    It is a record lock of the kernel: worker processes do not inherit it, and it ends with the process.

    Raises:
        UserError: Another process holds the lock.
    """
    while True:
        file = open(fpath, "a+", encoding="utf-8")
        try:
            lock_record(file)
        except OSError as error:
            with file:
                file.seek(0)
                owner = file.read().strip() or "another process"
            raise UserError(
                f"{osp.dirname(fpath)} belongs to a run that is still going ({owner}): wait for it, stop it, or choose "
                "another --output-dir"
            ) from error
        if osp.isfile(fpath) and osp.samestat(os.fstat(file.fileno()), os.stat(fpath)):
            break
        file.close()  # its owner just removed it
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def lock_record(file):
    """Lock an open file.

    Raises:
        OSError: Another process holds the lock.
    """
    if fcntl:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        file.seek(2**30)  # behind the name of the process, which others may then read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
