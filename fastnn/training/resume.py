"""Continuing with an earlier run: what a checkpoint keeps of a run beside the model, and how another run takes it over.

Some settings tell what a run computes and must be the same (`_identity`); others may be changed knowingly (`_changeable`), with
a warning that says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastnn.callbacks import Callback, Checkpoint, RunState
from fastnn.data.batches import Batches
from fastnn.data.inputs import RowSource, take_rows
from fastnn.data.prepared import PreparedData
from fastnn.errors import FileError, FormatError, InputError, InputTypeError, warn
from fastnn.layers import Parameter
from fastnn.losses import Loss
from fastnn.network.layout import Network
from fastnn.network.programs import LOG_COLUMNS
from fastnn.optimizers import Optimizer
from fastnn.schedules import Schedule
from fastnn_kernels.contract import ARITHMETIC

if TYPE_CHECKING:
    from fastnn.storage.model_file import Stored

LOOKED_AT = 1024
"""Examples that tell data apart: a run is resumed on the data that it began with."""


class Resumable(RunState, Protocol):
    """What is kept of a training, beside what callbacks see of it."""

    loss: Loss
    optimizer: Optimizer
    network: Network
    penalties: tuple[float, float]
    """L2 and L1 of all layers that have none of their own."""
    examples: PreparedData
    """All, or the first mini-batch of an iterable, `batches`."""
    batches: Batches | None
    validation: PreparedData | None
    shuffle: bool
    order: Callable[[int], Any] | None
    shard_rows: int | None
    validation_split: float | None
    seen: int
    """Examples of this epoch so far; `sums`: of what their steps wrote down."""
    sums: np.ndarray
    own_rate: float | None
    """The learning rate that was assigned."""
    schedule: Schedule
    steps_per_epoch: int
    """0 where an iterable does not tell how long it is."""


@dataclass(frozen=True)
class Earlier:
    """How far an earlier run was, read from a checkpoint and compared with the run that continues it."""

    stored: Stored
    step: int
    epoch: int
    in_epoch: int
    seen: int
    own_rate: float | None
    sums: np.ndarray
    history: dict[str, list[float]]
    callbacks: Sequence[Mapping[str, Any]]


def read(run: Resumable, source: Any) -> Earlier | None:
    """Where `source` (the `resume` of `Sequential.fit`) says to continue from; None to begin afresh. Nothing is changed."""
    stored = _checkpoint(run, source)
    if stored is None:
        return None
    path = stored.path
    stored.compare(run.model, run.network.features)
    values = stored.manifest.run
    if not values:
        raise InputError(f"resume: {path} holds a model, but not how far its training was; Checkpoint writes such files")
    with _format_errors(path):
        _compare(run, path, values["settings"])
        _compare_length(run, int(values["step"]), values.get("epochs"))
        _compare_arithmetic(run, path, int(values.get("arithmetic", 1)))
        step, epoch, in_epoch, seen = (int(values[name]) for name in ("step", "epoch", "in_epoch", "seen"))
        rate = None if values["learning_rate"] is None else float(values["learning_rate"])
        sums = np.array([float(values["sums"][name]) for name in LOG_COLUMNS])
        history = {str(name): [float(v) for v in column] for name, column in values["history"].items()}
        return Earlier(stored, step, epoch, in_epoch, seen, rate, sums, history, values["callbacks"])


def take_over(run: Resumable, earlier: Earlier) -> None:
    """Continue from there: the model, the counts and the callbacks are as they were."""
    with _format_errors(earlier.stored.path):
        _restore(run.callbacks, earlier.callbacks, earlier.stored.arrays)
    earlier.stored.put_into(run.model)
    run.step, run.epoch, run.in_epoch, run.seen = earlier.step, earlier.epoch, earlier.in_epoch, earlier.seen
    run.own_rate, run.sums = earlier.own_rate, earlier.sums
    run.history.update(earlier.history)


@contextlib.contextmanager
def _format_errors(path: Path) -> Iterator[None]:
    """Turn missing or malformed fields of the file into FormatError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise FormatError(f"{path} does not say how far its training was: {error}") from error


def checkpoint_state(run: Resumable) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """How far the run is, as plain values and arrays: what a checkpoint keeps beside the model."""
    states, kept = [], {}
    for index, callback in enumerate(run.callbacks):
        state: dict[str, Any] = {}
        for name, value in callback.state().items():
            if isinstance(value, np.ndarray):
                kept[f"callbacks.{index}.{name}"] = value
            else:
                state[name] = value
        states.append({"type": type(callback).__name__, **state})
    values = {
        "settings": {**_identity(run), **_changeable(run)}, "arithmetic": ARITHMETIC,
        "epochs": run.epochs, "epoch": run.epoch, "step": run.step, "in_epoch": run.in_epoch, "seen": run.seen,
        "learning_rate": run.own_rate, "sums": dict(zip(LOG_COLUMNS, run.sums.tolist(), strict=True)),
        "history": dict(run.history), "callbacks": states,
    }  # fmt: skip
    plain: dict[str, Any] = _plain(values)
    return plain, kept


def _checkpoint(run: Resumable, source: Any) -> Stored | None:
    """What to continue from; None to begin afresh."""
    if source is None or source is False:
        return None
    if source is True:
        folders = [callback.folder for callback in run.callbacks if isinstance(callback, Checkpoint)]
        if not folders:
            raise InputError("resume=True continues from the folder of a Checkpoint among the callbacks, and there is none")
        return folders[0].read_latest()
    if not isinstance(source, str | os.PathLike):
        raise InputTypeError(f"resume: expected a path, True or None, got {type(source).__name__}")
    path = Path(source)
    if not path.exists():
        raise FileError(f"resume: there is neither a checkpoint nor a folder of checkpoints at {path}")
    from fastnn.storage.folder import Folder
    from fastnn.storage.model_file import Stored

    if not path.is_dir():
        return Stored.read(path)
    latest = Folder(path).read_latest()
    if latest is None:
        raise InputError(f"resume: there is no checkpoint in the folder {path}")
    return latest


def _compare(run: Resumable, path: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError where the run of a checkpoint computes something else; warn where its settings are others."""
    for name, current in _identity(run).items():
        if name == "data" and settings.get(name) != current:
            raise InputError(f"resume: {path} is of a run with other data; continue with those that it began with")
        if settings.get(name) != current:
            raise InputError(
                f"resume: {path} is of a run with other {name.replace('_', ' ')}: "
                f"it has {settings.get(name)!r}, this call {current!r}"
            )
    now, before = _flat(_changeable(run)), _flat(settings)
    changed = [
        f"other {name.replace('_', ' ')}" if name == "validation_data" else f"{name} {value!r} (it was {before.get(name)!r})"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        warn(f"resume: continues with {', '.join(changed)}")


def _compare_length(run: Resumable, step: int, epochs: Any) -> None:
    """Warn if the learning rate jumps because the schedule goes over another number of epochs, which older files do not say."""
    per_epoch = run.steps_per_epoch
    if epochs is None or not per_epoch or not run.schedule.depends_on_length or run.own_rate is not None:
        return
    before, now = (float(run.schedule.rates(np.array([step]), per_epoch, n * per_epoch)[0]) for n in (int(epochs), run.epochs))
    if before != now:
        warn(
            f"resume: {type(run.schedule).__name__} goes over {run.epochs} epochs now, and went over {int(epochs)}: "
            f"the learning rate of the next step is {now:g} instead of {before:g}"
        )


def _compare_arithmetic(run: Resumable, path: Path, before: int) -> None:
    """Warn where a CPU adds the rows of a mini-batch in another order than the version that began the run."""
    if run.engine.is_host and before != ARITHMETIC:
        warn(
            f"resume: {path} is of a version of fastnn that adds the rows of a mini-batch in another order; the run goes on, "
            "and its last digits will differ from those of a run that began with this version"
        )


def _restore(callbacks: Sequence[Callback], states: Sequence[Mapping[str, Any]], kept: Mapping[str, np.ndarray]) -> None:
    """Give each callback what one of its class left, in the order of the list."""
    left = list(enumerate(states))
    for callback in callbacks:
        match = next((entry for entry in left if entry[1]["type"] == type(callback).__name__), None)
        if match is not None:
            left.remove(match)
            index, state = match
            prefix = f"callbacks.{index}."
            arrays = {name.removeprefix(prefix): array for name, array in kept.items() if name.startswith(prefix)}
            callback.restore({**{k: v for k, v in state.items() if k != "type"}, **arrays})


def _identity(run: Resumable) -> dict[str, Any]:
    """What must not change in the middle of a run."""
    return {
        "loss": run.loss.name,
        "optimizer": type(run.optimizer).__name__,
        "batch_size": run.batch_size,
        "validation_split": run.validation_split,
        "data": _digest(run.examples) if run.batches is None else "mini-batches",
        "order": "given" if run.order is not None else "shuffled" if run.shuffle else "of the rows",
        "shard_rows": run.shard_rows,
        "frozen_layers": list(run.network.frozen) or None,
    }


def _changeable(run: Resumable) -> dict[str, Any]:
    """What may be changed, knowingly."""
    try:
        optimizer = run.optimizer.to_config()
    except InputError:  # a schedule of the user's own
        optimizer = {"type": type(run.optimizer).__name__}
    return {
        "optimizer_settings": optimizer,
        "l2": run.penalties[0],
        "l1": run.penalties[1],
        "training_of_layers": _training_of_layers(run) or None,
        "precision": run.engine.precision,
        "validation_data": None if run.validation is None else _digest(run.validation),
    }


def _training_of_layers(run: Resumable) -> list[list[Any]]:
    """The parameters that are not trained as `fit` says: name, L2, L1, factor of the learning rate."""
    usual = [None, None, 1.0]
    declarations = [(p.name, p.declaration) for p in run.network.parameters]
    treated = [[name, d.l2, d.l1, d.learning_rate_factor] for name, d in declarations if isinstance(d, Parameter)]
    return [row for row in treated if row[1:] != usual]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, those of the optimizer beside the others."""
    return {name: value for name, value in values.items() if name != "optimizer_settings"} | dict(values["optimizer_settings"])


def _plain(value: Any) -> Any:
    """Values as JSON knows them: numbers that are not finite become their names, which `float` reads."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def _digest(examples: PreparedData) -> str:
    """A digest of shapes, dtypes, labels and some of the examples: tells whether data are those that a run began with."""
    n = len(examples.y)
    rows = np.unique(np.linspace(0, n - 1, min(n, LOOKED_AT)).astype(np.int64))
    kinds = [(name, a.shape, str(a.dtype)) for name, a in examples.arrays().items()]
    labels = None if examples.classes is None else examples.classes.tolist()
    digest = hashlib.sha256(repr((kinds, labels)).encode())
    for array in examples.arrays().values():
        if isinstance(array, np.ndarray | RowSource):
            block = np.empty((len(rows), *array.shape[1:]), array.dtype)
            take_rows(array, rows, block)
            digest.update(block.tobytes())
    return digest.hexdigest()[:32]
