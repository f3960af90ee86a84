"""The CUDA kernel set: bodies in `.cu` files, what they are called with, and the programs that NVIDIA GPUs play.

Importing it loads neither CuPy nor a driver: `fastnn_kernels.cuda.device` does, when a GPU is first asked for.
"""

from __future__ import annotations

import importlib

from fastnn_kernels.cuda.runtime import Runtime

FAMILIES = (
    "data", "losses", "batch_norm", "elementwise", "chain", "moving", "reductions", "rows", "updates", "dense", "augment",
    "grouped", "layer_norm", "pooling", "convolution",
)  # fmt: skip
for _family in FAMILIES:
    importlib.import_module(f"fastnn_kernels.cuda.families.{_family}")


def runtime(ordinal: int = 0) -> Runtime:
    """The GPU with this number. Raises CudaUnavailable with the cure."""
    from fastnn_kernels.cuda.device import open_device

    return open_device(ordinal)
