"""The files of an annotation that is being made: nothing is lost, and two do not overwrite one another."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from weakseg_lib.annotator.autosave import Autosave
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.weak_files import read_weak

BOX = (4, 10, 10, 12, 30, 34)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def sequence(make_sequence):
    return Sequence(make_sequence(share=None))


@pytest.fixture
def open_(sequence):
    """Opens frame 0 of the sequence; everything is closed at the end. `open_.told` are the states it told."""
    opened = []

    def call(**options):
        options.setdefault("tell", lambda *state: call.told.append(state))
        opened.append(Autosave(sequence, 0, sequence.read(0), **options))
        return opened[-1]

    call.told = []
    yield call
    for one in opened:
        one.close()


def soon(ask, seconds=20):
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def draw(files):
    id_ = files.document.add_box(BOX)
    files.document.paint(id_, 0, 6, [[20, 20]], 1.0)
    files.changed()
    return id_


def read(sequence):
    return read_weak(sequence, 0, (20, 48, 48))


def test_a_change_is_written_without_being_asked_and_is_there_again(open_, sequence):
    files = open_()
    id_ = draw(files)
    soon(sequence.weak_masks_path(0).is_file)
    soon(lambda: open_.told[-1:] == [("saved", "")])
    assert np.array_equal(read(sequence).masks, files.document.masks)
    files.document.paint(id_, 0, 7, [[20, 20]], 1.0)
    files.close()
    again = open_()
    assert np.array_equal(again.document.masks, files.document.masks)
    assert again.document.instances == files.document.instances and not again.read_only


def test_looking_leaves_no_file(open_, sequence):
    files = open_(proposals=None)
    files.clock.tick(0), files.clock.tick(30)
    files.close()
    assert list(sequence.weak_path.iterdir()) == []


def test_boxes_alone_do_not_write_the_masks_again(open_, sequence):
    files = open_()
    id_ = draw(files)
    files.save()
    before = sequence.weak_masks_path(0).stat().st_mtime_ns
    files.document.set_box(id_, (3, 9, 9, 13, 31, 35))
    files.save()
    assert read(sequence).boxes.tolist() == [[3, 9, 9, 13, 31, 35]]
    assert sequence.weak_masks_path(0).stat().st_mtime_ns == before
    files.document.paint(id_, 0, 6, [[20, 20]], 9.0, erase=True)
    files.save()
    assert not read(sequence).has_mask.any() and not sequence.weak_masks_path(0).exists()


def test_proposals_are_written_with_the_first_change_and_never_replace_annotation(open_, sequence, cells):
    from weakseg_lib.data.annotation import annotate

    proposals = annotate(cells()[1], 0.5, 0)
    files = open_(proposals=proposals)
    files.close()
    assert not sequence.weak_boxes_path(0).exists()
    files = open_(proposals=proposals)
    files.document.delete(1)
    files.close()
    assert read(sequence).ids.tolist() == proposals.ids[1:].tolist()
    assert np.array_equal(read(sequence).masks, np.where(proposals.masks == 1, 0, proposals.masks))
    assert len(open_(proposals=proposals).document.instances) == len(proposals.ids) - 1


@pytest.mark.parametrize("error", [FULL, PermissionError(errno.EACCES, "Permission denied")])
def test_what_cannot_be_written_is_kept_and_tried_again(open_, sequence, monkeypatch, error):
    files = open_()
    draw(files)
    files.save()
    replace, before = os.replace, read(sequence)

    def refuse(*paths):
        raise error

    monkeypatch.setattr(os, "replace", refuse)
    second = files.document.add_box(BOX)
    assert files.save() is False and files.close() is False
    state, why = open_.told[-1]
    assert state == "not saved" and "kept in memory" in why and "\n" not in why
    assert read(sequence).ids.tolist() == before.ids.tolist() == [1]
    monkeypatch.setattr(os, "replace", replace)
    assert files.save() is True and open_.told[-1] == ("saved", "")
    assert read(sequence).ids.tolist() == [1, second]


def test_a_folder_that_cannot_be_made_does_not_keep_one_from_drawing(open_, sequence):
    sequence.weak_path.write_text("in the way")
    files = open_()
    draw(files)
    assert not files.read_only and files.save() is False
    sequence.weak_path.unlink()
    assert files.save() is True and len(read(sequence).ids) == 1


def test_the_second_is_read_only_and_says_why(open_, sequence):
    first, second = open_(), open_()
    assert not first.read_only and f"process {os.getpid()} on {socket.gethostname()}" in second.read_only
    second.close()
    assert open_().read_only, "closing the second does not free the first one's lock"
    first.close()
    assert not open_().read_only


def test_a_lock_of_another_computer_is_respected(open_, sequence):
    lock = sequence.weak_path / ".lock000.json"
    lock.parent.mkdir()
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": 0}))
    assert "process 1 on elsewhere" in open_().read_only and str(lock) in open_().read_only


@pytest.mark.parametrize("pid", ["ended", "reused"])
def test_the_lock_of_a_process_that_has_ended_is_removed(open_, sequence, pid):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = {
        "pid": ended.pid if pid == "ended" else os.getpid(),
        "host": socket.gethostname(),
        "started": 1.0,
    }
    (sequence.weak_path).mkdir()
    (sequence.weak_path / ".lock000.json").write_text(json.dumps(owner))
    assert not open_().read_only


def test_a_kill_loses_nothing_that_is_some_seconds_old(open_, sequence):
    code = f"""
import time
from weakseg_lib.annotator.autosave import Autosave
from weakseg_lib.data.stacks import Sequence
sequence = Sequence({str(sequence.path)!r})
files = Autosave(sequence, 0, sequence.read(0))
id_ = files.document.add_box({BOX})
files.document.paint(id_, 0, 6, [[20, 20]], 1.0)
files.changed()
print("drawn", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "drawn\n"
        soon(sequence.weak_boxes_path(0).is_file)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    half = sequence.weak_path / ".mask000.123.tmp.tif"  # as a kill in the middle of writing leaves it
    half.write_bytes(b"half")
    files = open_()
    assert not files.read_only and files.document.instances[1].voxels > 0 and not half.exists()


def test_an_annotation_that_cannot_be_read_is_refused_and_left_alone(open_, sequence, refused):
    path = sequence.weak_boxes_path(0)
    path.parent.mkdir()
    path.write_text("id,z0\n1,2\n")
    with refused(path, "header lacks"):
        open_()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_only_time_that_is_worked_counts_and_goes_on_after_reopening(open_, sequence):
    files = open_()
    for now, work in [(0, None), (10, "boxes"), (40, None), (50, "masks"), (200, None), (205, None)]:
        files.clock.tick(now, work)
    assert files.clock.seconds == {"boxes": 10, "masks": 40, "looking": 5}
    draw(files)
    files.close()
    assert open_().clock.seconds == {"boxes": 10, "masks": 40, "looking": 5}
