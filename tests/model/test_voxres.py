import pytest
import torch

from weakseg_lib.config import PRESETS
from weakseg_lib.model.voxres import Backbone, VoxRes, norm_relu


def reach_of(network, axis, length, stride, step):
    """How far, in voxels of the input along `axis`, a value of the output can be influenced: measured by gradients.

    network: image (1, 1, D, H, W) -> (1, C, ...) at `stride`. Weights are made positive, so that nothing cancels.
    """
    for parameter in network.parameters():
        parameter.data.abs_().add_(0.01)
    shape = [step] * 3
    shape[axis] = length
    image = torch.ones(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    out = network(image)
    furthest = 0
    for index in range(length // 2 // stride, length // 2 // stride + step // stride):
        (gradient,) = torch.autograd.grad(out.movedim(axis + 2, 0)[index].sum(), image, retain_graph=True)
        seen = torch.nonzero(gradient[0, 0].movedim(axis, 0).flatten(1).sum(1)).flatten()
        start, stop = index * stride, (index + 1) * stride
        furthest = max(furthest, start - int(seen[0]), int(seen[-1]) + 1 - stop)
    return furthest


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_block_passes_information_on_unchanged(norm):
    block = VoxRes(8, norm).eval()
    x = torch.randn(2, 8, 3, 5, 6, requires_grad=True)
    assert block(x).shape == x.shape
    torch.nn.init.zeros_(block.branch[-1].weight)  # a branch that says nothing
    out = block(x)
    assert torch.equal(out, x) and (out < 0).any()  # no ReLU after the sum
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


def test_a_block_does_not_change_its_input():
    x = torch.randn(1, 8, 3, 5, 6)
    before = x.clone()
    VoxRes(8)(x)
    assert torch.equal(x, before)  # the ReLUs work in place


@pytest.mark.parametrize(("axis", "reach"), [(0, 1), (1, 2), (2, 2)])
def test_a_block_looks_twice_in_the_plane_and_once_along_z(axis, reach):
    block = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 1, bias=False), VoxRes(8)).double().eval()
    assert reach_of(block, axis, 16, 1, 4) == reach


PATHS = [(False, False), (True, False), (True, True)]  # top_down, finest


@pytest.mark.parametrize(("top_down", "finest"), PATHS)
@pytest.mark.parametrize("channels", [(4, 8), (4, 8, 8), (4, 4, 8, 8)])
def test_maps_at_every_stride(channels, top_down, finest):
    backbone = Backbone(channels, 1, top_down=top_down, finest=finest)
    maps = backbone(torch.randn(2, 1, 8, 16, 24))
    assert list(maps) == [1, 2, 4, 8][: len(channels)]
    for (stride, value), n in zip(maps.items(), channels, strict=True):
        assert value.shape == (2, n, 8 // stride, 16 // stride, 24 // stride)
        assert backbone.channels[stride] == n
    sum(value.sum() for value in maps.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())  # no layer is there for nothing


@pytest.mark.parametrize(("top_down", "finest"), PATHS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_stated_reach_is_the_true_one(preset, top_down, finest):
    config = PRESETS[preset]
    # Few channels: they have no influence on how far a network sees.
    backbone = Backbone((2,) * len(config.channels), config.blocks, "batch", top_down, finest)
    backbone = backbone.double().eval()
    coarsest = backbone.strides[-1]
    for axis in range(3):
        true = max(
            reach_of(lambda_of(backbone, stride), axis, 256, stride, coarsest) for stride in backbone.strides
        )
        # It may be rounded up, but by less than a voxel of the coarsest map.
        assert true <= backbone.reach[axis] < true + coarsest


def lambda_of(backbone, stride):
    """The backbone as a module that returns the map at one stride."""

    class OneMap(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, image):
            return self.backbone(image)[stride]

    return OneMap()


@pytest.mark.parametrize("channels", [1, 4, 8, 12, 32])
def test_group_normalisation_takes_any_number_of_channels(channels):
    x = torch.randn(2, channels, 2, 3, 4)
    out = norm_relu(channels, "group")(x)
    assert out.shape == x.shape and (out >= 0).all()


def test_batch_normalisation_sees_only_the_voxel_itself_when_predicting():
    layer = norm_relu(4, "batch").eval()
    x = torch.randn(1, 4, 3, 4, 5)
    assert torch.equal(layer(x.clone())[..., :2], layer(x[..., :2].clone()))
