"""Example calls of every kernel of the contract: the cases of the benchmarks, awkward shapes, what else changes the code."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, BINARY, COMPARISONS, KERNELS, UNARY, UPDATES, Operand

CASES = Path(__file__).parents[3] / "bench" / "cases.py"

ACTIVATED = [{"activation": name, "alpha": 0.3} for name in (None, *ACTIVATIONS_FROM_OUTPUT)]
CHANGES: dict[str, list[dict[str, Any]]] = {
    "dense": ACTIVATED,
    "dense_backward_input": ACTIVATED,
    "conv2d": ACTIVATED,
    "batch_norm": ACTIVATED,
    "batch_norm_inference": ACTIVATED,
    "batch_norm_backward": ACTIVATED,
    "batch_norm_dropout": ACTIVATED,
    "batch_norm_dropout_backward": ACTIVATED,
    "layer_norm": ACTIVATED,
    "layer_norm_backward": ACTIVATED,
    "matmul": [{"transpose_a": a, "transpose_b": b} for a in (False, True) for b in (False, True)],
    "expand": [{"mean": False}],
    "dropout": [{"rate": 0.0}, {"rate": 0.5}],
    "rmsprop": [{"epsilon_inside": True}],
    "adam": [{"epsilon_inside": True}],
    "nadam": [{"epsilon_inside": True}],
}
"""Attributes that may become code, to be tried with the first case of a kernel."""


@functools.cache
def cases() -> Any:
    """A copy of the module of the benchmarks' cases, with more in it."""
    spec = importlib.util.spec_from_file_location("cuda_calls", CASES)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["cuda_calls"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for shape in ((0, 3), (7,), (127, 2), (3, 5, 7)):
        for kernel in UNARY + module.ACTIVATIONS_FROM_OUTPUT + module.ACTIVATIONS_FROM_INPUT:
            module.unary(kernel, shape)
        for kernel in module.ACTIVATIONS_FROM_OUTPUT + module.ACTIVATIONS_FROM_INPUT:
            module.backward(kernel, shape)
        module.dropout(*shape)
        module.chains(shape)
    pairs = (
        ((0, 3), (3,)),
        ((7,), ()),
        ((5, 1, 3), (4, 1)),
        ((2, 1, 3, 1, 5), (1, 4, 1, 2, 1)),
        ((2, 1, 2, 1, 3, 1), (7, 1, 5, 1, 3)),
    )
    for a, b in pairs:
        for kernel in BINARY + COMPARISONS:
            module.binary(kernel, a, b)
        module.where(a, b, ())
    for shape, axis in (
        ((0, 3), (0,)),
        ((3, 0), (0,)),
        ((5, 7, 3), (1,)),
        ((5, 7, 3), (0, 2)),
        ((2, 3, 2, 5, 2, 3), (1, 3, 5)),
        ((1, 9001), (1,)),
        ((9001, 3), (0,)),
    ):
        module.reductions(shape, axis)
    for shape, axes in (
        ((0, 3), (1, 0)),
        ((1, 7), (1, 0)),
        ((65, 67), (1, 0)),
        ((3, 4, 5, 6), (2, 0, 3, 1)),
        ((2, 3, 2, 3, 2, 3), (5, 3, 1, 4, 2, 0)),
    ):
        module.transpose(shape, axes)
    for a, b, axis in (((0, 3), (2, 3), 0), ((7, 1), (7, 2), 1), ((3, 4, 5), (3, 2, 5), 1)):
        module.concatenate(a, b, axis)
    for shape, axis, start, entries in (((7, 3), 0, 7, 0), ((7, 33), 1, 1, 32), ((3, 5, 7), 1, 2, 2)):
        module.cut(shape, axis, start, entries)
    for entries, count, width in ((7, 0, 3), (1, 9, 1), (5, 300, 129)):
        module.gather(entries, count, width)
    for rows, columns in ((0, 3), (1, 1), (33, 31), (5, 64), (2, 4099)):
        module.rows_of(rows, columns)
        module.losses("softmax_cross_entropy", rows, columns)
        module.losses("softmax_cross_entropy", rows, columns, classes=True)
        module.losses("sigmoid_cross_entropy", rows, columns)
        module.losses("squared_error", rows, columns, scale=0.3)
        for multilabel in (False, True):
            module.is_correct(rows, columns, multilabel)
        if rows:
            module.batch_norm(rows, columns)
            module.layer_norm(rows, columns)
    module.batch_norm(2003, 5)
    module.layer_norm(2003, 5)
    module.layer_norm(2, 9001)
    module.weighted_mean(0)
    module.weighted_mean(31)
    for rows, inputs, outputs in ((1, 1, 1), (0, 3, 2), (33, 65, 67), (129, 3, 130)):
        module.dense(rows, inputs, outputs)
        module.matmul(rows, inputs, outputs, False, True)
        for groups in (1, 33):
            module.grouped_dense(rows, inputs, outputs % 8, groups, groups == 1)
    for rows, source, width in ((0, "uint8", 3), (5, "uint8", 31), (5, "float32", 32), (3, "int64", 7), (7, "float64", 1)):
        module.gather_rows(rows, source, width, 0.25)
        module.gather_standardized(rows, source, width)
    for size in (0, 7, 4097):
        for kernel in UPDATES:
            module.update(kernel, size, bool(size % 2))
        module.block_sums(size)
    for images, height, width, channels, spacing in ((0, 5, 5, 1, 2), (1, 1, 1, 1, 1), (3, 17, 1, 2, 0)):
        module.augment(images, height, width, channels, spacing)
    for image, kernel, how in (
        ((0, 5, 5, 3), (2, 2, 4), {}),
        ((1, 1, 1, 1), (1, 1, 1), {}),
        ((5, 9, 8, 3), (3, 2, 17), {"strides": (2, 3), "padding": "same"}),
        ((2, 10, 11, 4), (3, 3, 33), {"dilation": (2, 3), "padding": ((3, 0), (0, 5))}),
        ((2, 6, 7, 8), (3, 3, 8), {"padding": "same", "groups": 2}),
        ((3, 7, 6, 33), (3, 3, 66), {"strides": (2, 1), "groups": 33}),
        ((1, 3, 3, 2300), (2, 2, 8), {}),
        ((1, 3, 3, 8), (2, 2, 2300), {}),
        ((4, 32, 32, 4), (3, 3, 5), {"padding": "same"}),
    ):
        module.convolution(image, kernel, **how)
    for image, size, how in (
        ((0, 5, 5, 3), (2, 2), {}),
        ((1, 1, 1, 1), (1, 1), {}),
        ((3, 7, 9, 33), (3, 2), {"strides": (2, 1), "padding": "same"}),
    ):
        module.pooling(image, size, **how)
    for leaves, numbers in ((0, 3), (1, 1), (5, 33), (67, 70)):
        module.add_leaves(leaves, numbers)
    for count in (0, 2, 33):
        module.shuffle(count)
    return module


def calls(kernel: str) -> Iterator[Any]:
    """The cases of one kernel."""
    known = cases().CASES[kernel]
    yield from known
    for change in CHANGES.get(kernel, ()):
        yield dataclasses.replace(known[0], attributes={**known[0].attributes, **change})


def precisions(case: Any) -> tuple[str, ...]:
    return case.precisions if case.precisions == ("int64",) else ("float32", "float64")


WIDE = {
    "parameters", *(slot for update in UPDATES.values() for slot in update.slots), "norm", "scalars", "penalties", "partial",
    "gamma", "beta", "running_mean", "running_variance", "mean", "inverse_deviation", "dgamma", "dbeta", "leaves",
}  # fmt: skip
"""Operands that are never kept in 16 bits: parameters, what is kept for each of them, and statistics."""


def operands(case: Any, precision: str) -> list[Operand]:
    """Shapes and dtypes of a case; "bfloat16": of the case in float32, with the floats kept in 16 bits that may be."""
    import ml_dtypes

    arrays = case.arrays("float32" if precision == "bfloat16" else precision)
    found = [Operand(array.shape, array.dtype) for array in arrays]
    if precision != "bfloat16":
        return found
    named = zip(KERNELS[case.kernel].operands, found, strict=True)
    short = np.dtype(ml_dtypes.bfloat16)
    return [Operand(o.shape, short) if o.dtype == np.float32 and name not in WIDE else o for name, o in named]
