"""The backbone: VoxRes blocks (Chen et al. 2016) at growing strides, and a path back from coarse to fine."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from weakseg_lib.processes import BatchNorm3d


def norm_relu(channels: int, norm: str) -> nn.Sequential:
    """Normalisation and ReLU. "batch" makes a prediction independent of what else is in the tile; "group" does not."""
    layer = BatchNorm3d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)
    return nn.Sequential(layer, nn.ReLU(inplace=True))


class VoxRes(nn.Module):
    """x + conv3x3x3(act(conv1x3x3(act(x)))), act = normalisation and ReLU; no ReLU after the sum.

    Information passes through the sum unchanged, forward and backward: the reason the paper gives for choosing it.
    (N, C, D, H, W) -> the same shape.
    """

    def __init__(self, channels: int, norm: str = "batch"):
        super().__init__()
        self.branch = nn.Sequential(
            norm_relu(channels, norm),
            nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1), bias=False),
            norm_relu(channels, norm),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class Backbone(nn.Module):
    """Feature maps at strides 1, 2, 4, ... of an image.

    Reconstructed (the paper's Fig. 2 is missing): a convolution at full size, then for each stride a strided
    convolution and `blocks` VoxRes blocks. With `top_down` every map also receives the next coarser one, enlarged, as
    in feature pyramid networks (Lin et al. 2017): a fine map alone sees too little to tell a cell from a neighbour.
    `finest`: the map at stride 1, too; else it is left as the first convolution made it.
    """

    def __init__(
        self,
        channels=(16, 32, 64),
        blocks: int = 2,
        norm: str = "batch",
        top_down: bool = True,
        finest: bool = False,
    ):
        super().__init__()
        self.strides = tuple(2**i for i in range(len(channels)))
        self.channels = dict(zip(self.strides, channels, strict=True))
        self.stem = nn.Sequential(
            nn.Conv3d(1, channels[0], 3, padding=1, bias=False), norm_relu(channels[0], norm)
        )
        self.stages = nn.ModuleList()
        for before, after in zip(channels, channels[1:], strict=False):
            down = nn.Conv3d(before, after, 3, stride=2, padding=1, bias=False)
            res = [VoxRes(after, norm) for _ in range(blocks)]
            self.stages.append(nn.Sequential(down, *res, norm_relu(after, norm)))
        # Where the top-down path ends. At stride 1 it costs as much as the rest of the network together.
        self.last = 0 if finest else 1
        pairs = list(zip(channels[self.last :], channels[self.last + 1 :], strict=False)) if top_down else []
        self.reduce = nn.ModuleList(nn.Conv3d(coarse, fine, 1, bias=False) for fine, coarse in pairs)
        self.merge = nn.ModuleList(
            nn.Sequential(
                norm_relu(fine, norm), nn.Conv3d(fine, fine, 3, padding=1, bias=False), norm_relu(fine, norm)
            )
            for fine, _ in pairs
        )

    @property
    def reach(self) -> tuple[int, int, int]:
        """How many image voxels to each side (z, y, x) can influence a feature: half the receptive field."""
        reach = [1, 1, 1]
        for stride, stage in zip(self.strides[1:], self.stages, strict=True):
            blocks = sum(isinstance(layer, VoxRes) for layer in stage)
            for axis in range(3):
                # The strided convolution works at the finer stride; 1x3x3 does not look along z.
                reach[axis] += stride // 2 + blocks * stride * (1 if axis == 0 else 2)
        # A merged map looks one voxel around, in a coarse map whose voxels are twice as large.
        top_down = sum(2 * stride for stride in self.strides[self.last : self.last + len(self.merge)])
        return tuple(r + top_down for r in reach)

    def forward(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
        """(N, 1, D, H, W), every side a multiple of the largest stride -> {stride: (N, C, D / s, H / s, W / s)}."""
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        for i in reversed(range(len(self.merge))):
            at = i + self.last
            coarse = F.interpolate(self.reduce[i](maps[at + 1]), scale_factor=2, mode="nearest")
            maps[at] = self.merge[i](maps[at] + coarse)
        return dict(zip(self.strides, maps, strict=True))
