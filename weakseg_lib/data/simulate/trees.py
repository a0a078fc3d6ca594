"""Cells that are trees: a soma with branching processes, drawn as labels and light. Lengths in um, (z, y, x).

A process is a chain of balls along its skeleton. Thin ones are finer than a voxel, and a voxel grid would tear
them. So in labels a process has at least half a voxel's diagonal as its radius: every ball then holds the voxel
that its middle is in, and these follow each other without a gap (26-connected). The light isn't thickened: it
is spread over the thicker process, so that a thin process is dim.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

AT_ONCE = 2**21  # distances computed in one go: about 100 MB


@dataclass(frozen=True)
class Tree:
    """The skeleton of one cell. Point 0 is the middle of the soma, and its own parent."""

    points: np.ndarray  # (n, 3) um
    radii: np.ndarray  # (n,) um
    parents: np.ndarray  # (n,) index of the point before, towards the soma

    def balls(self, step) -> tuple[np.ndarray, np.ndarray]:
        """Centres (m, 3) and radii (m,) of balls along the skeleton, at most `step` um apart.

        The radius goes evenly from point to point; only a process that leaves the soma has its own at once.
        """
        before = self.parents[1:]
        way = self.points[1:] - self.points[before]
        first = np.where(before == 0, self.radii[1:], self.radii[before])
        count = np.maximum(np.ceil(np.linalg.norm(way, axis=1) / step).astype(int), 1)
        piece = np.repeat(np.arange(len(way)), count)
        share = (np.arange(len(piece)) - (np.cumsum(count) - count)[piece] + 1) / count[piece]
        centres = self.points[before][piece] + share[:, None] * way[piece]
        radii = first[piece] + share * (self.radii[1:] - first)[piece]
        return np.concatenate([self.points[:1], centres]), np.append(self.radii[:1], radii)


def draw_trees(trees, brightness, shape, voxel_size) -> tuple[np.ndarray, np.ndarray]:
    """Light (float32; `brightness` inside a thick part) and labels (int32) of cells, both (D, H, W).

    trees: cells with the soma in the stack; cell k (from 0) gets label k + 1. brightness: one number a cell.
    Where cells meet, a voxel goes to the one it lies deeper in. What a neighbour or the border has cut off
    from its soma is removed, light and label, so that each label is one piece.
    """
    light, labels = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    deepest = np.full(shape, np.inf, np.float32)
    for i, (tree, bright) in enumerate(zip(trees, brightness, strict=True), start=1):
        box, depth, filled = _draw_one(tree, shape, np.array(voxel_size))
        mine = depth < deepest[box]
        deepest[box][mine] = depth[mine]
        labels[box][mine] = i
        light[box][mine] = bright * filled[mine]
    somas = [tuple((tree.points[0] // voxel_size).astype(int)) for tree in trees]
    for i, box in enumerate(ndimage.find_objects(labels, len(trees)), start=1):
        if box:
            pieces = ndimage.label(labels[box] == i, np.ones((3, 3, 3)))[0]
            inside = tuple(at - side.start for at, side in zip(somas[i - 1], box, strict=True))
            loose = (pieces > 0) & (pieces != pieces[inside])
            labels[box][loose] = light[box][loose] = 0
    return light, labels


def _draw_one(tree, shape, voxel):
    """The box (slices) around a cell, and in it: depth (um, <= 0 inside, else inf) and the share of light."""
    centres, radii = tree.balls(voxel.min())  # so the next is in the same voxel or in one beside it
    thick = np.maximum(radii, np.linalg.norm(voxel) / 2)
    filled = (radii / thick) ** 2  # a cross-section's share
    half = np.ceil(thick[:, None] / voxel).astype(int)  # of the window around a ball, voxels
    at = np.floor(centres / voxel).astype(int)
    seen = ((at + half >= 0) & (at - half < shape)).all(1)
    centres, thick, filled, half, at = (values[seen] for values in (centres, thick, filled, half, at))
    low, high = (at - half).min(0).clip(0), (at + half + 1).max(0).clip(None, shape)
    depth, share = np.full(high - low, np.inf, np.float32), np.zeros(high - low, np.float32)
    for size in np.unique(half, axis=0):
        window = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in size), indexing="ij"), -1).reshape(
            -1, 3
        )
        same = np.flatnonzero((half == size).all(1))
        for some in np.array_split(same, len(same) * len(window) // AT_ONCE + 1):
            where = at[some, None] + window
            gap = np.linalg.norm((where + 0.5) * voxel - centres[some, None], axis=-1) - thick[some, None]
            hit = (gap <= 0) & ((where >= low) & (where < high)).all(-1)
            flat = np.ravel_multi_index((where[hit] - low).T, depth.shape)
            np.minimum.at(depth.reshape(-1), flat, gap[hit].astype(np.float32))
            lit = np.broadcast_to(filled[some, None], hit.shape)[hit].astype(np.float32)
            np.maximum.at(share.reshape(-1), flat, lit)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), depth, share
