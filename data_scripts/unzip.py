"""Take single files out of a zip archive, each whole or not at all, each checked by its CRC."""

import zipfile
import zlib
from contextlib import contextmanager

from download import BLOCK

from weakseg_lib.data.files import atomic_path
from weakseg_lib.errors import InputError


@contextmanager
def open_zip(file, where, fix):
    """Give the `zipfile.ZipFile` of `file` (a path, or a binary file that can seek).

    Raises InputError, naming `where` and `fix`, where the archive, or a member read inside the block, is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise InputError(where, f"is a damaged archive ({error})", fix) from error


def extract(archive, info, target, bar=None):
    """Write member `info` (ZipInfo) to the file `target`, unless the same bytes are there already.

    bar: a progress bar (tqdm) to move on by the member's size. Raises InputError where the disk is full.
    """
    if is_there(info, target):
        if bar is not None:
            bar.update(info.file_size)
        return
    # Reading to the end makes zipfile compare the CRC; where it differs, atomic_path leaves nothing.
    with archive.open(info) as source, atomic_path(target) as tmp, open(tmp, "wb") as file:
        while block := source.read(BLOCK):
            file.write(block)
            if bar is not None:
                bar.update(len(block))


def is_there(info, path):
    """Return whether the file `path` has the size and the CRC of member `info` (bool)."""
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc == info.CRC
