"""Prediction: the outputs of a network for rows of X, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import arrays, engines
from fastnn.data import inputs
from fastnn.errors import InputError
from fastnn.network.layout import Network
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


def outputs_of(model: ModelState, network: Network, X: Any, threads: int | None) -> Any:
    """The outputs of a network of the model for rows of X: an array of the host, or of the GPU that X lies on."""
    with model.guard_device():
        data = inputs.read(X, network.features, "X", model.column_names)
        engine = engine_for(model, data.array)
        try:
            if not arrays.on_host(data.array):
                inputs.check_spacing(data.array, network.input_map, "X")
            return engine.export(outputs_on(model, network, data.array, threads, engine))
        except InputError:
            if arrays.on_host(
                data.array
            ):  # blocks are checked as they are read: report problems of the whole array, as fit does
                inputs.check_finite(data.array, "X", model.dtype, data.names)
            raise


def outputs_on(model: ModelState, network: Network, X: Any, threads: int | None, engine: engines.Engine) -> Any:
    """The same for checked inputs, as an array of the engine or of the host, block by block."""
    outputs = engine.outputs(X, (len(X), *model.layout.outputs), model.dtype)
    if len(X):
        rows = engine.rows_for(len(X))
        recipe = Prediction()
        key = InstanceKey.of(recipe, network, engine, rows, threads)
        with model.instances.take(key, lambda: engine.passage(recipe.build(network), rows, threads)) as passage:
            state = model.state.on(engine)
            passage.instance.bind(parameters=state["parameters"], statistics=state["statistics"])
            passage(X, outputs, network.input_map)
    return outputs
