"""Writing simulated stacks as a data set in the layout of the Cell Tracking Challenge."""

from itertools import islice
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from weakseg_lib.data.files import atomic_write_text, write_json
from weakseg_lib.data.stacks import frame_name, write_tiff
from weakseg_lib.errors import InputError


def write_dataset(
    out, specimen, groups, voxel_size, stacks, seed, size, progress=True, parents=None, about=None
) -> list[Path]:
    """Write the first stacks of every group below OUT; returns the sequence folders, [OUT/01, OUT/02].

    groups: {1: iterator of (image uint16, labels int32), both (D, H, W)}; nothing is taken from it before the
    arguments are checked. voxel_size: (z, y, x) um. stacks: how many of each group, or {group: how many}.
    parents: {group: {id: parent or 0}} where the stacks are frames in time; it may fill while they are drawn.
    about: more entries for dataset.json, as the source of what was drawn.

    A group gets NN/tTTT.tif and NN_GT/SEG/man_segTTT.tif, and with `parents` also NN_GT/TRA: man_trackTTT.tif
    (a small marker a cell, same ids) and man_track.txt (rows L B E P: id, first frame, last frame, parent
    or 0). OUT/dataset.json says that the data are simulated, and how.
    Raises InputError for stacks < 1, a negative seed, or an OUT that already holds data.
    """
    out = Path(out)
    stacks = stacks if isinstance(stacks, dict) else dict.fromkeys(groups, stacks)
    _check_whole("seed", seed, 0)
    for number in stacks.values():
        _check_whole("stacks", number, 1)
    if out.exists() and not out.is_dir():
        raise InputError(out, "is a file", "choose a folder")
    if (out / "dataset.json").exists() or any(out.glob("0[0-9]*/**/*.tif")):
        raise InputError(out, "already holds data", "choose another folder")
    folders = {group: out / f"{group:02d}" for group in groups}
    with tqdm(total=sum(stacks.values()), desc="simulate", unit="stack", disable=not progress) as bar:
        for group, frames in groups.items():
            frames = islice(frames, stacks[group])
            _write_group(folders[group], frames, voxel_size, parents and parents[group], bar)
    known = {"voxel_size_um": list(voxel_size), "simulated": True, "specimen": specimen}
    write_json(out / "dataset.json", known | {"seed": int(seed), "size": size} | (about or {}))
    return list(folders.values())


def _check_whole(name, value, least) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} {value}", "out of range", f"give a whole number, {least} or more")


def _write_group(folder, frames, voxel_size, parents, bar) -> None:
    truth = folder.with_name(folder.name + "_GT")
    seen = {}  # id -> [first frame, last frame]
    for t, (image, labels) in enumerate(frames):
        write_tiff(folder / f"t{frame_name(t)}.tif", image, voxel_size)
        write_tiff(truth / "SEG" / f"man_seg{frame_name(t)}.tif", labels, voxel_size)
        if parents is not None:
            markers = _markers(labels, voxel_size)
            write_tiff(truth / "TRA" / f"man_track{frame_name(t)}.tif", markers, voxel_size)
        for i in np.unique(labels[labels > 0]).tolist():
            seen.setdefault(i, [t, t])[1] = t
        bar.update()
    if parents is not None:
        rows = (
            f"{i} {b} {e} {parents[i] if parents[i] in seen else 0}\n" for i, (b, e) in sorted(seen.items())
        )
        atomic_write_text(truth / "TRA" / "man_track.txt", "".join(rows))


def _markers(labels, voxel_size, radius_um=0.6) -> np.ndarray:
    """A small ball (int32, same ids) at the voxel of each label nearest to its centroid, inside the label."""
    found = np.zeros_like(labels)
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        if box:
            where = np.argwhere(labels[box] == i)
            places = where * np.array(voxel_size)
            middle = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
            near = where[((places - middle) ** 2).sum(1) <= radius_um**2]
            found[box][tuple(near.T)] = i
    return found
