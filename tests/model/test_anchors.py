import itertools
import math

import numpy as np
import pytest
import torch

from weakseg_lib.model.anchors import (
    BACKGROUND,
    IGNORED,
    anchor_grid,
    anchor_sizes_from_boxes,
    match_atss,
    match_iou,
    sample_anchors,
)


def iou(a, b):
    common = math.prod(max(0.0, min(a[i + 3], b[i + 3]) - max(a[i], b[i])) for i in range(3))
    volumes = [math.prod(box[i + 3] - box[i] for i in range(3)) for box in (a, b)]
    return common / (sum(volumes) - common)


@pytest.fixture
def grid():
    return anchor_grid((4, 6, 6), 4, [[6, 9, 9], [10, 14, 14]])


def random_boxes(n, seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform((0, 0, 0), (10, 16, 16), (n, 3))
    return torch.tensor(np.concatenate([low, low + rng.uniform(4, 14, (n, 3))], 1), dtype=torch.float32)


# Sizes


def test_one_anchor_is_the_geometric_mean():
    boxes = np.array([[0, 0, 0, 2, 4, 8], [1, 1, 1, 9, 5, 3]], float)
    np.testing.assert_allclose(anchor_sizes_from_boxes(boxes, 1), [[4, 4, 4]])


def test_sizes_find_the_clusters_small_to_large_without_a_seed():
    rng = np.random.default_rng(0)
    true = np.array([[4, 6, 6], [10, 20, 20], [30, 30, 60]])
    sides = np.repeat(true, [30, 20, 25], 0) * np.exp(rng.normal(0, 0.05, (75, 3)))
    boxes = rng.permutation(np.concatenate([np.zeros((75, 3)), sides], 1))
    sizes = anchor_sizes_from_boxes(boxes, 3)
    # The mean of 20 draws with 5 % spread errs by 1.1 %, and there are nine.
    np.testing.assert_allclose(sizes, true, rtol=0.04)
    np.testing.assert_array_equal(sizes, anchor_sizes_from_boxes(boxes, 3))


@pytest.mark.filterwarnings("error")
def test_fewer_sizes_than_asked_for_give_fewer_anchors():
    boxes = np.array([[0, 0, 0, 4, 4, 4]] * 5 + [[2, 2, 2, 12, 12, 12]], float)
    np.testing.assert_allclose(anchor_sizes_from_boxes(boxes, 4), [[4, 4, 4], [10, 10, 10]])
    assert anchor_sizes_from_boxes(boxes[:1], 3).shape == (1, 3)


# The grid


def test_grid_against_loops():
    sizes = [[3.0, 4, 5], [6, 8, 10]]
    wanted = []
    for position in itertools.product(range(2), range(3), range(4)):
        for size in sizes:
            centre = [(p + 0.5) * 2 for p in position]
            low = [c - s / 2 for c, s in zip(centre, size, strict=True)]
            wanted.append(low + [a + s for a, s in zip(low, size, strict=True)])
    found = anchor_grid((2, 3, 4), 2, sizes)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, wanted)  # halves of whole numbers are exact


# Matching


def match_iou_by_hand(anchors, boxes, positive, negative):
    match = []
    for anchor in anchors:
        overlaps = [iou(anchor, box) for box in boxes]
        best = max(range(len(boxes)), key=overlaps.__getitem__)
        top = overlaps[best]
        match.append(best if top > positive else BACKGROUND if top < negative else IGNORED)
    for i, box in enumerate(boxes):
        overlaps = [iou(anchor, box) for anchor in anchors]
        if max(overlaps) > 0:
            match[overlaps.index(max(overlaps))] = i
    return match


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("positive", "negative"), [(0.5, 0.3), (0.3, 0.1)])
def test_matching_by_iou_against_loops(grid, seed, positive, negative):
    boxes = random_boxes(4, seed)
    wanted = match_iou_by_hand(grid.tolist(), boxes.tolist(), positive, negative)
    assert match_iou(grid, boxes, positive, negative).tolist() == wanted
    assert {0, 1, 2, 3, BACKGROUND, IGNORED} == set(wanted)


def match_atss_by_hand(anchors, boxes, sizes, candidates):
    centres = [[(a[i] + a[i + 3]) / 2 for i in range(3)] for a in anchors]
    match, best = [BACKGROUND] * len(anchors), [0.0] * len(anchors)
    for k, box in enumerate(boxes):
        middle = [(box[i] + box[i + 3]) / 2 for i in range(3)]
        sides = [max(box[i + 3] - box[i], 1) for i in range(3)]
        away = [sum(((c[i] - middle[i]) / sides[i]) ** 2 for i in range(3)) for c in centres]
        # The anchors of one position are as far away as each other, so all of them are in or none.
        near = sorted(range(len(anchors)), key=away.__getitem__)[: candidates * sizes]
        overlaps = np.array([iou(anchors[i], box) for i in near])
        threshold = overlaps.mean() + overlaps.std()
        for i, overlap in zip(near, overlaps, strict=True):
            inside = all(box[axis] < centres[i][axis] < box[axis + 3] for axis in range(3))
            if ((overlap >= threshold and inside) or overlap == overlaps.max()) and overlap > best[i]:
                match[i], best[i] = k, overlap
    return match


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [1, 2])
@pytest.mark.parametrize("candidates", [8, 27, 10_000])
def test_adaptive_matching_against_loops(grid, seed, sizes, candidates):
    anchors, boxes = grid if sizes == 2 else grid[::2], random_boxes(4, seed)
    wanted = match_atss_by_hand(anchors.tolist(), boxes.tolist(), sizes, candidates)
    assert match_atss(anchors, boxes, sizes, candidates=candidates).tolist() == wanted
    assert {0, 1, 2, 3, BACKGROUND} >= set(wanted) > {BACKGROUND}


@pytest.mark.parametrize("match", [match_iou, match_atss])
def test_every_cell_has_an_anchor_however_badly_it_fits(grid, match):
    boxes = torch.tensor([[7.0, 7, 7, 8, 8, 8], [0, 0, 0, 16, 24, 24], [2, 12, 2, 14, 13, 22]])
    assert set(range(3)) <= set(match(grid, boxes).tolist())


@pytest.mark.parametrize("match", [match_iou, match_atss])
def test_without_boxes_all_is_background(grid, match):
    found = match(grid, torch.zeros(0, 6))
    assert found.dtype == torch.long and found.tolist() == [BACKGROUND] * len(grid)


# Sampling


@pytest.mark.parametrize(
    ("positives", "negatives", "chosen"),
    [(100, 1000, (32, 32)), (10, 1000, (10, 54)), (100, 5, (32, 5)), (0, 1000, (0, 64)), (0, 0, (0, 0))],
)
def test_sampling_keeps_the_share_and_the_limit(positives, negatives, chosen):
    match = torch.tensor([3] * positives + [BACKGROUND] * negatives + [IGNORED] * 50)
    match = match[torch.randperm(len(match), generator=torch.Generator().manual_seed(0))]
    found = sample_anchors(match, 64, 0.5)
    counts = tuple(int((found & kind).sum()) for kind in (match >= 0, match == BACKGROUND))
    assert counts == chosen and found.sum() == sum(chosen)


def test_sampling_is_random_and_repeatable():
    match = torch.full((500,), BACKGROUND)
    draw = [sample_anchors(match, 50, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
