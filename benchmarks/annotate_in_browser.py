"""The whole way of a user: a stack annotated in the browser, five minutes of training, the score on another stack.

    OMP_NUM_THREADS=2 python benchmarks/annotate_in_browser.py [--cells 20] [--masks 4] [--minutes 5] [--seed 1]

Simulates two stacks (HL60, group 1, laptop size), opens the first in the annotator in JupyterLab in headless Chromium
and draws there with mouse and keys alone: a box around every cell, a mask in some. Then `weakseg fit` on what lies on
disk, `predict` and `evaluate` of the second. The hand that draws knows the true outlines, but is not exact: the sides
of its boxes are off by normal noise of one voxel, its masks are round strokes in every third slice, half as shaky,
filled between. The minutes that the annotator counts are those of a script: they say nothing of a person's.
Writes results/annotate_in_browser.json and .md; other seeds stay. Needs Chromium and the extra `notebooks`.
"""

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, provenance, weakseg
from hand import SHAKE, Hand

from weakseg_lib.annotator.clock import Clock
from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.files import atomic_write_text, read_json, write_json
from weakseg_lib.data.simulate.dataset import write_dataset
from weakseg_lib.data.simulate.hl60 import hl60_frames, hl60_settings
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.weak_files import read_weak
from weakseg_lib.measures import box_iou

sys.path.append(str(Path(__file__).parents[1] / "tests/e2e"))
from browser import Page, find_browser, jupyterlab, open_notebook, problems, run_annotator  # noqa: E402


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
            errors = problems(page)
    finally:
        page.close()
    weak = read_weak(sequence, 0, stack.image.shape)
    order = np.searchsorted(weak.ids, drawn)
    of_boxes = np.diag(box_iou(weak.boxes[order], true))
    clock = Clock(read_json(sequence.weak_path / "time000.json"))
    of_masks = [iou(weak.masks == drawn[cell], stack.labels == ids[cell]) for cell in chosen]
    return {
        "cells": len(ids),
        "boxes": len(weak.ids),
        "masks": int(weak.has_mask.sum()),
        "box_iou": round(of_boxes.mean().item(), 3),
        "lowest_box_iou": round(of_boxes.min().item(), 3),
        "mask_iou": np.round(of_masks, 3).tolist(),
        "minutes_counted": round(sum(clock.seconds.values()) / 60, 2),
        "minutes_of_the_script": round(seconds / 60, 2),
        "annotator_says": counted,
        "slips": hand.slips,  # a drag that did something else than draw a box
        "messages": hand.said,
        "errors": errors,
    }


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def cpu_seconds():
    """What the commands run so far have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


COLUMNS = {
    "seed": lambda r: r["seed"],
    "cells, boxes, masks": lambda r: "{cells}, {boxes}, {masks}".format(**r["drawn"]),
    "IoU of boxes, mean and lowest": lambda r: "{box_iou}, {lowest_box_iou}".format(**r["drawn"]),
    "IoU of masks": lambda r: ", ".join(map(str, r["drawn"]["mask_iou"])),
    "slips, errors": lambda r: f"{r['drawn']['slips']}, {len(r['drawn']['errors'])}",
    "training": lambda r: f"{r['training']['seconds'] / 60:.1f} min, {r['training']['steps']} steps",
    "CPU seconds of it": lambda r: r.get("fit_cpu_seconds", "not measured"),
    "detection F1": lambda r: f"**{r['scores']['detection_f1']:.3f}** of {r['cells_in_second']} cells",
    "segmentation F1": lambda r: f"{r['scores']['segmentation_f1']:.3f}",
    "on": lambda r: f"`{r['command']}`; {r['device']}, {r['cpu']}, torch {r['torch']}",
}


def table(rows):
    """One column a seed: there are more measures than seeds."""
    lines = ["# Annotated in the browser, trained, and tried on another stack", ""]
    lines += [
        "Simulated HL60 nuclei, group 1, 32 x 160 x 160 voxels; drawn by a script with mouse and keys, no person."
    ]
    lines += ["On a busy machine a training gets less than its cores: its CPU seconds tell.", ""]
    for name, show in COLUMNS.items():
        lines += ["| " + " | ".join([name, *(str(show(row)) for row in rows.values())]) + " |"]
        lines += ["|" + "---|" * (len(rows) + 1)] if name == "seed" else []
    return "\n".join(lines) + "\n"


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
    before = cpu_seconds()
    how = ("--minutes", options.minutes, "--seed", options.seed, "--json", out / "fit.json")
    weakseg("fit", first.path, "--out", run, *how)
    used = round(cpu_seconds() - before)
    weakseg("predict", run, second.path, "--out", result)
    weakseg("evaluate", result, second.path, "--json", scores)
    record = provenance(options.seed) | {"drawn": drawn, "training": read_json(out / "fit.json")}
    cells = len(boxes_of_labels(second.read_labels(0))[0])
    record |= {"fit_cpu_seconds": used, "scores": read_json(scores)["mean"], "cells_in_second": cells}
    kept = RESULTS / "annotate_in_browser.json"
    rows = (read_json(kept)["rows"] if kept.is_file() else {}) | {str(options.seed): record}
    write_json(kept, {"rows": rows})
    atomic_write_text(kept.with_suffix(".md"), table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
