"""Milliseconds of a training step of the laptop preset, median of 35 after 5 to warm up.

    python benchmarks/training_step.py SEQ [SEQ ...] [--seed 0]

SEQ: annotated sequences, such as results/00_start_here/train/01 and 02 after `make run`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from common import provenance

from weakseg_lib import Config, fit
from weakseg_lib.trainer import Trainer


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sequences", nargs="+", metavar="SEQ")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    times, step = [], Trainer.step

    def timed(trainer):
        began = time.perf_counter()
        losses = step(trainer)
        times.append(1000 * (time.perf_counter() - began))
        return losses

    Trainer.step = timed
    with tempfile.TemporaryDirectory() as folder:
        fit(options.sequences, Path(folder) / "run", Config(steps=40), seed=options.seed)
    print(provenance(options.seed) | {"milliseconds": round(statistics.median(times[5:]))})


if __name__ == "__main__":
    main()
