"""fastnn trains dense neural networks: write the forward pass, get a compiled step.

    import fastnn
    model = fastnn.Sequential([fastnn.Dense(128, activation="relu"), fastnn.Dense(10)], seed=0)
    model.fit(X, y, loss="softmax_cross_entropy", optimizer=fastnn.Adam())

Names are loaded when they are first used: importing the package imports NumPy at most and compiles nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from fastnn._version import __version__ as __version__

if TYPE_CHECKING:
    from fastnn import averages as averages
    from fastnn import callbacks as callbacks
    from fastnn import checkpoints as checkpoints
    from fastnn import circuits as circuits
    from fastnn import datasets as datasets
    from fastnn import engines as engines
    from fastnn import errors as errors
    from fastnn import estimators as estimators
    from fastnn import initializers as initializers
    from fastnn import layers as layers
    from fastnn import losses as losses
    from fastnn import metrics as metrics
    from fastnn import ops as ops
    from fastnn import optimizers as optimizers
    from fastnn import plots as plots
    from fastnn import random as random
    from fastnn import schedules as schedules
    from fastnn import tuning as tuning
    from fastnn.checkpoints import load as load
    from fastnn.computation import record as record
    from fastnn.errors import DivergenceError as DivergenceError
    from fastnn.errors import FastnnError as FastnnError
    from fastnn.errors import TracingError as TracingError
    from fastnn.export.foreign import from_keras as from_keras
    from fastnn.export.foreign import from_sklearn as from_sklearn
    from fastnn.export.foreign import from_torch as from_torch
    from fastnn.export.foreign import load_safetensors as load_safetensors
    from fastnn.export.onnx import to_onnx as to_onnx
    from fastnn.inspection.diagnosis import Diagnosis as Diagnosis
    from fastnn.inspection.diagnosis import diagnose as diagnose
    from fastnn.inspection.diagnosis import diagnose_model as diagnose_model
    from fastnn.inspection.gradient_check import check_gradients as check_gradients
    from fastnn.inspection.gradient_flow import GradientFlow as GradientFlow
    from fastnn.inspection.gradient_flow import activation_statistics as activation_statistics
    from fastnn.inspection.learning_rate_range import find_learning_rate as find_learning_rate
    from fastnn.inspection.receptive_fields import most_activating as most_activating
    from fastnn.inspection.receptive_fields import receptive_field as receptive_field
    from fastnn.layers import Activation as Activation
    from fastnn.layers import Augment as Augment
    from fastnn.layers import BatchNorm as BatchNorm
    from fastnn.layers import Conv2D as Conv2D
    from fastnn.layers import Dense as Dense
    from fastnn.layers import Dropout as Dropout
    from fastnn.layers import Flatten as Flatten
    from fastnn.layers import GlobalMeanPool2D as GlobalMeanPool2D
    from fastnn.layers import L2Pool2D as L2Pool2D
    from fastnn.layers import Layer as Layer
    from fastnn.layers import LayerNorm as LayerNorm
    from fastnn.layers import MaxPool2D as MaxPool2D
    from fastnn.layers import MeanPool2D as MeanPool2D
    from fastnn.layers import Parameter as Parameter
    from fastnn.layers import Standardizer as Standardizer
    from fastnn.layers import Statistic as Statistic
    from fastnn.optimizers import SGD as SGD
    from fastnn.optimizers import Adagrad as Adagrad
    from fastnn.optimizers import Adam as Adam
    from fastnn.optimizers import AdamW as AdamW
    from fastnn.optimizers import Lion as Lion
    from fastnn.optimizers import Momentum as Momentum
    from fastnn.optimizers import NAdam as NAdam
    from fastnn.optimizers import RMSprop as RMSprop
    from fastnn.sequential import Sequential as Sequential

_MODULES = (
    "averages",
    "callbacks",
    "checkpoints",
    "circuits",
    "datasets",
    "engines",
    "errors",
    "estimators",
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
_OPTIONAL = ("estimators",)
"""Modules that need a package which need not be there."""
_HOMES = {
    "fastnn.checkpoints": ("load",),
    "fastnn.computation": ("record",),
    "fastnn.inspection.diagnosis": ("Diagnosis", "diagnose", "diagnose_model"),
    "fastnn.errors": ("TracingError", "DivergenceError", "FastnnError"),
    "fastnn.export.foreign": ("from_keras", "from_sklearn", "from_torch", "load_safetensors"),
    "fastnn.export.onnx": ("to_onnx",),
    "fastnn.inspection.gradient_flow": ("GradientFlow", "activation_statistics"),
    "fastnn.inspection.gradient_check": ("check_gradients",),
    "fastnn.layers": (
        "Activation",
        "Augment",
        "BatchNorm",
        "Conv2D",
        "Dense",
        "Dropout",
        "Flatten",
        "GlobalMeanPool2D",
        "L2Pool2D",
        "Layer",
        "LayerNorm",
        "MaxPool2D",
        "MeanPool2D",
        "Parameter",
        "Standardizer",
        "Statistic",
    ),
    "fastnn.sequential": ("Sequential",),
    "fastnn.optimizers": ("SGD", "Adagrad", "Adam", "AdamW", "Lion", "Momentum", "NAdam", "RMSprop"),
    "fastnn.inspection.learning_rate_range": ("find_learning_rate",),
    "fastnn.inspection.receptive_fields": ("most_activating", "receptive_field"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_MODULES, *_HOME])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastnn.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fastnn' has no attribute {name!r}{_pointer(name)}", name=name)


def _pointer(name: str) -> str:
    """Where a name lies that is not here, or the nearest one, for the end of a message.

    Without a search for names that begin with an underscore, which tools ask for all the time, and for modules that are not
    loaded yet: Python asks for them here before it loads them. Modules that need an extra are not searched.
    """
    if name.startswith("_") or not name.isidentifier() or importlib.util.find_spec(f"fastnn.{name}"):
        return ""
    from fastnn.errors import best_match

    places = {public: [f"fastnn.{public}"] for public in __all__}
    for module in sorted({*_MODULES} - {*_OPTIONAL}):
        home = importlib.import_module(f"fastnn.{module}")
        for attribute, value in vars(home).items():
            defined_here = hasattr(value, "__qualname__") and (
                attribute in getattr(home, "__all__", ()) or str(value.__module__).startswith(f"fastnn.{module}")
            )
            if defined_here and not attribute.startswith("_") and attribute not in __all__:
                places.setdefault(attribute, []).append(f"fastnn.{module}.{attribute}")
    if name in places:
        return f"; it is {' or '.join(places[name])}"
    match, behind = best_match(name, places) or ("", "")
    return f"; did you mean {places[match][0]}{behind}?" if match else ""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
