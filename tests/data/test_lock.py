"""The lock of a frame: one holds it, and what a process left behind goes to one."""

import json
import socket

import pytest

from weakseg_lib.data import lock as lock_module
from weakseg_lib.data.lock import Lock, Locked


@pytest.fixture
def path(tmp_path):
    return tmp_path / "01_WEAK/.lock000.json"


def leave_stale(path):
    path.parent.mkdir()
    path.write_text(json.dumps({"pid": 999_999_999, "host": socket.gethostname(), "started": 1.0}))


def test_one_holds_it(path):
    first, second = Lock(path), Lock(path)
    first.take()
    with pytest.raises(Locked, match="is annotating this"):
        second.take()
    first.release()
    second.take()
    assert second.held and not first.held


def test_two_that_find_the_lock_of_an_ended_process_do_not_both_take_it(path, monkeypatch):
    leave_stale(path)
    slow, fast = Lock(path), Lock(path)
    runs = lock_module._runs

    def meanwhile(owner):
        monkeypatch.setattr(lock_module, "_runs", runs)
        fast.take()  # all of it, while the other has just found that the process has ended
        return runs(owner)

    monkeypatch.setattr(lock_module, "_runs", meanwhile)
    with pytest.raises(Locked):
        slow.take()
    assert fast.held and not slow.held and [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_lock_that_was_removed_by_hand_is_not_taken_from_the_next(path):
    first, second = Lock(path), Lock(path)
    first.take()
    path.unlink()
    second.take()
    first.release()
    with pytest.raises(Locked):
        first.take()
    assert second.held


def test_the_folder_goes_with_the_lock_where_nothing_else_is_in_it(path):
    lock = Lock(path)
    lock.take(), lock.release()
    assert not path.parent.exists()
    lock.take()
    (path.parent / "boxes000.csv").write_text("")
    lock.release()
    assert [file.name for file in path.parent.iterdir()] == ["boxes000.csv"]
