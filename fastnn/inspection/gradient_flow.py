"""Signals through the layers: how large activations, gradients, parameters and updates are, layer by layer.

A gradient that shrinks or grows by a factor at each layer vanishes or explodes in a deep network. Source: Nielsen, Neural
Networks and Deep Learning, chapter 5; Glorot & Bengio 2010, section 4; Andrew Ng, Improving Deep Neural Networks, week 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastnn import arrays
from fastnn.callbacks import Callback
from fastnn.configurations import as_count, as_number
from fastnn.data import inputs
from fastnn.engines import InputMap
from fastnn.errors import InputError, NotReadyError, warn
from fastnn.network.inference import engine_for
from fastnn.network.programs import PARAMETER_QUANTITIES, ActivationMoments, GradientMagnitudes
from fastnn.network.summary import shorten
from fastnn.notebooks import Printed

if TYPE_CHECKING:
    from fastnn.callbacks import RunState
    from fastnn.engines import Engine
    from fastnn.sequential import Sequential
    from fastnn.training.trainer import Trainer

EXAMPLES = 256
SMALL = 5e8
"""Examples times parameters below which one thread computes a record. Played once in a while, its many short calls wait for
threads that slept: 1.6 ms on one thread and 2 to 24 on two for 784-128-10, on two cores that others used too."""
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Multiples of it, modulo 1, lie more evenly than those of any other number: Knuth, The Art of Computer Programming, 6.4."""

QUANTITIES = ("activations", "gradients", *PARAMETER_QUANTITIES)
CURES = {
    "vanish": "try relu with He's initial weights, batch norm, or fewer layers",
    "explode": "try smaller initial weights (He's, Glorot's), batch norm, or clip_norm",
}


class GradientFlow(Callback, Printed):
    """Record how large the signals of each layer are while a model is trained.

        flow = fastnn.GradientFlow()
        model.fit(X, y, callbacks=[flow])
        print(flow)

    A record is made before the first step, and after each epoch or each `every` steps. It is computed on the device, by one
    forward and backward pass of the training cost (batch statistics, dropout of the step that comes next) over `examples`
    examples from everywhere in the data (of iterables: in the first mini-batch), the same in every record and on every device;
    it takes about as long as two steps and changes no bit of the training. There are R records of L layers, float64:

    - `steps` (R,): steps of the run that were made before it; `layers` (L,): what they are called;
    - `activations` (R, L): the root mean square of its outputs, before a last softmax or sigmoid that the loss contains;
    - `gradients` (R, L): that of dC/da, C being the mean loss without penalties and a those outputs;
    - `parameter_gradients` (R, L): that of dC/dw over all parameters w of the layer, NaN for a layer that has none;
    - `parameters` (R, L): that of w;
    - `updates` (R, L): that of what w changed by since the record before, divided by the steps between; NaN at first.

    A warning is given once a run where gradients vanish or explode: where dC/da of the first layer with parameters is less than
    `vanishing`, or more than `exploding`, times that of the last one. Checkpoints of the run hold the records, and the
    parameters at the last of them.
    """

    def __init__(
        self,
        every: int | None = None,
        *,
        examples: int = EXAMPLES,
        vanishing: float = 1e-3,
        exploding: float = 1e3,
    ) -> None:
        if not 0.0 <= as_number(vanishing) < as_number(exploding):
            raise InputError(f"expected 0 <= vanishing < exploding, got {vanishing!r} and {exploding!r}")
        self.every = None if every is None else as_count("every", every)
        self.examples, self.vanishing, self.exploding = as_count("examples", examples), float(vanishing), float(exploding)
        self._probe: _Probe | None = None
        self._restored = False
        self._start()

    def _start(self) -> None:
        self.layers: tuple[str, ...] = ()
        self._steps: list[int] = []
        self._records: list[np.ndarray] = []
        self._before: np.ndarray | None = None
        self._warned: set[str] = set()

    # --- what was found -----------------------------------------------------------------------------------------

    @property
    def steps(self) -> np.ndarray:
        return np.array(self._steps, np.int64)

    @property
    def activations(self) -> np.ndarray:
        return self._column("activations")

    @property
    def gradients(self) -> np.ndarray:
        return self._column("gradients")

    @property
    def parameter_gradients(self) -> np.ndarray:
        return self._column("parameter_gradients")

    @property
    def parameters(self) -> np.ndarray:
        return self._column("parameters")

    @property
    def updates(self) -> np.ndarray:
        return self._column("updates")

    def _column(self, quantity: str) -> np.ndarray:
        index = QUANTITIES.index(quantity)
        return np.array([record[index] for record in self._records]).reshape(len(self._records), len(self.layers))

    def table(self, record: int = -1) -> str:
        """One record, by default the last one, a line a layer of at most 80 columns; NotReadyError before the first."""
        if not self._records:
            raise NotReadyError("nothing was recorded yet; give this callback to fit(callbacks=[...])")
        if not -len(self._records) <= record < len(self._records):
            raise InputError(f"record: expected less than {len(self._records)}, as many as were made, got {record}")
        rows = [f"root mean squares after step {self._steps[record]}"]
        rows.append(f"{'layer':<30}" + "".join(f"{head:>10}" for head in ("a", "dC/da", "dC/dw", "w", "update")))
        for index, name in enumerate(self.layers):
            values = "".join(f"{'-' if math.isnan(v) else format(v, '.3g'):>10}" for v in self._records[record][:, index])
            rows.append(f"{shorten(name, 29):<30}{values}")
        return "\n".join(rows)

    def __str__(self) -> str:
        return self.table() if self._records else "GradientFlow: nothing was recorded yet"

    # --- while a model is trained -------------------------------------------------------------------------------

    def begin(self, run: RunState) -> None:
        if not self._restored:
            self._start()
        self.layers = tuple(f"{index} {layer!r}" for index, layer in enumerate(run.model.layers))
        self._probe = _Probe(cast("Trainer", run), self.examples, self._before)
        if not self._restored:
            self._record(run)
        self._restored = False

    def step_end(self, run: RunState) -> None:
        self._record(run)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        if self.every is None:
            self._record(run)

    def end(self, run: RunState, error: BaseException | None) -> None:
        if self._probe is not None and not isinstance(error, RuntimeError):  # which a GPU that is lost raises
            self._before = self._probe.before()
        self._probe = None

    def state(self) -> dict[str, Any]:
        before = self._before if self._probe is None else self._probe.before()
        kept = {"steps": self._steps, "warned": sorted(self._warned), "records": np.array(self._records)}
        return kept if before is None else {**kept, "before": before}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._start()
        self._steps = [int(step) for step in state["steps"]]
        self._records = list(np.asarray(state["records"], np.float64))
        self._warned = set(state["warned"])
        self._before = state.get("before")
        self._restored = True

    def _record(self, run: RunState) -> None:
        assert self._probe is not None
        record = self._probe.measure(run, run.step - self._steps[-1] if self._steps else 0)
        self._steps.append(run.step)
        self._records.append(record)
        self._warn(record)

    def _warn(self, record: np.ndarray) -> None:
        """Say once where gradients vanish or explode."""
        trained = np.flatnonzero(~np.isnan(record[QUANTITIES.index("parameters")]))
        if len(trained) < 2:
            return
        first, last = record[QUANTITIES.index("gradients")][trained[[0, -1]]]
        for kind, odd in (("vanish", first < self.vanishing * last), ("explode", first > self.exploding * last)):
            if odd and kind not in self._warned:
                self._warned.add(kind)
                warn(
                    f"gradients {kind}: after step {self._steps[-1]}, dC/da of layer {self.layers[trained[0]]} is {first:.2g}, "
                    f"and of layer {self.layers[trained[-1]]} {last:.2g}; {CURES[kind]}"
                )


class _Probe:
    """The program of a record with its buffers, on the engine of a run."""

    def __init__(self, run: Trainer, examples: int, before: np.ndarray | None) -> None:
        model, engine, data = run.model, run.engine, run.examples
        rows = min(examples, len(data.X))
        recipe = GradientMagnitudes(run.loss, data.layout, len(model.layers))
        self.columns = recipe.columns(run.network)
        self.engine, self.network = engine, run.network
        small = rows * run.network.size < SMALL
        self.instance = engine.instantiate(recipe.build(run.network), rows, 1 if small else run.threads)
        x = engine.zeros((rows, *run.network.features), model.dtype)
        chosen = spread(len(data.X), rows)
        _gather(engine, data.X, chosen, x, run.network.input_map)
        log = engine.zeros((1, max(1, len(self.columns))), model.dtype, mirrored=True)
        bound = {"x": x, "t": engine.to_device(np.ascontiguousarray(data.y[chosen])), "log": log}
        if data.weights is not None:
            bound["w"] = engine.to_device(np.ascontiguousarray(data.weights[chosen]))
        state = model.state.on(engine)
        self.statistics = engine.zeros(state["statistics"].shape, model.dtype)
        self.parameters = engine.zeros(state["parameters"].shape, model.dtype)
        if before is None:
            engine.copy(self.parameters, state["parameters"])
        else:
            engine.write(self.parameters, before)
        self.step = engine.zeros((), np.int64, mirrored=True)
        index = engine.zeros((), np.int64)
        self.instance.bind(**bound, statistics=self.statistics, before=self.parameters, step=self.step, index=index)

    def measure(self, run: RunState, steps: int) -> np.ndarray:
        """A record, (quantities, layers), `steps` steps after the one before."""
        engine, state = self.engine, run.model.state.on(self.engine)
        engine.copy(self.statistics, state["statistics"])  # batch norm moves these
        engine.write(self.step, run.model.counters.step)
        self.instance.bind(parameters=state["parameters"])
        self.instance.play()
        values = engine.read(self.instance.bound["log"])[0][0].astype(np.float64)
        engine.copy(self.parameters, state["parameters"])
        magnitudes = dict(zip(self.columns, values, strict=True))
        record = np.full((len(QUANTITIES), len(run.model.layers)), np.nan)
        for index in range(record.shape[1]):
            for row, quantity in enumerate(("activations", "gradients")):
                record[row, index] = magnitudes[quantity, str(index)]
            places = [place for place in self.network.parameters if place.layer == index]
            if places:
                sizes = np.array([place.size for place in places])
                for row, quantity in enumerate(PARAMETER_QUANTITIES, 2):
                    each = np.array([magnitudes[quantity, place.name] for place in places])
                    record[row, index] = math.sqrt(float(sizes @ each**2) / float(sizes.sum()))
        record[-1] = record[-1] / steps if steps else np.nan
        return record

    def before(self) -> np.ndarray:
        """The parameters at the last record."""
        return np.array(self.engine.read(self.parameters)[0])


def spread(n: int, count: int) -> np.ndarray:
    """The numbers (count,), rising, of `count` <= n rows out of n: one of each of `count` segments that are equally long.

    Where in its segment a row lies is the fractional part of i times the golden ratio, for segment i. At the same place in
    each, labels that recur at equal distances (0, 1, ..., 9, 0, 1, ...) might show one of their values only.
    """
    starts = np.arange(count + 1) * n // count
    shares = np.arange(count) * GOLDEN % 1.0
    return starts[:-1] + (shares * np.diff(starts)).astype(np.int64)


def _gather(engine: Engine, X: Any, chosen: np.ndarray, x: Any, input_map: InputMap) -> None:
    """x = X[chosen], mapped, on the engine; no other row of what lies elsewhere is brought there or made dense."""
    if not arrays.on_host(X):
        visits = (chosen, np.array(0), *input_map.arrays().values())
        operands = (engine.to_device(X), *map(engine.to_device, visits), x)
        engine.compute(input_map.kernel, operands, {"scale": input_map.scale})
        return
    rows = np.empty((len(chosen), *X.shape[1:]), X.dtype)
    inputs.take_rows(X, chosen, rows)
    engine.load_rows(x, rows, 0, len(chosen), input_map)


@dataclass(frozen=True)
class ActivationStatistics(Printed):
    """Of the outputs of each layer, over all examples and units, float64 (L,): their `mean`, their `std` (root of the biased
    variance), their root mean square `rms`, and the share of them that is exactly 0 (`zero_fraction`: units that are off)."""

    layers: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    rms: np.ndarray
    zero_fraction: np.ndarray

    def __str__(self) -> str:
        rows = [f"{'layer':<32}" + "".join(f"{head:>12}" for head in ("mean", "std", "rms", "zeros"))]
        for index, name in enumerate(self.layers):
            numbers = "".join(f"{column[index]:>12.3g}" for column in (self.mean, self.std, self.rms))
            rows.append(f"{shorten(name, 31):<32}{numbers}{self.zero_fraction[index]:>12.1%}")
        return "\n".join(rows)


def activation_statistics(
    model: Sequential, X: Any, *, training: bool = False, threads: int | None = None
) -> ActivationStatistics:
    """How the outputs of each layer are distributed for the inputs X (n, ...), which are worked on as one mini-batch.

    A model that has no parameters yet is looked at as `build` would make it; it is not changed. `training=True` takes the
    statistics of this mini-batch in batch norm, and dropout's units of the next step. Raises InputTypeError for what is no
    model, and what `predict` raises for X.
    """
    from fastnn.sequential import as_model

    model = as_model(model)
    examples = inputs.read(X, model.network.features if model.built else None, "X", model.column_names).array
    if not len(examples):
        raise InputError("X: expected at least one example, got none")
    built = model if model.built else model.clone().build(examples.shape[1:])
    network = built.network
    program = ActivationMoments(training).build(network)
    with built.guard_device():
        engine = engine_for(built, examples)
        instance = engine.instantiate(program, len(examples), threads)
        rows = engine.zeros((len(examples), *network.features), network.dtype)
        engine.load_rows(rows, examples, 0, len(examples), network.input_map)
        state = built.state.on(engine)
        statistics = engine.zeros(state["statistics"].shape, network.dtype)
        engine.copy(statistics, state["statistics"])
        step = engine.to_device(np.array(built.counters.step))
        index, log = engine.zeros((), np.int64), engine.zeros((1, 4 * len(network.layers)), network.dtype)
        instance.bind(x=rows, parameters=state["parameters"], statistics=statistics, step=step, index=index, log=log)
        instance.play()
        moments = np.array(engine.read(log)[0], np.float64).reshape(-1, 4)
    return ActivationStatistics(tuple(f"{index} {layer!r}" for index, layer in enumerate(built.layers)), *moments.T.copy())
