"""Files that are whole or not there, and folders that belong to one run."""

import contextlib
import csv
import fcntl
import json
import os
import os.path as osp
import shutil
import socket
from pathlib import Path

from .distributed import is_main
from .tools import UserError, mkdir_if_missing


@contextlib.contextmanager
def replacing(fpath, mode="w", **options):
    """A file to write, which takes the place of `fpath` once the block has ended and all of it is on the disk.

    Until then, and whatever goes wrong, `fpath` is what it was before. The folder is made. Of several processes that
    are one run, the first one writes.

    Args:
        mode, options: of `open`.

    Raises:
        UserError: it cannot be written (no room, no permission, ...).
    """
    if not is_main():
        with open(os.devnull, mode) as nowhere:
            yield nowhere
        return
    partial = f"{fpath}.{os.getpid()}.tmp"  # other processes may write the same, a data set's split say
    try:
        mkdir_if_missing(osp.dirname(fpath))
        with open(partial, mode, **({} if "b" in mode else {"encoding": "utf-8"}), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, fpath)
        sync_folder(osp.dirname(fpath))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {fpath}: {reason}; what was there before is as it was") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def sync_folder(folder):
    """Let the names in a folder survive a power cut, too."""
    handle = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(fpath):
    with open(fpath, encoding="utf-8") as file:
        return json.load(file)


def write_json(obj, fpath):
    """Write JSON with indent 4, making the folder; a reader never sees half a file."""
    with replacing(fpath) as file:
        json.dump(obj, file, indent=4, ensure_ascii=False)


def write_csv(rows, fpath):
    """Write rows of values, making the folder; a reader never sees half a file."""
    with replacing(fpath, newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def copy_file(source, target):
    """Copy a file; `target` is whole or what it was before."""
    with open(source, "rb") as read, replacing(target, "wb") as written:
        shutil.copyfileobj(read, written)


@contextlib.contextmanager
def owned(folder):
    """Keep other processes out of a folder, which is made, while the block runs; one that dies keeps none out.

    What one that was killed had not finished writing is removed.

    Raises:
        UserError: the folder belongs to another process, which is named.
    """
    if not is_main():  # the first process owns it for all
        yield
        return
    fpath = osp.join(folder, "lock")
    try:
        mkdir_if_missing(folder)
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


def lock(fpath):
    """The open file of a lock, which tells who holds it.

    The lock is the kernel's record lock: workers do not inherit it, and it ends with the process.
    """
    while True:
        file = open(fpath, "a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        file.close()  # its owner has just removed it
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
