"""What is painted: the pixels of a stroke, and the slices between painted ones."""

from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt


def stroke(points, radius, spacing):
    """Return the pixels within `radius` um of a line: (h, w) bool, and the pixel (row, column) of their corner [0, 0].

    points: (n, 2) of the line, in pixels, where pixel i reaches from i to i + 1. spacing: um a pixel, of both axes.
    The pixels that the line crosses are always among them.
    """
    line = [points[:1]]
    for a, b in pairwise(points):
        steps = int(np.ceil(np.abs(b - a).max())) + 1
        line.append(a + (b - a) * np.linspace(0, 1, steps)[:, None])
    pixels = np.floor(np.concatenate(line)).astype(int)
    reach = np.ceil(radius / spacing).astype(int)
    corner = pixels.min(0) - reach
    away = np.ones(pixels.max(0) + reach - corner + 1, bool)
    away[tuple((pixels - corner).T)] = False
    return distance_transform_edt(away, sampling=spacing) <= radius, corner.tolist()


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
