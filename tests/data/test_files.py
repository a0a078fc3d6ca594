import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from weakseg_lib.data.files import atomic_path, atomic_paths, atomic_write_text, read_json, write_json
from weakseg_lib.data.stacks import read_image, write_tiff


def test_replaces_the_file_only_when_all_is_written(tmp_path):
    path = tmp_path / "deep" / "result.csv"
    atomic_write_text(path, "old")
    with atomic_path(path) as tmp:
        tmp.write_text("new")
        assert path.read_text() == "old"
        assert tmp.parent == path.parent and tmp.suffix == ".csv"  # the same disk, or os.replace would copy
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["result.csv"]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_any_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as tmp:
        tmp.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.csv"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("2048 requested and 0 written")],
    ids=["system", "numpy"],
)
def test_full_disk_is_told_in_one_line(tmp_path, refused, error):
    path = tmp_path / "mask000.tif"
    path.write_text("old")
    with refused(path, "no space left", "free some space", "unchanged"), atomic_path(path) as tmp:
        tmp.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["mask000.tif"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of a file")
def test_full_disk_while_a_tiff_is_written(tmp_path):
    """A real one: the operating system refuses to let the file grow, half-way through its pixels."""
    path = tmp_path / "mask000.tif"
    small = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)
    write_tiff(path, small, (1, 1, 1))
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from weakseg_lib.data.stacks import write_tiff\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "noise = np.random.default_rng(0).integers(0, 60000, (10, 64, 64)).astype(np.uint16)\n"
        "write_tiff(sys.argv[1], noise, (1, 1, 1))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    last = run.stderr.strip().splitlines()[-1]
    assert f"{path}: no space left on the disk; free some space" in last and last.endswith("is unchanged")
    np.testing.assert_array_equal(read_image(path)[0], small)
    assert os.listdir(tmp_path) == ["mask000.tif"]


def test_a_folder_that_cannot_be_written(tmp_path, refused):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "result.csv"  # root may write everywhere, but nobody into a file
    with refused(path, "cannot be written", "another folder"):
        atomic_write_text(path, "new")
    with refused(path, "cannot be written", "another folder"), atomic_path(path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_an_error_with_another_file_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "result.csv"):
        (tmp_path / "missing").read_text()


def test_json_comes_back(tmp_path, refused):
    path = tmp_path / "dataset.json"
    write_json(path, {"voxel_size_um": [1.75, 0.8, 0.8]})
    assert read_json(path) == {"voxel_size_um": [1.75, 0.8, 0.8]}
    for text in ("{", "[1, 2]"):
        path.write_text(text)
        with refused(path, "JSON"):
            read_json(path)


def test_files_that_belong_together_are_all_replaced_or_none(tmp_path, refused, monkeypatch):
    masks, table, gone = paths = [tmp_path / name for name in ("mask.tif", "boxes.csv", "gone.csv")]
    for path in paths:
        path.write_text("old")
    replace = os.replace

    def refuse(source, target):
        if target == table:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with refused(table, "cannot be written"), atomic_paths(masks, table, remove=[gone]) as new:
        for tmp in new:
            tmp.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        os.listdir(tmp_path), "old"
    )
    monkeypatch.undo()
    with atomic_paths(masks, table, remove=[gone]) as new:
        for tmp in new:
            tmp.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        masks.name: "new",
        table.name: "new",
    }


def test_two_writers_of_the_same_files_do_not_delete_them(tmp_path, monkeypatch):
    """As where a cluster takes a worker for dead, and another does its stack again."""
    paths = [tmp_path / "mask.tif", tmp_path / "boxes.csv"]
    for path in paths:
        path.write_text("old")
    replace = os.replace

    def write(text):
        with atomic_paths(*paths) as new:
            for tmp in new:
                tmp.write_text(text)

    def meanwhile(source, target):
        monkeypatch.setattr(os, "replace", replace)
        replace(source, target)
        write("second")  # all of it, between the two files of the first

    monkeypatch.setattr(os, "replace", meanwhile)
    write("first")
    assert sorted(os.listdir(tmp_path)) == ["boxes.csv", "mask.tif"]
    assert {path.read_text() for path in paths} <= {"first", "second"}
