"""Reading microscopes' own files: Nikon's ND2 and Zeiss's CZI. Needs the optional packages nd2 and pylibCZIrw."""

from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from weakseg_lib.data.axes import choose_volume
from weakseg_lib.errors import InputError

EXPORT = "export it as OME-TIFF with the microscope's own program"
COPY_AGAIN = f"copy the file again, or {EXPORT}"
CZI_AXES = "TCZYX"
PACKAGES = {"ND2": "nd2", "CZI": "pylibCZIrw"}


def read_nd2(path, frame=None, channel=None, axes=None):
    """Return the volume in an ND2 file and its voxel size: array (D, H, W), (z, y, x) um or None.

    frame, channel: which time point and channel of a file of several. axes: None, since the file names its own.
    Only the planes of the volume are read. The voxel size is None where one of its axes is not calibrated.

    Raises InputError where nd2 is not installed, for a damaged file and one that is not one 3D stack.
    """
    path = Path(path)
    with _reading(path, "ND2", axes):
        import nd2

        with nd2.ND2File(path) as file:
            if file.is_legacy:
                raise InputError(path, "is an ND2 file of the old kind (JPEG 2000)", EXPORT)
            return nd2_volume(file, path, frame, channel)


def nd2_volume(file, path, frame=None, channel=None):
    """Return what `read_nd2` does of an open `nd2.ND2File`. path: for messages."""
    channels = file.metadata.channels or []
    sizes = {"Z": 1} | dict(file.sizes)  # nd2 leaves axes of length 1 out
    names = [one.channel.name for one in channels]
    choose_volume("".join(sizes), tuple(sizes.values()), path, frame, channel, channels=names)
    wanted = [(at.get("Z", 0), i) for i, at in enumerate(file.loop_indices) if at.get("T", 0) == (frame or 0)]
    if wanted[-1][1] >= file.attributes.sequenceCount:
        raise InputError(path, "is incomplete, the recording was stopped before its last slice", COPY_AGAIN)
    # A plane holds all channels, and the samples of a colour last.
    of_plane = [sizes.get(axis, 1) for axis in "CYXS"]
    first, last = (0, channel or 0) if sizes.get("S", 1) > 1 else (channel or 0, 0)
    planes = [file.read_frame(i).reshape(of_plane)[first, ..., last] for _, i in sorted(wanted)]
    calibrated = bool(channels) and all(channels[0].volume.axesCalibrated)
    x, y, z = file.voxel_size()
    return np.stack(planes), (float(z), float(y), float(x)) if calibrated else None


def read_czi(path, frame=None, channel=None, axes=None):
    """Return the volume in a CZI file and its voxel size: array (D, H, W), (z, y, x) um or None.

    Arguments as in `read_nd2`; tiles of a mosaic are joined. Raises InputError where pylibCZIrw is not
    installed, for a damaged file and one that is not one 3D stack, several scenes for example.
    """
    path = Path(path)
    with _reading(path, "CZI", axes):
        from pylibCZIrw import czi

        with czi.open_czi(str(path)) as file:
            return _czi_volume(file, path, frame, channel)


def _czi_volume(file, path, frame, channel):
    box = {axis: (low, high - low) for axis, (low, high) in file.total_bounding_box_no_pyramid.items()}
    sizes = {axis: box.get(axis, (0, 1))[1] for axis in CZI_AXES}
    # Phases, rotations, views, ...: letters that no single stack has.
    sizes = {axis: size for axis, (_, size) in box.items() if axis not in CZI_AXES} | sizes
    sizes = {"P": max(1, len(file.scenes_bounding_rectangle_no_pyramid))} | sizes
    if any(name.startswith("Bgr") for name in file.pixel_types.values()):
        sizes["S"] = 3
        if sizes["C"] == 1:
            del sizes["C"]  # the colours are the channels
    metadata = ElementTree.fromstring(file.raw_metadata)
    names = [node.get("Name", "") for node in metadata.findall(".//Dimensions/Channels/Channel")]
    choose_volume("".join(sizes), tuple(sizes.values()), path, frame, channel, channels=names)
    samples = "S" in sizes
    at = {"T": frame or 0, "C": 0 if samples else channel or 0}
    first = {axis: box.get(axis, (0, 1))[0] for axis in "TCZ"}
    planes = []
    for z in range(sizes["Z"]):
        place = {axis: first[axis] + at.get(axis, z) for axis in "TCZ"}
        plane = file.read(plane=place)
        planes.append(plane[..., 2 - channel if samples else 0])  # colours are stored as blue, green, red
    lengths = {node.get("Id"): float(node.findtext("Value") or 0) for node in metadata.iter("Distance")}
    voxel_size = tuple(float(f"{1e6 * lengths.get(axis, 0):.7g}") for axis in "ZYX")  # they are in metres
    return np.stack(planes), voxel_size if min(voxel_size) > 0 else None


@contextmanager
def _reading(path, form, axes):
    """Whatever goes wrong in reading a file of this form is one InputError. axes: what the user said they are."""
    if axes is not None:
        raise InputError(path, f"names its axes itself, and `--axes {axes}` was given", "leave `--axes` out")
    package = PACKAGES[form]
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        fix = f'run `pip install "weakseg_lib[formats]"`, or {EXPORT}'
        raise InputError(path, f"is a {form} file and the {package} package is not installed", fix) from error
    except Exception as error:
        raise InputError(path, f"is damaged or no {form} file ({error})", COPY_AGAIN) from error
