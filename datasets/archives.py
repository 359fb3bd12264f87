"""Data sets that come with the repository, as zip archives, and are unpacked where the other data sets are."""

import os
import tempfile
import zipfile
from pathlib import Path

from dassl.utils import UserError


def unpack(archive, folder):
    """Unpack a zip file into ``folder`` unless that was done before: whole or not at all.

    Raises UserError if the folder is there with other content than the archive's.
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
                    if not os.path.isdir(folder):  # else another process was faster
                        raise
        for member in source.infolist():
            path = Path(folder, member.filename)
            if not (path.is_file() and path.stat().st_size == member.file_size):
                raise UserError(f"{folder} is incomplete or of another version ({member.filename}): delete it")
