"""VoxResNet: shapes, receptive field, losses, and instances from its voxel classes."""

import numpy as np
import pytest
import torch

from weakseg_lib.components import instances
from weakseg_lib.config import PAPER
from weakseg_lib.data.voxel_classes import (
    BACKGROUND,
    BOUNDARY,
    CELL,
    LABELS,
    DenseBatch,
    prepare_classes,
    resample_labels,
    voxel_classes,
)
from weakseg_lib.model.voxresnet import VoxResNet

VOXEL = (0.5, 0.25, 0.25)


@pytest.fixture
def network(tiny):
    torch.manual_seed(0)
    return VoxResNet(tiny.replace(method="voxresnet")).eval()


def test_every_branch_has_the_size_of_the_image(network):
    branches = network(torch.zeros(2, 1, 8, 12, 16))
    assert [b.shape for b in branches] == [(2, 3, 8, 12, 16)] * 3
    assert torch.allclose(
        network.probabilities(torch.zeros(1, 1, 8, 8, 8)).sum(1), torch.ones(1, 8, 8, 8), atol=1e-6
    )


def test_the_papers_size_is_that_of_the_original():
    """32 channels at full size, 64 below, strides 1 to 8, six VoxRes blocks: Chen et al. 2016, Fig. 2."""
    network = VoxResNet(PAPER.replace(method="voxresnet"))
    assert network.strides == (1, 2, 4, 8) and network.stem[0].out_channels == 32
    assert [stage[1].out_channels for stage in network.stages] == [64, 64, 64]
    assert sum(type(m).__name__ == "VoxRes" for m in network.modules()) == 6


def test_nothing_beyond_the_halo_changes_a_voxel(network):
    image = torch.rand(1, 1, 32, 64, 64)
    middle = (16, 32, 32)
    changed = image.clone()
    near = tuple(slice(m - h, m + h + 1) for m, h in zip(middle, network.halo, strict=True))
    keep = torch.zeros_like(image, dtype=torch.bool)
    keep[(0, 0, *near)] = True
    changed[~keep] = 5.0
    with torch.no_grad():
        before, after = (network.probabilities(v)[(0, slice(None), *middle)] for v in (image, changed))
    assert not torch.equal(image, changed) and torch.allclose(before, after, atol=1e-6)


def test_the_branches_own_losses_fade(network):
    torch.manual_seed(1)
    batch = DenseBatch(torch.rand(1, 1, 8, 8, 8), torch.randint(0, 3, (1, 8, 8, 8)))
    first, last = network.losses(batch, 0.0), network.losses(batch, 1.0)
    assert first["voxels"] == last["voxels"]
    assert last["branches"].item() == pytest.approx(first["branches"].item() / 1000, rel=1e-4)


def two_neighbours():
    labels = np.zeros((8, 16, 24), np.int32)
    labels[1:7, 3:13, 2:12], labels[1:7, 3:13, 12:22] = 1, 2
    return labels


def test_the_boundary_class_parts_neighbours():
    labels = two_neighbours()
    classes = voxel_classes(labels, VOXEL, 0.5)
    assert ((classes == BACKGROUND) == (labels == 0)).all()
    assert (classes[3, 8, 10:14] == BOUNDARY).all() and classes[3, 8, 7] == CELL
    # 0.5 um: two voxels of 0.25 um sideways, one of 0.5 um along z.
    assert (classes[1, 8, 7], classes[2, 8, 7]) == (BOUNDARY, CELL)
    assert (classes[3, 8, 3], classes[3, 8, 4]) == (BOUNDARY, CELL)
    # Coarse voxels: the outermost layer still is boundary.
    assert voxel_classes(labels, (2.0, 1.0, 1.0), 0.5)[3, 8, 11] == BOUNDARY


def test_what_the_stack_cuts_has_no_boundary_there():
    labels = np.zeros((6, 10, 10), np.int32)
    labels[:, :5, 2:8] = 1
    assert voxel_classes(labels, VOXEL, 0.25)[3, 0, 5] == CELL


@pytest.mark.parametrize("reading", ["grown", "literal"])
def test_instances_of_perfect_classes(reading):
    labels = two_neighbours()
    classes = voxel_classes(labels, VOXEL, 0.5)
    found = instances(np.eye(3, dtype=np.float32)[classes].transpose(3, 0, 1, 2), 0.5, 0, reading)
    assert found.max() == 2
    for i in (1, 2):
        own = found == found[3, 8, 7 if i == 1 else 16]
        # Literal: what is left of a cell without its boundary; grown: all of it.
        assert (own == ((labels == i) if reading == "grown" else (labels == i) & (classes == CELL))).all()


def test_small_components_are_dropped():
    cell = np.zeros((6, 20, 20), np.float32)
    cell[1:5, 2:8, 2:8], cell[2, 15, 15] = 1, 1
    probabilities = np.stack([1 - cell, cell, 0 * cell])
    assert instances(probabilities, 0.5, 0, "literal").max() == 2
    assert instances(probabilities, 0.5, 2, "literal").max() == 1


def test_labels_are_resampled_at_the_centres_of_voxels():
    labels = np.arange(8).reshape(1, 2, 4)
    assert resample_labels(labels, (1, 2, 2)).tolist() == [[[1, 3], [5, 7]]]
    assert resample_labels(labels, (1, 4, 4))[0, :, 0].tolist() == [0, 0, 4, 4]


def test_where_the_background_begins_decides_how_far_a_cell_grows():
    cell, background = np.zeros((1, 1, 9), np.float32), np.ones((1, 1, 9), np.float32)
    cell[0, 0, 4] = 1
    background[0, 0] = [1, 0.8, 0.65, 0.35, 0, 0.35, 0.65, 0.8, 1]
    probabilities = np.stack([background, cell, 1 - background - cell])
    widths = [instances(probabilities, 0.5, 0, "grown", level).sum() for level in (0.3, 0.5, 0.7)]
    assert widths == [1, 3, 5]


def test_ids_may_be_huge(tmp_path):
    labels = np.zeros((6, 12, 12), np.int64)
    labels[1:5, 2:6, 2:6], labels[1:5, 7:11, 7:11] = 2_000_000_000, 7
    prepare_classes(labels, labels.shape, VOXEL, 0.25, tmp_path)
    written = np.load(tmp_path / LABELS)
    assert written.max() == 2 and ((written > 0) == (labels > 0)).all()


def test_a_low_level_does_not_make_cells_of_boundary():
    probabilities = np.zeros((3, 1, 1, 5), np.float32)
    probabilities[CELL, 0, 0], probabilities[BOUNDARY, 0, 0] = (
        [0.3, 0.6, 0.9, 0.6, 0.3],
        [0.7, 0.4, 0.1, 0.4, 0.7],
    )
    assert instances(probabilities, 0.1, 0, "literal").tolist() == [[[0, 1, 1, 1, 0]]]
