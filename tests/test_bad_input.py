"""What a user can get wrong: every mistake gives exit status 2 and one line that names the file and the fix.

Nothing that was there before is changed by it. The commands are called in this process, test_cli.py starts some as a
user does.
"""

import json
import shutil

import numpy as np
import pytest
import tifffile

from weakseg_lib.data.files import write_json
from weakseg_lib.data.stacks import write_tiff

VOXEL = (0.5, 0.25, 0.25)


# Images

RANDOM = np.random.default_rng(0)


def with_value(value):
    image = RANDOM.normal(size=(6, 20, 20)).astype(np.float32)
    image[2, 3, 4] = value
    return image


IMAGES = {
    "flat": (RANDOM.integers(0, 9, (20, 20), np.uint8), {}, "2D image"),
    "colour": (RANDOM.integers(0, 9, (6, 20, 20, 3), np.uint8), {"photometric": "rgb"}, "colour image"),
    "flat colour": (RANDOM.integers(0, 9, (20, 20, 3), np.uint8), {"photometric": "rgb"}, "colour image"),
    "time series": (
        RANDOM.integers(0, 9, (3, 6, 20, 20)).astype(np.uint8),
        {"imagej": True, "metadata": {"axes": "TZYX"}},
        "--frame T",
    ),
    "channels": (
        RANDOM.integers(0, 9, (6, 2, 20, 20)).astype(np.uint8),
        {"imagej": True, "metadata": {"axes": "ZCYX"}},
        "2 channels",
    ),
    "NaN": (with_value(np.nan), {}, "1 voxels are NaN or infinite"),
    "infinite": (with_value(-np.inf), {}, "1 voxels are NaN or infinite"),
    "constant": (np.full((6, 20, 20), 7, np.uint16), {}, "all voxels have the value 7"),
    "complex": (RANDOM.normal(size=(6, 20, 20)).astype(np.complex64), {}, "complex64"),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("command", ["fit", "predict", "predict the sequence"])
def test_images_that_are_no_stacks(place, fit_call, predict_call, fails, snapshot, kind, command):
    array, options, words = IMAGES[kind]
    path = place.image if command == "predict" else place.stack
    tifffile.imwrite(path, array, **options)
    before = snapshot(place.folder)
    call = fit_call() if command == "fit" else predict_call(path if command == "predict" else place.sequence)
    line = fails(*call, "--voxel-size", *VOXEL)
    assert str(path) in line and words in line
    assert snapshot(place.folder) == before


def test_a_frame_of_a_time_series(place, predict_call, call, fails, snapshot):
    array, options, _ = IMAGES["time series"]
    tifffile.imwrite(place.image, array, **options)
    before = snapshot(place.folder)
    assert "0..2" in fails(*predict_call(place.image, "--frame", 3, "--voxel-size", *VOXEL))
    assert snapshot(place.folder) == before
    assert call(*predict_call(place.image, "--frame", 1, "--voxel-size", *VOXEL)) == (0, [])
    assert tifffile.imread(place.results / "mask_image.tif").shape == (6, 20, 20)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("command", ["fit", "predict", "annotate"])
def test_a_truncated_tiff(place, fit_call, predict_call, fails, snapshot, share, command):
    content = place.stack.read_bytes()
    place.stack.write_bytes(content[: int(share * len(content))])
    before = snapshot(place.folder)
    calls = {
        "fit": fit_call(),
        "predict": predict_call(place.sequence),
        "annotate": ("annotate", place.sequence, "--masks", 0.3),
    }
    assert str(place.stack) in fails(*calls[command])
    assert snapshot(place.folder) == before


# Voxel size


@pytest.mark.parametrize("command", ["fit", "predict"])
@pytest.mark.parametrize("voxel_size", [None, (0.0, 0.25, 0.25)])
def test_no_usable_voxel_size(
    place, cells, fit_call, predict_call, call, fails, snapshot, command, voxel_size
):
    path = place.stack if command == "fit" else place.image
    metadata = {"axes": "ZYX"} | ({"spacing": 0.0, "unit": "um"} if voxel_size else {})
    tifffile.imwrite(path, cells()[0], imagej=True, metadata=metadata, resolution=(4, 4))
    before = snapshot(place.folder)
    arguments = fit_call() if command == "fit" else predict_call(path)
    line = fails(*arguments)
    assert str(path) in line and "--voxel-size Z Y X" in line and "dataset.json" in line
    assert snapshot(place.folder) == before
    assert call(*arguments, "--voxel-size", *VOXEL) == (0, [])  # the fix works


@pytest.mark.parametrize("given", [(0, 1, 1), (1, -1, 1), (1, 1, "nan"), ("inf", 1, 1)])
def test_a_wrong_voxel_size_given_by_hand(place, predict_call, fails, given):
    assert "three positive numbers" in fails(*predict_call(place.stack, "--voxel-size", *given))


@pytest.mark.parametrize("given", [(500, 250, 250), (5e-4, 2.5e-4, 2.5e-4)], ids=["nm", "mm"])
def test_a_voxel_size_in_another_unit(place, predict_call, fails, snapshot, monkeypatch, given):
    """It would enlarge the stack a thousand times an axis, or shrink it to a voxel."""
    monkeypatch.setattr("weakseg_lib.prediction.to_working", lambda *rest: pytest.fail("it was resampled"))
    before = snapshot(place.folder)
    line = fails(*predict_call(place.stack, "--voxel-size", *given))
    assert str(place.stack) in line and "voxel size" in line
    assert snapshot(place.folder) == before


@pytest.mark.parametrize("value", [[1, 1], [0, 1, 1], "small", [1, None, 1]])
def test_a_wrong_voxel_size_in_the_data_set(place, cells, fit_call, fails, value):
    tifffile.imwrite(place.stack, cells()[0])
    write_json(place.sequence.parent / "dataset.json", {"voxel_size_um": value})
    assert str(place.sequence.parent / "dataset.json") in fails(*fit_call())


# Labels and weak annotation


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.ones((20, 48, 47), np.uint16), "(20, 48, 47)"),
        (np.ones((20, 48, 48), np.float32), "float32"),
        (np.ones((48, 48), np.uint16), "2D"),
        (np.full((20, 48, 48), -1, np.int16), "-1"),
    ],
    ids=["other shape", "floats", "flat", "negative"],
)
def test_labels_that_do_not_fit(place, fit_call, fails, snapshot, labels, words):
    """Full labels given to annotate and scored against, masks given to fit."""
    calls = {
        place.labels: ("annotate", place.sequence, "--masks", 0.5),
        place.masks: fit_call(),
        place.results / "mask000.tif": ("evaluate", place.results / "mask000.tif", place.labels),
    }
    (place.results / "boxes000.csv").unlink()
    for path, arguments in calls.items():
        good = path.read_bytes()
        tifffile.imwrite(path, labels)
        before = snapshot(place.folder)
        line = fails(*arguments)
        assert str(path) in line and words in line
        assert snapshot(place.folder) == before  # the earlier annotation included
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("0,0,0,5,5,49", "outside the stack"),
        ("-1,0,0,5,5,5", "outside the stack"),
        ("5,0,0,2,5,5", "has no volume"),
        ("2,2,2,2,5,5", "has no volume"),
        ("0,0,0,5,5", "line 4"),
        ("0,0,0,5,5,wide", "wide"),
        ("0,0,0,5,5,nan", "line 4"),
    ],
)
def test_boxes_that_cannot_be(place, fit_call, fails, box, words):
    lines = place.boxes.read_text().splitlines()
    lines[3] = f"77,{box},1,0"
    place.boxes.write_text("\n".join(lines) + "\n")
    line = fails(*fit_call())
    assert str(place.boxes) in line and "line 4" in line and words in line
    assert not place.new_run.exists()


def without_first_masked(rows):
    return [row for row in rows if row is not next(r for r in rows if r.endswith(",1"))]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_first_masked, "has no box"),
        (lambda rows: [*rows, rows[0]], "already"),
        (lambda rows: [row[:-1] + "1" for row in rows], "has no voxel of mask"),
        (lambda rows: [row[:-1] + "0" for row in rows], "has_mask 0"),
        (lambda rows: [row[:-3] + "2" + row[-2:] for row in rows], "class"),
        (lambda rows: [], "has no box"),
    ],
    ids=["no box", "twice", "no voxel", "not announced", "class", "all boxes gone"],
)
def test_tables_that_do_not_fit_the_masks(place, fit_call, fails, change, words):
    header, *rows = place.boxes.read_text().splitlines()
    place.boxes.write_text("\n".join([header, *change(rows)]) + "\n")
    line = fails(*fit_call())
    assert words in line and ("01_WEAK" in line or str(place.sequence) in line)
    assert not place.new_run.exists()


def test_no_boxes_at_all(place, fit_call, fails):
    place.boxes.write_text(place.boxes.read_text().splitlines()[0] + "\n")
    place.masks.unlink()
    assert "no boxes in any stack" in fails(*fit_call())
    assert not place.new_run.exists()


def test_no_masks_at_all_trains_the_detector_alone(place, fit_call, call):
    header, *rows = place.boxes.read_text().splitlines()
    place.boxes.write_text("\n".join([header, *(row[:-1] + "0" for row in rows)]) + "\n")
    place.masks.unlink()
    status, (line,) = call(*fit_call())
    assert status == 0 and line.startswith("warning: ") and "only the detector" in line
    assert json.loads((place.new_run / "run.json").read_text())["has_masks"] is False


def test_no_annotation(place, fit_call, fails):
    shutil.rmtree(place.boxes.parent)
    line = fails(*fit_call())
    assert str(place.boxes) in line and f"weakseg annotate {place.sequence}" in line


@pytest.mark.parametrize("shape", [(5, 12, 14), (2, 20, 20), (40, 10, 10)])
def test_a_stack_smaller_than_a_crop_works(place, fit_call, predict_call, call, shape):
    labels = np.zeros(shape, np.uint16)
    labels[:8, 2:8, 2:9] = 1
    write_tiff(place.stack, 100 + 400 * labels, VOXEL)
    write_tiff(place.labels, labels, VOXEL)
    for arguments in (("annotate", place.sequence, "--masks", 1), fit_call(), predict_call(place.sequence)):
        assert call(*arguments) == (0, [])
    assert tifffile.imread(place.results / "mask000.tif").reshape(shape).shape == shape


# Other arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ("annotate", "{none}"),
        ("fit", "{none}", "--out", "{new_run}"),
        ("fit", "{sequence}/..", "--out", "{new_run}"),
        ("predict", "{none}", "{stack}", "--out", "{results}"),
        ("predict", "{run}", "{none}", "--out", "{results}"),
        ("predict", "{run}", "{none}.tif", "--out", "{results}"),
        ("predict", "{run}", "{run}", "--out", "{results}"),
        ("evaluate", "{none}", "{sequence}"),
        ("evaluate", "{labels}", "{none}"),
        ("annotate", "{sequence}", "--masks", "1.5"),
        ("annotate", "{sequence}", "--seed", "-1"),
        ("simulate", "hl60", "{folder}/sim", "--stacks", "0"),
        ("simulate", "hl60", "{folder}/sim", "--seed", "-1"),
        ("fit", "{sequence}", "--out", "{new_run}", "--seed", "-1"),
        ("fit", "{sequence}", "--out", "{new_run}", "--steps", "0"),
        ("fit", "{sequence}", "--out", "{new_run}", "--minutes", "-3"),
        ("fit", "{sequence}", "--out", "{new_run}", "--minutes", "nan"),
        ("fit", "{sequence}", "--out", "{new_run}", "--set", "wings=2"),
        ("fit", "{sequence}", "--out", "{new_run}", "--config", "{none}.json"),
        ("fit", "{sequence}", "--out", "{stack}"),
        ("fit", "{sequence}", "{sequence}", "--out", "{run}"),
        ("predict", "{run}", "{stack}", "--out", "{stack}"),
    ],
    ids=" ".join,
)
def test_other_mistakes(place, fails, snapshot, arguments):
    names = vars(place) | {"none": place.folder / "none"}
    before = snapshot(place.folder)
    fails(*(part.format(**names) for part in arguments))
    assert snapshot(place.folder) == before


def test_a_run_of_another_version(place, predict_call, fails, snapshot):
    write_json(place.run / "run.json", json.loads((place.run / "run.json").read_text()) | {"format": 99})
    before = snapshot(place.folder)
    line = fails(*predict_call(place.sequence))
    assert str(place.run) in line and "format 99" in line
    assert snapshot(place.folder) == before
