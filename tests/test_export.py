"""Exports are read back by other programs' rules: tifffile for ImageJ's TIFF, zarr for OME-Zarr, csv for the table."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import tifffile

from weakseg_lib.data.ome_zarr_write import create_ome_zarr, write_ome_zarr
from weakseg_lib.data.stacks import read_image, read_stack, write_tiff
from weakseg_lib.export import export, measurements, read_table
from weakseg_lib.napari_view import napari_layers
from weakseg_lib.propose import propose_from_result
from weakseg_lib.result_files import find_results

VOXEL = (0.5, 0.2, 0.1)
HEADER = "id,z0,y0,x0,z1,y1,x1,class,score\n"


@pytest.fixture
def labels():
    """Two objects of known size: id 3 of 2 x 3 x 4 voxels, id 700 of 1 x 2 x 5."""
    labels = np.zeros((6, 10, 12), np.int32)
    labels[1:3, 2:5, 3:7] = 3
    labels[5:6, 6:8, 2:7] = 700
    return labels


@pytest.fixture
def image(labels):
    image = np.full(labels.shape, 10, np.uint16)
    image[labels == 3] = 100
    image[1, 2, 3] = 76  # of 24 voxels
    image[labels == 700] = 50
    return image


@pytest.fixture
def result(tmp_path, labels, image):
    """A result folder and its sequence."""
    write_tiff(tmp_path / "data/01/t000.tif", image, VOXEL)
    folder = tmp_path / "data/01_RES"
    write_tiff(folder / "mask000.tif", labels, VOXEL)
    (folder / "boxes000.csv").write_text(
        HEADER + "700,4.5,6,2,6,8,7,1,0.9000\n3,1.00,2.25,3.00,3.00,5.00,7.00,1,0.7500\n"
    )
    return folder


def test_measurements_of_objects_of_known_size(labels, image, result):
    found = measurements(labels, image, VOXEL, read_table(result / "boxes000.csv"))
    assert found["id"].tolist() == [3, 700]
    np.testing.assert_allclose(found["volume_um3"], [24 * 0.01, 10 * 0.01])
    assert found["volume_voxels"].tolist() == [24, 10]
    centres = np.array([[1.5, 3, 4.5], [5, 6.5, 4]])
    np.testing.assert_allclose(np.stack([found[f"centroid_{a}"] for a in "zyx"], 1), centres)
    np.testing.assert_allclose(np.stack([found[f"centroid_{a}_um"] for a in "zyx"], 1), centres * VOXEL)
    np.testing.assert_allclose(found["intensity_mean"], [99, 50])
    assert found["intensity_min"].tolist() == [76, 50] and found["intensity_max"].tolist() == [100, 50]
    assert found["score"].tolist() == [0.75, 0.9]
    assert found["y0"].tolist() == [2.25, 6] and found["z0"].tolist() == [1, 4.5]


def test_measurements_without_image_and_table(labels):
    found = measurements(labels, voxel_size=VOXEL)
    assert "score" not in found and "intensity_mean" not in found
    boxes = np.stack([found[name] for name in ("z0", "y0", "x0", "z1", "y1", "x1")], 1)
    np.testing.assert_array_equal(boxes, [[1, 2, 3, 3, 5, 7], [5, 6, 2, 6, 8, 7]])
    empty = measurements(np.zeros((3, 4, 5), np.int32), np.zeros((3, 4, 5)))
    assert all(len(column) == 0 for column in empty.values())


def test_ids_far_apart_and_large(tmp_path, labels, image, result):
    """Ids may be up to 2^31 - 1: neither memory nor the digits in the table go with them."""
    large = np.where(labels == 700, 1234567892, np.where(labels == 3, 1234567891, 0)).astype(np.int32)
    few, many = measurements(labels, image, VOXEL), measurements(large, image, VOXEL)
    assert many.pop("id").tolist() == [1234567891, 1234567892] and few.pop("id").tolist() == [3, 700]
    for name, column in few.items():
        np.testing.assert_array_equal(many[name], column)
    write_tiff(result / "mask000.tif", large, VOXEL)
    (result / "boxes000.csv").unlink()
    (table,) = export(result, tmp_path / "out", result.with_name("01"), ["csv"], progress=False)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["1234567891", "1234567892"]
    assert rows[0]["volume_um3"] == "0.24" and rows[0]["intensity_max"] == "100"


def test_everything_of_a_result(tmp_path, result, labels, image):
    written = export(result, tmp_path / "out", result.with_name("01"), progress=False)
    assert [path.name for path in written] == ["labels000.tif", "cells000.ome.zarr", "measurements.csv"]
    with tifffile.TiffFile(written[0]) as tif:
        assert tif.is_imagej and tif.series[0].dtype == np.uint16
        np.testing.assert_array_equal(tif.asarray(), labels)  # ids kept
    assert read_image(written[0])[1] == VOXEL
    with open(written[2], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["id"]) for row in rows] == [("0", "3"), ("0", "700")]
    assert float(rows[0]["volume_um3"]) == pytest.approx(0.24) and rows[1]["score"] == "0.9"
    assert {path.name for path in (tmp_path / "out").iterdir() if path not in written} == {"export.json"}


def test_ome_zarr_holds_the_image_and_its_labels(tmp_path, result, labels, image):
    pytest.importorskip("zarr")
    (path,) = export(result, tmp_path / "out", result.with_name("01"), ["ome-zarr"], progress=False)
    assert read_stack(path).voxel_size == VOXEL
    np.testing.assert_array_equal(read_stack(path).image, image)
    back, voxel_size = read_image(path / "labels/cells")
    np.testing.assert_array_equal(back, labels)
    assert voxel_size == VOXEL
    attributes = json.loads((path / "labels/cells/.zattrs").read_text())["image-label"]
    assert attributes["source"] == {"image": "../../"}
    scores = {entry["label-value"]: entry["score"] for entry in attributes["properties"]}
    assert scores == {3: 0.75, 700: 0.9}
    assert json.loads((path / "labels/.zattrs").read_text()) == {"labels": ["cells"]}


def test_ome_zarr_without_the_image_is_the_labels_and_replaces_an_earlier_one(tmp_path, result, labels):
    pytest.importorskip("zarr")
    export(result, tmp_path / "out", result.with_name("01"), ["ome-zarr"], progress=False)
    (path,) = export(result, tmp_path / "out", forms=["ome-zarr"], progress=False)
    np.testing.assert_array_equal(read_image(path)[0], labels)
    assert not (path / "labels").exists()
    assert {p.name for p in path.parent.iterdir()} == {path.name, "export.json"}


def test_nothing_that_export_did_not_make_is_replaced(tmp_path, result, image, refused, snapshot):
    """Not even where the user's image has the name of an export, or a person corrected what export made."""
    pytest.importorskip("zarr")
    out = tmp_path / "out"
    for mine in ("cells000.ome.zarr", "labels000.tif", "measurements.csv", "export.json"):
        if mine.endswith(".zarr"):
            write_ome_zarr(out / mine, image, None, VOXEL)
        else:
            (out / mine).write_text("{}" if mine == "measurements.csv" else '{"sha256": "mine"}')
        before = snapshot(out)
        with refused(out / mine, "--to"):
            export(result, out, progress=False)
        assert snapshot(out) == before
        shutil.rmtree(out / mine) if mine.endswith(".zarr") else (out / mine).unlink()
    for _ in range(2):  # its own are replaced
        zarr, labels, table = sorted(export(result, out, progress=False))
    for changed in (zarr / "0/.zarray", labels, table):
        was = changed.read_bytes()
        changed.write_bytes(was + b" ")
        with refused(zarr if zarr in changed.parents else changed, "changed since", "choose another folder"):
            export(result, out, progress=False)
        changed.write_bytes(was)
    export(result, out, progress=False)


def test_an_export_beside_the_image_it_is_of(tmp_path, labels, image):
    pytest.importorskip("zarr")
    write_ome_zarr(tmp_path / "embryo.ome.zarr", image, None, VOXEL)
    write_tiff(tmp_path / "mask_embryo.tif", labels, VOXEL)
    export(tmp_path, tmp_path, tmp_path / "embryo.ome.zarr", progress=False)
    np.testing.assert_array_equal(read_image(tmp_path / "embryo.ome.zarr")[0], image)
    np.testing.assert_array_equal(read_image(tmp_path / "cells_embryo.ome.zarr/labels/cells")[0], labels)


def test_an_export_that_was_stopped_can_be_done_again(tmp_path, result, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("weakseg_lib.export.write_ome_zarr", stop)
        export(result, tmp_path / "out", progress=False)
    assert (tmp_path / "out/labels000.tif").is_file()
    assert len(export(result, tmp_path / "out", progress=False)) == 3


@pytest.mark.parametrize(("largest", "dtype"), [(65535, np.uint16), (65536, np.float32), (2**24, np.float32)])
def test_ids_above_16_bits_are_floats_for_imagej(tmp_path, result, labels, largest, dtype):
    labels[labels == 700] = largest
    write_tiff(result / "mask000.tif", labels, VOXEL)
    (result / "boxes000.csv").unlink()
    (path,) = export(result, tmp_path / "out", forms=["imagej"], progress=False)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_imagej and tif.series[0].dtype == dtype
        np.testing.assert_array_equal(tif.asarray(), labels)


def test_ids_that_imagej_cannot_hold(tmp_path, result, labels, refused):
    labels[labels == 700] = 2**24 + 1
    write_tiff(result / "mask000.tif", labels, VOXEL)
    (result / "boxes000.csv").unlink()
    with refused(result / "mask000.tif", "16777217", "--as ome-zarr"):
        export(result, tmp_path / "out", forms=["imagej"], progress=False)


def test_results_that_do_not_fit(tmp_path, result, labels, image, refused):
    other = tmp_path / "other/01"
    write_tiff(other / "t000.tif", image[1:], VOXEL)
    with refused(other / "t000.tif", "shape (5, 10, 12)", "that were segmented"):
        export(result, tmp_path / "out", other, progress=False)
    with refused(result.with_name("01"), "holds images"):
        export(result, result.with_name("01"), progress=False)
    (result / "mask000.tif").unlink()
    with refused(result / "boxes000.csv", "no masks", "train with some"):
        export(result, tmp_path / "out", progress=False)
    tifffile.imwrite(result / "mask000.tif", labels.astype(np.uint16))
    with refused(result / "mask000.tif", "no voxel size", "--voxel-size Z Y X"):
        export(result, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_box_without_a_mask_is_told(tmp_path, result):
    with open(result / "boxes000.csv", "a") as file:
        file.write("9,0,0,0,1,1,1,1,0.5\n")
    with pytest.warns(UserWarning, match="1 of its boxes have no mask and are left out, 9"):
        export(result, tmp_path / "out", forms=["csv"], progress=False)


def test_an_image_outside_a_sequence_and_the_command(tmp_path, labels, image, call, fails):
    write_tiff(tmp_path / "embryo.tif", image, VOXEL)
    write_tiff(tmp_path / "res/mask_embryo.tif", labels, VOXEL)
    images = ("--images", tmp_path / "embryo.tif")
    assert call("export", tmp_path / "res", "--to", tmp_path / "out", *images)[0] == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"labels_embryo.tif", "cells_embryo.ome.zarr", "measurements.csv", "export.json"}
    write_tiff(tmp_path / "res/mask_second.tif", labels, VOXEL)
    assert "result is of 2" in fails("export", tmp_path / "res", "--to", tmp_path / "out", *images)


def test_without_zarr_the_error_says_how_to_get_it(tmp_path, result, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with refused(
        tmp_path / "out/cells000.ome.zarr", "not installed", 'pip install "weakseg_lib[zarr]"', "--as"
    ):
        export(result, tmp_path / "out", forms=["ome-zarr"], progress=False)


@pytest.fixture
def of_blocks(result):
    """The same result as `weakseg predict --blocks` writes it, of an image outside a sequence."""
    pytest.importorskip("zarr")
    labels = read_image(result / "mask000.tif")[0]
    folder = result.with_name("blocks")
    chunks = (4, 5, 6)
    create_ome_zarr(folder / "mask_embryo.ome.zarr", labels.shape, chunks, np.uint32, VOXEL)[:] = labels
    shutil.copy(result / "boxes000.csv", folder / "boxes_embryo.csv")
    return folder


def test_masks_of_blocks_are_read_like_a_tiff(tmp_path, result, of_blocks, labels):
    sequence = result.with_name("01")
    written = export(of_blocks, tmp_path / "blocks", sequence / "t000.tif", progress=False)
    assert [path.name for path in written] == [
        "labels_embryo.tif",
        "cells_embryo.ome.zarr",
        "measurements.csv",
    ]
    np.testing.assert_array_equal(read_image(written[0])[0], labels)
    export(result, tmp_path / "whole", sequence, ["csv"], progress=False)
    rows = [path.read_text().split("\n") for path in (written[2], tmp_path / "whole/measurements.csv")]
    assert [row.replace("embryo,", "0,") for row in rows[0]] == rows[1]
    (_, options, _), (found, _, _), _ = napari_layers(of_blocks, sequence / "t000.tif")
    assert options["name"] == "embryo"
    np.testing.assert_array_equal(found, labels)


def test_masks_of_blocks_become_annotation(of_blocks, labels):
    ((files,),) = (stacks.values() for stacks in find_results(of_blocks).values())
    proposed = propose_from_result(files, labels.shape)
    assert proposed.ids.tolist() == [700, 3] and proposed.has_mask.all()
    np.testing.assert_array_equal(proposed.masks, labels)


def test_masks_larger_than_memory_are_one_line(tmp_path, refused):
    pytest.importorskip("zarr")
    masks = tmp_path / "mask_large.ome.zarr"
    create_ome_zarr(masks, (2**20, 2**15, 2**15), (64, 256, 256), np.uint32, VOXEL)  # 4 PB of zeros
    with refused(masks, "does not fit into memory"):
        export(tmp_path, tmp_path / "out", progress=False)


def test_napari_layers(result, labels, image):
    layers = napari_layers(result, result.with_name("01"))
    assert [kind for _, _, kind in layers] == ["image", "labels", "shapes"]
    assert all(options["scale"] == VOXEL and options["visible"] for _, options, _ in layers)
    np.testing.assert_array_equal(layers[0][0], image)
    np.testing.assert_array_equal(layers[1][0], labels)
    rectangles, options, _ = layers[2]
    assert options["features"]["id"].tolist() == [700, 700, 3, 3]  # as in the table, a rectangle each slice
    assert rectangles[:, 0, 0].tolist() == [4, 5, 1, 2]
    # The box of id 3 starts at y = 2.25, which is a quarter into the voxel that napari centres on 2.
    assert rectangles[2].min(0).tolist() == [1, 1.75, 2.5] and rectangles[2].max(0).tolist() == [1, 4.5, 6.5]
    assert [kind for _, _, kind in napari_layers(result)] == ["labels", "shapes"]
    assert napari_layers(result, frames=[1]) == []
