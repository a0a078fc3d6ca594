"""Which device computes, and in which precision."""

import contextlib

import torch

from weakseg_lib.errors import InputError


def pick_device(name: str = "auto") -> torch.device:
    """ "auto": the GPU if torch sees one, else the CPU. Raises InputError if "cuda" is asked for and not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda", "torch sees no GPU", "use --device cpu, or install a torch build for your GPU"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def native_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 convolutions are faster than float32: GPUs since Ampere, and CPUs with AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return "amx" in torch.backends.cpu.get_cpu_capability().lower() or _has_amx()


def _has_amx() -> bool:
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check and check())


def autocast(device: torch.device, precision: str = "auto") -> contextlib.AbstractContextManager:
    """Mixed precision as the configuration says; weights, norms' statistics and losses stay float32."""
    low = native_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def memory_format() -> torch.memory_format:
    """Channels last: 3D convolutions on a CPU take as long or down to a third (oneDNN, most in bfloat16)."""
    return torch.channels_last_3d
