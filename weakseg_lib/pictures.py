"""Pictures of whole results, read from the files that `weakseg` wrote: the worst stack, scores against hours."""

from pathlib import Path

from weakseg_lib.data.files import read_json
from weakseg_lib.data.stacks import read_stack
from weakseg_lib.errors import InputError
from weakseg_lib.evaluation import read_predicted, read_true
from weakseg_lib.experiments import SEGMENTATION
from weakseg_lib.plots import BLUE, DASHED, ORANGE, VERMILION, save_figure, show_outcome
from weakseg_lib.result_files import image_of_truth, pair_stacks
from weakseg_lib.three_views import FONT, new_figure


def draw_worst(scores: dict, result, truth, path, frames=None, voxel_size=None) -> Path:
    """Draw hits, misses and false alarms of the stack with the lowest detection F1.

    scores: what `evaluate` returned for `result`, `truth` and `frames`.

    Raises InputError where there are masks on one side only.
    """
    rows = scores["stacks"]
    worst = min(range(len(rows)), key=lambda i: rows[i].get("detection_f1") or 0.0)
    pair = pair_stacks(result, truth, frames)[0][worst]
    true = read_true(pair.true)
    predicted = read_predicted(pair.predicted, true)
    if predicted.labels is None or true.labels is None:
        raise InputError("--picture", "needs masks on both sides", "leave it out for boxes or markers alone")
    stack = read_stack(image_of_truth(pair.true.labels), voxel_size)
    names = (pair.group, f"t{pair.frame:03d}" if pair.frame is not None else None)
    title = ", ".join(
        ["/".join(filter(None, names)) or "the stack", "brightest voxel along each line of sight"]
    )
    figure = show_outcome(stack.image, stack.voxel_size, predicted.labels, true.labels, title=title)
    return save_figure(figure, path)


def draw_reproduction(out: Path) -> list[Path]:
    """OUT/hours.png, and OUT/worst_ROW.png for the first seed of every row, of what `reproduce` wrote to OUT."""
    table = read_json(out / "table.json")
    drawn = [save_figure(plot_hours(table), out / "hours.png")]
    data = out / read_json(out / "experiment.json")["data"]  # relative where the stacks are OUT's own
    for path in sorted((out / "scores").glob("*_seed0*.json")):
        scores = read_json(path)["scores"]
        groups = list(scores["groups"])
        if "segmentation_f1" in scores["groups"][groups[0]]:  # else there is nothing to outline
            truth = data if len(groups) > 1 else data / groups[0]
            result = out / "predictions" / path.stem
            drawn.append(draw_worst(scores, result, truth, out / f"worst_{path.stem}.png", "predicted"))
    return drawn


def plot_hours(table: dict):
    """Score against hours of annotation, a panel for each measure; `table`: what table.json holds."""
    measures = [key for key in table["rows"][0] if "_f1" in key and any(r[key] for r in table["rows"])]
    figure = new_figure((5.2 * len(measures), 4), layout="constrained")
    looks = {
        ("weak", None): ("boxes and some masks", BLUE, "o", "-"),
        ("voxresnet", "grown"): ("VoxResNet, grown back", ORANGE, "s", DASHED),
        ("voxresnet", "literal"): ("VoxResNet, literal", VERMILION, "^", ":"),
    }
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for (method, reading), (name, color, marker, style) in looks.items():
            rows = [
                r for r in table["rows"] if (r["method"], r["reading"]) == (method, reading) and r[measure]
            ]
            rows.sort(key=lambda r: r["hours"])
            if rows:
                mean = [r[measure]["mean"] for r in rows]
                # A few stacks have no interval.
                low, high = zip(
                    *(r[measure]["interval"] or (r[measure]["mean"],) * 2 for r in rows), strict=True
                )
                # The mean of a skewed bootstrap can lie outside its interval by a rounding.
                bars = [[max(m - v, 0) for m, v in zip(mean, low, strict=True)]]
                bars.append([max(v - m, 0) for m, v in zip(mean, high, strict=True)])
                hours = [r["hours"] for r in rows]
                axes.errorbar(
                    hours, mean, bars, color=color, marker=marker, linestyle=style, capsize=3, label=name
                )
        axes.set_xlabel("hours of annotation (computed)", fontsize=FONT)
        axes.set_title(dict(SEGMENTATION).get(measure, measure.replace("_f1", " F1")), fontsize=FONT)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
