"""Example calls of a family under AddressSanitizer and UndefinedBehaviorSanitizer: `python -m cuda_on_host.sanitized FAMILY`.

Every array is an allocation of its own that is exactly as large as it must be, once aligned to 16 bytes and once one element
off. The first error ends the process. To be started with `environment()`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import fastnn_kernels.cuda  # noqa: F401 - declares the lowerings
from cuda_on_host import calls, host
from fastnn_kernels.cuda.kernels import Kernel, kernel
from fastnn_kernels.cuda.lowering import LOWERINGS, Body, Device, lower

LARGEST = 100_000
"""Elements of the operands of a call; larger ones are left out."""


def environment() -> dict[str, str] | None:
    """With the libraries that must be loaded before Python; None where g++ has none."""
    paths = []
    for name in ("libasan.so", "libubsan.so"):
        command = ["g++", f"-print-file-name={name}"]
        paths.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    if not all(Path(path).is_absolute() for path in paths):
        return None
    return os.environ | {
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)]),
    }


def placed(array: np.ndarray, off: int) -> np.ndarray:
    """A copy that ends where its memory does and starts `off` elements after it."""
    whole = np.empty(array.size + off, array.dtype)
    whole[off:] = array.ravel()
    return whole[off:].reshape(array.shape)


def main(family: str) -> None:
    """Compile all that the calls of a family need, at once, and run them."""
    device = Device(products=False)
    chosen = []
    kernels: dict[Kernel, None] = {}
    for name, (of, _) in LOWERINGS.items():
        if of != family:
            continue
        for case in calls.calls(name):
            for precision in calls.precisions(case):
                operands = calls.operands(case, precision)
                if sum(operand.size for operand in operands) > LARGEST:
                    continue
                works = lower(name, operands, case.attributes, device).works
                kernels |= {kernel([work]): None for work in works if isinstance(work, Body)}
                chosen.append((case, precision))
    host.prepare(list(kernels), host.SANITIZERS)
    for case, precision in chosen:
        for off in (0, 1):
            for blocks in (None, 1):
                arrays = [placed(array, off) for array in case.arrays(precision)]
                host.run(case.kernel, arrays, case.attributes, blocks, device, host.SANITIZERS)
    print(len(chosen), "calls of", len(kernels), "kernels")


if __name__ == "__main__":
    main(sys.argv[1])
