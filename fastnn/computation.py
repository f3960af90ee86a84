"""A computation built first, then run with values fed in: a function of symbols, recorded once as a program.

Source: Andrew Ng, Improving Deep Neural Networks, week 3 (TensorFlow's placeholders, graph and session).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import fastnn.ops  # noqa: F401 - what is recorded has its arithmetic and its derivatives from there
from fastnn import arrays, engines
from fastnn.engines.cache import Instances
from fastnn.errors import InputError, InputTypeError, TracingError, nearest
from fastnn.program.differentiate import gradients as differentiated
from fastnn.program.passes.fuse import fuse
from fastnn.program.shapes import B, BatchDim, Dimension, Shape, concrete, describe
from fastnn.program.trace import Call, Program, Symbol, Trace

DTYPES = ("float32", "float64", "int64", "bool")
"""Of inputs; labels and indices are int64, conditions bool."""

VALUE = "value"
"""The name of the only result of a function that gives it none."""

Ranges = Mapping[str, Sequence[tuple[str, Dimension]]]
"""For inputs that are labels or indices: which operation reads them, and the number that they have to lie below."""


def record(
    function: Callable[..., Symbol | Mapping[str, Symbol]],
    /,
    *,
    gradients: str | Iterable[str] = (),
    dtype: Any = "float32",
    dtypes: Mapping[str, Any] | None = None,
    **inputs: Sequence[int | str],
) -> Computation:
    """Record what `function` computes, written in `fastnn.ops` and `+ - * / ** @`, for values to be fed in afterwards.

        cost = fastnn.record(
            lambda x, t, w: ops.mean(ops.squared_error(x @ w, t)), x=("B", 3), t=("B", 1), w=(3, 1), gradients="w"
        )
        results = cost(x=X, t=T, w=W)  # {"value": ..., "d w": ...}

    `inputs`: the shape of each argument of the function; "B", one axis of a shape at most, is the number of rows, the same in
    all shapes, and any number when values are fed. `dtype`: float32 or float64, of all inputs but those that `dtypes` names:
    int64 for labels and indices, bool for conditions. The function is called once, with a `Symbol` for each input, and returns
    a Symbol, or a dict of names and Symbols. `gradients`: inputs by which the (first) result, a single number, is
    differentiated; the gradient by `w` is the result "d w", of the shape of w.

    Raises InputError for shapes and names, InputTypeError for dtypes and other results than Symbols, TracingError for what
    cannot be recorded or differentiated.
    """
    declared = _dtypes(inputs, dtype, dtypes or {})
    trace = Trace(dtype)
    symbols = {name: trace.input(name, _shape(name, shape), declared[name]) for name, shape in inputs.items()}
    _check_arguments(function, symbols)
    returned = function(**symbols)
    outputs = _outputs(returned, trace)
    wanted = [gradients] if isinstance(gradients, str) else list(gradients)
    for name in wanted:
        if name not in symbols:
            raise InputError(f"gradients: no input is called {name!r}{nearest(name, symbols)}")
        if symbols[name].dtype.kind != "f":
            raise InputTypeError(f"gradients: expected inputs of float32 or float64, and {name!r} is {symbols[name].dtype}")
        if f"d {name}" in outputs:
            raise InputError(f"the result {f'd {name}'!r} of the function has the name of a gradient; call it something else")
    if wanted:
        derivatives = differentiated(next(iter(outputs.values())), [symbols[name] for name in wanted])
        outputs |= {f"d {name}": gradient for name, gradient in zip(wanted, derivatives, strict=True)}
    for name, symbol in outputs.items():
        symbol.name = symbol.name or name
    only = next(iter(outputs)) if isinstance(returned, Symbol) and not wanted else None
    return Computation(fuse(trace.program(outputs)), _ranges(trace.calls), only)


class Computation:
    """What `fastnn.record` has recorded. Printed, it shows its calls; called, it runs them on the values fed in.

    Several threads may run it at the same time.
    """

    def __init__(self, program: Program, ranges: Ranges, only: str | None) -> None:
        self.program = program
        self._ranges = ranges
        self._only = only
        self._cache = Instances()

    def __call__(self, /, **feeds: Any) -> Any:
        """`run` with the values by name."""
        return self.run(feeds)

    def run(self, feeds: Mapping[str, Any], *, device: str = "cpu", threads: int | None = None) -> Any:
        """The results for these values: a dict by name, or the array alone where the function returned one without a name.

        `feeds`: a value for each input, of the shape it was recorded with. Numbers and lists take its dtype; arrays have it, or
        one that it holds exactly (float32 in float64, int32 in int64). They are copied: what an operation updates in place
        (the running statistics of `batch_norm`) stays as it is for the caller; a function that returns the Symbol returns what
        it has become. `device`: "cpu", "cuda", "cuda:1", "auto" or "numpy". Where a value lies on a GPU, all is computed on
        that GPU, and the results lie there, in the namespace of that value; else they are new NumPy arrays.

        Raises InputError for names, shapes and labels out of range, InputTypeError for dtypes, DeviceError for devices.
        """
        instance, values, like = self._prepare(feeds, device, threads)
        with engines.translate_errors(), instance as run:
            run.load(values)
            run.instance.play()
            results = run.results(like)
        return results if self._only is None else results[self._only]

    def explain(self, feeds: Mapping[str, Any], *, device: str = "cpu", threads: int | None = None, width: int = 80) -> str:
        """A table of the calls for these values: shapes, operations, bytes, measured time, how near it is to the limit."""
        from fastnn.engines.explain import Explanation

        instance, values, _ = self._prepare(feeds, device, threads)
        with engines.translate_errors(), instance as run:
            if not run.instance.computing():
                return f"{self._title()}\nnothing is computed anew for other values"
            run.load(values)
            return Explanation(run.instance, self._title()).explain(width)

    def __str__(self) -> str:
        return f"{self._title()}\n{self.program}".rstrip()

    def __repr__(self) -> str:
        return f"<Computation {self._title()}>"

    def _title(self) -> str:
        sides = (self.program.inputs, self.program.outputs)
        return " -> ".join(", ".join(f"{name} {describe(s.shape)} {s.dtype}" for name, s in side.items()) for side in sides)

    def _prepare(self, feeds: Mapping[str, Any], device: str, threads: int | None) -> tuple[Any, dict[str, Any], Any]:
        """An instance for values, to be used in a `with`, the checked values, and one that lies on a GPU, or None."""
        if threads is not None:
            engines.check_threads(threads)
        self._check_names(feeds)
        like = next((value for value in feeds.values() if not arrays.on_host(value)), None)
        with engines.translate_errors():
            engine = engines.by_name(device) if like is None else engines.of(like)
            values = {name: _value(name, s, feeds[name], engine) for name, s in self.program.inputs.items()}
            rows = _rows(self.program.inputs, values)
            self._check_ranges(values, rows)
            key = (engine.name, engine.precision, rows, threads)
            return self._cache.take(key, lambda: _Buffers(self.program, rows, engine, threads)), values, like

    def _check_names(self, feeds: Mapping[str, Any]) -> None:
        names = self.program.inputs
        if not isinstance(feeds, Mapping):
            raise InputTypeError(f"expected a dict of values by the names of inputs, got {type(feeds).__name__}")
        for name in feeds:
            if name not in names:
                raise InputError(f"no input is called {name!r}{nearest(name, names)}")
        if missing := [name for name in names if name not in feeds]:
            raise InputError(f"expected values for {', '.join(names)}, got none for {', '.join(missing)}; feed them by name")

    def _check_ranges(self, values: Mapping[str, Any], rows: int) -> None:
        for name, ranges in self._ranges.items():
            numbers = values[name] if isinstance(values[name], np.ndarray) else values[name].read()
            for kernel, limit in ranges:
                (end,) = concrete((limit,), rows)
                if numbers.size and not 0 <= numbers.min() <= numbers.max() < end:
                    raise InputError(
                        f"{name}: {kernel} expects numbers from 0 to {end - 1}, got {numbers.min()} to {numbers.max()}"
                    )


class _Buffers:
    """An instance of a program, and the arrays that its inputs are copied to."""

    def __init__(self, program: Program, rows: int, engine: engines.Engine, threads: int | None) -> None:
        self.engine = engine
        self.instance = engine.instantiate(program, rows, threads)
        self.inputs = {name: engine.empty(concrete(s.shape, rows), s.dtype) for name, s in program.inputs.items()}
        self.instance.bind(**self.inputs)

    def load(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            (self.engine.write if isinstance(value, np.ndarray) else self.engine.copy)(self.inputs[name], value)

    def results(self, like: Any) -> dict[str, Any]:
        """Copies of the results: on the host, or beside `like` in its namespace."""
        outputs = {name: self.instance.output(name) for name in self.instance.program.outputs}
        if like is None:
            return {name: array.copy() for name, array in zip(outputs, self.engine.read(*outputs.values()), strict=True)}
        copies = {name: self.engine.outputs(like, array.shape, array.dtype) for name, array in outputs.items()}
        for name, array in outputs.items():
            self.engine.copy(copies[name], array)
        return {name: arrays.to_device(self.engine.export(array), like) for name, array in copies.items()}


# --- what is recorded -------------------------------------------------------------------------------------------------


def _dtypes(inputs: Mapping[str, Any], dtype: Any, dtypes: Mapping[str, Any]) -> dict[str, str]:
    """The dtype of each input."""
    if not inputs:
        raise InputError("expected the shape of each argument of the function by its name, got none; e.g. x=('B', 3)")
    for name in dtypes:
        if name not in inputs:
            raise InputError(f"dtypes: no input is called {name!r}{nearest(name, inputs)}")
    usual = _dtype("dtype", dtype, DTYPES[:2])
    return {name: _dtype(name, dtypes[name], DTYPES) if name in dtypes else usual for name in inputs}


def _dtype(what: str, dtype: Any, known: Sequence[str]) -> str:
    try:
        name = "" if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in known:
        raise InputTypeError(f"{what}: expected {', '.join(known[:-1])} or {known[-1]}, got {dtype!r}")
    return name


def _shape(name: str, declared: Any) -> Shape:
    listed = list(declared) if isinstance(declared, Sequence) and not isinstance(declared, str) else [None]
    shape: list[Any] = [B if isinstance(d, str) and d == "B" else d for d in listed]
    whole = [isinstance(d, int | np.integer) and not isinstance(d, bool) and d >= 0 for d in shape if d is not B]
    if not all(whole) or len(whole) < len(shape) - 1:
        raise InputError(
            f'{name}: expected a shape of integers and at most one "B", the number of rows, e.g. ("B", 3), got {declared!r}'
        )
    return tuple(d if isinstance(d, BatchDim) else int(d) for d in shape)


def _check_arguments(function: Callable[..., Any], symbols: Mapping[str, Symbol]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # functions written in C do not tell
        return
    except TypeError as error:
        raise InputTypeError(f"expected a function of the inputs, got {type(function).__name__}") from error
    try:
        signature.bind(**symbols)
    except TypeError as error:
        raise InputError(f"expected the inputs {signature} of the function, got {', '.join(symbols)}: {error}") from error


def _outputs(returned: Any, trace: Trace) -> dict[str, Symbol]:
    """The results of the function by name."""
    named = {VALUE: returned} if isinstance(returned, Symbol) else returned
    if not isinstance(named, Mapping) or not named:
        raise InputTypeError(f"expected a Symbol, or a dict of names and Symbols, from the function, got {_what(returned)}")
    for name, symbol in named.items():
        if not isinstance(name, str) or not isinstance(symbol, Symbol):
            raise InputTypeError(f"expected names and Symbols from the function, got {name!r}: {_what(symbol)}")
        if symbol.trace is not trace:
            raise TracingError(f"the result {name!r} belongs to another recording; make it of the arguments of the function")
    return dict(named)


def _what(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | Mapping | None) else type(value).__name__


INDEX_OPERANDS: dict[str, tuple[int, Callable[[Call], Dimension]]] = {
    "gather": (1, lambda call: call.operands[0].shape[0]),
    "scatter_add": (0, lambda call: call.operands[-1].shape[0]),
    "one_hot": (0, lambda call: call.operands[-1].shape[-1]),
    **{name: (1, lambda call: call.operands[0].shape[-1]) for name in ("softmax_cross_entropy", "is_correct")},
    "softmax_cross_entropy_backward": (1, lambda call: call.operands[0].shape[-1]),
}
"""Kernels that take labels or indices: which operand, and the number that they have to lie below."""

COUNTERS = ("dropout", "draw_transforms")
"""Kernels that take any integer, the step of random numbers."""


def _ranges(calls: Iterable[Call]) -> Ranges:
    """What has to hold of integers that are fed in: kernels do not look, and would read beyond their arrays."""
    ranges: dict[str, list[tuple[str, Dimension]]] = {}
    argmax_ends: dict[Symbol, Dimension] = {}
    for call in calls:
        if call.kernel == "argmax":
            argmax_ends[call.outputs[0]] = call.inputs[0].shape[-1]
        place, below = INDEX_OPERANDS.get(call.kernel, (None, None))
        for index, symbol in enumerate(call.reads):
            if symbol.dtype.kind != "i" or call.is_view or call.kernel in COUNTERS:
                continue
            if place != index or below is None:
                raise TracingError(f"{call.kernel} does not look at the integers it is given, so that none can be fed to it")
            limit = below(call)
            if symbol.root not in argmax_ends:
                ranges.setdefault(symbol.root.name, []).append((call.kernel, limit))
            elif not _within(argmax_ends[symbol.root], limit):
                raise TracingError(
                    f"{call.kernel} expects numbers below {limit}, and those of argmax lie below {argmax_ends[symbol.root]}"
                )
    return ranges


def _within(end: Dimension, limit: Dimension) -> bool:
    if isinstance(end, BatchDim) or isinstance(limit, BatchDim):
        return isinstance(end, BatchDim) and isinstance(limit, BatchDim) and end.factor <= limit.factor
    return end <= limit


# --- what is fed in ---------------------------------------------------------------------------------------------------


def _value(name: str, symbol: Symbol, feed: Any, engine: engines.Engine) -> Any:
    """A value as an array of the host in the dtype of the symbol, or of the engine's GPU, of a shape that fits."""
    if arrays.on_host(feed):
        value = _on_host(name, symbol, feed)
    else:
        value = engine.to_device(feed)
        if value.dtype != symbol.dtype:
            raise InputTypeError(
                f"{name}: expected {symbol.dtype} on {engine.name}, got {value.dtype}; convert it where it lies"
            )
    shape = tuple(value.shape)
    fits = len(shape) == symbol.ndim and all(
        isinstance(d, BatchDim) or d == n for d, n in zip(symbol.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"{name}: expected shape {describe(symbol.shape)}, got {describe(shape)}")
    return value


def _on_host(name: str, symbol: Symbol, feed: Any) -> np.ndarray:
    try:
        value = arrays.to_host(feed)
    except ValueError as error:
        raise InputError(f"{name}: expected numbers of shape {describe(symbol.shape)}: {error}") from error
    exact = not isinstance(feed, bool | int | float | list | tuple) or isinstance(feed, np.generic)
    if not np.can_cast(value.dtype, symbol.dtype, "safe" if exact else "same_kind") and value.size:
        raise InputTypeError(
            f"{name}: expected {symbol.dtype}, got {value.dtype}; convert it with numpy.asarray({name}, '{symbol.dtype}')"
        )
    return value.astype(symbol.dtype, copy=False)


def _rows(inputs: Mapping[str, Symbol], values: Mapping[str, Any]) -> int:
    """The number of rows B of all values; 1 where none has any."""
    rows_of = {name: int(values[name].shape[s.shape.index(B)]) for name, s in inputs.items() if B in s.shape}
    if len(set(rows_of.values())) > 1:
        listing = ", ".join(f"{rows} in {name}" for name, rows in rows_of.items())
        raise InputError(f"expected the same number of rows B in all values, got {listing}")
    return next(iter(rows_of.values()), 1)
