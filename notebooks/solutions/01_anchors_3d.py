"""Solutions of 01_anchors_3d."""

# %% Exercise 1
# Each length must be made 0 where it is negative, before the product: apart along two axes, both lengths are negative,
# and their product is not. Clamping the product hides this only where an odd number of axes is apart.


def iou_of_two(a, b):
    """IoU of two boxes (6,)."""
    start, end = torch.maximum(a[:3], b[:3]), torch.minimum(a[3:], b[3:])
    overlap = (end - start).clamp(min=0).prod()
    return overlap / ((a[3:] - a[:3]).prod() + (b[3:] - b[:3]).prod() - overlap)


# %% Exercise 2
# The centre moves in units of the anchor's sides, the sides change by a factor. Usual slips: shifting by voxels, adding
# the log ratio to the side, and stretching about the corner, which moves the centre, too.


def decode_boxes(anchors, code):
    """Anchors (n, 6) and codes (n, 6) -> boxes (n, 6). The inverse of ws.encode."""
    side = anchors[:, 3:] - anchors[:, :3]
    centre = (anchors[:, :3] + anchors[:, 3:]) / 2 + code[:, :3] * side
    half = side * code[:, 3:].exp() / 2
    return torch.cat([centre - half, centre + half], 1)


# %% Exercise 3
# A box stays if no box that was kept overlaps it. Comparing with all better boxes, also those that are gone, drops
# too many: a chain of neighbours would shrink to its first member.


def suppress(boxes, scores, threshold):
    """Boxes (n, 6), scores (n,) -> list of the indices kept, best score first."""
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if not kept or ws.box_iou(boxes[[i]], boxes[kept]).max() <= threshold:
            kept.append(i)
    return kept
