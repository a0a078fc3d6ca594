"""Download a large file so that it arrives whole: go on where it stopped, try again, check its hash."""

import errno
import hashlib
import http.client
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from weakseg_lib.errors import InputError

BLOCK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
SPARE = 100_000_000  # bytes to leave free on the disk
RUN_AGAIN = "run again later; the download goes on where it stopped"


class _Restart(Exception):
    """What has arrived so far does not belong to the file the server has now."""


class TryAgain(Exception):
    """The transfer failed in a way that may pass."""


def download(url, path, sha256, tries=5, wait=1.0):
    """Download `url` to `path` and return `path`; at once where the right file is there already.

    sha256: the file's hash as a hex string. tries: how many attempts in a row may bring nothing new.
    wait: seconds before the second attempt, doubled each time.

    Bytes are kept in PATH.part until the hash is right, and the next attempt or the next run asks only for
    the rest; a server that cannot do that, or has another file by now, makes it start over.
    Raises InputError where the server has no such file or keeps failing, the disk is too small, or the hash
    is wrong (the file is then removed).
    """
    path = Path(path)
    if hash_of(path) == sha256:
        return path
    part = path.with_name(path.name + ".part")
    with _disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    failures, most = 0, _size(part)
    while True:
        try:
            _transfer(url, part)
            break
        except _Restart as reason:
            _forget(part)
            failures += 1
            if failures >= tries:
                raise InputError(url, str(reason), RUN_AGAIN) from reason
        except TryAgain as reason:
            failures = failures + 1 if _size(part) <= most else 0
            most = max(most, _size(part))
            if failures and hash_of(part) == sha256:
                break  # all is there: the server promises more bytes than the file has
            if failures >= tries:
                raise InputError(url, f"gave up after {tries} attempts ({reason})", RUN_AGAIN) from reason
            pause(reason, wait * 2**failures)
    found = hash_of(part)
    if found != sha256:
        _forget(part)
        problem = f"the file has sha256 {found} and not {sha256}, it was removed"
        raise InputError(url, problem, "run again; if that does not help the file was changed at its source")
    part.replace(path)
    _forget(part)
    return path


def check_free_space(folder, needed):
    """Raise InputError where the disk of `folder` (which need not exist yet) lacks `needed` bytes."""
    folder = Path(folder).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        problem = f"{_megabytes(needed)} are needed on this disk and {_megabytes(free)} are free"
        raise InputError(folder, problem, "free some space or choose another folder with `--out`")


@contextmanager
def network_errors(url):
    """Turn what goes wrong on the way to `url` into TryAgain, or InputError where no repeat can help."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code == 429 or error.code >= 500:
            raise TryAgain(f"the server answers {error.code} {error.reason}") from error
        fix = "check the address, or download the file by hand and give it with `--from`"
        raise InputError(url, f"the server answers {error.code} {error.reason}", fix) from error
    except (OSError, http.client.HTTPException) as error:
        raise TryAgain(f"no connection ({error})") from error


def content_range(response):
    """Return the first byte of a partial answer and the size of the whole file (int, int or None).

    None instead of both where the answer does not say which part it is.
    """
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match and (int(match[1]), int(match[2]) if match[2] != "*" else None)


def pause(reason, seconds):
    """Say why a transfer failed, and wait."""
    tqdm.write(f"{reason}; trying again in {seconds:g} s", file=sys.stderr)
    time.sleep(seconds)


def _transfer(url, part):
    """Append to `part` what it lacks. Returns when the server says that it is all there."""
    have = _size(part)
    tag_file = _tag_file(part)
    request = urllib.request.Request(url, headers={"User-Agent": "weakseg"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tag_file.is_file():
            request.add_header("If-Range", tag_file.read_text())
    with network_errors(url):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                have, total = _start_and_total(response, have)
                if have == 0:
                    _remember_tag(tag_file, response)
                if total is not None:
                    check_free_space(part.parent, total - have + SPARE)
                _append(response, part, have, total)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            # Nothing after byte `have`: complete, or the file became shorter.
            if error.headers.get("Content-Range", "").strip() != f"bytes */{have}":
                raise _Restart("the file on the server changed") from error


def _start_and_total(response, have):
    """Return the byte at which the answer starts, and the size of the whole file, None if not told."""
    length = response.headers.get("Content-Length", "")
    if response.status != 206:
        return 0, int(length) if length.isdigit() else None
    found = content_range(response)
    if not found or found[0] != have:
        raise _Restart("the server sends another part of the file than it was asked for")
    return found


def _append(response, part, have, total):
    with _disk_errors(part):
        file = open(part, "ab" if have else "wb")
    with file, _bar(part, have, total) as bar:
        while block := response.read(BLOCK):
            with _disk_errors(part):
                file.write(block)
                file.flush()
            bar.update(len(block))
            have += len(block)
    # http.client ends quietly when the connection breaks between two reads.
    if total is not None and have < total:
        raise TryAgain(f"the connection ended after {_megabytes(have)} of {_megabytes(total)}")


@contextmanager
def _disk_errors(part):
    """Turn what the disk says into an InputError, so that it is not taken for a failed connection."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            fix = "free some space and run again; the download goes on where it stopped"
            raise InputError(part, "no space left on the disk", fix) from error
        raise InputError(part, f"cannot be written ({error.strerror})", "choose another folder") from error


def _bar(part, have, total):
    return tqdm(desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, leave=False)


def _tag_file(part):
    return part.with_name(part.name + ".etag")


def _remember_tag(tag_file, response):
    tag = response.headers.get("ETag", "")
    if tag.startswith('"'):  # only a strong tag promises the same bytes
        tag_file.write_text(tag)
    else:
        tag_file.unlink(missing_ok=True)


def _forget(part):
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)


def _size(part):
    return part.stat().st_size if part.is_file() else 0


def hash_of(path):
    """Return the sha256 of a file (hex string), None where there is none."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _megabytes(size):
    return f"{size / 1e6:.1f} MB"
