"""What training works on: layers, the arena that holds their parameters, the state of an optimizer, and the way back."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastnn import arrays, engines, random
from fastnn.data import inputs
from fastnn.data.prepared import Expected
from fastnn.data.targets import Task
from fastnn.engines.cache import Instances
from fastnn.errors import DeviceError, DeviceLostError, InputError, InputTypeError, NotReadyError, nearest
from fastnn.layers import Layer, final_activation
from fastnn.losses import LOSSES, Loss
from fastnn.network.layout import Network, lay_out, places_of
from fastnn.network.programs import InstanceKey, Prediction
from fastnn.network.state import Counters, OptimizerState, Snapshot, State, Trained
from fastnn.program.trace import Program

if TYPE_CHECKING:
    from fastnn.optimizers import Optimizer


class ModelState:
    """A network of layers with its arrays and counts; `fastnn.Sequential` is what users see of it."""

    def __init__(
        self, layers: Iterable[Layer], *, seed: int | None = None, dtype: Any = "float32", input_scale: float = 1.0
    ) -> None:
        if isinstance(layers, Layer):
            raise InputTypeError("expected a sequence of layers, got one layer; write it in brackets")
        given = tuple(layers)
        for index, layer in enumerate(given):
            if not isinstance(layer, Layer):
                raise InputTypeError(f"layer {index}: expected a Layer, got {type(layer).__name__}")
        if not given:
            raise InputError("a model needs at least one layer")
        try:
            self.dtype = np.dtype("" if dtype is None else dtype)
        except TypeError as error:
            raise InputTypeError(f"dtype: expected float32 or float64, got {dtype!r}") from error
        if self.dtype not in (np.dtype("float32"), np.dtype("float64")):
            raise InputTypeError(f"dtype: expected float32 or float64, got {self.dtype}")
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

    def _forget(self) -> None:
        """Be as before `build`."""
        self.counters = Counters()
        self._optimizer_state: OptimizerState | None = None
        self._network: Network | None = None
        self._state = State(self.dtype)
        self._state.add(parameters=0, statistics=0)
        self._outputs: tuple[int, ...] = ()

    def build(self, features: int | Sequence[int]) -> Self:
        """Make the parameters for inputs with `features` columns (or of that shape) and draw their initial values."""
        given = (features,) if isinstance(features, int | np.integer) else features
        if not isinstance(given, tuple | list) or not all(isinstance(d, int | np.integer) and d >= 1 for d in given):
            raise InputError(f"build: expected a number of features of at least 1, or a shape of such, got {features!r}")
        shape = tuple(int(d) for d in given)
        if self._network is not None:
            if self._network.features != shape:
                raise InputError(f"the model has parameters for inputs of shape {self._network.features}, not {shape}")
            return self
        declared, kept, outputs = lay_out(self.layers, shape, self.dtype)
        declared.sort(key=lambda item: not item[2].regularized)  # stable: weights first, so that L1 and L2 act on one stretch
        parameters = places_of(declared)
        statistics = places_of(kept)
        keys = tuple(random.key(self.seed, layer.purpose, index) for index, layer in enumerate(self.layers))
        network = Network(self.layers, shape, self.dtype, parameters, statistics, keys, self.input_scale)
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

    def freeze(self, *layers: int) -> Self:
        """Let `fit` leave the parameters of these layers as they are, bit for bit, until `unfreeze`; returns the model.

            model = fastnn.load("digits.safetensors").freeze(0, 1)      # train the rest on other data
            model.fit(X, y)
            model.unfreeze().fit(X, y, optimizer=fastnn.Adam(1e-4))     # then everything, in small steps

        `layers`: their numbers, as in the names of the parameters, negative ones from the end; without any, all layers.
        Those without parameters stay as they are. The gradients of frozen parameters are not computed, and frozen layers at
        the beginning are not passed backwards at all. Frozen weights have no part in the norm that `clip_norm` limits, nor
        in the penalty, which is that of what is trained. A frozen BatchNorm uses its running statistics and keeps them;
        Dropout continues dropping. A Dense layer in front of a frozen BatchNorm learns no shift unless it was made with
        `use_bias=True`: beta stood for its bias and is frozen, and freezing adds no parameters to a model. What the
        optimizer keeps of frozen parameters stays as it is. What is frozen is saved with the model; a layer may be made so as
        well (`trainable=False`).

        Raises InputTypeError and InputError for what is no layer, NotReadyError while the model is being trained.
        """
        return self._set_trainable("freeze", layers, False)

    def unfreeze(self, *layers: int) -> Self:
        """Let `fit` train these layers (without any: all) again; the counterpart of `freeze`, with its errors."""
        return self._set_trainable("unfreeze", layers, True)

    def _set_trainable(self, name: str, numbers: Sequence[int], trainable: bool) -> Self:
        count = len(self.layers)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | np.integer):
                raise InputTypeError(f"{name}: expected numbers of layers such as {name}(0, 1), got {number!r}")
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
    def network(self) -> Network:
        """The layers and where their arrays lie; raises NotReadyError before `build`."""
        if self._network is None:
            raise NotReadyError("the model has no parameters yet; call fit, or build(n_features)")
        return self._network

    @property
    def built(self) -> bool:
        return self._network is not None

    @property
    def expected(self) -> Expected:
        """What this model expects of data; raises NotReadyError before `build`."""
        squashed = final_activation(self.layers) == "sigmoid"
        return Expected(self.network.features, self.feature_names, self.dtype, self._outputs, squashed)

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
        """Errors of a GPU as errors of this library; where it is lost, the model continues from what the host has of it."""
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
            raise InputTypeError(f"set_weights: expected a dict of arrays by name, got {type(weights).__name__}")
        checked = {}
        for name, value in weights.items():
            if name not in views:
                raise InputError(f"the model has no {name!r}{nearest(name, views)}")
            value = arrays.to_host(value)
            if value.shape != views[name].shape:
                raise InputError(f"{name}: expected shape {views[name].shape}, got {value.shape}")
            if value.dtype != self.dtype:
                raise InputTypeError(
                    f"{name}: expected {self.dtype}, got {value.dtype}; convert it with .astype('{self.dtype}')"
                )
            if not np.isfinite(value).all():
                raise InputError(f"{name}: {np.count_nonzero(~np.isfinite(value))} values are NaN or infinite")
            checked[name] = value
        for name, value in checked.items():
            views[name][...] = value

    @property
    def parameter_count(self) -> int:
        """Numbers of all parameters, those of frozen layers included."""
        return self.network.size

    def snapshot(self) -> Snapshot:
        """A copy of everything that training changes."""
        state = self._optimizer_state
        step, epoch, updates = self._progress
        with self._watched():
            return Snapshot(self._state.copies(), "" if state is None else state.optimizer, updates, step, epoch)

    def restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot of this model back.

        Raises InputError for one of another network, and NotReadyError for one of another optimizer (or of none) while the
        model is being trained; then nothing is changed.
        """
        built, slots = self._network, _slots(snapshot)
        sizes = {"parameters": built.size if built else 0, "statistics": built.statistics_size if built else 0}
        sizes |= dict.fromkeys(slots, sizes["parameters"])
        given = {name: math.prod(values.shape) for name, values in snapshot.arrays.items()}
        if given != sizes:
            raise InputError(f"restore: expected a snapshot of this network, with arrays of {sizes} numbers, got {given}")
        if self._training.locked() and not self._keeps(snapshot):
            raise NotReadyError("restore: the model is being trained by another optimizer than that of the snapshot")
        self._restore(snapshot)

    def _restore(self, snapshot: Snapshot) -> None:
        """The same without checks, for what holds the model's training."""
        with self._watched():
            if not self._keeps(snapshot):
                self._start_slots(snapshot.optimizer or None, _slots(snapshot))
            self._state.restore(snapshot.arrays, (snapshot.step, snapshot.epoch, snapshot.updates))
        if self._optimizer_state is not None:
            self._optimizer_state.updates = snapshot.updates
        self.counters.step, self.counters.epoch = snapshot.step, snapshot.epoch

    def _keeps(self, snapshot: Snapshot) -> bool:
        """Whether the optimizer of the snapshot, or none, is the one whose state the model has."""
        state = self._optimizer_state
        now = ("", set()) if state is None else (state.optimizer, set(state.slots))
        return now == (snapshot.optimizer, set(_slots(snapshot)))

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

    def to(self, device: str) -> Self:
        """Let arrays of the host be predicted on this device from now on; `fit` sets it to the one that it trains on.

        "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one. Raises DeviceError for one that cannot be used.
        """
        self.device = engines.choose(device)[0].name
        return self

    def _threshold(self, network: Network) -> float:
        """The output above which a binary answer is yes: 0 for logits, 1/2 for everything else."""
        loss = self.task.loss if self.task else ""
        link = LOSSES[loss].link if loss in LOSSES else None
        return 0.0 if link == "sigmoid" and final_activation(network.layers) != "sigmoid" else 0.5

    def _logits_network(self, link: str | None) -> Network:
        """The network without a final activation that the loss takes the place of."""
        network = self.network
        if link is None or final_activation(network.layers) != link:
            return network
        bare = network.layers[-1].without_activation()
        return network.without_last() if bare is None else replace(network, layers=(*network.layers[:-1], bare))

    def _engine_for(self, X: Any) -> engines.Engine:
        """Where X is worked on: on the GPU that it lies on, else on the model's device."""
        return engines.named(self.device) if arrays.on_host(X) else engines.of(X)

    def _run(self, network: Network, X: Any, threads: int | None) -> Any:
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

    def _outputs_of(self, network: Network, X: Any, threads: int | None, engine: engines.Engine) -> Any:
        """The same for checked inputs, as an array of the engine or of the host, block by block."""
        outputs = engine.outputs(X, (len(X), *self._outputs), self.dtype)
        if len(X):
            rows = engine.rows_for(len(X))
            recipe = Prediction()
            key = InstanceKey.of(recipe, network, engine, rows, threads)
            with self._cache.take(key, lambda: _Prediction(recipe.build(network), rows, engine, threads)) as run:
                run.bind(self._state.on(engine))
                run(X, outputs, self.input_scale)
        return outputs

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # two models never share the arrays that training changes

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


def as_loss_network(model: ModelState, loss: Loss) -> Network:
    """The network whose outputs the loss takes: logits where it has a link.

    Raises InputError where the last layer already applies the link of another loss.
    """
    last = final_activation(model.layers)
    if loss.link is not None and last in ("softmax", "sigmoid", "log_softmax") and last != loss.link:
        raise InputError(f"{loss.name} takes logits or a final {loss.link}, and the last layer applies {last}")
    return model._logits_network(loss.link)


def _slots(snapshot: Snapshot) -> list[str]:
    """The names of what its optimizer keeps."""
    return [name for name in snapshot.arrays if name not in ("parameters", "statistics")]
