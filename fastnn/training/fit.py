"""What `Sequential.fit`, `partial_fit`, `evaluate` and `program` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastnn import engines
from fastnn.data.prepared import DataLayout, prepare
from fastnn.engines.explain import STEPS, Explanation
from fastnn.errors import InputError, NotReadyError
from fastnn.losses import Loss, LossLike, as_loss, find, smooth_labels
from fastnn.metrics import as_metrics
from fastnn.network.inference import engine_for
from fastnn.network.layout import as_loss_network
from fastnn.network.model import ModelState
from fastnn.network.programs import Decision, TrainingStep, Update, step_storage
from fastnn.optimizers import Optimizer
from fastnn.training.evaluation import check_measures
from fastnn.training.evaluation import evaluate as evaluate_examples
from fastnn.training.history import History
from fastnn.training.one_step import OneStep, is_one_step
from fastnn.training.options import ALL, FitOptions, as_optimizer, check_options
from fastnn.training.start import choose_engine
from fastnn.training.step import StepFunction, StepOptions, continue_with
from fastnn.training.trainer import Trainer


def fit(model: ModelState, X: Any, y: Any, settings: FitOptions) -> History:
    """Train; see `Sequential.fit`.

    An error before the first step leaves the model as it was; a later one leaves it at its last whole step.
    """
    with model.reserve(), model.guard_device():
        if not is_one_step(model, X, y, settings):
            return Trainer(model, X, y, settings).train()
        with model.instances.take("one_step", OneStep) as kept:
            history: History = kept.fit(model, X, y, settings)
            return history


def partial_fit(model: ModelState, X: Any, y: Any, settings: FitOptions) -> dict[str, float]:
    """One step on one mini-batch; see `Sequential.partial_fit`."""
    values = continue_with(model, X, y, settings)
    if values is not None:
        return values
    history = fit(model, X, y, replace(settings, batch_size=ALL, epochs=1, verbose=0, part=True))
    return {name: column[-1] for name, column in history.items()}


def training_step(model: ModelState, settings: FitOptions, normalize_weights: bool, input_gradients: bool) -> StepFunction:
    """A function that makes single steps; see `Sequential.training_step`."""
    for name, value in {"normalize_weights": normalize_weights, "input_gradients": input_gradients}.items():
        if not isinstance(value, bool):
            raise InputError(f"{name}: expected True or False, got {value!r}")
    check_options(settings)
    if isinstance(settings.batch_size, str):
        raise InputError(f"batch_size: expected an integer >= 1, got {settings.batch_size!r}")
    loss = smooth_labels(as_loss(settings.loss), settings.label_smoothing)
    optimizer = as_optimizer(settings.optimizer)
    options = StepOptions(
        loss, optimizer, choose_engine(model, settings.device, settings)[0], None, settings.l2, settings.l1, settings.threads,
        normalize_weights, input_gradients,
    )  # fmt: skip
    return StepFunction(model, options, int(settings.batch_size))


def evaluate(
    model: ModelState,
    X: Any,
    y: Any,
    *,
    loss: LossLike | None = None,
    metrics: Sequence[Any] = (),
    sample_weight: Any = None,
    threads: int | None = None,
) -> dict[str, float]:
    """Loss and metrics of data; see `Sequential.evaluate`."""
    chosen, wanted = _known_loss(model, loss), as_metrics(metrics)
    trained = model.task is not None and model.task.loss == chosen.name
    with model.guard_device():
        examples = prepare(model.expected, X, y, chosen, sample_weight, None, known=model.task if trained else None, part=True)
        check_measures(model.network, examples, chosen, wanted)
        return evaluate_examples(model, examples, chosen, threads, engine_for(model, examples.X), metrics=wanted)


def step_program(
    model: ModelState,
    batch_size: int = 128,
    *,
    loss: LossLike | None = None,
    optimizer: str | Optimizer | None = None,
    l2: float = 0.0,
    l1: float = 0.0,
    device: str | None = None,
    precision: str = "float32",
    autotune: bool = False,
    threads: int | None = None,
    fused: bool = True,
) -> Explanation:
    """The training step of `model` for mini-batches of `batch_size`, as a program that can be printed and timed.

    Examples are random; the rows of the table of learning rates are zeros, so that the parameters stay what they are.
    """
    chosen = _known_loss(model, loss, "softmax_cross_entropy")
    if batch_size < 1:
        raise InputError(f"expected batch_size >= 1, got {batch_size}")
    settings = as_optimizer(optimizer)
    network = as_loss_network(model.network, chosen)
    outputs = model.layout.outputs[0]
    rng = np.random.default_rng(0)
    if chosen.accepts == "classes":
        y, data = rng.integers(0, max(2, outputs), batch_size), DataLayout(model.dtype.name, "int64", ())
    else:
        y = rng.random((batch_size, outputs)).astype(model.dtype)
        data = DataLayout(model.dtype.name, model.dtype.name, (outputs,))
    penalties = network.penalty_table(l2, l1, settings.weight_decay)[1]
    penalized = bool(penalties[:, :2].any())
    engine = engines.choose(device or model.device, precision, autotune)[0]
    decision = Decision.of("classes" if chosen.accepts == "classes" else "values", chosen.link)
    recipe = TrainingStep(chosen, data, decision, Update.of(settings), penalized, fused, engine.precision == "bf16")
    program = recipe.build(network)
    engine.tune(program, batch_size)
    instance = engine.instantiate(program, batch_size, threads)
    arrays = {
        "X": rng.standard_normal((batch_size, *network.features)).astype(model.dtype),
        "y": y,
        "order": np.tile(np.arange(batch_size), STEPS),
        **model.snapshot().on_host().of_network,
        **{name: np.zeros(network.size, model.dtype) for name in settings.slots},
    }  # fmt: skip
    storage = step_storage(network, engine)
    storage.set_penalties(penalties)
    instance.bind(**{name: engine.to_device(array) for name, array in arrays.items()}, **storage)
    return Explanation(instance, f"training step of {model!r}, {chosen.name}, {settings!r}, mini-batch {batch_size}")


def _known_loss(model: ModelState, loss: Any, default: str | None = None) -> Loss:
    if loss is not None:
        return as_loss(loss)
    if model.loss is not None:
        return model.loss
    if model.task is not None:
        known = find(model.task.loss)
        if known is None:
            raise NotReadyError(f"the model was trained with a loss of your own ({model.task.loss}); pass it as loss=")
        return known
    if default is None:
        raise NotReadyError("the model was not trained yet, so that its loss is not known; pass loss=")
    return as_loss(default)
