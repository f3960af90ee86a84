"""fastnn trains dense neural networks: write the forward pass, get a compiled step.

    import fastnn
    model = fastnn.Sequential([fastnn.Dense(128, activation="relu"), fastnn.Dense(10)], seed=0)
    model.fit(X, y, loss="softmax_cross_entropy", optimizer=fastnn.Adam())

Names are loaded when they are first used: importing the package imports NumPy at most and compiles nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastnn import (
        callbacks,
        datasets,
        engines,
        initializers,
        layers,
        losses,
        metrics,
        ops,
        optimizers,
        plots,
        random,
        schedules,
        tuning,
    )
    from fastnn.checkpoints import load
    from fastnn.errors import CaptureError, DivergenceError, FastnnError
    from fastnn.gradient_check import check_gradients
    from fastnn.layers import Activation, BatchNorm, Dense, Dropout, Flatten, Layer, Parameter, Standardizer, Statistic
    from fastnn.model import Sequential
    from fastnn.optimizers import SGD, Adam, AdamW, Momentum, RMSprop

_MODULES = (
    "callbacks",
    "datasets",
    "engines",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "ops",
    "optimizers",
    "plots",
    "random",
    "schedules",
    "tuning",
)
_HOMES = {
    "fastnn.checkpoints": ("load",),
    "fastnn.errors": ("CaptureError", "DivergenceError", "FastnnError"),
    "fastnn.gradient_check": ("check_gradients",),
    "fastnn.layers": (
        "Activation",
        "BatchNorm",
        "Dense",
        "Dropout",
        "Flatten",
        "Layer",
        "Parameter",
        "Standardizer",
        "Statistic",
    ),
    "fastnn.model": ("Sequential",),
    "fastnn.optimizers": ("SGD", "Adam", "AdamW", "Momentum", "RMSprop"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "BatchNorm",
    "CaptureError",
    "Dense",
    "DivergenceError",
    "Dropout",
    "FastnnError",
    "Flatten",
    "Layer",
    "Momentum",
    "Parameter",
    "RMSprop",
    "Sequential",
    "Standardizer",
    "Statistic",
    "callbacks",
    "check_gradients",
    "datasets",
    "engines",
    "initializers",
    "layers",
    "load",
    "losses",
    "metrics",
    "ops",
    "optimizers",
    "plots",
    "random",
    "schedules",
    "tuning",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastnn.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fastnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
