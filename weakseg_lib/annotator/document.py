"""The annotation of one stack while it is being made: boxes, masks, and every step back.

Nothing here knows of files or of a screen. A thread that saves may take a `snapshot` at any time.
"""

import threading
import warnings
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import find_objects

from weakseg_lib.annotator.brush import between_slices, stroke
from weakseg_lib.data.weak_files import CELL, WeakAnnotation
from weakseg_lib.errors import InputError

UNDO_BYTES = 256e6
FEW_IDS = 50_000  # up to here masks are kept as 16 bit, half the memory of 32


@dataclass(frozen=True)
class Instance:
    """A box, its class, and how many voxels its mask has."""

    box: tuple[float, ...]  # (z0, y0, x0, z1, y1, x1), half-open, voxels
    class_: int = CELL
    voxels: int = 0
    more: dict[str, str] = field(default_factory=dict)  # further columns of its line in the table


@dataclass(frozen=True)
class Step:
    """What an edit replaced: to put it back is to undo the edit."""

    instances: dict[int, Instance | None]  # None where there was none
    region: tuple[slice, ...] = (slice(0, 0),) * 3
    voxels: np.ndarray | None = None  # the mask there


class Document:
    """Boxes and masks of a stack, changed by edits that can be undone.

    shape: (D, H, W) of the stack. voxel_size: (z, y, x) um. annotation: the `WeakAnnotation` to start from.
    Boxes that reach out of the stack are clipped to it. Every edit that changes something adds 1 to `version`.

    Attributes: instances, a dict from id to `Instance`; masks, (D, H, W) uint16 or int32; lock, held while either
    changes. Edits raise InputError, and change nothing, where they make no sense.
    """

    def __init__(self, shape, voxel_size, annotation=None):
        self.shape, self.voxel_size = tuple(shape), np.asarray(voxel_size, float)
        self.lock = threading.RLock()
        self.version = self.mask_version = 0
        self.instances: dict[int, Instance] = {}
        largest = annotation.ids.max(initial=0) if annotation is not None else 0
        dtype = np.int32 if largest > FEW_IDS else np.uint16
        self.masks, self._saved_masks = np.zeros(self.shape, dtype), np.zeros(self.shape, dtype)
        self._unsaved: list[tuple[slice, ...]] = []  # where the two differ
        self._undo: deque[Step] = deque()
        self._redo: list[Step] = []
        if annotation is not None:
            self._start_from(annotation)

    def snapshot(self):
        """Return (version, mask_version, `WeakAnnotation`); the next snapshot changes its masks."""
        with self.lock:
            for region in self._unsaved:  # only what changed: a whole stack takes too long for every stroke
                self._saved_masks[region] = self.masks[region]
            self._unsaved.clear()
            return self.version, self.mask_version, self._annotation(self._saved_masks)

    def annotation(self):
        """Return the `WeakAnnotation` as it is now, with masks of its own."""
        with self.lock:
            return self._annotation(self.masks.copy())

    def _annotation(self, masks):
        items = sorted(self.instances.items())
        has_mask = np.array([one.voxels > 0 for _, one in items], bool)
        return WeakAnnotation(
            ids=np.array([id_ for id_, _ in items], np.int64),
            boxes=np.array([one.box for _, one in items], np.float32).reshape(-1, 6),
            classes=np.array([one.class_ for _, one in items], np.int64),
            has_mask=has_mask,
            masks=masks if has_mask.any() else None,
            more={id_: one.more for id_, one in items if one.more},
        )

    def add_box(self, box):
        """Add an instance; return its id. box: (z0, y0, x0, z1, y1, x1), rounded and clipped to the stack."""
        with self.lock:
            id_ = max(self.instances, default=0) + 1
            self._do({id_: Instance(self._clip(box))})
            return id_

    def add_rectangle(self, axis, index, low, high):
        """Add a box drawn in one plane; return its id.

        axis: 0, 1, 2, along which the plane lies at voxel `index`. low, high: two corners in the plane, voxels along
        the other two axes. Along `axis` the box is as deep as boxes usually are here; the first one, as deep in
        micrometres as it is wide.
        """
        others = [a for a in range(3) if a != axis]
        sides = np.abs(np.subtract(high, low))
        depths = [one.box[axis + 3] - one.box[axis] for one in self.instances.values()]
        usual = (
            np.median(depths) if depths else np.mean(sides * self.voxel_size[others]) / self.voxel_size[axis]
        )
        half = max(1, round(usual)) / 2
        # Not cut off at the stack's ends but moved: there, too, cells are whole more often than not.
        middle = min(max(index + 0.5, half), max(self.shape[axis] - half, half))
        box = np.zeros(6)
        box[[axis, axis + 3]] = np.floor(middle - half + 0.5), np.floor(middle + half + 0.5)
        box[others], box[[a + 3 for a in others]] = np.minimum(low, high), np.maximum(low, high)
        return self.add_box(box)

    def set_box(self, id_, box):
        """Give an instance another box; return a line to show (str) where a side stops short, else None.

        No box cuts its mask: a side that would, stops there. A box with a mask is not moved as a whole, as the cell
        whose outline was drawn is where it is.
        """
        with self.lock:
            one = self._get(id_)
            by = np.subtract(box, one.box)
            asked = np.array(self._clip(box))
            if not one.voxels:
                box = asked
            elif by.any() and np.allclose(by[:3], by[3:]):
                fix = "pull its sides, or erase the mask first"
                raise InputError(f"box {id_}", "is not moved, as its mask stays where it is", fix)
            else:
                low, high = self._around_mask(id_, one)
                box = np.concatenate([np.minimum(asked[:3], low), np.maximum(asked[3:], high)])
            if tuple(box) != one.box:
                self._do({id_: replace(one, box=tuple(box.tolist()))})
            return (
                None if (box == asked).all() else f"box {id_}: stops at its mask; to go on, erase there first"
            )

    def delete(self, id_):
        """Remove an instance, box and mask."""
        with self.lock:
            one = self._get(id_)
            region = _voxels(one.box)
            rest = np.where(self.masks[region] == id_, 0, self.masks[region])
            self._do({id_: None}, *((region, rest) if one.voxels else ()))

    def paint(self, id_, axis, index, points, radius, erase=False):
        """Draw a stroke of a round brush into one plane of an instance's mask, inside its box alone.

        axis, index: the plane, as in `add_rectangle`. points: (n, 2) voxels in the plane, where voxel i reaches from i
        to i + 1. radius: um. Voxels of other instances are left alone, and erasing takes from this one only.
        """
        with self.lock:
            region = list(_voxels(self._get(id_).box))
            if not region[axis].start <= index < region[axis].stop:
                problem = (
                    f"is in slices {region[axis].start} to {region[axis].stop - 1} of {'zyx'[axis]} only"
                )
                raise InputError(
                    f"box {id_}", problem, "go there, make it larger by its handles, or click another box"
                )
            region[axis] = slice(index, index + 1)
            others = [a for a in range(3) if a != axis]
            low, high = np.array([[region[a].start, region[a].stop] for a in others]).T
            points = np.reshape(points, (-1, 2)).astype(float)
            near, corner = stroke(points, radius, self.voxel_size[others], low, high)
            if not near.any():
                raise InputError(
                    f"box {id_}",
                    "the stroke is outside",
                    "paint inside, make the box larger, or click another",
                )
            for a, start, size in zip(others, corner, near.shape, strict=True):
                region[a] = slice(start, start + size)
            self._paint(id_, tuple(region), np.expand_dims(near, axis), erase)

    def fill(self, id_):
        """Fill the slices between painted ones along z (see `between_slices`); what is painted stays as it is."""
        with self.lock:
            region = _voxels(self._get(id_).box)
            mine = self.masks[region] == id_
            new = between_slices(mine, self.voxel_size[1:])
            if new is None:
                problem, fix = (
                    "has no empty slices between painted ones",
                    "paint it in two slices or more first",
                )
                raise InputError(f"mask {id_}", problem, fix)
            if not new.any():
                fix = "paint a slice between them"
                raise InputError(f"mask {id_}", "the painted slices are too far from one another", fix)
            self._paint(id_, region, new)

    @property
    def mask_count(self):
        """How many instances have a mask (int)."""
        return sum(one.voxels > 0 for one in self.instances.values())

    @property
    def can_undo(self):
        return bool(self._undo)

    @property
    def can_redo(self):
        return bool(self._redo)

    def undo(self):
        """Take the last edit back; nothing happens where there is none."""
        with self.lock:
            if self._undo:
                self._redo.append(self._swap(self._undo.pop()))

    def redo(self):
        """Do again what was undone last; nothing happens where there is none."""
        with self.lock:
            if self._redo:
                self._undo.append(self._swap(self._redo.pop()))

    def _around_mask(self, id_, one):
        """The two corners of the smallest box around a mask."""
        region = _voxels(one.box)
        (inside,) = find_objects((self.masks[region] == id_).astype(np.uint8))
        return zip(
            *((r.start + i.start, r.start + i.stop) for r, i in zip(region, inside, strict=True)), strict=True
        )

    def _paint(self, id_, region, chosen, erase=False):
        before = self.masks[region]
        chosen = chosen & (before == (id_ if erase else 0))
        count = int(chosen.sum())
        if count:
            one = self.instances[id_]
            voxels = one.voxels - count if erase else one.voxels + count
            after = np.where(chosen, 0 if erase else id_, before)
            self._do({id_: replace(one, voxels=voxels)}, region, after)

    def _do(self, instances, region=None, voxels=None):
        step = Step(instances) if region is None else Step(instances, region, voxels.astype(self.masks.dtype))
        self._redo.clear()
        self._undo.append(self._swap(step))
        size = sum(step.voxels.nbytes for step in self._undo if step.voxels is not None)
        while size > UNDO_BYTES and len(self._undo) > 1:
            oldest = self._undo.popleft()
            size -= oldest.voxels.nbytes if oldest.voxels is not None else 0

    def _swap(self, step):
        """Put a step's content in place; return the step that takes it back."""
        instances = {id_: self.instances.get(id_) for id_ in step.instances}
        for id_, one in step.instances.items():
            if one is None:
                del self.instances[id_]
            else:
                self.instances[id_] = one
        self.version += 1
        if step.voxels is None:
            return Step(instances)
        before = self.masks[step.region].copy()
        self.masks[step.region] = step.voxels
        self.mask_version += 1
        self._unsaved.append(step.region)
        return Step(instances, step.region, before)

    def _get(self, id_):
        if id_ not in self.instances:
            raise InputError(f"instance {id_}", "does not exist", "choose another")
        return self.instances[id_]

    def _clip(self, box, whole=True):
        box = np.asarray(box, float)
        if not np.isfinite(box).all():
            raise InputError("box", "its edges are no numbers", "draw it again")
        box = np.floor(box + 0.5) if whole else box
        low, high = np.maximum(box[:3], 0), np.minimum(box[3:], self.shape)
        if (box[:3] >= box[3:]).any():
            raise InputError("box", "has no volume", "draw it at least one voxel wide")
        if (low >= high).any():
            raise InputError("box", "lies outside the stack", "draw it over the image")
        return (*low.tolist(), *high.tolist())

    def _start_from(self, annotation):
        masks, sizes = annotation.masks, {}
        if masks is not None:
            sizes = dict(zip(*np.unique(masks[masks > 0], return_counts=True), strict=True))
        for id_, box, class_ in zip(
            annotation.ids.tolist(), annotation.boxes, annotation.classes, strict=True
        ):
            one = Instance(self._clip(box, whole=False), int(class_), more=annotation.more.get(id_, {}))
            if id_ in sizes:
                # No mask leaves its box here, see set_box.
                if (masks[_voxels(one.box)] == id_).sum() < sizes[id_]:
                    where = np.argwhere(masks == id_)
                    low = np.minimum(one.box[:3], where.min(0)).tolist()
                    high = np.maximum(one.box[3:], where.max(0) + 1).tolist()
                    one = replace(one, box=(*low, *high))
                    warnings.warn(f"box {id_} is made larger, so that it holds its mask", stacklevel=4)
                region = _voxels(one.box)
                self.masks[region][masks[region] == id_] = id_
                one = replace(one, voxels=int(sizes[id_]))
                self._unsaved.append(region)
            self.instances[id_] = one


def _voxels(box):
    """The voxels that a box touches, as slices."""
    return tuple(slice(int(np.floor(a)), int(np.ceil(b))) for a, b in zip(box[:3], box[3:], strict=True))
