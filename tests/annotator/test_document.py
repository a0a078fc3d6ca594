"""Boxes and masks as they are drawn: what holds after every edit, and that every edit can be taken back."""

import numpy as np
import pytest

from weakseg_lib.annotator import document as document_module
from weakseg_lib.annotator.brush import stroke
from weakseg_lib.annotator.document import Document
from weakseg_lib.data.annotation import WeakAnnotation, annotate

SHAPE, VOXEL = (20, 48, 48), (0.5, 0.25, 0.25)
BOX = (4, 10, 10, 12, 30, 34)


@pytest.fixture
def document():
    return Document(SHAPE, VOXEL)


def state(document):
    return dict(document.instances), document.masks.copy()


def same(a, b):
    return a[0] == b[0] and np.array_equal(a[1], b[1])


def test_a_box_is_clipped_to_the_stack_and_rounded(document):
    id_ = document.add_box((-3, 5.4, 10.5, 7, 99, 20))
    assert document.instances[id_].box == (0, 5, 11, 7, 48, 20)


@pytest.mark.parametrize(
    "box, words",
    [
        ((0, 48, 0, 5, 60, 5), "outside the stack"),
        ((-9, 0, 0, 0, 5, 5), "outside the stack"),
        ((3, 5, 5, 3, 9, 9), "no volume"),
        ((3, 5, 5, np.nan, 9, 9), "no numbers"),
    ],
)
def test_a_box_outside_or_without_volume_is_refused(document, refused, box, words):
    document.add_box(BOX)
    before = state(document)
    with refused("box", words):
        document.add_box(box)
    with refused("box", words):
        document.set_box(1, box)
    assert same(state(document), before) and document.version == 1


def test_the_first_drawn_box_is_as_deep_as_wide_and_the_next_as_the_others(document):
    first = document.instances[document.add_rectangle(0, 10, (10, 10), (18, 18))].box
    assert first == (9, 10, 10, 13, 18, 18)  # 8 voxels of 0.25 um are 4 of 0.5 um
    document.add_box((0, 0, 0, 8, 9, 9)), document.add_box((0, 0, 0, 8, 9, 9))
    deep = document.instances[document.add_rectangle(0, 19, (30, 20), (20, 30))].box
    assert deep == (12, 20, 20, 20, 30, 30)  # whole, though drawn at the last slice, and from any corner
    wide = document.instances[document.add_rectangle(2, 24, (5, 20), (9, 30))].box
    assert wide[:2] + wide[3:5] == (5, 20, 9, 30) and wide[5] - wide[2] == 9


@pytest.mark.parametrize("axis, index", [(0, 6), (1, 20), (2, 20)])
def test_a_mask_is_painted_round_and_inside_its_box_alone(document, axis, index):
    id_ = document.add_box(BOX)
    others = [a for a in range(3) if a != axis]
    middle = [(BOX[a] + BOX[a + 3]) / 2 for a in others]
    document.paint(id_, axis, index, [middle], 1.0)
    # Round in micrometres: twice as many voxels of 0.25 um as of 0.5 um.
    extent = [np.ptp(n) + 1 for n in np.nonzero(document.masks.take(index, axis))]
    assert extent == [2 * 1.0 / VOXEL[a] + 1 for a in others]
    assert document.instances[id_].voxels == (document.masks == id_).sum()
    document.paint(id_, axis, index, [[0, 0], [48, 48]], 50.0)
    inside = np.zeros(SHAPE, bool)
    inside[4:12, 10:30, 10:34] = True
    inside &= np.arange(SHAPE[axis]).reshape([-1 if a == axis else 1 for a in range(3)]) == index
    assert np.array_equal(document.masks == id_, inside)


def test_a_dot_of_no_size_paints_the_voxel_that_is_clicked(document):
    document.paint(document.add_box(BOX), 0, 5, [[15.9, 20.1]], 0.01)
    assert np.argwhere(document.masks).tolist() == [[5, 15, 20]]


def test_a_line_has_no_gaps():
    line, ends = np.array([[0.5, 0.5], [30.5, 11.5]]), np.array([[0, 0], [99, 99]])
    near, corner = stroke(line, 0.0, np.ones(2), *ends)
    rows, columns = np.nonzero(near)
    assert corner == [0, 0] and set(rows) == set(range(31)) and set(columns) == set(range(12))


@pytest.mark.parametrize("end", [(90.5, 300.5), (400.5, 20.5), (-1e5, 31.5), (22, 1e15)])
def test_a_stroke_that_leaves_the_box_paints_what_was_drawn_alone(document, end):
    id_ = document.add_box(BOX)
    begin, end = np.array([20.5, 22.5]), np.array(end)
    document.paint(id_, 0, 6, [begin, end], 1.0)
    way = (end - begin) / np.hypot(*end - begin)
    pixels = np.stack(np.mgrid[:48, :48], -1) + 0.5 - begin
    along, away = pixels @ way, np.abs(pixels @ [-way[1], way[0]])
    inside = np.zeros((48, 48), bool)
    inside[10:30, 10:34] = True
    painted = document.masks[6] == id_
    near = inside & (along > -4) & (away < 3)  # a pixel less than 1 um away at least, a pixel more at most
    assert painted[near & (along > 0)].all() and not painted[~(inside & (along > -5.5) & (away < 5))].any()


def test_a_stroke_that_passes_beside_the_box_is_refused(document, refused):
    id_ = document.add_box(BOX)
    with refused(f"box {id_}", "outside"):
        document.paint(id_, 0, 6, [[0, -200], [0, 200]], 1.0)
    with refused(f"box {id_}", "outside"):  # round its corner
        document.paint(id_, 0, 6, [[0, 18], [18, 0]], 0.25)


def test_painting_outside_the_box_is_refused(document, refused):
    id_ = document.add_box(BOX)
    with refused(f"box {id_}", "slices 4 to 11 of z"):
        document.paint(id_, 0, 12, [[20, 20]], 1.0)
    with refused(f"box {id_}", "outside"):
        document.paint(id_, 0, 6, [[1, 1]], 1.0)
    assert not document.masks.any()


def test_another_instance_is_neither_painted_over_nor_erased(document):
    first, second = document.add_box(BOX), document.add_box(BOX)
    document.paint(first, 0, 6, [[20, 20]], 2.0)
    mine = document.masks == first
    document.paint(second, 0, 6, [[20, 20]], 3.0)
    document.paint(second, 0, 6, [[20, 20]], 1.0, erase=True)
    assert np.array_equal(document.masks == first, mine) and (document.masks == second).any()
    document.paint(first, 0, 6, [[20, 20]], 5.0, erase=True)
    assert document.instances[first].voxels == 0 and not (document.masks == first).any()


def test_a_box_stays_around_its_mask_and_says_so(document):
    id_ = document.add_box(BOX)
    assert document.set_box(id_, (4, 9, 10, 12, 30, 34)) is None
    document.paint(id_, 0, 6, [[20, 20]], 0.5)
    assert f"box {id_}: stops at its mask" in document.set_box(id_, (10, 25, 25, 12, 30, 34))
    assert document.instances[id_].box == (6, 18, 18, 12, 30, 34)
    assert (document.masks == id_).sum() == document.instances[id_].voxels
    assert document.set_box(id_, (-3, 10, 10, 12, 30, 99)) is None
    assert document.instances[id_].box == (0, 10, 10, 12, 30, 48)


def test_a_box_with_a_mask_is_not_moved(document, refused):
    id_ = document.add_box(BOX)
    document.set_box(id_, np.add(BOX, 2))
    document.paint(id_, 0, 8, [[20, 20]], 0.5)
    for by in ([0, 0, 3], [0, 0, 20], [-1, -5, 0]):  # also out of the stack
        with refused(f"box {id_}", "its mask stays where it is"):
            document.set_box(id_, np.add(document.instances[id_].box, [*by, *by]))
    assert document.instances[id_].box == tuple(np.add(BOX, 2))
    document.set_box(id_, document.instances[id_].box)
    document.paint(id_, 0, 8, [[20, 20]], 9.0, erase=True)
    document.set_box(id_, BOX)
    assert document.instances[id_].box == BOX


def test_fill_interpolates_between_painted_slices(document):
    id_ = document.add_box((2, 5, 5, 16, 43, 43))
    document.paint(id_, 0, 3, [[24, 24]], 1.0)
    document.paint(id_, 0, 11, [[24, 24]], 3.0)
    painted = document.masks[[3, 11]].copy()
    document.fill(id_)
    radius = np.sqrt((document.masks == id_).sum((1, 2)) / np.pi) * 0.25
    assert radius[3:12] == pytest.approx(np.linspace(radius[3], radius[11], 9), abs=0.2)
    assert not radius[:3].any() and not radius[12:].any()
    assert np.array_equal(document.masks[[3, 11]], painted)


def test_fill_says_what_it_needs(document, refused):
    id_ = document.add_box((2, 5, 5, 16, 43, 43))
    document.paint(id_, 0, 3, [[10, 10]], 1.0)
    with refused(f"mask {id_}", "no empty slices"):
        document.fill(id_)
    document.paint(id_, 0, 9, [[38, 38]], 1.0)
    with refused(f"mask {id_}", "too far"):
        document.fill(id_)


def test_every_edit_is_undone_and_redone(document):
    first = document.add_box(BOX)
    edits = [
        lambda: document.add_box((0, 0, 0, 5, 5, 5)),
        lambda: document.paint(first, 0, 5, [[20, 20]], 1.0),
        lambda: document.paint(first, 0, 9, [[20, 20], [24, 24]], 1.0),
        lambda: document.fill(first),
        lambda: document.set_box(first, (3, 9, 9, 13, 31, 35)),
        lambda: document.paint(first, 2, 20, [[7, 20]], 1.0, erase=True),
        lambda: document.delete(first),
        lambda: document.delete(2),
    ]
    states = [state(document)]
    for edit in edits:
        edit()
        states.append(state(document))
    assert not any(same(a, b) for a, b in zip(states, states[1:], strict=False))
    for _ in range(2):
        for before in states[-2::-1]:
            document.undo()
            assert same(state(document), before)
        for after in states[1:]:
            document.redo()
            assert same(state(document), after)
    assert not document.can_redo
    document.undo(), document.add_box(BOX)
    assert not document.can_redo, "a new edit is not redone over"


def test_nothing_to_undo_or_redo_changes_nothing(document):
    document.undo(), document.redo()
    assert document.version == 0


def test_undo_memory_is_bounded(document, monkeypatch):
    monkeypatch.setattr(document_module, "UNDO_BYTES", 2000)
    id_ = document.add_box((0, 0, 0, 20, 48, 48))
    for i in range(60):
        document.paint(id_, 0, i % 20, [[5 + i // 2, 20]], 1.0)
    kept = [step.voxels.nbytes for step in document._undo]
    assert sum(kept) <= 2000 and len(kept) > 3
    while document.can_undo:
        document.undo()
    assert (document.masks == id_).sum() == document.instances[id_].voxels > 0


def test_it_starts_from_an_annotation_and_gives_it_back(cells):
    annotation = annotate(cells()[1], 0.5, 0)
    document = Document(SHAPE, VOXEL, annotation)
    back = document.snapshot()[2]
    for name in ("ids", "boxes", "classes", "has_mask", "masks"):
        assert np.array_equal(getattr(back, name), getattr(annotation, name)), name
    assert document.add_box(BOX) == annotation.ids.max() + 1


def test_a_snapshot_has_every_change_and_later_edits_do_not_touch_it(document):
    id_ = document.add_box(BOX)
    for z in range(4, 12):
        document.paint(id_, 0, z, [[20, 20]], 1.0)
    document.undo()
    masks = document.snapshot()[2].masks
    assert np.array_equal(masks, document.masks)
    kept = masks.copy()
    document.paint(id_, 0, 11, [[20, 20]], 1.0)
    assert np.array_equal(masks, kept)


def test_ids_that_16_bit_cannot_hold_are_kept(cells):
    labels = cells()[1] * 70_000
    document = Document(SHAPE, VOXEL, annotate(labels, 1.0, 0))
    assert np.array_equal(document.snapshot()[2].masks, labels)


def test_a_box_that_cuts_its_mask_is_made_larger_when_it_is_opened():
    masks = np.zeros(SHAPE, np.int32)
    masks[4:10, 10:20, 10:20] = 3
    box = np.array([[5, 10, 10, 10, 20.5, 18]], np.float32)
    one = np.ones(1, np.int64)
    with pytest.warns(UserWarning, match="box 3 is made larger"):
        document = Document(SHAPE, VOXEL, WeakAnnotation(3 * one, box, one, one > 0, masks))
    assert document.instances[3].box == (4, 10, 10, 10, 20.5, 20)
    assert document.instances[3].voxels == (masks > 0).sum()
    assert np.array_equal(document.masks, masks) and np.array_equal(document.snapshot()[2].masks, masks)
