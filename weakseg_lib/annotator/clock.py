"""The minutes that annotating really took, beside those that the paper counts."""

from weakseg_lib.annotation_time import AnnotationTime

PAUSE = 60.0  # s; a longer gap between two actions is not work


class Clock:
    """Times the work on one annotation. kept: what `to_keep` gave when it was last open.

    Attributes: seconds, a dict of those spent on "boxes", on "masks", and only "looking"; by_hand, the ids of the boxes
    and of the masks that were drawn or changed here, a dict of two frozensets: proposals are in it once corrected.
    """

    def __init__(self, kept=()):
        kept = dict(kept)
        self.by_hand = {work: frozenset(kept.pop(f"{work}_by_hand", ())) for work in ("boxes", "masks")}
        self.seconds = {"boxes": 0.0, "masks": 0.0, "looking": 0.0} | kept
        self._last = None

    def to_keep(self):
        """Return all of it for a JSON file (dict), seconds to a tenth."""
        seconds = {work: round(s, 1) for work, s in self.seconds.items()}
        return seconds | {f"{work}_by_hand": sorted(ids) for work, ids in self.by_hand.items()}

    def tick(self, now, work=None, id_=None):
        """Note an action at `now` (s). work: "boxes" or "masks", which the looking before it was for. id_: of which."""
        if self._last is not None and now - self._last <= PAUSE:
            self.seconds["looking"] += now - self._last
        self._last = now
        if work:
            self.seconds[work] += self.seconds["looking"]
            self.seconds["looking"] = 0.0
        if work and id_ is not None:
            self.by_hand[work] |= {id_}  # a new set: another thread may be reading the one before

    def report(self, instances):
        """Return a line with the numbers of boxes and masks, the time they took, and what the paper's rule gives.

        instances: dict from id to `Instance`.
        """
        paper = AnnotationTime()
        masked = {id_ for id_, one in instances.items() if one.voxels}
        boxes, masks = len(instances), len(masked)
        spent = sum(self.seconds.values())
        line = f"{_count(boxes, 'box', 'boxes')}, {_count(masks, 'mask', 'masks')}, {_minutes(spent)}"
        drawn, painted = len(self.by_hand["boxes"] & instances.keys()), len(self.by_hand["masks"] & masked)
        if drawn and painted:  # a proposal that was taken as it is took no time
            box, mask = self.seconds["boxes"] / drawn, self.seconds["masks"] / painted
            if box:
                line += f" · by hand a mask takes {mask / box:.1f} times a box ({mask:.0f} s : {box:.0f} s)"
        by_rule = (boxes + paper.ratio * masks) * paper.box_seconds
        return (
            line + f" · as the paper counts (a mask takes {paper.ratio:.0f} times a box): {_minutes(by_rule)}"
        )


def _count(number, one, many):
    return f"{number} {one if number == 1 else many}"


def _minutes(seconds):
    return f"{seconds / 60:.1f} min"
