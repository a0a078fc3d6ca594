"""The files of a weak annotation: a table of boxes for each frame, and a TIFF with the masks there are."""

import csv
import io
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from weakseg_lib.data.files import atomic_paths, atomic_write_text, put_back, standing
from weakseg_lib.data.proposed import digest, looked_at, weak_paths
from weakseg_lib.data.stacks import MAX_LABEL, frame_name, read_labels, write_tiff
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
    more: dict[int, dict[str, str]] = field(default_factory=dict)  # id -> {further column of the table: text}


class ChangedOnDisk(InputError):
    """Files are no longer those that were to be replaced."""


def write_weak(sequence, t, annotation, voxel_size, masks_changed=True):
    """Write the weak annotation of frame `t` of a sequence: NAME/01_WEAK/boxes and, where any, mask.

    annotation: `WeakAnnotation`. voxel_size: (z, y, x) um for the masks' TIFF, or None. masks_changed: False where
    the file has these masks already. What was a proposal (`data.proposed`) is none any longer: who saves has looked.
    Raises InputError where it cannot be written; the earlier annotation is then whole.
    """
    with replacing_weak(sequence, t, annotation, voxel_size, masks_changed):
        pass
    looked_at(sequence, t)


@contextmanager
def replacing_weak(sequence, t, annotation, voxel_size, masks_changed=True, replaces=None):
    """Write the files of frame `t` whole, give their digest, and put both in their places when the block ends well.

    annotation, voxel_size, masks_changed: as in `write_weak`. replaces: the digest (`data.proposed`) of the files that
    these may replace, None for any. Raises ChangedOnDisk where others are there now, and InputError as `write_weak`.
    """
    boxes, masks = weak_paths(sequence, t)
    removed = [masks] if annotation.masks is None else []
    written = [boxes] if removed or not masks_changed else [masks, boxes]
    with atomic_paths(*written, remove=removed, note=_note(sequence, t)) as new:
        atomic_write_text(new[-1], _table(annotation))
        if masks in written:
            write_tiff(new[0], annotation.masks, voxel_size)
        if replaces not in (None, digest(boxes, masks)):
            raise ChangedOnDisk(
                boxes, "was changed by another program meanwhile", "look at what is there now"
            )
        yield digest(new[-1], None if removed else new[0] if masks in written else masks)


def put_back_weak(sequence, t):
    """Undo what was half replaced in frame `t` when a process was killed, and remove what it left.

    For who holds the frame's lock (`data.lock`). Raises InputError where that is impossible.
    """
    put_back(_note(sequence, t))
    for path in weak_paths(sequence, t):
        for half in path.parent.glob(f".*{path.stem}.*.tmp{path.suffix}"):
            half.unlink(missing_ok=True)


def read_weak(sequence, t, shape):
    """Return the `WeakAnnotation` of frame `t` of a sequence; a table without rows is a stack without cells.

    shape: (D, H, W) of the frame's image. Raises InputError, with the table's line where there is one, for
    a missing file, a wrong header or value, a box outside the stack or without volume, a repeated id, and
    a mask file that is missing, of another shape, or at odds with the table.
    """
    while True:  # once, unless it is saved meanwhile: then one file may be older than the other
        before, problem = _state(sequence, t), None
        try:
            annotation = _read(sequence, t, shape)
        except InputError as error:
            problem = error
        if _state(sequence, t) != before:
            continue
        if problem:
            raise problem
        return annotation


def write_weak_files(boxes_path, masks_path, annotation, voxel_size):
    """Write a weak annotation to a table and a TIFF of any path; else like `write_weak`, but one after the other."""
    if annotation.masks is None:
        masks_path.unlink(missing_ok=True)
    else:
        write_tiff(masks_path, annotation.masks, voxel_size)
    atomic_write_text(boxes_path, _table(annotation))


def _note(sequence, t):
    """The file that is there while the two files of a frame are replaced, see `atomic_paths`."""
    return sequence.weak_path / f".replacing{frame_name(t, sequence.digits)}.json"


def _state(sequence, t):
    """Changes whenever the files of a frame are replaced."""
    state = []
    for path in (*weak_paths(sequence, t), _note(sequence, t)):
        try:
            about = path.stat()
            state.append((about.st_ino, about.st_mtime_ns, about.st_size))
        except OSError:
            state.append(None)
    return state


def _read(sequence, t, shape):
    path, masks_path = (standing(path, _note(sequence, t)) for path in weak_paths(sequence, t))
    if not path.is_file():
        way = "annotate" if sequence.has_labels(t) else "propose"
        fix = f"run `weakseg {way} {sequence.path}`" + " and correct the boxes" * (way == "propose")
        raise InputError(sequence.weak_boxes_path(t), "no weak annotation of this frame", fix)
    rows, more = _read_rows(path, shape)
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    boxes = np.array([row[1] for row in rows], dtype=np.float32).reshape(-1, 6)
    classes = np.array([row[2] for row in rows], dtype=np.int64)
    has_mask = np.array([row[3] for row in rows], dtype=bool)
    masks = _read_masks(masks_path, ids, has_mask, shape)
    if masks is not None:
        _check_inside(masks_path, masks, ids[has_mask], boxes[has_mask])
    return WeakAnnotation(ids, boxes, classes, has_mask, masks, more)


def _table(annotation):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    further = list(dict.fromkeys(name for values in annotation.more.values() for name in values))
    writer.writerow([*COLUMNS, *further])
    for row in zip(annotation.ids, annotation.boxes, annotation.classes, annotation.has_mask, strict=True):
        id_, box, class_, has_mask = row
        edges = [int(edge) if edge.is_integer() else str(edge) for edge in box.astype(np.float32)]
        notes = [annotation.more.get(int(id_), {}).get(name, "") for name in further]
        writer.writerow([int(id_), *edges, int(class_), int(has_mask), *notes])
    return text.getvalue()


def _read_rows(path, shape):
    """Return (id, box, class, has_mask) of every line of a table, checked, and {id: {further column: text}}."""
    try:
        # utf-8-sig: spreadsheets put a byte-order mark before the header
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})", "save it as CSV text") from error
    header = [name.strip() for line in csv.reader(lines[:1]) for name in line]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        problem, fix = f"the header lacks {', '.join(missing)}", f"its first line must be {','.join(COLUMNS)}"
        if "score" in header:
            problem, fix = (
                "is a prediction, not an annotation",
                "replace its column score by has_mask, 0 or 1",
            )
        raise InputError(path, problem, fix)
    further = [name for name in header if name and name not in COLUMNS]
    rows, seen, more = [], {}, {}
    for number, values in enumerate(csv.reader(lines[1:]), start=2):
        if not any(value.strip() for value in values):
            continue
        values = dict(zip(header, values, strict=False))
        row = _read_row(path, number, values, shape)
        if row[0] in seen:
            fix = "give every instance an id of its own"
            raise InputError(path, f"line {number}: id {row[0]} is on line {seen[row[0]]} already", fix)
        seen[row[0]] = number
        rows.append(row)
        more[row[0]] = {name: values.get(name, "") for name in further}
    return rows, more if further else {}


def _read_row(path, number, values, shape):
    def wrong(problem, fix):
        return InputError(path, f"line {number}: {problem}", fix)

    try:
        id_, class_, has_mask = (_whole(values[name]) for name in ("id", "class", "has_mask"))
        box = [float(values[name]) for name in BOX_COLUMNS]
    except (KeyError, ValueError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise wrong(problem, f"write numbers for {','.join(COLUMNS)}") from error
    if not 1 <= id_ <= MAX_LABEL:
        raise wrong(f"id is {id_}", f"ids are 1, 2, ..., at most {MAX_LABEL}")
    if not 1 <= class_ <= MAX_LABEL:
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
            warnings.warn(f"{path}: {problem} and are not used", stacklevel=5)
