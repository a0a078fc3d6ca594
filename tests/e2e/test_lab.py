"""The notebooks as a reader meets them: opened in JupyterLab in a browser, run, and leafed through."""

from pathlib import Path

import pytest
from browser import READY

LESSON = "00_start_here.ipynb"
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent)"
OTHERS = sorted(p.name for p in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb") if p.name != LESSON)
PICTURES = "[...document.querySelectorAll('.jp-OutputArea img')].map(i => i.src).join()"
IMAGE = "document.querySelector('.jp-OutputArea .widget-image')"
SLIDERS = "document.querySelectorAll('.jp-OutputArea .widget-slider .noUi-handle')"
IDLE = "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
ERRORS = "[...document.querySelectorAll('[data-mime-type*=error], [data-mime-type*=stderr]')].map(e => e.innerText)"


def test_a_reader_runs_the_lesson_and_moves_a_slider(lab, page):
    page.open(f"{lab}/lab/tree/{LESSON}")
    page.wait("!!document.querySelector('.jp-CodeCell')", 120, "the notebook does not open")
    _run_all(page)
    # The last cell has a number: all cells ran, for Run All stops at the first error.
    page.wait(f"/\\d/.test({PROMPTS}.at(-1))", 400, "Run All does not reach the last cell")

    assert page.run(ERRORS) == []
    assert page.run("document.body.innerText.includes('Error displaying widget')") is False
    assert page.run(f"{SLIDERS}.length") == 6  # two stacks, three axes
    page.wait(f"{IMAGE}.src", 30, "the stack has no picture")
    _move_every_slider(page)
    # Sharp: one dot of the picture is one of the screen.
    assert page.run(f"{IMAGE}.naturalWidth") == page.run(f"{IMAGE}.clientWidth") > 300


@pytest.mark.parametrize("lesson", OTHERS)
def test_every_lesson_runs_and_all_its_sliders_draw_anew(lab, page, lesson):
    page.open(f"{lab}/lab/tree/{lesson}")
    page.wait("!!document.querySelector('.jp-CodeCell')", 120, "the notebook does not open")
    _run_all(page)
    page.wait(f"/\\d/.test({PROMPTS}.at(-1))", 400, "Run All does not reach the last cell")
    assert page.run(ERRORS) == []
    _move_every_slider(page)


def _move_every_slider(page):
    """By one step each, after all cells were run: what a later cell does to an earlier one's names shows here."""
    for number in range(page.run(f"{SLIDERS}.length")):
        page.run(f"window.before = {PICTURES}; {SLIDERS}[{number}].focus(); true")
        page.press("ArrowRight", 39)
        page.wait(f"{PICTURES} !== window.before", 60, f"slider {number} does not change the picture")
        page.wait(IDLE, 60, f"the kernel is still busy with slider {number}")
        assert page.run(ERRORS) == [], f"slider {number}"


def _run_all(page):
    """Start Run All as often as needed: while the kernel still connects, JupyterLab drops it."""
    for _ in range(10):
        page.wait(READY, 120, "the kernel does not start")
        page.run("jupyterapp.commands.execute('notebook:clear-all-cell-outputs').then(() => true)")
        page.wait(f"!/\\d/.test({PROMPTS}.join())", 15, "the outputs of the saved notebook stay")
        page.run("jupyterapp.commands.execute('notebook:run-all-cells'); true")
        try:
            page.wait(f"/\\d|\\*/.test({PROMPTS}.join())", 15, "not running yet")
            return
        except AssertionError:
            continue
    raise AssertionError("Run All is dropped every time")
