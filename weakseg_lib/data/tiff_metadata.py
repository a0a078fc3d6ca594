"""What a TIFF says of its images beside the voxels: lengths in micrometres and names of channels."""

from xml.etree import ElementTree

import tifffile

from weakseg_lib.data.axes import micrometres


def voxel_size_of(tif, series):
    """Return the voxel size (z, y, x) um of one image of an open TIFF, or None where the file does not say it.

    tif: tifffile.TiffFile. series: one of tif.series.
    """
    if tif.is_ome and tif.ome_metadata:
        sizes = [_ome_voxel_size(pixels) for pixels in _ome_pixels(tif, series)]
        # Which one is meant may be open, but not what all of them say.
        return sizes[0] if sizes and len(set(sizes)) == 1 else None
    return _imagej_voxel_size(tif) if tif.is_imagej else None


def spacing_is_default(path):
    """Return whether z in a file's voxel size is ImageJ's default, as the file does not name it (bool).

    path: an image of any form; False of what is not ImageJ's.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            return bool(tif.is_imagej and not tif.is_ome) and "spacing" not in (tif.imagej_metadata or {})
    except (OSError, tifffile.TiffFileError):
        return False


def channel_names(tif, series):
    """Return the channels' names (list of str) of one image of an open OME-TIFF; empty where they are not known."""
    found = _ome_pixels(tif, series) if tif.is_ome and tif.ome_metadata else []
    if len(found) != 1:
        return []
    return [node.get("Name", "") for node in found[0] if node.tag.endswith("}Channel")]


def _imagej_voxel_size(tif):
    metadata = tif.imagej_metadata or {}
    # `unit` is that of x, and of the others where they do not have their own.
    units = [micrometres(metadata.get(f"{axis}unit", metadata.get("unit", ""))) for axis in "zyx"]
    tags = tif.pages.first.tags
    if None in units or "XResolution" not in tags or "YResolution" not in tags:
        return None
    y, x = (
        _size_of(tags[f"{axis}Resolution"].value, unit) for axis, unit in zip("YX", units[1:], strict=True)
    )
    # ImageJ leaves the spacing out where it is exactly 1.
    return float(metadata.get("spacing", 1.0)) * units[0], y, x


def _size_of(resolution, unit):
    pixels, per = resolution
    # Seven digits are what the tag's ratio of integers is good for: 0.09 and not 0.09000000009.
    return float(f"{unit * per / pixels:.7g}") if pixels else 0.0


def _ome_voxel_size(pixels):
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
    units = [micrometres(pixels.get(f"PhysicalSize{axis}Unit", "um")) for axis in "ZYX"]
    if None in sizes or None in units:
        return None
    return tuple(float(f"{float(size) * unit:.7g}") for size, unit in zip(sizes, units, strict=True))


def _ome_pixels(tif, series):
    """The description of one image of an OME-TIFF, [node]; of all images where it is open which is which."""
    try:
        nodes = ElementTree.fromstring(tif.ome_metadata).iter()
    except ElementTree.ParseError:
        return []
    found = [node for node in nodes if node.tag.rpartition("}")[2] == "Pixels"]
    # tifffile leaves out images without data.
    return [found[tif.series.index(series)]] if len(found) == len(tif.series) else found
