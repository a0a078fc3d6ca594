"""Simulated microglia: trees as drawn, cells as grown, stacks as written."""

import json
from dataclasses import replace
from itertools import combinations, islice

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from weakseg_lib import cli
from weakseg_lib.data.simulate import (
    SPECIMENS,
    microglia,
    microglia_settings,
    microglia_stack,
    microglia_stacks,
    simulate_microglia,
)
from weakseg_lib.data.simulate.microglia import MicrogliaSettings, _grow, _spanning_tree, _territories
from weakseg_lib.data.simulate.trees import Tree, draw_trees
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.errors import InputError

EVERY_NEIGHBOUR = np.ones((3, 3, 3))
VOXEL = (1.0, 0.5, 0.5)
SMALL = MicrogliaSettings(shape=(16, 48, 48))


def chain(*points, radii):
    """One process from a soma at the first point."""
    parents = np.maximum(np.arange(len(points)) - 1, 0)
    return Tree(np.array(points, float), np.array(radii, float), parents)


def pieces(mask):
    return ndimage.label(mask, EVERY_NEIGHBOUR)[1]


@pytest.fixture(scope="module")
def cells():
    """Cells of four laptop stacks."""
    settings, found = microglia_settings(), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        found += [_grow(centre, points, settings, rng) for centre, points in _territories(settings, rng)]
    return found


@pytest.fixture(scope="module")
def stacks():
    return [microglia_stack(rng=seed) for seed in range(3)]


# ---------------------------------------------------------------- drawing trees


def test_balls_follow_the_skeleton():
    tree = chain((0, 0, 0), (0, 0, 5), (0, 4, 5), radii=[3, 1, 0.5])
    centres, radii = tree.balls(step=0.5)
    assert len(centres) == 1 + 10 + 8
    assert np.linalg.norm(np.diff(centres, axis=0), axis=1) == pytest.approx(0.5)
    assert radii[0] == 3 and radii[1:11] == pytest.approx(1)  # no cone from the soma's radius
    assert radii[11:] == pytest.approx(np.linspace(1, 0.5, 9)[1:])


@pytest.mark.parametrize("voxel", [VOXEL, (0.5, 0.25, 0.25), (2.0, 0.3, 0.7)])
def test_thin_process_is_one_piece_without_gaps(voxel):
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(3, 17, (4, 3))
        tree = chain(*points, radii=[1, 0.1, 0.1, 0.1])
        _, labels = draw_trees([tree], [1], np.ceil(20 / np.array(voxel)).astype(int), voxel)
        at = (tree.balls(min(voxel))[0] // voxel).astype(int)
        assert np.abs(np.diff(at[1:], axis=0)).max() <= 1 and labels[tuple(at.T)].all()
        assert pieces(labels == 1) == 1


def test_thin_process_is_dim_and_thick_one_is_not():
    length, lights = 14, {}
    for radius in (0.3, 1.5):
        tree = chain((8, 5, 5), (10, 5 + length, 7), radii=[radius, radius])
        light, labels = draw_trees([tree], [10], (16, 48, 32), VOXEL)
        lights[radius] = light.sum() * np.prod(VOXEL) / 10
        assert light[labels > 0].max() == pytest.approx(10 * min(1, radius**2 / 0.375))  # half diagonal^2
    # The volume of a cylinder; the ends and counting voxels are in the way.
    for radius, volume in lights.items():
        assert volume == pytest.approx(np.pi * radius**2 * np.hypot(length, 8**0.5), rel=0.2)


def test_voxel_between_two_cells_goes_to_the_deeper():
    tree = [chain((8, 12, x), radii=[r]) for x, r in ((8, 6), (16, 4))]
    light, labels = draw_trees(tree, [1, 2], (16, 48, 48), VOXEL)
    row = labels[8, 24]
    # At (8.5, 12.25, x) both surfaces are equally far where x is 13 (5 deep of 6, 3 deep of 4).
    assert (row[24:26] == 1).all() and (row[27:30] == 2).all()
    assert (light == labels).all()


def test_what_a_neighbour_cuts_off_is_gone():
    across = chain((8, 3, 12), (8, 21, 12), radii=[3, 0.5])
    wall = chain((8, 12, 3), (8, 12, 21), radii=[3, 2])
    light, labels = draw_trees([across, wall], [1, 1], (16, 48, 48), VOXEL)
    assert pieces(labels == 1) == 1
    assert labels[8, 14, 24] == 1 and labels[8, 24, 24] == 2
    assert not labels[:, 30:].any() and not light[:, 30:].any()


def test_border_cuts_cells():
    tree = chain((1, 1, 1), (1, 1, 40), (1, 8, 40), (1, 8, 1), radii=[3, 1, 1, 1])
    light, labels = draw_trees([tree], [1], (16, 48, 48), VOXEL)
    assert labels[1, 2, 47] == 1 and pieces(labels) == 1
    assert not labels[:, 14:].any()  # the way back, cut off from its soma
    assert ((light > 0) == (labels > 0)).all()


# ---------------------------------------------------------------- growing them


def test_without_balance_it_is_the_minimum_spanning_tree():
    rng = np.random.default_rng(3)
    start, tips = np.array([[0, 0, 0], [0, 0, 1], [0, 2, 0]], float), rng.normal(0, 8, (40, 3))
    nodes, parents, path = _spanning_tree(start, tips, balance=0)
    both = np.concatenate([start[2:], tips])  # nothing joins the soma and its bulge
    shortest = minimum_spanning_tree(cdist(both, both)).sum()
    assert np.linalg.norm(nodes[3:] - nodes[parents[3:]], axis=1).sum() == pytest.approx(shortest)
    assert (parents[:3] == 0).all() and (parents[3:] >= 2).all()
    assert path[3:] == pytest.approx(path[parents[3:]] + np.linalg.norm(nodes - nodes[parents], axis=1)[3:])


def test_balance_shortens_the_way_from_the_soma():
    rng = np.random.default_rng(4)
    start, tips = np.array([[0, 0, 0], [0, 0, 1], [0, 2, 0]], float), rng.normal(0, 8, (40, 3))
    means = [_spanning_tree(start, tips, balance)[2].mean() for balance in (0, 0.3, 1)]
    assert means[0] > 1.1 * means[1] and means[1] > means[2]
    direct = 2 + np.linalg.norm(tips - start[2], axis=1)
    assert means[2] == pytest.approx(direct.sum() / 43 + 3 / 43, rel=1e-6)  # 3: the bulge and the primary


def test_cells_are_as_designed(cells):
    # design.md, section 8.
    assert all(3 <= cell.radii[0] <= 5 for cell in cells)
    primaries = [(cell.parents[2:] == 0).sum() for cell in cells]
    assert min(primaries) == 4 and max(primaries) == 8
    settings = microglia_settings()
    for cell in cells:
        leaving = cell.radii[2:][cell.parents[2:] == 0]
        assert leaving == pytest.approx(settings.root_um)
        later = cell.parents[2:] > 0
        assert (cell.radii[2:] < cell.radii[cell.parents[2:]])[later].all()  # tapers
        tips = np.setdiff1d(np.arange(2, len(cell.parents)), cell.parents)
        assert len(tips) >= 8  # and it branches
    widths = np.array([np.ptp(cell.points[:, 1:], axis=0) for cell in cells])
    assert 20 < np.median(widths) < 30


def test_taper_is_exponential_in_the_way():
    settings = replace(SMALL, taper=1.5, root_um=2.0)
    points = np.random.default_rng(0).uniform(-12, 12, (500, 3))
    cell = _grow(np.zeros(3), points, settings, np.random.default_rng(1))
    step = np.linalg.norm(cell.points - cell.points[cell.parents], axis=1)
    later = cell.parents > 0
    ratio = cell.radii[later] / cell.radii[cell.parents[later]]
    assert ratio == pytest.approx(np.exp(-1.5 * step[later] / 12))


# ---------------------------------------------------------------- stacks


def test_labels_are_one_piece_with_a_soma(stacks):
    for image, labels in stacks:
        assert image.shape == labels.shape == microglia_settings().shape
        assert image.dtype == np.uint16 and labels.dtype == np.int32
        ids = np.unique(labels)[1:]
        assert ids.tolist() == list(range(1, len(ids) + 1)) and 12 <= len(ids) <= 25
        for i in ids:
            assert pieces(labels == i) == 1
            # Something as wide as half the smallest soma: 3 um are 3 slices and 6 voxels across.
            assert ndimage.binary_erosion(labels == i, np.ones((2, 5, 5)), border_value=1).any()


def test_boxes_overlap_and_cells_touch(stacks):
    for _, labels in stacks:
        boxes = ndimage.find_objects(labels)
        meet = dict.fromkeys(range(len(boxes)), 0)
        for a, b in combinations(meet, 2):
            if all(s.start < t.stop and t.start < s.stop for s, t in zip(boxes[a], boxes[b], strict=True)):
                meet[a] += 1
                meet[b] += 1
        assert np.median(list(meet.values())) >= 3
        grown = ndimage.maximum_filter(labels, size=3)
        contact = (labels > 0) & (grown != labels)
        touching = np.union1d(labels[contact], grown[contact])
        assert len(touching) > 0.7 * len(boxes)


def test_cells_can_be_seen(stacks):
    for image, labels in stacks:
        dark = image[ndimage.binary_dilation(labels > 0, iterations=3) == 0].astype(float)
        brightness = ndimage.mean(image, labels, np.unique(labels)[1:])
        assert min(brightness) > dark.mean() + 2 * dark.std()
        thin = (labels > 0) & ~ndimage.binary_opening(labels > 0, np.ones((3, 5, 5)))
        assert image[thin].mean() > dark.mean() + 1.5 * dark.std()  # processes too, if less


def test_same_seed_same_stacks_however_many():
    first, again = (
        list(islice(microglia_stacks(1, SMALL, 5), 3)),
        list(islice(microglia_stacks(1, SMALL, 5), 2)),
    )
    for (image, labels), (image2, labels2) in zip(first[:2], again, strict=True):
        assert (image == image2).all() and (labels == labels2).all()
    others = [first[1], next(microglia_stacks(2, SMALL, 5)), next(microglia_stacks(1, SMALL, 6))]
    assert all((first[0][1] != labels).any() for _, labels in others)
    (image, labels), (image2, labels2) = (
        microglia_stack(SMALL, 7),
        microglia_stack(SMALL, np.random.default_rng(7)),
    )
    assert (image == image2).all() and (labels == labels2).all()


def test_paper_size_is_the_same_tissue_seen_finer():
    settings = microglia_settings("paper")
    assert settings.shape == (64, 512, 512) and settings.voxel_size == (0.5, 0.25, 0.25)
    coarse, fine = (
        microglia_stack(replace(SMALL, shape=shape, voxel_size=voxel), 1)[1]
        for shape, voxel in (((16, 48, 48), VOXEL), ((32, 96, 96), (0.5, 0.25, 0.25)))
    )
    assert coarse.max() == fine.max() > 0
    somas = [
        ndimage.binary_erosion(labels > 0, np.ones(s))
        for labels, s in ((coarse, (3, 5, 5)), (fine, (5, 9, 9)))
    ]
    assert (somas[0] & somas[1][::2, ::2, ::2]).sum() > 0.5 * somas[0].sum()


# ---------------------------------------------------------------- files


def test_files(tmp_path, monkeypatch):
    monkeypatch.setattr(microglia, "microglia_settings", lambda size: SMALL)
    out = tmp_path / "microglia"
    assert simulate_microglia(out, seed=7, progress=False) == [out / "01", out / "02"]
    assert json.loads((out / "dataset.json").read_text()) == {
        "voxel_size_um": [1.0, 0.5, 0.5],
        "simulated": True,
        "specimen": "microglia",
        "seed": 7,
        "size": "laptop",
    }
    sequences = [Sequence(out / name) for name in ("01", "02")]
    assert [len(sequence.frames) for sequence in sequences] == [10, 4]  # the paper's
    for group, sequence in enumerate(sequences, start=1):
        for t, (image, labels) in enumerate(islice(microglia_stacks(group, SMALL, 7), 2)):
            stack = sequence.read(t, with_labels=True)
            assert (stack.image == image).all() and (stack.labels == labels).all()
    assert not (out / "01_GT" / "TRA").exists()  # stacks of different cells have no tracks
    with pytest.raises(InputError, match="already holds data"):
        simulate_microglia(out, progress=False)
    fewer = simulate_microglia(tmp_path / "fewer", stacks=2, seed=7, progress=False)
    assert [len(Sequence(folder).frames) for folder in fewer] == [2, 2]
    assert (fewer[0] / "t001.tif").read_bytes() == (out / "01" / "t001.tif").read_bytes()


@pytest.mark.parametrize("bad", [{"stacks": 0}, {"stacks": 1.5}, {"size": "huge"}, {"seed": -1}])
def test_bad_arguments(tmp_path, bad):
    with pytest.raises(InputError, match=str(next(iter(bad)))):
        simulate_microglia(tmp_path / "out", progress=False, **bad)
    assert not (tmp_path / "out").exists()


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(microglia, "microglia_settings", lambda size: SMALL)
    assert cli.main(["simulate", "microglia", str(tmp_path / "out"), "--stacks", "1"]) == 0
    assert "1 and 1 simulated stacks" in capsys.readouterr().out
    for specimen in SPECIMENS:
        assert cli._parser().parse_args(["simulate", specimen, "out"]).stacks is None
    assert cli.main(["simulate", "hl60", str(tmp_path / "hl60"), "--swc", "a.swc"]) == 2
    assert not (tmp_path / "hl60").exists()
