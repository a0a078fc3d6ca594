"""The paper's three experiments: which stacks, which annotation, which settings, and what the paper printed."""

from dataclasses import dataclass, field, replace

from weakseg_lib.components import READINGS
from weakseg_lib.config import PRESETS, Config

ALL = None  # of the frames that a group has
# The paper does not define its segmentation F1. The second is the best guess (design.md 7), the first is stricter.
SEGMENTATION = (
    ("segmentation_f1", "segmentation F1 (right instance)"),
    ("segmentation_f1_union", "segmentation F1 (in matched boxes)"),
)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the masks, along the curve of score against hours


@dataclass(frozen=True)
class Trial:
    """One training and its test: `frames` of each group are learnt from, with boxes and a share of `masks`, or, by
    VoxResNet, from full labels (`masks` None)."""

    name: str
    method: str
    masks: float | None
    frames: dict[str, tuple[int, ...]]
    seed: int

    @property
    def row(self) -> str:
        """Name of the trial's row in a table, which the seeds share."""
        if self.method == "weak":
            return f"weak_{self.masks:g}"
        return f"voxresnet_{sum(map(len, self.frames.values()))}"

    @property
    def readings(self) -> dict[str, str | None]:
        """What is scored of it: {name of the result: reading}; VoxResNet is read in two ways."""
        if self.method == "weak":
            return {self.name: None}
        return {f"{self.name}_{reading}": reading for reading in READINGS}


@dataclass(frozen=True)
class Experiment:
    """One of the paper's experiments. Frames are those of its section 3; groups are sequences, "01" and "02"."""

    name: str
    train: dict[str, tuple[int, ...]]
    test: dict[str, tuple[int, ...]]
    masks: float
    few: dict[str, tuple[int, ...]] | None = (
        None  # VoxResNet's stacks of about the same time; None: not compared
    )
    stacks: dict[int, int] | None = (
        None  # how many of each group are to be simulated; None: as the simulator does
    )
    dataset: str | None = None  # the paper's own set, as fetch_ctc.py names it
    settings: dict[str, dict] = field(default_factory=dict)  # of each size, beyond its preset
    columns: tuple[tuple[str, str], ...] = ()  # (measure, what the paper calls it)
    printed: dict[str, tuple] = field(default_factory=dict)  # row -> the paper's numbers

    @property
    def measures(self) -> tuple[tuple[str, str], ...]:
        """(measure, heading) of our own tables: as `columns`, but both ways to score a segmentation."""
        both = {"segmentation_f1": SEGMENTATION}
        return tuple(own for column in self.columns for own in both.get(column[0], (column,)))

    def trials(self, seeds: int, curve: bool) -> list[Trial]:
        """What the tables ask for, seed after seed; with `curve` also the other shares and numbers of stacks."""
        return [trial for seed in range(seeds) for trial in self._of_one_seed(seed, curve)]

    def _of_one_seed(self, seed, curve):
        shares = sorted({self.masks, *(SHARES if curve else ())}, key=lambda s: (s != self.masks, s))
        for share in shares:
            yield Trial(f"weak_{share:g}_seed{seed}", "weak", share, self.train, seed)
        if self.few is None:
            return
        stacks = sum(map(len, self.train.values()))
        yield Trial(f"voxresnet_{stacks}_seed{seed}", "voxresnet", None, self.train, seed)
        numbers = [sum(map(len, self.few.values())), *(n for n in (1, 2, 7) if curve and n < stacks)]
        for number in dict.fromkeys(numbers):
            frames = self.few if number == numbers[0] else spread(self.train, number)
            yield Trial(f"voxresnet_{number}_seed{seed}", "voxresnet", None, frames, seed)

    def config(self, size: str, method: str) -> Config:
        changes = self.settings.get(size, {})
        return replace(PRESETS[size], method=method, **changes.get("both", {}) | changes.get(method, {}))


def spread(frames: dict[str, tuple[int, ...]], number: int) -> dict[str, tuple[int, ...]]:
    """`number` of the frames, evenly from all groups in their order."""
    listed = [(group, t) for group, ts in frames.items() for t in ts]
    chosen = [listed[int((i + 0.5) * len(listed) / number)] for i in range(number)]
    groups = dict.fromkeys(group for group, _ in chosen)
    return {group: tuple(t for g, t in chosen if g == group) for group in groups}


def _experiments():
    hl60 = Experiment(
        "hl60",
        train={"01": tuple(range(0, 71, 10)), "02": tuple(range(0, 41, 10))},
        test={"01": tuple(range(80, 150)), "02": tuple(range(50, 80))},
        masks=0.2,
        # The paper does not say which 4 of the 13; two of each group, far apart in time.
        few={"01": (0, 40), "02": (0, 20)},
        stacks={1: 150, 2: 80},
        dataset="Fluo-N3DH-SIM+",
        # About as many minutes for either; VoxResNet gains from the stack's full resolution, ours does not.
        settings={"laptop": {"weak": {"steps": 500}, "voxresnet": {"steps": 400, "cell_size": 0.0}}},
        columns=(("detection_f1", "detection F1"), ("segmentation_f1", "segmentation F1")),
        printed={
            "boxes and 20 % of the masks": (5.5, (0.9967, 0.9599, 0.9783), (0.9416, 0.8437, 0.8927)),
            "VoxResNet, 13 stacks": (22.5, (0.9988, 0.9543, 0.9766), (0.9656, 0.8428, 0.9042)),
            "VoxResNet, 4 stacks": (8.3, (0.9965, 0.9221, 0.9593), (0.9610, 0.7873, 0.8742)),
        },
    )
    microglia = Experiment(
        "microglia",
        train={"01": tuple(range(10))},
        test={"02": tuple(range(4))},
        masks=0.3,
        few={"01": (0, 3, 6, 9)},
        # Branches of a voxel or two: a finer grid, a mask head that sees it, and time to learn it. VoxResNet, which
        # works voxel by voxel, needs less of all three.
        settings={
            "laptop": {
                "voxresnet": {"steps": 500, "cell_size": 32.0},
                "weak": {
                    "steps": 800,
                    "cell_size": 40.0,
                    "crop": (32, 96, 96),
                    "roi_size": 20,
                    "rois": 6,
                    "mask_skip": True,
                    "dice": 1.0,
                },
            }
        },
        columns=(("detection_f1", "detection F1"), ("segmentation_f1", "segmentation F1")),
        printed={
            "boxes and 30 % of the masks": (54.7, (0.9078,), (0.8424,)),
            "VoxResNet, 10 stacks": (172.9, (0.9017,), (0.8484,)),
            "VoxResNet, 4 stacks": (67.5, (0.8761,), (0.8307,)),
        },
    )
    celegans = Experiment(
        "celegans",
        train={"01": ALL},
        test={"02": ALL},
        masks=67 / 1527,
        dataset="Fluo-N3DH-CE",
        settings={"laptop": {"both": {"steps": 600}}},
        columns=(("marker_f1", "marker F1"),),
        printed={"boxes and 67 of 1527 masks": (None, (0.9495,))},
    )
    return {e.name: e for e in (hl60, microglia, celegans)}


EXPERIMENTS = _experiments()
