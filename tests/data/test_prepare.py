import numpy as np
import pytest
import torch

from weakseg_lib.data.annotation import annotate
from weakseg_lib.data.prepare import (
    PreparedStack,
    compress,
    mean_sides,
    normalise,
    prepare,
    resample,
    resampling_matrix,
    working_shape,
    working_voxel,
)
from weakseg_lib.data.stacks import Stack

# Resampling


@pytest.mark.parametrize(
    ("size_in", "size_out"), [(10, 10), (10, 5), (10, 7), (10, 3), (10, 1), (4, 9), (1, 3)]
)
def test_rows_of_a_resampling_matrix_are_averages(size_in, size_out):
    matrix = resampling_matrix(size_in, size_out)
    assert matrix.shape == (size_out, size_in) and matrix.dtype == np.float32 and (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)  # float32
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)  # no drift to either side
    if size_in == size_out:
        np.testing.assert_array_equal(matrix, np.eye(size_in))
    if size_out < size_in:
        assert (matrix.sum(0) > 0).all()  # when it shrinks, every voxel counts


@pytest.mark.parametrize("size_out", [5, 8, 20, 31, 60])
def test_structures_stay_where_they_are(size_out):
    """A ramp over the places that voxels stand for is the same ramp afterwards, except where the border cuts it."""
    places = (np.arange(20) + 0.5) / 20
    wanted = (np.arange(size_out) + 0.5) / size_out
    found = resampling_matrix(20, size_out) @ places
    inner = (wanted > 1 / min(20, size_out)) & (wanted < 1 - 1 / min(20, size_out))
    # A triangle sampled at whole voxels has its centre of mass off by up to a hundredth of one.
    np.testing.assert_allclose(found[inner], wanted[inner], atol=0.012 / 20)


@pytest.mark.parametrize("shape", [(6, 9, 10), (3, 9, 4), (12, 5, 5), (1, 1, 1)])
def test_resampling_is_the_three_matrices(shape):
    image = np.random.default_rng(0).integers(0, 60000, (6, 9, 10)).astype(np.uint16)
    before = image.copy()
    matrices = [resampling_matrix(a, b).astype(float) for a, b in zip(image.shape, shape, strict=True)]
    found = resample(image, shape)
    assert found.shape == shape and found.dtype == np.float32
    np.testing.assert_allclose(
        found, np.einsum("pz,qy,rx,zyx->pqr", *matrices, image), rtol=1e-5
    )  # float32 sums
    np.testing.assert_array_equal(image, before)


def test_boxes_are_resampled_by_their_corners():
    image = np.zeros((12, 30, 30), np.uint8)
    image[3:9, 6:18, 12:24] = 100
    half = resample(image, (12, 15, 15)) > 50
    wanted = np.zeros((12, 15, 15), bool)
    wanted[3:9, 3:9, 6:12] = True
    np.testing.assert_array_equal(half, wanted)


# Intensities


@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (37, 700), (0.001, -3)])
def test_the_camera_has_no_influence(gain, offset):
    image = np.random.default_rng(0).gamma(2, 1, (8, 20, 20))
    plain, other = (normalise(i.astype(np.float32)) for i in (image, image * gain + offset))
    assert plain.dtype == other.dtype == np.float32
    np.testing.assert_allclose(other, plain, atol=2e-3)  # float32 with an offset 20 times the signal
    low, high = np.percentile(plain, (20, 99.5))
    assert abs(low) < 1e-3 and abs(high - 1) < 1e-3


def test_an_image_without_anything_bright_is_only_shifted():
    image = np.full((4, 20, 20), 7.0)
    image[0, 0, 0] = 9
    found = normalise(image)
    assert found[1].max() == 0 and found[0, 0, 0] == 2


def test_a_hot_voxel_fits_into_half_precision():
    image = np.random.default_rng(0).normal(0, 1, (4, 20, 20)).astype(np.float32)
    image[1, 2, 3], image[1, 2, 4] = 1e9, -1e9
    found = normalise(image).astype(np.float16)
    assert np.isfinite(found).all() and abs(float(np.median(found))) < 1


def test_compression_keeps_the_order_and_the_zero():
    x = torch.linspace(-2, 50, 1000)
    y = compress(x)
    assert (y.diff() > 0).all() and compress(torch.zeros(1)) == 0
    dim, bright = compress(torch.tensor([1.0, 4.0]))
    assert bright / dim < 2  # a factor of four is less than a factor of two


# Working voxels


@pytest.mark.parametrize(
    ("voxel", "sides", "cell_size", "wanted"),
    [
        (
            (0.4, 0.2, 0.2),
            (6.4, 6.4, 6.4),
            16,
            (0.4, 0.4, 0.4),
        ),  # 16 x 32 x 32 voxels: the plane shrinks by 2
        ((0.4, 0.2, 0.2), (6.4, 3.2, 3.2), 16, (0.4, 0.2, 0.2)),  # just right
        ((1.0, 0.5, 0.5), (5, 5, 5), 16, (1.0, 0.5, 0.5)),  # small: nothing is enlarged
        ((0.4, 0.2, 0.2), (7.6, 3.8, 3.8), 16, (0.4, 0.2, 0.2)),  # within a quarter: left sharp
        ((0.1, 0.1, 0.1), (6.4, 6.4, 1.6), 16, (0.4, 0.2, 0.2)),  # y and x keep their ratio
        ((0.4, 0.2, 0.2), (64, 64, 64), 0, (0.4, 0.2, 0.2)),  # 0: never
    ],
)
def test_working_voxel(voxel, sides, cell_size, wanted):
    found = working_voxel(np.array([sides] * 3 + [(1000, 1000, 1000)]), voxel, cell_size)  # one outlier
    np.testing.assert_allclose(found, wanted)


def test_working_shape_has_at_least_a_voxel_an_axis():
    assert working_shape((10, 100, 100), (1.0, 0.2, 0.2), (1.0, 0.4, 0.4)) == (10, 50, 50)
    assert working_shape((1, 100, 100), (0.1, 0.2, 0.2), (1.0, 0.4, 0.4)) == (1, 50, 50)


# On disk


@pytest.fixture
def stack(cells, tmp_path):
    image, labels = cells((20, 48, 48))
    labels[0:4, 0:6, 40:48] = 99  # in a corner of the stack
    return Stack(image, (0.5, 0.25, 0.25), "01/t000", tmp_path / "t000.tif"), annotate(labels, 0.5, 1), labels


def test_what_is_prepared_comes_back(stack, tmp_path):
    stack, annotation, labels = stack
    prepared = prepare(stack, annotation, (0.5, 0.5, 0.5), tmp_path / "made/here")
    assert prepared == PreparedStack(tmp_path / "made/here")
    image, known = prepared.image(), prepared.known()
    assert image.shape == (20, 24, 24) and image.dtype == np.float16
    np.testing.assert_allclose(known["scale"], (1, 0.5, 0.5))
    np.testing.assert_allclose(known["boxes"], annotation.boxes * np.array([1, 0.5, 0.5] * 2))
    np.testing.assert_array_equal(prepared.boxes(), known["boxes"])
    np.testing.assert_array_equal(known["has_mask"], annotation.has_mask)
    np.testing.assert_array_equal(known["classes"], annotation.classes)


def test_masks_keep_every_voxel_at_full_resolution(stack, tmp_path):
    stack, annotation, labels = stack
    known = prepare(stack, annotation, (1.0, 1.0, 1.0), tmp_path / "p").known()
    masked = np.flatnonzero(annotation.has_mask)
    assert {name for name in known if name.startswith("mask_")} == {f"mask_{i}" for i in masked}
    assert 0 < len(masked) < len(annotation.ids)
    for i in masked:
        mask, origin = known[f"mask_{i}"], known[f"origin_{i}"]
        padded = np.pad(labels, 1) == annotation.ids[i]  # the border may lie outside the stack
        where = tuple(slice(o + 1, o + 1 + n) for o, n in zip(origin, mask.shape, strict=True))
        np.testing.assert_array_equal(mask, padded[where])
        assert mask.sum() == padded.sum() and mask.dtype == np.uint8
        assert not any(side.any() for axis in range(3) for side in (mask.take(0, axis), mask.take(-1, axis)))


def test_a_stack_without_cells_can_be_prepared(stack, tmp_path):
    annotation = annotate(np.zeros_like(stack[2]), 0.5, 1)
    known = prepare(stack[0], annotation, (0.5, 0.25, 0.25), tmp_path / "p").known()
    assert known["boxes"].shape == (0, 6)


def test_boxes_too_small_to_be_cells_are_not_taught(stack, tmp_path):
    stack, annotation, _ = stack
    sides = mean_sides(annotation.boxes, stack.voxel_size)
    wanted = [np.prod((box[3:] - box[:3]) * (0.5, 0.25, 0.25)) ** (1 / 3) for box in annotation.boxes]
    np.testing.assert_allclose(sides, wanted, rtol=1e-6)  # boxes are float32
    limit = float(np.sort(sides)[2])
    known = prepare(stack, annotation, (0.5, 0.25, 0.25), tmp_path / "p", limit).known()
    np.testing.assert_array_equal(known["taught"], sides >= limit)
    assert prepare(stack, annotation, (0.5, 0.25, 0.25), tmp_path / "q").known()["taught"].all()


def test_images_stay_on_the_disk(stack, tmp_path):
    prepared = prepare(*stack[:2], (0.5, 0.25, 0.25), tmp_path / "p")
    assert isinstance(prepared.image(), np.memmap)
    assert set(vars(prepared)) == {"folder"}  # nothing of the stack is kept in memory
