"""The tables of a reproduction: ours beside the paper's, with intervals, as Markdown and JSON."""

from pathlib import Path

import numpy as np

from weakseg_lib.annotation_time import AnnotationTime
from weakseg_lib.data.files import atomic_write_text, read_json, write_json
from weakseg_lib.errors import InputError
from weakseg_lib.experiments import Experiment, Trial
from weakseg_lib.intervals import LEAST, block_of, interval, redraw


def write_tables(experiment: Experiment, out: Path):
    """OUT/table.json and OUT/table.md from the rows that are done."""
    asked = read_json(out / "experiment.json")
    # Earlier versions did not write `about`.
    about = asked.get("about") or (asked["data"] if asked.get("real") else "simulated stacks")
    rows, differences = _rows(experiment, out)
    head = {"experiment": experiment.name, "size": asked["size"], "data": about}
    write_json(out / "table.json", head | {"rows": rows, "differences": differences})
    atomic_write_text(out / "table.md", _markdown(experiment, head, rows, differences))


def _rows(experiment: Experiment, out: Path) -> tuple[list[dict], list[dict]]:
    """One row for each method, share and reading, with the seeds put together; and our row minus each VoxResNet's."""
    found = {}
    for path in sorted((out / "scores").glob("*.json")):
        one = read_json(path)
        trial = Trial(**one["trial"])
        found.setdefault((trial.row, one["reading"]), {})[trial.seed] = one
    rows, drawn = [], {}
    for key, seeds in found.items():
        seeds = dict(sorted(seeds.items()))
        drawn[key] = {m: _redrawn(out, seeds, m) for m, _ in experiment.measures}
        rows.append(_row(key, seeds, drawn[key]))
    # Ours first; then from the most annotation to the least, and of one training the reading grown before literal.
    rows.sort(key=lambda r: (r["method"] != "weak", -r["hours"], r["reading"] or ""))
    ours = (f"weak_{experiment.masks:g}", None)
    others = [(r["row"], r["reading"]) for r in rows if r["method"] == "voxresnet" and ours in drawn]
    gaps = [_difference(ours, key, drawn[ours], drawn[key], rows[0]["test_stacks"]) for key in others]
    return rows, [gap for gap in gaps if gap["seeds"]]


def _redrawn(out: Path, seeds: dict[int, dict], measure: str) -> dict[int, np.ndarray]:
    """{seed: what `redraw` gives}; nothing where there are no such scores, as of boxes alone, which have no masks."""
    for one in seeds.values():
        if any(measure not in group for group in one["scores"]["groups"].values()):
            if one["masks"] or not measure.startswith("segmentation"):
                path = out / "scores" / "_".join(filter(None, (one["trial"]["name"], one["reading"])))
                raise InputError(
                    f"{path}.json", f"has no {measure} of every group", "remove it and run this again"
                )
            return {}
    return {seed: redraw(one["scores"], measure) for seed, one in seeds.items()}


def _row(key, seeds: dict[int, dict], drawn: dict) -> dict:
    every = list(seeds.values())
    first, trial = every[0], every[0]["trial"]
    groups = first["scores"]["groups"]
    row = {
        "row": key[0],
        "method": trial["method"],
        "reading": key[1],
        "masks": trial["masks"],
        "drawn": first.get("drawn", False),
        "masks_number": first["masks"],
        **{k: first[k] for k in ("stacks", "instances", "threads")},
        "hours": round(_hours(first), 2),
        "seeds": list(seeds),
        "steps": [one["steps"] for one in every],
        "fit_minutes": [round(one["fit_seconds"] / 60, 1) for one in every],
        "predict_seconds": [one["predict_seconds"] for one in every],
        "peak_gib": max(one["peak_gib"] or 0 for one in every),
        "gpu_gib": max(one.get("gpu_gib") or 0 for one in every) or None,
        "test_stacks": {group: groups[group]["stacks"] for group in sorted(groups)},
        **{k: ", ".join(dict.fromkeys(one[k] for one in every)) for k in ("device", "torch")},
    }
    for measure, of_seeds in drawn.items():
        row[measure] = None
        if not of_seeds:
            continue
        values = np.array(list(of_seeds.values()))
        row[measure] = {
            **{g: _rounded(one["scores"]["groups"][g][measure] for one in every) for g in sorted(groups)},
            "mean": _rounded(values[:, 0]),
            "each_seed": values[:, 0].round(4).tolist(),
            "interval": interval(values, row["test_stacks"]),
        }
    return row


def _rounded(values) -> float:
    return round(float(np.mean(list(values))), 4)


def _hours(score: dict) -> float:
    """Hours for what was learnt from: every box and the masks, as many as there were."""
    n, masks = score["instances"], score["masks"]
    if score["trial"]["method"] == "voxresnet":
        return AnnotationTime().full_hours([n])
    return AnnotationTime().weak_hours([n], masks / n, rounding=False)


def _difference(ours, other, first: dict, second: dict, stacks: dict) -> dict:
    """Our scores minus those of another row, of the same seeds on the same frames."""
    both = [m for m in first if first[m] and second[m]]
    seeds = [seed for seed in first[both[0]] if seed in second[both[0]]] if both else []
    gap = {"row": ours[0], "minus": other[0], "reading": other[1], "seeds": seeds}
    for measure in both if seeds else ():
        values = np.array([first[measure][seed] - second[measure][seed] for seed in seeds])
        gap[measure] = {"mean": _rounded(values[:, 0]), "interval": interval(values, stacks)}
    return gap


def _markdown(experiment: Experiment, about: dict, rows: list[dict], differences: list[dict]) -> str:
    groups = sorted(experiment.test)
    columns = [*(f" group {int(g)}" for g in groups), " mean"] if len(groups) > 1 else [""]
    keys = [*groups, "mean"] if len(groups) > 1 else ["mean"]
    head = ["method", "seeds", "masks", "hours (computed)"]
    head += [name + c for _, name in experiment.measures for c in (*columns, ", 95 % interval")]
    table = []
    for row in rows:
        masks = f"{row['masks_number']} of {row['instances']}"
        cells = [_name(row), str(row["seeds"])[1:-1], masks, f"{row['hours']:.2f}"]
        for measure, _ in experiment.measures:
            score = row[measure]
            cells += [f"{score[k]:.4f}" if score else "-" for k in keys]
            cells.append(_interval(score, "{:.3f} to {:.3f}"))
        table.append(cells)
    title = f"# {experiment.name}: {about['data']}; settings of {about['size']} size"
    lines = [title, "", *_table(head, table), ""]
    if differences:
        head = [
            "ours minus",
            "seeds",
            *(n + c for _, n in experiment.measures for c in ("", ", 95 % interval")),
        ]
        by_name = {(row["row"], row["reading"]): _name(row) for row in rows}
        table = []
        for gap in differences:
            cells = [by_name[gap["minus"], gap["reading"]], str(gap["seeds"])[1:-1]]
            for measure, _ in experiment.measures:
                cells.append(f"{gap[measure]['mean']:+.4f}" if measure in gap else "-")
                cells.append(_interval(gap.get(measure), "{:+.3f} to {:+.3f}"))
            table.append(cells)
        lines += [*_table(head, table), ""]
    head = [
        "the paper, on its own data",
        "hours (printed)",
        *(n + c for _, n in experiment.columns for c in columns),
    ]
    table = [
        [row, "-" if hours is None else f"{hours}", *(f"{v:.4f}" for score in scores for v in score)]
        for row, (hours, *scores) in experiment.printed.items()
    ]
    return "\n".join([*lines, *_table(head, table), "", _footer(rows)]) + "\n"


def _footer(rows: list[dict]) -> str:
    """What a reader must know of the columns; of the bootstrap only what was done."""
    first = rows[0]
    text = f"Device: {', '.join(dict.fromkeys(row['device'] for row in rows))}. "
    if min(first["test_stacks"].values()) < LEAST:
        text += f"No intervals: a group has fewer than {LEAST} test stacks. "
    else:
        blocks = " and ".join(
            f"{block_of(n)} of {n} (group {int(g)})" for g, n in first["test_stacks"].items()
        )
        text += f"""Intervals: bootstrap over seeds and over blocks of consecutive test frames, {blocks}, the same for \
every seed and row. A group is one film whose cells outlive a block: intervals are of other times of these films, not \
of other cultures. """
        if any(len(row["seeds"]) == 1 for row in rows):
            text += "With one seed they are of these stacks, one training. "
    if "segmentation_f1" in first:
        text += """The paper does not define its segmentation F1: counted in matched boxes, whichever instance a voxel \
is given to, is the best guess, of the right instance is stricter. """
    if any(row["reading"] for row in rows):
        text += """`grown`: components grown back into their boundary; `literal`: components alone, as the paper \
words it."""
    return text.strip()


def _name(row: dict) -> str:
    if row["method"] == "voxresnet":
        return f"VoxResNet, {row['stacks']} stacks, {row['reading']}"
    share = row["masks_number"] / row["instances"] if row["drawn"] else row["masks"]
    return f"boxes and {100 * share:.3g} % of the masks" + ", drawn" * row["drawn"]


def _interval(score: dict | None, form: str) -> str:
    return form.format(*score["interval"]) if score and score["interval"] else "-"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
