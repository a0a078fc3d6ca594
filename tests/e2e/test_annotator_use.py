"""What the annotator's page does for the hand that draws: selects, moves, zooms, listens, says (annotator_hand.py)."""

import pytest
from annotator_hand import BOX, VOXEL

pytest.importorskip("anywidget")
NEXT = (4, 10, 32, 16, 30, 46)  # beside BOX, two voxels over it


@pytest.mark.parametrize("tool", ["p", "e"])
def test_a_stroke_that_begins_next_door_is_the_selected_boxs(hand, tool):
    hand.open()
    hand.answer({1: BOX, 2: NEXT}), hand.drag((20, 14)), hand.key(tool)
    hand.drag((20, 38), (20, 30))
    hand.drag((20, 33))  # where they touch, a dot is the selected one's
    assert [edit["how"]["id_"] for edit in hand.edits()] == [1, 1]
    hand.drag((20, 42))
    hand.shows("facts", "box 2")
    hand.shows("notice", "Box 2 is selected now, nothing was painted")
    assert len(hand.edits()) == 2
    hand.drag((20, 42)), hand.drag((40, 5))
    assert [edit["how"]["id_"] for edit in hand.edits()[2:]] == [2, 2]


def test_a_box_moved_to_the_end_of_the_stack_stays_whole(hand):
    hand.open()
    hand.answer({1: (4, 10, 0, 16, 30, 24)}), hand.drag((20, 14))
    hand.key("ArrowLeft", modifiers=1), hand.key("ArrowDown", modifiers=1)
    assert [edit["how"]["box"] for edit in hand.edits()] == [[4, 10, 0, 16, 30, 24], [4, 11, 0, 16, 31, 24]]


def view(hand):
    """Scale, px a um, and what is in the middle of the planes, um."""
    scale, centre = hand.page.run(
        "(({scale, centre}) => [scale, centre])(document.querySelector('.grid').dataset)"
    )
    return float(scale), [float(c) for c in centre.split()]


def test_keys_zoom_about_the_cross(hand):
    hand.open()
    hand.drag((12, 36)), hand.key("v")
    (before, middle), cross = view(hand), [10.5 * VOXEL[0], 12.5 * VOXEL[1], 36.5 * VOXEL[2]]
    for key in "++-+":
        hand.key(key)
    hand.page.wait(f"document.querySelector('.grid').dataset.scale > {1.5 * before}", 5, "no zoom")
    after, moved = view(hand)
    for at, was, now in zip(cross, middle, moved, strict=True):
        assert (at - now) * after == pytest.approx(
            (at - was) * before, abs=0.3 * after
        )  # px, the cross is a voxel


def test_the_wheel_zooms_about_the_pointer(hand):
    hand.open()
    before, middle = view(hand)
    hand.mouse("Wheel", 10, 40, deltaX=0, deltaY=-100, modifiers=2)
    hand.page.wait(f"document.querySelector('.grid').dataset.scale > {1.1 * before}", 5, "no zoom")
    after, moved = view(hand)
    assert moved[0] == middle[0]
    for axis, voxels in ((1, 10), (2, 40)):
        at = voxels * VOXEL[axis]
        assert (at - moved[axis]) * after == pytest.approx((at - middle[axis]) * before, abs=1)
