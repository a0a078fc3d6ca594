"""What all readers share: which axes a file's array has, and what its lengths are in micrometres."""

from weakseg_lib.data.plausible import warn_once
from weakseg_lib.errors import InputError

VOXEL_SIZE = "--voxel-size Z Y X"
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


def choose_volume(axes, shape, where, frame=None, channel=None, asked=None, channels=()):
    """Return index and order that take the one (z, y, x) volume out of an array: `array[index].transpose(order)`.

    axes: one letter for each axis: T, C, Z, Y, X, P for positions, S for colour samples, Q or I for one without
    a name. shape: the array's. where: the file, for messages. frame, channel: which time point and which
    channel to take, from 0. asked: the axes as the user knows them, with or without those of length 1; they
    go before the file's. channels: the channels' names, for messages.

    Raises InputError for an image that is 2D, or has several channels, colours, time points or positions and
    nothing chooses one; for axes in an unusual order, which are not taken on trust; for a wrong `asked`. Warns
    where `asked` contradicts a file that names z, y and x itself.
    """
    if 0 in shape:
        raise InputError(where, f"is an empty image of shape {shape}", "give a stack that has voxels")
    found = _describe(axes, shape)
    if asked is not None:
        axes = _asked_axes(axes, asked, shape, where, found)
    if channel is not None and ("C" not in axes or shape[axes.index("C")] == 1):
        axes = axes.replace("C", "Q").replace("S", "C")  # red is a channel where one is wanted
    index = [slice(None) if size > 1 or axis in "YX" else 0 for axis, size in zip(axes, shape, strict=True)]
    kept = [i for i, part in enumerate(index) if part != 0]
    letters = "".join(axes[i] for i in kept)
    if "P" in letters:
        fix = "save the one you mean as a file of its own"
        raise InputError(where, f"holds {shape[axes.index('P')]} positions ({found})", fix)
    if "S" in letters:
        fix = f"take one colour, {by_import('--channel N')}, or make it grey (ImageJ: Image > Type)"
        if "C" in letters:
            fix = "save one grey image a channel (ImageJ: Image > Type), or the channel you mean as a file of its own"
        raise InputError(where, f"is a colour image ({found})", fix)
    if "C" in letters or channel is not None:
        place = axes.find("C")
        number = 1 if place < 0 else shape[place]
        _check_channel(channel, number, channels, where, found, letters)
        if number > 1:
            index[place] = channel
            kept.remove(place)
            letters = letters.replace("C", "")
    if letters == "YX":
        joined = by_import(f"--slices {VOXEL_SIZE}", "FOLDER")
        fix = f"give a 3D stack, or the folder of its slices: {joined}"
        raise InputError(where, f"is a 2D image ({found})", fix)
    if letters == "TYX":
        command = by_import(f"--axes ZYX {VOXEL_SIZE}")
        fix = f"if its frames are z slices, say so: {command}, or in ImageJ (Image > Properties)"
        raise InputError(where, f"is a time series of 2D images, not a 3D stack ({found})", fix)

    # Without names numpy's order is meant: the axis before z is time.
    time = letters.find("T") if "T" in letters else 0 if letters[0] in UNKNOWN and len(letters) == 4 else None
    if time is not None:
        index[kept[time]] = _check_frame(frame, shape[kept[time]], where, found)
        kept.pop(time)
    elif frame:
        _check_frame(frame, 1, where, found)
    space = "".join(axes[i] for i in kept)
    if asked is None:
        _check_order(space, [shape[i] for i in kept], where, found)
        return tuple(index), (0, 1, 2)
    return tuple(index), tuple(space.index(axis) for axis in "ZYX")


def agree(axes, shape, asked):
    """Return whether the axes that a file names (str, of `shape`) are those `asked` (str or None), in order (bool).

    Where they are not, the lengths in micrometres that the file gives belong to other axes.
    """
    if asked is None:
        return True
    pairs = zip(axes, shape, _for_each_axis(asked, shape), strict=True)
    return all(own == other or own in UNKNOWN for own, size, other in pairs if size > 1)


def by_import(option, source="FILE"):
    """Return how to say `option` (str) to the command that brings in images of any form (str)."""
    return f"`weakseg import {source} --out NAME/01 {option}`"


def _describe(axes, shape):
    size = " x ".join(str(n) for n in shape)
    named = not any(axis in UNKNOWN for axis, n in zip(axes, shape, strict=True) if n > 1)
    return f"shape {size}, axes {axes if named else 'not named'}"


def _asked_axes(axes, asked, shape, where, found):
    """Return a letter for each axis (str), as `asked` says; axes (str): what the file says."""
    letters = asked.upper()
    long = [i for i, size in enumerate(shape) if size > 1]
    wrong = sorted(letters) != sorted(set(letters) & set("TCZYX")) or not set("ZYX") <= set(letters)
    if wrong or len(letters) not in (len(shape), len(long)):
        fix = (
            f"name each of the {len(long)} axes longer than 1 once, by Z, Y, X, and T or C where it has them"
        )
        raise InputError(where, f"`--axes {asked}` does not go with it ({found})", fix)
    if set("ZYX") <= {axes[i] for i in long} and not agree(axes, shape, asked):
        problem = f"names its axes itself, {axes}, and {letters} is taken, without the file's voxel size"
        warn_once(f"{where}: {problem}; leave `--axes` out if the file is right")
    return _for_each_axis(asked, shape)


def _for_each_axis(asked, shape):
    """`asked` (str) with a letter for each axis of `shape`: Q for those of length 1 where it leaves them out."""
    if len(asked) == len(shape):
        return asked.upper()
    rest = iter(asked.upper())
    return "".join(next(rest) if size > 1 else "Q" for size in shape)


def _check_channel(channel, number, names, where, found, letters):
    listed = ", ".join(f"{i} {name}".strip() for i, name in enumerate(names or [""] * number))
    if channel is None:
        fix = f"choose one: {by_import('--channel N')}, N = 0..{number - 1}"
        if "Z" not in letters:
            fix += f", or `--axes ZYX {VOXEL_SIZE}` if they are z slices"
        raise InputError(where, f"has {number} channels, one is needed ({listed}; {found})", fix)
    if not 0 <= channel < number:
        fix = f"`--channel` can be 0..{number - 1} here" if number > 1 else "leave `--channel` out"
        raise InputError(where, f"has no channel {channel} ({listed}; {found})", fix)


def _check_frame(frame, frames, where, found):
    """Return the time point to take (int)."""
    if frame is None and frames > 1:
        fix = f"pick one with `--frame T`, T = 0..{frames - 1}, or save it as one file a time point"
        raise InputError(where, f"is a 4D image of {frames} time points ({found})", fix)
    if not 0 <= (frame or 0) < frames:
        fix = f"`--frame` can be 0..{frames - 1} here" if frames > 1 else "leave `--frame` out"
        raise InputError(where, f"has no frame {frame} ({found})", fix)
    return frame or 0


def _check_order(space, sizes, where, found):
    """Refuse axes (str) of `sizes` that are not z, y, x, or that have no names and look like another order."""
    if sorted(space) == sorted("ZYX") and space != "ZYX":
        fix = f"if that is right, say so: {by_import(f'--axes {space}')}"
        raise InputError(where, f"has its axes in the order {space}, not ZYX ({found})", fix)
    if len(space) != 3 or space[0] not in "Z" + UNKNOWN or space[1:] != "YX":
        fix = f"save one stack as z, y, x, or say which axis is which: {by_import('--axes TZYX')} for example"
        raise InputError(where, f"is not a single 3D stack ({found})", fix)
    if space[0] in UNKNOWN and min(sizes[1:]) * 2 < sizes[0]:
        # Slices are seldom more than twice the pixels of a side; (x, y, z) saved from Matlab or by numpy is common.
        last = sizes[2] <= sizes[1]  # the shortest axis is most likely z
        place, order = ("third", "YXZ") if last else ("second", "YZX")
        command = by_import(f"--axes {order} {VOXEL_SIZE}")
        fix = f"if z is the {place}: {command}; if it is the first, the same with `--axes ZYX`"
        raise InputError(where, f"does not name its axes, and z may not be the first ({found})", fix)
