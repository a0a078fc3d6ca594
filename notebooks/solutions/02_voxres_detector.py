"""Solutions of 02_voxres_detector."""

# %% Exercise 1
# The last convolution alone: the branch gives 0, yet this layer still receives a gradient, so the block can begin to
# learn. Usual wrong answers: zeroing a normalisation before it (then the ReLU is at 0, and nothing in the branch ever
# learns), and zeroing everything.


def make_identity(block):
    """Change the weights of a ws.VoxRes block so that block(x) equals x for every x."""
    nn.init.zeros_(block.branch[-1].weight)


# %% Exercise 2
# A layer's step counts only for the layers after it. Usual wrong answers: adding k instead of k - 1, and multiplying
# the stride before the layer is counted.


def receptive_field(layers):
    """Field along one axis, in image voxels, of a chain of (kernel, step) convolutions."""
    field, stride = 1, 1
    for kernel, step in layers:
        field += (kernel - 1) * stride
        stride *= step
    return field


# %% Exercise 3
# Each end is stopped at one border only, so a box beyond the other border ends before it begins. Stopping both ends at
# both borders makes it flat; it must still go. Usual wrong answers: looking at the sides before the clipping, and
# multiplying them: two negative sides have a positive product.


def clip_to_stack(boxes, shape):
    """Boxes (n, 6), shape (D, H, W) -> the clipped boxes (k, 6), and their indices (k,) among the n."""
    clipped = clip_boxes(boxes, shape)
    kept = torch.nonzero((clipped[:, 3:] - clipped[:, :3]).amin(1) > 0.5).flatten()
    return clipped[kept], kept
