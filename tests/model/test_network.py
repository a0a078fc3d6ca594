import dataclasses

import pytest
import torch

from weakseg_lib.config import PRESETS
from weakseg_lib.model import network as network_module
from weakseg_lib.model.network import Batch, Network
from weakseg_lib.ops.boxes import box_iou

ANCHORS = [[7.0, 10.0, 10.0]]


def make_batch(weights, seed=0, size=8):
    """Two crops with two cells each; `weights` (4,) say which of the four have masks."""
    generator = torch.Generator().manual_seed(seed)
    boxes = [torch.tensor([[2.0, 3, 4, 9, 13, 14], [5, 15, 16, 12, 26, 27]]) for _ in range(2)]
    return Batch(
        images=torch.randn(2, 1, 16, 32, 32, generator=generator),
        boxes=boxes,
        classes=[torch.ones(2, dtype=torch.long)] * 2,
        ignore=[torch.zeros(0, 6)] * 2,
        rois=boxes,
        roi_classes=torch.ones(4, dtype=torch.long),
        targets=torch.rand(4, size, size, size, generator=generator),
        weights=torch.tensor(weights),
        inside=torch.ones(4, 3, size),
    )


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", ["default", "paper"])
def test_the_parts_of_the_loss_reach_what_they_should(tiny, untrained, loss):
    network = untrained(tiny.replace(loss=loss)).train()
    parts = network.losses(make_batch([1.0, 0, 0, 1]))
    assert set(parts) == {"class", "box", "mask"}
    assert all(torch.isfinite(v) and v.ndim == 0 and v > 0 for v in parts.values())
    box = gradients(network, parts["class"] + parts["box"])
    assert {name.split(".")[0] for name in box} == {"backbone", "detector"}
    mask = gradients(network, network.losses(make_batch([1.0, 0, 0, 1]))["mask"])
    assert {name.split(".")[0] for name in mask} == {"backbone", "mask_head"}


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_instances_without_a_mask_teach_the_mask_head_exactly_nothing(tiny, untrained, norm):
    """Section 2.2, through the whole network: with no mask in the batch every gradient of L_mask is 0."""
    network = untrained(tiny.replace(norm=norm)).train()
    loss = network.losses(make_batch([0.0] * 4))["mask"]
    assert loss.item() == 0
    for name, gradient in gradients(network, loss).items():
        assert torch.equal(gradient, torch.zeros_like(gradient)), name


@pytest.mark.parametrize("poison", [0.0, float("nan"), float("inf")])
def test_the_target_of_an_instance_without_a_mask_changes_no_gradient(tiny, untrained, poison):
    network = untrained(tiny).train()
    batch = make_batch([1.0, 0, 0, 1])
    wanted = gradients(network, network.losses(batch)["mask"])
    targets = batch.targets.clone()
    targets[1:3] = poison
    found = gradients(network, network.losses(dataclasses.replace(batch, targets=targets))["mask"])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)  # bit for bit
    targets = batch.targets.clone()
    targets[0] = 1 - targets[0]  # and the test can fail: a masked instance's target does matter
    other = gradients(network, network.losses(dataclasses.replace(batch, targets=targets))["mask"])
    assert any(not torch.equal(other[name], wanted[name]) for name in wanted)


def test_box_supervision_teaches_from_unmasked_instances(tiny, untrained):
    network = untrained(tiny.replace(box_supervision=0.5)).train()
    loss = network.losses(make_batch([0.0] * 4))["mask"]
    assert loss > 0
    assert any(g.abs().max() > 0 for g in gradients(network, loss).values())


def test_a_batch_without_regions_has_no_mask_loss(tiny, untrained):
    batch = make_batch([1.0] * 4)
    none = dataclasses.replace(
        batch,
        rois=[b[:0] for b in batch.rois],
        **{k: getattr(batch, k)[:0] for k in ("targets", "weights", "inside")},
    )
    assert untrained(tiny).train().losses(none)["mask"].item() == 0


def test_a_batch_moves_as_a_whole():
    moved = make_batch([1.0] * 4).to("meta")
    values = [v for value in vars(moved).values() for v in (value if isinstance(value, list) else [value])]
    assert all(v.device.type == "meta" for v in values)


def test_masks_of_each_image_and_class(tiny, untrained):
    network = untrained(tiny.replace(classes=3))
    batch = make_batch([1.0] * 4)
    with torch.no_grad():
        maps = network.backbone(batch.images)
        both = network.masks(maps, batch.rois, torch.tensor([1, 2, 1, 2]))
        assert both.shape == (4, 8, 8, 8)
        swapped = network.masks(maps, batch.rois, torch.tensor([2, 1, 1, 2]))
        assert not torch.equal(both[0], swapped[0]) and torch.equal(both[2:], swapped[2:])
        # The second image's regions are cut from the second image; one image at a time gives the same.
        alone = network.masks(network.backbone(batch.images[1:]), batch.rois[1:], torch.tensor([1, 2]))
    assert torch.allclose(both[2:], alone, atol=1e-4)  # float32, other sizes of matrix products


@pytest.fixture
def found(tiny, untrained):
    """Detections of a network that sees cells everywhere, at a low score threshold and IoU 0.2."""
    network = untrained(tiny, eager=4.0)
    with torch.no_grad():
        maps = network.backbone(torch.randn(1, 1, 16, 32, 40, generator=torch.Generator().manual_seed(0)))
    return network.detect([((), maps)], 0.3, 0.2)


def test_what_detection_promises(found):
    boxes, scores, classes = found
    assert len(boxes) > 10 and boxes.shape == (len(scores), 6) and classes.tolist() == [1] * len(boxes)
    assert (scores[:-1] >= scores[1:]).all() and scores.min() > 0.3
    # Averages of boxes inside the image, in float32.
    assert boxes.min() > -1e-4 and (boxes[:, 3:] < torch.tensor([16, 32, 40]) + 1e-4).all()
    # Averaging with neighbours may move two towards each other, not into each other.
    assert (box_iou(boxes, boxes).fill_diagonal_(0) > 0.5).sum() == 0


def test_only_the_best_candidates_are_considered(tiny, untrained):
    maps = None
    for candidates in (1000, 5):
        network = untrained(tiny.replace(candidates=candidates), eager=4.0)
        with torch.no_grad():
            maps = maps or network.backbone(
                torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
            )
        boxes, scores, _ = network.detect([((), maps)], 0.3, 1.0)
        assert len(boxes) == candidates if candidates == 5 else len(boxes) > 5
    assert network.detect([((), maps)], 0.999999, 0.2)[0].shape == (0, 6)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_halo_covers_what_the_detector_sees(preset, monkeypatch):
    """With all of the reach, the preset's depth and few channels: along y no voxel beyond the halo changes a score."""
    monkeypatch.setattr(network_module, "SEEN", 1.0)
    config = PRESETS[preset]
    config = config.replace(channels=(2,) * len(config.channels), mask_channels=2)
    network = Network(config, [[1.0, 1.0, 1.0]]).double().eval()
    for parameter in network.parameters():
        parameter.data.abs_().add_(0.01)  # so that nothing cancels
    image = torch.ones(1, 1, 8, 256, 8, dtype=torch.float64, requires_grad=True)
    stride = config.head_stride
    score = network.detector.trunk(network.backbone(image)[stride])[:, :, :, 128 // stride]
    (gradient,) = torch.autograd.grad(score.sum(), image)
    seen = torch.nonzero(gradient[0, 0].sum((0, 2))).flatten()
    assert 128 - network.halo[1] <= seen[0] < seen[-1] < 128 + stride + network.halo[1]
    # Half a cell more, at least, so that the mask of a cell centred in the core is made of the same features.
    large = Network(config, [[30.0, 40.0, 41.0], [2, 2, 2]]).halo
    more = [a - b for a, b in zip(large, network.halo, strict=True)]
    assert all(a >= half for a, half in zip(more, (14, 19, 20), strict=True))
