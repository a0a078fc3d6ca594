"""Reading OME-Zarr images (versions 0.4 and 0.5), full resolution only. Needs the optional zarr package."""

from pathlib import Path

import numpy as np

from weakseg_lib.data.axes import agree, choose_volume, micrometres
from weakseg_lib.errors import InputError

MARKERS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
EXPORT_AGAIN = "export it again as OME-Zarr, or as a TIFF"


def is_zarr(path):
    """Return whether the folder `path` is a Zarr array or group (bool)."""
    path = Path(path)
    return path.suffix == ".zarr" or any((path / name).is_file() for name in MARKERS)


def read_ome_zarr(path, frame=None, channel=None, axes=None):
    """Return an OME-Zarr's full-resolution volume, (D, H, W), and its voxel size, (z, y, x) um or None.

    path: the folder that holds the multiscales metadata. frame, channel, axes: as in `read_tiff`.

    Raises InputError where zarr is not installed, the folder is no OME-Zarr image or not one 3D stack, or its
    data are damaged. Follows the metadata of https://ngff.openmicroscopy.org, versions 0.4 and 0.5.
    """
    path = Path(path)
    try:
        import zarr
    except ImportError as error:
        fix = 'run `pip install "weakseg_lib[zarr]"`, or give a TIFF'
        raise InputError(path, "is an OME-Zarr and the zarr package is not installed", fix) from error
    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
    except Exception as error:
        raise InputError(path, f"is not an OME-Zarr image ({error})", EXPORT_AGAIN) from error
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        fix = "give the folder inside it that has them, one image of a plate for example"
        raise InputError(path, "is no OME-Zarr image, its metadata have no `multiscales`", fix)
    try:
        level = multiscales[0]["datasets"][0]
        array = group[level["path"]]
        own, units = _axes(multiscales[0], array.ndim)
        scale = _scale(multiscales[0], array.ndim) * _scale(level, array.ndim)
        shown = attributes.get("ome", attributes).get("omero", {}).get("channels", ())
        names = [str(one.get("label", "")) for one in shown]
    except Exception as error:
        raise InputError(
            path, f"has OME-Zarr metadata that cannot be used ({error!r})", EXPORT_AGAIN
        ) from error
    index, order = choose_volume(own, array.shape, path, frame, channel, axes, names)
    try:
        volume = np.asarray(array[index]).transpose(order)
    except Exception as error:
        raise InputError(path, f"is damaged or incomplete ({error})", "copy or export it again") from error
    voxel_size = _voxel_size(own, units, scale) if agree(own, array.shape, axes) else None
    return volume.astype(volume.dtype.newbyteorder("="), copy=False), voxel_size


def _axes(multiscale, ndim):
    """Return the axes as one letter each, and how many um the unit of each is (None where it has none)."""
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in multiscale["axes"]]
    letters = "".join(axis["name"][0].upper() for axis in axes)
    if len(letters) != ndim:
        raise ValueError(f"{len(letters)} axes for an array of {ndim}")
    return letters, [micrometres(axis.get("unit")) for axis in axes]


def _scale(node, ndim):
    scale = np.ones(ndim)
    for transformation in node.get("coordinateTransformations", ()):
        if transformation["type"] == "scale":
            scale = scale * np.asarray(transformation["scale"], dtype=float)
    return scale


def _voxel_size(axes, units, scale):
    places = [axes.index(axis) for axis in "ZYX"]
    if any(units[i] is None for i in places):
        return None
    return tuple(float(scale[i] * units[i]) for i in places)
