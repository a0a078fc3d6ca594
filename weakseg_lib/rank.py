"""Which cells to mask next: where a trained network's masks disagree, and which cells differ from the masked ones.

Both are guesses at what a mask would teach. Disagreement is query by committee (Seung et al., COLT 1992) with mirrored
and noisy views as the committee; difference is the distance to what is known, as in core-set selection (Sener and
Savarese, ICLR 2018). benchmarks/which_to_mask.py compares them with a random choice.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from tqdm.auto import tqdm

from weakseg_lib.data.prepare import compress
from weakseg_lib.data.stacks import Sequence, Stack
from weakseg_lib.data.weak_files import WeakAnnotation, read_weak
from weakseg_lib.device import autocast, memory_format
from weakseg_lib.errors import InputError
from weakseg_lib.ops.boxes import enlarge
from weakseg_lib.ops.roi_align import roi_align_3d_multi
from weakseg_lib.prediction import MASK_BATCH, working_image
from weakseg_lib.runs import Run
from weakseg_lib.tiling import VIEWS, pad_to_stride, tiles
from weakseg_lib.training_data import check_classes

WAYS = ("random", "both", "disagreement", "difference")
DEFAULT = "random"  # no other way taught more: benchmarks/results/which_to_mask_*.md
NOISE = 0.06  # added to a view: standard deviation as a share of the bright level, as in training


@dataclass(frozen=True)
class Cells:
    """The annotated cells of some stacks: stack (n,) the stack's number, ids (n,) int64, has_mask (n,) bool;
    disagreement (n,) in [0, 1], 0 where all views give the same mask; features (n, C) float32."""

    stack: np.ndarray
    ids: np.ndarray
    has_mask: np.ndarray
    disagreement: np.ndarray
    features: np.ndarray

    @staticmethod
    def joined(parts: list["Cells"]) -> "Cells":
        return Cells(
            *(np.concatenate(column) for column in zip(*(vars(p).values() for p in parts), strict=True))
        )


def rank_for_masks(
    run: Run,
    stack: Stack,
    annotation: WeakAnnotation,
    by: str = DEFAULT,
    *,
    seed: int = 0,
    noise: float = NOISE,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the cells of a stack that have no mask by what a mask of them would teach.

    Returns their ids (m,) int64, best first, and scores (m,) in [0, 1]; equal cells score equal. by: one of WAYS;
    "both" is the mean of the cell's ranks in disagreement and in difference, which no unit or scale then decides.
    `seed`: of the noise, and of the random choice. Raises InputError for an unknown way and for a run that has not
    learnt masks.
    """
    check_classes(stack.path, annotation.classes, run.config)
    cells = look_at_cells(run, stack, annotation, by=by, seed=seed, noise=noise)
    scores = scores_of(cells, by, seed)
    open_ = np.flatnonzero(~cells.has_mask)
    order = open_[np.argsort(-scores[open_], kind="stable")]
    return cells.ids[order], scores[order]


def rank_sequence(
    run: Run,
    sequence,
    number: int = 10,
    by: str = DEFAULT,
    *,
    seed: int = 0,
    voxel_size=None,
    progress: bool = True,
) -> list[dict]:
    """`choose` among the cells of all annotated frames of a sequence, by what is masked in any of them. One dict a
    cell, the first to mask first: frame, id, box (six numbers, voxels), score."""
    sequence = sequence if isinstance(sequence, Sequence) else Sequence(sequence)
    frames = [t for t in sequence.frames if sequence.weak_boxes_path(t).is_file()]
    if not frames:
        raise InputError(sequence.weak_path, "no boxes", "draw some, or begin with `weakseg propose`")
    looked, boxes = [], []
    for t in tqdm(frames, desc=f"looking at {sequence.name}", unit="stack", disable=not progress):
        stack = sequence.read(t, voxel_size=voxel_size)
        annotation = read_weak(sequence, t, stack.image.shape)
        check_classes(sequence.weak_boxes_path(t), annotation.classes, run.config)
        if len(annotation.ids):
            looked.append(look_at_cells(run, stack, annotation, number=t, by=by, seed=seed))
            boxes += annotation.boxes.tolist()
    if not looked:
        return []
    cells = Cells.joined(looked)
    return [
        {
            "frame": int(cells.stack[i]),
            "id": int(cells.ids[i]),
            "box": boxes[i],
            "score": round(float(score), 4),
        }
        for i, score in zip(*choose(cells, by, number, seed), strict=True)
    ]


def scores_of(cells: Cells, by: str, seed: int = 0) -> np.ndarray:
    """What a mask of each cell (n,) would teach, in [0, 1] among those without one; 0 for those that have one."""
    _check_way(by)
    open_ = ~cells.has_mask
    parts = {
        "random": lambda: [np.random.default_rng(seed).permutation(len(cells.ids))[open_]],
        "disagreement": lambda: [cells.disagreement[open_]],
        "difference": lambda: [difference(cells.features, cells.has_mask)[open_]],
    }
    parts["both"] = lambda: parts["disagreement"]() + parts["difference"]()
    scores = np.zeros(len(cells.ids))
    if open_.any():
        scores[open_] = np.mean([rankdata(part) for part in parts[by]()], 0) / open_.sum()
    return scores


def choose(cells: Cells, by: str, number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Up to `number` cells one after the other, as indices, each with its score when chosen: one that is chosen counts
    as masked for the next, so that a cell seen in two frames is not asked for twice."""
    has_mask, chosen = cells.has_mask.copy(), []
    for _ in range(min(number, np.count_nonzero(~has_mask))):
        scores = scores_of(replace(cells, has_mask=has_mask), by, seed)
        best = int(np.argmax(np.where(has_mask, -1, scores)))
        chosen.append((best, scores[best]))
        has_mask[best] = True
    return np.array([i for i, _ in chosen], int), np.array([score for _, score in chosen])


def difference(features: np.ndarray, has_mask: np.ndarray) -> np.ndarray:
    """Distance (n,) of every cell's features (n, C) to the nearest masked cell's, each feature in units of its own
    spread; 0 for all where no cell has a mask."""
    if not has_mask.any():
        return np.zeros(len(features))
    spread = features.std(0)
    scaled = features / np.where(spread > 0, spread, 1)
    # Rounded, so that cells that differ by rounding alone are equal.
    return cdist(scaled, scaled[has_mask]).min(1).round(5) / np.sqrt(features.shape[1])


def disagreement(masks: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - Dice over all pairs of views: probabilities (V, K, ...) of V >= 2 views -> (K,) in [0, 1].

    The soft Dice with squares below: two equal masks agree wholly however unsure they are, two empty ones too.
    """
    flat = masks.flatten(2).transpose(0, 1)  # K, V, voxels
    common = flat @ flat.transpose(1, 2)
    size = common.diagonal(dim1=1, dim2=2)
    dice = 2 * common / (size[:, :, None] + size[:, None]).clamp(min=1e-6)
    dice = torch.where(size[:, :, None] + size[:, None] > 1e-6, dice, 1.0)
    views = masks.shape[0]
    return (1 - (dice.sum((1, 2)) - views) / (views * (views - 1))).clamp(0, 1)


def look_at_cells(
    run: Run,
    stack: Stack,
    annotation: WeakAnnotation,
    *,
    number=0,
    by="both",
    seed=0,
    noise=NOISE,
) -> Cells:
    """What the network says of the annotated boxes of one stack, mirrored and noisy in eight ways, for `scores_of`.

    Features are the maps that the mask head looks at, averaged over the box and the views. For a random choice
    nothing is computed and there are no features.
    """
    _check_way(by)
    ids, has_mask = annotation.ids, annotation.has_mask
    unknown = Cells(
        np.full(len(ids), number), ids, has_mask, np.zeros(len(ids)), np.zeros((len(ids), 0), np.float32)
    )
    if by == "random" or not len(ids):
        return unknown
    if run.config.method != "weak" or not run.info["has_masks"]:
        what = "is a VoxResNet" if run.config.method != "weak" else "was trained without masks"
        fix = "mask a few cells by chance, train, and rank with that run, or use `--by random`"
        raise InputError(run.folder, f"{what}, so its masks cannot say where they are unsure", fix)
    unsure, features = np.zeros(len(ids)), [None] * len(ids)
    for which, masks, pooled in views_of_cells(run, stack, annotation, VIEWS, noise, seed):
        unsure[which] = disagreement(masks).numpy()
        for i, feature in zip(which, pooled.mean(0).numpy(), strict=True):
            features[i] = feature
    return Cells(unknown.stack, ids, has_mask, unsure.round(5), np.stack(features))


@torch.inference_mode()
def views_of_cells(run: Run, stack: Stack, annotation: WeakAnnotation, views=((),), noise=0.0, seed=0):
    """Predict masks in the annotated boxes, tile by tile: yields which of the cells (list of k), masks (V, k, M, M, M)
    in [0, 1] on grids that fill the boxes and their margins, and pooled features (V, k, C).

    views: V tuples of mirrored axes; noise: standard deviation added to each view, as a share of the bright level.
    """
    image, scale = working_image(run, stack)
    boxes = torch.from_numpy((annotation.boxes * np.tile(scale, 2)).astype(np.float32))
    classes = torch.from_numpy(annotation.classes)
    centre, network = (boxes[:, :3] + boxes[:, 3:]) / 2, run.network
    generator = torch.Generator().manual_seed(seed)
    for core, block in tiles(image.shape, network.config.tile, network.halo, network.stride):
        low, high = (torch.tensor([getattr(s, end) for s in core]) for end in ("start", "stop"))
        mine = torch.nonzero(((centre >= low) & (centre < high)).all(1)).flatten()
        if not len(mine):
            continue
        crop = pad_to_stride(torch.from_numpy(image[block])[None, None], network.stride)
        own = boxes[mine] - torch.tensor([s.start for s in block] * 2)
        looks = []
        for flips in views:
            noisy = crop + noise * torch.randn(crop.shape, generator=generator)
            looks.append(_look(network, noisy, own, classes[mine], flips))
        yield mine.tolist(), *(torch.stack(part) for part in zip(*looks, strict=True))


def _look(network, crop, boxes, classes, flips):
    """Masks (k, M, M, M) of boxes (k, 6) in a crop (1, 1, D, H, W), seen mirrored and turned back, and the features
    (k, C) that they are made of."""
    config, device = network.config, next(network.parameters()).device
    mirrored, size = boxes.clone(), torch.tensor(crop.shape[2:])
    for axis in flips:
        mirrored[:, axis], mirrored[:, axis + 3] = (
            size[axis] - boxes[:, axis + 3],
            size[axis] - boxes[:, axis],
        )
    image = compress(crop.flip([a + 2 for a in flips])).to(device).contiguous(memory_format=memory_format())
    masks, features = [], []
    with autocast(device, config.precision):
        maps = network.backbone(image)
        for b, c in zip(
            mirrored.to(device).split(MASK_BATCH), classes.to(device).split(MASK_BATCH), strict=True
        ):
            region = [enlarge(b, config.roi_margin)]
            masks.append(network.masks(maps, region, c).sigmoid().flip([a + 1 for a in flips]).cpu())
            chosen = [maps[s] for s in config.roi_strides]
            pooled = roi_align_3d_multi(
                chosen, region, 4, [1 / s for s in config.roi_strides], sampling_ratio=1
            )
            features.append(pooled.float().mean((2, 3, 4)).cpu())
    return torch.cat(masks), torch.cat(features)


def _check_way(by):
    if by not in WAYS:
        raise InputError(f"--by {by}", "is no way to choose", f"choose one of {', '.join(WAYS)}")
