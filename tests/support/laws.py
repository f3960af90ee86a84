"""The one helper of the kernel tests: run a kernel in the NumPy definition and in the other sets, compare everything.

The definition runs in float64 on the same (upcast) operands. The CPU set runs as 1, 2 and 3 parts; what they leave must
be equal bit for bit. The CUDA set runs on a GPU where there is one, on arrays that begin at a boundary of 256 bytes and on
others that begin one element further; else on the host (`cuda_on_host`), with the blocks it asks for and with one block.
Outputs start as NaN and lie between guards, so that an element left out or written beyond the end is seen; operands that
are only read must be as they were.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host

import fastnn_kernels.cpu as cpu_set
import fastnn_kernels.cuda  # noqa: F401 - declares the lowerings
import fastnn_kernels.numpy as numpy_set
from fastnn.engines.cuda import CudaEngine
from fastnn_kernels.contract import KERNELS, Operand
from fastnn_kernels.cuda import device
from fastnn_kernels.cuda.arrays import DeviceArray
from fastnn_kernels.cuda.lowering import ALIGNMENT, LOWERINGS
from fastnn_kernels.cuda.runtime import CudaUnavailable
from fastnn_kernels.memory import aligned_zeros

AWKWARD = (0, 1, 31, 33, 7, 127)

PRODUCT_SHAPES = [
    (0, 3, 5), (3, 0, 5), (3, 5, 0), (1, 1, 1), (2, 2, 5), (1, 31, 33), (1, 127, 300), (3, 17, 129), (5, 7, 65), (7, 33, 31),
    (10, 30, 10), (14, 16, 32), (15, 33, 17), (31, 7, 1), (33, 127, 31), (43, 61, 67), (127, 31, 127), (200, 3, 2),
    (57, 401, 97),
]  # fmt: skip
"""(M, K, N): empty ones, single rows and columns, one less and one more than tiles, primes, more than one block of K."""
FLOATS = ("float32", "float64")
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}
GUARD = 32


def by_turns(*axes: Iterable[Any]) -> list[Any]:
    """Every combination of one value of each axis; those in which the positions of the values have an odd sum are slow.

    With an axis of two values (a dtype) every combination of the others is then tried every day with one of the two, and both
    meet every value of the others.
    """
    return [
        pytest.param(*(value for _, value in chosen), marks=pytest.mark.slow if sum(i for i, _ in chosen) % 2 else ())
        for chosen in itertools.product(*map(enumerate, axes))
    ]


def guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy of `array` between two guards of 0xA5 bytes, and the whole of it."""
    size = array.nbytes
    start = GUARD * array.itemsize
    whole = np.full(size + 2 * start, 0xA5, np.uint8)
    inner = whole[start : start + size].view(array.dtype).reshape(array.shape)
    inner[...] = array
    return inner, whole


def guards_whole(array: np.ndarray, whole: np.ndarray) -> bool:
    edge = GUARD * array.itemsize
    return bool((whole[:edge] == 0xA5).all() and (whole[len(whole) - edge :] == 0xA5).all())


def empty_like_outputs(specs: Sequence[tuple[tuple[int, ...], Any]]) -> list[np.ndarray]:
    outputs = []
    for shape, dtype in specs:
        dtype = np.dtype(dtype)
        outputs.append(np.full(shape, np.nan if dtype.kind == "f" else 1, dtype))
    return outputs


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str = "", cancels: bool = False) -> None:
    """Same shape; NaN and infinities in the same places; |actual - expected| <= tolerance * max(scale, |expected|).

    The scale is 1, or the largest element of a tensor whose elements are all smaller; where the result `cancels` (it is a
    difference of numbers of about 1), always 1.
    """
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(e), err_msg=f"{what}: NaN in other places")
    finite = np.isfinite(e)
    np.testing.assert_array_equal(a[~finite & ~np.isnan(e)], e[~finite & ~np.isnan(e)], err_msg=f"{what}: infinities")
    scale = 1.0 if cancels else min(1.0, float(np.abs(e[finite]).max(initial=0.0))) or 1.0
    error = np.abs(a[finite] - e[finite]) / np.maximum(scale, np.abs(e[finite]))
    worst = float(error.max(initial=0.0))
    assert worst <= tolerance, f"{what}: worst error {worst:.3g}, allowed {tolerance:.3g}"


def check_kernel(
    name: str,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[tuple[tuple[int, ...], Any]],
    *,
    tolerance: float,
    parts: Sequence[int] = (1, 2, 3),
    cuda: bool = True,
    cancels: bool = False,
    **attributes: Any,
) -> list[np.ndarray]:
    """Run the kernel `name` in every set; `inputs` are the read and the updated operands, `outputs` shapes and dtypes.

    `tolerance` (in units of the dtype's epsilon) and `cancels` are those of `assert_close`; `cuda`: whether the CUDA set
    takes part. Returns the written operands of the CPU, or of CUDA where the CPU has no such kernel.
    """
    entry = KERNELS[name]
    dtype = next((a.dtype for a in [*inputs, *empty_like_outputs(outputs)] if a.dtype.kind == "f"), np.dtype("float64"))
    reference = [wide(a) for a in [*(np.array(a) for a in inputs), *empty_like_outputs(outputs)]]
    with np.errstate(all="ignore"):
        getattr(numpy_set, name)(*reference, **attributes)
    first: list[np.ndarray] = []
    on_cpu = parts if "cpu" in entry.sets else ()
    runs: list[tuple[str, Any]] = [(f"{n} parts", partial(cpu_set.run, name, parts=n)) for n in on_cpu]
    if name in LOWERINGS and cuda and gpu() is not None:
        runs += [(f"CUDA, on a GPU, {n} beyond a boundary", partial(run_on_gpu, name, beyond=n)) for n in (0, 1)]
    elif name in LOWERINGS and cuda:
        runs += [(f"CUDA, {n or 'its'} blocks", partial(host.run, name, blocks=n)) for n in (None, 1)]
    for what, run in runs:
        pairs = [guarded(np.asarray(a, order="C")) for a in [*inputs, *empty_like_outputs(outputs)]]
        arrays = [inner for inner, _ in pairs]
        run(arrays=arrays, attributes=attributes)
        for operand, array, (_, whole) in zip(entry.operands, arrays, pairs, strict=True):
            assert guards_whole(array, whole), f"{name}: wrote beyond {operand} ({what})"
        for operand, array, before in zip(entry.inputs, arrays, inputs, strict=False):
            np.testing.assert_array_equal(array, before, err_msg=f"{name}: changed {operand}, which it should only read")
        written = arrays[len(entry.inputs) :]
        named = (*entry.updated, *entry.outputs)
        for operand, array, expected in zip(named, written, reference[len(entry.inputs) :], strict=True):
            assert_close(array, expected, tolerance * EPSILON[dtype.name], f"{name}.{operand} ({what})", cancels)
        if first and not what.startswith("CUDA"):
            for operand, array, expected in zip(named, written, first, strict=True):
                assert array.tobytes() == expected.tobytes(), f"{name}.{operand}: other bits with {what}"
        first = first or written
    return first


PAGE = mmap.PAGESIZE


def fenced(array: np.ndarray) -> np.ndarray:
    """A copy that ends where a page begins that nobody may touch."""
    pages = -(-array.nbytes // PAGE) + 1
    memory = np.frombuffer(mmap.mmap(-1, pages * PAGE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(memory.ctypes.data + (pages - 1) * PAGE, PAGE, 0) == 0, ctypes.get_errno()
    end = (pages - 1) * PAGE
    copy = memory[end - array.nbytes : end].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def check_scratch(name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Workers of the CPU set write to scratch memory of their own: here the second of three, whatever the part. Nothing is read
    or written behind an operand, which would end the process."""
    arrays = [fenced(array) for array in arrays]
    lowered = cpu_set.lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes)
    size = lowered.scratch
    assert size is not None
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(lowered.address)
    for parts in (1, 3):
        memory = aligned_zeros(3 * size + 2**18).view(np.uint8)
        memory[...] = 0x5A
        words = np.array(lowered.words([array.ctypes.data for array in arrays], memory.ctypes.data), np.int64)
        for part in range(parts):
            call(words.ctypes.data, part, parts, 1)
        assert (memory[:size] == 0x5A).all(), f"{name} writes to the memory of the worker before"
        assert (memory[2 * size :] == 0x5A).all(), f"{name} of {[a.shape for a in arrays]} writes behind its memory"


@functools.cache
def gpu() -> CudaEngine | None:
    """The engine of the first GPU, every kernel launched on its own; None where no GPU can be used."""
    try:
        return CudaEngine(device.open_device(0), capture=False)
    except CudaUnavailable:
        return None


def run_on_gpu(name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any], beyond: int = 0) -> None:
    """Run one call on a GPU, on copies that begin `beyond` elements after a boundary, between guards that are looked at.

    Whatever the call changes is copied back, operands that are only read as well.
    """
    engine = gpu()
    assert engine is not None
    placed = []
    for array in arrays:
        start = ALIGNMENT + beyond * array.itemsize
        whole = np.full(start + array.nbytes + ALIGNMENT, 0xA5, np.uint8)
        whole[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        there = engine.to_device(whole)
        inner = DeviceArray(engine.runtime, there.owner, there.address + start, array.shape, array.dtype)
        placed.append((start, whole, there, inner))
    engine.compute(name, [inner for *_, inner in placed], attributes)
    found = engine.read(*(there for _, _, there, _ in placed))
    for (start, whole, *_), after, array in zip(placed, found, arrays, strict=True):
        end = start + array.nbytes
        assert (after[:start] == whole[:start]).all(), f"{name}: wrote before an operand on a GPU"
        assert (after[end:] == whole[end:]).all(), f"{name}: wrote beyond an operand on a GPU"
        array[...] = after[start:end].view(array.dtype).reshape(array.shape)


def check_definition(
    name: str, inputs: Sequence[np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float, **attributes: Any
) -> None:
    """Compare the NumPy definition itself with an outside oracle's `expected` outputs, by operand name."""
    entry = KERNELS[name]
    written = (*entry.updated, *entry.outputs)
    arrays = [np.array(a) for a in inputs]
    arrays += empty_like_outputs([(expected[operand].shape, expected[operand].dtype) for operand in entry.outputs])
    getattr(numpy_set, name)(*arrays, **attributes)
    for operand, array in zip(written, arrays[len(entry.inputs) :], strict=True):
        if operand in expected:
            assert_close(array, expected[operand], tolerance * EPSILON.get(array.dtype.name, 0), f"{name}.{operand}")


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
