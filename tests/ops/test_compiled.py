"""The Triton kernels compiled for GPUs that are not there: what they take of one is read from the binary."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

triton = pytest.importorskip("triton", reason="Triton is not installed: there is none for this system")

# Every kernel for every GPU; then, by turns, every dtype, ratio and layout.
CASES = [
    f"{kernel}:{capability}:fp32:2:channels_last"
    for kernel in ("_forward", "_backward", "_direct", "_direct_backward")
    for capability in (75, 80, 86, 89, 90)
]
CASES += [
    f"{kernel}:{case}"
    for kernel in ("_forward", "_backward")
    for case in (
        "80:bf16:1:channels_last",
        "86:fp16:0:channels_last",
        "90:bf16:2:channels_last",
        "80:fp32:0:contiguous",
        "80:bf16:1:contiguous",
        "86:fp16:0:contiguous",
        "90:fp32:2:contiguous",
    )
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, Path(__file__).with_name("compile_kernels.py"), *CASES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_fits_a_gpu(compiled, case):
    """At most 128 registers: 2 programs of 8 warps fit a multiprocessor, with none spilled to memory."""
    found = compiled[case]
    if "channels_last" in case:
        assert found["wide_loads"] > 0, "channels-last features are loaded 128 bits at a time"
    if ":75:" not in case:  # Triton does not promise this GPU: that it compiles is all we ask
        # Triton 3.6 keeps two values too many in the forward kernel on sm_90.
        allowed = 0 if Version(triton.__version__) >= Version("3.7") else 8
        assert found["spilled_bytes"] <= allowed and found["registers"] <= 128, found
