"""VoxResNet (Chen et al. 2016), the paper's comparison method: every voxel is background, cell or boundary."""

import torch
from torch import nn
from torch.nn import functional as F

from weakseg_lib.config import Config
from weakseg_lib.model.voxres import VoxRes, norm_relu
from weakseg_lib.processes import total

AUXILIARY = 1e-3  # weight of the auxiliary losses at the end of training; 1 at its start


class VoxResNet(nn.Module):
    """Image (N, 1, D, H, W) in, class logits (N, 3, D, H, W) out; sides must be multiples of `stride`.

    Two convolutions at full size, then for each coarser stride a strided convolution and VoxRes blocks. A branch at
    each stride is enlarged to full size by a deconvolution and classified by a 1x1x1 convolution; the logits of the
    branches are summed. The original's widths are 32 at full size and 64 below it, at strides 1, 2, 4 and 8
    (`channels=32,64,64,64`); the branches' width is not published (`branch_channels`, reconstructed).
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        first, *rest = config.channels
        norm, width = config.norm, config.branch_channels
        self.strides = tuple(2**i for i in range(len(config.channels)))
        self.stem = nn.Sequential(
            nn.Conv3d(1, first, 3, padding=1, bias=False),
            norm_relu(first, norm),
            nn.Conv3d(first, first, (1, 3, 3), padding=(0, 1, 1), bias=False),
        )
        self.stages, self.branches = nn.ModuleList(), nn.ModuleList([self._branch(first, width, 1, norm)])
        before = first
        for stride, after in zip(self.strides[1:], rest, strict=True):
            down = nn.Conv3d(before, after, 3, stride=2, padding=1, bias=False)
            res = [VoxRes(after, norm) for _ in range(config.blocks)]
            self.stages.append(nn.Sequential(norm_relu(before, norm), down, *res))
            self.branches.append(self._branch(after, width, stride, norm))
            before = after

    @staticmethod
    def _branch(channels, width, stride, norm) -> nn.Sequential:
        enlarge = (
            nn.Conv3d(channels, width, 1, bias=False)
            if stride == 1
            else nn.ConvTranspose3d(channels, width, 2 * stride, stride, padding=stride // 2, bias=False)
        )
        return nn.Sequential(
            norm_relu(channels, norm), enlarge, norm_relu(width, norm), nn.Conv3d(width, 3, 1)
        )

    @property
    def stride(self) -> int:
        """Every side of an image must be a multiple of this."""
        return self.strides[-1]

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) to each side that can influence a voxel's class: half the receptive field."""
        reach = [1, 2, 2]
        for stride in self.strides[1:]:
            for axis in range(3):
                # The strided convolution works at the finer stride, 1x3x3 does not look along z.
                reach[axis] += stride // 2 + self.config.blocks * stride * (1 if axis == 0 else 2)
        return tuple(r + self.stride for r in reach)  # a deconvolution takes one coarse voxel more

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each branch; their sum is the prediction."""
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [branch(m) for branch, m in zip(self.branches, maps, strict=True)]

    def losses(self, batch, progress: float) -> dict[str, torch.Tensor]:
        """Cross-entropy of the sum, and of each branch alone with a weight that falls from 1 to 0.001 in training.

        batch: images (N, 1, D, H, W), voxel_classes (N, D, H, W) int64.
        """
        branches = [b.float() for b in self(batch.images)]
        alone = sum(F.cross_entropy(b, batch.voxel_classes) for b in branches)
        weight = AUXILIARY**progress
        n = len(batch.images)
        part = n / total(n, batch.images.device)  # of the mean over the crops of all processes
        return {
            "voxels": part * F.cross_entropy(sum(branches), batch.voxel_classes),
            "branches": part * weight * alone,
        }

    def probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 1, D, H, W) -> (N, 3, D, H, W), float32."""
        return sum(b.float() for b in self(image)).softmax(1)
