"""Many models of one shape trained at the same time on the same mini-batches: "caviar", where one watched model is "panda".

Small models go side by side through one program (`vectorized`); others are spread over the cores, where some at a time share
their mini-batches (`interleaved`). Both leave each model with the bits that `fit` gives it alone.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from fastnn import engines, ops, random
from fastnn.callbacks import Callback
from fastnn.data import inputs
from fastnn.data.orders import as_order
from fastnn.errors import DivergenceError, InputError, NotReadyError, warn
from fastnn.losses import Loss, LossLike, as_loss
from fastnn.metrics import as_metrics
from fastnn.network.layout import as_loss_network
from fastnn.network.model import Before
from fastnn.optimizers import Optimizer
from fastnn.schedules import Schedule
from fastnn.sequential import Sequential
from fastnn.training.fit import fit
from fastnn.training.history import History
from fastnn.training.options import ALL, AUTO, FitOptions, as_optimizer, check_options
from fastnn.training.trainer import Trainer
from fastnn.tuning.together.interleaved import Interleaved
from fastnn.tuning.together.members import RESERVED, Member, MemberHistory, as_members
from fastnn.tuning.together.vectorized import train_vectorized

VECTORIZED_PARAMETERS = 300
"""Models of up to so many parameters are trained side by side: a lane a model wins where layers do not fill the registers
(measured with 32 models on two cores: 8-20-3 takes 0.7 to 0.8 of the time that it takes on threads, 10-24-3 1.2 to 1.4)."""

INTERLEAVED = 16
"""Models whose steps one program makes, at most."""
INTERLEAVED_BYTES = 2_500_000
"""What their parameters and the optimizer's state may take together, to stay in a cache from mini-batch to mini-batch.
Measured with 784-H-10: 16 models of 100 KB take 0.65 to 0.8 of the time that they take one by one, 4 of 600 KB 0.85 to 0.9,
4 of 1.6 MB 1.1 to 1.2."""

FEWEST = 4
"""Fewer models than these leave most of a register empty."""


def train_together(
    models: Sequence[Sequential] | tuple[Callable[..., Sequential], Sequence[Mapping[str, Any]]],
    X: Any,
    y: Any,
    *,
    learning_rate: float | Sequence[float] | None = None,
    l2: float | Sequence[float] = 0.0,
    l1: float | Sequence[float] = 0.0,
    loss: LossLike = "softmax_cross_entropy",
    optimizer: str | Optimizer | None = None,
    batch_size: int | str = 128,
    epochs: int = 5,
    validation_data: tuple[Any, ...] | None = None,
    metrics: Sequence[Any] = (),
    order: Callable[[int], Any] | None = None,
    device: str = "auto",
    threads: int | None = None,
    method: str = "auto",
) -> tuple[list[Sequential], list[MemberHistory]]:
    """Train G models of the same layers on the same mini-batches; returns them and a history of each.

    `models`: G models, or a function and G settings: `function(**setting)` makes a model, and what a setting says of
    `learning_rate`, `l2` and `l1` is not given to it but used here. `learning_rate`, `l2`, `l1`: a number for all, or one a
    model; without a learning rate that of the optimizer, which may be a schedule.

    Every epoch visits the examples as `order(epoch)` says, which is called once an epoch, by default in the order of a shuffle
    with the seed of the first model. On the CPU each model ends with the bits that `fit` gives it alone with this order,
    optimizer, l2 and l1, and so does its history. A model that diverges stays at its last finite step and leaves the others as
    they would be without it.

    `method`: "vectorized" trains all models in one program, "threads" spreads them over the cores; "auto" vectorizes where
    there are at least `FEWEST` models of `VECTORIZED_PARAMETERS` parameters at most, not trained before, of Dense,
    Activation and Flatten layers without a softmax inside, and without clip_norm. `threads`: cores used, by default all.

    X, y, `loss`, `optimizer`, `batch_size`, `epochs`, `validation_data`, `metrics`, `device`: as for `Sequential.fit`. Raises
    InputError where the models differ in more than seeds and numbers; an error leaves all of them as they were.
    """
    members = as_members(models, learning_rate, l2, l1)
    common, chosen = as_optimizer(optimizer), as_loss(loss)
    settings = FitOptions(
        loss=chosen, optimizer=common, batch_size=batch_size, epochs=epochs, validation_data=validation_data, device=device,
        metrics=metrics, order=order, threads=threads, verbose=0,
    )  # fmt: skip
    check_options(settings)
    as_metrics(metrics, validation_data is not None)
    if batch_size == AUTO:
        raise InputError(f'batch_size: expected a number or "{ALL}" for models that are trained together, got "{AUTO}"')
    if method not in ("auto", "vectorized", "threads"):
        raise InputError(f'method: expected "auto", "vectorized" or "threads", got {method!r}')
    if isinstance(common.learning_rate, Schedule) and any(member.learning_rate is not None for member in members):
        raise InputError("learning_rate: the optimizer has a schedule; give it a number, or leave learning_rate out")
    if any(member.model.is_reserved for member in members):
        raise NotReadyError(RESERVED)
    known = [Before(member.model) for member in members]
    try:
        rows = inputs.read(X, None, "X", members[0].model.column_names)
        n, *features = rows.array.shape
        if batch_size != ALL and int(batch_size) > n > 0:
            warn(f"batch_size {batch_size} is more than the {n} examples; {n} is used")
            settings = replace(settings, batch_size=n)
        visit = _shuffle(members[0].model, n) if order is None else _Orders(order, n)
        members[0].model.build(features)
        side_by_side = _side_by_side(members, method, common, chosen)
        for member in members:
            if side_by_side or member.model.built:  # those that are new are built by their threads
                member.model.build(features).network.trained()  # refuses other inputs, and a model that is frozen as a whole
            member.model.feature_names = member.model.feature_names or rows.names
        if side_by_side:
            histories = train_vectorized(members, X, y, settings, common, chosen, visit)
        else:
            histories = _on_threads(members, X, y, settings, common, visit)
    except BaseException:
        for before in known:
            with contextlib.suppress(NotReadyError), before.model.reserve():  # another call of fit may have it now
                before.put_back()
        raise
    return [member.model for member in members], histories


def _side_by_side(members: Sequence[Member], method: str, optimizer: Optimizer, loss: Loss) -> bool:
    """Whether all models are trained in one program. Raises InputError where that was asked for and cannot be."""
    obstacle = _obstacle(members, optimizer, loss)
    if method == "vectorized" and obstacle:
        raise InputError(f'method="vectorized" is not possible: {obstacle}; take "threads"')
    small = members[0].model.parameter_count <= VECTORIZED_PARAMETERS and len(members) >= FEWEST
    return method == "vectorized" or (method == "auto" and small and not obstacle)


def _shuffle(model: Sequential, n: int) -> Callable[[int], np.ndarray]:
    """The library's order of an epoch, by the seed of a model."""
    key = random.key(model.seed, random.SHUFFLE)
    return functools.lru_cache(maxsize=8)(lambda epoch: ops.shuffle(n, key, epoch))


class _Orders:
    """The order of an epoch that a user's function gives: it is called once an epoch, one after another, whoever asks first, so
    that one with a state of its own gives all models the same."""

    def __init__(self, function: Callable[[int], Any], n: int) -> None:
        self.function, self.n = function, n
        self.known: list[np.ndarray] = []
        self.lock = threading.Lock()

    def __call__(self, epoch: int) -> np.ndarray:
        with self.lock:
            while len(self.known) <= epoch:
                order = as_order(self.function(len(self.known)), self.n)
                self.known.append(order.astype(np.min_scalar_type(self.n)))  # a copy: the function may fill one array again
            return self.known[epoch].astype(np.int64)


def _obstacle(members: Sequence[Member], optimizer: Optimizer, loss: Loss) -> str:
    """Why these models cannot be vectorized; nothing if they can."""
    network = as_loss_network(members[0].model.network, loss)
    for layer in network.layers[network.input_map.offset is not None :]:
        if not layer.vectorizes:
            return f"there is a {type(layer).__name__} layer"
        if layer.final_activation in ("softmax", "log_softmax"):
            return f"{layer.final_activation} is not the last layer of a network for softmax_cross_entropy"
    if not loss.built_in:
        return "the loss is not one of the library's"
    if not network.parameters:
        return "there is nothing to train"
    if optimizer.clip_norm:
        return "clip_norm takes the norm of one model"
    if any(member.model.counters.step for member in members):
        return "a model was trained before"
    if any(member.model.task is not None for member in members):
        return "a model knows its task"
    if any(member.learning_rate is not None and not network.dtype.type(member.learning_rate) for member in members):
        return "a learning rate is 0, with which the optimizer's state continues"
    return ""


# --- one a core ---------------------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """Ends a run where another one has failed."""


class _Watch(Callback):
    """Keeps the history of a run, whose errors leave it behind; `going_on` raises where all are to stop."""

    def __init__(self, going_on: Callable[[], None]) -> None:
        self.history, self.going_on = History(), going_on

    def begin(self, run: Any) -> None:
        self.history = run.history

    def chunk_end(self, run: Any, losses: np.ndarray) -> None:
        self.going_on()


def _on_threads(
    members: Sequence[Member], X: Any, y: Any, settings: FitOptions, optimizer: Optimizer, visit: Callable[[int], Any]
) -> list[MemberHistory]:
    """Train the models on as many threads as there are cores: new ones interleaved, others one by one by `fit`, as on a GPU."""
    on_host = engines.choose(settings.device)[0].is_host
    workers = min(len(members), settings.threads or engines.cores()) if on_host else 1
    size = _most_interleaved(members, optimizer, workers) if on_host else 1
    stop = threading.Event()

    def going_on() -> None:
        if stop.is_set():
            raise _Stopped

    def settings_of(member: Member) -> FitOptions:
        adjusted = member.optimizer(optimizer)
        return replace(
            settings, optimizer=adjusted, l2=member.l2, l1=member.l1, order=visit, threads=1 if on_host else None, verbose=0
        )

    def train(some: Sequence[Member]) -> list[MemberHistory]:
        if len(some) == 1:
            return [_alone(some[0], X, y, settings_of(some[0]), going_on)]
        with contextlib.ExitStack() as open_:
            runs: list[Trainer] = []
            for member in some:
                open_.enter_context(member.model.reserve(RESERVED))
                runs.append(Trainer(member.model, X, y, settings_of(member), runs[0] if runs else None))
            trained = Interleaved(runs, going_on)
            trained.train()
        return [_history(run.history, trained.diverged.get(run, "")) for run in runs]

    with ThreadPoolExecutor(workers, "fastnn-together") as pool:
        futures = [pool.submit(train, members[start : start + size]) for start in range(0, len(members), size)]
        try:
            return [history for future in futures for history in future.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop.set()
            raise


def _most_interleaved(members: Sequence[Member], optimizer: Optimizer, workers: int) -> int:
    """How many models a core trains at a time, about as many each time: those that were never trained are at the same step."""
    models = [member.model for member in members]
    if any(model.task is not None or model.state.optimizer is not None or model.counters.step for model in models):
        return 1
    network, each = models[0].network, -(-len(models) // workers)
    model_bytes = max(1, network.size) * network.dtype.itemsize * (1 + len(optimizer.slots))
    return -(-each // -(-each // min(INTERLEAVED, max(1, INTERLEAVED_BYTES // model_bytes))))


def _alone(member: Member, X: Any, y: Any, settings: FitOptions, going_on: Callable[[], None]) -> MemberHistory:
    """Train a model by `fit`."""
    watch, diverged = _Watch(going_on), ""
    try:
        fit(member.model, X, y, replace(settings, callbacks=[watch]))
    except DivergenceError as error:
        diverged = str(error)
    return _history(watch.history, diverged)


def _history(history: History, diverged: str) -> MemberHistory:
    member_history = MemberHistory(history)
    vars(member_history).update(vars(history), diverged=diverged, method="threads")
    return member_history
