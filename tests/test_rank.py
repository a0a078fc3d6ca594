"""Which cells to mask next: planted cases, a network made by hand that is unsure of one cell, or has not seen one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from weakseg_lib.data.files import read_json
from weakseg_lib.data.stacks import Sequence, Stack
from weakseg_lib.data.weak_files import WeakAnnotation, read_weak
from weakseg_lib.ops.roi_align import roi_align_3d
from weakseg_lib.rank import WAYS, Cells, choose, disagreement, look_at_cells, rank_for_masks, rank_sequence
from weakseg_lib.runs import Run

VOXEL = (0.5, 0.5, 0.5)
CORNERS = [(2, 2, 2), (2, 2, 22), (2, 22, 2), (2, 22, 22)]  # of cells of 10 voxels, at even places
UNSURE, OTHER = 1, 2  # the cell whose brightness is at the threshold; the one of another kind


class ByBrightness(torch.nn.Module):
    """A stand-in for a network: its one feature map is the image, and mask is what is brighter than 0.5 of asinh(4 x).

    It looks at single voxels, so that a mirrored image gives the mirrored answer.
    """

    def __init__(self, config):
        super().__init__()
        self.config, self.stride, self.halo = config, 2, (8, 8, 8)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def backbone(self, image):
        return {1: image, 2: torch.nn.functional.avg_pool3d(image, 2)}

    def masks(self, maps, rois, classes):
        return 40 * (roi_align_3d(maps[1], rois, 8, sampling_ratio=1)[:, 0] - np.arcsinh(2.0))


@pytest.fixture
def run(tiny, tmp_path):
    config = tiny.replace(roi_strides=(1, 2), tile=(16, 16, 64))  # two rows of tiles
    info = {"has_masks": True, "working_voxel_um": VOXEL, "mask_level": 0.5}
    return Run(tmp_path / "run", config, info, ByBrightness(config))


def four_cells(brightness, has_mask=(False,) * 4):
    """A stack whose background is 0 and whose brightest tenth is 1 after normalisation, and its annotation."""
    image = np.zeros((16, 40, 40), np.float32)
    image[13:] = 1.0
    for (z, y, x), value in zip(CORNERS, brightness, strict=True):
        image[z : z + 10, y : y + 10, x : x + 10] = value
        image[z + 2, y + 3, x + 4] += 0.3  # not symmetric
    boxes = np.array([[*c, *(v + 10 for v in c)] for c in CORNERS], np.float32)
    has_mask = np.array(has_mask)
    masks = np.zeros(image.shape, np.int32) if has_mask.any() else None
    return (
        Stack(image, VOXEL, "four", None),
        WeakAnnotation(np.array([11, 22, 33, 44]), boxes, np.ones(4, np.int64), has_mask, masks),
    )


def test_disagreement_of_masks():
    one = torch.zeros(4, 4, 4)
    one[:2] = 1
    assert disagreement(torch.stack([one, one, one])[:, None]).item() == pytest.approx(0)
    assert disagreement(torch.stack([one, 1 - one])[:, None]).item() == pytest.approx(1)
    assert disagreement(torch.stack([one, one, 1 - one])[:, None]).item() == pytest.approx(2 / 3)
    assert disagreement(torch.zeros(2, 1, 4, 4, 4)).item() == 0  # both empty
    assert disagreement(torch.full((2, 1, 4, 4, 4), 0.5)).item() == pytest.approx(
        0
    )  # unsure, but of one mind


@pytest.mark.parametrize("by", ["disagreement", "both"])
def test_the_cell_that_the_network_is_unsure_of_comes_first(run, by):
    stack, annotation = four_cells([1.0, 0.5, 1.0, 1.0])
    ids, scores = rank_for_masks(run, stack, annotation, by)
    assert ids[0] == annotation.ids[UNSURE] and set(ids) == set(annotation.ids)
    assert scores[0] > scores[1] and (np.diff(scores) <= 0).all() and scores.min() >= 0 and scores.max() <= 1


@pytest.mark.parametrize("by", ["difference", "both"])
def test_the_cell_unlike_the_masked_ones_comes_first(run, by):
    stack, annotation = four_cells([1.0, 1.0, 4.0, 1.05], has_mask=(True, False, False, False))
    ids, scores = rank_for_masks(run, stack, annotation, by, noise=0.0)
    assert ids[0] == annotation.ids[OTHER] and scores[0] > scores[1]


@pytest.mark.parametrize("by", ["disagreement", "difference", "both"])
def test_equal_cells_score_equal_and_mirrored_views_agree(run, by):
    stack, annotation = four_cells([1.0, 0.7, 0.7, 0.7], has_mask=(True, False, False, False))
    scores = rank_for_masks(run, stack, annotation, by, noise=0.0)[1]
    assert len(scores) == 3 and np.ptp(scores) == 0
    cells = look_at_cells(run, stack, annotation, by=by, noise=0.0)
    assert cells.disagreement.max() < 1e-3


@pytest.mark.parametrize("by", WAYS)
def test_a_masked_cell_is_never_suggested(run, by):
    stack, annotation = four_cells([1.0, 0.5, 4.0, 1.0], has_mask=(False, True, True, False))
    assert set(rank_for_masks(run, stack, annotation, by)[0]) == {11, 44}
    every = replace(annotation, has_mask=np.ones(4, bool))
    assert len(rank_for_masks(run, stack, every, by)[0]) == 0


@pytest.mark.parametrize("by", WAYS)
def test_without_any_mask_and_without_any_cell(run, by):
    stack, annotation = four_cells([1.0, 0.5, 4.0, 1.0])
    ids, scores = rank_for_masks(run, stack, annotation, by)
    assert set(ids) == set(annotation.ids) and np.isfinite(scores).all()
    nothing = WeakAnnotation(*(v[:0] for v in list(vars(annotation).values())[:4]), None)
    assert len(rank_for_masks(run, stack, nothing, by)[0]) == 0


def test_a_random_choice_depends_on_the_seed_alone(run):
    stack, annotation = four_cells([1.0, 0.5, 4.0, 1.0])
    orders = [tuple(rank_for_masks(run, stack, annotation, "random", seed=s)[0]) for s in range(20)]
    assert orders[3] == tuple(rank_for_masks(run, stack, annotation, "random", seed=3)[0])
    assert {order[0] for order in orders} == set(annotation.ids)


def test_a_cell_like_the_one_just_chosen_waits():
    features = np.array([[0.0], [9.0], [9.0], [5.0]])
    cells = Cells(np.zeros(4), np.arange(4), np.array([True, False, False, False]), np.zeros(4), features)
    assert choose(cells, "difference", 9)[0].tolist() == [1, 3, 2]
    assert choose(cells, "difference", 1)[0].tolist() == [1]
    assert set(choose(cells, "random", 2, seed=1)[0]) < {1, 2, 3}


def test_what_cannot_rank(run, refused):
    stack, annotation = four_cells([1.0, 0.5, 4.0, 1.0])
    untaught = Run(run.folder, run.config, run.info | {"has_masks": False}, run.network)
    with refused(run.folder, "trained without masks", "--by random"):
        rank_for_masks(untaught, stack, annotation, "both")
    assert len(rank_for_masks(untaught, stack, annotation, "random")[0]) == 4
    dense = Run(run.folder, run.config.replace(method="voxresnet"), run.info, run.network)
    with refused(run.folder, "VoxResNet"):
        rank_for_masks(dense, stack, annotation, "both")
    with refused("--by luck", "random"):
        rank_for_masks(run, stack, annotation, "luck")


def test_command_ranks_the_cells_of_all_frames(trained, call, capsys, tmp_path, fails, make_sequence):
    folder, path = trained
    assert call(
        "rank", folder, path, "--by", "both", "--number", 99, "--json", tmp_path / "r.json", "--device", "cpu"
    ) == (
        0,
        [],
    )
    found = read_json(tmp_path / "r.json")["cells"]
    sequence = Sequence(path)
    unmasked = {
        (t, int(i))
        for t in sequence.frames
        for a in [read_weak(sequence, t, (20, 48, 48))]
        for i in a.ids[~a.has_mask]
    }
    assert {(c["frame"], c["id"]) for c in found} == unmasked and len(found) == len(unmasked)
    assert "no boxes" in fails("rank", folder, make_sequence("bare", share=None))
    boxes = tmp_path / "more/01_WEAK/boxes000.csv"
    text = make_sequence("more") and boxes.read_text()
    boxes.write_text(text.replace(",1,0", ",2,0"))
    assert "has classes" in fails("rank", folder, boxes.parents[1] / "01", "--by", "both")


def test_frames_without_cells_are_passed_over(run, make_sequence):
    sequence = Sequence(make_sequence(frames=2, voxel_size=VOXEL))
    table = sequence.weak_boxes_path(1)
    table.write_text(table.read_text().splitlines()[0] + "\n")
    sequence.weak_masks_path(1).unlink()
    found = rank_sequence(run, sequence, 99, "both", progress=False)
    assert found and {c["frame"] for c in found} == {0}
