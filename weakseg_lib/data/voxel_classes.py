"""What VoxResNet learns from: the class of every voxel, and crops of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import find_boundaries

from weakseg_lib.data.crops import CropSampler, cut_block
from weakseg_lib.data.files import atomic_path
from weakseg_lib.data.prepare import compress

BACKGROUND, CELL, BOUNDARY = 0, 1, 2
LABELS, CLASSES = "labels.npy", "classes.npy"


def voxel_classes(labels: np.ndarray, voxel_size, border_um: float) -> np.ndarray:
    """Background 0, cell 1, boundary 2 (D, H, W) uint8, from labels (D, H, W).

    Boundary is what lies in an instance within `border_um` of its outside (0.5 um is a published precedent; the
    paper does not say), and its outermost voxels in any case: without them neighbours would be one component.
    """
    classes = (labels > 0).astype(np.uint8) * CELL
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        # A voxel of margin: what lies beyond the box is outside, but what lies beyond the stack is not known to be.
        wide = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        mine = labels[wide] == i
        depth = ndimage.distance_transform_edt(mine, voxel_size)
        outer = find_boundaries(mine, mode="inner")
        classes[wide][mine & ((depth <= border_um) | outer)] = BOUNDARY
    return classes


def resample_labels(labels: np.ndarray, shape) -> np.ndarray:
    """Labels of another `shape`: each voxel takes the label at its centre."""
    at = [
        np.minimum(((np.arange(n) + 0.5) * old / n).astype(int), old - 1)
        for n, old in zip(shape, labels.shape, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*at)])


def prepare_classes(labels: np.ndarray, shape, voxel_size, border_um: float, folder: Path):
    """Write labels (full resolution) and their voxel classes, both at the working `shape`, beside a PreparedStack."""
    small = resample_labels(labels, shape)
    # Numbered from 1: an id of 2e9, which a file may have, would ask for a list as long.
    small = np.unique(np.append(small, 0), return_inverse=True)[1][:-1].reshape(small.shape).astype(np.int32)
    for name, volume in ((LABELS, small), (CLASSES, voxel_classes(small, voxel_size, border_um))):
        with atomic_path(folder / name) as path:
            np.save(path, volume)


@dataclass
class DenseBatch:
    """images (N, 1, D, H, W) float32 and the class of each of their voxels (N, D, H, W) int64."""

    images: torch.Tensor
    voxel_classes: torch.Tensor

    def to(self, device) -> "DenseBatch":
        return DenseBatch(self.images.to(device), self.voxel_classes.to(device))


class DenseSampler(CropSampler):
    """The crops of `CropSampler`, cut, varied and turned alike, with the class of every voxel."""

    def batch(self, step: int) -> DenseBatch:
        images, classes = zip(*self._cut_share(step, self._dense_crop), strict=True)
        return DenseBatch(torch.stack(images), torch.stack(classes))

    def _dense_crop(self, stack, rng, mine: bool):
        known = stack.known()
        voxels, corner, cut = self.window(stack, known, rng, mine)
        classes = cut_block(np.load(stack.folder / CLASSES, mmap_mode="r"), corner, cut, np.uint8)
        classes = resample_labels(classes, voxels.shape[1:])
        both = torch.cat([compress(self.intensities(voxels, rng)), torch.from_numpy(classes)[None].float()])
        both = both.flip([int(axis) + 1 for axis in np.flatnonzero(rng.random(3) < 0.5)])
        if self.config.crop[1] == self.config.crop[2] and rng.random() < 0.5:
            both = both.transpose(2, 3)
        return both[:1], both[1].long()
