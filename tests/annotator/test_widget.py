"""What the annotator answers to its page, without a browser."""

import gc
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest

from weakseg_lib.data.stacks import Sequence, write_tiff
from weakseg_lib.data.weak_files import read_weak

pytest.importorskip("anywidget")
BOX = {"axis": 0, "index": 6, "low": [10, 10], "high": [30, 34]}


@pytest.fixture
def open_(make_sequence, monkeypatch):
    """Opens the annotator of a sequence; what it sends to its page is in its list `sent`."""
    from weakseg_lib import Annotator

    opened = []
    sequence = make_sequence(share=None)

    def call(path=sequence, **options):
        sent = []
        monkeypatch.setattr(Annotator, "send", lambda self, *message: self.sent.append(message))
        monkeypatch.setattr(Annotator, "sent", sent, raising=False)
        opened.append(Annotator(path, **options))
        opened[-1].sent = sent
        return opened[-1]

    call.sequence = Sequence(sequence)
    yield call
    for one in opened:
        one.close()


def tell(widget, kind, view="a", **rest):
    """Send a message as the page does; return the answer and its bytes."""
    widget._receive(widget, {"type": kind, "view": view, **rest}, [])
    message, *buffers = widget.sent[-1]
    return message, *(buffers[0] if buffers else ())


def edit(widget, do, view="a", **how):
    return tell(widget, "edit", view, do=do, how=how)[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_travel_as_they_are_shown(open_, axis):
    widget = open_()
    edit(widget, "add_rectangle", **BOX)
    edit(widget, "paint", id_=1, axis=0, index=6, points=[[20, 20]], radius=1.0)
    message, data = tell(widget, "slice", axis=axis, index=6 if axis == 0 else 20)
    stack = Sequence(open_.sequence.path).read(0).image
    shown = {0: stack[6], 1: stack[:, 20], 2: stack[:, :, 20].T}[axis]
    assert np.array_equal(np.frombuffer(data, np.uint16).reshape(shown.shape), shown)

    message, data = tell(widget, "mask", axis=axis, index=6 if axis == 0 else 20)
    (top, left), size = message["corner"], message["size"]
    whole = np.zeros(shown.shape, int)
    whole[top : top + size[0], left : left + size[1]] = np.frombuffer(data, np.int32).reshape(size)
    masks = widget.document.masks
    assert np.array_equal(whole, {0: masks[6], 1: masks[:, 20], 2: masks[:, :, 20].T}[axis])
    assert whole.any() and min(size) > 0 and whole.size > size[0] * size[1]


def test_an_edit_is_answered_with_all_boxes_and_a_wrong_one_with_the_reason(open_):
    widget = open_()
    state = edit(widget, "add_rectangle", **BOX)
    assert state["selected"] == 1 and state["undo"] and not state["problem"] and not state["new_masks"]
    assert state["instances"][0][0] == 1 and state["counts"].startswith("1 box, 0 masks")
    assert edit(widget, "paint", id_=1, axis=0, index=6, points=[[20, 20]], radius=1.0)["new_masks"]
    state = edit(widget, "add_rectangle", axis=0, index=6, low=[50, 50], high=[60, 60])
    assert "outside the stack" in state["problem"] and len(state["instances"]) == 1
    assert edit(widget, "delete", id_=7)["problem"]
    state = edit(widget, "set_box", id_=1, box=[0, 10, 10, 2, 30, 34])
    assert "stops at its mask" in state["problem"] and state["selected"] is None


def test_the_answer_to_an_edit_says_which_one_it_is(open_):
    """So that the page can draw an edit until Python has made it, and no longer."""
    widget = open_()
    assert tell(widget, "hello")[0]["number"] == 0
    state = tell(widget, "edit", do="add_rectangle", how=BOX, number=3)[0]
    assert (state["view"], state["number"]) == ("a", 3)
    refused = tell(widget, "edit", "b", do="add_rectangle", how=BOX, number=1)[0]
    assert (refused["view"], refused["number"]) == ("b", 1) and len(refused["instances"]) == 1


def test_a_box_that_the_page_has_not_heard_of_is_called_by_its_edit(open_):
    """Drawn and painted in while the kernel was busy: both edits arrive at once."""
    widget = open_()
    edit(widget, "add_rectangle", axis=0, index=2, low=[0, 0], high=[9, 9])
    tell(widget, "edit", do="add_rectangle", how=BOX, number=7)
    stroke = {"axis": 0, "index": 6, "points": [[20, 20]], "radius": 1.0}
    state = tell(widget, "edit", do="paint", how={"id_": -7, **stroke}, number=8)[0]
    assert not state["problem"] and widget.document.instances[2].voxels > 0
    assert not widget.document.instances[1].voxels
    # One that was refused, one of another window, and one that was never drawn.
    tell(
        widget,
        "edit",
        do="add_rectangle",
        how=BOX | {"index": 2, "low": [99, 99], "high": [100, 100]},
        number=9,
    )
    for name in (-9, -99):
        assert "was not made" in edit(widget, "paint", id_=name, **stroke)["problem"]
    tell(widget, "take", "b")
    assert "was not made" in edit(widget, "paint", "b", id_=-7, **stroke)["problem"]


def test_one_window_edits_at_a_time(open_):
    widget = open_()
    assert tell(widget, "hello", "a")[0]["editor"] == "a" == tell(widget, "hello", "b")[0]["editor"]
    assert edit(widget, "add_rectangle", "b", **BOX)["instances"] == []
    assert tell(widget, "take", "b")[0]["editor"] == "b"
    assert edit(widget, "add_rectangle", "a", **BOX)["instances"] == []
    assert len(edit(widget, "add_rectangle", "b", **BOX)["instances"]) == 1
    tell(widget, "bye", "b")
    assert len(edit(widget, "add_rectangle", "a", **BOX)["instances"]) == 2


def test_the_page_can_do_nothing_but_edit(open_):
    with pytest.raises(KeyError):
        edit(open_(), "snapshot")


def test_a_cell_that_is_run_again_takes_over(open_):
    first = open_()
    edit(first, "add_rectangle", **BOX)
    second = open_()
    assert "another cell" in first.read_only and not second.read_only
    assert len(edit(first, "add_rectangle", **BOX)["instances"]) == 1
    third = open_()
    edit(third, "add_rectangle", **BOX)
    for earlier in (first, second):  # they show what the latest has
        assert earlier.document is third.document and "2 boxes" in repr(earlier) and earlier.read_only
        assert tell(earlier, "slice", axis=0, index=3)[1] == tell(third, "slice", axis=0, index=3)[1]
        earlier.close()
    assert not third.read_only


@pytest.mark.parametrize("read_only", [False, True])
def test_a_cell_that_is_run_again_frees_the_memory(open_, read_only):
    """Notebooks keep every widget and every output for ever."""
    first = open_(read_only=read_only)
    image, document = (weakref.ref(thing) for thing in (first._image, first.document))
    open_(read_only=read_only)
    first._repr_mimebundle_()
    end = time.monotonic() + 20  # the thread that saved may still be at its end
    while (image() or document()) and time.monotonic() < end:
        gc.collect()
    assert image() is None and document() is None


def test_an_annotator_that_cannot_be_opened_takes_nothing_from_the_earlier(open_, refused):
    first = open_()
    edit(first, "add_rectangle", **BOX)
    first._files.save()
    path = open_.sequence.weak_boxes_path(0)
    text = path.read_text()
    path.write_text("id,z0\n1,2\n")
    with refused(path, "header lacks"):
        open_()
    assert len(first.document.instances) == 1 and tell(first, "slice", axis=0, index=3)[1].nbytes
    path.write_text(text)
    assert len(open_().document.instances) == 1


def test_read_only_changes_nothing(open_):
    widget = open_(read_only=True)
    state = edit(widget, "add_rectangle", **BOX)
    assert state["instances"] == [] and state["read_only"]
    assert not open_.sequence.weak_path.exists()


def test_a_folder_that_cannot_be_written_is_said_when_it_is_opened(make_sequence):
    from weakseg_lib import Annotator

    sequence = Sequence(make_sequence(share=None))
    sequence.weak_path.write_text("in the way")
    widget = Annotator(sequence)
    sent = []
    widget.send = lambda *message: sent.append(message)
    widget._receive(widget, {"type": "hello", "view": "a"}, [])
    state = sent[-1][0]
    assert state["state"] == "not saved" and "cannot be written" in state["why"] and not state["read_only"]
    sequence.weak_path.unlink()
    widget.close()


def test_closing_saves(open_):
    widget = open_()
    edit(widget, "add_rectangle", **BOX)
    widget.close()
    assert read_weak(open_.sequence, 0, (20, 48, 48)).ids.tolist() == [1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_grey_values_of_any_type_can_be_shown(open_, cells, tmp_path, dtype):
    image = (cells()[0] / 4).astype(dtype)
    write_tiff(tmp_path / "other/01/t000.tif", image, (1, 1, 1))
    widget = open_(tmp_path / "other/01")
    data = tell(widget, "slice", axis=0, index=3)[1]
    shown = np.frombuffer(data, np.uint8 if dtype == np.uint8 else np.uint16)
    low, high = widget.info["window"]
    assert 0 <= low < high <= widget.info["most"]
    assert np.corrcoef(shown, image[3].ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    "low, high, dtype, within",
    [
        (3, 250, np.uint8, 0),
        (700, 60_000, np.uint16, 0),
        (-900, 3_000, np.int16, 0),
        (16_777_216, 16_777_239, np.int32, 0),  # whole numbers that 32-bit floats no longer tell apart
        (0, 2_000_000_000, np.uint32, 2_000_000_000 / 65535),
        (0.0, 1.0, np.float32, 1 / 65535),
        (1e-7, 3e-7, np.float64, 2e-7 / 65535),
    ],
)
def test_the_grey_value_that_is_shown_is_the_images(low, high, dtype, within):
    from weakseg_lib.annotator.widget import _grey

    image = np.linspace(low, high, 4 * 8 * 8).astype(dtype).reshape(4, 8, 8)
    numbers, grey, *window = _grey(image)
    assert numbers.dtype in (np.uint8, np.uint16) and 0 <= window[0] < window[1] <= 65535
    shown = grey["offset"] + grey["step"] * numbers.astype(float)  # as showReadout in page.js does
    assert np.abs(shown - image.astype(float)).max() <= within


def test_what_cannot_be_annotated_is_said_in_one_line(open_, refused, tmp_path):
    with refused(tmp_path / "none/01", "no such folder"):
        open_(tmp_path / "none/01")
    flat = tmp_path / "flat/01/t000.tif"
    write_tiff(flat, np.full((4, 8, 8), 7, np.uint8), (1, 1, 1))
    with refused(flat, "all voxels have the value 7"):
        open_(flat.parent)
    unknown = tmp_path / "unknown/01/t000.tif"
    write_tiff(unknown, np.arange(256, dtype=np.uint8).reshape(4, 8, 8), None)
    with refused(unknown, "no voxel size"):
        open_(unknown.parent)
    assert open_(unknown.parent, voxel_size=(2, 1, 1)).info["voxel_size"] == [2, 1, 1]


def test_without_anywidget_the_library_imports_and_the_annotator_says_what_to_install():
    code = """
import sys
sys.modules["anywidget"] = None
import weakseg_lib
try:
    weakseg_lib.Annotator
except weakseg_lib.InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("anywidget: is not installed; run `pip install"), done.stderr
