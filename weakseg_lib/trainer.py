"""One training step after another: optimiser, schedule, averaged weights, and the state that a checkpoint holds."""

import math
import time

import torch

from weakseg_lib.config import Config
from weakseg_lib.data.crops import CropSampler
from weakseg_lib.device import autocast, memory_format
from weakseg_lib.errors import InputError
from weakseg_lib.processes import count, is_main, sum_gradients, total


class Trainer:
    """The network, its optimiser and everything else that a checkpoint holds; `step()` is one update.

    Where several processes train together, all have the same of everything, and step together.
    """

    def __init__(self, network: torch.nn.Module, sampler: CropSampler, config: Config, device: torch.device):
        self.network, self.sampler, self.config, self.device = network, sampler, config, device
        if count() > 1 and device.type == "cuda":
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
        network.to(device, memory_format=memory_format()).train()
        decay = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.done = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the steps or the minutes are used up, whichever is further."""
        config = self.config
        by_steps = self.done / config.steps if config.steps else 0.0
        by_time = self.seconds / (60 * config.minutes) if config.minutes else 0.0
        return max(by_steps, by_time)

    def step(self) -> dict[str, float]:
        """One update on one batch; the losses of that batch before it."""
        began = time.perf_counter()
        rate = self.config.learning_rate * one_cycle(self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = self.sampler.batch(self.done).to(self.device)
        batch.images = batch.images.contiguous(memory_format=memory_format())
        with autocast(self.device, self.config.precision):
            parts = self.network.losses(batch, self.progress)
        share = sum(parts.values())
        parts = dict(zip(parts, total(torch.stack(list(parts.values())).detach()), strict=True))
        loss = sum(parts.values())
        if not torch.isfinite(loss):
            problem = f"the loss is {loss.item()} at step {self.done}"
            raise InputError("training", problem, "set a lower learning_rate, or precision=float32")
        self.optimiser.zero_grad(set_to_none=True)
        share.backward()
        sum_gradients(self.network)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimiser.step()
        self._update_average()
        self.done += 1
        # The main process's clock: --minutes ends all at the same step.
        self.seconds += float(total((time.perf_counter() - began) * is_main(), self.device))
        return {"lr": rate, "loss": loss.item()} | {f"loss_{k}": v.item() for k, v in parts.items()}

    @torch.no_grad()
    def _update_average(self):
        # Short at first, or the average would remember the random start.
        keep = min(self.config.average, (1 + self.done) / (10 + self.done))
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)
            else:
                self.average[key].copy_(value)

    def state(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict):
        self.network.load_state_dict(state["network"])
        self.average = {k: v.to(self.device) for k, v in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.done, self.seconds = state["done"], state["seconds"]


def one_cycle(progress: float, warm_up: float = 0.05) -> float:
    """Learning rate as a share of its peak: a linear rise, then half a cosine down to 1 %."""
    if progress < warm_up:
        return 0.1 + 0.9 * progress / warm_up
    fall = (min(progress, 1.0) - warm_up) / (1 - warm_up)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * fall)) / 2
