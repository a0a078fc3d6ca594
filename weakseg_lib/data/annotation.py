"""Weak annotation made from full labels: a box for every instance and a mask for some."""

import hashlib
import math
import os
import shutil

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from weakseg_lib.data.files import read_json, write_json
from weakseg_lib.data.stacks import Sequence, read_image
from weakseg_lib.data.weak_files import CELL, WeakAnnotation, read_weak, write_weak, write_weak_files
from weakseg_lib.errors import InputError

__all__ = ["WeakAnnotation", "annotate", "annotate_sequence", "boxes_of_labels", "read_weak", "write_weak"]

PROVENANCE = "annotate.json"


def boxes_of_labels(labels):
    """Return the ids of all instances, (n,) int64 sorted, and their boxes, (n, 6) float32, half-open voxels.

    labels: (D, H, W) integers, 0 background. A box is the smallest that holds the instance.
    """
    ids, numbered = numbered_closely(labels)
    found = [slices for slices in ndimage.find_objects(numbered) if slices is not None]
    boxes = [[s.start for s in slices] + [s.stop for s in slices] for slices in found]
    return ids, np.array(boxes, dtype=np.float32).reshape(-1, 6)


def numbered_closely(labels):
    """Return the ids of all instances, (n,) int64 sorted, and the labels with the same instances in the same order.

    labels: (D, H, W) integers, 0 background. Where their ids are far apart they become 1..n: what measures instances
    makes lists as long as the largest id.
    """
    ids = np.unique(labels)
    ids = ids[ids != 0].astype(np.int64)
    if len(ids) and ids[-1] > 10 * len(ids) + 1000:
        labels = np.searchsorted(np.append(0, ids), labels).astype(np.int32)
    return ids, labels


def annotate(labels, share, seed):
    """Return the weak annotation that `labels` give when a random `share` of the instances keep their masks.

    labels: (D, H, W) integers, 0 background. share: 0..1; ceil(share * n) of the n instances are masked.
    seed: int or a list of ints. The same seed gives the same choice, and the masks of a smaller share are
    among those of a larger one, so that a comparison over shares adds masks and swaps none.

    Raises InputError for a share outside 0..1.
    """
    _check_share(share)
    ids, boxes = boxes_of_labels(labels)
    count = math.ceil(round(share * len(ids), 6))  # 0.07 * 100 is 7.000000000000001 and means 7
    has_mask = np.zeros(len(ids), dtype=bool)
    has_mask[np.random.default_rng(seed).permutation(len(ids))[:count]] = True
    masks = np.where(np.isin(labels, ids[has_mask]), labels, 0).astype(np.int32) if count else None
    return WeakAnnotation(ids, boxes, np.full(len(ids), CELL, dtype=np.int64), has_mask, masks)


def annotate_sequence(sequence, share, seed, overwrite=False, progress=True):
    """Make NAME/01_WEAK from the full labels of a sequence; return that folder (Path).

    sequence: `Sequence` or its path. share, seed: as in `annotate`; frame t uses the seed [seed, t]. Frames
    without labels get no weak annotation. overwrite: replace annotation that a person may have made. What an
    earlier call made, and nobody changed since, is replaced without asking.

    Raises InputError where no frame has full labels or there is annotation already, and for a wrong share.
    The folder is replaced as a whole at the end, so an interrupted run leaves the earlier one.
    """
    sequence = sequence if isinstance(sequence, Sequence) else Sequence(sequence)
    _check_share(share)
    target = sequence.weak_path
    # An empty folder is what a look without drawing may leave.
    if target.exists() and any(target.iterdir()) and not overwrite and not _made_by_annotate(target):
        fix = "move it away, or replace it with `--overwrite`"
        raise InputError(target, "has annotation that a person may have made", fix)
    frames = [t for t in sequence.frames if sequence.has_labels(t)]
    if not frames:
        sequence.read_labels(sequence.frames[0])  # raises, and tells labels of single slices from none
    fresh, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        for t in tqdm(frames, desc=f"annotating {sequence.name}", unit="stack", disable=not progress):
            # Boxes and masks are in voxels: an image that does not know its voxel size can be annotated too.
            image, voxel_size = read_image(sequence.image_path(t))
            annotation = annotate(sequence.read_labels(t, image.shape), share, [seed, t])
            names = sequence.weak_boxes_path(t).name, sequence.weak_masks_path(t).name
            write_weak_files(fresh / names[0], fresh / names[1], annotation, voxel_size)
        write_json(fresh / PROVENANCE, {"share": share, "seed": seed, "sha256": _hashes(fresh)})
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _check_share(share):
    if not 0 <= share <= 1:
        raise InputError("--masks", f"the share of masked instances is {share}", "give a number from 0 to 1")


def _made_by_annotate(folder):
    """Return whether `annotate_sequence` made everything in a folder and nobody changed it since (bool)."""
    record = folder / PROVENANCE
    try:
        return record.is_file() and read_json(record).get("sha256") == _hashes(folder)
    except InputError:
        return False


def _hashes(folder):
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != PROVENANCE)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
