"""On a GPU: the Triton kernels' free numbers, tried one after the other on the shapes that the targets name.

    python benchmarks/roi_align_tune.py

Channels a tile, warps, registers a thread, boxes a look of the gradient, programs that the forward pass keeps. Prints
a line for each as it goes and all of them at the end, fastest first, in multiples of the copy's time; what wins goes
into weakseg_lib/ops/roi_align_triton.py.
"""

import itertools

import torch
from roi_align import GPU, copy_bandwidth, inputs, measure, ours
from tqdm import tqdm

from weakseg_lib.ops import roi_align_triton as kernels

CHANNELS, WARPS, REGISTERS, BOXES, PROGRAMS = (8, 16, 32), (4, 8), (96, 128, 255), (32, 128), (2**11, 2**13)


def times_the_copy(features, rois, bandwidth):
    """Forward and gradient, in multiples of a copy of the bytes that one of them moves."""
    floor = 1000 * 4 * (features.numel() + len(rois) * 64 * 14**3) / bandwidth
    found = measure(ours("triton"), features, rois, 14, 2, recorded=True)
    return found["forward_ms"] / floor, found["backward_ms"] / floor


def main():
    if not GPU:
        raise SystemExit("roi_align_tune.py needs an NVIDIA GPU: there is nothing to tune without one")
    bandwidth, rows = copy_bandwidth(), []
    shapes = {boxes: inputs(64, boxes, torch.float32, "channels last") for boxes in (32, 512)}
    options = list(itertools.product(CHANNELS, WARPS, REGISTERS, BOXES, PROGRAMS))
    for channels, warps, registers, boxes, programs in tqdm(options, desc="options"):
        kernels.channels_of_a_tile = lambda together, channels=channels: channels
        kernels.OPTIONS = {"num_warps": warps, "maxnreg": registers}
        kernels.BOXES, kernels.PROGRAMS = boxes, programs
        option = (channels, warps, registers, boxes, programs)
        try:
            row = [ratio for shape in shapes.values() for ratio in times_the_copy(*shape, bandwidth)]
        except Exception as problem:  # it does not compile or fit: the others are tried all the same
            tqdm.write(f"{option}: {type(problem).__name__}: {str(problem).splitlines()[0][:80]}")
            continue
        rows.append((row, option))
        tqdm.write(f"{option}: " + " ".join(f"{v:.2f}" for v in row))
    print("times the copy: 32 boxes forward, gradient; 512 boxes forward, gradient")
    print("channels a tile, warps, registers, boxes a look, programs")
    for row, option in sorted(rows, key=lambda r: sum(r[0])):
        print(" ".join(f"{v:6.2f}" for v in row), " ", option)


if __name__ == "__main__":
    main()
