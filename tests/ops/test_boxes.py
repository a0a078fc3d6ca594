import itertools
import math

import numpy as np
import pytest
import torch

from weakseg_lib.ops.boxes import (
    box_iou,
    box_volume,
    clip_boxes,
    cluster,
    decode,
    diou_loss,
    encode,
    enlarge,
    nms,
    paired_iou,
)

DEGENERATE = torch.tensor(
    [
        [2.0, 2, 2, 2, 5, 5],  # no extent along z
        [3, 3, 3, 3, 3, 3],  # a point
        [5, 1, 1, 2, 4, 4],  # inverted
    ]
)


def random_boxes(n, seed, size=10.0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, size, (n, 3))
    return torch.tensor(np.concatenate([low, low + rng.uniform(0.5, size, (n, 3))], 1), dtype=dtype)


def iou_by_hand(a, b):
    """IoU of two boxes, axis by axis in plain Python."""
    common = volume_a = volume_b = 1.0
    for axis in range(3):
        common *= max(0.0, min(a[axis + 3], b[axis + 3]) - max(a[axis], b[axis]))
        volume_a *= max(0.0, a[axis + 3] - a[axis])
        volume_b *= max(0.0, b[axis + 3] - b[axis])
    union = volume_a + volume_b - common
    return common / union if union > 0 else 0.0


def nms_by_hand(boxes, scores, threshold):
    waiting = sorted(range(len(boxes)), key=lambda i: -scores[i])  # sorted keeps the order of equal scores
    kept = []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [i for i in waiting if iou_by_hand(boxes[best], boxes[i]) <= threshold]
    return kept


def test_iou_of_whole_voxels_counts_voxels():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 6, (8, 3))
    boxes = np.concatenate([low, low + rng.integers(1, 6, (8, 3))], 1)
    filled = np.zeros((8, 12, 12, 12), bool)
    for mask, box in zip(filled, boxes, strict=True):
        mask[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] = True
    counted = [[(a & b).sum() / (a | b).sum() for b in filled] for a in filled]
    found = box_iou(torch.tensor(boxes).double(), torch.tensor(boxes).double())
    # Both are quotients of the same integers.
    np.testing.assert_array_equal(found.numpy(), counted)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)]
)  # a few roundings
def test_iou_against_a_loop(dtype, tolerance):
    a, b = random_boxes(20, 1, dtype=dtype), random_boxes(15, 2, dtype=dtype)
    wanted = [[iou_by_hand(p, q) for q in b.tolist()] for p in a.tolist()]
    found = box_iou(a, b)
    assert found.shape == (20, 15) and 0 < found.max() < 1
    np.testing.assert_allclose(found, wanted, atol=tolerance)
    np.testing.assert_allclose(paired_iou(a[:15], b), found.diagonal(), atol=tolerance)


def test_boxes_without_volume_overlap_nothing():
    boxes = torch.cat([DEGENERATE, torch.tensor([[0.0, 0, 0, 6, 6, 6]])])
    assert box_volume(boxes).tolist() == [0, 0, 0, 216]
    iou = box_iou(boxes, boxes)
    assert iou[3, 3] == 1 and iou[:3].abs().max() == 0 and iou[:, :3].abs().max() == 0


def test_no_boxes():
    none, some = torch.zeros(0, 6), torch.tensor([[0.0, 0, 0, 1, 1, 1]])
    assert box_iou(none, some).shape == (0, 1) and box_iou(some, none).shape == (1, 0)
    assert nms(none, torch.zeros(0), 0.5).tolist() == []
    assert encode(none, none).shape == decode(none, none).shape == (0, 6)
    assert diou_loss(none, none).shape == (0,)


def test_a_box_code_worked_out_by_hand():
    anchor = torch.tensor([[0.0, 0, 0, 4, 8, 8]])
    box = torch.tensor([[1.0, 2, -6, 5, 10, 10]])  # centre (3, 6, 2), sides (4, 8, 16)
    code = encode(anchor, box)
    wanted = [1 / 4, 2 / 8, -2 / 8, 0, 0, math.log(2)]
    np.testing.assert_allclose(code[0], wanted, atol=1e-7)  # float32 roundings of numbers below 1


def test_decoding_is_the_inverse_of_encoding():
    anchors, boxes = random_boxes(50, 3), random_boxes(50, 4)
    # The last digit of float64 at coordinates of 20, a few operations.
    np.testing.assert_allclose(decode(anchors, encode(anchors, boxes), 10.0), boxes, atol=1e-13)


def test_an_untrained_code_cannot_overflow():
    anchors = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
    boxes = decode(anchors, torch.tensor([[0.0, 0, 0, 1000, -1000, 0]]))
    sides = (boxes[:, 3:] - boxes[:, :3])[0]
    np.testing.assert_allclose(sides, [4 * math.exp(2.5), 4 * math.exp(-2.5), 4], rtol=1e-6)  # float32
    assert torch.isfinite(encode(anchors, DEGENERATE)).all()


def test_clipping_cuts_at_the_borders_and_leaves_the_argument():
    boxes = torch.tensor([[-3.0, 1, 2, 4, 50, 6], [1, 2, 3, 4, 5, 6], [20, 20, 20, 30, 30, 30]])
    before = boxes.clone()
    clipped = clip_boxes(boxes, (10, 20, 30))
    assert clipped.tolist() == [[0, 1, 2, 4, 20, 6], [1, 2, 3, 4, 5, 6], [10, 20, 20, 10, 20, 30]]
    assert torch.equal(boxes, before)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_suppression_against_a_loop(threshold, seed):
    boxes = random_boxes(60, seed)
    # Only ten different scores, so that the order of equal ones matters.
    scores = torch.tensor(np.random.default_rng(seed).integers(0, 10, 60) / 10)
    assert nms(boxes, scores, threshold).tolist() == nms_by_hand(boxes.tolist(), scores.tolist(), threshold)


def test_what_suppression_promises():
    boxes, scores = random_boxes(80, 5), torch.linspace(1, 0, 80)
    kept = nms(boxes, scores, 0.2)
    assert 1 < len(kept) < 80
    inside = box_iou(boxes[kept], boxes[kept])
    assert all(inside[i, j] <= 0.2 for i, j in itertools.combinations(range(len(kept)), 2))
    gone = sorted(set(range(80)) - set(kept.tolist()))
    for i in gone:  # each for a better box that stayed
        better = [k for k in kept.tolist() if scores[k] > scores[i]]
        assert box_iou(boxes[i : i + 1], boxes[better]).max() > 0.2


def cluster_by_hand(boxes, scores, kept, overlap):
    averaged = []
    for k in kept:
        near = [(iou_by_hand(boxes[k], box), box, score) for box, score in zip(boxes, scores, strict=True)]
        near = [(iou * score, box) for iou, box, score in near if iou > overlap]
        total = sum(weight for weight, _ in near)
        averaged.append([sum(weight * box[i] for weight, box in near) / total for i in range(6)])
    return averaged


@pytest.mark.parametrize("overlap", [0.2, 0.5])
def test_clustering_against_a_loop(overlap):
    boxes, scores = random_boxes(60, 8, size=6.0), torch.linspace(1, 0.1, 60, dtype=torch.float64)
    kept = nms(boxes, scores, 0.4)
    found = cluster(boxes, scores, kept, overlap)
    wanted = cluster_by_hand(boxes.tolist(), scores.tolist(), kept.tolist(), overlap)
    np.testing.assert_allclose(found, wanted, atol=1e-13)  # a few roundings of float64
    assert (found != boxes[kept]).any()


def test_clustering_keeps_full_precision_where_networks_do_not():
    """Prediction runs under autocast, in which a matrix product of float32 is one of bfloat16: steps of a voxel."""
    boxes = torch.tensor([[3.3, 101.7, 201.3, 20.1, 130.2, 222.7]])
    with torch.autocast("cpu", torch.bfloat16):
        found = cluster(boxes, torch.ones(1), torch.tensor([0]))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, boxes, atol=1e-4)  # float32 at 200


def test_enlarging_keeps_the_centre_and_takes_tensors_and_arrays():
    boxes = random_boxes(5, 9)
    before = boxes.clone()
    for kind in (boxes, boxes.numpy()):
        larger = enlarge(kind, 0.3)
        assert type(larger) is type(kind)
        np.testing.assert_allclose(larger[:, :3] + larger[:, 3:], before[:, :3] + before[:, 3:], atol=1e-13)
        np.testing.assert_allclose(
            larger[:, 3:] - larger[:, :3], 1.3 * (before[:, 3:] - before[:, :3]), atol=1e-13
        )
    assert torch.equal(boxes, before) and torch.equal(enlarge(boxes, 0.0), boxes)


def diou_by_hand(a, b):
    centres = [(a[i] + a[i + 3] - b[i] - b[i + 3]) / 2 for i in range(3)]
    hull = [max(a[i + 3], b[i + 3]) - min(a[i], b[i]) for i in range(3)]
    return 1 - iou_by_hand(a, b) + sum(c * c for c in centres) / sum(h * h for h in hull)


def test_diou_loss_against_a_loop():
    a, b = random_boxes(30, 6), random_boxes(30, 7)
    wanted = [diou_by_hand(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(diou_loss(a, b), wanted, atol=1e-13)  # a few roundings of float64
    np.testing.assert_allclose(diou_loss(a, a), 0, atol=1e-13)


def test_diou_loss_pulls_boxes_that_do_not_touch():
    box = torch.tensor([[20.0, 20, 20, 24, 24, 24]], requires_grad=True)
    loss = diou_loss(box, torch.tensor([[0.0, 0, 0, 4, 4, 4]]))
    assert loss.item() > 1
    loss.sum().backward()
    assert (
        box.grad[0, :3] + box.grad[0, 3:] > 0
    ).all()  # a step against the gradient goes towards the target


def test_diou_gradient_is_finite_for_boxes_without_volume():
    boxes = DEGENERATE.clone().requires_grad_()
    diou_loss(boxes, DEGENERATE.flip(0)).sum().backward()
    assert torch.isfinite(boxes.grad).all()
