"""A cuBLASLt made of NumPy: the functions that fastnn_kernels.cuda.cublaslt calls, on host memory.

It knows nothing of a `Product`. It keeps the attributes that are set, by their numbers, and computes from them alone what
cublasLt.h says of them: column-major matrices at the given addresses, with NaN for what a real library would leave undefined.
What a real one refuses, it refuses with the same status; `fail` makes it refuse a function, `refused` the products with an
epilogue, `nothing_found` every product.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

TYPES: dict[int, Any] = {0: np.dtype("float32"), 1: np.dtype("float64"), 14: np.dtype(ml_dtypes.bfloat16)}
INVALID_VALUE, NOT_SUPPORTED = 7, 15
SIZES = {
    "MatmulDesc": {3: 4, 4: 4, 7: 4, 8: 8, 11: 8, 12: 8, 26: 4},
    "MatrixLayout": {0: 4, 1: 4, 2: 8, 3: 8, 4: 8},
    "MatmulPreference": {1: 8, 3: 4, 5: 4, 6: 4, 7: 4, 8: 4},
}
"""Bytes of each attribute, by kind of object and number."""

BIAS, RELU, RELU_BIAS, RELU_AUX_BIAS, DRELU, DRELU_BGRAD, BGRADA, BGRADB = 4, 2, 6, 134, 136, 152, 256, 512
MULTIPLE_SOLUTIONS = 3
"""Algorithms that the heuristic knows for every product."""


class Refused(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class FakeCublasLt:
    """Give one to `CublasLt(library=...)`. `calls` counts functions; `alive` holds what was made and not destroyed."""

    def __init__(self) -> None:
        self.alive: dict[int, tuple[str, dict[int, int]]] = {}
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, int] = {}
        self.refused: set[int] = set()
        self.nothing_found = False
        self.asked: list[dict[int, int]] = []
        """The preferences of every heuristic that was asked for."""
        self.ran: list[tuple[int, Any]] = []
        """Number of the algorithm and stream of every product."""
        self._names = itertools.count(0x1000)

    def __getattr__(self, name: str) -> Callable[..., int]:
        match = re.fullmatch(r"cublasLt(MatmulDesc|MatrixLayout|MatmulPreference|)(Create|Destroy|[SG]etAttribute)", name)
        if match:
            return functools.partial(self._status, name, getattr(self, f"_{match[2]}"), match[1] or "Handle")
        if name in ("cublasLtMatmul", "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmulAlgoCheck"):
            return functools.partial(self._status, name, getattr(self, f"_{name.removeprefix('cublasLt')}"))
        raise AttributeError(name)

    def cublasLtGetVersion(self) -> int:
        return 130101

    def _status(self, name: str, method: Callable[..., None], *arguments: Any) -> int:
        self.calls[name.removeprefix("cublasLt")] += 1
        if name.removeprefix("cublasLt") in self.fail:
            return self.fail[name.removeprefix("cublasLt")]
        try:
            method(*arguments)
        except Refused as refused:
            return refused.status
        return 0

    # --- objects ------------------------------------------------------------------------------------------------------

    def _Create(self, kind: str, made: Any, *given: int) -> None:
        name = next(self._names)
        attributes: dict[int, int] = {}
        if kind == "MatmulDesc":
            compute, scale = given
            if (compute, scale) not in ((68, 0), (77, 0), (70, 1)):
                raise Refused(INVALID_VALUE)
            attributes = {0: compute, 1: scale, 3: 0, 4: 0, 7: 1, 8: 0, 11: 0, 12: 0, 26: -1}
        elif kind == "MatrixLayout":
            type, rows, columns, pitch = given
            attributes = {0: type, 1: 0, 2: rows, 3: columns, 4: pitch}
        elif kind == "MatmulPreference":
            attributes = {1: 0, 3: 7, 5: 256, 6: 256, 7: 256, 8: 256}
        self.alive[name] = (kind, attributes)
        made._obj.value = name

    def _Destroy(self, kind: str, target: Any) -> None:
        self._attributes(kind, target)
        del self.alive[target.value]

    def _attributes(self, kind: str, target: Any) -> dict[int, int]:
        if target is None or self.alive.get(target.value, ("", {}))[0] != kind:
            raise Refused(INVALID_VALUE)
        return self.alive[target.value][1]

    def _SetAttribute(self, kind: str, target: Any, number: int, value: Any, size: int) -> None:
        if SIZES[kind].get(number) != size or ctypes.sizeof(value._obj) != size:
            raise Refused(INVALID_VALUE)
        raw = ctypes.string_at(ctypes.addressof(value._obj), size)
        self._attributes(kind, target)[number] = struct.unpack("<i" if size == 4 else "<q", raw)[0]

    def _GetAttribute(self, kind: str, target: Any, number: int, value: Any, size: int, written: Any) -> None:
        raw = struct.pack("<i" if SIZES[kind][number] == 4 else "<q", self._attributes(kind, target)[number])
        if size != len(raw):
            raise Refused(INVALID_VALUE)
        ctypes.memmove(ctypes.addressof(value._obj), raw, size)
        written._obj.value = size

    # --- algorithms: data[0] is a number, data[1:5] the alignments of A, B, C and D that it needs ---

    def _MatmulAlgoGetHeuristic(
        self, handle: Any, description: Any, a: Any, b: Any, c: Any, d: Any, preference: Any, count: int, found: Any,
        returned: Any,
    ) -> None:  # fmt: skip
        self._attributes("Handle", handle)
        wanted = dict(self._attributes("MatmulPreference", preference))
        self.asked.append(wanted)
        checked, _ = self._checked(description, a, b, c, d)
        if self.nothing_found or checked[7] in self.refused:
            returned._obj.value = 0
            return
        returned._obj.value = min(count, MULTIPLE_SOLUTIONS)
        for number in range(returned._obj.value):
            algorithm = found[number].algorithm
            algorithm.data[0] = number + 1
            for index, attribute in enumerate((5, 6, 7, 8)):
                algorithm.data[1 + index] = min(16, wanted[attribute])
            found[number].workspace = min(1024 * number, wanted[1])
            found[number].state = 0
            found[number].waves = 1.0 / (1 + number)

    def _MatmulAlgoCheck(
        self, handle: Any, description: Any, a: Any, b: Any, c: Any, d: Any, algorithm: Any, found: Any
    ) -> None:
        self._attributes("Handle", handle)
        self._checked(description, a, b, c, d)
        number = algorithm._obj.data[0]
        if not 1 <= number <= MULTIPLE_SOLUTIONS:
            raise Refused(NOT_SUPPORTED)
        found._obj.workspace, found._obj.state, found._obj.waves = 1024 * (number - 1), 0, 1.0 / number

    def _checked(self, description: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[dict[int, int], list[dict[int, int]]]:
        """What is to be computed. Refuses what cannot be."""
        wanted = self._attributes("MatmulDesc", description)
        layouts = [self._attributes("MatrixLayout", layout) for layout in (a, b, c, d)]
        left, right, into, out = layouts
        m, k = (left[3], left[2]) if wanted[3] else (left[2], left[3])
        inner, n = (right[3], right[2]) if wanted[4] else (right[2], right[3])
        epilogue = wanted[7]
        has_bias = bool(epilogue & (BIAS | 16 | BGRADA | BGRADB))
        fits = (m, n) == (out[2], out[3]) == (into[2], into[3]) and k == inner and min(m, n, k) >= 1
        fits &= all(layout[1] == 0 and layout[4] >= layout[2] and layout[0] in TYPES for layout in layouts)
        fits &= left[0] == right[0] and into[0] == out[0] and (wanted[0] == 70) == (left[0] == 1 == out[0])
        fits &= not (has_bias and (wanted[8] == 0 or wanted[26] not in (-1, out[0])))
        fits &= not (epilogue & 128 and (wanted[11] == 0 or wanted[12] % 128 or wanted[12] < m))
        fits &= epilogue in (1, BIAS, RELU, RELU_BIAS, RELU_AUX_BIAS, DRELU, DRELU_BGRAD, BGRADA, BGRADB)
        if not fits:
            raise Refused(INVALID_VALUE)
        if wanted[0] == 77 and left[0] != 0:
            raise Refused(NOT_SUPPORTED)
        return wanted, layouts

    def _Matmul(
        self, handle: Any, description: Any, alpha: Any, address_a: int, a: Any, address_b: int, b: Any, beta: Any,
        address_c: int, c: Any, address_d: int, d: Any, algorithm: Any, workspace: int, workspace_bytes: int, stream: Any,
    ) -> None:  # fmt: skip
        self._attributes("Handle", handle)
        wanted, (left, right, _, out) = self._checked(description, a, b, c, d)
        number, *alignments = (int(word) for word in algorithm._obj.data[:5])
        if not 1 <= number <= MULTIPLE_SOLUTIONS or workspace_bytes < 1024 * (number - 1):
            raise Refused(INVALID_VALUE)
        addresses = (address_a, address_b, address_c, address_d)
        if any(address % alignment for address, alignment in zip(addresses, alignments, strict=True) if alignment):
            raise Refused(INVALID_VALUE)
        number_type = ctypes.c_double if wanted[1] == 1 else ctypes.c_float
        if not all(isinstance(each._obj, number_type) for each in (alpha, beta)):
            raise Refused(INVALID_VALUE)
        self.ran.append((number, stream))
        scale, add, wanted = alpha._obj.value, beta._obj.value, dict(wanted)
        left, right, out = dict(left), dict(right), dict(out)  # whoever asked may change them while the product waits

        def multiply() -> tuple[Any, Any, Any]:
            x = _matrix(address_a, left).astype(np.float64)
            y = _matrix(address_b, right).astype(np.float64)
            x, y = x.T if wanted[3] else x, y.T if wanted[4] else y
            result = scale * (x @ y)
            return result + add * _matrix(address_c, out) if add else result, x, y

        def finish(result: Any, x: Any, y: Any) -> None:
            self._epilogue(wanted, result, x, y, _matrix(address_d, out))

        self._give(multiply, finish, workspace, workspace_bytes, stream)

    def _give(
        self, multiply: Callable[[], Any], finish: Callable[..., None], workspace: int, workspace_bytes: int, stream: Any
    ) -> None:
        """Give a product to a stream: here it is done at once."""
        ctypes.memset(workspace, 0xFF, workspace_bytes)
        finish(*multiply())

    def _epilogue(self, wanted: dict[int, int], result: Any, x: Any, y: Any, d: Any) -> None:
        epilogue, bias_type = wanted[7], TYPES[wanted[26]] if wanted[26] >= 0 else d.dtype
        m, n = d.shape
        if epilogue & BIAS:
            result = result + _vector(wanted[8], m, bias_type)[:, None]
        if epilogue & 128:
            mask = _vector(wanted[11], n * wanted[12] // 8, np.dtype("uint8")).reshape(n, wanted[12] // 8)
            if epilogue & RELU:
                bits = np.zeros((n, wanted[12]), bool)
                bits[:, :m] = (result > 0).T
                mask[...] = np.packbits(bits, axis=1, bitorder="little")
            else:
                bits = np.unpackbits(mask, axis=1, bitorder="little")[:, :m].T
                result = np.where(bits, result, 0)
        if epilogue & RELU:
            result = np.fmax(result, 0)
        gradient = {DRELU_BGRAD: lambda: result.sum(axis=1), BGRADA: lambda: x.sum(axis=1), BGRADB: lambda: y.sum(axis=0)}
        if epilogue in gradient:
            sums = gradient[epilogue]()
            _vector(wanted[8], len(sums), bias_type)[...] = sums.astype(bias_type)
        d[...] = result.astype(d.dtype)


def _vector(address: int, size: int, dtype: np.dtype[Any]) -> Any:
    raw = (ctypes.c_uint8 * (size * dtype.itemsize)).from_address(address)
    return np.frombuffer(raw, np.uint8).view(dtype)


def _matrix(address: int, layout: dict[int, int]) -> Any:
    """The column-major matrix at an address, as a view."""
    rows, columns, pitch = layout[2], layout[3], layout[4]
    dtype = TYPES[layout[0]]
    raw = _vector(address, pitch * (columns - 1) + rows, dtype)
    return np.lib.stride_tricks.as_strided(raw, (rows, columns), (dtype.itemsize, pitch * dtype.itemsize))
