"""A full disk: one line, status 2, no half-written file, and what was there before stays whole."""

import errno
import os
import shutil
import subprocess

import pytest

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("file", ["mask000.tif", "boxes000.csv"])
@pytest.mark.parametrize("moment", ["write", "replace"])
def test_neither_file_of_an_earlier_result_is_replaced(
    place, predict_call, fails, snapshot, monkeypatch, file, moment
):
    """The masks and their table belong together: neither is replaced unless both could be written."""
    before = snapshot(place.folder)
    if moment == "replace":
        replace = os.replace

        def refuse(source, target):
            if os.path.basename(target) == file:
                raise FULL
            replace(source, target)

        monkeypatch.setattr(os, "replace", refuse)
    else:
        module, name = ("tifffile", "imwrite") if file.endswith("tif") else ("weakseg_lib.jobs.csv", "writer")

        def refuse(path, *rest, **options):
            raise FULL

        monkeypatch.setattr(f"{module}.{name}", refuse)
    line = fails(*predict_call(place.sequence))
    assert line.startswith(f"weakseg: {place.results / file}: no space left")
    assert "earlier result is unchanged" in line
    assert snapshot(place.folder) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system can be mounted by an administrator only")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("free", [0, 4096])
def test_a_really_full_disk_while_predicting(place, call, fails, snapshot, small_disk, free):
    arguments = ("predict", place.run, place.sequence, "--out", small_disk, "--device", "cpu")
    assert call(*arguments) == (0, [])
    before = snapshot(small_disk)
    room = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize - free))
    assert "no space left" in fails(*arguments, "--again")
    (small_disk / "ballast").unlink()
    assert snapshot(small_disk) == before


def test_a_really_full_disk_while_training(place, fit_call, fails, small_disk):
    line = fails(*fit_call("--out", small_disk / "run"))
    assert "no space left" in line
    assert not list(small_disk.rglob(".*"))  # no temporary files


@pytest.mark.parametrize(
    "name", ["config.json", "log.csv", "checkpoint.pt", "weights.pt", "image.npy", "known.npz"]
)
def test_a_full_disk_while_training(place, fit_call, call, fails, monkeypatch, name):
    replace = os.replace

    def refuse(source, target):
        if os.path.basename(target) == name:
            raise FULL
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    line = fails(*fit_call())
    assert name in line and "no space left" in line
    monkeypatch.undo()
    assert call(*fit_call("--resume"))[0] == 0  # with space again it goes on, or begins
