"""Everything that training changes: arrays, on the host and on a device, and the counts that belong to them.

On the host engines there is one copy, used where it lies. A GPU has a second one: it is filled when the GPU first needs it,
continues from there, and is fetched when the host next looks.

Compiled code writes to these arrays where they lie. They are therefore always allocated here, and values from elsewhere (a
file, a pickle, a user) are copied into them.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnn import arrays
from fastnn.engines import Engine, is_out_of_memory
from fastnn.engines.base import Fetching
from fastnn.engines.host import CPU
from fastnn.network.layout import Place
from fastnn_kernels.contract import AVERAGE
from fastnn_kernels.memory import aligned_copy, aligned_zeros

Progress = tuple[int, int, int]
"""How far a training is with some values of the arrays: steps, epochs and updates."""


@dataclass
class OptimizerState(Mapping[str, dict[str, np.ndarray]]):
    """What an optimizer keeps between steps, by the names of its slots and of the parameters: copies, such as

        {"mean": {"0.weight": (I, O), "0.bias": (O,), ...}, "square": {...}}

    of Adam. `optimizer`: the class it belongs to; `slots`: the flat arrays themselves; `updates`: how many it has made.
    """

    optimizer: str
    slots: dict[str, np.ndarray]
    updates: int = 0
    parameters: Sequence[Place] = field(default=(), repr=False, compare=False)
    """Where they lie in each slot."""

    def __getitem__(self, slot: str) -> dict[str, np.ndarray]:
        return {name: view.copy() for name, view in self.views(slot).items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    def __bool__(self) -> bool:
        return True  # there is one, also of an optimizer that keeps no arrays

    def views(self, slot: str) -> dict[str, np.ndarray]:
        """The arrays of a slot where they lie, by the names of the parameters."""
        arena = self.slots[slot]
        return {place.name: arena[place.start : place.start + place.size].reshape(place.shape) for place in self.parameters}


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
        values = {name.removeprefix("arrays."): array for name, array in config.items() if name.startswith("arrays.")}
        counts = (int(config[name]) for name in ("updates", "step", "epoch"))
        return cls(values, str(config["optimizer"]), *counts)

    @property
    def of_network(self) -> dict[str, Any]:
        """The arrays of the network: parameters and statistics."""
        return {name: self.arrays[name] for name in ("parameters", "statistics")}

    @property
    def slots(self) -> list[str]:
        """The names of what its optimizer keeps."""
        return [name for name in self.arrays if name not in ("parameters", "statistics")]


class State:
    """Flat arrays of one dtype by name (the parameters, the statistics, and what an optimizer keeps), and their counts."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self.counters = Counters()
        self._changes = 0  # but for whole steps, everything that may have changed arrays or counts
        self.optimizer: OptimizerState | None = None
        """Of the last training; None before it."""
        self._host: dict[str, np.ndarray] = {}
        self._fetched: Progress | None = None  # of the values on the host
        self._fetched_at = -math.inf  # when they were the latest
        self._coming: tuple[Fetching, Progress] | None = None  # newer ones, which may not be there yet
        self._backup: tuple[Mapping[str, np.ndarray], Progress] | None = None  # newer ones, beside those of the host
        self._backed_up_at = -math.inf  # when those were the latest
        self._remote: dict[str, Any] = {}
        self._engine: Engine | None = None
        self._ahead = False  # the device holds newer values than the host
        self._behind = True  # the host holds newer values than the device
        self._lock = threading.RLock()

    # --- the arrays -------------------------------------------------------------------------------------------------

    def add(self, **sizes: int) -> dict[str, np.ndarray]:
        """Replace the arrays of these names with zeros of these sizes; returns all arrays, to be changed on the host."""
        with self._lock:
            self.read()
            self._changes += 1
            self._host |= {name: aligned_zeros(size, self._dtype) for name, size in sizes.items()}
            self._remote = {name: array for name, array in self._remote.items() if name not in sizes}
            self._behind = True
            return self._host

    def _drop(self, *names: str) -> None:
        """Forget arrays."""
        self.read()
        self._changes += 1
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
                self._ahead = False
                self._note_fetched()
            return self._host

    def _note_fetched(self) -> None:
        """The host holds the latest values."""
        self._fetched, self._fetched_at = self.progress, time.monotonic()
        coming, self._coming, self._backup = self._coming, None, None
        if coming is not None:
            coming[0].close()

    def host(self) -> dict[str, np.ndarray]:
        """The arrays on the host, to be changed there."""
        with self._lock:
            host = self.read()
            self._behind = True
            self._changes += 1
            return host

    def on(self, engine: Engine) -> dict[str, Any]:
        """The arrays where `engine` uses them, with the latest values. Call `mark_changed` when a program has changed them."""
        if engine.is_host and self._engine is None:
            return self._host  # no device has had them
        with self._lock:
            if not self._ahead:
                self._note_fetched()
            if engine.is_host:
                return self.read()
            if self._engine is None or self._engine.name != engine.name:
                self.read()
                self._remote, self._engine, self._behind = {}, engine, True
            for name, array in self._host.items():
                if name not in self._remote:
                    self._remote[name] = engine.to_device(array)
                elif self._behind:
                    engine.write(self._remote[name], array)
            self._behind = False
            return dict(self._remote)

    # --- training ---------------------------------------------------------------------------------------------------

    def begin(self, engine: Engine, backup_seconds: float) -> None:
        """A training continues from the latest values on `engine`, backed up first."""
        with self._lock:
            self.back_up(backup_seconds)
            self.on(engine)
            self._note_newer(engine)

    def back_up(self, backup_seconds: float) -> None:
        """Begin to bring the latest values to the host where what it has is older than that: if the device is lost, a model
        continues with those that have come. Nothing waits for them."""
        if self._engine is None:
            return  # no device has had them
        with self._lock:
            self._take_backup()
            now = time.monotonic()
            if not self._ahead or self._coming is not None or now - max(self._fetched_at, self._backed_up_at) < backup_seconds:
                return
            assert self._engine is not None
            try:
                self._coming = self._engine.begin_read(self._remote), self.progress
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.read()  # there is no room for a copy
            else:
                self._backed_up_at = now

    def _take_backup(self) -> None:
        """Let a backup that has come take the place of the one before."""
        if self._coming is not None and self._coming[0].is_done():
            self._backup = self._coming[0].values, self._coming[1]
            self._coming = None

    def mark_changed(self, engine: Engine) -> None:
        """What `on` returned for this engine holds newer values now, which the counts belong to."""
        with self._lock:
            self._changes += 1
            self._note_newer(engine)

    def _note_newer(self, engine: Engine) -> None:
        """The newest values are, or will be, those that this engine uses."""
        remote = not engine.is_host
        self._ahead, self._behind = remote, not remote
        if not remote and self._engine is not None:
            self._note_fetched()

    def advance(self, engine: Engine, steps: int, epochs: int = 0) -> None:
        """So many steps on this engine are whole, and so many epochs with them."""
        with self._lock:
            assert self.optimizer is not None
            self.counters.step += steps
            self.counters.epoch += epochs
            self.optimizer.updates += steps
            self._note_newer(engine)

    @property
    def version(self) -> tuple[int, int, int]:
        """Another one after everything that may have changed arrays: changes beside steps, steps, and updates."""
        return self._changes, self.counters.step, 0 if self.optimizer is None else self.optimizer.updates

    @property
    def progress(self) -> Progress:
        """The counts to restore with the arrays if a GPU is lost."""
        return self.counters.step, self.counters.epoch, 0 if self.optimizer is None else self.optimizer.updates

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._changes += 1
        self.counters.step, self.counters.epoch, updates = progress
        if self.optimizer is not None:
            self.optimizer.updates = updates

    def lose(self) -> None:
        """The device is lost: continue with what the host holds, and with its counts."""
        with self._lock:
            self._changes += 1
            if self._ahead:
                with contextlib.suppress(RuntimeError):  # of one that has come since, a device that is lost may not tell
                    self._take_backup()
                if self._backup is not None:
                    values, self.progress = self._backup
                    for name, array in values.items():
                        np.copyto(self._host[name], array)
                    self._fetched = self.progress
                elif self._fetched is not None:
                    self.progress = self._fetched
            self._ahead = False
            self._coming = self._backup = None
            self._remote, self._engine, self._behind = {}, None, True

    # --- the optimizer ----------------------------------------------------------------------------------------------

    def start_optimizer(
        self, optimizer: str | None, slots: Sequence[str] = (), updates: int = 0, kept: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """Let the optimizer of this class keep arrays of these names from now on, and no others; returns them, to be changed on
        the host. Those in `kept`, which must be there, stay as they are; the average of the parameters starts from them, the
        others are zeros.
        """
        with self._lock:
            if self.optimizer is not None:
                self._drop(*(name for name in self.optimizer.slots if name not in slots))
            size = self._host["parameters"].size
            new = [name for name in slots if name not in kept]
            host = self.add(**dict.fromkeys(new, size))
            if AVERAGE in new:
                np.copyto(host[AVERAGE], host["parameters"])
            slot_arrays = {name: host[name] for name in slots}
            self.optimizer = None if optimizer is None else OptimizerState(optimizer, slot_arrays, updates)
            return slot_arrays

    # --- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self, last: Snapshot | None = None) -> Snapshot:
        """A copy of everything; the arrays lie where the latest values are. `last`: one that nobody needs any more, and whose
        memory is used again where it fits."""
        with self._lock:
            step, epoch, updates = self.progress
            engine = self._engine if self._ahead else CPU
            latest = self._remote if self._ahead else self._host
            assert engine is not None
            copies: dict[str, Any] = {} if last is None else last.arrays
            if {name: array.size for name, array in copies.items()} != {
                name: array.size for name, array in latest.items()
            } or any(not engine.adopts(array) for array in copies.values()):
                copies = engine.duplicate(latest)
            else:
                for name, array in latest.items():
                    engine.copy(copies[name], array)
            return Snapshot(copies, "" if self.optimizer is None else self.optimizer.optimizer, updates, step, epoch)

    def keeps(self, snapshot: Snapshot) -> bool:
        """Whether the optimizer of the snapshot, or none, is the one whose state this has."""
        now = ("", set()) if self.optimizer is None else (self.optimizer.optimizer, set(self.optimizer.slots))
        return now == (snapshot.optimizer, set(snapshot.slots))

    def restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot back; arrays that it lacks, but for those of an optimizer, stay as they are."""
        with self._lock:
            if not self.keeps(snapshot):
                self.start_optimizer(snapshot.optimizer or None, snapshot.slots)
            engine, copies = self._engine, snapshot.arrays
            if engine is not None and {arrays.device(values) for values in copies.values()} == {engine.name}:
                self.on(engine)
                for name, values in copies.items():
                    engine.copy(self._remote[name], values)
                self.mark_changed(engine)
            else:
                host_arrays = snapshot.on_host().arrays
                target = self.host()
                for name, values in host_arrays.items():
                    np.copyto(target[name], values)
                self._fetched = (snapshot.step, snapshot.epoch, snapshot.updates)
            self.progress = (snapshot.step, snapshot.epoch, snapshot.updates)

    def __getstate__(self) -> tuple[Any, ...]:
        kept = self.optimizer
        optimizer = None if kept is None else (kept.optimizer, tuple(kept.slots), kept.updates)
        return self._dtype.name, dict(self.read()), self.counters, optimizer

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        dtype, arrays, counters, optimizer = state
        self.__init__(dtype)  # type: ignore[misc]
        # a pickle may hand over read-only or mapped memory
        self._host = {name: aligned_copy(array) for name, array in arrays.items()}
        self.counters = counters
        if optimizer is not None:
            kind, slots, updates = optimizer
            self.optimizer = OptimizerState(kind, {name: self._host[name] for name in slots}, updates)


@dataclass(frozen=True)
class Trained:
    """How the model was trained last; stored with the model."""

    device: str
    precision: str
