"""Instances from VoxResNet's voxel classes: 3D connected components, as they are or grown back into their boundary."""

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import watershed
from tqdm.auto import tqdm

from weakseg_lib.counts import Matches, VoxelOverlap
from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.prepare import PreparedStack, compress
from weakseg_lib.data.voxel_classes import BACKGROUND, BOUNDARY, CELL, LABELS
from weakseg_lib.device import autocast, memory_format
from weakseg_lib.measures import count_overlaps, detection, segmentation
from weakseg_lib.tiling import VIEWS, pad_to_stride, tiles

MOST_STACKS = 8  # that the free numbers are chosen on
# High ones, too: a bridge of less sure voxels fuses neighbours. Low ones, for a network unsure of thin cells.
CELL_LEVELS = (0.1, 0.2, 0.35, 0.5, 0.8, 0.95, 0.98, 0.99, 0.995, 0.998)
BACKGROUND_LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)
SMALLEST = (0.0, 0.05, 0.2)  # least component, as a share of the median instance's volume
READINGS = ("grown", "literal")


@torch.inference_mode()
def class_probabilities(network, image: np.ndarray, progress: bool = False) -> np.ndarray:
    """Probabilities (3, D, H, W) float32 of background, cell and boundary for a normalised image (D, H, W) in working
    voxels, tile by tile, averaged over `config.views` mirror images."""
    config, device = network.config, next(network.parameters()).device
    network.eval()
    found = np.empty((3, *image.shape), np.float32)
    todo = list(tiles(image.shape, config.tile, network.halo, network.stride))
    for core, block in tqdm(todo, desc="tiles", disable=not progress or len(todo) == 1, leave=False):
        crop = compress(torch.from_numpy(image[block]))[None, None].to(device)
        crop = pad_to_stride(crop, network.stride).contiguous(memory_format=memory_format())
        total = 0.0
        with autocast(device, config.precision):
            for flips in VIEWS[: config.views]:
                axes = [a + 2 for a in flips]
                total = total + network.probabilities(crop.flip(axes)).flip(axes)
        total = total[0].cpu().numpy() / config.views
        inner = tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(core, block, strict=True))
        found[(slice(None), *core)] = total[(slice(None), *inner)]
    return found


def instances(
    probabilities: np.ndarray, level: float, smallest: float, reading: str, background: float = 0.5
) -> np.ndarray:
    """Labels (D, H, W) int32: connected components of voxels that are cell with a probability above `level`, and cell
    rather than boundary, however low the level.

    Components below `smallest` voxels are dropped. reading "literal": these alone, as the paper words it, without the
    boundary that was cut off them in training; "grown": grown back into everything that is background with a
    probability below `background`, each voxel to the component it is reached from first (watershed on the probability
    of cell).
    """
    cell = probabilities[CELL]
    labels, count = ndimage.label((cell > level) & (cell >= probabilities[BOUNDARY]))
    large = np.bincount(labels.ravel(), minlength=count + 1) >= max(smallest, 1)
    large[0] = False
    labels = (np.cumsum(large) * large).astype(np.int32)[labels]
    if reading == "literal":
        return labels
    inside = (probabilities[BACKGROUND] < background) | (labels > 0)
    return watershed(-cell, labels, connectivity=np.ones((3, 3, 3)), mask=inside).astype(np.int32)


def choose_components(network, stacks: list[PreparedStack], progress: bool = True) -> dict:
    """What is free in `instances`, with the best mean of detection and segmentation F1 on training stacks.

    For each reading the level and the smallest component; then, for "grown", where the background begins. Returns
    {"cell_level": {reading: ...}, "smallest_share": {reading: ...}, "background_level", "median_voxels",
    "training_detection_f1"}.
    """
    some = [stacks[i] for i in np.unique(np.linspace(0, len(stacks) - 1, MOST_STACKS).astype(int))]
    bar = tqdm(some, desc="choosing components", unit="stack", disable=not progress, leave=False)
    known = [
        (
            class_probabilities(network, np.asarray(stack.image(), np.float32)),
            np.load(stack.folder / LABELS),
            stack.boxes(),
        )
        for stack in bar
    ]
    volumes = np.concatenate([np.unique(labels[labels > 0], return_counts=True)[1] for _, labels, _ in known])
    median = float(np.median(volumes)) if len(volumes) else 0.0

    def score(level, share, reading, background=0.5) -> tuple[Matches, VoxelOverlap]:
        found, voxels = Matches(), VoxelOverlap()
        for probabilities, labels, boxes in known:
            ours = instances(probabilities, level, share * median, reading, background)
            found += detection(boxes_of_labels(ours)[1], boxes)
            voxels += segmentation(count_overlaps(ours, labels))
        return found, voxels

    chosen = {"cell_level": {}, "smallest_share": {}, "median_voxels": median}
    for reading in READINGS:
        options = [(level, share, reading) for level in CELL_LEVELS for share in SMALLEST]
        best = max(options, key=lambda option: sum(counts.f1 for counts in score(*option)))
        chosen["cell_level"][reading], chosen["smallest_share"][reading] = best[:2]
    grown = chosen["cell_level"]["grown"], chosen["smallest_share"]["grown"], "grown"
    outer = max(BACKGROUND_LEVELS, key=lambda level: sum(counts.f1 for counts in score(*grown, level)))
    found, _ = score(*grown, outer)
    return chosen | {"background_level": outer, "training_detection_f1": round(found.f1, 4)}
