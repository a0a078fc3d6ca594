"""Training crops: where they are cut, how they are varied, and what is known of the cells in them."""

import numpy as np
import torch
from torch.nn import functional as F

from weakseg_lib.config import Config
from weakseg_lib.data.prepare import PreparedStack, compress
from weakseg_lib.model.network import Batch
from weakseg_lib.ops.boxes import box_volume, enlarge
from weakseg_lib.ops.roi_align import roi_align_3d
from weakseg_lib.processes import share

VISIBLE = 0.4  # a cell of which less lies in the crop is neither taught nor counted as background


class CropSampler:
    """Draws batches of crops. Batch number `step` depends on the seed and `step` alone, so a resumed run sees the same,
    and so do several processes, each of which cuts its share of it.

    The crop is centred near a randomly chosen cell, on a masked one half of the time: masks are few, and they are the
    only teachers of the mask head.
    """

    def __init__(self, stacks: list[PreparedStack], config: Config, seed: int):
        if not stacks:
            raise ValueError("stacks must not be empty")
        self.stacks, self.config, self.seed = stacks, config, seed

    def batch(self, step: int) -> Batch:
        crops = self._cut_share(step, self._crop)
        seeds = [np.random.SeedSequence([self.seed, step, i]) for i in share(self.config.batch)]
        return Batch(
            images=torch.stack([c["image"] for c in crops]),
            seeds=[torch.tensor(int(seed.generate_state(1)[0])) for seed in seeds],
            **{key: [c[key] for c in crops] for key in ("boxes", "classes", "ignore", "rois")},
            **{
                key: torch.cat([c[key] for c in crops])
                for key in ("roi_classes", "targets", "weights", "inside")
            },
        )

    def _cut_share(self, step: int, cut) -> list:
        """This process's crops. For those of others only the random numbers are drawn: the next crop needs its own."""
        rng, mine = np.random.default_rng([self.seed, step]), share(self.config.batch)
        crops = [cut(stack, rng, i in mine) for i, stack in enumerate(self.choose(rng))]
        return [crops[i] for i in mine]

    def choose(self, rng) -> list[PreparedStack]:
        """The stacks that the crops of a batch come from: all different, as long as there are enough."""
        order = rng.permutation(len(self.stacks))
        return [self.stacks[order[i % len(order)]] for i in range(self.config.batch)]

    def window(self, stack: PreparedStack, known: dict, rng, mine: bool):
        """Where a crop is cut: the image there (1, *config.crop), its corner and its size (3,) in the stack. The image
        of a crop that is not `mine` is a voxel."""
        image, size = stack.image(), np.array(self.config.crop)
        zoom = np.exp(rng.uniform(-1, 1) * np.log1p(self.config.zoom))
        cut = np.round(size / zoom).astype(int)
        corner = self._corner(image.shape, known["boxes"], known["has_mask"], cut, rng)
        if not mine:
            return torch.zeros(1, 1, 1, 1), corner, cut
        voxels = torch.from_numpy(cut_block(image, corner, cut))[None, None]
        return (
            F.interpolate(voxels, self.config.crop, mode="trilinear", align_corners=False)[0],
            corner,
            cut,
        )

    def _crop(self, stack: PreparedStack, rng, mine: bool) -> dict:
        config, known = self.config, stack.known()
        boxes, size = known["boxes"], np.array(config.crop)
        voxels, corner, cut = self.window(stack, known, rng, mine)
        scale = size / cut

        moved = (torch.from_numpy(boxes) - torch.tensor(np.tile(corner, 2))) * torch.tensor(np.tile(scale, 2))
        moved = moved.float()
        clipped = torch.minimum(moved.clamp(min=0), torch.tensor(np.tile(size, 2)).float())
        share = box_volume(clipped) / box_volume(moved).clamp(min=1e-6)
        seen = (share >= VISIBLE) & torch.from_numpy(known["taught"])
        rois, which = self._regions(clipped, seen, known["has_mask"], rng)
        masked = known["has_mask"][which]
        targets = np.zeros((len(which), *(2 * config.roi_size,) * 3), np.float32)
        for k in np.flatnonzero(masked & mine):
            in_stack = (rois[k].numpy() / np.tile(scale, 2) + np.tile(corner, 2)) / np.tile(known["scale"], 2)
            targets[k] = mask_target(known, which[k], in_stack, 2 * config.roi_size, config.soft_targets)
        classes = torch.from_numpy(known["classes"])
        crop = {
            "image": compress(self.intensities(voxels, rng)),
            "boxes": clipped[seen],
            "classes": classes[seen],
            "ignore": clipped[~seen & (share > 0)],
            "rois": rois,
            "roi_classes": classes[which],
            "targets": torch.from_numpy(targets),
            "weights": torch.from_numpy(masked.astype(np.float32)),
            "inside": _slabs_inside(rois, clipped[which], 2 * config.roi_size),
        }
        return turn(crop, flips=rng.random(3) < 0.5, swap=size[1] == size[2] and rng.random() < 0.5)

    def _corner(self, shape, boxes, has_mask, cut, rng) -> np.ndarray:
        """Corner of the crop: a chosen cell's centre is somewhere in it, and it leaves the stack only if it must."""
        room = np.maximum(np.array(shape) - cut, 0)
        if len(boxes) == 0:
            return rng.integers(0, room + 1)
        pool = np.flatnonzero(has_mask) if has_mask.any() and rng.random() < 0.5 else np.arange(len(boxes))
        box = boxes[rng.choice(pool)]
        centre = (box[:3] + box[3:]) / 2
        return np.clip(np.round(centre - cut * rng.uniform(0.2, 0.8, 3)), 0, room).astype(int)

    def _regions(self, boxes, seen, has_mask, rng):
        """Regions for the mask head: the boxes with their margin, moved and stretched as a detector would err."""
        config = self.config
        masked = np.flatnonzero(seen.numpy() & has_mask)
        weak = np.flatnonzero(seen.numpy() & ~has_mask) if config.box_supervision else masked[:0]
        if len(masked):
            # Each masked cell several times, differently jittered: a cheap way to more masks.
            masked = np.resize(rng.permutation(masked), min(config.rois, 3 * len(masked)))
        weak = rng.permutation(weak)[: max(config.rois // 2, config.rois - len(masked))]
        which = np.concatenate([masked, weak])
        box = enlarge(boxes[torch.from_numpy(which)], config.roi_margin)
        size = box[:, 3:] - box[:, :3]
        centre = (box[:, :3] + box[:, 3:]) / 2 + size * torch.from_numpy(
            rng.normal(0, 0.05, size.shape)
        ).float()
        half = size / 2 * torch.from_numpy(np.exp(rng.normal(0, 0.08, size.shape))).float()
        return torch.cat([centre - half, centre + half], 1), which

    def intensities(self, image: torch.Tensor, rng) -> torch.Tensor:
        """Another gain, gamma, offset, sharpness and noise: what differs between microscopes and depths."""
        config = self.config
        if config.contrast:
            gain, gamma = np.exp(rng.uniform(-1, 1, 2) * config.contrast)
            image = image.sign() * image.abs() ** gamma * gain + rng.uniform(-0.1, 0.1) * config.contrast
        if config.blur and rng.random() < 0.3:
            image = _blur(image, rng.uniform(0.1, config.blur))
        if config.noise:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            image = image + torch.randn(image.shape, generator=generator) * rng.uniform(0, config.noise)
        return image


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """(1, D, H, W) blurred by a Gaussian of `sigma` voxels."""
    reach = int(np.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = len(kernel)
        padding = [reach if n > 1 else 0 for n in shape[2:]]
        image = F.conv3d(image[None], kernel.reshape(shape), padding=padding)[0]
    return image


def cut_block(image, corner, size, dtype=np.float32) -> np.ndarray:
    """A copy of the block at `corner`; outside the stack it is background, 0."""
    block = np.zeros(size, dtype)
    part = image[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))]
    block[tuple(slice(0, n) for n in part.shape)] = part
    return block


def mask_target(known: dict, i: int, region: np.ndarray, size: int, soft: bool) -> np.ndarray:
    """What the mask head should say of instance `i` in `region` (6,), voxels of the full stack: (size,) * 3 float32.

    Soft: the share of each mask voxel that the instance covers; else 1 where that share is above a half.
    """
    mask = torch.from_numpy(known[f"mask_{i}"]).float()[None, None]
    box = torch.tensor(np.concatenate([[0], region - np.tile(known[f"origin_{i}"], 2)]), dtype=torch.float32)[
        None
    ]
    covered = roi_align_3d(mask, box, size, sampling_ratio=2)[0, 0].numpy()
    return covered if soft else (covered > 0.5).astype(np.float32)


def _slabs_inside(rois, boxes, size) -> torch.Tensor:
    """(m, 3, size): the share of each slab of each region that lies in the annotated box, an axis at a time."""
    edges = torch.linspace(0, 1, size + 1)
    slabs = rois[:, :3, None] + (rois[:, 3:] - rois[:, :3])[..., None] * edges
    low = torch.maximum(slabs[..., :-1], boxes[:, :3, None])
    high = torch.minimum(slabs[..., 1:], boxes[:, 3:, None])
    return (high - low).clamp(min=0) / (slabs[..., 1:] - slabs[..., :-1]).clamp(min=1e-6)


def turn(crop: dict, flips, swap: bool) -> dict:
    """The crop mirrored along the axes in `flips` and, with `swap`, its y and x exchanged: image, boxes,
    targets alike."""
    size = torch.tensor(crop["image"].shape[1:]).float()
    out = dict(crop)
    for axis in np.flatnonzero(flips):
        axis = int(axis)
        for key in ("boxes", "ignore", "rois"):
            box = out[key].clone()
            box[:, axis], box[:, axis + 3] = (
                size[axis] - out[key][:, axis + 3],
                size[axis] - out[key][:, axis],
            )
            out[key] = box
        out["image"] = out["image"].flip(axis + 1)
        out["targets"] = out["targets"].flip(axis + 1)
        inside = out["inside"].clone()
        inside[:, axis] = inside[:, axis].flip(1)
        out["inside"] = inside
    if swap:
        for key in ("boxes", "ignore", "rois"):
            out[key] = out[key][:, [0, 2, 1, 3, 5, 4]]
        out["image"] = out["image"].transpose(2, 3)
        out["targets"] = out["targets"].transpose(2, 3)
        out["inside"] = out["inside"][:, [0, 2, 1]]
    return out
