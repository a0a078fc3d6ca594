"""Training by several processes, one a GPU, as `accelerate launch` or `notebook_launcher` starts them.

Each takes its share of the crops of the very batch that one process would take. Whatever is summed over a batch is
summed over all processes: normalisers of the losses, statistics of batch normalisation, gradients. So the weights are
those of one process, within rounding. With one process nothing here does anything, and accelerate is not needed.
"""

import multiprocessing
import os
from datetime import timedelta

import torch
from torch import distributed

from weakseg_lib.device import pick_device
from weakseg_lib.errors import InputError

PATIENCE = timedelta(days=2)  # of those who wait while the main process prepares the stacks


def join(device: str = "auto") -> torch.device:
    """Meet the other processes of this training, if there are any. The device of this one: a GPU each, or the CPU.

    Raises InputError where accelerate is missing or there are fewer GPUs than processes.
    """
    picked = pick_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return picked
    try:
        from accelerate import PartialState
    except ImportError:
        fix = 'run `pip install "weakseg_lib[cluster]"`, or start one process'
        raise InputError("accelerate", "is not installed, and several processes need it", fix) from None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if picked.type == "cuda" and here > torch.cuda.device_count():
        problem = f"{here} processes on a machine with {torch.cuda.device_count()} GPUs"
        raise InputError("--num_processes", problem, "start one process for each GPU, or use --device cpu")
    state = PartialState(cpu=picked.type == "cpu", timeout=PATIENCE)
    if multiprocessing.parent_process():
        # Forked out of a notebook, whose OpenMP threads do not come along: waiting for them would take forever.
        torch.set_num_threads(1)
    return state.device


def count() -> int:
    """How many processes train together."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def is_main() -> bool:
    """Whether this is the process that writes files, shows progress and speaks to the user."""
    return count() == 1 or distributed.get_rank() == 0


def share(n: int) -> range:
    """Which of `n` crops are this process's."""
    return range(n) if count() == 1 else range(distributed.get_rank(), n, count())


def on_main(work):
    """The result of `work()`, which the main process does while the others wait. Its InputError, all raise."""
    if count() == 1:
        return work()
    answer = [None, None]
    if is_main():
        try:
            answer[0] = work()
        except (InputError, KeyboardInterrupt) as error:
            answer[1] = error
    distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        summed = value.contiguous().clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient)


def total(value, device: torch.device | None = None):
    """The sum of a number (then say on which device) or a tensor over all processes; with one, the value itself.

    The losses of all depend on the sum, so its gradient is the sum of their gradients.
    """
    return value if count() == 1 else _Sum.apply(torch.as_tensor(value, device=device))


def sum_gradients(network: torch.nn.Module):
    """Give every process the gradient of the whole batch: its own was that of its share of the loss."""
    if count() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    summed = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(summed)
    for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


class BatchNorm3d(torch.nn.BatchNorm3d):
    """Batch normalisation, in training over the crops of all processes. On GPUs torch's own SyncBatchNorm takes its
    place, which does not know the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or count() == 1:
            return super().forward(x)
        # A share may be empty: sums of nothing, so that the gradient still meets the others. In float64, because the
        # variance is a small difference of large squares.
        axes, wide = (0, 2, 3, 4), x.double()
        n = total(x.numel() // self.num_features, x.device)
        mean, square = total(torch.stack([wide.sum(axes), wide.square().sum(axes)])) / n
        var = square - mean.square()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var += self.momentum * (var * n / (n - 1) - self.running_var)
        scale = self.weight / (var + self.eps).sqrt()
        mean, scale, bias = (v.view(-1, 1, 1, 1) for v in (mean, scale, self.bias))
        return ((wide - mean) * scale + bias).to(x.dtype)
