"""Chains of elementwise kernels: for each a device function is written that does all its steps to an element in registers.

    template <class F, class X0, class Y, class... Numbers>
    __device__ void chain_0f1e2d3c(Grid grid, const X0* x0, const i64* x1, i64 ahead1, Y* y, i64 size,
                                   i64 least3, F scale3, i64 first3, i64 second3, Numbers... axes) {
      const Dropout<F> dropout3(*x1 + ahead1, least3, scale3, first3, second3);
      packwise<F>(grid, [=](i64 first, const auto& x, auto& y) {
        constexpr int N = sizeof(y.at) / sizeof(y.at[0]);
        u32 words3[N];
        dropout3.draw(words3, first);
        for (int k = 0; k < N; k++) {
          const F r2 = rounded(gelu_function::forward(x[0][k], F(0)));
          y.at[k] = dropout3.of(r2, words3[k]);
        }
      }, axes_of<1>(axes...), size, y, x0);
    }

The text depends on the kernels and on what they are given, not on numbers such as rates, which are arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from fastnn_kernels.contract import (
    ACTIVATIONS_FROM_INPUT,
    ACTIVATIONS_FROM_OUTPUT,
    ALPHA_ACTIVATIONS,
    CHAIN_INPUTS,
    COMPARISONS,
    KERNELS,
    Step,
)
from fastnn_kernels.cuda import strided
from fastnn_kernels.cuda.families.data import dropout_numbers
from fastnn_kernels.cuda.lowering import Ahead, Pointer, Request, Work, lowering
from fastnn_kernels.shapes import broadcast_axes

ACTIVATIONS = ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT


@lowering(*(f"chain_{inputs}" for inputs in range(1, CHAIN_INPUTS + 1)), family="chain")
def chain(call: Request) -> Iterable[Work]:
    steps: Sequence[Step] = call.attributes["steps"]
    names = KERNELS[call.name].inputs
    counters = tuple(call.operands[name].dtype == np.int64 for name in names)
    y = call.operands["y"]
    arrays = [call.operands[name] for name, counter in zip(names, counters, strict=True) if not counter]
    pointers: list[Pointer | Ahead] = []
    for name, counter in zip(names, counters, strict=True):
        pointers += [call[name], call.ahead(name)] if counter else [call[name]]
    numbers = [number for step in steps for number in _numbers(step)]
    function, source = write_chain(counters, steps)
    yield call.body(
        function, *pointers, call["y"], y.size, *numbers, *strided.numbers(broadcast_axes(y, *arrays)),
        blocks=strided.blocks(y.size, max(operand.dtype.itemsize for operand in (y, *arrays))), source=source,
    )  # fmt: skip


def _activation(kernel: str) -> str:
    """The activation that a kernel, perhaps its backward one, belongs to; "" where it belongs to none."""
    name = kernel.removesuffix("_backward")
    return name if name in ACTIVATIONS else ""


def _numbers(step: Step) -> tuple[int | float, ...]:
    """What a step is given as arguments of the chain's function."""
    attributes = dict(step.attributes)
    if step.kernel == "dropout":
        return dropout_numbers(**attributes)
    if step.kernel == "fill":
        return (float(attributes["value"]),)
    return (float(attributes["alpha"]),) if _activation(step.kernel) in ALPHA_ACTIVATIONS else ()


def write_chain(counters: Sequence[bool], steps: Sequence[Step]) -> tuple[str, str]:
    """The name and the definition of the function of a chain; `counters`: which inputs are steps of dropouts, not arrays."""
    kinds = tuple((step.kernel, step.arguments, step.stored) for step in steps)
    name = f"chain_{hashlib.sha256(repr((tuple(counters), kinds)).encode()).hexdigest()[:8]}"
    arrays = [index for index, counter in enumerate(counters) if not counter]
    values = {index: f"x[{place}][k]" for place, index in enumerate(arrays)}
    types = [f"class X{index}" for index in arrays]
    parameters = [
        f"const i64* x{index}, i64 ahead{index}" if counter else f"const X{index}* x{index}"
        for index, counter in enumerate(counters)
    ]
    parameters += ["Y* y", "i64 size"]
    before, drawn, body = [], [], []
    for number, step in enumerate(steps, len(counters)):
        if step.kernel == "fill":
            values[number] = f"value{number}"
            parameters.append(f"F value{number}")
            continue
        operands = [values.get(argument, "") for argument in step.arguments]
        activation = _activation(step.kernel)
        if step.kernel == "dropout":
            numbers = [f"least{number}", f"scale{number}", f"first{number}", f"second{number}"]
            parameters += [f"{'F' if 'scale' in each else 'i64'} {each}" for each in numbers]
            counter = step.arguments[1]
            before.append(f"const Dropout<F> dropout{number}(*x{counter} + ahead{counter}, {', '.join(numbers)});")
            drawn += [f"u32 words{number}[N];", f"dropout{number}.draw(words{number}, first);"]
            result = f"dropout{number}.of({operands[0]}, words{number}[k])"
        elif activation:
            alpha = f"alpha{number}" if activation in ALPHA_ACTIVATIONS else "F(0)"
            parameters += [f"F {alpha}"] * (activation in ALPHA_ACTIVATIONS)
            way = "forward" if step.kernel == activation else "backward"
            result = f"{activation}_function::{way}({', '.join([*operands, alpha])})"
        else:
            result = f"{step.kernel}_function::of({', '.join(operands)})"
        values[number] = f"r{number}"
        if step is steps[-1]:
            body.append(f"y.at[k] = {result};")
        elif step.kernel in COMPARISONS:
            body.append(f"const bool r{number} = {result};")
        else:
            kept = f"F(bf16({result}))" if step.stored else f"rounded({result})"
            body.append(f"const F r{number} = {kept};")
    lines = [
        f"template <{', '.join(['class F', *types, 'class Y', 'class... Numbers'])}>",
        f"__device__ void {name}({', '.join(['Grid grid', *parameters, 'Numbers... axes'])}) {{",
        *before,
        "packwise<F>(grid, [=](i64 first, const auto& x, auto& y) {",
        "constexpr int N = sizeof(y.at) / sizeof(y.at[0]);",
        *drawn,
        "#pragma unroll",
        "for (int k = 0; k < N; k++) {",
        *body,
        "}",
        f"}}, axes_of<{len(arrays)}>(axes...), size, y, {', '.join(f'x{index}' for index in arrays)});",
        "}",
    ]
    return name, "\n".join([*lines, ""])
