"""Boxes without any training: smoothed maxima are cells, and each reaches down to near half of its height.

The blob detector of scale space (Lindeberg, IJCV 1998), in micrometres, so that voxels need not be cubes.
"""

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from weakseg_lib.data.prepare import mean_sides, resample, working_shape

BLOB = 2 * np.sqrt(3)  # diameter of a ball over the sigma at which its scale-normalised response is largest
STEP = 1.25  # between one scale and the next
NOISE = 8.0  # least height of a maximum, in standard deviations of the noise that passes the filter
DIM = 0.2  # least height of a maximum, as a share of the stack's bright ones
LEVEL = 0.4  # where a cell ends, between the background's brightness (0) and that of its own middle (1)
SMALL = 0.4  # least mean side of a box, as a share of the diameter: small maxima are where cells touch
VOXELS = 10  # a diameter; what is finer is averaged away
MOST = 2e6  # voxels that the search for the diameter looks at: more are averaged


def propose_by_maxima(image: np.ndarray, voxel_size, diameter: float | None = None) -> np.ndarray:
    """Boxes (n, 6) float, in voxels of `image` (D, H, W), brightest first, none where nothing rises above the noise.

    voxel_size: (z, y, x) um. diameter: of a cell, in um; by default that of the stack's strongest blobs.

    A difference of two Gaussians answers to blobs of one size. Its maxima are seeds; a watershed gives each the
    voxels around it, and of these a cell keeps what is brighter than LEVEL between background and its own middle.
    Noise is taken to differ from voxel to voxel.
    """
    voxel_size = np.asarray(voxel_size, float)
    diameter = diameter or blob_diameter(image, voxel_size)
    small, voxel = _shrunk(image, voxel_size, diameter / VOXELS)
    sigma = diameter / BLOB / np.sqrt(STEP) / voxel
    response = _gaussian(small, sigma) - _gaussian(small, STEP * sigma)
    window = 2 * np.round(0.3 * diameter / voxel).astype(int) + 1
    top = response == ndimage.maximum_filter(response, window)
    least = max(
        NOISE * _noise(image, sigma * voxel / voxel_size), 1e-4 * response.max()
    )  # or rounding, without noise
    seeds, n = ndimage.label(top & (response > least), np.ones((3, 3, 3)))
    height = ndimage.maximum(response, seeds, np.arange(1, n + 1))
    if not n:
        return np.zeros((0, 6))
    seeds[np.isin(seeds, np.flatnonzero(height < DIM * np.percentile(height, 90)) + 1)] = 0
    smooth = _gaussian(small, diameter / 12 / voxel)
    background, basins = np.percentile(smooth, 20), watershed(-smooth, seeds)
    boxes = {}
    for i, where in enumerate(ndimage.find_objects(basins), 1):
        if where is None:
            continue
        seed, around = seeds[where] == i, smooth[where]
        middle = around[seed].max()
        bright = around > background + LEVEL * (middle - background)
        parts = ndimage.label(bright & (basins[where] == i))[0]
        if own := parts[seed].max():  # 0 where the maximum is darker than the background
            inside = np.argwhere(parts == own)
            box = np.concatenate([inside.min(0), inside.max(0) + 1])
            boxes[i] = box + np.tile([side.start for side in where], 2)
    order = sorted(boxes, key=lambda i: -height[i - 1])
    found = np.array([boxes[i] for i in order], float).reshape(-1, 6)
    return found[mean_sides(found, voxel) >= SMALL * diameter] * np.tile(voxel / voxel_size, 2)


def blob_diameter(image: np.ndarray, voxel_size) -> float:
    """Diameter in um of the balls that the strongest blobs of a stack most resemble, at every scale that fits in.

    The median, weighted by strength and volume, of all blobs at least half as strong as the strongest: texture and
    noise make many more blobs than cells do, but small ones. Cells of less than a fortieth of the side of the field
    are averaged away: of such, give the diameter.
    """
    voxel_size = np.asarray(voxel_size, float)
    extent = voxel_size * image.shape
    smallest = max(3 * voxel_size.min(), 2 * voxel_size.max(), 3 * (extent.prod() / MOST) ** (1 / 3))
    largest = extent[1:].max() / 3
    small, voxel = _shrunk(image, voxel_size, smallest / 3)
    diameters = smallest * STEP ** np.arange(max(2, np.ceil(np.log(largest / smallest) / np.log(STEP))))
    blurred = _gaussian(small, diameters[0] / BLOB / np.sqrt(STEP) / voxel)
    responses = []
    for d in diameters:
        wider = _gaussian(small, d / BLOB * np.sqrt(STEP) / voxel)
        responses.append(blurred - wider)
        blurred = wider
    response = np.stack(responses)
    blobs = np.nonzero((response == ndimage.maximum_filter(response, 3)) & (response > 0))
    scale, strength = blobs[0], response[blobs]
    if not len(strength):
        return float(diameters[-1])
    strong = strength > 0.5 * np.median(np.sort(strength)[-10:])
    scale, weight = scale[strong], (strength * diameters[scale] ** 3)[strong]
    order = np.argsort(scale)
    total = np.cumsum(weight[order])
    return float(diameters[scale[order][np.searchsorted(total, total[-1] / 2)]])


def _shrunk(image, voxel_size, least):
    """The image with voxels of at least about `least` um on every axis, float32, and their size (3,)."""
    shape = working_shape(image.shape, voxel_size, np.maximum(voxel_size, least))
    return resample(image, shape), voxel_size * image.shape / shape


def _gaussian(image, sigma):
    return ndimage.gaussian_filter(image, sigma, truncate=3.0, mode="nearest")


def _noise(image, sigma) -> float:
    """Standard deviation that noise of the image leaves in a difference of Gaussians of `sigma` (3,) voxels.

    The image's own: the median size of second differences along x. Two Gaussians a and b overlap by
    prod 1 / sqrt(2 pi (a^2 + b^2)), which gives the norm of their difference; an axis of less than a voxel lets all
    pass.
    """
    image = image[:: max(1, len(image) // 32)].astype(np.float32)
    second = image[..., 2:] - 2 * image[..., 1:-1] + image[..., :-2]
    own = 1.4826 * np.median(np.abs(second)) / np.sqrt(6)
    a, b = np.asarray(sigma), STEP * np.asarray(sigma)
    aa, bb, ab = (
        np.minimum(1, (2 * np.pi * (p**2 + q**2)) ** -0.5).prod() for p, q in ((a, a), (b, b), (a, b))
    )
    return float(own * np.sqrt(max(aa + bb - 2 * ab, 0)))
