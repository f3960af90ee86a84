"""Streams and events: work waits in queues, and is done in any order that CUDA allows.

What is given to one stream is done in order; between streams nothing is ordered but by events. When the work is done, an
`order` says:

    random         now and then, of any stream, drawn from a seed
    late           not before somebody waits for it
    copies first   at once where the stream was never given a kernel, else not before somebody waits for it

So a result that needs an event or a synchronization which is not there is wrong in one of them.

A capture is as the CUDA Programming Guide says of dependencies between streams: a stream that waits for an event recorded in it
takes part, and must be joined before it ends. Nodes of a graph that do not wait for each other run in any order, drawn anew at
each launch, or, where nothing is drawn, those first that became ready last.
"""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Callable, Sequence

ORDERS = ("random", "late", "copies first")


class CUDARuntimeError(RuntimeError):
    """An error of the runtime by its number (driver_types.h), as `cupy.cuda.runtime.CUDARuntimeError` is one."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"cudaError {status}: {text}")
        self.status = status


NOT_READY, CAPTURE_UNSUPPORTED, CAPTURE_MERGE, CAPTURE_UNMATCHED = 600, 900, 902, 903
CAPTURE_UNJOINED, CAPTURE_ISOLATION, CAPTURED_EVENT = 904, 905, 907


class Scheduler:
    """All streams of a GPU. Whoever gives or waits for work also does some of it: there is no thread behind it."""

    def __init__(self, order: str = "random", seed: int = 0) -> None:
        assert order in ORDERS
        self.order, self.lock = order, threading.RLock()
        self._random = random.Random(seed)
        self.streams: list[Stream] = []
        self.vain_waits = 0
        """For events that were never recorded."""
        self._current = threading.local()
        self.default = Stream(self)

    @property
    def current(self) -> Stream:
        """The stream that this thread has entered last, or the default one."""
        entered = self._entered
        return entered[-1] if entered else self.default

    @property
    def _entered(self) -> list[Stream]:
        entered: list[Stream] = self._current.__dict__.setdefault("entered", [])
        return entered

    def find(self, pointer: int) -> Stream:
        """The stream with this handle."""
        return self.streams[pointer]

    def give(self, stream: Stream, work: Work) -> None:
        """Let the work be done after all that the stream was given before; while it captures, let it become a node."""
        with self.lock:
            if stream.capture is not None:
                assert isinstance(work, Call)
                stream.capture.add(stream, work.function)
                return
            stream.queue.append(work)
            if self.order == "random":
                while self._random.random() < 0.5 and self._do_any():
                    pass
            elif self.order == "copies first":
                for each in self.streams:
                    while not each.computes and self._do_first(each):
                        pass

    def finish(self, stream: Stream) -> None:
        """Do all that the stream was given, and what that waits for."""
        while stream.queue:
            if self.order == "random" and self._random.random() < 0.3:
                self._do_any()
            elif not self._do_first(stream):
                waiting = stream.queue[0]
                assert isinstance(waiting, Wait)
                self.reach(waiting.event, waiting.version)

    def finish_all(self) -> None:
        for stream in self.streams:
            self.finish(stream)

    def reach(self, event: Event, version: int) -> None:
        """Do what an event stands for."""
        while event.reached < version:
            recording = [s for s in self.streams for work in s.queue if isinstance(work, Record) and work.event is event]
            assert recording, "an event that is waited for will never be recorded"
            if not self._do_first(recording[0]):
                waiting = recording[0].queue[0]
                assert isinstance(waiting, Wait)
                self.reach(waiting.event, waiting.version)

    def pick(self, count: int) -> int:
        """One of so many nodes of a graph that may run next: drawn, or the last one."""
        return self._random.randrange(count) if self.order == "random" else count - 1

    def _do_any(self) -> bool:
        """Do the first work of some stream; whether there was any that may be done."""
        busy = [stream for stream in self.streams if stream.queue and stream.queue[0].is_ready()]
        return bool(busy) and self._do_first(self._random.choice(busy))

    @staticmethod
    def _do_first(stream: Stream) -> bool:
        """Do the first work of a stream, where it may be done; whether it was."""
        if not stream.queue or not stream.queue[0].is_ready():
            return False
        stream.queue.popleft().do()
        return True


class Call:
    """Work that may be done as soon as it is the first of its stream."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def is_ready(self) -> bool:
        return True

    def do(self) -> None:
        self.function()


class Record:
    def __init__(self, event: Event, version: int) -> None:
        self.event, self.version = event, version

    def is_ready(self) -> bool:
        return True

    def do(self) -> None:
        self.event.reached = max(self.event.reached, self.version)


class Wait:
    """For an event as it was recorded last when the wait was given."""

    def __init__(self, event: Event, version: int) -> None:
        self.event, self.version = event, version

    def is_ready(self) -> bool:
        return self.event.reached >= self.version

    def do(self) -> None:
        pass


Work = Call | Record | Wait


class Stream:
    """As `cupy.cuda.Stream`. `ptr`, its handle, is its number."""

    def __init__(self, scheduler: Scheduler, non_blocking: bool = True) -> None:
        assert non_blocking, "streams that wait for the default one are not simulated"
        self.scheduler = scheduler
        self.queue: collections.deque[Work] = collections.deque()
        self.capture: Capture | None = None
        self.computes = False
        with scheduler.lock:
            self.ptr = len(scheduler.streams)
            scheduler.streams.append(self)

    def __enter__(self) -> Stream:
        self.scheduler._entered.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.scheduler._entered.pop()

    def give(self, function: Callable[[], None], computes: bool = False) -> None:
        """Let `function` be done when it is its turn. `computes`: it is a kernel, a product or a graph of them."""
        self.computes = self.computes or computes
        self.scheduler.give(self, Call(function))

    def forbid_capture(self, what: str) -> None:
        if self.capture is not None:
            raise CUDARuntimeError(CAPTURE_UNSUPPORTED, f"{what} while the stream captures")

    def synchronize(self) -> None:
        with self.scheduler.lock:
            self.forbid_capture("synchronize")
            self.scheduler.finish(self)

    def wait_event(self, event: Event) -> None:
        with self.scheduler.lock:
            if event.captured is not None:
                capture, nodes = event.captured
                capture.join(self, nodes)
            elif self.capture is not None:
                raise CUDARuntimeError(CAPTURE_ISOLATION, "an event from outside in a capture")
            elif event.version:  # CUDA does not wait for an event that was never recorded
                self.scheduler.give(self, Wait(event, event.version))
            else:
                self.scheduler.vain_waits += 1

    def begin_capture(self) -> None:
        with self.scheduler.lock:
            assert self is not self.scheduler.default
            self.forbid_capture("begin_capture")
            self.capture = Capture(self)

    def end_capture(self) -> Graph:
        with self.scheduler.lock:
            assert self.capture is not None
            return self.capture.end(self)


class Capture:
    """What is captured from a stream, and from those that wait for its events: nodes, and which of them each waits for."""

    def __init__(self, origin: Stream) -> None:
        self.origin, self.nodes = origin, list[tuple[Callable[[], None], frozenset[int]]]()
        self.last: dict[Stream, frozenset[int]] = {origin: frozenset()}
        """Of each stream that takes part: the nodes that its next one waits for."""
        self.ended = False

    def add(self, stream: Stream, function: Callable[[], None]) -> None:
        """Let a node be the next one of a stream."""
        self.nodes.append((function, self.last[stream]))
        self.last[stream] = frozenset([len(self.nodes) - 1])

    def join(self, stream: Stream, nodes: frozenset[int]) -> None:
        """Let the next node of a stream wait for some nodes; from now on the stream takes part, if it did not yet."""
        if self.ended:
            raise CUDARuntimeError(CAPTURED_EVENT, "a wait for an event of a capture that has ended")
        if stream.capture not in (None, self):
            raise CUDARuntimeError(CAPTURE_MERGE, "a wait for an event of another capture")
        stream.capture = self
        self.last[stream] = self.last.get(stream, frozenset()) | nodes

    def end(self, stream: Stream) -> Graph:
        """The graph. Whether or not there is one, no stream captures any more."""
        if stream is not self.origin:
            raise CUDARuntimeError(CAPTURE_UNMATCHED, "end_capture of a capture that another stream began")
        self.ended = True
        for each in self.last:
            each.capture = None
        joined, waiting = set[int](), list(self.last[stream])
        while waiting:
            node = waiting.pop()
            joined.add(node)
            waiting += self.nodes[node][1] - joined
        if not joined.issuperset(node for nodes in self.last.values() for node in nodes):
            raise CUDARuntimeError(CAPTURE_UNJOINED, "end_capture before all streams of the capture were joined")
        return Graph(stream.scheduler, self.nodes)


class Event:
    """As `cupy.cuda.Event`: stands for the work that a stream had when it was recorded last."""

    def __init__(self, scheduler: Scheduler, disable_timing: bool = False) -> None:
        self.scheduler, self.timing = scheduler, not disable_timing
        self.version = self.reached = 0
        self.captured: tuple[Capture, frozenset[int]] | None = None
        """Where it was recorded last in a capture: that, and the nodes that it stands for."""

    @property
    def done(self) -> bool:
        return self.reached == self.version

    def record(self, stream: Stream | None = None) -> None:
        with self.scheduler.lock:
            stream = stream or self.scheduler.current
            if stream.capture is not None:
                self.captured = stream.capture, stream.capture.last[stream]
                return
            self.captured = None
            self.version += 1
            self.scheduler.give(stream, Record(self, self.version))

    def synchronize(self) -> None:
        with self.scheduler.lock:
            if self.captured is not None:
                raise CUDARuntimeError(CAPTURED_EVENT, "synchronize with an event of a capture")
            self.scheduler.reach(self, self.version)


def get_elapsed_time(first: Event, last: Event) -> float:
    """Milliseconds between two events that have come."""
    assert first.timing
    assert last.timing
    if not (first.version and last.version and first.done and last.done):
        raise CUDARuntimeError(NOT_READY, "an event has not come yet")
    return 1e-2


class Graph:
    """As `cupy.cuda.Graph`: nodes, each behind those that it waits for."""

    def __init__(self, scheduler: Scheduler, nodes: Sequence[tuple[Callable[[], None], frozenset[int]]]) -> None:
        self.scheduler, self.nodes = scheduler, nodes

    def launch(self, stream: Stream | None = None) -> None:
        (stream or self.scheduler.current).give(self._run, computes=True)

    def _run(self) -> None:
        waited_for = collections.defaultdict[int, list[int]](list)
        missing = [len(others) for _, others in self.nodes]
        for node, (_, others) in enumerate(self.nodes):
            for other in others:
                waited_for[other].append(node)
        ready = [node for node, count in enumerate(missing) if not count]
        while ready:
            node = ready.pop(self.scheduler.pick(len(ready)))
            self.nodes[node][0]()
            for other in waited_for[node]:
                missing[other] -= 1
                if not missing[other]:
                    ready.append(other)


__all__ = [
    "ORDERS", "CUDARuntimeError", "Event", "Graph", "Scheduler", "Stream", "get_elapsed_time",
]  # fmt: skip
