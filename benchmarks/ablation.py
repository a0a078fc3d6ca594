"""What each departure from the paper buys: one change at a time, the same stacks, boxes, masks, steps and seed.

    python benchmarks/ablation.py hl60 DATA --out FOLDER [--steps 300] [--seeds 1] [--only NAME ...]
    python benchmarks/ablation.py embryos DATA --out FOLDER [--steps 500] [--seeds 1] [--only NAME ...]

hl60: DATA is a folder of `weakseg reproduce hl60` (OUT/data, simulated, or Fluo-N3DH-SIM+); the paper's 13 training
stacks, every fourth of its test stacks. embryos: DATA is what data_scripts/fetch_bbbc050.py wrote; trained on
Emb01-Emb08, tested on Emb09-Emb11. What is done already is not done again. Writes results/ablation_NAME.json and .md
beside itself; a row for every change, with the mean over the seeds and each seed.
"""

import argparse
from pathlib import Path

import numpy as np
from common import RESULTS, provenance

from weakseg_lib.config import PAPER_METHOD, load_config
from weakseg_lib.data.files import atomic_write_text, read_json, write_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.evaluation import evaluate
from weakseg_lib.experiments import EXPERIMENTS
from weakseg_lib.prediction import predict
from weakseg_lib.runs import RUN
from weakseg_lib.train import fit

ours = load_config()
CHANGES = {  # name: (share of the masks, settings beyond the default)
    "default": (0.2, {}),
    "masks_100": (1.0, {}),
    "masks_5": (0.05, {}),
    "paper": (0.2, PAPER_METHOD | {"loss": "paper"}),
    "paper_loss_and_matching": (0.2, {"loss": "paper"}),
    "binary_targets": (0.2, {"soft_targets": False}),
    "masks_of_14": (0.2, {"roi_size": 7}),
    "masks_of_20": (0.2, {"roi_size": 10}),
    "tight_region": (0.2, {"roi_margin": 0.0}),
    "mask_skip": (0.2, {"mask_skip": True}),
    "dice": (0.2, {"dice": 1.0}),
    "boxes_teach_masks": (0.2, {"box_supervision": 0.5}),
    "group_norm": (0.2, {"norm": "group"}),
    "no_top_down": (0.2, {"top_down": False}),
    "one_anchor": (0.2, {"anchors": 1}),
    "flips_only": (0.2, {"zoom": 0.0, "contrast": 0.0, "noise": 0.0}),
    "more_augmentation": (0.2, {"zoom": 0.25, "contrast": 0.5, "noise": 0.12, "blur": 1.0}),
    "no_average": (0.2, {"average": 0.0}),
    "one_view": (0.2, {"views": 1}),
}
DATA = {"hl60": "HL60, laptop size (simulated by us)", "embryos": "BBBC050, real embryos"}
MEASURES = ("detection_f1", "object_f1", "segmentation_f1", "segmentation_f1_union", "ctc_seg")


def split(name: str, data: Path):
    """(training sequences, [(test sequence, its group)])."""
    if name == "embryos":
        train = [Sequence(data / "train" / f"{i:02d}") for i in range(1, 9)]
        return train, [Sequence(data / "train" / f"{i:02d}") for i in range(9, 12)]
    experiment = EXPERIMENTS["hl60"]
    train = [Sequence(data / group, frames) for group, frames in experiment.train.items()]
    return train, [Sequence(data / group, frames[::4]) for group, frames in experiment.test.items()]


def trial(data_name, data, out: Path, name: str, seed: int, steps: int) -> dict:
    """Train, predict and score one change once; the scores of the test groups' mean."""
    label = f"{name}_{steps}_seed{seed}"
    score = out / "scores" / f"{label}.json"
    if not score.is_file():
        masks, changes = CHANGES[name]
        train, test = split(data_name, data)
        run = out / "runs" / label
        begun = (run / RUN).is_file()
        config = None if begun else ours.replace(**changes, steps=steps)
        fitted = fit(train, run, config, seed=seed, resume=begun, masks=masks)
        means = []
        for sequence in test:
            result = out / "predictions" / label / f"{sequence.path.name}_RES"
            predict(run, [sequence], result)
            means.append(evaluate(result, sequence.path, frames="predicted")["mean"])
        found = {key: float(np.mean([m[key] for m in means])) for key in MEASURES}
        found |= {"fit_seconds": fitted.info["seconds"], "masks": fitted.info["masks"]}
        write_json(score, found)
    return read_json(score)


def table(rows: dict[str, list[dict]], about: dict) -> str:
    lines = [f"# One change at a time: {about['data']}", ""]
    lines += [
        f"`{about['command']}`; {about['device']}; {about['cpu']}; torch {about['torch']}; seeds {about['seed']}."
    ]
    lines += ["", "| change | masks | " + " | ".join(MEASURES) + " | minutes of training |"]
    lines += ["|" + "---|" * (len(MEASURES) + 3)]
    for name, seeds in rows.items():
        cells = [name, str(seeds[0]["masks"])]
        for key in MEASURES:
            each = [s[key] for s in seeds]
            spread = f" ({min(each):.3f} to {max(each):.3f})" if len(each) > 1 else ""
            cells.append(f"{np.mean(each):.3f}{spread}")
        cells.append(f"{np.mean([s['fit_seconds'] for s in seeds]) / 60:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=("hl60", "embryos"))
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parser.parse_args()
    about = provenance(options.seeds) | {
        "command": f"python benchmarks/ablation.py {options.name} DATA --out FOLDER --steps {options.steps}",
        "seed": ", ".join(map(str, range(options.seeds))),
        "data": f"{DATA[options.name]}, {options.steps} steps",
    }
    kept = RESULTS / f"ablation_{options.name}.json"
    earlier = read_json(kept) if kept.is_file() else {}
    same = all(earlier.get(key) == about[key] for key in ("data", "seed"))
    rows = earlier["rows"] if same else {}  # other changes of the same comparison stay
    for name in options.only:
        rows[name] = []
        for seed in range(options.seeds):
            found = trial(options.name, options.data, options.out, name, seed, options.steps)
            rows[name].append(found)
            print(name, seed, {k: round(v, 4) for k, v in found.items()}, flush=True)
            write_json(kept, about | {"rows": rows})
            atomic_write_text(RESULTS / f"ablation_{options.name}.md", table(rows, about))


if __name__ == "__main__":
    main()
