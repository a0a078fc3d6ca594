import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from weakseg_lib.data import annotation as annotation_module
from weakseg_lib.data import weak_files
from weakseg_lib.data.annotation import (
    WeakAnnotation,
    annotate,
    annotate_sequence,
    boxes_of_labels,
    read_weak,
    write_weak,
)
from weakseg_lib.data.stacks import Sequence, read_labels, write_tiff
from weakseg_lib.data.weak_files import put_back_weak

VOXEL = (0.2, 0.125, 0.125)
HEADER = "id,z0,y0,x0,z1,y1,x1,class,has_mask\n"
REAL = Path(__file__).parents[3] / "shared/data/bbbc050/GroundTruth/train/GroundTruth_QCANet/Emb01_t501.tif"


@pytest.fixture
def labels():
    """Ten instances of 1 x 2 x 2 voxels in a (10, 8, 8) stack, ids 3, 6, ... 30."""
    volume = np.zeros((10, 8, 8), np.int32)
    for i in range(10):
        volume[i, 1:3, i % 6 : i % 6 + 2] = 3 * (i + 1)
    return volume


@pytest.fixture
def sequence(tmp_path, labels):
    """Two frames with labels."""
    image = np.random.default_rng(0).integers(0, 60000, labels.shape).astype(np.uint16)
    for t in (0, 1):
        write_tiff(tmp_path / f"01/t00{t}.tif", image, VOXEL)
        write_tiff(tmp_path / f"01_GT/SEG/man_seg00{t}.tif", labels, VOXEL)
    return Sequence(tmp_path / "01")


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("ids", "boxes", "classes", "has_mask", "masks")
    )


# Boxes.


def test_a_box_is_the_slice_that_holds_the_instance():
    labels = np.zeros((4, 6, 8), np.uint16)
    labels[1:3, 2, 5] = 7
    labels[3, 5, 7] = 2  # the last voxel: half-open ends are the shape
    ids, boxes = boxes_of_labels(labels)
    assert ids.tolist() == [2, 7] and ids.dtype == np.int64
    assert boxes.tolist() == [[3, 5, 7, 4, 6, 8], [1, 2, 5, 3, 3, 6]] and boxes.dtype == np.float32


def test_large_ids_and_no_instances():
    labels = np.zeros((4, 6, 8), np.int32)
    assert [part.shape for part in boxes_of_labels(labels)] == [(0,), (0, 6)]
    labels[0, 0, 0], labels[1, 1, 1:3] = 2_000_000_000, 5  # find_objects alone would ask for 16 GB
    ids, boxes = boxes_of_labels(labels)
    assert ids.tolist() == [5, 2_000_000_000]
    assert boxes.tolist() == [[1, 1, 1, 2, 2, 3], [0, 0, 0, 1, 1, 1]]


# The choice of masks.


@pytest.mark.parametrize(
    ("share", "count"), [(0, 0), (0.01, 1), (0.1, 1), (0.2, 2), (0.25, 3), (0.3, 3), (0.7, 7), (1, 10)]
)
def test_the_share_is_rounded_up(labels, share, count):
    weak = annotate(labels, share, seed=0)
    assert weak.ids.tolist() == list(range(3, 33, 3)) and weak.classes.tolist() == [1] * 10
    assert weak.has_mask.sum() == count
    if count == 0:
        assert weak.masks is None
    else:
        expected = np.where(np.isin(labels, weak.ids[weak.has_mask]), labels, 0)
        np.testing.assert_array_equal(weak.masks, expected)
        assert weak.masks.dtype == np.int32


def test_rounding_errors_do_not_add_a_mask():
    labels = np.arange(101, dtype=np.int32)[:, None, None] * np.ones((1, 2, 2), np.int32)
    assert math.ceil(0.07 * 100) == 8  # why it takes care
    assert annotate(labels, 0.07, 0).has_mask.sum() == 7


def test_same_seed_same_choice_and_smaller_shares_are_nested(labels):
    assert same(annotate(labels, 0.5, 3), annotate(labels, 0.5, 3))
    assert not same(annotate(labels, 0.5, 3), annotate(labels, 0.5, 4))
    chosen = [annotate(labels, share, 3).has_mask for share in (0, 0.1, 0.2, 0.5, 1)]
    for fewer, more in zip(chosen, chosen[1:], strict=False):
        assert (more[fewer]).all()


def test_every_instance_is_chosen_equally_often(labels):
    counts = sum(annotate(labels, 0.3, seed).has_mask for seed in range(1000))
    # binomial(1000, 0.3): sd 14.5; 4.5 sd for ten instances fails by chance less than once in 10^4 seeds
    assert np.abs(counts - 300).max() < 65


@pytest.mark.parametrize("share", [-0.1, 1.1, 20, float("nan")])
def test_a_share_outside_0_to_1(labels, sequence, refused, share):
    with refused("--masks", str(share), "0 to 1"):
        annotate(labels, share, 0)
    with refused("--masks", str(share), "0 to 1"):
        annotate_sequence(sequence, share, 0)


# Sequences.


def test_annotate_sequence_writes_every_frame(sequence, labels, tmp_path):
    assert annotate_sequence(sequence, 0.5, seed=5, progress=False) == tmp_path / "01_WEAK"
    assert sorted(os.listdir(tmp_path / "01_WEAK")) == [
        "annotate.json", "boxes000.csv", "boxes001.csv", "mask000.tif", "mask001.tif"
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["01", "01_GT", "01_WEAK"]
    for t in (0, 1):
        assert same(read_weak(sequence, t, labels.shape), annotate(labels, 0.5, [5, t]))
    assert tifffile.imread(tmp_path / "01_WEAK/mask000.tif").dtype == np.uint16
    frames = [read_weak(sequence, t, labels.shape).has_mask for t in (0, 1)]
    assert not np.array_equal(*frames)  # equal labels, and yet each frame has a choice of its own
    record = json.loads((tmp_path / "01_WEAK/annotate.json").read_text())
    assert (record["share"], record["seed"]) == (0.5, 5)


def test_a_table_can_be_read_by_a_person(sequence, labels):
    annotate_sequence(sequence, 0.2, seed=5, progress=False)
    lines = sequence.weak_boxes_path(0).read_text().splitlines()
    assert lines[0] + "\n" == HEADER
    assert lines[1] in ("3,0,1,0,1,3,2,1,0", "3,0,1,0,1,3,2,1,1")


def test_own_work_is_replaced_without_asking(sequence, labels, tmp_path):
    annotate_sequence(sequence, 0.5, seed=0, progress=False)
    annotate_sequence(sequence, 0, seed=0, progress=False)
    assert not list((tmp_path / "01_WEAK").glob("mask*"))  # no masks left of the time before
    assert not read_weak(sequence, 0, labels.shape).has_mask.any()
    annotate_sequence(sequence, 0.5, seed=0, progress=False)
    assert read_weak(sequence, 0, labels.shape).has_mask.sum() == 5


@pytest.mark.parametrize("change", ["table", "mask", "new file", "no record", "broken record"])
def test_a_persons_work_is_kept(sequence, tmp_path, refused, change):
    annotate_sequence(sequence, 0.5, seed=0, progress=False)
    weak = tmp_path / "01_WEAK"
    if change == "table":
        with open(weak / "boxes000.csv", "a") as table:
            table.write("99,0,0,0,1,1,1,1,0\n")
    elif change == "mask":
        write_tiff(weak / "mask000.tif", np.ones((10, 8, 8), np.uint16), VOXEL)
    elif change == "new file":
        (weak / "boxes002.csv").write_text(HEADER)
    elif change == "no record":
        (weak / "annotate.json").unlink()
    else:
        (weak / "annotate.json").write_text("{")
    before = {file.name: file.read_bytes() for file in weak.iterdir()}
    with refused(weak, "a person may have made", "`--overwrite`"):
        annotate_sequence(sequence, 0.2, seed=0, progress=False)
    assert {file.name: file.read_bytes() for file in weak.iterdir()} == before
    annotate_sequence(sequence, 0.2, seed=0, overwrite=True, progress=False)
    assert read_weak(sequence, 0, (10, 8, 8)).has_mask.sum() == 2


def test_an_interrupted_run_leaves_the_earlier_annotation_whole(sequence, tmp_path, monkeypatch):
    annotate_sequence(sequence, 0.5, seed=0, progress=False)
    before = {file.name: file.read_bytes() for file in (tmp_path / "01_WEAK").iterdir()}

    def interrupted(labels, share, seed):
        if seed[1] == 1:
            raise KeyboardInterrupt
        return annotate(labels, share, seed)

    monkeypatch.setattr(annotation_module, "annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        annotate_sequence(sequence, 0.1, seed=1, progress=False)
    assert {file.name: file.read_bytes() for file in (tmp_path / "01_WEAK").iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["01", "01_GT", "01_WEAK"]


def test_frames_without_labels_are_left_out_and_none_at_all_is_an_error(sequence, tmp_path, refused):
    (tmp_path / "01_GT/SEG/man_seg001.tif").unlink()
    annotate_sequence(sequence, 0.5, seed=0, progress=False)
    assert [file.name for file in sorted((tmp_path / "01_WEAK").glob("*.csv"))] == ["boxes000.csv"]
    (tmp_path / "01_GT/SEG/man_seg000.tif").unlink()
    with refused(tmp_path / "01_GT/SEG/man_seg000.tif", "no such labels", "3D labels"):
        annotate_sequence(sequence, 0.5, seed=0, progress=False)
    (tmp_path / "01_GT/SEG/man_seg_000_004.tif").write_bytes(b"")
    with refused(tmp_path / "01_GT/SEG", "single 2D slices"):
        annotate_sequence(sequence, 0.5, seed=0, progress=False)


def test_an_empty_folder_is_no_annotation(sequence):
    sequence.weak_path.mkdir()
    assert annotate_sequence(sequence, 0.5, seed=0, progress=False) == sequence.weak_path


def test_labels_that_do_not_fit_their_image(sequence, tmp_path, refused):
    write_tiff(tmp_path / "01_GT/SEG/man_seg000.tif", np.ones((10, 8, 9), np.uint16), VOXEL)
    with refused(tmp_path / "01_GT/SEG/man_seg000.tif", "(10, 8, 9)", "(10, 8, 8)"):
        annotate_sequence(sequence, 0.5, seed=0, progress=False)
    assert not sequence.weak_path.exists()


def test_an_image_that_does_not_know_its_voxel_size_can_be_annotated(tmp_path, labels):
    (tmp_path / "01").mkdir()
    tifffile.imwrite(tmp_path / "01/t000.tif", labels.astype(np.uint16) + 1)
    write_tiff(tmp_path / "01_GT/SEG/man_seg000.tif", labels, None)
    annotate_sequence(tmp_path / "01", 0.5, seed=0, progress=False)
    assert read_weak(Sequence(tmp_path / "01"), 0, labels.shape).has_mask.sum() == 5


def test_progress_is_shown(sequence, capsys):
    annotate_sequence(sequence, 0.5, seed=0)
    assert "annotating 01" in capsys.readouterr().err


# Reading what a person may have written.


def test_boxes_with_fractions_come_back(sequence, labels):
    weak = annotate(labels, 0.5, 0)
    boxes = (weak.boxes - np.float32(0.1)).clip(0)
    weak = WeakAnnotation(weak.ids, boxes, weak.classes, weak.has_mask, weak.masks)
    write_weak(sequence, 0, weak, VOXEL)
    back = read_weak(sequence, 0, labels.shape)
    assert same(back, weak)
    assert [part.dtype for part in (back.ids, back.boxes, back.classes, back.has_mask, back.masks)] == [
        np.int64, np.float32, np.int64, bool, np.int32
    ]  # fmt: skip


def test_a_table_from_a_spreadsheet(sequence, labels):
    """A byte-order mark, Windows line ends, columns in another order, one more column, an empty line."""
    sequence.weak_path.mkdir()
    text = "note,class,has_mask,id,z0,y0,x0,z1,y1,x1\r\nsoma,1,0,4,0,0,0,1.5,2,2.0\r\n,,,,,,,,,\r\n"
    sequence.weak_boxes_path(0).write_text("\ufeff" + text, newline="")
    weak = read_weak(sequence, 0, labels.shape)
    assert weak.ids.tolist() == [4] and weak.boxes.tolist() == [[0, 0, 0, 1.5, 2, 2]]
    assert weak.masks is None and not weak.has_mask.any()


def test_further_columns_are_kept(sequence, labels):
    sequence.weak_path.mkdir()
    text = HEADER.strip() + ',"seen by, when"\n4,0,0,0,1,2,2,1,0,"Ann, May"\n5,0,0,0,1,2,2,1,0,\n'
    sequence.weak_boxes_path(0).write_text(text)
    write_weak(sequence, 0, read_weak(sequence, 0, labels.shape), VOXEL)
    assert sequence.weak_boxes_path(0).read_text() == text


def test_a_stack_without_cells(sequence, labels):
    sequence.weak_path.mkdir()
    sequence.weak_boxes_path(0).write_text(HEADER)
    weak = read_weak(sequence, 0, labels.shape)
    assert weak.ids.shape == (0,) and weak.boxes.shape == (0, 6) and weak.masks is None


def test_a_missing_table_says_how_to_make_it(sequence, labels, refused):
    with refused(sequence.weak_boxes_path(0), "`weakseg annotate"):
        read_weak(sequence, 0, labels.shape)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1,0,0,0,1,1,1,1,0\n2,0,0,0,11,1,1,1,0\n", ("line 3", "outside the stack", "(10, 8, 8)")),
        ("1,0,0,-1,1,1,1,1,0\n", ("line 2", "outside the stack")),
        ("1,3,0,0,2,1,1,1,0\n", ("line 2", "no volume")),
        ("1,3,0,0,3,1,1,1,0\n", ("line 2", "no volume")),
        ("1,nan,0,0,3,1,1,1,0\n", ("line 2", "no volume")),
        ("1,0,0,0,inf,1,1,1,0\n", ("line 2", "outside the stack")),
        ("1,0,0,0,1,1,1,1,0\n\n1,0,0,0,2,2,2,1,0\n", ("line 4", "id 1", "line 2")),
        ("0,0,0,0,1,1,1,1,0\n", ("line 2", "id is 0")),
        ("3000000000,0,0,0,1,1,1,1,0\n", ("line 2", "id is 3000000000", "at most 2147483647")),
        ("1e20,0,0,0,1,1,1,1,0\n", ("line 2", "id is 1")),
        ("1,0,0,0,1,1,1,1e20,0\n", ("line 2", "class is 1")),
        ("1.5,0,0,0,1,1,1,1,0\n", ("line 2", "1.5", "whole number")),
        ("1,0,0,0,1,1,1,0,0\n", ("line 2", "class is 0")),
        ("1,0,0,0,1,1,1,1,2\n", ("line 2", "has_mask is 2")),
        ("1,0,0,0,1,1,one,1,0\n", ("line 2", "one")),
        ("1,0,0,0,1,1,1\n", ("line 2", "class")),
        ("inf,0,0,0,1,1,1,1,0\n", ("line 2",)),
    ],
)
def test_wrong_rows_are_named(sequence, labels, refused, rows, words):
    sequence.weak_path.mkdir()
    sequence.weak_boxes_path(0).write_text(HEADER + rows)
    with refused(sequence.weak_boxes_path(0), *words):
        read_weak(sequence, 0, labels.shape)


@pytest.mark.parametrize(
    "text", ["", "1,0,0,0,1,1,1,1,0\n", HEADER.replace("has_mask", "mask"), HEADER.replace(",", ";")]
)
def test_a_wrong_header(sequence, labels, refused, text):
    sequence.weak_path.mkdir()
    sequence.weak_boxes_path(0).write_text(text)
    with refused(sequence.weak_boxes_path(0), "header", HEADER.strip()):
        read_weak(sequence, 0, labels.shape)


def test_a_table_that_is_no_text(sequence, labels, refused):
    sequence.weak_path.mkdir()
    sequence.weak_boxes_path(0).write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with refused(sequence.weak_boxes_path(0), "CSV"):
        read_weak(sequence, 0, labels.shape)


def masks_of(labels, *ids):
    return np.where(np.isin(labels, ids), labels, 0)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (lambda labels: None, ("no such masks", "has_mask")),
        (lambda labels: masks_of(labels, 3, 6, 9), ("mask 9 has no box", "table")),
        (lambda labels: 255 * (labels == 3), ("mask 255 has no box", "black-and-white")),
        (lambda labels: masks_of(labels, 3, 6), ("mask 6", "has_mask 0")),
        (lambda labels: masks_of(labels), ("no voxel of mask 3", "has_mask 1")),
        (lambda labels: masks_of(labels, 3)[:, :, 1:], ("(10, 8, 7)", "(10, 8, 8)")),
        (lambda labels: masks_of(labels, 3).astype(np.float32), ("float32", "integers")),
        (lambda labels: masks_of(labels, 3)[0], ("2D",)),
    ],
)
def test_masks_at_odds_with_the_table(sequence, labels, refused, masks, words):
    sequence.weak_path.mkdir()
    sequence.weak_boxes_path(0).write_text(HEADER + "3,0,1,0,1,3,2,1,1\n6,1,1,1,2,3,3,1,0\n")
    drawn = masks(labels)
    if drawn is not None:
        tifffile.imwrite(
            sequence.weak_masks_path(0), drawn.astype(np.uint16) if drawn.dtype == np.int32 else drawn
        )
    with refused(sequence.weak_masks_path(0), *words):
        read_weak(sequence, 0, labels.shape)


def test_a_mask_that_reaches_outside_its_box(sequence, labels, refused):
    sequence.weak_path.mkdir()
    masks = np.zeros(labels.shape, np.uint16)
    masks[2:4, 2:4, 2:4] = 3
    tifffile.imwrite(sequence.weak_masks_path(0), masks)
    sequence.weak_boxes_path(0).write_text(HEADER + "3,2,2,2,4,4,3.5,1,1\n")
    read_weak(sequence, 0, labels.shape)  # half a voxel is within
    sequence.weak_boxes_path(0).write_text(HEADER + "3,2,2,2,4,4,3,1,1\n")
    with pytest.warns(
        UserWarning, match=r"4 of the 8 voxels of mask 3 lie outside its box \(2, 2, 2, 4, 4, 3\)"
    ):
        read_weak(sequence, 0, labels.shape)
    sequence.weak_boxes_path(0).write_text(HEADER + "3,2,2,2,3,4,3,1,1\n")
    with refused(sequence.weak_masks_path(0), "6 of the 8 voxels", "correct the box"):
        read_weak(sequence, 0, labels.shape)


def test_a_failed_write_leaves_table_and_masks_as_they_were(sequence, labels, monkeypatch):
    write_weak(sequence, 0, annotate(labels, 0.2, 0), VOXEL)
    before = {file.name: file.read_bytes() for file in sequence.weak_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(Exception, match="no space left"):
        write_weak(sequence, 0, annotate(labels, 0.7, 1), VOXEL)
    assert {file.name: file.read_bytes() for file in sequence.weak_path.iterdir()} == before


@pytest.mark.parametrize("shares", [(0.2, 0.7), (0.7, 0.2), (0.7, 0), (0, 0.7), (None, 0.7), (None, 0)])
def test_a_kill_at_any_moment_of_writing_leaves_the_earlier_annotation_or_the_new_one(
    sequence, labels, tmp_path, monkeypatch, shares
):
    before, after = (share if share is None else annotate(labels, share, 0) for share in shares)
    if before:
        write_weak(sequence, 0, before, VOXEL)
    moments = []

    def watch(name):
        usual = getattr(os, name)

        def then_copy(*args, **kwargs):
            usual(*args, **kwargs)
            moments.append(tmp_path / f"moment{len(moments)}/01")
            for part in ("01", "01_WEAK"):
                shutil.copytree(tmp_path / part, moments[-1].with_name(part))

        monkeypatch.setattr(os, name, then_copy)

    watch("replace"), watch("unlink")
    write_weak(sequence, 0, after, VOXEL)
    monkeypatch.undo()
    assert len(moments) > 3
    found = []
    for moment in map(Sequence, moments):
        for repaired in (False, True):
            if repaired:
                put_back_weak(moment, 0)
                assert not list(moment.weak_path.glob(".*"))
            if before is None and (not repaired or not moment.weak_boxes_path(0).exists()):
                continue
            is_new = same(weak := read_weak(moment, 0, labels.shape), after)
            assert is_new or same(weak, before)
            found.append(is_new)
    assert found == sorted(found) and found[-1]  # first the earlier one, at last the new one


def test_what_is_read_while_it_is_saved_is_of_one_time(sequence, labels, monkeypatch):
    few, many = (annotate(labels, share, 0) for share in (0.2, 0.7))
    write_weak(sequence, 0, few, VOXEL)

    def saved_meanwhile(*args):
        monkeypatch.undo()
        write_weak(sequence, 0, many, VOXEL)  # the table has just been read, the masks not yet
        return weak_files.read_labels(*args)

    monkeypatch.setattr(weak_files, "read_labels", saved_meanwhile)
    assert same(read_weak(sequence, 0, labels.shape), many)


@pytest.mark.skipif(not REAL.exists(), reason=f"the real data are not here: {REAL}")
def test_real_embryo():
    labels = read_labels(REAL)
    weak = annotate(labels, 0.2, seed=0)
    assert 8 <= len(weak.ids) <= 53  # SOURCE.txt
    assert weak.has_mask.sum() == math.ceil(0.2 * len(weak.ids))
    assert set(np.unique(weak.masks)) - {0} == set(weak.ids[weak.has_mask])
    for id_, box in zip(weak.ids, weak.boxes.astype(int), strict=True):
        inside = labels[box[0] : box[3], box[1] : box[4], box[2] : box[5]] == id_
        assert inside.sum() == (labels == id_).sum()
        assert all(
            inside.any(axis=axes)[[0, -1]].all() for axes in ((1, 2), (0, 2), (0, 1))
        )  # none smaller does
