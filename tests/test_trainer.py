import numpy as np
import pytest
import torch

from weakseg_lib.data.annotation import annotate
from weakseg_lib.data.crops import CropSampler
from weakseg_lib.data.prepare import prepare
from weakseg_lib.data.stacks import Stack
from weakseg_lib.model.network import Network
from weakseg_lib.trainer import Trainer, one_cycle

VOXEL = (0.5, 0.25, 0.25)


@pytest.fixture
def make(cells, tmp_path, tiny):
    """A function: settings to a trainer on one small stack, always with the same weights."""
    image, labels = cells()
    stack = Stack(image, VOXEL, "01/t000", tmp_path)
    prepared = prepare(stack, annotate(labels, 0.5, 0), VOXEL, tmp_path / "p")

    def trainer(**settings):
        torch.manual_seed(0)
        config = tiny.replace(steps=20, **settings)
        return Trainer(
            Network(config, [[7, 10, 10]]), CropSampler([prepared], config, 0), config, torch.device("cpu")
        )

    return trainer


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a) and set(a) == set(b)


def copy(state):
    return {key: value.clone() for key, value in state.items()}


def test_learning_rate_rises_then_falls():
    rates = [one_cycle(p) for p in np.linspace(0, 1, 101)]
    assert (
        rates[0] == pytest.approx(0.1) and rates[5] == pytest.approx(1) and rates[-1] == pytest.approx(0.01)
    )
    assert all(np.diff(rates[:6]) > 0) and all(np.diff(rates[5:]) < 0)
    assert one_cycle(1.3) == one_cycle(1.0)  # a step that ends after the time is up


def test_whichever_limit_is_nearer_ends_the_training(make):
    trainer = make(minutes=2.0)
    trainer.done, trainer.seconds = 5, 12.0
    assert trainer.progress == 0.25  # 5 of 20 steps, 12 of 120 s
    trainer.seconds = 60.0
    assert trainer.progress == 0.5
    trainer = make()
    trainer.seconds = 1e6  # minutes=0 is no limit
    assert trainer.progress == 0


@pytest.mark.parametrize("loss", ["default", "paper"])
def test_a_step(make, loss):
    trainer = make(loss=loss)
    before = copy(trainer.network.state_dict())
    losses = trainer.step()
    assert set(losses) == {"lr", "loss", "loss_class", "loss_box", "loss_mask"}
    parts = losses["loss_class"] + losses["loss_box"] + losses["loss_mask"]
    assert losses["loss"] == pytest.approx(parts, rel=1e-6) and np.isfinite(parts)  # float32
    assert trainer.done == 1 and trainer.seconds > 0
    after = trainer.network.state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in before if k != "detector.anchor_sizes")
    assert losses["lr"] == pytest.approx(0.1 * trainer.config.learning_rate)


def test_gradients_are_clipped(make):
    trainer = make(clip=0.01)
    trainer.step()
    norm = torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm()
    assert norm == pytest.approx(0.01, rel=1e-3)  # torch divides by the norm + 1e-6


def test_only_weights_of_convolutions_decay(make):
    decaying, plain = make().optimiser.param_groups
    assert decaying["weight_decay"] > 0 == plain["weight_decay"]
    assert all(p.ndim == 5 for p in decaying["params"]) and all(p.ndim == 1 for p in plain["params"])


@pytest.mark.parametrize("average", [0.5, 0.0])
def test_the_averaged_weights(make, average):
    trainer = make(average=average)
    name = "mask_head.layers.0.weight"
    wanted = trainer.network.state_dict()[name].clone()
    for done in range(12):
        trainer.step()
        keep = min(average, (1 + done) / (10 + done))
        wanted = keep * wanted + (1 - keep) * trainer.network.state_dict()[name]
    torch.testing.assert_close(trainer.average[name], wanted, atol=1e-6, rtol=1e-5)  # float32
    counter = next(k for k in trainer.average if k.endswith("num_batches_tracked"))
    assert trainer.average[counter] == 12
    if not average:
        assert same(trainer.average, trainer.network.state_dict())


@pytest.mark.parametrize("loss", ["default", "paper"])
def test_a_loaded_state_goes_on_as_if_nothing_had_happened(make, loss, tmp_path):
    whole = make(loss=loss)
    for _ in range(3):
        whole.step()
    torch.save(whole.state(), tmp_path / "state.pt")
    rest = [whole.step() for _ in range(3)]

    resumed = make(loss=loss)
    resumed.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.done == 3
    assert [resumed.step() for _ in range(3)] == rest  # the very numbers
    assert same(resumed.network.state_dict(), whole.network.state_dict())
    assert same(resumed.average, whole.average)


def test_training_reduces_the_loss(make):
    trainer = make()
    losses = [trainer.step()["loss"] for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
