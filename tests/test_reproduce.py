"""`weakseg reproduce`, on an experiment of seconds: every row trained, scored, and not done again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from weakseg_lib import experiments, reproduce
from weakseg_lib.config import PRESETS
from weakseg_lib.data.annotation import annotate
from weakseg_lib.data.files import write_json
from weakseg_lib.data.simulate import SPECIMENS
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.weak_files import write_weak
from weakseg_lib.experiments import ALL, EXPERIMENTS, SHARES, Experiment, spread
from weakseg_lib.pictures import draw_reproduction
from weakseg_lib.reproduce import reproduce as run

HL60 = EXPERIMENTS["hl60"]


def test_the_papers_split():
    """Section 3: 13 stacks to train on, 100 to test; group 1 000 to 070 and 080 to 149, group 2 000 to 040 and ..."""
    assert HL60.train == {"01": (0, 10, 20, 30, 40, 50, 60, 70), "02": (0, 10, 20, 30, 40)}
    assert HL60.test == {"01": tuple(range(80, 150)), "02": tuple(range(50, 80))}
    for group, frames in HL60.train.items():
        assert not set(frames) & set(HL60.test[group])
        assert set(HL60.few[group]) <= set(frames)
    assert sum(map(len, HL60.few.values())) == 4


def test_the_trials_of_a_table_and_of_the_curve():
    trials = HL60.trials(2, curve=False)
    assert [t.name for t in trials][:3] == ["weak_0.2_seed0", "voxresnet_13_seed0", "voxresnet_4_seed0"]
    assert len(trials) == 6 and all(t.name == f"{t.row}_seed{t.seed}" for t in trials)
    curve = HL60.trials(1, curve=True)
    assert {t.masks for t in curve if t.method == "weak"} == set(SHARES)
    assert len({t.name for t in curve}) == len(curve)
    # The annotation of both methods is the same data, and the settings differ in the method alone.
    weak, full = HL60.config("laptop", "weak"), HL60.config("laptop", "voxresnet")
    assert full.steps >= 0.8 * weak.steps and (weak.crop, weak.batch) == (full.crop, full.batch)


def test_frames_are_spread_over_the_groups():
    assert spread(HL60.train, 1) == {"01": (60,)}
    assert spread(HL60.train, 13) == HL60.train
    assert spread({"01": (0, 1, 2, 3)}, 2) == {"01": (1, 3)}


@pytest.fixture
def data(monkeypatch, tiny, make_sequence):
    """A set with three frames in groups 01 and 02, and an experiment, "tiny", that learns from two and tests on two."""
    folder = make_sequence(frames=3, share=None, shape=(12, 32, 32)).parent
    for name in ("01", "01_GT"):
        shutil.copytree(folder / name, folder / name.replace("01", "02"))
    monkeypatch.setitem(PRESETS, "laptop", tiny.replace(steps=2))
    monkeypatch.setattr(experiments, "SHARES", (0.0, 0.5))
    printed = {"weak_0.5": (1.0, (0.9,), (0.8,))}
    tiny = Experiment("tiny", {"01": (0, 1)}, {"02": (1, 2)}, 0.5, columns=HL60.columns, printed=printed)
    monkeypatch.setitem(EXPERIMENTS, "tiny", tiny)
    return folder


def test_every_row_is_made_once(data, tmp_path, monkeypatch):
    """With VoxResNet and the curve, whose row without masks has no segmentation."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", replace(EXPERIMENTS["tiny"], few={"01": (0,)}))
    passes = []
    one_pass = reproduce.predict_readings
    monkeypatch.setattr(reproduce, "predict_readings", lambda *a: passes.append(a) or one_pass(*a))
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="no instance has a mask"):
        table = run("tiny", out, data=data, curve=True, device="cpu")
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [(r["row"], r["reading"]) for r in rows] == [
        ("weak_0.5", None),
        ("weak_0", None),
        ("voxresnet_2", "grown"),
        ("voxresnet_2", "literal"),
        ("voxresnet_1", "grown"),
        ("voxresnet_1", "literal"),
    ]
    assert len(passes) == 4  # two trainings, two test stacks: one pass for both readings
    assert rows[1]["segmentation_f1"] is None and rows[1]["masks_number"] == 0 and rows[1]["detection_f1"]
    for row in rows[:1] + rows[2:]:
        assert 0 <= row["segmentation_f1"]["mean"] <= 1 and row["segmentation_f1"]["interval"] is None
        assert row["fit_minutes"] and row["device"] == "cpu" and row["seeds"] == [0]
    assert rows[2]["hours"] > rows[4]["hours"] > 0 and rows[2]["masks_number"] == rows[2]["instances"]
    drawn = {path.name for path in draw_reproduction(out)}
    assert "hours.png" in drawn and "worst_weak_0.5_seed0.png" in drawn and len(drawn) == 6
    text = table.read_text()
    assert "the paper, on its own data" in text and "0.9000" in text and "in matched boxes" in text

    monkeypatch.setattr(reproduce, "fit", None)  # nothing may be trained again
    monkeypatch.setattr(reproduce, "_predict", None)
    assert run("tiny", out, data=data, curve=True, device="cpu").read_text() == text


@pytest.mark.parametrize("place, count", [("fit", 1), ("write_prediction", 2), ("evaluate", 1)])
def test_a_stopped_run_goes_on(place, count, data, tmp_path, monkeypatch):
    """Killed before training, at the second test stack, or before scoring: what is done is not repeated."""
    out, calls = tmp_path / "out", []
    really = getattr(reproduce, place)

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return really(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, place, killed)
        with pytest.raises(KeyboardInterrupt):
            run("tiny", out, data=data, device="cpu")
    assert not list(out.glob("scores/*"))

    def state():
        files = [*out.glob("runs/*/weights.pt"), *out.glob("predictions/**/boxes*.csv")]
        return {path: path.stat().st_mtime_ns for path in files}

    before = state()
    assert len(before) == {"fit": 0, "write_prediction": 2, "evaluate": 3}[place]
    run("tiny", out, data=data, device="cpu")
    after = state()
    assert len(after) == 3 and before.items() <= after.items()
    score = json.loads((out / "scores/weak_0.5_seed0.json").read_text())
    assert [row["frame"] for row in score["scores"]["stacks"]] == [1, 2]


def test_a_prediction_of_other_weights_is_made_anew(data, tmp_path):
    out = tmp_path / "out"
    run("tiny", out, data=data, device="cpu")
    boxes = out / "predictions/weak_0.5_seed0/02_RES/boxes001.csv"
    before = boxes.stat().st_mtime_ns
    shutil.rmtree(out / "runs")
    (out / "scores/weak_0.5_seed0.json").unlink()
    run("tiny", out, data=data, device="cpu")
    assert boxes.stat().st_mtime_ns > before


def test_a_test_stack_without_a_prediction_is_an_error(data, tmp_path, refused, monkeypatch):
    """One left out silently would raise the score."""
    out, really = tmp_path / "out", reproduce._predict

    def lose_one(*arguments):
        really(*arguments)
        for path in out.glob("predictions/*/*/*001.*"):
            path.unlink()

    monkeypatch.setattr(reproduce, "_predict", lose_one)
    with refused(out / "predictions/weak_0.5_seed0", "no prediction of 1 frames of group 02 (001)"):
        run("tiny", out, data=data, device="cpu")
    assert not list(out.glob("scores/*"))


def test_simulated_stacks_move_with_their_folder(data, tmp_path, monkeypatch):
    """Two seeds; the second is asked for after the folder was moved."""

    def simulate(out, stacks, size, seed):
        shutil.copytree(data, out)
        write_json(out / "dataset.json", {"simulated": True, "specimen": "tiny", "size": size, "seed": seed})

    monkeypatch.setitem(SPECIMENS, "tiny", simulate)
    run("tiny", tmp_path / "out", device="cpu")
    (tmp_path / "out").rename(tmp_path / "moved")
    first = (tmp_path / "moved/scores/weak_0.5_seed0.json").read_bytes()
    text = run("tiny", tmp_path / "moved", seeds=2, device="cpu").read_text()
    assert "| 0, 1 |" in text and "simulated stacks (laptop size, seed 0)" in text
    assert (tmp_path / "moved/scores/weak_0.5_seed0.json").read_bytes() == first
    (row,) = json.loads((tmp_path / "moved/table.json").read_text())["rows"]
    each = row["detection_f1"]["each_seed"]
    assert row["seeds"] == [0, 1] and row["detection_f1"]["mean"] == pytest.approx(np.mean(each), abs=1e-4)
    assert {path.name for path in draw_reproduction(tmp_path / "moved")} == {
        "hours.png",
        "worst_weak_0.5_seed0.png",
    }


def test_drawn_boxes_and_markers_alone(data, tmp_path, cells, monkeypatch):
    """As with Fluo-N3DH-CE: no full labels anywhere; boxes and a mask in one frame of group 01, markers in 02."""
    monkeypatch.setitem(
        EXPERIMENTS,
        "tiny",
        Experiment("tiny", {"01": ALL}, {"02": ALL}, 0.5, columns=EXPERIMENTS["celegans"].columns),
    )
    shutil.rmtree(data / "01_GT")
    (data / "02_GT/SEG").rename(data / "02_GT/TRA")
    for path in list((data / "02_GT/TRA").iterdir()):
        path.rename(path.with_name(path.name.replace("seg", "track")))
    annotation = annotate(cells((12, 32, 32), [0, 1])[1], 0.01, 0)
    write_weak(Sequence(data / "01"), 1, annotation, None)
    text = run("tiny", tmp_path / "out", data=data, device="cpu").read_text()
    (row,) = json.loads((tmp_path / "out/table.json").read_text())["rows"]
    assert (row["stacks"], row["masks_number"], row["instances"]) == (1, 1, len(annotation.ids)) and row[
        "drawn"
    ]
    assert f"boxes and {100 / len(annotation.ids):.3g} % of the masks, drawn" in text
    assert row["marker_f1"] and row["test_stacks"] == {"02": 3}
