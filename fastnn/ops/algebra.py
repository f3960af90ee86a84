"""Array algebra: arithmetic with broadcasting, comparisons, reductions, and elements moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastnn.errors import InputError, InputTypeError, TracingError
from fastnn.ops.dispatch import Array, apply, as_axes, check_rows, unary, without
from fastnn.program.differentiate import backward
from fastnn.program.shapes import MOST_AXES, BatchDim, Dimension, Shape, broadcast_shapes, describe, elements
from fastnn.program.trace import Call, Symbol, constant, family, floats, promote
from fastnn_kernels.contract import COMPARISONS

__all__ = [
    "abs",
    "add",
    "argmax",
    "concatenate",
    "constant_like",
    "divide",
    "equal",
    "exp",
    "expand",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "log",
    "max",
    "maximum",
    "mean",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "power",
    "reshape",
    "sign",
    "slice",
    "sqrt",
    "subtract",
    "sum",
    "transpose",
    "where",
]


def _shrink(gradient: Symbol, shape: Shape) -> Symbol:
    """The gradient of an operand of `shape` that was broadcast: summed over the axes it was repeated along."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    axes = tuple(
        a for a, d in enumerate(gradient.shape) if a < extra or (shape[a - extra] == 1 and d != 1)
    )  # fmt: skip
    summed = sum(gradient, axes) if axes else gradient
    return reshape(summed, shape) if summed.shape != shape else summed


def _binary(name: str, a: Array, b: Array) -> Array:
    a, b = promote(name, a, b)
    shape = broadcast_shapes(name, tuple(a.shape), tuple(b.shape))
    return apply(name, (a, b), [(shape, np.dtype(bool) if name in COMPARISONS else a.dtype)])


def add(a: Array, b: Array) -> Array:
    """a + b with broadcasting."""
    return _binary("add", a, b)


def subtract(a: Array, b: Array) -> Array:
    """a - b with broadcasting."""
    return _binary("subtract", a, b)


def multiply(a: Array, b: Array) -> Array:
    """a * b with broadcasting."""
    return _binary("multiply", a, b)


def divide(a: Array, b: Array) -> Array:
    """a / b with broadcasting; division by 0 gives infinity or NaN, as in IEEE 754."""
    return _binary("divide", a, b)


def power(a: Array, b: Array) -> Array:
    """a ** b with broadcasting; NaN where a < 0 and b is not whole. The derivative by b is taken as 0 where a <= 0."""
    return _binary("power", a, b)


def maximum(a: Array, b: Array) -> Array:
    """The larger of two; NaN if either is. Where they are equal each gets half of the gradient."""
    return _binary("maximum", a, b)


def minimum(a: Array, b: Array) -> Array:
    """The smaller of two; NaN if either is. Where they are equal each gets half of the gradient."""
    return _binary("minimum", a, b)


def equal(a: Array, b: Array) -> Array:
    """a == b, bool."""
    return _binary("equal", a, b)


def not_equal(a: Array, b: Array) -> Array:
    """a != b, bool."""
    return _binary("not_equal", a, b)


def less(a: Array, b: Array) -> Array:
    """a < b, bool."""
    return _binary("less", a, b)


def less_equal(a: Array, b: Array) -> Array:
    """a <= b, bool."""
    return _binary("less_equal", a, b)


def greater(a: Array, b: Array) -> Array:
    """a > b, bool."""
    return _binary("greater", a, b)


def greater_equal(a: Array, b: Array) -> Array:
    """a >= b, bool."""
    return _binary("greater_equal", a, b)


def where(condition: Array, a: Array, b: Array) -> Array:
    """a where the condition (bool) holds, else b, with broadcasting. The gradient goes to the one that was taken."""
    family("where", condition, a, b)
    if not hasattr(condition, "dtype") or np.dtype(condition.dtype) != np.dtype(bool):
        raise InputTypeError(f"where: expected a bool condition, got {getattr(condition, 'dtype', type(condition).__name__)}")
    if not any(hasattr(x, "shape") for x in (a, b)):
        raise InputTypeError("where: expected an array for a or b, got numbers only")
    a, b = promote("where", a, b)
    shape = broadcast_shapes("where", tuple(condition.shape), tuple(a.shape), tuple(b.shape))
    return apply("where", (condition, a, b), [(shape, a.dtype)])


def negative(x: Array) -> Array:
    """-x."""
    return unary("negative", x)


def exp(x: Array) -> Array:
    """e ** x."""
    return unary("exp", x)


def log(x: Array) -> Array:
    """The natural logarithm; -inf at 0, NaN below."""
    return unary("log", x)


def sqrt(x: Array) -> Array:
    """The square root; NaN below 0."""
    return unary("sqrt", x)


def abs(x: Array) -> Array:
    """The absolute value; its derivative at 0 is taken as 0."""
    return unary("abs", x)


def sign(x: Array) -> Array:
    """-1, 0 or 1; its derivative is 0."""
    return unary("sign", x)


@backward("identity")
def _identity_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (dy,)


@backward("negative")
def _negative_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (negative(dy),)


@backward("exp")
def _exp_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (multiply(dy, call.outputs[0]),)


@backward("log")
def _log_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (divide(dy, call.inputs[0]),)


@backward("sqrt")
def _sqrt_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (divide(multiply(dy, 0.5), call.outputs[0]),)


@backward("abs")
def _abs_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (multiply(dy, sign(call.inputs[0])),)


@backward("sign", "fill", *COMPARISONS, "is_correct", "argmax", "one_hot", "gather_rows", "gather_standardized", "shuffle")
def _no_backward(call: Call, dy: Symbol) -> Sequence[None]:
    return (None,) * len(call.inputs)


@backward("add")
def _add_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    return _shrink(dc, a.shape), _shrink(dc, b.shape)


@backward("subtract")
def _subtract_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    return _shrink(dc, a.shape), _shrink(negative(dc), b.shape)


@backward("multiply")
def _multiply_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    return _shrink(multiply(dc, b), a.shape), _shrink(multiply(dc, a), b.shape)


@backward("divide")
def _divide_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    da = divide(dc, b)
    return _shrink(da, a.shape), _shrink(negative(multiply(da, call.outputs[0])), b.shape)


@backward("power")
def _power_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    da = multiply(dc, multiply(b, power(a, subtract(b, 1.0))))
    logarithm = log(where(greater(a, 0.0), a, 1.0))
    return _shrink(da, a.shape), _shrink(multiply(dc, multiply(call.outputs[0], logarithm)), b.shape)


@backward("maximum", "minimum")
def _extremum_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    wins = greater if call.kernel == "maximum" else less
    half = multiply(dc, 0.5)
    tie = where(equal(a, b), half, 0.0)
    return _shrink(where(wins(a, b), dc, tie), a.shape), _shrink(where(wins(b, a), dc, tie), b.shape)


@backward("where")
def _where_backward(call: Call, dc: Symbol) -> tuple[None, Symbol, Symbol]:
    condition, a, b = call.inputs
    return None, _shrink(where(condition, dc, 0.0), a.shape), _shrink(where(condition, 0.0, dc), b.shape)


# --- reductions -------------------------------------------------------------------------------------------------------


def _reduce(name: str, x: Array, axis: int | Sequence[int] | None) -> Array:
    dtype = floats(name, x)
    axes = as_axes(name, axis, len(x.shape))
    if not axes:
        return x
    return apply(name, (x,), [(without(tuple(x.shape), axes), dtype)], {"axis": axes})


def sum(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """The sum over `axis` (a number, several, or None for all); the axes are dropped."""
    return _reduce("sum", x, axis)


def mean(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """The mean over `axis` (a number, several, or None for all); the axes are dropped."""
    return _reduce("mean", x, axis)


def max(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """The largest over `axis` (a number, several, or None for all); equal largest ones share the gradient."""
    return _reduce("max", x, axis)


def expand(x: Array, shape: Shape, axis: int | Sequence[int], *, mean: bool = False) -> Array:
    """x repeated along the new axes `axis` to `shape` (divided by the number of repeats if `mean`): the converse of sum."""
    dtype = floats("expand", x)
    axes = as_axes("expand", axis, len(shape))
    if without(shape, axes) != tuple(x.shape):
        raise InputError(f"expand: expected shape {describe(without(shape, axes))}, got {describe(tuple(x.shape))}")
    return apply("expand", (x,), [(tuple(shape), dtype)], {"axis": axes, "mean": mean})


@backward("sum", "mean")
def _sum_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (expand(dy, call.inputs[0].shape, call.attributes["axis"], mean=call.kernel == "mean"),)


@backward("expand")
def _expand_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    reduced = mean if call.attributes["mean"] else sum
    return (reduced(dy, call.attributes["axis"]),)


@backward("max")
def _max_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    x, axes = call.inputs[0], call.attributes["axis"]
    largest = where(equal(x, expand(call.outputs[0], x.shape, axes)), expand(constant_like(dy, 1.0), x.shape, axes), 0.0)
    share = divide(dy, sum(largest, axes))
    return (multiply(largest, expand(share, x.shape, axes)),)


def constant_like(x: Symbol, value: float) -> Symbol:
    """A symbol of the shape and dtype of `x`, filled with `value`."""
    return constant(x, value, x.shape)


def argmax(x: Array) -> Array:
    """int64 index of the largest of the last axis, the first of equal ones. Not differentiable."""
    check_rows("argmax", x)
    return apply("argmax", (x,), [(tuple(x.shape[:-1]), np.dtype("int64"))])


# --- moving elements --------------------------------------------------------------------------------------------------


def transpose(x: Array, axes: Sequence[int] | None = None) -> Array:
    """The axes in another order, reversed by default, as a new array."""
    dtype = floats("transpose", x)
    ndim = len(x.shape)
    requested = tuple(reversed(range(ndim))) if axes is None else tuple(int(a) for a in axes)
    order = tuple(a % ndim if -ndim <= a < ndim else a for a in requested)
    if ndim > MOST_AXES:
        raise InputError(f"transpose: at most {MOST_AXES} axes can be reordered, got {ndim}")
    if sorted(order) != list(range(ndim)):
        raise InputError(f"transpose: expected an order of {ndim} axes, got {axes}")
    return apply("transpose", (x,), [(tuple(x.shape[a] for a in order), dtype)], {"axes": order})


@backward("transpose")
def _transpose_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (transpose(dy, tuple(int(a) for a in np.argsort(call.attributes["axes"]))),)


def reshape(x: Array, shape: Sequence[Dimension]) -> Array:
    """The same elements in the same order in another shape; one dimension may be -1.

    Recorded, it is a view and costs nothing.
    """
    family("reshape", x)
    if not isinstance(x, Symbol):
        try:
            return np.reshape(x, shape)
        except (ValueError, TypeError) as error:
            raise InputError(f"reshape: {describe(tuple(x.shape))} has no place for {tuple(shape)}") from error
    whole = elements(x.shape)
    known = elements(tuple(d for d in shape if d != -1))
    if -1 in shape:
        k, n = _factor(whole), _factor(known)
        if (isinstance(known, BatchDim) and not isinstance(whole, BatchDim)) or n == 0 or k % n:
            raise InputError(f"reshape: {describe(x.shape)} has no place for {describe(tuple(shape))}")
        rest: Dimension = k // n if isinstance(known, BatchDim) or isinstance(whole, int) else BatchDim(k // n)
        shape = tuple(rest if d == -1 else d for d in shape)
    if elements(tuple(shape)) != whole:
        raise InputError(f"reshape: {describe(x.shape)} has other elements than {describe(tuple(shape))}")
    return x.trace.reshape(x, tuple(shape))


def _factor(d: Dimension) -> int:
    return d.factor if isinstance(d, BatchDim) else d


@backward("reshape")
def _reshape_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (reshape(dy, call.inputs[0].shape),)


def concatenate(arrays: Sequence[Array], axis: int = 0) -> Array:
    """The arrays one after another along `axis`; all other dimensions equal."""
    if len(arrays) < 1:
        raise InputError("concatenate: expected at least one array, got none")
    dtype = floats("concatenate", *arrays)
    (along,) = as_axes("concatenate", axis, len(arrays[0].shape))
    joined = arrays[0]
    for x in arrays[1:]:
        if len(x.shape) != len(joined.shape) or without(tuple(x.shape), (along,)) != without(tuple(joined.shape), (along,)):
            raise InputError(
                f"concatenate: {describe(tuple(joined.shape))} and {describe(tuple(x.shape))} differ beside axis {along}"
            )
        shape = tuple(_total(joined.shape[a], x.shape[a]) if a == along else d for a, d in enumerate(joined.shape))
        joined = apply("concatenate", (joined, x), [(shape, dtype)], {"axis": along})
    return joined


def _total(a: Dimension, b: Dimension) -> Dimension:
    if isinstance(a, BatchDim) and isinstance(b, BatchDim):
        return BatchDim(a.factor + b.factor)
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    raise TracingError(f"concatenate: {a} and {b} rows together have no name in a program for any number of rows")


def slice(x: Array, start: int, stop: int, axis: int = -1) -> Array:
    """x[..., start:stop, ...] along `axis`, as a new array; 0 <= start <= stop <= the dimension."""
    dtype = floats("slice", x)
    (along,) = as_axes("slice", axis, len(x.shape))
    size = x.shape[along]
    if not isinstance(size, int):
        raise TracingError("slice: an axis that depends on the number of rows cannot be cut")
    if not 0 <= start <= stop <= size:
        raise InputError(f"slice: expected 0 <= start <= stop <= {size}, got {start} and {stop}")
    shape = tuple(stop - start if a == along else d for a, d in enumerate(x.shape))
    return apply("slice", (x,), [(shape, dtype)], {"axis": along, "start": start})


@backward("concatenate")
def _concatenate_backward(call: Call, dc: Symbol) -> Sequence[Symbol]:
    a, b = call.inputs
    along = call.attributes["axis"]
    first, second = a.shape[along], b.shape[along]
    if along == 0 and isinstance(first, BatchDim) and isinstance(second, BatchDim):
        return _split_rows(dc, a.shape, b.shape)
    if not (isinstance(first, int) and isinstance(second, int)):
        raise TracingError("concatenate: along rows, the derivative needs the rows as the first axis of both")
    return slice(dc, 0, first, along), slice(dc, first, first + second, along)


def _split_rows(dc: Symbol, first: Shape, second: Shape) -> tuple[Symbol, Symbol]:
    """Cut (k B + l B, ...) behind its first k B rows, as k + l blocks of B rows each."""
    k, rest = _factor(first[0]), _factor(second[0])
    inner = tuple(first[1:])
    blocks = reshape(dc, (k + rest, BatchDim(), *inner))
    return reshape(slice(blocks, 0, k, 0), first), reshape(slice(blocks, k, k + rest, 0), second)


@backward("slice")
def _slice_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    x, along, start = call.inputs[0], call.attributes["axis"], call.attributes["start"]
    size, length = x.shape[along], dy.shape[along]
    assert isinstance(size, int)
    assert isinstance(length, int)

    def zeros(n: int) -> list[Symbol]:
        shape = tuple(n if a == along else d for a, d in enumerate(x.shape))
        return [constant(x, 0.0, shape)] if n else []

    return (concatenate([*zeros(start), dy, *zeros(size - start - length)], along),)
