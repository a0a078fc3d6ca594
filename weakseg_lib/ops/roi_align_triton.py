"""3D RoIAlign in Triton: kernels and their launch, nothing else.

`_direct` is the operator as the paper words it, 8 neighbours a sample: read it first. `_forward` and `_backward` are
the ones that are used, the three matrix products of roi_align_separable.py in one kernel each. Weights are made on
the spot: on one axis a sample at `position` gives voxel v the weight max(0, 1 - |position - v|), so a matrix needs no
table, no gather and no memory. `_backward` turns the scatter of gradients into a gather: a program owns a tile of
voxels and sums over the boxes that touch it, in the order of the boxes. No atomic additions: the same bits each run.
"""

import contextlib

import torch
import triton
import triton.language as tl

from weakseg_lib.ops.roi_align_reference import Geometry

BLOCK = 16  # bins or voxels of a tile on an axis: the least that a matrix product on tensor cores takes
BLOCK_C = 8  # channels of a tile: 32 bytes of float32, and a tile that leaves room in the registers
BOXES = 128  # boxes that `_backward` looks through at a time


@triton.jit
def _side(
    row,
    AXIS: tl.constexpr,
    SCALE: tl.constexpr,
    BINS: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Of the box at `row`: start on the feature map, step from sample to sample, samples in a bin."""
    start = tl.load(row + 1 + AXIS) * SCALE
    length = tl.load(row + 4 + AXIS) * SCALE - start
    if ALIGNED:
        start -= 0.5
    else:
        length = tl.maximum(length, 1.0)
    samples = RATIO
    if RATIO <= 0:  # ceil(length / BINS), corrected: a quotient that rounds 2 up would give a third sample
        samples = tl.ceil(length * (1 / BINS))
        samples = tl.where((samples - 1) * BINS >= length, samples - 1, samples)
        samples = tl.maximum(tl.where(samples * BINS < length, samples + 1, samples), 0).to(tl.int32)
    return start, length / (tl.maximum(samples, 1) * BINS), samples


@triton.jit
def _position(start, step, samples, bin, sample):
    return start + step * (bin * samples + sample + 0.5)


@triton.jit
def _direct(
    features, rois, out, N, C, D, H, W,
    f_n, f_c, f_z, f_y, f_x, o_k, o_c, o_p, o_q, o_r,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    SZ: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    NZ: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    ALIGNED: tl.constexpr, SCATTER: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: bins r x channels of one box, one p, one q; every sample looks up its 8 neighbours.

    With SCATTER it runs backwards: `out` holds gradients, and every neighbour in `features` is given its share by an
    atomic addition, as the CUDA versions in use do it: the order, and so the last bits, differ from run to run.
    """
    pid = tl.program_id(0)
    c, pid = pid % tl.cdiv(C, BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C), pid // tl.cdiv(C, BLOCK_C)
    r, pid = pid % tl.cdiv(R, BLOCK) * BLOCK + tl.arange(0, BLOCK), pid // tl.cdiv(R, BLOCK)
    q, pid = pid % Q, pid // Q
    p, k = pid % P, pid // P
    row = rois + k * 7
    n = tl.load(row).to(tl.int64)
    known = (n >= 0) & (n < N)
    here = (features + tl.where(known, n, 0) * f_n + c.to(tl.int64) * f_c)[None, :]
    there = (out + k.to(tl.int64) * o_k + p.to(tl.int64) * o_p + q.to(tl.int64) * o_q + c.to(tl.int64) * o_c)[
        None, :
    ]
    there += (r.to(tl.int64) * o_r)[:, None]
    stored = (r < R)[:, None] & (c < C)[None, :]
    start_z, step_z, samples_z = _side(row, 0, SZ, P, NZ, ALIGNED)
    start_y, step_y, samples_y = _side(row, 1, SY, Q, NY, ALIGNED)
    start_x, step_x, samples_x = _side(row, 2, SX, R, NX, ALIGNED)
    share = 1 / tl.maximum(samples_z * samples_y * samples_x, 1).to(step_z.dtype)

    total = tl.zeros((BLOCK, BLOCK_C), step_z.dtype)  # [r, c]
    if SCATTER:
        total = tl.where(known, tl.load(there, stored, 0).to(total.dtype) * share, 0)
    for sample_z in range(samples_z):
        z, fz, used_z = _neighbours(start_z, step_z, samples_z, p, sample_z, D)
        for sample_y in range(samples_y):
            y, fy, used_y = _neighbours(start_y, step_y, samples_y, q, sample_y, H)
            for sample_x in range(samples_x):
                x, fx, used_x = _neighbours(start_x, step_x, samples_x, r, sample_x, W)
                used = used_z * used_y * used_x
                for up_z in tl.static_range(2):
                    for up_y in tl.static_range(2):
                        for up_x in tl.static_range(2):
                            weight = used * _share(fz, up_z) * _share(fy, up_y) * _share(fx, up_x)
                            offset = tl.minimum(z + up_z, D - 1) * f_z + tl.minimum(y + up_y, H - 1) * f_y
                            voxel = here + (offset + tl.minimum(x + up_x, W - 1) * f_x)[:, None]
                            if SCATTER:
                                tl.atomic_add(voxel, weight[:, None] * total, stored)
                            else:
                                total += weight[:, None] * tl.load(voxel, stored, 0).to(total.dtype)
    if not SCATTER:
        tl.store(there, tl.where(known, total * share, float("nan")).to(out.dtype.element_ty), stored)


@triton.jit
def _neighbours(start, step, samples, bin, sample, extent):
    """Lower neighbour, how far the sample lies beyond it, and 1 if it counts, else 0, on one axis."""
    position = _position(start, step, samples, bin, sample)
    used = tl.where((position >= -1) & (position <= extent), 1, 0)
    position = tl.minimum(tl.maximum(position, 0), extent - 1)
    low = tl.floor(position)
    return low.to(tl.int64), position - low, used


@triton.jit
def _share(fraction, UP: tl.constexpr):
    """Weight of a neighbour on one axis."""
    return fraction if UP else 1 - fraction


# The separable operator ---------------------------------------------------------------------------------------


@triton.jit
def _weights(start, step, samples, bin, voxel, extent):
    """Interpolation matrix of one axis, for `bin` and `voxel` of any shapes that broadcast."""
    total = step * 0 * (bin + voxel)
    for sample in range(samples):
        position = _position(start, step, samples, bin, sample)
        used = (position >= -1) & (position <= extent)
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
    a, b = _position(start, step, samples, first, 0), _position(start, step, samples, last, samples - 1)
    return _whole(tl.minimum(a, b), 0, extent - 1), _whole(tl.maximum(a, b) + 1, 0, extent - 1) + 1


@triton.jit
def _bins_of(start, step, samples, first, last, BINS: tl.constexpr):
    """Half-open range that holds every bin with a sample less than a voxel from voxels first..last."""
    # Boxes without extent have all their bins in one place; the bound keeps the division finite.
    thin = tl.abs(step * samples) < 1e-6
    wide = tl.where(thin, 1.0, step * samples)
    a, b = (first - 1 - start) / wide, (last + 1 - start) / wide
    low, high = _whole(tl.minimum(a, b) - 1, 0, BINS), _whole(tl.maximum(a, b) + 2, 0, BINS)
    return tl.where(thin, 0, low), tl.where(thin, BINS, high)


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


@triton.jit
def _forward(
    features, rois, out, N, C, D, H, W,
    f_n, f_c, f_z, f_y, f_x, o_k, o_c, o_p, o_q, o_r,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    SZ: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    NZ: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    ALIGNED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: bins [q, r] x channels of one box and one p."""
    pid = tl.program_id(0)
    c, pid = pid % tl.cdiv(C, BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C), pid // tl.cdiv(C, BLOCK_C)
    p, pid = pid % P, pid // P
    r0, pid = pid % tl.cdiv(R, BLOCK) * BLOCK, pid // tl.cdiv(R, BLOCK)
    q0, k = pid % tl.cdiv(Q, BLOCK) * BLOCK, pid // tl.cdiv(Q, BLOCK)
    q, r = q0 + tl.arange(0, BLOCK), r0 + tl.arange(0, BLOCK)
    row = rois + k * 7
    n = tl.load(row).to(tl.int64)
    known = (n >= 0) & (n < N)
    here = features + tl.where(known, n, 0) * f_n + c.to(tl.int64) * f_c
    start_z, step_z, samples_z = _side(row, 0, SZ, P, NZ, ALIGNED)
    start_y, step_y, samples_y = _side(row, 1, SY, Q, NY, ALIGNED)
    start_x, step_x, samples_x = _side(row, 2, SX, R, NX, ALIGNED)
    z_low, z_high = _voxels_of(start_z, step_z, samples_z, p, p, D)
    y_low, y_high = _voxels_of(start_y, step_y, samples_y, q0, tl.minimum(q0 + BLOCK, Q) - 1, H)
    x_low, x_high = _voxels_of(start_x, step_x, samples_x, r0, tl.minimum(r0 + BLOCK, R) - 1, W)

    dtype = step_z.dtype
    total = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [q, r, c]
    for x0 in range(x_low, x_high, BLOCK):
        x = x0 + tl.arange(0, BLOCK)
        rows = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [x, q, c]
        for y0 in range(y_low, y_high, BLOCK):
            y = y0 + tl.arange(0, BLOCK)
            inside = (y < y_high)[:, None, None] & (x < x_high)[None, :, None] & (c < C)[None, None, :]
            plane = (
                here[None, None, :]
                + (y.to(tl.int64) * f_y)[:, None, None]
                + (x.to(tl.int64) * f_x)[None, :, None]
            )
            patch = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [y, x, c]
            for z in range(z_low, z_high):
                weight = _weights(start_z, step_z, samples_z, p, z, D)
                patch += weight * tl.load(plane + tl.cast(z, tl.int64) * f_z, inside, 0).to(dtype)
            wy = _weights(start_y, step_y, samples_y, q[:, None], y[None, :], H)
            rows += _contract(wy, patch, PRECISION)
        wx = _weights(start_x, step_x, samples_x, r[:, None], x[None, :], W)
        total += _contract(wx, rows, PRECISION)
    there = out + k.to(tl.int64) * o_k + tl.cast(p, tl.int64) * o_p + c.to(tl.int64) * o_c
    there = (
        there[None, None, :] + (q.to(tl.int64) * o_q)[:, None, None] + (r.to(tl.int64) * o_r)[None, :, None]
    )
    value = tl.where(known, total, float("nan")).to(out.dtype.element_ty)
    tl.store(there, value, (q < Q)[:, None, None] & (r < R)[None, :, None] & (c < C)[None, None, :])


@triton.jit
def _touches(row, listed, AXIS: tl.constexpr, SCALE: tl.constexpr, ALIGNED: tl.constexpr, first, last):
    """Whether boxes can have samples less than a voxel from voxels first..last."""
    a = tl.load(row + 1 + AXIS, listed, 0) * SCALE
    b = tl.load(row + 4 + AXIS, listed, 0) * SCALE
    if ALIGNED:
        a, b = a - 0.5, b - 0.5
    else:
        b = tl.maximum(b, a + 1)
    return (tl.maximum(a, b) >= first - 1) & (tl.minimum(a, b) <= last + 1)


@triton.jit
def _backward(
    grad, rois, out, K, C, D, H, W,
    g_k, g_c, g_p, g_q, g_r, o_n, o_c, o_z, o_y, o_x,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    SZ: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    NZ: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    ALIGNED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr, BOXES: tl.constexpr,
):  # fmt: skip
    """One program: voxels [y, x] x channels of one image and one z."""
    pid = tl.program_id(0)
    c, pid = pid % tl.cdiv(C, BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C), pid // tl.cdiv(C, BLOCK_C)
    x0, pid = pid % tl.cdiv(W, BLOCK) * BLOCK, pid // tl.cdiv(W, BLOCK)
    y0, pid = pid % tl.cdiv(H, BLOCK) * BLOCK, pid // tl.cdiv(H, BLOCK)
    z, n = pid % D, pid // D
    y, x = y0 + tl.arange(0, BLOCK), x0 + tl.arange(0, BLOCK)
    y1, x1 = tl.minimum(y0 + BLOCK, H) - 1, tl.minimum(x0 + BLOCK, W) - 1

    dtype = rois.dtype.element_ty
    total = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [y, x, c]
    for first in range(0, K, BOXES):
        boxes = first + tl.arange(0, BOXES)
        rows = rois + boxes * 7
        hit = tl.load(rows, boxes < K, -1).to(tl.int64) == n
        hit &= _touches(rows, boxes < K, 0, SZ, ALIGNED, z, z)
        hit &= _touches(rows, boxes < K, 1, SY, ALIGNED, y0, y1)
        hit &= _touches(rows, boxes < K, 2, SX, ALIGNED, x0, x1)
        k = tl.min(tl.where(hit, boxes, K))
        while k < K:
            row = rois + k * 7
            start_z, step_z, samples_z = _side(row, 0, SZ, P, NZ, ALIGNED)
            start_y, step_y, samples_y = _side(row, 1, SY, Q, NY, ALIGNED)
            start_x, step_x, samples_x = _side(row, 2, SX, R, NX, ALIGNED)
            p_low, p_high = _bins_of(start_z, step_z, samples_z, z, z, P)
            q_low, q_high = _bins_of(start_y, step_y, samples_y, y0, y1, Q)
            r_low, r_high = _bins_of(start_x, step_x, samples_x, x0, x1, R)
            here = grad + k.to(tl.int64) * g_k + c.to(tl.int64) * g_c
            for r0 in range(r_low, r_high, BLOCK):
                r = r0 + tl.arange(0, BLOCK)
                part = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [r, y, c]
                for q0 in range(q_low, q_high, BLOCK):
                    q = q0 + tl.arange(0, BLOCK)
                    inside = (
                        (q < q_high)[:, None, None] & (r < r_high)[None, :, None] & (c < C)[None, None, :]
                    )
                    plane = here[None, None, :] + (q.to(tl.int64) * g_q)[:, None, None]
                    plane += (r.to(tl.int64) * g_r)[None, :, None]
                    patch = tl.zeros((BLOCK, BLOCK, BLOCK_C), dtype)  # [q, r, c]
                    for p in range(p_low, p_high):
                        weight = _weights(start_z, step_z, samples_z, p, z, D)
                        if weight != 0:
                            patch += weight * tl.load(plane + tl.cast(p, tl.int64) * g_p, inside, 0).to(dtype)
                    wy = _weights(start_y, step_y, samples_y, q[None, :], y[:, None], H)
                    part += _contract(wy, patch, PRECISION)
                wx = _weights(start_x, step_x, samples_x, r[None, :], x[:, None], W)
                total += _contract(wx, part, PRECISION)
            k = tl.min(tl.where(hit & (boxes > k), boxes, K))
    there = out + n.to(tl.int64) * o_n + z.to(tl.int64) * o_z + c.to(tl.int64) * o_c
    there = (
        there[None, None, :] + (y.to(tl.int64) * o_y)[:, None, None] + (x.to(tl.int64) * o_x)[None, :, None]
    )
    value = total.to(out.dtype.element_ty)
    tl.store(there, value, (y < H)[:, None, None] & (x < W)[None, :, None] & (c < C)[None, None, :])


# Launch ---------------------------------------------------------------------------------------------------------
# `out` is filled; `rois` are (K, 7); every tensor may have any strides.


def forward(out: torch.Tensor, features: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """`features` (N, C, D, H, W) -> `out` (K, C, P, Q, R)."""
    p, q, r = geometry.output_size
    programs = len(rois) * p * _blocks(q) * _blocks(r) * triton.cdiv(out.shape[1], BLOCK_C)
    rois, precision = _for_sums(rois, features)
    with _device_of(out):
        _forward[(programs,)](
            features, rois, out, *features.shape, *features.stride(), *out.stride(), *_constants(geometry),
            precision, BLOCK, BLOCK_C, num_warps=8,
        )  # fmt: skip


def backward(out: torch.Tensor, grad: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """Gradient `grad` (K, C, P, Q, R) of the output -> gradient `out` (N, C, D, H, W) of the features."""
    n, c, d, h, w = out.shape
    programs = n * d * _blocks(h) * _blocks(w) * triton.cdiv(c, BLOCK_C)
    rois, precision = _for_sums(rois, grad)
    with _device_of(out):
        _backward[(programs,)](
            grad, rois, out, len(rois), c, d, h, w, *grad.stride(), *out.stride(), *_constants(geometry),
            precision, BLOCK, BLOCK_C, BOXES, num_warps=8,
        )  # fmt: skip


def forward_direct(out: torch.Tensor, features: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """As `forward`, by 8 neighbours a sample."""
    _launch_direct(out, features, rois, geometry, scatter=False)


def backward_direct(out: torch.Tensor, grad: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """As `backward`, by 8 atomic additions a sample."""
    total = torch.zeros_like(out, dtype=_for_sums(rois, grad)[0].dtype)
    _launch_direct(grad, total, rois, geometry, scatter=True)
    out.copy_(total)


def _launch_direct(out, features, rois, geometry, scatter):
    p, q, r = geometry.output_size
    block_c = min(64, triton.next_power_of_2(features.shape[1]))
    programs = len(rois) * p * q * _blocks(r) * triton.cdiv(features.shape[1], block_c)
    rois, _ = _for_sums(rois, features)
    with _device_of(out):
        _direct[(programs,)](
            features, rois, out, *features.shape, *features.stride(), *out.stride(), *_constants(geometry),
            scatter, BLOCK, block_c, num_warps=8,
        )  # fmt: skip


def _blocks(size: int) -> int:
    return triton.cdiv(size, BLOCK)


def _constants(geometry: Geometry) -> tuple:
    """The kernels' compile-time arguments from P to ALIGNED: one kernel is compiled for each head of a network."""
    return (*geometry.output_size, *geometry.spatial_scale, *geometry.sampling_ratio, geometry.aligned)


def _for_sums(rois, like) -> tuple[torch.Tensor, str]:
    """The boxes in the precision of the sums, and how tensor cores keep it: three TF32 products make a float32."""
    if like.dtype == torch.float64:
        return rois.to(torch.float64).contiguous(), "ieee"
    return rois.to(torch.float32).contiguous(), "tf32x3"


def _device_of(tensor):
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
