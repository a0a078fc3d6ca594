"""What many tests need: small sequences, a small network, a run folder without training, the form of an error."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from weakseg_lib.config import Config
from weakseg_lib.data.annotation import annotate_sequence
from weakseg_lib.data.files import write_json
from weakseg_lib.data.stacks import write_tiff
from weakseg_lib.errors import InputError
from weakseg_lib.model.network import Network
from weakseg_lib.runs import CONFIG, RUN, RUN_FORMAT, WEIGHTS, save_tensors
from weakseg_lib.train import fit

VOXEL = (0.5, 0.25, 0.25)


@pytest.fixture
def refused():
    """A context in which an InputError must be raised: one line that names the file and ends with the fix."""

    @contextmanager
    def check(where, *words):
        with pytest.raises(InputError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"{where}: "), message
        assert caught.value.fix and message.endswith(f"; {caught.value.fix}")
        for word in words:
            assert word in message, f"{word!r} is not in {message!r}"

    return check


TINY = Config(
    cell_size=0.0,
    crop=(16, 32, 32),
    batch=2,
    channels=(4, 8, 8),
    blocks=1,
    roi_size=4,
    mask_channels=8,
    rois=4,
    steps=3,
    precision="float32",
)


@pytest.fixture
def tiny():
    """Settings of a network that takes milliseconds: nothing resampled, float32, so that results can be compared."""
    return TINY


def make_cells(shape=(20, 48, 48), seed=0, spacing=14):
    """An image (uint16) and labels (int32) of `shape`: bright ellipsoids of about 7 x 10 x 10 voxels on a grid."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    labels = np.zeros(shape, np.int32)
    starts = (range(5, n - 4, step) for n, step in zip(shape, (10, spacing, spacing), strict=True))
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)
    for i, corner in enumerate(corners, start=1):
        centre = corner + rng.uniform(-0.5, 2, 3)
        axes = np.array([3.5, 5, 5]) * rng.uniform(0.85, 1.1, 3)
        labels[(((grid - centre) / axes) ** 2).sum(-1) < 1] = i
    image = 100 + 400 * (labels > 0) + rng.normal(0, 20, shape)
    return image.clip(0, 65535).astype(np.uint16), labels


@pytest.fixture
def cells():
    """The function `make_cells`."""
    return make_cells


def write_sequence(path, frames=1, shape=(20, 48, 48), share=0.5, voxel_size=VOXEL, seed=0):
    """Write `path` = NAME/01 with images, full labels and (share not None) a weak annotation; return the path."""
    for t in range(frames):
        image, labels = make_cells(shape, [seed, t])
        write_tiff(path / f"t{t:03d}.tif", image, voxel_size)
        write_tiff(path.with_name("01_GT") / f"SEG/man_seg{t:03d}.tif", labels, voxel_size)
    if share is not None:
        annotate_sequence(path, share, seed, progress=False)
    return path


@pytest.fixture
def make_sequence(tmp_path):
    """A function like `write_sequence` that takes a name instead of a path."""
    return lambda name="data", **options: write_sequence(tmp_path / name / "01", **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder and the sequence it was trained on: 60 steps are enough to find these cells."""
    folder = tmp_path_factory.mktemp("trained")
    sequence = write_sequence(folder / "data/01", frames=2)
    config = TINY.replace(steps=60, roi_size=6, learning_rate=1e-2)
    fit([sequence], folder / "run", config, device="cpu", progress=False)
    return folder / "run", sequence


def make_network(config, seed=0, eager=0.0, anchor_sizes=((7.0, 10.0, 10.0),)):
    """An untrained network in evaluation mode whose answers differ from place to place.

    Its BatchNorm statistics are those of noise, not of a fresh network. `eager` is added to the bias of the scores:
    with about 4 there are many boxes.
    """
    torch.manual_seed(seed)
    network = Network(config, anchor_sizes)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.momentum = 1.0
    with torch.no_grad():
        maps = network.backbone(torch.randn(2, 1, 16, 32, 32))
        network.detector(maps[config.head_stride])
        regions = torch.tensor([[2.0, 3, 4, 9, 13, 14], [5, 15, 16, 12, 26, 27]])
        network.masks(maps, [regions, regions], torch.ones(4, dtype=torch.long))
        network.detector.code.weight.normal_(0, 0.05)
        network.detector.score.weight.normal_(0, 1.0)
        network.mask_head.layers[-1].weight.normal_(0, 2.0)
        network.mask_head.layers[-1].bias += 3
        network.detector.score.bias += eager
    return network.eval()


@pytest.fixture
def untrained():
    """The function `make_network`."""
    return make_network


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a finished run folder without training; changes go into run.json. Its path."""

    def make(name="run", config=TINY, eager=4.0, **changes):
        folder = tmp_path / name
        folder.mkdir()
        info = {
            "format": RUN_FORMAT,
            "weakseg": "0.1.0",
            "finished": True,
            "has_masks": True,
            "working_voxel_um": VOXEL,
            "anchor_sizes": [[7.0, 10.0, 10.0]],
            "score_threshold": 0.3,
            "nms_threshold": 0.2,
        }
        write_json(folder / CONFIG, config.to_json())
        write_json(folder / RUN, info | changes)
        save_tensors(folder / WEIGHTS, make_network(config, eager=eager).state_dict())
        return folder

    make.config = TINY
    return make
