"""Kernels compiled ahead of time for a GPU that is not there: whether they build, and what they take on its chip."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nas.backends.triton.chunks import ChunkKernel
from nas.backends.triton.emit import Kernel
from nas.backends.triton.jit import load
from nas.backends.triton.launch import over_candidates

SM_90 = GPUTarget("cuda", 90, 32)
STATES = (
    "first",
    "last",
    "total",
    "store",
    "load",
    "check",
    "scratch",
    "aside",
    "again",
    "held",
    "square",
)  # kept in float32
SHARED = 227 * 1024  # bytes of shared memory that one program may use on sm_90


@dataclass(frozen=True, slots=True)
class Taken:
    """What a kernel takes: registers per thread, bytes spilled per thread, bytes of shared memory per program."""

    registers: int
    spilled: int
    shared: int
    warps: int


def taken(
    kernel: Kernel | ChunkKernel,
    dtype: torch.dtype = torch.float32,
    target: GPUTarget = SM_90,
    candidates: bool = False,
) -> Taken:
    """Compile a kernel for a target and read what it takes. Needs no GPU; not in the interpreter's process.

    `candidates`: as it is launched over an axis of them.
    """
    rows = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float64: "*fp64"}[dtype]
    state = "*fp64" if dtype == torch.float64 else "*fp32"
    signature = {"T": "i32", "B": "i32", "CHUNK": "i32"}
    signature |= dict.fromkeys(kernel.stride_names, "i32")
    signature |= {"offsets": "*i64", "counts": "*i64"}
    if candidates:
        signature |= {f"apart_{kind}{k}": "i32" for kind, k in kernel.pointers}
    for kind, k in kernel.pointers:
        signature[f"{kind}{k}"] = state if kind in STATES else rows
    signature["EVEN"] = "constexpr"
    aligned = {(n,): [["tt.divisibility", 16]] for n in range(3, len(signature) - 1)}
    text = over_candidates(kernel) if candidates and isinstance(kernel, Kernel) else kernel.text
    source = ASTSource(load(text), signature, {"EVEN": True}, aligned)
    options = {"num_warps": kernel.warps, "num_stages": 1, "enable_fp_fusion": True}
    if isinstance(kernel, Kernel) and kernel.registers is not None:
        options["maxnreg"] = kernel.registers
    made = triton.compile(source, target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(made.asm["cubin"])
        shown = subprocess.run(
            [_cuobjdump(), "-res-usage", str(binary)], capture_output=True, text=True, check=True
        )
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", shown.stdout + shown.stderr))
    spilled = int(found.get("STACK", 0)) + int(found.get("LOCAL", 0))
    return Taken(int(found["REG"]), spilled, int(made.metadata.shared), kernel.warps)


def _cuobjdump() -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
