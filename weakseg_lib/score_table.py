"""Which numbers are reported, under which key and name, and the table they are printed in."""

from dataclasses import dataclass

NAMES, COLUMN, COLUMNS = 48, 13, 4  # of the table: width of the names and of a column, columns side by side


@dataclass(frozen=True)
class Measure:
    """One line of the result: `key` in the JSON, read as `attribute` of the counts `counts`, and its name."""

    key: str
    counts: str
    attribute: str
    name: str

    @property
    def is_count(self):
        return self.attribute in ("pairs", "misses", "false_alarms")


MEASURES = tuple(
    Measure(*line)
    for line in (
        ("detection_f1", "detection", "f1", "Detection F1 (box IoU > {iou:g})"),
        ("detection_precision", "detection", "precision", "  precision"),
        ("detection_recall", "detection", "recall", "  recall"),
        ("detection_mean_iou", "detection", "mean", "  mean box IoU of those found"),
        ("detection_found", "detection", "pairs", "  found"),
        ("detection_missed", "detection", "misses", "  missed"),
        ("detection_false_alarms", "detection", "false_alarms", "  false alarms"),
        ("segmentation_f1", "segmentation", "f1", "Segmentation F1 (voxels of the right instance)"),
        ("segmentation_precision", "segmentation", "precision", "  precision"),
        ("segmentation_recall", "segmentation", "recall", "  recall"),
        ("segmentation_f1_union", "segmentation_union", "f1", "Segmentation F1 (voxels in matched boxes)"),
        ("object_f1", "object", "f1", "Object F1 (mask IoU >= {object_iou:g})"),
        ("object_accuracy", "object", "accuracy", "  accuracy TP/(TP+FP+FN)"),
        ("object_mean_iou", "object", "mean", "  mean mask IoU of those matched"),
        ("ctc_seg", "ctc_seg", "score", "Cell Tracking Challenge SEG"),
        ("ctc_det", "ctc_det", "score", "Cell Tracking Challenge DET"),
        ("marker_f1", "marker", "f1", "Marker F1 (within {marker_distance:g} voxels)"),
        ("marker_precision", "marker", "precision", "  precision"),
        ("marker_recall", "marker", "recall", "  recall"),
        ("marker_mean_distance", "marker", "mean", "  mean distance, voxels"),
        ("marker_um_f1", "marker_um", "f1", "Marker F1 (within {marker_distance_um:.3g} um)"),
        ("marker_um_mean_distance", "marker_um", "mean", "  mean distance, um"),
    )
)


def read_measures(counts):
    """The numbers in counts as {key: number}, for every line of MEASURES whose counts are there."""
    return {m.key: getattr(counts[m.counts], m.attribute) for m in MEASURES if m.counts in counts}


def mean_of_groups(groups):
    """Plain mean of groups (iterable of dicts by the keys of MEASURES), as "Mean" in the paper's tables.

    None where a group has no number. Counts of objects have no mean.
    """
    groups = list(groups)
    mean = {}
    for key in (m.key for m in MEASURES if not m.is_count):
        numbers = [group.get(key) for group in groups]
        if any(key in group for group in groups):
            mean[key] = None if None in numbers else sum(numbers) / len(numbers)
    return mean


def format_table(evaluation):
    """The groups and their mean as a plain-text table of at most 100 columns: str, many lines."""
    groups = evaluation["groups"]
    columns = list(groups.items()) + ([("mean", evaluation["mean"])] if len(groups) > 1 else [])
    shown = [m for m in MEASURES if any(m.key in numbers for numbers in groups.values())]
    rows = [("stacks", "stacks"), *((m.key, m.name.format(**evaluation)) for m in shown)]
    blocks = []
    for first in range(0, len(columns), COLUMNS):
        block = columns[first : first + COLUMNS]
        lines = [" " * NAMES + "".join(f"{group[-COLUMN + 2 :]:>{COLUMN}}" for group, _ in block)]
        for key, name in rows:
            lines.append(f"{name:{NAMES}}" + "".join(_cell(numbers.get(key)) for _, numbers in block))
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *(f"Note: {note}" for note in evaluation["notes"])]) + "\n"


def _cell(number):
    text = "-" if number is None else f"{number:.4f}" if isinstance(number, float) else str(number)
    return f"{text:>{COLUMN}}"
