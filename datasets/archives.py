"""Data sets that come with the repository as zip archives: unpacked beside the other data sets."""

import os
import tempfile
import zipfile
from pathlib import Path

from dassl.utils import UserError


def unpack(archive, folder):
    """Unpack a zip file into `folder`, whole or not at all, unless the folder exists.

    Args:
        archive: Path of the zip file.
        folder: Folder to make.

    Raises:
        UserError: A file of the archive is missing in the folder or has another size.
    """
    with zipfile.ZipFile(archive) as source:
        if not os.path.isdir(folder):
            parent = os.path.dirname(folder)
            os.makedirs(parent, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=parent) as temporary:
                unpacked = os.path.join(temporary, "unpacked")
                source.extractall(unpacked)
                try:
                    os.rename(unpacked, folder)
                except OSError:
                    if not os.path.isdir(folder):  # else another process unpacked it first
                        raise
        for member in source.infolist():
            path = Path(folder, member.filename)
            if not (path.is_file() and path.stat().st_size == member.file_size):
                raise UserError(f"{folder} is incomplete or of another version ({member.filename}): delete it")
