import csv
from types import SimpleNamespace

import numpy as np
import pytest

from weakseg_lib.data.stacks import write_tiff
from weakseg_lib.jobs import COLUMNS, list_jobs, write_boxes
from weakseg_lib.result_files import read_boxes


@pytest.fixture
def image(tmp_path):
    """A function: a name to the path of a small TIFF."""

    def make(name):
        write_tiff(tmp_path / name, np.arange(60).reshape(3, 4, 5).astype(np.uint8), (1, 1, 1))
        return tmp_path / name

    return make


def outputs(jobs, out):
    return [(str(job.mask.relative_to(out)), str(job.boxes.relative_to(out))) for job in jobs]


def test_one_sequence_goes_into_the_folder_itself(make_sequence, tmp_path):
    sequence, out = make_sequence(frames=2), tmp_path / "out"
    jobs = list_jobs([sequence], out)
    assert outputs(jobs, out) == [("mask000.tif", "boxes000.csv"), ("mask001.tif", "boxes001.csv")]
    assert [job.read().name for job in jobs] == ["01/t000", "01/t001"]
    assert not out.exists()  # nothing is made before there is something to write


def test_several_sequences_get_folders_of_the_challenge(make_sequence, image, tmp_path):
    first, second, third = make_sequence("a"), make_sequence("b"), image("c/02/t005.tif").parent
    out = tmp_path / "out"
    names = [mask for mask, _ in outputs(list_jobs([first, third], out), out)]
    assert names == ["01_RES/mask000.tif", "02_RES/mask005.tif"]
    # Two with the same name are told apart by the data set.
    names = [mask for mask, _ in outputs(list_jobs([first, second, third], out), out)]
    assert names == ["a_01_RES/mask000.tif", "b_01_RES/mask000.tif", "02_RES/mask005.tif"]


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("t012.tif", "mask012.tif"),  # the challenge's name, so that the truth of its frame is found
        ("t1234.tif", "mask1234.tif"),
        ("embryo.tif", "mask_embryo.tif"),
        ("embryo.ome.tif", "mask_embryo.tif"),
        ("t12.tiff", "mask_t12.tif"),
        ("a.b.tif", "mask_a.b.tif"),
    ],
)
def test_single_images(image, tmp_path, name, mask):
    (job,) = list_jobs([image(name)], tmp_path / "out")
    assert job.mask == tmp_path / "out" / mask and job.boxes.suffix == ".csv"
    assert job.boxes.stem == mask[:-4].replace("mask", "boxes")
    assert job.read().image.shape == (3, 4, 5)


@pytest.mark.parametrize("ending", ["nd2", "czi"])
def test_images_in_a_microscopes_own_form(image, tmp_path, ending):
    (job,) = list_jobs([image(f"embryo.{ending}")], tmp_path / "out")
    assert job.mask.name == "mask_embryo.tif"


def test_the_same_result_twice_is_refused(image, tmp_path, refused):
    out = tmp_path / "out"
    with refused(out / "mask_x.tif", "two of the inputs", "different folders"):
        list_jobs([image("a/x.tif"), image("b/x.tif")], out)


def test_missing_inputs(tmp_path, refused):
    with refused(tmp_path / "none.tif", "no such file"):
        list_jobs([tmp_path / "none.tif"], tmp_path)
    (tmp_path / "empty").mkdir()
    with refused(tmp_path / "empty", "no images tNNN.tif"):
        list_jobs([tmp_path / "empty"], tmp_path)


def test_boxes_come_back_as_the_evaluation_reads_them(tmp_path):
    found = SimpleNamespace(
        ids=np.array([1, 2]),
        boxes=np.array([[0.004, 1.25, 2, 3.5, 10.123, 20], [5, 6, 7, 8, 9, 10]], np.float32),
        classes=np.array([1, 2]),
        scores=np.array([0.98765, 0.5]),
    )
    write_boxes(tmp_path / "made/boxes000.csv", found)
    with open(tmp_path / "made/boxes000.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[1]["class"], rows[0]["score"]) == ("2", "0.9877")
    ids, boxes = read_boxes(tmp_path / "made/boxes000.csv")
    assert ids.tolist() == [1, 2]
    np.testing.assert_allclose(boxes, found.boxes, atol=0.005)  # hundredths of a voxel are written


def test_a_table_without_instances(tmp_path):
    none = SimpleNamespace(ids=[], boxes=np.zeros((0, 6)), classes=[], scores=[])
    write_boxes(tmp_path / "boxes000.csv", none)
    assert read_boxes(tmp_path / "boxes000.csv")[1].shape == (0, 6)
