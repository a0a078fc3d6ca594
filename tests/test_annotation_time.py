"""Hours of annotation: the rule, and the paper's printed numbers against it."""

import pytest

from weakseg_lib.annotation_time import AnnotationTime, printed_hours


def test_boxes_and_masks_add_up():
    time = AnnotationTime(box_seconds=10, ratio=30, stack_seconds=60)
    # 15 boxes of 10 s, ceil(0.2 * 10) + ceil(0.2 * 5) = 3 masks of 300 s, 2 stacks of 60 s.
    assert time.weak_hours([10, 5], 0.2) == pytest.approx((150 + 900 + 120) / 3600)
    assert time.full_hours([10, 5]) == pytest.approx((15 * 300 + 120) / 3600)
    assert AnnotationTime(10, 30).weak_hours([], 0.2) == 0


def test_the_masks_of_a_stack_are_rounded_up_unless_told():
    time = AnnotationTime(box_seconds=10, ratio=30)
    assert time.weak_hours([7], 0.2) > time.weak_hours([7], 0.2, rounding=False)
    assert time.weak_hours([7], 0.2, rounding=False) == pytest.approx((70 + 0.2 * 7 * 300) / 3600)
    assert time.weak_hours([100], 0.07) == pytest.approx((1000 + 7 * 300) / 3600)  # not 8: 0.07 * 100 is 7


def test_the_papers_full_annotation_is_about_260_cells():
    assert AnnotationTime().full_hours([20] * 13) == pytest.approx(22.5, abs=0.1)


def test_what_the_paper_printed_is_shown_with_its_residual():
    """design.md 8: 5.25 h, 6.9 h and 57.6 h computed."""
    computed = [round(p.computed, 2) for p in printed_hours()]
    assert computed == [5.25, 6.92, 57.63, 69.16]
    assert [round(p.residual, 1) for p in printed_hours()] == [0.2, 1.4, -2.9, -1.7]
