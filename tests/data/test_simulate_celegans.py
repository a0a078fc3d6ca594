import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from weakseg_lib.cli import main
from weakseg_lib.data.simulate import (
    Microscope,
    Tracks,
    celegans_frames,
    celegans_settings,
    grow_embryo,
    read_tracks,
    simulate_celegans,
)
from weakseg_lib.data.simulate.celegans import check_inside
from weakseg_lib.data.simulate.tracks import EGG, EGG_CENTRE, choose_times
from weakseg_lib.data.stacks import Sequence, read_labels
from weakseg_lib.errors import InputError

REAL = Path(__file__).parents[3] / "shared/data/celegans_epic"
# EMS divides after time 2; as EPIC writes them, with a column that nobody asked for.
CSV = """cell,time,z,x,y,size,gweight
EMS,1,10.0,200,150,60,7
P2,1,20.5,500,300,60,7
EMS,2,10.0,200,150,60,7
P2,2,20.5,500,300,60,7
MS,3,10.0,150,150,40,7
E,3,10.0,250,150,40,7
P2,3,20.5,500,300,60,7
"""


@pytest.fixture(scope="module")
def embryo():
    return grow_embryo(np.random.default_rng(0))


@pytest.fixture
def tracks(tmp_path):
    (tmp_path / "small.csv").write_text(CSV)
    return tmp_path / "small.csv"


def placed(centres, diameter=4.0):
    """Tracks of balls at one time, none of which divides."""
    cells = np.arange(1, len(centres) + 1)
    names = [str(i) for i in cells]
    still = np.ones(len(cells), int)
    return Tracks("placed", still, cells, np.array(centres), diameter * still, names, [0] * len(cells))


def one_piece_each(labels):
    boxes = ((i, box) for i, box in enumerate(ndimage.find_objects(labels), start=1) if box)
    return all(ndimage.label(labels[box] == i)[1] == 1 for i, box in boxes)


# ---------------------------------------------------------------- tracks


def test_tracks_in_micrometres(tracks):
    found = read_tracks(tracks)
    assert found.counts == {1: 2, 2: 2, 3: 3}
    assert found.names == ["EMS", "P2", "MS", "E"] and found.mothers == [0, 0, 1, 1]
    assert found.centre[1] == pytest.approx([21.0, 300.5 * 0.09, 500.5 * 0.09])
    assert found.diameter[[0, 4]] == pytest.approx([5.4, 3.6])
    assert found.spans.tolist() == [[1, 2], [1, 3], [3, 3], [3, 3]]


def test_packed_tracks_are_the_same(tracks):
    packed = tracks.with_name("small.csv.gz")
    packed.write_bytes(gzip.compress(tracks.read_bytes()))
    assert (read_tracks(packed).centre == read_tracks(tracks).centre).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",size,", ",girth,", "has no column size"),
        (",x,y,", ",u,v,", "has no column y, x"),
        ("2,10.0,200,150,60", "2,10.0,200,wide,60", "column y, line 4: 'wide'"),
        ("MS,3,10.0,150,150,40,7", "MS,3,10.0", "column y, line 6: None"),
        ("P2,3,20.5", "P2,3,nan", "column z, line 8: 'nan'"),
        ("150,40", "150,-40", "column size has values of 0 or less"),
        ("MS,3", "E,3", "column cell names a cell twice"),
        (CSV.partition("\n")[2], "", "holds no rows"),
        (CSV, "", "has no column cell, time"),
    ],
)
def test_bad_columns(tracks, old, new, message):
    tracks.write_text(CSV.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        read_tracks(tracks)
    assert caught.value.where == str(tracks)


def test_damaged_files(tracks):
    packed = gzip.compress(tracks.read_bytes() * 50)
    for damaged in (packed[: len(packed) // 2], packed[:20] + b"damage" + packed[26:], CSV.encode()):
        tracks.with_name("cut.csv.gz").write_bytes(damaged)
        with pytest.raises(InputError, match="cut.csv.gz: cannot be read"):
            read_tracks(tracks.with_name("cut.csv.gz"))
    tracks.write_bytes(packed)  # gzip without saying so
    with pytest.raises(InputError, match="small.csv: cannot be read"):
        read_tracks(tracks)
    with pytest.raises(InputError, match="no such file"):
        read_tracks(tracks.with_name("none.csv"))


# ---------------------------------------------------------------- an embryo of our own


def test_own_embryo_grows_as_real_ones(embryo):
    counts = list(embryo.counts.values())
    assert counts[0] == 2 and counts == sorted(counts) and 300 < counts[-1] < 500
    # EPIC's: medians of 7.2 um at 2 cells, 3.15 um at about 340.
    first, last = (np.median(embryo.diameter[embryo.time == t]) for t in (1, 200))
    assert first == pytest.approx(7.3) and 2.8 < last < 3.3
    assert (np.linalg.norm((embryo.centre - EGG_CENTRE) / EGG, axis=1) < 1).all()
    daughters = [(i, mother) for i, mother in enumerate(embryo.mothers, start=1) if mother]
    assert all(embryo.spans[i - 1, 0] == embryo.spans[mother - 1, 1] + 1 for i, mother in daughters)
    assert set(np.bincount([mother for _, mother in daughters])) == {0, 2}


def test_own_embryo_by_seed(embryo):
    again, other = (grow_embryo(np.random.default_rng(seed)) for seed in (0, 1))
    assert (again.centre == embryo.centre).all() and again.mothers == embryo.mothers
    assert other.counts != embryo.counts


def test_times_hold_the_nuclei_asked_for(embryo):
    times = choose_times(embryo, 15, 1527)
    assert sum(embryo.counts[t] for t in times) == pytest.approx(1527, rel=0.05)
    steps = np.diff(times)
    assert steps.min() > 0 and np.ptp(steps) <= 1  # evenly spread
    assert times[0] < 20 and times[-1] > 150
    assert choose_times(embryo, 200, 10**6) == list(range(1, 201))
    with pytest.raises(InputError, match="has 200 times, not 201"):
        choose_times(embryo, 201, 1527)


# ---------------------------------------------------------------- pictures


def test_stack_of_a_late_embryo(embryo):
    settings = celegans_settings(1)
    image, labels = next(celegans_frames(embryo, [180], settings))
    assert image.shape == labels.shape == settings.shape == (35, 171, 236)
    assert image.dtype == np.uint16 and labels.dtype == np.int32
    ids = np.unique(labels)[1:]
    assert ids.tolist() == sorted(embryo.cell[embryo.time == 180].tolist())  # nobody is hidden
    assert one_piece_each(labels)
    assert (labels > 0).any((0, 2)).sum() > 80  # it fills the egg
    bright, dark = (np.median(image[where]) for where in (labels > 0, labels == 0))
    assert bright > dark + 3 * settings.microscope.read_noise


def test_volume_is_the_tracked_balls():
    settings = replace(celegans_settings(1), voxel_size=(0.2, 0.2, 0.2), shape=(50, 60, 110))
    _, labels = next(celegans_frames(placed([[5, 6, 6], [5, 6, 16]], diameter=6.0), [1], settings))
    # Bumps add up to some percent.
    assert np.bincount(labels.ravel())[1:] * 0.2**3 == pytest.approx(np.pi / 6 * 6**3, rel=0.06)


def test_touching_nuclei_share_at_the_middle():
    settings = replace(celegans_settings(1), voxel_size=(0.2, 0.2, 0.2), shape=(50, 60, 80))
    _, labels = next(celegans_frames(placed([[5, 6, 7], [5, 6, 9.5]]), [1], settings))
    line = labels[25, 30]
    assert set(line[30:52].tolist()) == {1, 2} and (np.diff(line[line > 0]) != 0).sum() == 1
    assert np.flatnonzero(line == 2)[0] * 0.2 == pytest.approx(8.25, abs=0.4)


def test_depth_dims_and_blur_is_longest_along_z():
    exact = Microscope(blur_um=(0.9, 0.2, 0.2), offset=0, read_noise=0, dark_current=0)
    settings = replace(
        celegans_settings(1), voxel_size=(0.25,) * 3, shape=(120, 60, 120), photons=3000, microscope=exact
    )
    two = placed([[7, 7, 8], [22, 7, 22]])
    image, labels = next(celegans_frames(two, [1], replace(settings, haze=0.0)))
    # Brightness differs between nuclei: compare with the same embryo in clear water.
    clear, _ = next(celegans_frames(two, [1], replace(settings, haze=0.0, depth_um=np.inf)))
    share = [image[labels == i].mean() / clear[labels == i].mean() for i in (1, 2)]
    assert share == pytest.approx(np.exp([-7 / 30, -22 / 30]), rel=0.03)
    grown = [(image > image.max() / 8).any(others).sum() for others in ((1, 2), (0, 2))]
    inside = [(labels == 1).any(others).sum() for others in ((1, 2), (0, 2))]
    assert (
        grown[0] - 2 * inside[0] > grown[1] - inside[1] + 4
    )  # both nuclei along z, one behind the other in y
    hazy, _ = next(celegans_frames(two, [1], settings))
    near = (labels == 0) & ndimage.binary_dilation(labels == 1, iterations=14)
    near &= ~ndimage.binary_dilation(labels > 0, iterations=12)
    assert hazy[near].mean() > image[near].mean() + 3


def test_chromatin_is_condensed_after_division(tracks):
    later = [f"{cell},{t},10.0,{x},150,40,7\n" for t in range(4, 9) for cell, x in (("MS", 150), ("E", 250))]
    tracks.write_text(CSV + "".join(later) + "P2,8,20.5,500,300,60,7\n")
    settings = replace(celegans_settings(1), microscope=Microscope(offset=0, read_noise=0), haze=0.0)
    (born, labels), (after, _) = celegans_frames(read_tracks(tracks), [3, 8], settings)
    p2, ms, e = (born[labels == i].mean() / after[labels == i].mean() for i in (2, 3, 4))
    assert p2 == pytest.approx(1, abs=0.03)  # older than all tracks
    assert [ms, e] == pytest.approx([1.6, 1.6], rel=0.1)  # what nuclei.py adds to condensed chromatin


def test_same_seed_same_bits(embryo):
    settings = celegans_settings(2)
    _, first = celegans_frames(embryo, [20, 90], settings, (4, 2))
    again, other = (next(celegans_frames(embryo, [90], settings, (seed, 2))) for seed in (4, 5))
    # Nor does it matter which other times are drawn.
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any() and (first[1] != other[1]).any()


def test_sizes():
    assert [celegans_settings(g, "paper").shape for g in (1, 2)] == [(35, 512, 708), (31, 512, 712)]
    assert celegans_settings(1, "paper").voxel_size == (1.0, 0.09, 0.09)
    for group in (1, 2):  # the same field
        small, large = (celegans_settings(group, size) for size in ("laptop", "paper"))
        extents = [np.multiply(s.shape, s.voxel_size) for s in (small, large)]
        assert extents[0] == pytest.approx(extents[1], abs=0.27)
    for wrong in ((3, "laptop"), (1, "huge")):
        with pytest.raises(InputError, match="unknown"):
            celegans_settings(*wrong)


# ---------------------------------------------------------------- files


def test_files_of_tracked_embryos(tmp_path, tracks, capsys):
    out = tmp_path / "out"
    command = ["simulate", "celegans", str(out), "--stacks", "3", "--tracks", str(tracks), str(tracks)]
    assert main(command) == 0
    assert "3 and 3 simulated stacks" in capsys.readouterr().out
    assert json.loads((out / "dataset.json").read_text()) == {
        "voxel_size_um": [1.0, 0.27, 0.27],
        "simulated": True,
        "specimen": "celegans",
        "seed": 0,
        "size": "laptop",
        "tracks": ["small.csv", "small.csv"],
    }
    rows = np.loadtxt(out / "01_GT/TRA/man_track.txt", dtype=int)
    assert rows.tolist() == [[1, 0, 1, 0], [2, 0, 2, 0], [3, 2, 2, 1], [4, 2, 2, 1]]
    images = []
    for group in ("01", "02"):
        stack = Sequence(out / group).read(2, with_labels=True)
        markers = read_labels(out / f"{group}_GT/TRA/man_track002.tif")
        assert np.unique(markers).tolist() == np.unique(stack.labels).tolist() == [0, 2, 3, 4]
        assert (markers[markers > 0] == stack.labels[markers > 0]).all()
        where = ndimage.center_of_mass(markers == 2) * np.array(stack.voxel_size)
        assert where == pytest.approx([20.5, 300.5 * 0.09, 500.5 * 0.09], abs=0.6)
        images.append(stack.image)
    assert images[0].shape == (35, 171, 236) and images[1].shape == (31, 171, 237)
    assert main(command) == 2
    assert "already holds data" in capsys.readouterr().err


def test_files_of_own_embryos(tmp_path):
    folders = simulate_celegans(tmp_path / "out", stacks=1, seed=3, progress=False)
    assert folders == [tmp_path / "out/01", tmp_path / "out/02"]
    assert "lineage-free" in json.loads((tmp_path / "out/dataset.json").read_text())["tracks"]
    first, second = (Sequence(folder).read_labels(0) for folder in folders)
    for labels in (first, second):
        assert 50 < len(np.unique(labels)) - 1 < 120  # of 200 times the middle
    assert (first[:31, :, :236] != second[..., :236]).mean() > 0.02  # two embryos


def test_nothing_is_written_for_bad_arguments(tmp_path, tracks, capsys):
    broken = tmp_path / "broken.csv"
    broken.write_text(CSV.replace("20.5", "40.5"))  # planes that no stack has
    out = tmp_path / "out"
    for more, message in (
        ({"tracks": [tracks, tmp_path / "none.csv"]}, "none.csv: no such file"),
        ({"tracks": [tracks, broken], "stacks": 2}, "broken.csv: 3 of 7 nuclei lie outside"),
        ({"tracks": [tracks, tracks]}, "has 3 times, not 15"),
        ({"stacks": 0}, "stacks 0"),
        ({"seed": -1}, "seed -1"),
        ({"size": "huge"}, "size huge"),
    ):
        with pytest.raises(InputError, match=message):
            simulate_celegans(out, progress=False, **more)
        assert not out.exists()
    assert main(["simulate", "hl60", str(out), "--tracks", str(tracks), str(tracks)]) == 2
    assert "--tracks" in capsys.readouterr().err and not out.exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real tracks of shared/data/celegans_epic")
def test_real_tracks():
    files = sorted(REAL.glob("*.csv.gz"))
    assert len(files) == 3
    for file in files:
        tracks = read_tracks(file)
        for group in (1, 2):
            check_inside(tracks, celegans_settings(group))
        times = choose_times(tracks, 15, 1527)
        assert sum(tracks.counts[t] for t in times) == pytest.approx(1527, rel=0.03)
        # Every cell has a mother but those there at the start, and no daughter is there before she has gone.
        born = [(i, mother) for i, mother in enumerate(tracks.mothers, start=1) if mother]
        assert len(tracks.names) - len(born) == tracks.counts[1]
        assert all(tracks.spans[i - 1, 0] > tracks.spans[mother - 1, 1] for i, mother in born)
    _, labels = next(celegans_frames(tracks, [times[-1]], celegans_settings(1)))
    ids = np.unique(labels)[1:]
    assert len(ids) == tracks.counts[times[-1]] > 300
    assert one_piece_each(labels)
