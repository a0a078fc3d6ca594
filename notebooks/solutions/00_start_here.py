"""Solutions to the exercises of notebooks/00_start_here.ipynb."""

# %% Exercise 1
# The usual wrong answers forget that a masked cell has its box, too, or that an hour has 3600 seconds.


def annotation_hours(cells, masks, box_seconds, ratio):
    """Hours of annotation. ratio: how many boxes could be drawn in the time of one mask."""
    return (cells + ratio * masks) * box_seconds / 3600


# %% Exercise 2
# The usual wrong answer divides by the sum of the two sizes: that counts what they share twice.


def iou_of_masks(first, second):
    """Intersection over union of two boolean arrays; 0 where both are empty."""
    either = (first | second).sum()
    return (first & second).sum() / either if either else 0.0
