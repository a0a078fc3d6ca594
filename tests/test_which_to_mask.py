"""The comparison of ways to choose masks runs whole, and goes on where it stopped: two steps of a tiny network."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from weakseg_lib.data.files import read_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.runs import load_run

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import which_to_mask  # noqa: E402


def test_trials_are_scored_and_kept(make_sequence, tiny, tmp_path, monkeypatch):
    data = make_sequence(frames=2, share=None).parent
    make_sequence("data2", frames=2, share=None, seed=1)
    for kind in ("01", "01_GT"):
        (tmp_path / "data2" / kind).rename(data / kind.replace("01", "02"))
    monkeypatch.setattr(which_to_mask, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(which_to_mask, "load_config", lambda settings: tiny.replace(steps=2))
    call = ["which_to_mask.py", "hl60", str(data), "--out", str(tmp_path / "out"), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*call, "--only", "start", "random", "both"])
    which_to_mask.main()
    found = read_json(tmp_path / "results/which_to_mask_hl60.json")
    masks = {arm: seeds["0"]["masks"] for arm, seeds in found["rows"].items()}
    assert masks == {"start": 2, "random": 4, "both": 4}  # two stacks teach
    own, base = (found["rows"][arm]["0"]["mask_iou"] for arm in ("both", "random"))
    assert found["summary"]["both"]["mask_iou"]["to_random"] == pytest.approx(own - base)
    assert 0 <= own <= 1 and "random" in (tmp_path / "results/which_to_mask_hl60.md").read_text()

    monkeypatch.setattr(which_to_mask, "fit", None)  # all is there: nothing is trained again
    which_to_mask.main()
    assert read_json(tmp_path / "results/which_to_mask_hl60.json")["rows"] == found["rows"]


def test_masks_in_true_boxes_are_those_of_the_right_cells(trained):
    folder, path = trained
    stack = Sequence(path).read(0, with_labels=True)
    other = replace(stack, labels=np.where(stack.labels > 0, stack.labels + 5, 0))  # ids do not begin at 1
    overlaps = which_to_mask.mask_ious(load_run(folder, "cpu"), other)
    assert len(overlaps) == len(np.unique(stack.labels)) - 1
    assert np.median(overlaps) > 0.5  # 60 steps, cells of 7 x 10 x 10 voxels


def test_intervals_of_paired_differences():
    rows = {
        way: {
            str(s): dict.fromkeys(which_to_mask.MEASURES, 0.8 + s / 10 + gain) | {"masks": 4}
            for s in range(3)
        }
        for way, gain in (("random", 0.0), ("both", 0.02))
    }
    found = which_to_mask.summary(rows)
    assert found["both"]["mask_iou"]["to_random"] == pytest.approx(0.02)
    assert found["both"]["mask_iou"]["to_random_interval"] == pytest.approx([0.02, 0.02])
    # Student's t, two degrees of freedom: 0.9 +- 4.3027 * 0.1 / sqrt(3)
    assert found["random"]["mask_iou"]["interval"] == pytest.approx([0.6516, 1.1484], abs=1e-4)
    assert "to_random" not in found["random"]["mask_iou"]
