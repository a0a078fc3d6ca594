"""Measures of detection and segmentation on arrays: no files, no torch, one small function each.

Every measure returns counts (weakseg_lib.counts), so that stacks are pooled by adding.

Boxes are (z0, y0, x0, z1, y1, x1), half-open, float voxels. Labels are integer volumes (D, H, W), 0 is
background, one id per instance in any order and with any gaps. Which id an instance has never influences a
measure; classes are not compared.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from weakseg_lib.counts import DetCounts, Matches, SegCounts, VoxelOverlap
from weakseg_lib.data.annotation import boxes_of_labels


@dataclass(frozen=True)
class Overlaps:
    """How P predicted and T true instances share voxels.

    `shared` (P, T) counts the common voxels of every pair; ids (in rising order) and sizes (in voxels) are
    (P,) and (T,). All are integer arrays.
    """

    predicted_ids: np.ndarray
    predicted_sizes: np.ndarray
    true_ids: np.ndarray
    true_sizes: np.ndarray
    shared: np.ndarray = field(repr=False)

    @property
    def iou(self):
        """(P, T) float: mask IoU of every predicted with every true instance."""
        return self.shared / (self.predicted_sizes[:, None] + self.true_sizes - self.shared)


def count_overlaps(predicted, true):
    """Count the voxels shared by every pair of instances: every mask measure starts from this table.

    predicted, true: integer labels of one shape. Returns Overlaps. Raises ValueError if the shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted labels {predicted.shape} and true labels {true.shape} differ in shape")
    predicted_ids, predicted_sizes = np.unique(predicted[predicted != 0], return_counts=True)
    true_ids, true_sizes = np.unique(true[true != 0], return_counts=True)
    # Only voxels that are foreground in both can be shared; in most stacks that leaves little work.
    both = (predicted != 0) & (true != 0)
    row = np.searchsorted(predicted_ids, predicted[both])
    column = np.searchsorted(true_ids, true[both])
    shape = len(predicted_ids), len(true_ids)
    shared = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    return Overlaps(predicted_ids, predicted_sizes, true_ids, true_sizes, shared)


def box_iou(first, second):
    """IoU of every box of `first` (N, 6) with every box of `second` (M, 6), as (N, M) float64."""
    first, second = as_boxes(first)[:, None], as_boxes(second)[None]
    low = np.maximum(first[..., :3], second[..., :3])
    high = np.minimum(first[..., 3:], second[..., 3:])
    shared = np.clip(high - low, 0, None).prod(-1)
    union = (first[..., 3:] - first[..., :3]).prod(-1) + (second[..., 3:] - second[..., :3]).prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match_one_to_one(score, allowed):
    """Choose pairs, each row and column at most once: as many allowed pairs as can be, and of those the best.

    score: (N, M) in 0..1, higher is better; allowed: (N, M) bool. Returns index arrays (rows, columns).
    """
    # All scores of a matching together weigh less than one more pair.
    worth = np.where(allowed, 1 + score / (min(score.shape) + 1), 0.0)
    row, column = linear_sum_assignment(worth, maximize=True)
    chosen = allowed[row, column]
    return row[chosen], column[chosen]


def match_boxes(predicted, true, iou=0.4):
    """Match predicted (P, 6) and true (T, 6) boxes one-to-one where their IoU is larger than `iou`.

    Finds the largest possible number of pairs. Returns (pairs (m, 2) of indices, their IoUs (m,)).
    The threshold is the paper's (section 3); that a true box is used only once is design section 7.
    """
    overlap = box_iou(predicted, true)
    row, column = match_one_to_one(overlap, overlap > iou)
    return np.stack([row, column], axis=1), overlap[row, column]


def detection(predicted, true, iou=0.4):
    """Detection of true boxes (T, 6) by predicted boxes (P, 6) at IoU > `iou` (paper, section 3): Matches."""
    pairs, ious = match_boxes(predicted, true, iou)
    return Matches(len(pairs), len(as_boxes(predicted)), len(as_boxes(true)), float(ious.sum()))


def segmentation(overlaps):
    """The headline: instance voxel F1, 2 sum |P and G| over pairs / (all predicted + all true foreground).

    A voxel is right only if it has the right identity. Instances are paired one-to-one such that all pairs
    together share as many voxels as possible; no least IoU is asked for. Returns VoxelOverlap.
    """
    row, column = linear_sum_assignment(overlaps.shared, maximize=True)
    right = overlaps.shared[row, column].sum()
    return VoxelOverlap(int(right), int(overlaps.predicted_sizes.sum()), int(overlaps.true_sizes.sum()))


def segmentation_union(predicted, true, predicted_boxes, true_boxes, iou=0.4):
    """Voxel F1 inside the detected boxes, identity ignored: our reading of the paper's "as in [10]".

    Right are the voxels that are foreground in both label volumes and lie inside any predicted box that
    matches a true box at IoU > `iou` (design, section 7). Returns VoxelOverlap.
    """
    pairs, _ = match_boxes(predicted_boxes, true_boxes, iou)
    inside = np.zeros(predicted.shape, bool)
    for box in as_boxes(predicted_boxes)[pairs[:, 0]]:
        inside[voxels_of_box(box)] = True
    predicted, true = predicted != 0, true != 0
    voxels = (predicted & true & inside, predicted, true)
    return VoxelOverlap(*(int(np.count_nonzero(these)) for these in voxels))


def objects(overlaps, iou=0.5):
    """Objects matched one-to-one at a mask IoU of at least `iou`, as in StarDist and COCO: Matches."""
    row, column = match_one_to_one(overlaps.iou, overlaps.iou >= iou)
    total = float(overlaps.iou[row, column].sum())
    return Matches(len(row), len(overlaps.predicted_ids), len(overlaps.true_ids), total)


def ctc_seg(overlaps):
    """Cell Tracking Challenge SEG: mean Jaccard index of the true objects, 0 for one without a match."""
    return SegCounts(float(overlaps.iou[_ctc_matches(overlaps)].sum()), len(overlaps.true_ids))


def ctc_det(overlaps):
    """Cell Tracking Challenge DET (Matula et al. 2015), for one frame. Returns DetCounts.

    A prediction that matches k > 1 true objects needs k - 1 splits; one that matches none is a false alarm.
    """
    covered = _ctc_matches(overlaps).sum(axis=1)
    misses = len(overlaps.true_ids) - int(covered.sum())
    splits = int(np.clip(covered - 1, 0, None).sum())
    return DetCounts(misses, int((covered == 0).sum()), splits, len(overlaps.true_ids))


def _ctc_matches(overlaps):
    """(P, T) bool: predicted covers more than half of true, which at most one prediction can do."""
    return 2 * overlaps.shared > overlaps.true_sizes


def markers(predicted_boxes, points, distance=5.0, spacing=(1.0, 1.0, 1.0)):
    """Match centres of predicted boxes (P, 6) one-to-one with marker points (T, 3) at most `distance` apart.

    points: index coordinates (z, y, x), where (0, 0, 0) is the centre of the first voxel. With the default
    spacing, `distance` is in voxels whatever their shape, as in the paper (section 3, 5 pixels); with the
    voxel size as spacing it is in micrometres. Returns Matches whose `total` is the sum of distances.
    """
    boxes = as_boxes(predicted_boxes)
    # In box coordinates voxel i reaches from i to i + 1, so the centre of voxel i is there i + 0.5.
    centres = (boxes[:, :3] + boxes[:, 3:]) / 2 - 0.5
    points = np.asarray(points, float).reshape(-1, 3)
    apart = np.linalg.norm((centres[:, None] - points[None]) * np.asarray(spacing, float), axis=-1)
    row, column = match_one_to_one(np.clip(1 - apart / distance, 0, 1), apart <= distance)
    return Matches(len(row), len(boxes), len(points), float(apart[row, column].sum()))


def centres_of_labels(labels):
    """Centroids of all instances in labels (D, H, W), as index coordinates (N, 3), ids in rising order."""
    voxels = np.nonzero(labels)
    _, which, sizes = np.unique(labels[voxels], return_inverse=True, return_counts=True)
    sums = [np.bincount(which, weights=axis, minlength=len(sizes)) for axis in voxels]
    return np.stack(sums, axis=1) / sizes[:, None]


@dataclass(frozen=True)
class Comparison:
    """`hits` as (predicted id, true id, IoU), `misses` as true ids, `false_alarms` as predicted ids."""

    hits: list
    misses: list
    false_alarms: list


def compare_instances(predicted, true, iou=0.4, predicted_ids=None, true_ids=None):
    """Sort instances into hits, misses and false alarms, exactly as `detection` counts them.

    predicted, true: labels (D, H, W), of which the bounding boxes are taken, or boxes (N, 6). The ids of
    boxes are 1..N unless given. Returns Comparison.
    """
    predicted_ids, predicted = _ids_and_boxes(predicted, predicted_ids)
    true_ids, true = _ids_and_boxes(true, true_ids)
    pairs, ious = match_boxes(predicted, true, iou)
    hits = [
        (int(predicted_ids[p]), int(true_ids[t]), float(i)) for (p, t), i in zip(pairs, ious, strict=True)
    ]
    misses = np.delete(true_ids, pairs[:, 1]).tolist()
    return Comparison(hits, misses, np.delete(predicted_ids, pairs[:, 0]).tolist())


def _ids_and_boxes(instances, ids):
    instances = np.asarray(instances)
    if instances.ndim == 3:
        return boxes_of_labels(instances)
    boxes = as_boxes(instances)
    return np.arange(1, len(boxes) + 1) if ids is None else np.asarray(ids), boxes


def as_boxes(boxes):
    """Boxes as (N, 6) float64, also where there are none and the list is empty."""
    return np.asarray(boxes, float).reshape(-1, 6)


def voxels_of_box(box):
    """Slices (z, y, x) of the voxels whose centres lie inside a half-open float box."""
    first, last = np.ceil(np.asarray(box, float).reshape(2, 3) - 0.5).clip(0).astype(int)
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True))
