"""Fetching a set of the Cell Tracking Challenge from a small one of its layout, on the server of conftest.py."""

import collections
import dataclasses
import hashlib
import io
import json
import re
import zipfile

import download as download_module
import fetch_ctc
import numpy as np
import pytest
import tifffile
from fetch_ctc import DATASETS, main, parse_frames
from remote_file import NoRanges, RemoteFile

from weakseg_lib.data.stacks import Sequence
from weakseg_lib.errors import InputError

SIM, CE = "Fluo-N3DH-SIM+", "Fluo-N3DH-CE"
FRAMES = {"01": range(6), "02": range(3)}
SHAPE = (5, 24, 26)
ALWAYS = range(1000)  # request numbers


def tiff(array):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack")  # no voxel size, as in the challenge's files
    return file.getvalue()


def files_of_set(name):
    """The files of a small set, a dict of name to bytes: noise that no zip makes smaller."""
    rng = np.random.default_rng(0)

    def noise(shape=SHAPE):
        return tiff(rng.integers(1, 60000, shape).astype(np.uint16))

    files = {}
    for sequence, frames in FRAMES.items():
        for t in frames:
            files[f"{name}/{sequence}/t{t:03d}.tif"] = noise()
            files[f"{name}/{sequence}_GT/TRA/man_track{t:03d}.tif"] = noise()
            if name == SIM:
                files[f"{name}/{sequence}_GT/SEG/man_seg{t:03d}.tif"] = noise()
        files[f"{name}/{sequence}_GT/TRA/man_track.txt"] = b"1 0 5 0\n"
    if name == CE:
        for t, z in ((1, 2), (1, 4), (3, 0)):
            files[f"{name}/01_GT/SEG/man_seg_{t:03d}_{z:03d}.tif"] = noise(SHAPE[1:])
        files[f"{name}/01_ST/SEG/man_seg001.tif"] = noise()
    return files


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def serve(server, monkeypatch):
    """A function that puts the archive of a set on the server, as the one that the script knows."""

    def put(name, files=None, **known):
        server.content = zipped(files_of_set(name) if files is None else files)
        known = {"sha256": hashlib.sha256(server.content).hexdigest(), "size": len(server.content)} | known
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], **known))
        return server

    monkeypatch.setattr(fetch_ctc, "SERVER", server.url.rpartition("/")[0])
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(RemoteFile, "AHEAD", 4096)
    return put


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "archives" not in path.parts and path.name != "dataset.json"
    }


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")}


def last_line(capsys):
    """The one line of an error; above it may be progress bars and notes about attempts."""
    line = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    assert re.search(r": .+; .+", line), line
    return line


def asked(server):
    """How many bytes the server was asked for since it was last cleared."""
    spans = [re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups() for wanted in server.requests]
    return sum(int(last) - int(first) + 1 for first, last in spans)


def test_a_whole_set(serve, tmp_path, capsys):
    serve(SIM)
    assert main([SIM, "--out", str(tmp_path)]) == 0
    assert tree(tmp_path) == files_of_set(SIM)
    printed = capsys.readouterr().out
    assert "10.1038/nmeth.4473" in printed and "do not pass the data on" in printed
    assert f"{tmp_path / SIM}/01: 6 stacks, the first {SHAPE}; full labels of 6\n" in printed
    stack = Sequence(tmp_path / SIM / "02").read(2, with_labels=True)
    assert stack.voxel_size == (0.2, 0.125, 0.125) and stack.labels.shape == SHAPE
    assert json.loads((tmp_path / SIM / "dataset.json").read_text())["cite"] == fetch_ctc.CITE


def test_a_second_run_asks_for_nothing_and_mends_what_was_damaged(serve, tmp_path):
    server = serve(SIM)
    main([SIM, "--out", str(tmp_path)])
    before, damaged = times(tmp_path), tmp_path / SIM / "01/t003.tif"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    server.requests.clear()
    assert main([SIM, "--out", str(tmp_path)]) == 0
    assert not server.requests
    assert tree(tmp_path) == files_of_set(SIM)
    assert {path for path, time in times(tmp_path).items() if before[path] != time} == {damaged}


def test_labels_of_single_slices_stay_as_they_are(serve, tmp_path, capsys):
    serve(CE)
    assert main([CE, "--out", str(tmp_path), "--needed"]) == 0
    assert tree(tmp_path) == files_of_set(CE)
    printed = capsys.readouterr().out
    assert "The experiments use all of this set" in printed
    assert "01: 6 stacks" in printed and "full labels of 0, labels of 3 single slices in 2 others" in printed
    assert Sequence(tmp_path / CE / "01").read(1).voxel_size == (1.0, 0.09, 0.09)
    with pytest.raises(InputError, match="single 2D slices only"):
        Sequence(tmp_path / CE / "01").read_labels(1)


def test_some_frames_by_their_bytes(serve, tmp_path, capsys):
    server = serve(SIM)
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0,4-5", "02:1"]) == 0
    frames = [("01", 0), ("01", 4), ("01", 5), ("02", 1)]
    wanted = [f"{SIM}/{sequence}/t{t:03d}.tif" for sequence, t in frames]
    wanted += [f"{SIM}/{sequence}_GT/SEG/man_seg{t:03d}.tif" for sequence, t in frames]
    wanted += [f"{SIM}/{sequence}_GT/TRA/man_track.txt" for sequence in FRAMES]
    assert tree(tmp_path) == {name: files_of_set(SIM)[name] for name in wanted}
    assert asked(server) < 0.6 * len(server.content)
    assert "instead of its sha256, the CRC of each file" in capsys.readouterr().out
    assert not (tmp_path / "archives").exists()


def test_markers_where_there_are_no_full_labels(serve, tmp_path):
    serve(CE)
    assert main([CE, "--out", str(tmp_path), "--frames", "01:1"]) == 0
    gt = f"{CE}/01_GT"
    assert set(tree(tmp_path)) == {
        f"{CE}/01/t001.tif",
        *(f"{gt}/SEG/man_seg_001_{z:03d}.tif" for z in (2, 4)),
        *(f"{gt}/TRA/{file}" for file in ("man_track001.tif", "man_track.txt")),
    }


def test_needed_frames(serve, tmp_path):
    serve(SIM, needed={"01": {0, 2}, "02": {1}})
    assert main([SIM, "--out", str(tmp_path), "--needed"]) == 0
    assert [path.name for path in sorted(tmp_path.glob("*/0[12]/*"))] == ["t000.tif", "t002.tif", "t001.tif"]


def test_the_frames_of_the_paper():
    needed = DATASETS[SIM].needed
    train = [*(("01", t) for t in (0, 10, 20, 30, 40, 50, 60, 70)), *(("02", t) for t in (0, 10, 20, 30, 40))]
    test = [*(("01", t) for t in range(80, 150)), *(("02", t) for t in range(50, 80))]
    assert (len(train), len(test)) == (13, 100)
    assert sorted((sequence, t) for sequence in needed for t in needed[sequence]) == sorted(train + test)
    assert DATASETS[CE].needed is None


@pytest.mark.parametrize("word", ["01", "1:0", "01:", "01:3-", "01:a", "01:5-3", "01:1,,2", "01:-3"])
def test_frames_that_are_not_understood(word, capsys, tmp_path):
    assert main([SIM, "--out", str(tmp_path), "--frames", word]) == 2
    assert last_line(capsys).startswith(f"--frames {word}: ")


def test_frames_given_twice_are_added():
    assert parse_frames(["01:0,2-4", "02:7", "01:3-5"]) == {"01": {0, 2, 3, 4, 5}, "02": {7}}


def test_frames_that_the_set_lacks_are_named(serve, tmp_path, capsys):
    serve(SIM)
    assert main([SIM, "--out", str(tmp_path), "--frames", "02:1-4", "03:0"]) == 2
    assert "has no frame 02/t003, 02/t004, 03/t000;" in last_line(capsys)
    assert not tree(tmp_path)


@pytest.mark.parametrize("options", [[], ["--frames", "01:0-5"]])
def test_broken_connections_go_on_where_they_broke(serve, tmp_path, options):
    server = serve(SIM)
    server.behaviour = {"cut": {i: 1500 for i in ALWAYS if i % 3}, "status": {9: 503}}
    assert main([SIM, "--out", str(tmp_path), *options]) == 0
    got = tree(tmp_path)
    assert got and got.items() <= files_of_set(SIM).items()
    assert len(got) == (29 if not options else 13)


def test_a_server_that_dies_loses_nothing_that_is_finished(serve, tmp_path, capsys):
    server = serve(SIM)
    options = [SIM, "--out", str(tmp_path), "--frames", "01:0-5"]
    server.behaviour = {"cut": {i: 0 for i in ALWAYS if i >= 12}}
    assert main(options) == 2
    assert "gave up after 5 attempts (the connection ended at byte" in last_line(capsys)
    got, before = tree(tmp_path), times(tmp_path)
    assert 0 < len(got) < 13 and got.items() <= files_of_set(SIM).items()
    server.behaviour = {}
    server.requests.clear()
    assert main(options) == 0
    assert len(tree(tmp_path)) == 13
    assert before.items() <= times(tmp_path).items()
    assert asked(server) < len(server.content)


def test_a_whole_download_that_dies_goes_on(serve, tmp_path, capsys):
    server = serve(SIM)
    half = len(server.content) // 2
    server.behaviour = {"cut": {i: 0 for i in ALWAYS if i >= 5} | {3: half, 4: half // 2}}
    status = main([SIM, "--out", str(tmp_path)])
    assert status == 2 and "gave up after 5 attempts" in last_line(capsys)
    arrived = (tmp_path / "archives" / f"{SIM}.zip.part").stat().st_size
    assert arrived > 0
    server.behaviour = {}
    server.requests.clear()
    assert main([SIM, "--out", str(tmp_path)]) == 0
    assert server.requests[-1] == f"bytes={arrived}-"
    assert tree(tmp_path) == files_of_set(SIM)


@pytest.mark.parametrize("options", [[], ["--frames", "01:0"]])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("lie", [5000, -5000])
def test_a_wrong_size_of_the_file(serve, tmp_path, capsys, options, known, lie):
    server = serve(SIM, **({} if known else {"size": None}))
    server.behaviour = {"promise": lie}
    assert main([SIM, "--out", str(tmp_path), *options]) == 2
    line = last_line(capsys)
    assert line.startswith(f"{fetch_ctc.SERVER}/{SIM}.zip: ")
    if known:
        assert f"has {len(server.content) + lie} bytes and not {len(server.content)}" in line
    assert not tree(tmp_path)


@pytest.mark.parametrize("lie", [700, -700])
def test_a_wrong_length_of_a_part_does_no_harm(serve, tmp_path, lie):
    server = serve(SIM)
    server.behaviour = {"promise_part": lie}
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0-1"]) == 0
    assert len(tree(tmp_path)) == 5
    assert tree(tmp_path).items() <= files_of_set(SIM).items()


def test_another_part_than_asked_for(serve, tmp_path, capsys):
    serve(SIM).behaviour = {"wrong_part": True}
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0-1"]) == 2
    assert "sends another part of the file than asked for" in last_line(capsys)


def test_a_wrong_hash(serve, tmp_path, capsys):
    serve(SIM, sha256="0" * 64)
    assert main([SIM, "--out", str(tmp_path)]) == 2
    assert re.search(r"has sha256 \w+ and not 0{64}, it was removed;", last_line(capsys))
    assert not tree(tmp_path) and not list((tmp_path / "archives").iterdir())


def test_a_server_without_ranges(serve, tmp_path, capsys):
    server = serve(SIM)
    server.behaviour = {"ranges": False}
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0"]) == 2
    assert "does not send parts of a file; get all of it, without `--frames`" in last_line(capsys)
    with pytest.raises(NoRanges):
        RemoteFile(server.url)
    assert main([SIM, "--out", str(tmp_path)]) == 0
    assert tree(tmp_path) == files_of_set(SIM)


def test_a_missing_file_is_told_at_once(serve, tmp_path, capsys):
    server = serve(SIM)
    server.behaviour = {"status": dict.fromkeys(ALWAYS, 404)}
    for options in ([], ["--needed"]):
        server.requests.clear()
        assert main([SIM, "--out", str(tmp_path), *options]) == 2
        assert "404" in last_line(capsys)
        assert len(server.requests) == 1


def test_a_damaged_member_is_named_and_the_others_stay(serve, tmp_path, capsys):
    server = serve(SIM)
    good = server.content
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        where = archive.getinfo(f"{SIM}/01/t001.tif").header_offset
    server.behaviour = {"content": good[: where + 900] + bytes(100) + good[where + 1000 :]}
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0-2"]) == 2
    assert re.search(r"is a damaged archive \(.+\); run again", last_line(capsys))
    before = times(tmp_path)
    assert set(tree(tmp_path)) == {f"{SIM}/01/t000.tif", f"{SIM}/01_GT/SEG/man_seg000.tif"}
    server.behaviour = {}
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0-2"]) == 0
    assert len(tree(tmp_path)) == 7 and tree(tmp_path).items() <= files_of_set(SIM).items()
    assert before.items() <= times(tmp_path).items()


@pytest.mark.parametrize(
    "evil", ["../evil.tif", f"{SIM}/../../evil.tif", "{tmp}/evil.tif", f"{SIM}/01/..", "C:/evil"]
)
def test_no_member_leaves_the_folder(serve, tmp_path, evil):
    files = files_of_set(SIM)
    serve(
        SIM,
        files
        | {evil.format(tmp=tmp_path): b"evil", f"{SIM}\\..\\evil": b"evil", "__MACOSX/01/t000.tif": b"evil"},
    )
    out = tmp_path / "a/b"
    assert main([SIM, "--out", str(out)]) == 0
    assert tree(out) == files
    assert b"evil" not in {path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_an_archive_of_another_set(serve, tmp_path, capsys):
    serve(SIM, files_of_set(CE))
    assert main([SIM, "--out", str(tmp_path)]) == 2
    assert f"holds no images of {SIM}" in last_line(capsys)


def test_an_archive_that_is_here_already(serve, tmp_path, capsys):
    server = serve(SIM)
    path = tmp_path / "mine.zip"
    assert main([SIM, "--out", str(tmp_path / "out"), "--from", str(path)]) == 2
    assert last_line(capsys).startswith(f"{path}: no such file; ")
    path.write_bytes(server.content[:-1])
    assert main([SIM, "--out", str(tmp_path / "out"), "--from", str(path)]) == 2
    assert "has sha256" in last_line(capsys)
    path.write_bytes(server.content)
    assert main([SIM, "--out", str(tmp_path / "out"), "--from", str(path)]) == 0
    assert tree(tmp_path / "out") == files_of_set(SIM)
    assert not server.requests


@pytest.mark.parametrize("options", [[], ["--frames", "01:0"]])
def test_a_disk_without_room(serve, tmp_path, capsys, monkeypatch, options):
    server = serve(SIM)
    usage = collections.namedtuple("usage", "total used free")
    room = download_module.SPARE + (len(server.content) + 1000 if not options else 10_000)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage(10**9, 10**9, room))
    assert main([SIM, "--out", str(tmp_path), *options]) == 2
    assert "are needed on this disk" in last_line(capsys)
    assert not list(tmp_path.rglob("*.tif*")) and not list(tmp_path.rglob("*.zip*"))


def test_ctrl_c_and_again(serve, tmp_path, capsys, monkeypatch):
    serve(SIM)
    extract, done = fetch_ctc.extract, []

    def interrupted(archive, info, target, bar):
        if len(done) == 3:
            raise KeyboardInterrupt
        extract(archive, info, target, bar)
        done.append(target)

    monkeypatch.setattr(fetch_ctc, "extract", interrupted)
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0-2"]) == 130
    assert "run again to go on from here" in capsys.readouterr().err
    before = times(tmp_path)
    assert set(before) == set(done)
    monkeypatch.setattr(fetch_ctc, "extract", extract)
    assert main([SIM, "--out", str(tmp_path), "--frames", "01:0-2"]) == 0
    assert len(tree(tmp_path)) == 7 and before.items() <= times(tmp_path).items()


def test_a_voxel_size_in_the_image_that_differs_is_told(serve, tmp_path, capsys):
    files = files_of_set(SIM)
    file = io.BytesIO()
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "um"}
    array = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
    tifffile.imwrite(file, array, imagej=True, metadata=metadata, resolution=(2, 2))
    files[f"{SIM}/01/t000.tif"] = file.getvalue()
    serve(SIM, files)
    assert main([SIM, "--out", str(tmp_path)]) == 0
    assert "says voxels of (3.0, 0.5, 0.5) um and not (0.2, 0.125, 0.125)" in capsys.readouterr().out
