"""The command line as a user calls it: in processes of its own, in a folder of the user's, with relative paths."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import weakseg_lib
from weakseg_lib.cli import main
from weakseg_lib.data.stacks import read_labels

ROOT = Path(weakseg_lib.__file__).parents[1]
SMALL = ["crop=16,48,48", "channels=4,8,8", "blocks=1", "roi_size=4", "mask_channels=8"]


def weakseg(folder, *arguments):
    """Run `python -m weakseg_lib` in a folder; the finished process, its output as text."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "weakseg_lib", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_from_simulation_to_scores(tmp_path):
    def run(*arguments):
        done = weakseg(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr and "warning" not in done.stderr
        return done.stdout

    assert "wrote sim/01, sim/02" in run("simulate", "hl60", "sim", "--stacks", "1")
    assert "wrote sim/01_WEAK" in run("annotate", "sim/01", "sim/02", "--masks", "0.2")
    fit = ("fit", "sim/01", "sim/02", "--out", "run", "--steps", "3", "--device", "cpu", "--set", *SMALL)
    assert "wrote run: 3 steps" in run(*fit)
    first, second = run("predict", "run", "sim/01", "sim/02", "--out", "res", "--device", "cpu").splitlines()
    assert first.startswith("wrote res/01_RES: ") and second.startswith("wrote res/02_RES: ")
    assert "cells" in first and "cells" in second
    table = run("evaluate", "res", "sim", "--json", "scores.json")

    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {f"res/0{i}_RES/{name}" for i in (1, 2) for name in ("mask000.tif", "boxes000.csv")} <= files
    assert {f"run/{n}" for n in ("run.json", "config.json", "log.csv", "weights.pt", "curves.png")} <= files
    assert not [name for name in files if ".tmp" in name or "prepared" in name]
    for group in ("01", "02"):
        image = read_labels(tmp_path / f"res/{group}_RES/mask000.tif")
        assert (
            image.shape
            == read_labels(tmp_path / f"sim/{group}_GT/SEG/man_seg000.tif").shape
            == (32, 160, 160)
        )
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["groups"]) == {"01", "02"} and "Detection F1" in table
    mean = np.mean([scores["groups"][group]["detection_f1"] for group in ("01", "02")])
    assert scores["mean"]["detection_f1"] == pytest.approx(mean) and f"{mean:.4f}" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict", "none", "data/01", "--out", "res"), "none: is not a run folder"),
        (("annotate", "data/01", "--masks", "2"), "--masks: "),
        (("fit", "data/01/t000.tif", "--out", "run"), "data/01/t000.tif: no such folder"),
        (("evaluate", "res", "data"), "res: no such file or folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(make_sequence, tmp_path, arguments, words):
    make_sequence(share=None)
    before = sorted(tmp_path.rglob("*"))
    done = weakseg(tmp_path, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"weakseg: {words}") and "; " in line
    assert sorted(tmp_path.rglob("*")) == before


def test_help_does_not_wait_for_torch(tmp_path):
    code = (
        "import sys\n"
        "from weakseg_lib.cli import main\n"
        "try:\n    main(['fit', '--help'])\n"
        "finally:\n    print('torch' in sys.modules)"
    )
    path = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | path, capture_output=True, text=True)
    assert done.returncode == 0 and "--resume" in done.stdout and done.stdout.endswith("False\n")


@pytest.mark.parametrize(
    "arguments", [(), ("train",), ("fit",), ("simulate", "yeast", "out"), ("fit", "a", "--out")]
)
def test_calls_that_are_no_commands(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: weakseg" in capsys.readouterr().err


def test_steps_or_minutes_not_both(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fit", "a", "--out", "b", "--steps", "3", "--minutes", "3"])
    assert caught.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_version_and_commands(capsys):
    for argument in ("--version", "--help"):
        with pytest.raises(SystemExit) as caught:
            main([argument])
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert weakseg_lib.__version__ in text
    assert all(f"    {name} " in text for name in ("simulate", "annotate", "fit", "predict", "evaluate"))


def test_an_interrupt_is_status_130(place, predict_call, monkeypatch, call, snapshot):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("weakseg_lib.prediction.write_tiff", interrupt)
    before = snapshot(place.folder)
    status, lines = call(*predict_call(place.sequence))
    assert status == 130 and lines == ["weakseg: interrupted; the same command goes on from where it stopped"]
    assert snapshot(place.folder) == before


@pytest.mark.skipif(
    os.environ.get("CUDA_VISIBLE_DEVICES") is None and Path("/dev/nvidia0").exists(), reason="a GPU"
)
def test_a_gpu_that_is_not_there(place, predict_call, fails):
    line = fails(*predict_call(place.sequence), "--device", "cuda")
    assert "--device cuda" in line and "--device cpu" in line


def test_scores_of_one_file_with_json_and_picture(trained, tmp_path, call, capsys):
    run, sequence = trained
    truth = sequence.with_name("01_GT") / "SEG/man_seg000.tif"
    assert call("predict", run, sequence / "t000.tif", "--out", tmp_path / "res", "--device", "cpu") == (
        0,
        [],
    )
    extra = ("--json", tmp_path / "made/scores.json", "--picture", tmp_path / "made/worst.png")
    assert call("evaluate", tmp_path / "res/mask000.tif", truth, *extra) == (0, [])
    scores = json.loads((tmp_path / "made/scores.json").read_text())
    (group,) = scores["groups"].values()
    assert group["detection_f1"] > 0.9
    assert (tmp_path / "made/worst.png").read_bytes().startswith(b"\x89PNG")


def test_settings_reach_the_run_in_their_order(place, call, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(
        json.dumps({"crop": [16, 32, 32], "channels": [4, 8, 8], "blocks": 1, "roi_size": 4, "batch": 1})
    )
    arguments = ("fit", place.sequence, "--out", place.new_run, "--config", own, "--device", "cpu")
    assert call(*arguments, "--set", "batch=2", "cell_size=0", "--set", "noise=0", "--steps", 2)[0] == 0
    config = json.loads((place.new_run / "config.json").read_text())
    wanted = {"crop": [16, 32, 32], "batch": 2, "cell_size": 0.0, "noise": 0.0, "steps": 2, "minutes": 0.0}
    assert {key: config[key] for key in wanted} == wanted


def test_resume_on_the_command_line(place, fit_call, call, fails):
    assert call(*fit_call())[0] == 0
    assert "--resume" in fails(*fit_call())
    # The same settings, or none, go on; here there is nothing left to do.
    assert call(*fit_call("--resume"))[0] == 0
    assert call("fit", place.sequence, "--out", place.new_run, "--resume")[0] == 0
    assert "steps was 2, now 5" in fails(*fit_call("--resume", "--steps", 5))
