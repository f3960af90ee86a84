"""`Instances`: programs with their buffers, kept for the next call that needs the same."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fastnn.engines import is_out_of_memory

KEPT_INSTANCES = 24
"""Programs with buffers that are kept for the next call; the least recently used one goes first."""


class Instances:
    """Instances by key, each used by one caller at a time; a caller that finds none free makes one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: OrderedDict[Any, list[Any]] = OrderedDict()  # least recently used first; no list is empty

    def take(self, key: Any, make: Callable[[], Any]) -> _Borrowed:
        with self._lock:
            free = self._free.get(key)
            item = free.pop() if free else None
            if free is not None and not free:
                del self._free[key]
        if item is None:
            try:
                item = make()
            except RuntimeError as error:  # a device without room for it may have room when the others have gone
                if not is_out_of_memory(error) or not self.clear():
                    raise
                item = make()
        return _Borrowed(self, key, item)

    def clear(self) -> bool:
        """Let go of all that are free; whether there was one."""
        with self._lock:
            freed = bool(self._free)
            self._free.clear()
        gc.collect()
        return freed

    def give_back(self, key: Any, item: Any) -> None:
        with self._lock:
            self._free.setdefault(key, []).append(item)
            self._free.move_to_end(key)
            while sum(map(len, self._free.values())) > KEPT_INSTANCES:
                oldest = next(iter(self._free))
                del self._free[oldest][0]
                if not self._free[oldest]:
                    del self._free[oldest]


class _Borrowed:
    def __init__(self, owner: Instances, key: Any, item: Any) -> None:
        self.owner, self.key, self.item = owner, key, item

    def __enter__(self) -> Any:
        return self.item

    def __exit__(self, *error: object) -> None:
        self.owner.give_back(self.key, self.item)
