"""Training by two processes on a CPU (gloo), beside the same training by one."""

import csv
import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
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
from weakseg_lib.data.voxel_classes import DenseSampler
from weakseg_lib.processes import is_main
from weakseg_lib.runs import read_info
from weakseg_lib.train import fit
from weakseg_lib.training_data import TrainingData

pytest.importorskip("accelerate", reason="accelerate is not installed (extra cluster)")
ROOT = Path(weakseg_lib.__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
STEPS = 4
# Sums in another order differ in the last digits of float32, and Adam divides by the size of the gradient: a weight
# whose gradient is zero but for rounding may move by a share of the learning rate (3e-3) a step.
ROUNDING = 5e-4


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


def weights(out):
    return torch.load(out / "weights.pt", weights_only=True)


def losses(out):
    with open(out / "log.csv", newline="") as file:
        return [[float(v) for k, v in row.items() if k != "seconds"] for row in csv.DictReader(file)]


def apart(a, b) -> float:
    """The largest difference of two sets of weights."""
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
        {
            "batch": 3,
            "dice": 0.5,
            "box_supervision": 0.5,
        },  # two crops for the first process, one for the other
        {"loss": "paper"},  # anchors are sampled
        {"method": "voxresnet", "batch": 3},
    ],
)
def test_two_processes_take_the_step_of_one(make_sequence, tmp_path, settings, fit_by_two, changes):
    """After one step the optimiser holds a tenth of the gradient: compared here, before Adam makes the last digits of
    a gradient near zero as large as any other."""
    sequence, one, two = make_sequence(frames=2), tmp_path / "one", tmp_path / "two"
    config, given = settings(**changes | {"steps": 1})
    fit([sequence], one, config, device="cpu", progress=False)
    assert fit_by_two(sequence, "--out", two, *given) == ([0, 0], [])
    states = [torch.load(out / "checkpoint.pt", weights_only=True) for out in (one, two)]
    pairs = zip(*(state["optimiser"]["state"].values() for state in states), strict=True)
    for a, b in ((x["exp_avg"], y["exp_avg"]) for x, y in pairs):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-7
    assert losses(one)[0] == pytest.approx(losses(two)[0], rel=1e-4)
    for key, value in states[0]["network"].items():
        if "running" in key:
            torch.testing.assert_close(value, states[1]["network"][key], rtol=1e-4, atol=1e-6)
    infos = read_info(one), read_info(two)
    assert [info.pop("processes") for info in infos] == [1, 2] and infos[0]["data"] == infos[1]["data"]
    assert set(os.listdir(two)) == set(os.listdir(one)) | {"curves.png"}


def test_a_share_without_any_region(make_sequence, tmp_path, settings, fit_by_two):
    """One stack has masks and the other has none, so that one process has nothing for the mask head: no hang."""
    sequence, one, two = make_sequence(frames=2), tmp_path / "one", tmp_path / "two"
    weak = sequence.with_name("01_WEAK")
    rows = [row.rsplit(",", 1)[0] for row in (weak / "boxes001.csv").read_text().splitlines()]
    (weak / "boxes001.csv").write_text(
        "\n".join([rows[0] + ",has_mask", *(f"{r},0" for r in rows[1:])]) + "\n"
    )
    (weak / "mask001.tif").unlink()
    config, given = settings()
    fit([sequence], one, config, device="cpu", progress=False)
    status, lines = fit_by_two(sequence, "--out", two, *given)
    assert status == [0, 0], lines
    assert apart(weights(one), weights(two)) < ROUNDING


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
    assert fit_by_two(sequence, "--out", broken, "--resume")[0] == [0, 0]
    assert apart(weights(whole), weights(broken)) == 0  # the very same sums


def test_time_ends_both_at_the_same_step(make_sequence, tmp_path, settings, fit_by_two):
    _, given = settings()
    arguments = (make_sequence(), "--out", tmp_path / "run", *given, "--minutes", 0.01)
    assert fit_by_two(*arguments) == ([0, 0], [])
    assert read_info(tmp_path / "run")["finished"]


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
    assert apart(weights(one), weights(two)) < ROUNDING


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
    assert read_info(two)["processes"] == 2 and apart(weights(one), weights(two)) < ROUNDING
