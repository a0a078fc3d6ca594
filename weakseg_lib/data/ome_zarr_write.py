"""Writing an image, its labels or both as OME-Zarr 0.4, full resolution only. Needs the optional zarr package."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from weakseg_lib.errors import InputError

VERSION = "0.4"  # what most viewers read; on disk it is Zarr 2
CHUNK = (32, 256, 256)
LABELS = "cells"


def write_ome_zarr(path, image=None, labels=None, voxel_size=(1.0, 1.0, 1.0), properties=()):
    """Write NAME.ome.zarr, the whole of it or nothing; an earlier one is replaced.

    image: (D, H, W) number, or None. labels: (D, H, W) integer >= 0, or None: they go into labels/cells beside
    the image, or are the whole where there is no image. voxel_size: (z, y, x) um. properties: for each label a
    dict with "label-value" and what else is known of it.

    Raises InputError where zarr is not installed, the disk is full or the folder cannot be written. Follows
    https://ngff.openmicroscopy.org/0.4.
    """
    path = Path(path)
    try:
        import zarr
    except ImportError as error:
        fix = 'run `pip install "weakseg_lib[zarr]"`, or choose other forms with `--as`'
        raise InputError(path, "needs the zarr package, which is not installed", fix) from error
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    with _atomic_folder(path) as tmp:
        root = zarr.open_group(tmp, mode="w", zarr_format=2)
        if image is not None:
            _write_level(root, image, voxel_size, name)
        if labels is not None:
            labels = labels.astype(np.uint16 if labels.max() < 2**16 else np.uint32)
            group = root if image is None else root.create_group("labels").create_group(LABELS)
            _write_level(group, labels, voxel_size, LABELS)
            about = {"version": VERSION, "properties": list(properties)}
            if image is not None:
                root["labels"].attrs["labels"] = [LABELS]
                about["source"] = {"image": "../../"}
            group.attrs["image-label"] = about


def create_ome_zarr(path, shape, chunks, dtype, voxel_size, version="0.5"):
    """Make an OME-Zarr label image of zeros, (D, H, W), and return its array, to be written chunk by chunk.

    What is at `path` already is replaced. voxel_size: (z, y, x) um. version: of OME-Zarr, "0.4" or "0.5".
    """
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    array = _create_level(group, shape, chunks, dtype, voxel_size, LABELS, version)
    about = dict(group.attrs).get("ome", {}) | {"image-label": {}}
    group.attrs.update({"ome": about} if version == "0.5" else {"image-label": {"version": version}})
    return array


def _write_level(group, array, voxel_size, name):
    chunks = tuple(map(min, CHUNK, array.shape))
    _create_level(group, array.shape, chunks, array.dtype, voxel_size, name, VERSION)[...] = array


def _create_level(group, shape, chunks, dtype, voxel_size, name, version):
    keys = None if version == "0.5" else {"name": "v2", "separator": "/"}
    array = group.create_array("0", shape=shape, chunks=chunks, dtype=dtype, chunk_key_encoding=keys)
    scale = {"type": "scale", "scale": [float(size) for size in voxel_size]}
    multiscale = {
        "name": name,
        "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"],
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
    }
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    else:
        group.attrs["multiscales"] = [{"version": version} | multiscale]
    return array


@contextmanager
def _atomic_folder(path):
    """Give a temporary folder to fill; it takes the place of `path` when the block ends well."""
    tmp, old = (path.with_name(f".{path.name}.{os.getpid()}.{word}") for word in ("tmp", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        if path.exists():
            os.replace(path, old)
        os.replace(tmp, path)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, "free some space, or choose another folder") from error
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for folder in (tmp, old):
            shutil.rmtree(folder, ignore_errors=True)
