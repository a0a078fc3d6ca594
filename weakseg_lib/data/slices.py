"""A stack that was saved as one 2D image a slice: the TIFFs or PNGs of a folder, in the order of their names."""

import re
from pathlib import Path

import numpy as np

from weakseg_lib.data.tiff import read_tiff_slice
from weakseg_lib.errors import InputError

SLICES = (".tif", ".tiff", ".png")


def read_slices(folder, frame=None, channel=None, axes=None):
    """Return the 2D images of a folder as one volume, and no voxel size: array (D, H, W), None.

    folder: grey TIFFs or PNGs of one size and type, whose names differ by one number that counts them. frame,
    channel, axes: None, as slices have none of them. Raises InputError for images that are not such slices.
    """
    folder = Path(folder)
    paths = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in SLICES and p.name[0] != "."), key=natural
    )
    if len(paths) < 2:
        problem = f"is a folder, not an image, and holds {len(paths)} images that could be slices"
        raise InputError(folder, problem, f"give an image, or a folder of 2D slices: {', '.join(SLICES)}")
    if not (frame is channel is axes is None):
        fix = "leave `--frame`, `--channel` and `--axes` out, and keep the slices of one stack in a folder"
        raise InputError(folder, "is read as the slices of one grey stack", fix)
    _check_names(folder, paths)
    slices = []
    for path in paths:
        slices.append(_read_png(path) if path.suffix.lower() == ".png" else read_tiff_slice(path))
        if (slices[-1].shape, slices[-1].dtype) != (slices[0].shape, slices[0].dtype):
            here, first = (f"{s.shape[0]} x {s.shape[1]} pixels ({s.dtype})" for s in (slices[-1], slices[0]))
            fix = "keep only the slices of one stack in the folder"
            raise InputError(path, f"has {here}, and {paths[0].name} {first}", fix)
    return np.stack(slices), None


def natural(path):
    """Return a key that sorts paths by name, with 2 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _check_names(folder, paths):
    """Raise InputError where the names do not count from one slice to the next: one is missing, or one too many."""
    names = [natural(path) for path in paths]
    numbers = [set(column) for column in zip(*names, strict=False) if len(set(column)) > 1]
    one = len({len(name) for name in names}) == 1 and len(numbers) == 1 and len(numbers[0]) == len(paths)
    if not one or not all(isinstance(n, int) for n in numbers[0]):
        fix = "keep only the slices of one stack and one channel in it"
        raise InputError(folder, "the names of its images differ by more than the number of the slice", fix)
    counted = sorted(numbers[0])
    missing = next((n for n, after in zip(counted, counted[1:], strict=False) if after > n + 1), None)
    if missing is not None:
        fix = "add it, or number the slices without a gap"
        raise InputError(folder, f"has slice {missing} and no slice {missing + 1}", fix)


def _read_png(path):
    from skimage.io import imread  # here, as it is slow to import

    try:
        image = imread(path)
    except Exception as error:
        raise InputError(path, f"is damaged or no PNG ({error})", "copy or export it again") from error
    if image.ndim != 2:
        raise InputError(path, "is a colour image", "save the slices as grey images of 8 or 16 bit")
    return image
