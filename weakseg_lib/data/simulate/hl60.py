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

from weakseg_lib.data.simulate.dataset import write_dataset
from weakseg_lib.data.simulate.microscope import Microscope
from weakseg_lib.data.simulate.nuclei import Culture
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


def simulate_hl60(out, stacks=None, size="laptop", seed=0, progress=True) -> list[Path]:
    """Write a data set in the Cell Tracking Challenge layout; returns [OUT/01, OUT/02] (groups 1 and 2).

    Each group gets `stacks` (default 4) consecutive frames with labels and tracks, as `write_dataset` says.
    Sizes: "laptop" 32x160x160 at (0.4, 0.25, 0.25) um, "paper" 59x349x639 and 59x343x649 at
    (0.2, 0.125, 0.125) um (design.md, section 8).
    Raises InputError for an unknown size and as `write_dataset` does.
    """
    settings = {group: hl60_settings(group, size) for group in (1, 2)}
    parents = {group: {} for group in settings}
    frames = {group: hl60_frames(group, settings[group], seed, parents[group]) for group in settings}
    stacks = 4 if stacks is None else stacks
    return write_dataset(out, "hl60", frames, settings[1].voxel_size, stacks, seed, size, progress, parents)
