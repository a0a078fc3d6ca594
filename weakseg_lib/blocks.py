"""An OME-Zarr larger than memory, tile by tile, with the labels that the whole stack at once would give, but for gaps
in their numbers: an instance that others cover wholly is known when all are numbered.

What is done is a file in a work folder beside the result, written whole, so that a run that was stopped goes on:
    OUT/mask_NAME.unfinished/
        plan.json        what is being made; another plan starts anew
        sample/N.npy     the voxels of tile N that set the grey scale; then levels.json, the grey scale
        found/N.npz      boxes, scores, classes and masks of the instances centred in the core of tile N
        labels.ome.zarr  the result, and in seen/N.npy the ids in its chunk N
The tiles are those of `prediction.detect_stack`; memory goes with a tile, and in the client with the number of boxes.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from weakseg_lib import __version__
from weakseg_lib.cluster import each
from weakseg_lib.data.files import atomic_path, read_json, write_json, writing_error
from weakseg_lib.data.ome_zarr import is_zarr, open_ome_zarr
from weakseg_lib.data.ome_zarr_write import create_ome_zarr
from weakseg_lib.data.prepare import grey_levels, normalise, sampled, working_region, working_shape
from weakseg_lib.data.stacks import open_stack
from weakseg_lib.errors import InputError
from weakseg_lib.jobs import Job, last_change, remove_other_form, write_boxes
from weakseg_lib.ops.boxes import enlarge
from weakseg_lib.pasting import paste
from weakseg_lib.prediction import Detections, Prediction, check_scale, detect_tile
from weakseg_lib.runs import WEIGHTS, Run
from weakseg_lib.tiling import tiles

LARGE = 2**30  # voxels: an image with more is predicted by blocks unasked
CHUNK = (64, 256, 256)  # of the labels, at most


def by_blocks(job: Job, frame=None, always: bool = False) -> Job:
    """The job as it is, or where its image is larger than `LARGE`, or `always`, with an OME-Zarr as its result.

    Raises InputError with `always` for an image that is no OME-Zarr.
    """
    if job.sequence is not None or not is_zarr(job.image):
        if always:
            fix = "leave --blocks out, or save the image as an OME-Zarr"
            raise InputError(job.image, "is no OME-Zarr, and only these are predicted by blocks", fix)
        return job
    large = always or np.prod(open_ome_zarr(job.image, frame)[0].shape, dtype=float) > LARGE
    return replace(job, mask=job.mask.with_suffix(".ome.zarr"), blocks=True) if large else job


@dataclass(frozen=True)
class Plan:
    """How one image is predicted; paths absolute, as workers may be elsewhere."""

    image: Path
    frame: int | None
    folder: Path  # the work folder
    working: tuple[int, int, int]  # shape of the image in working voxels
    score: float
    overlap: float
    levels: tuple[float, float] | None = None  # the grey scale, once it is known

    def file(self, kind: str, number: int) -> Path:
        return self.folder / kind / f"{number}{'.npz' if kind == 'found' else '.npy'}"

    def region(self, run: Run, where) -> np.ndarray:
        """A region of the image in working voxels, not normalised."""
        volume, _ = open_ome_zarr(self.image, self.frame)
        return working_region(volume, self.working, run.config.smooth, where)


def predict_blocks(
    run: Run,
    job: Job,
    *,
    client=None,
    shared=None,
    voxel_size=None,
    frame=None,
    score=None,
    again=False,
    progress=True,
) -> int:
    """Segment one OME-Zarr and write its labels, an OME-Zarr of the same version, and its boxes. Number of instances.

    client, shared: of `cluster.connect`, and the run as a future of it. again: start anew, whatever is done. Ids are
    unique over the whole image, best score first; those of instances that others cover wholly are left out.
    Raises InputError as `predict` does, and for a VoxResNet.
    """
    if run.config.method == "voxresnet":
        fix = "crop the image, or use a run of `weakseg fit --method weak`"
        raise InputError(job.image, "is predicted by blocks, which a VoxResNet cannot", fix)
    info, shared = run.info, run if client is None else shared
    stack = open_stack(job.image, voxel_size, frame)
    check_scale(stack, info["working_voxel_um"])
    shape = stack.image.shape
    working = working_shape(shape, stack.voxel_size, info["working_voxel_um"])
    folder = job.mask.with_name(job.mask.name.replace(".ome.zarr", ".unfinished"))
    score = info["score_threshold"] if score is None else score
    plan = Plan(job.image.absolute(), frame, folder.absolute(), working, score, info["nms_threshold"])
    _begin(plan, run, again)

    def all_of(function, kind, tasks, desc):
        left = [task for task in tasks if not plan.file(kind, task[1]).is_file()]
        bar = {"desc": desc, "unit": "block", "progress": progress, "done": len(tasks) - len(left)}
        for _ in each(client, function, shared, left, where=lambda task: task[0].image, **bar):
            pass

    cut = list(enumerate(tiles(working, run.config.tile, run.network.halo, run.network.stride)))
    levels = folder / "levels.json"
    if not levels.is_file():
        all_of(sample_tile, "sample", [(plan, n, core) for n, (core, _) in cut], "grey scale")
        sample = np.concatenate([np.load(plan.file("sample", n)) for n, _ in cut])
        if np.ptp(sample) <= 1e-6 * abs(sample[0]):  # resampling rounds
            problem = f"all voxels have the value {sample[0]:g}"
            raise InputError(job.image, problem, "check that the export worked")
        write_json(levels, dict(zip(("low", "high"), map(float, grey_levels(sample)), strict=True)))
        shutil.rmtree(folder / "sample")
    plan = replace(plan, levels=tuple(read_json(levels).values()))
    all_of(find_tile, "found", [(plan, n, *tile) for n, tile in cut], "tiles")
    found, tile, index = _collect(plan, len(cut))

    scale = np.array(working) / shape
    ids, labels = np.arange(1, len(found.boxes) + 1), folder / "labels.ome.zarr"
    if info["has_masks"]:
        regions = [core for core, _ in tiles(shape, CHUNK, (0, 0, 0), 1)]
        if not ((folder / "seen").is_dir() and labels.is_dir()):
            shutil.rmtree(folder / "seen", ignore_errors=True)
            chunks = [s.stop - s.start for s in regions[0]]
            create_ome_zarr(labels, shape, chunks, np.uint32, stack.voxel_size, stack.image.version)
            (folder / "seen").mkdir()
        reach = enlarge(found.boxes, run.config.roi_margin) / np.tile(scale, 2)
        tasks = []
        for n, region in enumerate(regions):
            low, high = (np.array([getattr(s, end) for s in region]) for end in ("start", "stop"))
            (here,) = np.nonzero(((reach[:, :3] < high) & (reach[:, 3:] > low)).all(1))
            if len(here):
                tasks.append((plan, n, region, ids[here], tile[here], index[here]))
        all_of(partial(paste_chunk, shape=shape), "seen", tasks, "labels")
        seen = [np.load(plan.file("seen", task[1])) for task in tasks]
        ids = np.unique(np.concatenate([np.zeros(0, ids.dtype), *seen]))
    found = found[ids - 1]
    boxes = (found.boxes / np.tile(scale, 2)).astype(np.float32)
    _finish(job, folder, labels, Prediction(ids, boxes, found.scores, found.classes, None))
    return len(ids)


def _begin(plan: Plan, run: Run, again: bool):
    """Make the work folder, or keep the one of a run that was stopped where it made the same."""
    wanted = {
        "weakseg": __version__,
        "weights": [str(run.folder.resolve()), (run.folder / WEIGHTS).stat().st_mtime],
        "image": [str(plan.image), last_change(plan.image), plan.frame],
        "settings": [list(plan.working), plan.score, plan.overlap, run.info.get("mask_level")],
    }
    noted = plan.folder / "plan.json"
    if again or not noted.is_file() or read_json(noted) != wanted:
        _clear(plan.folder)
    write_json(noted, wanted)


def _clear(folder: Path):
    """Take away what is ours in a work folder, the plan first: without it the rest counts for nothing."""
    for name in ("plan.json", "levels.json"):
        (folder / name).unlink(missing_ok=True)
    for name in ("sample", "found", "seen", "labels.ome.zarr", "earlier"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):  # it was not there, or holds what somebody else put into it
        folder.rmdir()


def sample_tile(run: Run, task):
    """Write the voxels of the core of one tile that set the grey scale. task: plan, number, core."""
    plan, number, core = task
    image = plan.region(run, core)
    if not np.isfinite(image).all():
        fix = "replace them with numbers and save it again"
        raise InputError(plan.image, "some voxels are NaN or infinite", fix)
    with atomic_path(plan.file("sample", number)) as path:
        np.save(path, image[sampled(plan.working, core)].ravel())


def find_tile(run: Run, task):
    """Write the instances centred in the core of one tile. task: plan, number, core, block."""
    plan, number, core, block = task
    image = normalise(plan.region(run, block), plan.levels)
    found = detect_tile(run.network, image, core, block, plan.score, plan.overlap, run.info["has_masks"])
    with atomic_path(plan.file("found", number)) as path:
        np.savez_compressed(path, **{k: v for k, v in vars(found).items() if v is not None})


def _collect(plan: Plan, count: int) -> tuple[Detections, np.ndarray, np.ndarray]:
    """All instances of the image without their masks, best score first; of each its tile and its index in that."""
    parts = []
    for n in range(count):
        with np.load(plan.file("found", n)) as file:
            parts.append((file["boxes"], file["scores"], file["classes"]))
    tile = np.repeat(np.arange(count), [len(p[1]) for p in parts])
    index = np.concatenate([np.arange(len(p[1])) for p in parts])
    boxes, scores, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = sparse_nms(boxes, scores, plan.overlap)
    return Detections(boxes[kept], scores[kept], classes[kept], None), tile[kept], index[kept]


def sparse_nms(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """What `ops.boxes.nms` gives, (k,) indices, for boxes (n, 6) too many to compare each with all others.

    Boxes with IoU > t have, along every axis, centres nearer than (a + b) / 2 * (1 - t) / (1 + t), sides a and b, and
    b < a / t: a tree of the centres names the few to compare.
    """
    order = np.argsort(-scores, kind="stable")
    centres, sides = (boxes[:, :3] + boxes[:, 3:]) / 2, boxes[:, 3:] - boxes[:, :3]
    unit = np.median(sides, axis=0) if len(boxes) else np.ones(3)
    t = max(overlap, 1e-3)
    radius = (sides / unit).max(1, initial=0) * (1 + 1 / t) / 2 * (1 - t) / (1 + t)
    tree, alive, kept = cKDTree(centres / unit), np.ones(len(boxes), bool), []
    for i in order:
        if not alive[i]:
            continue
        kept.append(i)
        near = np.array(tree.query_ball_point(centres[i] / unit, radius[i] * 1.001, p=np.inf))
        common = np.minimum(boxes[i, 3:], boxes[near, 3:]) - np.maximum(boxes[i, :3], boxes[near, :3])
        common = common.clip(0).prod(1)
        union = sides[i].prod() + sides[near].prod(1) - common
        alive[near[common / union.clip(1e-12) > overlap]] = False
    return np.array(kept, int)


def paste_chunk(run: Run, task, shape):
    """Write one chunk of the labels. task: plan, number, region, and the ids that reach into it (best first), with the
    tile of each and its index there. shape: of the stack."""
    plan, number, region, ids, tile, index = task
    size = 2 * run.config.roi_size
    boxes, masks = np.empty((len(ids), 6), np.float32), np.empty((len(ids), size, size, size), np.uint8)
    for n in np.unique(tile):
        with np.load(plan.file("found", n)) as file:
            boxes[tile == n], masks[tile == n] = (file[k][index[tile == n]] for k in ("boxes", "masks"))
    found = Detections(boxes, None, None, masks)
    scale = np.array(plan.working) / shape
    labels = paste(found, shape, scale, run.config.roi_margin, run.info["mask_level"], region)
    labels = np.concatenate([[0], ids]).astype(np.uint32)[labels]
    import zarr

    try:
        zarr.open_array(plan.folder / "labels.ome.zarr" / "0", mode="r+")[region] = labels
    except OSError as error:
        raise writing_error(error, plan.folder) from error
    with atomic_path(plan.file("seen", number)) as path:
        np.save(path, np.unique(labels[labels > 0]).astype(int))


def _finish(job: Job, folder: Path, labels: Path, found: Prediction):
    """Put labels and boxes in their places, and take the work folder and an earlier result away."""
    earlier = folder / "earlier"
    if job.mask.exists():
        shutil.rmtree(earlier, ignore_errors=True)  # of a run that was killed right here
        os.replace(job.mask, earlier)
    if labels.exists():
        os.replace(labels, job.mask)
    write_boxes(job.boxes, found)
    remove_other_form(job)
    _clear(folder)
