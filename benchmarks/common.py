"""What every benchmark records beside its numbers, and how it runs the command line."""

import platform
import subprocess
import sys
from pathlib import Path

import torch

import weakseg_lib
import weakseg_lib.device

RESULTS = Path(__file__).parent / "results"


def provenance(seed: int) -> dict:
    """Device, versions, command and seed: without them a number says nothing."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": " ".join(["python", *sys.argv]),
        "seed": seed,
        "device": gpu or f"CPU {platform.machine()}, {torch.get_num_threads()} threads",
        "cpu": _cpu_name(),
        "bfloat16": weakseg_lib.device.native_bfloat16(torch.device("cuda" if gpu else "cpu")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "weakseg": weakseg_lib.__version__,
    }


def weakseg(*arguments):
    """Run `weakseg ...` as a user does and show it; stop where it fails."""
    words = [str(a) for a in arguments]
    print("$ weakseg", *words, flush=True)
    subprocess.run([sys.executable, "-m", "weakseg_lib", *words], check=True)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
