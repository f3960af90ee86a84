"""What a model consists of: layers, shapes, parameters, memory and work, as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnn.network import layout
from fastnn.network.programs import Prediction
from fastnn.notebooks import Printed
from fastnn.optimizers import Adam
from fastnn.program.shapes import B
from fastnn.program.trace import Symbol, Trace
from fastnn_kernels.contract import KERNELS

if TYPE_CHECKING:
    from fastnn.network.model import ModelState


@dataclass(frozen=True)
class LayerSummary:
    """One layer: `outputs` is the shape of one example's, `trained` counts the numbers that training changes by their
    gradients, `fixed` all others that the layer holds: parameters that are frozen, and running statistics."""

    name: str
    outputs: tuple[int, ...]
    trained: int
    fixed: int


@dataclass(frozen=True)
class Summary(Printed):
    """A model in numbers; bytes count parameters and statistics, in training their gradients and the optimizer's state too."""

    features: tuple[int, ...]
    layers: tuple[LayerSummary, ...]
    dtype: str
    optimizer: str
    model_bytes: int
    training_bytes: int
    operations: int
    """Floating-point operations of one example's prediction, a fused multiply-add counted as two."""

    @property
    def trained(self) -> int:
        """Numbers that training changes by their gradients."""
        return sum(layer.trained for layer in self.layers)

    @property
    def fixed(self) -> int:
        """All other numbers that the layers hold."""
        return sum(layer.fixed for layer in self.layers)

    def __str__(self) -> str:
        rule = "-" * 80
        rows = [f"{'layer':<38}{'outputs':>16}{'trained':>14}{'fixed':>12}", rule, f"{'inputs':<38}{_shape(self.features):>16}"]
        for index, layer in enumerate(self.layers):
            name = shorten(f"{index} {layer.name}", 37)
            rows.append(f"{name:<38}{_shape(layer.outputs):>16}{layer.trained:>14,}{layer.fixed:>12,}")
        rows += [rule, f"{'all layers':<54}{self.trained:>14,}{self.fixed:>12,}"]
        rows.append(f"memory: {_bytes(self.model_bytes)} in {self.dtype}, {_bytes(self.training_bytes)} with {self.optimizer}")
        rows.append(f"work: {self.operations:,} floating-point operations an example")
        return "\n".join(rows)


def summarize(model: ModelState) -> Summary:
    """The summary of a model that has parameters; see `Sequential.summary`."""
    network = model.network
    trace = Trace(network.dtype)
    each: list[Symbol] = []
    layout.forward(trace, network, trace.input("x", (B, *network.features)), False, None, each)
    layers = []
    for index, (layer, outputs) in enumerate(zip(model.layers, each, strict=True)):
        parameters, fixed = (sum(p.size for p in of if p.layer == index) for of in (network.parameters, network.statistics))
        trained = parameters if layer.trainable else 0
        shape = tuple(d for d in outputs.shape[1:] if isinstance(d, int))
        layers.append(LayerSummary(repr(layer), shape, trained, fixed + parameters - trained))
    calls = [call for call in Prediction().build(network).calls if not call.is_view]
    work = sum(KERNELS[c.kernel].operations([symbol.operand(1) for symbol in c.operands], c.attributes) for c in calls)
    optimizer = model.optimizer or Adam()
    size, each_bytes = network.size, network.dtype.itemsize
    model_bytes = (size + network.statistics_size) * each_bytes
    training_bytes = model_bytes + size * (1 + len(optimizer.slots)) * each_bytes
    name = type(optimizer).__name__
    return Summary(network.features, tuple(layers), network.dtype.name, name, model_bytes, training_bytes, work)


def shorten(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _bytes(count: int) -> str:
    """`1.2 MB`, decimal."""
    unit = min(4, int(math.log10(max(count, 1)) // 3))
    return f"{count} B" if unit == 0 else f"{count / 1000**unit:.3g} {' kMGT'[unit]}B"
