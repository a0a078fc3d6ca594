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
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from weakseg_lib.ops import roi_align_triton as kernels
from weakseg_lib.ops import roi_align_triton_direct as direct

SIZES = dict(P=14, Q=14, R=14, SZ=0.5, SY=0.5, SX=0.5, NZ=2, NY=2, NX=2, ALIGNED=True)
CONSTANTS = {
    "_forward": SIZES | dict(PRECISION="tf32x3", BLOCK=kernels.BLOCK, BLOCK_C=kernels.BLOCK_C),
    "_backward": SIZES
    | dict(PRECISION="tf32x3", BLOCK=kernels.BLOCK, BLOCK_C=kernels.BLOCK_C, BOXES=kernels.BOXES),
    "_direct": SIZES | dict(SCATTER=False, BLOCK=kernels.BLOCK, BLOCK_C=64),
}


def compile_kernel(name: str, capability: int, dtype: str) -> dict:
    """The kernel for channels-last tensors of 64 channels: stride 1 and multiples of 16, as at run time."""
    home = direct if name == "_direct" else kernels
    kernel, constants = getattr(home, name), dict(CONSTANTS[name])
    signature, attributes = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_c"):
            constants[argument], signature[argument] = 1, "constexpr"
        else:
            pointer = {"rois": "*fp32"}.get(argument, f"*{dtype}")
            signature[argument] = (
                pointer if argument in ("features", "grad", "rois", "out", "volume", "bins") else "i32"
            )
            if signature[argument] != "i32" or argument == "C" or "_" in argument:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()}, attributes
    )
    target = GPUTarget("cuda", capability, 32)
    ptx = triton.compile(source, target=target, options={"num_warps": 8}).asm["ptx"]
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
        name, capability, dtype = case.split(":")
        found[case] = compile_kernel(name, int(capability), dtype)
    print(json.dumps(found))
