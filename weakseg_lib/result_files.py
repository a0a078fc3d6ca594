"""Which predicted and which true stacks belong together, found in the layouts of the Cell Tracking Challenge.

A group is one sequence ("01"). Files are found here and box tables read; volumes are read by evaluation.py.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakseg_lib.data.ome_zarr import is_zarr
from weakseg_lib.errors import InputError

BOX_COLUMNS = ("id", "z0", "y0", "x0", "z1", "y1", "x1")
RESULT_FORMS = (
    "give a folder with maskTTT.tif or boxesTTT.csv, one with NN_RES in it, or one mask (TIFF, OME-Zarr)"
)
TRUTH_FORMS = "give NAME/01, NAME/01_GT, NAME for all its groups, or one label image (TIFF, OME-Zarr)"
FRAMES_FORM = 'write it like "80-149", "01:80-149,02:50-79" or "predicted"'


@dataclass(frozen=True)
class StackFiles:
    """The files of one stack, predicted or true; None where there is no such file."""

    labels: Path | None = None
    boxes: Path | None = None
    markers: Path | None = None


@dataclass(frozen=True)
class StackPair:
    """One stack to score; its frame is the name of the file where that has no number."""

    group: str
    frame: int | str
    predicted: StackFiles
    true: StackFiles


def pair_stacks(result, truth, frames=None):
    """Pair every true stack with its prediction; nothing is left out unless `frames` says so.

    result, truth: paths as `find_results` and `find_truth` take them. frames: None (all), "predicted" (those
    that the result has), frame numbers, {group: frame numbers}, or text as `parse_frames` takes it. A single
    image on either side stands for its own frame only. Returns (list of StackPair, notes).

    Raises InputError naming the stacks without a partner: one left out silently would raise the score.
    """
    results = find_results(result)
    truths, notes = find_truth(truth)
    if _is_image(result) or _is_image(truth):
        return [_single_pair(results, truths, result, truth)], notes
    results, truths = _same_groups(results, truths, result, truth)
    if isinstance(frames, str) and frames != "predicted":
        frames = parse_frames(frames)
    pairs = []
    for group, wanted in _wanted_frames(results, truths, frames).items():
        predicted, true = results[group], truths[group]
        _refuse_missing(wanted, true, group, truth, "truth", "remove them from the result")
        _refuse_missing(wanted, predicted, group, result, "prediction", "predict them too")
        masked = [t for t in wanted if predicted[t].labels]
        if masked:
            _refuse_missing(wanted, masked, group, result, "mask TIFF", "predict them again")
        pairs += [StackPair(group, t, predicted[t], true[t]) for t in wanted]
    if not pairs:
        raise InputError("--frames", f"chooses no frame of {_names(truths)}", FRAMES_FORM)
    return pairs, notes


def find_results(path):
    """Find predictions: {group: {frame: StackFiles}}, group None where no folder NN_RES names it.

    path: a folder with maskTTT.tif or boxesTTT.csv or both (or mask_NAME.tif, mask_NAME.ome.zarr), a folder with
    one or more NN_RES, or one mask, TIFF or OME-Zarr (boxesTTT.csv beside it belongs to it). Raises InputError for
    anything else, and where a stack has masks in both forms.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "no such file or folder", RESULT_FORMS)
    if _is_image(path):
        own = path.resolve()
        boxes = own.with_name(re.sub("^mask", "boxes", name_of(own)) + ".csv")
        stack = StackFiles(labels=path, boxes=boxes if boxes.is_file() else None)
        return {_group_of(own.parent): {_frame_of(path): stack}}
    folders = [path, *sorted(path.glob("*_RES"))]
    found = [(_group_of(folder), _result_stacks(folder)) for folder in folders]
    found = {group: stacks for group, stacks in found if stacks}
    if not found:
        raise InputError(path, "holds no predictions", RESULT_FORMS)
    return found


def find_truth(path):
    """Find the truth: {group: {frame: StackFiles}}, and notes (list of str) on files that cannot be used.

    path: NAME/01, NAME/01_GT, NAME/01_WEAK, NAME, or one label image, TIFF or OME-Zarr, whose group is None.
    Weak boxes are used only for a group without other truth. Raises InputError if there is no truth.
    """
    path = Path(path)
    if _is_image(path):
        return {None: {_frame_of(path): StackFiles(labels=path)}}, []
    own = path.resolve()
    beside = [own.with_name(f"{own.name}_{kind}") for kind in ("GT", "WEAK")]
    inside = [*sorted(own.glob("*_GT")), *sorted(own.glob("*_WEAK"))]
    itself = [own] if re.search("_(GT|WEAK)$", own.name) else []
    companions = itself or [folder for folder in beside if folder.is_dir()] or inside
    if not companions and not path.exists():
        raise InputError(path, "no such file or folder", TRUTH_FORMS)
    truths, notes = {}, []
    for folder in companions:  # GT before WEAK
        group = re.sub("_(GT|WEAK)$", "", folder.name)
        if group in truths:
            continue
        if any(re.fullmatch(r"man_seg_?\d+_\d+\.tif", file.name) for file in folder.glob("SEG/*")):
            notes.append(f"{group}: its labels of single 2D slices (man_seg_TTT_ZZZ.tif) are not used")
        labels = _numbered(folder / "SEG", "man_seg", ".tif")
        points = _numbered(folder / "TRA", "man_track", ".tif")
        boxes = _numbered(folder, "boxes", ".csv") if folder.name.endswith("_WEAK") else {}
        frames = {*labels, *points, *boxes}
        stacks = {t: StackFiles(labels.get(t), boxes.get(t), points.get(t)) for t in frames}
        if stacks:
            truths[group] = stacks
    if not truths:
        problem = notes[0] if notes else "holds no truth (01_GT/SEG, 01_GT/TRA or 01_WEAK)"
        raise InputError(path, problem, TRUTH_FORMS)
    return dict(sorted(truths.items())), notes


def image_of_truth(labels):
    """Path of the image that labels NAME/01_GT/SEG/man_segTTT.tif belong to. Raises InputError without one."""
    folder = labels.resolve().parent.parent
    image = folder.with_name(folder.name.removesuffix("_GT")) / labels.name.replace("man_seg", "t")
    if not image.is_file():
        raise InputError(image, "no such image", f"put the image of {labels.name} there")
    return image


def parse_frames(text):
    """Read frame numbers: "3,80-82" as [3, 80, 81, 82], "01:0-1,02:7" as {"01": [0, 1], "02": [7]}.

    Raises InputError for other text.
    """
    groups = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:(\w+):)?(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise InputError("--frames", f"cannot read {part!r}", FRAMES_FORM)
        groups.setdefault(match[1], []).extend(range(int(match[2]), int(match[3] or match[2]) + 1))
    if None in groups and len(groups) > 1:
        raise InputError("--frames", "only some of the frames have a group", FRAMES_FORM)
    return groups.get(None, groups)


def read_boxes(path):
    """Read a table of predicted or weak boxes: ids (N,) int64 and boxes (N, 6) float64; the rest is skipped.

    Raises InputError naming the line at fault: columns missing, not a number, a box without volume, an id
    that is below 1 or there twice.
    """
    again = "write the table again, or correct it by hand"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            missing = [name for name in BOX_COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise InputError(path, f"has no column {', '.join(missing)}", again)
            rows = [(table.line_num, [row[name] for name in BOX_COLUMNS]) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"cannot be read ({error})", again) from error
    boxes = {}
    for line, row in rows:
        try:
            number, *box = (int(row[0]), *map(float, row[1:]))
        except (TypeError, ValueError):
            raise InputError(path, f"line {line} is not {len(BOX_COLUMNS)} numbers", again) from None
        sides = [high - low for low, high in zip(box[:3], box[3:], strict=True)]
        if not all(side > 0 and math.isfinite(side) for side in sides):
            raise InputError(path, f"line {line}: box {number} has no volume", again)
        if number < 1 or number in boxes:
            fault = "there twice" if number in boxes else "below 1"
            raise InputError(path, f"line {line}: id {number} is {fault}", again)
        boxes[number] = box
    return np.array(list(boxes), np.int64), np.array(list(boxes.values()), float).reshape(-1, 6)


def _single_pair(results, truths, result, truth):
    """The one pair that a single file stands for: of the same frame number, or of the only stack there is."""
    results, truths = _same_groups(results, truths, result, truth)
    ((group, predicted),), (true,) = results.items(), truths.values()
    if len(predicted) == len(true) == 1:
        ((frame, predicted_stack),), ((other, true_stack),) = predicted.items(), true.items()
        both_images = _is_image(result) and _is_image(truth)
        if both_images or isinstance(frame, str) or isinstance(other, str):
            return StackPair(group, other if isinstance(frame, str) else frame, predicted_stack, true_stack)
    common = set(predicted) & set(true)
    if len(common) != 1:
        fix = "name it maskTTT.tif with the number of its frame, or give single files for both"
        raise InputError(result, f"cannot tell which stack of {truth} belongs to it", fix)
    (frame,) = common
    return StackPair(group, frame, predicted[frame], true[frame])


def _same_groups(results, truths, result, truth):
    """Both with the same groups, where one group without a name stands for any one group."""
    if len(truths) == 1:
        ((name, true),) = truths.items()
        unnamed = None in truths or None in results
        if len(results) == 1 and unnamed:
            name = name or next(iter(results)) or name_of(Path(truth))
            return {name: next(iter(results.values()))}, {name: true}
        results = {group: stacks for group, stacks in results.items() if group == name}
    if set(results) != set(truths):
        had = find_results(result)
        fix = "predict every group, or give the truth of one group, like NAME/01"
        raise InputError(result, f"has {_names(had)}, but the truth {_names(truths)}", fix)
    return results, truths


def _wanted_frames(results, truths, frames):
    """{group: frames to score, in order}."""
    if isinstance(frames, dict):
        unknown = set(frames) - set(truths)
        if unknown:
            raise InputError("--frames", f"there is no {_names(unknown)}", f"choose from {_names(truths)}")
        return {group: _in_order(chosen) for group, chosen in frames.items()}
    if frames is None:
        return {group: _in_order({*results[group], *truths[group]}) for group in truths}
    if frames == "predicted":
        return {group: _in_order(results[group]) for group in truths}
    return {group: _in_order(frames) for group in truths}


def _in_order(frames):
    return sorted(frames, key=lambda t: (isinstance(t, str), t))


def _names(groups):
    return "group " + ", ".join(sorted(group or "without a name" for group in groups))


def _refuse_missing(wanted, present, group, path, what, fix):
    missing = _in_order(set(wanted) - set(present))
    if missing:
        shown = ", ".join(f"{t:03d}" if isinstance(t, int) else t for t in missing[:10])
        shown += ", ..." if len(missing) > 10 else ""
        problem = f"has no {what} of {len(missing)} frames of group {group} ({shown})"
        raise InputError(path, problem, f"{fix}, or choose the frames to score with --frames")


def name_of(path):
    """Return the name (str) of a file without .tif or .csv, and that of an OME-Zarr without .ome.zarr."""
    return path.name.removesuffix(".ome.zarr") if path.name.endswith(".ome.zarr") else path.stem


def _is_image(path):
    return Path(path).is_file() or is_zarr(path)


def _result_stacks(folder):
    masks, boxes = _numbered(folder, "mask", ".tif", True), _numbered(folder, "boxes", ".csv", True)
    blocks = _numbered(folder, "mask", ".ome.zarr", True)
    for frame in masks.keys() & blocks.keys():
        fix = "remove the one of the earlier prediction"
        raise InputError(masks[frame], f"is there, and {blocks[frame].name} too", fix)
    masks |= blocks
    return {t: StackFiles(masks.get(t), boxes.get(t)) for t in {*masks, *boxes}}


def _numbered(folder, prefix, suffix, named=False):
    """{frame: path} of the files PREFIX + three or more digits + SUFFIX, and PREFIX_NAME if `named`."""
    pattern = rf"{prefix}\d{{3,}}|{prefix}_.+" if named else rf"{prefix}\d{{3,}}"
    files = sorted(folder.glob(f"{prefix}*{suffix}"))
    return {_frame_of(file): file for file in files if re.fullmatch(pattern, name_of(file))}


def _frame_of(path):
    """The number in maskTTT or man_segTTT, the name in mask_NAME, else the whole name."""
    number = re.fullmatch(r"(?:mask|boxes|man_seg|man_track)(\d{3,})", name_of(path))
    return int(number[1]) if number else re.sub("^(mask|boxes)_", "", name_of(path))


def _group_of(folder):
    name = folder.resolve().name
    return name.removesuffix("_RES") if name.endswith("_RES") else None
