"""Stacks: 3D images with voxel size and, where known, labels. Sequences: their folders in the CTC layout."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from weakseg_lib.data.files import IMAGE_NAME, read_json
from weakseg_lib.data.microscopes import read_czi, read_nd2
from weakseg_lib.data.ome_zarr import is_zarr, open_ome_zarr, read_ome_zarr
from weakseg_lib.data.plausible import question, question_choice
from weakseg_lib.data.slices import read_slices
from weakseg_lib.data.tiff import read_tiff, write_tiff
from weakseg_lib.data.tiff_metadata import spacing_is_default
from weakseg_lib.errors import InputError

__all__ = [
    "Sequence",
    "Stack",
    "check_labels",
    "dataset_voxel_size",
    "frame_name",
    "read_image",
    "read_labels",
    "read_stack",
    "write_tiff",
]

MAX_LABEL = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Stack:
    """A 3D image with what is known about it."""

    image: np.ndarray  # (D, H, W), dtype as stored, bool as uint8
    voxel_size: tuple[float, float, float]  # um, (z, y, x)
    name: str  # "01/t000", or the file's name
    path: Path
    labels: np.ndarray | None = None  # (D, H, W) int32, 0 background


def read_image(path, frame=None, channel=None, axes=None):
    """Return an image and, where the file has it, its voxel size: array (D, H, W), (z, y, x) um or None.

    path: a TIFF (plain, ImageJ, OME), ND2 or CZI, an OME-Zarr folder, or a folder of 2D slices.
    frame, channel: which time point and channel to take from a file of several, from 0. axes: the order of the
    file's axes ("YXZ", "TZYX"), where it does not say it or says it wrongly.

    Raises InputError for a path that is missing, damaged, incomplete, or not one 3D stack of one channel, and
    where a package that the format needs is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "no such file or folder", "check the name")
    if is_zarr(path):
        read = read_ome_zarr
    elif path.is_dir():
        read = read_slices
    else:
        read = {".nd2": read_nd2, ".czi": read_czi}.get(path.suffix.lower(), read_tiff)
    return read(path, frame, channel, axes)


def read_stack(path, voxel_size=None, labels=None, frame=None, channel=None, axes=None, dataset=None):
    """Return the `Stack` in a file, checked so that later steps can rely on it.

    voxel_size: (z, y, x) um; without it the file's own is taken, else that of a dataset.json in the file's
    folder or one above, else that of `dataset`, another such file. labels: path of the instance labels. frame,
    channel, axes: as in `read_image`.

    Raises InputError as `read_image` and `read_labels` do, and for complex, NaN, infinite or constant images
    and for a voxel size that is missing or not positive. Warns of a voxel size that is implausible and of an
    image that is saturated, where ImageJ did not write how far apart the slices are, and where the file has
    another voxel size than `voxel_size`.
    """
    path = Path(path)
    image, own_voxel_size = read_image(path, frame, channel, axes)
    image = _check_image(image, path)
    given = voxel_size is not None
    z_is_default = own_voxel_size is not None and spacing_is_default(path)
    voxel_size = _find_voxel_size(path, voxel_size, own_voxel_size, axes, dataset)
    # Of a sequence the folder is named: what holds for all its frames is said once.
    where = path.parent if IMAGE_NAME.fullmatch(path.name) else path
    question(image, voxel_size, where, z_is_default and not given)
    if given and own_voxel_size is not None and not z_is_default:
        question_choice(voxel_size, own_voxel_size, where)
    if labels is not None:
        labels = read_labels(labels, image.shape, frame)
    return Stack(image, voxel_size, path.name.split(".")[0], path, labels)


def open_stack(path, voxel_size=None, frame=None):
    """Return the `Stack` in an OME-Zarr without reading it: its image is a `ZarrVolume`, read where it is sliced.

    voxel_size, frame: as in `read_stack`. Raises InputError as `open_ome_zarr` does, for a voxel size that is missing
    or not positive, and for voxels of another type than grey values.
    """
    path = Path(path)
    image, own_voxel_size = open_ome_zarr(path, frame)
    _check_dtype(image.dtype, path)
    voxel_size = _find_voxel_size(path, voxel_size, own_voxel_size)
    return Stack(image, voxel_size, path.name.split(".")[0], path)


def read_labels(path, shape=None, frame=None):
    """Return instance labels: (D, H, W) int32, 0 background, one id an instance.

    shape: (D, H, W) that they must have. Raises InputError as `read_image` and `check_labels` do.
    """
    return check_labels(read_image(path, frame)[0], path, shape)


def check_labels(labels, path, shape=None):
    """Return `labels` (D, H, W) as int32. path: where they come from. shape: that they must have.

    Raises InputError where they are not integers, negative, too large for int32, or of another shape.
    """
    if labels.dtype.kind not in "iub":
        fix = "save them as 16-bit integers, one id an instance"
        raise InputError(path, f"labels must be integers, these are {labels.dtype}", fix)
    if shape is not None and labels.shape != tuple(shape):
        problem = f"labels have shape {labels.shape}, their image {tuple(int(size) for size in shape)}"
        raise InputError(path, problem, "give the labels that belong to this image")
    if labels.min() < 0 or labels.max() > MAX_LABEL:
        problem = f"labels go from {labels.min()} to {labels.max()}"
        raise InputError(path, problem, f"use ids 1..{MAX_LABEL}, and 0 for background")
    return labels.astype(np.int32)


def frame_name(t, digits=3):
    """Return the number of frame `t` as file names have it (str): three digits to 999, four above."""
    return f"{t:0{digits}d}"


class Sequence:
    """The frames of one recording in the layout of the Cell Tracking Challenge: NAME/01 with its companions.

    path: the folder NAME/01; frames: only these. Companions: NAME/01_GT (labels), NAME/01_WEAK.
    Attributes: path, name ("01"), frames (list of int, sorted), digits (3, or 4 where the images have four).
    Raises InputError where the folder is missing or has no tNNN.tif.
    """

    def __init__(self, path, frames=None):
        path = Path(path)
        self.path = path if path.name not in ("", "..") else path.resolve()
        self.name = self.path.name
        if not self.path.is_dir():
            raise InputError(self.path, "no such folder", "give a sequence folder like NAME/01")
        found = (IMAGE_NAME.fullmatch(file.name) for file in sorted(self.path.iterdir()))
        numbers = [match[1] for match in found if match]
        if not numbers:
            inside = [folder.name for folder in sorted(self.path.glob("[0-9][0-9]")) if folder.is_dir()]
            fix = (
                f"give a folder in it: {', '.join(inside)}"
                if inside
                else "name the images t000.tif, t001.tif, ... (not .tiff, not t0.tif)"
            )
            raise InputError(self.path, "has no images tNNN.tif", fix)
        self.frames = sorted({int(number) for number in numbers})
        self.digits = min(len(number) for number in numbers)
        if frames is not None:
            missing = sorted(set(frames) - set(self.frames))
            if missing:
                names = ", ".join(f"t{frame_name(t, self.digits)}.tif" for t in missing)
                raise InputError(self.path, f"has no {names}", "fetch them, or choose other frames")
            self.frames = sorted(set(frames))

    def __repr__(self):
        return f"Sequence({str(self.path)!r}, {len(self.frames)} frames)"

    def image_path(self, t):
        """Return the path of the image of frame `t`."""
        return self._numbered(self.path, "t", t)

    def labels_path(self, t):
        """Return the path of the full instance labels of frame `t`, there or not."""
        return self._numbered(self._companion("GT") / "SEG", "man_seg", t)

    def weak_boxes_path(self, t):
        """Return the path of the weak annotation's table of frame `t`, there or not."""
        return self._numbered(self.weak_path, "boxes", t, ".csv")

    def weak_masks_path(self, t):
        """Return the path of the weak annotation's masks of frame `t`, there or not."""
        return self._numbered(self.weak_path, "mask", t)

    @property
    def weak_path(self):
        """The folder of the weak annotation, NAME/01_WEAK, there or not."""
        return self._companion("WEAK")

    def has_labels(self, t):
        """Return whether frame `t` has full 3D labels (bool)."""
        return self.labels_path(t).is_file()

    def read(self, t, with_labels=False, voxel_size=None):
        """Return frame `t` as a `Stack`. Raises InputError as `read_stack` and `read_labels` (below) do."""
        path = self.image_path(t)
        if not path.is_file():
            known = f"it has {len(self.frames)} frames, {self.frames[0]} to {self.frames[-1]}"
            raise InputError(path, "no such frame", known)
        stack = read_stack(path, voxel_size)
        labels = self.read_labels(t, stack.image.shape) if with_labels else None
        return replace(stack, name=f"{self.name}/{path.stem}", labels=labels)

    def read_labels(self, t, shape=None):
        """Return the labels of frame `t`, (D, H, W) int32. Raises InputError where there are none in 3D."""
        path = self.labels_path(t)
        if not path.is_file():
            # Of some of the challenge's sets only single slices are labelled: man_seg_TTT_ZZZ.tif.
            sparse = re.compile(rf"man_seg_?0*{t}_\d+\.tif")
            if path.parent.is_dir() and any(sparse.fullmatch(file.name) for file in path.parent.iterdir()):
                fix = "use a set with full 3D labels, or write boxes for it by hand"
                raise InputError(path.parent, f"frame {t} has labels of single 2D slices only", fix)
            raise InputError(
                path, "no such labels", "put the full 3D labels there, or use a set that has them"
            )
        return read_labels(path, shape)

    def _companion(self, kind):
        return self.path.with_name(f"{self.path.name}_{kind}")

    def _numbered(self, folder, prefix, t, suffix=".tif"):
        """Return the file of frame `t` with three digits or four: the one there, or else the one to write."""
        usual = folder / f"{prefix}{frame_name(t, self.digits)}{suffix}"
        other = folder / f"{prefix}{frame_name(t, 7 - self.digits)}{suffix}"
        return other if other.is_file() and not usual.is_file() else usual


def _check_dtype(dtype, path):
    if dtype.kind not in "biuf":
        fix = "save it as 8-bit, 16-bit or 32-bit float grey values"
        raise InputError(path, f"its voxels are of type {dtype}", fix)


def _check_image(image, path):
    _check_dtype(image.dtype, path)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise InputError(
            path, f"{bad} voxels are NaN or infinite", "replace them with numbers and save it again"
        )
    if image.min() == image.max():
        raise InputError(path, f"all voxels have the value {image.flat[0]}", "check that the export worked")
    return image.astype(np.uint8) if image.dtype == bool else image


def dataset_voxel_size(dataset):
    """Return the voxel size (z, y, x) um in a dataset.json, or None where it, or the file, is not there.

    Raises InputError where it is not three positive numbers.
    """
    voxel_size = read_json(dataset).get("voxel_size_um") if Path(dataset).is_file() else None
    return None if voxel_size is None else _check_voxel_size(voxel_size, dataset, dataset)


def _find_voxel_size(path, given, own, axes=None, dataset=None):
    """The voxel size given, or the file's own, or that of a dataset.json; as in `read_stack`."""
    beside, above = (folder / "dataset.json" for folder in list(path.absolute().parents)[:2])
    to_write = dataset or (above if IMAGE_NAME.fullmatch(path.name) else beside)
    for voxel_size in (given, own):
        if voxel_size is not None:
            return _check_voxel_size(voxel_size, path, to_write)
    for place in (beside, above, dataset):
        voxel_size = place and dataset_voxel_size(place)
        if voxel_size is not None:
            return voxel_size
    problem = "has no voxel size" if axes is None else f"has no voxel size for axes {axes.upper()}"
    raise InputError(path, problem, _how_to_give(to_write))


def _check_voxel_size(voxel_size, where, dataset):
    try:
        sizes = tuple(float(size) for size in voxel_size)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < float("inf") for size in sizes):
        problem = f"its voxel size is {voxel_size}, it must be three positive numbers"
        raise InputError(where, problem, _how_to_give(dataset))
    return sizes


def _how_to_give(dataset):
    place = Path(dataset).absolute()
    return f'give it with `--voxel-size Z Y X`, or in {place} as {{"voxel_size_um": [z, y, x]}}'
