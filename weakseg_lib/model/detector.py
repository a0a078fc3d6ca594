"""The one-step detector: class scores and boxes for every anchor at once, and its loss (Eq. 1)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from weakseg_lib.model.anchors import (
    BACKGROUND,
    IGNORED,
    anchor_grid,
    match_atss,
    match_iou,
    sample_anchors,
)
from weakseg_lib.model.voxres import norm_relu
from weakseg_lib.ops.boxes import decode, diou_loss, encode, enlarge, paired_iou
from weakseg_lib.processes import total

# Between a cell's positives and its rim nothing is taught: calling the next anchor background, because a noisier
# one was nearer to the centre, would teach the network to be unsure of every cell.
CORE = 0.4


class Detector(nn.Module):
    """Scores and box codes for the anchors of one feature map.

    "one step instead of two steps, which uses less parameters and less GPU memory" (section 2.1): no second stage
    classifies the boxes again. `paper` loss: softmax over all c classes; default: one sigmoid a foreground class.
    """

    def __init__(
        self, channels: int, anchor_sizes, stride: int, classes: int, paper: bool, norm: str = "batch"
    ):
        super().__init__()
        self.stride, self.classes, self.paper = stride, classes, paper
        self.register_buffer("anchor_sizes", torch.as_tensor(anchor_sizes, dtype=torch.float32))
        self.outputs = classes if paper else classes - 1
        n = len(self.anchor_sizes)
        self.trunk = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1, bias=False), norm_relu(channels, norm)
        )
        self.score = nn.Conv3d(channels, n * self.outputs, 1)
        self.code = nn.Conv3d(channels, n * 6, 1)
        # Nearly all anchors are background: start there, or the first steps only learn that (Lin et al. 2017).
        nn.init.constant_(self.score.bias, 0.0 if paper else -math.log(99))
        nn.init.normal_(self.code.weight, std=0.01)
        nn.init.zeros_(self.code.bias)

    def forward(self, features: torch.Tensor):
        """(N, C, D, H, W) -> anchors (P, 6), logits (N, P, outputs), box codes (N, P, 6); P = D * H * W * A."""
        x = self.trunk(features)
        anchors = anchor_grid(features.shape[2:], self.stride, self.anchor_sizes.cpu(), features.device)
        logits, code = (
            head(x).permute(0, 2, 3, 4, 1).reshape(len(x), len(anchors), -1).float()
            for head in (self.score, self.code)
        )
        return anchors, logits, code

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., outputs) -> probability of each foreground class (..., classes - 1)."""
        return logits.softmax(-1)[..., 1:] if self.paper else logits.sigmoid()

    def loss(
        self, anchors, logits, code, boxes, classes, ignore, seeds=()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L_cls and L_reg of a batch. `boxes`, `classes`, `ignore`: a list entry an image, (n, 6), (n,), (k, 6).

        Anchors centred in an `ignore` box (a cell mostly outside the crop) take no part. `seeds`, one an image: of the
        anchors that the paper's loss samples.
        """
        form = self._paper_loss if self.paper else self._default_loss
        parts = []
        for i in range(len(boxes)):
            match = self._match(anchors, boxes[i])
            unclear = ignore[i] if self.paper else torch.cat([ignore[i], enlarge(boxes[i], -CORE)])
            match[_centred_in(anchors, unclear) & (match == BACKGROUND)] = IGNORED
            if self.paper and len(seeds):
                torch.manual_seed(int(seeds[i]))
            parts.append(form(anchors, logits[i], code[i], boxes[i], classes[i], match))
        losses, counts = zip(*parts, strict=True)
        count = max(total(sum(counts), logits.device), 1)
        return tuple(torch.stack(part).sum() / count for part in zip(*losses, strict=True))

    def _match(self, anchors, boxes):
        return match_iou(anchors, boxes) if self.paper else match_atss(anchors, boxes, len(self.anchor_sizes))

    def _paper_loss(self, anchors, logits, code, boxes, classes, match):
        """Eq. 1 for all c classes: log loss on sampled anchors, smooth L1 on positives, both over the number
        sampled."""
        chosen = sample_anchors(match, 256, 0.5)
        positive = match >= 0
        target = torch.zeros_like(match)
        target[positive] = classes[match[positive]]
        classification = F.cross_entropy(logits[chosen], target[chosen], reduction="sum")
        positive &= chosen
        wanted = encode(anchors[positive], boxes[match[positive]])
        regression = F.smooth_l1_loss(code[positive], wanted, reduction="sum", beta=1 / 9)
        return (classification, regression), int(chosen.sum())

    def _default_loss(self, anchors, logits, code, boxes, classes, match):
        """Quality focal loss (Li et al. 2020) and DIoU: a positive's score learns (1 + IoU of its box) / 2.

        So the score ranks boxes by how well they fit, which is what non-maximum suppression needs it for. The
        IoU alone, as published, would give small cells, where one voxel costs much IoU, scores like background.
        Both sums are divided by the number of positives: dividing by all anchors, as printed, would make the
        loss vanish.
        """
        positive = match >= 0
        found, wanted = decode(anchors[positive], code[positive]), boxes[match[positive]]
        target = torch.zeros_like(logits)
        quality = (1 + paired_iou(found.detach(), wanted)) / 2
        target[positive, classes[match[positive]] - 1] = quality
        weight = (target - logits.detach().sigmoid()).square()
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
        return (loss[match != IGNORED].sum(), diou_loss(found, wanted).sum()), int(positive.sum())


def _centred_in(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    centre = ((anchors[:, :3] + anchors[:, 3:]) / 2)[:, None]
    return ((centre > boxes[None, :, :3]) & (centre < boxes[None, :, 3:])).all(-1).any(1)
