import builtins
import json

import numpy as np
import pytest

from weakseg_lib.data.stacks import read_image, read_stack

zarr = pytest.importorskip("zarr", reason='OME-Zarr needs `pip install "weakseg_lib[zarr]"`')

AXES = {
    "t": {"name": "t", "type": "time", "unit": "second"},
    "c": {"name": "c", "type": "channel"},
    "z": {"name": "z", "type": "space", "unit": "micrometer"},
    "y": {"name": "y", "type": "space", "unit": "micrometer"},
    "x": {"name": "x", "type": "space", "unit": "nanometer"},
}


def write(path, array, axes="zyx", scale=(0.5, 0.25, 125.0), version="0.5", axis_list=None):
    """An OME-Zarr as its writers make it: full resolution in 0, half resolution in 1."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    for level, data in (("0", array), ("1", array[..., ::2, ::2])):
        stored = group.create_array(level, shape=data.shape, chunks=data.shape, dtype=data.dtype)
        stored[...] = data
    scale = [1.0] * (array.ndim - 3) + list(scale)
    levels = [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]},
        {"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [2 * s for s in scale]}]},
    ]
    multiscales = [{"version": version, "axes": axis_list or [AXES[a] for a in axes], "datasets": levels}]
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = multiscales
    return path


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 60000, (4, 6, 8)).astype(np.uint16)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["zyx", "czyx", "tczyx"])
def test_full_resolution_with_its_voxel_size(tmp_path, volume, version, axes):
    array = volume.reshape((1,) * (len(axes) - 3) + volume.shape)
    path = write(tmp_path / "a.ome.zarr", array, axes, version=version)
    back, voxel_size = read_image(path)
    np.testing.assert_array_equal(back, volume)
    assert voxel_size == pytest.approx((0.5, 0.25, 0.125))  # x is in nm
    assert read_stack(path).name == "a"


def test_scale_of_the_whole_multiplies_that_of_the_level(tmp_path, volume):
    path = write(tmp_path / "a.zarr", volume)
    metadata = json.loads((path / "zarr.json").read_text())
    whole = [{"type": "scale", "scale": [2.0, 1.0, 1.0]}]
    metadata["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = whole
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert read_image(path)[1] == pytest.approx((1.0, 0.25, 0.125))


def test_axes_without_units_have_no_voxel_size(tmp_path, volume, refused):
    path = write(tmp_path / "a.zarr", volume, axis_list=[{"name": a} for a in "zyx"])
    assert read_image(path)[1] is None
    with refused(path, "no voxel size", "--voxel-size Z Y X"):
        read_stack(path)


def test_images_that_are_not_one_stack(tmp_path, volume, refused):
    path = write(tmp_path / "c.zarr", np.stack([volume, volume]), "czyx")
    with refused(path, "2 channels"):
        read_image(path)
    path = write(tmp_path / "t.zarr", np.stack([volume, volume + 1]), "tzyx")
    with refused(path, "`--frame T`"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, frame=1)[0], volume + 1)


def test_folders_that_are_no_image(tmp_path, volume, refused):
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with refused(tmp_path / "empty.zarr", "no OME-Zarr image", "folder inside"):
        read_image(tmp_path / "empty.zarr")
    zarr.create_array(tmp_path / "array.zarr", data=volume)
    with refused(tmp_path / "array.zarr", "not an OME-Zarr image"):
        read_image(tmp_path / "array.zarr")
    path = write(tmp_path / "broken.zarr", volume, axis_list=[{"name": "z"}])
    with refused(path, "metadata"):
        read_image(path)


def test_damaged_data_are_refused(tmp_path, volume, refused):
    path = write(tmp_path / "a.zarr", volume)
    (chunk,) = (file for file in (path / "0").rglob("*") if file.is_file() and file.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:20])
    with refused(path, "damaged"):
        read_image(path)


def test_without_the_zarr_package_the_error_says_how_to_get_it(tmp_path, volume, refused, monkeypatch):
    path = write(tmp_path / "a.zarr", volume)
    usual = builtins.__import__

    def without_zarr(name, *args, **kwargs):
        if name == "zarr":
            raise ImportError("No module named 'zarr'")
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_zarr)
    with refused(path, "zarr package is not installed", 'pip install "weakseg_lib[zarr]"', "TIFF"):
        read_image(path)
