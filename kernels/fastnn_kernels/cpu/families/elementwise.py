"""Elementwise kernels: functions of one array, activations and their backwards, functions of two with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]

from fastnn_kernels.contract import (
    ACTIVATIONS_FROM_INPUT,
    ACTIVATIONS_FROM_OUTPUT,
    ALPHA_ACTIVATIONS,
    BINARY,
    COMPARISONS,
    UNARY,
    Operand,
)
from fastnn_kernels.cpu import mathematics
from fastnn_kernels.cpu.compiling import helper, kernel
from fastnn_kernels.cpu.intrinsics import POINTERS, float64_from_bits, uint8_pointer
from fastnn_kernels.shapes import AXES, broadcast_axes

Body = Callable[[Any, Any, Any, Any], None]
Function = Callable[..., Any]

BLOCK = 64
"""Elements: parts begin at multiples of it, so that no two write to one cache line."""


@helper
def first_of_part(size: Any, part: Any, parts: Any) -> Any:
    """Where `part` begins among `size` elements; where part + 1 begins, it ends."""
    blocks = (size + BLOCK - 1) // BLOCK
    return min(size, blocks * part // parts * BLOCK)


# One operand of the output's shape, or two.


def _each(function: Function, float_type: Any) -> Body:
    """y = function(x, alpha), element by element."""
    pointer, bytes_each = POINTERS[float_type], float_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, alpha = op[2], float_type(float64_from_bits(op[3]))
        low, high = first_of_part(size, part, parts), first_of_part(size, part + 1, parts)
        x = carray(pointer(op[0] + low * bytes_each), high - low)
        y = carray(pointer(op[1] + low * bytes_each), high - low)
        for i in range(high - low):
            y[i] = function(x[i], alpha)

    return body


def _each_backward(function: Function, float_type: Any) -> Body:
    """dx = function(dy, at, alpha), element by element."""
    pointer, bytes_each = POINTERS[float_type], float_type.bitwidth // 8

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, alpha = op[3], float_type(float64_from_bits(op[4]))
        low, high = first_of_part(size, part, parts), first_of_part(size, part + 1, parts)
        dy = carray(pointer(op[0] + low * bytes_each), high - low)
        at = carray(pointer(op[1] + low * bytes_each), high - low)
        dx = carray(pointer(op[2] + low * bytes_each), high - low)
        for i in range(high - low):
            dx[i] = function(dy[i], at[i], alpha)

    return body


def _unary_function(F: Any, name: str) -> Function:
    """The function of the unary kernel `name`, called as the activations are."""
    zero, one = F(0), F(1)
    exponential, logarithm = mathematics.exp(F), mathematics.log(F)
    if name in ("identity", "step"):
        return mathematics.activation(F, name)

    @helper
    def negative(x: Any, alpha: Any) -> Any:
        return -x

    @helper
    def exp(x: Any, alpha: Any) -> Any:
        return exponential(x)

    @helper
    def log(x: Any, alpha: Any) -> Any:
        return logarithm(x)

    @helper
    def sqrt(x: Any, alpha: Any) -> Any:
        return math.sqrt(x)

    @helper
    def absolute(x: Any, alpha: Any) -> Any:
        return abs(x)

    @helper
    def sign(x: Any, alpha: Any) -> Any:
        y = one if x > zero else zero
        y = -one if x < zero else y
        return y if x == x else x

    functions = {"negative": negative, "exp": exp, "log": log, "sqrt": sqrt, "abs": absolute, "sign": sign}
    return functions[name]


def _sizes(*operands: Operand, alpha: float = 0.0) -> tuple[int | float, ...]:
    return (operands[-1].size, float(alpha))


def _declare_each(name: str, function: Callable[[Any, str], Function], make: Callable[[Function, Any], Body], of: str) -> None:
    kernel(name, sizes=_sizes)(lambda F: make(function(F, of), F))


for _name in UNARY:
    _declare_each(_name, _unary_function, _each, _name)
for _name in ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT:
    _declare_each(_name, mathematics.activation, _each, _name)
    _declare_each(f"{_name}_backward", mathematics.activation_backward, _each_backward, _name)
assert set(ALPHA_ACTIVATIONS) <= set(ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT)


# Broadcasting.


def _broadcast_sizes(*operands: Operand) -> tuple[int, ...]:
    """The number of elements, then AXES axes from the innermost: length and the step of each input."""
    *inputs, output = operands
    axes = broadcast_axes(output, *inputs)
    axes += [(1, *(0 for _ in inputs))] * (AXES - len(axes))
    return (output.size, *(number for axis in axes for number in axis))


def _two(function: Function, float_type: Any, result_type: Any, shortcut: tuple[float, Function] = (0.0, lambda a: a)) -> Body:
    """c = function(a, b) with broadcasting.

    `shortcut` (s, f): for rows whose single b is s, f(a) gives what function(a, s) would, faster.
    """
    pointer, bytes_each = POINTERS[float_type], float_type.bitwidth // 8
    result_pointer, result_bytes = POINTERS[result_type], result_type.bitwidth // 8
    special, special_function = float_type(shortcut[0]), helper(shortcut[1])
    has_shortcut = shortcut[0] != 0

    @helper
    def row(a_address: Any, a_step: Any, b_address: Any, b_step: Any, c_address: Any, n: Any) -> None:
        c = carray(result_pointer(c_address), n)
        a, b = carray(pointer(a_address), n), carray(pointer(b_address), n)
        if a_step == 1 and b_step == 1:
            for i in range(n):
                c[i] = function(a[i], b[i])
        elif b_step == 1:
            one_a = a[0]
            for i in range(n):
                c[i] = function(one_a, b[i])
        elif a_step == 1:
            one_b = b[0]
            if has_shortcut and one_b == special:
                for i in range(n):
                    c[i] = special_function(a[i])
            else:
                for i in range(n):
                    c[i] = function(a[i], one_b)
        else:
            result = function(a[0], b[0])
            for i in range(n):
                c[i] = result

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, inner, a_step, b_step = op[3], op[4], op[5], op[6]
        middle, a_middle, b_middle = op[7], op[8], op[9]
        low, high = first_of_part(size, part, parts), first_of_part(size, part + 1, parts)
        while low < high:
            # The place of `low` on every axis: rows follow one another along the second, runs of rows along the others.
            rest, column = low // inner, low % inner
            i, rest = rest % middle, rest // middle
            a_start, b_start = i * a_middle, i * b_middle
            for axis in range(2, AXES):
                length = op[4 + 3 * axis]
                a_start += rest % length * op[5 + 3 * axis]
                b_start += rest % length * op[6 + 3 * axis]
                rest //= length
            while i < middle and low < high:
                n = min(inner - column, high - low)
                a_address = op[0] + (a_start + column * a_step) * bytes_each
                b_address = op[1] + (b_start + column * b_step) * bytes_each
                row(a_address, a_step, b_address, b_step, op[2] + low * result_bytes, n)
                low += n
                column = 0
                i += 1
                a_start += a_middle
                b_start += b_middle

    return body


@kernel("where", sizes=_broadcast_sizes)
def where(F: Any) -> Body:
    """c = a where the condition holds, else b, with broadcasting."""
    pointer, bytes_each = POINTERS[F], F.bitwidth // 8

    @helper
    def row(
        condition_address: Any,
        condition_step: Any,
        a_address: Any,
        a_step: Any,
        b_address: Any,
        b_step: Any,
        c_address: Any,
        n: Any,
    ) -> None:
        condition = carray(uint8_pointer(condition_address), n)
        a, b, c = carray(pointer(a_address), n), carray(pointer(b_address), n), carray(pointer(c_address), n)
        if condition_step == 0:
            chosen, step = (a, a_step) if condition[0] != 0 else (b, b_step)
            if step == 1:
                for i in range(n):
                    c[i] = chosen[i]
            else:
                one = chosen[0]
                for i in range(n):
                    c[i] = one
        elif a_step == 1 and b_step == 1:
            for i in range(n):
                x, y = a[i], b[i]  # both are read, so that the choice is no branch
                c[i] = x if condition[i] != 0 else y
        elif a_step == 1:
            one = b[0]
            for i in range(n):
                x = a[i]
                c[i] = x if condition[i] != 0 else one
        elif b_step == 1:
            one = a[0]
            for i in range(n):
                y = b[i]
                c[i] = one if condition[i] != 0 else y
        else:
            one, other = a[0], b[0]
            for i in range(n):
                c[i] = one if condition[i] != 0 else other

    def body(op: Any, part: Any, parts: Any, worker: Any) -> None:
        size, inner, condition_step, a_step, b_step = op[4], op[5], op[6], op[7], op[8]
        middle, condition_middle, a_middle, b_middle = op[9], op[10], op[11], op[12]
        low, high = first_of_part(size, part, parts), first_of_part(size, part + 1, parts)
        while low < high:
            rest, column = low // inner, low % inner
            i, rest = rest % middle, rest // middle
            condition_start, a_start, b_start = i * condition_middle, i * a_middle, i * b_middle
            for axis in range(2, AXES):
                length = op[5 + 4 * axis]
                condition_start += rest % length * op[6 + 4 * axis]
                a_start += rest % length * op[7 + 4 * axis]
                b_start += rest % length * op[8 + 4 * axis]
                rest //= length
            while i < middle and low < high:
                n = min(inner - column, high - low)
                condition_address = op[0] + condition_start + column * condition_step
                a_address = op[1] + (a_start + column * a_step) * bytes_each
                b_address = op[2] + (b_start + column * b_step) * bytes_each
                row(condition_address, condition_step, a_address, a_step, b_address, b_step, op[3] + low * bytes_each, n)
                low += n
                column = 0
                i += 1
                condition_start += condition_middle
                a_start += a_middle
                b_start += b_middle

    return body


def _power(F: Any) -> Function:
    """a to the power b, as IEEE 754 defines `pow`."""
    zero, one, two = F(0), F(1), F(2)
    if F is types.float64:
        # The C library's, which is scalar; but its reciprocals are not always the nearest number.

        @helper
        def power64(a: Any, b: Any) -> Any:
            if b == two:
                return a * a
            if b == -one:
                return one / a
            return a**b

        return power64

    # In float64, where exp(b log |a|) is so accurate that rounding it to float32 gives whole powers exactly.
    exponential, logarithm = mathematics.exp(types.float64), mathematics.log(types.float64)
    with_sign_of = mathematics.with_sign_of(F)
    infinity, nan, half = F(np.inf), F(np.nan), F(0.5)

    @helper
    def power32(a: Any, b: Any) -> Any:
        magnitude = abs(a)
        y = types.float32(exponential(types.float64(b) * logarithm(types.float64(magnitude))))
        y = one if magnitude == one else y
        whole, half_whole = np.floor(b), np.floor(b * half)
        signed = with_sign_of(y, a)
        negative = signed if half_whole + half_whole != b else y
        negative = negative if whole == b else (nan if (a < zero) & (magnitude < infinity) else y)
        y = negative if a <= zero else y
        y = one if b == zero else y
        y = one / a if b == -one else y
        return a * a if b == two else y

    return power32


def _binary_function(F: Any, name: str) -> Function:
    @helper
    def add(a: Any, b: Any) -> Any:
        return a + b

    @helper
    def subtract(a: Any, b: Any) -> Any:
        return a - b

    @helper
    def multiply(a: Any, b: Any) -> Any:
        return a * b

    @helper
    def divide(a: Any, b: Any) -> Any:
        return a / b

    @helper
    def maximum(a: Any, b: Any) -> Any:
        y = a if a >= b else b
        return y if a == a else a

    @helper
    def minimum(a: Any, b: Any) -> Any:
        y = a if a <= b else b
        return y if a == a else a

    functions = {
        "add": add, "subtract": subtract, "multiply": multiply, "divide": divide, "maximum": maximum, "minimum": minimum,
    }  # fmt: skip
    return _power(F) if name == "power" else functions[name]


def _comparison_function(F: Any, name: str) -> Function:
    @helper
    def equal(a: Any, b: Any) -> Any:
        return a == b

    @helper
    def not_equal(a: Any, b: Any) -> Any:
        return a != b

    @helper
    def less(a: Any, b: Any) -> Any:
        return a < b

    @helper
    def less_equal(a: Any, b: Any) -> Any:
        return a <= b

    @helper
    def greater(a: Any, b: Any) -> Any:
        return a > b

    @helper
    def greater_equal(a: Any, b: Any) -> Any:
        return a >= b

    functions = {
        "equal": equal, "not_equal": not_equal, "less": less, "less_equal": less_equal,
        "greater": greater, "greater_equal": greater_equal,
    }  # fmt: skip
    return functions[name]


def _declare_binary(name: str) -> None:
    square = (2.0, lambda a: a * a)
    options = {"shortcut": square} if name == "power" else {}
    kernel(name, sizes=_broadcast_sizes)(lambda F: _two(_binary_function(F, name), F, F, **options))


def _declare_comparison(name: str) -> None:
    kernel(name, sizes=_broadcast_sizes)(lambda F: _two(_comparison_function(F, name), F, types.uint8))


for _name in BINARY:
    _declare_binary(_name)
for _name in COMPARISONS:
    _declare_comparison(_name)
