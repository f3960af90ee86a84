"""NVRTC contracts a product and the sum behind it into one multiply-add; g++ does so here, where other tests forbid it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_host import calls, host
from laws import EPSILON, assert_close, wide

import fastnn_kernels.cuda  # noqa: F401 - declares the lowerings
import fastnn_kernels.numpy as definition
from fastnn_kernels.contract import KERNELS
from fastnn_kernels.cuda.lowering import LOWERINGS

CONTRACTING = ("-ffp-contract=fast", "-mfma", "-fexpensive-optimizations")
"""Beside the options of every host build; without the last, g++ contracts nothing at -O1."""

EVERY_DAY = ("adam", "batch_norm", "dense", "gelu", "layer_norm_backward", "softmax_cross_entropy_with_gradient")
"""Kernels that are tried without being asked for."""

NAMES = sorted({*LOWERINGS} & {*KERNELS})

pytestmark = [
    pytest.mark.skipif(not calls.CASES.exists(), reason="bench/ is not here; it is not installed"),
    pytest.mark.skipif(" fma " not in Path("/proc/cpuinfo").read_text(), reason="this processor has no multiply-add"),
]


def compare(name: str, case: Any, precision: str, options: tuple[str, ...]) -> None:
    """Run a case on the host and compare what it writes with the definition in float64, within its tolerance."""
    arrays = case.arrays(precision)
    expected = [wide(array.copy()) for array in arrays]
    with np.errstate(all="ignore"):
        getattr(definition, name)(*expected, **case.attributes)
    host.run(name, arrays, case.attributes, sanitizers=options)
    entry, first = KERNELS[name], len(KERNELS[name].inputs)
    for operand, array, exact in zip((*entry.updated, *entry.outputs), arrays[first:], expected[first:], strict=True):
        tolerance = case.tolerance * EPSILON.get(precision, 0.0)
        assert_close(array, exact, tolerance, f"{name}.{operand}, {case.label}, {precision}", case.cancels)


def test_multiply_adds_are_contracted_here() -> None:
    bits = []
    for options in ((), CONTRACTING):
        case = calls.cases().CASES["adam"][0]
        arrays = case.arrays("float32")
        host.run("adam", arrays, case.attributes, sanitizers=options)
        bits.append(b"".join(array.tobytes() for array in arrays))
    assert bits[0] != bits[1]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in EVERY_DAY else pytest.mark.slow) for n in NAMES])
def test_tolerances_of_kernels_have_room_for_contraction(name: str) -> None:
    """In every case that stays within its tolerance without; those of shapes that its tolerance was not made for do not."""
    compared = 0
    for case in calls.cases().CASES.get(name, ()):
        for precision in calls.precisions(case):
            try:
                compare(name, case, precision, ())
            except AssertionError:
                continue
            compare(name, case, precision, CONTRACTING)
            compared += 1
    assert compared or name not in calls.cases().CASES
