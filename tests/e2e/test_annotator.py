"""The annotator as its user meets it: real mouse and keyboard, in JupyterLab, in a browser."""

import json
import os
import signal
import time
from contextlib import suppress

import browser
import numpy as np
import pytest
from browser import READY, open_notebook, problems, run_annotator

from weakseg_lib.annotator.autosave import Autosave
from weakseg_lib.data.stacks import Sequence, write_tiff
from weakseg_lib.data.weak_files import read_weak
from weakseg_lib.errors import InputError

pytest.importorskip("anywidget")
WEAKSEG = "document.querySelector('.weakseg"
SHAPE, VOXEL = (20, 48, 48), (0.5, 0.25, 0.25)
# Times in the page from a turn of the wheel to the slice on the screen, ms.
NEXT_SLICE = """new Promise((done) => {
    const canvas = document.querySelector('.weakseg canvas.xy');
    const before = canvas.dataset.shown, start = performance.now();
    const look = () => canvas.dataset.shown !== before ? done(performance.now() - start) : requestAnimationFrame(look);
    canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: 100 }));
    look();
})"""


@pytest.fixture
def sequence(tmp_path, cells):
    write_tiff(tmp_path / "data/01/t000.tif", cells(SHAPE)[0], VOXEL)
    return Sequence(tmp_path / "data/01")


@pytest.fixture
def notebook(tmp_path, lab, page):
    """A function that opens a notebook with one cell, runs it, and waits for the annotator."""

    def open_(name, source):
        open_notebook(page, lab, tmp_path, name, source)
        run_annotator(page)

    open_.run = lambda: run_annotator(page)
    return open_


def test_draw_adjust_paint_undo_kill_and_reopen(notebook, page, sequence, tmp_path):
    source = f"from weakseg_lib import Annotator\nAnnotator({str(sequence.path)!r})"
    notebook("annotate", source)

    def place(plane, z, y, x):
        return browser.place(page, plane, z, y, x, SHAPE, VOXEL)

    def boxes():
        return page.run("[...document.querySelectorAll('.weakseg li')].map(e => e.innerText.trim())")

    def disk(changed, problem):
        """What is on disk once `changed` says so of it."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            page.run("true")
            with suppress(InputError):  # none yet, or masks without their table: it is written just now
                if changed(now := read_weak(sequence, 0, SHAPE)):
                    return now
            time.sleep(0.1)
        raise AssertionError(problem)

    # Keys are JupyterLab's, where one types code, else the annotator's as soon as the pointer is over it.
    def point(*at):
        page.call("Input.dispatchMouseEvent", type="mouseMoved", **dict(zip("xy", at, strict=True)))

    tool = f"{WEAKSEG} .grid').dataset.tool"
    typing = "document.activeElement.closest('.cm-editor') !== null"
    page.run("document.querySelector('.jp-Cell .cm-content').focus()")
    page.wait(typing, 20, "the cell has no focus")
    point(*place("xy", 0, 10, 12)), point(*place("xy", 0, 12, 12))
    assert page.run(typing)
    page.press("Escape", 27)
    page.wait(f"!({typing})", 20, "the cell keeps the focus")
    point(*place("xy", 0, 10, 12))
    page.press("p", 80)
    page.wait(f"{tool} === 'paint'", 20, "keys are not the annotator's")
    page.press("b", 66)
    page.wait(f"{tool} === 'box'", 20, "keys are not the annotator's")

    # Draw a box in xy, as deep as wide; make it deeper by its handle in zy.
    page.drag(place("xy", 0, 10, 12), place("xy", 0, 20, 20), place("xy", 0, 26, 28))
    page.wait("document.querySelectorAll('.weakseg li').length === 1", 20, "no box")
    drawn = disk(lambda a: len(a.ids) == 1, "the box is not saved").boxes[0].tolist()
    assert drawn == [7, 10, 12, 15, 26, 28]
    page.drag(place("zy", 15, 18, 0), place("zy", 16, 18, 0), place("zy", 17, 18, 0))
    disk(lambda a: a.boxes[0].tolist() == [7, 10, 12, 17, 26, 28], "the handle does not move the box")

    # While the kernel is busy, what is drawn stays in sight, and can be painted in; it is made when Python has time.
    pid = json.loads((sequence.weak_path / ".lock000.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    page.drag(place("xy", 0, 32, 32), place("xy", 0, 38, 38), place("xy", 0, 44, 44))
    page.wait(f"{WEAKSEG} .grid').dataset.pending === '1'", 20, "the box is out of sight")
    page.press("p", 80)
    page.drag(place("xy", 0, 36, 36), place("xy", 0, 38, 40))
    page.wait(f"{WEAKSEG} .grid').dataset.pending === '2'", 20, "the stroke is out of sight")
    page.save_picture(tmp_path / "pending.png")
    os.kill(pid, signal.SIGCONT)
    page.wait("document.querySelectorAll('.weakseg li').length === 2", 20, "the box is not made")
    page.wait(f"{WEAKSEG} .grid').dataset.pending === '0'", 20, "the box is drawn twice")
    disk(lambda a: a.has_mask.tolist() == [False, True], "the stroke in a box of the busy kernel is lost")
    page.press("b", 66)
    page.press("Delete", 46)
    disk(lambda a: len(a.ids) == 1, "Delete removes nothing")
    page.click(*place("xy", 0, 18, 20))

    # A slip of the mouse leaves the box selected. Its handles are no handles in a slice that it is not in.
    page.drag(place("xy", 0, 40, 10), place("xy", 0, 40, 20), place("xy", 0, 40, 30))
    page.wait(f"{WEAKSEG} .notice').innerText.includes('no volume')", 20, "a line is a box")
    page.wait(f"{WEAKSEG} .facts').innerText.includes('box 1: z 7–17, y 10–26, x 12–28')", 20, "unselected")
    for _ in range(7):
        page.wheel(*place("xy", 0, 5, 5), 100)
    page.wait(f"{WEAKSEG} .xy').dataset.shown === '0/17'", 20, "the wheel does not turn")
    page.drag(place("xy", 0, 26, 28), place("xy", 0, 30, 34), place("xy", 0, 34, 40))
    disk(lambda a: len(a.ids) == 2, "a handle out of sight is pulled")
    page.press("z", 90, modifiers=2)
    disk(lambda a: a.boxes.tolist() == [[7, 10, 12, 17, 26, 28]], "not undone")
    for _ in range(7):
        page.wheel(*place("xy", 0, 5, 5), -100)
    page.wait(f"{WEAKSEG} .xy').dataset.shown === '0/10'", 20, "the wheel does not turn back")

    # Paint by mouse, then take it back and do it again by keys. JupyterLab has other plans for these keys.
    page.press("p", 80)
    page.drag(place("xy", 0, 17, 18), place("xy", 0, 18, 22))
    painted = disk(lambda a: a.has_mask.all(), "the stroke is not saved")
    page.save_picture(tmp_path / "painted.png")
    assert boxes() == ["1 mask"] and set(painted.masks.nonzero()[0]) == {10}
    page.press("z", 90, modifiers=2)
    disk(lambda a: not a.has_mask.any(), "not undone")
    page.press("z", 90, modifiers=10)
    disk(lambda a: a.has_mask.all(), "not redone")
    assert page.run("document.querySelectorAll('.jp-Cell').length") == 1

    # Nobody else can write meanwhile.
    assert f"process {pid} on " in Autosave(sequence, 0, sequence.read(0)).read_only

    # The kernel is killed; the cell is run again; everything is there.
    before = read_weak(sequence, 0, SHAPE)
    os.kill(pid, signal.SIGKILL)
    page.wait("!!document.querySelector('.jp-Dialog')", 60, "JupyterLab does not notice the kill")
    page.press("Enter", 13)
    page.wait(READY, 60, "the kernel does not start again")
    notebook.run()
    page.wait("document.querySelectorAll('.weakseg li').length === 1", 20, "the box is lost")
    assert boxes() == ["1 mask"]
    page.drag(place("xy", 0, 30, 30), place("xy", 0, 40, 40))
    after = disk(lambda a: len(a.ids) == 2, "reopened, nothing can be drawn")
    assert (after.masks == before.masks).all() and (after.boxes[0] == before.boxes[0]).all()

    # After a click in the list, keys are the planes' again: to the next slice, and erase there.
    x, y = page.run(f"(r => [r.x + 9, r.y + 9])({WEAKSEG} li button').getBoundingClientRect())")
    page.click(x, y)
    page.wait(f"{WEAKSEG} .xy').dataset.shown === '0/12'", 20, "the list does not go to its box")
    page.press("PageDown", 34)
    page.wait(f"{WEAKSEG} .xy').dataset.shown === '0/13'", 20, "keys go nowhere after a click in the list")
    page.press("e", 69)
    assert page.run(f"{WEAKSEG} [aria-pressed=true]').innerText") == "erase"
    page.press("v", 86)

    # By keys alone: a box around the cross, one voxel wider, painted, and gone again.
    page.press("Enter", 13)
    new = disk(lambda a: len(a.ids) == 3, "Enter makes no box").boxes[2]
    page.wait("document.querySelectorAll('.weakseg li').length === 3", 20, "the new box is not listed")
    page.press("ArrowRight", 39, modifiers=2)
    disk(lambda a: a.boxes[2].tolist() == [*new[:5], new[5] + 1], "Ctrl + arrow does not move a side")
    page.press("p", 80)
    page.press(" ", 32)
    disk(lambda a: a.has_mask[2], "space paints nothing")
    page.press("Delete", 46)
    disk(lambda a: len(a.ids) == 2, "Delete removes nothing")
    assert problems(page) == []


def test_the_second_annotator_is_read_only_and_says_why(notebook, page, sequence):
    first = Autosave(sequence, 0, sequence.read(0))
    try:
        notebook("second", f"from weakseg_lib import Annotator\nAnnotator({str(sequence.path)!r})")
        said = page.wait(
            "document.querySelector('.weakseg .banner:not([hidden])')?.innerText", 20, "no reason"
        )
        assert said.startswith("Read-only") and f"process {os.getpid()}" in said
        assert page.run("document.querySelector('.weakseg .saved').innerText") == "read-only"
    finally:
        first.close()


def test_times_of_a_large_stack(notebook, page, tmp_path, cells, capsys):
    image = np.tile(cells((32, 64, 64))[0], (2, 10, 11))[:64, :639, :649]
    write_tiff(tmp_path / "large/01/t000.tif", image, VOXEL)
    source = "import time\nstart = time.time()\nfrom weakseg_lib import Annotator\n"
    source += f"widget = Annotator({str(tmp_path / 'large/01')!r})\nprint('start', start)\nwidget"
    notebook("large", source)
    start = float(page.run("document.querySelector('.jp-OutputArea-output pre').innerText").split()[1])
    first = page.run("Number(document.querySelector('.weakseg canvas.xy').dataset.since)") / 1000 - start
    times = sorted(page.run(NEXT_SLICE) for _ in range(20))
    with capsys.disabled():
        print(
            f"\n64 x 639 x 649: first view {first:.2f} s, slice {times[10]:.0f} ms, slowest {times[-1]:.0f} ms"
        )
