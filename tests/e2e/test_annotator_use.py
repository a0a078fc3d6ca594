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


def focused(hand):
    return hand.page.run("document.activeElement.className")


def test_keys_are_for_the_plane_under_the_pointer_unless_one_types_elsewhere(hand):
    hand.open()
    hand.answer({})
    editor = "Object.assign(document.createElement('div'), { className: 'cm-editor', tabIndex: 0 })"
    hand.page.run(f"document.body.append({editor}); document.querySelector('.cm-editor').focus()")
    frame = "getComputedStyle(document.querySelector('canvas.xy')).boxShadow"
    hand.mouse("Moved", 20, 20)
    hand.key("p")
    assert focused(hand) == "cm-editor" and hand.page.run(frame) == "none"
    assert hand.page.run("document.querySelector('.weakseg .grid').dataset.tool") == "box"
    hand.page.run("document.activeElement.blur()")
    hand.mouse("Moved", 20, 22)
    hand.key("p")
    assert hand.page.run("document.querySelector('.weakseg .grid').dataset.tool") == "paint"
    assert focused(hand).split()[0] == "xy" and hand.page.run(frame) != "none"


def test_in_a_window_of_another_size_the_same_is_in_sight(hand):
    hand.open()
    hand.mouse("Moved", 20, 20), hand.key("+")
    side = "document.querySelector('canvas.xy').clientWidth"
    first, was = view(hand), hand.page.run(side)
    for width in (500, 620):  # narrower, wider
        before = hand.page.run(side)
        hand.page.run(f"document.body.style.width = '{width}px'")
        hand.page.wait(f"{side} !== {before}", 5, "the planes keep their size")
        scale = first[0] * hand.page.run(side) / was
        same = f"Math.abs(document.querySelector('.grid').dataset.scale / {scale} - 1) < 1e-6"
        hand.page.wait(same, 5, "the planes show more or less than before")
        assert view(hand)[1] == first[1]


def test_what_concerns_all_that_is_drawn_is_said_above_the_planes(hand):
    hand.open(predicted_masks=19)
    hand.answer({}, state="not saved", why="the folder cannot be written")
    hand.shows("banner", "cannot be saved yet: the folder cannot be written")
    hand.answer({1: BOX}, state="saved")
    hand.shows("banner", "Masks from a prediction: 19.")
    hand.answer(
        {1: BOX}, state="not saved", why="no space left"
    )  # later it is said below: the planes stay in place
    hand.shows("saved", "no space left")
    hand.shows("banner", "Masks from a prediction: 19.")
    hand.answer({1: BOX}, editor="another")
    hand.shows("banner", "Another browser or window is annotating this. edit here")
    hand.answer({1: BOX})
    hand.shows("banner", "Masks from a prediction: 19.")
    assert "edit here" not in hand.text("banner")


def test_a_page_without_a_kernel_says_what_to_do_and_what_is_lost(hand):
    hand.page.run(
        "((later) => window.setTimeout = (do_, ms) => later(do_, ms === 5000 ? 0 : ms))(setTimeout); 1"
    )
    hand.open()
    hand.answer({}), hand.drag((10, 10), (14, 14), (20, 20))
    hand.shows("saved", "run this cell again: what is drawn white is not kept")
    hand.answer_to(hand.edits()[0], {1: BOX}, selected=1)
    assert hand.text("saved") == "saved"


def test_a_narrow_plane_has_its_whole_title(hand):
    hand.page.run("document.body.style.width = '420px'; window.texts = []; 1")
    hand.page.run(
        "((fill) => CanvasRenderingContext2D.prototype.fillText = function (text, x, y, most) {"
        " texts.push([text, Math.min(this.measureText(text).width, most ?? 1e9) + x - this.canvas.clientWidth]);"
        " fill.call(this, text, x, y, most); })(CanvasRenderingContext2D.prototype.fillText); 1"
    )
    hand.open()
    titles = dict(hand.page.run("texts.filter(([text]) => text.includes('/'))"))
    assert set(titles) == {"xy   z 10/19", "zy   x 24/47", "zx   y 24/47"} and max(titles.values()) <= 0
