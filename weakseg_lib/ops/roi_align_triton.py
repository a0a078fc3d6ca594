"""3D RoIAlign in Triton, separable: the two kernels that are used, and their launch.

The three matrix products of roi_align_separable.py in one kernel each way. Weights are made on the spot: on one axis a
sample at `position` gives voxel v the weight max(0, 1 - |position - v|), so a matrix needs no table, no gather and no
memory. `_backward` turns the scatter of gradients into a gather: a program owns a tile of voxels and sums over the
boxes that touch it, in the order of the boxes. No atomic additions: the same bits each run.
"""

import torch
import triton
import triton.language as tl

from weakseg_lib.ops.roi_align_reference import Geometry
from weakseg_lib.ops.roi_align_triton_direct import (
    BLOCK,
    OPTIONS,
    device_of,
    measure,
    position_of,
    side,
    tile_of,
)

BOXES = 32  # that `_backward` looks through at a time: one a lane, so that warps need not wait for each other
PROGRAMS = 2048  # that `_forward` keeps at least, if there are as many: some seven for each place on an H100
# In voxels and in bins: float32 places a sample this well up to 8,000 voxels from the origin.
SLACK = tl.constexpr(1e-2)


@triton.jit
def _weights(start, step, samples, bin, voxel, extent, RATIO: tl.constexpr):
    """Interpolation matrix of one axis, for `bin` and `voxel` of any shapes that broadcast."""
    total = step * 0 * (bin + voxel)  # zeros, of the shape that the two have together
    first, count = bin * 0, samples
    if RATIO <= 0:
        # Adaptive samples are half a voxel or more apart, so that no more than these of a bin can lie on the map;
        # of a large box the others, before and after, are left out.
        count = tl.minimum(samples, 2 * extent + 6)
        before = tl.floor((-1 - start) / tl.where(step > 0, step, 1.0) - bin * samples - 2)
        first = tl.where(samples > count, tl.maximum(before, 0), 0).to(tl.int32)
    for sample in range(count):
        position = position_of(start, step, samples, bin, first + sample)
        used = (position >= -1) & (position <= extent) & (first + sample < samples)
        position = tl.minimum(tl.maximum(position, 0), extent - 1)
        total += tl.where(used, tl.maximum(1 - tl.abs(position - voxel), 0), 0)
    return total / tl.maximum(samples, 1)


@triton.jit
def _whole(value, low, high):
    """floor(value) within low..high, as an integer: bounded first, a box may lie anywhere."""
    value = tl.where(value == value, value, low)  # NaN, too, is brought inside
    return tl.minimum(tl.maximum(tl.floor(value), low), high).to(tl.int32)


@triton.jit
def _voxels_of(start, step, samples, first, last, extent):
    """Half-open range of voxels that the samples of bins first..last touch."""
    a, b = position_of(start, step, samples, first, 0), position_of(start, step, samples, last, samples - 1)
    return _whole(tl.minimum(a, b), 0, extent - 1), _whole(tl.maximum(a, b) + 1, 0, extent - 1) + 1


@triton.jit
def _bins_of(start, step, samples, first, last, BINS: tl.constexpr):
    """Half-open range that holds every bin with a sample at most a voxel from voxels first..last."""
    # Boxes without extent have all their bins in one place; the bound keeps the division finite.
    thin = tl.abs(step * samples) < 1e-6
    wide = tl.where(thin, 1.0, step * samples)
    # A bin's first and last samples lie half a step within it; SLACK is for the rounding of positions.
    a, b = (first - 1 - SLACK - start) / wide, (last + 1 + SLACK - start) / wide
    margin = 0.5 / tl.maximum(samples, 1) - SLACK
    low, high = (
        _whole(tl.minimum(a, b) + margin, 0, BINS),
        _whole(tl.maximum(a, b) - margin + 1, 0, BINS),
    )
    return tl.where(thin, 0, low), tl.where(thin, BINS, high)


@triton.jit
def _tile(corner, i, i_step, i_end, j, j_step, j_end, c, c_step, c_end, OFFSET: tl.constexpr):
    """Pointers to the tile [i, j, c] of a tensor from `corner` on, and which of them lie within its ends."""
    rows = (i.to(OFFSET) * i_step)[:, None, None] + (j.to(OFFSET) * j_step)[None, :, None]
    inside = (i < i_end)[:, None, None] & (j < j_end)[None, :, None] & (c < c_end)[None, None, :]
    return corner + rows + (c.to(OFFSET) * c_step)[None, None, :], inside


@triton.jit
def _contract(weights, tile, PRECISION: tl.constexpr):
    """sum_b weights[a, b] tile[b, e, c], as [e, a, c]: twice of it takes [y, x, c] to [q, r, c]."""
    A: tl.constexpr = weights.shape[0]
    B: tl.constexpr = tile.shape[0]
    E: tl.constexpr = tile.shape[1]
    C: tl.constexpr = tile.shape[2]
    product = tl.dot(
        weights, tl.reshape(tile, (B, E * C)), input_precision=PRECISION, out_dtype=weights.dtype
    )
    return tl.permute(tl.reshape(product, (A, E, C)), (1, 0, 2))


@triton.jit(do_not_specialize=["D", "H", "W", "walk"])
def _forward(
    features, table, out, C, D, H, W, walk,
    f_n, f_c, f_z, f_y, f_x, o_k, o_c, o_p, o_q, o_r,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    NZ: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    PRECISION: tl.constexpr, OFFSET: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: bins [q, r] x channels of one box, for `walk` p: what two of them read is still in the cache."""
    c0, pid = tile_of(tl.program_id(0), C, BLOCK_C)
    walks = tl.cdiv(P, walk)
    p0, pid = pid % walks * walk, pid // walks
    r0, pid = tile_of(pid, R, BLOCK)
    q0, k = tile_of(pid, Q, BLOCK)
    c, q, r = c0 + tl.arange(0, BLOCK_C), q0 + tl.arange(0, BLOCK), r0 + tl.arange(0, BLOCK)
    row = table + k * 10
    n = tl.load(row).to(tl.int64)
    known = n >= 0
    here = features + tl.where(known, n, 0) * f_n
    start_z, step_z, samples_z = side(row, 0, NZ)
    start_y, step_y, samples_y = side(row, 1, NY)
    start_x, step_x, samples_x = side(row, 2, NX)
    y_low, y_high = _voxels_of(start_y, step_y, samples_y, q0, tl.minimum(q0 + BLOCK, Q) - 1, H)
    x_low, x_high = _voxels_of(start_x, step_x, samples_x, r0, tl.minimum(r0 + BLOCK, R) - 1, W)

    dtype = step_z.dtype
    for p in range(p0, tl.minimum(p0 + walk, P)):
        z_low, z_high = _voxels_of(start_z, step_z, samples_z, p, p, D)
        total = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [q, r, c]
        for x0 in range(x_low, x_high, BLOCK):
            x = x0 + tl.arange(0, BLOCK)
            rows = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [x, q, c]
            for y0 in range(y_low, y_high, BLOCK):
                y = y0 + tl.arange(0, BLOCK)
                plane, inside = _tile(here, y, f_y, y_high, x, f_x, x_high, c, f_c, C, OFFSET)
                patch = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [y, x, c]
                for z in range(z_low, z_high):
                    weight = _weights(start_z, step_z, samples_z, p, z, D, NZ)
                    patch += weight * tl.load(plane + tl.cast(z, tl.int64) * f_z, inside, 0).to(dtype)
                wy = _weights(start_y, step_y, samples_y, q[:, None], y[None, :], H, NY)
                rows += _contract(wy, patch, PRECISION)
            wx = _weights(start_x, step_x, samples_x, r[:, None], x[None, :], W, NX)
            total += _contract(wx, rows, PRECISION)
        there = out + k.to(tl.int64) * o_k + tl.cast(p, tl.int64) * o_p
        there, inside = _tile(there, q, o_q, Q, r, o_r, R, c, o_c, C, OFFSET)
        tl.store(there, tl.where(known, total, float("nan")).to(out.dtype.element_ty), inside)


@triton.jit
def _touches(
    rows, AXIS: tl.constexpr, BINS: tl.constexpr, RATIO: tl.constexpr, first, last,
):  # fmt: skip
    """Whether the boxes at `rows` can have samples less than a voxel from voxels first..last of an axis."""
    start, step, samples = side(rows, AXIS, RATIO)
    stop = start + step * samples * BINS
    return (tl.maximum(start, stop) >= first - 1) & (tl.minimum(start, stop) <= last + 1)


@triton.jit(do_not_specialize=["K", "D", "H", "W"])
def _backward(
    grad, table, out, K, C, D, H, W,
    g_k, g_c, g_p, g_q, g_r, o_n, o_c, o_z, o_y, o_x,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    NZ: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    PRECISION: tl.constexpr, OFFSET: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr, BOXES: tl.constexpr,
):  # fmt: skip
    """One program: voxels [y, x] x channels of one image and one z."""
    c0, pid = tile_of(tl.program_id(0), C, BLOCK_C)
    x0, pid = tile_of(pid, W, BLOCK)
    y0, pid = tile_of(pid, H, BLOCK)
    z, n = pid % D, pid // D
    c, y, x = c0 + tl.arange(0, BLOCK_C), y0 + tl.arange(0, BLOCK), x0 + tl.arange(0, BLOCK)
    y1, x1 = tl.minimum(y0 + BLOCK, H) - 1, tl.minimum(x0 + BLOCK, W) - 1

    dtype = table.dtype.element_ty
    total = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [y, x, c]
    for first in range(0, K, BOXES):
        boxes = first + tl.arange(0, BOXES)
        rows = table + tl.minimum(boxes, K - 1) * 10
        hit = (boxes < K) & (tl.load(rows).to(tl.int64) == n)
        hit &= _touches(rows, 0, P, NZ, z, z)
        hit &= _touches(rows, 1, Q, NY, y0, y1)
        hit &= _touches(rows, 2, R, NX, x0, x1)
        k = tl.min(tl.where(hit, boxes, K))
        while k < K:
            row = table + k * 10
            start_z, step_z, samples_z = side(row, 0, NZ)
            start_y, step_y, samples_y = side(row, 1, NY)
            start_x, step_x, samples_x = side(row, 2, NX)
            p_low, p_high = _bins_of(start_z, step_z, samples_z, z, z, P)
            q_low, q_high = _bins_of(start_y, step_y, samples_y, y0, y1, Q)
            r_low, r_high = _bins_of(start_x, step_x, samples_x, x0, x1, R)
            here = grad + k.to(tl.int64) * g_k
            for r0 in range(r_low, r_high, BLOCK):
                r = r0 + tl.arange(0, BLOCK)
                part = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [r, y, c]
                for q0 in range(q_low, q_high, BLOCK):
                    q = q0 + tl.arange(0, BLOCK)
                    plane, inside = _tile(here, q, g_q, q_high, r, g_r, r_high, c, g_c, C, OFFSET)
                    patch = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [q, r, c]
                    for p in range(p_low, p_high):
                        weight = _weights(start_z, step_z, samples_z, p, z, D, NZ)
                        patch += weight * tl.load(plane + tl.cast(p, tl.int64) * g_p, inside, 0).to(dtype)
                    wy = _weights(start_y, step_y, samples_y, q[None, :], y[:, None], H, NY)
                    part += _contract(wy, patch, PRECISION)
                wx = _weights(start_x, step_x, samples_x, r[None, :], x[:, None], W, NX)
                total += _contract(wx, part, PRECISION)
            k = tl.min(tl.where(hit & (boxes > k), boxes, K))
    there = out + n.to(tl.int64) * o_n + z.to(tl.int64) * o_z
    there, inside = _tile(there, y, o_y, H, x, o_x, W, c, o_c, C, OFFSET)
    tl.store(there, total.to(out.dtype.element_ty), inside)


# Launch: `out` is filled; `rois` are (K, 7); every tensor may have any strides.


def forward(out: torch.Tensor, features: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """`features` (N, C, D, H, W) -> `out` (K, C, P, Q, R)."""
    p, q, r = geometry.output_size
    block_c = channels_of_a_tile(features.stride(1) == out.stride(1) == 1)
    programs = len(rois) * triton.cdiv(q, BLOCK) * triton.cdiv(r, BLOCK) * triton.cdiv(out.shape[1], block_c)
    walk = max(1, min(p, programs * p // PROGRAMS))
    with device_of(out):
        table = measure(rois, features, geometry)
        _forward[(programs * triton.cdiv(p, walk),)](
            features, table, out, *features.shape[1:], walk, *features.stride(), *out.stride(),
            *geometry.output_size, *geometry.sampling_ratio, _precision(features), _offset(features, out), BLOCK,
            block_c, **OPTIONS,
        )  # fmt: skip


def backward(out: torch.Tensor, grad: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """Gradient `grad` (K, C, P, Q, R) of the output -> gradient `out` (N, C, D, H, W) of the features."""
    n, c, d, h, w = out.shape
    block_c = channels_of_a_tile(grad.stride(1) == out.stride(1) == 1)
    programs = n * d * triton.cdiv(h, BLOCK) * triton.cdiv(w, BLOCK) * triton.cdiv(c, block_c)
    with device_of(out):
        table = measure(rois, out, geometry)
        _backward[(programs,)](
            grad, table, out, len(rois), c, d, h, w, *grad.stride(), *out.stride(),
            *geometry.output_size, *geometry.sampling_ratio, _precision(grad), _offset(grad, out), BLOCK,
            block_c, BOXES, **OPTIONS,
        )  # fmt: skip


def channels_of_a_tile(together: bool) -> int:
    """As many as leave room in the registers: addresses of channels that do not lie together take some, too."""
    return 16 if together else 8


def _offset(*tensors) -> tl.dtype:
    """Of places within one image or one box: half the registers where they fit into 32 bits."""
    reach = max(sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True)) for t in tensors)
    return tl.int32 if reach < 2**31 else tl.int64


def _precision(values) -> str:
    """How tensor cores keep the precision of the sums: three TF32 products make a float32."""
    return "ieee" if values.dtype == torch.float64 else "tf32x3"
