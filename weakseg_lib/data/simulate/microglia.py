"""Simulated microglia: branching cells whose territories touch and fill the tissue, so that boxes overlap.

The numbers of design.md, section 8: soma 6-10 um, 4-8 primary processes, a minimum spanning tree for the
branches, radius r0 * exp(-a * d / R), territories of 20-30 um. Our modelling choices: the voxel size, the stain
and the lens; that no cell whose soma is outside the stack is drawn; that training and test stacks are alike.
Real microglia are about twice as wide and further apart (`swc.py` draws those). All of it is simulated.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from weakseg_lib.data.simulate.dataset import write_dataset
from weakseg_lib.data.simulate.microscope import Microscope
from weakseg_lib.data.simulate.trees import Tree, draw_trees
from weakseg_lib.errors import InputError

STACKS = {1: 10, 2: 4}  # the paper's: training, test


@dataclass(frozen=True)
class MicrogliaSettings:
    """Of one kind of stack. Start from `microglia_settings`, change fields with `dataclasses.replace`."""

    shape: tuple[int, int, int] = (32, 160, 160)
    voxel_size: tuple[float, float, float] = (1.0, 0.5, 0.5)  # um
    territory_um: float = 24.0  # mean width of a territory
    soma_um: tuple[float, float] = (6.0, 10.0)  # width
    primaries: tuple[int, int] = (4, 8)  # processes that leave the soma
    tips: int = 60  # points that the branches of a cell lead to
    balance: float = 0.3  # 0: the shortest tree; towards 1: the shortest way from the soma to each point
    root_um: float = 1.3  # r0, the radius of a process where it leaves the soma
    taper: float = 1.0  # a
    photons: float = 1200.0  # of a soma, a voxel
    haze: float = 40.0  # of the tissue around, a voxel
    microscope: Microscope = field(default_factory=lambda: Microscope(blur_um=(0.8, 0.3, 0.3)))

    @property
    def extent_um(self) -> np.ndarray:
        return np.array(self.shape) * np.array(self.voxel_size)


def microglia_settings(size="laptop") -> MicrogliaSettings:
    """Settings at size "laptop" or "paper". Raises InputError for another size."""
    if size not in ("laptop", "paper"):
        raise InputError(f"size {size}", "unknown", 'take "laptop" or "paper"')
    settings = MicrogliaSettings()
    if size == "paper":
        settings = replace(settings, shape=(64, 512, 512), voxel_size=(0.5, 0.25, 0.25))
    return settings


def microglia_stack(settings=None, rng=0) -> tuple[np.ndarray, np.ndarray]:
    """One stack of other cells each time: (image uint16, labels int32), both (D, H, W).

    settings: MicrogliaSettings (default: laptop); rng: a seed or a numpy Generator. Labels are exact: taken
    before blur and noise, each one connected piece with its soma (26-connected). Thin processes are about a
    voxel in radius in the labels (`trees.py` says why).
    """
    settings, rng = settings or microglia_settings(), np.random.default_rng(rng)
    trees = [_grow(centre, points, settings, rng) for centre, points in _territories(settings, rng)]
    return image_of_trees(trees, settings, rng)


def image_of_trees(trees, settings, rng) -> tuple[np.ndarray, np.ndarray]:
    """(image uint16, labels int32), both (D, H, W), of `Tree`s with their somas in the stack; label k + 1 is tree k.

    Cells differ in brightness, and the stain is uneven inside a cell.
    """
    bright = settings.photons * rng.lognormal(0, 0.2, len(trees))
    light, labels = draw_trees(trees, bright, settings.shape, settings.voxel_size)
    uneven = rng.standard_normal(settings.shape, dtype=np.float32)
    uneven = ndimage.gaussian_filter(uneven, 1.0 / np.array(settings.voxel_size))
    photons = light * np.exp(0.2 * uneven / uneven.std()) + settings.haze
    return settings.microscope.image(photons, settings.voxel_size, rng), labels


def microglia_stacks(group, settings=None, seed=0, windows=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stacks of one group, as `microglia_stack` makes them: endless, or one of each of `windows` (lists of `Tree`s).

    Stack t is the same however many are taken.
    """
    settings = settings or microglia_settings()
    for t in itertools.count() if windows is None else range(len(windows)):
        rng = np.random.default_rng(np.random.SeedSequence((seed, group), spawn_key=(t,)))
        yield microglia_stack(settings, rng) if windows is None else image_of_trees(windows[t], settings, rng)


def simulate_microglia(out, stacks=None, size="laptop", seed=0, progress=True, swc=None) -> list[Path]:
    """Write a data set in the Cell Tracking Challenge layout; returns [OUT/01, OUT/02] (training, test).

    stacks: in each group (default: 10 and 4, the paper's). Sizes: "laptop" 32x160x160 at (1, 0.5, 0.5) um,
    "paper" 64x512x512 at (0.5, 0.25, 0.25) um. swc: paths of real tracings to draw instead, the last for the
    test (`swc.swc_windows`; default: all their stacks; voxel sizes: `swc.swc_settings`).
    Raises InputError for an unknown size, for damaged tracings, and as `write_dataset` does.
    """
    settings, windows, about = microglia_settings(size), dict.fromkeys(STACKS), None
    if swc:
        from weakseg_lib.data.simulate.swc import swc_settings, swc_windows

        settings, about = swc_settings(size), {"swc": [Path(path).name for path in swc]}
        windows = swc_windows(swc, settings, stacks)
    if stacks is None:
        stacks = {group: len(found) for group, found in windows.items()} if swc else STACKS
    groups = {group: microglia_stacks(group, settings, seed, found) for group, found in windows.items()}
    voxel = settings.voxel_size
    return write_dataset(out, "microglia", groups, voxel, stacks, seed, size, progress, about=about)


def _territories(settings, rng) -> list[tuple[np.ndarray, np.ndarray]]:
    """(centre (3,), points spread evenly over its territory (n, 3)) of each cell with its centre in the stack.

    Territories are the Voronoi regions of centres that were moved to the middle of their region (Lloyd),
    three times: enough to keep somas apart, too few for a crystal. Sideways the tissue goes on beyond
    the stack; in depth the stack is the tissue.
    """
    margin = np.array([0, 1, 1]) * settings.territory_um / 2
    low, high = -margin, settings.extent_um + margin
    # Bodies that fill space at width w have about 0.7 w^3: between a ball's 0.52 and a cube's 1.
    number = max(round(np.prod(high - low) / (0.7 * settings.territory_um**3)), 1)
    centres, points = rng.uniform(low, high, (number, 3)), rng.uniform(low, high, (400 * number, 3))
    for _ in range(3):
        owner = cKDTree(centres).query(points)[1]
        centres = np.array([points[owner == k].mean(0) for k in range(number)])
    owner = cKDTree(centres).query(points)[1]
    inside = ((centres >= 0) & (centres < settings.extent_um)).all(1)
    return [(centres[k], points[owner == k]) for k in np.flatnonzero(inside)]


def _grow(centre, points, settings, rng) -> Tree:
    """A cell whose branches reach into all of its territory, given as points (n, 3)."""
    soma = rng.uniform(*settings.soma_um) / 2
    away = points - centre
    far = np.linalg.norm(away, axis=1)
    free = (far > soma + 1) & (far < 0.7 * settings.territory_um)
    away, far = away[free], far[free]
    # Primary processes set off towards parts of the territory that are far apart, as seen from the soma.
    sight, chosen = away / far[:, None], [0]
    for _ in range(rng.integers(settings.primaries[0], settings.primaries[1], endpoint=True) - 1):
        chosen.append((sight @ sight[chosen].T).max(1).argmin())
    lean = rng.normal(size=3)
    bean = 0.4 * soma * lean / np.linalg.norm(lean)
    tips = away[: settings.tips] + rng.normal(0, 2, (len(away[: settings.tips]), 3))
    start = np.concatenate([[0 * bean, bean], 1.1 * soma * sight[chosen]])
    nodes, parents, path = _spanning_tree(start, tips, settings.balance)
    beyond = np.maximum(path - 1.1 * soma, 0)
    radii = settings.root_um * np.exp(-settings.taper * beyond / (settings.territory_um / 2))
    radii[:2] = soma, 0.85 * soma
    return Tree(centre + nodes, radii, parents)


def _spanning_tree(start, tips, balance):
    """Join tips (n, 3) one by one to a tree; returns its nodes, parents and the way to each from node 0 (um).

    start: nodes that hang on node 0, the middle of the soma; nothing else may join it, nor node 1, its bulge.
    Each time the tip joins that is cheapest: the new piece, plus `balance` times the way from the soma to where
    it joins. This is Prim's minimum spanning tree with the balancing factor of Cuntz et al., PLoS Comput Biol
    6:e1000877 (2010).
    """
    nodes, parents = np.concatenate([start, tips]), np.zeros(len(start) + len(tips), int)
    path = np.linalg.norm(nodes, axis=1)
    length = np.linalg.norm(nodes[:, None] - nodes[None], axis=-1)
    joined = np.arange(len(nodes)) < len(start)
    for _ in tips:
        cost = length + balance * path[:, None]  # [from, to]
        cost[~joined] = cost[:2] = cost[:, joined] = np.inf
        a, b = np.unravel_index(cost.argmin(), cost.shape)
        parents[b], path[b], joined[b] = a, path[a] + length[a, b], True
    return nodes, parents, path
