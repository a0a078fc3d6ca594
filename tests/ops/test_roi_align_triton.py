"""The Triton kernels against the reference: on a GPU where there is one, else in Triton's interpreter.

A program costs the interpreter tens of milliseconds, so there are few cases, each with much in it. What the
interpreter cannot show, that the kernels compile and what they take of a GPU, test_compiled.py reads from the binary.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

triton = pytest.importorskip("triton", reason="Triton is not installed: there is none for this system")

from weakseg_lib.ops.roi_align import roi_align_3d  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if (
    DEVICE == "cpu"
    and Version(triton.__version__) < Version("3.7")
    and Version(np.__version__) >= Version("2.4")
):
    pytest.skip("the interpreter of triton before 3.7 needs numpy before 2.4", allow_module_level=True)
SHAPE = (5, 6, 7)
BOXES = torch.tensor(
    [
        [0, 1.2, 0.7, 2.1, 3.9, 4.4, 5.8],  # inside
        [1, 1, 2, 3, 4, 5, 6],  # whole voxels
        [0, -2.3, 3.1, -0.4, 2.2, 8.9, 3.3],  # across three borders
        [0, -9, -9, -9, -5, -6, -4],  # outside
        [0, -4, -6, -5, 11, 13, 12],  # larger than the volume
        [1, 2, 2.5, 3, 2, 4.5, 6],  # without extent on one axis
    ],
    device=DEVICE,
)


def features_of(channels=2, shape=SHAPE, dtype=torch.float64, layout=torch.contiguous_format, seed=0):
    values = np.random.default_rng(seed).uniform(-1.9, 1.9, size=(2, channels, *shape))
    return torch.tensor(values, device=DEVICE).to(dtype).contiguous(memory_format=layout)


def both_ways(features, boxes, backend, rounded=torch.float64, **options):
    """Output, and the gradient of a fixed weighting of it."""
    leaf = features.clone().requires_grad_()
    out = roi_align_3d(leaf, boxes, backend=backend, **options)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device)
    weights = weights.to(rounded)  # the reference is given the numbers that half precision can hold
    (grad,) = torch.autograd.grad(out, [leaf], weights.reshape(out.shape).to(out.dtype))
    return out.detach().cpu().double(), grad.cpu().double()


def check(backend, features, boxes, tolerance, **options):
    wanted = both_ways(features.double(), boxes.double(), "reference", features.dtype, **options)
    found = both_ways(features, boxes, backend, features.dtype, **options)
    for f, w, what in zip(found, wanted, ("output", "gradient"), strict=True):
        # A gradient sums many shares: half precision rounds it by half a step of its own size.
        np.testing.assert_allclose(f, w, atol=tolerance * max(1, w.abs().max() / 2), rtol=0, err_msg=what)
    assert wanted[0].abs().max() > 0.5 and wanted[1].abs().max() > 0.1


CASES = {
    "adaptive": dict(output_size=2),
    "ratio 2 per axis, not aligned": dict(
        output_size=(1, 3, 2), sampling_ratio=(2, 1, 0), spatial_scale=(0.5, 1.0, 2.0), aligned=False
    ),
    "ratio 3": dict(output_size=(2, 1, 3), sampling_ratio=3, spatial_scale=(1, 0.7, 1.3)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["triton", "triton_direct"])
def test_against_the_reference(backend, case):
    # The direct kernel takes every sample on its own, too many in a large box for the interpreter.
    boxes = BOXES if backend == "triton" else BOXES[:4]
    check(backend, features_of(), boxes.double(), 1e-12, **CASES[case])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float16, 4e-3), (torch.bfloat16, 4e-3)]
)
def test_lower_precision_channels_last(dtype, tolerance):
    features = features_of(dtype=dtype, layout=torch.channels_last_3d)
    out = roi_align_3d(features, BOXES, 2, backend="triton")
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last_3d)
    check("triton", features, BOXES, tolerance, output_size=2)


@pytest.mark.parametrize(("channels", "extent"), [(1, 1), (5, 2), (17, 7), (123, 2)])
def test_odd_shapes(channels, extent):
    shape = (extent, 8 - extent, 3)
    boxes = [[0, 0, 0, 0, *shape], [1, -0.5, 0.25, 0.5, extent + 0.25, 7.5 - extent, 2.75]]
    boxes = torch.tensor(boxes, dtype=torch.float64, device=DEVICE)
    check("triton", features_of(channels, shape), boxes, 1e-12, output_size=(2, 1, 3), sampling_ratio=2)


@given(
    box=st.tuples(*[st.floats(-9, 9, width=32)] * 3, *[st.floats(-3, 20, width=32)] * 3),
    size=st.tuples(st.integers(1, 2), *[st.integers(1, 4)] * 2),
    ratio=st.tuples(*[st.integers(0, 3)] * 3),
    scale=st.sampled_from([1.0, 0.5, 2.0]),
    aligned=st.booleans(),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_box(box, size, ratio, scale, aligned):
    """Against the separable backend, whose own test has the reference's answer; forwards and backwards."""
    rois = torch.tensor(
        [[0, *box[:3], *(a + s for a, s in zip(box[:3], box[3:], strict=True))]], device=DEVICE
    )
    options = dict(output_size=size, spatial_scale=scale, sampling_ratio=ratio, aligned=aligned)
    features = features_of(1, (4, 3, 9))
    found, wanted = (both_ways(features, rois.double(), b, **options) for b in ("triton", "separable"))
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-12, rtol=0)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_constant_along_an_axis_gives_2d_roi_align(axis):
    """Bilinear RoIAlign of a plane, worked out with numpy's one-dimensional interpolation on rows, then columns."""
    plane = np.random.default_rng(3).normal(size=(6, 8))
    box = [0.75, 2.0, 4.5, 6.25]
    at = [a - 0.5 + (b - a) / 4 * (np.arange(4) + 0.5) for a, b in zip(box[:2], box[2:], strict=True)]
    columns = np.stack([np.interp(at[0], np.arange(6), plane[:, j]) for j in range(8)], 1)
    wanted = np.stack([np.interp(at[1], np.arange(8), row) for row in columns])
    wanted = wanted.reshape(2, 2, 2, 2).mean((1, 3))
    volume = torch.tensor(np.repeat(np.expand_dims(plane, axis), 5, axis), device=DEVICE)[None, None]
    rois = torch.tensor([[0, *np.insert(box[:2], axis, 1.25), *np.insert(box[2:], axis, 4.0)]], device=DEVICE)
    found = roi_align_3d(volume, rois, 2, sampling_ratio=2, backend="triton")[0, 0].cpu()
    for section in found.movedim(axis, 0):
        np.testing.assert_allclose(section, wanted, atol=1e-12)


def test_opcheck():
    options = ([1, 2, 2], [1.0, 0.5, 1.0], [0, 2, 1], True, "triton")
    values = features_of(1, (2, 3, 3)).requires_grad_()
    torch.library.opcheck(torch.ops.weakseg.roi_align_3d, (values, BOXES[:2].double(), *options))


def test_the_direct_gradient_is_refused_where_it_must_repeat():
    """Its atomic additions come in any order, and torch was told that no such thing may run."""
    features = features_of(1, (2, 2, 2)).requires_grad_()
    out = roi_align_3d(features, BOXES[:1].double(), 1, sampling_ratio=1, backend="triton_direct")
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="use backend 'triton'"):
            out.sum().backward(retain_graph=True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="use backend 'triton'"):
            out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_neither_walks_over_several_p_nor_wide_offsets_change_a_bit(monkeypatch):
    from weakseg_lib.ops import roi_align_triton

    features = features_of(dtype=torch.float32)
    wanted = both_ways(features, BOXES[:3], "triton", output_size=(3, 2, 2), sampling_ratio=2)
    monkeypatch.setattr(roi_align_triton, "PROGRAMS", 1)  # one program takes all p of a box
    monkeypatch.setattr(roi_align_triton, "_offset", lambda *_: triton.language.int64)
    found = both_ways(features, BOXES[:3], "triton", output_size=(3, 2, 2), sampling_ratio=2)
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


def test_whole_sides_at_odd_places_take_the_samples_of_the_reference():
    """Such a side is 4 voxels or a little more, as the last bit falls; float32 must count 2 or 3 samples as it is."""
    centre = torch.tensor(np.random.default_rng(5).uniform(1.9, 3.1, (6, 3)), dtype=torch.float32)
    boxes = torch.cat([torch.zeros(6, 1), centre - 2, centre + 2], 1).to(DEVICE)
    features = features_of(1, dtype=torch.float32)
    wanted = roi_align_3d(features, boxes, 2, backend="separable")
    for backend in ("triton", "triton_direct"):
        found = roi_align_3d(features, boxes[: 6 if backend == "triton" else 2], 2, backend=backend)
        np.testing.assert_allclose(found.cpu(), wanted[: len(found)].cpu(), atol=2e-5, rtol=0)


def test_a_box_far_larger_than_the_map_takes_no_longer_than_the_map():
    """Of its half a million samples a bin those on the map are taken; what is not finite gives NaN, as it cannot be
    refused on a GPU, where it is not read."""
    from weakseg_lib.ops import roi_align_triton
    from weakseg_lib.ops.roi_align_reference import Geometry

    values = features_of(1, (2, 3, 4), torch.float32)
    side = torch.tensor([-(2.0**19), 2.0**19 + 3.0])
    boxes = torch.stack([torch.zeros(2), *[side[0].expand(2)] * 3, *[side[1].expand(2)] * 3], 1).to(DEVICE)
    boxes[1, 4] = float("inf")
    out = torch.zeros(2, 1, 1, 1, 1, device=DEVICE)
    roi_align_triton.forward(out, values, boxes, Geometry((1, 1, 1), (1.0,) * 3, (0, 0, 0), True))
    # Along each axis the mean over a million places of a line that is 0 but for extent + 2 of them.
    assert abs(out[0].item()) < 1e-12 and out[1].isnan().all()


def test_more_than_one_tile_of_everything():
    """17 channels, 18 bins, and boxes and maps of more than 16 voxels on the axes that are cut into tiles."""
    boxes = torch.tensor([[1.0, 0, -1, 2, 2, 19, 21], [1, 0.5, 3, 3, 1.5, 7, 6]], device=DEVICE)
    features = features_of(17, (2, 18, 20), torch.float32)
    for size in ((1, 18, 2), (1, 2, 18)):
        check("triton", features, boxes, 2e-5, output_size=size, sampling_ratio=1)


def test_boxes_of_more_than_one_round_of_the_search():
    """`_backward` looks through 32 boxes at a time; the order of the list, and what lies elsewhere, do not matter."""
    far = torch.tensor([[0.0, 50, 50, 50, 55, 55, 55]], device=DEVICE).expand(130, 7)
    near = torch.tensor([[0.0, 0, 0, 0, 2, 2, 2], [1, 0, 0, 0, 2, 2, 2]], device=DEVICE)
    boxes = torch.cat([near, far, near + torch.tensor([0, 0.5, 0, 0.5, 0.5, 0, 0.5], device=DEVICE)])
    features = features_of(1, (2, 2, 3))
    leaf = features.clone().requires_grad_()
    grads = []
    for backend in ("triton", "separable"):
        out = roi_align_3d(leaf, boxes.double(), 1, sampling_ratio=1, backend="separable")
        shape = [list(leaf.shape), False, [1, 1, 1], [1.0] * 3, [1] * 3, True, backend]
        grads.append(
            torch.ops.weakseg.roi_align_3d_backward(torch.ones_like(out), boxes.double(), *shape).cpu()
        )
    np.testing.assert_allclose(*grads, atol=1e-12)


def test_repeated_runs_are_equal_bit_for_bit():
    features = features_of(dtype=torch.float32)
    once, again = (both_ways(features, BOXES, "triton", output_size=2, sampling_ratio=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradcheck(seed):
    values = features_of(1, (2, 2, 3), seed=seed).requires_grad_()
    boxes = BOXES[[0, 4]].double()
    assert torch.autograd.gradcheck(
        lambda f: roi_align_3d(f, boxes, (1, 2, 1), 0.5, 1, backend="triton"), (values,), fast_mode=True
    )


def test_a_batch_index_that_is_no_image_gives_nan_where_it_cannot_be_read():
    """On a GPU the host does not look at the boxes."""
    from weakseg_lib.ops import roi_align_triton
    from weakseg_lib.ops.roi_align_reference import Geometry

    boxes = torch.tensor([[7.0, 0, 0, 0, 2, 2, 2], [1, 0, 0, 0, 2, 2, 2]], device=DEVICE)
    features = features_of(1, (2, 2, 2), torch.float32)
    out = torch.zeros(2, 1, 1, 1, 1, device=DEVICE)
    roi_align_triton.forward(out, features, boxes, Geometry((1, 1, 1), (1.0, 1.0, 1.0), (1, 1, 1), True))
    assert out[0].isnan().all() and torch.allclose(out[1].flatten(), features[1].mean())


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_a_tensor_past_two_to_the_31_elements():
    large = torch.zeros(1, 2, 17, 2**13, 2**13, dtype=torch.float16, device=DEVICE)
    block = torch.arange(64, dtype=torch.float16, device=DEVICE).reshape(4, 4, 4)
    large[0, 1, -4:, -4:, -4:] = block
    box = torch.tensor([[0.0, 13, 2**13 - 4, 2**13 - 4, 17, 2**13, 2**13]], device=DEVICE)
    out = roi_align_3d(large, box, 4, sampling_ratio=1, backend="triton")
    assert torch.equal(out[0], torch.stack([torch.zeros_like(block), block]))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_auto_on_a_gpu_is_triton_and_never_waits_for_it():
    features = features_of(dtype=torch.float32).requires_grad_()
    wanted = roi_align_3d(features, BOXES, 2, sampling_ratio=1, backend="triton")  # compiled before the check
    wanted.sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = roi_align_3d(features, BOXES, 2, sampling_ratio=1)
        found.sum().backward()
        roi_align_3d(features, BOXES, 2, sampling_ratio=1, backend="separable")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, wanted)


@pytest.mark.skipif(DEVICE == "cuda", reason="features are on a GPU here")
def test_without_a_gpu_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(
        ValueError, match="needs features on an NVIDIA GPU, they are on cpu: use backend='auto'"
    ):
        roi_align_3d(features_of(), BOXES, 2, backend="triton")
