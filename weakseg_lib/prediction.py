"""Prediction: whole stacks by overlapping tiles, instances merged without seams, masks at the stack's resolution."""

import warnings
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from tqdm.auto import tqdm

from weakseg_lib import __version__
from weakseg_lib.cluster import MANY, connect, each
from weakseg_lib.components import class_probabilities, instances
from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.files import atomic_paths
from weakseg_lib.data.prepare import compress, resample, to_working, working_shape
from weakseg_lib.data.stacks import Stack, write_tiff
from weakseg_lib.data.weak_files import CELL
from weakseg_lib.device import autocast, memory_format
from weakseg_lib.errors import InputError
from weakseg_lib.jobs import Job, finished, list_jobs, note_settings, remove_other_form, write_boxes
from weakseg_lib.model.network import Network
from weakseg_lib.ops.boxes import clip_boxes, enlarge, nms
from weakseg_lib.pasting import paste
from weakseg_lib.runs import PRETRAINED, Run, load_run
from weakseg_lib.tiling import VIEWS, pad_to_stride, tiles

LOWEST_SCORE, LOOSEST_OVERLAP = 0.1, 0.5  # what is collected and clustered before the thresholds choose
MUCH_FINER = 6  # times as many voxels as the stack has
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

    The image is cut into tiles with a halo (`Network.halo`), so a tile sees at its core nearly what the whole image
    would show it. A box belongs to the tile whose core holds its centre: it is found once, and its mask, computed from
    the features of that tile, is whole. A last non-maximum suppression goes over all boxes.
    """
    todo = list(tiles(image.shape, network.config.tile, network.halo, network.stride))
    bar = tqdm(todo, desc="tiles", disable=not progress or len(todo) == 1, leave=False)
    parts = [detect_tile(network, image[b], c, b, score, overlap, with_masks) for c, b in bar]
    return join(parts).above(score, overlap)


def join(parts: list[Detections]) -> Detections:
    """The detections of several tiles as one, best score first."""
    columns = zip(*((p.boxes, p.scores, p.classes, p.masks) for p in parts), strict=True)
    found = Detections(*(None if c[0] is None else np.concatenate(c) for c in columns))
    return found[np.argsort(-found.scores, kind="stable")]


@torch.inference_mode()
def detect_tile(
    network: Network, image: np.ndarray, core, block, score: float, overlap: float, with_masks: bool = True
) -> Detections:
    """The instances whose centre is in the `core` of one tile (three slices), boxes in voxels of the whole image.

    image: the normalised `block` of it (three slices), core and halo. The rest as in `detect_stack`.
    """
    config, device = network.config, next(network.parameters()).device
    network.eval()
    crop = compress(torch.from_numpy(image))[None, None].to(device)
    crop = pad_to_stride(crop, network.stride).contiguous(memory_format=memory_format())
    with autocast(device, config.precision):
        maps = {}

        def views():
            """One after another, so that the maps of a mirror image are gone before the next ones are made; those that
            masks are made of come last."""
            head = config.head_stride
            for flips in VIEWS[1 : config.views]:
                yield flips, {head: network.backbone(crop.flip([axis + 2 for axis in flips]))[head]}
            maps.update(network.backbone(crop))
            yield (), maps

        boxes, scores, classes = network.detect(views(), min(score, LOWEST_SCORE), LOOSEST_OVERLAP)
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
    boxes, scores = (v.float().cpu().numpy() for v in (boxes + offset, scores))
    return Detections(boxes, scores, classes.cpu().numpy(), masks)


def _masks(network: Network, maps, boxes, classes) -> np.ndarray:
    """Masks (k, M, M, M) uint8 of boxes (k, 6), some at a time."""
    masks = [np.zeros((0, *(2 * network.config.roi_size,) * 3), np.uint8)]
    for b, c in zip(boxes.split(MASK_BATCH), classes.split(MASK_BATCH), strict=True):
        probability = network.masks(maps, [enlarge(b, network.config.roi_margin)], c).sigmoid()
        masks.append((probability * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(masks)


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
    check_scale(stack, run.info["working_voxel_um"])
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


def check_scale(stack: Stack, working):
    """Raise InputError for a voxel size in nm or mm: it would ask for a thousand times the voxels, or leave one. Warn
    where the network knows much finer voxels, so smaller cells, too: it would take long to find little."""
    ratio = np.array(stack.voxel_size) / working
    own, trained = (" x ".join(f"{v:.3g}" for v in sizes) for sizes in (stack.voxel_size, working))
    if ratio.max() > 8 or ratio.min() < 1 / 50:
        problem = f"its voxel size, {own} um, does not go with the training's, {trained} um after resampling"
        raise InputError(stack.path, problem, "give the right size in um with `--voxel-size Z Y X`")
    if ratio.prod() > MUCH_FINER:
        finer = f"becomes {ratio.prod():.0f} times as many voxels, of {trained} um, as were learnt"
        warnings.warn(f"{stack.path}: {finer}; cells of another size are missed", stacklevel=3)


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
    scheduler=None,
    workers=0,
    blocks=False,
    again=False,
) -> dict[Path, int]:
    """Segment every stack of `inputs` and write maskTTT.tif and boxesTTT.csv, the challenge's result layout.

    inputs: sequence folders (or `Sequence`, for some of the frames), TIFFs, OME-Zarrs. One sequence goes into `out`
    itself, several into out/01_RES, ...; an image outside a sequence into mask_NAME.tif and boxes_NAME.csv. `score`:
    least score of a cell, by default the one chosen in training; `reading`: see `predict_stack`. `scheduler`,
    `workers`: Dask's, see `cluster.connect`; by default everything is done in this process. An OME-Zarr of more than
    2^30 voxels, or with `blocks` any, is predicted piece by piece into mask_NAME.ome.zarr. A stack is left out whose
    result is whole, newer than weights and image, and made with the same settings, unless `again`.

    Returns the folders written to, each with the number of cells in the results of these inputs. Raises InputError
    for the first unusable input, before that stack's earlier result is touched; with workers when all others are done.
    """
    from weakseg_lib.blocks import by_blocks, predict_blocks  # which are made of what is above

    run = load_run(run_folder, device)
    jobs = [by_blocks(job, frame, blocks) for job in list_jobs(inputs, Path(out))]
    if frame is not None and (of := next((job.sequence for job in jobs if job.sequence), None)):
        fix = f"leave it out, or give the file {of.image_path(of.frames[0])}"
        raise InputError(
            of.path, f"is a sequence of single stacks, so there is no frame {frame} in them", fix
        )
    cells = dict.fromkeys(sorted({job.mask.parent for job in jobs}), 0)
    options = {"voxel_size": voxel_size and list(voxel_size), "frame": frame, "score": score}
    settings = {"weakseg": __version__, "run": str(run.folder.resolve()), "reading": reading} | options
    done = {} if again else finished(jobs, run.folder, run.info["has_masks"], settings)
    for job, number in done.items():
        cells[job.mask.parent] += number
    if done:
        text = "kept, as their results are newer than weights and image; --again predicts them again"
        warnings.warn(f"{len(done)} of {len(jobs)} stacks are {text}", stacklevel=2)
    whole, large = ([job for job in jobs if job not in done and job.blocks == b] for b in (False, True))
    with connect(scheduler, workers, len(whole) + MANY * len(large), device) as client:
        # A worker gets the run once, not with every task; where it is, the working folder may be another.
        name = run_folder if run.folder.parent == PRETRAINED else run.folder.absolute()
        shared = run if client is None else client.submit(load_run, name, device, pure=False)
        work = partial(_predict_job, options=options, reading=reading, progress=progress and client is None)
        tasks = whole if client is None else [job.absolute() for job in whole]
        bar = {"desc": "segmenting", "unit": "stack", "progress": progress and bool(whole), "done": len(done)}
        for n, number in each(client, work, shared, tasks, where=attrgetter("image"), **bar):
            cells[whole[n].mask.parent] += number
            note_settings(whole[n], settings)
        for job in large:
            more = options | {"again": again, "progress": progress}
            cells[job.mask.parent] += predict_blocks(run, job, client=client, shared=shared, **more)
            note_settings(job, settings)
    return cells


def _predict_job(run: Run, job: Job, options: dict, reading: str, progress: bool) -> int:
    """Segment one stack and write its result; the number of cells."""
    stack = job.read(options["voxel_size"], options["frame"])
    found = predict_stack(run, stack, options["score"], progress=progress, reading=reading)
    write_prediction(job, found, stack.voxel_size)
    return len(found.ids)


def write_prediction(job: Job, found: Prediction, voxel_size):
    """Write the masks and the boxes of one stack, both or neither."""
    if found.labels is None:
        write_boxes(job.boxes, found)
        job.mask.unlink(missing_ok=True)  # of an earlier run: it would not fit the new boxes
    else:
        with atomic_paths(job.mask, job.boxes) as (mask, boxes):
            write_tiff(mask, found.labels, voxel_size)
            write_boxes(boxes, found)
    remove_other_form(job)
