"""Training: weak annotations in, a run folder out.

RUN/run.json        what was trained on what, by which versions: working voxel size, anchors, thresholds
RUN/config.json     every setting
RUN/log.csv         the losses; `weakseg fit` draws them as curves.png
RUN/checkpoint.pt   what `--resume` continues from: weights, their average, optimiser, step
RUN/weights.pt      the averaged weights, for prediction; run.json says when the run is finished
"""

import platform
import shutil
import signal
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

import weakseg_lib
from weakseg_lib.calibrate import choose_thresholds
from weakseg_lib.components import choose_components
from weakseg_lib.config import Config
from weakseg_lib.data.crops import CropSampler
from weakseg_lib.data.files import check_result_folder, write_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.voxel_classes import DenseSampler
from weakseg_lib.errors import InputError
from weakseg_lib.processes import count, is_main, join, on_main, total
from weakseg_lib.runs import (
    CHECKPOINT,
    CONFIG,
    LOG,
    RUN,
    RUN_FORMAT,
    WEIGHTS,
    Run,
    load_run,
    load_tensors,
    make_network,
    read_config,
    read_info,
    read_log,
    save_tensors,
    write_log,
)
from weakseg_lib.trainer import Trainer
from weakseg_lib.training_data import TrainingData

CHECKPOINT_SECONDS = 60
LOG_EVERY = 10


def fit(
    sequences,
    out,
    config: Config | None = None,
    *,
    seed: int | None = None,
    device: str = "auto",
    resume: bool = False,
    masks: float | None = None,
    voxel_size=None,
    on_log=None,
    progress: bool = True,
) -> Run:
    """Train on the weak annotations (NAME/01_WEAK) of sequences and write the run folder `out`; VoxResNet
    (`method=voxresnet`) on their full labels (NAME/01_GT/SEG). Several processes that call it, started by
    `accelerate launch` or `notebook_launcher`, train together (see `processes`).

    Args:
        sequences: folders NAME/01 or `Sequence` objects.
        config: settings; None is the laptop preset, or, with `resume`, those of the run.
        seed: of the weights and of every crop; None is 0, or, with `resume`, that of the run.
        resume: continue a run that was stopped. On a CPU it ends in the very weights of an uninterrupted run, as long
            as steps and not minutes end it.
        masks: make the weak annotation here, from full labels: a box for every instance, a mask for this share of those
            of each stack, chosen by `seed` as in `annotate`.
        voxel_size: (z, y, x) um, for images that do not know theirs.
        on_log: called with each row of the log (a dict: step, seconds, lr, loss and its parts), for live curves.

    Raises InputError for unusable data or annotation and for an `out` that holds a run (unless resumed).
    """
    out, device = Path(out), join(device)
    progress = progress and is_main()
    data, info = on_main(
        lambda: _begin(sequences, out, config, seed, device, resume, (voxel_size, masks, progress))
    )
    if info["finished"]:
        return load_run(out, device.type)
    config, seed, prepared = data.config, data.seed, out / ".prepared"
    try:
        stacks = on_main(lambda: data.prepare(info, prepared))
        if total(int(stacks[-1].folder.is_dir()), device) < count():
            raise InputError(out, "is not seen by all processes", "choose a folder that all machines share")
        torch.manual_seed(seed)
        dense = config.method == "voxresnet"
        network = make_network(config, info)
        sampler = (DenseSampler if dense else CropSampler)(stacks, config, seed)
        trainer = Trainer(network, sampler, config, device)
        if (out / CHECKPOINT).is_file():
            trainer.load_state(load_tensors(out / CHECKPOINT))
        _train(trainer, out, on_log, progress)
        network.load_state_dict(trainer.average)
        info = on_main(lambda: _finish(trainer, out, info, progress))
    finally:
        if is_main():
            shutil.rmtree(prepared, ignore_errors=True)
    return Run(out, config, info, network.eval())


def _begin(sequences, out, config, seed, device, resume, given) -> tuple[TrainingData | None, dict]:
    """Check everything and, unless it is resumed, begin the run folder: the data (None where nothing is left to do) and
    what run.json says."""
    sequences = [s if isinstance(s, Sequence) else Sequence(s) for s in sequences]
    started = (out / RUN).is_file()
    if started and not resume:
        raise InputError(out, "already holds a run", "continue it with --resume, or choose another folder")
    if started:
        info, config, seed = _check_resume(out, sequences, config, seed)
        if info["finished"]:
            warnings.warn(
                f"{out}: is finished, nothing is left to do; for more steps start a new run", stacklevel=5
            )
            return None, info
        data = TrainingData(sequences, config, seed, *given)
        if data.survey()["data"] != info["data"]:
            raise InputError(out, "its stacks or their annotation changed since it began", "start a new run")
    else:
        if resume:
            warnings.warn(f"{out}: holds no run to resume, so a new one begins", stacklevel=5)
        config, seed = config or Config(), seed or 0
        check_result_folder(out)
        if not config.steps and not config.minutes:
            raise InputError("--steps", "neither steps nor minutes limit the training", "give one of them")
        data = TrainingData(sequences, config, seed, *given)
        info = data.survey() | _provenance(seed, device)
        write_json(out / CONFIG, config.to_json())
        write_json(out / RUN, info)
    return data, info


def _finish(trainer: Trainer, out: Path, info: dict, progress) -> dict:
    """Write the averaged weights, choose the thresholds, and say so in run.json, which is returned."""
    save_tensors(out / WEIGHTS, {k: v.cpu() for k, v in trainer.average.items()})
    choose = choose_components if trainer.config.method == "voxresnet" else choose_thresholds
    info |= choose(trainer.network, trainer.sampler.stacks, progress)
    info |= {"finished": True, "steps": trainer.done, "seconds": round(trainer.seconds, 1)}
    write_json(out / RUN, info)
    return read_info(out)


def _provenance(seed, device) -> dict:
    return {
        "format": RUN_FORMAT,
        "weakseg": weakseg_lib.__version__,
        "finished": False,
        "seed": seed,
        "processes": count(),
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _train(trainer: Trainer, out: Path, on_log, progress):
    """Step until the progress is 1, with a log and a checkpoint every minute."""
    rows = read_log(out / LOG, trainer.done)
    pending, saved = [], trainer.seconds  # a clock that all processes share: they save together
    bar = tqdm(
        total=100, initial=int(100 * trainer.progress), desc="training", smoothing=0, disable=not progress
    )
    bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with bar, _interrupts_wait() as interrupted:
        while trainer.progress < 1:
            pending.append(trainer.step())
            if trainer.done % LOG_EVERY == 0 or trainer.progress >= 1:
                row = {"step": trainer.done, "seconds": round(trainer.seconds, 2)}
                row |= {k: float(f"{np.mean([p[k] for p in pending]):.6g}") for k in pending[0]}
                rows.append(row)
                pending = []
                bar.set_postfix(
                    step=trainer.done, loss=row["loss"], **{list(row)[-1][5:]: list(row.values())[-1]}
                )
                if on_log and is_main():
                    on_log(row)
                if trainer.seconds - saved > CHECKPOINT_SECONDS:
                    _save(trainer, out, rows)
                    saved = trainer.seconds
            bar.update(int(100 * min(trainer.progress, 1)) - bar.n)
            if total(len(interrupted), trainer.device):
                bar.close()
                _save(trainer, out, rows)
                raise KeyboardInterrupt
    bar.close()
    _save(trainer, out, rows)


@contextmanager
def _interrupts_wait():
    """Ctrl-C only fills the list that this yields, so that a step is whole and can be saved; a second one stops at
    once. Changed is only Python's own way of listening, which only the main thread has.
    """
    asked = []
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return

    def ask(*_):
        asked.append(True)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _save(trainer, out, rows):
    def write():
        if rows:  # none yet, when the first steps are interrupted
            write_log(out / LOG, rows)
        save_tensors(out / CHECKPOINT, trainer.state())

    on_main(write)


def next_run(folder, sequences, config) -> tuple[Path, bool]:
    """The folder to train in next, `folder`/run1, run2, ..., and whether to resume the training that is there.

    The last one is resumed, or taken as it is if it is finished, where stacks, annotation and settings are still those
    that it was begun with; else there is something new to learn.
    """
    sequences = [s if isinstance(s, Sequence) else Sequence(s) for s in sequences]
    earlier = [int(path.name[3:]) for path in Path(folder).glob("run*") if path.name[3:].isdecimal()]
    last = max(earlier, default=0)
    run = Path(folder) / f"run{last}"
    try:
        info, _, seed = _check_resume(run, sequences, config, None)
        if TrainingData(sequences, config, seed, progress=False).survey()["data"] == info["data"]:
            return run, True
    except InputError:
        pass
    return run.with_name(f"run{last + 1}"), False


def _check_resume(out, sequences, config, seed):
    """The run's own info, settings and seed; InputError where the call asks for others."""
    info, own = read_info(out), read_config(out)
    if config is not None and config != own:
        old, new = own.to_json(), config.to_json()
        changed = ", ".join(f"{k} was {old[k]}, now {new[k]}" for k in old if old[k] != new[k])
        raise InputError(
            out, f"cannot resume with other settings ({changed})", "leave them out, or start a new run"
        )
    if seed not in (None, info["seed"]):
        raise InputError(
            out, f"was begun with seed {info['seed']}, not {seed}", "leave --seed out, or start a new run"
        )
    named = [str(s.path) for s in sequences]
    if named != info["sequences"]:
        fix = f"give {', '.join(info['sequences'])}, or start a new run"
        raise InputError(out, f"was trained on other sequences than {', '.join(named)}", fix)
    return info, own, info["seed"]
