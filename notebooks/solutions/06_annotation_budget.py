"""Solutions to the exercises of notebooks/06_annotation_budget.ipynb."""

import math

# %% Exercise 1
# Every cell gets a box, also one that gets a mask: the box teaches where, the mask what. The usual wrong answers round
# the masks of the whole project instead of each stack's, or forget to round off the dust of 0.07 * 100 before `ceil`.


def annotation_hours(cells, share, box_seconds, ratio, stack_seconds):
    """Hours for boxes around all cells and masks for a share of them. cells: [n of each stack]."""
    masks = sum(math.ceil(round(share * n, 6)) for n in cells)
    return ((sum(cells) + ratio * masks) * box_seconds + len(cells) * stack_seconds) / 3600


# %% Exercise 2
# Divide N b + f N r b = q N r b by N r b: 1/r + f = q. The usual wrong answer is f = q: it forgets that the boxes are
# paid from the same hours.


def break_even_share(stack_share, ratio):
    """The share of masks that costs as much as full annotation of a share of the stacks."""
    return max(0.0, stack_share - 1 / ratio)


# %% Exercise 3
# weak / full = f + 1/r, so what is left of weak / full after the masks is 1/r. The usual wrong answers give 1/r itself,
# or a negative ratio where the hours do not even pay for the masks.


def ratio_behind(weak_hours, full_hours, share):
    """How many times longer a mask takes than a box, from two printed times; None if no ratio fits."""
    boxes = weak_hours / full_hours - share
    return 1 / boxes if boxes > 1e-9 else None
