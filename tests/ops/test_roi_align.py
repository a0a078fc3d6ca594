"""roi_align_3d: every backend against an interpolation by scipy, and against what must hold whatever the numbers."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from weakseg_lib.ops import roi_align
from weakseg_lib.ops.roi_align import roi_align_3d, roi_align_3d_multi
from weakseg_lib.ops.roi_align_separable import interpolation_matrix

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
        [0, -1, -1, -1, 0, 0, 0],  # with one bin and sample, that is at -1, the last place that counts
        [1, 5, 6, 7, 6, 7, 8],  # and at the extent
    ],
    dtype=torch.float64,
)
ZERO_SIZE = torch.tensor([[0, 2, 2.5, 3, 2, 4.5, 6], [1, 3, 3, 3, 3, 3, 3]], dtype=torch.float64)
BACKENDS = ["reference", "separable"]

# Sums of at most a few hundred products of numbers near 1. float32 has 24 bits and coordinates up to 20, whose last
# bit moves a sample; of half precision only the output is rounded, below 2 by half a step of 2^-7 (bfloat16).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 4e-3}


def expected(features, boxes, size, scale=(1, 1, 1), ratio=(0, 0, 0), aligned=True):
    """The operator by scipy's linear interpolation (order 1, borders repeated) at every sample, in float64."""
    features = features.double().cpu().numpy()
    out = np.zeros((len(boxes), features.shape[1], *size))
    for k, (image, *corners) in enumerate(boxes.double().tolist()):
        positions, shape = [], []
        for axis in range(3):
            a, b = corners[axis] * scale[axis], corners[axis + 3] * scale[axis]
            start, side = (a - 0.5, b - a) if aligned else (a, max(b - a, 1.0))
            n = ratio[axis] if ratio[axis] > 0 else math.ceil(side / size[axis])
            shape += [size[axis], n]
            bin, sample = np.divmod(np.arange(size[axis] * n), max(n, 1))
            positions.append(start + side / size[axis] * (bin + (sample + 0.5) / max(n, 1)))
        if 0 in shape:
            continue
        grid = np.stack(np.meshgrid(*positions, indexing="ij"))
        extent = np.array(features.shape[2:]).reshape(3, 1, 1, 1)
        used = ((grid >= -1) & (grid <= extent)).all(0)
        for c, volume in enumerate(features[int(image)]):
            values = map_coordinates(volume, grid, order=1, mode="nearest") * used
            out[k, c] = values.reshape(shape).mean((1, 3, 5))
    return out


def three(value):
    return tuple(value) if isinstance(value, tuple) else (value,) * 3


@pytest.fixture(scope="module")
def features():
    return torch.tensor(np.random.default_rng(0).normal(size=(2, 2, *SHAPE)))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3, -1, (1, 2, 0)])
@pytest.mark.parametrize("scale", [1.0, (0.5, 0.7, 1.3)])
@pytest.mark.parametrize("size", [1, 2, (1, 2, 3)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_against_scipy(features, aligned, ratio, scale, size, backend):
    wanted = expected(features, BOXES, three(size), three(scale), three(ratio), aligned)
    found = roi_align_3d(features, BOXES, size, scale, ratio, aligned, backend)
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    assert np.abs(wanted[0]).max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3, (1, 2, 0)])
@pytest.mark.parametrize("scale", [1.0, (0.5, 0.7, 1.3)])
@pytest.mark.parametrize("size", [2, (1, 2, 3)])
def test_lower_precision(features, dtype, layout, aligned, ratio, scale, size):
    rounded = features.clamp(-1.9, 1.9).to(dtype).contiguous(memory_format=layout)
    boxes = BOXES.float()
    found = roi_align_3d(rounded, boxes, size, scale, ratio, aligned, backend="separable")
    assert found.dtype == dtype and found.is_contiguous(memory_format=layout)
    three = [v if isinstance(v, tuple) else (v,) * 3 for v in (size, scale, ratio)]
    wanted = expected(rounded, boxes, *three, aligned)
    np.testing.assert_allclose(found.double(), wanted, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("channels", [1, 5, 17, 123])
@pytest.mark.parametrize("extent", [1, 2, 7])
def test_odd_shapes(channels, extent):
    values = torch.tensor(np.random.default_rng(1).normal(size=(2, channels, extent, 8 - extent, 3)))
    found = roi_align_3d(values, BOXES, (3, 1, 2), sampling_ratio=2, backend="separable")
    np.testing.assert_allclose(found, expected(values, BOXES, (3, 1, 2), ratio=(2, 2, 2)), atol=1e-12, rtol=0)


def strided_versions(values):
    """The same numbers in memory laid out in other ways, none of them copied to be read."""
    wide = torch.zeros(*(2 * n for n in values.shape), dtype=values.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in values.shape)]
    view.copy_(values)
    yield view
    yield values.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    yield values.contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(features, backend):
    wanted = roi_align_3d(features, BOXES, 3)
    for version in strided_versions(features):
        found = roi_align_3d(version, BOXES, 3, backend=backend)
        np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    flat = features[:, :1].expand(-1, 4, -1, -1, -1)
    np.testing.assert_allclose(
        roi_align_3d(flat, BOXES, 3, backend=backend), wanted[:, :1].expand(-1, 4, -1, -1, -1), atol=1e-12
    )


def test_more_boxes_than_a_batch_holds(features, monkeypatch):
    from weakseg_lib.ops import roi_align_separable

    wanted, (grad,) = roi_align_3d(features, BOXES, 3), gradient_of(features, BOXES, 3)
    monkeypatch.setitem(roi_align_separable.BATCH_VALUES, "cpu", 100)
    np.testing.assert_allclose(roi_align_3d(features, BOXES, 3), wanted, atol=1e-12)
    np.testing.assert_allclose(gradient_of(features, BOXES, 3)[0], grad, atol=1e-12)


@given(
    box=st.tuples(*[st.floats(-20, 20, width=32)] * 3, *[st.floats(-5, 30, width=32)] * 3),
    size=st.tuples(*[st.integers(1, 4)] * 3),
    ratio=st.tuples(*[st.integers(0, 3)] * 3),
    scale=st.sampled_from([1.0, 0.5, 0.25, 2.0]),
    aligned=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_box(box, size, ratio, scale, aligned):
    values = torch.tensor(np.random.default_rng(2).normal(size=(1, 1, 4, 3, 9)))
    rois = torch.tensor([[0, *box[:3], *(a + s for a, s in zip(box[:3], box[3:], strict=True))]]).double()
    wanted = roi_align_3d(values, rois, size, scale, ratio, aligned, backend="reference")
    found = roi_align_3d(values, rois, size, scale, ratio, aligned, backend="separable")
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)


def test_a_box_of_ten_million_voxels_takes_no_more_than_the_map_holds():
    """Adaptive samples are about a voxel apart: the millions outside the map are not made."""
    side = torch.tensor([1e7, 3e3])
    matrix = interpolation_matrix(-side / 2, side, bins=14, extent=40)
    assert matrix.shape == (2, 14, 40) and matrix.isfinite().all()
    start, length = torch.tensor([-30.25, 3.5]).double(), torch.tensor([95.5, 70.0]).double()
    rois = torch.stack([*[torch.zeros(2)] * 3, start, *[torch.ones(2)] * 2, start + length], 1)
    values = torch.tensor(np.random.default_rng(4).normal(size=(1, 1, 1, 1, 12)))
    wanted, found = (roi_align_3d(values, rois, (1, 1, 5), backend=b) for b in BACKENDS)
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    assert wanted.abs().max() > 0.05


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_constant_along_an_axis_gives_2d_roi_align(axis):
    """Bilinear RoIAlign of a plane, worked out with numpy's one-dimensional interpolation on rows, then columns."""
    plane = np.random.default_rng(3).normal(size=(6, 8))
    box, bins, ratio = [0.7, 1.9, 4.4, 6.3], (3, 2), 2
    samples = []
    for a, b, n in zip(box[:2], box[2:], bins, strict=True):
        step = (b - a) / (n * ratio)
        samples.append(a - 0.5 + step * (np.arange(n * ratio) + 0.5))
    columns = np.stack([np.interp(samples[0], np.arange(6), plane[:, j]) for j in range(8)], 1)
    points = np.stack([np.interp(samples[1], np.arange(8), row) for row in columns])
    wanted = points.reshape(3, 2, 2, 2).mean((1, 3))

    volume = torch.tensor(np.repeat(np.expand_dims(plane, axis), 5, axis))[None, None]
    corners = np.insert(box[:2], axis, 1.3).tolist() + np.insert(box[2:], axis, 4.1).tolist()
    size = tuple(np.insert(bins, axis, 4).tolist())
    for backend in BACKENDS:
        rois = torch.tensor([[0, *corners]])
        found = roi_align_3d(volume, rois, size, sampling_ratio=ratio, backend=backend)[0, 0]
        for section in found.movedim(axis, 0):
            np.testing.assert_allclose(section, wanted, atol=1e-6)  # the box's corners are float32


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_without_extent(features, ratio, backend):
    wanted = expected(features, ZERO_SIZE, (2, 2, 2), ratio=(ratio,) * 3)
    found = roi_align_3d(features, ZERO_SIZE, 2, sampling_ratio=ratio, backend=backend)
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)
    # Not aligned, a side is at least one voxel, so there is something under the box.
    wanted = expected(features, ZERO_SIZE, (2, 2, 2), aligned=False)
    found = roi_align_3d(features, ZERO_SIZE, 2, aligned=False, backend=backend)
    np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_without_extent_hold_no_adaptive_samples(features, backend):
    """ceil(0 / bins) = 0 samples: torchvision then gives zeros."""
    assert roi_align_3d(features, ZERO_SIZE, 2, sampling_ratio=0, backend=backend).abs().max() == 0


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


def test_several_layers_side_by_side(features):
    half = features[:, :, ::2, ::2, ::2]
    out = roi_align_3d_multi([features, half], BOXES, 2, [1, 0.5], sampling_ratio=1)
    assert torch.equal(out[:, :2], roi_align_3d(features, BOXES, 2, 1, 1))
    assert torch.equal(out[:, 2:], roi_align_3d(half, BOXES, 2, 0.5, 1))
    with pytest.raises(ValueError):
        roi_align_3d_multi([features, half], BOXES, 2, [1])


def gradient_of(features, boxes, size, weights=None, **options):
    leaf = features.clone(memory_format=torch.preserve_format).requires_grad_()
    out = roi_align_3d(leaf, boxes, size, **options)
    weights = (
        torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape) if weights is None else weights
    )
    return torch.autograd.grad((out * weights).sum(), [leaf])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boxes", [torch.zeros(0, 7), [torch.zeros(0, 6), torch.zeros(0, 6)]])
def test_no_boxes(features, boxes, backend):
    leaf = features.clone().requires_grad_()
    out = roi_align_3d(leaf, boxes, (2, 3, 4), backend=backend)
    assert out.shape == (0, 2, 2, 3, 4)
    out.sum().backward()
    assert leaf.grad.abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_channels_and_no_images(backend):
    assert roi_align_3d(torch.zeros(2, 0, *SHAPE), BOXES.float(), 2, backend=backend).shape == (
        len(BOXES),
        0,
        2,
        2,
        2,
    )
    assert roi_align_3d(torch.zeros(0, 3, *SHAPE), torch.zeros(0, 7), 2, backend=backend).shape == (
        0,
        3,
        2,
        2,
        2,
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2, (1, 3, 0)])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient(aligned, ratio, seed, backend):
    values = torch.tensor(np.random.default_rng(seed).normal(size=(2, 1, 3, 4, 5)), requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f: roi_align_3d(f, BOXES[seed::3], (1, 2, 2), (0.5, 1, 1), ratio, aligned, backend), (values,)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_gradients_of_overlapping_boxes_add_up_and_are_repeatable(features, layout):
    boxes = torch.cat([BOXES, BOXES, BOXES[:4] + torch.tensor([0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])])
    values = features.contiguous(memory_format=layout)
    weights = torch.linspace(-1, 1, len(boxes))[:, None, None, None, None].double()
    (whole,) = gradient_of(values, boxes, 2, weights)
    assert whole.is_contiguous(memory_format=layout)
    assert torch.equal(whole, gradient_of(values, boxes, 2, weights)[0])
    parts = sum(gradient_of(values, boxes[i : i + 1], 2, weights[i : i + 1])[0] for i in range(len(boxes)))
    np.testing.assert_allclose(whole, parts, atol=1e-12)


def test_inputs_are_left_as_they_were_and_boxes_get_no_gradient(features):
    f, b = features.clone().requires_grad_(), BOXES.clone().requires_grad_()
    roi_align_3d(f, b, 3, 0.5).sum().backward()
    assert torch.equal(f.detach(), features) and torch.equal(b.detach(), BOXES)
    assert f.grad is not None and b.grad is None


def test_autocast_does_not_lower_the_precision(features):
    plain = roi_align_3d(features.float(), BOXES.float(), 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align_3d(features.float(), BOXES.float(), 3), plain)


def test_faster_but_rougher_products_are_not_used(features):
    plain = roi_align_3d(features.float(), BOXES.float(), 3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(roi_align_3d(features.float(), BOXES.float(), 3), plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sample_at_the_border_counts_as_in_the_reference(dtype):
    """Sample 2 of bin 5 lies at 3.0 or a rounding error beyond it: 1 voxel of one number shows which."""
    values, box = torch.ones(1, 1, 8, 1, 1, dtype=dtype), torch.tensor([[0.0, -3, 0, 0, 0, 1, 1]])
    found, wanted = (
        roi_align_3d(values, box, (7, 1, 1), sampling_ratio=(3, 1, 1), backend=backend)
        for backend in BACKENDS
    )
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE[dtype])


def test_the_gradient_has_a_gradient(features):
    values = features[:, :1, :3, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda f: roi_align_3d(f, BOXES[:3], 2).square(), (values,))


def test_a_tensor_past_two_to_the_31_elements():
    """Zeros from numpy take no memory until they are touched, and only the last block ever is."""
    try:
        large = torch.from_numpy(np.zeros((1, 2, 17, 2**13, 2**13), np.float16))
    except MemoryError:
        pytest.skip("no 4.6 GB of address space")
    assert large.numel() > 2**31
    block = torch.arange(64, dtype=torch.float16).reshape(4, 4, 4)
    large[0, 1, -4:, -4:, -4:] = block
    box = torch.tensor([[0.0, 13, 2**13 - 4, 2**13 - 4, 17, 2**13, 2**13]])
    out = roi_align_3d(large, box, 4, sampling_ratio=1)
    assert torch.equal(out[0], torch.stack([torch.zeros_like(block), block]))


OPCHECK = [
    (BOXES, [2, 1, 3], [1.0, 0.5, 1.0], [0, 2, 1], True, "separable"),
    (BOXES[:0], [2, 2, 2], [1.0] * 3, [1] * 3, False, "auto"),
]


@pytest.mark.parametrize("arguments", OPCHECK)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_opcheck(features, arguments, layout):
    values = features.clone(memory_format=layout).requires_grad_()
    torch.library.opcheck(torch.ops.weakseg.roi_align_3d, (values, *arguments))
    rois, *options = arguments
    grad = torch.ones(len(rois), 2, *options[0], dtype=torch.float64)
    last = layout == torch.channels_last_3d
    torch.library.opcheck(
        torch.ops.weakseg.roi_align_3d_backward, (grad, rois, list(values.shape), last, *options)
    )


def test_compiles_into_one_graph_for_any_number_of_boxes(features):
    def f(values, boxes):
        return roi_align_3d(values * 2, boxes, 3, 0.5, 1).sum((1, 2, 3, 4))

    leaf = features.clone().requires_grad_()
    compiled = torch.compile(f, backend="aot_eager", fullgraph=True, dynamic=True)
    for number in range(2, 12):  # more than torch recompiles a function before it gives up
        boxes = BOXES[:number]
        assert torch.equal(compiled(leaf, boxes), f(leaf, boxes))
        found, wanted = (torch.autograd.grad(g(leaf, boxes).sum(), leaf)[0] for g in (compiled, f))
        assert torch.equal(found, wanted)


def test_exports(features):
    class Head(torch.nn.Module):
        def forward(self, values, boxes):
            return roi_align_3d(values, boxes, 2, sampling_ratio=2)

    any_number = {"values": None, "boxes": {0: torch.export.Dim("boxes")}}
    program = torch.export.export(Head(), (features, BOXES), dynamic_shapes=any_number)
    for boxes in (BOXES, BOXES[:3]):
        assert torch.equal(program.module()(features, boxes), Head()(features, boxes))


def test_auto_falls_back_once_with_a_warning(features, monkeypatch):
    """The path of a GPU that Triton does not support, walked with a stand-in for the failing kernel."""
    monkeypatch.setattr(roi_align, "triton_failure", None)
    true_function, asked = roi_align._function, []

    def function(backend, direction):
        asked.append(backend)
        if backend == "triton":
            raise RuntimeError("compute capability 7.5 is too old\nand more")
        return true_function(backend, direction)

    monkeypatch.setattr(roi_align, "_function", function)
    monkeypatch.setattr(roi_align, "_may_use_triton", lambda values: roi_align.triton_failure is None)
    with pytest.warns(UserWarning, match="plain torch, slower.*compute capability 7.5 is too old$"):
        found = roi_align_3d(features, BOXES, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(roi_align_3d(features, BOXES, 2), found)
    assert asked == ["triton", "separable", "separable"]
    assert torch.equal(found, roi_align_3d(features, BOXES, 2, backend="separable"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": torch.zeros(2, 5, 6, 7)}, "features must be a float"),
        ({"features": torch.zeros(2, 1, 5, 6, 7, dtype=torch.long)}, "features must be a float"),
        ({"features": torch.zeros(2, 1, 5, 0, 7)}, "at least one voxel"),
        ({"features": [1.0]}, "features must be a float"),
        ({"boxes": torch.zeros(1, 7, dtype=torch.complex64)}, "boxes must be"),
        ({"boxes": [np.zeros((1, 6))] * 2}, "boxes must be"),
        ({"boxes": torch.tensor([[0, 0, 0, 0, 1, math.nan, 1]])}, "boxes must be finite"),
        ({"boxes": torch.tensor([[math.inf, 0, 0, 0, 1, 1, 1]])}, "boxes must be finite"),
        ({"output_size": math.inf}, "output_size"),
        ({"output_size": None}, "output_size"),
        ({"spatial_scale": math.nan}, "spatial_scale"),
        ({"spatial_scale": 0}, "spatial_scale"),
        ({"sampling_ratio": 1.5}, "sampling_ratio"),
        ({"boxes": torch.zeros(3, 6)}, "boxes must be"),
        ({"boxes": torch.zeros(7)}, "boxes must be"),
        ({"boxes": [torch.zeros(1, 7)] * 2}, "boxes must be"),
        ({"boxes": torch.tensor([[2.0, 0, 0, 0, 1, 1, 1]])}, "batch index"),
        ({"boxes": torch.tensor([[-1.0, 0, 0, 0, 1, 1, 1]])}, "batch index"),
        ({"boxes": torch.tensor([[0.5, 0, 0, 0, 1, 1, 1]])}, "batch index out of range or not whole"),
        ({"boxes": [torch.zeros(1, 6)] * 3}, "a list of 2 tensors"),
        ({"boxes": torch.zeros(1, 7, device="meta")}, "move one of them"),
        ({"output_size": 0}, "output_size"),
        ({"output_size": -3}, "output_size"),
        ({"output_size": 2.5}, "output_size"),
        ({"output_size": (2, 2)}, "output_size"),
        ({"spatial_scale": (1.0, 1.0)}, "spatial_scale"),
        ({"sampling_ratio": (1, 1, 1, 1)}, "sampling_ratio"),
        ({"backend": "cuda"}, "backend must be one of auto"),
        ({"features": torch.zeros(2, 1, 5, 6, 7, dtype=torch.float8_e5m2)}, "features must be a float"),
        ({"boxes": None}, "boxes must be"),
        ({"boxes": "boxes"}, "boxes must be"),
        ({"boxes": torch.zeros(1, 7, dtype=torch.bool)}, "boxes must be"),
        ({"boxes": [torch.zeros(1, 6, dtype=torch.complex64)] * 2}, "boxes must be"),
        ({"output_size": {2, 3, 4}}, "output_size"),
        ({"output_size": b"abc"}, "output_size"),
        ({"output_size": 10**30}, "output_size"),
        ({"sampling_ratio": 10**20}, "sampling_ratio"),
        ({"spatial_scale": "555"}, "spatial_scale"),
        ({"aligned": None}, "aligned must be True or False"),
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


def test_sizes_may_be_numpy_or_torch_numbers(features):
    wanted = roi_align_3d(features, BOXES, 2)
    for size in (np.int64(2), np.array(2), torch.tensor(2), np.array([2, 2, 2]), (np.int32(2), 2, 2.0)):
        assert torch.equal(roi_align_3d(features, BOXES, size), wanted)


@pytest.mark.parametrize(
    ("layers", "scales"), [(2, [1.0]), (2, 0.5), (0, [])], ids=["too few scales", "one scale", "no layers"]
)
def test_layers_and_scales_must_be_as_many(features, layers, scales):
    with pytest.raises(ValueError, match="lists of one length, an entry a layer"):
        roi_align_3d_multi([features] * layers, BOXES, 2, scales)


def test_a_box_that_is_not_finite_leaves_the_others_alone(features):
    """On a GPU, where boxes are not read, it must not reach this far; here the backend is called past the check."""
    from weakseg_lib.ops import roi_align_separable
    from weakseg_lib.ops.roi_align_reference import Geometry

    geometry = Geometry((2, 2, 2), (1.0,) * 3, (0, 0, 0), True)
    broken = BOXES[:4].clone()
    broken[1, 4], broken[2, 0] = math.nan, math.inf
    wanted, found = (torch.zeros(4, features.shape[1], 2, 2, 2, dtype=torch.float64) for _ in range(2))
    roi_align_separable.forward(wanted, features, BOXES[:4], geometry)
    roi_align_separable.forward(found, features, broken, geometry)
    assert torch.equal(found[[0, 3]], wanted[[0, 3]]) and found[1:3].isnan().all()
    gradient = torch.zeros_like(features)
    roi_align_separable.backward(gradient, torch.ones_like(found), broken, geometry)
    assert gradient.isfinite().all()
