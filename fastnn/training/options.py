"""`FitOptions`: what `fit` was given beside the data, and the checks that need nothing else."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import engines
from fastnn.callbacks import Callback
from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError
from fastnn.optimizers import Optimizer, by_name
from fastnn_kernels.contract import UPDATES

if TYPE_CHECKING:
    from fastnn.losses import LossLike

AUTO = "auto"
"""The `batch_size` that is found by the memory that is free."""

ALL = "all"
"""The `batch_size` of batch gradient descent: all examples."""

KERNELS = tuple(name for name, update in UPDATES.items() if not update.step)
"""The update kernels that optimizers name."""


@dataclass(frozen=True, eq=False)
class FitOptions:
    """What `Sequential.fit` was given beside the data; every option is described there."""

    loss: LossLike = "softmax_cross_entropy"
    optimizer: str | Optimizer | None = None
    batch_size: int | str = 128
    epochs: int = 5
    validation_data: tuple[Any, ...] | None = None
    validation_split: float | None = None
    sample_weight: Any = None
    class_weight: Mapping[Any, float] | str | None = None
    classes: Sequence[Any] | None = None
    metrics: Sequence[Any] = ()
    label_smoothing: float = 0.0
    l2: float = 0.0
    l1: float = 0.0
    shuffle: bool = True
    order: Callable[[int], Any] | None = None
    callbacks: Sequence[Callback] = ()
    resume: str | os.PathLike[str] | bool | None = None
    steps_per_epoch: int | None = None
    shard_rows: int | None = None
    device: str = "auto"
    precision: str = "float32"
    autotune: bool = False
    threads: int | None = None
    verbose: int = 1
    part: bool = False
    """Whether these are some of the examples only, which may all be of one class."""
    penalties_by_weight: bool = False
    """Whether `l2` and `l1` are divided by the weight of each mini-batch: the sum of its weights, or its number of rows.

    The penalty is then that of the sum of the losses and not of their mean, as scikit-learn's `alpha` is.
    """


def as_optimizer(optimizer: str | Optimizer | None) -> Optimizer:
    """The optimizer of that name, or as it is; Adam for None."""
    if optimizer is None or isinstance(optimizer, str):
        return _named("adam" if optimizer is None else optimizer)
    if not isinstance(optimizer, Optimizer):
        raise InputTypeError(f"optimizer: expected one such as fastnn.Adam(), got {type(optimizer).__name__}")
    try:
        known = optimizer.kernel in KERNELS
    except NotImplementedError:
        known = False
    if not known:
        raise InputError(
            f"optimizer: {type(optimizer).__name__} names no update kernel: derive it from a class such as fastnn.SGD, or let "
            f"its property kernel return one of {', '.join(KERNELS)}"
        )
    return optimizer


@functools.cache
def _named(name: str) -> Optimizer:
    """The optimizer of this name, with its defaults; it is immutable, and made once."""
    return by_name(name)


def as_callbacks(callbacks: Any) -> list[Callback]:
    if not isinstance(callbacks, tuple | list) and (isinstance(callbacks, Callback) or not isinstance(callbacks, Sequence)):
        raise InputTypeError(f"callbacks: expected a list of fastnn.callbacks.Callback objects, got {type(callbacks).__name__}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise InputTypeError(f"callbacks: expected fastnn.callbacks.Callback objects, got {type(callback).__name__}")
        every = callback.every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise InputError(f"{type(callback).__name__}.every: expected None or an integer >= 1, got {every!r}")
    return list(callbacks)


def check_options(settings: FitOptions) -> None:
    """Raise InputError or InputTypeError for an option that is invalid whatever the data are."""
    counts: dict[str, tuple[Any, int]] = {
        "epochs": (settings.epochs, 0),
        "shard_rows": (settings.shard_rows, 1),
        "steps_per_epoch": (settings.steps_per_epoch, 1),
    }
    if settings.batch_size not in (AUTO, ALL):
        counts["batch_size"] = (settings.batch_size, 1)
    for name, (value, least) in counts.items():
        if value is None and name not in ("epochs", "batch_size"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            also = f', "{AUTO}" or "{ALL}"' if name == "batch_size" else ""
            raise InputError(f"{name}: expected an integer >= {least}{also}, got {value!r}")
    engines.check_threads(settings.threads)
    check_penalties(settings.l2, settings.l1)
    if settings.order is not None and not callable(settings.order):
        raise InputTypeError(f"order: expected a function of the epoch, got {type(settings.order).__name__}")
    data = settings.validation_data
    if data is not None and (not isinstance(data, tuple | list) or len(data) not in (2, 3)):
        raise InputError("validation_data: expected a pair (X, y), or (X, y, weights)")
    if settings.validation_split is not None:
        _check_validation_split(settings)
    if not isinstance(settings.shuffle, bool):
        raise InputError(f"shuffle: expected True or False, got {settings.shuffle!r}")
    for name in ("order", "shard_rows"):
        if not settings.shuffle and getattr(settings, name) is not None:
            raise InputError(
                f"shuffle: False visits the rows in their order, and {name} says another one; leave one of them out"
            )


def _check_validation_split(settings: FitOptions) -> None:
    """Raise InputError for a share of validation data that is none, and for what does not go together with one."""
    share = settings.validation_split
    if not 0.0 < as_number(share) < 1.0:
        raise InputError(f"validation_split: expected a share of the examples, 0 < share < 1, such as 0.2, got {share!r}")
    if settings.validation_data is not None:
        raise InputError("validation_split: there is validation_data already; leave one of them out")
    if settings.order is not None:
        raise InputError(
            "validation_split: order(epoch) names rows of X, and some of them are held back; split X and y by "
            "fastnn.datasets.split, and give validation_data"
        )


def check_penalties(l2: object, l1: object) -> None:
    """Raise InputError for an invalid penalty."""
    for name, penalty in {"l2": l2, "l1": l1}.items():
        if not 0.0 <= as_number(penalty) < math.inf:
            raise InputError(f"{name}: expected a number >= 0, got {penalty!r}")
