"""Prediction: the outputs of a network for rows of X, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastnn import arrays, engines
from fastnn.data import inputs
from fastnn.errors import InputError
from fastnn.network.layout import Network
from fastnn.network.model import ModelState
from fastnn.network.programs import Decision, InstanceKey, Prediction
from fastnn.program.trace import Program


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
        with model.instances.take(key, lambda: _Prediction(recipe.build(network), rows, engine, threads)) as run:
            run.bind(model.state.on(engine))
            run(X, outputs, network.input_map)
    return outputs


class _Prediction:
    """An instance of the prediction program and its input buffer."""

    def __init__(self, program: Program, rows: int, engine: engines.Engine, threads: int | None) -> None:
        self.engine, self.rows = engine, rows
        self.instance = engine.instantiate(program, rows, threads)
        symbol = program.inputs["x"]
        self.x = engine.zeros((rows, *(int(d) for d in symbol.shape[1:])), symbol.dtype)  # type: ignore[arg-type]
        self.instance.bind(x=self.x)

    def bind(self, state: Mapping[str, Any]) -> None:
        self.instance.bind(parameters=state["parameters"], statistics=state["statistics"])

    def __call__(self, X: Any, outputs: Any, input_map: engines.InputMap) -> None:
        count = min(self.rows, len(X))
        for start in range(0, len(X), count):
            start = min(start, len(X) - count)  # the last block overlaps the one before: rows do not depend on each other
            self.engine.load_rows(self.x, X, start, count, input_map)
            self.instance.play()
            self.engine.store_rows(outputs, self.instance.output("outputs"), start, count)
