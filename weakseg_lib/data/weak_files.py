"""The files of a weak annotation: a table of boxes for each frame, and a TIFF with the masks there are."""

import csv
import io
import warnings
from dataclasses import dataclass

import numpy as np

from weakseg_lib.data.files import atomic_path
from weakseg_lib.data.proposed import looked_at
from weakseg_lib.data.stacks import read_labels, write_tiff
from weakseg_lib.errors import InputError

BOX_COLUMNS = ("z0", "y0", "x0", "z1", "y1", "x1")
COLUMNS = ("id", *BOX_COLUMNS, "class", "has_mask")
CELL = 1  # the one class there is; 0 is background


@dataclass(frozen=True)
class WeakAnnotation:
    """A box for every instance of a stack and a mask for some of them."""

    ids: np.ndarray  # (n,) int64
    boxes: np.ndarray  # (n, 6) float32, (z0, y0, x0, z1, y1, x1) in voxels, half-open
    classes: np.ndarray  # (n,) int64, 1 = cell
    has_mask: np.ndarray  # (n,) bool
    masks: np.ndarray | None  # (D, H, W) int32, the masked instances only; None where no instance has a mask


def write_weak(sequence, t, annotation, voxel_size, masks_changed=True):
    """Write the weak annotation of frame `t` of a sequence: NAME/01_WEAK/boxes and, where any, mask.

    annotation: `WeakAnnotation`. voxel_size: (z, y, x) um for the masks' TIFF, or None. masks_changed: False where
    the file has these masks already. What was a proposal (`data.proposed`) is none any longer: who saves has looked.
    Raises InputError where it cannot be written; the earlier annotation is then whole.
    """
    paths = sequence.weak_boxes_path(t), sequence.weak_masks_path(t)
    write_weak_files(*paths, annotation, voxel_size, masks_changed)
    looked_at(sequence, t)


def read_weak(sequence, t, shape):
    """Return the `WeakAnnotation` of frame `t` of a sequence; a table without rows is a stack without cells.

    shape: (D, H, W) of the frame's image. Raises InputError, with the table's line where there is one, for
    a missing file, a wrong header or value, a box outside the stack or without volume, a repeated id, and
    a mask file that is missing, of another shape, or at odds with the table.
    """
    path = sequence.weak_boxes_path(t)
    if not path.is_file():
        fix = f"run `weakseg annotate {sequence.path}`, or draw boxes and masks"
        raise InputError(path, "no weak annotation of this frame", fix)
    rows = _read_rows(path, shape)
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    boxes = np.array([row[1] for row in rows], dtype=np.float32).reshape(-1, 6)
    classes = np.array([row[2] for row in rows], dtype=np.int64)
    has_mask = np.array([row[3] for row in rows], dtype=bool)
    masks = _read_masks(sequence.weak_masks_path(t), ids, has_mask, shape)
    if masks is not None:
        _check_inside(sequence.weak_masks_path(t), masks, ids[has_mask], boxes[has_mask])
    return WeakAnnotation(ids, boxes, classes, has_mask, masks)


def write_weak_files(boxes_path, masks_path, annotation, voxel_size, masks_changed=True):
    """Write a weak annotation to a table and a TIFF of any path; else like `write_weak`."""
    # Both files are complete before either takes its place, the masks first: the table never promises a
    # mask that is not there.
    with atomic_path(boxes_path) as tmp:
        tmp.write_text(_table(annotation), encoding="utf-8", newline="")
        if annotation.masks is not None and masks_changed:
            write_tiff(masks_path, annotation.masks, voxel_size)
    if annotation.masks is None:
        masks_path.unlink(missing_ok=True)


def _table(annotation):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in zip(annotation.ids, annotation.boxes, annotation.classes, annotation.has_mask, strict=True):
        id_, box, class_, has_mask = row
        edges = [int(edge) if edge.is_integer() else str(edge) for edge in box.astype(np.float32)]
        writer.writerow([int(id_), *edges, int(class_), int(has_mask)])
    return text.getvalue()


def _read_rows(path, shape):
    """Return (id, box, class, has_mask) of every line of a table, checked."""
    try:
        # utf-8-sig: spreadsheets put a byte-order mark before the header
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})", "save it as CSV text") from error
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        problem, fix = f"the header lacks {', '.join(missing)}", f"its first line must be {','.join(COLUMNS)}"
        if "score" in header:
            problem, fix = (
                "is a prediction, not an annotation",
                "replace its column score by has_mask, 0 or 1",
            )
        raise InputError(path, problem, fix)
    rows, seen = [], {}
    for number, values in enumerate(csv.reader(lines[1:]), start=2):
        if not any(value.strip() for value in values):
            continue
        row = _read_row(path, number, dict(zip(header, values, strict=False)), shape)
        if row[0] in seen:
            fix = "give every instance an id of its own"
            raise InputError(path, f"line {number}: id {row[0]} is on line {seen[row[0]]} already", fix)
        seen[row[0]] = number
        rows.append(row)
    return rows


def _read_row(path, number, values, shape):
    def wrong(problem, fix):
        return InputError(path, f"line {number}: {problem}", fix)

    try:
        id_, class_, has_mask = (_whole(values[name]) for name in ("id", "class", "has_mask"))
        box = [float(values[name]) for name in BOX_COLUMNS]
    except (KeyError, ValueError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise wrong(problem, f"write numbers for {','.join(COLUMNS)}") from error
    if id_ < 1:
        raise wrong(f"id is {id_}", "ids are 1, 2, ...")
    if class_ < 1:
        raise wrong(f"class is {class_}", "1 is a cell; background needs no box")
    if has_mask not in (0, 1):
        raise wrong(f"has_mask is {has_mask}", "write 1 for an instance in the mask file, else 0")
    start, stop = box[:3], box[3:]
    if not all(a < b for a, b in zip(start, stop, strict=True)):
        raise wrong(f"box {_short(box)} has no volume", "z0 < z1, y0 < y1 and x0 < x1 must hold")
    if min(start) < 0 or any(b > size for b, size in zip(stop, shape, strict=True)):
        size = tuple(int(side) for side in shape)
        raise wrong(f"box {_short(box)} is outside the stack of {size} voxels", "correct it (order z, y, x)")
    return id_, box, class_, has_mask


def _whole(text):
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text} is no whole number")
    return int(number)


def _short(box):
    return "(" + ", ".join(f"{edge:g}" for edge in box) + ")"


def _read_masks(path, ids, has_mask, shape):
    """Return the masks of a frame, (D, H, W) int32 or None, after checking them against the table."""
    if not path.is_file():
        if has_mask.any():
            fix = "add the file, or set has_mask to 0"
            raise InputError(path, f"no such masks, and the table has {has_mask.sum()} with has_mask 1", fix)
        return None
    masks = read_labels(path, shape)
    present = set(np.unique(masks[masks > 0]).tolist())  # few voxels have a mask: sorting all takes seconds
    without_box = present - set(ids.tolist())
    not_announced = present - set(ids[has_mask].tolist())
    without_voxels = set(ids[has_mask].tolist()) - present
    if without_box:
        fix = "add its line to the table, or erase it"
        if present == {255}:
            fix = "give each masked cell the number of its box: this looks like a black-and-white mask"
        raise InputError(path, f"mask {min(without_box)} has no box", fix)
    if not_announced:
        problem = f"holds mask {min(not_announced)}, which has has_mask 0 in the table"
        raise InputError(path, problem, "set it to 1, or erase the mask")
    if without_voxels:
        problem = f"has no voxel of mask {min(without_voxels)}, which has has_mask 1 in the table"
        raise InputError(path, problem, "draw it, or set has_mask to 0")
    return masks if present else None


def _check_inside(path, masks, ids, boxes):
    """A mask is used inside its box alone: say where that cuts one, and refuse one that lies mostly outside."""
    sizes = dict(zip(*np.unique(masks[masks > 0], return_counts=True), strict=True))
    for id_, box in zip(ids, boxes, strict=True):
        low, high = np.floor(box[:3]).astype(int), np.ceil(box[3:]).astype(int)
        part = masks[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        outside = int(sizes[id_] - (part == id_).sum())
        problem = f"{outside} of the {sizes[id_]} voxels of mask {id_} lie outside its box {_short(box)}"
        if 2 * outside > sizes[id_]:
            raise InputError(path, problem, "correct the box (order z, y, x, half-open), or the mask's id")
        if outside:
            warnings.warn(f"{path}: {problem} and are left out", stacklevel=4)
