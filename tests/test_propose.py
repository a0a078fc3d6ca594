"""Proposed boxes: found where cells are, marked until somebody looks, and never in the place of what was drawn."""

import errno
import os
import warnings

import numpy as np
import pytest

from weakseg_lib import propose as propose_module
from weakseg_lib.annotator.autosave import Autosave
from weakseg_lib.data.annotation import boxes_of_labels, read_weak, write_weak
from weakseg_lib.data.proposed import proposed_frames
from weakseg_lib.data.stacks import Sequence, Stack, write_tiff
from weakseg_lib.maxima import blob_diameter
from weakseg_lib.measures import box_iou, match_boxes
from weakseg_lib.prediction import predict
from weakseg_lib.propose import propose_boxes, propose_sequence
from weakseg_lib.training_data import TrainingData

SHAPE, CUBE, FLAT = (30, 60, 70), (0.5, 0.5, 0.5), (1.5, 0.5, 0.5)
CENTRES = [(7, 12, 12), (7, 12, 44), (8, 44, 14), (20, 15, 15), (21, 44, 50)]  # voxels of a cube
DIAMETER = 6.0  # um, of the balls


def balls(voxel_size, height=400.0, seed=0):
    """A stack with five balls of DIAMETER and camera noise, and the balls' boxes."""
    shape = tuple(round(n * CUBE[0] / v) for n, v in zip(SHAPE, voxel_size, strict=True))
    grid = (np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) + 0.5) * voxel_size
    labels = np.zeros(shape, np.int32)
    for i, centre in enumerate(CENTRES, 1):
        labels[((grid - np.array(centre) * CUBE[0]) ** 2).sum(-1) < (DIAMETER / 2) ** 2] = i
    noise = np.random.default_rng(seed).normal(0, 20, shape)
    image = (200 + height * (labels > 0) + noise).astype(np.uint16)
    return Stack(image, voxel_size, "balls", None), boxes_of_labels(labels)[1]


@pytest.mark.parametrize("diameter", [None, DIAMETER])
@pytest.mark.parametrize("voxel_size", [CUBE, FLAT])
def test_maxima_find_balls_and_their_boxes(voxel_size, diameter):
    stack, boxes = balls(voxel_size)
    found = propose_boxes(stack, "maxima", diameter)
    pairs, overlaps = match_boxes(found.boxes, boxes)
    assert len(found.ids) == len(pairs) == len(boxes)
    assert overlaps.min() > 0.6
    assert not found.has_mask.any() and found.masks is None and set(found.classes) == {1}


@pytest.mark.parametrize("voxel_size", [CUBE, FLAT])
def test_the_diameter_is_measured_in_um(voxel_size):
    assert blob_diameter(balls(voxel_size)[0].image, voxel_size) == pytest.approx(DIAMETER, rel=0.25)


def test_a_dim_ball_among_bright_ones_and_one_at_the_border():
    stack, boxes = balls(CUBE)
    image = stack.image.copy()
    z0, y0, x0, z1, y1, x1 = boxes[0].astype(int)
    inside = image[z0:z1, y0:y1, x0:x1]
    image[z0:z1, y0:y1, x0:x1] = np.where(
        inside > 400, inside - 250, inside
    )  # 150 of 400 above the background
    cut = Stack(image[:, :, 9:], CUBE, "cut", None)  # through the middle of two balls
    wanted = np.clip(boxes - [0, 0, 9, 0, 0, 9], 0, None)
    overlaps = box_iou(propose_boxes(cut).boxes, wanted)
    assert (overlaps.max(0) > 0.4).all()


@pytest.mark.parametrize("background", [0, 700])
def test_noise_alone_gives_no_boxes(background):
    rng = np.random.default_rng(1)
    image = (rng.poisson(30, SHAPE) + background).astype(np.uint16)
    for diameter in (None, 3.0, 6.0):
        assert len(propose_boxes(Stack(image, CUBE, "dark", None), "maxima", diameter).ids) == 0


def test_weights_propose_what_they_detect(trained):
    run, sequence = trained
    stack = Sequence(sequence).read(0, with_labels=True)
    found = propose_boxes(stack, run)
    boxes = boxes_of_labels(stack.labels)[1]
    assert len(match_boxes(found.boxes, boxes)[0]) > 0.7 * len(boxes)
    assert (found.boxes == found.boxes.round()).all() and found.masks is None


def test_frames_without_annotation_get_marked_proposals(make_sequence):
    sequence = Sequence(make_sequence(frames=2, share=None))
    numbers = propose_sequence(sequence, progress=False)
    assert set(numbers) == {0, 1} and min(numbers.values()) > 0
    assert proposed_frames(sequence) == [0, 1]
    found = read_weak(sequence, 0, (20, 48, 48))
    assert len(found.ids) == numbers[0] and not found.has_mask.any()

    write_weak(sequence, 0, found, None)  # saved as it is: somebody looked
    assert proposed_frames(sequence) == [1]
    table = sequence.weak_boxes_path(1)
    table.write_text(table.read_text().replace("\n1,", "\n77,"))  # changed by another program
    assert proposed_frames(sequence) == []


@pytest.mark.filterwarnings("ignore:.*no instance has a mask")
def test_fit_warns_of_proposals_that_nobody_looked_at(make_sequence, tiny):
    sequence = Sequence(make_sequence(frames=2, share=None))
    propose_sequence(sequence, progress=False)
    write_weak(sequence, 1, read_weak(sequence, 1, (20, 48, 48)), None)
    with pytest.warns(UserWarning, match=r"boxes of 1 stacks are proposals .*frames 0\b"):
        TrainingData([sequence], tiny, 0, progress=False).survey()
    write_weak(sequence, 0, read_weak(sequence, 0, (20, 48, 48)), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*no instance has a mask")
        TrainingData([sequence], tiny, 0, progress=False).survey()


def test_what_was_drawn_is_left_alone(make_sequence, snapshot):
    sequence = Sequence(make_sequence(frames=3, share=0.5))
    sequence.weak_boxes_path(1).unlink()  # frame 1: masks alone, still somebody's work
    for path in (sequence.weak_boxes_path(2), sequence.weak_masks_path(2)):
        path.unlink()
    before = snapshot(sequence.weak_path)
    assert set(propose_sequence(sequence, progress=False)) == {2}
    after = snapshot(sequence.weak_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"boxes002.csv", "proposed.json"}


def test_proposals_are_replaced_until_they_are_saved(make_sequence, snapshot):
    sequence = Sequence(make_sequence(share=None))
    propose_sequence(sequence, progress=False)
    first = sequence.weak_boxes_path(0).read_text()
    propose_sequence(sequence, diameter=6.0, progress=False)
    assert sequence.weak_boxes_path(0).read_text() != first and proposed_frames(sequence) == [0]
    write_weak(sequence, 0, read_weak(sequence, 0, (20, 48, 48)), None)
    before = snapshot(sequence.weak_path)
    assert propose_sequence(sequence, progress=False) == {}
    assert snapshot(sequence.weak_path) == before


def test_a_result_is_opened_with_its_masks(trained, make_sequence, tmp_path):
    sequence = Sequence(make_sequence(frames=2, share=None))
    predict(trained[0], [sequence.path], tmp_path / "res", device="cpu", progress=False)
    numbers = propose_sequence(sequence, tmp_path / "res", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no mask leaves its box
        found = read_weak(sequence, 0, (20, 48, 48))
    assert len(found.ids) == numbers[0] > 0 and found.has_mask.all()
    np.testing.assert_array_equal(found.boxes, boxes_of_labels(found.masks)[1])
    assert proposed_frames(sequence) == [0, 1]
    propose_sequence(sequence, progress=False)  # boxes alone in their place: the masks go too
    assert read_weak(sequence, 0, (20, 48, 48)).masks is None and proposed_frames(sequence) == [0, 1]


@pytest.mark.parametrize("still_open", [True, False])
def test_what_is_drawn_while_boxes_are_proposed_is_kept(make_sequence, monkeypatch, still_open):
    sequence = Sequence(make_sequence(frames=2, share=None))
    propose_sequence(sequence, progress=False)

    def meanwhile(*args, **kwargs):
        monkeypatch.undo()
        drawn.document.delete(1)
        assert drawn.save() and (still_open or drawn.close())
        return propose_boxes(*args, **kwargs)

    monkeypatch.setattr(propose_module, "propose_boxes", meanwhile)
    drawn = Autosave(sequence, 0, sequence.read(0))
    why = "is annotating this" if still_open else "changed by another program"
    with pytest.warns(UserWarning, match=f"^frame 0 gets no proposals: .*{why}"):
        assert set(propose_sequence(sequence, diameter=6.0, progress=False)) == {1}
    assert drawn.close() and 1 not in read_weak(sequence, 0, (20, 48, 48)).ids
    assert proposed_frames(sequence) == [1]
    assert not list(sequence.weak_path.glob(".*"))


@pytest.mark.parametrize("name", ["proposed.json", "boxes000.csv", None])
def test_where_proposals_cannot_be_written_the_earlier_ones_stay(
    trained, make_sequence, tmp_path, snapshot, monkeypatch, refused, name
):
    sequence = Sequence(make_sequence(share=None))
    predict(trained[0], [sequence.path], tmp_path / "res", device="cpu", progress=False)
    propose_sequence(sequence, tmp_path / "res", progress=False)
    files = [sequence.weak_boxes_path(0), sequence.weak_masks_path(0)]
    before = [file.read_bytes() for file in files]
    replace = os.replace

    def full(source, target):
        if name in (None, os.path.basename(target)):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with refused(sequence.weak_path / (name or files[0].name), "no space left", "unchanged"):
        propose_sequence(sequence, progress=False)
    assert [file.read_bytes() for file in files] == before
    assert proposed_frames(sequence) == [0]


def test_a_dark_stack_is_said_and_gets_no_empty_table(tmp_path, call, fails):
    sequence = tmp_path / "data/01"
    write_tiff(sequence / "t000.tif", np.random.default_rng(0).poisson(30, SHAPE).astype(np.uint16), CUBE)
    status, lines = call("propose", sequence)
    assert status == 0 and len(lines) == 1
    assert "nothing was found in frames 0" in lines[0] and "--diameter" in lines[0]
    assert not sequence.with_name("01_WEAK").exists()


def test_mistakes(place, fails, snapshot):
    before = snapshot(place.folder)
    assert "no such folder" in fails("propose", place.sequence, "--by", "nothing")
    assert "--diameter" in fails("propose", place.sequence, "--by", place.run, "--diameter", 5)
    assert "--diameter" in fails("propose", place.sequence, "--diameter", -5)
    assert "--score" in fails("propose", place.sequence, "--score", 0.5)
    place.boxes.unlink(), place.masks.unlink()
    after = snapshot(place.folder)
    assert all(before[name] == content for name, content in after.items())
