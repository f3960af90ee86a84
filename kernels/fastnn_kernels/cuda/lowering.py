"""Lowering: from a call of the contract to what a GPU runs for it.

A kernel of the contract becomes one or more *works*, done one after another: bodies, which are device functions of a `.cu`
file run by a number of blocks, and products, which cuBLASLt computes. A body is no kernel of its own: bodies that do not
depend on each other are put side by side into one kernel (`fastnn_kernels.cuda.kernels`), so that a step has few nodes.

    @lowering("softmax", family="rows")
    def softmax(call):
        rows, columns = call.matrix("x")
        yield call.body("softmax", call["x"], call["y"], rows, columns, blocks=ceil(rows, WARPS))

calls `softmax<F>(grid, x, y, rows, columns)` of `rows.cu`: `F`, the floating-point type that is computed in, is always the
first template argument, pointers come in the type of their operand (so a body may read and write other types than F), Python
ints arrive as `i64`, floats as `F`, bools as `bool`. Every body is run by blocks of `THREADS` threads and must be right
for any number of blocks; `grid` tells it which block it is, of how many, and where its shared memory lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastnn_kernels.contract import KERNELS, Operand
from fastnn_kernels.cuda.variants import Choice

THREADS = 256
"""Threads of a block, of every body."""

WARPS = THREADS // 32

TYPES = {
    "float32": "float", "float64": "double", "bfloat16": "bf16",
    "int64": "i64", "uint8": "u8", "bool": "bool",
}  # fmt: skip
"""NumPy dtype name -> type in the sources."""

ALIGNMENT = 256
"""Bytes: buffers on a GPU start on such a boundary."""

VECTOR = 16
"""Bytes that are loaded or stored at once at most: how far it is looked at whether an operand is aligned."""


@dataclass(frozen=True)
class Pointer:
    """An argument that is an array: an operand of the call, or its scratch memory (`operand` -1) from `offset` bytes on.

    It starts at a multiple of `alignment` bytes, a divisor of VECTOR. `columns`: (bytes of a row, first byte, first byte behind
    the last) where only these bytes of a row are read or written.
    """

    operand: int
    type: str
    written: bool
    offset: int = 0
    nbytes: int = 0
    alignment: int = VECTOR
    columns: tuple[int, int, int] | None = None

    @property
    def c_type(self) -> str:
        return f"{self.type}*" if self.written else f"const {self.type}*"


@dataclass(frozen=True)
class Number:
    """An argument that is a number, of type `i64`, `float`, `double` or `bool`."""

    type: str
    value: int | float | bool

    @property
    def c_type(self) -> str:
        return self.type


@dataclass(frozen=True)
class Ahead:
    """An `i64` argument: `unit` for every step that the program is ahead of the control block.

    Several steps are captured into one graph, and the control block is moved on once for all of them: what a step reads
    there is the state before the first of them, to which this is added. 0 wherever a kernel runs on its own.
    """

    unit: int
    operand: int

    @property
    def c_type(self) -> str:
        return "i64"


Argument = Pointer | Number | Ahead


@dataclass(frozen=True)
class Body:
    """A device function and what it is called with. `shared`: bytes of shared memory that a block needs; `source`: the
    definition of the function, where it does not stand in the file of its family.
    """

    family: str
    function: str
    arguments: tuple[Argument, ...]
    blocks: int
    shared: int = 0
    source: str = ""

    @property
    def pointers(self) -> tuple[Pointer, ...]:
        return tuple(argument for argument in self.arguments if isinstance(argument, Pointer))


@dataclass(frozen=True)
class Product:
    """c (rows, columns) = epilogue(op(a) (rows, inner) @ op(b) (inner, columns)), all row-major, by cuBLASLt.

    `compute`: "float32", "tf32" or "float64"; the types of the operands are the pointers'. `epilogue` is a name of
    `fastnn_kernels.cuda.cublaslt.EPILOGUES`, with the vector and the mask that it reads or writes. `algorithm`: one that
    cuBLASLt has named, opaque; where it is empty, the heuristic's first.
    """

    a: Pointer
    b: Pointer
    c: Pointer
    rows: int
    columns: int
    inner: int
    transpose_a: bool = False
    transpose_b: bool = False
    compute: str = "float32"
    epilogue: str = "none"
    bias: Pointer | None = None
    mask: Pointer | None = None
    algorithm: bytes = b""

    @property
    def pointers(self) -> tuple[Pointer, ...]:
        return tuple(pointer for pointer in (self.a, self.b, self.c, self.bias, self.mask) if pointer is not None)


Work = Body | Product


@dataclass(frozen=True)
class Lowered:
    """What a GPU does for one call, in order; bytes of scratch memory that it needs; of a product, who computes it."""

    works: tuple[Work, ...]
    scratch: int
    note: str = ""


@dataclass(frozen=True)
class Device:
    """What lowering needs to know of a GPU; `products`: whether cuBLASLt is there; `precision`: of float32 products.

    `supports` says whether cuBLASLt has an algorithm for a product; `choices`: what was found fastest, by `dense.key`.
    """

    architecture: int = 90
    multiprocessors: int = 132
    shared_bytes: int = 227 * 1024
    products: bool = True
    precision: str = "float32"
    supports: Callable[[Product], bool] = field(default=lambda product: True, compare=False)
    choices: Mapping[str, Choice] = field(default_factory=dict, compare=False)


@dataclass
class Request:
    """A call to be lowered: operands by name, attributes, the device; it makes pointers, scratch memory and bodies."""

    name: str
    family: str
    operands: Mapping[str, Operand]
    attributes: Mapping[str, Any]
    device: Device
    alignments: Mapping[str, int] = field(default_factory=dict)
    """Of operands that do not start at a multiple of VECTOR bytes."""
    scratch: int = field(default=0)
    note: str = field(default="")

    @property
    def F(self) -> str:
        """The type that is computed in: double where an operand (but a data set) is float64, else float."""
        names = (o.dtype.name for name, o in self.operands.items() if name != "source")
        return "double" if "float64" in names else "float"

    def __getitem__(self, name: str) -> Pointer:
        """The operand `name` as an argument."""
        operand = self.operands[name]
        written = name not in KERNELS[self.name].inputs
        index, alignment = list(self.operands).index(name), self.alignments.get(name, VECTOR)
        return Pointer(index, TYPES[operand.dtype.name], written, 0, operand.nbytes, alignment)

    def ahead(self, name: str, unit: int = 1) -> Ahead:
        """How far a program's steps are ahead of the count in operand `name`, `unit` a step."""
        return Ahead(unit, KERNELS[self.name].operands.index(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.operands[name].shape

    def size(self, name: str) -> int:
        return self.operands[name].size

    def matrix(self, name: str) -> tuple[int, int]:
        """(rows, columns) of an operand, all axes but the last taken together."""
        shape = self.operands[name].shape
        return math.prod(shape[:-1]), shape[-1]

    def temporary(self, elements: int, type: str | None = None) -> Pointer:
        """Scratch memory of the call for so many elements of `type` (default F). It holds nothing before it is written."""
        type = type or self.F
        nbytes = elements * {"float": 4, "double": 8, "bf16": 2, "i64": 8, "u8": 1, "bool": 1}[type]
        pointer = Pointer(-1, type, True, self.scratch, nbytes)
        self.scratch += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return pointer

    def body(
        self,
        function: str,
        *arguments: Argument | int | float | bool,
        blocks: int,
        shared: int = 0,
        template: Sequence[str] = (),
        source: str = "",
    ) -> Body:
        """The device function `function<F, *template>(grid, *arguments)` run by `blocks` blocks (at least one).

        `source`: its definition, where that does not stand in the file of its family.
        """
        body_arguments = tuple(self._argument(argument) for argument in arguments)
        text = f"{function}<{', '.join((self.F, *template))}>"
        return Body(self.family, text, body_arguments, max(1, blocks), shared, source)

    def _argument(self, value: Argument | int | float | bool) -> Argument:
        if isinstance(value, Pointer | Number | Ahead):
            return value
        if isinstance(value, bool | np.bool_):
            return Number("bool", bool(value))
        if isinstance(value, int | np.integer):
            return Number("i64", int(value))
        return Number(self.F, float(value))


def reading(pointer: Pointer) -> Pointer:
    """The same memory, as something that is only read."""
    return replace(pointer, written=False)


def ceil(size: int, per_block: int) -> int:
    """Blocks that handle `size` things, `per_block` each."""
    return -(-size // per_block)


def spread(elements: int, device: Device, each: int = 4) -> int:
    """Blocks for grid-stride work on so many elements, `each` a thread at a time: at most eight a multiprocessor."""
    return max(1, min(ceil(elements, THREADS * each), 8 * device.multiprocessors))


Rule = Callable[[Request], Iterable[Work]]

LOWERINGS: dict[str, tuple[str, Rule]] = {}


def lowering(*names: str, family: str) -> Callable[[Rule], Rule]:
    """Declare how these kernels of the contract are lowered, to bodies of `<family>.cu`."""

    def declare(rule: Rule) -> Rule:
        for name in names:
            LOWERINGS[name] = (family, rule)
        return rule

    return declare


def request(
    name: str, operands: Sequence[Operand], attributes: Mapping[str, Any], device: Device, offsets: Sequence[int] = ()
) -> Request:
    """A call that is to be lowered. `offsets`: how many bytes behind a boundary each operand starts, 0 by default."""
    by_name = KERNELS[name].by_name(operands)
    alignments = {operand: offset & -offset for operand, offset in zip(by_name, offsets, strict=False) if offset % VECTOR}
    return Request(name, LOWERINGS[name][0], by_name, attributes, device, alignments)


def lower(
    name: str, operands: Sequence[Operand], attributes: Mapping[str, Any], device: Device, offsets: Sequence[int] = ()
) -> Lowered:
    """What a GPU does for one call; `offsets` as for `request`."""
    call = request(name, operands, attributes, device, offsets)
    works = tuple(LOWERINGS[name][1](call))
    return Lowered(works, call.scratch, call.note)
