"""The minutes that annotating really took, beside those that the paper counts."""

from weakseg_lib.annotation_time import AnnotationTime

PAUSE = 60.0  # s; a longer gap between two actions is not work


class Clock:
    """Seconds of work on "boxes" and on "masks", and those only of "looking". seconds: dict of them, so far."""

    def __init__(self, seconds=()):
        self.seconds = {"boxes": 0.0, "masks": 0.0, "looking": 0.0} | dict(seconds)
        self._last = None

    def tick(self, now, work=None):
        """Note an action at `now` (s). work: "boxes" or "masks", which the looking before it was for."""
        if self._last is not None and now - self._last <= PAUSE:
            self.seconds["looking"] += now - self._last
        self._last = now
        if work:
            self.seconds[work] += self.seconds["looking"]
            self.seconds["looking"] = 0.0

    def report(self, boxes, masks):
        """Return a line with the numbers of boxes and masks, the time they took, and what the paper's rule gives."""
        paper = AnnotationTime()
        spent = sum(self.seconds.values())
        line = f"{_count(boxes, 'box', 'boxes')}, {_count(masks, 'mask', 'masks')}, {_minutes(spent)}"
        if boxes and masks:
            box, mask = self.seconds["boxes"] / boxes, self.seconds["masks"] / masks
            if box:
                line += f" · a mask takes {mask / box:.1f} times a box ({mask:.0f} s : {box:.0f} s)"
        by_rule = (boxes + paper.ratio * masks) * paper.box_seconds
        return (
            line + f" · as the paper counts (a mask takes {paper.ratio:.0f} times a box): {_minutes(by_rule)}"
        )


def _count(number, one, many):
    return f"{number} {one if number == 1 else many}"


def _minutes(seconds):
    return f"{seconds / 60:.1f} min"
