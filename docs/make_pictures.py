"""Draw the pictures of the README, docs/*.png, from simulated cells.

    python docs/make_pictures.py

It simulates, trains for 400 steps and predicts in a temporary folder: about 5 minutes on one CPU core.
"""

import io
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from weakseg_lib import Sequence, fit, load_config, predict, read_labels, read_weak, simulate_hl60
from weakseg_lib.data.annotation import annotate_sequence
from weakseg_lib.plots import SKY, new_figure, save_figure, show_annotation, show_outcome

FOLDER = Path(__file__).parent


def main():
    with tempfile.TemporaryDirectory() as folder:
        train = simulate_hl60(Path(folder, "train"), stacks=4, seed=1)
        unseen = simulate_hl60(Path(folder, "unseen"), stacks=1, seed=2)
        draw_groups(unseen)
        for sequence in train:
            annotate_sequence(sequence, share=0.2, seed=0)
        fit(train, Path(folder, "run"), load_config(settings=["steps=400"]))
        predict(Path(folder, "run"), unseen[:1], Path(folder, "result"))
        draw_overview(train[0], unseen[0], Path(folder, "result", "mask000.tif"))


def draw_overview(annotated, unseen, predicted):
    """Put frame 0 of the sequence `annotated` beside frame 0 of `unseen` with the masks in the TIFF `predicted`."""
    stack = Sequence(annotated).read(0)
    annotation = read_weak(Sequence(annotated), 0, stack.image.shape)
    title = "You draw: a box around every cell, a mask for one in five"
    left = show_annotation(stack.image, stack.voxel_size, annotation, title=title)
    stack = Sequence(unseen).read(0, with_labels=True)
    found = read_labels(predicted)
    title = "You get: every cell's mask, here in a stack kept from training"
    right = show_outcome(stack.image, stack.voxel_size, found, stack.labels, title=title, numbers=False)
    plt.imsave(FOLDER / "overview.png", np.hstack([_pixels(left), _pixels(right)]))


def draw_groups(sequences):
    """The fullest slice of frame 0 of each sequence, without and with the outlines of the true cells."""
    figure = new_figure((12, 3.5), layout="constrained")
    panels = iter(figure.subplots(1, 2 * len(sequences)))
    for group, sequence in enumerate(sequences, start=1):
        stack = Sequence(sequence).read(0, with_labels=True)
        fullest = (stack.labels > 0).sum((1, 2)).argmax()
        image, labels = stack.image[fullest], stack.labels[fullest]
        _, y, x = stack.voxel_size
        extent = (0, image.shape[1] * x, image.shape[0] * y, 0)
        for outlines in (False, True):
            panel = next(panels)
            panel.imshow(image, "gray", vmax=np.percentile(image, 99.8), extent=extent)
            panel.set_title("true outlines" if outlines else f"group {group}, slice {fullest} (simulated)")
            panel.set(xlabel="x (um)", ylabel="y (um)")
            panel.label_outer()
            centres = (np.arange(labels.shape[1]) + 0.5) * x, (np.arange(labels.shape[0]) + 0.5) * y
            for cell in np.unique(labels)[1:] if outlines else ():
                panel.contour(*centres, labels == cell, [0.5], colors=[SKY], linewidths=1.5)
    save_figure(figure, FOLDER / "simulator.png", dpi=90)


def _pixels(figure):
    figure.text(0.99, 0.01, "simulated cells", ha="right", fontsize=9, color="dimgray")
    file = io.BytesIO()
    figure.savefig(file, dpi=80, format="png")
    file.seek(0)
    return plt.imread(file)[..., :3]


if __name__ == "__main__":
    main()
