"""The score and overlap thresholds of a trained detector, chosen where it was trained."""

import numpy as np
from tqdm.auto import tqdm

from weakseg_lib.measures import match_boxes
from weakseg_lib.prediction import LOOSEST_OVERLAP, LOWEST_SCORE, detect_stack

MOST_STACKS = 16  # enough to choose two numbers, and bounded work for a large training set
SCORES = np.arange(LOWEST_SCORE, 0.76, 0.025)
OVERLAPS = (0.1, 0.2, 0.3, 0.4, LOOSEST_OVERLAP)


def choose_thresholds(network, stacks, progress: bool = True) -> dict:
    """The pair of thresholds with the best detection F1 (box IoU > 0.4) on training stacks.

    Only boxes are compared, so every annotated stack can be used. Of the scores that do about as well (within
    0.005) the middle one is taken: the best one alone would be luck. Returns score_threshold, nms_threshold,
    training_detection_f1.
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
    return {
        "score_threshold": round(float(np.median(SCORES[good])), 3),
        "nms_threshold": OVERLAPS[best[0]],
        "training_detection_f1": round(float(f1.max()), 4),
    }


def _f1(found, score, overlap) -> float:
    hits = total = 0
    for detections, boxes in found:
        predicted = detections.above(score, overlap).boxes
        pairs, _ = match_boxes(predicted, boxes)
        hits += len(pairs)
        total += len(predicted) + len(boxes)
    return 2 * hits / max(total, 1)
