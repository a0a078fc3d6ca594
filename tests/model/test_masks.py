import math

import numpy as np
import pytest
import torch

from weakseg_lib.model.masks import MaskHead, mask_loss, projection_loss

M = 4


@pytest.fixture
def logits():
    return torch.randn(5, M, M, M, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def targets():
    return torch.rand(5, M, M, M, generator=torch.Generator().manual_seed(1))


WEIGHT = torch.tensor([1.0, 0, 1, 0, 0])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_head_doubles_the_size(classes, norm):
    head = MaskHead(6, 8, classes, norm)
    out = head(torch.randn(3, 6, 5, 5, 5))
    assert out.shape == (3, classes - 1, 10, 10, 10)
    out.sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_head_sees_in_the_fine_map_what_is_thinner_than_a_bin():
    torch.manual_seed(0)
    head, rois = MaskHead(6, 8, 2, "group", fine=4), torch.randn(1, 6, 5, 5, 5)
    fine = torch.zeros(2, 4, 10, 10, 10)
    fine[1, :, 4, 5, 5] = 3  # one mask voxel, an eighth of a bin
    plain, spot = head(rois.expand(2, -1, -1, -1, -1), fine)
    changed = (plain - spot).abs()[0] > 1e-3
    assert changed[4, 5, 5]


# The mask-weight layer (section 2.2)


def test_loss_against_loops(logits, targets):
    total = 0.0
    for k in (0, 2):
        pairs = zip(logits[k].flatten().tolist(), targets[k].flatten().tolist(), strict=True)
        terms = [math.log1p(math.exp(-abs(v))) + max(v, 0) - v * t for v, t in pairs]
        total += sum(terms) / len(terms)
    np.testing.assert_allclose(mask_loss(logits, targets, WEIGHT).item(), total / 2, rtol=1e-6)  # float32


def test_the_dice_term_against_loops(logits, targets):
    total = 0.0
    for k in (0, 2):
        values = zip(logits[k].flatten().tolist(), targets[k].flatten().tolist(), strict=True)
        pairs = [(1 / (1 + math.exp(-v)), t) for v, t in values]
        total += 1 - 2 * sum(p * t for p, t in pairs) / sum(p * p + t * t for p, t in pairs)
    found = mask_loss(logits, targets, WEIGHT, dice=0.7) - mask_loss(logits, targets, WEIGHT)
    np.testing.assert_allclose(found.item(), 0.7 * total / 2, rtol=1e-5)  # float32
    perfect = torch.where(targets > 0.5, 100.0, -100.0)
    assert mask_loss(perfect, (targets > 0.5).float(), WEIGHT, dice=1.0).item() < 1e-6


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_an_instance_without_a_mask_has_exactly_no_gradient(logits, targets, dice):
    mask_loss(logits, targets, WEIGHT, dice).backward()
    assert torch.equal(logits.grad[WEIGHT == 0], torch.zeros(3, M, M, M))
    assert (logits.grad[WEIGHT > 0].flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("poison", [0.0, 1e30, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["targets", "logits"])
def test_nothing_of_an_instance_without_a_mask_leaks(logits, targets, poison, where):
    clean = mask_loss(logits, targets, WEIGHT)
    (wanted,) = torch.autograd.grad(clean, logits)
    dirty_logits, dirty_targets = logits.detach().clone(), targets.clone()
    (dirty_targets if where == "targets" else dirty_logits)[WEIGHT == 0] = poison
    dirty_logits.requires_grad_()
    loss = mask_loss(dirty_logits, dirty_targets, WEIGHT)
    (gradient,) = torch.autograd.grad(loss, dirty_logits)
    assert torch.equal(loss, clean) and torch.equal(gradient, wanted)  # bit for bit


def test_no_mask_at_all_is_a_loss_and_a_gradient_of_zero(logits, targets):
    loss = mask_loss(logits, targets, torch.zeros(5))
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_no_instance_at_all():
    none = torch.zeros(0, M, M, M, requires_grad=True)
    loss = mask_loss(none, none.detach(), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0


def test_unmasked_instances_do_not_dilute_the_masked(logits, targets):
    masked = WEIGHT > 0
    alone = mask_loss(logits[masked], targets[masked], WEIGHT[masked])
    np.testing.assert_allclose(mask_loss(logits, targets, WEIGHT).item(), alone.item(), rtol=1e-6)  # float32


# What a box alone says


def test_a_mask_that_fills_its_box_agrees_with_it():
    inside = torch.ones(1, 3, M)
    inside[0, 0, 0] = 0  # the region reaches one slab out of the box along z
    full = torch.full((1, M, M, M), 20.0)
    full[0, 0] = -20.0
    assert projection_loss(full, inside, torch.ones(1)) < 1e-6  # exp(-20), float32
    assert projection_loss(-full, inside, torch.ones(1)) > 0.1  # right on y and x, wrong on z
    # A cross touches every side as well: a box does not say what lies between.
    cross = torch.full((1, M, M, M), -20.0)
    cross[0, 1:, 2, 2] = cross[0, 2, :, 2] = cross[0, 2, 2, :] = 20.0
    assert projection_loss(cross, inside, torch.ones(1)) < 1e-6


def test_learning_from_boxes_alone_gives_masks_that_fill_them_and_stay_inside(logits):
    inside = torch.ones(5, 3, M)
    inside[:, 2, -1] = 0
    guess = logits.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.3)
    for _ in range(100):
        optimiser.zero_grad()
        projection_loss(guess, inside, torch.ones(5)).backward()
        optimiser.step()
    probability = guess.detach().sigmoid()
    assert probability[..., -1].max() < 0.1 and probability.amax((1, 2))[:, :-1].min() > 0.9
    assert probability.amax((2, 3)).min() > 0.9 and probability.amax((1, 3)).min() > 0.9


def test_only_weighted_instances_are_taught_by_their_box(logits):
    projection_loss(logits, torch.ones(5, 3, M), 1 - WEIGHT).backward()
    assert torch.equal(logits.grad[WEIGHT > 0], torch.zeros(2, M, M, M))
    assert (logits.grad[WEIGHT == 0].flatten(1).abs().sum(1) > 0).all()
