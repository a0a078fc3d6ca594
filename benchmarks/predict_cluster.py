"""Prediction by Dask's workers: voxels a second with 1 and 2, memory from 1 to 50 stacks, and a Zarr of 4 GB by blocks.

    python benchmarks/predict_cluster.py RUN [--part throughput memory zarr] [--quick] [--folder DIR]

RUN: a run folder trained on HL60-like nuclei, or hl60. Stacks are simulated; the large image is one simulated stack
at the paper's voxel size, repeated along all axes, uint16. Every process has one thread. Memory is resident memory, all
processes added up (what they share is counted in each), looked at five times a second. --quick: a trial of this script,
not a measurement. Writes results/predict_cluster.json beside itself and prints the tables of it as Markdown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from common import RESULTS, provenance  # noqa: E402

from weakseg_lib.cluster import connect  # noqa: E402
from weakseg_lib.data.files import read_json, write_json  # noqa: E402
from weakseg_lib.data.ome_zarr_write import create_ome_zarr  # noqa: E402
from weakseg_lib.data.simulate import hl60_frames, hl60_settings  # noqa: E402
from weakseg_lib.data.stacks import write_tiff  # noqa: E402
from weakseg_lib.prediction import predict  # noqa: E402
from weakseg_lib.tiling import tiles  # noqa: E402

SETTINGS = replace(hl60_settings(1), shape=(32, 320, 320), cells=68)
MIB = 2**20


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", help="where the large files go (default: the system's temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = RESULTS / "predict_cluster.json"
    result = read_json(out) if out.exists() and not options.quick else {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in options.part:
            rows = PARTS[part](options, Path(folder))
            result[part] = provenance(options.seed) | {"rows": rows}
            print(markdown(rows), flush=True)
            if not options.quick:
                write_json(out, result)


def throughput(options, folder):
    """Seconds from the call of `predict` to its end, by workers that have imported everything."""
    stacks, rows = 4 if options.quick else 16, []
    sequence, voxels = write_stacks(folder / "many/01", stacks, options)
    for workers in (1, 2):
        with connect("local", workers) as client:
            client.run(lambda: __import__("weakseg_lib.prediction"))
            began = time.perf_counter()
            found = by_workers(client, options.run, sequence, folder / f"by_{workers}")
            seconds = time.perf_counter() - began
        speed = stacks * voxels / seconds
        rows.append({"workers": workers, "stacks": stacks, "seconds": round(seconds, 1), "cells": found})
        rows[-1] |= {"voxels a second": round(speed), "speed-up": round(rows[0]["seconds"] / seconds, 2)}
    return rows


def memory(options, folder):
    """Of one worker that predicts 50 stacks in all: the most it had so far."""
    rows, done = [], 0
    with connect("local", 1) as client, watch() as peak:
        (worker,) = client.run(os.getpid).values()
        for stacks in (1, 2, 3) if options.quick else (1, 10, 50):
            sequence, _ = write_stacks(folder / f"memory{stacks}/01", stacks - done, options)
            by_workers(client, options.run, sequence, folder / f"memory{stacks}/out")
            now = psutil.Process(worker).memory_info().rss
            rows.append({"stacks": stacks, "worker, peak MiB": peak[worker] // MIB, "after, MiB": now // MIB})
            done = stacks
    return rows


def zarr(options, folder):
    """`weakseg predict` on an image that is one stack repeated; all its processes."""
    shape = (48, 256, 256) if options.quick else (512, 2048, 2048)
    settings = hl60_settings(1, "paper")
    stack, _ = next(hl60_frames(1, settings, options.seed))
    image, rows = folder / "large.ome.zarr", []
    array = create_ome_zarr(image, shape, (64, 256, 256), np.uint16, settings.voxel_size)
    for chunk, _ in tiles(shape, (64, 256, 256), (0, 0, 0), 1):
        index = (np.arange(s.start, s.stop) % n for s, n in zip(chunk, stack.shape, strict=True))
        array[chunk] = stack[np.ix_(*index)]
    for workers in (0, 2):
        out = folder / f"large_by_{workers}"
        words = ["predict", options.run, image, "--out", out, "--blocks", "--workers", workers]
        words += ["--device", "cpu"]
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "weakseg_lib", *map(str, words)])
        with watch(process.pid) as peak:
            if process.wait():
                sys.exit("it failed")
        seconds = time.perf_counter() - began
        with open(out / "boxes_large.csv") as file:
            cells = sum(1 for _ in file) - 1
        size = float(np.prod(shape))
        rows.append({"workers": workers, "image, GiB": round(2 * size / 2**30, 2), "cells": cells})
        rows[-1] |= {"seconds": round(seconds, 1), "voxels a second": round(size / seconds)}
        rows[-1] |= {"all processes, peak MiB": peak.pop("all") // MIB}
        rows[-1] |= {"largest process, peak MiB": max(peak.values()) // MIB}
    return rows


PARTS = {"throughput": throughput, "memory": memory, "zarr": zarr}


def write_stacks(sequence, count, options):
    """Write `count` stacks, the same few again and again; the folder, and the voxels of one stack."""
    settings = replace(SETTINGS, shape=(32, 96, 96), cells=6) if options.quick else SETTINGS
    frames = hl60_frames(1, settings, options.seed)
    images = [image for image, _ in islice(frames, 2 if options.quick else 4)]
    for t in range(count):
        write_tiff(sequence / f"t{t:03d}.tif", images[t % len(images)], settings.voxel_size)
    return sequence, images[0].size


def by_workers(client, run, sequence, out):
    found = predict(run, [sequence], out, device="cpu", scheduler=client.scheduler.address, again=True)
    return sum(found.values())


@contextmanager
def watch(pid=None):
    """Peak resident bytes of a process and its descendants: {pid: bytes}, and "all": of their sum."""
    peak, stop = {"all": 0}, threading.Event()

    def look():
        while not stop.wait(0.2):
            total = 0
            try:
                root = psutil.Process(pid)
                for process in [root, *root.children(recursive=True)]:
                    size = process.memory_info().rss
                    peak[process.pid], total = max(size, peak.get(process.pid, 0)), total + size
            except psutil.NoSuchProcess:
                continue  # one that has just ended
            peak["all"] = max(peak["all"], total)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def markdown(rows):
    head = f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}\n"
    return head + "\n".join(f"| {' | '.join(map(str, row.values()))} |" for row in rows) + "\n"


if __name__ == "__main__":
    main()
