"""3D boxes as `(z0, y0, x0, z1, y1, x1)`: half-open, float, in voxels. Everything here is plain torch, any device."""

import torch


def box_volume(boxes: torch.Tensor) -> torch.Tensor:
    """Volume of each box, `(..., 6) -> (...)`, in voxels; an inverted box has volume 0."""
    return (boxes[..., 3:] - boxes[..., :3]).clamp(min=0).prod(-1)


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of every box of `a` (n, 6) with every box of `b` (m, 6) -> (n, m) in [0, 1].

    Two boxes of zero volume have IoU 0. The memory is n * m * 3 values: keep m to the boxes of one crop.
    """
    overlap = torch.minimum(a[:, None, 3:], b[None, :, 3:]) - torch.maximum(a[:, None, :3], b[None, :, :3])
    overlap = overlap.clamp(min=0).prod(-1)
    union = box_volume(a)[:, None] + box_volume(b)[None] - overlap
    return overlap / union.clamp(min=1e-12)


def cluster(
    boxes: torch.Tensor, scores: torch.Tensor, kept: torch.Tensor, overlap: float = 0.5
) -> torch.Tensor:
    """Each kept box (k,), an index into `boxes` (n, 6), averaged with all boxes that overlap it: (k, 6).

    Weights are score * IoU of the boxes with IoU above `overlap`: weighted box clustering (Jaeger et al. 2018), which
    uses what non-maximum suppression throws away. The best box alone is one guess, its neighbours are others.
    """
    if len(kept) > 256:  # bounds the memory: the table of IoUs has a row for each
        return torch.cat([cluster(boxes, scores, part, overlap) for part in kept.split(256)])
    iou = box_iou(boxes[kept], boxes)
    weight = torch.where(iou > overlap, iou * scores, 0.0)
    # No matrix product: under autocast that would round the corners to bfloat16.
    return (weight[..., None] * boxes).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-12)


def paired_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of box i of `a` with box i of `b`, both (n, 6) -> (n,)."""
    overlap = torch.minimum(a[:, 3:], b[:, 3:]) - torch.maximum(a[:, :3], b[:, :3])
    overlap = overlap.clamp(min=0).prod(-1)
    return overlap / (box_volume(a) + box_volume(b) - overlap).clamp(min=1e-6)


def encode(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Box code t of each box relative to its anchor, both (n, 6) -> (n, 6).

    Three centre offsets in units of the anchor's sides, then three log size ratios: the 3D form of the code of
    Faster R-CNN (Ren et al. 2015), which the paper takes over. Reconstructed: the paper does not print it.
    """
    anchor_size = anchors[..., 3:] - anchors[..., :3]
    box_size = (boxes[..., 3:] - boxes[..., :3]).clamp(min=1e-3)
    offset = (boxes[..., :3] + boxes[..., 3:] - anchors[..., :3] - anchors[..., 3:]) / 2
    return torch.cat([offset / anchor_size, torch.log(box_size / anchor_size)], -1)


def decode(anchors: torch.Tensor, code: torch.Tensor, max_log_ratio: float = 2.5) -> torch.Tensor:
    """The inverse of `encode`: anchors (n, 6) and code (n, 6) -> boxes (n, 6).

    Log size ratios are limited to +-`max_log_ratio` (12 times), so that an untrained network cannot overflow.
    """
    anchor_size = anchors[..., 3:] - anchors[..., :3]
    centre = (anchors[..., :3] + anchors[..., 3:]) / 2 + code[..., :3] * anchor_size
    half = anchor_size * torch.exp(code[..., 3:].clamp(-max_log_ratio, max_log_ratio)) / 2
    return torch.cat([centre - half, centre + half], -1)


def clip_boxes(boxes: torch.Tensor, shape) -> torch.Tensor:
    """Boxes (n, 6) cut at the borders of a volume of `shape` (D, H, W)."""
    size = boxes.new_tensor(tuple(shape) * 2)
    return torch.minimum(boxes.clamp(min=0), size)


def enlarge(boxes, share: float):
    """Boxes (n, 6), a tensor or an array, with every side longer by `share`, about the same centre."""
    grow = (boxes[:, 3:] - boxes[:, :3]) * (share / 2)
    larger = boxes + 0
    larger[:, :3] -= grow
    larger[:, 3:] += grow
    return larger


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first.

    Boxes (n, 6), scores (n,). The best box stays, all that overlap it with IoU > `threshold` go, and so on. Equal
    scores keep their order, so the result does not depend on the device.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes = boxes[order]
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    kept = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        rest = torch.nonzero(alive[i + 1 :]).flatten() + i + 1
        alive[rest[box_iou(boxes[i : i + 1], boxes[rest])[0] > threshold]] = False
    return order[torch.tensor(kept, dtype=torch.long, device=boxes.device)]


def diou_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - DIoU of paired boxes (n, 6) -> (n,): 1 - IoU + (centre distance / diagonal of the enclosing box)^2.

    Zheng et al., AAAI 2020 (doi 10.1609/aaai.v34i07.6999), one axis more. Unlike smooth L1 on the box code it weighs
    an error by what it costs in overlap, and it still has a gradient for boxes that do not touch.
    """
    distance = (predicted[:, :3] + predicted[:, 3:] - target[:, :3] - target[:, 3:]) / 2
    hull = torch.maximum(predicted[:, 3:], target[:, 3:]) - torch.minimum(predicted[:, :3], target[:, :3])
    return (
        1 - paired_iou(predicted, target) + distance.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-6)
    )
