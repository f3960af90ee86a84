"""Losses of mini-batches, and what is right."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn.errors import InputError
from fastnn.ops.dispatch import Array, apply, check_labels, integers
from fastnn.program.differentiate import backward
from fastnn.program.shapes import describe
from fastnn.program.trace import Call, Symbol, check_matrix, family, floats

__all__ = ["is_correct", "sigmoid_cross_entropy", "softmax_cross_entropy", "squared_error", "weighted_mean"]


def _loss(name: str, z: Array, t: Array, **attributes: Any) -> Array:
    dtype = floats(name, z)
    check_matrix(name, "outputs (B, O)", z)
    return apply(name, (z, t), [((z.shape[0],), dtype)], attributes)


def softmax_cross_entropy(z: Array, t: Array) -> Array:
    """losses (B,) = -sum_j t_j log softmax(z)_j from logits z (B, C); t (B,) class indices or (B, C) shares that add up to 1.

    Gradient: softmax(z) - t. Source: Nielsen, chapter 3, equation 80.
    """
    floats("softmax_cross_entropy", z)
    check_matrix("softmax_cross_entropy", "outputs (B, O)", z)
    return _loss("softmax_cross_entropy", z, classes_or_rows("softmax_cross_entropy", z, t))


def classes_or_rows(name: str, z: Array, t: Array) -> Array:
    """Check targets t that are class indices (B,), or rows of the shape and dtype of z (B, C)."""
    family(name, z, t)
    if np.dtype(getattr(t, "dtype", object)).kind not in "iu":
        check_targets(name, z, t)
        return t
    t = integers(name, t)
    if tuple(t.shape) != (z.shape[0],):
        expected = describe((z.shape[0],))
        raise InputError(f"{name}: expected one class index a row, shape {expected}, got {describe(tuple(t.shape))}")
    check_labels(name, t, z.shape[-1])
    return t


def sigmoid_cross_entropy(z: Array, t: Array) -> Array:
    """losses (B,) = sum_j max(z_j, 0) - z_j t_j + log(1 + exp(-|z_j|)) from logits z (B, O) and targets t (B, O) in [0, 1].

    Gradient: sigmoid(z) - t. Source: the binary cross-entropy of Nielsen, chapter 3, equation 63, in its stable form.
    """
    check_targets("sigmoid_cross_entropy", z, t)
    return _loss("sigmoid_cross_entropy", z, t)


def squared_error(a: Array, t: Array, scale: float = 0.5) -> Array:
    """losses (B,) = scale * sum_j (a_j - t_j)^2 of outputs a (B, O) and targets t (B, O).

    With scale 1/2 Nielsen's quadratic cost (chapter 1, equation 6).
    """
    check_targets("squared_error", a, t)
    return _loss("squared_error", a, t, scale=float(scale))


def check_targets(name: str, z: Array, t: Array) -> None:
    """Check targets t that are values of the shape and dtype of z."""
    floats(name, z, t)
    if tuple(t.shape) != tuple(z.shape):
        raise InputError(f"{name}: expected targets of shape {describe(tuple(z.shape))}, got {describe(tuple(t.shape))}")


@backward("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")
def _loss_backward(call: Call, dlosses: Symbol) -> tuple[Symbol, None]:
    z, t = call.inputs
    return apply(f"{call.kernel}_backward", (z, t, dlosses), [(z.shape, z.dtype)], call.attributes), None


def weighted_mean(losses: Array, weights: Array) -> Array:
    """sum(w l) / sum(w) of losses (B,) and weights (B,), a 0-d array; 0 where all weights are 0."""
    dtype = floats("weighted_mean", losses, weights)
    if len(losses.shape) != 1 or tuple(losses.shape) != tuple(weights.shape):
        raise InputError(
            "weighted_mean: expected losses and weights of one shape (B,), "
            f"got {describe(tuple(losses.shape))} and {describe(tuple(weights.shape))}"
        )
    return apply("weighted_mean", (losses, weights), [((), dtype)])


@backward("weighted_mean")
def _weighted_mean_backward(call: Call, dmean: Symbol) -> tuple[Symbol, None]:
    losses, weights = call.inputs
    return apply("weighted_mean_backward", (dmean, weights), [(losses.shape, losses.dtype)]), None


def is_correct(z: Array, t: Array, threshold: float = 0.0, multilabel: bool = False) -> Array:
    """(B,): 1 where the largest of outputs z (B, C) is the class t ((B,) indices or (B, C) shares), else 0.

    With one column, or `multilabel`: the share of columns in which (z > threshold) == (t > 1/2).
    """
    dtype = floats("is_correct", z)
    check_matrix("is_correct", "outputs (B, C)", z)
    t = classes_or_rows("is_correct", z, t)
    attributes = {"threshold": float(threshold), "multilabel": bool(multilabel)}
    return apply("is_correct", (z, t), [((z.shape[0],), dtype)], attributes)
