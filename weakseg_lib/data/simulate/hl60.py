"""Simulated HL60 nuclei in time, standing in for Fluo-N3DH-SIM+ (which is itself simulated).

Image formation follows the real set's generator (design.md, section 8). What its makers don't publish is our
modelling choice: how the groups differ (group 2 has more nuclei in the same field, pressed closer, and fewer
photons on the same camera), how bright nuclei are, the cell cycle, the speed, and that the field stays about
as full as it began, because the colony spreads as it grows. Numbers made on it aren't the real set's.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from weakseg_lib.data.files import atomic_write_text, write_json
from weakseg_lib.data.simulate.microscope import Microscope
from weakseg_lib.data.simulate.nuclei import Culture
from weakseg_lib.data.stacks import frame_name, write_tiff
from weakseg_lib.errors import InputError


@dataclass(frozen=True)
class HL60Settings:
    """One group. Start from `hl60_settings` and change fields with `dataclasses.replace`."""

    shape: tuple[int, int, int] = (32, 160, 160)
    voxel_size: tuple[float, float, float] = (0.4, 0.25, 0.25)  # um
    cells: int = 17  # at the start, and about as many later
    photons: float = 600.0  # mean of a nucleus, a voxel
    squeeze: float = 0.97  # of the distance at which two ellipsoids just touch
    cycle_frames: float = 60.0
    mitosis_frames: float = 5.0
    step_um: float = 0.25  # sigma of the random walk, a frame and axis
    microscope: Microscope = field(default_factory=Microscope)

    @property
    def extent_um(self) -> np.ndarray:
        return np.array(self.shape) * np.array(self.voxel_size)


def hl60_settings(group, size="laptop") -> HL60Settings:
    """Settings of group 1 or 2 at size "laptop" or "paper". Raises InputError for another group or size."""
    if group not in (1, 2):
        raise InputError(f"group {group}", "unknown", "take 1 or 2")
    if size not in ("laptop", "paper"):
        raise InputError(f"size {size}", "unknown", 'take "laptop" or "paper"')
    settings = HL60Settings()
    if size == "paper":
        shape = (59, 349, 639) if group == 1 else (59, 343, 649)
        settings = replace(settings, shape=shape, voxel_size=(0.2, 0.125, 0.125), cells=20)
    if group == 2:
        cells = 26 if size == "laptop" else 28
        settings = replace(settings, cells=cells, photons=220.0, squeeze=0.92)
    return settings


def hl60_frames(group, settings=None, seed=0, parents=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless time-lapse of one group: (image uint16, labels int32), both (D, H, W); ids are track ids.

    settings: HL60Settings (default: laptop); parents: a dict to fill with the parent (or 0) of every nucleus.
    The same group, settings and seed give the same frames. Labels are exact: taken before blur and noise.
    """
    settings = settings or hl60_settings(group)
    culture = Culture(settings, np.random.default_rng(np.random.SeedSequence((seed, group))))
    for t in itertools.count():
        photons, labels = culture.draw()
        # Noise has a stream of its own in each frame, so that how it is drawn can't move a nucleus.
        noise = np.random.default_rng(np.random.SeedSequence((seed, group), spawn_key=(t,)))
        if parents is not None:
            parents.update(culture.parents)
        yield settings.microscope.image(photons, settings.voxel_size, noise), labels
        culture.advance()


def simulate_hl60(out, stacks=4, size="laptop", seed=0, progress=True) -> list[Path]:
    """Write a data set in the Cell Tracking Challenge layout; returns [OUT/01, OUT/02] (groups 1 and 2).

    Each group gets `stacks` consecutive frames: tTTT.tif (uint16), 01_GT/SEG/man_segTTT.tif (labels),
    01_GT/TRA/man_trackTTT.tif (a small marker a nucleus, same ids) and man_track.txt (rows L B E P: id, first
    frame, last frame, parent or 0); OUT/dataset.json holds the voxel size. Sizes: "laptop" 32x160x160 at
    (0.4, 0.25, 0.25) um, "paper" 59x349x639 and 59x343x649 at (0.2, 0.125, 0.125) um (design.md, section 8).
    Raises InputError for stacks < 1, a negative seed, an unknown size, or an OUT that already holds data.
    """
    out = Path(out)
    for name, value, least in (("stacks", stacks, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} {value}", "out of range", f"give a whole number, {least} or more")
    groups = {group: hl60_settings(group, size) for group in (1, 2)}
    if out.exists() and not out.is_dir():
        raise InputError(out, "is a file", "choose a folder")
    if (out / "dataset.json").exists() or any(out.glob("0[12]*/**/*.tif")):
        raise InputError(out, "already holds data", "choose another folder")
    with tqdm(total=2 * stacks, desc="simulate", unit="stack", disable=not progress) as bar:
        for group, settings in groups.items():
            _write_group(out / f"{group:02d}", group, settings, stacks, seed, bar)
    about = {"voxel_size_um": list(groups[1].voxel_size), "simulated": True, "specimen": "hl60"}
    write_json(out / "dataset.json", about | {"seed": int(seed), "size": size})
    return [out / "01", out / "02"]


def _write_group(folder, group, settings, stacks, seed, bar) -> None:
    truth, voxel = folder.with_name(folder.name + "_GT"), settings.voxel_size
    parents, seen = {}, {}  # id -> parent, id -> [first frame, last frame]
    for t, (image, labels) in enumerate(
        itertools.islice(hl60_frames(group, settings, seed, parents), stacks)
    ):
        write_tiff(folder / f"t{frame_name(t)}.tif", image, voxel)
        write_tiff(truth / "SEG" / f"man_seg{frame_name(t)}.tif", labels, voxel)
        write_tiff(truth / "TRA" / f"man_track{frame_name(t)}.tif", _markers(labels, voxel), voxel)
        for i in np.unique(labels[labels > 0]).tolist():
            seen.setdefault(i, [t, t])[1] = t
        bar.update()
    rows = [f"{i} {b} {e} {parents[i] if parents[i] in seen else 0}\n" for i, (b, e) in sorted(seen.items())]
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
