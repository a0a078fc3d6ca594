"""Solutions to the exercises of notebooks/07_reproducing_the_paper.ipynb."""

import numpy as np

# %% Exercise 1
# Frames of a film are alike, so they are drawn as they came: a start, then its followers. The usual wrong answers draw
# single frames, never start at n - block (numpy leaves out the upper end), or return a few frames too many.


def draw_blocks(values, block, rng):
    """One bootstrap sample, as long as `values` (1D array). rng: a numpy Generator."""
    number = -(-len(values) // block)  # rounded up
    starts = rng.integers(0, len(values) - block + 1, number)
    return np.concatenate([values[start : start + block] for start in starts])[: len(values)]


# %% Exercise 2
# Data, frames and measure must be the same; only then do hours matter. The usual wrong answers look at the hours alone,
# or forget that fewer hours are as unfair as more.


def comparable(row, others):
    """Names of the rows that are a fair comparison at similar annotation time."""
    same = [o for o in others if all(o[key] == row[key] for key in ("data", "test", "identity"))]
    return [o["name"] for o in same if abs(o["hours"] - row["hours"]) <= 0.25 * row["hours"]]


# %% Exercise 3
# The bug: all frames in one pot, so the group with more frames counts more. First each group's mean, then theirs.


def table_mean(scores, groups):
    """Mean of the groups' means. scores: F1 of each frame; groups: the group of each frame."""
    each = [np.mean([s for s, g in zip(scores, groups, strict=True) if g == group]) for group in set(groups)]
    return float(np.mean(each))
