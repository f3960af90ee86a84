"""Ctrl-C, which waits where it would leave things half done."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from typing import Any


class Interrupts(AbstractContextManager["Interrupts", None]):
    """While this is entered, a first Ctrl-C between `hold` and `release` waits for `release`; a second one does not.

    The previous handler (Python's raises KeyboardInterrupt) then handles it, and is restored on exit. Where the
    signal is ignored or left to the system, and in other threads than the main one, which get none, nothing changes.
    """

    def __init__(self) -> None:
        self.holding = False
        self._handler: Any = None
        self._waiting: tuple[Any, ...] | None = None

    def __enter__(self) -> Interrupts:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            self._handler = handler
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._handler is not None:
            if signal.getsignal(signal.SIGINT) == self._handle:
                signal.signal(signal.SIGINT, self._handler)
            self.release()

    def _handle(self, *received: Any) -> None:
        if self.holding and self._waiting is None:
            self._waiting = received
        else:
            self._handler(*received)

    def hold(self) -> None:
        self.holding = True

    def release(self) -> None:
        """Handle the pending Ctrl-C, if there is one."""
        self.holding = False
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._handler(*waiting)
