import math

import numpy as np
import pytest
import torch

from weakseg_lib.model.anchors import anchor_grid, match_iou
from weakseg_lib.model.detector import Detector
from weakseg_lib.ops.boxes import encode

SIZES = [[4.0, 4, 4], [8, 8, 8]]
NO_BOXES = torch.zeros(0, 6)


@pytest.fixture
def make():
    def detector(paper=False, classes=2, sizes=SIZES, channels=4):
        torch.manual_seed(0)
        return Detector(channels, sizes, stride=2, classes=classes, paper=paper).eval()

    return detector


@pytest.mark.parametrize(
    ("paper", "classes", "outputs"), [(False, 2, 1), (False, 3, 2), (True, 2, 2), (True, 3, 3)]
)
def test_an_answer_for_every_anchor(make, paper, classes, outputs):
    anchors, logits, code = make(paper, classes)(torch.randn(2, 4, 3, 4, 5))
    assert torch.equal(anchors, anchor_grid((3, 4, 5), 2, SIZES))
    assert logits.shape == (2, 3 * 4 * 5 * 2, outputs) and code.shape == (2, 3 * 4 * 5 * 2, 6)


def test_each_answer_belongs_to_its_anchor(make):
    """Feature maps that hold their own position must come out beside the anchor of that position."""
    detector = make(classes=3)
    detector.trunk = torch.nn.Identity()
    place = torch.meshgrid(*((torch.arange(n) + 0.5) * 2 for n in (3, 4, 5)), indexing="ij")
    features = torch.stack([*place, torch.ones(3, 4, 5)])[None]
    n_sizes, outputs = 2, 2
    weight = torch.zeros(n_sizes * outputs, 4, 1, 1, 1)
    for a in range(n_sizes):
        weight[a * outputs, 0] = 1  # first class of either size: z
        weight[a * outputs + 1, 3] = a  # second class: which size
    detector.score.weight.data, detector.score.bias.data = weight, torch.zeros(4)
    weight = torch.zeros(n_sizes * 6, 4, 1, 1, 1)
    for a in range(n_sizes):
        weight[a * 6 + 4, 1] = weight[a * 6 + 5, 2] = 1  # fifth number of the code: y; sixth: x
    detector.code.weight.data, detector.code.bias.data = weight, torch.zeros(12)

    anchors, logits, code = detector(features)
    centres = (anchors[:, :3] + anchors[:, 3:]) / 2
    assert torch.equal(torch.stack([logits[0, :, 0], code[0, :, 4], code[0, :, 5]], 1), centres)
    assert torch.equal(logits[0, :, 1] > 0.5, (anchors[:, 3] - anchors[:, 0]) > 6)


def test_probabilities_leave_the_background_out(make):
    logits = torch.randn(5, 7, 3)
    softmax = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
    np.testing.assert_allclose(make(True, 3).probabilities(logits), softmax[..., 1:], atol=1e-6)  # float32
    sigmoid = 1 / (1 + torch.exp(-logits[..., :2]))
    np.testing.assert_allclose(make(False, 3).probabilities(logits[..., :2]), sigmoid, atol=1e-6)


def test_an_untrained_detector_finds_next_to_nothing(make):
    detector = make()
    _, logits, _ = detector(torch.randn(1, 4, 8, 8, 8))
    assert detector.probabilities(logits).mean() < 0.05


# Losses


def test_loss_of_the_paper_against_loops(make):
    """Eq. 1: with fewer anchors than the sample holds, every anchor that is not between the thresholds counts."""
    detector = make(paper=True, classes=3, sizes=[[6.0, 6, 6]])
    anchors = anchor_grid((4, 4, 4), 2, [[6.0, 6, 6]])
    boxes, classes = torch.tensor([[0.0, 0, 0, 6, 6, 5], [1, 2, 2, 8, 8, 8]]), torch.tensor([2, 1])
    logits, code = torch.randn(2, 64, 3), torch.randn(2, 64, 6) / 5
    match = match_iou(anchors, boxes)
    target_code = encode(anchors[match >= 0], boxes[match[match >= 0]])
    classification, regression, counted = 0.0, 0.0, 0
    for image, with_boxes in ((0, True), (1, False)):
        positive = 0
        for i in range(64):
            own = int(match[i]) if with_boxes else -1
            if own == -2:
                continue
            label = int(classes[own]) if own >= 0 else 0
            odds = [math.exp(v) for v in logits[image, i].tolist()]
            classification -= math.log(odds[label] / sum(odds))
            counted += 1
            if own >= 0:
                errors = (code[image, i] - target_code[positive]).abs().tolist()
                # Smooth L1 with its bend at 1/9, as in Faster R-CNN.
                regression += sum(e * e * 4.5 if e < 1 / 9 else e - 1 / 18 for e in errors)
                positive += 1
    ignore = [NO_BOXES, NO_BOXES]
    found = detector.loss(anchors, logits, code, [boxes, NO_BOXES], [classes, classes[:0]], ignore)
    # Sums of about 500 float32 numbers.
    np.testing.assert_allclose(found, [classification / counted, regression / counted], rtol=1e-5)


@pytest.mark.parametrize("paper", [False, True])
def test_right_answers_cost_nothing(make, paper):
    detector = make(paper, sizes=[[6.0, 6, 6]])
    anchors = anchor_grid((4, 4, 4), 2, [[6.0, 6, 6]])
    boxes, classes = torch.tensor([[1.0, 1, 2, 7, 8, 7]]), torch.tensor([1])
    positive = detector._match(anchors, boxes) >= 0
    code = encode(anchors, boxes.expand(64, 6))
    outputs = torch.where(positive, 20.0, -20.0)[:, None]
    logits = torch.cat([-outputs, outputs], 1) if paper else outputs
    right = detector.loss(anchors, logits[None], code[None], [boxes], [classes], [NO_BOXES])
    wrong = detector.loss(anchors, -logits[None], code[None] + 0.5, [boxes], [classes], [NO_BOXES])
    # exp(-20) a logit and float32 roundings of the boxes
    assert max(right) < 1e-5 and min(wrong) > 0.05


def test_a_better_box_is_to_score_higher(make):
    detector = make(sizes=[[6.0, 6, 6]])
    anchors = anchor_grid((4, 4, 4), 2, [[6.0, 6, 6]])
    boxes, classes = torch.tensor([[1.0, 1, 1, 7, 7, 7]]), torch.tensor([1])
    positive = detector._match(anchors, boxes) >= 0

    def pull(shift, logit):
        """Gradient of a positive anchor's score when its box is off by `shift` voxels."""
        logits = torch.full((1, 64, 1), logit, requires_grad=True)
        code = encode(anchors, (boxes + shift).expand(64, 6))[None]
        detector.loss(anchors, logits, code, [boxes], [classes], [NO_BOXES])[0].backward()
        assert (logits.grad[0, ~positive] > 0).all()  # background is always pushed down
        return logits.grad[0, positive].max().item()

    assert pull(0.0, 4.0) < 0  # a perfect box can never be sure enough
    assert pull(2.5, 4.0) > 0 > pull(2.5, -4.0)  # a poor one is to be in between


@pytest.mark.parametrize("paper", [False, True])
def test_without_cells_only_the_scores_learn(make, paper):
    detector = make(paper)
    anchors, logits, code = detector(torch.randn(1, 4, 4, 4, 4))
    logits, code = logits.detach().requires_grad_(), code.detach().requires_grad_()
    none = torch.zeros(0, dtype=torch.long)
    classification, regression = detector.loss(anchors, logits, code, [NO_BOXES], [none], [NO_BOXES])
    assert regression == 0 and classification > 0
    (classification + regression).backward()
    assert logits.grad.abs().max() > 0 and code.grad.abs().max() == 0


@pytest.mark.parametrize("paper", [False, True])
def test_cells_to_ignore_teach_neither_way(make, paper):
    detector = make(paper, sizes=[[6.0, 6, 6]])
    anchors = anchor_grid((4, 8, 8), 2, [[6.0, 6, 6]])
    boxes, ignore = (
        torch.tensor([[1.0, 1, 1, 7, 7, 7]]),
        torch.tensor([[0.0, 8, 8, 8, 14, 16], [2, 2, 2, 6, 6, 6]]),
    )
    centres = (anchors[:, :3] + anchors[:, 3:]) / 2
    inside = ((centres > ignore[0, :3]) & (centres < ignore[0, 3:])).all(1)
    logits = torch.zeros(1, len(anchors), detector.outputs, requires_grad=True)
    code = torch.zeros(1, len(anchors), 6)
    detector.loss(anchors, logits, code, [boxes], [torch.tensor([1])], [ignore])[0].backward()
    assert inside.sum() == 48 and logits.grad[0, inside].abs().max() == 0
    # An annotated cell is taught even where an ignored one lies over it.
    positive = detector._match(anchors, boxes) >= 0
    assert (logits.grad[0, positive].abs().sum(-1) > 0).all()
