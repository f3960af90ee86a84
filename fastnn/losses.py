"""Losses: what training minimizes, each one value an example, averaged over the mini-batch.

A weighted loss is sum(w l) / sum(w). A loss of your own is a function of (outputs, targets), written in the vocabulary, that
returns one loss an example, shape (B,), or a single number.

Some losses of the library have parameters: `huber(delta=2.0)` makes one, and its name, "huber:delta=2.0", means it wherever the
name of a loss is expected; "huber" alone is the loss with the default. Outputs are (B, O), targets have the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from fastnn import ops
from fastnn.configurations import Configuration, answers_keywords, as_number, number, read_fields, set_number, set_numbers
from fastnn.errors import InputError, InputTypeError, nearest
from fastnn.ops.losses import check_targets, classes_or_rows
from fastnn.program.shapes import describe
from fastnn.program.trace import Symbol, check_matrix

Function = Callable[[Any, Any], Any]

PROBABILITIES = ("softmax", "sigmoid")
"""The links that turn logits into probabilities."""
RANGES = {"sigmoid": (0.0, 1.0), "exp": (0.0, math.inf)}
"""By link, the least and the largest that a target can be."""


@dataclass(frozen=True)
class Loss:
    """`function(outputs, targets)` -> losses (B,); `link` is the final activation that it takes the place of.

    `link`: "softmax", "sigmoid", "exp" (outputs are logarithms of what is predicted) or None. `accepts`: "classes" (indices or
    one-hot), "values", or "both" (class indices become one-hot rows).
    """

    name: str
    function: Function
    link: str | None = None
    accepts: str = "values"

    @cached_property
    def built_in(self) -> bool:
        """Whether this is a loss of the library."""
        return find(self.name) == self

    @property
    def of_numbers(self) -> bool:
        """Whether it compares numbers only, so that 0 and 1 are numbers too."""
        return self.accepts == "values" and self.link not in PROBABILITIES


LossLike = str | Loss | Function
"""A loss, its name, or a function of (outputs, targets)."""


def softmax_cross_entropy(outputs: Any, targets: Any) -> Any:
    """l = -sum_j t_j log softmax(outputs)_j; see `ops.softmax_cross_entropy`.

    "softmax_cross_entropy:label_smoothing=0.1", or `fit(label_smoothing=0.1)`, takes (1 - s) t + s / C for the targets t.
    PyTorch: `CrossEntropyLoss(label_smoothing=s)`. Source: Szegedy et al. 2015, Rethinking the Inception architecture,
    section 7.
    """
    return ops.softmax_cross_entropy(outputs, targets)


def sigmoid_cross_entropy(outputs: Any, targets: Any) -> Any:
    """l = -sum_j t_j log a_j + (1 - t_j) log(1 - a_j), a = sigmoid(outputs); see `ops.sigmoid_cross_entropy`.

    With label smoothing, as above, (1 - s) t + s / 2 for the targets t. Keras: `BinaryCrossentropy(label_smoothing=s)`.
    """
    return ops.sigmoid_cross_entropy(outputs, targets)


def quadratic(outputs: Any, targets: Any) -> Any:
    """l = 1/2 sum_j (a_j - y_j)^2, Nielsen's quadratic cost."""
    return ops.squared_error(outputs, targets, 0.5)


def mean_squared_error(outputs: Any, targets: Any) -> Any:
    """l = 1/O sum_j (a_j - y_j)^2, so that the mean over examples is the mean over everything."""
    return ops.squared_error(outputs, targets, 1.0 / outputs.shape[1])


def mean_absolute_error(outputs: Any, targets: Any) -> Any:
    """l = 1/O sum_j |a_j - y_j|, whose best constant is the median; the derivative where they are equal is taken as 0."""
    _check("mean_absolute_error", outputs, targets)
    return ops.mean(ops.abs(ops.subtract(outputs, targets)), 1)


def poisson(outputs: Any, targets: Any) -> Any:
    """l = 1/O sum_j exp(z_j) - y_j z_j, the negative log-likelihood of counts y >= 0 whose mean is exp(z), without log(y!).

    The last layer gives z, the logarithm of the mean (the log link); `predict` gives the mean exp(z), and `evaluate` compares
    it with y. What is left out, log(y!), does not depend on the outputs: losses may be negative. `fit` and `evaluate` raise
    InputError for targets below 0. PyTorch: `PoissonNLLLoss(log_input=True, full=False)`. Source: McCullagh & Nelder 1989,
    Generalized linear models, section 6.2.
    """
    _check("poisson", outputs, targets)
    return ops.mean(ops.subtract(ops.exp(outputs), ops.multiply(targets, outputs)), 1)


@dataclass(frozen=True)
class Huber(Configuration):
    delta: float = number(1.0, above=0)

    def __post_init__(self) -> None:
        set_numbers(self)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        _check("huber", outputs, targets)
        error = ops.abs(ops.subtract(outputs, targets))
        inside = ops.minimum(error, self.delta)
        return ops.mean(ops.multiply(inside, ops.subtract(error, ops.multiply(inside, 0.5))), 1)


@dataclass(frozen=True)
class Quantile(Configuration):
    level: float = number(0.5, above=0, below=1)

    def __post_init__(self) -> None:
        set_numbers(self)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        _check("quantile", outputs, targets)
        error = ops.subtract(targets, outputs)
        return ops.mean(ops.maximum(ops.multiply(error, self.level), ops.multiply(error, self.level - 1.0)), 1)


@dataclass(frozen=True)
class Focal(Configuration):
    gamma: float = 2.0
    alpha: float | None = 0.25

    def __post_init__(self) -> None:
        set_number(self, "gamma", least=0)
        if self.alpha is not None:
            set_number(self, "alpha", least=0, most=1)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        _check("focal", outputs, targets)
        yes, no = ops.softplus(ops.negative(outputs)), ops.softplus(outputs)  # -log a and -log(1 - a)
        of_yes = ops.multiply(targets, _focused(yes, no, self.gamma))
        of_no = ops.multiply(ops.subtract(1.0, targets), _focused(no, yes, self.gamma))
        if self.alpha is not None:
            of_yes, of_no = ops.multiply(of_yes, self.alpha), ops.multiply(of_no, 1.0 - self.alpha)
        return ops.sum(ops.add(of_yes, of_no), 1)


def _focused(cost: Any, cost_of_other: Any, gamma: float) -> Any:
    """(1 - p)^gamma (-log p), from -log p and -log(1 - p): no power of a probability that rounds to 0."""
    return ops.multiply(ops.exp(ops.multiply(cost_of_other, -gamma)), cost)


@dataclass(frozen=True)
class SoftmaxFocal(Configuration):
    gamma: float = number(2.0, least=0)

    def __post_init__(self) -> None:
        set_numbers(self)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        check_matrix("softmax_focal", "outputs (B, O)", outputs)
        shares = classes_or_rows("softmax_focal", outputs, targets)
        if shares.dtype.kind == "i":
            shares = ops.one_hot(shares, outputs.shape[1], outputs.dtype)
        logarithms = ops.log_softmax(outputs)
        # A share that rounds to 1 leaves nothing, of which a power below 1 has no derivative.
        rest = ops.maximum(ops.subtract(1.0, ops.exp(logarithms)), float(np.finfo(outputs.dtype).tiny))
        return ops.sum(ops.multiply(shares, _focused(ops.negative(logarithms), ops.negative(ops.log(rest)), self.gamma)), 1)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Configuration):
    label_smoothing: float = number(0.0, least=0, below=1)

    def __post_init__(self) -> None:
        set_numbers(self)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        return softmax_cross_entropy(outputs, _smooth(targets, outputs, self.label_smoothing, int(outputs.shape[1])))


@dataclass(frozen=True)
class SigmoidCrossEntropy(Configuration):
    label_smoothing: float = number(0.0, least=0, below=1)

    def __post_init__(self) -> None:
        set_numbers(self)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        return sigmoid_cross_entropy(outputs, _smooth(targets, outputs, self.label_smoothing, 2))


def _smooth(targets: Any, outputs: Any, s: float, answers: int) -> Any:
    """(1 - s) t + s / answers, of rows t or of class indices; the targets themselves where s is 0."""
    if not s:
        return targets
    if targets.dtype.kind in "iu":
        targets = ops.one_hot(targets, int(outputs.shape[1]), outputs.dtype)
    return ops.add(ops.multiply(targets, 1.0 - s), s / answers)


def _check(name: str, outputs: Any, targets: Any) -> None:
    check_targets(name, outputs, targets)
    check_matrix(name, "outputs (B, O)", outputs)


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("softmax_cross_entropy", SoftmaxCrossEntropy(), "softmax", "classes"),
        Loss("sigmoid_cross_entropy", SigmoidCrossEntropy(), "sigmoid", "both"),
        Loss("quadratic", quadratic, None, "both"),
        Loss("mean_squared_error", mean_squared_error, None, "both"),
        Loss("mean_absolute_error", mean_absolute_error),
        Loss("huber", Huber()),
        Loss("quantile", Quantile()),
        Loss("poisson", poisson, "exp"),
        Loss("focal", Focal(), "sigmoid", "both"),
        Loss("softmax_focal", SoftmaxFocal(), "softmax", "classes"),
    )
}
"""The losses that `fit` knows by name; those with parameters have their defaults."""


@answers_keywords
def huber(*, delta: float = 1.0) -> Loss:
    """l = 1/O sum_j h(a_j - y_j): h(e) = e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2).

    Quadratic near 0 and linear beyond `delta` > 0, so that outliers count less. PyTorch: `HuberLoss(delta)`. Source: Huber
    1964, Robust estimation of a location parameter.

        model.fit(X, y, loss=fastnn.losses.huber(delta=2.0))    # the same as loss="huber:delta=2.0"
    """
    return _with_parameters("huber", delta=delta)


@answers_keywords
def quantile(*, level: float = 0.5) -> Loss:
    """l = 1/O sum_j max(level e_j, (level - 1) e_j), e = y - a: the pinball loss, whose best constant is the quantile.

    `level`, 0 < level < 1: the share of targets that is to lie below what is predicted. Half of the mean absolute error at 0.5.
    scikit-learn: `mean_pinball_loss(alpha=level)`. Source: Koenker & Bassett 1978, Regression quantiles.
    """
    return _with_parameters("quantile", level=level)


@answers_keywords
def focal(*, gamma: float = 2.0, alpha: float | None = 0.25) -> Loss:
    """l = sum_j -alpha t_j (1 - a_j)^gamma log a_j - (1 - alpha) (1 - t_j) a_j^gamma log(1 - a_j), a = sigmoid(outputs).

    The sigmoid cross-entropy in which answers that are right already count less, the less the larger `gamma` >= 0 is; at 0 it
    is the cross-entropy. `alpha`, from 0 to 1, weighs the yeses against the noes; None leaves both weights out. Of binary and
    multi-label targets, and of shares t from 0 to 1, of which it is linear. Source: Lin, Goyal, Girshick, He & Dollár 2017,
    Focal loss for dense object detection, equations 4 and 5, with the numbers of their section 5.1.
    """
    return _with_parameters("focal", gamma=gamma, alpha=alpha)


@answers_keywords
def softmax_focal(*, gamma: float = 2.0) -> Loss:
    """l = -sum_j t_j (1 - p_j)^gamma log p_j, p = softmax(outputs): the focal loss of one of several classes.

    Targets are class indices (B,) or rows (B, C); `class_weight` of `fit` does what alpha does in `focal`. With `gamma` 0 it is
    the softmax cross-entropy.
    """
    return _with_parameters("softmax_focal", gamma=gamma)


def _with_parameters(name: str, **values: float | None) -> Loss:
    """The loss of the library with these parameters; its name has those that are not the defaults."""
    standard = LOSSES[name]
    configuration: Any = type(standard.function)
    function = configuration(**values)
    parameters = {each.name: getattr(function, each.name) for each in fields(function)}
    text = ",".join(
        f"{parameter}={'none' if value is None else repr(value)}"
        for parameter, value in parameters.items()
        if value != getattr(standard.function, parameter)
    )
    return replace(standard, name=f"{name}:{text}" if text else name, function=function)


def find(name: str) -> Loss | None:
    """The library's loss of this name, such as "huber" or "huber:delta=2.0"; None where it has none.

    Raises InputError for a loss of the library with parameters that it does not have, or that are not in their bounds.
    """
    plain, colon, text = name.partition(":")
    standard = LOSSES.get(plain)
    if standard is None or not colon:
        return standard
    if not isinstance(standard.function, Configuration):
        raise InputError(f"{plain} has no parameters, got {name!r}")
    known = [each.name for each in fields(standard.function)]
    values = {parameter: _as_parameter(value) for parameter, value in read_fields(plain, text, known).items()}
    return _with_parameters(plain, **values)


def _as_parameter(text: str) -> Any:
    """The number in a text, None of "none"; anything else stays for the loss to refuse."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return text


def as_loss(loss: str | Loss | Function) -> Loss:
    """The loss of that name, or a function as a loss."""
    if isinstance(loss, str):
        known = find(loss)
        if known is None:
            raise InputError(f"no loss is called {loss!r}{nearest(loss.partition(':')[0], LOSSES)}")
        return known
    if not isinstance(loss, Loss):
        if not callable(loss):
            raise InputTypeError(f"expected the name of a loss or a function of (outputs, targets), got {type(loss).__name__}")
        for known in LOSSES.values():
            if loss is known.function or loss is globals()[known.name] or loss is getattr(ops, known.name, None):
                return known
        loss = Loss(getattr(loss, "__name__", type(loss).__name__), loss, None, "both")
    if find(loss.name) not in (None, loss):
        raise InputError(f"your loss has the name of the library's {loss.name}; give it a name of its own")
    return loss


def apply_link(link: str | None, outputs: Any) -> Any:
    """What a final activation `link` makes of the outputs that a loss takes; of symbols or of arrays."""
    if link is None:
        return outputs
    return ops.exp(outputs) if link == "exp" else ops.activate(outputs, link)


def smooth_labels(loss: Loss, label_smoothing: float) -> Loss:
    """The loss with this smoothing of its targets; for 0 the one that it has.

    Raises InputError for numbers that are not 0 <= s < 1, and for other losses than the two cross-entropies.
    """
    if not 0.0 <= as_number(label_smoothing) < 1.0:
        raise InputError(f"label_smoothing: expected a number, 0 <= s < 1, such as 0.1, got {label_smoothing!r}")
    if not label_smoothing:
        return loss
    if not isinstance(loss.function, SoftmaxCrossEntropy | SigmoidCrossEntropy):
        raise InputError(
            f"label_smoothing: it is for softmax_cross_entropy and sigmoid_cross_entropy, not for {loss.name}; leave it out"
        )
    return _with_parameters(loss.name.partition(":")[0], label_smoothing=label_smoothing)


def mean_loss(loss: Loss, outputs: Symbol, targets: Symbol, weights: Symbol | None, normalize_weights: bool = True) -> Symbol:
    """Record the mean of the loss over the mini-batch, a 0-d symbol: with weights sum(w l) / sum(w), or sum(w l) / B."""
    losses = loss.function(outputs, targets)
    if not isinstance(losses, Symbol):
        raise InputError(f"the loss {loss.name} returned {type(losses).__name__}, not an array of the vocabulary")
    if losses.shape == (outputs.shape[0],):
        if weights is not None and normalize_weights:
            mean: Symbol = ops.weighted_mean(losses, weights)
        else:
            mean = ops.mean(losses if weights is None else ops.multiply(losses, weights))
        return mean
    if losses.shape == ():
        if weights is not None:
            raise InputError(f"the loss {loss.name} returns one number; weights need one loss an example, shape (B,)")
        return losses
    raise InputError(
        f"the loss {loss.name} returned shape {describe(losses.shape)}; expected one loss an example, (B,), or one number: "
        "reduce the other axes with ops.sum or ops.mean"
    )


__all__ = [
    "LOSSES",
    "Loss",
    "LossLike",
    "focal",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "poisson",
    "quadratic",
    "quantile",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "softmax_focal",
]
