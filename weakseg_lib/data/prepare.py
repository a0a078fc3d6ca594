"""From a stack as it was recorded to what the network sees: resampled to working voxels, normalised, kept on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from weakseg_lib.data.annotation import WeakAnnotation
from weakseg_lib.data.files import atomic_path
from weakseg_lib.data.stacks import Stack


def resampling_matrix(size_in: int, size_out: int) -> np.ndarray:
    """(size_out, size_in) float32: linear resampling of one axis that averages when it shrinks (a triangle filter).

    Voxels are cells of equal width that fill the same length before and after, so a box is resampled by multiplying
    its corners by size_out / size_in. Rows sum to 1.
    """
    scale = size_in / size_out
    width = max(scale, 1.0)
    centre = (np.arange(size_out) + 0.5) * scale - 0.5
    weight = np.clip(1 - np.abs(np.arange(size_in) - centre[:, None]) / width, 0, None)
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def resample(image: np.ndarray, shape) -> np.ndarray:
    """(D, H, W) of any real dtype -> float32 of `shape`. Plane by plane, so no full-size float copy is made."""
    wz, wy, wx = (resampling_matrix(a, b) for a, b in zip(image.shape, shape, strict=True))
    planes = np.empty((image.shape[0], shape[1], shape[2]), np.float32)
    for z, plane in enumerate(image):
        planes[z] = wy @ (plane.astype(np.float32) @ wx.T)
    return planes if image.shape[0] == shape[0] else np.tensordot(wz, planes, 1)


def to_working(image: np.ndarray, shape, smooth: float) -> np.ndarray:
    """What training and prediction start from: a stack (D, H, W) resampled to `shape`, smoothed, normalised; float32.

    Photon noise differs from voxel to voxel, cells do not. Shrinking averages it away; an axis that is not shrunk is
    smoothed by a Gaussian of `smooth` voxels instead, or a network learns the noise of its few stacks by heart.
    """
    kept = [smooth if after >= before else 0.0 for before, after in zip(image.shape, shape, strict=True)]
    return normalise(gaussian_filter(resample(image, shape), kept, truncate=3.0))


def normalise(image: np.ndarray) -> np.ndarray:
    """Background to 0 and bright structures to 1, whatever the camera's offset and gain; float32, same shape.

    Background is the 20th percentile, bright the 99.5th: cells may fill half of a stack, and single hot voxels or one
    very bright dead cell must not set the scale. An image that holds nothing above its background is only shifted.
    """
    sample = image[:: max(1, image.shape[0] // 64)]
    low, high = np.percentile(sample, (20, 99.5))
    scaled = (image - np.float32(low)) / np.float32(high - low if high > low else 1.0)
    return np.clip(scaled, -100, 1000)  # a hot voxel of a float image must not overflow half precision


def compress(image: torch.Tensor) -> torch.Tensor:
    """What the network is given for a normalised image: linear near the background, logarithmic above.

    So a dim deep nucleus and a bright shallow one differ by a step, not by a factor.
    """
    return torch.asinh(4 * image)


def mean_sides(boxes: np.ndarray, voxel_size) -> np.ndarray:
    """Geometric mean of the three sides of boxes (n, 6), in um: (n,)."""
    return np.prod((boxes[:, 3:] - boxes[:, :3]) * voxel_size, axis=1) ** (1 / 3)


def working_voxel(sides: np.ndarray, voxel_size, cell_size: float) -> tuple[float, float, float]:
    """Voxel size (z, y, x) um at which the median cell has sides of about `cell_size` voxels.

    `sides` (n, 3) of the annotated boxes in um. y and x keep their ratio. Nothing is enlarged, and an axis within a
    quarter of the wanted size is left as it is: resampling costs sharpness. cell_size 0: the voxel size as it is.
    """
    voxel_size = np.asarray(voxel_size, float)
    if not cell_size:
        return tuple(voxel_size.tolist())
    side = np.median(sides, axis=0) / voxel_size
    plane = np.sqrt(side[1] * side[2])
    shrink = np.array([side[0], plane, plane]) / cell_size
    return tuple(float(v * (s if s > 1.25 else 1.0)) for v, s in zip(voxel_size, shrink, strict=True))


def working_shape(shape, voxel_size, working) -> tuple[int, int, int]:
    """Shape (D, H, W) of a stack after resampling to the voxel size `working`; at least one voxel an axis."""
    return tuple(max(1, round(n * v / w)) for n, v, w in zip(shape, voxel_size, working, strict=True))


@dataclass(frozen=True)
class PreparedStack:
    """A training stack on disk, read piece by piece, so that memory does not grow with their number.

    image.npy: normalised, working voxels, float16. known.npz: boxes (n, 6) in working voxels, classes,
    has_mask, taught, scale (3,) = working voxels per voxel of the stack, and for every masked instance i its
    mask at the stack's full resolution, one voxel of border around it (mask_i, uint8) and that crop's corner
    (origin_i).
    """

    folder: Path

    def image(self) -> np.ndarray:
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def boxes(self) -> np.ndarray:
        with np.load(self.folder / "known.npz") as file:
            return file["boxes"]

    def known(self) -> dict:
        with np.load(self.folder / "known.npz") as file:
            return dict(file)


def prepare(
    stack: Stack,
    annotation: WeakAnnotation,
    working,
    folder: Path,
    smallest: float = 0.0,
    smooth: float = 0.0,
) -> PreparedStack:
    """Write `stack` and its weak annotation, resampled to the voxel size `working`, into `folder`.

    `smooth`: as in `to_working`. Boxes whose mean side is below `smallest` um are marked as not to be taught:
    neither cell nor background.
    """
    shape = working_shape(stack.image.shape, stack.voxel_size, working)
    scale = np.array(shape) / stack.image.shape
    with atomic_path(folder / "image.npy") as path:
        np.save(path, to_working(stack.image, shape, smooth).astype(np.float16))
    known = {
        "boxes": (annotation.boxes * np.tile(scale, 2)).astype(np.float32),
        "classes": annotation.classes,
        "has_mask": annotation.has_mask,
        "taught": mean_sides(annotation.boxes, stack.voxel_size) >= smallest,
        "scale": scale.astype(np.float32),
    }
    for i in np.flatnonzero(annotation.has_mask):
        low = np.floor(annotation.boxes[i, :3]).astype(int)
        high = np.ceil(annotation.boxes[i, 3:]).astype(int)
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        known[f"mask_{i}"] = np.pad((annotation.masks[inside] == annotation.ids[i]).astype(np.uint8), 1)
        known[f"origin_{i}"] = low - 1
    with atomic_path(folder / "known.npz") as path:
        np.savez(path, **known)
    return PreparedStack(folder)
