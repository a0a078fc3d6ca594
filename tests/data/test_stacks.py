import json
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

from weakseg_lib.data.axes import choose_volume
from weakseg_lib.data.ome_zarr_write import write_ome_zarr
from weakseg_lib.data.stacks import Sequence, frame_name, read_image, read_labels, read_stack, write_tiff
from weakseg_lib.data.tiff import tiff_header
from weakseg_lib.errors import InputError

VOXEL = (0.2, 0.125, 0.09)
SIZES = ("PhysicalSizeZ", "PhysicalSizeY", "PhysicalSizeX")
REAL = Path(__file__).parents[3] / "shared/data/bbbc050/Images/train/Images/Emb01_t301.tif"


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 60000, (6, 20, 30)).astype(np.uint16)


def save(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


# Writing, and reading back what was written.


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int16", "int32", "uint32"])
def test_what_is_written_comes_back(tmp_path, dtype):
    array = np.arange(5 * 7 * 9).reshape(5, 7, 9).astype(dtype)
    array[0, 0, 0] = 0 if dtype.startswith("u") else 3
    if dtype in ("int16", "int32"):
        array[1, 1, 1] = -5
    if dtype == "uint32":
        array[1, 1, 1] = 70000
    write_tiff(tmp_path / "made/here/t000.tif", array, VOXEL)
    back, voxel_size = read_image(tmp_path / "made/here/t000.tif")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert voxel_size == VOXEL  # exactly: the digits beyond the seventh are rounded away


@pytest.mark.parametrize("dtype", [np.int32, np.int64, bool])
def test_labels_are_written_small(tmp_path, dtype):
    labels = (np.arange(60).reshape(3, 4, 5) // 20).astype(dtype)
    write_tiff(tmp_path / "mask.tif", labels, VOXEL)
    assert tifffile.imread(tmp_path / "mask.tif").dtype == (np.uint8 if dtype is bool else np.uint16)
    back = read_labels(tmp_path / "mask.tif", (3, 4, 5))
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, labels)


def test_what_a_tiff_cannot_hold_is_an_error_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="32 bits"):
        write_tiff(tmp_path / "a.tif", np.full((2, 3, 4), 2**40), VOXEL)
    with pytest.raises(ValueError, match="shape"):
        write_tiff(tmp_path / "a.tif", np.zeros((3, 4)), VOXEL)
    assert not list(tmp_path.iterdir())


def test_other_programs_see_an_imagej_stack(tmp_path, image):
    write_tiff(tmp_path / "a.tif", image, VOXEL)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.series[0].axes == "ZYX"
        assert tif.imagej_metadata["spacing"] == 0.2 and tif.imagej_metadata["unit"] == "um"
        pixels, per = tif.pages[0].tags["XResolution"].value
        assert pixels / per == pytest.approx(1 / 0.09, rel=1e-7)  # a ratio of 32-bit integers
    write_tiff(tmp_path / "b.tif", image, VOXEL)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


# Voxel size.


@pytest.mark.parametrize(
    ("metadata", "resolution", "expected"),
    [
        ({"spacing": 0.5, "unit": "um"}, (8, 4), (0.5, 0.25, 0.125)),
        ({"spacing": 0.5, "unit": "micron"}, (8, 4), (0.5, 0.25, 0.125)),
        ({"spacing": 0.5, "unit": "\\u00B5m"}, (8, 4), (0.5, 0.25, 0.125)),
        ({"spacing": 500.0, "unit": "nm"}, (0.008, 0.004), (0.5, 0.25, 0.125)),
        ({"spacing": 0.0005, "unit": "mm"}, (8000, 4000), (0.5, 0.25, 0.125)),
        ({"spacing": 0.5, "unit": "um", "yunit": "nm", "zunit": "mm"}, (8, 0.004), (500.0, 0.25, 0.125)),
        ({"spacing": 0.5, "unit": "um", "yunit": "pixel"}, (8, 4), None),
        ({"unit": "um"}, (8, 4), (1.0, 0.25, 0.125)),  # ImageJ leaves a spacing of exactly 1 out
        ({"spacing": 0.5, "unit": "pixel"}, (8, 4), None),
        ({"spacing": 0.5}, (8, 4), None),
        ({"spacing": 0.5, "unit": "inch"}, (72, 72), None),  # what ImageJ calls a screen's resolution
    ],
)
def test_voxel_size_of_imagej_files(tmp_path, image, metadata, resolution, expected):
    path = save(
        tmp_path / "a.tif", image, imagej=True, metadata=metadata | {"axes": "ZYX"}, resolution=resolution
    )
    assert read_image(path)[1] == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"PhysicalSizeZ": 0.3, "PhysicalSizeY": 0.1, "PhysicalSizeX": 0.1}, (0.3, 0.1, 0.1)),
        (
            {"PhysicalSizeZ": 300, "PhysicalSizeZUnit": "nm", "PhysicalSizeY": 0.1, "PhysicalSizeX": 0.1},
            (0.3, 0.1, 0.1),
        ),
        ({"PhysicalSizeY": 0.1, "PhysicalSizeX": 0.1}, None),
        (
            {"PhysicalSizeZ": 3, "PhysicalSizeZUnit": "pixel", "PhysicalSizeY": 0.1, "PhysicalSizeX": 0.1},
            None,
        ),
    ],
)
def test_voxel_size_of_ome_tiffs(tmp_path, image, metadata, expected):
    path = save(tmp_path / "a.ome.tif", image, metadata=metadata | {"axes": "ZYX"})
    assert read_image(path)[1] == expected


def test_an_ome_tiff_whose_metadata_are_broken_has_no_voxel_size(tmp_path, image):
    xml = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image></OME>'
    path = save(tmp_path / "a.ome.tif", image, description=xml, metadata=None)
    back, voxel_size = read_image(path)
    np.testing.assert_array_equal(back, image)
    assert voxel_size is None


def test_voxel_size_given_by_hand_goes_before_the_file_and_that_before_the_dataset(tmp_path, image):
    (tmp_path / "dataset.json").write_text('{"voxel_size_um": [3, 2, 1]}')
    bare = save(tmp_path / "bare.tif", image)
    write_tiff(tmp_path / "calibrated.tif", image, VOXEL)
    assert read_stack(bare).voxel_size == (3, 2, 1)
    assert read_stack(tmp_path / "calibrated.tif").voxel_size == VOXEL
    assert read_stack(tmp_path / "calibrated.tif", voxel_size=(4, 5, 6)).voxel_size == (4, 5, 6)


def test_missing_voxel_size_says_both_ways_to_give_it(tmp_path, image, refused):
    path = save(tmp_path / "a.tif", image)
    with refused(path, "no voxel size", "--voxel-size Z Y X", f"in {tmp_path / 'dataset.json'} as"):
        read_stack(path)
    save(tmp_path / "t000.tif", image)  # the frame of a sequence
    with refused(tmp_path / "t000.tif", f"in {tmp_path.parent / 'dataset.json'} as"):
        read_stack(tmp_path / "t000.tif")


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, -1, 1), (1, 1), (1, 1, float("nan")), "abc"])
def test_wrong_voxel_size(tmp_path, image, refused, wrong):
    path = save(tmp_path / "a.tif", image)
    with refused(path, "voxel size", "--voxel-size Z Y X", "dataset.json"):
        read_stack(path, voxel_size=wrong)


def test_zero_voxel_size_in_the_file_or_the_dataset(tmp_path, image, refused):
    metadata = {"axes": "ZYX", "spacing": 0.0, "unit": "um"}
    path = save(tmp_path / "a.tif", image, imagej=True, metadata=metadata, resolution=(8, 8))
    with refused(path, "voxel size", "--voxel-size Z Y X"):
        read_stack(path)
    path = save(tmp_path / "b.tif", image)
    dataset = tmp_path / "dataset.json"
    dataset.write_text('{"voxel_size_um": [0, 1, 1]}')
    with refused(dataset, "voxel size", "--voxel-size Z Y X"):
        read_stack(path)
    dataset.write_text("{")
    with refused(dataset, "JSON"):
        read_stack(path)


# Images that are not one 3D stack of one channel.


@pytest.mark.parametrize(
    ("axes", "shape", "words"),
    [
        ("YX", (20, 30), ("2D", "3D stack")),
        ("TYX", (5, 20, 30), ("time series of 2D images", "ImageJ")),
        ("CYX", (2, 20, 30), ("2 channels", "--channel N")),
        ("ZCYX", (5, 2, 20, 30), ("2 channels", "--channel N")),
        ("TZCYX", (3, 5, 2, 20, 30), ("2 channels", "--channel N")),
        ("TZYX", (3, 5, 20, 30), ("4D", "3 time points", "`--frame T`", "0..2")),
        ("ZYXS", (5, 20, 30, 3), ("colour", "grey")),
        ("YXS", (20, 30, 3), ("colour", "grey")),
    ],
)
def test_imagej_files_that_are_not_one_stack(tmp_path, refused, axes, shape, words):
    array = np.zeros(shape, np.uint8 if "S" in axes else np.uint16)
    path = save(tmp_path / "a.tif", array, imagej=True, metadata={"axes": axes})
    with refused(path, *words):
        read_image(path)


@pytest.mark.parametrize(
    ("axes", "shape", "words"),
    [
        ("CZYX", (2, 5, 20, 30), ("2 channels", "--channel N")),
        ("TZYX", (3, 5, 20, 30), ("4D", "`--frame T`")),
    ],
)
def test_ome_tiffs_that_are_not_one_stack(tmp_path, refused, axes, shape, words):
    path = save(tmp_path / "a.ome.tif", np.zeros(shape, np.uint16), metadata={"axes": axes})
    with refused(path, *words):
        read_image(path)


def test_plain_files_that_are_not_one_stack(tmp_path, refused):
    with refused(save(tmp_path / "a.tif", np.zeros((20, 30), np.uint16)), "2D"):
        read_image(tmp_path / "a.tif")
    with refused(save(tmp_path / "b.tif", np.zeros((20, 30, 3), np.uint8)), "colour"):
        read_image(tmp_path / "b.tif")
    with refused(save(tmp_path / "c.tif", np.zeros((2, 2, 5, 20, 30), np.uint8)), "3D stack"):
        read_image(tmp_path / "c.tif")
    with tifffile.TiffWriter(tmp_path / "d.tif") as tif:
        tif.write(np.zeros((5, 20, 30), np.uint8))
        tif.write(np.ones((7, 20, 30), np.uint8))
    with refused(tmp_path / "d.tif", "2 separate images"):
        read_image(tmp_path / "d.tif")


@pytest.mark.parametrize("imagej", [True, False])
def test_frame_picks_a_time_point(tmp_path, refused, imagej):
    movie = np.arange(3 * 5 * 8 * 9, dtype=np.uint16).reshape(3, 5, 8, 9)
    path = save(
        tmp_path / "a.tif", movie, **({"imagej": True, "metadata": {"axes": "TZYX"}} if imagej else {})
    )
    np.testing.assert_array_equal(read_image(path, frame=2)[0], movie[2])
    for frame in (3, -1):
        with refused(path, f"no frame {frame}", "0..2"):
            read_image(path, frame=frame)
    single = save(tmp_path / "b.tif", movie[0])
    np.testing.assert_array_equal(read_image(single, frame=0)[0], movie[0])
    with refused(single, "no frame 1"):
        read_image(single, frame=1)


# Channels and axes: asked, not guessed.


def test_one_channel_of_several_by_its_name(tmp_path, refused):
    channels = np.arange(2 * 5 * 8 * 9, dtype=np.uint16).reshape(2, 5, 8, 9)
    metadata = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    path = save(tmp_path / "a.ome.tif", channels, metadata=metadata)
    with refused(path, "2 channels", "0 DAPI, 1 GFP", "`weakseg import FILE", "--channel N", "N = 0..1"):
        read_image(path)
    for channel in (0, 1):
        np.testing.assert_array_equal(read_image(path, channel=channel)[0], channels[channel])
    for channel in (2, -1):
        with refused(path, f"no channel {channel}", "0..1"):
            read_image(path, channel=channel)
    single = save(tmp_path / "b.tif", channels[0])
    np.testing.assert_array_equal(read_image(single, channel=0)[0], channels[0])
    with refused(single, "no channel 1", "leave `--channel` out"):
        read_image(single, channel=1)


def test_a_colour_is_a_channel(tmp_path):
    colours = np.arange(4 * 8 * 9 * 3, dtype=np.uint8).reshape(4, 8, 9, 3)
    path = save(tmp_path / "a.tif", colours, photometric="rgb")
    np.testing.assert_array_equal(read_image(path, channel=2)[0], colours[..., 2])


@pytest.mark.parametrize("order", ["XYZ", "YXZ", "XZY", "yxz"])
def test_axes_in_another_order_are_asked(tmp_path, image, refused, order):
    places = ["ZYX".index(axis) for axis in order.upper()]
    path = save(tmp_path / "a.tif", np.ascontiguousarray(image.transpose(places)))
    shape = " x ".join(map(str, tifffile.imread(path).shape))
    # Which of the other two is x is not to be seen: what is advised has the right z.
    advised = "YZX" if order == "XZY" else "YXZ"
    with refused(
        path, f"shape {shape}, axes not named", f"`weakseg import FILE --out NAME/01 --axes {advised} --v"
    ):
        read_image(path)
    back, voxel_size = read_image(path, axes=order)
    np.testing.assert_array_equal(back, image)
    assert voxel_size is None


def test_axes_that_a_file_says_wrongly(tmp_path, image, refused):
    path = save(
        tmp_path / "a.tif", image, imagej=True, metadata={"axes": "TYX", "unit": "um"}, resolution=(8, 8)
    )
    with refused(path, "time series of 2D images", "--axes ZYX --voxel-size Z Y X"):
        read_image(path)
    back, voxel_size = read_image(path, axes="ZYX")
    np.testing.assert_array_equal(back, image)
    assert voxel_size is None  # the spacing of time points is not that of slices
    write_tiff(tmp_path / "b.tif", image, VOXEL)
    assert read_image(tmp_path / "b.tif", axes="ZYX")[1] == VOXEL
    for wrong in ("ZY", "ZYXT", "ZZYX", "TYX", "ZYQ", ""):
        with refused(path, f"`--axes {wrong}` does not go with it", "shape 6 x 20 x 30", "Z, Y, X"):
            read_image(path, axes=wrong)


def test_axes_that_overrule_a_files_names_are_named(tmp_path, image, refused):
    write_tiff(tmp_path / "a.tif", image, VOXEL)
    words = r"a\.tif: names its axes itself, ZYX, and YXZ is taken, without the file's voxel size; leave `--axes` out"
    with (
        pytest.warns(UserWarning, match=words),
        refused(tmp_path / "a.tif", "has no voxel size for axes YXZ", "--voxel-size Z Y X"),
    ):
        read_stack(tmp_path / "a.tif", axes="YXZ")
    write_tiff(tmp_path / "a.tif", image, (0.5, 0.25, 0.25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_stack(tmp_path / "a.tif", axes="ZYX").voxel_size == (0.5, 0.25, 0.25)


def test_lengths_of_an_imagej_file_without_names_go_with_their_axes(tmp_path, image):
    """Its images are one axis without a name; `spacing` is between images, the resolution within them."""
    text = "ImageJ=1.53t\nimages=6\nunit=um\nspacing=2.0\n"
    path = save(
        tmp_path / "a.tif",
        image,
        description=text,
        metadata=None,
        resolution=(4, 2),
        photometric="minisblack",
    )
    assert read_image(path)[1] == read_image(path, axes="ZYX")[1] == (2.0, 0.5, 0.25)
    for order in ("YXZ", "YZX", "ZXY", "XYZ"):
        assert read_image(path, axes=order)[1] is None


def test_the_only_stack_of_a_file_and_its_voxel_size(tmp_path, image):
    """An overview comes first, as some microscopes write it; its pixels are others."""
    lengths = ({"PhysicalSizeY": 5, "PhysicalSizeX": 5}, dict(zip(SIZES, VOXEL, strict=True)))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(image[0], metadata={"axes": "YX"} | lengths[0])
        tif.write(image, metadata={"axes": "ZYX"} | lengths[1])
    volume, voxel_size = read_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(volume, image)
    assert voxel_size == VOXEL
    assert tiff_header(tmp_path / "a.ome.tif") == (image.shape, VOXEL)


def test_channels_and_colours_cannot_both_be_chosen(tmp_path, refused):
    both = np.arange(2 * 4 * 8 * 9 * 3, dtype=np.uint8).reshape(2, 4, 8, 9, 3)
    path = save(tmp_path / "a.ome.tif", both, photometric="rgb", metadata={"axes": "CZYXS"})
    for channel in (None, 1):
        with refused(path, "colour image", "one grey image a channel"):
            read_image(path, channel=channel)
    # With a single channel the colours are what can be chosen.
    index, _ = choose_volume("CZYXS", (1, 4, 8, 9, 3), path, channel=1)
    np.testing.assert_array_equal(both[:1][index], both[0, ..., 1])


@pytest.mark.parametrize(
    "form", ["plain", "zlib", "imagej", "one page", "colours", "planar", "ome", "channels"]
)
def test_only_what_is_asked_for_is_read_and_kept(tmp_path, form):
    """A film of 20 time points: one costs one, and nothing of the others stays in memory."""
    film = np.random.default_rng(0).integers(0, 60000, (20, 6, 100, 110), dtype=np.uint16)
    options, asked, expected = {}, {"frame": 7}, film[7]
    if form == "zlib":
        options |= {"compression": "zlib"}
    elif form in ("imagej", "one page"):
        options = {"imagej": True, "metadata": {"axes": "TZYX"}}
    elif form == "ome":
        options = {"ome": True, "compression": "zlib", "metadata": {"axes": "TZYX"}}
    elif form == "channels":
        film = film.reshape(10, 6, 2, 100, 110)
        options, asked, expected = (
            {"imagej": True, "metadata": {"axes": "TZCYX"}},
            {"frame": 7, "channel": 1},
            film[7, :, 1],
        )
    elif form in ("colours", "planar"):
        film = film.reshape(40, 3, 100, 110) if form == "planar" else film.reshape(40, 100, 110, 3)
        options |= {"photometric": "rgb", "planarconfig": "separate" if form == "planar" else "contig"}
        asked, expected = {"channel": 1}, film[:, 1] if form == "planar" else film[..., 1]
    path = save(tmp_path / "a.tif", film, **options)
    if form == "one page":  # as ImageJ writes a film of more than 4 GB
        with tifffile.TiffFile(path, mode="r+b") as tif:
            tif.filehandle.seek(tif.pages[0].offset + 2 + 12 * len(tif.pages[0].tags))
            tif.filehandle.write(b"\0\0\0\0")
        with tifffile.TiffFile(path) as tif:
            assert len(tif.pages) == 1 and tif.series[0].shape == film.shape
    tracemalloc.start()
    try:
        volume, _ = read_image(path, **asked)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(volume, expected)
    assert held < 1.5 * volume.nbytes
    if form not in ("colours", "planar"):  # a page holds all of its colours
        assert peak < 3 * volume.nbytes < film.nbytes / 2


def test_axes_of_a_file_without_names(tmp_path):
    movie = np.random.default_rng(0).integers(0, 9, (3, 2, 5, 8, 9)).astype(np.uint8)
    path = save(tmp_path / "a.tif", movie)
    back, _ = read_image(path, frame=2, channel=1, axes="TCZYX")
    np.testing.assert_array_equal(back, movie[2, 1])


def test_an_ome_zarr_in_another_order_is_asked(tmp_path, image, refused):
    pytest.importorskip("zarr")
    write_ome_zarr(tmp_path / "a.zarr", image.transpose(2, 1, 0), voxel_size=VOXEL[::-1])
    attributes = json.loads((tmp_path / "a.zarr/.zattrs").read_text())
    attributes["multiscales"][0]["axes"].reverse()
    (tmp_path / "a.zarr/.zattrs").write_text(json.dumps(attributes))
    with refused(tmp_path / "a.zarr", "in the order XYZ", "`weakseg import FILE --out NAME/01 --axes XYZ`"):
        read_image(tmp_path / "a.zarr")
    back, voxel_size = read_image(tmp_path / "a.zarr", axes="XYZ")
    np.testing.assert_array_equal(back, image)
    assert voxel_size == VOXEL


# Files that are damaged, or other things.


def test_missing_file_folder_and_other_formats(tmp_path, refused):
    with refused(tmp_path / "no.tif", "no such file", "check the name"):
        read_image(tmp_path / "no.tif")
    with refused(tmp_path, "is a folder", "2D slices"):
        read_image(tmp_path)
    others = {
        "a.png": (b"\x89PNG\r\n\x1a\n", "no TIFF file, it is a PNG"),
        "b.tif": (b"\xff\xd8\xff\xe0\x00", "no TIFF file, it is a JPEG"),
        "c.tif": (b"", "is empty"),
        "d.tif": (b"hello", "no TIFF file ;"),
    }
    for name, (content, words) in others.items():
        (tmp_path / name).write_bytes(content)
        with refused(tmp_path / name, words.replace(" ;", ";")):
            read_image(tmp_path / name)


def write_like(path, image, kind):
    options = {
        "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
        "imagej zlib": {"imagej": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
        "plain": {},
        "plain zlib": {"compression": "zlib"},
        "ome": {"metadata": {"axes": "ZYX"}, "ome": True},
        "tiled": {"tile": (16, 16), "compression": "zlib"},
        "big": {"bigtiff": True, "metadata": None},
    }
    if kind in options:
        return save(path, image, **options[kind])
    with tifffile.TiffWriter(path) as tif:
        for plane in image:
            tif.write(plane, contiguous=False, metadata=None)
    return path


KINDS = ["imagej", "imagej zlib", "plain", "plain zlib", "ome", "tiled", "big", "pages"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_tiff_is_refused_wherever_it_is_cut(tmp_path, image, refused, kind):
    """tifffile alone reads some of these as fewer slices, and says so only in its log."""
    whole = write_like(tmp_path / "whole.tif", image, kind).read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "whole.tif")[0], image)
    path = tmp_path / "cut.tif"
    for size in np.linspace(0, len(whole) - 600, 25).astype(int):  # 600: further on only tables may be cut
        path.write_bytes(whole[:size])
        with refused(path, "TIFF" if size < 8 else ""):
            read_image(path)
    for size in range(len(whole) - 600, len(whole), 37):
        path.write_bytes(whole[:size])
        try:
            np.testing.assert_array_equal(read_image(path)[0], image)  # then nothing that matters was lost
        except InputError:
            pass


def test_a_slice_without_data_is_refused_and_not_read_as_zeros(tmp_path, image, refused):
    path = write_like(tmp_path / "a.tif", image, "plain zlib")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[3].tags["StripByteCounts"].overwrite(0)
    assert not tifffile.imread(path)[3].any()  # why the check is needed
    with refused(path, "slice 3"):
        read_image(path)


def test_a_multi_file_ome_tiff_is_read_and_refused_without_one_of_its_files(tmp_path, refused):
    sizes = 'SizeX="30" SizeY="20" SizeZ="2" SizeC="1" SizeT="1"'
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:{z}</UUID></TiffData>'
        for z, name in enumerate(("a.ome.tif", "b.ome.tif"))
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:0">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" {sizes}>{planes}'
        "</Pixels></Image></OME>"
    )
    path = save(tmp_path / "a.ome.tif", np.ones((20, 30), np.uint8), description=xml, metadata=None)
    other = save(tmp_path / "b.ome.tif", np.full((20, 30), 2, np.uint8), description=xml, metadata=None)
    assert read_image(path)[0][:, 0, 0].tolist() == [1, 2]
    other.unlink()
    with refused(path, "lacks some of its slices", "in one folder"):
        read_image(path)


def test_compression_that_needs_another_package(tmp_path, refused, monkeypatch, image):
    def unavailable(*args, **kwargs):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    path = save(tmp_path / "a.tif", image)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", unavailable)
    with refused(path, "pip install imagecodecs"):
        read_image(path)


def test_nothing_is_printed_for_a_damaged_file(tmp_path, image, refused, capfd):
    path = write_like(tmp_path / "a.tif", image, "pages")
    path.write_bytes(path.read_bytes()[:4000])
    with refused(path):
        read_image(path)
    assert capfd.readouterr() == ("", "")


# Values.


def test_bool_and_big_endian_images_are_read(tmp_path, image):
    path = save(tmp_path / "a.tif", image.astype(">u2"), byteorder=">")
    back = read_stack(path, (1, 1, 1)).image
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, image)
    path = save(tmp_path / "b.tif", image > 30000)
    back = read_stack(path, (1, 1, 1)).image
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, image > 30000)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, ("1 voxels are NaN",)), (np.inf, ("infinite",)), (-np.inf, ("infinite",))],
)
def test_nan_and_infinite_voxels(tmp_path, image, refused, value, words):
    bad = image.astype(np.float32)
    bad[1, 2, 3] = value
    path = save(tmp_path / "a.tif", bad)
    with refused(path, *words):
        read_stack(path, (1, 1, 1))


def test_constant_and_complex_images(tmp_path, image, refused):
    path = save(tmp_path / "a.tif", np.full((5, 20, 30), 7, np.uint16))
    with refused(path, "all voxels have the value 7"):
        read_stack(path, (1, 1, 1))
    path = save(tmp_path / "b.tif", image.astype(np.complex64))
    with refused(path, "complex64", "16-bit"):
        read_stack(path, (1, 1, 1))


def test_labels_of_the_wrong_kind(tmp_path, image, refused):
    picture = save(tmp_path / "a.tif", image)
    labels = tmp_path / "labels.tif"
    save(labels, np.ones((6, 20, 30), np.float32))
    with refused(labels, "integers", "float32", "16-bit"):
        read_stack(picture, (1, 1, 1), labels=labels)
    save(labels, np.ones((6, 20, 31), np.uint16))
    with refused(labels, "(6, 20, 31)", "(6, 20, 30)"):
        read_stack(picture, (1, 1, 1), labels=labels)
    save(labels, np.full((6, 20, 30), -1, np.int16))
    with refused(labels, "-1"):
        read_stack(picture, (1, 1, 1), labels=labels)
    with refused(tmp_path / "no.tif", "no such file"):
        read_stack(picture, (1, 1, 1), labels=tmp_path / "no.tif")
    save(labels, (image // 20000).astype(np.uint16))
    stack = read_stack(picture, (1, 1, 1), labels=labels)
    assert stack.labels.dtype == np.int32 and stack.name == "a"
    np.testing.assert_array_equal(stack.labels, image // 20000)


# Sequences.


def make_sequence(root, image, numbers=("000", "001"), labels=None):
    for number in numbers:
        write_tiff(root / f"01/t{number}.tif", image, VOXEL)
        if labels is not None:
            write_tiff(root / f"01_GT/SEG/man_seg{number}.tif", labels, VOXEL)
    return Sequence(root / "01")


def test_sequence_follows_the_challenges_layout(tmp_path, image):
    sequence = make_sequence(tmp_path, image, ("000", "010"), image // 20000)
    assert sequence.frames == [0, 10] and sequence.name == "01"
    assert sequence.image_path(10) == tmp_path / "01/t010.tif"
    assert sequence.labels_path(10) == tmp_path / "01_GT/SEG/man_seg010.tif"
    assert sequence.weak_boxes_path(10) == tmp_path / "01_WEAK/boxes010.csv"
    assert sequence.weak_masks_path(10) == tmp_path / "01_WEAK/mask010.tif"
    stack = sequence.read(10, with_labels=True)
    assert (stack.name, stack.voxel_size, stack.path) == ("01/t010", VOXEL, tmp_path / "01/t010.tif")
    np.testing.assert_array_equal(stack.labels, image // 20000)
    assert sequence.read(10).labels is None
    assert sequence.read(10, voxel_size=(1, 2, 3)).voxel_size == (1, 2, 3)


def test_four_digits(tmp_path, image):
    assert [frame_name(t) for t in (0, 999, 1000)] == ["000", "999", "1000"]
    assert frame_name(7, 4) == "0007"
    sequence = make_sequence(tmp_path, image, ("0000", "1200"), image // 20000)
    assert sequence.frames == [0, 1200] and sequence.digits == 4
    assert sequence.read(0, with_labels=True).name == "01/t0000"
    assert sequence.weak_boxes_path(0).name == "boxes0000.csv"
    # a companion made by another program with another number of digits is found too
    (tmp_path / "01_GT/SEG/man_seg0000.tif").rename(tmp_path / "01_GT/SEG/man_seg000.tif")
    assert sequence.has_labels(0)


def test_sequence_takes_the_voxel_size_of_its_dataset(tmp_path, image):
    (tmp_path / "01").mkdir()
    save(tmp_path / "01/t000.tif", image)
    (tmp_path / "dataset.json").write_text(json.dumps({"voxel_size_um": [0.2, 0.125, 0.125]}))
    assert Sequence(tmp_path / "01").read(0).voxel_size == (0.2, 0.125, 0.125)


def test_sequences_that_are_none(tmp_path, image, refused):
    with refused(tmp_path / "03", "no such folder", "NAME/01"):
        Sequence(tmp_path / "03")
    make_sequence(tmp_path, image)
    with refused(tmp_path, "no images tNNN.tif", "01"):
        Sequence(tmp_path)
    (tmp_path / "02").mkdir()
    with refused(tmp_path / "02", "no images tNNN.tif", "t000.tif"):
        Sequence(tmp_path / "02")


def test_sequence_in_the_current_folder(tmp_path, image, monkeypatch):
    make_sequence(tmp_path, image, labels=image // 20000)
    monkeypatch.chdir(tmp_path / "01")
    assert Sequence(".").has_labels(0)


def test_missing_frames_and_labels(tmp_path, image, refused):
    sequence = make_sequence(tmp_path, image)
    with refused(tmp_path / "01/t007.tif", "no such frame", "0 to 1"):
        sequence.read(7)
    assert not sequence.has_labels(0)
    with refused(tmp_path / "01_GT/SEG/man_seg000.tif", "no such labels"):
        sequence.read(0, with_labels=True)


def test_sparse_2d_truth_is_called_that(tmp_path, image, refused):
    sequence = make_sequence(tmp_path, image)
    (tmp_path / "01_GT/SEG").mkdir(parents=True)
    save(tmp_path / "01_GT/SEG/man_seg_000_003.tif", image[3])
    assert not sequence.has_labels(0)
    with refused(tmp_path / "01_GT/SEG", "single 2D slices", "3D labels"):
        sequence.read(0, with_labels=True)
    with refused(tmp_path / "01_GT/SEG/man_seg001.tif", "no such labels"):
        sequence.read(1, with_labels=True)


@pytest.mark.skipif(not REAL.exists(), reason=f"the real data are not here: {REAL}")
def test_a_real_stack():
    stack = read_stack(REAL, voxel_size=(1.75, 0.8, 0.8))
    assert stack.image.shape == (51, 124, 127) and stack.image.dtype == np.uint16
