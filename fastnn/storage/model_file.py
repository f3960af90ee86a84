"""Models in files: the arrays, and a manifest that says everything else. See `fastnn.storage.archives` for the layout.

A file is written beside its target, flushed to the disk and renamed, so that a crash leaves the old file or the new one.
"""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from fastnn.errors import InputError, NotReadyError, PackageError, nearest

try:
    import msgspec
except ImportError as error:
    raise PackageError.of("msgspec", "reading and writing models", error) from error

from fastnn import random
from fastnn._version import __version__
from fastnn.data.targets import Task
from fastnn.layers import Layer
from fastnn.network.layout import lay_out
from fastnn.network.model import ModelState
from fastnn.network.state import Trained
from fastnn.optimizers import Optimizer
from fastnn.storage import archives
from fastnn_kernels.contract import UPDATES

FORMAT_VERSION = 2
OPTIMIZER, RUN = "optimizer.", "run."
"""How the names of arrays begin that are not the model's own."""
TRAINING = ("trainable", "l2", "l1", "learning_rate_factor")
"""Options of layers that change nothing of what a model is, but how it is trained."""
SLOTS = frozenset(slot for update in UPDATES.values() for slot in update.slots)

Run = tuple[Mapping[str, Any], Mapping[str, np.ndarray]]
"""What a training keeps beside the model: plain values, and arrays by name."""


# --- what is written ------------------------------------------------------------------------------------------------

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class _Struct(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Strict: a field that is unknown is an error, so that no newer file is half understood."""


class _Trained(_Struct):
    device: str
    precision: str


class _Counters(_Struct):
    step: Count
    epoch: Count


class _Optimizer(_Struct):
    """`kind`: the class that the slots belong to; `config`: its numbers, where they are known."""

    kind: str
    config: dict[str, Any] | None
    updates: Count
    slots: list[str]


class _Manifest(_Struct):
    format: Literal[2]
    fastnn: str
    random_stream: int
    dtype: Literal["float32", "float64"]
    seed: int
    input_scale: float
    features: Annotated[list[Size], msgspec.Meta(min_length=1)]
    feature_names: tuple[str, ...] | None
    layers: list[dict[str, Any]]
    task: dict[str, Any] | None
    trained: _Trained | None
    counters: _Counters
    optimizer: _Optimizer | None
    run: dict[str, Any] | None
    target_names: tuple[str, ...] | None = None
    """Absent in older files."""


def save(model: ModelState, path: archives.File, optimizer: bool = False, run: Run | None = None) -> None:
    """Write architecture, parameters, running statistics, seed, counters, task of `model`, and how it was trained to `path`: a
    path, whose file is replaced whole (behind a symbolic link the file that it points to), or a binary file object.

    `optimizer`: also its numbers, its state and the count of its updates, so that `fit` on the loaded model continues as it
    would have here. `run`: plain values (a dict that JSON can hold) and arrays (float32, float64, int64) of your own, for
    `read_run`.

    Layers of your own are named in the file; `load` must be given their classes. Raises NotReadyError before the model has
    parameters, InputError for what a file cannot hold, FileError if it cannot be written (an old one then survives).
    """
    if not model.built:
        raise NotReadyError("the model has no parameters to save yet; call fit, or build(n_features)")
    state = model.optimizer_state if optimizer else None
    values, arrays = (None, {}) if run is None else run
    kept = None
    if state is not None:
        config = None if model.optimizer is None else model.optimizer.to_config()
        kept = {"kind": state.optimizer, "config": config, "updates": state.updates, "slots": list(state.slots)}
    manifest = {
        "format": FORMAT_VERSION,
        "fastnn": __version__,
        "random_stream": random.STREAM_VERSION,
        "dtype": model.dtype.name,
        "seed": model.seed,
        "input_scale": model.input_scale,
        "features": list(model.network.features),
        "feature_names": model.feature_names,
        "target_names": model.target_names,
        "layers": _layer_configs(model.layers),
        "task": None if model.task is None else model.task.to_config(),
        "trained": None if model.trained is None else asdict(model.trained),
        "counters": asdict(model.counters),
        "optimizer": kept,
        "run": values,
    }
    tensors = dict(model.weights)
    if state is not None:
        tensors |= {OPTIMIZER + name: slot for name, slot in state.slots.items()}
    tensors |= {RUN + name: np.asarray(array) for name, array in arrays.items()}
    if isinstance(path, str | os.PathLike) and Path(path).is_symlink():
        path = os.path.realpath(path)
    archives.write(path, manifest, tensors)


def _layer_configs(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    frozen = {"trainable": False}
    return [{"layer": type(layer).__name__, **layer.config(), **({} if layer.trainable else frozen)} for layer in layers]


# --- what is read ---------------------------------------------------------------------------------------------------


def restore(model: ModelState, path: archives.File) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """Put everything that training changes back into `model` from a file, and return the values and arrays of its run.

    Raises InputError, and changes nothing, if the file is of another architecture or seed (which counts the random numbers);
    the errors of `load` besides.
    """
    stored = Stored.read(path)
    stored.compare(model, model.network.features if model.built else tuple(stored.manifest.features))
    stored.put_into(model)
    return stored.manifest.run, stored.arrays


@dataclass
class Stored:
    """The content of a file, checked as far as it can be without the layers."""

    path: Path
    manifest: _Manifest
    task: Task | None
    optimizer: Optimizer | None
    weights: dict[str, np.ndarray]
    slots: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, file: archives.File) -> Stored:
        raw_manifest, tensors = archives.read(file)
        path = archives.path_of(file)
        version, library = raw_manifest.get("format"), str(raw_manifest.get("fastnn"))
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            cure = f"; it was written by fastnn {library}: pip install 'fastnn-xp>={library}'" if newer else ""
            archives.refuse(path, f"has format {version!r}; this version of fastnn reads format {FORMAT_VERSION}{cure}")
        try:
            manifest = msgspec.convert(raw_manifest, _Manifest)
            task = None if manifest.task is None else Task.from_config(manifest.task)
            kept = manifest.optimizer
            optimizer = None if kept is None or kept.config is None else Optimizer.from_config(kept.config)
        except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
            archives.refuse(path, f"does not describe a model: {error}", error)
        if manifest.random_stream != random.STREAM_VERSION:
            stream = f"{manifest.random_stream}, which this version does not make"
            archives.refuse(path, f"continues with random stream {stream}; it was written by fastnn {library}")
        arrays = {name[len(RUN) :]: tensors.pop(name) for name in list(tensors) if name.startswith(RUN)}
        slots = {name[len(OPTIMIZER) :]: tensors.pop(name) for name in list(tensors) if name.startswith(OPTIMIZER)}
        stored = cls(path, manifest, task, optimizer, tensors, slots, arrays)
        stored._check()
        return stored

    def _check(self) -> None:
        """Raise FormatError where the arrays do not belong together."""
        names = set() if self.manifest.optimizer is None else set(self.manifest.optimizer.slots)
        if set(self.slots) != names or not names <= SLOTS:
            archives.refuse(self.path, f"has the state {sorted(self.slots)} of an optimizer with {sorted(names)}")
        shapes = {slot.shape for slot in self.slots.values()}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            archives.refuse(self.path, f"has states of an optimizer of the shapes {sorted(shapes)}")
        for name, values in {**self.weights, **self.slots}.items():
            if values.dtype != self.manifest.dtype:
                archives.refuse(self.path, f"has {name} of {values.dtype} in a model of {self.manifest.dtype}")
            if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
                archives.refuse(self.path, f"has NaN or infinity in {name}")
        feature_names = self.manifest.feature_names
        if feature_names is not None and math.prod(self.manifest.features) != len(feature_names):
            archives.refuse(self.path, f"has {len(feature_names)} names of features for inputs of {self.manifest.features}")

    def make(self, classes: Mapping[str, type[Layer]], model_class: type[ModelState]) -> Any:
        """A model of this architecture. Nothing is allocated before the layers ask for just the arrays of the file."""
        layers = []
        manifest = self.manifest
        for config in manifest.layers:
            options = dict(config)
            name = options.pop("layer", None)
            if not isinstance(name, str) or name not in classes:
                cure = f"{nearest(name, classes)}; give your own as layers={{{name!r}: ...}}"
                archives.refuse(self.path, f"has a layer {name!r}{cure}")
            trainable = options.pop("trainable", True)
            if not isinstance(trainable, bool):
                archives.refuse(self.path, f"does not describe a model: trainable is {trainable!r} in a layer {name}")
            layers.append((classes[name], options, trainable))
        try:
            model = model_class(
                [layer_class(**options).bound({"trainable": trainable}) for layer_class, options, trainable in layers],
                seed=manifest.seed,
                dtype=manifest.dtype,
                input_scale=manifest.input_scale,
            )
            expected, size = _shapes(model, tuple(manifest.features))
        except Exception as error:  # the layers were told to make something that they cannot, in ways of their own
            archives.refuse(self.path, f"does not describe a model: {error}", error)
        got = {name: values.shape for name, values in self.weights.items()}
        if expected != got:
            wrong = [name for name in {**expected, **got} if expected.get(name) != got.get(name)]
            name = wrong[0]
            archives.refuse(self.path, f"holds other arrays than its layers have: {name}: expected the shape "
                            f"{expected.get(name)}, got {got.get(name)} ({len(wrong)} differ)")  # fmt: skip
        self._check_slots(size)
        return model.build(manifest.features)

    def _check_slots(self, size: int) -> None:
        for name, values in self.slots.items():
            if values.size != size:
                archives.refuse(self.path, f"has {OPTIMIZER}{name} of {values.size} numbers for {size} parameters")

    def compare(self, model: ModelState, features: tuple[int, ...]) -> None:
        """Raise InputError unless this is a state of `model` for inputs of that shape, saying everything in which they differ,
        the seed (which counts the random numbers) included."""
        shapes, size = _shapes(model, features)
        theirs = {
            "dtype": self.manifest.dtype,
            "input_scale": str(self.manifest.input_scale),
            "features": str(tuple(self.manifest.features)),
            **{f"layer {index}": _line(config) for index, config in enumerate(self.manifest.layers)},
            **{name: str(values.shape) for name, values in self.weights.items()},
        }
        ours = {
            "dtype": model.dtype.name,
            "input_scale": str(model.input_scale),
            "features": str(features),
            **{f"layer {index}": _line(config) for index, config in enumerate(_layer_configs(model.layers))},
            **{name: str(shape) for name, shape in shapes.items()},
        }
        differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if differing:
            lines = [f"{self.path} holds another architecture than the model has:"]
            for name in differing:
                pair = (textwrap.shorten(side.get(name, "nothing"), 200) for side in (theirs, ours))
                text = "{}: the file has {}, the model has {}".format(name, *pair)
                lines += textwrap.wrap(text, 120, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
            raise InputError("\n".join(lines))
        if self.manifest.seed != model.seed:
            raise InputError(
                f"{self.path} continues with seed {self.manifest.seed}, and the model has seed {model.seed}; "
                f"make it with seed={self.manifest.seed}"
            )
        self._check_slots(size)

    def put_into(self, model: ModelState) -> None:
        """Let a model of this architecture be in this state, as far as training changes it."""
        manifest = self.manifest
        model.build(manifest.features)
        model.set_weights(self.weights)
        kept = manifest.optimizer
        kind, updates = (None, 0) if kept is None else (kept.kind, kept.updates)
        slots = model.state.start_optimizer(kind, tuple(self.slots), updates)
        for name, slot in slots.items():
            slot[...] = self.slots[name]
        model.optimizer = self.optimizer
        model.task = self.task
        task, loss = self.task, model.loss
        if loss is not None and (task is None or loss.name != task.loss):
            model.loss = None
        model.trained = None if manifest.trained is None else Trained(manifest.trained.device, manifest.trained.precision)
        model.feature_names, model.target_names = manifest.feature_names, manifest.target_names
        model.counters.step, model.counters.epoch = manifest.counters.step, manifest.counters.epoch


def _shapes(model: ModelState, features: tuple[int, ...]) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shapes of all arrays that the layers ask for, by name, and how many numbers of them are trained."""
    network = lay_out(model.layers, features, model.dtype).network
    return {place.name: place.shape for place in (*network.parameters, *network.statistics)}, network.size


def _line(config: Mapping[str, Any]) -> str:
    """A layer as it is written, after a journey through JSON, less its initial values and how it is trained."""
    options = json.loads(json.dumps(config))
    name = options.pop("layer", None)
    shown = (
        f"{key}={value!r}"
        for key, value in options.items()
        if value is not None and not key.endswith("_init") and key not in TRAINING
    )
    return f"{name}({', '.join(shown)})"
