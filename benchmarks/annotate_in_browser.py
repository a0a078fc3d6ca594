"""The whole way of a user: a stack annotated in the browser, five minutes of training, the score on another stack.

    OMP_NUM_THREADS=2 python benchmarks/annotate_in_browser.py [--cells 20] [--masks 4] [--minutes 5] [--seed 1]

Simulates two stacks (HL60, group 1, laptop size), opens the first in the annotator in JupyterLab in headless Chromium
and draws there with mouse and keys alone: a box around every cell, a mask in some. Then `weakseg fit` on what lies on
disk, `predict` and `evaluate` of the second. The hand that draws knows the true outlines, but is not exact: the sides
of its boxes are off by normal noise of one voxel, its masks are round strokes in every third slice, with as shaky a
hand, filled between. The minutes that the annotator counts are those of a script: they say nothing of a person's.
Writes results/annotate_in_browser.json and .md. Needs Chromium and the extra `notebooks`.
"""

import argparse
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, provenance, weakseg
from scipy.ndimage import distance_transform_edt
from skimage.measure import find_contours

from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.files import atomic_write_text, read_json, write_json
from weakseg_lib.data.simulate.dataset import write_dataset
from weakseg_lib.data.simulate.hl60 import hl60_frames, hl60_settings
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.weak_files import read_weak
from weakseg_lib.measures import box_iou

sys.path.append(str(Path(__file__).parents[1] / "tests/e2e"))
from browser import Page, find_browser, jupyterlab, open_notebook, place, run_annotator, wait_for  # noqa: E402

SHAKE = 1.0  # voxels, standard deviation
EVERY = 3  # slices
FACTS = "document.querySelector('.weakseg .facts').innerText"
NUMBER = "document.querySelectorAll('.weakseg li').length"
ERRORS = "document.querySelectorAll('[data-mime-type*=error], [data-mime-type*=stderr]').length"
SAID = "document.querySelector('.weakseg .notice').innerText"


class Hand:
    """Draws what it sees in `labels` (D, H, W) in the annotator of a page, with mouse and keys."""

    def __init__(self, page, labels, voxel_size, seed, pictures):
        self.page, self.labels, self.voxel_size, self.pictures = page, labels, voxel_size, pictures
        self.random = np.random.default_rng(seed)
        self.slips, self.said = 0, []

    def at(self, plane, z, y, x):
        return place(self.page, plane, z, y, x, self.labels.shape, self.voxel_size)

    def picture(self, name):
        self.page.save_picture(self.pictures / f"{name}.png")

    def box_on_screen(self):
        """Number, z0, y0, x0, z1, y1, x1 of the selected box, as the page shows them; None where there is none."""
        found = re.search(r"box (\d+): z (\d+)–(\d+), y (\d+)–(\d+), x (\d+)–(\d+)", self.page.run(FACTS))
        return found and [int(found[i]) for i in (1, 2, 4, 6, 3, 5, 7)]

    def see(self, ask, problem):
        """Wait until the page shows it. What the annotator says meanwhile is kept."""
        found = wait_for(ask, 20, problem, pause=0.05)
        said = self.page.run(SAID)
        if said and said not in self.said:
            self.said.append(said)
        return found

    def go_to_slice(self, z):
        """Turn the wheel over the xy plane until it shows slice `z`."""
        while (now := self.slice_shown()) != z:
            self.page.wheel(*self.at("xy", 0, 40, 40), 100 * np.sign(z - now).item())
            self.see(lambda before=now: self.slice_shown() != before, "the wheel does not turn")

    def slice_shown(self):
        return int(self.page.run("document.querySelector('.weakseg canvas.xy').dataset.shown").split("/")[1])

    def draw_box(self, box):
        """Drag a box in xy, then pull its ends in zy; return its number."""
        z0, y0, x0, z1, y1, x1 = box
        self.go_to_slice((z0 + z1) // 2)
        for _ in range(3):
            number = self.page.run(NUMBER)
            corners = [(y0, x0), ((y0 + y1) / 2, (x0 + x1) / 2), (y1, x1)]
            self.page.drag(*(self.at("xy", 0, *corner) for corner in corners))
            try:
                wait_for(lambda before=number: self.page.run(NUMBER) == before + 1, 3, "no box", pause=0.05)
                break
            except AssertionError:  # the drag did something else: take it back, and try from no selection
                self.slips += 1
                self.picture(f"slip{self.slips}")
                self.page.press("z", 90, modifiers=2)
                self.page.press("Escape", 27)
        for side, z in ((1, z0), (4, z1)):
            now = self.see(self.box_on_screen, "the new box is not selected")
            if now[side] != z:
                y, x = (now[2] + now[5]) / 2, (now[3] + now[6]) / 2
                self.page.drag(self.at("zy", now[side], y, x), self.at("zy", (now[side] + z) / 2, y, x),
                               self.at("zy", z, y, x))  # fmt: skip
                self.see(lambda s=side, z=z: self.box_on_screen()[s] == z, f"a handle does not follow to {z}")
        return self.box_on_screen()[0]

    def choose(self, number):
        """Click a box in the list."""
        x, y = self.page.run(
            "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
            "([...document.querySelectorAll('.weakseg li button')]"
            f".find(b => parseInt(b.innerText) === {number}).getBoundingClientRect())"
        )
        self.page.click(x, y)
        self.see(lambda: (self.box_on_screen() or [0])[0] == number, f"the list does not go to {number}")

    def set_brush(self, radius):
        """Press [ or ] until the brush is nearest to a radius, um."""
        for _ in range(40):
            now = float(re.search(r"brush ([\d.]+)", self.page.run(FACTS))[1]) / 2
            if 1 / 1.15 < radius / now < 1.15:
                return
            self.page.press(*("]", 221) if radius > now else ("[", 219))
            self.see(
                lambda n=now: f"brush {2 * n:.1f}" not in self.page.run(FACTS), "the brush stays as it is"
            )

    def paint(self, number, cell):
        """Paint a cell in box `number`: in every third slice a round and some lines across it; then fill."""
        self.choose(number)
        self.page.press("1", 49)
        self.page.press("p", 80)
        box = self.box_on_screen()
        true = self.labels == cell
        slices = [z for z in np.flatnonzero(true.any((1, 2))).tolist() if box[1] <= z < box[4]]
        for z in sorted({*slices[::EVERY], slices[-1]}):
            self.go_to_slice(z)
            deep = distance_transform_edt(np.pad(true[z], 1), sampling=self.voxel_size[1:])[1:-1, 1:-1]
            radius = max(0.4 * deep.max(), 0.25)
            self.set_brush(radius)
            before = self.page.run(FACTS)
            for line in strokes(deep, radius, self.voxel_size):
                shaky = line + self.random.normal(0, 0.5 * SHAKE, line.shape)
                self.page.drag(*(self.at("xy", 0, y + 0.5, x + 0.5) for y, x in shaky))
            self.see(lambda b=before: self.page.run(FACTS) != b, "nothing is painted")
        self.picture(f"painted{number}")
        before = self.page.run(FACTS)
        self.page.press("f", 70)
        self.see(lambda: self.page.run(FACTS) != before, "nothing is filled")


def strokes(deep, radius, voxel_size):
    """Lines of a brush in a slice, (n, 2) voxels (y, x) each. deep: um to the outline, (H, W); radius: um."""
    top = np.array(np.unravel_index(deep.argmax(), deep.shape), float)
    lines = [max(find_contours(deep, radius), key=len)[::4]]
    rows = np.flatnonzero((deep > radius).any(1))
    for y in rows[:: max(1, int(1.5 * radius / voxel_size[1]))]:
        columns = np.flatnonzero(deep[y] > radius)
        lines.append(np.array([(y, columns[0]), (y, columns[-1])], float))
    return [line for line in lines if len(line) > 1] or [np.array([top, top + 0.5])]


def simulate(out, cells, seed):
    settings = replace(hl60_settings(1), cells=cells)
    folder = out / f"seed{seed}"
    frames = {1: hl60_frames(1, settings, seed)}
    return Sequence(write_dataset(folder, "hl60", frames, settings.voxel_size, 1, seed, "laptop")[0])


def annotate(sequence, masks, seed, out):
    """Draw a weak annotation of the sequence in a browser; return what it took and how good it is, for the record."""
    stack = sequence.read(0, with_labels=True)
    ids, true = boxes_of_labels(stack.labels)
    page = Page(find_browser(), out / "profile")
    try:
        with jupyterlab(out) as address:
            source = f"from weakseg_lib import Annotator\nAnnotator({str(sequence.path)!r})"
            open_notebook(page, address, out, "annotate", source)
            run_annotator(page)
            hand = Hand(page, stack.labels, stack.voxel_size, seed, out)
            start = time.perf_counter()
            shaky = np.round(true + hand.random.normal(0, SHAKE, true.shape)).clip(
                0, [*stack.image.shape] * 2
            )
            drawn = [hand.draw_box(box) for box in shaky.astype(int).tolist()]
            hand.picture("boxes")
            chosen = hand.random.choice(len(ids), masks, replace=False)
            for cell in chosen:
                hand.paint(drawn[cell], ids[cell])
            page.press("s", 83, modifiers=2)
            seconds = time.perf_counter() - start
            page.wait("document.querySelector('.weakseg .saved').innerText === 'saved'", 20, "not saved")
            hand.picture("masks")
            counted = page.run("document.querySelector('.weakseg .counts').innerText")
            errors = page.run(ERRORS)
    finally:
        page.close()
    weak = read_weak(sequence, 0, stack.image.shape)
    order = np.searchsorted(weak.ids, drawn)
    of_boxes = np.diag(box_iou(weak.boxes[order], true))
    of_masks = [iou(weak.masks == drawn[cell], stack.labels == ids[cell]) for cell in chosen]
    return {
        "cells": len(ids),
        "boxes": len(weak.ids),
        "masks": int(weak.has_mask.sum()),
        "box_iou": round(of_boxes.mean().item(), 3),
        "lowest_box_iou": round(of_boxes.min().item(), 3),
        "mask_iou": np.round(of_masks, 3).tolist(),
        "minutes_counted": round(sum(read_json(sequence.weak_path / "time000.json").values()) / 60, 2),
        "minutes_of_the_script": round(seconds / 60, 2),
        "annotator_says": counted,
        "slips": hand.slips,  # a drag that did something else than draw a box
        "messages": hand.said,
        "errors": errors,
    }


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def table(record):
    drawn, scores = record["drawn"], record["scores"]
    return f"""# Annotated in the browser, trained, and tried on another stack

Simulated HL60 nuclei, group 1, 32 x 160 x 160 voxels; drawn by a script with mouse and keys, not by a person.

| | |
|---|---|
| cells, boxes drawn, masks painted | {drawn["cells"]}, {drawn["boxes"]}, {drawn["masks"]} |
| IoU of the boxes with the true ones, mean and lowest | {drawn["box_iou"]}, {drawn["lowest_box_iou"]} |
| IoU of the masks | {", ".join(map(str, drawn["mask_iou"]))} |
| slips, errors | {drawn["slips"]}, {drawn["errors"]} |
| training, minutes and steps | {record["training"]["seconds"] / 60:.1f}, {record["training"]["steps"]} |
| **second stack: detection F1** | **{scores["detection_f1"]:.3f}** of {record["cells_in_second"]} cells |
| segmentation F1 | {scores["segmentation_f1"]:.3f} |

`{record["command"]}`, seed {record["seed"]}; {record["device"]}; {record["cpu"]}; torch {record["torch"]}
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the first stack; the second has the next")
    parser.add_argument(
        "--out", type=Path, help="for stacks, screenshots and the run (default: a temporary folder)"
    )
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="annotate_in_browser"))
    first, second = (simulate(out, options.cells, options.seed + i) for i in range(2))
    drawn = annotate(first, options.masks, options.seed, out)
    print(drawn, flush=True)
    run, result, scores = out / "run", second.path.with_name("01_RES"), out / "scores.json"
    weakseg(
        "fit",
        first.path,
        "--out",
        run,
        "--minutes",
        options.minutes,
        "--seed",
        options.seed,
        "--json",
        out / "fit.json",
    )
    weakseg("predict", run, second.path, "--out", result)
    weakseg("evaluate", result, second.path, "--json", scores)
    record = provenance(options.seed) | {"drawn": drawn, "training": read_json(out / "fit.json")}
    record |= {
        "scores": read_json(scores)["mean"],
        "cells_in_second": len(boxes_of_labels(second.read_labels(0))[0]),
    }
    write_json(RESULTS / "annotate_in_browser.json", record)
    atomic_write_text(RESULTS / "annotate_in_browser.md", table(record))
    print(table(record))


if __name__ == "__main__":
    main()
