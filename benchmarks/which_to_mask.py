"""Which cells to mask next: the ways of weakseg_lib.rank against a random choice of the same number of masks.

    python benchmarks/which_to_mask.py {hl60,embryos} DATA --out FOLDER
        [--steps 150] [--start 1] [--add 1] [--seeds 5] [--only ARM ...]

hl60: DATA of `weakseg simulate hl60 DATA --stacks 12`; stacks spread over the first half of both groups teach, over
the second half test. embryos: DATA of data_scripts/fetch_bbbc050.py (real); Emb01-Emb08 teach, Emb09-Emb11 test.

For every seed a network learns from all boxes and --start masks a stack, chosen by chance ("start"). By what it says,
each way adds --add masks a stack on average, wherever it likes, and a network is trained anew from the same seed on
these; "all" has every mask: more than that no choice can teach. All are scored on the unseen stacks. What is done is
not done again, so it may be stopped at any time. Writes results/which_to_mask_NAME.json and .md beside itself.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, provenance
from scipy import stats

from weakseg_lib.config import load_config
from weakseg_lib.data.annotation import annotate, write_weak
from weakseg_lib.data.files import atomic_write_text, read_json, write_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.evaluation import evaluate
from weakseg_lib.measures import count_overlaps
from weakseg_lib.prediction import Detections, paste, predict, working_image
from weakseg_lib.rank import WAYS, Cells, choose, look_at_cells, views_of_cells
from weakseg_lib.runs import RUN, load_run
from weakseg_lib.train import fit

TRAIN, TEST = 4, 4  # stacks of each sequence, at most
DATA = {"hl60": "HL60, laptop size (simulated by us)", "embryos": "BBBC050, real embryos"}
MEASURES = ("mask_iou", "segmentation_f1", "object_f1", "ctc_seg", "detection_f1")
EXPLAINED = (
    "mask_iou: mean IoU of true masks with those predicted in the true boxes; detection has no part in it."
)
ARMS = ("start", *WAYS, "all")


def split(name: str, data: Path):
    """The sequences that teach and those that test, with their frames."""
    if name == "embryos":
        train, test = range(1, 9), range(9, 12)
        return (
            *([some(Sequence(data / "train" / f"{i:02d}"), 0, 1, 2) for i in part] for part in (train, test)),
        )
    groups = [Sequence(data / group) for group in ("01", "02")]
    return [some(s, 0, 0.5, TRAIN) for s in groups], [some(s, 0.5, 1, TEST) for s in groups]


def some(sequence, start, stop, number) -> Sequence:
    """Up to `number` frames, spread from one share of the frames to another."""
    frames = sequence.frames[round(start * len(sequence.frames)) : round(stop * len(sequence.frames))]
    return Sequence(
        sequence.path, [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, number).astype(int))]
    )


def annotated(sequences, folder: Path, masked) -> list[Sequence]:
    """The sequences, linked into `folder`, with every box and the masks of the cells in {(sequence, frame): ids}."""
    linked = []
    for n, sequence in enumerate(sequences):
        path = folder / f"{n:02d}" / sequence.name
        path.parent.mkdir(parents=True, exist_ok=True)
        for source in (sequence.path, sequence.path.parent / "dataset.json"):
            target = path.parent / source.name
            if source.exists() and not target.exists():
                os.symlink(source.resolve(), target)
        linked.append(Sequence(path, sequence.frames))
        for t in sequence.frames:
            whole = annotate(sequence.read_labels(t), 1.0, 0)
            has_mask = np.isin(whole.ids, masked[n, t])
            masks = np.where(np.isin(whole.masks, whole.ids[has_mask]), whole.masks, 0)
            partly = replace(whole, has_mask=has_mask, masks=masks if has_mask.any() else None)
            write_weak(linked[-1], t, partly, sequence.read(t).voxel_size)
    return linked


def first_masks(sequences, number, seed) -> dict:
    """`number` cells of each stack, by chance: {(sequence, frame): ids}."""
    rng, chosen = np.random.default_rng(seed), {}
    for n, sequence in enumerate(sequences):
        for t in sequence.frames:
            ids = annotate(sequence.read_labels(t), 0, 0).ids
            chosen[n, t] = rng.permutation(ids)[:number]
    return chosen


def more_masks(run, linked, masked, number, seed, kept: Path) -> dict:
    """{way: {(sequence, frame): ids}}: those of `masked` and `number` more of each way; kept as a file."""
    if kept.is_file():
        return {way: dict(zip(masked, ids.values(), strict=True)) for way, ids in read_json(kept).items()}
    looked, stacks = [], list(masked)
    for i, (n, t) in enumerate(stacks):
        stack = linked[n].read(t)
        whole = annotate(Sequence(linked[n].path.resolve()).read_labels(t), 1.0, 0)
        known = replace(whole, has_mask=np.isin(whole.ids, masked[n, t]))
        looked.append(look_at_cells(run, stack, known, number=i, by="both", seed=seed))
    cells, chosen = Cells.joined(looked), {}
    for way in WAYS:
        best, _ = choose(cells, way, number, seed)
        chosen[way] = {
            key: np.append(ids, cells.ids[best[cells.stack[best] == i]])
            for i, (key, ids) in enumerate(masked.items())
        }
    write_json(kept, {w: {f"{n}/{t}": ids.tolist() for (n, t), ids in c.items()} for w, c in chosen.items()})
    return chosen


def score(run, test, out: Path) -> dict:
    """The measures on unseen stacks: means over the sequences, of mask_iou over the cells."""
    means, overlaps = [], []
    for sequence in test:
        result = out / f"{sequence.path.name}_RES"
        predict(run.folder, [sequence], result)
        means.append(evaluate(result, sequence.path, frames="predicted")["mean"])
        for t in sequence.frames:
            overlaps.append(mask_ious(run, sequence.read(t, with_labels=True)))
    found = {key: float(np.mean([m[key] for m in means])) for key in MEASURES[1:]}
    return found | {"mask_iou": float(np.concatenate(overlaps).mean())}


def mask_ious(run, stack) -> np.ndarray:
    """IoU of every true cell with the mask that the network gives its true box, (n,)."""
    true, config = annotate(stack.labels, 0, 0), run.config
    _, scale = working_image(run, stack)
    masks = np.zeros((len(true.ids), *(2 * config.roi_size,) * 3), np.uint8)
    for which, seen, _ in views_of_cells(run, stack, true):
        masks[which] = (seen[0] * 255).round().numpy()
    given = Detections(
        (true.boxes * np.tile(scale, 2)).astype(np.float32), np.ones(len(masks)), true.classes, masks
    )
    labels = paste(given, stack.labels.shape, scale, config.roi_margin, run.info["mask_level"])
    overlaps, own = count_overlaps(labels, stack.labels), np.zeros(len(true.ids))
    cells = overlaps.predicted_ids - 1  # those whose mask is not empty; label i + 1 is cell i
    own[cells] = overlaps.iou[np.arange(len(cells)), cells]
    return own


def trial(name, sequences, masked, test, out: Path, config, seed) -> dict:
    """Train on these masks and score; the earlier score where there is one."""
    kept = out / "scores" / f"{name}.json"
    if not kept.is_file():
        linked = annotated(sequences, out / "annotated" / name, masked)
        run = out / "runs" / name
        begun = (run / RUN).is_file()
        fitted = fit(linked, run, None if begun else config, seed=seed, resume=begun)
        found = score(fitted, test, out / "predictions" / name)
        write_json(kept, found | {"masks": fitted.info["masks"], "fit_seconds": fitted.info["seconds"]})
    return read_json(kept)


def interval(values) -> list[float] | None:
    """95 % interval of the mean of a few values (Student's t); None for one alone."""
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def summary(rows: dict) -> dict:
    """{arm: {measure: mean, interval over seeds, difference to random on the same seeds and its interval}}."""
    found = {}
    for arm, seeds in rows.items():
        found[arm] = {"seeds": len(seeds), "masks": float(np.mean([s["masks"] for s in seeds.values()]))}
        for key in MEASURES:
            own = [s[key] for s in seeds.values()]
            pairs = [s[key] - rows["random"][n][key] for n, s in seeds.items() if n in rows.get("random", {})]
            found[arm][key] = {"mean": float(np.mean(own)), "interval": interval(own)}
            if arm != "random" and pairs:
                found[arm][key] |= {"to_random": float(np.mean(pairs)), "to_random_interval": interval(pairs)}
    return found


def table(about: dict) -> str:
    lines = [f"# Which cells to mask next: {about['data']}", "", f"`{about['command']}`; {about['device']}; "]
    lines[-1] += f"{about['cpu']}; torch {about['torch']}. 95 % intervals over seeds (Student's t)."
    lines += ["", EXPLAINED, "", "Mean, and in brackets its interval:", ""]
    head = "|" + "---|" * (len(MEASURES) + 3)
    lines += ["| choice | masks | seeds | " + " | ".join(MEASURES) + " |", head]
    for arm, row in about["summary"].items():
        cells = [f"{row[k]['mean']:.3f}{_spread(row[k]['interval'])}" for k in MEASURES]
        lines.append(f"| {arm} | {row['masks']:.0f} | {row['seeds']} | " + " | ".join(cells) + " |")
    lines += ["", "Difference to random on the same seeds:", "", "| choice | " + " | ".join(MEASURES) + " |"]
    lines += ["|" + "---|" * (len(MEASURES) + 1)]
    for arm, row in about["summary"].items():
        if "to_random" in row[MEASURES[0]]:
            cells = [
                f"{row[k]['to_random']:+.3f}{_spread(row[k]['to_random_interval'], '+')}" for k in MEASURES
            ]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(interval, sign="") -> str:
    return "" if interval is None else f" ({interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=DATA)
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    for option, value in (("steps", 150), ("start", 1), ("add", 1), ("seeds", 5)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args()
    train, test = split(options.name, options.data)
    settings = f"{options.steps} steps, {options.start} + {options.add} masks a stack"
    out = options.out / f"{options.name}_{options.steps}_{options.start}_{options.add}"
    about = provenance(options.seeds) | {"data": f"{DATA[options.name]}, {settings}"}
    rows, config = {}, load_config(settings=[f"steps={options.steps}"])
    for seed in range(options.seeds):
        masked = first_masks(train, options.start, seed)
        begun = trial(f"start_seed{seed}", train, masked, test, out, config, seed)
        run, linked = (
            load_run(out / f"runs/start_seed{seed}"),
            annotated(train, out / f"annotated/start_seed{seed}", masked),
        )
        chosen = more_masks(
            run, linked, masked, options.add * len(masked), seed, out / f"chosen/seed{seed}.json"
        )
        chosen["all"] = {(n, t): annotate(train[n].read_labels(t), 0, 0).ids for n, t in masked}
        for arm in options.only:
            one = (
                begun
                if arm == "start"
                else trial(f"{arm}_seed{seed}", train, chosen[arm], test, out, config, seed)
            )
            rows.setdefault(arm, {})[str(seed)] = one
            print(arm, seed, {key: round(value, 4) for key, value in one.items()}, flush=True)
            about |= {"summary": summary(rows), "rows": rows}
            write_json(RESULTS / f"which_to_mask_{options.name}.json", about)
            atomic_write_text(RESULTS / f"which_to_mask_{options.name}.md", table(about))


if __name__ == "__main__":
    main()
