"""`Sequential`: layers one after another, the arena that holds their parameters, and what is asked of a trained model."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays, engines, inputs, labels, random, steps
from fastnn.engines.instances import Instances
from fastnn.errors import DeviceError, DeviceLostError, InputError, KindError, NotReadyError, nearest
from fastnn.labels import Task
from fastnn.layers import Activation, Layer, final_activation
from fastnn.losses import LOSSES, Loss
from fastnn.program.trace import Program
from fastnn.state import State

LossLike = str | Loss | Callable[[Any, Any], Any]
"""A loss, its name, or a function of (outputs, targets)."""

if TYPE_CHECKING:
    import os

    from fastnn.callbacks import Callback
    from fastnn.optimizers import Optimizer
    from fastnn.program.explain import Explanation
    from fastnn.run import History
    from fastnn.summary import Summary


@dataclass(frozen=True)
class Trained:
    """How the model was trained last; stored with the model."""

    device: str
    precision: str


@dataclass
class OptimizerState:
    """What an optimizer keeps between steps: the class it belongs to, its arrays, and how many updates it has made."""

    optimizer: str
    slots: dict[str, np.ndarray]
    updates: int = 0


@dataclass
class Counters:
    """Steps and epochs since the model was made; they count the random numbers of dropout and of the shuffle."""

    step: int = 0
    epoch: int = 0


@dataclass
class Snapshot:
    """Everything that training changes; restoring it undoes whatever came after. Arrays lie where they were latest."""

    arrays: dict[str, Any]
    optimizer: str = ""
    updates: int = 0
    step: int = 0
    epoch: int = 0

    def on_host(self) -> Snapshot:
        """The same with all arrays on the host."""
        read = {name: array if isinstance(array, np.ndarray) else array.read() for name, array in self.arrays.items()}
        return Snapshot(read, self.optimizer, self.updates, self.step, self.epoch)

    def to_config(self) -> dict[str, Any]:
        """Plain values, and the arrays of the host under `arrays.NAME`."""
        counts = {"optimizer": self.optimizer, "updates": self.updates, "step": self.step, "epoch": self.epoch}
        return counts | {f"arrays.{name}": array for name, array in self.on_host().arrays.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Snapshot:
        """The snapshot that `to_config` described."""
        given = {name.removeprefix("arrays."): array for name, array in config.items() if name.startswith("arrays.")}
        counts = (int(config[name]) for name in ("updates", "step", "epoch"))
        return cls(given, str(config["optimizer"]), *counts)


class Sequential:
    """A network of layers, each fed with the outputs of the one before.

    `layers`: a sequence of layers. `seed`: of the initial weights, the shuffles and dropout; drawn and kept if None.
    `dtype`: "float32" or "float64", of parameters and of everything that is computed. `input_scale`: what inputs are
    multiplied by when they are cast to the dtype, such as 1/255 for uint8 images.

    Arrays are rows: X (n, features), or (n, ...) for networks that begin with Flatten. A model holds one flat array, the
    arena, of which each parameter is a part: first the weights (on which L1 and L2 act), then the rest.
    """

    def __init__(
        self, layers: Iterable[Layer], *, seed: int | None = None, dtype: Any = "float32", input_scale: float = 1.0
    ) -> None:
        if isinstance(layers, Layer):
            raise KindError("expected a sequence of layers, got one layer; write it in brackets")
        given = tuple(layers)
        for index, layer in enumerate(given):
            if not isinstance(layer, Layer):
                raise KindError(f"layer {index}: expected a Layer, got {type(layer).__name__}")
        if not given:
            raise InputError("a model needs at least one layer")
        try:
            self.dtype = np.dtype("" if dtype is None else dtype)
        except TypeError as error:
            raise KindError(f"dtype: expected float32 or float64, got {dtype!r}") from error
        if self.dtype not in (np.dtype("float32"), np.dtype("float64")):
            raise KindError(f"dtype: expected float32 or float64, got {self.dtype}")
        if not 0.0 < input_scale < math.inf:
            raise InputError(f"input_scale: expected a positive number, got {input_scale}")
        self.layers = tuple(layer.in_context(given[index + 1 :]) for index, layer in enumerate(given))
        self.seed = random.draw_seed() if seed is None else seed
        random.key(self.seed, random.INITIAL_WEIGHTS)  # refuses a seed out of range now
        self.seed = int(self.seed)
        self.input_scale = float(input_scale)
        self.task: Task | None = None
        self.trained: Trained | None = None
        self.feature_names: tuple[str, ...] | None = None
        self.target_names: tuple[str, ...] | None = None
        self._loss: Loss | None = None
        self._optimizer: Optimizer | None = None
        self.device = "cpu"
        self._forget()
        self._cache = Instances()
        self._training = threading.Lock()

    # --- parameters ---------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Be as before `build`."""
        self.counters = Counters()
        self._optimizer_state: OptimizerState | None = None
        self._network: steps.Network | None = None
        self._state = State(self.dtype)
        self._state.add(parameters=0, statistics=0)
        self._outputs: tuple[int, ...] = ()

    def build(self, features: int | Sequence[int]) -> Sequential:
        """Make the parameters for inputs with `features` columns (or of that shape) and draw their initial values."""
        given = (features,) if isinstance(features, int | np.integer) else features
        if not isinstance(given, tuple | list) or not all(isinstance(d, int | np.integer) and d >= 1 for d in given):
            raise InputError(f"build: expected a number of features of at least 1, or a shape of such, got {features!r}")
        shape = tuple(int(d) for d in given)
        if self._network is not None:
            if self._network.features != shape:
                raise InputError(f"the model has parameters for inputs of shape {self._network.features}, not {shape}")
            return self
        declared, kept, outputs = steps.lay_out(self.layers, shape, self.dtype)
        declared.sort(key=lambda item: not item[2].regularized)  # stable: weights first, so that L1 and L2 act on one stretch
        parameters = _places(declared)
        statistics = _places(kept)
        keys = tuple(random.key(self.seed, layer.purpose, index) for index, layer in enumerate(self.layers))
        network = steps.Network(self.layers, shape, self.dtype, parameters, statistics, keys, self.input_scale)
        state = State(self.dtype)
        arena, values = state.add(parameters=network.size, statistics=network.statistics_size).values()
        for (index, attribute, declaration), place in zip(declared, parameters, strict=True):
            beside = sorted(name for i, name, _ in declared if i == index)
            number = (index << 16) + beside.index(attribute)  # each array draws from a key of its own
            drawn = declaration.initial(random.key(self.seed, random.INITIAL_WEIGHTS, number), place.shape, self.dtype)
            arena[place.start : place.start + place.size] = drawn.reshape(-1)
        for (_, _, declaration), place in zip(kept, statistics, strict=True):
            values[place.start : place.start + place.size] = np.ravel(declaration.initial)
        self._state, self._outputs, self._network = state, outputs, network
        return self

    def freeze(self, *layers: int) -> Sequential:
        """Let `fit` leave the parameters of these layers as they are, bit for bit, until `unfreeze`; returns the model.

            model = fastnn.load("digits.safetensors").freeze(0, 1)      # train the rest on other data
            model.fit(X, y)
            model.unfreeze().fit(X, y, optimizer=fastnn.Adam(1e-4))     # then everything, in small steps

        `layers`: their numbers, as in the names of the parameters, negative ones from the end; without any, all layers.
        Those without parameters stay as they are. The gradients of frozen parameters are not computed, and frozen layers at
        the beginning are not passed backwards at all. Frozen weights have no part in the norm that `clip_norm` limits, nor
        in the penalty, which is that of what is trained. A frozen BatchNorm uses its running statistics and keeps them;
        Dropout goes on dropping. A Dense layer in front of a frozen BatchNorm learns no shift unless it was made with
        `use_bias=True`: beta stood for its bias and is frozen, and freezing adds no parameters to a model. What the
        optimizer keeps of frozen parameters stays as it is. What is frozen is saved with the model; a layer may be made so as
        well (`trainable=False`).

        Raises KindError and InputError for what is no layer, NotReadyError while the model is being trained.
        """
        return self._set_trainable("freeze", layers, False)

    def unfreeze(self, *layers: int) -> Sequential:
        """Let `fit` train these layers (without any: all) again; the counterpart of `freeze`, with its errors."""
        return self._set_trainable("unfreeze", layers, True)

    def _set_trainable(self, name: str, numbers: Sequence[int], trainable: bool) -> Sequential:
        count = len(self.layers)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | np.integer):
                raise KindError(f"{name}: expected numbers of layers such as {name}(0, 1), got {number!r}")
            if not -count <= number < count:
                raise InputError(f"{name}: expected numbers of layers from 0 to {count - 1}, got {number}")
        chosen = {int(number) % count for number in numbers} or set(range(count))
        if not self._training.acquire(blocking=False):
            raise NotReadyError(f"{name}: the model is being trained; call it between two calls of fit")
        try:
            self.layers = tuple(
                layer.bound({"trainable": trainable}) if index in chosen and layer.has_parameters else layer
                for index, layer in enumerate(self.layers)
            )
            if self._network is not None:
                self._network = replace(self._network, layers=self.layers)
        finally:
            self._training.release()
        return self

    @property
    def network(self) -> steps.Network:
        """The layers and where their arrays lie; raises NotReadyError before `build`."""
        if self._network is None:
            raise NotReadyError("the model has no parameters yet; call fit, or build(n_features)")
        return self._network

    @property
    def built(self) -> bool:
        return self._network is not None

    @property
    def _parameters(self) -> np.ndarray:
        """The parameter arena on the host, to be looked at only."""
        return self._host()["parameters"]

    @property
    def _statistics(self) -> np.ndarray:
        return self._host()["statistics"]

    def _host(self, change: bool = False) -> dict[str, np.ndarray]:
        """All arrays with their latest values on the host, to be looked at, or to `change`."""
        with self._watched():
            return self._state.host() if change else self._state.read()

    @property
    def _progress(self) -> tuple[int, int, int]:
        """Steps, epochs and updates so far: what goes back with the arrays where a GPU is lost."""
        state = self._optimizer_state
        return self.counters.step, self.counters.epoch, 0 if state is None else state.updates

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Errors of a GPU as errors of this library; where it is lost, the model goes on from what the host has of it."""
        try:
            with engines.translated():
                yield
        except DeviceLostError:
            progress = self._state.lose()
            if progress is not None:
                self.counters.step, self.counters.epoch, updates = progress
                if self._optimizer_state is not None:
                    self._optimizer_state.updates = updates
            self.device = "cpu"
            raise

    @property
    def optimizer_state(self) -> OptimizerState | None:
        """What the optimizer of the last fit keeps, with the latest values on the host; None before it."""
        self._host(change=True)
        return self._optimizer_state

    def _named(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Views of every parameter and statistic, by name, in the order of the layers."""
        network = self.network
        found = {p.name: (p, arrays["parameters"]) for p in network.parameters}
        found |= {p.name: (p, arrays["statistics"]) for p in network.statistics}
        ordered = sorted(found.items(), key=lambda item: item[1][0].layer)
        return {name: arena[p.start : p.start + p.size].reshape(p.shape) for name, (p, arena) in ordered}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and running statistics: `{"0.weight": (I, O), "0.bias": (O,), ...}`."""
        return {name: view.copy() for name, view in self._named(self._host()).items()}

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Set parameters by name (all of them or some). A wrong name, shape or dtype raises, and nothing is changed."""
        views = self._named(self._host(change=True))
        if not isinstance(weights, Mapping):
            raise KindError(f"set_weights: expected a dict of arrays by name, got {type(weights).__name__}")
        checked = {}
        for name, value in weights.items():
            if name not in views:
                raise InputError(f"the model has no {name!r}{nearest(name, views)}")
            value = arrays.to_host(value)
            if value.shape != views[name].shape:
                raise InputError(f"{name}: expected shape {views[name].shape}, got {value.shape}")
            if value.dtype != self.dtype:
                raise KindError(f"{name}: expected {self.dtype}, got {value.dtype}; convert it with .astype('{self.dtype}')")
            if not np.isfinite(value).all():
                raise InputError(f"{name}: {np.count_nonzero(~np.isfinite(value))} values are NaN or infinite")
            checked[name] = value
        for name, value in checked.items():
            views[name][...] = value

    @property
    def parameter_count(self) -> int:
        """Numbers of all parameters, those of frozen layers included."""
        return self.network.size

    def summary(self) -> Summary:
        """Layers, shapes, parameters, memory and work, to be printed; raises NotReadyError before `build`."""
        from fastnn.summary import summarize

        return summarize(self)

    # --- snapshots ----------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """A copy of everything that training changes."""
        state = self._optimizer_state
        step, epoch, updates = self._progress
        with self._watched():
            return Snapshot(self._state.copies(), "" if state is None else state.optimizer, updates, step, epoch)

    def restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot of this model back."""
        state = self._optimizer_state
        slots = [name for name in snapshot.arrays if name not in ("parameters", "statistics")]
        with self._watched():
            if not snapshot.optimizer:
                self._start_slots(None)
            elif state is None or (state.optimizer, set(state.slots)) != (snapshot.optimizer, set(slots)):
                self._start_slots(snapshot.optimizer, slots)
            self._state.restore(snapshot.arrays, (snapshot.step, snapshot.epoch, snapshot.updates))
        if self._optimizer_state is not None:
            self._optimizer_state.updates = snapshot.updates
        self.counters.step, self.counters.epoch = snapshot.step, snapshot.epoch

    def _start_slots(
        self, optimizer: str | None, slots: Sequence[str] = (), updates: int = 0, kept: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """Let the optimizer keep arrays of these names from now on, and no others; returns them, to be changed on the host.

        Those in `kept`, which must be there, stay as they are; the others are zeros.
        """
        if self._optimizer_state is not None:
            self._state.drop(*(name for name in self._optimizer_state.slots if name not in slots))
        host = self._state.add(**{name: self.parameter_count for name in slots if name not in kept})
        made = {name: host[name] for name in slots}
        self._optimizer_state = None if optimizer is None else OptimizerState(optimizer, made, updates)
        return made

    # --- use ----------------------------------------------------------------------------------------------------

    def to(self, device: str) -> Sequential:
        """Let arrays of the host be predicted on this device from now on; `fit` sets it to the one that it trains on.

        "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one. Raises DeviceError for one that cannot be used.
        """
        self.device = engines.choose(device)[0].name
        return self

    def __call__(self, X: Any, *, threads: int | None = None) -> Any:
        """Outputs of the last layer (n, O) in inference mode, in the namespace of X.

        An array of a GPU is predicted on that GPU, any other one on `device`; the result comes in the namespace of X.
        """
        return arrays.to_device(self._run(self.network, X, threads), X)

    def predict_proba(self, X: Any, *, threads: int | None = None) -> Any:
        """Probabilities: softmax or sigmoid of the logits. (n, C), or (n, O) for sigmoid outputs."""
        return arrays.to_device(self._probabilities(X, threads), X)

    def _probabilities(self, X: Any, threads: int | None) -> Any:
        if self.task is None:
            raise NotReadyError("probabilities need a loss that says what the outputs mean; call fit first, or load a model")
        link = LOSSES[self.task.loss].link if self.task.loss in LOSSES else None
        if link is None:
            last = final_activation(self.layers)
            if last not in ("softmax", "sigmoid"):
                raise NotReadyError(f"the loss {self.task.loss} makes no probabilities of outputs without softmax or sigmoid")
            return self._run(self.network, X, threads)
        from fastnn import ops

        return ops.activate(self._run(self.logits_network(link), X, threads), link)

    @property
    def classes_(self) -> np.ndarray:
        """The labels (C,), in the order of the outputs; of a yes-or-no task (2,): no, yes."""
        if self.task is None:
            raise NotReadyError("the classes are known after fit; call fit first, or load a model")
        if self.task.classes is None:
            raise NotReadyError(f"the model was trained for {self.task.kind}, which have no classes")
        return self.task.classes.copy()

    def predict(self, X: Any, *, threads: int | None = None) -> Any:
        """What `y` was in training: labels (n,), 0/1 (n, O) for several yes-or-no outputs, or values (n, O) for regression.

        Labels that were class indices come as int64 in the namespace of X; any others as a NumPy array of their own dtype.
        """
        if self.task is None:
            raise NotReadyError("whether to predict classes or values is known after fit; call fit first, or model(X)")
        if self.task.kind == "values":  # shares from 0 to 1 where the loss has a sigmoid of its own
            link = LOSSES[self.task.loss].link if self.task.loss in LOSSES else None
            outputs = self._run(self.network, X, threads) if link is None else self._probabilities(X, threads)
            return arrays.to_device(outputs, X)
        outputs = self._run(self.network, X, threads)
        if self.task.kind == "classes":
            found = outputs.argmax(axis=1)
        else:
            decided = (outputs > self.threshold(self.network)).astype(np.int64)
            found = decided[:, 0] if self.task.kind == "binary" else decided
        if self.task.indices:
            return arrays.to_device(found, X)
        return labels.decode(self.task, arrays.to_host(found))

    def threshold(self, network: steps.Network) -> float:
        """The output above which a yes-or-no answer is yes: 0 for logits, 1/2 for everything else."""
        loss = self.task.loss if self.task else ""
        link = LOSSES[loss].link if loss in LOSSES else None
        return 0.0 if link == "sigmoid" and final_activation(network.layers) != "sigmoid" else 0.5

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        loss: LossLike = "softmax_cross_entropy",
        optimizer: str | Optimizer | None = None,
        batch_size: int | str = 128,
        epochs: int = 5,
        validation_data: tuple[Any, Any] | None = None,
        sample_weight: Any = None,
        class_weight: Mapping[Any, float] | str | None = None,
        classes: Sequence[Any] | None = None,
        metrics: Sequence[Any] = (),
        l2: float = 0.0,
        l1: float = 0.0,
        order: Callable[[int], Any] | None = None,
        callbacks: Sequence[Callback] = (),
        resume: str | os.PathLike[str] | bool | None = None,
        steps_per_epoch: int | None = None,
        shard_rows: int | None = None,
        device: str = "auto",
        precision: str = "float32",
        tune: bool = False,
        threads: int | None = None,
        verbose: int = 1,
    ) -> History:
        """Train on X (n, ...) and y; returns the history, one value an epoch.

        X: rows of numbers: NumPy, CuPy, anything with `__array__` or `__dlpack__`, a pandas or polars frame (its column
        names are kept as `feature_names`), a SciPy sparse matrix or a memory map (made dense and cast per mini-batch), lists
        of rows. Or, without y, an iterable of mini-batches (X, y) or (X, y, weights), or a function that returns one for each
        epoch; they are trained on in their order, each in one step (`steps_per_epoch`: at most so many; schedules need it).

        y: labels (n,) of any kind (class indices, other whole numbers, strings, booleans), one-hot or soft rows (n, C), 0/1
        (n, O) for several yes-or-no outputs, or values (n,) or (n, O). `classes`: the labels in the order of the outputs;
        by default sorted. `sample_weight` (n,) and `class_weight` ({label: weight} or "balanced") multiply; the loss is
        then sum(w l)/sum(w).

        `loss`: a name (`fastnn.losses.LOSSES`) or a function of (outputs, targets) in the vocabulary. `optimizer`: a
        configuration or a name; Adam by default. The cost is mean loss + l2/2 sum ||W||^2 + l1 sum |W|, weights only (the
        course notes' lambda/m is `l2` here), with `l2` and `l1` of a layer where it has its own; clipping acts on the
        gradient of the mean loss alone. Frozen layers (see `freeze`) have no penalty. `metrics`: names, functions of (y,
        predictions), or `fastnn.metrics.Metric`s, computed on `validation_data`, which they need, after each epoch.

        `batch_size`: "all" is one mini-batch of all examples (batch gradient descent), which the course advises for up to 2000
        of them; 1 is stochastic gradient descent; between them a power of two from 64 to 512 is usual. "auto" takes the
        largest power of two, or all, whose buffers fit into half of the memory that is free; which it was is in
        `history.batch_size`.
        `order(epoch)` returns the indices that an epoch visits, in that order, of any length; without it the library
        shuffles. A smaller last mini-batch is trained on; with batch norm a last one of one row joins the one before.
        `shard_rows`: shuffle shards of so many rows, and the rows of each, instead of all rows: a memory map larger than
        main memory is then read shard by shard.

        `callbacks`: see `fastnn.callbacks`. `resume`: a checkpoint, or a folder of them, that `callbacks.Checkpoint` wrote:
        the run goes on from there, and ends with the same bits as one that was never interrupted. Data, loss, mini-batches
        and order must be those of that run. `True`: the folder of the Checkpoint among the callbacks, if it has one yet.

        `device`: "cpu", "cuda", "cuda:1", ..., or "auto", which takes a GPU where there is one (that of X where X lies on
        one). Data that the GPU has no room for is streamed to it, with the same results. `precision`: of matrix products on
        a GPU, "float32", "tf32" (factors with 10 bits of mantissa, sums in float32) or "bf16" (factors with 7 bits, and
        what products hand to each other is stored so; weights, the optimizer's state, logits and losses stay float32).
        Evaluation and prediction multiply in float32 after "bf16".
        `tune`: time the ways to compute each matrix product of a step on this GPU before training, and take the fastest:
        cuBLASLt's algorithms, or kernels of this library. What is found is kept beside the compiled kernels for later calls
        with `tune=True`; its last bits differ from those of the versioned rule that is followed without. `history.tuned`
        says whether that was done; a CPU has one way only, and `tune` does nothing there. `threads` changes no bits; by
        default it is chosen by the size of the step. `verbose`: 0 nothing, 1 progress.

        history: "loss" (data loss at visit time, weighted by examples), "penalty" beside it where there is an l1 or l2,
        "accuracy" for classes, and with `validation_data` "val_loss", "val_accuracy" or "val_r2" and "val_mae", and the
        metrics.

        Raises, before the first step and with nothing changed, InputError and KindError for what cannot be trained on,
        FileError for a checkpoint; later, with the model at its last whole step, DivergenceError (its last finite one),
        what a callback or an iterable raised, and for a GPU DeviceMemoryError, DeviceError, and DeviceLostError (at the
        step that the host last fetched). While it runs, another thread that predicts sees the weights as they are at that
        moment, in the middle of a step too.
        """
        from fastnn import training
        from fastnn.settings import Settings

        settings = Settings(
            loss=loss, optimizer=optimizer, batch_size=batch_size, epochs=epochs, validation_data=validation_data,
            sample_weight=sample_weight, class_weight=class_weight, classes=classes, metrics=metrics, l2=l2, l1=l1, order=order,
            callbacks=callbacks, resume=resume, steps_per_epoch=steps_per_epoch, shard_rows=shard_rows, device=device,
            precision=precision, tune=tune, threads=threads, verbose=verbose,
        )  # fmt: skip
        return training.fit(self, X, y, settings)

    def partial_fit(
        self,
        X: Any,
        y: Any,
        *,
        loss: LossLike | None = None,
        optimizer: str | Optimizer | None = None,
        classes: Sequence[Any] | None = None,
        sample_weight: Any = None,
        l2: float = 0.0,
        l1: float = 0.0,
        device: str = "auto",
        threads: int | None = None,
    ) -> dict[str, float]:
        """One step on all rows of X as one mini-batch; returns its loss (and accuracy), from before the step.

        `loss` and `optimizer` are those of the last call unless others are given (at first softmax cross-entropy and Adam).
        `classes`: all labels that will come, in the order of the outputs; needed in the first call where labels are others
        than 0, 1, ..., C-1. Errors are those of `fit`.
        """
        from fastnn import training
        from fastnn.settings import Settings

        settings = Settings(
            loss=loss or self._loss or (self.task.loss if self.task else "softmax_cross_entropy"),
            optimizer=optimizer or self._optimizer, classes=classes, sample_weight=sample_weight, l2=l2, l1=l1, device=device,
            threads=threads,
        )  # fmt: skip
        return training.partial_fit(self, X, y, settings)

    def evaluate(
        self,
        X: Any,
        y: Any,
        *,
        loss: LossLike | None = None,
        metrics: Sequence[Any] = (),
        sample_weight: Any = None,
        threads: int | None = None,
    ) -> dict[str, float]:
        """`{"loss": ..., "accuracy": ...}` for classes, `{"loss": ..., "r2": ..., "mae": ...}` for values, in inference mode.

        `loss` is the one the model was trained with unless another is given; `metrics` as in `fit`. r2 is
        1 - sum (y - a)^2 / sum (y - mean y)^2, averaged over outputs (1 where both are 0, 0 where only the second is), as
        scikit-learn defines it; NaN for one example. mae is the mean of |y - a|.
        """
        from fastnn import training

        return training.evaluate(self, X, y, loss=loss, metrics=metrics, sample_weight=sample_weight, threads=threads)

    def program(
        self,
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
        """One training step as a program for `batch_size` rows: print it, or `explain()` it with measured times.

        It is instantiated on `device`, by default on the one that the model was trained on last. `precision` and `tune` are
        those of `fit`.
        The loss is the one of the last fit unless another is given; the optimizer is Adam unless another is given.
        """
        from fastnn import training

        return training.step_program(
            self,
            batch_size,
            loss=loss,
            optimizer=optimizer,
            l2=l2,
            l1=l1,
            device=device,
            precision=precision,
            tune=tune,
            threads=threads,
            fused=fused,
        )

    def save(self, path: str | os.PathLike[str], *, optimizer: bool = False) -> None:
        """Write the model to a safetensors file, with `optimizer` the optimizer's state too; see `fastnn.checkpoints.save`."""
        from fastnn import checkpoints

        checkpoints.save(self, path, optimizer=optimizer)

    def logits_network(self, link: str | None) -> steps.Network:
        """The network without a final activation that the loss takes the place of."""
        network = self.network
        if link is None or final_activation(network.layers) != link:
            return network
        last = network.layers[-1]
        if isinstance(last, Activation):
            return network.without_last()
        return replace(network, layers=(*network.layers[:-1], last.bound({"activation": None})))

    def _engine_for(self, X: Any) -> engines.Engine:
        """Where X is worked on: on the GPU that it lies on, else on the model's device."""
        return engines.named(self.device) if arrays.on_host(X) else engines.of(X)

    def _run(self, network: steps.Network, X: Any, threads: int | None) -> Any:
        """The outputs of a network for rows of X: an array of the host, or of the GPU that X lies on."""
        with self._watched():
            given = inputs.read(X, network.features, "X", self.feature_names)
            engine = self._engine_for(given.array)
            try:
                return engine.lent(self._outputs_of(network, given.array, threads, engine))
            except InputError:
                if arrays.on_host(given.array):  # blocks are checked as they are read; what is wrong with all of it, as in fit
                    inputs.check_finite(given.array, "X", self.dtype, given.names)
                raise

    def _outputs_of(self, network: steps.Network, X: Any, threads: int | None, engine: engines.Engine) -> Any:
        """The same for checked inputs, as an array of the engine or of the host, block by block."""
        outputs = engine.outputs(X, (len(X), *self._outputs), self.dtype)
        if len(X):
            rows = engine.rows_for(len(X))
            what = ("predict", len(network.layers), final_activation(network.layers))
            key = (*what, engine.name, engine.precision, engine.tuned, rows, threads)
            with self._cache.take(key, lambda: _Prediction(steps.prediction(network), rows, engine, threads)) as run:
                run.bind(self._state.on(engine))
                run(X, outputs, self.input_scale)
        return outputs

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}], seed={self.seed}, dtype='{self.dtype}')"

    def __getstate__(self) -> dict[str, Any]:
        self._host()
        state = dict(vars(self))
        del state["_cache"], state["_training"]
        if self._loss is not None and self._loss.name not in LOSSES:
            state["_loss"] = None  # a function of the user's own may not be picklable; evaluate then asks for it
        if self._optimizer_state is not None:  # its arrays are those of `_state`
            kept = self._optimizer_state
            state["_optimizer_state"] = (kept.optimizer, tuple(kept.slots), kept.updates)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._optimizer_state is not None:
            optimizer, names, updates = state["_optimizer_state"]
            arrays = self._state.read()
            self._optimizer_state = OptimizerState(optimizer, {name: arrays[name] for name in names}, updates)
        try:
            engines.named(self.device)
        except DeviceError:  # where it comes to life there is no such GPU
            self.device = "cpu"
        self._cache = Instances()
        self._training = threading.Lock()


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

    def __call__(self, X: Any, outputs: Any, scale: float) -> None:
        count = min(self.rows, len(X))
        for start in range(0, len(X), count):
            start = min(start, len(X) - count)  # the last block overlaps the one before: rows do not depend on each other
            self.engine.load_rows(self.x, X, start, count, scale)
            self.instance.play()
            self.engine.store_rows(outputs, self.instance.output("outputs"), start, count)


def as_model(given: object) -> Sequential:
    """What was given, if it is a model; KindError for anything else."""
    if not isinstance(given, Sequential):
        raise KindError(f"model: expected a Sequential, got {type(given).__name__}")
    return given


def as_loss_network(model: Sequential, loss: Loss) -> steps.Network:
    """The network whose outputs the loss takes: logits where it has a link.

    Raises InputError where the last layer already applies the link of another loss.
    """
    last = final_activation(model.layers)
    if loss.link is not None and last in ("softmax", "sigmoid", "log_softmax") and last != loss.link:
        raise InputError(f"{loss.name} takes logits or a final {loss.link}, and the last layer applies {last}")
    return model.logits_network(loss.link)


def _places(declared: Sequence[Any]) -> tuple[steps.Place, ...]:
    places, start = [], 0
    for index, attribute, declaration in declared:
        place = steps.Place(f"{index}.{attribute}", index, attribute, tuple(declaration.shape), start, declaration)
        places.append(place)
        start += place.size
    return tuple(places)
