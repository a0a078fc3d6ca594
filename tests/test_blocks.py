"""An image by blocks must give what it gives as a whole, and a run that was stopped must not do things twice."""

import csv

import numpy as np
import pytest
import torch

from weakseg_lib import blocks
from weakseg_lib.cluster import connect
from weakseg_lib.data.ome_zarr import open_ome_zarr
from weakseg_lib.data.ome_zarr_write import create_ome_zarr
from weakseg_lib.data.prepare import to_working, working_region
from weakseg_lib.data.stacks import read_image, read_labels, read_stack
from weakseg_lib.ops.boxes import nms
from weakseg_lib.prediction import predict, predict_stack
from weakseg_lib.runs import load_run

zarr = pytest.importorskip("zarr", reason='OME-Zarr needs `pip install "weakseg_lib[zarr]"`')
OPTIONS = {"device": "cpu", "progress": False, "blocks": True}
VOXEL = (0.5, 0.25, 0.25)


def write(path, image, version="0.5"):
    create_ome_zarr(path, image.shape, (16, 32, 32), image.dtype, VOXEL, version)[:] = image
    return path


@pytest.fixture
def run(make_run):
    """A run with small tiles, for images that are shrunk in y and x and smoothed in z."""
    config = make_run.config.replace(candidates=60, tile=(12, 20, 20), smooth=0.7)
    return make_run(config=config, working_voxel_um=(0.5, 0.35, 0.35))


@pytest.fixture
def image(tmp_path, cells):
    return write(tmp_path / "a.ome.zarr", cells((20, 60, 72))[0])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK", (16, 32, 32))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_blocks_give_the_labels_of_the_whole(run, tmp_path, cells, version):
    image = write(tmp_path / "a.ome.zarr", cells((20, 60, 72))[0], version)
    found = predict(run, [image], tmp_path / "out", **OPTIONS)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "mask_a.ome.zarr",
        "boxes_a.csv",
        "predict.json",
    }
    whole = predict_stack(load_run(run, "cpu"), read_stack(image))
    result = tmp_path / "out/mask_a.ome.zarr"
    labels = read_labels(result, whole.labels.shape)
    assert open_ome_zarr(result)[0].version == version and read_image(result)[1] == pytest.approx(VOXEL)
    assert found == {tmp_path / "out": len(whole.ids)} and len(whole.ids) > 20
    # The same instances: which id here goes with which there is one to one, and ids are in the same order.
    here, inverse = np.unique(labels, return_inverse=True)
    np.testing.assert_array_equal(inverse.reshape(labels.shape), whole.labels)
    with open(tmp_path / "out/boxes_a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == here[1:].tolist()
    boxes = np.array([[float(row[c]) for c in ("z0", "y0", "x0", "z1", "y1", "x1")] for row in rows])
    np.testing.assert_allclose(boxes, whole.boxes, atol=0.006)


def test_a_run_that_was_stopped_goes_on(run, image, tmp_path, monkeypatch):
    usual, calls = blocks.find_tile, []

    def counted(run, task):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(task[1])
        return usual(run, task)

    monkeypatch.setattr(blocks, "find_tile", counted)
    with pytest.raises(KeyboardInterrupt):
        predict(run, [image], tmp_path / "out", **OPTIONS)
    first = list(calls)
    assert (tmp_path / "out/mask_a.unfinished").is_dir() and not (tmp_path / "out/mask_a.ome.zarr").exists()

    monkeypatch.setattr(blocks, "sample_tile", lambda *_: pytest.fail("the grey scale was known"))
    calls[:] = [None] * 6  # it is not to be stopped again
    predict(run, [image], tmp_path / "out", **OPTIONS)
    second = calls[6:]
    assert len(first) == 5 and not set(first) & set(second) and len(set(second)) == len(second) > 5
    monkeypatch.undo()
    predict(run, [image], tmp_path / "at_once", **OPTIONS)
    names = [tmp_path / name / "mask_a.ome.zarr" for name in ("out", "at_once")]
    np.testing.assert_array_equal(*(read_labels(name) for name in names))
    assert not (tmp_path / "out/mask_a.unfinished").exists()


def stop_before_labels(run, image, out, monkeypatch):
    def stop(run, task, shape):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "paste_chunk", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(run, [image], out, **OPTIONS)


def test_other_settings_start_anew(run, image, tmp_path, monkeypatch):
    stop_before_labels(run, image, tmp_path / "out", monkeypatch)
    usual, tiles = blocks.find_tile, []
    monkeypatch.setattr(blocks, "find_tile", lambda *a: (tiles.append(a[1][1]), usual(*a)))
    predict(run, [image], tmp_path / "out", score=0.6, **OPTIONS)
    assert len(tiles) > 5
    scores = np.loadtxt(tmp_path / "out/boxes_a.csv", delimiter=",", skiprows=1, usecols=8)
    assert scores.min() > 0.6


def test_workers_do_the_same_and_one_may_die(run, image, tmp_path):
    pytest.importorskip("distributed", reason='needs `pip install "weakseg_lib[cluster]"`')
    marker = tmp_path / "killed"

    def die_once():
        import os
        import signal

        from weakseg_lib import blocks

        usual = blocks.detect_tile

        def detect_tile(*arguments):
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(*arguments)

        blocks.detect_tile = detect_tile

    predict(run, [image], tmp_path / "serial", **OPTIONS)
    with connect("local", 2) as client:
        client.run(die_once)
        predict(run, [image], tmp_path / "two", scheduler=client.scheduler.address, **OPTIONS)
    assert marker.exists()
    names = [tmp_path / name / "mask_a.ome.zarr" for name in ("serial", "two")]
    np.testing.assert_array_equal(*(read_labels(name) for name in names))


@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.6])
def test_few_comparisons_suppress_what_all_do(overlap):
    rng = np.random.default_rng(0)
    centres, sides = rng.uniform(0, 20, (600, 3)), rng.uniform(2, 9, (600, 3)) * rng.choice([1, 3], (600, 1))
    boxes = np.hstack([centres - sides / 2, centres + sides / 2]).astype(np.float32)
    scores = rng.uniform(0, 1, 600).round(2).astype(np.float32)  # with ties
    wanted = nms(torch.from_numpy(boxes), torch.from_numpy(scores), overlap).numpy()
    assert 20 < len(wanted) < 590
    np.testing.assert_array_equal(blocks.sparse_nms(boxes, scores, overlap), wanted)
    assert len(blocks.sparse_nms(boxes[:0], scores[:0], overlap)) == 0


@pytest.mark.parametrize("shape", [(20, 60, 72), (9, 60, 31), (33, 77, 72)])
def test_a_region_is_a_part_of_the_whole(cells, shape):
    image = cells((20, 60, 72))[0]
    all_of_it = tuple(slice(0, n) for n in shape)
    whole = working_region(image, shape, 0.7, all_of_it)
    for region in (np.s_[0:5, 10:20, 3:31], np.s_[4:9, 40:60, 0:1], np.s_[2:9, 0:60, 9:31]):
        np.testing.assert_allclose(working_region(image, shape, 0.7, region), whole[region], rtol=2e-6)
    assert to_working(image, shape, 0.7).shape == shape


def test_images_that_cannot_be_predicted_by_blocks(run, tmp_path, refused, make_sequence):
    constant = write(tmp_path / "constant.zarr", np.full((20, 40, 40), 7, np.uint16))
    with refused(constant, "all voxels have the value 7"):
        predict(run, [constant], tmp_path / "out", **OPTIONS)
    broken = np.random.default_rng(0).normal(size=(20, 40, 40)).astype(np.float32)
    broken[3, 4, 5] = np.nan
    with refused(write(tmp_path / "nan.zarr", broken), "NaN"):
        predict(run, [tmp_path / "nan.zarr"], tmp_path / "out", **OPTIONS)
    stack = make_sequence(share=None) / "t000.tif"
    with refused(stack, "no OME-Zarr", "--blocks"):
        predict(run, [stack], tmp_path / "out", **OPTIONS)


def test_only_large_images_go_by_blocks_unasked(run, image, tmp_path, monkeypatch):
    options = OPTIONS | {"blocks": False}
    predict(run, [image], tmp_path / "small", **options)
    assert (tmp_path / "small/mask_a.tif").is_file()
    monkeypatch.setattr(blocks, "LARGE", 1000)
    predict(run, [image], tmp_path / "small", **options)
    assert (tmp_path / "small/mask_a.ome.zarr").is_dir()
    assert not (tmp_path / "small/mask_a.tif").exists()  # it would not fit the new boxes
    monkeypatch.setattr(blocks, "LARGE", 10**9)
    predict(run, [image], tmp_path / "small", **options)
    assert (tmp_path / "small/mask_a.tif").is_file() and not (tmp_path / "small/mask_a.ome.zarr").exists()


def rewrite_a_chunk(image):
    """As a program does that writes into an OME-Zarr that is there: the folder itself keeps its date."""
    array, folder = zarr.open_array(image / "0", mode="r+"), image.stat().st_mtime_ns
    array[:16, :32, :32] = 0
    assert image.stat().st_mtime_ns == folder


def test_a_changed_image_is_predicted_anew(run, image, tmp_path):
    def cells():
        return predict(run, [image], tmp_path / "out", **OPTIONS)[tmp_path / "out"]

    before = cells()
    with pytest.warns(UserWarning, match="1 of 1 stacks are kept"):
        assert cells() == before
    rewrite_a_chunk(image)
    assert cells() < before


def test_a_run_that_was_stopped_does_not_go_on_with_another_image(run, image, tmp_path, monkeypatch):
    stop_before_labels(run, image, tmp_path / "out", monkeypatch)
    rewrite_a_chunk(image)
    for out in ("out", "at_once"):
        predict(run, [image], tmp_path / out, **OPTIONS)
    names = [tmp_path / name / "mask_a.ome.zarr" for name in ("out", "at_once")]
    np.testing.assert_array_equal(*(read_labels(name) for name in names))
