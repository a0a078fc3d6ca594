import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from scipy import ndimage

from weakseg_lib.data.simulate import (
    HL60Settings,
    Microscope,
    hl60,
    hl60_frames,
    hl60_settings,
    simulate_hl60,
)
from weakseg_lib.data.simulate.nuclei import Culture
from weakseg_lib.data.stacks import Sequence, read_image, read_labels
from weakseg_lib.errors import InputError

PAPER_VOXEL = (0.2, 0.125, 0.125)
# A field of a few fast nuclei: several divisions in a dozen frames, and quick to draw.
FAST = HL60Settings(shape=(24, 80, 80), cells=4, cycle_frames=5, mitosis_frames=2)


def culture(settings, seed=0):
    return Culture(settings, np.random.default_rng(seed))


def interphase_inside(cells, labels):
    """(nucleus, its box in labels) of those that are not in mitosis and that no border cuts."""
    for n in cells.nuclei:
        box = ndimage.find_objects(labels)[n.id - 1]
        whole = all(s.start > 0 and s.stop < end for s, end in zip(box, labels.shape, strict=True))
        if n.progress == 0 and whole:
            yield n, box


# ---------------------------------------------------------------- microscope


def test_photon_noise_has_variance_equal_to_mean():
    scope = Microscope(offset=0, read_noise=0, dark_current=0)
    counts = scope.expose(np.full(400_000, 500.0), np.random.default_rng(0)).astype(float)
    # Of 4e5 samples a variance is known to 0.22 % (1 sigma) and this mean to 0.007 %: 4 sigma.
    assert counts.mean() == pytest.approx(500, rel=0.0003)
    assert counts.var() == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize("photons", [0.0, 300.0])
def test_camera_noise_on_flat_regions(photons):
    counts = Microscope().expose(np.full((40, 100, 100), photons), np.random.default_rng(1)).astype(float)
    variance = photons + 0.06 + 90**2 + 1 / 12  # photons, dark current, read-out, rounding
    assert counts.var() == pytest.approx(variance, rel=0.01)
    assert counts.mean() == pytest.approx(700.06 + photons, abs=4 * (variance / counts.size) ** 0.5)


def test_dark_current_adds_electrons():
    counts = Microscope(offset=0, read_noise=0).expose(np.zeros(400_000), np.random.default_rng(2))
    assert counts.mean() == pytest.approx(0.06, abs=4 * (0.06 / 400_000) ** 0.5)


def test_gain_scales_electrons_only():
    scope = Microscope(gain=3, read_noise=0, dark_current=0)
    counts = scope.expose(np.full(100_000, 200.0), np.random.default_rng(3)).astype(float)
    assert counts.mean() == pytest.approx(700 + 3 * 200, abs=4 * 3 * (200 / 100_000) ** 0.5)
    assert set(np.unique((counts - 700) % 3)) == {0}


def test_counts_saturate_and_never_wrap():
    rng = np.random.default_rng(4)
    assert Microscope().expose(np.full(1000, 1e6), rng).min() == 65535
    low = Microscope(offset=0).expose(np.zeros(1000), rng)
    assert low.dtype == np.uint16 and low.min() == 0 and low.max() < 1000


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blur_of_a_point(axis):
    point = np.zeros((31, 31, 31))
    point[15, 15, 15] = 1000
    spread = Microscope().blur(point, PAPER_VOXEL)
    assert spread.dtype == np.float32
    assert spread.sum() == pytest.approx(1000, rel=1e-5)
    profile = spread.sum(tuple(a for a in range(3) if a != axis)) / 1000
    measured = (profile * (np.arange(31) - 15) ** 2).sum() ** 0.5
    # The kernel is cut at 4 sigma, which takes 0.1 % off a width.
    assert measured == pytest.approx((0.26, 0.13, 0.13)[axis] / PAPER_VOXEL[axis], rel=0.005)


def test_blur_does_not_darken_the_border():
    assert Microscope().blur(np.full((9, 9, 9), 50.0), (0.4, 0.25, 0.25)) == pytest.approx(50, rel=1e-5)


# ---------------------------------------------------------------- shapes and labels


@pytest.mark.parametrize(("bumpy", "tolerance"), [(False, 0.01), (True, 0.06)])
def test_label_volume_is_the_planned_one(bumpy, tolerance):
    # Without bumps only counting voxels is in the way: a tenth of them at the surface, half in, half out,
    # so well under 1 %. Bumps are free of volume to first order and add up to some percent to second.
    cells = culture(replace(hl60_settings(1), voxel_size=PAPER_VOXEL, shape=(60, 240, 240), cells=5))
    for n in cells.nuclei:
        n.bumps = n.bumps * bumpy
    _, labels = cells.draw()
    nuclei = [n for n, _ in interphase_inside(cells, labels)]
    assert len(nuclei) >= 3
    for n in nuclei:
        drawn = (labels == n.id).sum() * np.prod(PAPER_VOXEL)
        assert drawn == pytest.approx(4 / 3 * np.pi * n.axes.prod(), rel=tolerance)


def test_boxes_at_the_papers_voxel_size():
    slices, widths = [], []
    for seed in range(4):
        cells = culture(
            replace(hl60_settings(1), voxel_size=PAPER_VOXEL, shape=(59, 240, 240), cells=9), seed
        )
        for _, box in interphase_inside(cells, cells.draw()[1]):
            z, y, x = (side.stop - side.start for side in box)
            slices.append(z)
            widths += [y, x]
    # design.md, section 8: 34-62 px across, 17-31 slices; a voxel or two more for bumps.
    assert len(slices) > 10
    assert min(widths) >= 32 and max(widths) <= 64
    assert min(slices) >= 16 and max(slices) <= 32
    assert max(widths) - min(widths) > 10  # and they differ


@pytest.mark.parametrize("group", [1, 2])
def test_labels_are_one_piece_each_and_bright(group):
    image, labels = next(hl60_frames(group, seed=3))
    settings = hl60_settings(group)
    assert image.shape == labels.shape == settings.shape
    assert image.dtype == np.uint16 and labels.dtype == np.int32
    ids = np.unique(labels)[1:]
    assert ids.tolist() == list(range(1, settings.cells + 1))  # nobody is hidden
    assert all(ndimage.label(labels == i)[1] == 1 for i in ids)
    brightness = ndimage.mean(image, labels, ids)
    assert min(brightness) > image[labels == 0].mean() + 0.4 * settings.photons


def test_nuclei_hardly_overlap_before_labels_are_shared_out():
    cells = culture(hl60_settings(2))
    _, together = cells.draw()
    alone = 0
    for n in cells.nuclei:
        one = culture(replace(cells.settings, cells=0))
        one.nuclei = [n]
        alone += (one.draw()[1] > 0).sum()
    # Ellipsoids keep apart to within 8 % of their distance (squeeze), so all overlap is thin lenses.
    assert 0 <= alone - (together > 0).sum() < 0.02 * alone


def test_some_nuclei_touch_in_group_2():
    labels = next(hl60_frames(2))[1]
    pairs = set()
    for axis in range(3):
        a, b = (np.moveaxis(labels, axis, 0)[s] for s in (slice(1, None), slice(-1)))
        meet = (a != b) & (a > 0) & (b > 0)
        pairs |= {tuple(sorted(p)) for p in zip(a[meet].tolist(), b[meet].tolist(), strict=True)}
    assert len(pairs) >= 2


def test_group_2_is_denser_and_noisier():
    (image1, labels1), (image2, labels2) = (next(hl60_frames(g)) for g in (1, 2))
    assert labels2.max() > 1.3 * labels1.max()

    def signal_to_noise(image, labels):
        outside = image[ndimage.binary_dilation(labels > 0, iterations=3) == 0]
        return (image[labels > 0].mean() - outside.mean()) / outside.std()

    assert 1.5 < signal_to_noise(image2, labels2) < 0.6 * signal_to_noise(image1, labels1)


# ---------------------------------------------------------------- time


def test_nuclei_move_a_little_between_frames():
    (_, before), (_, after) = islice(hl60_frames(1), 2)
    both = sorted(set(np.unique(before)[1:]) & set(np.unique(after)[1:]))
    assert len(both) > 10
    steps = np.subtract(*(ndimage.center_of_mass(lab > 0, lab, both) for lab in (before, after)))
    lengths = np.linalg.norm(steps * hl60_settings(1).voxel_size, axis=1)
    # A step of 0.25 um sigma an axis is about 0.4 um long; pushing and growing add to single ones.
    assert 0.15 < np.median(lengths) < 0.8
    assert lengths.max() < 2.5


def test_texture_goes_with_the_nucleus():
    cells = culture(replace(hl60_settings(1), voxel_size=(0.2, 0.125, 0.125), shape=(59, 200, 200), cells=4))
    for n in cells.nuclei:
        n.age = 5.0  # far from mitosis
    u = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 12)] * 3, indexing="ij"), -1).reshape(-1, 3)

    def own_view():
        photons, _ = cells.draw()
        view = []
        for n in cells.nuclei:
            where = (n.centre + (u * n.axes) @ n.turn.T) / cells.settings.voxel_size - 0.5
            view.append(ndimage.map_coordinates(photons, where.T, order=1))
        return view

    def turned(n, old):
        return np.degrees(np.arccos(np.clip((np.trace(old.T @ n.turn) - 1) / 2, -1, 1)))

    first, turns = own_view(), [n.turn for n in cells.nuclei]
    for _ in range(10):
        cells.advance()
    later = own_view()
    assert max(turned(n, old) for n, old in zip(cells.nuclei, turns, strict=True)) > 5
    match = np.corrcoef(first + later)[:4, 4:]
    # Only resampling on voxels about as fine as the texture stands between the two views.
    assert np.diag(match).min() > 0.85
    assert np.abs(match[~np.eye(4, dtype=bool)]).max() < 0.5


def test_division_halves_the_volume_and_keeps_the_place():
    cells = culture(replace(FAST, cells=1))
    mother = cells.nuclei[0]
    mother.age = mother.cycle + mother.mitosis - 1
    mother.centre = cells.settings.extent_um / 2
    volume, centre = mother.axes.prod(), mother.centre
    cells.advance()
    first, second = cells.nuclei
    assert cells.parents == {1: 0, 2: 1, 3: 1}
    assert first.axes.prod() == pytest.approx(volume / 2, rel=1e-6)
    assert np.linalg.norm((first.centre + second.centre) / 2 - centre) < 1.5  # the random walk, no jump
    labels = cells.draw()[1]
    assert set(np.unique(labels)) == {0, 2, 3}


def test_mitosis_is_long():
    cells = culture(HL60Settings(voxel_size=PAPER_VOXEL, shape=(59, 160, 160), cells=1))
    nucleus = cells.nuclei[0]
    nucleus.centre, nucleus.turn = cells.settings.extent_um / 2, np.eye(3)
    nucleus.age = nucleus.cycle + 0.9 * nucleus.mitosis
    labels = cells.draw()[1]
    z, y, x = (side.stop - side.start for side in ndimage.find_objects(labels)[0])
    assert 72 <= x <= 102 and x > 1.7 * y  # design.md, section 8: up to 100 px
    assert ndimage.label(labels)[1] == 1


def test_field_stays_about_as_full():
    cells = culture(hl60_settings(1))
    counts = []
    for _ in range(100):
        cells.advance()
        counts.append(len(cells.nuclei))
    assert 14 <= min(counts) and max(counts) <= 24
    assert len(cells.parents) > 30  # though many were born


# ---------------------------------------------------------------- reproducible


def test_same_seed_same_frames_other_seed_other_frames():
    first, again, other = (list(islice(hl60_frames(1, FAST, seed), 2)) for seed in (5, 5, 6))
    for (image, labels), (image2, labels2) in zip(first, again, strict=True):
        assert (image == image2).all() and (labels == labels2).all()
    assert (first[0][1] != other[0][1]).any()
    assert (
        first[0][1] != next(hl60_frames(2, FAST, 5))[1]
    ).any()  # groups differ by more than their settings


def test_noise_of_a_frame_is_its_own():
    empty = replace(FAST, cells=0)
    first, second = (image.astype(float) for image, _ in islice(hl60_frames(1, empty), 2))
    # 1.5e5 voxels: independent noise correlates by 0.0026 (1 sigma).
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.012


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def fast_data(tmp_path_factory):
    """Twelve frames of few, fast nuclei in each group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hl60, "hl60_settings", lambda group, size: FAST)
        out = tmp_path_factory.mktemp("simulated") / "fast"
        return simulate_hl60(out, stacks=12, seed=1, progress=False)


def test_files_round_trip(tmp_path):
    out = tmp_path / "hl60"
    assert simulate_hl60(out, stacks=2, seed=7, progress=False) == [out / "01", out / "02"]
    assert json.loads((out / "dataset.json").read_text()) == {
        "voxel_size_um": [0.4, 0.25, 0.25],
        "simulated": True,
        "specimen": "hl60",
        "seed": 7,
        "size": "laptop",
    }
    for group in (1, 2):
        sequence = Sequence(out / f"{group:02d}")
        assert list(sequence.frames) == [0, 1]
        for t, (image, labels) in enumerate(islice(hl60_frames(group, seed=7), 2)):
            stack = sequence.read(t, with_labels=True)
            assert (stack.image == image).all() and (stack.labels == labels).all()
            _, voxel = read_image(sequence.image_path(t))
            assert voxel == pytest.approx((0.4, 0.25, 0.25), rel=1e-5)  # TIFF keeps it as a ratio of integers


def test_tracks_follow_the_labels(fast_data):
    tracks = fast_data[0].with_name("01_GT") / "TRA"
    rows = np.loadtxt(tracks / "man_track.txt", dtype=int, ndmin=2)
    sequence = Sequence(fast_data[0])
    seen = {}
    for t in sequence.frames:
        labels = read_labels(sequence.labels_path(t))
        markers = read_labels(tracks / f"man_track{t:03d}.tif")
        assert set(np.unique(markers)) == set(np.unique(labels))
        assert (markers[markers > 0] == labels[markers > 0]).all()
        assert all(ndimage.label(markers == i)[1] == 1 for i in np.unique(markers)[1:])
        for i in np.unique(labels)[1:].tolist():
            seen.setdefault(i, []).append(t)
    assert {i: [b, e] for i, b, e, _ in rows.tolist()} == {i: [ts[0], ts[-1]] for i, ts in seen.items()}
    assert all(ts == list(range(ts[0], ts[-1] + 1)) for ts in seen.values())  # no gaps


def test_division_gives_two_daughters_with_a_parent(fast_data):
    rows = np.loadtxt(fast_data[0].with_name("01_GT") / "TRA" / "man_track.txt", dtype=int)
    end = {i: e for i, _, e, _ in rows}
    daughters = {}
    for i, begin, _, parent in rows:
        if parent:
            daughters.setdefault(parent, []).append(i)
            assert begin == end[parent] + 1
    # Of a pair born at the border one may be outside.
    pairs = [two for two in daughters.values() if len(two) == 2]
    assert len(pairs) >= 2 and max(map(len, daughters.values())) == 2


def test_never_overwrites(tmp_path):
    simulate_hl60(tmp_path, stacks=1, progress=False)  # an empty folder that exists is fine
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="already holds data; choose another folder"):
        simulate_hl60(tmp_path, stacks=1, seed=1, progress=False)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    (tmp_path / "dataset.json").unlink()  # as after a run that was cut off
    with pytest.raises(InputError, match="already holds data"):
        simulate_hl60(tmp_path, stacks=1, progress=False)


@pytest.mark.parametrize(
    "bad", [{"stacks": 0}, {"stacks": 1.5}, {"stacks": True}, {"size": "huge"}, {"seed": -1}, {"seed": 0.5}]
)
def test_bad_arguments(tmp_path, bad):
    with pytest.raises(InputError, match=str(next(iter(bad)))):
        simulate_hl60(tmp_path / "out", progress=False, **bad)
    assert not (tmp_path / "out").exists()


def test_out_is_a_file(tmp_path):
    (tmp_path / "out").write_text("something else")
    with pytest.raises(InputError, match="is a file"):
        simulate_hl60(tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="group 3"):
        hl60_settings(3)


def test_paper_sizes():
    assert [hl60_settings(g, "paper").shape for g in (1, 2)] == [(59, 349, 639), (59, 343, 649)]
    assert hl60_settings(1, "paper").voxel_size == PAPER_VOXEL
