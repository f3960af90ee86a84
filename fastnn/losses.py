"""Losses: what training minimizes, each one value an example, averaged over the mini-batch.

A weighted loss is sum(w l) / sum(w). A loss of your own is a function of (outputs, targets), written in the vocabulary, that
returns one loss an example, shape (B,), or a single number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fastnn import ops
from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError, nearest
from fastnn.program.shapes import describe
from fastnn.program.trace import Symbol

Function = Callable[[Any, Any], Any]

SMOOTHED = ("softmax_cross_entropy", "sigmoid_cross_entropy")
"""The losses whose targets can be smoothed."""


@dataclass(frozen=True)
class Loss:
    """`function(outputs, targets)` -> losses (B,); `link` is the final activation that it takes the place of.

    `accepts`: "classes" (indices or one-hot), "values", or "both" (class indices become one-hot rows).

    `label_smoothing`, 0 <= s < 1, of softmax and sigmoid cross-entropy alone: what the function gets instead of targets t
    (one-hot rows, shares, or yeses and noes) is

        softmax: (1 - s) t + s / C,  sigmoid: (1 - s) t + s / 2.

    Raises InputError for another number, and for other losses. Source: Szegedy et al. 2015, "Rethinking the Inception
    Architecture", section 7; as PyTorch's `CrossEntropyLoss(label_smoothing=s)` and Keras's `BinaryCrossentropy`.
    """

    name: str
    function: Function
    link: str | None = None
    accepts: str = "values"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= as_number(self.label_smoothing) < 1.0:
            raise InputError(f"label_smoothing: expected a number, 0 <= s < 1, such as 0.1, got {self.label_smoothing!r}")
        if self.label_smoothing and self.name not in SMOOTHED:
            raise InputError(f"label_smoothing: it is for {' and '.join(SMOOTHED)}, not for {self.name}; leave it out")
        object.__setattr__(self, "label_smoothing", float(self.label_smoothing))

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """What the function makes of outputs (B, O) and of the targets, smoothed; of symbols or of arrays."""
        s = self.label_smoothing
        if not s:
            return self.function(outputs, targets)
        columns = int(outputs.shape[1])
        if targets.dtype.kind in "iu":
            targets = ops.one_hot(targets, columns, outputs.dtype)
        share = s / (columns if self.link == "softmax" else 2)
        return self.function(outputs, ops.add(ops.multiply(targets, 1.0 - s), share))


LossLike = str | Loss | Function
"""A loss, its name, or a function of (outputs, targets)."""


def softmax_cross_entropy(outputs: Any, targets: Any) -> Any:
    """l = -sum_j t_j log softmax(outputs)_j; see `ops.softmax_cross_entropy`."""
    return ops.softmax_cross_entropy(outputs, targets)


def sigmoid_cross_entropy(outputs: Any, targets: Any) -> Any:
    """l = -sum_j t_j log a_j + (1 - t_j) log(1 - a_j), a = sigmoid(outputs); see `ops.sigmoid_cross_entropy`."""
    return ops.sigmoid_cross_entropy(outputs, targets)


def quadratic(outputs: Any, targets: Any) -> Any:
    """l = 1/2 sum_j (a_j - y_j)^2, Nielsen's quadratic cost."""
    return ops.squared_error(outputs, targets, 0.5)


def mean_squared_error(outputs: Any, targets: Any) -> Any:
    """l = 1/O sum_j (a_j - y_j)^2, so that the mean over examples is the mean over everything."""
    return ops.squared_error(outputs, targets, 1.0 / outputs.shape[1])


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("softmax_cross_entropy", softmax_cross_entropy, "softmax", "classes"),
        Loss("sigmoid_cross_entropy", sigmoid_cross_entropy, "sigmoid", "both"),
        Loss("quadratic", quadratic, None, "both"),
        Loss("mean_squared_error", mean_squared_error, None, "both"),
    )
}
"""The losses that `fit` knows by name."""


def as_loss(loss: str | Loss | Function) -> Loss:
    """The loss of that name, or a function as a loss."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise InputError(f"no loss is called {loss!r}{nearest(loss, LOSSES)}")
        return LOSSES[loss]
    if not callable(loss):
        raise InputTypeError(f"expected the name of a loss or a function of (outputs, targets), got {type(loss).__name__}")
    for known in LOSSES.values():
        if loss is known.function or loss is getattr(ops, known.name, None):
            return known
    name = getattr(loss, "__name__", type(loss).__name__)
    if name in LOSSES:
        raise InputError(f"your loss has the name of the library's {name}; give it a name of its own")
    return Loss(name, loss, None, "both")


def smooth_labels(loss: Loss, label_smoothing: float) -> Loss:
    """The loss with this smoothing of its targets; for 0 the one that it has."""
    return loss if label_smoothing == 0 else replace(loss, label_smoothing=label_smoothing)


def mean_loss(loss: Loss, outputs: Symbol, targets: Symbol, weights: Symbol | None) -> Symbol:
    """Record the (weighted) mean of the loss over the mini-batch, a 0-d symbol."""
    losses = loss(outputs, targets)
    if not isinstance(losses, Symbol):
        raise InputError(f"the loss {loss.name} returned {type(losses).__name__}, not an array of the vocabulary")
    if losses.shape == (outputs.shape[0],):
        mean: Symbol = ops.mean(losses) if weights is None else ops.weighted_mean(losses, weights)
        return mean
    if losses.shape == ():
        if weights is not None:
            raise InputError(f"the loss {loss.name} returns one number; weights need one loss an example, shape (B,)")
        return losses
    raise InputError(
        f"the loss {loss.name} returned shape {describe(losses.shape)}; expected one loss an example, (B,), or one number: "
        "reduce the other axes with ops.sum or ops.mean"
    )


__all__ = ["LOSSES", "Loss", "LossLike", "mean_squared_error", "quadratic", "sigmoid_cross_entropy", "softmax_cross_entropy"]
