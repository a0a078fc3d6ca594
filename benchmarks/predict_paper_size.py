"""How long and in how much memory `weakseg predict` segments one stack of the paper's size, 64 x 639 x 649 voxels.

    python benchmarks/predict_paper_size.py RUN

RUN: a run folder trained on HL60-like nuclei (`make run` leaves results/00_start_here/run). The stack is
simulated, at the paper's voxel size (0.2, 0.125, 0.125) um. The paper needed 10 s on a Tesla P100. Writes
results/predict_paper_size.json beside itself.
"""

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, provenance, weakseg

from weakseg_lib.data.files import write_json
from weakseg_lib.data.prepare import to_working, working_shape
from weakseg_lib.data.simulate import hl60_frames, hl60_settings
from weakseg_lib.data.stacks import read_stack, write_tiff
from weakseg_lib.evaluation import evaluate
from weakseg_lib.prediction import detect_stack, paste
from weakseg_lib.runs import load_run

SHAPE = (64, 639, 649)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        settings = replace(hl60_settings(1, "paper"), shape=SHAPE)
        image, labels = next(hl60_frames(1, settings, options.seed))
        write_tiff(folder / "t000.tif", image, settings.voxel_size)
        write_tiff(folder / "man_seg000.tif", labels, settings.voxel_size)
        began = time.perf_counter()
        weakseg("predict", options.run, folder / "t000.tif", "--out", folder / "out")
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        scores = evaluate(folder / "out", folder / "man_seg000.tif", progress=False)["stacks"][0]
        result = provenance(options.seed) | {
            "data": f"simulated HL60, group 1, {SHAPE} voxels, {len(np.unique(labels)) - 1} nuclei",
            "seconds": round(seconds, 2),
            "peak_memory_gib": round(peak, 2),
            "seconds_by_part": _parts(load_run(options.run), folder / "t000.tif"),
            **{key: round(scores[key], 4) for key in ("detection_f1", "segmentation_f1", "object_f1")},
        }
    write_json(RESULTS / "predict_paper_size.json", result)
    for key, value in result.items():
        print(f"{key}: {value}")


def _parts(run, path) -> dict:
    """Seconds of each part, in one process and after start-up."""
    parts, began = {}, time.perf_counter()

    def lap(name):
        nonlocal began
        now = time.perf_counter()
        parts[name], began = round(now - began, 2), now

    stack = read_stack(path)
    lap("read and check")
    shape = working_shape(stack.image.shape, stack.voxel_size, run.info["working_voxel_um"])
    image = to_working(stack.image, shape, run.config.smooth)
    lap("resample and normalise")
    thresholds = run.info["score_threshold"], run.info["nms_threshold"]
    found = detect_stack(run.network, image, *thresholds)
    lap("network and masks")
    labels = paste(found, stack.image.shape, np.array(shape) / stack.image.shape, run.config.roi_margin)
    lap("paste at full resolution")
    write_tiff(path.with_name("labels.tif"), labels, stack.voxel_size)
    lap("write")
    return parts


if __name__ == "__main__":
    main()
