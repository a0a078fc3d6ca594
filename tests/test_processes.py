"""Training by two processes on a CPU (gloo), beside the same training by one."""

import errno
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import weakseg_lib
from weakseg_lib import train
from weakseg_lib.cli import main
from weakseg_lib.data import crops
from weakseg_lib.data.crops import CropSampler
from weakseg_lib.data.files import write_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.voxel_classes import DenseBatch, DenseSampler
from weakseg_lib.model.network import Batch
from weakseg_lib.processes import is_main
from weakseg_lib.runs import read_info
from weakseg_lib.train import fit
from weakseg_lib.training_data import TrainingData

pytest.importorskip("accelerate", reason="accelerate is not installed (extra cluster)")
ROOT = Path(weakseg_lib.__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
STEPS = 3
# Sums in another order differ in the last digit, and Adam divides by the size of the gradient: a weight whose gradient
# is zero but for rounding may move by a share of the learning rate (3e-3) a step. In float32 this can be seen; in
# float64 Adam's own 1e-8 in the divisor is far larger than the rounding.
ROUNDING, ROUNDING64 = 5e-4, 1e-11


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.fixture
def fit_by_two(capfd):
    """A function: arguments of `weakseg fit` to the exit status of each of two processes, and all lines on stderr.

    Forked, with the environment that a launcher gives: so they need not import everything again.
    """

    def child(rank, port, arguments):
        world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(ENVIRONMENT | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        sys.exit(main(["fit", *map(str, arguments), "--device", "cpu"]))

    def run(*arguments):
        context, port = multiprocessing.get_context("fork"), free_port()
        both = [context.Process(target=child, args=(rank, port, arguments)) for rank in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(300)
            process.kill()  # does nothing to one that has ended: a hang must not outlive the test
        lines = [line.rsplit("\r", 1)[-1].strip() for line in capfd.readouterr().err.split("\n")]
        return [p.exitcode for p in both], [line for line in lines if line and "%|" not in line]

    return run


@pytest.fixture
def settings(tmp_path, tiny):
    """A function: settings to them all, of a few steps, and the arguments that give them on the command line."""

    def make(**changes):
        config = tiny.replace(**{"steps": STEPS} | changes)
        write_json(tmp_path / "config.json", config.to_json())
        return config, ("--config", tmp_path / "config.json")

    return make


@pytest.fixture
def in_float64(monkeypatch):
    """The whole training in float64. No thresholds are chosen: prediction is in float32."""

    def double(value):
        if isinstance(value, list):
            return [double(v) for v in value]
        return value.double() if value.is_floating_point() else value

    make = train.make_network
    monkeypatch.setattr(train, "make_network", lambda *given: make(*given).double())
    for kind in (Batch, DenseBatch):
        monkeypatch.setattr(kind, "to", lambda b, _: type(b)(**{k: double(v) for k, v in vars(b).items()}))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for choose in ("choose_thresholds", "choose_components"):
        monkeypatch.setattr(train, choose, lambda *_: {"training_detection_f1": 1.0})
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def apart(one, two) -> float:
    """The largest difference between the weights of two runs."""
    a, b = (torch.load(out / "weights.pt", weights_only=True) for out in (one, two))
    assert set(a) == set(b)
    return max((a[key].double() - b[key].double()).abs().max().item() for key in a)


@pytest.mark.parametrize("sampler", [CropSampler, DenseSampler])
def test_a_share_is_cut_as_in_the_whole_batch(make_sequence, tmp_path, tiny, monkeypatch, sampler):
    config = tiny.replace(method="voxresnet", batch=5, blur=1.0)
    data = TrainingData([Sequence(make_sequence(frames=2))], config, 0, progress=False)
    stacks = data.prepare(data.survey(), tmp_path / "prepared")
    whole = sampler(stacks, config, 0).batch(7)
    monkeypatch.setattr(crops, "share", lambda n: range(1, n, 2))
    part = sampler(stacks, config, 0).batch(7)
    assert torch.equal(part.images, whole.images[1::2])
    if sampler is DenseSampler:
        assert torch.equal(part.voxel_classes, whole.voxel_classes[1::2])
        return
    for key in ("boxes", "classes", "ignore", "rois", "seeds"):
        pairs = zip(getattr(part, key), getattr(whole, key)[1::2], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    crop = torch.repeat_interleave(torch.arange(5), torch.tensor([len(r) for r in whole.rois]))
    for key in ("roi_classes", "targets", "weights", "inside"):
        assert torch.equal(getattr(part, key), getattr(whole, key)[crop % 2 == 1])


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 3, "dice": 0.5, "box_supervision": 0.5},
        {"loss": "paper"},
        {"method": "voxresnet", "batch": 3},
    ],
    ids=["uneven", "sampled", "voxresnet"],
)
def test_two_processes_end_in_the_weights_of_one(
    make_sequence, tmp_path, settings, fit_by_two, in_float64, changes
):
    sequence, one, two = make_sequence(frames=2), tmp_path / "one", tmp_path / "two"
    config, given = settings(**changes)
    run = fit([sequence], one, config, device="cpu", progress=False)
    assert all(p.dtype == torch.float64 for p in run.network.parameters())
    assert fit_by_two(sequence, "--out", two, *given) == ([0, 0], [])
    assert apart(one, two) < ROUNDING64
    logs = [[row.split(",") for row in (out / "log.csv").read_text().splitlines()] for out in (one, two)]
    assert [row[:1] + row[2:] for row in logs[0]] == [
        row[:1] + row[2:] for row in logs[1]
    ]  # all but the seconds
    infos = read_info(one), read_info(two)
    assert [info.pop("processes") for info in infos] == [1, 2] and infos[0]["data"] == infos[1]["data"]
    assert set(os.listdir(two)) == set(os.listdir(one)) | {"curves.png"}


def test_a_share_without_any_region(make_sequence, tmp_path, settings, fit_by_two, in_float64):
    """One stack has masks and the other has none, so that one process has nothing for the mask head: no hang."""
    masked, boxed = make_sequence("masked", share=1.0), make_sequence("boxed", share=0.0)
    config, given = settings()
    fit([masked, boxed], tmp_path / "one", config, device="cpu", progress=False)
    assert fit_by_two(masked, boxed, "--out", tmp_path / "two", *given) == ([0, 0], [])
    assert apart(tmp_path / "one", tmp_path / "two") < ROUNDING64


def test_ctrl_c_in_one_stops_both_at_one_step_and_they_resume(
    make_sequence, tmp_path, settings, fit_by_two, monkeypatch
):
    sequence, whole, broken = make_sequence(frames=2), tmp_path / "whole", tmp_path / "broken"
    _, given = settings()
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    assert fit_by_two(sequence, "--out", whole, *given)[0] == [0, 0]
    step = train.Trainer.step

    def press(trainer):
        result = step(trainer)
        if trainer.done == 2 and not is_main():
            signal.raise_signal(signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "step", press)
        status, lines = fit_by_two(sequence, "--out", broken, *given)
    assert status == [130, 130] and len(lines) == 1 and "goes on from where it stopped" in lines[0]
    assert torch.load(broken / "checkpoint.pt", weights_only=True)["done"] == 2
    alone = shutil.copytree(broken, tmp_path / "alone")
    assert fit_by_two(sequence, "--out", broken, "--resume")[0] == [0, 0]
    assert apart(whole, broken) == 0  # the very same sums
    fit([sequence], alone, resume=True, device="cpu", progress=False)
    assert apart(whole, alone) < ROUNDING


def test_time_ends_both_at_the_same_step(make_sequence, tmp_path, settings, fit_by_two, monkeypatch):
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() * (1 if is_main() else 100))
    _, given = settings(steps=0, minutes=0.01)
    assert fit_by_two(make_sequence(), "--out", tmp_path / "run", *given) == ([0, 0], [])
    info = read_info(tmp_path / "run")
    assert info["finished"] and 0.6 <= info["seconds"]


def test_a_mistake_is_told_once_and_ends_both(make_sequence, tmp_path, settings, fit_by_two):
    _, given = settings(batch=1)
    sequence, out = make_sequence(), tmp_path / "run"
    for arguments, said in (
        ((sequence, *given), "batch=1: is less than a crop for each of 2 processes; start fewer"),
        ((tmp_path / "nowhere/01",), "nowhere"),
    ):
        status, lines = fit_by_two(*arguments, "--out", out)
        assert status == [2, 2] and len(lines) == 1 and lines[0].startswith("weakseg: "), lines
        assert said in lines[0] and not out.exists()


def test_a_loss_that_is_no_number_ends_both(make_sequence, tmp_path, settings, fit_by_two):
    _, given = settings(learning_rate=1e30)
    status, lines = fit_by_two(make_sequence(), "--out", tmp_path / "run", *given)
    assert status == [2, 2] and len(lines) == 1 and "the loss is" in lines[0]


def test_a_full_disk_ends_both(make_sequence, tmp_path, settings, fit_by_two, monkeypatch):
    replace = os.replace

    def refuse(source, target):
        if os.path.basename(target) == "checkpoint.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    _, given = settings()
    status, lines = fit_by_two(make_sequence(), "--out", tmp_path / "run", *given)
    assert status == [2, 2] and len(lines) == 1 and "no space left" in lines[0]
    assert not list((tmp_path / "run").glob(".*"))  # neither prepared stacks nor temporary files


# The launchers themselves


def test_accelerate_launch(make_sequence, tmp_path, settings):
    config, given = settings()
    sequence, one, two = make_sequence(), tmp_path / "one", tmp_path / "two"
    # --multi_gpu asks for torch's own launcher, which starts CPU processes as well.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", free_port(), "-m", "weakseg_lib", "fit", sequence, "--out", two, *given]
    done = subprocess.run(
        [*map(str, launch), "--device", "cpu"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1
    fit([sequence], one, config, device="cpu", progress=False)
    assert apart(one, two) < ROUNDING


NOTEBOOK = """
import sys, torch
from accelerate import notebook_launcher
from weakseg_lib.config import load_config
from weakseg_lib.train import fit
from weakseg_lib.training_data import TrainingData

torch.set_num_threads(2)
torch.ones(2000, 2000).exp().sum()  # by OpenMP's threads, which a fork leaves behind

def train():
    fit([sys.argv[1]], sys.argv[2], load_config("laptop", sys.argv[3]), device="cpu")

notebook_launcher(train, num_processes=2, use_port=sys.argv[4])
"""


def test_notebook_launcher(make_sequence, tmp_path, settings):
    config, (_, file) = settings()
    sequence, one, two = make_sequence(), tmp_path / "one", tmp_path / "two"
    call = [sys.executable, "-c", NOTEBOOK, sequence, two, file, free_port()]
    done = subprocess.run(
        list(map(str, call)), env=ENVIRONMENT | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    fit([sequence], one, config, device="cpu", progress=False)
    assert read_info(two)["processes"] == 2 and apart(one, two) < ROUNDING
