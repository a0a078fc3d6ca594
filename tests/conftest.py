"""What many tests need: small sequences, a small network, a run folder without training, the form of an error."""

import signal
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tqdm import tqdm

from weakseg_lib.cli import main
from weakseg_lib.config import Config
from weakseg_lib.data.annotation import annotate_sequence
from weakseg_lib.data.files import write_json
from weakseg_lib.data.stacks import write_tiff
from weakseg_lib.errors import InputError
from weakseg_lib.model.network import Network
from weakseg_lib.runs import CONFIG, RUN, RUN_FORMAT, WEIGHTS, save_tensors
from weakseg_lib.train import fit

VOXEL = (0.5, 0.25, 0.25)


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Shells let what they start in the background ignore Ctrl-C: tests of it must not depend on that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    # As below whatever the defaults are tuned to.
    anchors=1,
    views=1,
    roi_margin=0.2,
    zoom=0.2,
    contrast=0.4,
    noise=0.05,
    smallest=0.4,
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
        network.mask_head.classifier[-1].weight.normal_(0, 2.0)
        network.mask_head.classifier[-1].bias += 3
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
            "mask_level": 0.5,
        }
        write_json(folder / CONFIG, config.to_json())
        write_json(folder / RUN, info | changes)
        save_tensors(folder / WEIGHTS, make_network(config, eager=eager).state_dict())
        return folder

    make.config = TINY
    return make


# The command line


@pytest.fixture
def place(tmp_path, make_run):
    """Names of what a user has: a sequence with annotation, a run, a folder with the results of an earlier call."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()  # one that a test before left open would move the lines of this one
    results = tmp_path / "results"
    results.mkdir()
    for name in ("mask000.tif", "boxes000.csv", "mask_image.tif", "boxes_image.csv"):
        (results / name).write_text("an earlier result")
    sequence = write_sequence(tmp_path / "data/01")
    weak = sequence.with_name("01_WEAK")
    return SimpleNamespace(
        folder=tmp_path,
        sequence=sequence,
        stack=sequence / "t000.tif",
        labels=sequence.with_name("01_GT") / "SEG/man_seg000.tif",
        boxes=weak / "boxes000.csv",
        masks=weak / "mask000.tif",
        run=make_run(),
        new_run=tmp_path / "new_run",
        image=tmp_path / "image.tif",
        results=results,
    )


@pytest.fixture
def fit_call(place):
    """The arguments of a training of two steps, and more at their end."""
    small = ["cell_size=0", "crop=16,32,32", "channels=4,8,8", "blocks=1", "roi_size=4", "steps=2"]
    call = ("fit", place.sequence, "--out", place.new_run, "--set", *small, "--device", "cpu")
    return lambda *more: (*call, *more)


@pytest.fixture
def predict_call(place):
    """The arguments of a prediction into the folder with earlier results."""
    return lambda what, *more: ("predict", place.run, what, "--out", place.results, "--device", "cpu", *more)


@pytest.fixture
def call(capsys):
    """A function that calls the command line in this process: arguments to (status, lines on stderr).

    Progress bars are left out: they overwrite themselves after a carriage return.
    """

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        lines = (line.rsplit("\r", 1)[-1].strip() for line in capsys.readouterr().err.split("\n"))
        return status, [line for line in lines if line and "%|" not in line]

    return run


@pytest.fixture
def fails(call):
    """A function: arguments of a call that must end with status 2 and one line on stderr; returns that line."""

    def run(*arguments):
        status, lines = call(*arguments)
        assert status == 2 and len(lines) == 1, lines
        assert lines[0].startswith("weakseg: ") and "; " in lines[0]
        return lines[0]

    return run


@pytest.fixture
def snapshot():
    """A function: a folder to {relative path: content} of every file in it."""
    return lambda folder: {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
