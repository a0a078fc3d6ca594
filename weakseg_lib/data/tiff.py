"""Reading and writing 3D TIFF files: plain, ImageJ and OME."""

import logging
import math
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from weakseg_lib.data.axes import agree, choose_volume
from weakseg_lib.data.files import atomic_path
from weakseg_lib.data.tiff_metadata import channel_names, voxel_size_of
from weakseg_lib.errors import InputError

IMAGEJ_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
IMAGEJ_BYTES = 2**32 - 2**25  # ImageJ's TIFF has 32-bit offsets; leave room for the headers
# What tifffile only logs, and then goes on with the slices that it could find.
DAMAGE = re.compile(r"offset|corrupt|failed to reshape|circular", re.IGNORECASE)
OTHER_FORMS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"PK\x03\x04": "zip"}  # how files of them begin
COPY_AGAIN = "copy or export the file again"


def read_tiff(path, frame=None, channel=None, axes=None):
    """Return the volume in a TIFF and its voxel size: array (D, H, W), (z, y, x) um or None.

    frame, channel: which time point and channel of a file of several. axes: what the file's axes are, where it
    does not say it or is known to say it wrongly ("ZYX" for slices that were saved as frames). Only the pages of
    the volume are read. The array has the file's dtype, in native byte order. The voxel size is as the file says
    it, sensible or not; None where the file does not say it, or says it of other axes.

    Raises InputError for a file that is damaged, incomplete, no TIFF or not one 3D stack.
    """
    path = Path(path)
    with _damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        series = _only_series(tif, path)
        names = channel_names(tif, series)
        index, order = choose_volume(series.axes, series.shape, path, frame, channel, axes, names)
        _check_complete(tif, series, path)
        volume = _read(series, index).transpose(order)
        voxel_size = voxel_size_of(tif, series) if agree(series.axes, series.shape, axes) else None
    return volume.astype(volume.dtype.newbyteorder("="), copy=False), voxel_size


def tiff_header(path):
    """Return what `read_tiff` would, without reading voxels: the volume's shape (D, H, W) and its voxel size or None.

    Raises InputError as `read_tiff` does; a file that is cut off is found out, damaged voxels are not.
    """
    path = Path(path)
    with _damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        series = _only_series(tif, path)
        index, _ = choose_volume(series.axes, series.shape, path)
        _check_complete(tif, series, path)
        return _part(series.shape, index).shape, voxel_size_of(tif, series)


def tiff_parts(path):
    """Return the files (set of Path, resolved) that a TIFF's images are in: those of a multi-file OME-TIFF, or itself.

    Raises InputError as `read_tiff` does.
    """
    path = Path(path)
    with _damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        pages = [page for series in tif.series for page in series.pages if page] if tif.is_ome else []
        return {path.resolve(), *(Path(page.parent.filehandle.path).resolve() for page in pages)}


def read_tiff_slice(path):
    """Return the one 2D image in a TIFF: array (H, W), in native byte order. Raises InputError as `read_tiff` does."""
    path = Path(path)
    with _damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        series = _only_series(tif, path)
        _check_complete(tif, series, path)
        if "S" in series.axes or sum(size > 1 for size in series.shape) != 2:
            problem = f"is no grey 2D image (axes {series.axes}, shape {' x '.join(map(str, series.shape))})"
            raise InputError(path, problem, "import stacks without `--slices`, and colours one by one")
        image = np.squeeze(series.asarray())
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def write_tiff(path, array, voxel_size):
    """Write a volume as a zlib-compressed TIFF with its voxel size, whole or not at all.

    array: (D, H, W), bool, integer or float. Other integers than uint8 become uint16 where their values
    fit, and bool becomes uint8. uint8, uint16 and float32 are written as ImageJ does; what ImageJ's TIFF
    cannot hold (other types, over 4 GB) as OME-TIFF. voxel_size: (z, y, x) um, None or not positive where
    it is not known. Folders are made.

    Raises InputError where the disk is full or the folder cannot be written.
    """
    array = _compact(np.asarray(array))
    if array.ndim != 3:
        raise ValueError(f"write_tiff writes (D, H, W) arrays, not shape {array.shape}")
    imagej = array.dtype in IMAGEJ_DTYPES and array.nbytes < IMAGEJ_BYTES
    options = {"imagej" if imagej else "ome": True, "metadata": {"axes": "ZYX"}}
    if voxel_size is not None and min(voxel_size) > 0:
        z, y, x = (float(size) for size in voxel_size)
        if imagej:
            options["metadata"] |= {"spacing": z, "unit": "um"}
            options["resolution"] = (1 / x, 1 / y)
        else:
            # OME's unit is um unless another is named.
            options["metadata"] |= {"PhysicalSizeZ": z, "PhysicalSizeY": y, "PhysicalSizeX": x}
    # Level 1: on noisy 16-bit images four times faster than the usual level 6, for files 4 % larger.
    options |= {"compression": "zlib", "compressionargs": {"level": 1}, "photometric": "minisblack"}
    with atomic_path(path) as tmp:
        tifffile.imwrite(tmp, array, **options)


def _compact(array):
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind in "iu" and array.dtype != np.uint8 and array.size:
        if array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max:
            return array.astype(np.uint16, copy=False)
        if array.dtype.itemsize == 8:  # hardly any program reads 64-bit integers in a TIFF
            if array.min() < -(2**31) or array.max() >= 2**31:
                raise ValueError(f"integers up to {array.max()} do not fit into a TIFF's 32 bits")
            return array.astype(np.int32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


@contextmanager
def _damage_is_an_error(path):
    """Turn what tifffile and its decoders raise, or log about a damaged file, into an InputError."""
    logged = []
    me = threading.get_ident()

    def keep(record):
        if record.thread == me:
            logged.append(record.getMessage())
        return record.thread != me

    logger = logging.getLogger("tifffile")
    logger.addFilter(keep)
    try:
        yield
    except InputError as error:
        _raise_logged_damage(logged, path, error)
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(path, f"cannot be opened ({error.strerror})", "check its permissions") from error
    except MemoryError as error:
        raise InputError(path, "does not fit into memory", "crop it or use a larger machine") from error
    except tifffile.TiffFileError as error:
        _raise_logged_damage(logged, path, error)
        reason = _what_it_is(path) if "not a TIFF" in str(error) else f"is a damaged TIFF ({error})"
        raise InputError(path, reason, f"{COPY_AGAIN}, as an uncompressed or zlib TIFF") from error
    except Exception as error:
        if "imagecodecs" in str(error):
            fix = "run `pip install imagecodecs`, or save the file again without compression"
            raise InputError(path, "is compressed in a way that needs another package", fix) from error
        raise InputError(path, f"is damaged or incomplete ({error})", COPY_AGAIN) from error
    else:
        _raise_logged_damage(logged, path, None)
    finally:
        logger.removeFilter(keep)


def _what_it_is(path):
    """What a file that is no TIFF is (str)."""
    with open(path, "rb") as file:
        start = file.read(max(map(len, OTHER_FORMS)))
    form = next((f", it is a {form}" for mark, form in OTHER_FORMS.items() if start.startswith(mark)), "")
    return f"is no TIFF file{form}" if start else "is empty, a file of 0 bytes"


def _raise_logged_damage(logged, path, cause):
    if any(DAMAGE.search(message) for message in logged):
        raise InputError(path, "is a damaged or incomplete TIFF", COPY_AGAIN) from cause


def _only_series(tif, path):
    """The only 3D image of a file, which may have 2D overviews beside it; or what it has, where that is none."""
    stacks = [series for series in tif.series if len(series.shape) > 2]
    if len(stacks) > 1:
        fix = "save the one you mean as a file of its own"
        raise InputError(path, f"holds {len(tif.series)} separate images", fix)
    return stacks[0] if stacks else tif.series[0]


def _part(shape, index):
    return np.broadcast_to(np.uint8(0), shape)[index]


def _read(series, index):
    """Read `series.asarray()[index]`, and of a part no more pages than it has. index: a slice or number an axis."""
    if _part(series.shape, index).size == series.size:
        return series.asarray()[index]
    if series.dataoffset is not None and series.keyframe.is_memmappable:
        # Not compressed; beyond 4 GB ImageJ writes one page for all that follow.
        return np.array(series.asarray(out="memmap")[index])
    page = series.keyframe.shape
    outer = len(series.shape) - len(page)
    if series.shape[outer:] != page or math.prod(series.shape[:outer]) != len(series.pages):
        return series.asarray()[index].copy()  # the copy lets the rest go
    wanted = np.arange(len(series.pages)).reshape(series.shape[:outer])[index[:outer]]
    found = series.asarray(key=wanted.ravel().tolist()).reshape(wanted.shape + page)
    return found[(slice(None),) * wanted.ndim + index[outer:]].copy()


def _check_complete(tif, series, path):
    """Raise InputError where tifffile would fill missing parts with zeros without a word."""
    size = tif.filehandle.size
    for page in series.pages:
        if page is None:
            fix = "keep all files of a multi-file OME-TIFF in one folder"
            raise InputError(path, "lacks some of its slices", fix)
        if page.parent is not tif:
            continue  # a slice in another file of a multi-file OME-TIFF
        parts = math.prod(page.keyframe.chunked)
        found = [
            count > 0 and 0 < offset <= size - count
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
        ]
        if len(found) < parts or not all(found):
            raise InputError(path, f"is incomplete, slice {page.index} lacks data", COPY_AGAIN)
