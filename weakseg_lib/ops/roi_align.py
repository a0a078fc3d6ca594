"""3D RoIAlign: the features under boxes of any size, resampled to one size by trilinear interpolation.

The paper's section 2.2: "for each sampling point, we first find the 8 nearest neighbor points on the feature
maps, and then apply trilinear interpolation". Semantics are those of torchvision's `roi_align` (He et al. 2017)
with one axis more. One function; the ways to compute it have one answer. To understand it, read them in this order:

    reference   roi_align_reference.py   the definition, a loop over samples in float64
    separable   roi_align_separable.py   three matrix products a box, in torch; CPUs, and GPUs without Triton
    triton      roi_align_triton_direct.py   the definition as a kernel, 8 neighbours a sample ("triton_direct")
                roi_align_triton.py      the three products fused in one kernel, for NVIDIA GPUs: the one in use

What it computes. Bin (p, q, r) is the mean of its samples, each the sum of 8 voxels. Both are products of one factor
an axis, so out[p, q, r] = sum_zyx Wz[p, z] Wy[q, y] Wx[r, x] features[z, y, x]; the gradient has the transposes.

What it moves. Triton, forward: the voxels under a box are read once for each p that touches them (two to three times
where bins are about a voxel long, of which all but one find them in the cache of a program that walks over several
p), the output is written once. Backward: each voxel reads the bins that touch it and is written once; no atomic
additions, no memory but the result. A direct kernel reads 8 voxels a sample, 64 a bin at ratio 2, and adds as many
times on the way back. Separable: also a copy of the voxels under a few boxes at a time.

Measured. CPU: benchmarks/results/roi_align_cpu.md, at ratio 2 and 14 bins 29 to 35 times faster than `grid_sample`
forward and 38 to 53 with the gradient (contiguous features: 21 and 28), at 7 bins 6 and 9. GPU: not measured yet;
`python benchmarks/roi_align.py` on one does it. Read from the compiled kernels (tests/ops/test_compiled.py: sm_80 to
sm_90, by turns every dtype, ratio and layout): at most 128 registers and no spills (with Triton 3.6 8 bytes, once),
with 128-bit loads where features are channels last; float64, and tensors of which one image takes more than 2^31
elements, spill.

What it does not do. No gradient for boxes, no rotated boxes, no forward-mode differentiation, no torch.func transforms.
A NaN or an infinity under a box spreads over the box's bins, as 0 * inf is NaN. Triton measures boxes in float64 and
works out positions in float32: at -1 and at the extent, where a sample stops to count, it may decide otherwise than the
other backends. "auto" takes float64 to the separable backend; that one, on a GPU, copies the whole map for each box of
a batch, and as its sums are atomic there its gradient repeats bit for bit only under
`torch.use_deterministic_algorithms`, where the gradient of "triton_direct" refuses to run.
"""

import importlib
import math
import os
import warnings
from contextlib import contextmanager

import numpy as np
import torch

from weakseg_lib.ops.roi_align_reference import Geometry

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BACKENDS = ("auto", "reference", "separable", "triton", "triton_direct")


def roi_align_3d(
    features: torch.Tensor,
    boxes: torch.Tensor | list[torch.Tensor],
    output_size,
    spatial_scale=1.0,
    sampling_ratio=0,
    aligned: bool = True,
    backend: str = "auto",
) -> torch.Tensor:
    """Resample the features under each box to a fixed size.

    Args:
        features: (N, C, D, H, W), any float dtype and strides. Sums are made in float32 (float64 for float64), under
            autocast too.
        boxes: (K, 7) = batch index, z0, y0, x0, z1, y1, x1 in voxels of the image; or a list of N tensors (k, 6).
        output_size: bins an axis, one int or (z, y, x).
        spatial_scale: feature voxels per image voxel (1 / stride), one number or (z, y, x).
        sampling_ratio: samples per bin and axis, one int or (z, y, x); <= 0: ceil(box side / bins) for each box.
        aligned: subtract half a voxel after scaling, so that a box's border lies between voxel centres (the correct
            geometry); False is the first version of the operator, in which every side is also at least one voxel.
        backend: "auto" (Triton on a GPU that can, else separable), "separable", "triton", "reference" (a slow loop
            in float64), or "triton_direct" (8 neighbours a sample as the paper words it; slower, for comparison).

    Returns:
        (K, C, *output_size), dtype of `features`, channels last in memory if `features` are. Differentiable for
        `features`, twice too; on a CPU and by "triton" the gradient is the same bit for bit in every run. Boxes get
        no gradient, as in torchvision.

    Raises:
        ValueError: wrong rank, box width, dtype, device, batch index, output size, scale, sampling ratio or backend,
            or boxes that are not finite. Boxes on a GPU are not read, as the host would have to wait: there a batch
            index that is no image, and a box that is not finite, give NaN and no gradient.
    """
    if not isinstance(features, torch.Tensor) or features.ndim != 5 or features.dtype not in DTYPES:
        raise ValueError(
            f"features must be a float tensor (N, C, D, H, W), 16 to 64 bit, got {_kind(features)}"
        )
    if 0 in features.shape[2:]:
        raise ValueError(f"features must have at least one voxel an axis, got {tuple(features.shape)}")
    rois = _as_table(boxes, features.shape[0])
    if rois.device != features.device:
        raise ValueError(f"boxes are on {rois.device}, features on {features.device}: move one of them")
    if not isinstance(aligned, bool):
        raise ValueError(f"aligned must be True or False, got {aligned!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if "triton" in backend and not features.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend {backend!r} needs features on an NVIDIA GPU, they are on {features.device}: "
            "use backend='auto', or set TRITON_INTERPRET=1 before Python starts to run it slowly on a CPU"
        )
    size = _three(output_size, "output_size", int)
    scale = _three(spatial_scale, "spatial_scale", float)
    ratio = _three(sampling_ratio, "sampling_ratio", int)
    if min(size) < 1:
        raise ValueError(f"output_size must be at least 1 an axis, got {size}")
    if not all(0 < s < math.inf for s in scale):
        raise ValueError(f"spatial_scale must be positive and finite, got {scale}")
    return torch.ops.weakseg.roi_align_3d(features, rois, size, scale, ratio, aligned, backend)


def roi_align_3d_multi(features, boxes, output_size, spatial_scales, **options) -> torch.Tensor:
    """`roi_align_3d` of the same boxes on several layers, concatenated along the channels (section 2.2: two layers).

    features: a list of (N, C_i, D_i, H_i, W_i); spatial_scales: one for each. -> (K, sum C_i, *output_size).
    Raises ValueError where these are not as many, and as `roi_align_3d` does.
    """
    lists = isinstance(features, list | tuple) and isinstance(spatial_scales, list | tuple)
    if not lists or not features or len(features) != len(spatial_scales):
        raise ValueError("features and spatial_scales must be lists of one length, an entry a layer")
    return torch.cat(
        [
            roi_align_3d(layer, boxes, output_size, scale, **options)
            for layer, scale in zip(features, spatial_scales, strict=True)
        ],
        1,
    )


def _as_table(boxes, images: int) -> torch.Tensor:
    wanted = "boxes must be a real tensor (K, 7) or a list of (k, 6), one an image"
    if isinstance(boxes, torch.Tensor):
        if not _is_table(boxes, 7):
            raise ValueError(f"{wanted}, got {_kind(boxes)}")
        return boxes
    if not isinstance(boxes, list | tuple):
        raise ValueError(f"{wanted}, got {_kind(boxes)}")
    if len(boxes) != images:
        raise ValueError(f"boxes must be a list of {images} tensors, one an image, got {len(boxes)}")
    for b in boxes:
        if not isinstance(b, torch.Tensor) or not _is_table(b, 6) or b.device != boxes[0].device:
            raise ValueError(f"{wanted}, all on one device; got a list with {_kind(b)}")
    # Half precision does not know the numbers of many images.
    boxes = [b if b.dtype == torch.float64 else b.float() for b in boxes] or [torch.zeros(0, 6)]
    return torch.cat([torch.cat([b.new_full((b.shape[0], 1), i), b], 1) for i, b in enumerate(boxes)])


def _is_table(boxes: torch.Tensor, width: int) -> bool:
    real = boxes.dtype in DTYPES or boxes.dtype in (torch.int16, torch.int32, torch.int64)
    return real and boxes.layout == torch.strided and boxes.ndim == 2 and boxes.shape[1] == width


def _kind(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} on {value.device}"
    return type(value).__name__


def _three(value, name: str, kind) -> list:
    if isinstance(value, torch.Tensor | np.ndarray):
        value = value.tolist()
    given = list(value) if isinstance(value, list | tuple) else [value] * 3
    try:
        three = [kind(v) for v in given if not isinstance(v, str | bytes | bool)]
    except (TypeError, ValueError, OverflowError):
        three = []
    if len(three) != 3 or (kind is int and (three != given or max(map(abs, three)) >= 2**31)):
        what = "whole number" if kind is int else "number"
        raise ValueError(f"{name} must be one {what} or one an axis (z, y, x), got {value!r}")
    return three


# The torch operators: registered, so that torch.compile and export take them as one node, whose output's shape they
# know from the fake versions. Not by `custom_op`, whose first call imports the compiler: a second of every prediction.
LIBRARY = torch.library.Library("weakseg", "DEF")
_OPTIONS = (
    "SymInt[] output_size, float[] spatial_scale, int[] sampling_ratio, bool aligned, str backend) -> Tensor"
)


def _forward(features, rois, output_size, spatial_scale, sampling_ratio, aligned, backend):
    if rois.device.type == "cpu" and len(rois):
        if not rois.isfinite().all():
            raise ValueError("boxes must be finite, got NaN or infinity")
        index = rois[:, 0]
        if index.min() < 0 or index.max() >= len(features) or (index != index.floor()).any():
            found = f"{index.min():g}..{index.max():g}"
            raise ValueError(
                f"boxes: batch index out of range or not whole, {found} for {len(features)} images"
            )
    out = _output_like(features, rois, output_size)
    geometry = Geometry(output_size, spatial_scale, sampling_ratio, aligned)
    _run(backend, "forward", out, features, rois, geometry)
    return out


def _backward(grad, rois, shape, channels_last, output_size, spatial_scale, sampling_ratio, aligned, backend):
    out = _empty(grad, shape, channels_last)
    _run(backend, "backward", out, grad, rois, Geometry(output_size, spatial_scale, sampling_ratio, aligned))
    return out


def _keep(ctx, inputs, output):
    features, rois, *ctx.options = inputs
    ctx.save_for_backward(rois)
    ctx.shape, ctx.channels_last = features.shape, _is_channels_last(features)


def _gradient(ctx, grad):
    if not ctx.needs_input_grad[0]:
        return (None,) * 7
    (rois,) = ctx.saved_tensors
    gradient = torch.ops.weakseg.roi_align_3d_backward(grad, rois, ctx.shape, ctx.channels_last, *ctx.options)
    return gradient, *[None] * 6


def _keep_again(ctx, inputs, output):
    _, rois, _, _, *ctx.options = inputs
    ctx.save_for_backward(rois)


def _gradient_again(ctx, grad):
    # The operator is linear in the features: the gradient of its gradient is the operator.
    (rois,) = ctx.saved_tensors
    return torch.ops.weakseg.roi_align_3d(grad, rois, *ctx.options), *[None] * 8


def _register(schema: str, run, fake, gradient, keep):
    name = schema.split("(")[0]
    LIBRARY.define(schema + _OPTIONS, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"weakseg::{name}", fake, lib=LIBRARY)
    torch.library.register_autograd(f"weakseg::{name}", gradient, setup_context=keep, lib=LIBRARY)


_register(
    "roi_align_3d(Tensor features, Tensor rois, ",
    _forward,
    lambda features, rois, output_size, *options: _output_like(features, rois, output_size),
    _gradient,
    _keep,
)
_register(
    "roi_align_3d_backward(Tensor grad, Tensor rois, SymInt[] shape, bool channels_last, ",
    _backward,
    lambda grad, rois, shape, channels_last, *options: _empty(grad, shape, channels_last),
    _gradient_again,
    _keep_again,
)


def _output_like(features, rois, output_size):
    return _empty(features, (rois.shape[0], features.shape[1], *output_size), _is_channels_last(features))


def _empty(like, shape, channels_last: bool) -> torch.Tensor:
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _is_channels_last(features) -> bool:
    return features.is_contiguous(memory_format=torch.channels_last_3d) and not features.is_contiguous()


# Backends --------------------------------------------------------------------------------------------------------


def _run(backend: str, direction: str, out, values, rois, geometry):
    """Fill `out` by the backend asked for; "auto" leaves Triton for good where it fails, with one warning."""
    if out.numel() == 0:
        return
    if values.numel() == 0 or len(rois) == 0:
        out.zero_()
        return
    with _exact_products(values.device.type):
        if backend == "auto":
            if _may_use_triton(values):
                try:
                    return _function("triton", direction)(out, values, rois, geometry)
                except torch.OutOfMemoryError:
                    raise
                except Exception as problem:
                    _give_up_triton(problem)
            backend = "separable"
        _function(backend, direction)(out, values, rois, geometry)


@contextmanager
def _exact_products(device: str):
    """Matrix products of float32 as float32: not in bfloat16 (autocast, "medium") or TF32 ("high")."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _may_use_triton(values) -> bool:
    return values.is_cuda and values.dtype != torch.float64 and triton_failure is None


def _function(backend: str, direction: str):
    return getattr(importlib.import_module(f"weakseg_lib.ops.roi_align_{backend}"), direction)


# What went wrong when "auto" tried Triton; from then on it does without.
triton_failure: Exception | None = None


def _give_up_triton(problem: Exception):
    global triton_failure
    triton_failure = problem
    reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
    warnings.warn(f"RoIAlign goes on in plain torch, slower: Triton failed with {reason}", stacklevel=2)
