import hashlib
import json
import shutil
from pathlib import Path

import fetch_bbbc050
import numpy as np
import pytest
import tifffile
from fetch_bbbc050 import lay_out, main, number_volumes, unpack

from weakseg_lib.data.stacks import Sequence
from weakseg_lib.errors import InputError

REAL = Path(__file__).parents[3] / "shared/data/bbbc050"


@pytest.fixture
def official(tmp_path):
    """A small folder in the layout of the official archives, with test volumes named otherwise."""
    rng = np.random.default_rng(0)
    names = {"train": ["Emb01_t301", "Emb01_t451", "Emb12_t007"], "test": ["2", "10"]}
    for split, stems in names.items():
        for stem in stems:
            image = tmp_path / f"official/Images/{split}/Images/{stem}.tif"
            label = tmp_path / f"official/GroundTruth/{split}/GroundTruth_QCANet/{stem}.tif"
            for path, array in (
                (image, rng.integers(92, 5000, (5, 12, 14)).astype(np.uint16)),
                (label, rng.integers(0, 9, (5, 12, 14)).astype(np.uint8)),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, array)
    other = tmp_path / "official/GroundTruth/train/GroundTruth_NSN"
    other.mkdir()
    shutil.copy(label, other / "Emb01_t301.tif")  # labels for another method, not instances
    return tmp_path / "official"


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_one_sequence_an_embryo_with_its_times(official, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--from", str(official), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Licence: CC BY 3.0" in printed and "10.1038/s41540-020-00152-8" in printed
    assert f"weakseg annotate {out}/test/01 --masks 0.2" in printed
    assert sorted(path.relative_to(out).as_posix() for path in out.glob("*/*")) == [
        *("test/" + name for name in ("01", "01_GT", "02", "02_GT", "dataset.json")),
        *("train/" + name for name in ("01", "01_GT", "12", "12_GT", "dataset.json")),
    ]
    sequence = Sequence(out / "train/01")
    assert sequence.frames == [301, 451]
    stack = sequence.read(301, with_labels=True)
    assert stack.voxel_size == (1.75, 0.8, 0.8)
    np.testing.assert_array_equal(
        stack.image, tifffile.imread(official / "Images/train/Images/Emb01_t301.tif")
    )
    truth = tifffile.imread(official / "GroundTruth/train/GroundTruth_QCANet/Emb01_t301.tif")
    np.testing.assert_array_equal(stack.labels, truth)
    assert json.loads((out / "train/dataset.json").read_text())["voxel_size_um"] == [1.75, 0.8, 0.8]
    assert json.loads((out / "test/dataset.json").read_text())["voxel_size_um"] == [2.0, 0.8, 0.8]
    stack = Sequence(out / "test/01").read(0)
    assert stack.voxel_size == (2.0, 0.8, 0.8)
    np.testing.assert_array_equal(stack.image, tifffile.imread(official / "Images/test/Images/2.tif"))


def test_numbers_of_embryos_and_frames():
    names = ["Emb2_t1", "Emb11_t10", "x10_t3", "x9_t3", "x9_t4", "solo"]
    numbers = number_volumes([("train", name) for name in names] + [("test", "Emb2_t1")])
    assert numbers == {
        ("train", "Emb2_t1"): (2, 1),
        ("train", "Emb11_t10"): (11, 10),
        ("train", "solo"): (12, 0),
        ("train", "x9_t3"): (13, 3),
        ("train", "x9_t4"): (13, 4),
        ("train", "x10_t3"): (14, 3),
        ("test", "Emb2_t1"): (2, 1),
    }
    with pytest.raises(InputError, match="same embryo and time"):
        number_volumes([("train", "Emb1_t1"), ("train", "Emb01_t1")])


def test_laying_out_goes_on_after_an_interruption(official, tmp_path, monkeypatch):
    lay_out(official, tmp_path / "whole")
    written = []
    write = fetch_bbbc050.write_tiff

    def interrupted(path, *args):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args)

    monkeypatch.setattr(fetch_bbbc050, "write_tiff", interrupted)
    out = tmp_path / "out"
    assert main(["--from", str(official), "--out", str(out)]) == 130
    times = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(fetch_bbbc050, "write_tiff", write)
    lay_out(official, out)
    assert files_of(out) == files_of(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in written} == times  # not written again


def test_slices_saved_as_frames_are_slices_here(official, tmp_path):
    path = official / "Images/train/Images/Emb01_t301.tif"
    image = tifffile.imread(path)
    tifffile.imwrite(path, image, imagej=True, metadata={"axes": "TYX"})
    lay_out(official, tmp_path / "out")
    np.testing.assert_array_equal(Sequence(tmp_path / "out/train/01").read(301).image, image)


def test_volumes_without_labels_are_kept_and_counted(official, tmp_path, capsys):
    (official / "GroundTruth/test/GroundTruth_QCANet/2.tif").unlink()
    lay_out(official, tmp_path / "out")
    assert "test: 2 volumes, 1 of them without labels" in capsys.readouterr().out
    assert not Sequence(tmp_path / "out/test/01").has_labels(0)


@pytest.mark.parametrize("wrong", ["missing", "empty", "truncated", "shape", "float"])
def test_wrong_sources_are_told_in_one_line(official, tmp_path, capsys, wrong):
    source = official
    label = official / "GroundTruth/train/GroundTruth_QCANet/Emb01_t301.tif"
    if wrong == "missing":
        source = where = tmp_path / "nowhere"
    elif wrong == "empty":
        source = where = tmp_path / "empty"
        source.mkdir()
    elif wrong == "truncated":
        where = official / "Images/train/Images/Emb01_t301.tif"
        where.write_bytes(where.read_bytes()[:-900])
    else:
        where = label
        array = np.ones((5, 12, 13), np.uint8) if wrong == "shape" else np.ones((5, 12, 14), np.float32)
        tifffile.imwrite(label, array)
    assert main(["--from", str(source), "--out", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]  # above it may be the progress bar
    assert f"{where}: " in last and "; " in last
    assert not (tmp_path / "out/train/01/t301.tif").exists()


def test_download_unpack_and_lay_out(official, tmp_path, monkeypatch):
    """`fetch` with the network replaced by the archives themselves; test_download.py is about the network."""
    archives = {}
    for name in ("Images", "GroundTruth"):
        path = Path(shutil.make_archive(tmp_path / "remote" / name, "zip", official, name))
        archives[f"https://host/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    asked = []

    def copy(url, path, sha256):
        asked.append((url, sha256))
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(tmp_path / "remote" / path.name, path))

    monkeypatch.setattr(fetch_bbbc050, "download", copy)
    monkeypatch.setattr(fetch_bbbc050, "ARCHIVES", archives)
    monkeypatch.setattr(fetch_bbbc050, "NEEDED", 1)
    out = tmp_path / "out"
    assert main(["--out", str(out)]) == 0
    assert dict(asked) == archives
    lay_out(official, tmp_path / "direct")
    got = files_of(out)
    assert {name: got.pop(f"archives/{name}") for name in ("Images.zip", "GroundTruth.zip")}
    assert got == files_of(tmp_path / "direct")


def test_the_official_archives_are_those_of_the_source_note():
    assert list(fetch_bbbc050.ARCHIVES) == [
        "https://data.broadinstitute.org/bbbc/BBBC050/Images.zip",
        "https://data.broadinstitute.org/bbbc/BBBC050/GroundTruth.zip",
    ]
    if not REAL.exists():
        pytest.skip(f"the real data are not here: {REAL}")
    note = (REAL / "SOURCE.txt").read_text()
    assert all(url in note and sha256 in note for url, sha256 in fetch_bbbc050.ARCHIVES.items())


def test_a_damaged_archive_is_told(tmp_path):
    path = tmp_path / "Images.zip"
    path.write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(InputError, match=r"Images\.zip: is a damaged archive .*; remove it and run again"):
        unpack(path, tmp_path / "unpacked")


@pytest.mark.skipif(not REAL.exists(), reason=f"the real data are not here: {REAL}")
def test_two_real_volumes(tmp_path):
    for kind in ("Images/train/Images", "GroundTruth/train/GroundTruth_QCANet"):
        (tmp_path / "copy" / kind).mkdir(parents=True)
        for name in ("Emb10_t451.tif", "Emb11_t501.tif"):
            shutil.copy(REAL / kind / name, tmp_path / "copy" / kind)
    sequences = lay_out(tmp_path / "copy", tmp_path / "out")
    assert [path.name for path in sequences] == ["10", "11"]
    stack = Sequence(sequences[0]).read(451, with_labels=True)
    assert stack.image.dtype == np.uint16 and stack.image.shape[0] == 51
    assert 8 <= len(np.unique(stack.labels)) - 1 <= 53  # SOURCE.txt
