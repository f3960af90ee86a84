"""`Instances`: programs with their buffers, kept for the next call that needs the same."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

from fastnn.engines import is_out_of_memory

KEPT_INSTANCES = 24
"""Programs with buffers that are kept for the next call; the least recently used one goes first."""


SHARED_BYTES = 2**20
"""Of the buffers of an instance, at most, that outlives its model: those of larger ones take less time to make than to fill."""

_all: weakref.WeakSet[Instances] = weakref.WeakSet()
"""Of all models of this process."""
_all_lock = threading.Lock()


def let_go() -> bool:
    """Let go of all that no call uses now, of every model; whether there was something."""
    with _all_lock:
        known = list(_all)
    freed = [instances.clear() for instances in known]
    return any(freed)


def make_with_room(make: Callable[[], Any]) -> Any:
    """What `make` makes; on a device without room for it once more when nothing is kept there that no call uses, and at last
    when no garbage is left that holds some."""
    for make_room in (let_go, gc.collect):
        try:
            return make()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        make_room()  # what the error's frames held is gone
    return make()


class Instances:
    """Instances by key, each used by one caller at a time; a caller that finds none free makes one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: OrderedDict[Any, list[Any]] = OrderedDict()  # least recently used first; no list is empty
        self._count = 0  # of all lists
        with _all_lock:
            _all.add(self)

    def take(self, key: Any, make: Callable[[], Any]) -> Borrowed:
        with self._lock:
            free = self._free.get(key)
            item = free.pop() if free else None
            if free is not None:
                self._count -= 1
                if not free:
                    del self._free[key]
        return Borrowed(self, key, make_with_room(make) if item is None else item)

    def clear(self) -> bool:
        """Let go of all that are free; whether there was one."""
        with self._lock:
            freed = bool(self._free)
            self._free.clear()
            self._count = 0
        return freed

    def give_back(self, key: Any, item: Any) -> None:
        with self._lock:
            free = self._free.get(key)
            if free is None:
                self._free[key] = [item]
            else:
                free.append(item)
                self._free.move_to_end(key)
            self._count += 1
            while self._count > KEPT_INSTANCES:
                oldest = next(iter(self._free))
                del self._free[oldest][0]
                self._count -= 1
                if not self._free[oldest]:
                    del self._free[oldest]


class SharedKey:
    """The base of keys that say all that their items depend on, beside the architecture of the network."""

    of_model: ClassVar[tuple[str, ...]] = ()
    """The inputs that are arrays of a model, or as large as one: they go with it."""


_shared = Instances()
"""Of all models that share them, by architecture and key."""


class SharedInstances(Instances):
    """Those of one of many models of the same architecture, which use each other's programs, one after the other.

    What lies behind a `SharedKey` and is small stays when the model is gone. `like`: those of another model of that
    architecture.
    """

    def __init__(self, like: SharedInstances | None = None) -> None:
        super().__init__()
        self._architecture: object = object() if like is None else like._architecture

    def take(self, key: Any, make: Callable[[], Any]) -> Borrowed:
        if not isinstance(key, SharedKey) or key in self._free:
            return super().take(key, make)
        return Borrowed(self, key, _shared.take((self._architecture, key), make).item)

    def give_back(self, key: Any, item: Any) -> None:
        instance = getattr(item, "instance", item)
        if not isinstance(key, SharedKey) or instance.plan.size > SHARED_BYTES:
            return super().give_back(key, item)
        instance.unbind(*key.of_model)
        _shared.give_back((self._architecture, key), item)


class Borrowed:
    """An item that goes back when it is left."""

    __slots__ = ("item", "key", "owner")

    def __init__(self, owner: Instances, key: Any, item: Any) -> None:
        self.owner, self.key, self.item = owner, key, item

    def __enter__(self) -> Any:
        return self.item

    def __exit__(self, *error: object) -> None:
        self.owner.give_back(self.key, self.item)
