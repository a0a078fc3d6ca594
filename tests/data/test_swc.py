"""Tracings in SWC files: read, refused, cut into stacks, drawn."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from weakseg_lib.data.simulate import simulate_microglia
from weakseg_lib.data.simulate.microglia import microglia_stacks
from weakseg_lib.data.simulate.swc import field_windows, read_field, read_swc, swc_settings, swc_windows
from weakseg_lib.data.stacks import Sequence
from weakseg_lib.errors import InputError

REAL = sorted((Path(__file__).parents[3] / "shared/data/microglia_swc").glob("*.zip"))
HEADER = "# made by hand\n\n"


def cell(x=0.0, y=0.0, z=0.0, reach=20.0):
    """A cross of four processes around a soma point."""
    rows = [(1, 1, x, y, z, 0.5, -1)]
    for k, (dx, dy) in enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)], start=2):
        rows.append((k, 3, x + reach * dx, y + reach * dy, z, 0.4, 1))
    return HEADER + "\n".join(" ".join(f"{v:g}" for v in row) for row in rows)


def field(path, *places):
    """A zip of crosses at places (x, y, z)."""
    with zipfile.ZipFile(path, "w") as archive:
        for k, place in enumerate(places):
            archive.writestr(f"cells/{k:02d}.swc", cell(*place))
        archive.writestr("__MACOSX/cells/._00.swc", b"\x00\x05\x16\x07")
        archive.writestr("readme.txt", "no cell")
    return path


GRID = [(x, y, 5.0 * (x > 0)) for x in (0, 60, 250, 310) for y in (0, 70)]  # two clumps, 250 um apart


# ---------------------------------------------------------------- one cell


def test_columns_comments_and_order(tmp_path):
    text = (
        "# x y z\n 7 3 11 12 13 0.5 3 # a child before its parent\n\n3 1 1 2 3 5.5 -1\n9 3 21 22 23 0.25 7\n"
    )
    (tmp_path / "a.swc").write_text(text)
    tree = read_swc(tmp_path / "a.swc")
    assert tree.points.tolist() == [[3, 2, 1], [13, 12, 11], [23, 22, 21]]  # (z, y, x), the root first
    assert tree.radii.tolist() == [5.5, 0.5, 0.25] and tree.parents.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("soma", "radii", "middle"),
    [
        ("1 1 0 0 0 0.3 -1", [4], [0]),  # a point: 4 um
        ("1 0 0 0 0 0.3 -1", [4], [0]),  # of a type that says nothing
        ("1 1 0 0 0 2.5 -1", [2.5], [0]),
        (
            "1 1 0 0 0 6 -1\n2 1 0 -6 0 6 1\n3 1 0 6 0 6 1",
            [6, 6, 6],
            [0, 0, 0],
        ),  # NeuroMorpho.Org's three points
        ("1 1 0 0 0 1 -1\n2 1 0 3 0 4 1", [1, 4], [0, 3]),  # traced: as it is
    ],
)
def test_soma(soma, radii, middle):
    tree = read_swc("a.swc", soma)
    assert tree.radii.tolist() == radii and tree.points[:, 1].tolist() == middle


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no points"),
        ("# only words\n", "holds no points"),
        ("1 1 0 0 0 1 -1\n2 3 0 0 1\n", "line 2: not the seven numbers"),
        ("\n1 1 0 0 0 1 -1 8\n", "line 2: not the seven numbers"),
        ("1 1 zero 0 0 1 -1\n", "line 1: not the seven numbers"),
        ("1 1 nan 0 0 1 -1\n", "line 1: not the seven numbers"),
        ("1.5 1 0 0 0 1 -1\n", "line 1: not the seven numbers"),
        ("1 1 0 0 0 -2 -1\n", "line 1: radius -2 is below 0"),
        ("# c\n1 1 0 0 0 1 -1\n2 3 0 0 1 1 1\n2 3 0 0 2 1 1\n", "line 4: id 2 is used twice"),
        ("1 1 0 0 0 1 -1\n2 3 0 0 1 1 5\n", "line 2: parent 5 isn't in the file"),
        ("1 1 0 0 0 1 -1\n2 3 0 0 1 1 -1\n", "line 2: a second root"),
        ("1 1 0 0 0 1 -1\n2 3 0 0 1 1 3\n3 3 0 0 2 1 2\n", "line 2: its parents go in a circle"),
        ("1 1 0 0 0 1 1\n", "line 1: its parents go in a circle"),
        ("1 1 0 0 0 1 2\n2 3 0 0 1 1 1\n", "line 1: its parents go in a circle"),
    ],
)
def test_damaged_files_are_refused_by_file_and_line(tmp_path, text, told):
    (tmp_path / "bad.swc").write_text(text)
    with pytest.raises(InputError, match="bad.swc") as error:
        read_swc(tmp_path / "bad.swc")
    assert told in str(error.value)


def test_long_chain_is_no_circle():
    rows = ["1 1 0 0 0 1 -1"] + [f"{k} 3 0 0 {k} 1 {k - 1}" for k in range(2, 1025)]
    assert read_swc("a.swc", "\n".join(rows)).parents.tolist() == [0, *range(1023)]


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 3),
            *[st.floats(-9, 9)] * 3,
            st.floats(-1, 3),
            st.integers(-1, 5),
        )
    )
    | st.text()
)
def test_any_text_is_a_tree_or_refused(rows):
    text = rows if isinstance(rows, str) else "\n".join(" ".join(map(str, row)) for row in rows)
    try:
        tree = read_swc("any.swc", text)
    except InputError:
        return
    end = np.arange(len(tree.parents))
    for _ in end:
        end = tree.parents[end]
    assert (end == 0).all() and (tree.radii >= 0).all() and np.isfinite(tree.points).all()


# ---------------------------------------------------------------- a field of view


def test_zip_folder_and_file_hold_the_same(tmp_path):
    packed = field(tmp_path / "f.zip", *GRID[:2])
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "f")
    single = read_field(tmp_path / "f" / "cells" / "01.swc")
    (tmp_path / "f" / "__MACOSX" / "cells" / "._00.swc").write_bytes(b"\x00")  # hidden: no cell
    places = [[tree.points.tolist() for tree in read_field(path)] for path in (packed, tmp_path / "f")]
    assert places[0] == places[1] and len(places[0]) == 2
    assert [tree.points.tolist() for tree in single] == places[0][1:]


def test_fields_that_cannot_be_used(tmp_path):
    for name, told in (
        ("gone.zip", "no such file"),
        ("empty", "no SWC files"),
        ("torn.zip", "cannot be read"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "torn.zip").write_bytes(field(tmp_path / "f.zip", *GRID).read_bytes()[:-30])
        with pytest.raises(InputError, match=name) as error:
            read_field(tmp_path / name)
        assert told in str(error.value)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("in/one.swc", "1 1 0 0 0 1 -1\n2 3 0 0\n")
    with pytest.raises(InputError, match="bad.zip/in/one.swc line 2"):
        read_field(tmp_path / "bad.zip")
    with pytest.raises(InputError, match="00.swc and 01.swc have their somas in the same place"):
        read_field(field(tmp_path / "same.zip", (0, 0, 0), (1, 1, 1)))


def test_windows_keep_the_arrangement(tmp_path):
    trees, wide = read_field(field(tmp_path / "f.zip", *GRID)), swc_settings()
    windows = field_windows(trees, wide)
    assert [len(window) for window in windows] == [4, 4]  # every cell, in one window
    for window, known in zip(windows, (trees[:4], trees[4:]), strict=True):
        places = np.array([tree.points[0] for tree in window])
        assert (places >= 0).all() and (places < wide.extent_um).all()
        shift = [new.points - old.points for new, old in zip(window, known, strict=True)]
        assert np.concatenate(shift) == pytest.approx(np.broadcast_to(shift[0][0], (20, 3)))
    alone = field_windows(trees[:1], wide)
    assert alone[0][0].points[0] == pytest.approx(wide.extent_um / 2)  # one cell: in the middle


def test_training_and_test_share_no_cell(tmp_path):
    one, two, three = (field(tmp_path / f"{k}.zip", *GRID[:n]) for k, n in ((1, 8), (2, 4), (3, 2)))
    counts = [
        {
            group: [len(window) for window in windows]
            for group, windows in swc_windows(paths, swc_settings()).items()
        }
        for paths in ([one], [one, two], [one, two, three])
    ]
    assert counts == [{1: [4], 2: [4]}, {1: [4, 4], 2: [4]}, {1: [4, 4, 4], 2: [2]}]
    for paths, stacks in (([two], None), ([one, two], 2)):
        with pytest.raises(InputError, match="stacks for training and"):
            swc_windows(paths, swc_settings(), stacks)


def test_simulated_from_tracings(tmp_path):
    one, two = field(tmp_path / "1.zip", *GRID), field(tmp_path / "2.zip", *GRID[:4])
    out = simulate_microglia(tmp_path / "out", seed=3, progress=False, swc=[one, two])
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert about["simulated"] is True and about["swc"] == ["1.zip", "2.zip"]
    assert about["voxel_size_um"] == pytest.approx([1.35, 1.3, 1.3])
    assert [len(Sequence(folder).frames) for folder in out] == [2, 1]
    stack = Sequence(out[0]).read(1, with_labels=True)
    windows = swc_windows([one, two], swc_settings())
    image, labels = list(microglia_stacks(1, swc_settings(), 3, windows[1]))[1]
    assert (stack.image == image).all() and (stack.labels == labels).all()
    assert np.unique(labels).tolist() == [0, 1, 2, 3, 4]
    sizes = [[s.stop - s.start for s in box] for box in ndimage.find_objects(labels)]
    # A cross 40 um wide, about a micrometre longer at both ends, and a soma 8 um high.
    assert all(abs(z - 6) <= 1 and abs(y - 32) <= 1 and abs(x - 32) <= 1 for z, y, x in sizes)
    fewer = simulate_microglia(tmp_path / "fewer", 1, seed=3, progress=False, swc=[one, two])
    assert [len(Sequence(folder).frames) for folder in fewer] == [1, 1]
    with pytest.raises(InputError, match="stacks 0.5"):
        simulate_microglia(tmp_path / "half", 0.5, progress=False, swc=[one, two])


@pytest.mark.skipif(len(REAL) < 2, reason="the tracings of shared/data/microglia_swc are not here")
def test_real_tracings():
    wide = swc_settings()
    windows = swc_windows(REAL, wide)
    assert [sum(map(len, windows[group])) for group in (1, 2)] == [34, 36]  # SOURCE.txt
    _, labels = next(microglia_stacks(2, wide, 0, windows[2]))
    ids = np.unique(labels)[1:]
    assert ids.tolist() == list(range(1, len(windows[2][0]) + 1))
    assert all(ndimage.label(labels == i, np.ones((3, 3, 3)))[1] == 1 for i in ids)
