"""Solutions of 03_roi_align_triton."""

# %% Exercise 1
# Each axis is interpolated on its own, x first: that is why the three can be three matrices later. The usual wrong
# answers: weights swapped (b is near where f is large, so b gets f), y taken for x (square[y][x]: rows first).


def linear(a, b, f):
    """The value at the share f of the way from a to b."""
    return (1 - f) * a + f * b


def bilinear(square, y, x):
    """The value at (y, x) between the 2 x 2 values square[y][x]; y and x from 0 to 1."""
    return linear(linear(square[0][0], square[0][1], x), linear(square[1][0], square[1][1], x), y)


def trilinear(cube, z, y, x):
    """The value at (z, y, x) between the 2 x 2 x 2 values cube[z][y][x]."""
    return linear(bilinear(cube[0], y, x), bilinear(cube[1], y, x), z)


# %% Exercise 2
# First decide which samples count, by where they are; only then move them to the border. Who moves first finds nothing
# outside any more. The division is by all samples of a bin (mean), not by those that count. `_weights` in
# weakseg_lib/ops/roi_align_triton.py is this, made on the spot in registers: no table, no scatter.


def hat_matrix(positions, size):
    """positions (bins, ratio): indices of the samples -> (bins, size): mean weights of a bin's samples."""
    counts = (positions >= -1) & (positions <= size)
    positions = positions.clamp(0, size - 1)
    hats = (1 - (positions[..., None] - torch.arange(size)).abs()).clamp(min=0)  # (bins, ratio, size)
    return (hats * counts[..., None]).mean(1)


# %% Exercise 3
# The fraction was worked out before the sample was moved to the border, the lower voxel after: at -0.4 the fraction
# is 0.6, and 0.6 of voxel 1 leak in. On the right it does no harm: both neighbours are the last voxel there. The usual
# wrong answer adds a case for x < 0; simpler is to clamp the position, not the voxel. A test whose boxes all lie inside
# the stack never sees this bug.


def read_row(row, x):
    """The value of a row (a list) at index x, by the border rules of this lesson."""
    size = len(row)
    if x < -1 or x > size:
        return 0.0
    x = min(max(x, 0.0), size - 1.0)
    low = math.floor(x)
    fraction = x - low
    high = min(low + 1, size - 1)
    return (1 - fraction) * row[low] + fraction * row[high]
