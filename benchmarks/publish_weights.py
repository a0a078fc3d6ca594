"""Put a trained run into the package, in half precision, with a card that says where it is from and what it can do.

    python benchmarks/publish_weights.py results/reproduce_hl60_laptop weak_0.2_seed0 hl60

Takes OUT/runs/TRIAL and OUT/scores/TRIAL.json of `weakseg reproduce`; writes weakseg_lib/pretrained/NAME.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from weakseg_lib.data.files import atomic_write_text, write_json
from weakseg_lib.runs import CONFIG, PRETRAINED, RUN, WEIGHTS, load_tensors, save_tensors

CARD = """# {name}: weights for HL60-like nuclei

- **Trained on** simulated stacks only ({stacks} stacks, {instances} boxes, {masks} masks; `weakseg simulate hl60`,
  seed 0, laptop size), none of real data. No licence but the project's own applies.
- **Command**: `weakseg reproduce hl60 --size laptop`, trial {trial}: {steps} steps, {minutes:.1f} minutes on {device},
  torch {torch}. Stored in half precision.
- **Score** on the 100 simulated test stacks of the paper's split: detection F1 {detection}, segmentation F1
  {segmentation} (group 1, group 2), in full precision.
- **Use**: `weakseg predict {name} stack.tif --out DIR`, or `load_run("{name}")`.
- **Limits**: bright, blob-like nuclei about {cell:.0f} um across with little touching; voxels up to that of the
  simulated stacks. On another microscope or specimen it is a start at best: train on your own boxes.
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("trial", metavar="TRIAL")
    parser.add_argument("name", metavar="NAME")
    options = parser.parse_args()
    run, target = options.out / "runs" / options.trial, PRETRAINED / options.name
    scores = json.loads((options.out / "scores" / f"{options.trial}.json").read_text())
    info = json.loads((run / RUN).read_text())
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / CONFIG, target / CONFIG)
    # Paths of the machine it was trained on say nothing elsewhere.
    write_json(target / RUN, info | {"sequences": ["simulated hl60 01", "simulated hl60 02"]})
    weights = load_tensors(run / WEIGHTS)
    save_tensors(target / WEIGHTS, {k: v.half() if v.is_floating_point() else v for k, v in weights.items()})
    torch.load(target / WEIGHTS, weights_only=True)

    def both(measure):
        return " and ".join(f"{group[measure]:.3f}" for group in scores["scores"]["groups"].values())

    text = CARD.format(
        name=options.name,
        trial=options.trial,
        detection=both("detection_f1"),
        segmentation=both("segmentation_f1"),
        minutes=scores["fit_seconds"] / 60,
        cell=info["smallest_um"] / 0.4,
        **{key: info[key] for key in ("stacks", "instances", "masks", "steps", "device", "torch")},
    )
    atomic_write_text(target / "CARD.md", text)
    print(text)


if __name__ == "__main__":
    main()
