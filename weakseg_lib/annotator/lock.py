"""A file that says who annotates a frame, so that two do not overwrite one another."""

import json
import os
import socket

import psutil

from weakseg_lib.data.files import read_json, writing_error
from weakseg_lib.errors import InputError


class Lock:
    """The lock file `path`. One process may hold it; it says which, on which computer."""

    def __init__(self, path):
        self.path, self.held = path, False

    def take(self):
        """Take the lock, also from a process of this computer that no longer runs.

        Raises Locked where another holds it, and InputError where it cannot be written.
        """
        while not self.held:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "x", encoding="utf-8") as file:
                    json.dump(_me(), file)
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
        if self.held:
            self.path.unlink(missing_ok=True)
        self.held = False

    def _remove_stale(self):
        """Remove the lock of a process that has ended. Raises Locked where it may still run."""
        try:
            owner = read_json(self.path)
        except InputError:
            if not self.path.exists():
                return
            owner = {}  # just being written, or cut off
        if owner.get("host") == socket.gethostname() and not _runs(owner):
            self.path.unlink(missing_ok=True)
            return
        who = "another process"
        if owner:
            who = f"process {owner.get('pid')} on {owner.get('host')}"
        raise Locked(
            self.path, f"{who} is annotating this", "close it there, or remove this file if it is gone"
        )


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
