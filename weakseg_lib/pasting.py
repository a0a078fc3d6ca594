"""Masks of boxes put back into the stack, at its own resolution."""

import numpy as np

from weakseg_lib.ops.boxes import enlarge


def paste(found, shape, scale, margin: float = 0.0, level: float = 0.5, region=None) -> np.ndarray:
    """Labels (D, H, W) int32 of a stack of `shape`: instance i gets id i + 1 where its mask is above `level`.

    `found`: `prediction.Detections`, best score first; `scale` (3,): working voxels per voxel of the stack; `margin`:
    `Config.roi_margin` of the masks; `region`: three slices of the stack, if only the labels in these are wanted.
    Where masks overlap, the most probable one wins; a tie goes to the better score.
    """
    region = region or tuple(slice(0, n) for n in shape)
    labels = np.zeros([r.stop - r.start for r in region], np.int32)
    best = np.full(labels.shape, int(level * 255), np.uint8)
    for i, (box, mask) in enumerate(zip(found.boxes, found.masks, strict=True)):
        where, probability = enlarged_mask(box, mask, shape, scale, margin)
        cut = [(max(w.start, r.start), min(w.stop, r.stop)) for w, r in zip(where, region, strict=True)]
        if any(a >= b for a, b in cut):
            continue
        probability = probability[
            tuple(slice(a - w.start, b - w.start) for (a, b), w in zip(cut, where, strict=True))
        ]
        where = tuple(slice(a - r.start, b - r.start) for (a, b), r in zip(cut, region, strict=True))
        wins = probability > best[where]
        labels[where][wins] = i + 1
        best[where][wins] = probability[wins]
    return labels


def enlarged_mask(box, mask, shape, scale, margin: float) -> tuple[tuple[slice, ...], np.ndarray]:
    """One instance's mask on the stack's own voxels: where in a stack of `shape`, and probability * 255 (uint8) there.

    Arguments as in `paste`, for one box (6,) and its mask (M, M, M). Linear interpolation, an axis at a time.
    """
    box = enlarge(box[None], margin)[0]
    low, high = box[:3] / scale, box[3:] / scale
    first = np.minimum(np.maximum(np.floor(low), 0), shape).astype(int)
    last = np.maximum(np.minimum(np.ceil(high), shape), first).astype(int)
    grid = mask.astype(np.float32)
    for axis in range(3):
        matrix = _paste_matrix(low[axis], high[axis], first[axis], last[axis], grid.shape[axis])
        grid = np.moveaxis(np.tensordot(matrix, grid, (1, axis)), 0, axis)
    where = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    return where, np.round(grid).astype(np.uint8)


def _paste_matrix(low, high, first, last, size) -> np.ndarray:
    """(last - first, size): linear interpolation from a mask grid that fills [low, high) to the voxels first..last."""
    centre = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-6) * size - 0.5
    position = np.clip(centre, 0, size - 1)
    weight = np.clip(1 - np.abs(np.arange(size) - position[:, None]), 0, None)
    # A voxel whose centre is outside the box is outside the instance.
    return weight * ((centre >= -0.5) & (centre < size - 0.5))[:, None]
