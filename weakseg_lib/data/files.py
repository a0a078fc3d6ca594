"""Writing files so that a full disk, a crash or Ctrl-C never leaves half a file, and reading small ones."""

import errno
import json
import os
import re
import secrets
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
    tmp = _temporary(path)
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
def atomic_paths(*paths, remove=(), note=None):
    """Give a temporary path for each of `paths`; all take their places when the block ends well, or none does.

    For files that belong together, as masks and their table. The block writes them whole, by `atomic_path`. remove:
    files that go when the others come. note: a path in the same folder, of a file that is there while they change
    places: where the process is killed then, `put_back` undoes what it had begun, and until then `standing` says
    where the earlier files are.

    Raises InputError where a file cannot be put in its place.
    """
    paths, remove = ([Path(path) for path in some] for some in (paths, remove))
    new = {path: _temporary(path) for path in paths}
    earlier = {}  # path -> its copy, None where there is nothing yet
    changed, noted, at = [], False, paths[0]
    try:
        yield list(new.values())
        for at in [*paths, *remove]:
            earlier[at] = _temporary(at) if at.exists() else None
            if earlier[at]:
                shutil.copy2(at, earlier[at])
        if note is not None:
            write_json(note, {path.name: copy and copy.name for path, copy in earlier.items()})
            noted = True
        for at in earlier:
            if at in new:
                os.replace(new[at], at)
            else:
                at.unlink(missing_ok=True)
            changed.append(at)
        if noted:
            os.unlink(note)  # from here on the change is made
    except BaseException as error:
        _restore({path: earlier[path] for path in changed})
        if noted:
            _remove(note)
        _remove(*filter(None, earlier.values()))
        if isinstance(error, OSError):
            raise writing_error(error, at) from error
        final = {str(tmp): path for path, tmp in new.items()}
        if isinstance(error, InputError) and error.where in final:
            raise InputError(final[error.where], error.problem, error.fix) from error
        raise
    else:
        _remove(*filter(None, earlier.values()))
    finally:
        _remove(*new.values())


def put_back(note):
    """Undo what a process had half replaced by `atomic_paths` with this `note` when it was killed.

    Call it only where no other process writes these files. Raises InputError where that is impossible.
    """
    if note.is_file():
        names = read_json(note)
        _restore(
            {note.with_name(name): note.with_name(copy) if copy else None for name, copy in names.items()}
        )
        note.unlink()


def standing(path, note):
    """Return where to read the file `path` as it was before it was half replaced: in most cases `path` itself."""
    copy = read_json(note).get(path.name, path.name) if note.is_file() else path.name
    if copy is None:
        return _temporary(path)  # there was none, and there is none of this name
    copy = path.with_name(copy)
    return copy if copy.is_file() else path  # put back already


def _restore(earlier):
    """earlier: {path: its copy, or None where there was no file}."""
    for path, copy in earlier.items():
        try:
            if copy is None:
                path.unlink(missing_ok=True)
            elif copy.is_file():  # else it is back already, by a `put_back` that was killed, too
                os.replace(copy, path)
        except OSError as error:
            raise writing_error(error, path) from error


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


def _temporary(path):
    """A hidden name beside `path` that ends like it; no other process has it, on any computer."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")


def _remove(*paths):
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            pass  # The error that brought us here is the one to tell.


def _is_about_writing(error, path, tmp):
    # A block may also read other files; what goes wrong with those is not this file's error.
    names = (None, str(tmp), str(path), *(str(folder) for folder in path.parents))
    return error.filename is None or str(error.filename) in names


def writing_error(error, path):
    """Return the InputError that says why `path` could not be written. error: OSError."""
    # numpy's tofile gives no errno, only a count of what it could not write.
    cut_short = error.errno is None and "requested and" in str(error)
    if error.errno in DISK_FULL or cut_short:
        fix = "free some space and run again; the earlier result is unchanged"
        return InputError(path, "no space left on the disk", fix)
    reason = error.strerror or str(error)
    return InputError(
        path, f"cannot be written ({reason})", "choose another folder or change its permissions"
    )
