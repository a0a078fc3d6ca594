import numpy as np
import pytest

from weakseg_lib import calibrate
from weakseg_lib.calibrate import MOST_STACKS, choose_mask_level, choose_thresholds
from weakseg_lib.prediction import LOWEST_SCORE, Detections


class FakeStack:
    """What `choose_thresholds` asks of a prepared stack: ten cells in a row, and a number for the image."""

    def __init__(self, number=0):
        self.number = number

    def image(self):
        return np.full((4, 4, 4), self.number, np.float16)

    def known(self):
        return {"has_mask": np.zeros(10, bool)}

    def boxes(self):
        low = np.array([[0, 0, 20 * i] for i in range(10)], np.float32)
        return np.concatenate([low, low + 10], 1)


@pytest.fixture
def detector(monkeypatch):
    """A function that replaces the network by fixed detections: boxes (n, 6) and scores (n,)."""

    def install(boxes, scores):
        seen = []

        def detect_stack(network, image, score, overlap, with_masks=True, progress=False):
            seen.append((float(image.flat[0]), score, with_masks))
            order = np.argsort(-scores, kind="stable")
            found = Detections(boxes[order], scores[order], np.ones(len(boxes), int), None)
            return found.above(score, overlap)

        monkeypatch.setattr(calibrate, "detect_stack", detect_stack)
        return seen

    return install


def off(boxes, share):
    """Boxes moved along x by a share of their length."""
    moved = boxes.copy()
    moved[:, [2, 5]] += share * 10
    return moved


def test_the_score_lies_between_right_and_wrong(detector):
    cells = FakeStack().boxes()
    wrong = cells + np.array([0, 200, 0] * 2, np.float32)
    scores = np.concatenate([np.linspace(0.6, 0.9, 10), np.linspace(0.06, 0.29, 10)]).astype(np.float32)
    detector(np.concatenate([cells, wrong]), scores)
    found = choose_thresholds(None, [FakeStack()], progress=False)
    # Anything from 0.3 to 0.55 is perfect; the middle of it is taken.
    assert found["score_threshold"] == pytest.approx(0.425, abs=0.026)
    assert found["training_detection_f1"] == 1.0


def test_the_overlap_removes_doubles_and_keeps_neighbours(detector):
    cells = FakeStack().boxes()
    # Each found twice, the second at IoU 0.54, and a true neighbour at IoU 0.25 beside each.
    doubles, neighbours = off(cells, 0.3), off(cells, 0.6)
    stack = FakeStack()
    stack.boxes = lambda: np.concatenate([cells, neighbours])
    scores = np.repeat([0.9, 0.8, 0.7], 10).astype(np.float32)
    detector(np.concatenate([cells, neighbours, doubles]), scores)
    found = choose_thresholds(None, [stack], progress=False)
    assert found["nms_threshold"] in (0.3, 0.4, 0.5) and found["training_detection_f1"] == 1.0


def test_a_few_stacks_from_all_over_are_enough(detector):
    seen = detector(FakeStack().boxes()[:1], np.full(1, 0.9, np.float32))
    choose_thresholds(None, [FakeStack(i) for i in range(100)], progress=False)
    numbers = [number for number, _, _ in seen]
    assert len(numbers) == len(set(numbers)) == MOST_STACKS and (min(numbers), max(numbers)) == (0, 99)
    assert all(score == LOWEST_SCORE and not with_masks for _, score, with_masks in seen)
    seen.clear()
    choose_thresholds(None, [FakeStack(i) for i in range(3)], progress=False)
    assert [number for number, _, _ in seen] == [0, 1, 2]


@pytest.mark.parametrize("boxes", [np.zeros((0, 6), np.float32), FakeStack().boxes() + 1000])
def test_nothing_right_still_gives_thresholds(detector, boxes):
    detector(boxes, np.full(len(boxes), 0.5, np.float32))
    found = choose_thresholds(None, [FakeStack()], progress=False)
    assert found["training_detection_f1"] == 0 and 0 < found["score_threshold"] < 1


class MaskedStack(FakeStack):
    """One cell, 4 x 4 x 4 voxels in a box twice as long, whose mask was drawn; half a working voxel a voxel."""

    def image(self):
        return np.zeros((12, 12, 12), np.float16)

    def known(self):
        drawn = np.zeros((6, 6, 10), np.uint8)
        drawn[1:5, 1:5, 1:5] = 1
        box = np.array([[2, 2, 2, 4, 4, 6]], np.float32)
        origin = np.array([3, 3, 3])
        known = {"has_mask": np.array([True]), "boxes": box, "scale": np.full(3, 0.5, np.float32)}
        return known | {"mask_0": drawn, "origin_0": origin}

    def boxes(self):
        return self.known()["boxes"]


class Tight:
    class config:
        roi_margin = 0.0


@pytest.mark.parametrize("cell, rest, expected", [(0.9, 0.45, 0.5), (0.4, 0.1, 0.375), (0.9, 0.6, 0.6)])
def test_the_mask_level_lies_between_cell_and_rest_and_near_a_half(monkeypatch, cell, rest, expected):
    mask = np.full((1, 4, 4, 8), round(rest * 255), np.uint8)
    mask[..., :4] = round(cell * 255)
    found = Detections(MaskedStack().boxes(), np.ones(1, np.float32), np.ones(1, int), mask)
    monkeypatch.setattr(calibrate, "detect_stack", lambda *args, **kwargs: found)
    level = choose_mask_level(Tight, [MaskedStack()], 0.5, 0.3, progress=False)
    assert level == pytest.approx(expected, abs=0.026)  # a step of the levels that are tried


def test_without_masks_the_level_is_a_half(detector):
    detector(FakeStack().boxes(), np.full(10, 0.9, np.float32))
    assert choose_mask_level(None, [FakeStack()], 0.5, 0.3, progress=False) == 0.5
