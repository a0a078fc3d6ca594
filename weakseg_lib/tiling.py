"""A volume cut into overlapping tiles, and the mirror images that are looked at."""

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
