"""The arrays that training changes, on the host and on a device, and which of the two holds the latest values.

On the host engines there is one copy, used where it lies. A GPU has a second one: it is filled when the GPU first needs it,
continues from there, and is fetched when the host next looks.

Compiled code writes to these arrays where they lie. They are therefore always allocated here, and values from elsewhere (a
file, a pickle, a user) are copied into them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import arrays
from fastnn.engines import Engine
from fastnn_kernels.memory import aligned, owned

Progress = tuple[int, ...]
"""How far a training is with some values of the arrays: counts that belong to them."""


class State:
    """Flat arrays of one dtype by name."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._host: dict[str, np.ndarray] = {}
        self._progress: Progress | None = None  # of the latest values
        self._fetched: Progress | None = None  # of those on the host
        self._remote: dict[str, Any] = {}
        self._engine: Engine | None = None
        self._ahead = False  # the device holds newer values than the host
        self._behind = True  # the host holds newer values than the device
        self._lock = threading.RLock()

    def add(self, **sizes: int) -> dict[str, np.ndarray]:
        """New arrays of zeros, instead of what went by their names; returns all, to be changed on the host."""
        with self._lock:
            self.read()
            self._host |= {name: aligned(size, self._dtype) for name, size in sizes.items()}
            self._remote = {name: array for name, array in self._remote.items() if name not in sizes}
            self._behind = True
            return self._host

    def drop(self, *names: str) -> None:
        """Forget arrays."""
        with self._lock:
            self.read()
            for name in names:
                self._host.pop(name, None)
                self._remote.pop(name, None)

    def read(self) -> dict[str, np.ndarray]:
        """The arrays on the host, to be looked at only."""
        with self._lock:
            if self._ahead:
                assert self._engine is not None
                names = list(self._remote)
                for name, values in zip(names, self._engine.read(*self._remote.values()), strict=True):
                    np.copyto(self._host[name], values)
                self._ahead, self._fetched = False, self._progress
            return self._host

    def host(self) -> dict[str, np.ndarray]:
        """The arrays on the host, to be changed there."""
        with self._lock:
            found = self.read()
            self._behind = True
            return found

    def on(self, engine: Engine) -> dict[str, Any]:
        """The arrays where `engine` uses them, with the latest values. Call `changed` when a program has changed them."""
        with self._lock:
            if engine.is_host:
                return self.read()
            if self._engine is None or self._engine.name != engine.name:
                self.read()
                self._remote, self._engine, self._behind = {}, engine, True
            for name, array in self._host.items():
                if name not in self._remote:
                    self._remote[name] = engine.place(array)
                elif self._behind:
                    engine.write(self._remote[name], array)
            self._behind = False
            return dict(self._remote)

    def begin(self, engine: Engine, progress: Progress) -> None:
        """A training continues from the latest values, which the host gets as well, on `engine`."""
        with self._lock:
            self.read()
            self.on(engine)
            self._fetched = progress
            self.changed(engine, progress)

    def changed(self, engine: Engine, progress: Progress | None = None) -> None:
        """What `on` returned for this engine holds newer values now; `progress` belongs to them."""
        with self._lock:
            remote = not engine.is_host
            self._ahead, self._behind = remote, not remote
            self._progress = progress
            if not remote:
                self._fetched = progress

    def copies(self) -> dict[str, Any]:
        """A copy of every array, where the latest values are."""
        with self._lock:
            if not self._ahead:
                return {name: array.copy() for name, array in self._host.items()}
            assert self._engine is not None
            made = {}
            for name, array in self._remote.items():
                made[name] = self._engine.empty(array.shape, array.dtype)
                self._engine.copy(made[name], array)
            return made

    def restore(self, copies: Mapping[str, Any], progress: Progress | None = None) -> None:
        """Put what `copies` returned back, with what belongs to it; arrays that were made since then stay as they are."""
        with self._lock:
            engine = self._engine
            places = {arrays.device(values) for values in copies.values()}
            if engine is not None and places == {engine.name}:
                self.on(engine)
                for name, values in copies.items():
                    engine.copy(self._remote[name], values)
                self.changed(engine, progress)
                return
            given = {name: values if isinstance(values, np.ndarray) else values.read() for name, values in copies.items()}
            target = self.host()
            for name, values in given.items():
                np.copyto(target[name], values)
            self._progress = self._fetched = progress

    def lose(self) -> Progress | None:
        """Continue with what the host holds: the device is lost. Returns its progress, None where it is the latest."""
        with self._lock:
            lost, self._ahead = self._ahead, False
            self._remote, self._engine, self._behind = {}, None, True
            return self._fetched if lost else None

    def __getstate__(self) -> tuple[str, dict[str, np.ndarray]]:
        return self._dtype.name, dict(self.read())

    def __setstate__(self, state: tuple[str, dict[str, np.ndarray]]) -> None:
        dtype, arrays = state
        self.__init__(dtype)  # type: ignore[misc]
        self._host = {name: owned(array) for name, array in arrays.items()}  # a pickle may hand over read-only or mapped memory


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

    def __reduce__(self) -> tuple[Any, ...]:
        host = self.on_host()  # arrays of a GPU are not pickled; a copy that is made so lies on the host
        return Snapshot, (host.arrays, host.optimizer, host.updates, host.step, host.epoch)

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
