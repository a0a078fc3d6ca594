"""Which files are scored against which, how counts are pooled, and what the table and the JSON say."""

import json

import numpy as np
import pytest

from weakseg_lib.counts import Matches
from weakseg_lib.data.files import write_json
from weakseg_lib.data.ome_zarr_write import create_ome_zarr
from weakseg_lib.data.stacks import write_tiff
from weakseg_lib.errors import InputError
from weakseg_lib.evaluation import (
    Instances,
    evaluate,
    evaluate_stack,
    format_table,
    mean_of_groups,
    pool,
    read_measures,
)
from weakseg_lib.result_files import StackFiles, find_results, parse_frames, read_boxes
from weakseg_lib.score_table import MEASURES

SHAPE = (4, 10, 10)
VOXEL_SIZE = (2.0, 1.0, 1.0)
ONE = (0, 0, 0, 2, 4, 4)
TWO = (2, 5, 5, 4, 9, 9)
RESULT_HEADER = "id,z0,y0,x0,z1,y1,x1,class,score"
WEAK_HEADER = "id,z0,y0,x0,z1,y1,x1,class,has_mask"


def paint(*boxes, shape=SHAPE):
    labels = np.zeros(shape, np.uint16)
    for number, (z0, y0, x0, z1, y1, x1) in enumerate(boxes, 1):
        labels[z0:z1, y0:y1, x0:x1] = number
    return labels


def write_boxes(path, *boxes, header=RESULT_HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [",".join(map(str, (number, *box, 1, 1))) for number, box in enumerate(boxes, 1)]
    path.write_text("\n".join([header, *rows]) + "\n")


def truth(tmp_path, group, frame, *boxes, kind="SEG"):
    prefix = {"SEG": "man_seg", "TRA": "man_track"}[kind]
    path = tmp_path / "NAME" / f"{group}_GT" / kind / f"{prefix}{frame:03d}.tif"
    write_tiff(path, paint(*boxes), VOXEL_SIZE)
    return path


def result(tmp_path, group, frame, *boxes, table=True, masks=True):
    folder = tmp_path / "OUT" / f"{group}_RES"
    if masks:
        write_tiff(folder / f"mask{frame:03d}.tif", paint(*boxes), VOXEL_SIZE)
    if table:
        write_boxes(folder / f"boxes{frame:03d}.csv", *boxes)
    return folder


@pytest.fixture
def two_groups(tmp_path):
    """Group 01: frame 0 finds 2 of 2, frame 1 finds 1 of 2. Group 02: frame 0 finds 1 and one too many."""
    for frame in (0, 1):
        truth(tmp_path, "01", frame, ONE, TWO)
    truth(tmp_path, "02", 0, ONE)
    result(tmp_path, "01", 0, ONE, TWO)
    result(tmp_path, "01", 1, ONE)
    result(tmp_path, "02", 0, ONE, TWO)
    return tmp_path / "OUT", tmp_path / "NAME"


# --- pooling -----------------------------------------------------------------------------------------------


def test_counts_are_pooled_in_a_group_and_groups_are_averaged(two_groups):
    scores = evaluate(*two_groups, progress=False)
    first, second = scores["groups"]["01"], scores["groups"]["02"]
    assert (first["stacks"], second["stacks"]) == (2, 1)
    # 01: 3 pairs of 3 predicted and 4 true, not the mean of 1 and 2/3. 02: 1 pair of 2 and 1.
    assert first["detection_f1"] == 6 / 7 and second["detection_f1"] == 2 / 3
    assert scores["mean"]["detection_f1"] == (6 / 7 + 2 / 3) / 2
    # All cells have 32 voxels and are found whole, so voxels are in the same proportion.
    assert first["segmentation_f1"] == first["segmentation_f1_union"] == 6 / 7
    assert (first["detection_found"], first["detection_missed"], first["detection_false_alarms"]) == (3, 1, 0)
    assert first["ctc_seg"] == 3 / 4 and first["ctc_det"] == 1 - 10 / 40
    assert second["ctc_det"] == 1 - 1 / 10
    assert first["counts"]["segmentation"] == {"overlap": 96, "predicted": 96, "true": 128}
    frames = [(row["group"], row["frame"], row["detection_f1"]) for row in scores["stacks"]]
    assert frames == [("01", 0, 1.0), ("01", 1, 2 / 3), ("02", 0, 2 / 3)]
    assert "detection_found" not in scores["mean"]


def test_the_counts_of_stacks_give_the_group_again(two_groups):
    """What a bootstrap over stacks needs: counts in the JSON that can be drawn and added."""
    scores = evaluate(*two_groups, progress=False)
    drawn = [{"detection": Matches(**row["counts"]["detection"])} for row in scores["stacks"][:2]]
    assert read_measures(pool(drawn))["detection_f1"] == scores["groups"]["01"]["detection_f1"]


def test_scores_are_json(two_groups):
    scores = evaluate(*two_groups, progress=False)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_a_group_without_a_number_has_no_mean():
    assert mean_of_groups([{"ctc_seg": 0.5}, {"ctc_seg": None}]) == {"ctc_seg": None}
    assert mean_of_groups([{"ctc_seg": 0.5}, {}]) == {"ctc_seg": None}
    assert mean_of_groups([{"ctc_seg": 0.5}, {"ctc_seg": 1.0}]) == {"ctc_seg": 0.75}


# --- what the truth allows ---------------------------------------------------------------------------------


def test_boxes_alone_give_box_measures_alone(tmp_path):
    truth(tmp_path, "01", 0, ONE, TWO)
    folder = result(tmp_path, "01", 0, ONE, masks=False)
    scores = evaluate(folder, tmp_path / "NAME" / "01", progress=False)["groups"]["01"]
    assert scores["detection_f1"] == 2 / 3
    assert "segmentation_f1" not in scores and "ctc_seg" not in scores


def test_masks_alone_give_their_own_boxes(tmp_path):
    truth(tmp_path, "01", 0, ONE, TWO)
    folder = result(tmp_path, "01", 0, ONE, TWO, table=False)
    assert evaluate(folder, tmp_path / "NAME" / "01", progress=False)["mean"]["detection_f1"] == 1.0


def test_the_table_of_boxes_goes_before_the_boxes_of_the_masks(tmp_path):
    truth(tmp_path, "01", 0, ONE, TWO)
    folder = result(tmp_path, "01", 0, ONE, TWO)
    # Half as long in z: IoU 0.5 with the first truth; and moved away from the second.
    write_boxes(folder / "boxes000.csv", (0, 0, 0, 1, 4, 4), (0, 0, 6, 2, 4, 10))
    scores = evaluate(folder, tmp_path / "NAME" / "01", progress=False)["mean"]
    assert scores["detection_f1"] == 0.5 and scores["detection_mean_iou"] == 0.5
    assert scores["segmentation_f1"] == 1.0  # the masks are as they were
    assert scores["segmentation_f1_union"] == 2 * 16 / (64 + 64)
    stricter = evaluate(folder, tmp_path / "NAME" / "01", iou=0.5, progress=False)["mean"]
    assert stricter["detection_f1"] == stricter["segmentation_f1_union"] == 0.0


def test_weak_boxes_are_a_truth_for_boxes(tmp_path):
    write_boxes(tmp_path / "NAME/01_WEAK/boxes000.csv", ONE, TWO, header=WEAK_HEADER)
    folder = result(tmp_path, "01", 0, ONE)
    for path in ("NAME/01_WEAK", "NAME/01", "NAME"):
        scores = evaluate(folder, tmp_path / path, progress=False)["groups"]["01"]
        assert scores["detection_f1"] == 2 / 3 and "segmentation_f1" not in scores
    # With full labels the weak boxes are not asked any more.
    truth(tmp_path, "01", 0, ONE)
    assert evaluate(folder, tmp_path / "NAME", progress=False)["mean"]["detection_f1"] == 1.0


def test_markers_alone_give_marker_measures(tmp_path):
    # Single voxels: 1 at the centre of ONE (0.5, 1.5, 1.5), rounded; 2 is 5 slices = 10 um from any box.
    truth(tmp_path, "01", 0, (0, 1, 1, 1, 2, 2), kind="TRA")
    folder = result(tmp_path, "01", 0, ONE, TWO)
    scores = evaluate(folder, tmp_path / "NAME" / "01", progress=False)
    group = scores["groups"]["01"]
    assert group["marker_f1"] == 2 / 3
    assert group["marker_mean_distance"] == pytest.approx(np.sqrt(3 * 0.5**2))
    # In um a slice is 2 um: (1, 0.5, 0.5). The reach is 5 voxels of the volume 2 um^3.
    assert group["marker_um_mean_distance"] == pytest.approx(np.sqrt(1 + 0.5))
    assert scores["marker_distance_um"] == pytest.approx(5 * 2 ** (1 / 3))
    # DET can be had from markers: ONE covers it, TWO is a false alarm.
    assert group["ctc_det"] == 1 - 1 / 10
    assert "detection_f1" not in group and "ctc_seg" not in group


def test_voxel_size_of_the_dataset_and_by_hand(tmp_path):
    truth(tmp_path, "01", 0, (0, 1, 1, 1, 2, 2), kind="TRA")
    folder = result(tmp_path, "01", 0, ONE)
    write_json(tmp_path / "NAME" / "dataset.json", {"voxel_size_um": [1, 0.5, 0.25]})
    assert evaluate(folder, tmp_path / "NAME", progress=False)["voxel_size_um"] == [1, 0.5, 0.25]
    by_hand = evaluate(folder, tmp_path / "NAME", voxel_size=(3, 2, 1), progress=False)
    assert by_hand["voxel_size_um"] == [3, 2, 1]
    for wrong in [(1, 0, 1), (1, 2), "abc", (1, 1, float("nan"))]:
        with pytest.raises(InputError, match="voxel-size.*three positive numbers"):
            evaluate(folder, tmp_path / "NAME", voxel_size=wrong, progress=False)


def test_labels_and_markers_together(tmp_path):
    truth(tmp_path, "01", 0, ONE, TWO)
    truth(tmp_path, "01", 0, (0, 1, 1, 1, 2, 2), kind="TRA")
    truth(tmp_path, "01", 1, (0, 1, 1, 1, 2, 2), kind="TRA")  # markers in every frame, labels in some
    for frame in (0, 1):
        result(tmp_path, "01", frame, ONE)
    scores = evaluate(tmp_path / "OUT", tmp_path / "NAME", progress=False)
    group = scores["groups"]["01"]
    assert group["detection_f1"] == 2 / 3  # of frame 0
    assert group["marker_f1"] == 1.0 and group["counts"]["marker"]["true"] == 2
    assert group["ctc_det"] == 1.0  # on the markers
    assert scores["notes"] == ["01: 1 of 2 stacks have labels, the others markers alone"]


def test_labels_of_single_slices_are_told_and_not_read(tmp_path):
    truth(tmp_path, "01", 0, (0, 1, 1, 1, 2, 2), kind="TRA")
    sparse = tmp_path / "NAME/01_GT/SEG/man_seg_000_002.tif"
    write_tiff(sparse, paint(ONE), VOXEL_SIZE)
    folder = result(tmp_path, "01", 0, ONE)
    scores = evaluate(folder, tmp_path / "NAME", progress=False)
    assert scores["groups"]["01"]["marker_f1"] == 1.0
    assert "single 2D slices" in scores["notes"][0] and "single 2D slices" in format_table(scores)
    (tmp_path / "NAME/01_GT/TRA/man_track000.tif").unlink()
    with pytest.raises(InputError, match="single 2D slices"):
        evaluate(folder, tmp_path / "NAME", progress=False)


def test_a_stack_without_cells(tmp_path):
    truth(tmp_path, "01", 0)
    folder = result(tmp_path, "01", 0)
    scores = evaluate(folder, tmp_path / "NAME", progress=False)
    assert scores["mean"]["detection_f1"] == scores["mean"]["segmentation_f1"] == 1.0
    assert scores["mean"]["ctc_seg"] is None
    assert json.dumps(scores, allow_nan=False) and "-" in format_table(scores)


# --- forms of the paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["OUT", "OUT/01_RES"])
@pytest.mark.parametrize("name", ["NAME", "NAME/01", "NAME/01_GT"])
def test_all_forms_of_one_group(tmp_path, out, name):
    truth(tmp_path, "01", 0, ONE, TWO)
    result(tmp_path, "01", 0, ONE)
    (tmp_path / "NAME/01").mkdir()
    scores = evaluate(tmp_path / out, tmp_path / name, progress=False)
    assert scores["groups"]["01"]["detection_f1"] == 2 / 3


def test_the_truth_of_one_group_picks_its_result(two_groups):
    out, name = two_groups
    assert list(evaluate(out, name / "02", progress=False)["groups"]) == ["02"]


def test_a_result_folder_without_a_group_name(tmp_path):
    truth(tmp_path, "01", 0, ONE)
    result(tmp_path, "01", 0, ONE).rename(tmp_path / "mine")
    assert list(evaluate(tmp_path / "mine", tmp_path / "NAME", progress=False)["groups"]) == ["01"]


def test_single_files(tmp_path):
    label_file = truth(tmp_path, "01", 3, ONE, TWO)
    truth(tmp_path, "01", 4, ONE, TWO)
    mask = result(tmp_path, "01", 3, ONE) / "mask003.tif"
    result(tmp_path, "01", 4, ONE, TWO)
    other = tmp_path / "cells.tif"
    write_tiff(other, paint(ONE), VOXEL_SIZE)
    for predicted, true in [
        (mask, label_file),
        (mask, tmp_path / "NAME/01"),
        (tmp_path / "OUT", label_file),
        (other, label_file),
        (mask, other),
    ]:
        scores = evaluate(predicted, true, progress=False)
        (row,) = scores["stacks"]
        assert row["detection_f1"] == (1.0 if true == other else 2 / 3)
        assert row["frame"] == 3
    assert evaluate(other, other, progress=False)["groups"]["cells"]["detection_f1"] == 1.0
    with pytest.raises(InputError, match="cannot tell which stack"):
        evaluate(other, tmp_path / "NAME/01", progress=False)


def test_images_predicted_by_name(tmp_path):
    """`weakseg predict RUN cells.tif` writes mask_cells.tif and boxes_cells.csv."""
    label_file = tmp_path / "labels.tif"
    write_tiff(label_file, paint(ONE, TWO), VOXEL_SIZE)
    write_tiff(tmp_path / "out/mask_cells.tif", paint(ONE), VOXEL_SIZE)
    write_boxes(tmp_path / "out/boxes_cells.csv", ONE, TWO)
    for predicted in ("out", "out/mask_cells.tif"):
        scores = evaluate(tmp_path / predicted, label_file, progress=False)
        assert scores["groups"]["labels"]["detection_f1"] == 1.0  # of the table
        assert scores["groups"]["labels"]["segmentation_f1"] == 2 / 3  # of the masks
    truth(tmp_path, "01", 0, ONE, TWO)
    truth(tmp_path, "01", 1, ONE, TWO)
    with pytest.raises(InputError, match=r"has no truth of 1 frames of group 01 \(cells\)"):
        evaluate(tmp_path / "out", tmp_path / "NAME", progress=False)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_masks_of_blocks_are_scored_like_a_tiff(tmp_path, version):
    """`weakseg predict --blocks` writes mask_NAME.ome.zarr."""
    pytest.importorskip("zarr")
    true = truth(tmp_path, "01", 0, ONE, TWO)
    write_boxes(tmp_path / "out/boxes_a.v2.csv", ONE)
    masks = tmp_path / "out/mask_a.v2.ome.zarr"
    create_ome_zarr(masks, SHAPE, SHAPE, np.uint32, VOXEL_SIZE, version)[:] = paint(ONE)
    label_zarr = tmp_path / "true.ome.zarr"
    create_ome_zarr(label_zarr, SHAPE, SHAPE, np.uint32, VOXEL_SIZE, version)[:] = paint(ONE, TWO)
    files = StackFiles(masks, tmp_path / "out/boxes_a.v2.csv")
    assert find_results(tmp_path / "out") == find_results(masks) == {None: {"a.v2": files}}
    for out, name in ((tmp_path / "out", true), (masks, true), (masks, label_zarr)):
        scores = evaluate(out, name, progress=False)["mean"]
        assert scores["detection_f1"] == scores["segmentation_f1"] == 2 / 3
    write_tiff(masks.with_name("mask_a.v2.tif"), paint(ONE), VOXEL_SIZE)
    with pytest.raises(
        InputError, match=r"mask_a.v2.tif: is there, and mask_a.v2.ome.zarr too; remove the one"
    ):
        find_results(tmp_path / "out")


def test_four_digit_frames(tmp_path):
    truth(tmp_path, "01", 1000, ONE)
    result(tmp_path, "01", 1000, ONE)
    assert evaluate(tmp_path / "OUT", tmp_path / "NAME", progress=False)["stacks"][0]["frame"] == 1000


# --- frames ------------------------------------------------------------------------------------------------


def test_a_missing_stack_is_an_error_and_can_be_chosen_away(two_groups):
    out, name = two_groups
    for file in (out / "01_RES").glob("*001.*"):
        file.unlink()
    with pytest.raises(
        InputError, match=r"OUT: has no prediction of 1 frames of group 01 \(001\); .*--frames"
    ):
        evaluate(out, name, progress=False)
    for frames in ("predicted", [0], "0", "01:0,02:0", {"01": [0], "02": [0]}):
        scores = evaluate(out, name, frames=frames, progress=False)
        assert [(row["group"], row["frame"]) for row in scores["stacks"]] == [("01", 0), ("02", 0)]
    assert list(evaluate(out, name, frames="02:0", progress=False)["groups"]) == ["02"]
    with pytest.raises(InputError, match="has no truth of 1 frames of group 02"):
        evaluate(out, name, frames="02:5", progress=False)
    with pytest.raises(InputError, match="there is no group 03"):
        evaluate(out, name, frames="03:5", progress=False)


def test_a_stack_without_truth_is_an_error(two_groups):
    out, name = two_groups
    (name / "01_GT/SEG/man_seg001.tif").unlink()
    with pytest.raises(InputError, match=r"NAME: has no truth of 1 frames of group 01 \(001\)"):
        evaluate(out, name, progress=False)


def test_groups_must_be_the_same(two_groups):
    out, name = two_groups
    with pytest.raises(InputError, match="has group 01, but the truth group 01, 02"):
        evaluate(out / "01_RES", name, progress=False)
    with pytest.raises(InputError, match="has group 01, but the truth group 02"):
        evaluate(out / "01_RES", name / "02", progress=False)


def test_frames_as_text():
    assert parse_frames("3,80-82") == [3, 80, 81, 82]
    assert parse_frames("01:0-1, 02:7,01:9") == {"01": [0, 1, 9], "02": [7]}
    for text in ("", "a", "1-", "01:2,3"):
        with pytest.raises(InputError, match="--frames"):
            parse_frames(text)


# --- mistakes ----------------------------------------------------------------------------------------------


def test_paths_that_hold_nothing(tmp_path):
    truth(tmp_path, "01", 0, ONE)
    folder = result(tmp_path, "01", 0, ONE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        evaluate(tmp_path / "nowhere", tmp_path / "NAME", progress=False)
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        evaluate(folder, tmp_path / "nowhere", progress=False)
    with pytest.raises(InputError, match="empty: holds no predictions"):
        evaluate(tmp_path / "empty", tmp_path / "NAME", progress=False)
    with pytest.raises(InputError, match="empty: holds no truth"):
        evaluate(folder, tmp_path / "empty", progress=False)


def test_masks_of_another_shape(tmp_path):
    truth(tmp_path, "01", 0, ONE)
    folder = result(tmp_path, "01", 0, ONE)
    write_tiff(folder / "mask000.tif", paint(ONE, shape=(4, 10, 9)), VOXEL_SIZE)
    with pytest.raises(InputError, match=r"mask000.tif: predicted masks have shape \(4, 10, 9\), the truth"):
        evaluate(folder, tmp_path / "NAME", progress=False)


def test_masks_of_some_frames_only(two_groups):
    out, name = two_groups
    (out / "01_RES/mask001.tif").unlink()
    with pytest.raises(InputError, match="has no mask TIFF of 1 frames of group 01"):
        evaluate(out, name, progress=False)


def test_masks_and_boxes_of_different_runs(tmp_path):
    truth(tmp_path, "01", 0, ONE, TWO)
    folder = result(tmp_path, "01", 0, ONE, TWO)
    write_boxes(folder / "boxes000.csv", ONE)
    with pytest.raises(InputError, match="boxes000.csv: has no box of id 2, which mask000.tif has"):
        evaluate(folder, tmp_path / "NAME", progress=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column id, z0"),
        ("id,z0,y0,x0,z1,y1\n", "no column x1"),
        (f"{RESULT_HEADER}\n1,0,0,0,2,4\n", "line 2 is not 7 numbers"),
        (f"{RESULT_HEADER}\n1,0,0,0,2,4,x,1,1\n", "line 2 is not 7 numbers"),
        (f"{RESULT_HEADER}\n1,0,0,0,2,4,4,1,1\n1,0,0,0,2,4,4,1,1\n", "line 3: id 1 is there twice"),
        (f"{RESULT_HEADER}\n0,0,0,0,2,4,4,1,1\n", "line 2: id 0 is below 1"),
        (f"{RESULT_HEADER}\n1,2,0,0,2,4,4,1,1\n", "line 2: box 1 has no volume"),
        (f"{RESULT_HEADER}\n1,nan,0,0,2,4,4,1,1\n", "line 2: box 1 has no volume"),
        (f"{RESULT_HEADER}\n1,0,0,0,2,4,inf,1,1\n", "line 2: box 1 has no volume"),
    ],
)
def test_bad_tables_of_boxes(tmp_path, text, problem):
    path = tmp_path / "boxes000.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"boxes000.csv: .*{problem}"):
        read_boxes(path)


def test_a_table_without_rows_is_a_stack_without_cells(tmp_path):
    write_boxes(tmp_path / "boxes000.csv")
    ids, boxes = read_boxes(tmp_path / "boxes000.csv")
    assert ids.shape == (0,) and boxes.shape == (0, 6)


# --- the table ---------------------------------------------------------------------------------------------


def test_the_table_fits_100_columns_and_has_every_number(two_groups):
    table = format_table(evaluate(*two_groups, progress=False))
    assert max(map(len, table.splitlines())) <= 100
    assert "Detection F1 (box IoU > 0.4)" in table and "0.8571" in table and "0.7619" in table
    assert "{" not in table


def test_a_table_of_many_groups_with_markers_fits_100_columns(tmp_path):
    for number in range(7):
        truth(tmp_path, f"{number:02d}", 0, ONE)
        truth(tmp_path, f"{number:02d}", 0, ONE, kind="TRA")
        result(tmp_path, f"{number:02d}", 0, ONE)
    scores = evaluate(tmp_path / "OUT", tmp_path / "NAME", progress=False)
    table = format_table(scores)
    assert max(map(len, table.splitlines())) <= 100
    assert all(f"{number:02d}" in table for number in range(7)) and "mean" in table
    assert set(scores["mean"]) == {measure.key for measure in MEASURES if not measure.is_count}


def test_a_single_stack_in_memory():
    """The two lines a notebook needs."""
    counts = evaluate_stack(Instances(paint(ONE)), Instances(paint(ONE, TWO)))
    assert read_measures(counts)["segmentation_f1"] == 2 / 3
