"""What training works on: layers, the arena that holds their parameters, the state of an optimizer, and snapshots of them."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastnn import arrays, engines, random
from fastnn.configurations import answers_keywords, as_count
from fastnn.data.prepared import Expected, Glance
from fastnn.data.targets import Task, task_of
from fastnn.engines.cache import Instances, SharedInstances
from fastnn.errors import DeviceError, DeviceLostError, InputError, InputTypeError, NotReadyError, nearest
from fastnn.layers import Layer, Parameter, Statistic, final_activation
from fastnn.losses import Loss, LossLike, as_loss
from fastnn.network.layout import Layout, Network, lay_out
from fastnn.network.state import Counters, OptimizerState, Snapshot, State, Trained
from fastnn_kernels.contract import AVERAGE
from fastnn_kernels.memory import aligned_copy

if TYPE_CHECKING:
    from fastnn.optimizers import Optimizer


CHANGED = ("state", "_layout", "task", "trained", "loss", "optimizer", "feature_names", "device", "data_glance")
"""What a training sets."""

MOST_UPDATES = 2**62
"""Updates that an optimizer has made, at most."""


class ModelState:
    """A network of layers with its arrays and counts; `fastnn.Sequential` is what users see of it."""

    def __init__(
        self, layers: Iterable[Layer], *, seed: int | None = None, dtype: Any = "float32", input_scale: float = 1.0
    ) -> None:
        if isinstance(layers, Layer):
            raise InputTypeError("expected a sequence of layers, got one layer; write it in brackets")
        sequence = tuple(layers)
        for index, layer in enumerate(sequence):
            if not isinstance(layer, Layer):
                raise InputTypeError(f"layer {index}: expected a Layer, got {type(layer).__name__}")
        if not sequence:
            raise InputError("a model needs at least one layer")
        try:
            self.dtype = np.dtype("" if dtype is None else dtype)
        except TypeError as error:
            raise InputTypeError(f"dtype: expected float32 or float64, got {dtype!r}") from error
        if self.dtype not in (np.dtype("float32"), np.dtype("float64")):
            raise InputTypeError(f"dtype: expected float32 or float64, got {self.dtype}")
        if not 0.0 < input_scale < math.inf:
            raise InputError(f"input_scale: expected a positive number, got {input_scale}")
        self.layers = tuple(layer.in_context(sequence[index + 1 :]) for index, layer in enumerate(sequence))
        self.seed = random.draw_seed() if seed is None else seed
        random.key(self.seed, random.INITIAL_WEIGHTS)  # refuses a seed out of range now
        self.seed = int(self.seed)
        self.input_scale = float(input_scale)
        self.task: Task | None = None
        self.trained: Trained | None = None
        self.feature_names: tuple[str, ...] | None = None
        self.target_names: tuple[str, ...] | None = None
        self.loss: Loss | None = None
        self.optimizer: Optimizer | None = None
        """Of the last training; None before it."""
        self.data_glance: Glance | None = None
        """What tells the examples of the last `fit` in this process from others; None where they came in mini-batches."""
        self.device = "cpu"
        self.state = State(self.dtype)
        self.state.add(parameters=0, statistics=0)
        self.instances = Instances()
        """Programs that are ready for the next call."""
        self.predictors: dict[Any, Any] = {}
        """What `fastnn.network.inference` has found out about them."""
        self._layout: Layout | None = None
        self._expected: tuple[Layout, tuple[str, ...] | None, Expected] | None = None
        self._training = threading.Lock()

    @answers_keywords
    def build(
        self, features: int | Sequence[int], *, loss: LossLike | None = None, classes: Sequence[Any] | None = None
    ) -> Self:
        """Make the parameters for inputs with `features` columns (or of that shape) and draw their initial values.

        `loss`: also say what the model is for, as `fit` finds out from its loss and from y. `predict`, `predict_proba`,
        `evaluate` and `save` then know it without a `fit`, of a model whose weights come from elsewhere:

            model.build(4, loss="softmax_cross_entropy", classes=["setosa", "versicolor", "virginica"])
            model.set_weights(weights)
            model.predict(X)

        `classes`: the labels in the order of the outputs. Without them they are 0 to C - 1 for softmax cross-entropy and 0 and
        1 for one output with a sigmoid; several outputs with a sigmoid are then several yeses or noes, and outputs of other
        losses numbers, (n,) of one output. A later `fit` has its own loss; its labels are to be among these `classes`.

        May be called again, for the same features; parameters stay. Raises InputError for classes that do not fit the last
        layer, and NotReadyError where the task of a model would change that is being trained.
        """
        if loss is None and classes is not None:
            raise InputError("build: classes are those of a loss; give loss= too, such as loss='softmax_cross_entropy'")
        shape = (features,) if isinstance(features, int | np.integer) else features
        if not isinstance(shape, tuple | list) or not all(isinstance(d, int | np.integer) and d >= 1 for d in shape):
            raise InputError(f"build: expected a number of features of at least 1, or a shape of such, got {features!r}")
        layout = self.layout_for(tuple(int(d) for d in shape))
        task = None
        if loss is not None:
            chosen, expected = as_loss(loss), expected_of(layout, None)
            task = task_of(chosen, expected.columns, expected.squashed, classes)
        if not self.built:
            self.state, self._layout = _initial_state(layout.network, self.seed), layout
        if task is not None:
            with self.reserve("build: the model is being trained; say what it is for between two calls of fit"):
                self.task, self.loss = task, chosen
        return self

    def build_like(self, other: ModelState) -> Self:
        """`build` as `other` is, a model of the same layers, dtype and seed, with the values that its parameters have: nothing
        that follows from these is found out again, and both use the same programs, one after the other."""
        if not isinstance(other.instances, SharedInstances):
            other.instances = SharedInstances()
        self.instances = SharedInstances(other.instances)
        values = other.state.read()
        state = State(self.dtype)
        for name, array in state.add(**{name: values[name].size for name in ("parameters", "statistics")}).items():
            np.copyto(array, values[name])
        self.state, self._layout = state, other.layout
        return self

    def layout_for(self, features: tuple[int, ...]) -> Layout:
        """The layout for inputs of that shape, as `build` makes it. Raises InputError where the model has another one."""
        if self._layout is None:
            return lay_out(self.layers, features, self.dtype, self.seed, self.input_scale)
        if self.network.features != features:
            raise InputError(f"the model has parameters for inputs of shape {self.network.features}, not {features}")
        return self._layout

    def clone(self, *, seed: int | None = None) -> Self:
        """An untrained copy: the same layers, dtype, input scale and device, with the initial weights of `seed` (by default the
        same). `fit` goes on from the last training; cross-validation begins each fold with a clone.

            scores = []
            for train, dev in folds:
                fold = model.clone()
                fold.fit(X[train], y[train], verbose=0)
                scores.append(fold.evaluate(X[dev], y[dev])["accuracy"])
        """
        model = type(self)(
            self.layers, seed=self.seed if seed is None else seed, dtype=self.dtype, input_scale=self.input_scale
        )
        model.device = self.device
        return model

    def averaged(self) -> Self:
        """A copy of the model with the moving average of its parameters in their place, to predict, to evaluate, to save.

            model.fit(X, y, optimizer=fastnn.Adam(ema=0.999))
            model.averaged().evaluate(X_test, y_test)

        The average is the slot `average` of `optimizer_state`; see `fastnn.optimizers`. Running statistics of batch norm are
        the model's current ones. The copy has no optimizer state: to train on as before, call `fit` of the model itself, which
        has both. What `fit` measures on validation data, and what EarlyStopping goes by, is of the parameters themselves.

        Raises NotReadyError where there is no average: before a `fit` with `ema`, and after one without.
        """
        self._host()
        if self.state.optimizer is None or AVERAGE not in self.state.optimizer.slots:
            raise NotReadyError(
                "averaged: there is no average of the parameters; train with ema, as in optimizer=fastnn.Adam(ema=0.999)"
            )
        model = copy.deepcopy(self)
        model.loss = self.loss
        arrays = model.state.host()
        np.copyto(arrays["parameters"], arrays[AVERAGE])
        model.state.start_optimizer(None)
        return model

    def freeze(self, *layers: int) -> Self:
        """Let `fit` leave the parameters of these layers as they are, bit for bit, until `unfreeze`; returns the model.

            model = fastnn.load("digits.safetensors").freeze(0, 1)      # train the rest on other data
            model.fit(X, y)
            model.unfreeze().fit(X, y, optimizer=fastnn.Adam(1e-4))     # then everything, in small steps

        `layers`: their numbers, as in the names of the parameters, negative ones from the end; without any, all layers.
        Those without parameters stay as they are. The gradients of frozen parameters are not computed, and frozen layers at
        the beginning are skipped in the backward pass. Frozen weights have no part in the norm that `clip_norm` limits, nor
        in the penalty, which is that of what is trained. A frozen BatchNorm uses its running statistics and keeps them;
        Dropout continues dropping. A Dense layer in front of a frozen BatchNorm learns no shift unless it was made with
        `use_bias=True`: beta stood for its bias and is frozen, and freezing adds no parameters to a model. What the
        optimizer keeps of frozen parameters stays as it is. What is frozen is saved with the model; a layer may be made so as
        well (`trainable=False`).

        Raises InputTypeError and InputError for an invalid layer number, NotReadyError while the model is being trained.
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
        with self.reserve(f"{name}: the model is being trained; call it between two calls of fit"):
            self.layers = tuple(
                layer.bound({"trainable": trainable}) if index in chosen and layer.has_parameters else layer
                for index, layer in enumerate(self.layers)
            )
            if self._layout is not None:
                self._layout = replace(self._layout, network=replace(self.network, layers=self.layers))
        return self

    @property
    def layout(self) -> Layout:
        """The network and the shape of its outputs; raises NotReadyError before `build`."""
        if self._layout is None:
            raise NotReadyError("the model has no parameters yet; call fit, or build(n_features)")
        return self._layout

    @property
    def network(self) -> Network:
        """The layers and where their arrays lie; raises NotReadyError before `build`."""
        return self.layout.network

    @property
    def built(self) -> bool:
        return self._layout is not None

    @property
    def counters(self) -> Counters:
        """Steps and epochs since the model was made."""
        return self.state.counters

    @property
    def expected(self) -> Expected:
        """What this model expects of data; raises NotReadyError before `build`."""
        layout, names, known = self.layout, self.column_names, self._expected
        if known is None or known[0] is not layout or known[1] != names:
            known = self._expected = layout, names, expected_of(layout, names)
        return known[2]

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """The names that columns of frames are found by: those of the training, or else those that the first layer knows."""
        return self.feature_names or self.layers[0].feature_names

    def reserve(self, refusal: str = "this model is being trained already by another call of fit") -> threading.Lock:
        """What reserves the model for training while it is entered. Raises NotReadyError, saying `refusal`, if another call
        holds it.

        It is the lock itself: a Ctrl-C can come into no method on the way in or out, and leave the model reserved.
        """
        if self._training.locked():
            raise NotReadyError(refusal)
        return self._training  # if another thread is faster now, its training is waited for

    @property
    def is_reserved(self) -> bool:
        """Whether a call of `fit` trains the model now."""
        return self._training.locked()

    def _host(self, change: bool = False) -> dict[str, np.ndarray]:
        """All arrays with their latest values on the host, to be looked at, or to `change`."""
        with self.guard_device():
            return self.state.host() if change else self.state.read()

    def guard_device(self) -> DeviceGuard:
        """Errors of a GPU as errors of this library; where it is lost, the model continues from what the host has of it."""
        return DeviceGuard(self)

    @property
    def optimizer_state(self) -> OptimizerState | None:
        """What the optimizer of the last fit keeps, with the latest values on the host; None before it.

        A mapping, and a copy, as `weights` is one: `model.optimizer_state["mean"]["0.weight"]` is Adam's first moment of a
        weight. SGD without momentum keeps nothing. `set_optimizer_state` changes it.
        """
        self._host()
        kept = self.state.optimizer
        if kept is None:
            return None
        slots = {name: aligned_copy(array) for name, array in kept.slots.items()}
        return OptimizerState(kept.optimizer, slots, kept.updates, self.network.parameters)

    def set_optimizer_state(self, state: Mapping[str, Mapping[str, Any]], *, updates: int | None = None) -> None:
        """Set what the optimizer keeps, by slot and parameter (all of them or some), as `optimizer_state` names it.

        `updates`: how many updates it stands for, which Adam's corrections of its means depend on; by default as before. Raises
        NotReadyError before `fit`, InputError and InputTypeError for a wrong name, shape, dtype or number; then nothing is
        changed.
        """
        self._host(change=True)
        kept = self.state.optimizer
        if kept is None:
            raise NotReadyError("the model has no optimizer yet, whose state could be set; call fit, with epochs=0 if need be")
        if updates is not None:
            updates = as_count("updates", updates, 0)
            if updates > MOST_UPDATES:
                raise InputError(f"set_optimizer_state: updates: expected at most {MOST_UPDATES}, got {updates}")
        kept.parameters = self.network.parameters
        if not isinstance(state, Mapping) or not all(isinstance(values, Mapping) for values in state.values()):
            raise InputTypeError('set_optimizer_state: expected a dict such as {"mean": {"0.weight": array}}')
        changes: list[tuple[np.ndarray, np.ndarray]] = []
        for slot, values in state.items():
            if slot not in kept:
                raise InputError(f"set_optimizer_state: {kept.optimizer} keeps no {slot!r}{nearest(slot, kept)}")
            views = kept.views(slot)
            for name, value in self._check_arrays(values, views).items():
                if slot == "square" and (value < 0).any():
                    raise InputError(f"set_optimizer_state: {name}: means of squares are at least 0, got {value.min():g}")
                changes.append((views[name], value))
        for view, value in changes:
            view[...] = value
        kept.updates = kept.updates if updates is None else updates

    def _views_by_name(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Views of every parameter and statistic, by name, in the order of the layers."""
        network = self.network
        entries = {p.name: (p, arrays["parameters"]) for p in network.parameters}
        entries |= {p.name: (p, arrays["statistics"]) for p in network.statistics}
        ordered = sorted(entries.items(), key=lambda item: item[1][0].layer)
        return {name: arena[p.start : p.start + p.size].reshape(p.shape) for name, (p, arena) in ordered}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and running statistics: `{"0.weight": (I, O), "0.bias": (O,), ...}`."""
        return {name: view.copy() for name, view in self._views_by_name(self._host()).items()}

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Set parameters by name (all of them or some). A wrong name, shape or dtype raises, and nothing is changed."""
        views = self._views_by_name(self._host(change=True))
        if not isinstance(weights, Mapping):
            raise InputTypeError(f"set_weights: expected a dict of arrays by name, got {type(weights).__name__}")
        has_map = self.network.input_map.offset is not None
        mapped = {place.name for place in self.network.statistics if has_map and place.layer == 0}
        checked = self._check_arrays(weights, views)
        for name in mapped & checked.keys():
            if not np.array_equal(checked[name], views[name]):
                raise InputError(
                    f"{name}: it follows from the options of layer 0, {self.layers[0]!r}; make a model with another layer"
                )
        for name, value in checked.items():
            views[name][...] = value

    def _check_arrays(self, values: Mapping[str, Any], views: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of the host of the names, shapes and dtype of `views`; raises for others, and where one is not finite."""
        checked = {}
        for name, value in values.items():
            if name not in views:
                raise InputError(f"the model has no {name!r}{nearest(name, views)}")
            array = arrays.to_host(value)
            if array.shape != views[name].shape:
                raise InputError(f"{name}: expected shape {views[name].shape}, got {array.shape}")
            if array.dtype != self.dtype:
                raise InputTypeError(
                    f"{name}: expected {self.dtype}, got {array.dtype}; convert it with .astype('{self.dtype}')"
                )
            if not np.isfinite(array).all():
                raise InputError(f"{name}: {np.count_nonzero(~np.isfinite(array))} values are NaN or infinite")
            checked[name] = array
        return checked

    @property
    def parameter_count(self) -> int:
        """Numbers of all parameters, those of frozen layers included."""
        return self.network.size

    def snapshot(self) -> Snapshot:
        """A copy of everything that training changes."""
        with self.guard_device():
            return self.state.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot of this model back.

        Raises InputError for one of another network, and NotReadyError for one of another optimizer (or of none) while the
        model is being trained; then nothing is changed.
        """
        built = self.network if self.built else None
        sizes = {"parameters": built.size if built else 0, "statistics": built.statistics_size if built else 0}
        sizes |= dict.fromkeys(snapshot.slots, sizes["parameters"])
        snapshot_sizes = {name: math.prod(values.shape) for name, values in snapshot.arrays.items()}
        if snapshot_sizes != sizes:
            raise InputError(
                f"restore: expected a snapshot of this network, with arrays of {sizes} numbers, got {snapshot_sizes}"
            )
        if self.is_reserved and not self.state.keeps(snapshot):
            raise NotReadyError("restore: the model is being trained by another optimizer than that of the snapshot")
        with self.guard_device():
            self.state.restore(snapshot)

    def to(self, device: str) -> Self:
        """Let arrays of the host be predicted on this device from now on; `fit` sets it to the one that it trains on.

        "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one. Raises DeviceError for one that cannot be used.
        """
        self.device = engines.choose(device)[0].name
        return self

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # two models never share the arrays that training changes

    def __getstate__(self) -> dict[str, Any]:
        self._host()
        state = dict(vars(self))
        del state["instances"], state["predictors"], state["_expected"], state["_training"]
        if self.loss is not None and not self.loss.built_in:
            state["loss"] = None  # a function of the user's own may not be picklable; evaluate then asks for it
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        try:
            engines.by_name(self.device)
        except DeviceError:  # the machine that unpickles it has no such GPU
            self.device = "cpu"
        self.instances, self.predictors, self._expected = Instances(), {}, None
        self._training = threading.Lock()


def _initial_state(network: Network, seed: int) -> State:
    """The arrays of a network with their initial values."""
    state = State(network.dtype)
    arena, values = state.add(parameters=network.size, statistics=network.statistics_size).values()
    for place in network.parameters:
        assert isinstance(place.declaration, Parameter)
        beside = sorted(other.attribute for other in network.parameters if other.layer == place.layer)
        number = (place.layer << 16) + beside.index(place.attribute)  # each array draws from a key of its own
        drawn = place.declaration.initial(random.key(seed, random.INITIAL_WEIGHTS, number), place.shape, network.dtype)
        arena[place.start : place.start + place.size] = drawn.reshape(-1)
    bounds = np.finfo(network.dtype)
    for place in network.statistics:
        assert isinstance(place.declaration, Statistic)
        # Only a layer that is computed in float64 while rows are read has larger ones, and it does not look here.
        initial = np.clip(np.ravel(place.declaration.initial), float(bounds.min), float(bounds.max))
        values[place.start : place.start + place.size] = initial
    return state


def expected_of(layout: Layout, feature_names: tuple[str, ...] | None) -> Expected:
    """What a model of this layout, trained on columns of these names, expects of data."""
    network = layout.network
    squashed = final_activation(network.layers) == "sigmoid"
    return Expected(network.features, feature_names, network.dtype, layout.outputs, squashed, network.input_map)


class DeviceGuard:
    """What `ModelState.guard_device` returns; a class, since a single step feels what a generator costs."""

    __slots__ = ("model",)

    def __init__(self, model: ModelState) -> None:
        self.model = model

    def __enter__(self) -> None:
        """Nothing is to be done before."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        ours = engines.translation(error) if isinstance(error, RuntimeError) else None
        if isinstance(ours or error, DeviceLostError):
            self.model.state.lose()
            self.model.device = "cpu"
        if ours is not None:
            try:
                raise ours from error
            finally:
                del ours  # else this frame would keep the error, and the error all frames, and what they hold


class Before:
    """A model as it was when this was made: what a call that fails puts back. `arrays`: also those of a model that is built;
    without them nothing may change them before the first step."""

    def __init__(self, model: ModelState, arrays: bool = True) -> None:
        attributes = vars(model)
        self.model, self.attributes = model, {name: attributes[name] for name in CHANGED}
        self.snapshot = model.snapshot() if model.built and arrays else None

    def put_back(self) -> None:
        """Let the model be so again; whoever calls this has reserved it."""
        vars(self.model).update(self.attributes)
        if self.snapshot is not None:
            with self.model.guard_device():
                self.model.state.restore(self.snapshot)
