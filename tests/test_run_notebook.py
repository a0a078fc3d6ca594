"""notebooks/run_notebook.py, by running notebooks with it as `make run` does."""

import asyncio
import importlib.util
import json
import os
import queue
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("run_notebook", ROOT / "notebooks" / "run_notebook.py")
run_notebook = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run_notebook)
WRITE_SCORES = """
import json, os, pathlib
summary = {"mean": {"detection_f1": 0.98765}, "seed": 3}
pathlib.Path(os.environ["WEAKSEG_RESULTS"], "summary.json").write_text(json.dumps(summary))
"""
MOVE = """
from ipywidgets import interact
from tqdm.auto import tqdm
for step in tqdm(range(3), desc="training"):
    pass
@interact(z=(0, 4))
def show(z):
    print("slice", z)
"""


@pytest.fixture
def run(tmp_path):
    def call(*cells):
        notebook = new_notebook(cells=[new_markdown_cell("# Find cells"), *map(new_code_cell, cells)])
        nbformat.write(notebook, tmp_path / "lesson.ipynb")
        return script(tmp_path / "lesson.ipynb", tmp_path / "out")

    return call


def script(*arguments):
    command = [sys.executable, ROOT / "notebooks" / "run_notebook.py", *arguments]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # 300 s: it takes five, but a busy machine may need long to start a kernel.
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": paths}
    )


def test_keeps_a_page_and_tells_the_scores(run, tmp_path):
    done = run(WRITE_SCORES, MOVE)
    assert done.returncode == 0, done.stderr
    assert "[cell 1 of 2] Find cells" in done.stdout and "[cell 2 of 2]" in done.stdout
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "lesson.html",
        "lesson.ipynb",
        "summary.json",
    ]
    kept = nbformat.read(tmp_path / "out" / "lesson.ipynb", 4)
    assert "widgets" not in kept.metadata
    outputs = kept.cells[2].outputs  # the bar is gone, and the slider has become what it showed first
    assert [output.get("text") for output in outputs] == ["slice 2\n"]
    assert "slice 2" in (tmp_path / "out" / "lesson.html").read_text("utf-8")
    scores = script("--scores", tmp_path / "out")
    assert scores.returncode == 0
    assert (
        "mean detection_f1" in scores.stdout and "0.9877" in scores.stdout and "lesson.html" in scores.stdout
    )


@pytest.mark.parametrize(
    ("cell", "words"),
    [("1 / 0", "ZeroDivisionError"), ("import os; os._exit(1)", "ended by itself")],
    ids=["error", "dead kernel"],
)
def test_a_failing_cell_is_told_and_earlier_results_stay(run, tmp_path, cell, words):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lesson.html").write_text("earlier")
    done = run("print('before')", cell)
    assert done.returncode == 1
    assert words in done.stderr and "lesson.failed.ipynb" in done.stderr
    assert (tmp_path / "out" / "lesson.html").read_text() == "earlier"
    failed = json.loads((tmp_path / "out" / "lesson.failed.ipynb").read_text("utf-8"))
    assert failed["cells"][1]["outputs"][0]["text"] in ("before\n", ["before\n"])


def test_an_answer_whose_news_was_lost_is_found_by_asking_again():
    """nbclient issue 312: with a widget in a cell, the socket may hold the answer and say nothing."""
    asked = []

    async def get_msg(timeout):
        asked.append(timeout)
        if len(asked) < 3:
            raise queue.Empty
        return "answer"

    assert asyncio.run(run_notebook.asking_again(get_msg, every=0.01)()) == "answer"
    assert asked == [0.01] * 3
    asked.clear()
    with pytest.raises(queue.Empty):
        asyncio.run(run_notebook.asking_again(get_msg)(timeout=7))
    assert asked == [7]
