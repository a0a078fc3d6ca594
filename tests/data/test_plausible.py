import warnings

import numpy as np
import pytest
import tifffile

from weakseg_lib.data.plausible import doubtful_voxel_size, saturated
from weakseg_lib.data.stacks import Sequence, read_stack, write_tiff

VOXEL = (0.5, 0.2, 0.2)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 200, (6, 20, 30)).astype(np.uint8)


@pytest.mark.parametrize(
    ("voxel_size", "words"),
    [
        ((0.5, 0.2, 0.2), None),
        ((0.02, 0.02, 0.02), None),
        ((20, 20, 20), None),
        ((0.1, 0.2, 0.2), None),
        ((0.09, 0.2, 0.2), "closer than pixels"),
        ((0.5, 0.2, 0.21), None),
        ((0.3, 0.3, 0.5), "not square"),
        ((1, 0.1, 1.9), "not square"),
        ((5, 0.1, 5), "not square"),
        ((1, 1, 1), "never calibrated"),
        ((2, 1, 1), None),
        ((250, 100, 100), "nanometres"),
        ((250, 10, 10), "outside 0.02 to 20 um"),
        ((0.5, 0.0002, 0.0002), "outside 0.02 to 20 um"),
        ((30000, 30000, 30000), "outside 0.02 to 20 um"),
    ],
)
def test_doubtful_voxel_sizes(voxel_size, words):
    doubt = doubtful_voxel_size(voxel_size)
    assert doubt is None if words is None else words in doubt


def test_a_doubtful_voxel_size_is_named_with_the_way_to_correct_it(tmp_path, image):
    write_tiff(tmp_path / "a.tif", image, (250, 100, 100))
    with pytest.warns(UserWarning, match=r"a\.tif: .*250 x 100 x 100 um .*nanometres; .*--voxel-size Z Y X"):
        assert read_stack(tmp_path / "a.tif").voxel_size == (250, 100, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_stack(tmp_path / "a.tif", voxel_size=(0.25, 0.1, 0.1))


@pytest.mark.parametrize("spacing", [None, 1.0, 0.5])
def test_a_spacing_that_imagej_did_not_write_is_questioned(tmp_path, image, spacing):
    """ImageJ leaves out a spacing of 1, which is also what it takes where nobody set one."""
    metadata = {"axes": "ZYX", "unit": "um"} | ({} if spacing is None else {"spacing": spacing})
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, metadata=metadata, resolution=(5, 5))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stack = read_stack(tmp_path / "a.tif")
        read_stack(tmp_path / "a.tif", voxel_size=(spacing or 3, 0.2, 0.2))
    assert stack.voxel_size == (spacing or 1, 0.2, 0.2)
    assert len(said) == (spacing is None)
    if said:
        assert "z is ImageJ's default, 1, which nobody may have set" in str(said[0].message)
        assert str(said[0].message).endswith("give the right one with `--voxel-size Z Y X`")


def test_a_voxel_size_that_overrules_the_files_is_named(tmp_path, image):
    write_tiff(tmp_path / "a.tif", image, VOXEL)
    words = r"a\.tif: .* in the file is 0\.5 x 0\.2 x 0\.2 um .*, and 1 x 0\.2 x .* is taken; leave `--voxel-size` out"
    with pytest.warns(UserWarning, match=words):
        assert read_stack(tmp_path / "a.tif", voxel_size=(1, 0.2, 0.2)).voxel_size == (1, 0.2, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_stack(tmp_path / "a.tif", voxel_size=(0.5, 0.2, 0.20001))


def test_frames_of_a_sequence_are_questioned_once(tmp_path, image):
    for t in range(3):
        write_tiff(tmp_path / f"01/t{t:03d}.tif", image + t, (250, 100, 100))
    sequence = Sequence(tmp_path / "01")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for t in sequence.frames:
            sequence.read(t)
    assert len(said) == 1 and str(said[0].message).startswith(f"{sequence.path}: ")


@pytest.mark.parametrize(
    ("dtype", "top", "share", "expected"),
    [
        (np.uint8, 255, 0.02, True),
        (np.uint8, 255, 0.009, False),
        (np.uint16, 65535, 0.02, True),
        (np.uint16, 4095, 0.02, True),  # a camera of 12 bits
        (np.uint16, 3000, 0.02, False),
        (np.uint8, 1, 0.5, False),
        (np.float32, 255, 0.5, False),
    ],
)
def test_saturation(dtype, top, share, expected):
    image = np.zeros(1000, dtype)
    image[: round(share * 1000)] = top
    assert saturated(image.reshape(10, 10, 10)) is expected


def test_a_saturated_image_is_named(tmp_path, image):
    image[:, :10] = 255
    write_tiff(tmp_path / "a.tif", image, VOXEL)
    with pytest.warns(UserWarning, match=r"a\.tif: is saturated, more than 1% .* 255; .*less light"):
        read_stack(tmp_path / "a.tif")
