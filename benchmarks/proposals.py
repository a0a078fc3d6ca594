"""How much of an annotation the proposed boxes save: recall, precision, and boxes that need little or no correction.

    python benchmarks/proposals.py NAME=SEQ[,SEQ...] ... [--by maxima hl60] [--stacks 3]

Data here: `weakseg simulate hl60 DIR --stacks 3 --seed 101`, celegans likewise, and data_scripts/fetch_bbbc050.py.
NAME says in the table what the stacks are, simulated or real; SEQ is a sequence folder with full labels, of which the
first `--stacks` are taken. Writes results/proposals.json and .md beside itself; other rows of them stay.
"""

import argparse
import time

import numpy as np
from common import RESULTS, provenance

from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.files import atomic_write_text, read_json, write_json
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.maxima import blob_diameter
from weakseg_lib.measures import match_boxes
from weakseg_lib.propose import MAXIMA, propose_boxes
from weakseg_lib.runs import load_run

FOUND, GOOD = 0.4, 0.7  # box IoU above which a cell is found, and its box needs little or no correction
COLUMNS = ("stacks", "cells", "proposed", "recall", "precision", "good", "seconds a stack")


def measure(sequences, by, stacks) -> dict:
    """Pooled over the first `stacks` of each sequence; good: the share of proposed boxes with IoU > GOOD."""
    found = good = 0
    n, cells, proposed, seconds, diameters = 0, 0, 0, 0.0, []
    who = MAXIMA if by == MAXIMA else load_run(by)
    for sequence in map(Sequence, sequences):
        for t in sequence.frames[:stacks]:
            stack = sequence.read(t, with_labels=True)
            start = time.perf_counter()
            boxes = propose_boxes(stack, who).boxes
            seconds += time.perf_counter() - start
            true = boxes_of_labels(stack.labels)[1]
            found += len(match_boxes(boxes, true, FOUND)[0])
            good += len(match_boxes(boxes, true, GOOD)[0])
            n, cells, proposed = n + 1, cells + len(true), proposed + len(boxes)
            diameters.append(blob_diameter(stack.image, stack.voxel_size) if by == MAXIMA else np.nan)
    row = [
        n,
        cells,
        proposed,
        found / max(cells, 1),
        found / max(proposed, 1),
        good / max(proposed, 1),
        seconds / n,
    ]
    more = {"diameters_um": np.round(diameters, 2).tolist()} if by == MAXIMA else {}
    return dict(zip(COLUMNS, (round(v, 3) for v in row), strict=True)) | more


def table(rows: dict) -> str:
    lines = [
        "# Proposed boxes against true ones",
        "",
        f"Found: box IoU > {FOUND}; good: share of the proposed ",
    ]
    lines[-1] += f"boxes with IoU > {GOOD}."
    lines += ["", "| stacks | by | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for row in rows.values():
        lines.append("| " + " | ".join(str(row[key]) for key in ("name", "by", *COLUMNS)) + " |")
    commands = dict.fromkeys(f"`{row['command']}`; {row['device']}; {row['cpu']}" for row in rows.values())
    return "\n".join([*lines, "", *commands]) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", metavar="NAME=SEQ")
    parser.add_argument("--by", nargs="+", default=[MAXIMA, "hl60"])
    parser.add_argument("--stacks", type=int, default=3)
    options = parser.parse_args()
    kept = RESULTS / "proposals.json"
    rows = read_json(kept)["rows"] if kept.is_file() else {}
    for item in options.data:
        name, _, sequences = item.rpartition("=")
        for by in options.by:
            row = {"name": name, "by": by} | measure(sequences.split(","), by, options.stacks)
            print(row, flush=True)
            rows[f"{name}, {by}"] = row | provenance(0)
            write_json(kept, {"rows": rows})
            atomic_write_text(RESULTS / "proposals.md", table(rows))


if __name__ == "__main__":
    main()
