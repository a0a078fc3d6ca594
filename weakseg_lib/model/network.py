"""The whole network: backbone, one-step detector, mask head; L = L_box + L_mask."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from weakseg_lib.config import Config
from weakseg_lib.model.detector import Detector
from weakseg_lib.model.masks import MaskHead, mask_loss, projection_loss
from weakseg_lib.model.voxres import Backbone
from weakseg_lib.ops.boxes import clip_boxes, cluster, decode, nms
from weakseg_lib.ops.roi_align import roi_align_3d, roi_align_3d_multi
from weakseg_lib.processes import total

# The share of the backbone's reach that a tile is given, beside a whole cell. Farther voxels cost as much as near ones
# and say next to nothing: benchmarks/tile_halo.py.
SEEN = 0.25


@dataclass
class Batch:
    """Training crops of one size with what is known of them; every list has an entry a crop.

    images (N, 1, D, H, W) float32; boxes (n, 6), classes (n,) from 1, ignore (k, 6); rois (m, 6) regions for the mask
    head, roi_classes (m,), targets (m, M, M, M) in [0, 1], weights (m,) 1 where the instance has a voxel mask, and
    inside (m, 3, M): the share of each slab of the region that lies in the annotated box. seeds: () int64, of what is
    drawn at random in the loss of a crop.
    """

    images: torch.Tensor
    boxes: list[torch.Tensor]
    classes: list[torch.Tensor]
    ignore: list[torch.Tensor]
    rois: list[torch.Tensor]
    roi_classes: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    inside: torch.Tensor
    seeds: list[torch.Tensor] = field(default_factory=list)

    def to(self, device) -> "Batch":
        def move(value):
            return [v.to(device) for v in value] if isinstance(value, list) else value.to(device)

        return Batch(**{name: move(value) for name, value in vars(self).items()})


class Network(nn.Module):
    """Image in, boxes with scores and a mask for each box out. `anchor_sizes` (A, 3) in working voxels."""

    def __init__(self, config: Config, anchor_sizes):
        super().__init__()
        self.config = config
        self.backbone = Backbone(
            config.channels, config.blocks, config.norm, config.top_down, finest=config.mask_skip
        )
        channels = self.backbone.channels
        paper = config.loss == "paper"
        self.detector = Detector(
            channels[config.head_stride], anchor_sizes, config.head_stride, config.classes, paper, config.norm
        )
        self.mask_head = MaskHead(
            sum(channels[s] for s in config.roi_strides),
            config.mask_channels,
            config.classes,
            config.norm,
            channels[1] if config.mask_skip else 0,
        )

    @property
    def stride(self) -> int:
        """Every side of an image must be a multiple of this."""
        return max(self.backbone.strides)

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) that a tile needs around its core: most of what the detector sees, and the outer half of a
        large cell.

        With `SEEN` = 1 a box centred in the core, and the features its mask is made from, would be those of the whole
        image, to the last bit.
        """
        half_cell = self.detector.anchor_sizes.amax(0).tolist()
        head = self.config.head_stride
        reach = [math.ceil(SEEN * r) for r in self.backbone.reach]
        return tuple(r + head + math.ceil(h) for r, h in zip(reach, half_cell, strict=True))

    def masks(
        self, maps: dict[int, torch.Tensor], rois: list[torch.Tensor], classes: torch.Tensor
    ) -> torch.Tensor:
        """Mask logits (K, 2s, 2s, 2s) for regions of each image, a list of (k, 6); `classes` (K,) from 1."""
        strides, size = self.config.roi_strides, self.config.roi_size
        crops = roi_align_3d_multi(
            [maps[s] for s in strides], rois, size, [1 / s for s in strides], sampling_ratio=1
        )
        fine = roi_align_3d(maps[1], rois, 2 * size, sampling_ratio=1) if self.config.mask_skip else None
        logits = self.mask_head(crops, fine).float()
        return logits[torch.arange(len(logits), device=logits.device), classes - 1]

    def losses(self, batch: Batch, progress: float = 0.0) -> dict[str, torch.Tensor]:
        """The parts of L = L_box + L_mask, L_box = L_cls + L_reg, on crops; `progress` does not matter."""
        maps = self.backbone(batch.images)
        found = self.detector(maps[self.config.head_stride])
        classification, regression = self.detector.loss(
            *found, batch.boxes, batch.classes, batch.ignore, batch.seeds
        )
        parts = {"class": classification, "box": regression * self.config.box_weight}
        if total(len(batch.weights), batch.weights.device):
            logits = self.masks(maps, batch.rois, batch.roi_classes)
            parts["mask"] = mask_loss(logits, batch.targets, batch.weights, self.config.dice)
            if self.config.box_supervision:
                weak = projection_loss(logits, batch.inside, 1 - batch.weights)
                parts["mask"] = parts["mask"] + self.config.box_supervision * weak
        else:
            parts["mask"] = classification.new_zeros(())
        return parts

    @torch.no_grad()
    def detect(self, views, score: float = 0.05, overlap: float = 0.3):
        """Boxes of one image, best first: boxes (k, 6), scores (k,), classes (k,).

        `views`: (flipped axes, feature maps of the flipped image) of the same image, whose scores and box codes
        are averaged. Boxes scoring at most `score` are dropped, the best `config.candidates` go through NMS at
        IoU `overlap`.
        """
        stride = self.config.head_stride
        scores, codes, count = 0.0, 0.0, 0
        for flips, maps in views:
            shape, count = maps[stride].shape[2:], count + 1
            anchors, logits, code = self.detector(maps[stride])
            probability = self.detector.probabilities(logits[0])
            scores = scores + _unflip(probability, shape, flips)
            mirrored = code.new_tensor([-1.0 if axis in flips else 1.0 for axis in range(3)] + [1.0] * 3)
            codes = codes + _unflip(code[0] * mirrored, shape, flips)
        codes = codes / count
        scores, classes = (scores / count).max(-1)
        top = torch.nonzero(scores > score).flatten()
        top = top[torch.sort(scores[top], descending=True, stable=True).indices[: self.config.candidates]]
        boxes = clip_boxes(decode(anchors[top], codes[top]), [n * stride for n in shape])
        solid = (boxes[:, 3:] - boxes[:, :3]).amin(1) > 0.5
        boxes, scores, classes = boxes[solid], scores[top][solid], classes[top][solid] + 1
        kept = nms(boxes, scores, overlap)
        return cluster(boxes, scores, kept), scores[kept], classes[kept]


def _unflip(values: torch.Tensor, shape, flips) -> torch.Tensor:
    """(D * H * W * A, k) of a flipped map of `shape`, in the order of the map that was not flipped."""
    return values.reshape(*shape, -1).flip(flips).reshape(values.shape)
