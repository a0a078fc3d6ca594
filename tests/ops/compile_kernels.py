"""Compile the Triton kernels for GPUs that are not there, and print what ptxas says of them as JSON.

A program of its own, because the interpreter and the compiler cannot both be had in one process.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from weakseg_lib.ops import roi_align_triton as kernels
from weakseg_lib.ops import roi_align_triton_direct as direct

SIZES = dict(P=14, Q=14, R=14, BLOCK=kernels.BLOCK)
CONSTANTS = {
    "_forward": SIZES | dict(PRECISION="tf32x3", OFFSET=tl.int32),
    "_backward": SIZES | dict(PRECISION="tf32x3", OFFSET=tl.int32, BOXES=kernels.BOXES),
    "_direct": SIZES | dict(SCATTER=False),
    "_direct_backward": SIZES | dict(SCATTER=True),
}
TENSORS = ("features", "grad", "table", "out", "volume", "bins")


def compile_kernel(name: str, capability: int, dtype: str, ratio: int, layout: str) -> dict:
    """The kernel for 64 channels as at run time: the innermost stride is 1, the others are multiples of 16."""
    kernel = direct._direct if name.startswith("_direct") else getattr(kernels, name)
    last = layout == "channels_last"
    channels = 64 if kernel is direct._direct else kernels.channels_of_a_tile(last)
    constants = CONSTANTS[name] | dict(NZ=ratio, NY=ratio, NX=ratio, BLOCK_C=channels)
    constants |= {
        stride: 1 for stride in kernel.arg_names if re.fullmatch("._c" if last else "._[xr]", stride)
    }
    signature, attributes = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        pointer = "*fp32" if argument == "table" else f"*{dtype}"
        signature[argument] = pointer if argument in TENSORS else "i32"
        if argument in TENSORS or argument == "C" or (re.match("._", argument) and last):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()}, attributes
    )
    target = GPUTarget("cuda", capability, 32)
    ptx = triton.compile(source, target=target, options=direct.OPTIONS).asm["ptx"]
    return ptxas(ptx, capability) | {"wide_loads": len(re.findall(r"ld\.global\S*\.v4\.b32", ptx))}


def ptxas(ptx: str, capability: int) -> dict:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        arch = re.search(r"\.target (sm_\w+)", ptx)[1]
        words = [tool, "-v", f"-arch={arch}", path, "-o", path.with_suffix(".cubin")]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stderr
    return {
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spilled_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
    }


if __name__ == "__main__":
    found = {}
    for case in sys.argv[1:]:
        name, capability, dtype, ratio, layout = case.split(":")
        found[case] = compile_kernel(name, int(capability), dtype, int(ratio), layout)
    print(json.dumps(found))
