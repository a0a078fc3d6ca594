"""What is drawn in the annotator's page, and what becomes of it while Python answers late (annotator_hand.py)."""

import browser
import pytest
from annotator_hand import BOX, VOXEL

pytest.importorskip("anywidget")


def test_a_stroke_belongs_to_the_slice_the_box_and_the_brush_it_was_begun_with(hand):
    hand.open()
    hand.answer({1: BOX}, selected=1)
    hand.mouse("Moved", 20, 20), hand.drag((20, 20)), hand.key("p")
    for _ in range(2):
        hand.mouse("Pressed", 20, 20)
        hand.mouse("Wheel", 20, 20, deltaX=0, deltaY=100)
        hand.key("PageDown"), hand.key("]"), hand.key("."), hand.key("v"), hand.key("Delete")
        hand.mouse("Moved", 20, 24)
        # A box that was drawn earlier is made just now, and seen in another window.
        hand.answer({1: BOX, 2: (0, 0, 0, 20, 48, 48)}, selected=2, new_masks=True)
        hand.mouse("Released", 20, 26)
    first, second = hand.edits()
    assert {edit["do"] for edit in (first, second)} == {"paint"}
    about = {"id_": 1, "axis": 0, "index": 10, "radius": 3 * VOXEL[2], "erase": False}
    for edit in (first, second):
        points = edit["how"].pop("points")
        assert edit["how"] == about
        assert points[0] == pytest.approx([20, 20], abs=0.2) and points[-1] == pytest.approx(
            [20, 24], abs=0.2
        )
    hand.mouse("Wheel", 20, 20, deltaX=0, deltaY=100)
    hand.page.wait(
        "document.querySelector('canvas.xy').dataset.shown === '0/11'", 5, "the wheel turns no more"
    )


def test_a_box_belongs_to_the_slice_it_was_drawn_in(hand):
    hand.open()
    hand.mouse("Pressed", 10, 10), hand.mouse("Moved", 20, 20)
    hand.mouse("Wheel", 20, 20, deltaX=0, deltaY=100)
    hand.answer({1: BOX}, selected=1)
    hand.mouse("Moved", 30, 30), hand.mouse("Released", 30, 30)
    (edit,) = hand.edits()
    assert edit["do"] == "add_rectangle" and edit["how"]["index"] == 10
    assert edit["how"]["low"] + edit["how"]["high"] == pytest.approx([10, 10, 30, 30], abs=0.2)


def test_a_box_that_python_has_not_made_yet_can_be_painted_in(hand):
    hand.open()
    hand.answer({1: BOX}, selected=None)
    hand.drag((36, 36), (40, 40), (46, 46))
    hand.shows("facts", "new box: z 10–11, y 36–46, x 36–46")
    hand.key("ArrowRight", modifiers=1)
    hand.shows("notice", "has not made this box yet")
    hand.key("p"), hand.drag((40, 40), (40, 42))
    box, stroke = hand.edits()
    assert (box["do"], stroke["do"]) == ("add_rectangle", "paint")
    assert stroke["how"]["id_"] == -box["number"]
    hand.mouse("Pressed", 42, 40)
    made = {1: BOX, 2: (4, 36, 36, 16, 46, 46)}
    hand.answer_to(box, made, selected=2)
    hand.mouse("Released", 42, 42)
    hand.shows("facts", "box 2: z 4–16")
    hand.drag((44, 40))
    # The stroke under way when the answer came may call the box by either name: Python knows both.
    assert [edit["how"]["id_"] for edit in hand.edits()[2:]] in ([-box["number"], 2], [2, 2])
    hand.answer_to(hand.edits()[-1], made, new_masks=True)
    hand.page.wait("document.querySelector('.grid').dataset.pending === '0'", 5, "strokes are drawn twice")


def test_where_a_box_is_refused_the_one_before_is_selected_again(hand):
    hand.open()
    hand.answer({1: BOX}), hand.drag((20, 20))
    hand.shows("facts", "box 1")
    hand.drag((40, 36), (40, 40), (40, 46))
    hand.shows("facts", "new box")
    hand.answer_to(hand.edits()[0], {1: BOX}, problem="box: has no volume")
    hand.shows("facts", "box 1: z 4–16")
    hand.shows("notice", "no volume")


def test_a_stroke_that_the_system_interrupts_is_kept_and_a_box_is_not(hand):
    hand.open()
    hand.answer({1: BOX})
    hand.touch("Start", 36, 36), hand.touch("Move", 46, 46), hand.touch("Cancel")
    assert hand.edits() == []
    hand.key("p")
    hand.touch("Start", 20, 20), hand.touch("Move", 20, 26), hand.touch("Cancel")
    (edit,) = hand.edits()
    assert edit["do"] == "paint" and edit["how"]["points"][-1] == pytest.approx([20, 26], abs=0.3)


def test_escape_drops_the_stroke_and_leaves_the_box_selected(hand):
    hand.open()
    hand.answer({1: BOX}), hand.drag((20, 20)), hand.key("p")
    (
        hand.mouse("Pressed", 20, 20),
        hand.mouse("Moved", 20, 24),
        hand.key("Escape"),
        hand.mouse("Released", 20, 24),
    )
    hand.shows("facts", "box 1")
    assert hand.edits() == []


def test_a_box_may_vanish_while_it_is_moved(hand):
    hand.open()
    hand.answer({1: BOX}), hand.drag((20, 20)), hand.key("v")
    hand.mouse("Pressed", 20, 20), hand.mouse("Moved", 24, 24)
    hand.answer({})
    hand.mouse("Moved", 26, 26), hand.mouse("Released", 26, 26)
    (edit,) = hand.edits()
    assert (edit["do"], edit["how"]["id_"], edit["how"]["box"]) == ("set_box", 1, [4, 16, 16, 16, 36, 40])
    hand.answer_to(edit, {}, problem="instance 1: does not exist; choose another")
    assert "box" not in hand.text("facts")


def test_a_box_is_shown_where_it_was_moved_to_until_python_says_where_it_is(hand):
    hand.open()
    hand.answer({1: BOX}), hand.drag((20, 20))
    hand.key("ArrowRight", modifiers=1), hand.key("ArrowRight", modifiers=1)
    hand.shows("facts", "x 12–36")
    first, second = hand.edits()
    hand.answer_to(first, {1: (4, 10, 11, 16, 30, 35)})
    hand.shows("facts", "x 12–36")
    hand.answer_to(second, {1: (4, 10, 12, 16, 30, 40)})  # its mask reaches that far
    hand.shows("facts", "x 12–40")


def test_a_page_to_look_only_moves_no_box_and_says_why(hand):
    hand.open()
    hand.answer({1: BOX}), hand.drag((20, 20)), hand.key("p")
    hand.answer({1: BOX}, read_only="process 7 is annotating this")
    hand.key("ArrowRight", modifiers=1)
    hand.shows("notice", "process 7")
    hand.shows("facts", "x 10–34")
    assert hand.edits() == []
    hand.answer({1: BOX})  # it may be changed again, and the tool is the one that was chosen
    assert hand.page.run("document.querySelector('.weakseg .grid').dataset.tool") == "paint"


@pytest.mark.parametrize(
    "offset, step, text",
    [(0, 1, "grey value 7\n"), (-900, 1, "value -893\n"), (0.25, 1 / 65535, "value 0.25011\n")],
)
def test_the_grey_value_is_the_images(hand, offset, step, text):
    hand.open(grey={"offset": offset, "step": step})
    hand.shows("facts", text)


def test_only_the_slices_wanted_last_are_kept_and_a_lost_answer_is_asked_for_again(hand):
    hand.page.run("window.problems = []")
    source = (browser.ROOT / "weakseg_lib/annotator/slices.js").read_text("utf-8")
    hand.page.run(
        source + "; window.asked = []; window.kept = new Kept('slice', (one) => asked.push(one), 200); 1"
    )

    def kept():
        return hand.page.run("[...kept.all.keys()]")

    # Ten bytes a slice, room for twenty. The first three are looked at again just before there are too many.
    hand.page.run("for (let i = 0; i < 20; i++) kept.put(0, i, i, 10)")
    hand.page.run("kept.want(0, 1, 3); for (let i = 20; i < 25; i++) kept.put(0, i, i, 10)")
    assert kept() == [f"0/{i}" for i in [*range(8, 20), 1, 2, 0, *range(20, 25)]]
    assert hand.page.run("[kept.bytes, kept.get('0/24'), kept.get('0/5') === undefined]") == [200, 24, True]
    # However large they are, those on the screen and their neighbours stay, else they would be asked for without end.
    hand.page.run("for (let i = 30; i < 60; i++) kept.put(0, i, i, 1000)")
    assert kept() == [f"0/{i}" for i in range(45, 60)]
    hand.page.run("kept.clear(); 1")
    assert kept() == [] and hand.page.run("kept.bytes") == 0

    def asked():
        return hand.page.run("kept.want(0, 5, 99), kept.want(2, 5, 99), asked.splice(0)")

    assert asked() == [{"type": "slice", "axis": axis, "index": 5} for axis in (0, 2)]
    assert asked() == []
    hand.page.run("kept.put(2, 5, 0, 1)")
    assert asked() == [{"type": "slice", "axis": 2, "index": 6}]
    hand.page.run("((now) => Date.now = () => now() + 60000)(Date.now); 1")
    assert [one["index"] for one in asked()] == [5, 6]
