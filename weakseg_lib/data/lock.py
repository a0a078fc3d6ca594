"""A file that says who writes the annotation of a frame, so that two do not overwrite one another."""

import json
import os
import secrets
import socket

import psutil

from weakseg_lib.data.files import read_json, writing_error
from weakseg_lib.data.stacks import frame_name
from weakseg_lib.errors import InputError


class Lock:
    """The lock file `path`. One process may hold it; it says which, on which computer."""

    def __init__(self, path):
        self.path, self.held = path, False
        self._key = secrets.token_hex(8)  # one process may have several of the same path

    def take(self):
        """Take the lock, also from a process of this computer that no longer runs.

        Raises Locked where another holds it, and InputError where it cannot be written.
        """
        while not self.held:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "x", encoding="utf-8") as file:
                    json.dump(_me() | {"key": self._key}, file)
                self.held = True
            except FileExistsError as error:
                if not self.path.parent.is_dir():  # a file is where the folder should be
                    raise writing_error(error, self.path) from error
                self._remove_stale()
            except OSError as error:
                if self.path.is_file() and not self.path.stat().st_size:
                    self.path.unlink(missing_ok=True)  # made, but there was no space to write into it
                raise writing_error(error, self.path) from error

    def release(self):
        """Let others take the lock; its folder goes, too, where nothing else was written there."""
        # Where somebody removed the file, it may be another's by now.
        if self.held and self._owner().get("key") == self._key:
            self.path.unlink(missing_ok=True)
            try:
                self.path.parent.rmdir()
            except OSError:
                pass  # it is not empty
        self.held = False

    def _owner(self):
        """What the file says (dict), empty where it is just being written or cut off, or not there."""
        try:
            return read_json(self.path)
        except InputError:
            return {}

    def _remove_stale(self):
        """Remove the lock of a process that has ended. Raises Locked where it may still run."""
        owner = self._owner()
        if not owner and not self.path.exists():
            return
        if owner.get("host") == socket.gethostname() and not _runs(owner):
            self._remove(owner)
            return
        who = "another process"
        if owner:
            who = f"process {owner.get('pid')} on {owner.get('host')}"
        raise Locked(
            self.path, f"{who} is annotating this", "close it there, or remove this file if it is gone"
        )

    def _remove(self, owner):
        # Another may have removed the file since it was read, and have a lock of its own there: look before removing.
        aside = self.path.with_name(f"{self.path.name}.{self._key}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        try:
            is_stale = read_json(aside) == owner
        except InputError:
            is_stale = False
        if is_stale:
            aside.unlink()
        else:
            os.replace(aside, self.path)


def frame_lock(sequence, t):
    """Return the `Lock` of the annotation of frame `t` of a `Sequence`."""
    return Lock(sequence.weak_path / f".lock{frame_name(t, sequence.digits)}.json")


class Locked(InputError):
    """Another process holds the lock."""


def _me():
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}


def _runs(owner):
    try:
        # The number of a process that has ended may belong to another by now, which began at another time.
        return abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
