"""What the processor offers, as far as kernels care."""

from __future__ import annotations

import functools
from typing import Any

from numba import types
from numba.core.registry import cpu_target


@functools.cache
def features() -> frozenset[str]:
    """The instruction-set features that Numba compiles for on this machine (`NUMBA_CPU_FEATURES` narrows them)."""
    _, _, text = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(word[1:] for word in text.split(",") if word.startswith("+"))


@functools.cache
def level() -> str:
    """`avx512`, `avx2` or `generic`: the width and register count that the kernels are generated for."""
    have = features()
    if "avx512f" in have and "avx512vl" in have:
        return "avx512"
    if "avx2" in have and "fma" in have:
        return "avx2"
    return "generic"


def lanes(float_type: Any) -> int:
    """Elements of one vector register."""
    width = {"avx512": 512, "avx2": 256, "generic": 128}[level()]
    return width // (32 if float_type == types.float32 else 64)


def registers() -> int:
    """Vector registers that a micro-kernel may fill."""
    return {"avx512": 32, "avx2": 16, "generic": 16}[level()]
