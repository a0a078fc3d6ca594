"""A volume cut into overlapping tiles, and the mirror images that are looked at."""

from torch.nn import functional as F

VIEWS = ((), (2,), (1,), (1, 2), (0,), (0, 2), (0, 1), (0, 1, 2))  # flipped axes; averaged over the first few


def tiles(shape, tile, halo, stride: int):
    """Cover a volume of `shape` with blocks: yields (core, block), each a tuple of three slices.

    Cores do not overlap and fill the volume; a block is its core and up to `halo` (z, y, x) voxels more on
    every side, and starts at a multiple of `stride`, so that every feature voxel of a block stands for the same
    place as in the whole volume.
    """
    axes = []
    for n, t, reach in zip(shape, tile, halo, strict=True):
        count = max(1, -(-n // t))
        step = -(-n // count)
        step = -(-step // stride) * stride
        margin = -(-reach // stride) * stride
        axes.append(
            [
                ((a, min(a + step, n)), (max(a - margin, 0), min(a + step + margin, n)))
                for a in range(0, n, step)
            ]
        )
    for z in axes[0]:
        for y in axes[1]:
            for x in axes[2]:
                yield tuple(slice(*a[0]) for a in (z, y, x)), tuple(slice(*a[1]) for a in (z, y, x))


def pad_to_stride(crop, stride: int):
    """A tensor (..., D, H, W) with zeros at the end of its last three axes, so that `stride` divides them."""
    return F.pad(crop, [p for n in reversed(crop.shape[-3:]) for p in (0, -n % stride)])
