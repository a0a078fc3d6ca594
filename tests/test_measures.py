"""Measures against numbers worked out by hand, two other packages, and changes that must not matter."""

import numpy as np
import pytest

from weakseg_lib import measures
from weakseg_lib.counts import DetCounts, Matches, SegCounts, VoxelOverlap
from weakseg_lib.data.annotation import boxes_of_labels

# Both labels and boxes are given as {id: box}; painted in this order, later over earlier.
TRUE = {1: (0, 0, 0, 2, 4, 4), 2: (2, 5, 5, 4, 9, 9)}
PREDICTED = {7: (0, 0, 1, 2, 4, 5), 3: (2, 5, 5, 4, 9, 7), 9: (0, 6, 0, 2, 8, 2)}
EMPTY = {}


def paint(boxes, shape=(4, 10, 10)):
    labels = np.zeros(shape, np.int32)
    for number, (z0, y0, x0, z1, y1, x1) in boxes.items():
        labels[z0:z1, y0:y1, x0:x1] = number
    return labels


def boxes(instances):
    return np.array(list(instances.values()), float).reshape(-1, 6)


def overlaps(predicted, true, shape=(4, 10, 10)):
    return measures.count_overlaps(paint(predicted, shape), paint(true, shape))


def union(predicted, true):
    return measures.segmentation_union(paint(predicted), paint(true), boxes(predicted), boxes(true))


# --- by hand -----------------------------------------------------------------------------------------------


def test_overlaps_by_hand():
    table = overlaps(PREDICTED, TRUE)
    assert table.predicted_ids.tolist() == [3, 7, 9] and table.true_ids.tolist() == [1, 2]
    assert table.predicted_sizes.tolist() == [16, 32, 8] and table.true_sizes.tolist() == [32, 32]
    assert table.shared.tolist() == [
        [0, 16],
        [24, 0],
        [0, 0],
    ]  # 7 and 1 share 2 x 4 x 3, 3 and 2 share 2 x 4 x 2
    assert table.iou.tolist() == [[0, 16 / 32], [24 / 40, 0], [0, 0]]


def test_detection_by_hand():
    # 7 and 1: IoU 24 / 40; 3 and 2: 16 / 32; 9 is alone. Two pairs of 3 predicted and 2 true.
    found = measures.detection(boxes(PREDICTED), boxes(TRUE))
    assert found == Matches(pairs=2, predicted=3, true=2, total=pytest.approx(0.6 + 0.5))
    assert (found.precision, found.recall, found.f1) == (2 / 3, 1.0, 4 / 5)
    assert found.accuracy == 2 / 3  # 2 / (2 + 1 + 0)
    assert found.mean == pytest.approx(0.55)
    assert (found.misses, found.false_alarms) == (0, 1)


def test_a_box_iou_of_exactly_the_threshold_is_not_enough():
    # Seven long each, four in common: 4 / 10. The paper asks for IoU "larger than 0.4".
    first, second = [[0, 0, 0, 1, 1, 7]], [[0, 0, 3, 1, 1, 10]]
    assert measures.box_iou(first, second)[0, 0] == 0.4
    assert measures.detection(first, second, iou=0.4).pairs == 0
    assert measures.detection(first, second, iou=0.399).pairs == 1


def test_box_iou_of_fractional_apart_touching_and_flat_boxes():
    box = [[0, 0, 0, 2, 2, 2]]
    others = [[0.5, 0, 0, 2.5, 2, 2], [5, 5, 5, 6, 6, 6], [2, 0, 0, 4, 2, 2], [1, 1, 1, 1, 2, 2]]
    # First: 1.5 of 2 thick in common, 6 / (8 + 8 - 6).
    assert measures.box_iou(box, others).tolist() == [[0.6, 0, 0, 0]]
    assert measures.box_iou([], box).shape == (0, 1)


def test_every_true_box_is_used_once():
    box = (0, 0, 0, 2, 4, 4)
    twice = measures.detection([box, box], [box])
    assert (twice.pairs, twice.false_alarms, twice.misses) == (1, 1, 0)


def test_matching_finds_the_most_pairs_before_the_best_ones():
    # Taking the best pair first (0, 0) would leave row 1 without a partner.
    score = np.array([[0.9, 0.8], [0.7, 0.0]])
    rows, columns = measures.match_one_to_one(score, score > 0.4)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]
    # Where both ways give two pairs, 0.9 + 0.5 beats 0.6 + 0.7.
    score = np.array([[0.9, 0.6], [0.7, 0.5]])
    rows, columns = measures.match_one_to_one(score, score > 0.4)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 1)]


def test_segmentation_by_hand():
    # 24 + 16 voxels have the right identity, of 56 predicted and 64 true.
    right = measures.segmentation(overlaps(PREDICTED, TRUE))
    assert right == VoxelOverlap(overlap=40, predicted=56, true=64)
    assert right.f1 == 2 * 40 / (56 + 64)
    assert (right.precision, right.recall) == (40 / 56, 40 / 64)
    assert union(PREDICTED, TRUE) == right  # no cell overlaps another one's box here


def test_segmentation_pairs_for_the_most_common_voxels():
    # A row of voxels. 1 with 1 shares x 14-19, six voxels, and leaves 2 and 2 nothing; 1 with 2 and 2 with 1 share
    # 2 + 3, though the sum of their IoUs is larger: 2/10 + 3/20 against 6/22.
    true = {1: (0, 0, 0, 1, 1, 20), 2: (0, 0, 20, 1, 1, 24)}
    predicted = {1: (0, 0, 14, 1, 1, 22), 2: (0, 0, 0, 1, 1, 3)}
    assert measures.segmentation(overlaps(predicted, true, (1, 1, 24))) == VoxelOverlap(6, 11, 24)
    # Here the best pair first, 1 with 1 at five voxels, would leave 2 nothing: 4 + 3 are more.
    true = {1: (0, 0, 0, 1, 1, 8), 2: (0, 0, 8, 1, 1, 12)}
    predicted = {1: (0, 0, 3, 1, 1, 12), 2: (0, 0, 0, 1, 1, 3)}
    assert measures.segmentation(overlaps(predicted, true, (1, 1, 12))) == VoxelOverlap(7, 12, 12)


def test_two_cells_under_one_prediction():
    """A merge: the voxels are all right, the instances are not."""
    true = {1: (0, 0, 0, 2, 4, 4), 2: (0, 0, 4, 2, 4, 8)}
    merged = {5: (0, 0, 0, 2, 4, 8)}
    table = overlaps(merged, true)
    assert union(merged, true).f1 == 1.0  # the box matches one of them at 0.5, identity does not count
    assert measures.segmentation(table).f1 == 2 * 32 / (64 + 64)
    assert measures.detection(boxes(merged), boxes(true)).f1 == 2 / 3
    assert measures.objects(table).f1 == 2 / 3  # IoU is exactly 0.5, and at least 0.5 is asked for
    assert measures.objects(table, 0.501).f1 == 0
    assert measures.ctc_seg(table).score == 0.5  # both are covered by more than half, Jaccard 0.5 each
    assert measures.ctc_det(table) == DetCounts(misses=0, false_alarms=0, splits=1, true=2)
    assert measures.ctc_det(table).score == 1 - 5 / 20


def test_a_cell_cut_in_two():
    """A split: the larger part stands for the cell, the smaller one is a false alarm."""
    true, cut = {1: (0, 0, 0, 2, 4, 8)}, {1: (0, 0, 0, 2, 4, 5), 2: (0, 0, 5, 2, 4, 8)}
    table = overlaps(cut, true)
    assert measures.segmentation(table).f1 == 2 * 40 / (64 + 64)
    assert union(cut, true).f1 == 2 * 40 / (64 + 64)  # only the box with IoU 5/8 counts, not the one with 3/8
    assert measures.ctc_seg(table).score == 5 / 8
    assert measures.ctc_det(table).score == 1 - 1 / 10


def test_objects_and_ctc_by_hand():
    table = overlaps(PREDICTED, TRUE)
    assert measures.objects(table) == Matches(2, 3, 2, pytest.approx(1.1))
    # 7 covers 24 > 16 voxels of 1. 3 covers 16 of 2, not more than half: no match. 3 and 9 are false alarms.
    assert measures.ctc_seg(table).score == pytest.approx((0.6 + 0) / 2)
    assert measures.ctc_det(table) == DetCounts(misses=1, false_alarms=2, splits=0, true=2)
    assert measures.ctc_det(table).score == pytest.approx(1 - (10 + 2) / 20)


def test_ctc_det_does_not_fall_below_zero():
    many = {n: (0, n, 0, 1, n + 1, 1) for n in range(1, 10)}
    one = {1: (3, 0, 0, 4, 1, 1)}
    assert measures.ctc_det(overlaps(many, one)).score == 0.0  # 10 + 9 against 10


def test_voxels_outside_matched_boxes_do_not_count_in_the_union_reading():
    # The first predicted box has IoU 2 / 8 with its truth: its 8 right voxels are lost, both sums stay whole.
    true = {1: (0, 0, 0, 2, 4, 4), 2: (2, 5, 0, 4, 7, 8)}
    predicted = {1: (2, 5, 0, 4, 7, 2), 2: (0, 0, 0, 2, 4, 4)}
    assert union(predicted, true) == VoxelOverlap(overlap=32, predicted=40, true=64)
    assert measures.segmentation(overlaps(predicted, true)).overlap == 40


def test_voxels_of_a_fractional_box_are_those_with_their_centre_inside():
    # Centres are at 0.5, 1.5, ...: from 0.4 on the first is inside, up to 2.5 the third is not.
    assert measures.voxels_of_box((0.4, 0.6, -3, 2.5, 2.6, 1.2)) == (slice(0, 2), slice(1, 3), slice(0, 1))
    assert measures.voxels_of_box((1, 2, 3, 4, 5, 6)) == (slice(1, 4), slice(2, 5), slice(3, 6))


def test_markers_in_voxels_and_micrometres():
    box = [(0, 0, 0, 3, 3, 3)]  # its centre is the centre of voxel 1, 1, 1
    assert measures.markers(box, [(1, 1, 6)]) == Matches(1, 1, 1, 5.0)
    assert measures.markers(box, [(1, 1, 6.01)]).pairs == 0
    # Two slices of 2 um are 4 um, though only 2 voxels.
    assert measures.markers(box, [(3, 1, 1)], 3.9, (2, 1, 1)).pairs == 0
    assert measures.markers(box, [(3, 1, 1)], 4.0, (2, 1, 1)) == Matches(1, 1, 1, 4.0)


def test_markers_are_matched_one_to_one_and_as_many_as_possible():
    def box(x):
        return 0, 0, x - 0.5, 1, 1, x + 1.5

    same = measures.markers([box(4), box(4)], [(0, 0, 4)])
    assert (same.pairs, same.false_alarms) == (1, 1)
    # The nearest pair (4, 4) first would leave the box at 0 and the marker at 8 too far from each other.
    assert measures.markers([box(0), box(4)], [(0, 0, 4), (0, 0, 8)]) == Matches(2, 2, 2, 8.0)


def test_centres_of_labels():
    labels = paint({5: (0, 0, 0, 2, 4, 4), 900: (2, 5, 5, 3, 6, 6)})
    assert measures.centres_of_labels(labels).tolist() == [[0.5, 1.5, 1.5], [2, 5, 5]]
    assert measures.centres_of_labels(paint({})).shape == (0, 3)


def test_compare_instances_names_hits_misses_and_false_alarms():
    true = TRUE | {4: (0, 8, 8, 1, 10, 10)}
    expected = ([(3, 2, 0.5), (7, 1, 0.6)], [4], [9])
    compared = measures.compare_instances(paint(PREDICTED), paint(true))
    assert (compared.hits, compared.misses, compared.false_alarms) == expected
    ids = {"predicted_ids": list(PREDICTED), "true_ids": list(true)}
    compared = measures.compare_instances(boxes(PREDICTED), boxes(true), **ids)
    assert (sorted(compared.hits), compared.misses, compared.false_alarms) == expected
    compared = measures.compare_instances(boxes(PREDICTED), boxes(true))  # ids are the rows' numbers
    assert (compared.hits, compared.misses, compared.false_alarms) == ([(1, 1, 0.6), (2, 2, 0.5)], [3], [3])


# --- nothing there -----------------------------------------------------------------------------------------


def test_nothing_predicted():
    table = overlaps(EMPTY, TRUE)
    found = measures.detection([], boxes(TRUE))
    assert (found.f1, found.recall, found.precision, found.mean) == (0.0, 0.0, None, None)
    assert measures.segmentation(table).f1 == union(EMPTY, TRUE).f1 == measures.objects(table).f1 == 0
    assert measures.ctc_seg(table).score == measures.ctc_det(table).score == 0
    assert measures.markers([], [(1, 1, 1)]).f1 == 0
    compared = measures.compare_instances(paint(EMPTY), paint(TRUE))
    assert (compared.hits, compared.misses, compared.false_alarms) == ([], [1, 2], [])


def test_nothing_true():
    table = overlaps(PREDICTED, EMPTY)
    found = measures.detection(boxes(PREDICTED), [])
    assert (found.f1, found.precision, found.recall) == (0.0, 0.0, None)
    assert measures.segmentation(table).f1 == union(PREDICTED, EMPTY).f1 == measures.objects(table).f1 == 0
    assert measures.ctc_seg(table).score is None and measures.ctc_det(table).score is None
    assert measures.ctc_det(table).false_alarms == 3


def test_nothing_predicted_and_nothing_true_is_no_mistake():
    table = overlaps(EMPTY, EMPTY)
    assert measures.detection([], []).f1 == measures.detection([], []).accuracy == 1.0
    assert measures.segmentation(table).f1 == union(EMPTY, EMPTY).f1 == measures.objects(table).f1 == 1.0
    assert measures.markers([], []).f1 == 1.0
    assert measures.ctc_seg(table).score is None and measures.ctc_det(table).score is None
    assert (Matches().precision, Matches().recall, VoxelOverlap().recall) == (None, None, None)


def test_volumes_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        measures.count_overlaps(np.zeros((2, 3, 4), int), np.zeros((2, 3, 5), int))


def test_counts_of_stacks_add_up():
    assert Matches(1, 2, 3, 0.5) + Matches(1, 1, 1, 0.9) == Matches(2, 3, 4, 1.4)
    pooled = sum([SegCounts(0.8, 1), SegCounts(0.0, 3)], start=SegCounts())
    assert pooled.score == 0.2  # by object, not by stack: (0.8 + 0 + 0 + 0) / 4
    with pytest.raises(ValueError):
        Matches() + SegCounts()


# --- other packages ----------------------------------------------------------------------------------------

OTHERS_SHAPE = (8, 40, 40)
OTHERS_TRUE = {
    1: (0, 0, 0, 4, 8, 8),
    2: (0, 0, 9, 4, 8, 17),
    3: (0, 0, 17, 4, 8, 25),
    5: (1, 10, 0, 6, 20, 10),
    8: (2, 10, 12, 7, 20, 22),
    9: (0, 22, 0, 8, 30, 8),
    11: (0, 22, 10, 8, 30, 18),
    12: (3, 30, 30, 6, 36, 36),
    20: (0, 10, 30, 4, 18, 38),
}
OTHERS_PREDICTED = {  # shifted, merged (2, 30), cut in two (7, 6), shrunk, alone (17, 25), half a cell (19)
    4: (0, 0, 1, 4, 8, 9),
    2: (0, 0, 9, 4, 8, 25),
    7: (1, 10, 0, 6, 15, 10),
    6: (1, 15, 0, 6, 20, 10),
    13: (2, 11, 12, 7, 21, 22),
    30: (0, 22, 0, 8, 30, 17),
    15: (3, 31, 31, 6, 36, 36),
    17: (0, 32, 0, 3, 38, 6),
    19: (0, 10, 30, 2, 18, 38),
    25: (6, 0, 36, 8, 4, 40),
}
# stardist 0.9.2, matching(true, predicted, thresh): tp, fp, fn, f1, accuracy, mean_matched_score.
STARDIST = {
    0.3: (7, 3, 2, 0.7368421052631579, 0.5833333333333334, 0.6087131500244141),
    0.5: (6, 4, 3, 0.631578947368421, 0.46153846153846156, 0.6317340135574341),
    0.7: (2, 8, 7, 0.21052631578947367, 0.11764705882352941, 0.7979798316955566),
}


@pytest.mark.parametrize("iou", STARDIST)
def test_objects_as_stardist_counts_them(iou):
    found = measures.objects(overlaps(OTHERS_PREDICTED, OTHERS_TRUE, OTHERS_SHAPE), iou)
    pairs, false_alarms, misses, f1, accuracy, mean = STARDIST[iou]
    assert (found.pairs, found.false_alarms, found.misses) == (pairs, false_alarms, misses)
    assert (found.f1, found.accuracy) == pytest.approx((f1, accuracy))
    assert found.mean == pytest.approx(mean, rel=1e-6)  # StarDist's IoUs are float32


def test_ctc_scores_as_py_ctcmetrics_computes_them():
    """py-ctcmetrics 1.3.3, evaluate_sequence on two frames: the case, and the case with roles exchanged."""
    there = overlaps(OTHERS_PREDICTED, OTHERS_TRUE, OTHERS_SHAPE)
    back = overlaps(OTHERS_TRUE, OTHERS_PREDICTED, OTHERS_SHAPE)
    # SEG of each frame alone, from ctc_metrics.utils.representations.match.
    assert measures.ctc_seg(there).score == pytest.approx(0.46109790717633853)
    assert measures.ctc_seg(back).score == pytest.approx(0.37904040404040407)
    assert (measures.ctc_seg(there) + measures.ctc_seg(back)).score == pytest.approx(0.41790974763110994)
    assert (measures.ctc_det(there) + measures.ctc_det(back)).score == pytest.approx(0.5578947368421052)


# --- what must not matter ----------------------------------------------------------------------------------


def random_labels(seed, count=12, shape=(8, 30, 30)):
    """Touching and overlapping boxes with gaps in the ids."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for number in rng.choice(np.arange(1, 1000), count, replace=False):
        corner = rng.integers(0, np.array(shape) - 2)
        side = rng.integers(2, (5, 10, 10))
        labels[tuple(slice(a, a + b) for a, b in zip(corner, side, strict=True))] = number
    return labels


def all_counts(predicted, true):
    table = measures.count_overlaps(predicted, true)
    box, true_box = boxes_of_labels(predicted)[1], boxes_of_labels(true)[1]
    return {
        "detection": measures.detection(box, true_box),
        "segmentation_union": measures.segmentation_union(predicted, true, box, true_box),
        "markers": measures.markers(box, measures.centres_of_labels(true)),
        "segmentation": measures.segmentation(table),
        "objects": measures.objects(table),
        "ctc_seg": measures.ctc_seg(table),
        "ctc_det": measures.ctc_det(table),
    }


@pytest.mark.parametrize("seed", range(5))
def test_renaming_instances_changes_nothing(seed):
    predicted, true = random_labels(seed), random_labels(seed + 100)
    rng = np.random.default_rng(seed)
    names, other_names = (np.append(0, rng.permutation(np.arange(1, 1000)) * 2_000_000) for _ in range(2))
    before, after = all_counts(predicted, true), all_counts(names[predicted], other_names[true])
    for name, counts in before.items():
        # Counts are the same integers; sums of IoUs are added in another order.
        assert vars(counts) == pytest.approx(vars(after[name]), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_itself_is_perfect(seed):
    true = random_labels(seed)
    counts = all_counts(true, true)
    for name in ("detection", "segmentation_union", "segmentation", "objects"):
        assert counts[name].f1 == counts[name].precision == counts[name].recall == 1.0
    for name in ("detection", "objects"):
        assert counts[name].accuracy == counts[name].mean == 1.0
    assert counts["ctc_seg"].score == counts["ctc_det"].score == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_exchanging_prediction_and_truth_exchanges_precision_and_recall(seed):
    predicted, true = random_labels(seed), random_labels(seed + 100, count=7)
    there, back = all_counts(predicted, true), all_counts(true, predicted)
    for name in ("detection", "segmentation_union", "segmentation", "objects"):
        one, other = there[name], back[name]
        assert (one.precision, one.recall, one.f1) == (other.recall, other.precision, other.f1)
