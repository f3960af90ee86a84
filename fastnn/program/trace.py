"""Recording: array code run on `Symbol`s leaves a `Program`, a list of kernel calls for any number of rows.

Shapes may depend on the number of rows that an instance is made for (`fastnn.program.shapes`). Symbols that are not
written by a call are inputs: their storage is given by name when the program is instantiated. A symbol may be a view into
another one (a parameter into the arena, a reshaped array into the array itself).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastnn.arrays import describe_kinds, kind
from fastnn.errors import InputError, InputTypeError, SymbolAttributeError, TracingError
from fastnn.program.shapes import Dimension, Shape, broadcast_shapes, concrete, describe
from fastnn_kernels.contract import COMPARISONS, KERNELS, Operand

FLOATS = (np.dtype("float32"), np.dtype("float64"))


class Symbol:
    """An array that a program will compute: a shape and a dtype, and no values yet.

    `+ - * / ** @`, unary minus, `abs` and the orderings mean the vocabulary's operations. Whatever needs values raises
    `TracingError`.
    """

    __slots__ = ("base", "dtype", "name", "offset", "shape", "trace")

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

    def __add__(self, other: Any) -> Symbol:
        return binary("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return binary("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return binary("subtract", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return binary("subtract", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return binary("multiply", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return binary("multiply", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return binary("divide", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return binary("divide", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return binary("power", self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return binary("power", other, self)

    def __lt__(self, other: Any) -> Symbol:
        return binary("less", self, other)

    def __le__(self, other: Any) -> Symbol:
        return binary("less_equal", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return binary("greater", self, other)

    def __ge__(self, other: Any) -> Symbol:
        return binary("greater_equal", self, other)

    def __matmul__(self, other: Any) -> Symbol:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Symbol:
        return matmul(other, self)

    def __neg__(self) -> Symbol:
        return unary("negative", self)

    def __abs__(self) -> Symbol:
        return unary("abs", self)

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **options: Any) -> Symbol:
        """A number or an array of NumPy stands on the left of an operator, which is ours then; all else is refused."""
        name = function.__name__
        operator = REFLECTED.get(name)
        if operator is not None and method == "__call__" and len(inputs) == 2 and not isinstance(inputs[0], Symbol):
            left = inputs[0]
            if name in COMPARISONS and isinstance(left, np.ndarray) and left.ndim == 0:
                left = left[()]  # NumPy makes arrays of its numbers to compare them
            result: Symbol = getattr(self, operator)(left)
            return result
        _refuse(f"numpy.{name}" + ("" if method == "__call__" else f".{method}"), _equivalent(name, method))

    def __floordiv__(self, other: Any) -> NoReturn:
        _lacks("//", "ops.divide")

    def __rfloordiv__(self, other: Any) -> NoReturn:
        _lacks("//", "ops.divide")

    def __mod__(self, other: Any) -> NoReturn:
        _lacks("%")

    def __rmod__(self, other: Any) -> NoReturn:
        _lacks("%")

    def __and__(self, other: Any) -> NoReturn:
        _lacks("&", "ops.where")

    def __rand__(self, other: Any) -> NoReturn:
        _lacks("&", "ops.where")

    def __or__(self, other: Any) -> NoReturn:
        _lacks("|", "ops.where")

    def __ror__(self, other: Any) -> NoReturn:
        _lacks("|", "ops.where")

    def __invert__(self) -> NoReturn:
        _lacks("~", "ops.where")

    def __pos__(self) -> NoReturn:
        _lacks("unary +", "the symbol itself")

    def __setitem__(self, index: object, value: object) -> None:
        _lacks("assignment to elements", "ops.where")

    def __len__(self) -> int:
        _refuse("len()", "its .shape")

    def __iter__(self) -> NoReturn:
        _refuse("iteration", "ops.gather or ops.slice")

    def __getitem__(self, index: object) -> NoReturn:
        _refuse("indexing", "ops.gather or ops.slice")

    def __bool__(self) -> bool:
        _refuse("a boolean (an `if`, `and` or `or`)", "ops.where")

    def __float__(self) -> float:
        _refuse("float()", "the symbol itself: operations take it as it is")

    def __int__(self) -> int:
        _refuse("int()", "the symbol itself: operations take it as it is")

    def __index__(self) -> int:
        _refuse("an integer", "its .shape, or the symbol itself: operations take it as it is")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse("a NumPy function", "the operation of the same name in fastnn.ops")

    def __array_function__(self, function: Callable[..., Any], *args: object) -> NoReturn:
        _refuse(f"numpy.{function.__name__}", f"{_equivalent(function.__name__)}")

    if not TYPE_CHECKING:  # names that are not there are found by type checkers without it

        def __getattr__(self, name: str) -> NoReturn:
            if (instead := _equivalent(name)) == ANY:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            raise SymbolAttributeError(f"a Symbol has no .{name}; use {instead}")

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        _refuse("==", "ops.equal")

    def __ne__(self, other: object) -> bool:
        if self is other:
            return False
        _refuse("!=", "ops.not_equal")


ANY = "an operation of fastnn.ops"

ALSO = {"T": "transpose", "absolute": "abs", "amax": "max", "amin": "min", "true_divide": "divide", "dot": "matmul"}
"""Names that NumPy has for operations: ours."""


REFLECTED = {
    "add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__", "power": "__rpow__",
    "matmul": "__rmatmul__", "floor_divide": "__rfloordiv__", "remainder": "__rmod__", "bitwise_and": "__rand__",
    "bitwise_or": "__ror__", "less": "__gt__", "less_equal": "__ge__", "greater": "__lt__", "greater_equal": "__le__",
}  # fmt: skip
"""Methods of `Symbol` by the functions that NumPy calls for an operator with a number or an array of its own on the left."""

REDUCTIONS = {"add": "sum", "maximum": "max", "minimum": "min"}
"""What `reduce` of NumPy's functions is called."""


def _equivalent(name: str, method: str = "__call__") -> str:
    operation = ALSO.get(name, name) if method == "__call__" else REDUCTIONS.get(name, "") if method == "reduce" else ""
    return f"ops.{operation}" if operation in getattr(sys.modules.get("fastnn.ops"), "__all__", ()) else ANY


def _lacks(what: str, instead: str = ANY) -> NoReturn:
    raise TracingError(f"a Symbol has no {what}; use {instead}")


def _refuse(what: str, instead: str) -> NoReturn:
    raise TracingError(f"{what} needs values, and a Symbol has none while a program is recorded; use {instead}")


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
        return any(output is symbol for output in self.outputs)

    def replace(self, mapping: Mapping[Symbol, Symbol]) -> Call:
        """The same call on other operands."""
        return Call(self.kernel, tuple(mapping.get(s, s) for s in self.operands), self.attributes)


class Trace:
    """A recording in progress."""

    def __init__(self, dtype: Any = "float32") -> None:
        self.dtype = np.dtype(dtype)
        self.calls: list[Call] = []
        self.inputs: dict[str, Symbol] = {}

    def input(self, name: str, shape: Shape, dtype: Any = None) -> Symbol:
        """A symbol whose storage is given from outside under `name`."""
        if name in self.inputs:
            raise TracingError(f"the program has an input {name!r} already")
        symbol = Symbol(self, shape, self.dtype if dtype is None else dtype, name)
        self.inputs[name] = symbol
        return symbol

    def append(
        self,
        kernel: str,
        reads: Sequence[Symbol],
        outputs: Iterable[tuple[Shape, Any]],
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[Symbol, ...]:
        """Append a call; `reads` are its inputs and updated operands. Returns new symbols for its outputs."""
        for symbol in reads:
            if symbol.trace is not self:
                raise TracingError(f"{symbol!r} belongs to another recording; a program cannot mix two")
        symbols = tuple(Symbol(self, shape, dtype) for shape, dtype in outputs)
        self.calls.append(Call(kernel, (*reads, *symbols), dict(attributes or {})))
        return symbols

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
            results = ", ".join(f"{name(s)} {describe(s.shape)}{_kind(s)}" for s in (*call.updated, *call.outputs))
            arguments = [name(s) for s in call.inputs] + [f"{key}={value}" for key, value in call.attributes.items()]
            lines.append(f"{results} = {call.kernel}({', '.join(arguments)})")
        return "\n".join(lines)


def _kind(symbol: Symbol) -> str:
    return " bfloat16" if symbol.dtype.name == "bfloat16" else ""


# --- operands, and what operators record ----------------------------------------------------------------------------


def family(name: str, *arguments: Any) -> str:
    """`"symbol"` or the `fastnn.arrays.kind` of arrays: what all arguments are; Python numbers go with any."""
    kinds = set()
    for x in arguments:
        if isinstance(x, Symbol):
            kinds.add("symbol")
        elif isinstance(x, bool | int | float) or (isinstance(x, np.generic) and x.dtype.kind in "biuf"):
            continue
        elif kind(x):
            kinds.add(kind(x))
        else:
            raise InputTypeError(f"{name}: expected an array, got {type(x).__name__}; convert it with numpy.asarray")
    if not kinds:
        raise InputTypeError(f"{name}: expected at least one array, got numbers only")
    if len(kinds) > 1:
        if "symbol" in kinds:
            raise TracingError(
                f"{name}: a Symbol and an array cannot be mixed; while a program is recorded, arrays come in as its inputs"
            )
        raise InputTypeError(f"{name}: {describe_kinds(kinds)} cannot be mixed; move one of them with fastnn.arrays.to_host")
    return kinds.pop()


def floats(name: str, *arrays: Any) -> np.dtype[Any]:
    """Check that all are float32 or all float64 arrays of one family; returns the dtype."""
    family(name, *arrays)
    for x in arrays:
        if not hasattr(x, "shape"):
            raise InputTypeError(f"{name}: expected an array, got {type(x).__name__}")
        if np.dtype(x.dtype) not in FLOATS:
            raise InputTypeError(f"{name}: expected float32 or float64, got {x.dtype}; convert it with .astype('float32')")
    dtypes: set[np.dtype[Any]] = {np.dtype(x.dtype) for x in arrays}
    if len(dtypes) > 1:
        raise InputTypeError(
            f"{name}: expected one dtype, got {' and '.join(sorted(map(str, dtypes)))}; convert one with .astype"
        )
    return dtypes.pop()


def promote(name: str, *arguments: Any) -> tuple[Any, ...]:
    """Numbers become 0-d arrays (or symbols) of the dtype of the arrays beside them."""
    family(name, *arguments)
    arrays = [x for x in arguments if hasattr(x, "shape") and not isinstance(x, np.generic)]
    dtype = floats(name, *arrays)
    promoted = []
    for x in arguments:
        if hasattr(x, "shape") and not isinstance(x, np.generic):
            promoted.append(x)
        elif isinstance(arrays[0], Symbol):
            promoted.append(constant(arrays[0], float(x)))
        else:
            promoted.append(np.asarray(x, dtype))
    return tuple(promoted)


def constant(like: Symbol, value: float, shape: Shape = ()) -> Symbol:
    """A symbol of this shape that is filled with `value`, in the recording and dtype of `like`."""
    return like.trace.append("fill", (), [(shape, like.dtype)], {"value": float(value)})[0]


def check_matrix(name: str, what: str, x: Any) -> None:
    if len(x.shape) != 2:
        raise InputError(f"{name}: expected {what} with two axes, got shape {describe(tuple(x.shape))}")


def check_same(name: str, expected: Dimension, got: Dimension, what: str) -> None:
    if expected != got:
        raise InputError(f"{name}: {what}: expected {expected}, got {got}")


def unary(name: str, x: Symbol) -> Symbol:
    """Record a kernel of one operand, element by element."""
    return x.trace.append(name, (x,), [(x.shape, floats(name, x))])[0]


def binary(name: str, a: Any, b: Any) -> Symbol:
    """Record a kernel of two operands, element by element, one of which may be a number; shapes are broadcast."""
    a, b = promote(name, a, b)
    shape = broadcast_shapes(name, a.shape, b.shape)
    result: Symbol = a.trace.append(name, (a, b), [(shape, np.dtype(bool) if name in COMPARISONS else a.dtype)])[0]
    return result


def matmul(a: Any, b: Any) -> Symbol:
    """Record a matrix product; see `fastnn.ops.matmul`."""
    attributes = {"transpose_a": False, "transpose_b": False}
    output = product(a, b, **attributes)  # refuses what is no symbol
    result: Symbol = a.trace.append("matmul", (a, b), [output], attributes)[0]
    return result


def product(a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> tuple[Shape, np.dtype[Any]]:
    """Shape and dtype of a matrix product of two symbols or two arrays."""
    dtype = floats("matmul", a, b)
    check_matrix("matmul", "a", a)
    check_matrix("matmul", "b", b)
    rows, inner = reversed(a.shape) if transpose_a else a.shape
    inner_b, columns = reversed(b.shape) if transpose_b else b.shape
    check_same("matmul", inner, inner_b, f"inner dimensions of {describe(tuple(a.shape))} and {describe(tuple(b.shape))}")
    return (rows, columns), dtype
