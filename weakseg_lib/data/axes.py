"""What TIFF and OME-Zarr share: which axes a file's array has, and what its lengths are in micrometres."""

from weakseg_lib.errors import InputError

UNKNOWN = "QI"  # tifffile's letters for an axis that the file does not name
MICROMETRES = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "um": 1.0,
    "\u00b5m": 1.0,  # micro sign
    "\u03bcm": 1.0,  # Greek mu
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
}


def micrometres(unit):
    """Return how many micrometres one `unit` (str) is, or None for a unit that is no known length."""
    # ImageJ writes the micro sign as the six characters backslash u00B5.
    return MICROMETRES.get(str(unit).strip().lower().replace("\\u00b5", "\u00b5"))


def choose_volume(axes, shape, where, frame=None):
    """Return the index that takes the (z, y, x) volume out of an array, or say why there is none.

    axes: one letter for each axis: T, C, Z, Y, X, S for colour samples, Q or I for one without a name.
    shape: the array's. where: the file, for messages. frame: which time point of a 4D array to take.

    Raises InputError for an image that is 2D, in colour, of several channels, a time series of 2D images,
    or 4D without `frame`.
    """
    if 0 in shape:
        raise InputError(where, f"is an empty image of shape {shape}", "give a stack that has voxels")
    kept = [i for i, size in enumerate(shape) if size > 1 or axes[i] in "YX"]
    letters = "".join(axes[i] for i in kept)
    found = f"axes {axes}, shape {tuple(shape)}"
    if "S" in letters:
        fix = "convert it to one grey channel (ImageJ: Image > Type), or save its z slices as slices"
        raise InputError(where, f"is a colour image ({found})", fix)
    if "C" in letters:
        fix = "keep the one with the cells (ImageJ: Image > Color > Split Channels)"
        raise InputError(where, f"has {shape[axes.index('C')]} channels, one is needed ({found})", fix)
    if letters == "YX":
        fix = "give a 3D stack (ImageJ: File > Import > Image Sequence joins slices)"
        raise InputError(where, f"is a 2D image ({found})", fix)
    if letters == "TYX":
        fix = "if its frames are z slices, correct that in ImageJ (Image > Properties) and save it again"
        raise InputError(where, f"is a time series of 2D images, not a 3D stack ({found})", fix)

    # Without names numpy's order is meant: the axis before z is time.
    time = letters.find("T") if "T" in letters else 0 if letters[0] in UNKNOWN and len(letters) == 4 else None
    space = letters if time is None else letters[:time] + letters[time + 1 :]
    if len(space) != 3 or space[0] not in "Z" + UNKNOWN or space[1:] != "YX":
        raise InputError(where, f"is not a single 3D stack ({found})", "save one stack with the axes z, y, x")
    frames = 1 if time is None else shape[kept[time]]
    if frame is None and frames > 1:
        fix = f"pick one with `--frame T`, T = 0..{frames - 1}, or save it as one file a time point"
        raise InputError(where, f"is a 4D image of {frames} time points ({found})", fix)
    if frame is not None and not 0 <= frame < frames:
        fix = f"`--frame` can be 0..{frames - 1} here" if frames > 1 else "leave `--frame` out"
        raise InputError(where, f"has no frame {frame} ({found})", fix)
    index = [slice(None) if i in kept else 0 for i in range(len(shape))]
    if time is not None:
        index[kept[time]] = frame
    return tuple(index)
