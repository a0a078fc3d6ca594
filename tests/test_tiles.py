"""Overlapping tiles must give what the whole image at once would give: no seams."""

import numpy as np
import pytest
import torch

from weakseg_lib.data.prepare import compress
from weakseg_lib.model import network as network_module
from weakseg_lib.model.network import Network
from weakseg_lib.model.voxres import Backbone
from weakseg_lib.ops.boxes import enlarge
from weakseg_lib.ops.roi_align import roi_align_3d
from weakseg_lib.prediction import Detections, detect_stack
from weakseg_lib.tiling import tiles


@pytest.mark.parametrize("shape", [(20, 48, 48), (7, 101, 33), (1, 1, 1), (64, 64, 64)])
@pytest.mark.parametrize("tile", [(16, 16, 16), (64, 30, 5), (1000, 1000, 1000)])
@pytest.mark.parametrize("halo", [(0, 0, 0), (3, 10, 8)])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_tiles_cover_every_voxel_once_and_start_at_the_stride(shape, tile, halo, stride):
    covered = np.zeros(shape, int)
    for core, block in tiles(shape, tile, halo, stride):
        covered[core] += 1
        for c, b, n, t, h in zip(core, block, shape, tile, halo, strict=True):
            assert b.start % stride == 0 and 0 <= b.start <= max(0, c.start - h)
            assert min(n, c.stop + h) <= b.stop <= n
            assert c.stop - c.start <= -(-t // stride) * stride  # the wanted size, rounded up to the stride
            assert b.stop - b.start <= c.stop - c.start + 2 * (h + stride)  # no larger than it must be
    assert (covered == 1).all()


WHOLE = (1000, 1000, 1000)


@pytest.fixture(scope="module")
def picture():
    """Noise with structures of two voxels; no side is a multiple of 4."""
    noise = np.random.default_rng(0).normal(0.3, 0.5, (16, 24, 44))
    return np.kron(noise, np.ones((2, 2, 2))).astype(np.float32)[:30, :45, :86]


def detect(untrained, config, picture, tile=WHOLE, score=0.7):
    # `candidates` is a limit for each tile, so it must not be reached where tiles are to make no difference.
    network = untrained(config.replace(tile=tile, candidates=10**6), eager=4.0)
    return detect_stack(network, picture, score, 0.2)


def differ(a, b):
    """Whether two detections of one picture are not the same, up to rounding; scores may tie, so order by place."""
    if len(a.boxes) != len(b.boxes):
        return True
    a, b = (d[np.lexsort(d.boxes.round(1).T)] for d in (a, b))
    # float32: other shapes of convolutions add in another order. Masks are in steps of 1/255.
    close = np.abs(a.boxes - b.boxes).max() < 1e-3 and np.abs(a.scores - b.scores).max() < 1e-4
    return not close or np.abs(a.masks.astype(int) - b.masks).max() > 2


@pytest.mark.parametrize(
    ("settings", "size", "tile", "score"),
    [
        ({"channels": (4, 8)}, (30, 45, 50), (8, 12, 10), 0.7),  # seams along all axes
        ({}, (14, 30, 86), (1000, 1000, 16), 0.7),  # a deeper network sees too far for more of them
        ({"channels": (4, 8), "views": 8}, (14, 30, 50), (1000, 12, 10), 0.5),
        ({"channels": (4, 8), "mask_skip": True}, (14, 45, 50), (1000, 12, 10), 0.7),
    ],
    ids=["shallow", "deep", "mirrored", "finest map"],
)
def test_tiles_give_what_the_whole_gives(untrained, tiny, picture, settings, size, tile, score, monkeypatch):
    monkeypatch.setattr(network_module, "SEEN", 1.0)
    config, image = tiny.replace(**settings), picture[tuple(slice(n) for n in size)]
    whole, tiled = (detect(untrained, config, image, t, score) for t in (WHOLE, tile))
    assert len(whole.boxes) > 30 and whole.masks.std() > 3  # there is something to compare
    assert not differ(whole, tiled)


def test_without_their_halo_tiles_do_not_give_that(untrained, tiny, picture, monkeypatch):
    """The test above can fail."""
    config, image = tiny.replace(channels=(4, 8)), picture[:, :, :50]
    whole = detect(untrained, config, image)
    monkeypatch.setattr(Network, "halo", (0, 0, 0))
    assert differ(whole, detect(untrained, config, image, (8, 12, 10)))


def test_each_mask_is_made_for_the_box_it_is_pasted_into(untrained, tiny, picture, monkeypatch):
    """Also at the far borders, where the picture is filled up to the network's stride."""
    regions, masks = [], Network.masks

    def spy(network, maps, rois, classes):
        regions.append(rois[0].numpy())
        return masks(network, maps, rois, classes)

    monkeypatch.setattr(Network, "masks", spy)
    found = detect(untrained, tiny, picture[:14, :30])
    seen = np.concatenate(regions)
    wanted = enlarge(found.boxes, tiny.roi_margin)
    nearest = np.abs(wanted[:, None] - seen[None]).max(-1).min(1)
    assert nearest.max() < 0.01  # float32 coordinates below 100


def mirrored(found, axis, size):
    boxes = found.boxes.copy()
    boxes[:, axis], boxes[:, axis + 3] = size - found.boxes[:, axis + 3], size - found.boxes[:, axis]
    return Detections(boxes, found.scores, found.classes, np.flip(found.masks, axis + 1))


@pytest.mark.parametrize(("views", "symmetric"), [(8, True), (1, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_averaged_over_all_mirrors_a_mirrored_image_gives_the_mirrored_result(
    untrained, tiny, picture, views, symmetric, axis
):
    """Boxes, scores and masks of every mirror must come back to where they belong, or this cannot hold."""
    config = tiny.replace(views=views, channels=(4, 8))
    image = picture[:12, :24, :32]  # even sides: nothing is filled up, which would be on one side only
    found = detect(untrained, config, image, score=0.4)
    other = detect(untrained, config, np.flip(image, axis).copy(), score=0.4)
    assert len(found.boxes) > 20
    assert differ(mirrored(other, axis, image.shape[axis]), found) is not symmetric


@pytest.mark.parametrize("tile", [WHOLE, (8, 12, 10)])
def test_masks_are_cut_where_their_box_is_in_every_tile_and_mirror(
    untrained, tiny, picture, tile, monkeypatch
):
    """With a mask head that shows the image itself, a mask is the image under its box."""
    forward = Backbone.forward

    def with_image(backbone, image):
        return forward(backbone, image) | {"image": image}

    def show_image(network, maps, rois, classes):
        return roi_align_3d(maps["image"], rois, 8, sampling_ratio=1)[:, 0]

    monkeypatch.setattr(Backbone, "forward", with_image)
    monkeypatch.setattr(Network, "masks", show_image)
    config, image = tiny.replace(channels=(4, 8), views=8), picture[:13, :23, :31]
    found = detect(untrained, config, image, tile, score=0.4)
    regions = torch.from_numpy(enlarge(found.boxes, config.roi_margin))
    padded = torch.nn.functional.pad(compress(torch.from_numpy(image)), (0, 1, 0, 1, 0, 1))[None, None]
    wanted = roi_align_3d(padded, [regions], 8, sampling_ratio=1)[:, 0].sigmoid() * 255
    assert len(found.boxes) > 10
    assert np.abs(found.masks - wanted.numpy()).max() <= 0.51  # rounded to whole numbers
