"""Every missed nucleus and every false alarm on the test embryos of bbbc050.py, to be looked at.

    python benchmarks/bbbc050_misses.py DATA RESULT

DATA: what `data_scripts/fetch_bbbc050.py` wrote; RESULT: the folder of results that `bbbc050.py --out` left. Prints a
line for each, and draws the missed labels of at least 200 voxels (a nucleus holds about 1500) in three planes, red,
among the other labels (blue) and the boxes found (yellow): results/bbbc050_misses.png. Our reading of that picture is
in results/bbbc050_misses.md.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from common import RESULTS

from weakseg_lib import Sequence, boxes_of_labels, read_labels
from weakseg_lib.measures import match_boxes
from weakseg_lib.result_files import read_boxes

matplotlib.use("Agg")
SMALL, REACH = 200, 22  # voxels in a label; voxels around a miss that are drawn


def outcome(labels, found):
    """Missed labels as (id, box, voxels), and the rows of `found` that match none."""
    ids, boxes = boxes_of_labels(labels)
    voxels = np.bincount(labels.ravel())
    found_hit, true_hit = (set(side.tolist()) for side in match_boxes(found, boxes)[0].T)
    missed = [(ids[j], boxes[j], voxels[ids[j]]) for j in range(len(ids)) if j not in true_hit]
    return missed, [found[i] for i in range(len(found)) if i not in found_hit]


def draw(axes, image, labels, missed, found, voxel_size):
    id_ = missed[0]
    inside = np.argwhere(labels == id_)
    centre = inside[len(inside) // 2]  # its middle voxel, in the order of slices
    corner = np.maximum(centre - REACH, 0)
    for axis, plane in zip(axes, range(3), strict=True):
        cut = [slice(a, c + REACH) for a, c in zip(corner, centre, strict=True)]
        cut[plane] = centre[plane]
        rest = [i for i in range(3) if i != plane]
        aspect = voxel_size[rest[0]] / voxel_size[rest[1]]
        axis.imshow(image[tuple(cut)], cmap="gray", vmin=100, vmax=np.percentile(image, 99.5), aspect=aspect)
        here = labels[tuple(cut)]
        for i in set(np.unique(here)) - {0}:
            colour, width = ("red", 2) if i == id_ else ("deepskyblue", 1)
            axis.contour(here == i, [0.5], colors=[colour], linewidths=width)
        for b in found:
            if b[plane] <= centre[plane] < b[plane + 3]:
                low, high = b[rest] - corner[rest], b[[i + 3 for i in rest]] - corner[rest]
                x = [low[1], high[1], high[1], low[1], low[1]]
                y = [low[0], low[0], high[0], high[0], low[0]]
                axis.plot(np.array(x) - 0.5, np.array(y) - 0.5, "--", color="gold", linewidth=1)
        axis.set(xlim=(-0.5, here.shape[1] - 0.5), ylim=(here.shape[0] - 0.5, -0.5), xticks=[], yticks=[])


def main():
    from matplotlib import pyplot as plt

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    shown = []
    for name in ("09", "10", "11"):
        sequence = Sequence(options.data / "train" / name)
        for t in sequence.frames:
            stack = sequence.read(t)
            labels = read_labels(sequence.labels_path(t), stack.image.shape)
            _, found = read_boxes(options.result / f"{name}_RES" / f"boxes{t:03d}.csv")
            missed, alarms = outcome(labels, found)
            print(f"Emb{name} t{t:03d}: {len(missed)} missed, {len(alarms)} false alarms")
            for _, box, voxels in missed:
                print(f"  missed, {voxels} voxels, box {box.astype(int).tolist()}")
            for box in alarms:
                print(f"  false alarm, box {box.round().astype(int).tolist()}")
            shown += [(f"Emb{name} t{t:03d}", stack, labels, m, found) for m in missed if m[2] >= SMALL]
    rows = max(1, (len(shown) + 1) // 2)
    figure, axes = plt.subplots(rows, 6, figsize=(13, 2.1 * rows), layout="constrained", squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for i, (title, stack, labels, missed, found) in enumerate(shown):
        three = axes[i // 2, 3 * (i % 2) : 3 * (i % 2) + 3]
        draw(three, stack.image, labels, missed, found, stack.voxel_size)
        three[0].set_title(f"{i + 1}  {title}, {missed[2]} voxels", fontsize=8, loc="left")
    figure.savefig(RESULTS / "bbbc050_misses.png", dpi=75)


if __name__ == "__main__":
    main()
