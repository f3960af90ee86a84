"""The CUDA kernel set: bodies in `.cu` files, what they are called with, and the programs that NVIDIA GPUs play.

Importing it loads neither CuPy nor a driver: `fastnn_kernels.cuda.device` does, when a GPU is first asked for.
"""

from __future__ import annotations

import importlib

FAMILIES = ("rows",)
for _family in FAMILIES:
    importlib.import_module(f"fastnn_kernels.cuda.{_family}")
