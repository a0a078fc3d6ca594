"""3D RoIAlign as it is defined, one sample and one neighbour after another. Read this first; it is slow.

The other backends are tested against it. Float64 throughout, so that only they can be inexact.
"""

import itertools
import math
from typing import NamedTuple

import torch


class Geometry(NamedTuple):
    """What boxes mean on a feature map; everything z, y, x."""

    output_size: tuple[int, int, int]
    spatial_scale: tuple[float, float, float]
    sampling_ratio: tuple[int, int, int]
    aligned: bool


def forward(out: torch.Tensor, features: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """Fill `out` (K, C, P, Q, R) from `features` (N, C, D, H, W) under `rois` (K, 7)."""
    total = torch.zeros(out.shape, dtype=torch.float64)
    values = features.to("cpu", torch.float64)
    for k, bin, n, voxel, weight in neighbours(rois, features.shape[2:], geometry):
        total[(k, slice(None), *bin)] += weight * values[(n, slice(None), *voxel)]
    out.copy_(total)


def backward(out: torch.Tensor, grad: torch.Tensor, rois: torch.Tensor, geometry: Geometry):
    """Fill `out` (N, C, D, H, W), the gradient for the features, from `grad` (K, C, P, Q, R): every weight goes
    back the way it came."""
    total = torch.zeros(out.shape, dtype=torch.float64)
    values = grad.to("cpu", torch.float64)
    for k, bin, n, voxel, weight in neighbours(rois, out.shape[2:], geometry):
        total[(n, slice(None), *voxel)] += weight * values[(k, slice(None), *bin)]
    out.copy_(total)


def neighbours(rois, extents, geometry: Geometry):
    """Every (box, bin, image, voxel, weight) of which the operator is the sum."""
    for k, (n, *corners) in enumerate(rois.double().tolist()):
        sides = [_side(corners[axis], corners[axis + 3], axis, geometry) for axis in range(3)]
        number = math.prod(samples for _, _, samples in sides)
        for bin in itertools.product(*map(range, geometry.output_size)):
            for sample in itertools.product(*(range(samples) for _, _, samples in sides)):
                pairs = [
                    _two_neighbours(start + step * (b + (s + 0.5) / samples), extent)
                    for (start, step, samples), b, s, extent in zip(sides, bin, sample, extents, strict=True)
                ]
                for corner in itertools.product(*pairs):
                    voxel, weights = zip(*corner, strict=True)
                    yield k, bin, int(n), voxel, math.prod(weights) / number


def _side(low: float, high: float, axis: int, geometry: Geometry) -> tuple[float, float, int]:
    """Where the box begins on the feature map, the length of a bin, and the samples in it."""
    start = low * geometry.spatial_scale[axis]
    length = high * geometry.spatial_scale[axis] - start
    if geometry.aligned:
        start -= 0.5
    else:
        length = max(length, 1.0)
    bins, ratio = geometry.output_size[axis], geometry.sampling_ratio[axis]
    samples = ratio if ratio > 0 else max(0, math.ceil(length / bins))
    return start, length / bins, samples


def _two_neighbours(position: float, extent: int) -> list[tuple[int, float]]:
    """The voxels left and right of a sample with their weights; none if it lies more than a voxel outside."""
    if position < -1 or position > extent:
        return []
    position = min(max(position, 0.0), extent - 1.0)
    low = math.floor(position)
    high = min(low + 1, extent - 1)
    return [(low, 1 - (position - low)), (high, position - low)]
