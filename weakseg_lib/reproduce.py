"""`weakseg reproduce`: the trials of an experiment one after the other, each trained, predicted and scored once.

OUT/experiment.json        what was asked for; another question needs another folder
OUT/data/                  simulated stacks, unless --data names real ones
OUT/runs/TRIAL/            what `weakseg fit` writes
OUT/predictions/ROW/       what `weakseg predict` writes; VoxResNet has two rows, one for each reading
OUT/scores/ROW.json        what `weakseg evaluate` writes, with time, memory, device; there: this row is done
OUT/table.md, table.json   the result (reproduction_table.py)
"""

import dataclasses
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import weakseg_lib
from weakseg_lib.components import READINGS
from weakseg_lib.data.files import read_json, write_json
from weakseg_lib.data.simulate import SPECIMENS
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.errors import InputError
from weakseg_lib.evaluation import evaluate
from weakseg_lib.experiments import EXPERIMENTS, Experiment, Trial
from weakseg_lib.prediction import predict
from weakseg_lib.reproduction_table import write_tables
from weakseg_lib.runs import RUN
from weakseg_lib.train import fit


def reproduce(
    name: str, out, size: str = "laptop", data=None, seeds: int = 1, curve: bool = False, device: str = "auto"
) -> Path:
    """Run one of the paper's experiments and write its table; returns the path of table.md.

    data: folder of the real set (Fluo-N3DH-SIM+ or Fluo-N3DH-CE, as fetch_ctc.py writes them, or any folder with the
    same groups and frames); None: the simulator's stacks, seed 0. seeds: of annotation, weights and crops, 0, 1, ...
    curve: also other shares of the masks, and VoxResNet on fewer stacks. What is done already is not done again.

    Raises InputError where OUT holds another configuration, and where the data lack a group, frames or labels.
    """
    experiment, out = EXPERIMENTS[name], Path(out)
    if seeds < 1:
        raise InputError(f"--seeds {seeds}", "out of range", "give 1 or more")
    source = _data(experiment, out, size, data)
    asked = {"experiment": name, "size": size, "data": str(source.resolve()), "real": data is not None}
    _check_same(out, asked)
    known = _check_data(experiment, source)
    write_json(out / "experiment.json", asked | {"weakseg": weakseg_lib.__version__})
    trials = experiment.trials(seeds, curve)
    write_json(out / "instances.json", known)
    for trial in tqdm(trials, desc=f"reproduce {name}", unit="trial"):
        _run(trial, experiment, source, out, size, device)
        write_tables(experiment, out, size)
    return out / "table.md"


def _data(experiment: Experiment, out: Path, size: str, data) -> Path:
    if data is not None:
        if not Path(data).is_dir():
            raise InputError(
                data, "no such folder", "fetch it with data_scripts/fetch_ctc.py, or leave --data out"
            )
        return Path(data)
    folder = out / "data"
    if not (folder / "dataset.json").is_file():
        fresh = out / ".data_begun"  # of a run that was stopped, half of the stacks may be there
        shutil.rmtree(fresh, ignore_errors=True)
        SPECIMENS[experiment.name](fresh, experiment.stacks, size, 0)
        fresh.rename(folder)
    return folder


def _check_same(out: Path, asked: dict):
    """The results of two configurations must not meet in one table."""
    path = out / "experiment.json"
    if path.is_file():
        found = read_json(path)
        changed = [
            f"{key} was {found.get(key)}, now {value}"
            for key, value in asked.items()
            if found.get(key) != value
        ]
        if changed:
            raise InputError(out, f"holds another experiment ({'; '.join(changed)})", "choose another --out")
    elif (out / "scores").is_dir():
        raise InputError(out, "holds results, but does not say of what", "choose another --out")


def _check_data(experiment: Experiment, source: Path) -> dict:
    """Every frame of the split must be there before hours are spent: {group: {frame: number of instances}} of those
    that are learnt from."""
    instances = {}
    for groups, train in ((experiment.train, True), (experiment.test, False)):
        for group, frames in groups.items():
            sequence = Sequence(source / group, frames)
            if train:
                instances[group] = {t: _count(sequence, t) for t in sequence.frames}
    return instances


def _count(sequence: Sequence, t: int) -> int:
    if not sequence.has_labels(t) and sequence.weak_boxes_path(t).is_file():
        return sum(1 for _ in open(sequence.weak_boxes_path(t))) - 1
    return len(np.setdiff1d(sequence.read_labels(t), [0]))


def _run(trial: Trial, experiment: Experiment, source: Path, out: Path, size: str, device: str):
    rows = {trial.name: "grown"}
    if trial.method == "voxresnet":
        rows = {f"{trial.name}_{reading}": reading for reading in READINGS}
    missing = {
        row: reading for row, reading in rows.items() if not (out / "scores" / f"{row}.json").is_file()
    }
    if not missing:
        return
    folder = out / "runs" / trial.name
    sequences = [Sequence(source / group, frames) for group, frames in trial.frames.items()]
    weak = trial.method == "weak" and not all(s.has_labels(s.frames[0]) for s in sequences)
    run = fit(
        sequences,
        folder,
        None if (folder / RUN).is_file() else experiment.config(size, trial.method),
        seed=trial.seed,
        device=device,
        resume=(folder / RUN).is_file(),
        masks=None if weak else trial.masks,
    )
    for row, reading in missing.items():
        began, result = time.perf_counter(), out / "predictions" / row
        # With one test group, too, its folder says which it is.
        for group, frames in experiment.test.items():
            predict(
                folder,
                [Sequence(source / group, frames)],
                result / f"{group}_RES",
                reading=reading,
                device=device,
            )
        seconds = time.perf_counter() - began
        groups = list(experiment.test)
        scores = evaluate(result, source if len(groups) > 1 else source / groups[0], frames="predicted")
        about = {
            "trial": dataclasses.asdict(trial),
            "reading": reading if trial.method == "voxresnet" else None,
            "fit_seconds": run.info["seconds"],
            "predict_seconds": round(seconds, 1),
            "peak_gib": _peak_gib(),
            **{
                key: run.info[key]
                for key in ("steps", "instances", "masks", "stacks", "device", "threads", "torch")
            },
        }
        write_json(out / "scores" / f"{row}.json", about | {"scores": scores})


def _peak_gib() -> float | None:
    """Most memory that this process has used so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)
