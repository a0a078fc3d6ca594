"""The thresholds of a trained network, for scores, overlaps and masks, chosen where it was trained."""

import numpy as np
from tqdm.auto import tqdm

from weakseg_lib.measures import match_boxes
from weakseg_lib.pasting import enlarged_mask
from weakseg_lib.prediction import LOOSEST_OVERLAP, LOWEST_SCORE, detect_stack

MOST_STACKS = 16  # enough to choose two numbers, and bounded work for a large training set
SCORES = np.arange(LOWEST_SCORE, 0.76, 0.025)
OVERLAPS = (0.1, 0.2, 0.3, 0.4, LOOSEST_OVERLAP)
LEVELS = np.arange(0.2, 0.71, 0.025)


def choose_thresholds(network, stacks, progress: bool = True) -> dict:
    """The pair of thresholds with the best detection F1 (box IoU > 0.4) on training stacks, and the best mask level.

    For the first two only boxes are compared, so every annotated stack can be used. Of the scores that do about as well
    (within 0.005) the middle one is taken: the best one alone would be luck. Returns score_threshold, nms_threshold,
    training_detection_f1 and mask_level (`choose_mask_level`).
    """
    chosen = [stacks[i] for i in np.unique(np.linspace(0, len(stacks) - 1, MOST_STACKS).astype(int))]
    found = []
    for stack in tqdm(chosen, desc="choosing thresholds", unit="stack", disable=not progress, leave=False):
        image = np.asarray(stack.image(), np.float32)
        found.append(
            (detect_stack(network, image, LOWEST_SCORE, max(OVERLAPS), with_masks=False), stack.boxes())
        )
    f1 = np.array([[_f1(found, s, o) for s in SCORES] for o in OVERLAPS])
    best = np.unravel_index(np.argmax(f1), f1.shape)
    good = np.flatnonzero(f1[best[0]] >= f1.max() - 0.005)
    thresholds = round(float(np.median(SCORES[good])), 3), OVERLAPS[best[0]]
    return {
        "score_threshold": thresholds[0],
        "nms_threshold": thresholds[1],
        "training_detection_f1": round(float(f1.max()), 4),
        "mask_level": choose_mask_level(network, chosen, *thresholds, progress),
    }


def choose_mask_level(network, stacks, score: float, overlap: float, progress: bool = True) -> float:
    """The probability above which a mask's voxels best agree (F1 of voxels) with the masks that were drawn.

    Compared are drawn masks and those of the detections that match their boxes, voxel by voxel at the stack's own
    resolution. A half for round cells; less for thin branches, whose voxels the coarser grid of the mask shares with
    their surroundings. A half also where nothing can be compared.
    """
    hits, predicted, true = np.zeros(len(LEVELS)), np.zeros(len(LEVELS)), 0
    for stack in tqdm(stacks, desc="choosing mask level", unit="stack", disable=not progress, leave=False):
        known = stack.known()
        if not known["has_mask"].any():
            continue
        image = np.asarray(stack.image(), np.float32)
        found = detect_stack(network, image, score, overlap)
        for i, j in match_boxes(found.boxes, known["boxes"])[0]:
            if not known["has_mask"][j]:
                continue
            drawn, origin = known[f"mask_{j}"], known[f"origin_{j}"].astype(int)
            shape = np.round(np.array(image.shape) / known["scale"]).astype(int)
            margin = network.config.roi_margin
            where, probability = enlarged_mask(found.boxes[i], found.masks[i], shape, known["scale"], margin)
            corner = origin - [s.start for s in where]
            truth = _placed(drawn, corner, probability.shape)
            above = probability[..., None] > LEVELS * 255
            hits += (above & truth[..., None]).sum((0, 1, 2))
            predicted += above.sum((0, 1, 2))
            true += np.count_nonzero(drawn)
    f1 = 2 * hits / np.maximum(predicted + true, 1)
    good = LEVELS[f1 >= f1.max()] if true else [0.5]
    return round(float(min(good, key=lambda level: abs(level - 0.5))), 3)


def _placed(block: np.ndarray, corner, shape) -> np.ndarray:
    """`block` (bool) in a field of `shape` with its first voxel at `corner`, cut off where it sticks out."""
    field = np.zeros(shape, bool)
    low = np.maximum(corner, 0)
    high = np.maximum(np.minimum(corner + np.array(block.shape), shape), low)
    part = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
    field[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = block[part] > 0
    return field


def _f1(found, score, overlap) -> float:
    hits = total = 0
    for detections, boxes in found:
        predicted = detections.above(score, overlap).boxes
        pairs, _ = match_boxes(predicted, boxes)
        hits += len(pairs)
        total += len(predicted) + len(boxes)
    return 2 * hits / max(total, 1)
