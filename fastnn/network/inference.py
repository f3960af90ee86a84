"""Prediction: the outputs of a network for rows of X, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import arrays, engines
from fastnn.data import inputs
from fastnn.engines.base import Passage
from fastnn.engines.host import CPU
from fastnn.errors import InputError
from fastnn.losses import apply_link
from fastnn.network.layout import Layout, Network
from fastnn.network.model import ModelState
from fastnn.network.programs import Decision, InstanceKey, Prediction


def answers(outputs: Any, kind: str, link: str | None) -> Any:
    """What outputs (n, O), as a loss takes them, say: class indices (n,), 0/1 (n,) of "binary", 0/1 (n, O) of "multilabel".

    `kind`: of the task; `link`: of the loss.
    """
    if kind == "classes":
        return outputs.argmax(axis=1)
    decision = Decision.of(kind, link)
    assert decision is not None
    decided = (outputs > decision.threshold).astype(np.int64)
    return decided if decision.multilabel else decided[:, 0]


def engine_for(model: ModelState, X: Any) -> engines.Engine:
    """Where X is worked on: on the GPU that it lies on, else on the model's device."""
    return engines.by_name(model.device) if arrays.on_host(X) else engines.of(X)


class Predictor:
    """What takes rows of X through a network of a model, and `link` (see `outputs_of`), on an engine, `rows` at a time."""

    def __init__(
        self, layout: Layout, network: Network, link: str | None, engine: engines.Engine, rows: int, threads: int | None
    ) -> None:
        self.layout, self.network, self.engine, self.rows, self.threads = layout, network, engine, rows, threads
        self.recipe = Prediction(link)
        self.key = InstanceKey.of(self.recipe, network, engine, rows, threads)

    def __call__(self, model: ModelState, X: Any, outputs: Any) -> None:
        """outputs[i] = what the network makes of X[i]."""
        with model.instances.take(self.key, self._make) as passage:
            state = model.state.on(self.engine)
            passage.instance.bind(parameters=state["parameters"], statistics=state["statistics"])
            passage(X, outputs, self.network.input_map)

    def _make(self) -> Passage:
        return self.engine.passage(self.recipe.build(self.network), self.rows, self.threads)


def outputs_of(model: ModelState, X: Any, threads: int | None, without: str | None = None, link: str | None = None) -> Any:
    """The outputs of a model for rows of X: an array of the host, or of the GPU that X lies on.

    `without`: a final activation that is left out (`Network.without_activation`). `link`: what is made of the outputs then.
    """
    layout = model.layout
    if model.device == CPU.name and _is_plain(X, layout.network.features):
        outputs: Any = np.empty((len(X), *layout.outputs), model.dtype)
        try:
            _predictor(model, layout, without, link, CPU.rows_for(len(X)), threads)(model, X, outputs)
        except InputError:
            inputs.check_finite(X, "X", model.dtype)
            raise
        return outputs
    network = layout.network.without_activation(without)
    with model.guard_device():
        data = inputs.read(X, network.features, "X", model.column_names)
        engine = engine_for(model, data.array)
        linked = link if engine is CPU else None
        try:
            if not arrays.on_host(data.array):
                inputs.check_spacing(data.array, network.input_map, "X")
            outputs = engine.export(outputs_on(model, network, data.array, threads, engine, linked))
        except InputError:
            if arrays.on_host(
                data.array
            ):  # blocks are checked as they are read: report problems of the whole array, as fit does
                inputs.check_finite(data.array, "X", model.dtype, data.names)
            raise
    return outputs if linked == link else apply_link(link, outputs)


def outputs_on(
    model: ModelState, network: Network, X: Any, threads: int | None, engine: engines.Engine, link: str | None = None
) -> Any:
    """The same of a network of the model for checked inputs, as an array of the engine or of the host, block by block."""
    outputs = engine.outputs(X, (len(X), *model.layout.outputs), model.dtype)
    if len(X):
        Predictor(model.layout, network, link, engine, engine.rows_for(len(X)), threads)(model, X, outputs)
    return outputs


def _is_plain(X: Any, features: tuple[int, ...]) -> bool:
    """Whether X is such an array that `inputs.read` finds nothing to say about it and leaves it as it is."""
    return (
        type(X) is np.ndarray
        and X.shape[1:] == features
        and 0 < X.nbytes < inputs.LARGE_BYTES
        and inputs.is_readable(X)
    )  # fmt: skip


def _predictor(
    model: ModelState, layout: Layout, without: str | None, link: str | None, rows: int, threads: int | None
) -> Predictor:
    """That of the CPU, kept by the model for as long as its layout stays."""
    wanted = without, link, rows, threads
    known = model.predictors.get(wanted)
    if known is None or known.layout is not layout:
        network = layout.network.without_activation(without)
        known = model.predictors[wanted] = Predictor(layout, network, link, CPU, rows, threads)
    return known
