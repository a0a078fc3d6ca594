"""3D RoIAlign in Triton as the paper words it, 8 neighbours a sample: of the kernels the one to read first.

It is there to be read and to be compared with: roi_align_triton.py, which is used, shares its geometry and moves less.
"""

import contextlib
import warnings

import torch
import triton
import triton.language as tl

from weakseg_lib.ops.roi_align_reference import Geometry

BLOCK = 16  # bins or voxels of a tile on an axis: the least that a matrix product on tensor cores takes
OPTIONS = dict(num_warps=8, maxnreg=128)  # registers for two programs a multiprocessor


@triton.jit
def _measure(
    rois, table, K, N,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr, NZ: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    SZ: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of every box in `rois` (K, 7) what the other kernels need, into `table` (K, 10): its image, or -1 where that is
    none of N or the box is not finite, then for z, y and x what `_measure_side` works out."""
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, to = rois + tl.minimum(k, K - 1) * 7, table + k * 10
    n = tl.load(row).to(tl.float64)
    fit = (n >= 0) & (n < N)
    fit &= _measure_side(row, to, k < K, 0, SZ, P, NZ, ALIGNED)
    fit &= _measure_side(row, to, k < K, 1, SY, Q, NY, ALIGNED)
    fit &= _measure_side(row, to, k < K, 2, SX, R, NX, ALIGNED)
    tl.store(to, tl.where(fit, tl.floor(n), -1.0), k < K)


@triton.jit
def _measure_side(
    row, to, stored,
    AXIS: tl.constexpr, SCALE: tl.constexpr, BINS: tl.constexpr, RATIO: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Start of a side on the feature map, step from sample to sample, samples in a bin; whether it is finite.

    In float64 as in the other backends: a last bit decides whether 2 bins of 4 voxels take 2 samples or 3.
    """
    start = tl.load(row + 1 + AXIS).to(tl.float64) * SCALE
    length = tl.load(row + 4 + AXIS).to(tl.float64) * SCALE - start
    finite = tl.abs(length) < float("inf")  # false for NaN, too, and infinity minus infinity is NaN
    if ALIGNED:
        start -= 0.5
    else:
        length = tl.maximum(length, 1.0)
    start, length = tl.where(finite, start, 0.0), tl.where(finite, length, 0.0)
    samples = start * 0 + RATIO
    if RATIO <= 0:  # bounded, as whole numbers are: of a million voxels a bin, some will do
        samples = tl.minimum(tl.maximum(tl.ceil(length / BINS), 0.0), 1048576.0)
    to += 1 + 3 * AXIS
    tl.store(to, start, stored)
    tl.store(to + 1, length / (tl.maximum(samples, 1.0) * BINS), stored)
    tl.store(to + 2, samples, stored)
    return finite


@triton.jit
def side(row, AXIS: tl.constexpr, RATIO: tl.constexpr):
    """Of the box at `row` of the table: start on the feature map, step from sample to sample, samples in a bin."""
    start, step = tl.load(row + 1 + 3 * AXIS), tl.load(row + 2 + 3 * AXIS)
    samples = RATIO
    if RATIO <= 0:
        samples = tl.load(row + 3 + 3 * AXIS).to(tl.int32)
    return start, step, samples


@triton.jit
def position_of(start, step, samples, bin, sample):
    return start + step * (bin * samples + sample + 0.5)


@triton.jit
def tile_of(pid, size, BLOCK: tl.constexpr):
    """Of programs numbered tile by tile along an axis of `size`: where this one's tile begins, and its number among
    the other axes."""
    tiles = tl.cdiv(size, BLOCK)
    return pid % tiles * BLOCK, pid // tiles


@triton.jit
def _direct(
    volume, table, bins, C, D, H, W,
    v_n, v_c, v_z, v_y, v_x, b_k, b_c, b_p, b_q, b_r,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    NZ: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    SCATTER: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: bins r x channels of one box, one p, one q; every sample looks up its 8 neighbours.

    It reads `volume` (N, C, D, H, W) and fills `bins` (K, C, P, Q, R). With SCATTER it runs backwards: it reads the
    gradient in `bins` and gives every neighbour in `volume` its share by an atomic addition, as the CUDA versions in
    use do it: the order, and so the last bits, differ from run to run.
    """
    c0, pid = tile_of(tl.program_id(0), C, BLOCK_C)
    r0, pid = tile_of(pid, R, BLOCK)
    q, pid = pid % Q, pid // Q
    p, k = pid % P, pid // P
    c, r = c0 + tl.arange(0, BLOCK_C), r0 + tl.arange(0, BLOCK)
    row = table + k * 10
    n = tl.load(row).to(tl.int64)
    known = n >= 0
    here = (volume + tl.where(known, n, 0) * v_n + c.to(tl.int64) * v_c)[None, :]
    there = bins + k.to(tl.int64) * b_k + p.to(tl.int64) * b_p + q.to(tl.int64) * b_q
    there = (there + r.to(tl.int64) * b_r)[:, None] + (c.to(tl.int64) * b_c)[None, :]
    stored = (r < R)[:, None] & (c < C)[None, :]
    start_z, step_z, samples_z = side(row, 0, NZ)
    start_y, step_y, samples_y = side(row, 1, NY)
    start_x, step_x, samples_x = side(row, 2, NX)
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
                            offset = tl.minimum(z + up_z, D - 1) * v_z + tl.minimum(y + up_y, H - 1) * v_y
                            voxel = here + (offset + tl.minimum(x + up_x, W - 1) * v_x)[:, None]
                            if SCATTER:
                                tl.atomic_add(voxel, weight[:, None] * total, stored)
                            else:
                                total += weight[:, None] * tl.load(voxel, stored, 0).to(total.dtype)
    if not SCATTER:
        tl.store(there, tl.where(known, total * share, float("nan")).to(bins.dtype.element_ty), stored)


@triton.jit
def _neighbours(start, step, samples, bin, sample, extent):
    """Lower neighbour, how far the sample lies beyond it, and 1 if it counts, else 0, on one axis."""
    position = position_of(start, step, samples, bin, sample)
    used = tl.where((position >= -1) & (position <= extent), 1, 0)
    position = tl.minimum(tl.maximum(position, 0), extent - 1)
    low = tl.floor(position)
    return low.to(tl.int64), position - low, used


@triton.jit
def _share(fraction, UP: tl.constexpr):
    """Weight of a neighbour on one axis."""
    return fraction if UP else 1 - fraction


# Launch: `out` is filled; `rois` are (K, 7); every tensor may have any strides.


def forward(out: torch.Tensor, features: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """`features` (N, C, D, H, W) -> `out` (K, C, P, Q, R)."""
    _launch(features, out, rois, geometry, scatter=False)


def backward(out: torch.Tensor, grad: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """Gradient `grad` (K, C, P, Q, R) of the output -> gradient `out` (N, C, D, H, W) of the features."""
    if torch.are_deterministic_algorithms_enabled():
        problem = (
            "the gradient of 'triton_direct' sums by atomic additions, in any order: use backend 'triton'"
        )
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(problem)
        warnings.warn(problem, stacklevel=2)
    total = torch.zeros_like(out, dtype=dtype_of_sums(grad))
    _launch(total, grad, rois, geometry, scatter=True)
    out.copy_(total)


def _launch(volume, bins, rois, geometry, scatter):
    p, q, r = geometry.output_size
    channels = volume.shape[1]
    block_c = min(64, triton.next_power_of_2(channels))
    programs = len(rois) * p * q * triton.cdiv(r, BLOCK) * triton.cdiv(channels, block_c)
    with device_of(volume):
        table = measure(rois, volume, geometry)
        _direct[(programs,)](
            volume, table, bins, *volume.shape[1:], *volume.stride(), *bins.stride(),
            *geometry.output_size, *geometry.sampling_ratio, scatter, BLOCK, block_c, **OPTIONS,
        )  # fmt: skip


def measure(rois: torch.Tensor, features: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The table (K, 10) of the boxes, in the precision of the sums."""
    table = torch.empty(len(rois), 10, dtype=dtype_of_sums(features), device=rois.device)
    _measure[(triton.cdiv(len(rois), 64),)](
        rois.contiguous(), table, len(rois), len(features), *geometry.output_size, *geometry.sampling_ratio,
        *geometry.spatial_scale, geometry.aligned, 64,
    )  # fmt: skip
    return table


def dtype_of_sums(values: torch.Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def device_of(tensor):
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
