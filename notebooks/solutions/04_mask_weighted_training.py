"""Solutions of 04_mask_weighted_training: a loss with two bugs, a soft target, and how much leak is too much."""
# ruff: noqa: F821  (names come from the imports cell of the notebook)


# %% Exercise 1
# Two bugs. `.mean()` over all K divides by the number of cells: with one mask in five, the mask head learns five times
# more slowly, and the loss depends on how many boxes a crop happens to hold. And multiplying by 0 does not remove nan
# or inf: only indexing does. Usual wrong answer: torch.where on the finished product, whose gradient is still nan.
def repaired_loss(logits, targets, weight):
    taught = weight > 0
    voxels = F.binary_cross_entropy_with_logits(logits[taught], targets[taught], reduction="none")
    return (voxels.mean((1, 2, 3)) * weight[taught]).sum() / weight.sum().clamp(min=1)


# %% Exercise 2
# What two intervals share is min of the ends - max of the starts, and not less than 0. Usual wrong answers: no clip
# (negative shares), no division by the length of a bin, or the value at the middle of a bin, which is 0 or 1.
def soft_target_1d(start, stop, low, high, bins):
    edges = np.linspace(low, high, bins + 1)
    shared = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
    return np.clip(shared, 0, None) / ((high - low) / bins)


# %% Exercise 3
# q > 1/2 where 2 p t > p + (1 - p) w, that is, t > least = 1/2 + (1 - p) w / (2 p). With t = 1 - d / r this is
# d < r (1 - least), on both sides. It is empty from w = p / (1 - p) on. Usual wrong answers: one side only, and a
# negative width.
def mask_width(r, share, leak):
    least = 0.5 + (1 - share) * leak / (2 * share)
    return 2 * r * max(0.0, 1 - least)
