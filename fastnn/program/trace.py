"""Recording: array code run on `Symbol`s leaves a `Program`, a list of kernel calls for any number of rows.

A dimension is a whole number or `Rows(k)`, k times the number of rows `B` that an instance is made for. Symbols that are not
written by a call are inputs: their storage is given by name when the program is instantiated. A symbol may be a view into
another one (a parameter into the arena, a reshaped array into the array itself).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from fastnn.errors import CaptureError
from fastnn_kernels.contract import KERNELS, Operand


@dataclass(frozen=True)
class Rows:
    """`factor` times the number of rows, a dimension that is known when the program is instantiated."""

    factor: int = 1

    def __mul__(self, other: int) -> Rows:
        return Rows(self.factor * other)

    __rmul__ = __mul__

    def __str__(self) -> str:
        return {0: "N", 1: "B"}.get(self.factor, f"{self.factor}B")


Dimension = int | Rows
Shape = tuple[Dimension, ...]
B = Rows()
N = Rows(0)
"""The length of an input that may be any: data, orders, tables. No kernel's cost or memory depends on it."""


def elements(shape: Shape) -> Dimension:
    """The product of the dimensions; at most one of them may depend on the number of rows."""
    fixed = math.prod(d for d in shape if isinstance(d, int))
    rows = [d for d in shape if isinstance(d, Rows)]
    if len(rows) > 1:
        raise CaptureError(f"the shape {describe(shape)} depends on the number of rows twice, which no operation supports")
    return rows[0] * fixed if rows else fixed


def concrete(shape: Shape, rows: int) -> tuple[int, ...]:
    """The shape for a number of rows."""
    return tuple(d.factor * rows if isinstance(d, Rows) else d for d in shape)


def describe(shape: Shape) -> str:
    """`(B, 10)`, as it is written in documentation and messages."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


class Symbol:
    """An array that a program will compute: a shape and a dtype, and no values yet.

    `+ - * / ** @`, unary minus, `abs` and the orderings mean the vocabulary's operations. Whatever needs values raises
    `CaptureError`.
    """

    __slots__ = ("base", "dtype", "name", "offset", "shape", "trace")
    __array_ufunc__ = None  # NumPy arrays then leave mixed arithmetic to the methods below, which refuse it clearly

    def __init__(
        self, trace: Trace, shape: Shape, dtype: Any, name: str = "", base: Symbol | None = None, offset: int = 0
    ) -> None:
        self.trace = trace
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.name = name
        self.base = base
        self.offset = offset

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def root(self) -> Symbol:
        """The symbol that owns the storage."""
        return self if self.base is None else self.base.root

    @property
    def start(self) -> int:
        """Elements from the start of the root's storage."""
        return self.offset + (0 if self.base is None else self.base.start)

    def view(self, shape: Shape, offset: int = 0, name: str = "") -> Symbol:
        """The elements from `offset` on, read in order as `shape`."""
        return Symbol(self.trace, shape, self.dtype, name, self, offset)

    def operand(self, rows: int) -> Operand:
        return Operand(concrete(self.shape, rows), self.dtype)

    def __repr__(self) -> str:
        return f"<Symbol {self.name or ''}{describe(self.shape)} {self.dtype}>"

    def __len__(self) -> int:
        _refuse("len()", "its .shape")

    def __iter__(self) -> NoReturn:
        _refuse("iteration", "ops.gather or ops.slice")

    def __getitem__(self, index: object) -> NoReturn:
        _refuse("indexing", "ops.gather or ops.slice")

    def __bool__(self) -> bool:
        _refuse("a truth value (an `if`, `and` or `or`)", "ops.where")

    def __float__(self) -> float:
        _refuse("float()", "the symbol itself: operations take it as it is")

    def __int__(self) -> int:
        _refuse("int()", "the symbol itself: operations take it as it is")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse("a NumPy function", "the operation of the same name in fastnn.ops")

    def __array_function__(self, function: Callable[..., Any], *args: object) -> NoReturn:
        _refuse(f"numpy.{function.__name__}", f"{_equivalent(function.__name__)}")

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        _refuse("==", "ops.equal")

    def __ne__(self, other: object) -> bool:
        if self is other:
            return False
        _refuse("!=", "ops.not_equal")


def _equivalent(name: str) -> str:
    from fastnn import ops

    return f"ops.{name}" if hasattr(ops, name) else "an operation of fastnn.ops"


def _refuse(what: str, instead: str) -> NoReturn:
    raise CaptureError(f"{what} needs values, and a Symbol has none while a program is recorded; use {instead}")


@dataclass(frozen=True, eq=False)
class Call:
    """One kernel call: operands in the contract's order."""

    kernel: str
    operands: tuple[Symbol, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_view(self) -> bool:
        """Whether nothing is computed: the last operand is the first one, read in another shape."""
        return self.kernel == "reshape"

    @property
    def reads(self) -> tuple[Symbol, ...]:
        """What must hold values before the call: inputs and updated operands."""
        if self.is_view:
            return self.operands[:1]
        entry = KERNELS[self.kernel]
        return self.operands[: len(entry.inputs) + len(entry.updated)]

    @property
    def inputs(self) -> tuple[Symbol, ...]:
        return self.operands[:1] if self.is_view else self.operands[: len(KERNELS[self.kernel].inputs)]

    @property
    def outputs(self) -> tuple[Symbol, ...]:
        """What the call makes anew (updated operands are not among them)."""
        return self.operands[1:] if self.is_view else self.operands[len(self.reads) :]

    @property
    def updated(self) -> tuple[Symbol, ...]:
        return () if self.is_view else self.operands[len(self.inputs) : len(self.reads)]

    def makes(self, symbol: Symbol) -> bool:
        """Whether `symbol` is an output of the call."""
        return any(made is symbol for made in self.outputs)

    def replace(self, mapping: Mapping[Symbol, Symbol]) -> Call:
        """The same call on other operands."""
        return Call(self.kernel, tuple(mapping.get(s, s) for s in self.operands), self.attributes)


class Trace:
    """A recording in progress."""

    def __init__(self, dtype: Any = "float32") -> None:
        import fastnn.ops  # noqa: F401 - symbols have their arithmetic and operations their derivatives from there

        self.dtype = np.dtype(dtype)
        self.calls: list[Call] = []
        self.inputs: dict[str, Symbol] = {}

    def input(self, name: str, shape: Shape, dtype: Any = None) -> Symbol:
        """A symbol whose storage is given from outside under `name`."""
        if name in self.inputs:
            raise CaptureError(f"the program has an input {name!r} already")
        symbol = Symbol(self, shape, self.dtype if dtype is None else dtype, name)
        self.inputs[name] = symbol
        return symbol

    def record(
        self,
        kernel: str,
        reads: Sequence[Symbol],
        outputs: Iterable[tuple[Shape, Any]],
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[Symbol, ...]:
        """Append a call; `reads` are its inputs and updated operands. Returns new symbols for its outputs."""
        for symbol in reads:
            if symbol.trace is not self:
                raise CaptureError(f"{symbol!r} belongs to another recording; a program cannot mix two")
        made = tuple(Symbol(self, shape, dtype) for shape, dtype in outputs)
        self.calls.append(Call(kernel, (*reads, *made), dict(attributes or {})))
        return made

    def reshape(self, x: Symbol, shape: Shape) -> Symbol:
        y = x.view(shape)
        self.calls.append(Call("reshape", (x, y)))
        return y

    def program(self, outputs: Mapping[str, Symbol]) -> Program:
        """What was recorded, as a program that makes `outputs`."""
        return Program(dict(self.inputs), tuple(self.calls), dict(outputs))


@dataclass(frozen=True, eq=False)
class Program:
    """A list of kernel calls, the inputs whose storage is given from outside, and the symbols that are its results."""

    inputs: Mapping[str, Symbol]
    calls: tuple[Call, ...]
    outputs: Mapping[str, Symbol]

    def with_calls(self, calls: Iterable[Call]) -> Program:
        return Program(self.inputs, tuple(calls), self.outputs)

    def __str__(self) -> str:
        names: dict[Symbol, str] = {}

        def name(symbol: Symbol) -> str:
            if symbol.name:
                return symbol.name
            return names.setdefault(symbol, f"%{len(names)}")

        lines = []
        for call in self.calls:
            made = ", ".join(f"{name(s)} {describe(s.shape)}{_kind(s)}" for s in (*call.updated, *call.outputs))
            arguments = [name(s) for s in call.inputs] + [f"{key}={value}" for key, value in call.attributes.items()]
            lines.append(f"{made} = {call.kernel}({', '.join(arguments)})")
        return "\n".join(lines)


def _kind(symbol: Symbol) -> str:
    return " bfloat16" if symbol.dtype.name == "bfloat16" else ""
