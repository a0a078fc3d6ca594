"""Lesson 08 on a user's own file: what is typed is the file's name, and Run All stops where the user has to draw."""

import json
from pathlib import Path

import pytest

from weakseg_lib.data.annotation import annotate
from weakseg_lib.data.stacks import Sequence, read_stack, write_tiff
from weakseg_lib.data.weak_files import write_weak
from weakseg_lib.errors import InputError

pytest.importorskip("anywidget", reason="the extra `notebooks` is not installed")
LESSON = Path(__file__).parents[2] / "notebooks/08_your_own_stack.ipynb"


@pytest.fixture
def run_all(tmp_path, monkeypatch):
    """A function that runs the lesson's code with `FILE` set, as a fresh kernel would; its variables."""
    monkeypatch.setenv("WEAKSEG_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("WEAKSEG_QUICK", "1")
    monkeypatch.setattr("weakseg_lib.lessons._keep_figures_small", lambda dpi: None)  # which needs a notebook
    cells = [
        "".join(c["source"])
        for c in json.loads(LESSON.read_text("utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]
    assert sum('FILE = ""' in cell for cell in cells) == 1

    def run(file):
        names = {}
        for cell in cells:
            if "%pip" not in cell:
                exec(cell.replace('FILE = ""', f"FILE = {str(file)!r}"), names)
        return names

    return run


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_drawn_then_drawn_then_run_again(run_all, tmp_path, cells, capsys):
    file = tmp_path / "embryo.tif"
    image, labels = cells((20, 48, 48))
    write_tiff(file, image, (0.5, 0.25, 0.25))
    before = file.read_bytes()
    with pytest.raises(InputError, match="nothing is annotated yet; correct a box above"):
        run_all(file)
    home = tmp_path / "embryo_weakseg"
    assert not list(home.glob("run*"))

    write_weak(Sequence(home / "01"), 0, annotate(labels, share=0.5, seed=0), (0.5, 0.25, 0.25))
    first = run_all(file)
    assert [run.name for run in home.glob("run*")] == ["run1"] and first["trained"].info["finished"]
    assert {"labels000.tif", "measurements.csv"} <= {path.name for path in (home / "export").iterdir()}
    assert read_stack(home / "01_RES/mask000.tif").image.shape == image.shape
    run_all(file)  # nothing new was drawn, so nothing is trained
    assert [run.name for run in home.glob("run*")] == ["run1"]
    write_weak(Sequence(home / "01"), 0, annotate(labels, share=1.0, seed=0), (0.5, 0.25, 0.25))
    run_all(file)
    assert {run.name for run in home.glob("run*")} == {"run1", "run2"}
    assert file.read_bytes() == before
