# SPDX-License-Identifier: MIT
"""Compile the kernels for tensor cores and look at the machine code.

Fails where a kernel spills registers or uses local memory, or lacks an instruction that it is made
of: asynchronous copies of 16 bytes, matrix loads, tensor-core products, weights in 16-byte loads.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ARCHITECTURES = ("87", "90", "110")  # Jetson Orin, H100 and H200, Jetson Thor
COPY, MATRIX, PRODUCT = "LDGSTS.E.BYPASS.128", "LDSM.16", "HMMA.1"
NEEDED = {
    "implicit_gemm": ("gemm_kernel", (COPY, MATRIX, PRODUCT, "LDG.E.128")),
    "pair_gemm": ("pair_kernel", (COPY, MATRIX, PRODUCT)),
}
FORBIDDEN = ("LDL", "STL")


def output_of(*command: str | Path) -> str:
    """What a command prints; its errors end the check."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stdout + ran.stderr)
    return ran.stdout + ran.stderr


def functions_of(listing: str) -> dict[str, str]:
    """Machine code by the mangled name of its function."""
    parts = re.split(r"^\s*\.section\s+\.text\.(\w+)", listing, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def check(source: str, architecture: str, nvdisasm: str, work: Path) -> list[str]:
    """Faults of the kernels of one source file."""
    name, needed = NEEDED[source]
    cubin = work / f"{source}_{architecture}.cubin"
    output_of(
        "nvcc", "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Icsrc", "-cubin",
        f"csrc/cuda/{source}.cu", "-o", cubin,
    )  # fmt: skip
    functions = functions_of(output_of(nvdisasm, "-c", cubin))
    kernels = {key: code for key, code in functions.items() if name in key}
    faults = [] if kernels else [f"{source} sm_{architecture}: no kernel was found"]
    for key, code in kernels.items():
        where = f"{source} sm_{architecture} {key}"
        faults += [f"{where}: no {word}" for word in needed if word not in code]
        faults += [f"{where}: {word}" for word in FORBIDDEN if re.search(rf"\b{word}\b", code)]
    print(f"{source} sm_{architecture}: {len(kernels)} kernels, {len(faults)} faults")
    return faults


def main(nvdisasm: str, work: str) -> None:
    """Check all kernels; ``work`` is a folder for what is compiled."""
    faults = [
        fault
        for architecture in ARCHITECTURES
        for source in NEEDED
        for fault in check(source, architecture, nvdisasm, Path(work))
    ]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main(*sys.argv[1:])
