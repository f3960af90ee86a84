"""The layers: forward mathematics only."""

from __future__ import annotations

from collections.abc import Sequence

from fastnn.layers.activation import Activation
from fastnn.layers.augment import Augment
from fastnn.layers.base import Layer, Parameter, Statistic
from fastnn.layers.batch_norm import BatchNorm
from fastnn.layers.conv2d import Conv2D
from fastnn.layers.dense import Dense
from fastnn.layers.dropout import Dropout
from fastnn.layers.flatten import Flatten
from fastnn.layers.layer_norm import LayerNorm
from fastnn.layers.pooling import GlobalMeanPool2D, L2Pool2D, MaxPool2D, MeanPool2D
from fastnn.layers.standardizer import Standardizer

BUILT_IN: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Activation, Augment, BatchNorm, Conv2D, Dense, Dropout, Flatten, GlobalMeanPool2D, L2Pool2D, LayerNorm, MaxPool2D,
        MeanPool2D, Standardizer,
    )
}  # fmt: skip
"""The layers that a saved model may name."""


def final_activation(layers: Sequence[Layer]) -> str | None:
    """The activation of the last layer, whichever way it was written."""
    return layers[-1].final_activation if layers else None


__all__ = [
    "BUILT_IN",
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
]
