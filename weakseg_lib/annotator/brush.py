"""What is painted: the pixels of a stroke, and the slices between painted ones."""

from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt


def stroke(points, radius, spacing, low, high):
    """Return which pixels of a rectangle lie within `radius` um of a line.

    points: (n, 2) of the line, in pixels, where pixel i reaches from i to i + 1. spacing: um a pixel, of both axes.
    low, high: the rectangle, pixels (row, column), half-open. The pixels that the line crosses are always among them.
    Returns a part of the rectangle with all those pixels, (h, w) bool, and where it begins, (row, column).
    """
    reach = np.ceil(radius / spacing).astype(int)
    # Of a line that goes on for miles only what can reach the rectangle is drawn.
    ends = zip(points, [*points[1:], points[-1]], strict=True)  # the last is a dot: a line may be one alone
    line = [_samples(a, b, low - reach, high + reach) for a, b in ends]
    pixels = np.floor(np.concatenate(line)).astype(int)
    if not len(pixels):
        return np.zeros((0, 0), bool), low.tolist()
    corner = pixels.min(0) - reach
    away = np.ones(pixels.max(0) + reach - corner + 1, bool)
    away[tuple((pixels - corner).T)] = False
    near = distance_transform_edt(away, sampling=spacing) <= radius
    first, last = np.maximum(corner, low), np.minimum(corner + near.shape, high)
    (top, left), (bottom, right) = first - corner, last - corner
    return near[top:bottom, left:right], first.tolist()


def _samples(a, b, low, high):
    """Points from a to b, at most a pixel apart: those of them between `low` and `high`, (n, 2)."""
    steps = max(np.ceil(np.abs(b - a).max()), 1)
    along = np.where(a == b, 1e-200, b - a)  # an edge that it runs beside is met nowhere near
    ends = np.sort([(low - a) / along, (high - a) / along], axis=0)
    first, last = max(ends[0].max(), 0), min(ends[1].min(), 1)
    if first > last:
        return np.empty((0, 2))
    return a + (b - a) * (np.arange(np.ceil(first * steps), np.floor(last * steps) + 1) / steps)[:, None]


def between_slices(mask, spacing):
    """Return what lies between the painted slices of a mask, (D, H, W) bool; None where there are no empty ones.

    spacing: (y, x) um. The signed distance to the outline is interpolated linearly along z between each two painted
    slices (Raya and Udupa, IEEE Transactions on Medical Imaging 9, 1990).
    """
    painted = np.flatnonzero(mask.any((1, 2))).tolist()
    gaps = [(a, b) for a, b in pairwise(painted) if b - a > 1]
    if not gaps:
        return None
    distance = {z: _signed_distance(mask[z], spacing) for gap in gaps for z in gap}
    new = np.zeros_like(mask)
    for a, b in gaps:
        for z in range(a + 1, b):
            new[z] = (b - z) * distance[a] + (z - a) * distance[b] > 0
    return new


def _signed_distance(mask, spacing):
    """Distance to the outline in um, positive inside."""
    inside, outside = (
        # A frame of background: a mask that fills the box has an outline too.
        distance_transform_edt(np.pad(m, 1, constant_values=border), sampling=spacing)[1:-1, 1:-1]
        for m, border in ((mask, False), (~mask, True))
    )
    return inside - outside
