"""`weakseg reproduce`: the trials of an experiment one after the other, each trained, predicted and scored once.

OUT/experiment.json        what was asked for, of which files, with which settings; another question needs another OUT
OUT/data/                  simulated stacks, unless --data names a set
OUT/runs/TRIAL/            what `weakseg fit` writes
OUT/predictions/ROW/       what `weakseg predict` writes; VoxResNet has two rows, one for each reading
OUT/scores/ROW.json        what `weakseg evaluate` writes, with time, memory, device; there: this row is done
OUT/table.md, table.json   the result (reproduction_table.py)
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

import weakseg_lib
from weakseg_lib.data.files import check_result_folder, read_json, write_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.device import pick_device
from weakseg_lib.errors import InputError
from weakseg_lib.evaluation import evaluate
from weakseg_lib.experiments import EXPERIMENTS, Experiment, Trial
from weakseg_lib.jobs import list_jobs
from weakseg_lib.prediction import predict_readings, predict_stack, write_prediction
from weakseg_lib.reproduction_data import Data, check, given, simulated
from weakseg_lib.reproduction_table import write_tables
from weakseg_lib.runs import RUN, WEIGHTS, Run, load_run, read_info
from weakseg_lib.train import fit


def reproduce(
    name: str, out, size: str = "laptop", data=None, seeds: int = 1, curve: bool = False, device: str = "auto"
) -> Path:
    """Run one of the paper's experiments and write its table; returns the path of table.md.

    data: folder of the paper's set (Fluo-N3DH-SIM+ or Fluo-N3DH-CE, as fetch_ctc.py writes them, or any folder with the
    same groups and frames); None: the simulator's stacks, seed 0. seeds: of annotation, weights and crops, 0, 1, ...
    curve: also other shares of the masks, and VoxResNet on fewer stacks. What is done already is not done again.

    Raises InputError where OUT holds results of another configuration or of other files, or is no place for results;
    and where the data lack a group, frames, boxes or truth, or are another experiment's.
    """
    experiment, out = EXPERIMENTS[name], Path(out)
    if seeds < 1:
        raise InputError(f"--seeds {seeds}", "out of range", "give 1 or more")
    pick_device(device)
    if out.is_file() or (out / "dataset.json").is_file():
        what = "a file" if out.is_file() else "a data set"
        raise InputError(out, f"is {what}, not a folder for results", "choose another --out")
    check_result_folder(out)
    asked = {"experiment": name, "size": size, "data": "data" if data is None else str(Path(data).resolve())}
    _check_same(out, asked)
    if data is None:
        if not (out / "data").exists():
            write_json(out / "experiment.json", asked)  # before the stacks: nobody may take them for others
        folder = simulated(experiment, out, size).resolve()
    else:
        folder = given(experiment, data)
        if folder in (out.resolve(), *out.resolve().parents):
            raise InputError(out, "is in the data set itself", "choose another --out")
    experiment, found = check(experiment, folder)
    if found.drawn and curve:
        problem = "needs other shares of the masks than those that were drawn in 01_WEAK"
        raise InputError("--curve", problem, "leave it out, or move 01_WEAK away if there are full labels")
    asked |= {"weakseg": weakseg_lib.__version__, "files": found.digest, "few": experiment.few}
    asked |= {m: experiment.config(size, m).to_json() for m in ("weak", "voxresnet")}
    asked = json.loads(json.dumps(asked))  # lists, as they are read again
    if any(out.glob("runs/*/run.json")) or any(out.glob("scores/*.json")):
        _check_same(out, asked)
    write_json(out / "experiment.json", asked | {"about": found.about, "drawn": found.drawn})
    for trial in tqdm(experiment.trials(seeds, curve), desc=f"reproduce {name}", unit="trial"):
        _run(trial, experiment, found, out, size, device)
        write_tables(experiment, out)
    return out / "table.md"


def _check_same(out: Path, asked: dict):
    """The results of two configurations, or of other files under the same path, must not meet in one table."""
    path = out / "experiment.json"
    if not path.is_file():
        if any(out.glob("scores/*")) or any(out.glob("runs/*")):
            raise InputError(out, "holds results, but does not say of what", "choose another --out")
        return
    found = read_json(path)
    if "files" in asked and "files" not in found:
        raise InputError(out, "holds results, but does not say of which files", "choose another --out")
    # Paths are compared as they resolve: a folder may be moved with its simulated stacks.
    old, new = (_flat(v | {"data": str((out / str(v.get("data"))).resolve())}) for v in (found, asked))
    changed = [f"{key} was {old.get(key)}, now {v}" for key, v in new.items() if old.get(key) != v]
    if "files" in asked and found["files"] != asked["files"]:
        changed = ["the files of its data were others"]
    if changed:
        raise InputError(out, f"holds another experiment ({'; '.join(changed)})", "choose another --out")


def _flat(values: dict) -> dict:
    """{"weak": {"steps": 3}} as {"weak.steps": 3}."""
    flat = {}
    for key, value in values.items():
        inner = value if isinstance(value, dict) else {}
        flat |= {f"{key}.{k}": v for k, v in inner.items()} or {key: value}
    return flat


def _run(trial: Trial, experiment: Experiment, data: Data, out: Path, size: str, device: str):
    """Whatever is not there yet of a trial: training, predictions of the test stacks, scores."""
    rows = {r: how for r, how in trial.readings.items() if not (out / "scores" / f"{r}.json").is_file()}
    if not rows:
        return
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    run = _train(trial, experiment, data, out / "runs" / trial.name, size, device)
    seconds = _predict(
        run, experiment, data.folder, {out / "predictions" / r: how for r, how in rows.items()}
    )
    about = {
        "trial": dataclasses.asdict(trial),
        "drawn": data.drawn,
        "fit_seconds": run.info["seconds"],
        "predict_seconds": seconds,
        "peak_gib": _peak_gib(),
        "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None,
    }
    about |= {k: run.info[k] for k in ("steps", "instances", "masks", "stacks", "device", "threads", "torch")}
    groups = list(experiment.test)
    truth = data.folder if len(groups) > 1 else data.folder / groups[0]
    for row, reading in rows.items():
        scores = evaluate(out / "predictions" / row, truth, frames=experiment.test)
        write_json(out / "scores" / f"{row}.json", about | {"reading": reading, "scores": scores})


def _train(trial: Trial, experiment: Experiment, data: Data, folder: Path, size: str, device: str) -> Run:
    begun = (folder / RUN).is_file()
    if begun and read_info(folder).get("finished"):
        return load_run(folder, device)
    return fit(
        [Sequence(data.folder / group, frames) for group, frames in trial.frames.items()],
        folder,
        experiment.config(size, trial.method),
        seed=trial.seed,
        device=device,
        resume=begun,
        masks=None if data.drawn else trial.masks,
    )


def _predict(run: Run, experiment: Experiment, folder: Path, results: dict[Path, str | None]) -> float | None:
    """Predict the test stacks in every reading that `results`, {folder: reading}, asks for; what these weights have
    predicted already is kept. Returns seconds for all stacks and readings, None where nothing was left to predict."""
    trained = (run.folder / WEIGHTS).stat().st_mtime_ns
    began, made, total = time.perf_counter(), 0, 0
    for group, frames in experiment.test.items():
        # With one test group, too, its folder says which it is.
        jobs = [list_jobs([Sequence(folder / group, frames)], out / f"{group}_RES") for out in results]
        for same in tqdm(
            list(zip(*jobs, strict=True)), desc=f"segmenting {group}", unit="stack", leave=False
        ):
            total += 1
            # The table takes its place after the masks, so it vouches for both.
            if all(job.boxes.is_file() and job.boxes.stat().st_mtime_ns > trained for job in same):
                continue
            stack, made = same[0].read(), made + 1
            if run.config.method == "voxresnet":
                found = predict_readings(run, stack, results.values())
            else:
                found = {None: predict_stack(run, stack)}
            for job, reading in zip(same, results.values(), strict=True):
                write_prediction(job, found[reading], stack.voxel_size)
    return round((time.perf_counter() - began) * total / made, 1) if made else None


def _peak_gib() -> float | None:
    """Most memory that this process has used so far, earlier trials included; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)
