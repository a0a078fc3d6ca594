"""Masks at full resolution and the files of a prediction; see also test_tiles.py and test_full_disk.py."""

import csv
import itertools
import os
import tracemalloc

import numpy as np
import pytest

from weakseg_lib import prediction
from weakseg_lib.data.prepare import normalise
from weakseg_lib.data.stacks import Sequence, read_image, read_stack, write_tiff
from weakseg_lib.evaluation import evaluate
from weakseg_lib.model.network import Network
from weakseg_lib.prediction import Detections, detect_stack, paste, predict, predict_stack, tiles
from weakseg_lib.runs import load_run
from weakseg_lib.train import fit

VOXEL = (0.5, 0.25, 0.25)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# Cells


@pytest.fixture(scope="module")
def run(trained):
    return load_run(trained[0], "cpu")


def with_tile(run, tile):
    network = Network(run.config.replace(tile=tile), run.info["anchor_sizes"])
    network.load_state_dict(run.network.state_dict())
    return network.eval()


@pytest.mark.parametrize("centre", list(itertools.product((10, 16), (24, 32), (32, 41))))
def test_a_cell_on_a_seam_is_found_once_and_whole(run, centre):
    """Cores of 16 x 32 x 32 voxels meet at z = 16, y = 32 and x = 32."""
    shape, image = (32, 64, 64), np.full((32, 64, 64), 100, np.float32)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    cell = (((grid + 0.5 - centre) / (3.5, 5, 5)) ** 2).sum(-1) < 1
    image += 400 * cell + np.random.default_rng(0).normal(0, 20, shape)
    image = (
        image - 100
    ) / 400  # one cell in so large a stack is less than the 0.5 % that `normalise` looks at
    network = with_tile(run, (16, 32, 32))
    assert len(list(tiles(shape, network.config.tile, network.halo, network.stride))) == 8
    found = detect_stack(network, image.astype(np.float32), run.info["score_threshold"], 0.1)
    assert len(found.boxes) == 1
    labels = paste(found, shape, np.ones(3), run.config.roi_margin)
    assert dice(labels == 1, cell) > 0.8  # a network of 60 steps


def test_an_unseen_stack_is_segmented(run, cells, tmp_path):
    image, labels = cells((22, 50, 61), seed=5)  # no multiples of the stride
    write_tiff(tmp_path / "t000.tif", image, VOXEL)
    found = predict_stack(run, read_stack(tmp_path / "t000.tif"))
    assert found.labels.shape == image.shape and found.labels.dtype == np.int32
    assert found.ids.tolist() == list(range(1, len(found.boxes) + 1)) == np.unique(found.labels)[1:].tolist()
    assert (np.diff(found.scores) <= 0).all() and set(found.classes) == {1}
    pairs = [(i, np.bincount(labels[found.labels == i]).argmax()) for i in found.ids]
    assert len({true for _, true in pairs}) == labels.max()  # all found
    assert np.mean([dice(found.labels == i, labels == true) for i, true in pairs if true]) > 0.85


def test_thresholds_come_from_the_run_unless_given(make_run, cells, tmp_path, monkeypatch):
    run = load_run(make_run(score_threshold=0.77, nms_threshold=0.11), "cpu")
    write_tiff(tmp_path / "t000.tif", cells()[0], VOXEL)
    used = []

    def spy(network, image, score, overlap, with_masks, progress):
        used.append((score, overlap))
        return Detections(
            np.zeros((0, 6), np.float32), np.zeros(0), np.zeros(0, int), np.zeros((0, 8, 8, 8), np.uint8)
        )

    monkeypatch.setattr(prediction, "detect_stack", spy)
    predict_stack(run, read_stack(tmp_path / "t000.tif"))
    predict_stack(run, read_stack(tmp_path / "t000.tif"), score=0.0, overlap=0.9)
    assert used == [(0.77, 0.11), (0.0, 0.9)]


@pytest.mark.parametrize("voxel_size", [(0.5, 0.125, 0.125), (0.25, 0.25, 0.25), (1.0, 0.5, 0.5)])
def test_results_have_the_resolution_of_the_stack(run, cells, tmp_path, voxel_size):
    """The same field recorded finer or coarser than the training stacks."""
    image, labels = cells(seed=5)
    repeat = [round(a / b) if a > b else 1 for a, b in zip(VOXEL, voxel_size, strict=True)]
    step = [round(b / a) if b > a else 1 for a, b in zip(VOXEL, voxel_size, strict=True)]
    there = tuple(slice(s // 2, None, s) for s in step)
    image, labels = (np.kron(a, np.ones(repeat, a.dtype))[there] for a in (image, labels))
    write_tiff(tmp_path / "t000.tif", image, voxel_size)
    found = predict_stack(run, read_stack(tmp_path / "t000.tif"))
    assert found.labels.shape == image.shape
    assert (found.boxes >= 0).all() and (found.boxes[:, 3:] <= np.array(image.shape) + 1e-3).all()
    assert 0.7 < len(found.ids) / labels.max() < 1.3
    assert dice(found.labels > 0, labels > 0) > 0.75


# Pasting


def detections(boxes, values, size=8):
    masks = np.stack([np.full((size,) * 3, value, np.uint8) for value in values])
    return Detections(
        np.array(boxes, np.float32), np.linspace(1, 0.5, len(boxes)), np.ones(len(boxes), int), masks
    )


@pytest.mark.parametrize("scale", [(1, 1, 1), (0.5, 0.25, 1)])
@pytest.mark.parametrize("box", [(2, 3, 4, 6, 9, 12), (2.4, 3.6, 4.5, 6.5, 9.4, 11.6), (-3, -2, 5, 4, 30, 9)])
def test_a_full_mask_fills_the_voxels_whose_centres_are_in_the_box(box, scale):
    shape = (12, 40, 14)
    labels = paste(detections([box], [255]), shape, np.array(scale))
    centres = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij"), -1) * scale
    inside = ((centres >= box[:3]) & (centres < box[3:])).all(-1)
    assert inside.any()
    np.testing.assert_array_equal(labels, inside.astype(int))


def test_where_masks_overlap_the_more_probable_wins():
    found = detections([(0, 0, 0, 4, 4, 6), (0, 0, 3, 4, 4, 9), (0, 0, 6, 4, 4, 12)], [160, 200, 200])
    row = paste(found, (4, 4, 12), np.ones(3))[2, 2].tolist()
    assert row == [1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3]  # more probable; between equals the better score


def test_only_what_is_more_likely_than_not_is_kept():
    assert paste(detections([(0, 0, 0, 4, 4, 4)] * 2, [127, 100]), (4, 4, 4), np.ones(3)).max() == 0
    assert paste(detections([(0, 0, 0, 4, 4, 4)], [128]), (4, 4, 4), np.ones(3)).min() == 1


def test_boxes_without_a_voxel_are_passed_over():
    boxes = [
        (1, 1, 1, 1, 1, 1),
        (9, 9, 9, 12, 12, 12),
        (-5, -5, -5, -1, -1, -1),
        (0.6, 0.6, 0.6, 0.9, 0.9, 0.9),
    ]
    assert paste(detections(boxes, [255] * 4), (5, 5, 5), np.ones(3)).max() == 0


@pytest.mark.parametrize("values", [(200, 160, 255), (255, 160, 200)])
def test_an_instance_that_others_cover_is_dropped_and_ids_stay_without_gaps(
    make_run, cells, tmp_path, monkeypatch, values
):
    """Also in a stack that has no background left."""
    write_tiff(tmp_path / "t000.tif", cells((8, 16, 16))[0], VOXEL)
    found = detections([(0, 0, 0, 8, 16, 9), (0, 0, 2, 8, 16, 6), (0, 0, 9, 8, 16, 16)], values)
    monkeypatch.setattr(prediction, "detect_stack", lambda *rest: found)
    run = load_run(make_run(config=make_run.config.replace(roi_margin=0.0)), "cpu")
    result = predict_stack(run, read_stack(tmp_path / "t000.tif"))
    assert result.ids.tolist() == [1, 2] == np.unique(result.labels).tolist()
    np.testing.assert_allclose(result.boxes, found.boxes[[0, 2]])
    assert result.labels[0, 0].tolist() == [1] * 9 + [2] * 7


# Files


def test_a_sequence_is_predicted_and_scored(trained, tmp_path):
    out, sequence = trained
    cells = predict(out, [sequence], tmp_path / "res", device="cpu", progress=False)
    assert list(cells) == [tmp_path / "res"] and cells[tmp_path / "res"] > 10
    assert sorted(os.listdir(tmp_path / "res")) == [
        "boxes000.csv",
        "boxes001.csv",
        "mask000.tif",
        "mask001.tif",
        "predict.json",
    ]
    mask, voxel_size = read_image(tmp_path / "res/mask000.tif")
    assert (
        mask.shape == Sequence(sequence).read(0).image.shape
        and voxel_size == VOXEL
        and mask.dtype == np.uint16
    )
    with open(tmp_path / "res/boxes000.csv", newline="") as file:
        ids = [int(row["id"]) for row in csv.DictReader(file)]
    assert ids == np.unique(mask)[1:].tolist()
    scores = evaluate(tmp_path / "res", sequence, progress=False)["groups"]["01"]
    assert scores["stacks"] == 2 and scores["detection_f1"] > 0.9 and scores["object_f1"] > 0.9


def test_predicting_again_gives_the_same_files(trained, tmp_path):
    out, sequence = trained
    for _ in range(2):
        predict(out, [sequence / "t000.tif"], tmp_path / "res", device="cpu", progress=False, again=True)
        first = {p.name: p.read_bytes() for p in (tmp_path / "res").iterdir()}
    predict(out, [sequence / "t000.tif"], tmp_path / "again", device="cpu", progress=False)
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()}


def test_a_higher_score_leaves_fewer_cells(trained, tmp_path):
    out, sequence = trained
    counts = [
        predict(out, [sequence], tmp_path / str(score), score=score, device="cpu", progress=False)[
            tmp_path / str(score)
        ]
        for score in (0.05, 0.95, 1.0)
    ]
    assert counts[0] > counts[1] >= counts[2] == 0


@pytest.mark.parametrize("place", ["01", "01_WEAK", "01_GT"])
def test_a_result_never_goes_among_images_or_annotation(make_run, make_sequence, refused, place):
    sequence = make_sequence()
    folder = sequence.with_name(place)
    before = {p: p.read_bytes() for p in folder.rglob("*.*")}
    with refused(folder, "a result must not replace", "choose another folder"):
        predict(make_run(), [sequence], folder, device="cpu", progress=False)
    with refused(folder, "a result must not replace"):
        fit([sequence], folder, device="cpu", progress=False)
    assert before and before == {p: p.read_bytes() for p in folder.rglob("*.*")}


def test_a_detector_trained_alone_writes_boxes_alone(make_run, make_sequence, tmp_path):
    sequence = make_sequence()
    predict(make_run(has_masks=False), [sequence], tmp_path / "res", device="cpu", progress=False)
    assert sorted(os.listdir(tmp_path / "res")) == ["boxes000.csv", "predict.json"]
    scores = evaluate(tmp_path / "res", sequence, progress=False)["groups"]["01"]
    assert "detection_f1" in scores and "object_f1" not in scores


def test_masks_of_an_earlier_run_do_not_stay_beside_new_boxes(make_run, make_sequence, tmp_path):
    sequence, out = make_sequence(), tmp_path / "res"
    predict(make_run(), [sequence], out, device="cpu", progress=False)
    assert (out / "mask000.tif").exists()
    predict(make_run("alone", has_masks=False), [sequence], out, device="cpu", progress=False)
    assert not (out / "mask000.tif").exists()
    evaluate(out, sequence, progress=False)


def test_a_time_point_of_a_sequence_is_refused(make_run, make_sequence, tmp_path, refused):
    sequence = make_sequence()
    with refused(sequence, "no frame 3", str(sequence / "t000.tif")):
        predict(make_run(), [sequence], tmp_path / "res", frame=3, device="cpu", progress=False)


def test_voxels_much_coarser_than_those_learnt_are_questioned(make_run, make_sequence, tmp_path):
    sequence = make_sequence(voxel_size=tuple(2 * np.array(VOXEL)))
    with pytest.warns(UserWarning, match="8 times as many voxels.*cells of another size"):
        predict(make_run(), [sequence], tmp_path / "res", device="cpu", progress=False)


def test_a_stack_in_which_nothing_is_found(make_run, make_sequence, tmp_path):
    sequence = make_sequence()
    predict(make_run(score_threshold=0.999999), [sequence], tmp_path / "res", device="cpu", progress=False)
    assert read_image(tmp_path / "res/mask000.tif")[0].max() == 0
    assert evaluate(tmp_path / "res", sequence, progress=False)["groups"]["01"]["detection_found"] == 0


def test_normalisation_and_scale_are_those_of_the_training(run, trained, tmp_path):
    """Another camera: gain and offset change nothing."""
    image = Sequence(trained[1]).read(0).image
    write_tiff(tmp_path / "t000.tif", (image.astype(float) * 31 + 4000).astype(np.uint16), VOXEL)
    own, other = (predict_stack(run, read_stack(p)) for p in (trained[1] / "t000.tif", tmp_path / "t000.tif"))
    assert len(own.ids) == len(other.ids)
    assert dice(own.labels > 0, other.labels > 0) > 0.99  # float32 with another offset, 1/255 in a mask
    assert normalise(image.astype(np.float32)).max() > 0.5


def test_memory_does_not_grow_with_the_number_of_stacks(make_run, make_sequence, tmp_path):
    shape, run, peaks = (16, 80, 80), make_run(score_threshold=0.9), []
    for frames in (2, 8):
        sequence, out = make_sequence(f"data{frames}", frames=frames, shape=shape), tmp_path / f"res{frames}"
        tracemalloc.start()  # sees what numpy holds: images, labels, masks
        predict(run, [sequence], out, device="cpu", progress=False)
        predicting = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        evaluate(out, sequence, progress=False)
        peaks.append((predicting, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    stack = 4 * np.prod(shape)  # one image as float32
    assert min(peaks[0]) > stack  # the measurement does see images
    # Four times the stacks, less than half a stack more.
    assert all(many - few < stack / 2 for few, many in zip(*peaks, strict=True))
