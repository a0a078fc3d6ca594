"""Widgets: what they show, that sliders change it, and that a page without a kernel still has a picture."""

import ast
import base64
import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ipywidgets", reason="the extra `notebooks` is not installed")

import matplotlib
from PIL import Image

import weakseg_lib
from weakseg_lib import widgets
from weakseg_lib.config import Config

matplotlib.use("agg")

COLUMNS = ("step", "seconds", "lr", "loss", "loss_class", "loss_box", "loss_mask")
VOXEL_SIZE = (1.0, 0.5, 0.5)
VIEW = "application/vnd.jupyter.widget-view+json"


def stack():
    image = np.random.default_rng(0).normal(100, 5, (6, 20, 30))
    image[4, 12, 25] = 5000  # one bright voxel, which all three brightest planes go through
    return image


def row(step, loss=1.0):
    values = {"step": step, "seconds": step * 0.3, "lr": 1e-3, "loss": loss}
    return {name: values.get(name, loss / 3) for name in COLUMNS}


class Screen:
    """Stands in for IPython's display: keeps what is shown now, one entry a display."""

    def __init__(self):
        self.shown = []

    def display(self, what, display_id, raw=False):
        screen, place = self, len(self.shown)
        self.shown.append(what)

        class Handle:
            def update(self, what, raw=False):
                screen.shown[place] = what

        return Handle()

    @property
    def text(self):
        return self.shown[0]["text/plain"]


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(widgets, "display", screen.display)
    return screen


def test_browser_starts_where_something_is_to_be_seen():
    assert widgets.browse_stack(stack(), VOXEL_SIZE).at == (4, 12, 25)
    assert widgets.browse_stack(stack(), VOXEL_SIZE, at=(0, 1, 2)).at == (0, 1, 2)


def test_sliders_reach_every_plane_and_redraw():
    browser = widgets.browse_stack(stack(), VOXEL_SIZE, boxes=[[3, 10, 20, 6, 15, 30]])
    assert [(s.min, s.max) for s in browser.sliders] == [(0, 5), (0, 19), (0, 29)]
    for slider in browser.sliders:
        before = browser.picture.value
        slider.value = slider.max
        assert browser.picture.value != before
    assert browser.at == (5, 19, 29)


def test_sliders_have_a_name_and_wait_for_the_release():
    for slider, axis in zip(widgets.browse_stack(stack(), VOXEL_SIZE).sliders, "zyx", strict=True):
        assert slider.description.startswith(axis)
        assert not slider.continuous_update


def test_browser_draws_labels_and_boxes():
    image, labels = stack(), np.zeros((6, 20, 30), int)
    labels[3:6, 8:16, 18:29] = 7
    plain = widgets.browse_stack(image, VOXEL_SIZE)
    with_labels = widgets.browse_stack(image, VOXEL_SIZE, labels=labels)
    with_boxes = widgets.browse_stack(image, VOXEL_SIZE, boxes=[[3, 8, 18, 6, 16, 29]])
    assert len({w.picture.value for w in (plain, with_labels, with_boxes)}) == 3


def test_browser_carries_a_still_picture_for_pages_without_a_kernel():
    browser = widgets.browse_stack(stack(), VOXEL_SIZE)
    bundle = browser._repr_mimebundle_()
    assert VIEW in bundle
    assert "6 x 20 x 30" in bundle["text/plain"]
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"])))
    assert min(still.size) > 100
    browser.sliders[0].value = 0  # the picture is that of now
    assert browser._repr_mimebundle_()["image/jpeg"] != bundle["image/jpeg"]


def test_curves_renew_one_line_and_one_figure(screen):
    with widgets.LiveCurves(Config(steps=100), every=0) as curves:
        assert len(screen.shown) == 1 and "reading" in screen.text
        figures = []
        for step in (10, 20, 30):
            curves(row(step))
            figures.append(screen.shown[1])
    assert len(screen.shown) == 2
    assert len({id(figure) for figure in figures}) == 3
    assert "30%" in screen.text and "step 30" in screen.text


def test_curves_end_with_the_last_row_however_seldom_they_are_drawn(screen):
    with widgets.LiveCurves(Config(steps=60), every=1000) as curves:
        for step in range(10, 60, 10):
            curves(row(step))
        assert "step 10," in screen.text
        curves(row(60))
        assert "choosing the score threshold" in screen.text
    assert "100%" in screen.text and "step 60," in screen.text
    assert "choosing" not in screen.text
    last = screen.shown[1].axes[0].lines[0].get_xdata()
    assert list(last) == [10, 20, 30, 40, 50, 60]


def test_an_interrupted_training_is_shown_as_stopped(screen):
    with pytest.raises(KeyboardInterrupt), widgets.LiveCurves(Config(steps=60)) as curves:
        curves(row(10))
        raise KeyboardInterrupt
    assert "stopped" in screen.text


def test_nothing_but_the_line_where_training_never_began(screen):
    with pytest.raises(ValueError), widgets.LiveCurves(Config(steps=60)):
        raise ValueError
    assert len(screen.shown) == 1
    assert "stopped" in screen.text


def test_curves_of_a_continued_run_begin_with_its_log(screen, tmp_path):
    log = tmp_path / "log.csv"
    lines = [",".join(COLUMNS)] + [",".join(str(v) for v in row(step).values()) for step in (10, 20, 30)]
    log.write_text("\n".join(lines) + "\n")
    with widgets.LiveCurves(Config(steps=60), earlier=log) as curves:
        curves(row(30, loss=0.5))  # a step after the checkpoint is done again
        curves(row(40))
    assert list(screen.shown[1].axes[0].lines[0].get_xdata()) == [10, 20, 30, 40]


def test_a_run_that_has_no_log_yet_begins_empty(tmp_path):
    assert widgets.LiveCurves(Config(), earlier=tmp_path / "log.csv").rows == []


def test_progress_goes_by_the_limit_that_is_nearer(screen):
    curves = widgets.LiveCurves(Config(steps=100, minutes=1))
    curves(row(50))  # half of the steps, 15 of 60 s
    assert curves.progress == 0.5
    curves.config = Config(steps=0, minutes=0.5)
    assert curves.progress == 0.5
    curves(row(500))
    assert curves.progress == 1


def test_nothing_in_the_library_imports_widgets():
    for file in Path(weakseg_lib.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", "") or ""] + [alias.name for alias in node.names]
                assert not any("widgets" in name.split(".") for name in names), file
