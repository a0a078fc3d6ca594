"""What moves in a notebook: a stack to leaf through, and the curves of a running training.

Both are made of `weakseg_lib.plots` and also leave a picture for those who read the notebook without a kernel.
Needs ipywidgets; nothing else in the library imports this module.
"""

import csv
import io
import time
from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from IPython.display import display
from ipywidgets import HBox, Image, IntSlider, Layout, VBox
from tqdm import tqdm

from weakseg_lib.plots import JPEG, plot_curves, show_stack

BAR = "training {percentage:3.0f}% |{bar}|"


def browse_stack(image, voxel_size, boxes=None, labels=None, at=None):
    """Show three orthogonal views of a stack and a slider an axis that moves where they cut it.

    image: (D, H, W). voxel_size: (z, y, x) um. boxes: (N, 6) voxels, dashed. labels: (D, H, W) integer, drawn as
    outlines. at: voxel (z, y, x) of the first cut; None takes the brightest plane of each axis. Returns a
    `StackBrowser`.
    """
    return StackBrowser(image, voxel_size, boxes, labels, at)


class StackBrowser(VBox):
    """A widget: sliders z, y, x above the three views. `at` is where they cut, `picture` what is shown."""

    def __init__(self, image, voxel_size, boxes=None, labels=None, at=None):
        self.stack = {"image": np.asarray(image), "voxel_size": voxel_size, "boxes": boxes, "labels": labels}
        self.picture = Image(format="jpeg", layout=Layout(max_width="100%", align_self="flex-start"))
        shape = self.stack["image"].shape
        if at is None:  # the middle of a stack is often empty
            at = [np.mean(image, tuple({0, 1, 2} - {axis})).argmax() for axis in range(3)]
        self.sliders = [
            # Drawn on release only: a picture takes longer than a slider takes to move.
            IntSlider(int(value), 0, size - 1, description=f"{axis} (voxel)", continuous_update=False)
            for axis, value, size in zip("zyx", at, shape, strict=True)
        ]
        super().__init__([HBox(self.sliders, layout=Layout(flex_flow="row wrap")), self.picture])
        self._draw()
        for slider in self.sliders:
            slider.observe(self._draw, names="value")

    @property
    def at(self):
        """The voxel (z, y, x) at which the views cut the stack."""
        return tuple(slider.value for slider in self.sliders)

    def _draw(self, change=None):
        file = io.BytesIO()
        show_stack(**self.stack, at=self.at).savefig(file, format="jpeg", pil_kwargs=JPEG)
        self.picture.value = file.getvalue()

    def __repr__(self):
        size = " x ".join(str(size) for size in self.stack["image"].shape)
        return f"Three views of a stack of {size} voxels (z, y, x), cut at voxel {self.at}"

    def _repr_mimebundle_(self, **kwargs):
        # Pages without a kernel (a saved HTML, a code host) can't show a widget and take the picture instead.
        still = {"image/jpeg": b64encode(self.picture.value).decode()}
        return super()._repr_mimebundle_(**kwargs) | still


class LiveCurves:
    """Draws a training while it runs: a line of progress and the curves of `plot_curves`, renewed in place.

    with LiveCurves(config) as curves:
        fit(sequences, out, config, on_log=curves, progress=False)

    config: the `Config` of the training, of which the steps and minutes are needed. earlier: the log of a run that is
    continued. every: seconds from one picture to the next, at least.
    """

    def __init__(self, config, earlier=None, every=3.0):
        self.config, self.every = config, every
        self.rows = _read_rows(earlier) if earlier and Path(earlier).is_file() else []
        self.line = self.figure = None
        self.drawn = 0.0

    def __enter__(self):
        self._say("reading the stacks and taking the first steps ...")
        return self

    def __exit__(self, error, *more):
        if self.rows:
            self._draw("" if error is None else "; stopped")
        elif error is not None:
            self._say("stopped before the first ten steps were done")

    def __call__(self, row):
        """Take one row of the log: a dict of step, seconds, lr and losses."""
        self.rows = [old for old in self.rows if old["step"] < row["step"]] + [row]
        if self.progress == 1:
            self._draw("; choosing the score threshold ...")
        elif time.monotonic() - self.drawn > self.every:
            self._draw()

    @property
    def progress(self):
        """0 at the start of the training, 1 when its steps or minutes are used up."""
        last, config = self.rows[-1], self.config
        by_steps = last["step"] / config.steps if config.steps else 0.0
        by_time = last["seconds"] / (60 * config.minutes) if config.minutes else 0.0
        return min(max(by_steps, by_time), 1.0)

    def _draw(self, note=""):
        last = self.rows[-1]
        bar = tqdm.format_meter(round(100 * self.progress), 100, last["seconds"], ncols=40, bar_format=BAR)
        self._say(f"{bar} step {last['step']}, {last['seconds'] / 60:.1f} min, loss {last['loss']:.3f}{note}")
        self.figure = _show(_curves(self.rows), self.figure)
        self.drawn = time.monotonic()

    def _say(self, text):
        self.line = _show({"text/plain": text}, self.line, raw=True)


def _show(what, handle, **options):
    """Display something, in place of what an earlier call showed if its handle is given; return the handle."""
    if handle is None:
        return display(what, display_id=True, **options)
    handle.update(what, **options)
    return handle


def _curves(rows):
    # By way of a file, because plot_curves draws what is logged, and the run's own log is written once a minute.
    lines = [rows[-1], *([str(row[name]) for name in rows[-1]] for row in rows)]
    with TemporaryDirectory() as folder:
        log = Path(folder, "log.csv")
        log.write_text("\n".join(map(",".join, lines)))
        return plot_curves(log)


def _read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
