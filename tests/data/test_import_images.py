import numpy as np
import pytest
import tifffile
from skimage.io import imsave

from weakseg_lib.cli import main
from weakseg_lib.data.files import read_json
from weakseg_lib.data.import_images import import_images
from weakseg_lib.data.slices import natural
from weakseg_lib.data.stacks import Sequence, write_tiff

VOXEL = (0.5, 0.25, 0.25)


@pytest.fixture
def stacks():
    """(3, D, H, W) uint16: three stacks."""
    return np.random.default_rng(0).integers(100, 3000, (3, 5, 8, 9)).astype(np.uint16)


@pytest.fixture
def files(tmp_path, stacks):
    """A folder of the three as img1.tif, img2.tiff and img10.ome.tif."""
    write_tiff(tmp_path / "raw/img1.tif", stacks[0], VOXEL)
    write_tiff(tmp_path / "raw/img2.tiff", stacks[1], VOXEL)
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeX": 0.25}
    tifffile.imwrite(tmp_path / "raw/img10.ome.tif", stacks[2], metadata=metadata)
    (tmp_path / "raw/notes.txt").write_text("not an image")
    return tmp_path / "raw"


def test_a_folder_becomes_a_sequence_and_says_what_it_is(tmp_path, files, stacks):
    said = []
    sequence = import_images([files], tmp_path / "data/01", tell=said.append)
    assert sequence.frames == [0, 1, 2]
    for t in range(3):
        stack = sequence.read(t)
        np.testing.assert_array_equal(stack.image, stacks[t])
        assert stack.voxel_size == VOXEL
    low, high = stacks[2].min(), stacks[2].max()
    expected = f"5 x 8 x 9 voxels (Z x Y x X) of 0.5 x 0.25 x 0.25 um, uint16, values {low} to {high}"
    assert said[2] == f"t002.tif from img10.ome.tif: {expected}"
    dataset = read_json(tmp_path / "data/dataset.json")
    assert dataset["voxel_size_um"] == list(VOXEL)
    assert dataset["imported"]["01/t002.tif"] == {"file": str(files / "img10.ome.tif")}


def test_an_import_never_replaces_and_adds_only_when_asked(tmp_path, files, stacks, refused, snapshot):
    out = tmp_path / "data/01"
    import_images([files / "img1.tif"], out, tell=None)
    (out.parent / "dataset.json").write_text('{"voxel_size_um": [3, 2, 1], "about": "mine"}')
    before = snapshot(out.parent)
    with refused(out, "holds images already (1)", "`--append`"):
        import_images([files / "img2.tiff"], out)
    assert snapshot(out.parent) == before
    with pytest.warns(UserWarning, match=r"new images of 0\.5 x .*, and .*dataset\.json says 3 x 2 x 1 um"):
        sequence = import_images([files / "img2.tiff"], out, append=True, tell=None)
    assert sequence.frames == [0, 1] and (out / "t000.tif").read_bytes() == before["01/t000.tif"]
    np.testing.assert_array_equal(sequence.read(1).image, stacks[1])
    dataset = read_json(out.parent / "dataset.json")
    assert dataset["voxel_size_um"] == [3, 2, 1] and dataset["about"] == "mine"
    assert sequence.read(1).voxel_size == VOXEL  # the image's own goes first


def test_all_or_none(tmp_path, files, refused):
    (files / "img3.tif").write_bytes(b"hello")
    said = []
    with refused(files / "img3.tif", "no TIFF"):
        import_images([files], tmp_path / "data/01", tell=said.append)
    assert not said and not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    with refused(files / "img3.tif", "no TIFF"):
        import_images([files], tmp_path / "data/01", tell=None)
    assert (tmp_path / "data").exists() and not (tmp_path / "data/01").exists()


def test_the_data_sets_voxel_size_is_that_of_images_without_one(tmp_path, stacks, refused):
    tifffile.imwrite(tmp_path / "a.tif", stacks[0])
    dataset = tmp_path / "data/dataset.json"
    with refused(tmp_path / "a.tif", "no voxel size", f"or in {dataset} as"):
        import_images(tmp_path / "a.tif", tmp_path / "data/01", tell=None)
    dataset.parent.mkdir()
    dataset.write_text('{"voxel_size_um": [0.4, 0.25, 0.25]}')
    sequence = import_images(tmp_path / "a.tif", tmp_path / "data/01", tell=None)
    assert sequence.read(0).voxel_size == (0.4, 0.25, 0.25)
    (tmp_path / "dataset.json").write_text('{"voxel_size_um": [0.5, 0.25, 0.25]}')  # beside the image
    with pytest.warns(UserWarning, match=r"data/02: .*0\.5 x .*dataset\.json says 0\.4 x"):
        assert import_images(tmp_path / "a.tif", tmp_path / "data/02").read(0).voxel_size == (0.5, 0.25, 0.25)


@pytest.fixture(params=["png", "tif"])
def slices(tmp_path, stacks, request):
    """A folder with the slices of the first stack, z0 to z4, or s8 to s12."""
    folder = tmp_path / "slices"
    folder.mkdir()
    for z, image in enumerate(stacks[0]):
        if request.param == "png":
            imsave(folder / f"s{8 + z}.png", image, check_contrast=False)
        else:
            tifffile.imwrite(folder / f"z{z}.tif", image)
    return folder


def test_a_folder_of_slices_is_one_stack(tmp_path, slices, stacks, refused):
    where = slices if list(slices.glob("*.png")) else slices / "z0.tif"
    with refused(where, "2D image", "`weakseg import FOLDER --out NAME/01 --slices --voxel-size Z Y X`"):
        import_images(slices, tmp_path / "data/01", tell=None)
    with refused(slices, "has no voxel size"):
        import_images(slices, tmp_path / "data/01", slices=True, tell=None)
    sequence = import_images(slices, tmp_path / "data/01", slices=True, voxel_size=VOXEL, tell=None)
    assert sequence.frames == [0]
    np.testing.assert_array_equal(sequence.read(0).image, stacks[0])


def test_images_that_are_not_the_slices_of_one_stack(tmp_path, slices, stacks, refused):
    one = sorted(slices.iterdir(), key=natural)[2]
    options = {"slices": True, "voxel_size": VOXEL, "tell": None}
    with refused(one, "is no folder of slices", "`--slices`"):
        import_images(one, tmp_path / "data/01", **options)
    with refused(slices, "slices of one grey stack", "`--channel`"):
        import_images(slices, tmp_path / "data/01", channel=1, **options)
    content = one.read_bytes()
    for wrong, words in (
        (stacks[0, 0, 1:], "7 x 9 pixels (uint16), and "),
        (np.zeros((8, 9, 3), np.uint8), ""),
    ):
        imsave(one, wrong, check_contrast=False)
        with refused(one, words):
            import_images(slices, tmp_path / "data/01", **options)
    one.write_bytes(b"hello")
    with refused(one):
        import_images(slices, tmp_path / "data/01", **options)
    (slices / f"projection{one.suffix}").write_bytes(content)
    with refused(slices, "more than the number of the slice", "one stack"):
        import_images(slices, tmp_path / "data/01", **options)
    (slices / f"projection{one.suffix}").unlink()
    one.unlink()
    with refused(slices, "and no slice", "without a gap"):
        import_images(slices, tmp_path / "data/01", **options)
    assert not (tmp_path / "data").exists()


def test_places_that_are_not_for_images(tmp_path, files, refused):
    for name in ("01_GT", "01_WEAK", "01_RES"):
        with refused(tmp_path / name, "not of images", "NAME/01"):
            import_images([files], tmp_path / name)
    with refused(tmp_path / "data", "no sequence folder", f"give {tmp_path / 'data/01'}"):
        import_images([files], tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with refused(tmp_path / "empty", "without images", ".nd2"):
        import_images([tmp_path / "empty"], tmp_path / "data/01")


def test_one_channel_of_axes_that_are_given(tmp_path, stacks):
    mixed = np.stack([stacks[0], stacks[1]]).transpose(2, 3, 1, 0)  # y, x, z, channel
    tifffile.imwrite(tmp_path / "a.tif", mixed, photometric="minisblack")
    options = {"channel": 1, "axes": "yxzc", "voxel_size": VOXEL, "tell": None}
    sequence = import_images([tmp_path / "a.tif"], tmp_path / "data/01", **options)
    np.testing.assert_array_equal(sequence.read(0).image, stacks[1])
    origin = read_json(tmp_path / "data/dataset.json")["imported"]["01/t000.tif"]
    assert origin == {"file": str(tmp_path / "a.tif"), "channel": 1, "axes": "yxzc"}


def test_the_files_of_one_stack_are_one_frame(tmp_path, stacks, refused):
    """Micro-Manager writes a stack as a folder of OME-TIFFs, each of which describes the whole."""
    names = [f"s_Z{z}.ome.tif" for z in range(len(stacks[0]))]
    places = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:{z}</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    for z, name in enumerate(names):
        description = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:{z}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="9" SizeY="8" SizeZ="5" SizeC="1" SizeT="1">{places}</Pixels></Image></OME>'
        )
        (tmp_path / "raw").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "raw" / name, stacks[0, z], description=description, metadata=None)
    write_tiff(tmp_path / "raw/t.tif", stacks[1], VOXEL)
    said = []
    options = {"voxel_size": VOXEL, "tell": said.append, "progress": False}
    sequence = import_images(tmp_path / "raw", tmp_path / "data/01", **options)
    assert sequence.frames == [0, 1]
    for t in sequence.frames:
        np.testing.assert_array_equal(sequence.read(t).image, stacks[t])
    assert said[0] == "s_Z0.ome.tif is one image in 5 files, to s_Z4.ome.tif"
    assert len(said) == 3
    (tmp_path / "raw" / names[3]).unlink()
    with refused(tmp_path / "raw" / names[0], "lacks some of its slices"):
        import_images(tmp_path / "raw", tmp_path / "other/01", **options)


def test_different_voxel_sizes_stay_with_their_images(tmp_path, stacks):
    sizes = (VOXEL, (1.0, 0.25, 0.25))
    for i, size in enumerate(sizes):
        write_tiff(tmp_path / f"raw/{i}.tif", stacks[i], size)
    sequence = import_images([tmp_path / "raw"], tmp_path / "data/01", tell=None)
    assert [sequence.read(t).voxel_size for t in (0, 1)] == list(sizes)
    assert "voxel_size_um" not in read_json(tmp_path / "data/dataset.json")


def test_the_command(tmp_path, files, call, fails, capsys):
    out = tmp_path / "data/01"
    assert call("import", files, "--out", out, "--voxel-size", 1, 0.5, 0.5)[0] == 0
    assert Sequence(out).read(1).voxel_size == (1, 0.5, 0.5)
    assert "`--append`" in fails("import", files, "--out", out)
    assert call("import", files / "img1.tif", "--out", out, "--append")[0] == 0
    capsys.readouterr()
    assert main(["import", str(files / "img1.tif"), "--out", str(tmp_path / "c/01")]) == 0
    assert capsys.readouterr().out.endswith("01: 1 image\n")
    assert Sequence(out).frames == [0, 1, 2, 3]
    assert "no channel 1" in fails("import", files, "--out", tmp_path / "b/01", "--channel", 1)
