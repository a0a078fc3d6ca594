"""The stacks that `weakseg reproduce` works on: simulated or given, and checked whole before hours are spent."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from weakseg_lib.data.files import IMAGE_NAME, read_json
from weakseg_lib.data.simulate import SPECIMENS
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.tiff import tiff_header
from weakseg_lib.errors import InputError
from weakseg_lib.experiments import ALL, EXPERIMENTS, Experiment

SEED = 0  # of simulated stacks
HEAD = 2**16  # bytes of a file that are looked at to know it again
OF_CTC = {
    "Fluo-N3DH-SIM+": "Fluo-N3DH-SIM+, simulated by another simulator (MitoGen)",
    "Fluo-N3DH-CE": "Fluo-N3DH-CE, recorded embryos",
}


@dataclass(frozen=True)
class Data:
    """What was found. `drawn`: boxes and masks are those of 01_WEAK, and not made from full labels; `digest`: changes
    with any file that is used; `about`: what the stacks are, for the table."""

    folder: Path
    drawn: bool
    digest: str
    about: str


def simulated(experiment: Experiment, out: Path, size: str) -> Path:
    """OUT/data with the simulator's stacks, made unless they are there. Raises InputError where it holds others."""
    folder, fresh = out / "data", out / ".data_begun"
    wanted = {"specimen": experiment.name, "size": size, "seed": SEED}
    if not folder.exists():
        shutil.rmtree(fresh, ignore_errors=True)  # of a run that was stopped, half of the stacks may be there
        SPECIMENS[experiment.name](fresh, experiment.stacks, size, SEED)
        fresh.rename(folder)
    found = _dataset(folder)
    if {key: found.get(key) for key in wanted} != wanted:
        problem = f"does not hold the simulated stacks of {experiment.name}, {size} size, seed {SEED}"
        raise InputError(folder, problem, "choose another --out")
    return folder


def given(experiment: Experiment, data) -> Path:
    """The folder of --data. Raises InputError where there is none, or one of another experiment."""
    folder = Path(data).resolve()
    if not folder.is_dir():
        fix = "fetch it with data_scripts/fetch_ctc.py, or leave --data out"
        raise InputError(data, "no such folder", fix)
    if any(IMAGE_NAME.fullmatch(file.name) for file in folder.glob("t*.tif")):
        raise InputError(data, "is one group of a set", f"give the folder with all of them, {folder.parent}")
    about = _dataset(folder)
    name = about.get("specimen") or about.get("name")
    others = [e for e in EXPERIMENTS.values() if e.name != experiment.name]
    if name and name in {known for e in others for known in (e.name, e.dataset)}:
        raise InputError(data, f"holds {name}, another experiment's", f"give the set of {experiment.name}")
    return folder


def check(experiment: Experiment, folder: Path) -> tuple[Experiment, Data]:
    """The experiment with the frames that it uses of this folder, and what is known of them.

    Where an experiment learns from all frames of a group, these are the ones with drawn boxes, or, where nobody drew
    any, the ones with full labels.

    Raises InputError naming every image, label or marker file that is missing, else the first one that is damaged.
    """
    train, drawn = _learnt(experiment.train, folder)
    test = {g: tuple(Sequence(folder / g).frames) if ts is ALL else ts for g, ts in experiment.test.items()}
    markers = any(measure.startswith("marker") for measure, _ in experiment.columns)
    used, missing = [], {}
    for groups, truth in (
        (train, "boxes" if drawn else "labels"),
        (test, "markers" if markers else "labels"),
    ):
        for group, frames in groups.items():
            sequence = Sequence(folder / group)
            for t in frames:
                image, *true = files = _files(sequence, t, truth)
                for what, path in (("images", image), (truth, true[0])):
                    if not path.is_file():
                        missing.setdefault(f"{what} of {group}", []).append(t)
                used.append(files)
    if missing:
        named = "; ".join(f"{what}: {_spans(frames)}" for what, frames in missing.items())
        raise InputError(folder, f"lacks {named}", "fetch or unpack the set again, or give another one")
    digest, voxel_size = hashlib.sha256(), _dataset(folder).get("voxel_size_um")
    for files in used:
        _check_headers([file for file in files if file.suffix == ".tif" and file.is_file()], voxel_size)
        for file in filter(Path.is_file, files):
            with open(file, "rb") as opened:
                digest.update(
                    f"{file.relative_to(folder)} {file.stat().st_size}".encode() + opened.read(HEAD)
                )
    data = Data(folder, drawn, digest.hexdigest()[:16], _about(folder))
    return replace(experiment, train=train, test=test), data


def _learnt(groups, folder: Path) -> tuple[dict, bool]:
    """{group: frames to learn from}, and whether boxes and masks are drawn ones."""
    sequences = {g: Sequence(folder / g) for g, frames in groups.items() if frames is ALL}
    if not sequences:
        return groups, False
    kinds = (lambda s, t: s.weak_boxes_path(t).is_file(), True), (Sequence.has_labels, False)
    for there, drawn in kinds:
        found = {g: tuple(t for t in s.frames if there(s, t)) for g, s in sequences.items()}
        if any(found.values()):
            return {g: frames for g, frames in found.items() if frames}, drawn
    place = next(iter(sequences.values())).weak_path
    fix = "draw boxesTTT.csv and a few masks for some frames (the paper: for 15), see README.md"
    raise InputError(place, "no boxes to learn from, and no full labels to make them of", fix)


def _files(sequence: Sequence, t: int, truth: str) -> list[Path]:
    """Image, truth and, of drawn boxes, masks, there or not."""
    image, labels = sequence.image_path(t), sequence.labels_path(t)
    if truth == "boxes":
        return [image, sequence.weak_boxes_path(t), sequence.weak_masks_path(t)]
    if truth == "markers":
        labels = labels.parents[1] / "TRA" / labels.name.replace("man_seg", "man_track")
    return [image, labels]


def _check_headers(files: list[Path], voxel_size):
    """Raise InputError where the stacks of a frame are damaged, of several shapes, or of no known voxel size."""
    shape, own = tiff_header(files[0])
    if own is None and voxel_size is None:
        fix = 'write it in the set\'s dataset.json as {"voxel_size_um": [z, y, x]}'
        raise InputError(files[0], "has no voxel size", fix)
    for file in files[1:]:
        if (other := tiff_header(file)[0]) != shape:
            raise InputError(file, f"has shape {other}, its image {shape}", "fetch or unpack the set again")


def _dataset(folder: Path) -> dict:
    path = folder / "dataset.json"
    return read_json(path) if path.is_file() else {}


def _about(folder: Path) -> str:
    known = _dataset(folder)
    if known.get("simulated"):
        return f"simulated stacks ({known.get('size')} size, seed {known.get('seed')})"
    name = known.get("name")
    return (
        OF_CTC.get(name) or f"{name or folder.name} (its dataset.json does not say whether it is simulated)"
    )


def _spans(frames) -> str:
    """Frame numbers as `--frames` takes them: 3, 80-82."""
    spans = []
    for t in sorted(frames):
        if spans and spans[-1][-1] == t - 1:
            spans[-1] = (spans[-1][0], t)
        else:
            spans.append((t,))
    return ", ".join("-".join(f"{t:03d}" for t in span) for span in spans)
