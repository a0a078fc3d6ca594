"""The mask head and the mask-weight layer: every instance gets a mask, only annotated ones teach (section 2.2)."""

import torch
from torch import nn
from torch.nn import functional as F

from weakseg_lib.model.voxres import norm_relu
from weakseg_lib.processes import total


class MaskHead(nn.Module):
    """RoIAligned features of two layers, concatenated, to a mask of twice the size.

    (K, C, s, s, s) -> logits (K, classes - 1, 2 s, 2 s, 2 s). Two convolutions, one x2 up-convolution, a classifier.
    Reconstructed: the paper says "up-convolutional layers", not how many. With `fine` > 0 the head also looks at a map
    of that many channels at the mask's own resolution, (K, fine, 2 s, 2 s, 2 s), joined after the up-convolution as in
    a U-Net (Ronneberger et al. 2015): what is thinner than a bin of the first look is seen there.
    """

    def __init__(self, channels: int, width: int, classes: int, norm: str = "batch", fine: int = 0):
        super().__init__()
        half = width // 2
        self.layers = nn.Sequential(
            nn.Conv3d(channels, width, 3, padding=1, bias=False),
            norm_relu(width, norm),
            nn.Conv3d(width, width, 3, padding=1, bias=False),
            norm_relu(width, norm),
            nn.ConvTranspose3d(width, half, 2, stride=2, bias=False),
            norm_relu(half, norm),
        )
        joined = []
        if fine:
            joined = [nn.Conv3d(half + fine, half, 3, padding=1, bias=False), norm_relu(half, norm)]
        self.classifier = nn.Sequential(*joined, nn.Conv3d(half, classes - 1, 1))

    def forward(self, rois: torch.Tensor, fine: torch.Tensor | None = None) -> torch.Tensor:
        enlarged = self.layers(rois)
        return self.classifier(enlarged if fine is None else torch.cat([enlarged, fine], 1))


def mask_loss(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, dice: float = 0.0
) -> torch.Tensor:
    """L_mask: mean binary cross-entropy of each instance times its weight, averaged over the weighted instances.

    logits and targets (K, M, M, M), targets in [0, 1]; weight (K,): 1 with a voxel mask, 0 with only a box. A weight of
    0 removes the instance exactly: its term and its gradient are 0, whatever its target holds (the mask-weight layer,
    section 2.2). Averaging over the masked instances, not over all, is our reading: the paper does not say.

    `dice` times the soft Dice loss of each instance is added: a cell of thin branches fills a few per cent of its box,
    and cross-entropy alone is content to leave them out.
    """
    taught = weight > 0
    # Taken out, not multiplied by 0: 0 * inf is nan, so one broken target of an unmasked cell would leak.
    each = F.binary_cross_entropy_with_logits(logits[taught], targets[taught], reduction="none").mean(
        (1, 2, 3)
    )
    if dice:
        probability, wanted = logits[taught].sigmoid(), targets[taught]
        overlap, size = (
            v.sum((1, 2, 3)) for v in (probability * wanted, probability.square() + wanted.square())
        )
        each = each + dice * (1 - 2 * overlap / size.clamp(min=1e-6))
    return (each * weight[taught]).sum() / total(weight.sum()).clamp(min=1)


def projection_loss(logits: torch.Tensor, inside: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What a box alone says of a mask: on each axis its shadow fills the box, and outside there is nothing.

    BoxInst's projection term (Tian et al., CVPR 2021) in 3D. logits (K, M, M, M); inside (K, 3, M): how much of each
    slab of the region lies in the annotated box; weight (K,). Dice loss of the mask's maximum along the other two axes.
    """
    probability = logits.sigmoid()
    shadows = torch.stack([probability.amax(axes) for axes in ((2, 3), (1, 3), (1, 2))], 1)
    overlap = (shadows * inside).sum((1, 2))
    dice = 1 - 2 * overlap / (shadows.square().sum((1, 2)) + inside.square().sum((1, 2))).clamp(min=1e-6)
    return (dice * weight).sum() / total(weight.sum()).clamp(min=1)
