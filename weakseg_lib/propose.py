"""Boxes to start an annotation from: smoothed maxima, a trained network, or an earlier result to be corrected."""

import warnings
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.lock import Locked, frame_lock
from weakseg_lib.data.proposed import digest, mark, proposed_frames, weak_paths
from weakseg_lib.data.stacks import Sequence, Stack, read_labels
from weakseg_lib.data.weak_files import CELL, ChangedOnDisk, WeakAnnotation, put_back_weak, replacing_weak
from weakseg_lib.errors import InputError
from weakseg_lib.maxima import propose_by_maxima
from weakseg_lib.result_files import StackFiles, find_results, read_boxes

MAXIMA = "maxima"


def propose_boxes(
    stack: Stack, by=MAXIMA, diameter: float | None = None, score: float | None = None, device: str = "auto"
) -> WeakAnnotation:
    """Propose a box, without a mask, for every cell of a stack.

    by: "maxima" (`maxima.propose_by_maxima`), or a run: its folder, its name ("hl60"), or a loaded `Run`. diameter: of
    a cell in um, of maxima alone. score: least score of a cell, of runs alone, by default the one chosen in training.
    Boxes are rounded to whole voxels. Raises InputError for an option that does not go with `by`, and as `load_run` and
    `propose_by_maxima` do.
    """
    _check_options(by, diameter, score)
    if by == MAXIMA:
        boxes = propose_by_maxima(stack.image, stack.voxel_size, diameter)
    else:
        from weakseg_lib.prediction import predict_stack
        from weakseg_lib.runs import Run, load_run

        boxes = predict_stack(by if isinstance(by, Run) else load_run(by, device), stack, score).boxes
    return _annotation(np.arange(1, len(boxes) + 1), boxes, stack.image.shape)


def propose_from_result(result: StackFiles, shape) -> WeakAnnotation:
    """A prediction as the annotation that it becomes once somebody corrected it: the masks there are, and boxes.

    result: of `result_files.find_results`; shape: (D, H, W) of the stack. A cell with a mask gets the box of its mask.
    """
    masks = None if result.labels is None else read_labels(result.labels, shape)
    found = () if masks is None else boxes_of_labels(masks)
    ids, boxes = found if result.boxes is None else read_boxes(result.boxes)
    if masks is None:
        return _annotation(ids, boxes, shape)
    own = dict(zip(*map(list, found), strict=True))
    boxes = [own.get(i, box) for i, box in zip(ids, boxes, strict=True)]
    masks = np.where(np.isin(masks, ids), masks, 0).astype(np.int32)
    return _annotation(ids, boxes, shape, np.isin(ids, list(own)), masks)


def propose_sequence(
    sequence, by=MAXIMA, diameter=None, score=None, *, device="auto", voxel_size=None, progress=True
) -> dict[int, int]:
    """Write proposals into NAME/01_WEAK for every frame that has no annotation yet; {frame: number of boxes}.

    by, diameter, score: as in `propose_boxes`; or `by` a folder of results, whose frames are opened as annotation with
    their masks. Frames are marked (`data.proposed`) until somebody saves them; until then another call replaces them.
    Frames with any other table or masks are left as they are and not in what is returned, nor is anything written for a
    frame in which nothing was found: an empty table would say that it has no cells. A frame that somebody annotates
    meanwhile is left as it is, with a warning.

    Raises InputError for unusable input, before the frame concerned is written.
    """
    sequence = sequence if isinstance(sequence, Sequence) else Sequence(sequence)
    _check_options(by, diameter, score)
    results = None
    if by != MAXIMA:
        by, results = _run_or_results(by, sequence, score, device)
    proposed = set(proposed_frames(sequence))
    todo = {}  # frame -> digest of what may be replaced
    for t in sequence.frames:
        paths = weak_paths(sequence, t)
        if t in proposed or not any(path.is_file() for path in paths):
            todo[t] = digest(*paths)
    numbers = {}
    bar = tqdm(todo.items(), desc=f"proposing {sequence.name}", unit="stack", disable=not progress)
    for t, earlier in bar:
        if results is not None and t not in results:
            continue
        stack = sequence.read(t, voxel_size=voxel_size)
        if results is not None:
            annotation = propose_from_result(results[t], stack.image.shape)
        else:
            annotation = propose_boxes(stack, by, diameter, score, device)
        try:
            if len(annotation.ids):
                _write(sequence, t, annotation, stack.voxel_size, earlier)
            numbers[t] = len(annotation.ids)
        except (Locked, ChangedOnDisk) as error:
            warnings.warn(f"frame {t} gets no proposals: {error}", stacklevel=2)
    return numbers


def _check_options(by, diameter, score):
    if diameter is not None and by != MAXIMA:
        raise InputError("--diameter", "is for `--by maxima` alone", "leave it out")
    if diameter is not None and not diameter > 0:
        raise InputError(f"--diameter {diameter}", "must be more than 0", "give that of a cell in um")
    if score is not None and by == MAXIMA:
        raise InputError("--score", "is for the weights of a run, maxima have none", "leave it out")


def _run_or_results(by, sequence, score, device):
    """(loaded run, None), or (None, {frame: StackFiles}) of this sequence."""
    from weakseg_lib.runs import RUN, Run, find_run, load_run

    if isinstance(by, Run):
        return by, None
    folder = find_run(by)
    if (folder / RUN).is_file():
        return load_run(folder, device), None
    if not folder.exists():
        fix = "give maxima, hl60, the folder of a run, or one of results"
        raise InputError(f"--by {by}", "no such folder", fix)
    if score is not None:
        raise InputError("--score", f"is for the weights of a run, and {by} holds results", "leave it out")
    groups = find_results(Path(by))
    found = groups.get(sequence.name, groups.get(None))
    if found is None:
        raise InputError(
            by, f"holds no result of {sequence.path}", f"give the folder that holds {sequence.name}_RES"
        )
    return None, found


def _annotation(ids, boxes, shape, has_mask=None, masks=None) -> WeakAnnotation:
    """Boxes in whole voxels of a stack of `shape`, at least one on every axis, all of them cells."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 6)
    low = np.clip(np.round(boxes[:, :3]), 0, np.array(shape) - 1)
    high = np.clip(np.round(boxes[:, 3:]), low + 1, shape)
    has_mask = np.zeros(len(boxes), bool) if has_mask is None else has_mask
    both = np.concatenate([low, high], 1).astype(np.float32)
    classes = np.full(len(boxes), CELL, np.int64)
    return WeakAnnotation(
        np.asarray(ids, np.int64), both, classes, has_mask, masks if has_mask.any() else None
    )


def _write(sequence, t, annotation, voxel_size, earlier):
    """Write one frame with its mark, all or nothing; the mark first: before its boxes are there it says nothing."""
    lock = frame_lock(sequence, t)
    lock.take()
    try:
        put_back_weak(sequence, t)
        with replacing_weak(sequence, t, annotation, voxel_size, replaces=earlier) as written:
            mark(sequence, t, written)
    finally:
        lock.release()
