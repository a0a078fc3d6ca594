"""3D RoIAlign: crops of a feature map under boxes of any size, resampled to one size by trilinear interpolation.

The paper's section 2.2: "for each sampling point, we first find the 8 nearest neighbor points on the feature
maps, and then apply trilinear interpolation". Semantics are those of torchvision's `roi_align` (He et al. 2017)
with one axis more.

Trilinear interpolation at the points of a grid is separable: the weight of a voxel is the product of one weight
an axis, and the average over a bin's samples is a product of averages. So the whole operator is, for every box,
three small interpolation matrices (bins x extent), and

    output[c, p, q, r] = sum_zyx  Wz[p, z] Wy[q, y] Wx[r, x]  features[c, z, y, x]

is three small matrix products on the voxels under the box. Its gradient is the same with the matrices transposed.
"""

import torch


def interpolation_matrix(
    start: torch.Tensor, length: torch.Tensor, bins: int, extent: int, sampling_ratio: int = 0
) -> torch.Tensor:
    """Matrices that average trilinear samples into bins along one axis: (K,) and (K,) -> (K, bins, extent).

    `start` and `length` (K,) describe each box's side in voxel-index coordinates (an integer is the centre of a voxel).
    A bin holds `sampling_ratio` samples, evenly spaced; if it is <= 0, ceil(length / bins) of them. A sample left of -1
    or right of `extent` counts 0; otherwise it is clamped to the border voxels.
    """
    if sampling_ratio > 0:
        samples = torch.full_like(length, float(sampling_ratio))
    else:
        samples = torch.ceil(length / bins).clamp(min=0)
    most = max(1, int(samples.max())) if len(samples) else 1
    s = torch.arange(most, device=start.device, dtype=start.dtype)
    b = torch.arange(bins, device=start.device, dtype=start.dtype)
    step = (length / bins)[:, None, None]
    # (K, bins, samples): the coordinate of every sample
    position = start[:, None, None] + step * (
        b[None, :, None] + (s + 0.5) / samples.clamp(min=1)[:, None, None]
    )
    used = (s < samples[:, None, None]) & (position >= -1) & (position <= extent)
    weight = used / samples.clamp(min=1)[:, None, None]
    position = position.clamp(0, extent - 1)
    low = position.floor()
    fraction = position - low
    low = low.long()
    high = (low + 1).clamp(max=extent - 1)
    matrix = torch.zeros(len(start), bins, extent, device=start.device, dtype=start.dtype)
    matrix.scatter_add_(2, low, weight * (1 - fraction))
    matrix.scatter_add_(2, high, weight * fraction)
    return matrix


class _SeparableRoIAlign(torch.autograd.Function):
    """The three matrix products and their transposes. Saves the matrices, never the crops: memory O(features +
    output)."""

    @staticmethod
    def forward(ctx, features, batch_index, wz, wy, wx):
        windows = [_support(w) for w in (wz, wy, wx)]
        out = features.new_empty(len(batch_index), features.shape[1], wz.shape[1], wy.shape[1], wx.shape[1])
        for k, n in enumerate(batch_index):
            z, y, x = (slice(*w[k]) for w in windows)
            crop = features[n, :, z, y, x].to(wz.dtype)
            crop = crop @ wx[k, :, x].T
            crop = wy[k, :, y] @ crop
            out[k] = torch.einsum("pz,czqr->cpqr", wz[k, :, z], crop)
        ctx.save_for_backward(wz, wy, wx)
        ctx.batch_index, ctx.windows, ctx.shape, ctx.dtype = (
            batch_index,
            windows,
            features.shape,
            features.dtype,
        )
        return out

    @staticmethod
    def backward(ctx, grad):
        wz, wy, wx = ctx.saved_tensors
        total = torch.zeros(ctx.shape, device=grad.device, dtype=wz.dtype)
        for k, n in enumerate(ctx.batch_index):
            z, y, x = (slice(*w[k]) for w in ctx.windows)
            part = torch.einsum("pz,cpqr->czqr", wz[k, :, z], grad[k].to(wz.dtype))
            part = wy[k, :, y].T @ part
            total[n, :, z, y, x] += part @ wx[k, :, x]
        return total.to(ctx.dtype), None, None, None, None


def _support(matrix: torch.Tensor) -> list[tuple[int, int]]:
    """For each of the K matrices (K, bins, extent) the half-open range of columns that are not all zero."""
    touched = (matrix != 0).any(1)
    first = touched.int().argmax(1)
    last = touched.shape[1] - touched.flip(1).int().argmax(1)
    last = torch.where(touched.any(1), last, first)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _three(value, name: str) -> tuple:
    if isinstance(value, int | float):
        return (value,) * 3
    if len(value) != 3:
        raise ValueError(f"{name} must be one number or one an axis (z, y, x), got {value!r}")
    return tuple(value)


def roi_align_3d(
    features: torch.Tensor,
    boxes: torch.Tensor,
    output_size,
    spatial_scale=1.0,
    sampling_ratio=0,
    aligned: bool = True,
) -> torch.Tensor:
    """Resample the features under each box to a fixed size.

    Args:
        features: (N, C, D, H, W), any float dtype; sums are made in float32 (float64 for float64).
        boxes: (K, 7) = batch index, z0, y0, x0, z1, y1, x1 in voxels of the image; or a list of N tensors (k, 6).
        output_size: bins an axis, one int or (z, y, x).
        spatial_scale: feature voxels per image voxel (1 / stride), one number or (z, y, x).
        sampling_ratio: samples per bin and axis, one int or (z, y, x); <= 0: ceil(box side / bins) for each box.
        aligned: subtract half a voxel after scaling, so that a box's border lies between voxel centres (the correct
            geometry); False is the first version of the operator, in which every side is also at least one voxel.

    Returns:
        (K, C, *output_size), dtype of `features`. Differentiable for `features`; boxes get no gradient, as in
        torchvision.

    Raises:
        ValueError: wrong rank, box width, device, batch index, output size or a non-float dtype.
    """
    if features.ndim != 5 or not features.is_floating_point():
        raise ValueError(
            f"features must be float (N, C, D, H, W), got {features.dtype} {tuple(features.shape)}"
        )
    if not isinstance(boxes, torch.Tensor):
        boxes = torch.cat([torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)])
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ValueError(f"boxes must be (K, 7) or a list of (k, 6), got {tuple(boxes.shape)}")
    if boxes.device != features.device:
        raise ValueError(f"boxes are on {boxes.device}, features on {features.device}: move one of them")
    size, scale = _three(output_size, "output_size"), _three(spatial_scale, "spatial_scale")
    ratio = _three(sampling_ratio, "sampling_ratio")
    if min(size) < 1:
        raise ValueError(f"output_size must be at least 1 an axis, got {size}")
    batch_index = boxes[:, 0].long().tolist()
    if batch_index and not 0 <= min(batch_index) <= max(batch_index) < len(features):
        raise ValueError(
            f"batch index out of range: {min(batch_index)}..{max(batch_index)} of {len(features)} volumes"
        )

    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    corners = boxes[:, 1:].to(dtype)
    matrices = []
    for axis in range(3):
        start, stop = corners[:, axis] * scale[axis], corners[:, axis + 3] * scale[axis]
        length = stop - start
        start = start - 0.5 if aligned else start
        length = length if aligned else length.clamp(min=1)
        matrices.append(
            interpolation_matrix(start, length, size[axis], features.shape[axis + 2], ratio[axis])
        )
    with torch.autocast(features.device.type, enabled=False):
        return _SeparableRoIAlign.apply(features, batch_index, *matrices)
