"""Score predictions against the truth: read the files, count every stack, pool the counts of a group."""

from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from weakseg_lib import measures
from weakseg_lib.counts import DetCounts, Matches, SegCounts, VoxelOverlap
from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.data.files import read_json
from weakseg_lib.data.stacks import read_image, read_labels
from weakseg_lib.errors import InputError
from weakseg_lib.result_files import pair_stacks, read_boxes
from weakseg_lib.score_table import format_table, mean_of_groups, read_measures

__all__ = [
    "Instances",
    "evaluate",
    "evaluate_stack",
    "format_table",
    "mean_of_groups",
    "pool",
    "read_measures",
]

KINDS = {  # of counts, by name
    "detection": Matches,
    "object": Matches,
    "marker": Matches,
    "marker_um": Matches,
    "segmentation": VoxelOverlap,
    "segmentation_union": VoxelOverlap,
    "ctc_seg": SegCounts,
    "ctc_det": DetCounts,
}
BOX_IOU = 0.4  # the paper's, section 3; larger than
MASK_IOU = 0.5  # at least
MARKER_DISTANCE = 5.0  # voxels, in index units (paper, section 3)


@dataclass(frozen=True)
class Instances:
    """What is known of the instances of one stack, predicted or true; None where it is not known."""

    labels: np.ndarray | None = None  # (D, H, W) integer
    boxes: np.ndarray | None = None  # (N, 6); those of the labels if not given
    markers: np.ndarray | None = None  # (D, H, W) integer, one small label a cell; of the truth only

    def __post_init__(self):
        if self.boxes is None and self.labels is not None:
            object.__setattr__(self, "boxes", boxes_of_labels(self.labels)[1])


def evaluate_stack(
    predicted, true, iou=BOX_IOU, marker_distance=MARKER_DISTANCE, marker_distance_um=None, voxel_size=None
):
    """Count every measure that the two `Instances` of one stack allow: {name: counts of weakseg_lib.counts}.

    predicted: labels, or boxes, or both. true: labels, or boxes, or markers, or labels and markers.
    iou: what the box IoU of a detection must exceed. marker_distance: in voxels; marker_distance_um: in
    micrometres, left out where it or voxel_size (z, y, x) is None. CTC DET is taken on the markers where
    there are any, else on the labels.
    """
    counts = {}
    if true.boxes is not None:
        counts["detection"] = measures.detection(predicted.boxes, true.boxes, iou)
    if true.labels is not None and predicted.labels is not None:
        overlaps = measures.count_overlaps(predicted.labels, true.labels)
        counts["segmentation"] = measures.segmentation(overlaps)
        counts["segmentation_union"] = measures.segmentation_union(
            predicted.labels, true.labels, predicted.boxes, true.boxes, iou
        )
        counts["object"] = measures.objects(overlaps, MASK_IOU)
        counts["ctc_seg"] = measures.ctc_seg(overlaps)
        counts["ctc_det"] = measures.ctc_det(overlaps)
    if true.markers is not None:
        if predicted.labels is not None:
            counts["ctc_det"] = measures.ctc_det(measures.count_overlaps(predicted.labels, true.markers))
        points = measures.centres_of_labels(true.markers)
        counts["marker"] = measures.markers(predicted.boxes, points, marker_distance)
        if marker_distance_um and voxel_size:
            counts["marker_um"] = measures.markers(predicted.boxes, points, marker_distance_um, voxel_size)
    return counts


def pool(stacks):
    """Add the counts of stacks (iterable of what `evaluate_stack` returns) into the counts of their group."""
    total = {}
    for counts in stacks:
        for name, value in counts.items():
            total[name] = total[name] + value if name in total else value
    return total


def evaluate(
    result,
    truth,
    iou=BOX_IOU,
    voxel_size=None,
    frames=None,
    marker_distance=MARKER_DISTANCE,
    progress=True,
):
    """Score a result against the truth in every measure that the truth allows (design, section 7).

    result, truth, frames: as `weakseg_lib.result_files.pair_stacks` takes them. iou: what the box IoU of a
    detection must exceed. marker_distance: in voxels. voxel_size: (z, y, x) um; without it dataset.json or
    the TIFF of the markers is asked, and without any there is no marker measure in micrometres. Its distance
    is marker_distance x geometric mean of the voxel's sides, so that both distances take in the same volume.

    Returns a dict that json.dumps takes: the settings and
    "groups": {"01": {"stacks": 70, "detection_f1": 0.99, ...}}, the numbers of score_table.MEASURES, from the
    pooled counts, which "counts" holds; "mean": the plain mean of the groups, None where one has no number;
    "stacks": a list of the same numbers of every stack, with "group" and "frame"; "notes": what was left out.
    Raises InputError for files that are missing, damaged or do not fit each other.
    """
    pairs, notes = pair_stacks(result, truth, frames)
    voxel_size = _marker_voxel_size(pairs, voxel_size)
    marker_um = float(marker_distance * np.prod(voxel_size) ** (1 / 3)) if voxel_size else None
    members, stacks = {}, []
    for pair in tqdm(pairs, "scoring", unit="stack", disable=None if progress else True):
        true = read_true(pair.true)
        predicted = read_predicted(pair.predicted, true)
        counts = evaluate_stack(predicted, true, iou, marker_distance, marker_um, voxel_size)
        members.setdefault(pair.group, []).append(counts)
        stacks.append({"group": pair.group, "frame": pair.frame, **_numbers(counts)})
    for group, counts in members.items():
        labelled = sum("detection" in stack for stack in counts)
        if 0 < labelled < len(counts):
            notes.append(f"{group}: {labelled} of {len(counts)} stacks have labels, the others markers alone")
    groups = {group: {"stacks": len(counts), **_numbers(pool(counts))} for group, counts in members.items()}
    return {
        "result": str(result),
        "truth": str(truth),
        "iou": iou,
        "object_iou": MASK_IOU,
        "marker_distance": marker_distance,
        "marker_distance_um": marker_um,
        "voxel_size_um": voxel_size and list(voxel_size),
        "groups": groups,
        "mean": mean_of_groups(groups.values()),
        "stacks": stacks,
        "notes": notes,
    }


def read_true(files):
    """Read the true `Instances` of one stack. Raises InputError."""
    labels = read_labels(files.labels) if files.labels else None
    markers = read_labels(files.markers) if files.markers else None
    if labels is not None and markers is not None and labels.shape != markers.shape:
        problem = f"markers have shape {markers.shape}, the labels {labels.shape}"
        raise InputError(files.markers, problem, f"give markers that belong to {files.labels}")
    boxes = read_boxes(files.boxes)[1] if files.boxes else None
    return Instances(labels, boxes, markers)


def read_predicted(files, true):
    """Read the predicted `Instances` of one stack, checked to fit the true ones. Raises InputError.

    Without a table of boxes they are taken from the masks; without masks there are boxes alone.
    """
    labels = read_labels(files.labels) if files.labels else None
    reference = true.markers if true.labels is None else true.labels
    if labels is not None and reference is not None and labels.shape != reference.shape:
        problem = f"predicted masks have shape {labels.shape}, the truth {reference.shape}"
        raise InputError(files.labels, problem, "predict the image that the truth belongs to, in full size")
    if not files.boxes:
        return Instances(labels)
    ids, boxes = read_boxes(files.boxes)
    unknown = np.setdiff1d(labels, [0, *ids]) if labels is not None else ()
    if len(unknown):
        problem = f"has no box of id {', '.join(map(str, unknown[:10]))}, which {files.labels.name} has"
        raise InputError(files.boxes, problem, "predict again, so that both files come from one run")
    return Instances(labels, boxes)


def _numbers(counts):
    return {**read_measures(counts), "counts": {name: asdict(value) for name, value in counts.items()}}


def _marker_voxel_size(pairs, voxel_size):
    """(z, y, x) um as given, else of dataset.json, else of the first marker file; None if unknown."""
    paths = [pair.true.markers for pair in pairs if pair.true.markers]
    if not paths:
        return None
    where = "--voxel-size"
    dataset = paths[0].parents[2] / "dataset.json"  # NAME/dataset.json beside NAME/01_GT/TRA/man_track000.tif
    if voxel_size is None and dataset.is_file():
        where, voxel_size = dataset, read_json(dataset).get("voxel_size_um")
    if voxel_size is None:
        where, voxel_size = paths[0], read_image(paths[0])[1]
    if voxel_size is None:
        return None
    try:
        sizes = tuple(float(size) for size in voxel_size)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < float("inf") for size in sizes):
        raise InputError(where, f"its voxel size is {voxel_size}", "give three positive numbers Z Y X in um")
    return sizes
