"""Real embryos: trained on Emb01-Emb08 with 20 % of the masks, tested on Emb09-Emb11 (BBBC050, see data_scripts).

    python benchmarks/bbbc050.py DATA [--minutes 20] [--seed 0] [--out FOLDER]

DATA: the folder that `data_scripts/fetch_bbbc050.py` wrote. Writes results/bbbc050.json beside itself, and a
picture of the worst test stack.
"""

import argparse
import tempfile
from pathlib import Path

from common import RESULTS, provenance, weakseg

from weakseg_lib.data.files import read_json, write_json

KEYS = ("detection_f1", "object_f1", "segmentation_f1", "segmentation_f1_union", "ctc_seg", "ctc_det")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "weakseg_bbbc050")
    options = parser.parse_args()
    train = [options.data / "train" / f"{i:02d}" for i in range(1, 9)]
    test = [options.data / "train" / f"{i:02d}" for i in range(9, 12)]
    run, result = options.out / f"run{options.seed}", options.out / f"result{options.seed}"
    weakseg("annotate", *train, "--masks", 0.2, "--seed", options.seed)
    weakseg("fit", *train, "--out", run, "--minutes", options.minutes, "--seed", options.seed)
    weakseg("predict", run, *test, "--out", result)
    scores = []
    for sequence in test:
        name = sequence.name
        weakseg("evaluate", result / f"{name}_RES", sequence, "--json", result / f"{name}.json")
        scores.append(read_json(result / f"{name}.json"))
    weakseg("evaluate", result / "11_RES", test[-1], "--picture", RESULTS / "bbbc050_worst.png")
    info = read_json(run / "run.json")
    kept = {k: info[k] for k in ("stacks", "instances", "masks", "steps", "score_threshold", "nms_threshold")}
    write_json(
        RESULTS / "bbbc050.json",
        provenance(options.seed)
        | {"data": "BBBC050 (real), train Emb01-08, test Emb09-11", "minutes": options.minutes, **kept}
        | {
            "pooled": pooled(scores),
            "embryos": {n.name: _short(s["mean"]) for n, s in zip(test, scores, strict=True)},
        },
    )
    print((RESULTS / "bbbc050.json").read_text())


def pooled(scores) -> dict:
    """Detection and object F1 over all instances of the test embryos together."""
    found = {}
    for name in ("detection", "object"):
        counts = [group["counts"][name] for s in scores for group in s["groups"].values()]
        hits, total = sum(c["pairs"] for c in counts), sum(c["predicted"] + c["true"] for c in counts)
        found[f"{name}_f1"] = round(2 * hits / total, 4)
    return found


def _short(numbers) -> dict:
    return {key: round(numbers[key], 4) for key in KEYS if numbers.get(key) is not None}


if __name__ == "__main__":
    main()
