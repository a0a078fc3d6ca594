"""Scores of a reproduction put together: intervals of known width, seeds, differences, hours, rows without masks."""

import json

import numpy as np
import pytest

from weakseg_lib.annotation_time import AnnotationTime
from weakseg_lib.data.files import write_json
from weakseg_lib.experiments import EXPERIMENTS, Experiment
from weakseg_lib.intervals import DRAWS, block_of, interval, redraw
from weakseg_lib.reproduction_table import write_tables

TRUE = 100  # cells of a frame


def scores(found, group="02", measures=("detection",)):
    """What `evaluate` returns where `found` cells of TRUE are found in each frame, and nothing else."""
    stacks, total = [], int(np.sum(found))
    for t, n in enumerate(found):
        counts = {
            m: {"pairs" if m == "detection" else "overlap": int(n), "predicted": int(n), "true": TRUE}
            for m in measures
        }
        stacks.append({"group": group, "frame": t, "counts": counts})
    f1 = 2 * total / (total + TRUE * len(found))
    keys = {"segmentation_union": "segmentation_f1_union"}
    return {
        "groups": {group: {"stacks": len(found), **{keys.get(m, f"{m}_f1"): f1 for m in measures}}},
        "stacks": stacks,
    }


def width(values):
    low, high = interval(np.array(values), {"02": 60})
    return high - low


def test_the_first_value_is_the_score_and_draws_are_around_it():
    found = scores(np.random.default_rng(0).integers(60, 100, 60))
    values = redraw(found, "detection_f1")
    assert values.shape == (1 + DRAWS,)
    assert values[0] == pytest.approx(found["groups"]["02"]["detection_f1"], abs=1e-12)
    assert values[1:].mean() == pytest.approx(values[0], abs=0.002)


def test_the_width_is_that_of_independent_blocks():
    """Six blocks whose frames all agree: the score's deviation is that of a mean of six numbers, not of sixty."""
    per_block = np.random.default_rng(3).normal(80, 6, 6)
    rolled = np.repeat(per_block, 10)
    by_frame = np.random.default_rng(0).permutation(rolled)
    blocks, frames = (redraw(scores(f), "detection_f1")[1:].std() for f in (rolled, by_frame))
    f1 = 2 * rolled / (rolled + TRUE)
    # Drawn blocks begin anywhere and so mix two neighbours: 1/6 of the variance at most, a fair part of it at least.
    expected = f1.std() / np.sqrt(6)
    assert 0.6 * expected < blocks < 1.1 * expected
    assert frames < 0.7 * blocks


def test_every_frame_is_drawn_as_often_also_the_last():
    """A frame that fails shifts the mean of the draws as much at the end as in the middle."""
    for place in (0, 30, 59):
        found = np.full(60, 90)
        found[place] = 0
        values = redraw(scores(found), "detection_f1")
        assert values[1:].mean() == pytest.approx(values[0], abs=0.0015), place
        assert values[1:].std() > 0.004


def test_seeds_are_tested_on_the_same_frames():
    """Two trainings that agree in every frame tell no more than one; two that differ by a constant tell how much."""
    values = redraw(scores(np.random.default_rng(1).integers(60, 100, 60)), "detection_f1")
    assert interval([values] * 3 * np.ones((1, 1)), {"02": 60}) == interval(np.array([values]), {"02": 60})
    apart = [values, values - 0.1]
    assert width(apart) > 0.1 > width([values])
    # Frames that are hard for both methods cancel out in a difference.
    assert width([values - (values - 0.05)]) < 1e-9


def test_a_few_stacks_have_no_interval():
    values = np.array([redraw(scores([80] * 9), "detection_f1")])
    assert interval(values, {"01": 60, "02": 9}) is None and interval(values, {"01": 60, "02": 10})
    assert [block_of(n) for n in (1, 4, 15, 30, 70)] == [1, 1, 5, 10, 10]


@pytest.fixture
def out(tmp_path):
    """A function that writes score files (method, share, frames, seed, found, masks) as earlier versions did."""
    write_json(
        tmp_path / "experiment.json", {"experiment": "tiny", "size": "laptop", "data": "x", "real": False}
    )

    def write(
        method, share, number, seed, found, masks, reading=None, measures=("detection", "segmentation")
    ):
        name = f"weak_{share:g}_seed{seed}" if method == "weak" else f"voxresnet_{number}_seed{seed}"
        trial = {
            "name": name,
            "method": method,
            "masks": share,
            "frames": {"01": list(range(number))},
            "seed": seed,
        }
        about = {
            "trial": trial,
            "reading": reading,
            "instances": 50 * number,
            "masks": masks,
            "stacks": number,
        }
        about |= {"fit_seconds": 90.0, "predict_seconds": 3.0, "peak_gib": None, "steps": 3, "threads": 1}
        about |= {"device": "cpu", "torch": "2", "scores": scores(found, measures=measures)}
        write_json(tmp_path / f"scores/{name}{'_' + reading if reading else ''}.json", about)
        return tmp_path

    return write


COLUMNS = (("detection_f1", "detection F1"),)
TINY = Experiment("tiny", {"01": (0, 1)}, {"02": tuple(range(30))}, 0.5, columns=COLUMNS)


def test_rows_seeds_and_differences(out):
    for seed in (0, 1):
        out("weak", 0.5, 2, seed, [90 - seed] * 30, 50)
        folder = out("voxresnet", None, 2, seed, [80 - seed] * 30, 100, "grown")
    out("voxresnet", None, 2, 2, [10] * 30, 100, "grown")  # a seed that we have not
    write_tables(TINY, folder)
    table = json.loads((folder / "table.json").read_text())
    ours, other = table["rows"]
    assert (ours["row"], ours["seeds"], other["row"], other["seeds"]) == (
        "weak_0.5",
        [0, 1],
        "voxresnet_2",
        [0, 1, 2],
    )
    f1 = [2 * n / (n + TRUE) for n in (90, 89, 80, 79)]
    assert ours["detection_f1"]["each_seed"] == pytest.approx(f1[:2], abs=1e-4)
    (gap,) = table["differences"]
    assert (gap["row"], gap["minus"], gap["reading"], gap["seeds"]) == (
        "weak_0.5",
        "voxresnet_2",
        "grown",
        [0, 1],
    )
    assert gap["detection_f1"]["mean"] == pytest.approx(np.mean(f1[:2]) - np.mean(f1[2:]), abs=1e-4)
    low, high = gap["detection_f1"]["interval"]
    assert 0 < low <= gap["detection_f1"]["mean"] <= high < 0.07
    text = (folder / "table.md").read_text()
    assert "| 0, 1, 2 |" in text and "10 of 30 (group 2)" in text and "one training" not in text
    assert "ours minus" in text and "simulated stacks" in text


def test_hours_come_from_the_masks_that_there_were(out):
    out("weak", 0.5, 2, 0, [90] * 30, 7)  # drawn by hand: 7 of 100, whatever the experiment's share says
    folder = out("voxresnet", None, 2, 0, [90] * 30, 100, "literal")
    write_tables(TINY, folder)
    ours, other = json.loads((folder / "table.json").read_text())["rows"]
    time = AnnotationTime()
    assert ours["hours"] == round((100 + 7 * time.ratio) * time.box_seconds / 3600, 2)
    assert other["hours"] == round(100 * time.ratio * time.box_seconds / 3600, 2)
    assert "one training" in (folder / "table.md").read_text()


def test_only_a_row_without_masks_may_lack_a_segmentation(out, refused):
    both = Experiment(
        "tiny", TINY.train, TINY.test, 0.5, columns=(*COLUMNS, ("segmentation_f1", "segmentation F1"))
    )
    measures = ("detection", "segmentation", "segmentation_union")
    folder = out("weak", 0.0, 2, 0, [90] * 30, 0, measures=measures[:1])
    path = folder / "scores/weak_0.5_seed0.json"
    out("weak", 0.5, 2, 0, [90] * 30, 50, measures=measures)
    write_tables(both, folder)
    rows = {row["row"]: row for row in json.loads((folder / "table.json").read_text())["rows"]}
    assert rows["weak_0"]["segmentation_f1"] is None and rows["weak_0"]["detection_f1"]
    assert rows["weak_0.5"]["segmentation_f1"]["mean"] > 0.9 and "| - |" in (folder / "table.md").read_text()
    path.write_text(path.read_text().replace('"segmentation_f1"', '"other"'))
    with refused(path, "has no segmentation_f1"):
        write_tables(both, folder)


def test_both_ways_to_score_a_segmentation_are_columns():
    assert [name for _, name in EXPERIMENTS["hl60"].measures] == [
        "detection F1",
        "segmentation F1 (right instance)",
        "segmentation F1 (in matched boxes)",
    ]
    assert EXPERIMENTS["celegans"].measures == EXPERIMENTS["celegans"].columns
