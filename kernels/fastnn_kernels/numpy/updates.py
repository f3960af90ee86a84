"""Definition of the update kernels: one step of an optimizer over the whole arena of P parameters.

Every function takes `gradient` (P,), `norm` (0-d), `scalars` (steps, columns of SCALARS), `index` (0-d int64), `starts`
(S + 1,) int64, `penalties` (S, 4), the updated `parameters` and states (P,) and, if there are any, `low_precision_weights`
(P,); see the contract. Numbers such as 1 - beta are computed in float64 and rounded once to the dtype of the arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastnn_kernels.contract import SUM_BLOCK, UPDATES

__all__ = [
    "adagrad", "adagrad_with_average", "adam", "adam_with_average", "averaged_momentum", "averaged_momentum_with_average",
    "block_penalty", "block_sum_squares", "lion", "lion_with_average", "momentum", "momentum_with_average", "nadam",
    "nadam_with_average", "nesterov", "nesterov_with_average", "rmsprop", "rmsprop_with_average", "sgd", "sgd_with_average",
]  # fmt: skip


def sgd(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float,
) -> None:  # fmt: skip
    """w -= rate * g."""
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w in segments(clipped, scalars[int(index[()]), 0], starts, penalties, parameters):
        w -= rate * g
    copy(parameters, low_precision_weights)


def momentum(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, velocity: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, beta: float,
) -> None:  # fmt: skip
    """v = beta * v + g; w -= rate * v (Polyak, 1964)."""
    F = parameters.dtype.type
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, v in segments(clipped, scalars[int(index[()]), 0], starts, penalties, parameters, velocity):
        v[...] = F(beta) * v + g
        w -= rate * v
    copy(parameters, low_precision_weights)


def nesterov(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, velocity: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, beta: float,
) -> None:  # fmt: skip
    """v = beta * v + g; w -= rate * (g + beta * v) (Sutskever et al., ICML 2013, in terms of the point looked ahead to)."""
    F = parameters.dtype.type
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, v in segments(clipped, scalars[int(index[()]), 0], starts, penalties, parameters, velocity):
        v[...] = F(beta) * v + g
        w -= rate * (g + F(beta) * v)
    copy(parameters, low_precision_weights)


def averaged_momentum(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, velocity: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, beta: float,
) -> None:  # fmt: skip
    """v = beta * v + (1 - beta) * g; w -= rate * v: the velocity is a moving average of gradients."""
    F = parameters.dtype.type
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, v in segments(clipped, scalars[int(index[()]), 0], starts, penalties, parameters, velocity):
        v[...] = F(beta) * v + F(1 - beta) * g
        w -= rate * v
    copy(parameters, low_precision_weights)


def rmsprop(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, square: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, beta: float, epsilon: float, epsilon_inside: bool,
) -> None:  # fmt: skip
    """s = beta * s + (1 - beta) * g^2; w -= rate * g / (sqrt(s) + epsilon), or / sqrt(s + epsilon) if `epsilon_inside`."""
    F = parameters.dtype.type
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, s in segments(clipped, scalars[int(index[()]), 0], starts, penalties, parameters, square):
        s[...] = F(beta) * s + F(1 - beta) * (g * g)
        w -= (rate * g) / root_of(s, F(epsilon), epsilon_inside)
    copy(parameters, low_precision_weights)


def adagrad(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, square: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, epsilon: float,
) -> None:  # fmt: skip
    """s += g^2; w -= rate * g / (sqrt(s) + epsilon) (Duchi, Hazan and Singer, JMLR 2011)."""
    F = parameters.dtype.type
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, s in segments(clipped, scalars[int(index[()]), 0], starts, penalties, parameters, square):
        s[...] = s + g * g
        w -= (rate * g) / (np.sqrt(s) + F(epsilon))
    copy(parameters, low_precision_weights)


def adam(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, mean: np.ndarray, square: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, beta1: float, beta2: float, epsilon: float, epsilon_inside: bool,
) -> None:  # fmt: skip
    """m = beta1 * m + (1 - beta1) * g; s = beta2 * s + (1 - beta2) * g^2;
    w -= rate * (m * correction1) / (sqrt(s * correction2) + epsilon), or / sqrt(s * correction2 + epsilon) if `epsilon_inside`
    (Kingma and Ba, ICLR 2015; with decay, AdamW of Loshchilov and Hutter, ICLR 2019)."""
    F = parameters.dtype.type
    learning_rate, correction1, correction2, _ = scalars[int(index[()])]
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, m, s in segments(clipped, learning_rate, starts, penalties, parameters, mean, square):
        m[...] = F(beta1) * m + F(1 - beta1) * g
        s[...] = F(beta2) * s + F(1 - beta2) * (g * g)
        w -= (rate * (m * correction1)) / root_of(s * correction2, F(epsilon), epsilon_inside)
    copy(parameters, low_precision_weights)


def nadam(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, mean: np.ndarray, square: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, beta1: float, beta2: float, epsilon: float, epsilon_inside: bool,
) -> None:  # fmt: skip
    """m = beta1 * m + (1 - beta1) * g; s = beta2 * s + (1 - beta2) * g^2;
    w -= rate * (gradient_factor * g + m * correction1) / (sqrt(s * correction2) + epsilon), or as in `adam` if `epsilon_inside`
    (Dozat, ICLR workshop 2016)."""
    F = parameters.dtype.type
    learning_rate, correction1, correction2, gradient_factor = scalars[int(index[()])]
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, m, s in segments(clipped, learning_rate, starts, penalties, parameters, mean, square):
        m[...] = F(beta1) * m + F(1 - beta1) * g
        s[...] = F(beta2) * s + F(1 - beta2) * (g * g)
        w -= (rate * (gradient_factor * g + m * correction1)) / root_of(s * correction2, F(epsilon), epsilon_inside)
    copy(parameters, low_precision_weights)


def lion(
    gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
    penalties: np.ndarray, parameters: np.ndarray, mean: np.ndarray,
    low_precision_weights: np.ndarray | None = None,
    *, clip_value: float, clip_norm: float, beta1: float, beta2: float,
) -> None:  # fmt: skip
    """w -= rate * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g (Chen et al., NeurIPS 2023)."""
    F = parameters.dtype.type
    clipped = clip(gradient, norm, clip_value, clip_norm)
    for g, rate, w, m in segments(clipped, scalars[int(index[()]), 0], starts, penalties, parameters, mean):
        ahead = F(beta1) * m + F(1 - beta1) * g
        m[...] = F(beta2) * m + F(1 - beta2) * g
        w -= rate * np.where(ahead > 0, F(1), np.where(ahead < 0, F(-1), ahead))
    copy(parameters, low_precision_weights)


def averaging(update: Callable[..., None]) -> Callable[..., None]:
    """The update that makes the step of `update`, then a += (1 - ema) * (w - a); a = w where the factor is 0."""
    states = len(UPDATES[update.__name__].slots)

    def update_with_average(
        gradient: np.ndarray, norm: np.ndarray, scalars: np.ndarray, index: np.ndarray, starts: np.ndarray,
        penalties: np.ndarray, parameters: np.ndarray, *arrays: np.ndarray, ema: float, **attributes: Any,
    ) -> None:  # fmt: skip
        average, copies = arrays[states], arrays[states + 1 :]
        update(gradient, norm, scalars, index, starts, penalties, parameters, *arrays[:states], *copies, **attributes)
        share = parameters.dtype.type(1 - ema)
        for start, stop, factor in zip(starts[:-1], starts[1:], penalties[:, 3], strict=True):
            w, a = parameters[start:stop], average[start:stop]
            a[...] = a + share * (w - a) if factor else w

    return update_with_average


sgd_with_average = averaging(sgd)
momentum_with_average = averaging(momentum)
nesterov_with_average = averaging(nesterov)
averaged_momentum_with_average = averaging(averaged_momentum)
rmsprop_with_average = averaging(rmsprop)
adagrad_with_average = averaging(adagrad)
adam_with_average = averaging(adam)
nadam_with_average = averaging(nadam)
lion_with_average = averaging(lion)


def root_of(s: np.ndarray, epsilon: Any, epsilon_inside: bool) -> np.ndarray:
    """sqrt(s) + epsilon, or sqrt(s + epsilon) if `epsilon_inside`."""
    root: np.ndarray = np.sqrt(s + epsilon) if epsilon_inside else np.sqrt(s) + epsilon
    return root


def copy(w: np.ndarray, low_precision_weights: np.ndarray | None) -> None:
    """low_precision_weights = w, rounded to their dtype, where a call has them."""
    if low_precision_weights is not None:
        low_precision_weights[...] = w


def clip(gradient: np.ndarray, norm: np.ndarray, clip_value: float, clip_norm: float) -> np.ndarray:
    """A copy of the gradient, clipped to [-clip_value, clip_value], then scaled by min(1, clip_norm / norm); 0: off."""
    g = gradient.copy()
    if clip_value:
        g = np.clip(g, g.dtype.type(-clip_value), g.dtype.type(clip_value))
    if clip_norm:
        with np.errstate(divide="ignore"):  # a gradient of zeros has norm 0 and keeps its length
            g *= np.minimum(g.dtype.type(1), g.dtype.type(clip_norm) / norm[()])
    return g


def segments(
    clipped: np.ndarray, learning_rate: Any, starts: np.ndarray, penalties: np.ndarray, parameters: np.ndarray,
    *states: np.ndarray,
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """(g, rate, w, states...) of each segment: with rate = learning_rate * factor, g is the clipped gradient + l2 * w
    + l1 * sign(w), then w -= rate * decay * w. A factor of 0 leaves the segment out.

    Penalties are not computed in segments without: 0 * infinity would be NaN.
    """
    for start, stop, (l2, l1, decay, factor) in zip(starts[:-1], starts[1:], penalties, strict=True):
        if factor == 0:
            continue
        g, w, *segment_states = (array[start:stop] for array in (clipped, parameters, *states))
        rate = learning_rate * factor
        if l2 or l1 or decay:
            g = g + (l2 * w + l1 * np.sign(w))
            w -= (rate * decay) * w
        yield g, rate, w, *segment_states


def block_sum_squares(x: np.ndarray, partial: np.ndarray, *, clip_value: float, scale: float) -> None:
    """partial[k] = sum of (scale * min(max(x, -clip_value), clip_value))^2 over block k of `SUM_BLOCK` elements; 0: no clip."""
    values = x.dtype.type(scale) * (np.clip(x, -clip_value, clip_value) if clip_value else x)
    for k in range(len(partial)):
        partial[k] = np.sum(np.square(values[k * SUM_BLOCK : (k + 1) * SUM_BLOCK]))


def block_penalty(parameters: np.ndarray, starts: np.ndarray, penalties: np.ndarray, partial: np.ndarray) -> None:
    """partial[k] = sum of l2/2 * w^2 + l1 * |w| over block k of `SUM_BLOCK` elements of the arena."""
    values = np.zeros_like(parameters)
    for start, stop, (l2, l1, _, _) in zip(starts[:-1], starts[1:], penalties, strict=True):
        w = parameters[start:stop]
        values[start:stop] = l2 / 2 * (w * w) + l1 * np.abs(w)
    for k in range(len(partial)):
        partial[k] = np.sum(values[k * SUM_BLOCK : (k + 1) * SUM_BLOCK])
