"""Prediction: whole stacks by overlapping tiles, instances merged without seams, masks at the stack's resolution."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F
from tqdm.auto import tqdm

from weakseg_lib.components import class_probabilities, instances
from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.files import atomic_paths
from weakseg_lib.data.prepare import compress, resample, to_working, working_shape
from weakseg_lib.data.stacks import Stack, write_tiff
from weakseg_lib.data.weak_files import CELL
from weakseg_lib.device import autocast, memory_format
from weakseg_lib.errors import InputError
from weakseg_lib.jobs import Job, list_jobs, write_boxes
from weakseg_lib.model.network import Network
from weakseg_lib.ops.boxes import clip_boxes, enlarge, nms
from weakseg_lib.runs import Run, load_run
from weakseg_lib.tiling import VIEWS, tiles

LOWEST_SCORE, LOOSEST_OVERLAP = 0.1, 0.5  # what is collected and clustered before the thresholds choose
MASK_BATCH = 64  # regions at a time in the mask head: bounds its memory


@dataclass(frozen=True)
class Detections:
    """Instances of one stack, best score first. Boxes (n, 6) float32 in working voxels, scores (n,), classes
    (n,) from 1, masks (n, M, M, M) uint8: probability * 255 on a grid that fills the box and its margin; None
    for a detector trained alone."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None

    def __getitem__(self, which) -> "Detections":
        masks = None if self.masks is None else self.masks[which]
        return Detections(self.boxes[which], self.scores[which], self.classes[which], masks)

    def above(self, score: float, overlap: float) -> "Detections":
        """Those scoring above `score` that survive non-maximum suppression at IoU `overlap`."""
        chosen = self[self.scores > score]
        kept = nms(torch.from_numpy(chosen.boxes), torch.from_numpy(chosen.scores), overlap)
        return chosen[kept.numpy()]


@torch.inference_mode()
def detect_stack(
    network: Network,
    image: np.ndarray,
    score: float,
    overlap: float,
    with_masks: bool = True,
    progress: bool = False,
) -> Detections:
    """Detect and segment all instances of a normalised image (D, H, W) in working voxels.

    The image is cut into tiles whose halo is the receptive field, so a tile sees at its core what the whole image would
    show it. A box belongs to the tile whose core holds its centre: it is found once, and its mask, computed from the
    features of that tile, is whole. A last non-maximum suppression goes over all boxes.
    """
    config, device = network.config, next(network.parameters()).device
    network.eval()
    parts = []
    todo = list(tiles(image.shape, config.tile, network.halo, network.stride))
    for core, block in tqdm(todo, desc="tiles", disable=not progress or len(todo) == 1, leave=False):
        crop = compress(torch.from_numpy(image[block]))[None, None].to(device)
        pad = [p for n in reversed(crop.shape[2:]) for p in (0, -n % network.stride)]
        crop = F.pad(crop, pad).contiguous(memory_format=memory_format())
        with autocast(device, config.precision):
            maps = network.backbone(crop)
            # A generator: the maps of a mirror image are gone before the next ones are made.
            mirrored = ((f, network.backbone(crop.flip([a + 2 for a in f]))) for f in VIEWS[1 : config.views])
            views = chain([((), maps)], mirrored)
            boxes, scores, classes = network.detect(views, min(score, LOWEST_SCORE), LOOSEST_OVERLAP)
            sure = scores > score
            boxes, scores, classes = boxes[sure], scores[sure], classes[sure]
            kept = nms(boxes, scores, overlap)
            boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
            offset = boxes.new_tensor([s.start for s in block] * 2)
            low, high = (boxes.new_tensor([getattr(s, end) for s in core]) for end in ("start", "stop"))
            centre = (boxes[:, :3] + boxes[:, 3:]) / 2 + offset[:3]
            # A voxel to spare: rounding must not leave a box to neither tile, and doubles go in the last suppression.
            mine = ((centre >= low - 1) & (centre < high + 1)).all(1)
            boxes = clip_boxes(boxes, [s.stop - s.start for s in block])
            mine &= (boxes[:, 3:] - boxes[:, :3]).amin(1) > 0.5
            boxes, scores, classes = boxes[mine], scores[mine], classes[mine]
            masks = _masks(network, maps, boxes, classes) if with_masks else None
        found = (boxes + offset, scores, classes)
        parts.append(
            (*(v.float().cpu().numpy() if v.is_floating_point() else v.cpu().numpy() for v in found), masks)
        )
    boxes, scores, classes, masks = (
        None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True)
    )
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes, scores, classes, masks)[order].above(score, overlap)


def _masks(network: Network, maps, boxes, classes) -> np.ndarray:
    """Masks (k, M, M, M) uint8 of boxes (k, 6), some at a time."""
    masks = [np.zeros((0, *(2 * network.config.roi_size,) * 3), np.uint8)]
    for b, c in zip(boxes.split(MASK_BATCH), classes.split(MASK_BATCH), strict=True):
        probability = network.masks(maps, [enlarge(b, network.config.roi_margin)], c).sigmoid()
        masks.append((probability * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(masks)


def paste(found: Detections, shape, scale, margin: float = 0.0, level: float = 0.5) -> np.ndarray:
    """Labels (D, H, W) int32 of a stack of `shape`: instance i gets id i + 1 where its mask is above `level`.

    `scale` (3,): working voxels per voxel of the stack; `margin`: `Config.roi_margin` of the masks. Where masks
    overlap, the most probable one wins; a tie goes to the better score.
    """
    labels = np.zeros(shape, np.int32)
    best = np.full(shape, int(level * 255), np.uint8)
    for i, (box, mask) in enumerate(zip(found.boxes, found.masks, strict=True)):
        where, probability = enlarged_mask(box, mask, shape, scale, margin)
        wins = probability > best[where]
        labels[where][wins] = i + 1
        best[where][wins] = probability[wins]
    return labels


def enlarged_mask(box, mask, shape, scale, margin: float) -> tuple[tuple[slice, ...], np.ndarray]:
    """One instance's mask on the stack's own voxels: where in a stack of `shape`, and probability * 255 (uint8) there.

    Arguments as in `paste`, for one box (6,) and its mask (M, M, M). Linear interpolation, an axis at a time.
    """
    box = enlarge(box[None], margin)[0]
    low, high = box[:3] / scale, box[3:] / scale
    first = np.minimum(np.maximum(np.floor(low), 0), shape).astype(int)
    last = np.maximum(np.minimum(np.ceil(high), shape), first).astype(int)
    grid = mask.astype(np.float32)
    for axis in range(3):
        matrix = _paste_matrix(low[axis], high[axis], first[axis], last[axis], grid.shape[axis])
        grid = np.moveaxis(np.tensordot(matrix, grid, (1, axis)), 0, axis)
    where = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    return where, np.round(grid).astype(np.uint8)


def _paste_matrix(low, high, first, last, size) -> np.ndarray:
    """(last - first, size): linear interpolation from a mask grid that fills [low, high) to the voxels first..last."""
    centre = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-6) * size - 0.5
    position = np.clip(centre, 0, size - 1)
    weight = np.clip(1 - np.abs(np.arange(size) - position[:, None]), 0, None)
    # A voxel whose centre is outside the box is outside the instance.
    return weight * ((centre >= -0.5) & (centre < size - 0.5))[:, None]


@dataclass(frozen=True)
class Prediction:
    """The instances of one stack: ids (n,) from 1, boxes (n, 6) float32 in voxels of the stack, scores (n,),
    classes (n,), best score first; labels (D, H, W) int32 with these ids, or None for a detector trained
    alone."""

    ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    labels: np.ndarray | None


def predict_stack(
    run: Run, stack: Stack, score=None, overlap=None, progress: bool = False, reading: str = "grown"
) -> Prediction:
    """Segment one stack with a trained run. `score` and `overlap`: thresholds, by default those chosen in training.
    `reading`, of a VoxResNet: components "grown" back into their boundary, or "literal"."""
    if run.config.method == "voxresnet":
        return predict_readings(run, stack, (reading,), score, progress)[reading]
    info = run.info
    image, scale = working_image(run, stack)
    score = info["score_threshold"] if score is None else score
    overlap = info["nms_threshold"] if overlap is None else overlap
    found = detect_stack(run.network, image, score, overlap, info["has_masks"], progress)
    labels = None
    if info["has_masks"]:
        labels = paste(found, stack.image.shape, scale, run.config.roi_margin, info["mask_level"])
        # An instance that others cover wholly has no voxel to show.
        seen = np.bincount(labels.ravel(), minlength=len(found.boxes) + 1)[1:] > 0
        found, labels = found[seen], np.concatenate([[0], np.cumsum(seen) * seen]).astype(np.int32)[labels]
    boxes = (found.boxes / np.tile(scale, 2)).astype(np.float32)
    return Prediction(np.arange(1, len(boxes) + 1), boxes, found.scores, found.classes, labels)


def working_image(run: Run, stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """The normalised image in working voxels, and how many of these a voxel of the stack is, (3,)."""
    _check_scale(stack, run.info["working_voxel_um"])
    shape = working_shape(stack.image.shape, stack.voxel_size, run.info["working_voxel_um"])
    return to_working(stack.image, shape, run.config.smooth), np.array(shape) / stack.image.shape


def predict_readings(
    run: Run, stack: Stack, readings, score=None, progress: bool = False
) -> dict[str, Prediction]:
    """Segment one stack with a trained VoxResNet in each of some `readings`, after one pass of the network. The score
    of an instance is its mean probability of cell."""
    image, scale = working_image(run, stack)
    probabilities = class_probabilities(run.network, image, progress)
    if stack.image.shape != image.shape:  # not labels are resampled, so that surfaces stay fine
        probabilities = np.stack([resample(p, stack.image.shape) for p in probabilities])
    return {r: _read(run.info, probabilities, r, float(scale.prod()), score or 0.0) for r in readings}


def _read(info: dict, probabilities, reading: str, coarser: float, score: float) -> Prediction:
    smallest = info["smallest_share"][reading] * info["median_voxels"] / coarser
    level = info["cell_level"][reading]
    labels = instances(probabilities, level, smallest, reading, info["background_level"])
    scores = ndimage.mean(probabilities[CELL], labels, np.arange(1, labels.max() + 1)).astype(np.float32)
    ids = np.argsort(-scores, kind="stable") + 1
    ids = ids[scores[ids - 1] > score]
    number = np.zeros(len(scores) + 1, np.int32)
    number[ids] = np.arange(1, len(ids) + 1)
    labels = number[labels]
    boxes = boxes_of_labels(labels)[1]
    return Prediction(np.arange(1, len(ids) + 1), boxes, scores[ids - 1], np.full(len(ids), CELL), labels)


def _check_scale(stack: Stack, working):
    """A voxel size in nm or mm would ask for a thousand times the voxels, or leave one: say so instead."""
    ratio = np.array(stack.voxel_size) / working
    if ratio.max() > 8 or ratio.min() < 1 / 50:
        own, trained = (" x ".join(f"{v:.3g}" for v in sizes) for sizes in (stack.voxel_size, working))
        problem = f"its voxel size, {own} um, does not go with the training's, {trained} um after resampling"
        raise InputError(stack.path, problem, "give the right size in um with `--voxel-size Z Y X`")


def predict(
    run_folder,
    inputs,
    out,
    *,
    voxel_size=None,
    frame=None,
    score=None,
    reading="grown",
    device="auto",
    progress=True,
) -> dict[Path, int]:
    """Segment every stack of `inputs` and write maskTTT.tif and boxesTTT.csv, the challenge's result layout.

    inputs: sequence folders (or `Sequence`, for some of the frames), TIFFs, OME-Zarrs. One sequence goes into `out`
    itself, several into out/01_RES, ...; an image outside a sequence into mask_NAME.tif and boxes_NAME.csv. `score`:
    least score of a cell, by default the one chosen in training; `reading`: see `predict_stack`. Returns the folders
    written to, each with the number of cells found.

    Raises InputError for the first unusable input, before that stack's earlier result is touched.
    """
    run = load_run(run_folder, device)
    jobs = list_jobs(inputs, Path(out))
    cells = dict.fromkeys(sorted({job.mask.parent for job in jobs}), 0)
    bar = tqdm(jobs, desc="segmenting", unit="stack", disable=not progress)
    for job in bar:
        stack = job.read(voxel_size, frame)
        bar.set_postfix_str(stack.name)
        found = predict_stack(run, stack, score, progress=progress, reading=reading)
        cells[job.mask.parent] += len(found.ids)
        write_prediction(job, found, stack.voxel_size)
    return cells


def write_prediction(job: Job, found: Prediction, voxel_size):
    """Write the masks and the boxes of one stack, both or neither."""
    if found.labels is None:
        write_boxes(job.boxes, found)
        job.mask.unlink(missing_ok=True)  # of an earlier run: it would not fit the new boxes
        return
    with atomic_paths(job.mask, job.boxes) as (mask, boxes):
        write_tiff(mask, found.labels, voxel_size)
        write_boxes(boxes, found)
