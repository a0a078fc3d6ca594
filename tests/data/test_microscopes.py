"""CZI by files that pylibCZIrw writes. No package writes ND2: its axes and lengths are tested by a stand-in for the
open file, with the attributes that nd2.ND2File documents, so a change in nd2 itself would not be noticed here."""

import builtins
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from weakseg_lib.data.microscopes import nd2_volume
from weakseg_lib.data.stacks import read_image, read_stack

VOXEL = (0.5, 0.1, 0.2)  # um, z, y, x
needs_czi = pytest.mark.skipif(
    not __import__("importlib").util.find_spec("pylibCZIrw"), reason="no pylibCZIrw"
)


@pytest.fixture
def movie():
    """(T, C, Z, Y, X) uint16, every voxel another value."""
    return np.arange(1, 2 * 3 * 4 * 5 * 6 + 1, dtype=np.uint16).reshape(2, 3, 4, 5, 6)


def write_czi(path, movie, voxel_size=VOXEL, names=("DAPI", "GFP", "RFP"), scenes=1):
    from pylibCZIrw import czi

    with czi.create_czi(str(path)) as file:
        places = product(*(range(n) for n in movie.shape[:3]))
        for (t, c, z), scene in product(places, range(scenes)):
            more = {"scene": scene, "location": (100 * scene, 0)} if scenes > 1 else {}
            file.write(movie[t, c, z][..., None], plane={"T": t, "C": c, "Z": z}, **more)
        lengths = dict(zip(("scale_z", "scale_y", "scale_x"), (s * 1e-6 for s in voxel_size), strict=True))
        file.write_metadata("test", channel_names=dict(enumerate(names[: movie.shape[1]])), **lengths)
    return path


@needs_czi
def test_czi_volume_and_its_voxel_size(tmp_path, movie):
    path = write_czi(tmp_path / "a.czi", movie[:1, :1])
    volume, voxel_size = read_image(path)
    np.testing.assert_array_equal(volume, movie[0, 0])
    assert volume.dtype == np.uint16 and voxel_size == VOXEL
    assert read_stack(path).name == "a"


@needs_czi
def test_czi_of_several_channels_and_time_points_is_asked(tmp_path, movie, refused):
    path = write_czi(tmp_path / "a.CZI", movie)
    with refused(
        path, "3 channels", "0 DAPI, 1 GFP, 2 RFP", "`weakseg import FILE", "--channel N", "N = 0..2"
    ):
        read_image(path)
    with refused(path, "2 time points", "`--frame T`"):
        read_image(path, channel=2)
    np.testing.assert_array_equal(read_image(path, frame=1, channel=2)[0], movie[1, 2])
    with refused(path, "no channel 3", "0..2"):
        read_image(path, frame=1, channel=3)
    with refused(path, "no frame 2", "0..1"):
        read_image(path, frame=2, channel=0)


@needs_czi
def test_czi_without_lengths_with_scenes_or_of_one_slice(tmp_path, movie, refused):
    bare = write_czi(tmp_path / "bare.czi", movie[:1, :1], (0, 0, 0))
    assert read_image(bare)[1] is None
    with refused(bare, "has no voxel size", "--voxel-size Z Y X"):
        read_stack(bare)
    two = write_czi(tmp_path / "two.czi", movie[:1, :1], scenes=2)
    with refused(two, "2 positions", "file of its own"):
        read_image(two)
    flat = write_czi(tmp_path / "flat.czi", movie[:1, :1, :1])
    with refused(flat, "2D image"):
        read_image(flat)


@needs_czi
def test_colours_of_a_czi_are_red_green_blue(tmp_path, refused):
    from pylibCZIrw import czi

    path = tmp_path / "colour.czi"
    with czi.create_czi(str(path)) as file:
        for z in range(3):
            colours = [np.full((5, 6), value + z, np.uint8) for value in (10, 20, 30)]  # blue, green, red
            file.write(np.stack(colours, -1), plane={"Z": z})
        file.write_metadata("test")
    with refused(path, "colour image", "--channel N"):
        read_image(path)
    assert [read_image(path, channel=c)[0][1, 0, 0] for c in range(3)] == [31, 21, 11]


@needs_czi
def test_damaged_czi(tmp_path, movie, refused):
    whole = write_czi(tmp_path / "a.czi", movie[:1, :1]).read_bytes()
    path = tmp_path / "cut.czi"
    for content in (b"hello", whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with refused(path, "damaged or no CZI"):
            read_image(path)


def test_damaged_nd2(tmp_path, refused):
    pytest.importorskip("nd2")
    path = tmp_path / "a.nd2"
    path.write_bytes(b"hello")
    with refused(path, "damaged or no ND2"):
        read_image(path)


def nd2_file(movie, axes, voxel_size=VOXEL, calibrated=True, recorded=None):
    """What nd2.ND2File shows of `movie`: planes of all channels in the order of its loops, no axes of length 1."""
    loops = axes[: axes.index("C")]
    places = list(np.ndindex(movie.shape[: len(loops)]))
    channel = SimpleNamespace(
        channel=SimpleNamespace(name="DAPI"), volume=SimpleNamespace(axesCalibrated=(True, True, calibrated))
    )
    return SimpleNamespace(
        sizes={axis: n for axis, n in zip(axes, movie.shape, strict=True) if n > 1},
        loop_indices=tuple(dict(zip(loops, place, strict=True)) for place in places),
        read_frame=lambda i: movie[places[i]].squeeze(),
        attributes=SimpleNamespace(sequenceCount=len(places) if recorded is None else recorded),
        metadata=SimpleNamespace(channels=[channel] * movie.shape[axes.index("C")]),
        voxel_size=lambda: voxel_size[::-1],  # x, y, z
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nd2_planes_are_found_in_either_order_of_its_loops(movie, order, refused):
    recorded = np.moveaxis(movie, 1, 2).transpose(*order, 2, 3, 4)  # (T, Z, C, Y, X), or Z before T
    axes = "".join("TZ"[i] for i in order) + "CYX"
    volume, voxel_size = nd2_volume(nd2_file(recorded, axes), "a.nd2", frame=1, channel=2)
    np.testing.assert_array_equal(volume, movie[1, 2])
    assert voxel_size == VOXEL
    with refused("a.nd2", "3 channels", "0 DAPI, 1 DAPI", "--channel N"):
        nd2_volume(nd2_file(recorded, axes), "a.nd2")
    with refused("a.nd2", "2 time points", "--frame T"):
        nd2_volume(nd2_file(recorded, axes), "a.nd2", channel=0)


def test_nd2_of_one_channel_and_its_faults(movie, refused):
    stack = movie[0, 0][:, None]  # (Z, C, Y, X)
    volume, _ = nd2_volume(nd2_file(stack, "ZCYX"), "a.nd2")
    np.testing.assert_array_equal(volume, movie[0, 0])
    assert nd2_volume(nd2_file(stack, "ZCYX", calibrated=False), "a.nd2")[1] is None
    with refused("a.nd2", "incomplete"):
        nd2_volume(nd2_file(stack, "ZCYX", recorded=3), "a.nd2")
    with refused("a.nd2", "2D image"):
        nd2_volume(nd2_file(stack[:1], "ZCYX"), "a.nd2")
    with refused("a.nd2", "4 positions"):
        nd2_volume(nd2_file(stack, "PCYX"), "a.nd2")


def test_colours_of_an_nd2(refused):
    colour = np.arange(3 * 1 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 1, 4, 5, 3)
    with refused("a.nd2", "colour image"):
        nd2_volume(nd2_file(colour, "ZCYXS"), "a.nd2")
    volume, _ = nd2_volume(nd2_file(colour, "ZCYXS"), "a.nd2", channel=1)
    np.testing.assert_array_equal(volume, colour[:, 0, ..., 1])


@pytest.mark.parametrize("name", ["a.nd2", "a.czi"])
def test_axes_are_not_given_to_files_that_name_them(tmp_path, refused, name):
    pytest.importorskip("nd2" if name.endswith("nd2") else "pylibCZIrw")
    (tmp_path / name).write_bytes(b"hello")
    with refused(tmp_path / name, "names its axes itself", "leave `--axes` out"):
        read_image(tmp_path / name, axes="ZYX")


@pytest.mark.parametrize(("name", "package"), [("a.nd2", "nd2"), ("a.czi", "pylibCZIrw")])
def test_without_the_package_the_error_says_how_to_get_it(tmp_path, refused, monkeypatch, name, package):
    (tmp_path / name).write_bytes(b"hello")
    usual = builtins.__import__

    def without(wanted, *args, **kwargs):
        if wanted.partition(".")[0] == package:
            raise ImportError(f"No module named {wanted!r}")
        return usual(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with refused(
        tmp_path / name, f"{package} package is not installed", 'pip install "weakseg_lib[formats]"'
    ):
        read_image(tmp_path / name)
