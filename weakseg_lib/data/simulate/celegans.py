"""Simulated C. elegans embryos, standing in for Fluo-N3DH-CE: nuclei where real tracks have them, then drawn.

The geometry is the real set's (design.md, section 8), and positions, sizes and divisions are those of the tracks.
All else is our modelling choice: shapes and texture, how bright nuclei are (smaller ones and dividing ones more,
and some are brighter than others, as histone-GFP is), and every number of the microscope: blur much stronger along z,
haze, light lost with depth, photons and camera. Numbers made on it aren't the real set's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from weakseg_lib.data.simulate.dataset import write_dataset
from weakseg_lib.data.simulate.microscope import Microscope
from weakseg_lib.data.simulate.nuclei import BUMPS, FLATNESS, Nucleus, chromatin, draw_nuclei
from weakseg_lib.data.simulate.tracks import Tracks, choose_times, grow_embryo, read_tracks
from weakseg_lib.errors import InputError

STACKS = 15  # of the real set's training group that were annotated,
BOXES = 1527  # and what they hold
TEXTURES = 16  # shared by the nuclei of an embryo, each turned its own way
CONDENSED_FRAMES = 4.0  # before and after division


@dataclass(frozen=True)
class CelegansSettings:
    """One group. Start from `celegans_settings` and change fields with `dataclasses.replace`."""

    shape: tuple[int, int, int] = (35, 171, 236)
    voxel_size: tuple[float, float, float] = (1.0, 0.27, 0.27)  # um
    photons: float = 150.0  # mean of a nucleus 4 um across at the top, a voxel
    depth_um: float = 30.0  # where light has fallen to 1/e
    haze: float = 0.25  # share of the light that comes from out of focus,
    haze_um: float = 4.0  # spread this far (sigma)
    microscope: Microscope = field(
        default_factory=lambda: Microscope(blur_um=(0.9, 0.2, 0.2), offset=100.0, read_noise=6.0)
    )


def celegans_settings(group, size="laptop") -> CelegansSettings:
    """Settings of group 1 or 2 at size "laptop" or "paper". Raises InputError for another group or size."""
    shapes = {
        "laptop": {1: (35, 171, 236), 2: (31, 171, 237)},  # the same field in voxels three times as wide
        "paper": {1: (35, 512, 708), 2: (31, 512, 712)},
    }
    if size not in shapes:
        raise InputError(f"size {size}", "unknown", 'take "laptop" or "paper"')
    if group not in shapes[size]:
        raise InputError(f"group {group}", "unknown", "take 1 or 2")
    side = {"laptop": 0.27, "paper": 0.09}[size]
    return CelegansSettings(shapes[size][group], (1.0, side, side))


def celegans_frames(tracks, times, settings, seed=(0, 1)) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stacks of one embryo at `times`: (image uint16, labels int32), both (D, H, W); ids are the tracks' cells.

    seed: numbers, as (seed, group); the same ones give the same stacks. Labels are exact: taken before blur.
    """
    rng = _rng(seed, 1)
    textures = [chromatin(rng) for _ in range(TEXTURES)]
    looks = {}  # of a cell, the same at all times
    for time in times:
        # Each cell and each time's noise has a stream of its own: which times are drawn changes neither.
        for cell in tracks.cell[tracks.time == time].tolist():
            if cell not in looks:
                looks[cell] = _look(_rng(seed, 2, cell), textures)
        photons, labels = draw_nuclei(_nuclei(tracks, time, looks), settings)
        light = _through_the_embryo(photons, settings)
        yield settings.microscope.expose(light, _rng(seed, 3, time)), labels


def check_inside(tracks, settings) -> None:
    """Raise InputError where nuclei lie outside the stack, as in tracks with another pixel size."""
    extent = np.array(settings.shape) * settings.voxel_size
    outside = ((tracks.centre < 0) | (tracks.centre > extent)).any(1).sum()
    if outside:
        what = f"{outside} of {len(tracks.time)} nuclei lie outside a stack of {extent.round()} um (z, y, x)"
        raise InputError(tracks.source, what, "use tracks in pixels of 0.09 um and planes of 1 um")


def _rng(seed, *stream) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def _look(rng, textures) -> dict:
    """What tracks don't tell about a nucleus: which way it is turned, its shape, brightness and texture."""
    return {
        "turn": Rotation.from_quat(rng.standard_normal(4)).as_matrix(),  # any way, all alike likely
        "elongation": rng.uniform(1.0, 1.12),
        "bumps": rng.normal(0, 0.03, BUMPS),
        "brightness": rng.lognormal(0, 0.25),
        "texture": textures[rng.integers(len(textures))],
    }


def _nuclei(tracks: Tracks, time, looks) -> list[Nucleus]:
    """The nuclei of one time, of the volume that a ball of the tracked diameter has."""
    found = []
    for k in np.flatnonzero(tracks.time == time):
        cell, diameter = int(tracks.cell[k]), float(tracks.diameter[k])
        first, last = tracks.spans[cell - 1]
        divides = cell in tracks.mothers
        # Tracks tell the size: no growth and no stretch (an endless cycle), only chromatin that is condensed
        # around divisions. So `age` is the time to the nearest one.
        age = min(time - first, last + 1 - time if divides else np.inf)
        look = looks[cell] | {"brightness": looks[cell]["brightness"] * 4 / diameter}
        found.append(
            Nucleus(
                id=cell,
                parent=tracks.mothers[cell - 1],
                centre=tracks.centre[k],
                age=age,
                cycle=np.inf,
                radius=diameter / 2 / FLATNESS ** (1 / 3),
                mitosis=CONDENSED_FRAMES,
                **look,
            )
        )
    return found


def _through_the_embryo(photons, settings) -> np.ndarray:
    """The light (float32) that reaches the camera: blurred, with haze, and the dimmer the deeper it comes from."""
    haze, width = photons, [max(round(2 * settings.haze_um / side), 1) for side in settings.voxel_size]
    for _ in range(3):  # running means: three make nearly a Gaussian, at a cost that the width doesn't change
        haze = ndimage.uniform_filter(haze, width)
    sharp = settings.microscope.blur(photons, settings.voxel_size)
    depth = (np.arange(len(photons), dtype=np.float32) * settings.voxel_size[0])[:, None, None]
    return ((1 - settings.haze) * sharp + settings.haze * haze) * np.exp(-depth / settings.depth_um)


def simulate_celegans(out, stacks=None, size="laptop", seed=0, tracks=None, progress=True) -> list[Path]:
    """Write a data set in the Cell Tracking Challenge layout; returns [OUT/01, OUT/02], an embryo each.

    Each group gets `stacks` (default 15) stacks, spread from early to late so that 15 hold about 1527 nuclei, with
    labels and tracks as `write_dataset` says. tracks: two files as `read_tracks` reads, for groups 1 and 2; without
    them each group is an embryo of `grow_embryo`. Sizes: "paper" 35x512x708 and 31x512x712 at (1, 0.09, 0.09) um,
    "laptop" the same fields at (1, 0.27, 0.27) um.
    Raises InputError for an unknown size and as `write_dataset`, `read_tracks` and `choose_times` do.
    """
    settings = {group: celegans_settings(group, size) for group in (1, 2)}
    stacks = STACKS if stacks is None else stacks
    parents = {group: {} for group in settings}

    @cache  # with the first stack: arguments are checked by then, and nothing is written yet
    def plan():
        if tracks:
            embryos = {group: read_tracks(path) for group, path in zip(settings, tracks, strict=True)}
        else:
            embryos = {group: grow_embryo(_rng((seed, group), 0)) for group in settings}
        for group, embryo in embryos.items():
            parents[group].update(enumerate(embryo.mothers, start=1))
            check_inside(embryo, settings[group])
        nuclei = stacks * BOXES / STACKS
        return {group: (embryo, choose_times(embryo, stacks, nuclei)) for group, embryo in embryos.items()}

    def frames(group):
        yield from celegans_frames(*plan()[group], settings[group], (seed, group))

    groups, voxel_size = {group: frames(group) for group in settings}, settings[1].voxel_size
    about = {"tracks": [Path(path).name for path in tracks] if tracks else "none: lineage-free embryos"}
    return write_dataset(out, "celegans", groups, voxel_size, stacks, seed, size, progress, parents, about)
