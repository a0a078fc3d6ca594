"""Solutions of 05_evaluation: a matching that is one-to-one, SEG, and pooled against mean."""
# ruff: noqa: F821  (names come from the imports cell of the notebook)


# %% Exercise 1
# The maximum along a row asks "is there any true box?", so one true box serves many predictions. One-to-one needs an
# assignment; where pair counts matter, each allowed pair is worth 1 and the IoU only breaks ties. Usual wrong answer:
# the greedy way, which finds one pair where two are possible.
def detection_f1(iou, least=0.4):
    rows, _ = measures.match_one_to_one(iou, iou > least)
    return 2 * len(rows) / sum(iou.shape)


# %% Exercise 2
# At most one prediction covers more than half of a true cell, so no assignment is needed; but one prediction may cover
# several cells. Usual wrong answers: the mean over matched cells only, or more than half of the prediction.
def seg(shared, sizes, true_sizes):
    jaccard = shared / (sizes[:, None] + true_sizes - shared)
    return jaccard[2 * shared > true_sizes].sum() / len(true_sizes)


# %% Exercise 3
# Pooled: add, then divide. Mean: divide, then average. Usual wrong answer: 0 / 0 of the empty stack gives nan, or the
# stack is left out, and then an empty image that was done right earns nothing.
def pooled_minus_mean(counts):
    def f1(hits, predicted, true):
        return 2 * hits / (predicted + true) if predicted + true else 1.0

    pooled = f1(*np.sum(counts, axis=0))
    return pooled - np.mean([f1(*stack) for stack in counts])
