"""Questions about an image that can be read but may not be what its owner thinks it is: warnings, no errors."""

import warnings
from functools import cache

import numpy as np

SMALLEST, LARGEST = 0.02, 20.0  # um: finer than any light microscope samples, coarser than shows a cell
SQUARE = 1.1  # times the shorter side of a pixel, at most
SATURATED = 0.01  # share of the voxels


class VoxelSizeWarning(UserWarning):
    """A voxel size that is implausible."""


def question(image, voxel_size, where, z_is_default=False):
    """Warn where a voxel size (z, y, x) um is implausible and where an image (D, H, W) is saturated.

    where: the file or folder to name. z_is_default: whether z was not in the file, and is what ImageJ takes then. The
    same is said once.
    """
    doubt = doubtful_voxel_size(voxel_size)
    if z_is_default:
        default = "z is ImageJ's default, 1, which nobody may have set"
        doubt = f"{doubt}, and {default}" if doubt else default
    if doubt:
        fix = "if that is wrong, give the right one with `--voxel-size Z Y X`"
        warn_once(f"{where}: the voxel size is {in_words(voxel_size)}, {doubt}; {fix}", VoxelSizeWarning)
    if saturated(image):
        problem = f"more than {SATURATED:.0%} of the voxels have the highest value, {image.max()}"
        fix = "cells that touch there cannot be told apart; record with less light, or use the file before conversion"
        warn_once(f"{where}: is saturated, {problem}; {fix}")


def question_choice(chosen, own, where):
    """Warn where a voxel size given by hand is not the file's own. Both: (z, y, x) um.

    where: the file or folder to name. Nothing is said where the file's own is odd, which is why another is given,
    nor where the one given is, which `question` says.
    """
    if differ(chosen, own) and not doubtful_voxel_size(own) and not doubtful_voxel_size(chosen):
        problem = f"the voxel size in the file is {in_words(own)}, and {in_words(chosen)} is taken"
        warn_once(f"{where}: {problem}; leave `--voxel-size` out if the file is right")


@cache  # Python's own memory of what was said is lost whenever a library changes a filter.
def warn_once(message, category=UserWarning):
    """Warn, where the same was not said before in this process."""
    warnings.warn(message, category, stacklevel=2)


def differ(a, b):
    """Return whether two voxel sizes, (z, y, x) um, differ by more than rounding (bool)."""
    return any(abs(one - other) > 0.001 * other for one, other in zip(a, b, strict=True))


def in_words(voxel_size):
    """Return a voxel size, (z, y, x) um, as messages have it (str)."""
    return " x ".join(f"{size:g}" for size in voxel_size) + " um (z, y, x)"


def doubtful_voxel_size(voxel_size):
    """Return what is odd about a voxel size, (z, y, x) um, in words (str), or None."""
    z, y, x = voxel_size
    if min(voxel_size) > LARGEST and max(voxel_size) / 1000 < LARGEST:
        return "which looks like nanometres"
    if min(voxel_size) < SMALLEST or max(voxel_size) > LARGEST:
        return f"which is outside {SMALLEST:g} to {LARGEST:g} um"
    if tuple(voxel_size) == (1, 1, 1):
        return "as an image has that was never calibrated"
    if max(y, x) > SQUARE * min(y, x):
        return "so pixels are not square (the order is z, y, x)"
    if 2 * z < max(y, x):
        return "so slices are closer than pixels"
    return None


def saturated(image):
    """Return whether more than 1 % of the voxels of an 8-bit or 16-bit image are at its limit (bool).

    The limit is the highest value of a camera of 8, 10, 12, ... bits, whatever the file could hold.
    """
    if image.dtype.kind not in "ui" or image.dtype.itemsize > 2:
        return False
    top = int(image.max())
    of_camera = top >= 255 and top & (top + 1) == 0
    return bool(of_camera and np.count_nonzero(image == top) > SATURATED * image.size)
