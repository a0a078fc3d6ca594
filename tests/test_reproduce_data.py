"""`weakseg reproduce` with what cannot be used: one line, exit status 2, and nothing written over."""

import json
import shutil
from dataclasses import replace

import pytest

from weakseg_lib import reproduce
from weakseg_lib.data.annotation import annotate
from weakseg_lib.data.files import write_json
from weakseg_lib.data.simulate import SPECIMENS
from weakseg_lib.data.stacks import Sequence, write_tiff
from weakseg_lib.data.weak_files import write_weak
from weakseg_lib.experiments import ALL, EXPERIMENTS, Experiment
from weakseg_lib.reproduction_data import check, simulated

HL60 = EXPERIMENTS["hl60"]
SHAPE = (12, 32, 32)


@pytest.fixture
def data(tmp_path, make_sequence):
    """NAME with groups 01 and 02 of three frames each."""
    folder = make_sequence("NAME", frames=3, share=None, shape=SHAPE).parent
    for name in ("01", "01_GT"):
        shutil.copytree(folder / name, folder / name.replace("01", "02"))
    return folder


@pytest.fixture(autouse=True)
def experiments(monkeypatch):
    """hl60 and celegans learn from two frames, or all; nothing here is ever trained."""
    small = replace(HL60, train={"01": (0, 1)}, test={"02": (1, 2)}, few={"01": (0,)}, stacks={1: 3, 2: 3})
    monkeypatch.setitem(EXPERIMENTS, "hl60", small)
    monkeypatch.setattr(reproduce, "fit", None)


@pytest.fixture
def refuses(fails, snapshot, tmp_path, data):
    """A function: the line that a call ends with, after which no file is new, changed or gone."""

    def call(*more, experiment="hl60", out=tmp_path / "out", folder=data):
        before = snapshot(tmp_path)
        given = () if folder is None else ("--data", folder)
        line = fails("reproduce", experiment, *given, "--out", out, "--device", "cpu", *more)
        assert snapshot(tmp_path) == before
        return line

    return call


def test_all_that_is_missing_is_named_at_once(data, refuses):
    for name in ("01/t001.tif", "02/t001.tif", "02/t002.tif", "02_GT/SEG/man_seg002.tif"):
        (data / name).unlink()
    line = refuses()
    assert f"{data}: lacks images of 01: 001; images of 02: 001-002; labels of 02: 002;" in line


@pytest.mark.parametrize("name", ["01/t000.tif", "02/t002.tif", "02_GT/SEG/man_seg001.tif"])
@pytest.mark.parametrize("kept", [0, 100, -200])
def test_a_file_that_was_cut_off(name, kept, data, refuses):
    path = data / name
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in refuses()


def test_labels_of_another_shape(data, refuses, cells):
    path = data / "02_GT/SEG/man_seg001.tif"
    write_tiff(path, cells((12, 32, 34))[1], None)
    assert f"{path}: has shape (12, 32, 34), its image (12, 32, 32)" in refuses()


def test_no_voxel_size(data, refuses, cells):
    write_tiff(data / "02/t001.tif", cells(SHAPE)[0], None)
    line = refuses()
    assert f"{data / '02/t001.tif'}: has no voxel size" in line and "dataset.json" in line
    assert "--voxel-size" not in line  # reproduce has no such option


def test_a_folder_that_is_not_the_set(data, refuses, tmp_path):
    assert "no such folder" in refuses(folder=tmp_path / "nothing")
    assert f"give the folder with all of them, {data}" in refuses(folder=data / "01")
    shutil.rmtree(data / "02")
    assert f"{data / '02'}: no such folder" in refuses()


@pytest.mark.parametrize("known", [{"name": "Fluo-N3DH-CE"}, {"simulated": True, "specimen": "celegans"}])
def test_the_set_of_another_experiment(known, data, refuses):
    write_json(data / "dataset.json", known)
    assert "another experiment's" in refuses()


def test_labels_are_needed_for_detection_and_markers_for_markers(data, refuses):
    markers = data / "02_GT/TRA"
    shutil.copytree(data / "02_GT/SEG", markers)
    for path in list(markers.iterdir()):
        path.rename(markers / path.name.replace("seg", "track"))
    shutil.rmtree(data / "02_GT/SEG")
    assert "lacks labels of 02: 001-002" in refuses()
    found, _ = check(EXPERIMENTS["celegans"], data)
    assert found.test == {"02": (0, 1, 2)}
    (markers / "man_track001.tif").unlink()
    assert "lacks markers of 02: 001" in refuses(experiment="celegans")


def test_drawn_boxes_are_learnt_from(data, refuses, cells):
    """Fluo-N3DH-CE has markers alone; a person draws boxes in some of its frames."""
    experiment = Experiment("tiny", {"01": ALL}, {"02": (0,)}, 0.1)
    assert check(experiment, data)[0].train == {"01": (0, 1, 2)}  # of full labels, where nobody drew
    write_weak(Sequence(data / "01"), 2, annotate(cells(SHAPE)[1], 0.5, 0), None)
    found, about = check(experiment, data)
    assert found.train == {"01": (2,)} and about.drawn
    shutil.copytree(data / "02_GT/SEG", data / "02_GT/TRA")
    for path in list((data / "02_GT/TRA").iterdir()):
        path.rename(path.with_name(path.name.replace("seg", "track")))
    assert "--curve" in refuses("--curve", experiment="celegans")
    shutil.rmtree(data / "01_WEAK")
    shutil.rmtree(data / "01_GT")
    line = refuses(experiment="celegans")
    assert "no boxes to learn from" in line and "draw boxesTTT.csv" in line


def test_any_file_that_is_used_changes_the_digest(data, cells):
    def digest():
        return check(EXPERIMENTS["hl60"], data)[1].digest

    before = digest()
    write_tiff(data / "01/t002.tif", cells(SHAPE, 9)[0], None)  # of no part in it
    assert digest() == before
    write_tiff(data / "02_GT/SEG/man_seg002.tif", cells(SHAPE, 9)[1], None)
    assert digest() != before


@pytest.mark.parametrize(
    "known, said",
    [
        ({"simulated": True, "size": "laptop", "seed": 0}, "simulated stacks (laptop size, seed 0)"),
        ({"name": "Fluo-N3DH-SIM+"}, "simulated by another simulator"),
        ({"name": "Fluo-N3DH-CE"}, "recorded embryos"),
        ({"name": "mine"}, "mine (its dataset.json does not say"),
        (None, "NAME (its dataset.json does not say"),
    ],
)
def test_what_the_stacks_are(known, said, data):
    if known:
        write_json(data / "dataset.json", known)
    assert said in check(EXPERIMENTS["hl60"], data)[1].about


def test_no_place_for_results(data, refuses, tmp_path):
    assert "holds images" in refuses(out=data / "01")
    assert "in the data set itself" in refuses(out=data / "more/out")
    write_json(data / "dataset.json", {"voxel_size_um": [1, 1, 1]})
    assert "is a data set" in refuses(out=data, folder=None)
    (tmp_path / "file").touch()
    assert "is a file" in refuses(out=tmp_path / "file")


@pytest.mark.parametrize("known", [None, {"specimen": "hl60", "size": "paper", "seed": 0}])
def test_other_stacks_where_simulated_ones_should_be(known, refuses, tmp_path):
    """A run at another size was stopped after simulating, or the folder is the user's own."""
    (tmp_path / "out/data").mkdir(parents=True)
    if known:
        write_json(tmp_path / "out/data/dataset.json", known)
    assert "does not hold the simulated stacks of hl60, laptop size" in refuses(folder=None)


def test_another_size_after_a_stop_while_simulating(monkeypatch, tmp_path, refuses, call):
    def killed(out, *_):
        out.mkdir(parents=True)
        (out / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(SPECIMENS, "hl60", killed)
    status, lines = call("reproduce", "hl60", "--out", tmp_path / "out")
    assert status == 130 and lines == ["weakseg: interrupted; the same command goes on from where it stopped"]
    assert json.loads((tmp_path / "out/experiment.json").read_text())["size"] == "laptop"
    assert "size was laptop, now paper" in refuses("--size", "paper", folder=None)


def test_results_of_other_data_settings_or_versions(data, refuses, tmp_path, monkeypatch, cells, call):
    """Each of these would put numbers of two things into one table."""
    out = tmp_path / "out"
    monkeypatch.setattr(reproduce, "_run", lambda *_: write_json(out / "scores/weak_0.2_seed0.json", {}))
    monkeypatch.setattr(reproduce, "write_tables", lambda *_: (out / "table.md").write_text(""))
    reproduce.reproduce("hl60", out, data=data)
    reproduce.reproduce("hl60", out, data=data, seeds=2)  # more of the same
    old = EXPERIMENTS["hl60"]
    for changes, said in (
        ({"few": {"01": (1,)}}, "few.01 was [0], now [1]"),
        ({"settings": {"laptop": {"weak": {"steps": 501}}}}, "weak.steps was 500, now 501"),
    ):
        monkeypatch.setitem(EXPERIMENTS, "hl60", replace(old, **changes))
        assert said in refuses()
    monkeypatch.setitem(EXPERIMENTS, "hl60", old)
    assert "size was laptop, now paper" in refuses("--size", "paper")
    shutil.copytree(data, tmp_path / "copy")
    assert "data was" in refuses(folder=tmp_path / "copy")
    write_tiff(data / "02_GT/SEG/man_seg002.tif", cells(SHAPE, 9)[1], None)
    assert "the files of its data were others" in refuses()
    write_json(out / "experiment.json", {"experiment": "hl60", "size": "laptop", "data": str(data)})
    assert "does not say of which files" in refuses()
    (out / "experiment.json").unlink()
    assert "does not say of what" in refuses()


def test_stacks_are_simulated_whole_or_anew(tmp_path, monkeypatch):
    """A run that was killed while it simulated begins with fresh stacks, and one that has them keeps them."""
    made = []

    def simulate(out, stacks, size, seed):
        assert not out.exists()
        out.mkdir(parents=True)
        (out / "half").touch()
        made.append(size)
        if len(made) == 1:
            raise KeyboardInterrupt
        write_json(out / "dataset.json", {"specimen": "hl60", "size": size, "seed": seed})

    monkeypatch.setitem(SPECIMENS, "hl60", simulate)
    with pytest.raises(KeyboardInterrupt):
        simulated(HL60, tmp_path, "laptop")
    for _ in range(2):
        assert simulated(HL60, tmp_path, "laptop") == tmp_path / "data"
    assert made == ["laptop", "laptop"]
