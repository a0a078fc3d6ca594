"""`weakseg reproduce`, on an experiment of a minute: every row trained, scored, and not done again."""

import json
import shutil
from dataclasses import replace

import pytest

from weakseg_lib import experiments, reproduce
from weakseg_lib.config import PRESETS
from weakseg_lib.experiments import EXPERIMENTS, SHARES, Experiment, spread
from weakseg_lib.pictures import draw_reproduction
from weakseg_lib.reproduce import reproduce as run

HL60 = EXPERIMENTS["hl60"]


def test_the_papers_split():
    """Section 3: 13 stacks to train on, 100 to test; group 1 000 to 070 and 080 to 149, group 2 000 to 040 and ..."""
    assert sum(map(len, HL60.train.values())) == 13 and sum(map(len, HL60.test.values())) == 100
    assert HL60.train["01"] == (0, 10, 20, 30, 40, 50, 60, 70) and HL60.test["01"][-1] == 149
    for group, frames in HL60.few.items():
        assert set(frames) <= set(HL60.train[group])
    assert sum(map(len, HL60.few.values())) == 4


def test_the_trials_of_a_table_and_of_the_curve():
    names = [t.name for t in HL60.trials(2, curve=False)]
    assert names[:3] == ["weak_0.2_seed0", "voxresnet_13_seed0", "voxresnet_4_seed0"] and len(names) == 6
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
def tiny_experiment(monkeypatch, tiny, make_sequence):
    """A data folder with group 01 of three stacks, and an experiment that trains on two of them."""
    data = make_sequence(frames=3, share=None).parent
    for folder in ("01", "01_GT"):  # the real sets have a group that an experiment may only learn from
        shutil.copytree(data / folder, data / folder.replace("01", "02"))
    monkeypatch.setitem(PRESETS, "laptop", tiny.replace(steps=3))
    experiment = Experiment(
        "tiny",
        train={"01": (0, 1)},
        test={"01": (2,)},
        masks=0.5,
        few={"01": (0,)},
        columns=HL60.columns,
        printed={"weak_0.5": (1.0, (0.9,), (0.8,))},
    )
    monkeypatch.setitem(EXPERIMENTS, "tiny", experiment)
    return data


def test_every_row_is_made_once(tiny_experiment, tmp_path, monkeypatch):
    table = run("tiny", tmp_path / "out", data=tiny_experiment, seeds=1, device="cpu")
    rows = json.loads((tmp_path / "out/table.json").read_text())["rows"]
    assert [(r["row"], r["reading"]) for r in rows] == [
        ("weak_0.5", None),
        ("voxresnet_2", "grown"),
        ("voxresnet_2", "literal"),
        ("voxresnet_1", "grown"),
        ("voxresnet_1", "literal"),
    ]
    for row in rows:
        low, high = row["segmentation_f1"]["interval"]
        assert 0 <= low <= high <= 1 and row["fit_minutes"] and row["device"] == "cpu"
    assert rows[1]["hours"] > rows[3]["hours"] > 0 and rows[1]["masks_number"] == rows[1]["instances"]
    drawn = {path.name for path in draw_reproduction(table.parent)}
    assert "hours.png" in drawn and "worst_weak_0.5_seed0.png" in drawn and len(drawn) == 6
    text = table.read_text()
    assert "real data" in text and "the paper, on its own data" in text and "0.9000" in text

    monkeypatch.setattr(reproduce, "fit", None)  # nothing may be trained again
    monkeypatch.setattr(reproduce, "predict", None)
    assert run("tiny", tmp_path / "out", data=tiny_experiment, device="cpu").read_text() == text


def test_a_stopped_run_goes_on(tiny_experiment, tmp_path, monkeypatch):
    """Killed between training and prediction: the training is not repeated."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "predict", killed)
        with pytest.raises(KeyboardInterrupt):
            run("tiny", tmp_path / "out", data=tiny_experiment, device="cpu")
    weights = tmp_path / "out/runs/weak_0.5_seed0/weights.pt"
    before = weights.stat().st_mtime_ns
    with pytest.warns(UserWarning, match="is finished"):
        run("tiny", tmp_path / "out", data=tiny_experiment, device="cpu")
    assert weights.stat().st_mtime_ns == before


def test_results_of_another_configuration_are_left_alone(tiny_experiment, tmp_path, refused, make_sequence):
    out = tmp_path / "out"
    out.mkdir()
    (out / "experiment.json").write_text('{"experiment": "hl60"}')
    with refused(out, "experiment was hl60, now tiny", "choose another --out"):
        run("tiny", out, data=tiny_experiment)
    assert (out / "experiment.json").read_text() == '{"experiment": "hl60"}'


def test_missing_frames_are_named(tiny_experiment, tmp_path, refused, monkeypatch):
    wanted = replace(EXPERIMENTS["tiny"], test={"01": (2, 7, 8)})
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", wanted)
    with refused(tiny_experiment / "01", "has no t007.tif, t008.tif"):
        run("tiny", tmp_path / "out", data=tiny_experiment)


def test_a_folder_of_another_set_or_without_labels(tiny_experiment, tmp_path, refused):
    with refused(tmp_path / "nothing", "no such folder"):
        run("tiny", tmp_path / "a", data=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with refused(tmp_path / "empty/01", "no such folder"):
        run("tiny", tmp_path / "b", data=tmp_path / "empty")
    assert not (tmp_path / "b").exists()  # the right folder may be given next
    labels = tiny_experiment / "01_GT/SEG/man_seg001.tif"
    labels.unlink()
    with refused(labels):
        run("tiny", tmp_path / "c", data=tiny_experiment)


def test_stacks_are_simulated_whole_or_anew(tmp_path, monkeypatch):
    """A run that was killed while it simulated begins with fresh stacks, and one that has them keeps them."""
    made = []

    def simulate(out, stacks, size, seed):
        assert not out.exists()
        out.mkdir(parents=True)
        (out / "half").touch()
        if not made:
            made.append("killed")
            raise KeyboardInterrupt
        (out / "dataset.json").write_text("{}")
        made.append("whole")

    monkeypatch.setitem(reproduce.SPECIMENS, "hl60", simulate)
    with pytest.raises(KeyboardInterrupt):
        reproduce._data(HL60, tmp_path, "laptop", None)
    for _ in range(2):
        assert reproduce._data(HL60, tmp_path, "laptop", None) == tmp_path / "data"
    assert made == ["killed", "whole"]
