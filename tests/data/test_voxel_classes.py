"""Crops for VoxResNet: the class of every voxel is cut, zoomed and turned as its image is."""

import numpy as np
import torch

from weakseg_lib.data.annotation import annotate
from weakseg_lib.data.prepare import compress, prepare
from weakseg_lib.data.stacks import Stack
from weakseg_lib.data.voxel_classes import BACKGROUND, DenseSampler, prepare_classes

VOXEL = (0.5, 0.25, 0.25)


def sampler(labels, tmp_path, config):
    """Of a stack whose image is 0 outside the cells and 1 inside."""
    image = np.where(labels > 0, 1100, 100).astype(np.uint16)
    stack = Stack(image, VOXEL, "p", tmp_path / "p")
    prepared = prepare(stack, annotate(labels, 1.0, 0), VOXEL, tmp_path / "p")
    prepare_classes(labels, labels.shape, VOXEL, 0.5, tmp_path / "p")
    return DenseSampler([prepared], config.replace(contrast=0.0, noise=0.0, smooth=0.0, zoom=0.0), 0)


def test_classes_go_with_the_image(cells, tmp_path, tiny):
    batches = sampler(cells()[1], tmp_path, tiny)
    for step in range(6):
        batch = batches.batch(step)
        assert batch.images.shape == (2, 1, *tiny.crop) and batch.voxel_classes.shape == (2, *tiny.crop)
        assert batch.voxel_classes.dtype == torch.int64 and set(batch.voxel_classes.unique().tolist()) == {
            0,
            1,
            2,
        }
        shown = batch.images[:, 0] > compress(torch.tensor(0.5))
        assert torch.equal(shown, batch.voxel_classes != BACKGROUND)
    again = batches.batch(5)
    assert torch.equal(again.images, batch.images) and torch.equal(again.voxel_classes, batch.voxel_classes)


def test_a_stack_smaller_than_a_crop_is_background_beyond(cells, tmp_path, tiny):
    batch = sampler(cells((10, 24, 24))[1], tmp_path, tiny).batch(0)
    assert (batch.voxel_classes == BACKGROUND).float().mean() > 0.7
