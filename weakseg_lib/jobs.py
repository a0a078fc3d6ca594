"""What is to be predicted, and where each result goes."""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from weakseg_lib.data.files import IMAGE_NAME, atomic_path, check_result_folder
from weakseg_lib.data.ome_zarr import is_zarr
from weakseg_lib.data.stacks import Sequence, Stack, read_stack
from weakseg_lib.errors import InputError

COLUMNS = ("id", "z0", "y0", "x0", "z1", "y1", "x1", "class", "score")


@dataclass(frozen=True)
class Job:
    """One stack to segment and the two files its result is written to."""

    image: Path
    mask: Path
    boxes: Path
    sequence: Sequence | None = None
    t: int = 0

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


def write_boxes(path: Path, found):
    """A prediction's table: one row an instance, best score first."""
    with atomic_path(path) as tmp, open(tmp, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, box, label, score in zip(found.ids, found.boxes, found.classes, found.scores, strict=True):
            writer.writerow([int(i), *(f"{v:.2f}" for v in box), int(label), f"{score:.4f}"])
