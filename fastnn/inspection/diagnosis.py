"""Bias and variance: what the errors on training and dev data say about a model, and what to do next.

bias = training error - base error, variance = dev error - training error, where the base (Bayes) error is the lowest that
anything could reach. Source: Andrew Ng, Improving Deep Neural Networks, week 1.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError, NotReadyError
from fastnn.notebooks import Printed

if TYPE_CHECKING:
    from fastnn.sequential import Sequential

THRESHOLD = 0.03
"""A larger share of errors is a high bias or variance: between the 1 % that the notes call low and the 10 to 15 % they call
high, at equal ratios from both (the root of 1 % times 10 %)."""

AGAINST_BIAS = (
    "a bigger network: more layers or more hidden units",
    "train longer, or with another optimizer",
    "another architecture",
)
AGAINST_VARIANCE = (
    "more training data",
    "regularize: L2, dropout, augmented data, early stopping",
    "another architecture",
)
WIDTH = 80


@dataclass(frozen=True)
class Diagnosis(Printed):
    """Errors as shares of wrong examples, and what they mean."""

    train_error: float
    dev_error: float
    base_error: float
    bias_threshold: float
    variance_threshold: float

    @property
    def bias(self) -> float:
        """train_error - base_error; negative where the model is better than the base error claims is possible."""
        return self.train_error - self.base_error

    @property
    def variance(self) -> float:
        """dev_error - train_error; negative where the dev data are the easier ones."""
        return self.dev_error - self.train_error

    @property
    def high_bias(self) -> bool:
        """Whether the model underfits."""
        return round(self.bias - self.bias_threshold, 9) > 0  # 0.07 - 0.04 is a little more than 0.03

    @property
    def high_variance(self) -> bool:
        """Whether the model overfits."""
        return round(self.variance - self.variance_threshold, 9) > 0

    @property
    def verdict(self) -> str:
        """`"high bias"`, `"high variance"`, `"high bias and high variance"` or `"low bias and low variance"`."""
        problems = [name for name, high in (("high bias", self.high_bias), ("high variance", self.high_variance)) if high]
        return " and ".join(problems) or "low bias and low variance"

    @property
    def advice(self) -> tuple[str, ...]:
        """What to try, in this order: bias comes first; empty where both are low."""
        suggestions = (AGAINST_BIAS if self.high_bias else ()) + (AGAINST_VARIANCE if self.high_variance else ())
        return tuple(dict.fromkeys(suggestions))

    def __str__(self) -> str:
        rows = [self.verdict]
        for name, value, meaning in (
            ("base error", self.base_error, ""),
            ("training error", self.train_error, ""),
            ("dev error", self.dev_error, ""),
            ("bias", self.bias, self._comparison(self.high_bias, self.bias_threshold)),
            ("variance", self.variance, self._comparison(self.high_variance, self.variance_threshold)),
        ):
            rows.append(f"  {name:<15}{value:8.2%}  {meaning}".rstrip())
        if self.advice:
            rows += ["try", *(f"  - {each}" for each in self.advice)]
        for odd, remark in (
            (self.bias < 0, "The training error is below the base error: that estimate is too high, or the model overfits."),
            (self.variance < 0, "The dev error is below the training error: are the dev data easier, or of other kind?"),
        ):
            if odd:
                rows += textwrap.wrap(remark, WIDTH)
        return "\n".join(rows)

    @staticmethod
    def _comparison(high: bool, threshold: float) -> str:
        return f"{'high: above' if high else 'low: at most'} {threshold:.2%}"


def diagnose(
    train_error: float,
    dev_error: float,
    base_error: float = 0.0,
    *,
    bias_threshold: float = THRESHOLD,
    variance_threshold: float = THRESHOLD,
) -> Diagnosis:
    """What errors on training and dev data say: `print(fastnn.diagnose(0.01, 0.11))`.

    Errors are shares of wrong examples from 0 to 1 (0.11 for 11 %). `base_error`: the lowest that could be reached, such as
    that of a group of experts; what is a high bias over 0 % may be none over 15 %. Bias and variance above their thresholds
    are high. Both data sets must be of one distribution. For a regression give errors of your own on this scale, such as
    1 - r2 or the share of predictions outside a tolerance. Raises InputError for anything else.
    """
    errors = [_share(n, v) for n, v in (("train_error", train_error), ("dev_error", dev_error), ("base_error", base_error))]
    most = [_share(n, v) for n, v in (("bias_threshold", bias_threshold), ("variance_threshold", variance_threshold))]
    return Diagnosis(*errors, *most)


def diagnose_model(
    model: Sequential,
    train: tuple[Any, Any],
    dev: tuple[Any, Any],
    base_error: float = 0.0,
    *,
    bias_threshold: float = THRESHOLD,
    variance_threshold: float = THRESHOLD,
) -> Diagnosis:
    """The same for a trained classifier: the errors, 1 - accuracy in inference mode, are measured on `train` and `dev`, (X, y).

    Raises NotReadyError for a model that was not trained, InputError for one that predicts values, whose errors have no scale
    from 0 to 1, InputTypeError for what is no model, and what `evaluate` raises.
    """
    from fastnn.sequential import as_model

    task = as_model(model).task
    if task is None:
        raise NotReadyError("the errors of a model can be measured after fit; call fit first, or load a model")
    if task.kind == "values":
        raise InputError(
            "the model predicts values, whose loss is no share of errors; give errors of your own from 0 to 1, such as 1 - r2: "
            "diagnose(train_error, dev_error, base_error)"
        )
    errors: list[float] = []
    for name, pair in (("train", train), ("dev", dev)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputTypeError(f"{name}: expected a pair (X, y), got {type(pair).__name__}")
        errors.append(max(0.0, 1.0 - model.evaluate(*pair)["accuracy"]))
    train_error, dev_error = errors
    return diagnose(train_error, dev_error, base_error, bias_threshold=bias_threshold, variance_threshold=variance_threshold)


def _share(name: str, value: Any) -> float:
    number = as_number(value)
    if not 0.0 <= number <= 1.0:
        raise InputError(f"{name}: expected a share from 0 to 1 (0.11 for 11 %), got {value!r}")
    return float(number)
