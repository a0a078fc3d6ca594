"""Intervals of a reproduction's scores: a bootstrap over seeds and over blocks of consecutive test frames.

A draw takes the same frames for every seed and every method: all were tested on the same stacks.
"""

from functools import cache

import numpy as np

from weakseg_lib.evaluation import KINDS
from weakseg_lib.score_table import MEASURES

BLOCK = 10  # consecutive frames that are drawn together: they show the same cells
LEAST = 10  # stacks of a group without which there is no interval
DRAWS = 1000


def block_of(stacks: int) -> int:
    """Length of a group's blocks; at least three of them, that there is something to draw."""
    return min(BLOCK, max(1, stacks // 3))


def redraw(scores: dict, measure: str) -> np.ndarray:
    """The plain mean of the groups, (1 + DRAWS,): of all test frames, then of those of each draw.

    scores: what `evaluate` returned.
    """
    how = next(m for m in MEASURES if m.key == measure)
    groups = {}
    for stack in scores["stacks"]:
        groups.setdefault(stack["group"], []).append(stack["counts"][how.counts])
    times, values = _times_drawn(tuple(map(len, groups.values()))), []
    for taken, stacks in zip(times, groups.values(), strict=True):
        totals = taken @ [list(counts.values()) for counts in stacks]
        counts = (KINDS[how.counts](**dict(zip(stacks[0], row, strict=True))) for row in totals.tolist())
        values.append([getattr(c, how.attribute) for c in counts])
    return np.mean(values, axis=0)


def interval(values: np.ndarray, stacks: dict[str, int]) -> list[float] | None:
    """95 % interval of the mean over seeds; None where a group has too few `stacks` to speak of others.

    values: (seeds, 1 + DRAWS) of `redraw`, or the difference of two such.
    """
    if min(stacks.values()) < LEAST:
        return None
    seeds = np.random.default_rng(1).integers(0, len(values), (DRAWS, len(values)))
    drawn = values[seeds, 1 + np.arange(DRAWS)[:, None]].mean(1)
    return [round(float(v), 4) for v in np.percentile(drawn, (2.5, 97.5))]


@cache
def _times_drawn(stacks: tuple[int, ...]) -> list[np.ndarray]:
    """How often each frame is taken, (1 + DRAWS, n) for each group; first all of them once.

    Blocks go on at the beginning where the frames end, so every frame is drawn as often as any other.
    """
    rng, times = np.random.default_rng(0), []
    for n in stacks:
        block = block_of(n)
        starts = rng.integers(0, n, (DRAWS, -(-n // block), 1))
        frames = ((starts + np.arange(block)) % n).reshape(DRAWS, -1)[:, :n]
        times.append(np.stack([np.ones(n), *(np.bincount(row, minlength=n) for row in frames)]))
    return times
