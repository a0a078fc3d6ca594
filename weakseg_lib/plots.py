"""Pictures: stacks with boxes and outlines, hits and misses, training curves, scores.

Every function returns a matplotlib Figure; as the last line of a notebook cell it is shown. Colours are those
of Okabe and Ito, which colour-blind people can tell apart; line styles and markers say the same in grey.
"""

import csv
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from weakseg_lib.data.files import atomic_path
from weakseg_lib.errors import InputError
from weakseg_lib.measures import as_boxes, compare_instances
from weakseg_lib.three_views import FONT, ThreeViews, masks_of_labels, new_figure

# How pictures of noisy images are kept where they must be small: a fifth of a PNG.
JPEG = {"quality": 55, "optimize": True, "progressive": True}
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.2))
FOUND = {"color": SKY, "linestyle": "-"}
MISSED = {"color": ORANGE, "linestyle": DASHED}
FALSE_ALARM = {"color": VERMILION, "linestyle": DOTTED}
BOX = {"color": YELLOW, "linestyle": DASHED}
MASK = {"color": GREEN, "linestyle": "-"}
CURVES = ((BLACK, "-"), (BLUE, "--"), (VERMILION, ":"), (GREEN, "-."), (PURPLE, (0, (6, 1, 1, 1, 1, 1))))
DOTS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (VERMILION, "^"), (PURPLE, "v"), (BLACK, "P"))


def show_stack(image, voxel_size, boxes=None, labels=None, at=None, title=None, numbers=None):
    """Show a stack from above and from two sides, with boxes (dashed) and outlines of instances (solid).

    image: (D, H, W). voxel_size: (z, y, x) um. boxes: (N, 6), numbered 1..N. labels: (D, H, W) integer.
    at: voxel (z, y, x) at which the three views cut the stack; None shows the brightest voxel along each line
    of sight. numbers: whether to write ids; None writes them if there are few.
    """
    views = ThreeViews(image, voxel_size, at, title, numbers)
    if labels is not None:
        views.add_outlines(*masks_of_labels(labels), **FOUND)
    if boxes is not None:
        views.add_boxes(np.arange(1, len(as_boxes(boxes)) + 1), boxes, **BOX)
    return views.figure


def show_annotation(image, voxel_size, annotation, at=None, title=None, numbers=False):
    """Show a weak annotation: a dashed box around every instance, filled masks of those that have one.

    annotation: a WeakAnnotation (weakseg_lib.data.annotation). Everything else as in `show_stack`.
    """
    views = ThreeViews(image, voxel_size, at, title, numbers, legend=True)
    if annotation.masks is not None:
        views.add_outlines(*masks_of_labels(annotation.masks), **MASK, fill=0.45)
    views.add_boxes(annotation.ids, annotation.boxes, **BOX)
    masked = int(np.sum(annotation.has_mask))
    views.add_legend(
        Line2D([], [], **_darker(BOX), lw=2, label=f"box: {len(annotation.ids)}"),
        Patch(facecolor=GREEN, alpha=0.6, label=f"box and mask: {masked}"),
    )
    return views.figure


def show_outcome(
    image, voxel_size, predicted, true, iou=0.4, at=None, title=None, numbers=None, ids=(None, None)
):
    """Show which instances were found (solid), missed (dashed) or falsely reported (dotted), and how many.

    predicted, true: labels (D, H, W), drawn as outlines, or boxes (N, 6) with `ids` = (predicted, true), by
    default 1..N. A hit exceeds the box IoU `iou`, as in `weakseg_lib.measures.detection`. What was found or
    falsely reported is drawn and numbered as predicted, what was missed as in the truth. Counts are of the
    whole stack, also where `at` shows a cut. Everything else as in `show_stack`.
    """
    compared = compare_instances(predicted, true, iou, *ids)
    views = ThreeViews(image, voxel_size, at, title, numbers, legend=True)
    drawn = (
        ("found", predicted, ids[0], [hit[0] for hit in compared.hits], FOUND),
        ("missed", true, ids[1], compared.misses, MISSED),
        ("false alarms", predicted, ids[0], compared.false_alarms, FALSE_ALARM),
    )
    handles = []
    for name, instances, own_ids, chosen, style in drawn:
        if np.ndim(instances) == 3:
            views.add_outlines(*masks_of_labels(instances, chosen), **style)
        else:
            boxes = as_boxes(instances)
            own_ids = np.arange(1, len(boxes) + 1) if own_ids is None else np.asarray(own_ids)
            kept = np.isin(own_ids, chosen)
            views.add_boxes(own_ids[kept], boxes[kept], **style)
        handles.append(Line2D([], [], **style, lw=2.2, label=f"{name}: {len(chosen)}"))
    views.add_legend(*handles)
    return views.figure


def plot_curves(log):
    """Plot the losses and the learning rate of a training run, by step.

    log: CSV with the columns step, seconds, lr, loss and any loss_NAME; a loss may have empty cells. Faint
    lines are the logged values, strong ones their running mean. Raises InputError for another file.
    """
    table = _read_log(log)
    figure = new_figure((7, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    losses = [name for name in table if name.startswith("loss")]
    for name, (color, style) in zip(losses, CURVES, strict=False):
        there = np.isfinite(table[name])
        step, loss = table["step"][there], table[name][there]
        width = max(1, len(loss) // 30)
        mean = np.convolve(loss, np.ones(width) / width, "valid") if len(loss) else loss
        label = "total" if name == "loss" else name.removeprefix("loss_")
        top.plot(step, loss, color=color, lw=0.6, alpha=0.3)
        top.plot(step[(width - 1) // 2 :][: len(mean)], mean, color=color, linestyle=style, lw=2, label=label)
    top.set_yscale("log")
    top.set_ylabel("loss", fontsize=FONT)
    figure.legend(loc="outside upper center", ncols=len(losses), fontsize=FONT, frameon=False, handlelength=3)
    bottom.plot(table["step"], table["lr"], color=BLACK)
    bottom.set_ylabel("learning rate", fontsize=FONT)
    steps, minutes = table["step"][-1], table["seconds"][-1] / 60
    bottom.set_xlabel(f"step (the last one, {steps:.0f}, after {minutes:.1f} min)", fontsize=FONT)
    return figure


def plot_scores(scores, measures=None):
    """Compare results: a dot with its number for the mean of each result, ticks for its groups.

    scores: {name: what `weakseg_lib.evaluation.evaluate` returns}. measures: {key: name to print}, keys as in
    the evaluation's "mean"; by default the F1 scores and SEG. A measure that a result lacks is left out.
    """
    measures = measures or {
        "detection_f1": "Detection F1",
        "segmentation_f1": "Segmentation F1",
        "object_f1": "Object F1",
        "ctc_seg": "SEG",
    }
    spread = len(scores) + 0.8  # lines a measure takes, with some air
    figure = new_figure((7, 1.0 + 0.3 * spread * len(measures)), layout="constrained")
    axes = figure.subplots()
    for i, key in enumerate(measures):
        for j, evaluation in enumerate(scores.values()):
            color, marker = DOTS[j % len(DOTS)]
            y, mean = i * spread + j, evaluation["mean"].get(key)
            if mean is None:
                continue
            groups = [group[key] for group in evaluation["groups"].values()]
            axes.plot(groups, [y] * len(groups), color=color, marker="|", ms=9, mew=1.5, lw=1)
            axes.plot(mean, y, color=color, marker=marker, ms=8)
            beside = {"xytext": (10, 0), "textcoords": "offset points", "va": "center", "fontsize": FONT}
            axes.annotate(f"{mean:.3f}", (max(groups), y), **beside)
    axes.set_yticks([i * spread + (len(scores) - 1) / 2 for i in range(len(measures))], measures.values())
    axes.set_ylim(len(measures) * spread - 0.9, -0.9)
    axes.margins(x=0.15)
    axes.tick_params(labelsize=FONT)
    axes.grid(axis="x", alpha=0.4)
    axes.set_xlabel("dot and number: mean of the groups; ticks: the groups", fontsize=FONT)
    looks = zip(scores, DOTS * (1 + len(scores) // len(DOTS)), strict=False)
    dots = ((name, {"color": color, "marker": marker}) for name, (color, marker) in looks)
    handles = [Line2D([], [], **dot, ms=8, linestyle="none", label=name) for name, dot in dots]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=FONT, frameon=False)
    return figure


def save_figure(figure, path, dpi=150):
    """Write a figure as PNG, whole or not at all; return its path. Raises InputError where that fails."""
    with atomic_path(path) as tmp:
        figure.savefig(tmp, dpi=dpi, format="png")
    return Path(path)


def _darker(style):
    return {**style, "color": "#B8A800"}  # yellow is made for the dark image, not for white paper


def _read_log(path):
    """Columns of the log as {name: float array}, NaN where a cell is empty."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        table = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0] if name}
        missing = [name for name in ("step", "seconds", "lr", "loss") if name not in table]
    except (OSError, ValueError, TypeError, IndexError) as error:
        fix = "give the log of a training run with at least one step"
        raise InputError(path, f"cannot be read as a training log ({error})", fix) from error
    if missing:
        raise InputError(path, f"has no column {', '.join(missing)}", "give the log of a training run")
    return table
