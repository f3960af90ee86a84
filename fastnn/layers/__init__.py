"""The layers: forward mathematics only."""

from fastnn.layers.activation import Activation
from fastnn.layers.base import Layer, Parameter, Statistic
from fastnn.layers.batch_norm import BatchNorm
from fastnn.layers.dense import Dense
from fastnn.layers.dropout import Dropout
from fastnn.layers.flatten import Flatten

BUILT_IN: dict[str, type[Layer]] = {
    layer.__name__: layer for layer in (Activation, BatchNorm, Dense, Dropout, Flatten)
}  # fmt: skip
"""The layers that a saved model may name."""

__all__ = ["BUILT_IN", "Activation", "BatchNorm", "Dense", "Dropout", "Flatten", "Layer", "Parameter", "Statistic"]
