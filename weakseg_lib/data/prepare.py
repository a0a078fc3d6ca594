"""From a stack as it was recorded to what the network sees: resampled to working voxels, normalised, kept on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from weakseg_lib.data.annotation import WeakAnnotation
from weakseg_lib.data.files import atomic_path
from weakseg_lib.data.stacks import Stack

TRUNCATE = 3.0  # where the smoothing Gaussian ends, in sigmas
# About as many planes, rows and columns set the grey scale: memory for it has a bound.
SAMPLE = (64, 768, 768)


def resampling_matrix(size_in: int, size_out: int, rows=slice(None), columns=slice(None)) -> np.ndarray:
    """(size_out, size_in) float32: linear resampling of one axis that averages when it shrinks (a triangle filter).

    Voxels are cells of equal width that fill the same length before and after, so a box is resampled by multiplying
    its corners by size_out / size_in. Rows sum to 1. `rows`, `columns`: only this part of the matrix; the columns
    must hold all that is not 0, as those of `source` do.
    """
    scale = size_in / size_out
    width = max(scale, 1.0)
    centre = (np.arange(size_out)[rows] + 0.5) * scale - 0.5
    weight = np.clip(1 - np.abs(np.arange(size_in)[columns] - centre[:, None]) / width, 0, None)
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def source(size_in: int, size_out: int, rows: slice) -> slice:
    """The voxels of an axis of `size_in` that the voxels `rows` of the resampled axis are made of."""
    scale = size_in / size_out
    width = max(scale, 1.0)
    first, last = ((i + 0.5) * scale - 0.5 for i in (rows.start, rows.stop - 1))
    return slice(max(int(np.floor(first - width)), 0), min(int(np.ceil(last + width)) + 1, size_in))


def resample(image: np.ndarray, shape) -> np.ndarray:
    """(D, H, W) of any real dtype -> float32 of `shape`. Plane by plane, so no full-size float copy is made."""
    return _multiply(image, [resampling_matrix(a, b) for a, b in zip(image.shape, shape, strict=True)])


def _multiply(image: np.ndarray, matrices) -> np.ndarray:
    wz, wy, wx = matrices
    planes = np.empty((image.shape[0], len(wy), len(wx)), np.float32)
    for z, plane in enumerate(image):
        planes[z] = wy @ (plane.astype(np.float32) @ wx.T)
    return planes if np.array_equal(wz, np.eye(*wz.shape)) else np.tensordot(wz, planes, 1)


def to_working(image: np.ndarray, shape, smooth: float) -> np.ndarray:
    """What training and prediction start from: a stack resampled to `shape`, smoothed, normalised; float32."""
    return normalise(working_region(image, shape, smooth, tuple(slice(0, n) for n in shape)))


def working_region(image, shape, smooth: float, region) -> np.ndarray:
    """A region (three slices) of a stack resampled to `shape` and smoothed, as of the whole stack; float32.

    `image` (D, H, W): an array, or what is sliced like one; only what the region needs is read.
    Photon noise differs from voxel to voxel, cells do not. Shrinking averages it away; an axis that is not shrunk is
    smoothed by a Gaussian of `smooth` voxels instead, or a network learns the noise of its few stacks by heart.
    """
    sizes = list(zip(image.shape, shape, strict=True))
    sigma = [smooth if after >= before else 0.0 for before, after in sizes]
    reach = [int(TRUNCATE * s + 0.5) for s in sigma]
    wide = [
        slice(max(r.start - k, 0), min(r.stop + k, n)) for r, k, n in zip(region, reach, shape, strict=True)
    ]
    needed = tuple(source(*size, rows) for size, rows in zip(sizes, wide, strict=True))
    parts = zip(sizes, wide, needed, strict=True)
    found = _multiply(
        image[needed], [resampling_matrix(*size, rows, columns) for size, rows, columns in parts]
    )
    inner = tuple(slice(r.start - w.start, r.stop - w.start) for r, w in zip(region, wide, strict=True))
    return gaussian_filter(found, sigma, truncate=TRUNCATE)[inner]


def sampled(shape, region=None) -> tuple[slice, ...]:
    """The voxels that set the grey scale of an image of `shape`: in the image, or in a region of it (three slices)."""
    planes, rows, columns = SAMPLE
    steps = (max(1, shape[0] // planes), -(-shape[1] // rows), -(-shape[2] // columns))
    starts = [0, 0, 0] if region is None else [r.start for r in region]
    return tuple(slice(-start % step, None, step) for start, step in zip(starts, steps, strict=True))


def grey_levels(sample: np.ndarray):
    """Background, the 20th percentile of an image's `sample`, and bright structures, the 99.5th.

    Cells may fill half of a stack, and single hot voxels or one very bright dead cell must not set the scale.
    """
    return np.percentile(sample, (20, 99.5))


def normalise(image: np.ndarray, levels=None) -> np.ndarray:
    """Background to 0 and bright structures to 1, whatever the camera's offset and gain; float32, same shape.

    `levels`: these two, where `image` is a part of one whose `grey_levels` are known. An image that holds nothing
    above its background is only shifted.
    """
    low, high = grey_levels(image[sampled(image.shape)]) if levels is None else levels
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
