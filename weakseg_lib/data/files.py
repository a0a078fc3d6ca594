"""Writing files so that a full disk, a crash or Ctrl-C never leaves half a file, and reading small ones."""

import errno
import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

from weakseg_lib.errors import InputError

IMAGE_NAME = re.compile(r"t(\d{3,})\.tif")  # of a frame of a sequence
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path):
    """Give a temporary path to write to; it takes the place of `path` when the block ends well.

    path: the file to write; its folders are made. The temporary file is in the same folder, hidden, and
    ends like `path` does. Whatever is raised inside the block removes it and leaves an earlier `path` alone.

    Raises InputError where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    tmp = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        os.replace(tmp, path)
    except BaseException as error:
        _remove(tmp)
        if isinstance(error, OSError) and _is_about_writing(error, path, tmp):
            raise writing_error(error, path) from error
        raise


def check_result_folder(folder):
    """Raise InputError where `folder` holds what a result must not replace: images, labels or annotation."""
    folder = Path(folder)
    images = any(IMAGE_NAME.fullmatch(file.name) for file in folder.glob("t*.tif"))
    if images or folder.name.endswith(("_GT", "_WEAK")):
        what = "holds images" if images else "is the place of labels and annotation"
        raise InputError(folder, f"{what}, which a result must not replace", "choose another folder")


@contextmanager
def atomic_paths(*paths):
    """Give a temporary path for each of `paths`; all take their places when the block ends well, or none does.

    For files that belong together, as masks and their table. The block writes them whole, by `atomic_path`.
    Raises InputError where a file cannot be put in its place.
    """
    paths = [Path(path) for path in paths]
    new, old = (
        [path.with_name(f".{path.stem}.{word}{path.suffix}") for path in paths] for word in ("new", "old")
    )
    replaced = 0
    try:
        yield new
        for path, earlier in zip(paths, old, strict=True):
            if path.exists():
                shutil.copy2(path, earlier)
        for path, tmp in zip(paths, new, strict=True):
            os.replace(tmp, path)
            replaced += 1
    except BaseException as error:
        for path, earlier in list(zip(paths, old, strict=True))[:replaced]:
            if earlier.exists():
                os.replace(earlier, path)
            else:
                _remove(path)
        if isinstance(error, OSError):
            raise writing_error(error, paths[replaced]) from error
        final = {str(tmp): path for tmp, path in zip(new, paths, strict=True)}
        if isinstance(error, InputError) and error.where in final:
            raise InputError(final[error.where], error.problem, error.fix) from error
        raise
    finally:
        for tmp in [*new, *old]:
            _remove(tmp)


def atomic_write_text(path, text):
    """Write `text` (str) to `path` as UTF-8, all of it or nothing. Raises as `atomic_path` does."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value):
    """Write `value` to `path` as indented JSON, all of it or nothing. Raises as `atomic_path` does."""
    atomic_write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path):
    """Return the object (dict) in the JSON file `path`. Raises InputError where it cannot be read."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            path, f"cannot be read as JSON ({error})", "correct the file or remove it"
        ) from error
    if not isinstance(value, dict):
        raise InputError(path, "holds no JSON object", 'write it as {"name": value}, or remove it')
    return value


def _remove(tmp):
    try:
        tmp.unlink(missing_ok=True)
    except OSError:
        pass  # The error that brought us here is the one to tell.


def _is_about_writing(error, path, tmp):
    # A block may also read other files; what goes wrong with those is not this file's error.
    names = (None, str(tmp), str(path), *(str(folder) for folder in path.parents))
    return error.filename is None or str(error.filename) in names


def writing_error(error, path):
    """The InputError that says what an OSError in writing `path` means."""
    # numpy's tofile gives no errno, only a count of what it could not write.
    cut_short = error.errno is None and "requested and" in str(error)
    if error.errno in DISK_FULL or cut_short:
        fix = "free some space and run again; the earlier result is unchanged"
        return InputError(path, "no space left on the disk", fix)
    reason = error.strerror or str(error)
    return InputError(
        path, f"cannot be written ({reason})", "choose another folder or change its permissions"
    )
