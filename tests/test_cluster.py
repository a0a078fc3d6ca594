"""Stacks as tasks of Dask's workers: the files of the serial run, whatever dies or is stopped on the way."""

import builtins
import os
import signal
import time

import numpy as np
import pytest

from weakseg_lib import cluster
from weakseg_lib.cluster import connect, each
from weakseg_lib.data.stacks import read_image
from weakseg_lib.prediction import predict

pytest.importorskip("distributed", reason='needs `pip install "weakseg_lib[cluster]"`')


@pytest.fixture(scope="module")
def workers():
    with connect("local", 2) as client:
        assert sorted(client.nthreads().values()) == [1, 1]
        yield client


@pytest.fixture
def data(make_run, make_sequence):
    """A run and a sequence of three stacks."""
    return make_run(config=make_run.config.replace(candidates=60)), make_sequence(frames=3, share=None)


def same(a, b):
    """Whether two result folders hold the same labels and boxes."""
    names = sorted(p.name for p in a.iterdir())
    assert names == sorted(p.name for p in b.iterdir()) and len(names) == 7  # three stacks, and the settings
    for name in names:
        if name.endswith(".csv"):
            first, second = (np.loadtxt(f / name, delimiter=",", skiprows=1, ndmin=2) for f in (a, b))
            assert len(first) and np.allclose(first, second, atol=0.011), name
        elif name.endswith(".tif"):
            np.testing.assert_array_equal(read_image(a / name)[0], read_image(b / name)[0])
    return True


def test_a_worker_remembers_nothing_that_grows_with_time(workers):
    """Dask's profiler kept 0.1 MiB a second; benchmarks/predict_cluster.py measures the whole."""
    time.sleep(2.5)  # it would have written by now, once a second
    histories = workers.run(
        lambda dask_worker: (len(dask_worker.profile_history), dask_worker.profile_recent)
    )
    for length, recent in histories.values():
        assert length == 0 and recent["count"] == 0


def test_a_worker_that_is_killed_costs_nothing_but_time(workers, data, tmp_path):
    run, sequence = data
    marker = tmp_path / "killed"

    def die_once(name):
        from weakseg_lib import prediction

        usual = prediction.predict_stack

        def predict_stack(run, stack, *more, **options):
            if stack.path.name == name and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(run, stack, *more, **options)

        prediction.predict_stack = predict_stack

    workers.run(die_once, "t001.tif")
    options = {"device": "cpu", "progress": False}
    serial = predict(run, [sequence], tmp_path / "serial", **options)
    by_two = predict(run, [sequence], tmp_path / "two", scheduler=workers.scheduler.address, **options)
    assert marker.exists()
    assert list(by_two.values()) == list(serial.values()) and sum(serial.values()) > 10
    assert same(tmp_path / "serial", tmp_path / "two")


def test_one_bad_stack_is_one_line_and_the_others_are_done(workers, data, tmp_path, refused):
    run, sequence = data
    bad = sequence / "t001.tif"
    bad.write_bytes(bad.read_bytes()[:300])
    with refused(bad, "damaged"):
        predict(run, [sequence], tmp_path / "out", device="cpu", scheduler=workers.scheduler.address)
    assert {p.name for p in (tmp_path / "out").glob("mask*")} == {"mask000.tif", "mask002.tif"}


def test_what_kills_every_worker_is_named(workers, tmp_path, refused):
    workers.cluster.scheduler.allowed_failures = 0

    def die(run, path):
        if path.name == "large.tif":
            os.kill(os.getpid(), signal.SIGKILL)
        return path.name

    tasks, bar = [tmp_path / "a.tif", tmp_path / "large.tif", tmp_path / "b.tif"], {"desc": "", "unit": ""}
    found = []
    with refused(tmp_path / "large.tif", "died", "memory"):
        for result in each(workers, die, None, tasks, where=lambda path: path, progress=False, **bar):
            found.append(result)
    workers.cluster.scheduler.allowed_failures = 3
    assert sorted(found) == [(0, "a.tif"), (2, "b.tif")]


def test_what_fails_in_another_way_does_not_stop_the_others(workers, tmp_path, refused):
    def fail(run, path):
        if path.name == "b.tif":
            raise MemoryError("too large")
        return path.name

    tasks, bar = [tmp_path / f"{name}.tif" for name in "abc"], {"desc": "", "unit": "", "progress": False}
    found = []
    with refused(tmp_path / "b.tif", "MemoryError: too large", "--workers 0"):
        for result in each(workers, fail, None, tasks, where=lambda path: path, **bar):
            found.append(result)
    assert sorted(found) == [(0, "a.tif"), (2, "c.tif")]


def ages(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("mask*.tif")}


def test_what_is_done_is_not_done_again(data, tmp_path):
    run, sequence = data
    out = tmp_path / "out"

    def redone(**options):
        before = ages(out) if out.exists() else {}
        cells.append(predict(run, [sequence], out, device="cpu", progress=False, **options)[out])
        return {name for name, age in ages(out).items() if before.get(name) != age}

    cells, everything = [], {"mask000.tif", "mask001.tif", "mask002.tif"}
    assert redone() == everything
    with pytest.warns(UserWarning, match="3 of 3 stacks.*--again"):
        assert redone() == set()
    (out / "boxes001.csv").unlink()
    with pytest.warns(UserWarning, match="2 of 3 stacks"):
        assert redone() == {"mask001.tif"}
    assert cells[0] == cells[1] == cells[2] > 10
    assert redone(again=True) == everything
    assert redone(score=0.6) == everything  # other settings
    os.utime(sequence / "t002.tif")  # a newer image
    with pytest.warns(UserWarning):
        assert redone(score=0.6) == {"mask002.tif"}
    os.utime(run / "weights.pt")
    assert redone(score=0.6) == everything


def test_who_works(monkeypatch, refused):
    with connect() as client:
        assert client is None
    with connect(workers=None, stacks=cluster.MANY - 1, device="cpu") as client:
        assert client is None
    with refused("--workers -1", "negative"), connect(workers=-1):
        pass
    with connect("local", 3) as client:
        assert sorted(client.nthreads().values()) == [1, 1, 1]
    monkeypatch.setattr(cluster, "PATIENCE", "1s")
    with refused("--scheduler tcp://127.0.0.1:9", "no Dask scheduler"), connect("tcp://127.0.0.1:9"):
        pass


def test_without_dask_the_error_says_how_to_get_it(monkeypatch, refused):
    usual = builtins.__import__

    def without_dask(name, *arguments, **options):
        if name.partition(".")[0] in ("dask", "distributed"):
            raise ImportError(f"No module named {name!r}")
        return usual(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_dask)
    with refused("--scheduler and --workers", 'pip install "weakseg_lib[cluster]"'), connect(workers=2):
        pass
    with connect(workers=None, stacks=1000) as client:
        assert client is None
