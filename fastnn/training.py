"""`fit` and `evaluate`: the only loops, and the only places that wait for the device.

A run plays its step program in chunks. Between chunks the host writes the table of learning rates, reads the losses of the
steps and looks for Ctrl-C; chunks end where an epoch ends, and nothing depends on how long they are.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import arrays, engines, ops, random, steps
from fastnn.callbacks import Callback, Progress
from fastnn.configurations import as_number
from fastnn.errors import DeviceError, DivergenceError, FastnnError, InputError, KindError, NotReadyError
from fastnn.examples import Examples, check_inputs, prepare
from fastnn.feeds import Feed, feed
from fastnn.losses import LOSSES, Loss, as_loss
from fastnn.model import LossLike, Sequential, Snapshot, Task, Trained, as_loss_network
from fastnn.optimizers import Adam, Optimizer, by_name
from fastnn.program.explain import STEPS, Explanation
from fastnn.program.plan import plan
from fastnn.program.trace import Call, Program, Trace
from fastnn.schedules import as_schedule
from fastnn_kernels.memory import aligned

LOG_ROWS = 4096
"""Steps whose losses fit into the log: the longest chunk."""

CHUNK_SECONDS = 0.05
"""How long a chunk should take: the pace of the progress bar and of Ctrl-C."""

AUTO = "auto"
"""The `batch_size` that is found by the memory that is free."""

BACKUP_SECONDS = 2.0
"""How often the host fetches the model from a GPU, which may be lost."""

SNAPSHOT_SHARE = 20
"""A chunk takes at least this many times as long as the snapshot before it."""


class History(dict[str, list[float]]):
    """One list a quantity, one value an epoch; and how the run was done."""

    device: str = ""
    reason: str = ""
    precision: str = "float32"
    tuned: bool = False
    batch_size: int = 0
    threads: int = 1
    seed: int = 0


def fit(
    model: Sequential,
    X: Any,
    y: Any,
    *,
    loss: LossLike = "softmax_cross_entropy",
    optimizer: str | Optimizer | None = None,
    batch_size: int | str = 128,
    epochs: int = 5,
    validation_data: tuple[Any, Any] | None = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | str | None = None,
    l2: float = 0.0,
    l1: float = 0.0,
    order: Callable[[int], Any] | None = None,
    callbacks: Sequence[Callback] = (),
    shard_rows: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    tune: bool = False,
    threads: int | None = None,
    verbose: int = 1,
) -> History:
    """Train `model` on X (n, ...) and y; returns the history, one value an epoch.

    `loss`: a name (`fastnn.losses.LOSSES`) or a function of (outputs, targets) in the vocabulary. `optimizer`: a
    configuration or a name; Adam by default. The cost is mean loss + l2/2 sum ||W||^2 + l1 sum |W|, weights only (the course
    notes' lambda/m is `l2` here); clipping acts on the gradient of the mean loss alone.

    y: class indices (n,), one-hot or soft rows (n, C), 0/1 (n,) or (n, O), or values (n,) or (n, O).
    `sample_weight` (n,) and `class_weight` ({class: weight} or "balanced") multiply; the loss is then sum(w l)/sum(w).
    `batch_size`: "auto" takes the largest power of two, or all examples, whose buffers fit into half of the memory that is
    free; which it was is in `history.batch_size`.
    `order(epoch)` returns the indices that an epoch visits, in that order, of any length; without it the library
    shuffles. A smaller last mini-batch is trained on; with batch norm a last one of one row joins the one before.
    `shard_rows`: shuffle shards of so many rows, and the rows of each, instead of all rows: a memory map larger than main
    memory is then read shard by shard.
    `device`: "cpu", "cuda", "cuda:1", ..., or "auto", which takes a GPU where there is one (that of X where X lies on one).
    Data that the GPU has no room for is streamed to it, with the same results. `precision`: of matrix products on a GPU,
    "float32", "tf32" (factors with 10 bits of mantissa, sums in float32) or "bf16" (factors with 7 bits, and what products hand
    to each other is stored so; weights, the optimizer's state, logits and losses stay float32). Evaluation and prediction
    multiply in float32 after "bf16".
    `tune`: time the ways to compute each matrix product of a step on this GPU before training, and take the fastest: cuBLASLt's
    algorithms, or kernels of this library. What is found is kept beside the compiled kernels for later calls with `tune=True`;
    its last bits differ from those of the versioned rule that is followed without. `history.tuned` says whether that was done;
    a CPU has one way only, and `tune` does nothing there.
    `threads` changes no bits; by default it is chosen by the size of the step. `verbose`: 0 nothing, 1 progress.

    history: "loss" (data loss at visit time, weighted by examples), "penalty" beside it where l1 or l2 is used, "accuracy" for
    classes, "val_loss", "val_accuracy" or "val_r2" with `validation_data`.

    Raises InputError, KindError (nothing is changed then), DivergenceError (the model is at its last finite step), and for a
    GPU DeviceMemoryError, DeviceError (at its last whole step) and DeviceLostError (at the step that the host last fetched).
    """
    if not model._training.acquire(blocking=False):
        raise NotReadyError("this model is being trained already by another call of fit")
    try:
        with model._watched():
            network, known, before = model._network, (model.task, model._loss), model.snapshot()
            run = _Run(
                model, X, y, as_loss(loss), _optimizer(optimizer), batch_size, epochs, validation_data,
                sample_weight, class_weight, l2, l1, order, shard_rows, device, precision, tune, threads, callbacks,
            )  # fmt: skip
            return run.train([*callbacks, *([Progress()] if verbose else [])])
    except (KeyboardInterrupt, DivergenceError, DeviceError):
        raise  # the model is at its last whole step
    except FastnnError:
        if network is None:
            model._forget()
        else:
            model.restore(before)
        model.task, model._loss = known
        raise
    finally:
        model._training.release()


def evaluate(
    model: Sequential,
    X: Any,
    y: Any,
    *,
    loss: LossLike | None = None,
    sample_weight: Any = None,
    threads: int | None = None,
) -> dict[str, float]:
    """`{"loss": ..., "accuracy": ...}` for classes, `{"loss": ..., "r2": ...}` for values, in inference mode.

    `loss` is the one the model was trained with unless another is given. r2 is 1 - sum (y - a)^2 / sum (y - mean y)^2,
    averaged over outputs (1 where both are 0, 0 where only the second is), as scikit-learn defines it; NaN for one example.
    """
    chosen = _known_loss(model, loss)
    trained = model.task is not None and model.task.loss == chosen.name
    kind = model.task.kind if trained and model.task is not None else None
    with model._watched():
        examples = prepare(model, X, y, chosen, sample_weight, None, "", kind)
        return _evaluate(model, examples, chosen, threads, model._engine_for(examples.X))


def step_program(
    model: Sequential,
    batch_size: int = 128,
    *,
    loss: LossLike | None = None,
    optimizer: str | Optimizer | None = None,
    l2: float = 0.0,
    l1: float = 0.0,
    device: str | None = None,
    precision: str = "float32",
    tune: bool = False,
    threads: int | None = None,
    fused: bool = True,
) -> Explanation:
    """The training step of `model` for mini-batches of `batch_size`, as a program that can be printed and timed."""
    chosen = _known_loss(model, loss, "softmax_cross_entropy")
    if batch_size < 1:
        raise InputError(f"expected batch_size >= 1, got {batch_size}")
    settings = _optimizer(optimizer)
    network = as_loss_network(model, chosen)
    outputs = model._outputs[0]
    if chosen.accepts == "classes":
        y, data = np.zeros(batch_size, np.int64), steps.Data(model.dtype.name, "int64", ())
    else:
        y = np.zeros((batch_size, outputs), model.dtype)
        data = steps.Data(model.dtype.name, model.dtype.name, (outputs,))
    metric = {"threshold": 0.0, "multilabel": False} if chosen.accepts == "classes" else None
    penalized = l1 > 0 or l2 > 0
    engine = engines.choose(device or model.device, precision, tune)[0]
    program = steps.training(
        network, chosen, data, metric, settings.kernel, settings.attributes(), penalized, fused, engine.precision == "bf16"
    )
    engine.tune(program, batch_size)
    instance = engine.instantiate(program, batch_size, threads)
    given = {
        "X": np.zeros((batch_size, *network.features), model.dtype), "y": y, "order": np.tile(np.arange(batch_size), STEPS),
        "parameters": model._parameters.copy(), "statistics": model._statistics.copy(),
        **{name: np.zeros(network.size, model.dtype) for name in settings.slots},
    }  # fmt: skip
    storage = _step_storage(network, engine)
    engine.write(storage["penalties"], _penalties(network, l2, l1, settings))
    instance.bind(**{name: engine.place(array) for name, array in given.items()}, **storage)
    return Explanation(instance, f"training step of {model!r}, {chosen.name}, {settings!r}, mini-batch {batch_size}")


# --- a run ----------------------------------------------------------------------------------------------------------


class _Run:
    """One call of `fit`: what was checked and prepared before the first step, and the loop."""

    def __init__(
        self,
        model: Sequential,
        X: Any,
        y: Any,
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int | str,
        epochs: int,
        validation_data: tuple[Any, Any] | None,
        sample_weight: Any,
        class_weight: Mapping[int, float] | str | None,
        l2: float,
        l1: float,
        order: Callable[[int], Any] | None,
        shard_rows: int | None,
        device: str,
        precision: str,
        tune: bool,
        threads: int | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.model, self.loss, self.optimizer, self.order = model, loss, optimizer, order
        if device == "auto" and not arrays.on_host(X):
            device = f"cuda:{arrays.ordinal(X)}"
        self.engine, self.reason = engines.choose(device, precision, tune)
        if precision != "float32" and model.dtype != np.float32:
            raise InputError(f"precision={precision!r} is for models of float32, and this one is of {model.dtype}")
        given = {"epochs": epochs} if batch_size == AUTO else {"batch_size": batch_size, "epochs": epochs}
        for name, value in given.items():
            least = int(name == "batch_size")
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                also = f', or "{AUTO}"' if least else ""
                raise InputError(f"{name}: expected a whole number of at least {least}{also}, got {value!r}")
        engines.check_threads(threads)
        if shard_rows is not None and (isinstance(shard_rows, bool) or not isinstance(shard_rows, int) or shard_rows < 1):
            raise InputError(f"shard_rows: expected None or a whole number of at least 1, got {shard_rows!r}")
        self.shard_rows = shard_rows
        for name, penalty in {"l2": l2, "l1": l1}.items():
            if not 0.0 <= as_number(penalty) < math.inf:
                raise InputError(f"{name}: expected a number of at least 0, got {penalty!r}")
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise KindError(f"callbacks: expected fastnn.callbacks.Callback objects, got {type(callback).__name__}")
        model.build(check_inputs(X, model.network.features if model.built else None).shape[1:])
        self.examples = prepare(model, X, y, loss, sample_weight, class_weight)
        self.validation = None
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                raise InputError("validation_data: expected a pair (X, y)")
            self.validation = prepare(model, *validation_data, loss, None, None, "validation ", self.examples.kind)
        n = len(self.examples.X)
        self.epochs, self.tune, self.threads, self.penalized = int(epochs), tune, threads, l1 > 0 or l2 > 0
        self.metric = _metric(loss, self.examples.kind)
        self.network = as_loss_network(model, loss)
        if batch_size == AUTO:
            batch_size = self._largest_batch(n)
        elif int(batch_size) > n:
            warnings.warn(f"batch_size {batch_size} is more than the {n} examples; {n} is used", UserWarning, stacklevel=4)
        self.batch_size = min(int(batch_size), n)
        self.pairs = any(layer.needs_two_rows for layer in model.layers)
        if self.pairs and self.batch_size == 1:
            raise InputError("batch norm cannot be trained with mini-batches of one example; use batch_size >= 2")
        self.settings = (l2, l1)
        self.schedule = as_schedule(optimizer.learning_rate)
        self._chunk = 0
        self._looked = time.perf_counter()
        self._borrowed: dict[int, Any] = {}

    def train(self, callbacks: Sequence[Callback]) -> History:
        model, engine = self.model, self.engine
        per_epoch = _batches(len(self.examples.X), self.batch_size, self.pairs)
        if self.tune:
            for rows in sorted(set(per_epoch)):
                engine.tune(self._program(), rows)
        self._start_state()
        self.feed = feed(engine, self.examples, self.batch_size)
        self.validation_feed = None
        if self.validation is not None:
            self.validation_feed = feed(engine, self.validation, min(len(self.validation.X), engine.block_rows))
        storage = model._cache.take(self._storage_key(), lambda: _step_storage(self.network, engine))
        self.storage: dict[str, Any] = storage.item
        engine.write(self.storage["penalties"], _penalties(self.network, *self.settings, self.optimizer))
        model._state.begin(engine, model._progress)
        model.device, model.trained = engine.name, Trained(engine.name, engine.precision)
        model.task = Task(self.loss.name, self.examples.kind)
        model._loss = self.loss
        history = History()
        history.device, history.reason, history.seed = engine.name, self.reason, model.seed
        history.precision, history.tuned, history.batch_size = engine.precision, engine.tuned > 0, self.batch_size
        total = self.epochs * len(per_epoch)
        try:
            for callback in callbacks:
                callback.begin(model, self.epochs, total)
            self.first_step = model.counters.step
            self.total_steps, self.steps_per_epoch = total, len(per_epoch)
            for epoch in range(self.epochs):
                values = self._epoch(epoch, callbacks)
                for name, value in values.items():
                    history.setdefault(name, []).append(value)
                if self._stops(callbacks, epoch, values):
                    break
        finally:
            for callback in callbacks:
                callback.end(model)
            history.threads = max((i.threads for i in self._borrowed.values()), default=1)
            for rows, instance in self._borrowed.items():
                instance.unbind()  # the data may go
                if self.loss.name in LOSSES:  # what a loss of the user's own closes over may change
                    model._cache.give_back(self._key(rows), instance)
            self._borrowed.clear()
            self.feed.close()
            if self.validation_feed is not None:
                self.validation_feed.close()
            model._cache.give_back(self._storage_key(), self.storage)
        return history

    def _stops(self, callbacks: Sequence[Callback], epoch: int, values: Mapping[str, float]) -> bool:
        answers = [callback.epoch_end(self.model, epoch, values) for callback in callbacks]  # all are asked
        return any(answers)

    def _epoch(self, epoch: int, callbacks: Sequence[Callback]) -> dict[str, float]:
        order = self._visit(epoch)
        self.feed.begin(order)
        sums = dict.fromkeys(steps.LOG_COLUMNS, 0.0)
        weight_total = 0.0
        position = 0
        for rows, count in _runs(_batches(len(order), self.batch_size, self.pairs)):
            instance = self._instance(rows)
            instance.bind(**self.feed.bindings())
            done = 0
            while done < count:
                here = position + done * rows
                chunk = min(self._chunk or instance.first_chunk(CHUNK_SECONDS), count - done, LOG_ROWS)
                log = self._play(instance, min(chunk, self.feed.most(here, rows) or chunk), here, epoch)
                weight = log[:, steps.LOG_COLUMNS["weight"]] if self.examples.weights is not None else np.full(len(log), rows)
                weight_total += float(weight.sum())
                for name in ("loss", "accuracy", "penalty"):
                    share = np.full(len(log), rows) if name == "penalty" else weight
                    sums[name] += float((log[:, steps.LOG_COLUMNS[name]] * share).sum())
                done += len(log)
                for callback in callbacks:
                    callback.chunk_end(self.model, len(log), float(log[-1, 0]))
            position += rows * count
        self.model.counters.epoch += 1
        self.model._state.changed(self.engine, self.model._progress)
        values = {"loss": sums["loss"] / weight_total if weight_total else 0.0}
        if self.metric is not None:
            values["accuracy"] = sums["accuracy"] / weight_total if weight_total else 0.0
        if self.penalized:
            values["penalty"] = sums["penalty"] / len(order) if len(order) else 0.0
        if self.validation is not None:
            found = _evaluate(self.model, self.validation, self.loss, self.threads, self.engine, self.validation_feed)
            values |= {f"val_{name}": value for name, value in found.items()}
        return values

    def _play(self, instance: engines.Instance, count: int, position: int, epoch: int) -> np.ndarray:
        """One chunk of `count` steps from `position` of the order on; returns what the steps wrote down.

        Whatever ends it before its last step is known to be whole (Ctrl-C, a fault of the GPU) undoes all of it, but for a
        divergence, which leaves the model at the last finite step.
        """
        model = self.model
        started = time.perf_counter()
        instance.bind(**model._state.on(self.engine))  # callbacks may have set the weights
        before = model.snapshot()
        copied = time.perf_counter()
        try:
            self._prepare(count, position, epoch)
            instance.play(count)
            log, finite = self._finite(count)
            if not finite:
                self._diverged(instance, before, count, position, epoch)
            self._count(count)
        except DivergenceError:
            raise
        except BaseException:
            self._restore(before)
            raise
        now = time.perf_counter()
        if now - self._looked > BACKUP_SECONDS:
            model._state.read()
            self._looked = now
        seconds = max(now - copied, 1e-7)
        aim = max(CHUNK_SECONDS, SNAPSHOT_SHARE * (copied - started))
        self._chunk = int(min(LOG_ROWS, max(1, min(8 * count, aim * count / seconds))))
        return log

    def _finite(self, count: int) -> tuple[np.ndarray, bool]:
        """What `count` steps wrote down, and whether their losses and the parameters are finite."""
        parameters = self.model._state.on(self.engine)["parameters"]
        spoilt, log = self.engine.read(self.engine.count_nonfinite(parameters), self.storage["log"][:count])
        table = log.astype(np.float64)
        return table, not spoilt.any() and bool(np.isfinite(table[:, 0]).all())

    def _count(self, steps: int) -> None:
        """So many more steps are whole."""
        model = self.model
        assert model._optimizer_state is not None
        model.counters.step += steps
        model._optimizer_state.updates += steps
        model._state.changed(self.engine, model._progress)

    def _restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot back where this run works."""
        self.model.restore(snapshot)
        self.model._state.on(self.engine)
        self.model._state.changed(self.engine, self.model._progress)

    def _prepare(self, count: int, position: int, epoch: int) -> None:
        """Write the control block and the table of the next `count` steps, which belong to `epoch`."""
        model, state, engine = self.model, self.model._optimizer_state, self.engine
        assert state is not None
        if "shadow" in self.storage:
            engine.compute("identity", (model._state.on(engine)["parameters"], self.storage["shadow"]), {})
        engine.write(self.storage["control"], (0, self.feed.ready(position), model.counters.step))
        if self.schedule.per == "epoch":
            numbers = np.full(count, epoch * self.steps_per_epoch)
        else:
            numbers = np.arange(count) + (model.counters.step - self.first_step)
        rates = self.schedule.rates(numbers, self.steps_per_epoch, self.total_steps)
        updates = np.arange(count) + (state.updates + 1)
        engine.write(self.storage["scalars"], self.optimizer.scalars(updates, rates))

    def _diverged(self, instance: engines.Instance, before: Snapshot, count: int, position: int, epoch: int) -> None:
        """Go back to the last finite step of the chunk, name the tensor that the next one spoils, and raise."""
        model = self.model
        good = 0
        self._restore(before)
        while good < count:
            self._prepare(1, position + good * instance.rows, epoch)
            last = model.snapshot()
            instance.play(1)
            if not self._finite(1)[1]:
                self._restore(last)
                break
            good += 1
            self._count(1)
        name = self._first_spoilt(instance, position + good * instance.rows, epoch)
        self._restore(last)
        rate = float(self.engine.read(self.storage["scalars"])[0][0, 0])
        raise DivergenceError(
            f"training diverged in epoch {epoch + 1}, step {model.counters.step + 1}: {name} became NaN or infinite. "
            f"The model is back at its last finite step. Lower the learning rate (it was {rate:g}) or clip the gradient "
            "(clip_norm=1.0)"
        )

    def _first_spoilt(self, instance: engines.Instance, position: int, epoch: int) -> str:
        """Play the step call by call; the first result that is not finite."""
        self._prepare(1, position, epoch)
        for index, call in enumerate(instance.computing()):
            instance.play_calls(index, 1)
            for symbol in (*call.updated, *call.outputs):
                if symbol.dtype.kind == "f" and self.engine.read(self.engine.count_nonfinite(instance.array(symbol)))[0].any():
                    return f"{symbol.name or 'the result'} of {call.kernel}"
        return "the loss"

    def _start_state(self) -> None:
        """The optimizer's state: gone on with if the class is the same, else begun afresh."""
        model, optimizer = self.model, self.optimizer
        state = model._optimizer_state
        name = type(optimizer).__name__
        if state is not None and state.optimizer != name:
            warnings.warn(f"the state of {state.optimizer} cannot go on as {name}; it starts afresh", UserWarning, stacklevel=4)
            state = None
        kept = {} if state is None else state.slots
        if state is None or set(kept) != set(optimizer.slots):
            size = model.parameter_count
            slots = {slot: kept[slot] if slot in kept else aligned(size, model.dtype) for slot in optimizer.slots}
            model._start_slots(name, slots, 0 if state is None else state.updates)

    def _key(self, rows: int) -> Any:
        settings = tuple(sorted(self.optimizer.attributes().items()))
        metric = None if self.metric is None else tuple(sorted(self.metric.items()))
        data = self.examples.data
        return (
            "fit",
            self.engine.name,
            self.engine.precision,
            self.engine.tuned,
            self.threads,
            rows,
            self.loss,
            data,
            metric,
            self.optimizer.kernel,
            settings,
            self.penalized,
        )

    def _program(self) -> Program:
        """The step that this run plays."""
        optimizer = self.optimizer
        return steps.training(
            self.network, self.loss, self.examples.data, self.metric, optimizer.kernel, optimizer.attributes(),
            self.penalized, narrowed=self.engine.precision == "bf16",
        )  # fmt: skip

    def _largest_batch(self, n: int) -> int:
        """The largest power of two, or n, whose buffers fit into half of the free memory; at least 2 where n is."""
        program, room = self._program(), self.engine.free() // 2
        sizes = [*(1 << exponent for exponent in range(1, (n - 1).bit_length())), n]
        fitting = [rows for rows in sizes if plan(program, rows).size <= room]
        return max(fitting, default=min(2, n))

    def _storage_key(self) -> Any:
        return ("storage", self.engine.name, self.engine.precision, self.network.size)

    def _instance(self, rows: int) -> engines.Instance:
        """The step for a number of rows, with this run's storage bound to it."""
        instance: engines.Instance | None = self._borrowed.get(rows)
        if instance is None:
            model = self.model

            def make() -> engines.Instance:
                return self.engine.instantiate(self._program(), rows, self.threads)

            instance = model._cache.take(self._key(rows), make).item if self.loss.name in LOSSES else make()
            assert instance is not None
            instance.bind(**model._state.on(self.engine), **self.storage)
            self._borrowed[rows] = instance
        return instance

    def _shuffle(self, n: int) -> Any:
        """The library's order of this epoch, on the engine."""
        model, engine = self.model, self.engine
        key = ("shuffle", n, engine.name)
        with model._cache.take(key, lambda: _shuffle(n, random.key(model.seed, random.SHUFFLE), engine)) as instance:
            engine.write(instance.bound["epoch"], model.counters.epoch)
            instance.play()
            return instance.bound["order"]

    def _visit(self, epoch: int) -> Any:
        """The order of an epoch: the user's, or the library's shuffle."""
        n = len(self.examples.X)
        if self.order is None and self.shard_rows is not None:
            key = random.key(self.model.seed, random.SHUFFLE)
            return random.sharded_permutation(key, self.model.counters.epoch, n, self.shard_rows)
        if self.order is None:
            return self._shuffle(n)
        given = arrays.to_host(self.order(epoch))
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise InputError(f"order(epoch): expected a list of whole numbers, got {given.dtype} of shape {given.shape}")
        if given.size and (given.min() < 0 or given.max() >= n):
            raise InputError(f"order(epoch): expected indices 0 to {n - 1}, got {given.min()} to {given.max()}")
        if not given.size:
            raise InputError("order(epoch): expected at least one index, got none")
        if self.pairs and len(given) == 1:
            raise InputError("order(epoch): batch norm cannot be trained on an epoch of one example")
        return np.ascontiguousarray(given, np.int64)


def _shuffle(n: int, key: tuple[int, int], engine: engines.Engine) -> engines.Instance:
    trace = Trace()
    epoch, order = trace.input("epoch", (), "int64"), trace.input("order", (n,), "int64")
    trace.calls.append(Call("shuffle", (epoch, order), {"key": key}))
    instance = engine.instantiate(trace.program({}), n, min(engines.cores(), 1 + n // 4096))
    instance.bind(order=engine.zeros((n,), np.int64), epoch=engine.zeros((), np.int64, mirrored=True))
    return instance


def _step_storage(network: steps.Network, engine: engines.Engine) -> dict[str, Any]:
    """What a step needs beside data, parameters and state: control block, log, table, gradient, penalties."""
    weights = sum(p.size for p in network.parameters if p.regularized)
    storage = {
        "control": engine.zeros((8,), np.int64, mirrored=True),
        "log": engine.zeros((LOG_ROWS, len(steps.LOG_COLUMNS)), network.dtype, mirrored=True),
        "scalars": engine.zeros((LOG_ROWS, 3), network.dtype, mirrored=True),
        "gradient": engine.zeros((network.size,), network.dtype),
        "starts": engine.place(np.array([0, weights, network.size], np.int64)),
        "penalties": engine.zeros((2, 3), network.dtype),
    }
    if engine.precision == "bf16":
        import ml_dtypes

        storage["shadow"] = engine.empty((network.size,), ml_dtypes.bfloat16)
    return storage


def _penalties(network: steps.Network, l2: float, l1: float, optimizer: Optimizer) -> np.ndarray:
    """L2, L1 and decoupled weight decay, of the weights and of everything else, which has none."""
    return np.array([(l2, l1, optimizer.weight_decay), (0, 0, 0)], network.dtype)


def _batches(n: int, batch_size: int, pairs: bool) -> list[int]:
    """The sizes of an epoch's mini-batches; with `pairs` a last one of one row joins the one before."""
    sizes = [batch_size] * (n // batch_size) + ([n % batch_size] if n % batch_size else [])
    if pairs and len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


def _runs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(size, how many in a row)."""
    start = 0
    for index in range(1, len(sizes) + 1):
        if index == len(sizes) or sizes[index] != sizes[start]:
            yield sizes[start], index - start
            start = index


# --- evaluation -----------------------------------------------------------------------------------------------------


def _evaluate(
    model: Sequential, examples: Examples, loss: Loss, threads: int | None, engine: engines.Engine, fed: Feed | None = None
) -> dict[str, float]:
    """Loss and accuracy or r2; `fed`: the examples on the engine, if they are there already."""
    n = len(examples.X)
    network = as_loss_network(model, loss)
    metric = _metric(loss, examples.kind)
    sums = {"loss": 0.0, "accuracy": 0.0}
    total = 0.0
    block = min(n, engine.block_rows)
    fed = fed or feed(engine, examples, block)
    fed.begin(np.arange(n))
    start = 0
    for rows, count in _runs(_batches(n, block, False)):
        settings = None if metric is None else tuple(sorted(metric.items()))
        key = ("evaluate", engine.name, engine.precision, engine.tuned, rows, threads, loss, examples.data, settings)

        def make(rows: int = rows) -> engines.Instance:
            instance = engine.instantiate(steps.evaluation(network, loss, examples.data, metric), rows, threads)
            log = engine.zeros((LOG_ROWS, len(steps.LOG_COLUMNS)), model.dtype, mirrored=True)
            instance.bind(control=engine.zeros((8,), np.int64, mirrored=True), log=log)
            return instance

        with model._cache.take(key, make) as instance:
            state = model._state.on(engine)
            instance.bind(parameters=state["parameters"], statistics=state["statistics"], **fed.bindings())
            done = 0
            while done < count:
                here = start + done * rows
                chunk = min(count - done, LOG_ROWS, fed.most(here, rows) or count)
                engine.write(instance.bound["control"], (0, fed.ready(here), 0))
                instance.play(chunk)
                table = engine.read(instance.bound["log"][:chunk])[0].astype(np.float64)
                column = table[:, steps.LOG_COLUMNS["weight"]]
                weight = column if examples.weights is not None else np.full(chunk, rows, np.float64)
                total += float(weight.sum())
                for name in sums:
                    sums[name] += float((table[:, steps.LOG_COLUMNS[name]] * weight).sum())
                done += chunk
        start += rows * count
    result = {"loss": sums["loss"] / total if total else 0.0}
    if metric is not None:
        result["accuracy"] = sums["accuracy"] / total if total else 0.0
    else:
        result["r2"] = _r2(model, model.network if loss.link is None else network, loss, examples, threads, engine)
    return result


def _r2(
    model: Sequential, network: steps.Network, loss: Loss, examples: Examples, threads: int | None, engine: engines.Engine
) -> float:
    """1 - sum w (y - a)^2 / sum w (y - mean y)^2, averaged over outputs; a after the link of the loss."""
    if len(examples.X) < 2:
        return math.nan
    outputs = model._outputs_of(network, examples.X, threads, engine)
    if not isinstance(outputs, np.ndarray):
        (outputs,) = engine.read(outputs)
    if loss.link is not None:
        outputs = ops.activate(outputs, loss.link)
    y, a = examples.y.astype(np.float64), outputs.astype(np.float64)
    w = np.ones((len(y), 1)) if examples.weights is None else examples.weights[:, np.newaxis].astype(np.float64)
    left = (w * (y - a) ** 2).sum(0)
    whole = (w * (y - (w * y).sum(0) / w.sum()) ** 2).sum(0)
    ratio = np.divide(left, whole, out=np.where(left == 0.0, 0.0, 1.0), where=whole > 0)
    return float(np.mean(1.0 - ratio))


# --- checking -------------------------------------------------------------------------------------------------------


def _optimizer(optimizer: str | Optimizer | None) -> Optimizer:
    if optimizer is None:
        return Adam()
    if isinstance(optimizer, str):
        return by_name(optimizer)
    if not isinstance(optimizer, Optimizer):
        raise KindError(f"optimizer: expected one such as fastnn.Adam(), got {type(optimizer).__name__}")
    return optimizer


def _known_loss(model: Sequential, loss: Any, default: str | None = None) -> Loss:
    if loss is not None:
        return as_loss(loss)
    if model._loss is not None:
        return model._loss
    name = model.task.loss if model.task is not None else default
    if name is None:
        raise NotReadyError("the model was not trained yet, so that its loss is not known; pass loss=")
    if name not in LOSSES:
        raise NotReadyError(f"the model was trained with a loss of your own ({name}); pass it as loss=")
    return LOSSES[name]


def _metric(loss: Loss, kind: str) -> dict[str, Any] | None:
    """The attributes of `ops.is_correct` for a task; None for values. Logits are yes above 0, everything else above 1/2."""
    if kind == "values":
        return None
    return {"threshold": 0.0 if loss.link == "sigmoid" else 0.5, "multilabel": kind == "multilabel"}
