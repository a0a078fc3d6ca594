"""Counts that add up, and the measures read from them.

The measure of a group of stacks is that of the sum of their counts: `sum(counts, start=Matches()).f1`.
Ratios over nothing follow one rule: F1 and accuracy of "nothing predicted, nothing there" are 1.0 (nothing
was done wrong); every other ratio with nothing below the line is None.
"""

from dataclasses import astuple, dataclass


def ratio(above, below, empty=None):
    """above / below as a Python float, or `empty` where nothing is below the line."""
    return float(above) / float(below) if below else empty


@dataclass(frozen=True)
class Counts:
    """Counts of one stack; `a + b` are the counts of both stacks together."""

    def __add__(self, other):
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Matches(Counts):
    """`pairs` of `predicted` and `true` objects, one-to-one, and the `total` of their IoUs or distances."""

    pairs: int = 0
    predicted: int = 0
    true: int = 0
    total: float = 0.0

    @property
    def false_alarms(self):
        return self.predicted - self.pairs

    @property
    def misses(self):
        return self.true - self.pairs

    @property
    def precision(self):
        return ratio(self.pairs, self.predicted)

    @property
    def recall(self):
        return ratio(self.pairs, self.true)

    @property
    def f1(self):
        return ratio(2 * self.pairs, self.predicted + self.true, empty=1.0)

    @property
    def accuracy(self):
        """TP / (TP + FP + FN): what StarDist and Cellpose print as "AP"; it is no average precision."""
        return ratio(self.pairs, self.predicted + self.true - self.pairs, empty=1.0)

    @property
    def mean(self):
        """Mean IoU or distance of the matched pairs."""
        return ratio(self.total, self.pairs)


@dataclass(frozen=True)
class VoxelOverlap(Counts):
    """Voxels: `overlap` counted as right, of `predicted` and of `true` foreground voxels."""

    overlap: int = 0
    predicted: int = 0
    true: int = 0

    @property
    def precision(self):
        return ratio(self.overlap, self.predicted)

    @property
    def recall(self):
        return ratio(self.overlap, self.true)

    @property
    def f1(self):
        return ratio(2 * self.overlap, self.predicted + self.true, empty=1.0)


@dataclass(frozen=True)
class SegCounts(Counts):
    """CTC SEG: the `total` of the Jaccard indices of `true` reference objects."""

    total: float = 0.0
    true: int = 0

    @property
    def score(self):
        return ratio(self.total, self.true)


@dataclass(frozen=True)
class DetCounts(Counts):
    """CTC DET: the operations that mend the predicted objects, and the number of reference objects."""

    misses: int = 0
    false_alarms: int = 0
    splits: int = 0
    true: int = 0

    @property
    def score(self):
        """1 - min(AOGM-D, AOGM-D0) / AOGM-D0: a miss costs 10, a split 5, a false alarm 1."""
        mend = 10 * self.misses + 5 * self.splits + 1 * self.false_alarms
        from_scratch = 10 * self.true
        return ratio(from_scratch - min(mend, from_scratch), from_scratch)
