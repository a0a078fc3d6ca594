"""The tables of a reproduction: ours beside the paper's, with intervals, as Markdown and JSON."""

from pathlib import Path

import numpy as np

from weakseg_lib.annotation_time import AnnotationTime
from weakseg_lib.data.files import atomic_write_text, read_json, write_json
from weakseg_lib.evaluation import pool_numbers
from weakseg_lib.experiments import Experiment, Trial

BLOCK = 10  # consecutive frames that a bootstrap draws together: they show the same cells
DRAWS = 500


def write_tables(experiment: Experiment, out: Path, size: str):
    """OUT/table.json and OUT/table.md from the rows that are done."""
    rows = _rows(experiment, out)
    write_json(out / "table.json", {"experiment": experiment.name, "size": size, "rows": rows})
    atomic_write_text(out / "table.md", _markdown(experiment, rows, read_json(out / "experiment.json"), size))


def _rows(experiment: Experiment, out: Path) -> list[dict]:
    """One row for each method, share and reading; seeds are put together."""
    instances = {g: {int(t): n for t, n in c.items()} for g, c in read_json(out / "instances.json").items()}
    groups = {}
    for path in sorted((out / "scores").glob("*.json")):
        found = read_json(path)
        trial = Trial(**found["trial"])
        key = trial.name.rpartition("_seed")[0]
        groups.setdefault((key, found["reading"]), []).append((trial, found))
    rows = []
    for (key, reading), members in groups.items():
        trial = members[0][0]
        row = {
            "row": key,
            "method": trial.method,
            "reading": reading,
            "masks": trial.masks,
            "stacks": members[0][1]["stacks"],
            "instances": members[0][1]["instances"],
            "masks_number": members[0][1]["masks"],
            "hours": round(_hours(trial, instances), 2),
            "seeds": [t.seed for t, _ in members],
            "steps": [m["steps"] for _, m in members],
            "fit_minutes": [round(m["fit_seconds"] / 60, 1) for _, m in members],
            "predict_seconds": [m["predict_seconds"] for _, m in members],
            "peak_gib": max(m["peak_gib"] or 0 for _, m in members),
            "device": members[0][1]["device"],
            "threads": members[0][1]["threads"],
            "torch": members[0][1]["torch"],
        }
        for measure, _ in experiment.columns:
            row[measure] = _scores([m["scores"] for _, m in members], measure)
        rows.append(row)
    return sorted(rows, key=lambda r: (r["method"] != "weak", -r["hours"], r["reading"] or ""))


def _hours(trial: Trial, instances) -> float:
    frames = {group: tuple(ts if ts is not None else instances[group]) for group, ts in trial.frames.items()}
    known = Trial(trial.name, trial.method, trial.masks, frames, trial.seed)
    return known.hours(instances, AnnotationTime())


def _scores(scores: list[dict], measure: str) -> dict | None:
    """Each group's mean over the seeds, the plain mean of the groups, and its 95 % interval by a bootstrap over seeds
    and, within each group, over blocks of consecutive frames. None where there is no such score: boxes alone give no
    masks."""
    groups = sorted(scores[0]["groups"])
    if any(s["groups"][g].get(measure) is None for s in scores for g in groups):
        return None
    mean = {g: float(np.mean([s["groups"][g][measure] for s in scores])) for g in groups}
    stacks = [{g: [r for r in s["stacks"] if r["group"] == g] for g in groups} for s in scores]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        seeds = rng.integers(0, len(scores), len(scores))
        draws.append(np.mean([_redrawn(stacks[i], measure, rng) for i in seeds]))
    low, high = np.percentile(draws, (2.5, 97.5))
    each = [round(float(np.mean([s["groups"][g][measure] for g in groups])), 4) for s in scores]
    found = {g: round(v, 4) for g, v in mean.items()}
    return found | {
        "mean": round(float(np.mean(list(mean.values()))), 4),
        "each_seed": each,
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


def _redrawn(groups: dict[str, list[dict]], measure: str, rng) -> float:
    values = []
    for rows in groups.values():
        block = min(BLOCK, max(1, len(rows) // 3))
        starts = rng.integers(0, len(rows) - block + 1, -(-len(rows) // block))
        chosen = [rows[s + i] for s in starts for i in range(block)][: len(rows)]
        values.append(pool_numbers(row["counts"] for row in chosen)[measure])
    return float(np.mean(values))


def _markdown(experiment: Experiment, rows: list[dict], asked: dict, size: str) -> str:
    data = f"real data, {asked['data']}" if asked["real"] else f"simulated stacks, {size} size, seed 0"
    head = ["method", "masks", "hours (computed)"]
    groups = sorted(experiment.test)
    columns = [*(f" group {int(g)}" for g in groups), " mean"] if len(groups) > 1 else [""]
    for _, name in experiment.columns:
        head += [name + c for c in columns] + ["95 % interval"]
    lines = [f"# {experiment.name}: {data}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [_name(row), f"{row['masks_number']} of {row['instances']}", f"{row['hours']:.2f}"]
        for measure, _ in experiment.columns:
            score = row[measure]
            if score is None:
                cells += ["-"] * (len(columns) + 1)
                continue
            cells += [f"{score[k]:.4f}" for k in ([*groups, "mean"] if len(groups) > 1 else ["mean"])]
            cells.append("{:.3f} to {:.3f}".format(*score["interval"]))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_printed(experiment, columns)]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    device = rows[0]["device"] if rows else "-"
    lines += [
        "",
        f"Seeds {', '.join(map(str, seeds))}; device {device}. Intervals: bootstrap over seeds and blocks of {BLOCK} "
        "consecutive test frames. `grown`: components grown back into their boundary; `literal`: components alone, "
        "as the paper words it.",
    ]
    return "\n".join(lines) + "\n"


def _name(row: dict) -> str:
    if row["method"] == "weak":
        return f"boxes and {100 * row['masks']:.3g} % of the masks"
    return f"VoxResNet, {row['stacks']} stacks, {row['reading']}"


def _printed(experiment: Experiment, columns) -> list[str]:
    """The paper's own numbers, apart: they are of other data."""
    names = [name for _, name in experiment.columns]
    head = ["the paper, on its own data", "hours (printed)", *(n + c for n in names for c in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row, (hours, *scores) in experiment.printed.items():
        cells = [row, "-" if hours is None else f"{hours}", *(f"{v:.4f}" for score in scores for v in score)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
