"""Anchors in 3D: boxes of a few fixed sizes at every position of a feature map, and which of them stand for
which cell."""

import numpy as np
import torch
from scipy.cluster.vq import kmeans2

from weakseg_lib.ops.boxes import box_iou

IGNORED, BACKGROUND = -2, -1


def anchor_sizes_from_boxes(boxes: np.ndarray, n: int) -> np.ndarray:
    """`n` anchor sizes (n, 3) for annotated `boxes` (k, 6): cluster centres of the log sides, small to large.

    In the log, because a box that is twice too large is as wrong as one that is twice too small. With n = 1 this is the
    geometric mean. Fewer distinct sizes than `n` give fewer anchors.
    """
    sides = np.log(boxes[:, 3:] - boxes[:, :3])
    n = min(n, len(np.unique(sides, axis=0)))
    if n == 1:
        return np.exp(sides.mean(0, keepdims=True))
    # Each start is the size farthest from the earlier ones: it depends on the data alone, and rare sizes get theirs.
    distinct = np.unique(sides, axis=0)
    start = [sides.mean(0)]
    while len(start) <= n:
        distance = np.min([np.square(distinct - s).sum(1) for s in start], axis=0)
        start.append(distinct[distance.argmax()])
    start = np.array(start[1:])
    centres, _ = kmeans2(sides, start, minit="matrix", iter=50, missing="warn")
    return np.exp(centres[np.argsort(centres.sum(1))])


def anchor_grid(shape, stride: int, sizes, device=None) -> torch.Tensor:
    """Anchors of every position of a feature map, (D * H * W * A, 6) in voxels of the image.

    `shape` (D, H, W) of the feature map, `sizes` (A, 3). Position (i, j, k) stands for the image block that starts at
    `stride * (i, j, k)`; its anchors share that block's centre. Order: positions as in memory, sizes fastest.
    """
    axes = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) * stride for n in shape]
    centre = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 3)
    half = torch.as_tensor(np.asarray(sizes), device=device, dtype=torch.float32).reshape(1, -1, 3) / 2
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 6)


def match_iou(anchors: torch.Tensor, boxes: torch.Tensor, positive=0.5, negative=0.3) -> torch.Tensor:
    """Faster R-CNN's rule: (n, 6) anchors and (m, 6) boxes -> (n,) index of the box each anchor stands for.

    IoU above `positive`: that box; below `negative`: `BACKGROUND`; between: `IGNORED`. Every box also gets its best
    anchor, or small cells would have none. The thresholds are reconstructed: the paper does not print them.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    best, match = box_iou(anchors, boxes).max(1)
    match = torch.where(best > positive, match, torch.where(best < negative, BACKGROUND, IGNORED))
    iou = box_iou(boxes, anchors)
    top, anchor = iou.max(1)
    match[anchor[top > 0]] = torch.nonzero(top > 0).flatten()
    return match


def match_atss(
    anchors: torch.Tensor, boxes: torch.Tensor, sizes: int = 1, candidates: int = 27
) -> torch.Tensor:
    """Adaptive training sample selection (Zhang et al., CVPR 2020): same result as `match_iou`, no thresholds to set.

    For each box the anchors, of `sizes` sizes each, of the `candidates` nearest positions compete; those whose
    IoU is at least the mean plus the standard deviation of all that compete, and whose centre lies inside the
    box, are positive. So small, elongated and badly fitting cells get their share too. An anchor claimed twice
    goes to the larger IoU.
    """
    match = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    if len(boxes) == 0:
        return match
    positions = (anchors[::sizes, :3] + anchors[::sizes, 3:]) / 2
    middle = (boxes[:, :3] + boxes[:, 3:]) / 2
    # Distance in units of the box's sides: nearest for a flat cell is not nearest in voxels.
    length = (boxes[:, 3:] - boxes[:, :3]).clamp(min=1)
    distance = ((positions[None] - middle[:, None]) / length[:, None]).square().sum(-1)
    nearest = distance.topk(min(candidates, len(positions)), largest=False).indices
    best = torch.zeros(len(anchors), device=anchors.device)
    for i, box in enumerate(boxes):
        chosen = (nearest[i, :, None] * sizes + torch.arange(sizes, device=anchors.device)).flatten()
        iou = box_iou(anchors[chosen], box[None])[:, 0]
        centre = positions[nearest[i]].repeat_interleave(sizes, 0)
        inside = ((centre > box[:3]) & (centre < box[3:])).all(-1)
        positive = ((iou >= iou.mean() + iou.std(correction=0)) & inside) | (iou == iou.max())
        better = positive & (iou > best[chosen])
        match[chosen[better]] = i
        best[chosen[better]] = iou[better]
    return match


def sample_anchors(match: torch.Tensor, n: int, positive_share: float, generator=None) -> torch.Tensor:
    """Boolean (len(match),): at most `n` anchors chosen at random, at most `positive_share` of them positive.

    Against the imbalance of Eq. 1: a crop has thousands of background anchors for each cell's. Ignored ones
    never count.
    """
    chosen = torch.zeros_like(match, dtype=torch.bool)
    room = n
    for pool, most in ((match >= 0, int(n * positive_share)), (match == BACKGROUND, n)):
        index = torch.nonzero(pool).flatten()
        take = min(most, room, len(index))
        order = torch.randperm(len(index), generator=generator).to(match.device)
        chosen[index[order[:take]]] = True
        room -= take
    return chosen
