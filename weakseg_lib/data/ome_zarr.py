"""OME-Zarr images (versions 0.4 and 0.5), full resolution only, whole or piece by piece. Needs the zarr package."""

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


class ZarrVolume:
    """One 3D stack in an OME-Zarr: `volume[z0:z1, y0:y1, x0:x1]` reads that part alone, as an array.

    Attributes: shape (D, H, W), dtype, version ("0.4" or "0.5"). Raises InputError where the data are damaged, or do
    not fit into memory.
    """

    def __init__(self, path, array, index, order, version):
        self._path, self._array, self._index, self._order = path, array, index, order
        kept = [n for n, i in zip(array.shape, index, strict=True) if i == slice(None)]
        self.shape = tuple(kept[axis] for axis in order)
        self.dtype, self.version = array.dtype, version

    def __getitem__(self, part):
        stored = iter(part[self._order.index(axis)] for axis in range(3))
        index = tuple(next(stored) if i == slice(None) else i for i in self._index)
        try:
            found = np.asarray(self._array[index]).transpose(self._order)
        except MemoryError as error:
            raise InputError(
                self._path, "does not fit into memory", "crop it or use a larger machine"
            ) from error
        except Exception as error:
            fix = "copy or export it again"
            raise InputError(self._path, f"is damaged or incomplete ({error})", fix) from error
        return found.astype(found.dtype.newbyteorder("="), copy=False)


def read_ome_zarr(path, frame=None, channel=None, axes=None):
    """Return an OME-Zarr's full-resolution volume, (D, H, W), and its voxel size, (z, y, x) um or None.

    Arguments and errors as of `open_ome_zarr`; InputError also where the data are damaged.
    """
    volume, voxel_size = open_ome_zarr(path, frame, channel, axes)
    return volume[(slice(None),) * 3], voxel_size


def open_ome_zarr(path, frame=None, channel=None, axes=None):
    """Return an OME-Zarr's full resolution as a `ZarrVolume`, and its voxel size, (z, y, x) um or None.

    path: the folder that holds the multiscales metadata. frame, channel, axes: as in `read_tiff`.

    Raises InputError where zarr is not installed, or the folder is no OME-Zarr image or not one 3D stack.
    Follows the metadata of https://ngff.openmicroscopy.org, versions 0.4 and 0.5.
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
    voxel_size = _voxel_size(own, units, scale) if agree(own, array.shape, axes) else None
    version = "0.5" if "ome" in attributes else "0.4"
    return ZarrVolume(path, array, index, list(order), version), voxel_size


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
