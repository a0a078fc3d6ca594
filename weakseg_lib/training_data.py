"""What a training learns from: stacks with their annotation, checked before it begins, then prepared on disk."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from weakseg_lib.config import Config
from weakseg_lib.data.annotation import WeakAnnotation, annotate, read_weak
from weakseg_lib.data.prepare import PreparedStack, prepare, working_shape, working_voxel
from weakseg_lib.data.proposed import proposed_frames
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.data.voxel_classes import prepare_classes
from weakseg_lib.errors import InputError
from weakseg_lib.model.anchors import anchor_sizes_from_boxes
from weakseg_lib.processes import count


@dataclass(frozen=True)
class TrainingData:
    """Sequences and where their annotation comes from: NAME/01_WEAK, or, with a share of `masks`, full labels, of
    which every box and that share of the masks is taken. VoxResNet takes them whole."""

    sequences: list[Sequence]
    config: Config
    seed: int
    voxel_size: tuple[float, float, float] | None = None
    masks: float | None = None
    progress: bool = True

    @property
    def dense(self) -> bool:
        return self.config.method == "voxresnet"

    def annotation(self, sequence: Sequence, t: int, shape) -> WeakAnnotation:
        share = 1.0 if self.dense else self.masks
        if share is None:
            return read_weak(sequence, t, shape)
        return annotate(sequence.read_labels(t, shape), share, [self.seed, t])

    def survey(self) -> dict:
        """Read everything once, so that whatever is wrong is said before the training, and collect what run.json
        tells of it."""
        if self.config.batch < count():
            problem = f"is less than a crop for each of {count()} processes"
            raise InputError(
                f"batch={self.config.batch}", problem, f"start fewer, or --set batch={count()} or more"
            )
        sides, voxels, n_stacks, n_masks, data = [], [], 0, 0, hashlib.sha256()
        for sequence, t in self._frames("checking annotations"):
            stack = sequence.read(t, voxel_size=self.voxel_size)
            annotation = self.annotation(sequence, t, stack.image.shape)
            check_classes(sequence.weak_boxes_path(t), annotation.classes, self.config)
            sides.append((annotation.boxes[:, 3:] - annotation.boxes[:, :3]) * stack.voxel_size)
            voxels.append(stack.voxel_size)
            data.update(repr((stack.image.shape, stack.voxel_size)).encode())
            a = annotation  # what it teaches: further columns of the table are no part of it
            for known in (a.ids, a.boxes, a.classes, a.has_mask, a.masks):
                data.update(b"" if known is None else np.ascontiguousarray(known).tobytes())
            n_stacks += 1
            n_masks += int(annotation.has_mask.sum())
        if not self.dense and self.masks is None:
            _warn_of_proposals(self.sequences)
        names = ", ".join(str(s.path) for s in self.sequences)
        sides = np.concatenate([np.zeros((0, 3)), *sides])
        if not len(sides):
            fix = "draw a box around every cell in the annotator, from `weakseg propose` for a start"
            raise InputError(names, "no boxes in any stack", fix)
        if not n_masks:
            warnings.warn(f"{names}: no instance has a mask, so only the detector is trained", stacklevel=6)
        working = working_voxel(sides, np.median(voxels, axis=0), self.config.cell_size)
        mean_side = sides.prod(1) ** (1 / 3)
        smallest = self.config.smallest * float(np.median(mean_side))
        taught = sides[mean_side >= smallest]
        boxes = np.concatenate([np.zeros_like(taught), taught / working], 1)
        return {
            "sequences": [str(s.path) for s in self.sequences],
            "data": data.hexdigest(),
            "stacks": n_stacks,
            "instances": len(sides),
            "masks": n_masks,
            "has_masks": n_masks > 0,
            "not_taught": 0 if self.dense else len(sides) - len(taught),
            "smallest_um": round(smallest, 3),
            "working_voxel_um": working,
            "anchor_sizes": anchor_sizes_from_boxes(boxes, self.config.anchors).round(3).tolist(),
        }

    def prepare(self, info: dict, folder: Path) -> list[PreparedStack]:
        """Every stack, resampled to working voxels, in a folder of its own below `folder`."""
        stacks, working = [], info["working_voxel_um"]
        for sequence, t in self._frames("resampling stacks"):
            stack = sequence.read(t, voxel_size=self.voxel_size)
            shape = stack.image.shape
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said when all was checked
                annotation = self.annotation(sequence, t, shape)
            target = folder / f"{len(stacks):05d}"
            prepared = prepare(stack, annotation, working, target, info["smallest_um"], self.config.smooth)
            stacks.append(prepared)
            if self.dense:
                small = working_shape(shape, stack.voxel_size, working)
                prepare_classes(annotation.masks, small, working, self.config.border_um, target)
        return stacks

    def _frames(self, what):
        pairs = [(sequence, t) for sequence in self.sequences for t in sequence.frames]
        return tqdm(pairs, desc=what, unit="stack", disable=not self.progress, leave=False)


def _warn_of_proposals(sequences):
    for sequence in sequences:
        if frames := proposed_frames(sequence):
            text = (
                f"{sequence.weak_path}: the boxes of {len(frames)} stacks are proposals that nobody looked at"
            )
            warnings.warn(
                f"{text} (frames {', '.join(map(str, frames[:10]))}): correct them first", stacklevel=7
            )


def check_classes(path, classes, config):
    """Raise InputError, naming the annotation at `path`, for a class that the network doesn't know."""
    if len(classes) and not 1 <= classes.min() <= classes.max() < config.classes:
        problem = (
            f"has classes {classes.min()} to {classes.max()}, the network knows 1 to {config.classes - 1}"
        )
        raise InputError(path, problem, "correct them, or set classes to their number and one for background")
