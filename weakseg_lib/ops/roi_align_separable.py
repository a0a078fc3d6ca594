"""3D RoIAlign by three small matrix products: the torch backend, for CPUs and for GPUs without Triton.

Trilinear interpolation at the points of a grid is separable: the weight of a voxel is the product of one weight an
axis, and the mean over a bin's samples is a product of means. So the operator is, for every box, three small
matrices (bins x extent), border rule included, and

    output[p, q, r, c] = sum_z Wz[p, z] sum_y Wy[q, y] sum_x Wx[r, x] features[z, y, x, c]

Its gradient is the same with the matrices transposed. Boxes are taken many at a time: the voxels under them are
copied into windows of one size, channels last, and each sum is one batched matrix product.
"""

from typing import NamedTuple

import torch

from weakseg_lib.ops.roi_align_reference import Geometry

# Values in the windows of one batch. A CPU wants them in its cache, a GPU wants few launches.
BATCH_VALUES = {"cpu": 2**21, "cuda": 2**26}


def forward(out: torch.Tensor, features: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """Fill `out` (K, C, P, Q, R) from `features` (N, C, D, H, W) under `rois` (K, 7); any strides."""
    channels, (step_n, step_c, *steps) = features.shape[1], features.stride()
    last = sum((size - 1) * step for size, step in zip(features.shape, features.stride(), strict=True))
    for batch in _batches(features, rois, geometry, float("nan")):
        z, y, x = batch.window
        # Entry i of this view is the row of x voxels that begins at element i of the features' own memory: no
        # copy of them is made, whatever their strides. What lies closer in memory, channels or voxels, is last.
        rows = last + 1 - (x - 1) * steps[2] - (channels - 1) * step_c
        if step_c < steps[2]:
            rows = features.as_strided((rows, x, channels), (1, steps[2], step_c))
        else:
            rows = features.as_strided((rows, channels, x), (1, step_c, steps[2]))
        start = batch.image * step_n + sum(o * s for o, s in zip(batch.origin, steps, strict=True))
        part = rows[_grid(start, (z, y), steps)].to(batch.matrices[0].dtype)
        part = _product(batch.matrices[1], _product(batch.matrices[0], part, 0), 1)
        if step_c < steps[2]:
            part = _product(batch.matrices[2], part, 2).movedim(4, 1)
        else:
            part = (part @ batch.matrices[2][:, None, None].mT).movedim(3, 1)
        out[batch.rois] = part.to(out.dtype)


def backward(out: torch.Tensor, grad: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """Fill `out` (N, C, D, H, W), the gradient for the features, from `grad` (K, C, P, Q, R); any strides."""
    n, channels, *extents = out.shape
    total, dtype = out.permute(0, 2, 3, 4, 1), _dtype_of_sums(grad)
    in_place = total.is_contiguous() and total.dtype == dtype  # else the sums need memory of their own
    total = (
        total.zero_()
        if in_place
        else torch.zeros_like(total, dtype=dtype, memory_format=torch.contiguous_format)
    )
    steps = (extents[1] * extents[2], extents[2], 1)
    for batch in _batches(out, rois, geometry, 0.0):
        part = grad.permute(0, 2, 3, 4, 1)[batch.rois].to(total.dtype)
        for axis in (2, 1, 0):  # spreads over x, then y, then z
            part = _product(batch.matrices[axis].mT, part, axis)
        start = batch.image * extents[0] * steps[0] + sum(
            o * s for o, s in zip(batch.origin, steps, strict=True)
        )
        voxels = _grid(start, batch.window, steps)
        total.view(-1, channels).index_add_(0, voxels.flatten(), part.reshape(-1, channels))
    if not in_place:
        out.copy_(total.permute(0, 4, 1, 2, 3))


def interpolation_matrix(
    start: torch.Tensor,
    length: torch.Tensor,
    bins: int,
    extent: int,
    ratio: int = 0,
    origin=None,
    window=None,
) -> torch.Tensor:
    """Matrices that average trilinear samples into bins along one axis: (K,) and (K,) -> (K, bins, window).

    `start` and `length` (K,) describe each box's side in voxel-index coordinates (an integer is the centre of a
    voxel). A bin holds `ratio` samples, evenly spaced; if it is <= 0, ceil(length / bins) of them. A sample left of -1
    or right of `extent` counts 0; otherwise it is clamped to the border voxels. Columns are the `window` voxels from
    `origin` (K,) on, which must hold all that the box touches; by default the whole extent.
    """
    start, width = start[:, None, None], (length / bins)[:, None, None]
    bin = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    if ratio > 0:
        samples, most = torch.full_like(width, float(ratio)), ratio
    else:
        samples = torch.ceil(width).clamp(min=0)
        # Samples are then half a voxel or more apart: of a bin no more than 2 (extent + 1) + 1 can lie on the map,
        # from -1 to extent, and 3 more are for where we begin.
        most = 2 * extent + 6
        if samples.device.type == "cpu" and len(samples):  # elsewhere the host would wait to read it
            most = int(min(max(1, samples.max()), most))
    number = samples.clamp(min=1)
    sample = torch.arange(most, device=start.device, dtype=start.dtype)
    if ratio <= 0:  # the number of the first sample that is not left of -1, less 2 for rounding
        sample = sample + ((-1 - start - width * bin) * number / width - 2).nan_to_num(0).floor().clamp(min=0)
    position = start + width * (bin + (sample + 0.5) / number)
    weight = ((sample < samples) & (position >= -1) & (position <= extent)) / number
    position = position.clamp(0, extent - 1)
    low = position.floor()
    fraction = position - low
    window = extent if window is None else window
    left = low.long() - (0 if origin is None else origin[:, None, None])
    matrix = torch.zeros(len(start), bins, window, device=start.device, dtype=start.dtype)
    matrix.scatter_add_(2, left.clamp(0, window - 1), weight * (1 - fraction))
    matrix.scatter_add_(2, (left + 1).clamp(0, window - 1), weight * fraction)
    return matrix


class _Batch(NamedTuple):
    rois: torch.Tensor  # (k,) which boxes
    image: torch.Tensor  # (k,) the image of each
    window: list[int]  # voxels that are copied for each box
    origin: list[torch.Tensor]  # an axis: (k,) the first of them
    matrices: list[torch.Tensor]  # an axis: (k, bins, window)


def _dtype_of_sums(values: torch.Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _product(matrix: torch.Tensor, values: torch.Tensor, axis: int) -> torch.Tensor:
    """Matrix (k, a, b) times `values` (k, ..., b, ..., channels) on one of the three axes in the middle."""
    rest = values.shape[axis + 2 :]
    return (matrix[(slice(None), *[None] * axis)] @ values.flatten(axis + 2)).unflatten(-1, rest)


def _batches(features, rois, geometry: Geometry, of_unknown: float):
    """The boxes in groups whose windows, all as large as the largest, hold about BATCH_VALUES."""
    extents, device, dtype = features.shape[2:], features.device, _dtype_of_sums(features)
    # In float64 where there is one: the last bit decides whether a sample at the border counts.
    exact = torch.float32 if device.type == "mps" else torch.float64
    unknown = ~(rois.isfinite().all(1) & (rois[:, 0] >= 0) & (rois[:, 0] < len(features)))
    rois = rois.to(exact).masked_fill(unknown[:, None], 0)
    sides = [box_side(rois, axis, geometry) for axis in range(3)]
    if device.type == "cpu":
        origins, ends = zip(*map(_touched, sides, extents), strict=True)
        windows = torch.stack(ends, 1) - torch.stack(origins, 1)
        order = windows.prod(1).argsort(stable=True)
        windows = windows[order]
    else:  # to read the sizes, the host would have to wait for the device: windows of the whole map
        origins = [torch.zeros(len(rois), dtype=torch.long, device=device)] * 3
        windows = torch.tensor(extents).expand(len(rois), 3)
        order = torch.arange(len(rois), device=device)
    limit = BATCH_VALUES.get(device.type, BATCH_VALUES["cuda"])
    first = 0
    while first < len(order):
        window = windows[first:].cummax(0).values
        values = window.prod(1) * features.shape[1] * torch.arange(1, len(window) + 1)
        count = max(1, int((values <= limit).sum()))
        some, window, first = order[first : first + count], window[count - 1].tolist(), first + count
        # A window begins early enough to end inside the map.
        origin = [o[some].clamp(max=e - w) for o, e, w in zip(origins, extents, window, strict=True)]
        matrices = [
            interpolation_matrix(start[some], length[some], bins, extent, ratio, low, width).to(dtype)
            for (start, length), bins, extent, ratio, low, width in zip(
                sides, geometry.output_size, extents, geometry.sampling_ratio, origin, window, strict=True
            )
        ]
        matrices[0] = matrices[0].masked_fill(unknown[some, None, None], of_unknown)
        yield _Batch(some, rois[some, 0].long(), window, origin, matrices)


def _touched(side, extent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Half-open range of voxels (K,) that the samples between a side's ends can take part of."""
    start, length = side
    low, high = torch.minimum(start, start + length), torch.maximum(start, start + length)
    first, last = (v.nan_to_num(0).floor().clamp(0, extent - 1).long() for v in (low, high + 1))
    return first, last + 1


def _grid(start: torch.Tensor, window, steps) -> torch.Tensor:
    """(k,) -> (k, *window): index of every voxel of windows that begin at `start`."""
    for size, step in zip(window, steps, strict=False):
        start = start[..., None] + torch.arange(size, device=start.device) * step
    return start


def box_side(rois: torch.Tensor, axis: int, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and length (K,) of the boxes on one axis of the feature map, in voxel-index coordinates."""
    start, stop = (rois[:, 1 + axis + i] * geometry.spatial_scale[axis] for i in (0, 3))
    return (start - 0.5, stop - start) if geometry.aligned else (start, (stop - start).clamp(min=1))
