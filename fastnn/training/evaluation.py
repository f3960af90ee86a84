"""Loss and metrics of data that a model is not trained on: validation in a training, and `evaluate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from fastnn import engines
from fastnn.data import targets
from fastnn.data.feeds import Feed, feed
from fastnn.data.orders import batch_runs
from fastnn.data.prepared import PreparedData
from fastnn.layers import final_activation
from fastnn.losses import PROBABILITIES, Loss, apply_link
from fastnn.metrics import METRICS, Metric, check_metrics, compute
from fastnn.network.inference import answers, outputs_on
from fastnn.network.layout import Network, as_loss_network
from fastnn.network.model import ModelState
from fastnn.network.programs import LOG_COLUMNS, LOG_ROWS, Decision, Evaluation, InstanceKey, is_of_all_rows, loss_targets


def measures(decision: Decision | None, metrics: Sequence[Metric] = ()) -> tuple[str, ...]:
    """The names of what `evaluate` finds for a task with this decision, in their order."""
    return (
        "loss",
        *(("accuracy",) if decision is not None else ()),
        *(metric.name for metric in (*_of_values(decision), *metrics)),
    )


def check_measures(network: Network, examples: PreparedData, loss: Loss, metrics: Sequence[Metric]) -> None:
    """Raise InputError for a metric that does not apply to these examples, and for weights that loss or metric do not take."""
    weighted = examples.weights is not None
    if weighted and not loss.built_in:
        Evaluation(loss, examples.layout, Decision.of(examples.kind, loss.link)).build(as_loss_network(network, loss))
    probable = loss.link in PROBABILITIES or final_activation(network.layers) in PROBABILITIES
    check_metrics(metrics, examples.kind, examples.classes, probable, weighted)


def _of_values(decision: Decision | None) -> tuple[Metric, ...]:
    return () if decision is not None else (METRICS["r2"], METRICS["mae"])


def evaluate(
    model: ModelState,
    examples: PreparedData,
    loss: Loss,
    threads: int | None,
    engine: engines.Engine,
    fed: Feed | None = None,
    metrics: Sequence[Metric] = (),
) -> dict[str, float]:
    """Loss, accuracy or r2 and mae, and `metrics`; `fed`: the examples on the engine, if they are there already."""
    values = loss_and_accuracy(model, examples, loss, threads, engine, fed)
    return values | evaluate_metrics(model, examples, loss, threads, engine, metrics)


def evaluate_metrics(
    model: ModelState,
    examples: PreparedData,
    loss: Loss,
    threads: int | None,
    engine: engines.Engine,
    metrics: Sequence[Metric] = (),
) -> dict[str, float]:
    """What `evaluate` finds beside loss and accuracy: r2 and mae of values, and `metrics`."""
    wanted = (*_of_values(Decision.of(examples.kind, loss.link)), *metrics)
    if not wanted:
        return {}
    outputs = _outputs(model, examples, loss, threads, engine)
    return {metric.name: _measure(model, metric, examples, loss, outputs) for metric in wanted}


def loss_and_accuracy(
    model: ModelState, examples: PreparedData, loss: Loss, threads: int | None, engine: engines.Engine, fed: Feed | None = None
) -> dict[str, float]:
    """Loss and, where there are classes, accuracy, by the program of evaluation; `fed` as for `evaluate`.

    A loss that is one number for a mini-batch is that of all examples as one, not a mean over blocks.
    """
    if fed is None:
        rows = min(len(examples.X), engine.block_rows)
        with contextlib.closing(feed(engine, examples, rows, kept=model.instances)) as new_feed:
            return loss_and_accuracy(model, examples, loss, threads, engine, new_feed)
    network = as_loss_network(model.network, loss)
    recipe = Evaluation(loss, examples.layout, Decision.of(examples.kind, loss.link))
    state = model.state.on(engine)
    sums = {"loss": 0.0, "accuracy": 0.0}
    total = 0.0

    def make(rows: int) -> engines.Instance:
        instance = engine.instantiate(recipe.build(network), rows, threads)
        log = engine.zeros((LOG_ROWS, len(LOG_COLUMNS)), model.dtype, mirrored=True)
        instance.bind(control=engine.zeros((8,), np.int64, mirrored=True), log=log)
        return instance

    @contextlib.contextmanager
    def instance_of(rows: int) -> Iterator[engines.Instance]:
        key = InstanceKey.of(recipe, network, engine, rows, threads)
        with model.instances.take(key, lambda: make(rows)) as instance:
            instance.bind(parameters=state["parameters"], statistics=state["statistics"])
            try:
                yield instance
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    engine.wait()  # the program reads what is written for others next
                raise
            finally:
                instance.unbind(*fed.bindings())  # the data may go

    for rows, table in play_blocks(engine, fed, len(examples.X), instance_of):
        column = table[:, LOG_COLUMNS["weight"]]
        weight = column if examples.weights is not None else np.full(len(table), rows, np.float64)
        total += float(weight.sum())
        for name in sums:
            sums[name] += float((table[:, LOG_COLUMNS[name]] * weight).sum())
    result = {"loss": sums["loss"] / total if total else 0.0}
    if is_of_all_rows(loss, model.layout.outputs, model.dtype, examples.layout):
        outputs = _outputs(model, examples, loss, threads, engine)
        result["loss"] = float(loss.function(outputs, loss_targets(outputs, examples.y, loss)))
    if recipe.decision is not None:
        result["accuracy"] = sums["accuracy"] / total if total else 0.0
    return result


def play_blocks(
    engine: engines.Engine, fed: Feed, n: int, instance_of: Callable[[int], AbstractContextManager[engines.Instance]]
) -> Iterator[tuple[int, np.ndarray]]:
    """Play all n examples in blocks; yields how many rows the blocks of a chunk have, and what they wrote down, float64.

    `instance_of(rows)`: a program for blocks of so many rows, with everything bound to it but the examples.
    """
    fed.begin(np.arange(n))
    position = 0
    for rows, count in batch_runs(n, min(n, engine.block_rows)):
        with instance_of(rows) as instance:
            instance.bind(**fed.bindings())
            end = position + rows * count
            while position < end:
                chunk = min((end - position) // rows, LOG_ROWS)
                chunk = min(chunk, fed.most(position, rows) or chunk)
                engine.write(instance.bound["control"], (0, fed.ready(position), 0))
                instance.play(chunk)
                yield rows, engine.read(instance.bound["log"][:chunk])[0].astype(np.float64)
                position += rows * chunk


def _outputs(model: ModelState, examples: PreparedData, loss: Loss, threads: int | None, engine: engines.Engine) -> np.ndarray:
    """What the loss takes, on the host: logits where it has a link, else the outputs of the last layer."""
    outputs = outputs_on(model, as_loss_network(model.network, loss), examples.X, threads, engine)
    if not isinstance(outputs, np.ndarray):
        (outputs,) = engine.read(outputs)
    array: np.ndarray = outputs
    return array


def _measure(model: ModelState, metric: Metric, examples: PreparedData, loss: Loss, outputs: np.ndarray) -> float:
    """One metric of all examples."""
    if metric.takes == "outputs":
        return compute(metric, loss_targets(outputs, examples.y, loss), outputs, examples.weights, examples.classes)
    shares = apply_link(loss.link, outputs)
    task = examples.task(loss)
    if metric.takes == "probabilities":
        return compute(metric, examples.labels(task), shares, examples.weights, task.classes)
    if examples.kind == "values":
        return compute(metric, examples.y, shares, examples.weights)
    predictions = answers(outputs, examples.kind, loss.link)
    return compute(metric, examples.labels(task), targets.decode(task, predictions), examples.weights, task.classes)
