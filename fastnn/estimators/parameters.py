"""The parameters of the estimators, checked when `fit` begins, as scikit-learn's conventions have it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from fastnn import engines, ops
from fastnn.configurations import as_number
from fastnn.errors import InputError, nearest
from fastnn.optimizers import NAMES, Optimizer
from fastnn.schedules import Schedule
from fastnn.training.options import as_callbacks

ACTIVATIONS = {"identity": None, "logistic": "sigmoid"}
"""scikit-learn's names that are not ours."""


def is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_switch(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def within(least: float, most: float = math.inf, above: bool = False, below: bool = False) -> Callable[[object], bool]:
    """Whether a value is a number from `least` to `most`; `above`, `below`: the ends do not count."""

    def holds(value: object) -> bool:
        number = as_number(value)
        return (least < number if above else least <= number) and (number < most if below else number <= most)

    return holds


Rule = tuple[Callable[[object], bool], str]

RULES: Mapping[str, Rule] = {
    "alpha": (within(0, below=True), "a number >= 0"),
    "batch_size": (lambda value: value == "auto" if isinstance(value, str) else is_count(value), '"auto" or an integer >= 1'),
    "learning_rate": (
        lambda value: isinstance(value, Schedule) or value in ("constant", "invscaling", "adaptive"),
        '"constant", "invscaling", "adaptive" or a schedule of fastnn.schedules',
    ),
    "learning_rate_init": (within(0, above=True, below=True), "a number > 0"),
    "power_t": (within(0, below=True), "a number >= 0"),
    "max_iter": (is_count, "an integer >= 1"),
    "shuffle": (is_switch, "True or False"),
    "tol": (within(0), "a number >= 0"),
    "verbose": (lambda value: is_switch(value) or is_count(value, 0), "True, False or an integer >= 0"),
    "warm_start": (is_switch, "True or False"),
    "momentum": (within(0, 1, below=True), "a number >= 0 and < 1"),
    "nesterovs_momentum": (is_switch, "True or False"),
    "early_stopping": (is_switch, "True or False"),
    "validation_fraction": (within(0, 1, below=True), "a number >= 0 and < 1"),
    "beta_1": (within(0, 1, below=True), "a number >= 0 and < 1"),
    "beta_2": (within(0, 1, below=True), "a number >= 0 and < 1"),
    "epsilon": (within(0, above=True, below=True), "a number > 0"),
    "n_iter_no_change": (lambda value: value == math.inf or is_count(value), "an integer >= 1 or infinity"),
    "max_fun": (is_count, "an integer >= 1"),
    "batch_norm": (is_switch, "True or False"),
    "precision": (lambda value: value in engines.PRECISIONS, f"one of {', '.join(engines.PRECISIONS)}"),
}


def check_parameters(estimator: Any) -> None:
    """Raise InputError for the first parameter that is invalid whatever the data are."""
    whose = type(estimator).__name__
    for name, (rule, expected) in RULES.items():
        value = getattr(estimator, name)
        if not _holds(rule, value):
            raise InputError(f"{whose}: {name}: expected {expected}, got {value!r}")
    engines.check_threads(estimator.threads)
    engines.choose(estimator.device, estimator.precision)
    as_callbacks(estimator.callbacks)
    hidden = hidden_sizes(estimator)
    activations_of(estimator, len(hidden))
    dropouts_of(estimator, len(hidden))
    solver = estimator.solver
    if not isinstance(solver, Optimizer) and solver not in ("lbfgs", *NAMES):
        raise InputError(
            f"{whose}: solver: expected an optimizer of fastnn or one of {', '.join(('lbfgs', *NAMES))}, got {solver!r}"
        )
    if solver == "lbfgs" and estimator.callbacks:
        raise InputError(f"{whose}: lbfgs makes no steps on mini-batches that callbacks could be told of; use adam")
    if solver == "lbfgs" and (any(dropouts_of(estimator, len(hidden))) or estimator.batch_norm):
        raise InputError(f"{whose}: lbfgs minimizes one function of all examples, and with dropout or batch norm there is none")


def _holds(rule: Callable[[object], bool], value: object) -> bool:
    try:
        return bool(rule(value))
    except (TypeError, ValueError):  # arrays and the like, which have no single truth
        return False


def hidden_sizes(estimator: Any) -> list[int]:
    """`hidden_layer_sizes` as a list of integers; one number is one layer."""
    given = estimator.hidden_layer_sizes
    sizes = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not all(is_count(size) for size in sizes):
        raise InputError(
            f"{type(estimator).__name__}: hidden_layer_sizes must be > 0: expected an integer >= 1 or a list, got {given!r}"
        )
    return [int(size) for size in sizes]


def activations_of(estimator: Any, layers: int) -> list[str | None]:
    """The activation of each hidden layer, under our names; None for the identity."""
    given = estimator.activation
    names = [given] * layers if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else [given]
    known = tuple(dict.fromkeys((*ACTIVATIONS, *ops.ACTIVATIONS)))
    for name in [given] if isinstance(given, str) else names:
        if not isinstance(name, str) or name not in known:
            raise InputError(f"{type(estimator).__name__}: unknown activation {name!r}{nearest(str(name), known)}")
    return [ACTIVATIONS.get(name, name) for name in _each(estimator, "activation", names, layers)]


def dropouts_of(estimator: Any, layers: int) -> list[float]:
    """The share of outputs that is dropped behind each hidden layer."""
    given = estimator.dropout
    rates = list(given) if isinstance(given, list | tuple) else [given] * layers
    for rate in rates if isinstance(given, list | tuple) else [given]:
        if not _holds(within(0, 1, below=True), rate):
            raise InputError(f"{type(estimator).__name__}: dropout: expected a number >= 0 and < 1, or a list, got {given!r}")
    return [float(rate) for rate in _each(estimator, "dropout", rates, layers)]


def _each(estimator: Any, name: str, values: list[Any], layers: int) -> list[Any]:
    if len(values) != layers:
        raise InputError(
            f"{type(estimator).__name__}: {name}: expected one for each of the {layers} hidden layers, got {len(values)}"
        )
    return values
