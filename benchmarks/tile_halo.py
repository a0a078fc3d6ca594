"""What a tile misses that is given less than the network's whole reach: the same stack by tiles and as a whole.

    OMP_NUM_THREADS=1 python benchmarks/tile_halo.py [--seen 1 0.5 0.25 0] [--seed 3]

The weights `hl60` segment a simulated stack (HL60, group 2) of 96 x 192 x 192 voxels, once whole and then by tiles of
32 x 64 x 64 working voxels for each share of the reach (`weakseg_lib.model.network.SEEN`). Boxes are matched at
IoU > 0.5; their differences are in voxels of the stack. Writes results/tile_halo.json beside itself.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, provenance

from weakseg_lib.data.files import write_json
from weakseg_lib.data.simulate import hl60_frames, hl60_settings
from weakseg_lib.data.stacks import read_stack, write_tiff
from weakseg_lib.measures import box_iou, count_overlaps
from weakseg_lib.model import network
from weakseg_lib.prediction import predict_stack
from weakseg_lib.runs import load_run

SETTINGS = replace(hl60_settings(2), shape=(96, 192, 192), cells=110)


def segment(run, stack, seen, tile):
    network.SEEN = seen
    copy = network.Network(run.config.replace(tile=tile), run.info["anchor_sizes"])
    copy.load_state_dict(run.network.state_dict())
    began = time.perf_counter()
    found = predict_stack(replace(run, network=copy.eval()), stack)
    return found, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seen", nargs="+", type=float, default=[1.0, 0.5, 0.25, 0.0])
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    run, rows = load_run("hl60", "cpu"), []
    image, _ = next(hl60_frames(2, SETTINGS, options.seed))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t000.tif"
        write_tiff(path, image, SETTINGS.voxel_size)
        stack = read_stack(path)
        whole, _ = segment(run, stack, 1.0, (1000, 1000, 1000))
        for seen in options.seen:
            found, seconds = segment(run, stack, seen, (32, 64, 64))
            iou = np.asarray(box_iou(found.boxes, whole.boxes))
            here, there = np.arange(len(iou))[iou.max(1) > 0.5], iou.argmax(1)[iou.max(1) > 0.5]
            scores = np.abs(found.scores[here] - whole.scores[there])
            masks = count_overlaps(found.labels, whole.labels).iou.max(0)
            rows.append({"seen": seen, "cells": len(found.ids), "not in the whole": len(iou) - len(here)})
            rows[-1] |= {"score, largest difference": round(float(scores.max()), 4)}
            rows[-1] |= {
                "box, mean difference": round(float(np.abs(found.boxes[here] - whole.boxes[there]).mean()), 3)
            }
            rows[-1] |= {
                "mask IoU, mean": round(float(masks.mean()), 4),
                "lowest": round(float(masks.min()), 3),
            }
            rows[-1] |= {"seconds": round(seconds, 1)}
            print(rows[-1], flush=True)
    about = {"data": "simulated HL60, group 2, 96 x 192 x 192 voxels", "cells of the whole": len(whole.ids)}
    write_json(RESULTS / "tile_halo.json", provenance(options.seed) | about | {"rows": rows})


if __name__ == "__main__":
    main()
