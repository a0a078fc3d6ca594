"""What is to be predicted, and where each result goes."""

import csv
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from weakseg_lib.data.files import IMAGE_NAME, atomic_path, check_result_folder, read_json, write_json
from weakseg_lib.data.ome_zarr import is_zarr
from weakseg_lib.data.stacks import Sequence, Stack, read_stack
from weakseg_lib.errors import InputError
from weakseg_lib.runs import RUN, WEIGHTS

SETTINGS = "predict.json"  # in a result folder: {mask: what it was made with}
COLUMNS = ("id", "z0", "y0", "x0", "z1", "y1", "x1", "class", "score")


@dataclass(frozen=True)
class Job:
    """One stack to segment and the two files its result is written to; `blocks`: piece by piece, into an OME-Zarr."""

    image: Path
    mask: Path
    boxes: Path
    sequence: Sequence | None = None
    t: int = 0
    blocks: bool = False

    def absolute(self) -> "Job":
        """The same for a process in another folder."""
        files = {name: getattr(self, name).absolute() for name in ("image", "mask", "boxes")}
        sequence = self.sequence and Sequence(self.sequence.path.absolute(), self.sequence.frames)
        return replace(self, sequence=sequence, **files)

    def read(self, voxel_size=None, frame=None) -> Stack:
        if self.sequence is not None:
            return self.sequence.read(self.t, voxel_size=voxel_size)
        return read_stack(self.image, voxel_size, frame=frame)


def list_jobs(inputs, out: Path) -> list[Job]:
    """A job for every stack in `inputs`: sequence folders, `Sequence` objects, TIFFs, OME-Zarrs.

    Raises InputError for a missing input, where two inputs would write the same file, and where they would be written
    among images or annotation.
    """
    sequences = {i.path: i for i in inputs if isinstance(i, Sequence)}
    inputs = [i.path if isinstance(i, Sequence) else Path(i) for i in inputs]
    for path in inputs:
        if path not in sequences and path.is_dir() and not is_zarr(path):
            sequences[path] = Sequence(path)
    names = Counter(s.name for s in sequences.values())
    jobs = []
    for path in inputs:
        if path not in sequences:
            if not path.exists():
                raise InputError(path, "no such file or folder", "check the name")
            jobs.append(_file_job(path, out))
            continue
        sequence = sequences[path]
        unique = (
            sequence.name if names[sequence.name] == 1 else f"{path.resolve().parent.name}_{sequence.name}"
        )
        folder = out if len(inputs) == 1 else out / f"{unique}_RES"
        for t in sequence.frames:
            number = f"{t:0{sequence.digits}d}"
            mask, boxes = folder / f"mask{number}.tif", folder / f"boxes{number}.csv"
            jobs.append(Job(sequence.image_path(t), mask, boxes, sequence, t))
    for folder in {job.mask.parent for job in jobs}:
        check_result_folder(folder)
    twice = [mask for mask, n in Counter(job.mask for job in jobs).items() if n > 1]
    if twice:
        raise InputError(
            twice[0], "would be written by two of the inputs", "predict them into different folders"
        )
    return jobs


def _file_job(path: Path, out: Path) -> Job:
    # t012.tif outside a call for its sequence still gets the challenge's name, so that `evaluate` finds its truth.
    number = IMAGE_NAME.fullmatch(path.name)
    name = number[1] if number else "_" + re.sub(r"(\.ome)?\.(tiff?|zarr|nd2|czi)$", "", path.name)
    return Job(path, out / f"mask{name}.tif", out / f"boxes{name}.csv")


def finished(jobs, run: Path, with_masks: bool, settings: dict) -> dict[Job, int]:
    """The jobs whose results are there, made with `settings`, and newer than image and run; their numbers of cells."""
    noted = {folder: _settings(folder) for folder in {job.mask.parent for job in jobs}}
    found = {}
    for job in jobs:
        results = [job.mask, job.boxes] if with_masks else [job.boxes]
        if noted[job.mask.parent].get(job.mask.name) != settings or not all(f.exists() for f in results):
            continue
        above = (folder / "dataset.json" for folder in list(job.image.parents)[:2])  # may hold the voxel size
        used = [job.image, run / RUN, run / WEIGHTS, *(file for file in above if file.exists())]
        if min(f.stat().st_mtime for f in results) > max(map(last_change, used)):
            with open(job.boxes, newline="") as file:
                found[job] = sum(1 for _ in csv.reader(file)) - 1
    return found


def last_change(path: Path) -> float:
    """When a file, or anything in a folder (an OME-Zarr: its chunks), was last written; seconds since 1970."""
    within = path.rglob("*") if path.is_dir() else ()
    return max(file.stat().st_mtime for file in (path, *within))


def remove_other_form(job: Job):
    """Take away an earlier run's masks in the other form, file or OME-Zarr: the new boxes don't belong to them."""
    if job.blocks:
        job.mask.with_name(job.mask.name.removesuffix(".ome.zarr") + ".tif").unlink(missing_ok=True)
    else:
        shutil.rmtree(job.mask.with_suffix(".ome.zarr"), ignore_errors=True)


def note_settings(job: Job, settings: dict):
    """Keep in the result folder what a result was made with."""
    folder = job.mask.parent
    write_json(folder / SETTINGS, _settings(folder) | {job.mask.name: settings})


def _settings(folder: Path) -> dict:
    return read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}


def write_boxes(path: Path, found):
    """A prediction's table: one row an instance, best score first."""
    with atomic_path(path) as tmp, open(tmp, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, box, label, score in zip(found.ids, found.boxes, found.classes, found.scores, strict=True):
            writer.writerow([int(i), *(f"{v:.2f}" for v in box), int(label), f"{score:.4f}"])
