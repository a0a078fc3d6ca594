import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tifffile
import torch

from weakseg_lib import train
from weakseg_lib.cli import main
from weakseg_lib.data.annotation import annotate_sequence
from weakseg_lib.data.files import write_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.errors import InputError
from weakseg_lib.evaluation import evaluate
from weakseg_lib.prediction import predict, predict_stack
from weakseg_lib.runs import load_run, read_config, read_info
from weakseg_lib.train import fit, next_run

COLUMNS = ("step", "seconds", "lr", "loss", "loss_class", "loss_box", "loss_mask")
WRITTEN = {"run.json", "config.json", "log.csv", "checkpoint.pt", "weights.pt"}


def train_quietly(sequence, out, config=None, **options):
    return fit([sequence], out, config, device="cpu", progress=False, **options)


def read_log(out):
    with open(out / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(out):
    return torch.load(out / "weights.pt", weights_only=True)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# A run folder


def test_what_training_leaves_behind(trained):
    out, sequence = trained
    assert set(os.listdir(out)) == WRITTEN  # no prepared stacks, no temporary files
    info = read_info(out)
    assert info["finished"] is True and info["steps"] == 60 and info["sequences"] == [str(sequence)]
    assert info["stacks"] == 2 and info["instances"] == 36 and info["masks"] == 18 and info["has_masks"]
    assert info["working_voxel_um"] == [0.5, 0.25, 0.25]  # cell_size 0: as recorded
    np.testing.assert_allclose(
        info["anchor_sizes"], [[6.5, 9.5, 9.5]], atol=1
    )  # how large the cells are drawn
    assert info["training_detection_f1"] > 0.9
    run = load_run(out, "cpu")
    assert run.config == read_config(out) and run.info == info and not run.network.training


def test_the_log(trained):
    rows = read_log(trained[0])
    assert tuple(rows[0]) == COLUMNS and [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50, 60]
    for row in rows:
        parts = sum(float(row[f"loss_{part}"]) for part in ("class", "box", "mask"))
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-4)  # six digits are written
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)


def test_each_row_is_handed_over_as_it_is_written(make_sequence, tmp_path, tiny):
    rows = []
    train_quietly(make_sequence(), tmp_path / "run", tiny.replace(steps=20), on_log=rows.append)
    assert [row["step"] for row in rows] == [10, 20] and tuple(rows[0]) == COLUMNS
    assert [{k: str(v) for k, v in row.items()} for row in rows] == read_log(tmp_path / "run")


def test_a_seed_gives_the_same_run_and_another_seed_another(make_sequence, tmp_path, tiny):
    sequence = make_sequence()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(name))
        train_quietly(sequence, tmp_path / name, tiny, seed=seed)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert same(a, b) and not same(a, c)


def test_time_can_end_the_training(make_sequence, tmp_path, tiny):
    run = train_quietly(make_sequence(), tmp_path / "run", tiny.replace(steps=0, minutes=1e-4))
    assert run.info["steps"] >= 1 and run.info["finished"]


def test_ctrl_c_saves_the_step_it_interrupts(make_sequence, tmp_path, tiny):
    """And the run then ends in the weights of one that nobody interrupted."""
    sequence = make_sequence()

    def press(row):
        if row["step"] == 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_quietly(sequence, tmp_path / "a", tiny.replace(steps=40), on_log=press)
    assert torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["done"] == 20
    train_quietly(sequence, tmp_path / "a", resume=True)
    train_quietly(sequence, tmp_path / "b", tiny.replace(steps=40))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_ctrl_c_before_the_first_line_of_the_log(make_sequence, tmp_path, tiny, monkeypatch):
    step = train.Trainer.step

    def press(self):
        if self.done == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    sequence, out = make_sequence(), tmp_path / "run"
    monkeypatch.setattr(train.Trainer, "step", press)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(sequence, out, tiny.replace(steps=20))
    assert torch.load(out / "checkpoint.pt", weights_only=True)["done"] == 3
    assert not (out / "log.csv").exists()  # its first line comes after ten steps
    monkeypatch.undo()
    assert train_quietly(sequence, out, resume=True).info["finished"]


def test_two_kinds_of_cells(make_sequence, tmp_path, tiny):
    sequence = make_sequence()
    table = sequence.with_name("01_WEAK") / "boxes000.csv"
    header, *rows = table.read_text().splitlines()
    kinds = [",".join([*row.split(",")[:7], str(1 + i % 2), row[-1]]) for i, row in enumerate(rows)]
    table.write_text("\n".join([header, *kinds]) + "\n")
    config = tiny.replace(classes=3, steps=60, roi_size=6, learning_rate=1e-2)
    run = train_quietly(sequence, tmp_path / "run", config)
    found = predict_stack(run, Sequence(sequence).read(0), score=0.02)
    assert set(found.classes) == {1, 2}  # they look the same, so either is as good


# What cannot be trained on


def test_without_masks_the_detector_is_trained_alone_with_a_warning(make_sequence, tmp_path, tiny):
    with pytest.warns(UserWarning, match="no instance has a mask, so only the detector") as warned:
        run = train_quietly(make_sequence(share=0.0), tmp_path / "run", tiny)
    assert warned[0].filename == __file__  # the line that called `fit`
    assert run.info["has_masks"] is False and run.info["masks"] == 0


def test_voxresnet_learns_from_full_labels_and_predicts_in_two_readings(make_sequence, tmp_path, tiny):
    """No weak annotation is asked for. These cells touch no other: 100 steps part them from the background."""
    sequence = make_sequence(share=None)
    config = tiny.replace(method="voxresnet", steps=100, learning_rate=1e-2, border_um=0.25)
    run = fit([sequence], tmp_path / "run", config, device="cpu", progress=False)
    assert run.info["masks"] == run.info["instances"] > 0 and run.info["training_detection_f1"] > 0.9
    header = (tmp_path / "run/log.csv").read_text().splitlines()[0]
    assert header == "step,seconds,lr,loss,loss_voxels,loss_branches"
    volumes = {}
    for reading in ("grown", "literal"):
        predict(
            tmp_path / "run", [sequence], tmp_path / reading, reading=reading, device="cpu", progress=False
        )
        found = evaluate(tmp_path / reading, sequence, progress=False)["groups"]["01"]
        volumes[reading] = np.count_nonzero(tifffile.imread(tmp_path / reading / "mask000.tif"))
        if reading == "grown":
            assert found["detection_f1"] > 0.9 and found["segmentation_f1"] > 0.8
    assert volumes["literal"] < 0.8 * volumes["grown"]  # the boundary is left out


def test_masks_are_taken_from_full_labels_when_asked(make_sequence, tmp_path, tiny, refused):
    """The same annotation as `weakseg annotate` makes, without a folder for each share."""
    sequence = make_sequence(share=0.5)
    runs = [
        fit([sequence], tmp_path / name, tiny, seed=0, masks=masks, device="cpu", progress=False).info
        for name, masks in (("files", None), ("made", 0.5), ("all", 1.0))
    ]
    assert runs[0]["data"] == runs[1]["data"] != runs[2]["data"]
    assert runs[2]["masks"] == runs[2]["instances"]
    labels = sequence.with_name("01_GT") / "SEG/man_seg000.tif"
    labels.unlink()
    with refused(labels):
        fit([sequence], tmp_path / "none", tiny.replace(method="voxresnet"), device="cpu", progress=False)


def test_without_boxes_there_is_nothing_to_learn(make_sequence, tmp_path, tiny, refused):
    sequence = make_sequence()
    table = sequence.with_name("01_WEAK") / "boxes000.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    (table.parent / "mask000.tif").unlink()
    with refused(sequence, "no boxes in any stack", "draw a box"):
        train_quietly(sequence, tmp_path / "run", tiny)
    assert not (tmp_path / "run").exists()


def test_all_stacks_are_checked_before_the_training_starts(make_sequence, tmp_path, tiny, refused):
    sequence = make_sequence(frames=3)
    last = sequence / "t002.tif"
    last.write_bytes(last.read_bytes()[:-2000])
    with refused(last, "incomplete"):
        train_quietly(sequence, tmp_path / "run", tiny)
    assert not (tmp_path / "run").exists()


def test_a_training_needs_an_end(make_sequence, tmp_path, tiny, refused):
    with refused("--steps", "neither steps nor minutes"):
        train_quietly(make_sequence(), tmp_path / "run", tiny.replace(steps=0))


def test_a_folder_with_a_run_is_left_alone(trained, tmp_path, tiny, refused):
    out, sequence = trained
    shutil.copytree(out, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with refused(tmp_path / "run", "already holds a run", "--resume"):
        train_quietly(sequence, tmp_path / "run", tiny)
    assert snapshot(tmp_path / "run") == before


# Resuming

DRIVER = """
import os, signal, sys
from weakseg_lib import train
from weakseg_lib.cli import main

train.CHECKPOINT_SECONDS = -1  # at every line of the log
where, saved = sys.argv.pop(1), []
step, save = train.Trainer.step, train.save_tensors

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def step_or_die(trainer):
    if where == "step" and trainer.done == 27:
        kill()
    return step(trainer)

def save_or_die(*arguments):
    saved.append(1)
    if where == "checkpoint" and len(saved) == 3:
        kill()
    save(*arguments)

train.Trainer.step, train.save_tensors = step_or_die, save_or_die
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("where", "logged"), [("step", [10, 20]), ("checkpoint", [10, 20, 30])])
def test_a_killed_run_goes_on_to_the_very_weights_of_an_unbroken_one(
    make_sequence, tmp_path, tiny, where, logged
):
    """SIGKILL in the middle of a step, or after the log was written and before its checkpoint was."""
    threads = torch.get_num_threads()
    sequence, whole, broken = make_sequence(frames=2), tmp_path / "whole", tmp_path / "broken"
    config = tmp_path / "tiny.json"
    write_json(config, tiny.replace(steps=40).to_json())
    fit_broken = ["fit", str(sequence), "--out", str(broken), "--config", str(config), "--device", "cpu"]
    # In batch normalisation the order of a sum depends on the number of threads.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    killed = subprocess.run(
        [sys.executable, "-c", DRIVER, where, *fit_broken], env=environment, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [int(row["step"]) for row in read_log(broken)] == logged
    assert read_info(broken)["finished"] is False
    with pytest.raises(InputError, match="has not finished; continue it with .*--resume"):
        load_run(broken)

    train_quietly(sequence, whole, tiny.replace(steps=40))
    assert main([*fit_broken[:4], "--resume", "--device", "cpu"]) == 0
    assert same(weights(broken), weights(whole))
    assert [row["step"] for row in read_log(broken)] == ["10", "20", "30", "40"]
    for a, b in zip(read_log(broken), read_log(whole), strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    assert read_info(broken)["score_threshold"] == read_info(whole)["score_threshold"]
    assert set(os.listdir(broken)) - {"curves.png"} == WRITTEN


@pytest.fixture
def interrupted(make_sequence, tmp_path, tiny, monkeypatch):
    """A run stopped by Ctrl-C after a checkpoint, and its sequence."""
    sequence, out = make_sequence(), tmp_path / "run"
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -1)

    def stop(row):
        if row["step"] == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_quietly(sequence, out, tiny.replace(steps=30), on_log=stop)
    return sequence, out


def test_an_interrupted_run_keeps_its_checkpoint_and_cleans_up(interrupted):
    sequence, out = interrupted
    assert set(os.listdir(out)) == {"run.json", "config.json", "log.csv", "checkpoint.pt"}
    run = train_quietly(sequence, out, resume=True)
    assert run.info["steps"] == 30 and [row["step"] for row in read_log(out)] == ["10", "20", "30"]
    done = snapshot(out)
    with pytest.warns(UserWarning, match="is finished, nothing is left to do"):
        assert train_quietly(sequence, out, resume=True).info == run.info
    assert snapshot(out) == done


def test_resuming_with_other_settings_or_sequences_is_refused(interrupted, make_sequence, tiny, refused):
    sequence, out = interrupted
    other = make_sequence("other")
    before = snapshot(out)
    with refused(out, "other settings (batch was 2, now 3)"):
        train_quietly(sequence, out, tiny.replace(steps=30, batch=3), resume=True)
    with refused(out, f"trained on other sequences than {other}", f"give {sequence}"):
        train_quietly(other, out, resume=True)
    assert snapshot(out) == before


def test_the_next_run_resumes_only_what_can_be_resumed(interrupted, tiny):
    sequence, out = interrupted
    folder, config = out.parent / "runs", tiny.replace(steps=30)
    (folder / "run_old").mkdir(parents=True)  # not ours
    assert next_run(folder, [sequence], config) == (folder / "run1", False)
    out.rename(folder / "run7")
    assert next_run(folder, [sequence], config) == (folder / "run7", True)
    assert next_run(folder, [sequence], config.replace(batch=3)) == (folder / "run8", False)
    annotate_sequence(sequence, 0.25, seed=1, progress=False)
    assert next_run(folder, [sequence], config) == (folder / "run8", False)
    train_quietly(sequence, folder / "run8", config)
    assert next_run(folder, [sequence], config) == (folder / "run8", True)  # nothing new to learn
    assert next_run(folder, [sequence], config.replace(steps=31)) == (folder / "run9", False)


def test_stacks_without_a_frame_are_refused(make_sequence, tmp_path, tiny, refused):
    path = make_sequence()
    with refused(path, "no boxes in any stack", "weakseg propose"):
        fit([Sequence(path, [])], tmp_path / "run", tiny, device="cpu", progress=False)


def test_a_damaged_checkpoint_is_told(interrupted, refused):
    sequence, out = interrupted
    checkpoint = out / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with refused(checkpoint, "damaged"):
        train_quietly(sequence, out, resume=True)


def test_resume_starts_what_was_never_started(make_sequence, tmp_path, tiny):
    with pytest.warns(UserWarning, match="holds no run to resume, so a new one begins"):
        assert train_quietly(make_sequence(), tmp_path / "run", tiny, resume=True).info["finished"]


# Memory


def test_memory_does_not_grow_with_the_number_of_stacks(make_sequence, tmp_path, tiny):
    shape, peaks = (16, 80, 80), []
    for frames in (2, 8):
        sequence = make_sequence(f"data{frames}", frames=frames, shape=shape)
        tracemalloc.start()  # sees what numpy holds: images, labels, masks
        train_quietly(sequence, tmp_path / f"run{frames}", tiny.replace(steps=1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    stack = 4 * np.prod(shape)  # one image as float32
    assert peaks[0] > stack  # the measurement does see images
    # Four times the stacks, less than half a stack more: the boxes, ids and names of the others.
    assert peaks[1] - peaks[0] < stack / 2


def test_run_json_is_valid_json(trained):
    text = (trained[0] / "run.json").read_text()
    assert "NaN" not in text and json.loads(text)["format"] == 1
