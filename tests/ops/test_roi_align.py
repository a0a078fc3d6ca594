"""roi_align_3d against a loop over samples that looks up 8 neighbours each, as the paper's section 2.2 describes."""

import itertools
import math

import numpy as np
import pytest
import torch

from weakseg_lib.ops.roi_align import interpolation_matrix, roi_align_3d

SHAPE = (5, 6, 7)
BOXES = torch.tensor(
    [
        [0, 1.2, 0.7, 2.1, 3.9, 4.4, 5.8],  # inside
        [1, 1, 2, 3, 4, 5, 6],  # whole voxels
        [0, -2.3, 3.1, -0.4, 2.2, 8.9, 3.3],  # across three borders
        [1, 3.5, -1.5, 5.2, 9.1, 2.5, 11.0],
        [0, -9, -9, -9, -5, -6, -4],  # outside on the low side
        [1, 12, 14, 16, 15, 15, 18],  # outside on the high side
        [0, -4, -6, -5, 11, 13, 12],  # larger than the volume
        [1, 2.2, 1.1, 3.3, 2.25, 1.15, 3.35],  # a fraction of a voxel
        [1, 4, 5, 6, 5, 6, 7],  # the last voxel
    ],
    dtype=torch.float64,
)
ZERO_SIZE = torch.tensor([[0, 2, 2.5, 3, 2, 4.5, 6], [1, 3, 3, 3, 3, 3, 3]], dtype=torch.float64)


def sample_by_hand(volume, point):
    """Trilinear value of `volume` (C, D, H, W) at `point`, with the border rule of torchvision."""
    size = volume.shape[1:]
    if any(p < -1 or p > n for p, n in zip(point, size, strict=True)):
        return np.zeros(len(volume))
    value = np.zeros(len(volume))
    point = [max(p, 0.0) for p in point]
    for corner in itertools.product((0, 1), repeat=3):
        weight, index = 1.0, []
        for p, n, up in zip(point, size, corner, strict=True):
            low = min(math.floor(p), n - 1)
            fraction = p - low if low < n - 1 else 0.0
            weight *= fraction if up else 1 - fraction
            index.append(min(low + up, n - 1))
        value += weight * volume[(slice(None), *index)]
    return value


def align_by_hand(features, boxes, bins, scale=(1, 1, 1), ratio=(0, 0, 0), aligned=True):
    """The operator's definition, bin by bin and sample by sample, in float64."""
    features, boxes = features.double().numpy(), boxes.double().tolist()
    out = np.zeros((len(boxes), features.shape[1], *bins))
    for k, (image, *corners) in enumerate(boxes):
        start, side = [], []
        for axis in range(3):
            a, b = corners[axis] * scale[axis], corners[axis + 3] * scale[axis]
            start.append(a - 0.5 if aligned else a)
            side.append(b - a if aligned else max(b - a, 1.0))
        number = [r if r > 0 else math.ceil(s / n) for r, s, n in zip(ratio, side, bins, strict=True)]
        for cell in itertools.product(*map(range, bins)):
            total = np.zeros(features.shape[1])
            for sample in itertools.product(*map(range, number)):
                point = [
                    start[i] + side[i] / bins[i] * (cell[i] + (sample[i] + 0.5) / number[i]) for i in range(3)
                ]
                total += sample_by_hand(features[int(image)], point)
            out[(k, slice(None), *cell)] = total / max(math.prod(number), 1)
    return out


@pytest.fixture(scope="module")
def features():
    return torch.tensor(np.random.default_rng(0).normal(size=(2, 2, *SHAPE)))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3, -1, (1, 2, 0)])
@pytest.mark.parametrize("scale", [1.0, (0.5, 0.7, 1.3)])
@pytest.mark.parametrize("bins", [2, (1, 2, 3)])
def test_against_a_loop_over_samples(features, aligned, ratio, scale, bins):
    three = [v if isinstance(v, tuple) else (v,) * 3 for v in (bins, scale, ratio)]
    wanted = align_by_hand(features, BOXES, *three, aligned)
    found = roi_align_3d(features, BOXES, bins, scale, ratio, aligned)
    # Sums of at most a few hundred products of numbers near 1, in float64.
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    assert np.abs(wanted[0]).max() > 0.01


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 2e-5),  # 24 bits, coordinates up to 10, sums of hundreds of products
        (torch.bfloat16, 4e-3),  # only the output is rounded: below 2 by half a step of 2^-7
        (torch.float16, 4e-3),  # the same with three bits more
    ],
)
def test_lower_precision(features, dtype, tolerance):
    rounded = features.clamp(-1.9, 1.9).to(dtype)
    found = roi_align_3d(rounded, BOXES.float(), 2)
    wanted = align_by_hand(rounded, BOXES, (2, 2, 2))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double(), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("ratio", [1, 2])
def test_boxes_without_extent(features, ratio):
    wanted = align_by_hand(features, ZERO_SIZE, (2, 2, 2), ratio=(ratio,) * 3)
    found = roi_align_3d(features, ZERO_SIZE, 2, sampling_ratio=ratio)
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    # Not aligned, a side is at least one voxel, so there is something under the box.
    wanted = align_by_hand(features, ZERO_SIZE, (2, 2, 2), aligned=False)
    np.testing.assert_allclose(
        roi_align_3d(features, ZERO_SIZE, 2, aligned=False), wanted, atol=1e-12, rtol=0
    )


def test_boxes_without_extent_hold_no_adaptive_samples(features):
    """ceil(0 / bins) = 0 samples: torchvision then gives zeros."""
    assert roi_align_3d(features, ZERO_SIZE, 2, sampling_ratio=0).abs().max() == 0


def test_a_constant_stays_constant_and_a_ramp_gives_the_centres():
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (8, 9, 10)), indexing="ij")
    volume = torch.stack([torch.full_like(z, 7.0), z, y, x])[None]
    box = torch.tensor([[0, 1, 2, 3, 7, 8, 9]], dtype=torch.float64)
    out = roi_align_3d(volume, box, 3)[0]
    assert (out[0] - 7).abs().max() < 1e-12
    # Voxel i covers [i, i + 1) and holds i; bin b of [start, start + 6) has its centre at start + 2 b + 1.
    for axis, start in enumerate((1, 2, 3)):
        centres = out[axis + 1].movedim(axis, 0).flatten(1).mean(1)
        np.testing.assert_allclose(centres, [start + 0.5, start + 2.5, start + 4.5], atol=1e-12)


def test_a_box_of_whole_voxels_is_a_crop(features):
    out = roi_align_3d(features, torch.tensor([[1.0, 1, 2, 3, 4, 6, 6]]).double(), (3, 4, 3))
    np.testing.assert_allclose(out[0], features[1, :, 1:4, 2:6, 3:6], atol=1e-12)


def test_a_list_of_boxes_is_the_table_with_the_image_in_front(features):
    per_image = [BOXES[BOXES[:, 0] == i][:, 1:] for i in (0, 1)]
    table = torch.cat([BOXES[BOXES[:, 0] == i] for i in (0, 1)])
    assert torch.equal(roi_align_3d(features, per_image, 3), roi_align_3d(features, table, 3))
    only_second = roi_align_3d(features, [torch.zeros(0, 6).double(), per_image[1]], 3)
    assert torch.equal(only_second, roi_align_3d(features, table, 3)[len(per_image[0]) :])


@pytest.mark.parametrize("boxes", [torch.zeros(0, 7), [torch.zeros(0, 6), torch.zeros(0, 6)]])
def test_no_boxes(features, boxes):
    leaf = features.clone().requires_grad_()
    out = roi_align_3d(leaf, boxes, (2, 3, 4))
    assert out.shape == (0, 2, 2, 3, 4)
    out.sum().backward()
    assert leaf.grad.abs().max() == 0


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient(features, aligned, ratio):
    leaf = features[:, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: roi_align_3d(f, BOXES, (1, 2, 2), (0.5, 1, 1), ratio, aligned), (leaf,)
    )


def test_gradients_of_overlapping_boxes_add_up_and_are_reproducible(features):
    boxes = torch.cat([BOXES, BOXES, BOXES[:4] + torch.tensor([0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])])
    weights = torch.linspace(-1, 1, len(boxes))[:, None, None, None, None].double()

    def gradient(some):
        leaf = features.clone().requires_grad_()
        (roi_align_3d(leaf, boxes[some], 2) * weights[some]).sum().backward()
        return leaf.grad

    whole = gradient(slice(None))
    assert torch.equal(whole, gradient(slice(None)))  # bit for bit: no atomic additions in random order
    parts = sum(gradient(slice(i, i + 1)) for i in range(len(boxes)))
    np.testing.assert_allclose(whole, parts, atol=1e-12)


def test_inputs_are_left_as_they_were(features):
    f, b = features.clone().requires_grad_(), BOXES.clone()
    roi_align_3d(f, b, 3, 0.5).sum().backward()
    assert torch.equal(f.detach(), features) and torch.equal(b, BOXES)


def test_memory_layout_does_not_matter(features):
    last = features.contiguous(memory_format=torch.channels_last_3d)
    np.testing.assert_allclose(roi_align_3d(last, BOXES, 3), roi_align_3d(features, BOXES, 3), atol=1e-12)


def test_autocast_does_not_lower_the_precision(features):
    plain = roi_align_3d(features.float(), BOXES.float(), 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align_3d(features.float(), BOXES.float(), 3), plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(features):
    found = roi_align_3d(features.cuda(), BOXES.cuda(), 3)
    np.testing.assert_allclose(found.cpu(), roi_align_3d(features, BOXES, 3), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": torch.zeros(2, 5, 6, 7)}, "features must be float"),
        ({"features": torch.zeros(2, 1, 5, 6, 7, dtype=torch.long)}, "features must be float"),
        ({"boxes": torch.zeros(3, 6)}, "boxes must be"),
        ({"boxes": torch.zeros(7)}, "boxes must be"),
        ({"boxes": torch.tensor([[2.0, 0, 0, 0, 1, 1, 1]])}, "batch index"),
        ({"boxes": torch.tensor([[-1.0, 0, 0, 0, 1, 1, 1]])}, "batch index"),
        ({"boxes": [torch.zeros(1, 6)] * 3}, "batch index"),
        ({"boxes": torch.zeros(1, 7, device="meta")}, "move one of them"),
        ({"output_size": 0}, "output_size"),
        ({"output_size": (2, 2)}, "output_size"),
        ({"spatial_scale": (1.0, 1.0)}, "spatial_scale"),
        ({"sampling_ratio": (1, 1, 1, 1)}, "sampling_ratio"),
    ],
)
def test_wrong_arguments(change, words):
    good = {"features": torch.zeros(2, 1, 5, 6, 7), "boxes": torch.zeros(1, 7), "output_size": 2}
    with pytest.raises(ValueError, match=words):
        roi_align_3d(**(good | change))


def test_rows_of_an_interpolation_matrix_inside_sum_to_one():
    start, length = torch.tensor([0.3, 2.0, -0.9]).double(), torch.tensor([5.0, 0.1, 10.5]).double()
    matrix = interpolation_matrix(start, length, 4, 10, 0)
    assert matrix.shape == (3, 4, 10) and (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(2), 1, atol=1e-14)  # a handful of additions
