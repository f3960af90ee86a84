"""Sums, means and maxima along axes, their converse, and the lanes that every family sums with.

A row is summed in 16 lanes, whatever the width of a register: element j goes to lane j mod 16, and the lanes are added up
in a fixed tree. So the bits depend on the length alone, and the loops vectorize without any reordering by the compiler.
Columns are summed row by row in ascending order. Both in leaves along the first of the reduced axes, as the rows of a
mini-batch are; see `leaves`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin

from fastnn_kernels.contract import LEAF_ROWS, Operand
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.intrinsics import POINTERS
from fastnn_kernels.cpu.leaves import add_columns, add_number, count_levels
from fastnn_kernels.shapes import grouped_axes

# Numba's own annotations know the function below the decorator, not the calls of it inside kernels.
intrinsic: Callable[[Callable[..., Any]], Any] = numba_intrinsic

LANES = 16
"""Elements of one group of lanes: a cache line of float32, one register of AVX-512, two of AVX2, four of SSE."""


class Lanes(types.Type):
    """LANES numbers of one type, added, subtracted and multiplied lane by lane."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"Lanes({element})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Any) -> None:
        super().__init__(manager, lanes, ir.VectorType(manager.lookup(lanes.element).get_value_type(), LANES))  # type: ignore[no-untyped-call]


def _arithmetic(operation: Any, instruction: str) -> None:
    @infer_global(operation)  # type: ignore[no-untyped-call]
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
                return signature(args[0], *args)  # type: ignore[no-untyped-call]
            return None

    @lower_builtin(operation, Lanes, Lanes)  # type: ignore[no-untyped-call, untyped-decorator]
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_operation, _instruction)


def _constants(values: Any) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(values))


def spread_scalar(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, _constants([0] * LANES))


def _below(builder: Any, count: Any) -> Any:
    """Mask of the lanes 0 .. count-1; count may be anything below 2^31."""
    return builder.icmp_signed("<", _constants(range(LANES)), spread_scalar(builder, builder.trunc(count, ir.IntType(32))))


def _address(context: Any, builder: Any, lanes: Any, pointer: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), context.get_value_type(lanes).as_pointer())


def _size(element: Any) -> int:
    return int(element.bitwidth) // 8


def _external(builder: Any, kind: ir.FunctionType, name: str) -> Any:
    return cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]


def _suffix(element: Any) -> str:
    return f"v{LANES}f{element.bitwidth}.p0"


@intrinsic
def lanes(typingctx: Any, pointer: Any, value: Any) -> Any:
    """`value` in every lane, in the type that `pointer` points to."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return spread_scalar(builder, context.cast(builder, args[1], sig.args[1], sig.args[0].dtype))

    return Lanes(pointer.dtype)(pointer, value), codegen


@intrinsic
def load(typingctx: Any, pointer: Any, index: Any) -> Any:
    """The LANES elements from `index` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, sig.return_type, *args))
        value.align = _size(sig.return_type.element)
        return value

    return Lanes(pointer.dtype)(pointer, types.int64), codegen


@intrinsic
def load_some(typingctx: Any, pointer: Any, index: Any, count: Any, rest: Any) -> Any:
    """The first `count` elements from `index` on, read by themselves; `rest` in the other lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element, vector = sig.return_type.element, context.get_value_type(sig.return_type)
        mask = _below(builder, args[2])
        address = _address(context, builder, sig.return_type, args[0], args[1])
        kind = ir.FunctionType(vector, [address.type, ir.IntType(32), mask.type, vector])
        function = _external(builder, kind, f"llvm.masked.load.{_suffix(element)}")
        fill = spread_scalar(builder, context.cast(builder, args[3], sig.args[3], element))
        return builder.call(function, [address, ir.IntType(32)(_size(element)), mask, fill])

    return Lanes(pointer.dtype)(pointer, types.int64, types.int64, rest), codegen


@intrinsic
def store(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write LANES elements from `index` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        instruction = builder.store(args[2], _address(context, builder, sig.args[2], *args[:2]))
        instruction.align = _size(sig.args[2].element)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, value), codegen


@intrinsic
def store_some(typingctx: Any, pointer: Any, index: Any, count: Any, value: Any) -> Any:
    """Write the first `count` lanes from `index` on, and nothing else."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = _below(builder, args[2])
        address = _address(context, builder, sig.args[3], *args[:2])
        kind = ir.FunctionType(ir.VoidType(), [args[3].type, address.type, ir.IntType(32), mask.type])
        function = _external(builder, kind, f"llvm.masked.store.{_suffix(sig.args[3].element)}")
        builder.call(function, [args[3], address, ir.IntType(32)(_size(sig.args[3].element)), mask])
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64, value), codegen


def _tree(combine: Any) -> Any:
    @intrinsic
    def fold(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            whole, half = args[0], LANES // 2
            while half:
                partners = _constants([*range(half, 2 * half), *([0] * (LANES - half))])
                whole = combine(builder, whole, builder.shuffle_vector(whole, whole, partners))
                half //= 2
            return builder.extract_element(whole, ir.IntType(32)(0))

        return value.element(value), codegen

    return fold


def _greater(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _greater_or_nan(builder: Any, a: Any, b: Any) -> Any:
    keep = builder.or_(builder.fcmp_ordered(">=", a, b), builder.fcmp_unordered("uno", a, a))
    return builder.select(keep, a, b)


def _lanewise(combine: Any) -> Any:
    @intrinsic
    def function(typingctx: Any, a: Any, b: Any) -> Any:
        return a(a, b), lambda context, builder, sig, args: combine(builder, *args)

    return function


@intrinsic
def fma_lanes(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding, lane by lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(args[0].type, [args[0].type] * 3)
        return builder.call(_external(builder, kind, f"llvm.fma.v{LANES}f{a.element.bitwidth}"), args)

    return a(a, b, c), codegen


add_lanes = _tree(lambda builder, a, b: builder.fadd(a, b))
"""Sum of the lanes: lane j and j + 8, then j and j + 4, j + 2, j + 1."""
greatest_lane = _tree(_greater)
"""Greatest lane; NaN is passed over."""
greatest_lane_or_nan = _tree(_greater_or_nan)
"""Greatest lane; NaN where there is one."""
greater = _lanewise(_greater)
"""The greater of each two lanes; a NaN in the second is passed over."""
greater_or_nan = _lanewise(_greater_or_nan)
"""The greater of each two lanes; NaN where one of them is."""


@helper
def span(count: int, unit: int, part: int, parts: int) -> Any:
    """Bounds of this part's share of 0 .. count-1, cut at multiples of `unit`."""
    units = (count + unit - 1) // unit
    return min(units * part // parts * unit, count), min(units * (part + 1) // parts * unit, count)


BLOCK = 2048
"""Elements summed into one set of lanes; sums of blocks are then added in order, which keeps long sums accurate."""


def _row_sum(term: Any, last_term: Any) -> Any:
    """Sum of `term` over `count` elements from `start` on: in lanes over blocks of BLOCK elements, then the blocks in order."""

    @helper
    def function(a: Any, b: Any, start: int, count: int) -> Any:
        total = lanes(a, 0.0)
        done = 0
        while count - done >= BLOCK:  # four chains of additions at once, else each waits for the one before
            first, second, third, fourth = lanes(a, 0.0), lanes(a, 0.0), lanes(a, 0.0), lanes(a, 0.0)
            for j in range(start + done, start + done + BLOCK, 4 * LANES):
                first = first + term(a, b, j)
                second = second + term(a, b, j + LANES)
                third = third + term(a, b, j + 2 * LANES)
                fourth = fourth + term(a, b, j + 3 * LANES)
            total = total + ((first + second) + (third + fourth))
            done += BLOCK
        rest = lanes(a, 0.0)
        while count - done >= LANES:
            rest = rest + term(a, b, start + done)
            done += LANES
        if count > done:
            rest = rest + last_term(a, b, start + done, count - done)
        return add_lanes(total + rest)

    return function


@helper
def _product(a: Any, b: Any, j: int) -> Any:
    return load(a, j) * load(b, j)


@helper
def _last_product(a: Any, b: Any, j: int, count: int) -> Any:
    return load_some(a, j, count, 0.0) * load_some(b, j, count, 0.0)


@helper
def _squared_difference(a: Any, b: Any, j: int) -> Any:
    difference = load(a, j) - load(b, j)
    return difference * difference


@helper
def _last_squared_difference(a: Any, b: Any, j: int, count: int) -> Any:
    difference = load_some(a, j, count, 0.0) - load_some(b, j, count, 0.0)
    return difference * difference


_sum_of_first = _row_sum(
    helper(lambda a, b, j: load(a, j)), helper(lambda a, b, j, count: load_some(a, j, count, 0.0))
)  # fmt: skip
row_dot = _row_sum(_product, _last_product)
"""`row_dot(a, b, start, count)`: sum of a_j b_j."""
row_squared_distance = _row_sum(_squared_difference, _last_squared_difference)
"""`row_squared_distance(a, b, start, count)`: sum of (a_j - b_j)^2."""


@helper
def row_sum(x: Any, start: int, count: int) -> Any:
    """Sum of `count` elements from `start` on."""
    return _sum_of_first(x, x, start, count)


def _in_leaves(row: Any) -> Any:
    """A sum of `count` elements from `start` on, each leaf of `leaf` elements as `row` takes it; `stack` holds what waits."""

    @helper
    def function(a: Any, b: Any, start: int, count: int, leaf: int, stack: Any) -> Any:
        done = 0
        while True:
            some = min(leaf, count - done)
            total = add_number(stack, done // leaf, done + some == count, row(a, b, start + done, some))
            done += some
            if done == count:
                return total

    return function


_leaf_sum = _in_leaves(_sum_of_first)
leaf_dot = _in_leaves(row_dot)
"""`leaf_dot(a, b, start, count, leaf, stack)`: sum of a_j b_j."""


@helper
def leaf_sum(x: Any, start: int, count: int, leaf: int, stack: Any) -> Any:
    """Sum of `count` elements from `start` on."""
    return _leaf_sum(x, x, start, count, leaf, stack)


@helper
def row_greatest(x: Any, start: int, count: int) -> Any:
    """Greatest of `count` elements from `start` on, NaN passed over; -inf of nothing."""
    best = lanes(x, -math.inf)
    done = 0
    while count - done >= LANES:
        best = greater(best, load(x, start + done))
        done += LANES
    if count > done:
        best = greater(best, load_some(x, start + done, count - done, -math.inf))
    return greatest_lane(best)


@helper
def row_greatest_or_nan(x: Any, start: int, count: int) -> Any:
    """Greatest of `count` elements from `start` on, NaN where there is one; -inf of nothing."""
    best = lanes(x, -math.inf)
    done = 0
    while count - done >= LANES:
        best = greater_or_nan(best, load(x, start + done))
        done += LANES
    if count > done:
        best = greater_or_nan(best, load_some(x, start + done, count - done, -math.inf))
    return greatest_lane_or_nan(best)


ROW, COLUMN, SCATTERED = range(3)


def _layout(shape: tuple[int, ...], axis: tuple[int, ...]) -> tuple[int, ...]:
    """How to walk an array of `shape` along `axis`.

    Where the reduced axes lie together: (ROW or COLUMN, outer, reduced, inner), ROW if the last axis is among them, so that
    inner is 1. Else (SCATTERED, kept elements, reduced elements, kept groups, reduced groups), and the size and stride of
    each kept and each reduced group.
    """
    groups = grouped_axes(shape, axis)
    reduced = [group for group in groups if group[0]]
    kept = [group for group in groups if not group[0]]
    repeats = math.prod(shape[i] for i in axis)
    outputs = math.prod(shape[i] for i in range(len(shape)) if i not in axis)
    if len(reduced) > 1 and outputs and repeats:
        sizes = [number for group in kept + reduced for number in group[1:]]
        return (SCATTERED, outputs, repeats, len(kept), len(reduced), *sizes)
    if not reduced or not outputs or not repeats:
        return (COLUMN, 1, repeats, outputs)
    if groups[-1][0] and len(shape) - 1 in axis:
        return (ROW, outputs, repeats, 1)
    inner = math.prod(group[1] for group in groups[groups.index(reduced[0]) + 1 :])
    return (COLUMN, outputs // inner, repeats, inner)


@helper
def _offset(op: Any, first: int, groups: int, index: int) -> int:
    """Where element `index` of the array made of the groups whose sizes and strides begin at word `first` lies."""
    offset = 0
    for group in range(groups - 1, -1, -1):
        size = op[first + 2 * group]
        offset += index % size * op[first + 2 * group + 1]
        index //= size
    return offset


WORDS = 2
"""Operands of every kernel below, hence where its layout begins."""
TILE = 8 * LANES
"""Columns that one part takes at a time."""
ROWS = 8
"""Rows added to the totals of a column group before the next group's turn."""


@helper
def add_rows(x: Any, start: int, stride: int, rows: int, columns: int, totals: Any, first: int) -> None:
    """totals[first + j] += x[start + i * stride + j] for the rows i in ascending order."""
    for low in range(0, rows, ROWS):
        high = min(low + ROWS, rows)
        j = 0
        while columns - j >= LANES:
            total = load(totals, first + j)
            for i in range(low, high):
                total = total + load(x, start + i * stride + j)
            store(totals, first + j, total)
            j += LANES
        if columns > j:
            total = load_some(totals, first + j, columns - j, 0.0)
            for i in range(low, high):
                total = total + load_some(x, start + i * stride + j, columns - j, 0.0)
            store_some(totals, first + j, columns - j, total)


def _leaf(x: Operand, axis: tuple[int, ...]) -> int:
    """How many of what a reduced element is summed from make a leaf, in the walk that `_layout` has chosen."""
    walk, *numbers = _layout(x.shape, axis)
    reduced = numbers[1]
    if walk == SCATTERED:  # runs along the last of the reduced groups
        reduced //= numbers[4 + 2 * numbers[2] + 2 * numbers[3] - 2]
    return LEAF_ROWS * (reduced // x.shape[axis[0]]) if reduced else 1


def _levels(x: Operand, y: Operand, axis: tuple[int, ...]) -> int:
    """Bytes of the sums that wait for others."""
    return count_levels(x.shape[axis[0]]) * TILE * x.dtype.itemsize


LAYOUT = 5
"""Where the layout of a sum begins, behind the operands, the scratch memory and the leaf."""


def _sum(divide: bool) -> Any:
    def factory(F: Any) -> Any:
        pointer = POINTERS[F]

        def body(op: Any, part: int, parts: int, worker: int) -> None:
            x, y, stack, leaf = pointer(op[0]), pointer(op[1]), pointer(op[2] + worker * op[3]), op[4]
            walk, reduced = op[LAYOUT], op[LAYOUT + 2]
            if walk == SCATTERED:
                kept_groups, reduced_groups = op[LAYOUT + 3], op[LAYOUT + 4]
                sizes = LAYOUT + 5 + 2 * kept_groups
                length, stride = op[sizes + 2 * reduced_groups - 2], op[sizes + 2 * reduced_groups - 1]
                runs = reduced // length
                low, high = span(op[LAYOUT + 1], LANES, part, parts)
                for k in range(low, high):
                    base = _offset(op, LAYOUT + 5, kept_groups, k)
                    total = F(0)
                    for first in range(0, runs, leaf):
                        last = min(first + leaf, runs)
                        of_leaf = F(0)
                        for run in range(first, last):
                            start = base + _offset(op, sizes, reduced_groups - 1, run)
                            subtotal = F(0)  # of its own, so that long sums stay accurate
                            for i in range(length):
                                subtotal += x[start + i * stride]
                            of_leaf += subtotal
                        total = add_number(stack, first // leaf, last == runs, of_leaf)
                    y[k] = total / F(reduced) if divide else total
                return
            outer, inner = op[LAYOUT + 1], op[LAYOUT + 3]
            if walk == ROW:
                low, high = span(outer, LANES, part, parts)
                for o in range(low, high):
                    total = leaf_sum(x, o * reduced, reduced, leaf, stack)
                    y[o] = total / F(reduced) if divide else total
                return
            tiles = (inner + TILE - 1) // TILE
            low, high = span(outer * tiles, 1, part, parts)
            for task in range(low, high):
                o, column = task // tiles, task % tiles * TILE
                columns = min(inner - column, TILE)
                start = o * inner + column
                first = 0
                while True:  # once at least: the sum of nothing is 0
                    last = min(first + leaf, reduced)
                    for j in range(columns):
                        y[start + j] = F(0)
                    add_rows(x, (o * reduced + first) * inner + column, inner, last - first, columns, y, start)
                    add_columns(stack, TILE, first // leaf, last == reduced, y, start, columns)
                    first = last
                    if first == reduced:
                        break
                if divide:
                    for j in range(columns):
                        y[start + j] /= F(reduced)

        return body

    return factory


def _sizes(x: Operand, y: Operand, axis: tuple[int, ...]) -> tuple[int, ...]:
    return _layout(x.shape, axis)


for _name, _divide in (("sum", False), ("mean", True)):
    kernel(_name, sizes=lambda x, y, axis: (_leaf(x, axis), *_layout(x.shape, axis)), scratch=_levels)(_sum(_divide))


@helper
def _raise(best: Any, value: Any) -> Any:
    return best if (best >= value) | (best != best) else value


@kernel("max", sizes=_sizes)
def _max(F: Any) -> Any:
    pointer = POINTERS[F]

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, y = pointer(op[0]), pointer(op[1])
        walk, reduced = op[WORDS], op[WORDS + 2]
        if walk == SCATTERED:
            kept_groups, reduced_groups = op[WORDS + 3], op[WORDS + 4]
            sizes = WORDS + 5 + 2 * kept_groups
            low, high = span(op[WORDS + 1], LANES, part, parts)
            for k in range(low, high):
                base = _offset(op, WORDS + 5, kept_groups, k)
                best = F(-math.inf)
                for i in range(reduced):
                    best = _raise(best, x[base + _offset(op, sizes, reduced_groups, i)])
                y[k] = best
            return
        outer, inner = op[WORDS + 1], op[WORDS + 3]
        if walk == ROW:
            low, high = span(outer, LANES, part, parts)
            for o in range(low, high):
                y[o] = row_greatest_or_nan(x, o * reduced, reduced)
            return
        tiles = (inner + TILE - 1) // TILE
        low, high = span(outer * tiles, 1, part, parts)
        for task in range(low, high):
            o, column = task // tiles, task % tiles * TILE
            columns = min(inner - column, TILE)
            start = o * inner + column
            for j in range(columns):
                y[start + j] = F(-math.inf)
            for i in range(reduced):
                row = (o * reduced + i) * inner + column
                for j in range(columns):
                    y[start + j] = _raise(y[start + j], x[row + j])

    return body


@kernel("expand", sizes=lambda x, y, axis, mean: _layout(y.shape, axis), static=("mean",))
def _expand(F: Any, mean: bool) -> Any:
    pointer = POINTERS[F]

    def body(op: Any, part: int, parts: int, worker: int) -> None:
        x, y = pointer(op[0]), pointer(op[1])
        walk, repeats = op[WORDS], op[WORDS + 2]
        if walk == SCATTERED:
            kept_groups, reduced_groups = op[WORDS + 3], op[WORDS + 4]
            sizes = WORDS + 5 + 2 * kept_groups
            low, high = span(op[WORDS + 1], LANES, part, parts)
            for k in range(low, high):
                base = _offset(op, WORDS + 5, kept_groups, k)
                value = x[k] / F(repeats) if mean else x[k]
                for i in range(repeats):
                    y[base + _offset(op, sizes, reduced_groups, i)] = value
            return
        outer, inner = op[WORDS + 1], op[WORDS + 3]
        if repeats == 0:
            return
        if walk == ROW:  # every element of x fills a run of y; parts may cut a run
            low, high = span(outer * repeats, LANES, part, parts)
            while low < high:
                o = low // repeats
                end = min((o + 1) * repeats, high)
                value = x[o] / F(repeats) if mean else x[o]
                for j in range(low, end):
                    y[j] = value
                low = end
            return
        low, high = span(outer * repeats, 1, part, parts)
        for row in range(low, high):
            source = row // repeats * inner
            for j in range(inner):
                y[row * inner + j] = x[source + j] / F(repeats) if mean else x[source + j]

    return body
