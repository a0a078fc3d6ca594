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
from weakseg_lib.data.lock import Lock
from weakseg_lib.data.proposed import proposed_frames
from weakseg_lib.data.stacks import Sequence, write_tiff
from weakseg_lib.data.weak_files import read_weak
from weakseg_lib.errors import InputError
from weakseg_lib.propose import propose_sequence

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


def test_looking_leaves_nothing(open_, sequence):
    files = open_(proposals=None)
    files.clock.tick(0), files.clock.tick(30)
    assert files.save(looked=True)  # no boxes: that is not an annotation without cells
    files.close()
    assert not sequence.weak_path.exists()


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
    assert files.predicted_masks == proposals.has_mask.sum() > 0
    files.document.delete(1)
    files.close()
    assert read(sequence).ids.tolist() == proposals.ids[1:].tolist()
    assert np.array_equal(read(sequence).masks, np.where(proposals.masks == 1, 0, proposals.masks))
    again = open_(proposals=proposals)
    assert len(again.document.instances) == len(proposals.ids) - 1 and again.predicted_masks == 0


def test_who_says_that_proposals_are_right_makes_them_an_annotation(open_, sequence):
    propose_sequence(sequence, progress=False)
    files = open_()
    assert files.predicted_masks == 0
    files.close()
    assert proposed_frames(sequence) == [0]  # looking alone does not
    files = open_()
    assert files.save(looked=True) and proposed_frames(sequence) == []
    table = sequence.weak_boxes_path(0)
    before = table.stat().st_mtime_ns
    assert files.save(looked=True) and table.stat().st_mtime_ns == before
    files.close()
    proposals, _ = read(sequence), table.unlink()
    files = open_(proposals=proposals)
    assert files.save(looked=True) and len(read(sequence).ids) == len(proposals.ids) > 0


def other_program(sequence, change):
    """Change the files of frame 0; return their new content."""
    table, masks = sequence.weak_boxes_path(0), sequence.weak_masks_path(0)
    if change == "table":
        table.write_text(table.read_text().replace("\n1,4,", "\n1,3,"))
    elif change == "masks":
        write_tiff(masks, np.where(read(sequence).masks > 0, 1, 0)[::-1].astype(np.uint16), (0.5, 0.25, 0.25))
    elif change == "removed":
        table.unlink(), masks.unlink()
    return {path.name: path.read_bytes() for path in (table, masks) if path.exists()}


def conflict(open_, sequence, change):
    """An annotator that drew a second box when another program had changed the files; what is there."""
    files = open_()
    draw(files)
    assert files.save()
    there = other_program(sequence, change)
    files.document.add_box(BOX)
    files.changed()
    assert files.save() is False
    return files, there


@pytest.mark.parametrize("change", ["table", "masks", "removed"])
def test_what_another_program_wrote_is_not_overwritten_and_nothing_is_lost(open_, sequence, change, snapshot):
    files, there = conflict(open_, sequence, change)
    state, why = open_.told[-1]
    assert state == "not saved" and why.startswith(
        "changed on disk by another program; yours is in boxes000.mine.csv"
    )
    assert (
        "\n" not in why
        and "rename boxes000.mine.csv to boxes000.csv and mask000.mine.tif to mask000.tif" in why
    )
    files.document.add_box(BOX)
    assert files.close()  # the cell can be run again
    found = snapshot(sequence.weak_path)
    mine = [found.pop(name) for name in ("boxes000.mine.csv", "mask000.mine.tif")]
    assert found == there
    for name, content in zip(("boxes000.csv", "mask000.tif"), mine, strict=True):
        (sequence.weak_path / name).write_bytes(content)
    again = open_().document
    assert again.instances == files.document.instances and np.array_equal(again.masks, files.document.masks)


def test_ours_put_in_place_by_hand_are_gone_on_with(open_, sequence):
    files, _ = conflict(open_, sequence, "table")
    for name in ("boxes000", "mask000"):
        (mine,) = sequence.weak_path.glob(f"{name}.mine.*")
        mine.rename(mine.with_name(mine.name.replace(".mine", "")))
    assert files.save() and open_.told[-1] == ("saved", "")
    files.document.add_box(BOX)
    assert files.save() and read(sequence).ids.tolist() == [1, 2, 3]


def test_what_was_kept_aside_is_never_overwritten(open_, sequence):
    conflict(open_, sequence, "table")[0].close()
    first = (sequence.weak_path / "boxes000.mine.csv").read_bytes()
    files = open_()
    files.document.delete(1)
    other_program(sequence, "removed")
    assert files.save() is False and "yours is in boxes000.mine2.csv. " in open_.told[-1][1]
    assert (sequence.weak_path / "boxes000.mine.csv").read_bytes() == first
    files.close()


def test_who_could_not_lock_at_first_does_not_overwrite_what_another_drew_meanwhile(
    open_, sequence, monkeypatch
):
    def full(lock):
        raise InputError(lock.path, "no space left on the disk", "free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Lock, "take", full)
        late = open_()
    other = open_()
    draw(other), draw(other)
    assert other.close()
    draw(late)
    assert late.save() is False and read(sequence).ids.tolist() == [1, 2]
    assert late.close() and (sequence.weak_path / "boxes000.mine.csv").read_text().count("\n") == 2


@pytest.mark.filterwarnings("ignore:.*lie outside its box")
def test_nothing_that_a_table_and_masks_say_is_lost_by_drawing(open_, sequence):
    masks = np.zeros((20, 48, 48), np.uint16)
    masks[2:8, 5:15, 5:15] = 1
    write_tiff(sequence.weak_masks_path(0), masks, (0.5, 0.25, 0.25))
    table = sequence.weak_boxes_path(0)
    lines = [
        "id,z0,y0,x0,z1,y1,x1,class,has_mask,comment",
        "1,2,5,5,6,15,15,1,1,mitotic?",
        "2,2,18,18,6,25,25,1,0,",
    ]
    table.write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match="box 1 is made larger, so that it holds its mask"):
        files = open_()
    files.document.paint(2, 0, 3, [[20, 20]], 1.0)
    files.document.undo()
    files.document.delete(2)
    new = files.document.add_box(BOX)
    files.close()
    assert np.array_equal(read(sequence).masks, masks)
    assert table.read_text().splitlines() == [
        lines[0],
        "1,2,5,5,8,15,15,1,1,mitotic?",
        f"{new},4,10,10,12,30,34,1,0,",
    ]


DENIED = PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("error, fix", [(FULL, "free some space"), (DENIED, "allow writing there")])
def test_what_cannot_be_written_is_kept_and_tried_again(open_, sequence, monkeypatch, error, fix):
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
    assert state == "not saved" and f"; {fix}: it is tried again every 5 s. Do not restart the kernel" in why
    assert "run again" not in why and "\n" not in why
    assert read(sequence).ids.tolist() == before.ids.tolist() == [1]
    monkeypatch.setattr(os, "replace", replace)
    assert files.save() is True and open_.told[-1] == ("saved", "")
    assert read(sequence).ids.tolist() == [1, second]


def test_a_folder_that_cannot_be_made_does_not_keep_one_from_drawing(open_, sequence):
    sequence.weak_path.write_text("in the way")
    files = open_()
    assert open_.told[0][0] == "not saved" and "cannot be written" in open_.told[0][1]
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
