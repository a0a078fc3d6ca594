"""Where the nuclei of a C. elegans embryo are: read from the tracks of a real one, or grown without a lineage."""

import csv
import gzip
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from weakseg_lib.errors import InputError

PIXEL_UM = np.array([1.0, 0.09, 0.09])  # (z, y, x) of the recordings that were tracked
NUMBERS = ("time", "z", "y", "x", "size")
FOUNDERS = {
    "AB": "P0", "P1": "P0", "EMS": "P1", "P2": "P1", "MS": "EMS", "E": "EMS",
    "C": "P2", "P3": "P2", "D": "P3", "P4": "P3", "Z2": "P4", "Z3": "P4",
}  # fmt: skip


@dataclass(frozen=True)
class Tracks:
    """The nuclei of one embryo over time: a row for every nucleus and time point."""

    source: str  # file, or how it was made
    time: np.ndarray  # (n,) int, about a minute each
    cell: np.ndarray  # (n,) int, 1 and up, the same at all times
    centre: np.ndarray  # (n, 3) um (z, y, x) from the corner of the stack
    diameter: np.ndarray  # (n,) um
    names: list[str]  # of cells 1, 2, ...
    mothers: list[int]  # of cells 1, 2, ...; 0: none, or not known

    @cached_property
    def counts(self) -> dict[int, int]:
        """{time: number of nuclei}, in order of time."""
        return dict(
            zip(*(values.tolist() for values in np.unique(self.time, return_counts=True)), strict=True)
        )

    @cached_property
    def spans(self) -> np.ndarray:
        """(cells, 2) first and last time of cells 1, 2, ..."""
        cells = range(1, len(self.names) + 1)
        return np.array([(seen.min(), seen.max()) for seen in (self.time[self.cell == i] for i in cells)])


def read_tracks(path) -> Tracks:
    """Read a CSV of nucleus tracks, plain or .gz: columns cell, time, x, y (pixels of 0.09 um), z (planes of
    1 um) and size (diameter in pixels), as EPIC writes them (Murray et al., Nat Methods 5:703, 2008).

    Mothers follow from the names. Raises InputError for a file that is missing, damaged or empty, a column that
    is missing or holds anything but numbers, sizes not above 0, and a cell that is twice at one time.
    """
    path = Path(path)
    rows = _read_rows(path)
    table = {name: _numbers(rows, name, path) for name in NUMBERS}
    if table["size"].min() <= 0:
        raise InputError(path, "column size has values of 0 or less", "give diameters in pixels")
    names = list(dict.fromkeys(row["cell"] for row in rows))  # in order of appearance
    number = {name: i for i, name in enumerate(names, start=1)}
    time, cell = table["time"].astype(int), np.array([number[row["cell"]] for row in rows])
    if len(set(zip(time.tolist(), cell.tolist(), strict=True))) < len(rows):
        raise InputError(path, "column cell names a cell twice at one time", "keep one row a cell and time")
    pixels = np.stack([table[axis] for axis in "zyx"], axis=1) + 0.5  # a pixel's middle
    mothers = [number.get(_mother(name), 0) for name in names]
    return Tracks(str(path), time, cell, pixels * PIXEL_UM, table["size"] * PIXEL_UM[2], names, mothers)


def _read_rows(path) -> list[dict]:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or (), list(reader)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the name") from error
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error) as error:
        raise InputError(
            path, f"cannot be read ({error})", "give a whole CSV of tracks, plain or .gz"
        ) from error
    missing = [name for name in ("cell", *NUMBERS) if name not in columns]
    if missing:
        fix = "give a CSV with columns cell, time, x, y, z, size"
        raise InputError(path, f"has no column {', '.join(missing)}", fix)
    if not rows:
        raise InputError(path, "holds no rows", "give the tracks of an embryo")
    return rows


def _numbers(rows, name, path) -> np.ndarray:
    values = np.full(len(rows), np.nan)
    for k, row in enumerate(rows):
        try:
            values[k] = float(row[name])
        except (TypeError, ValueError):  # an empty field, a line cut short, a word
            pass
        if not np.isfinite(values[k]):
            problem = f"column {name}, line {k + 2}: {row[name]!r} is no number"
            raise InputError(path, problem, "correct the file")
    return values


def _mother(name) -> str:
    """Sulston's names: a daughter's is her mother's and a direction (anterior, posterior, left, right, ...)."""
    return FOUNDERS.get(name, name[:-1] if name[-1:] in tuple("aplrdv") else "")


EGG = np.array([12.5, 15.0, 25.0])  # semi-axes of the eggshell, um (z, y, x), a little flattened by its mount
EGG_CENTRE = np.array([16.0, 23.0, 32.0])  # um, in both groups' stacks
FRAMES = 200


@dataclass
class _Cell:
    id: int
    centre: np.ndarray  # um
    diameter: float  # of the nucleus, um
    cycle: float  # frames from birth to division
    due: float  # frame of its division


def grow_embryo(rng) -> Tracks:
    """An embryo of our own for those without tracks: nuclei that pack and divide in an egg, no worm's lineage.

    Two cells become some 350 to 450 in 200 frames: with each division the cycle gets 1.2 times longer and the nuclei
    0.89 times smaller, as EPIC's embryos do on average; rounds are nearly synchronous. rng: a numpy Generator.
    """
    ends = EGG_CENTRE + [[0, 0, -8], [0, 0, 8]]
    cells = [_Cell(i, end, 7.3, 12, due=rng.uniform(8, 13)) for i, end in enumerate(ends, start=1)]
    mothers, rows = [0, 0], []
    for time in range(1, FRAMES + 1):
        for mother in [cell for cell in cells if cell.due <= time]:
            cells.remove(mother)
            axis = rng.standard_normal(3)
            axis *= 0.4 * mother.diameter / np.linalg.norm(axis)
            for centre in (mother.centre - axis, mother.centre + axis):
                mothers.append(mother.id)
                diameter = 0.89 * mother.diameter * rng.lognormal(0, 0.03)
                cycle = 1.2 * mother.cycle * rng.uniform(0.92, 1.08)
                cells.append(_Cell(len(mothers), centre, diameter, cycle, time + cycle))
        centres = _settle(np.array([cell.centre for cell in cells]) + rng.normal(0, 0.25, (len(cells), 3)))
        for cell, centre in zip(cells, centres, strict=True):
            cell.centre = centre
        rows += [(time, cell.id, cell.centre, cell.diameter) for cell in cells]
    columns = (np.array(column) for column in zip(*rows, strict=True))
    return Tracks("lineage-free embryo", *columns, [str(i + 1) for i in range(len(mothers))], mothers)


def _settle(centres) -> np.ndarray:
    """A few steps that push centres (n, 3) apart to a like distance and keep them in the egg."""
    inside = EGG - 2.5  # a nucleus' radius, and cytoplasm below the shell
    spacing = 0.9 * (4 / 3 * np.pi * inside.prod() / len(centres)) ** (1 / 3)
    for _ in range(4):
        one, other = cKDTree(centres).query_pairs(spacing, output_type="ndarray").T
        apart = centres[one] - centres[other]
        push = 0.2 * (spacing / np.linalg.norm(apart, axis=1, keepdims=True) - 1) * apart
        moved = centres.copy()
        np.add.at(moved, one, push)
        np.subtract.at(moved, other, push)
        egg = (moved - EGG_CENTRE) / inside  # its surface: length 1
        centres = EGG_CENTRE + inside * egg / np.maximum(np.linalg.norm(egg, axis=1, keepdims=True), 1)
    return centres


def choose_times(tracks, stacks, nuclei) -> list[int]:
    """`stacks` times, evenly spaced from early on, that hold about `nuclei` in all: where to stop is chosen.

    Raises InputError where the tracks have fewer times than that.
    """
    times, counts = np.array(list(tracks.counts)), np.array(list(tracks.counts.values()))
    if len(times) < stacks:
        raise InputError(tracks.source, f"has {len(times)} times, not {stacks}", "ask for fewer --stacks")
    middles = (np.arange(stacks) + 0.5) / stacks
    chosen = [(last * middles).astype(int) for last in range(stacks, len(times) + 1)]
    return times[min(chosen, key=lambda where: abs(counts[where].sum() - nuclei))].tolist()
