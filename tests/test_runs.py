import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from weakseg_lib import runs
from weakseg_lib.data.files import write_json
from weakseg_lib.runs import RUN_FORMAT, find_run, load_run, load_tensors, read_config, save_tensors


def change(path, **values):
    write_json(path, json.loads(path.read_text()) | values)


def test_a_run_comes_back_ready_to_predict(make_run, tiny, untrained):
    folder = make_run(score_threshold=0.4)
    run = load_run(str(folder), "cpu")
    assert run.folder == folder and run.config == tiny and run.info["score_threshold"] == 0.4
    assert not run.network.training and run.network.detector.anchor_sizes.tolist() == [[7, 10, 10]]
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        maps, wanted = (network.backbone(image) for network in (run.network, untrained(tiny, eager=4.0)))
    for stride in maps:
        torch.testing.assert_close(
            maps[stride], wanted[stride], atol=1e-5, rtol=1e-5
        )  # another memory layout


def test_the_averaged_weights_are_the_ones_used(trained):
    checkpoint = load_tensors(trained[0] / "checkpoint.pt")
    used = load_run(trained[0], "cpu").network.state_dict()
    assert all(torch.equal(used[key], value) for key, value in checkpoint["average"].items())
    assert any(not torch.equal(used[key], value) for key, value in checkpoint["network"].items())


def test_weights_that_come_along_are_found_by_name(make_run, tmp_path, monkeypatch):
    """Unless a folder of that name is there: it is what the user means."""
    monkeypatch.setattr(runs, "PRETRAINED", tmp_path)
    folder = make_run()
    folder.rename(tmp_path / "nuclei")
    assert find_run("nuclei") == tmp_path / "nuclei" and load_run("nuclei", "cpu").info["has_masks"]
    monkeypatch.chdir(tmp_path)
    assert find_run("nuclei") == Path("nuclei") and find_run("a/nuclei") == Path("a/nuclei")


def test_folders_that_are_no_runs(tmp_path, refused):
    with refused(tmp_path / "none", "not a run folder", "fit --out"):
        load_run(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file", "not a run folder"):
        load_run(tmp_path / "file")


def test_an_unfinished_run(make_run, refused):
    folder = make_run(finished=False)
    with refused(folder, "has not finished", "--resume"):
        load_run(folder)


@pytest.mark.parametrize("version", [0, RUN_FORMAT + 1, None, "1"])
def test_a_run_of_another_version(make_run, version, refused):
    folder = make_run(format=version, weakseg="9.9")
    with refused(folder, f"format {version}", "weakseg 9.9", "install that version"):
        load_run(folder)


@pytest.mark.parametrize("text", ["", "{", "[]"])
@pytest.mark.parametrize("name", ["run.json", "config.json"])
def test_damaged_json(make_run, name, text, refused):
    folder = make_run()
    (folder / name).write_text(text)
    with refused(folder / name, "JSON"):
        load_run(folder)


@pytest.mark.parametrize(
    "missing", ["anchor_sizes", "working_voxel_um", "score_threshold", "has_masks", "mask_level"]
)
def test_run_json_without_something_needed(make_run, missing, refused):
    folder = make_run()
    info = json.loads((folder / "run.json").read_text())
    del info[missing]
    write_json(folder / "run.json", info)
    with refused(folder / "run.json", missing):
        load_run(folder)


def test_settings_of_another_version(make_run, refused):
    folder = make_run()
    change(folder / "config.json", wings=2)
    with refused(folder / "config.json", "unknown setting 'wings'"):
        load_run(folder)


def test_settings_that_the_weights_do_not_fit(make_run, refused):
    folder = make_run()
    change(folder / "config.json", channels=[8, 8, 8])
    with refused(folder / "weights.pt", "does not fit config.json"):
        load_run(folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_weights(make_run, share, refused):
    weights = make_run() / "weights.pt"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    with refused(weights, "damaged", "train again"):
        load_run(weights.parent)


@pytest.mark.parametrize("content", [b"no tensors at all", b"PK\x03\x04 nor a zip file", bytes(1000)])
def test_weights_that_are_something_else(make_run, content, refused):
    weights = make_run() / "weights.pt"
    weights.write_bytes(content)
    with refused(weights, "damaged"):
        load_run(weights.parent)


def test_weights_that_are_no_state_of_a_network(make_run, refused):
    weights = make_run() / "weights.pt"
    save_tensors(weights, [1, 2])
    with refused(weights):
        load_run(weights.parent)


def test_missing_weights(make_run, refused):
    weights = make_run() / "weights.pt"
    weights.unlink()
    with refused(weights, "no such file"):
        load_run(weights.parent)


def test_weights_hold_no_code(make_run, refused):
    """A pickle can run anything; a run folder from somebody else must not."""
    weights = make_run() / "weights.pt"

    class Trap:
        def __reduce__(self):
            return open, (str(weights) + ".sprung", "w")

    torch.save({"a": Trap()}, weights)
    with refused(weights):
        load_run(weights.parent)
    assert not weights.with_name("weights.pt.sprung").exists()


def test_tensors_come_back_bit_for_bit(tmp_path):
    value = {"a": torch.randn(3, 4), "b": [1, 2.5], "c": {"d": torch.arange(3)}}
    save_tensors(tmp_path / "made/x.pt", value)
    back = load_tensors(tmp_path / "made/x.pt")
    assert (
        torch.equal(back["a"], value["a"])
        and back["b"] == [1, 2.5]
        and torch.equal(back["c"]["d"], torch.arange(3))
    )


def test_a_run_can_be_moved(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "elsewhere")
    moved, own = load_run(tmp_path / "elsewhere", "cpu"), load_run(trained[0], "cpu")
    np.testing.assert_array_equal(moved.info["anchor_sizes"], own.info["anchor_sizes"])
    assert read_config(tmp_path / "elsewhere") == own.config
