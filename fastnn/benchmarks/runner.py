"""Running the grid: every contestant in a process of its own, checked before it is timed, then taking turns.

A cell goes like this. One after another the contestants train the same few mini-batches from the same weights, and whoever's
losses differ from ours computes something else and is not timed; then each trains one epoch, in which it compiles what it
will. Then come rounds: in each, everybody has one turn of about `seconds`, and so have two fixed workloads, the references;
who begins changes from round to round. Short calls, and epochs beside a busy neighbor, have turns too if they are asked for,
right after the epochs. Now and then each continues in a fresh process, if that is ready soon. The record is written after
every cell.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fastnn import engines
from fastnn.benchmarks import limits
from fastnn.benchmarks.environment import environment
from fastnn.benchmarks.grid import CALLS, DEVICES, METHODS, NEIGHBOR, PRECISIONS, Cell, check_names, find_network
from fastnn.benchmarks.neighbor import Neighbor
from fastnn.benchmarks.peers import CONTESTANTS, METER, REFERENCES, Cannot, Entry
from fastnn.benchmarks.process import Failed, Process, TimedOut, closing
from fastnn.benchmarks.record import (
    OURS,
    Contestant,
    Limit,
    Measured,
    Record,
    Reference,
    Result,
    Settings,
    Status,
    Timing,
    write,
)  # fmt: skip
from fastnn.benchmarks.watcher import Watcher
from fastnn.errors import FileError, InputError

HELLO = 120.0
"""Seconds that starting a process and importing its library may take."""
PREPARING = 0.6
"""Share of a cell's budget that checking and warming up may take."""
SLOW = 5.0
"""A first epoch that takes so many seconds is not repeated, neither to find out how long it takes nor in fresh processes."""
TURN = 10.0
"""A turn may take this many times as long as expected before it counts as hung."""
MOST_RUNS = 2000
REST = 0.05
"""Seconds before each turn: the threads of BLAS continue spinning for some 30 ms after their work is done."""
SPENT = "the budget of the cell was spent"
DROPOUT_TOLERANCE = 0.25
"""How far the first losses with dropout may differ (relative): every library draws masks of its own."""
GPU_TOLERANCE = {"float32": 1.0, "tf32": 1000.0, "bf16": 5000.0}
"""By how much a network's tolerance grows with the precision."""


class Disagrees(Failed):
    """Its losses are not ours."""


TIMINGS = (*CALLS, NEIGHBOR)
"""What may be timed beside epochs."""

STATUSES: dict[type[Exception], Status] = {Cannot: "cannot", TimedOut: "timeout", Disagrees: "disagrees", Failed: "failed"}


def plan(
    cells: Sequence[Cell],
    peers: Sequence[str] | None = None,
    threads: int | None = None,
    rounds: int = 10,
    processes: int = 5,
    peer_processes: int = 3,
    seconds: float = 0.2,
    budget: float = 120.0,
    timings: Sequence[str] = (),
) -> Record:
    """An empty record of what is to be run. `peers` None: all; `timings`: what is timed beside epochs, of `TIMINGS`.

    Raises InputError for what cannot be.
    """
    known = [name for name in CONTESTANTS if name != OURS]
    peers = known if peers is None else peers
    check_names("peer", peers, known)
    check_names("timing", timings, TIMINGS)
    check_names("method", [cell.method for cell in cells], METHODS)
    engines.check_threads(threads)
    threads = engines.cores() if threads is None else threads
    if threads > engines.cores():
        raise InputError(f"threads: there are {engines.cores()} cores here, and every thread gets one; got {threads}")
    if NEIGHBOR in timings and threads < 2:
        raise InputError(
            "neighbor: expected 2 threads or more, since with one everybody shares its only core with the neighbor"
        )
    if min(rounds, processes, peer_processes) < 1 or not 0 < seconds < math.inf or not 0 < budget < math.inf:
        raise InputError(
            f"expected rounds and processes >= 1, seconds and budget above 0, got {rounds}, {processes}, {peer_processes}, "
            f"{seconds}, {budget}"
        )
    if any(cell.inference for cell in cells) and {*timings} & {*CALLS}:
        raise InputError("short calls are of training; measure inference without them")
    names = [name for name, entry in CONTESTANTS.items() if name in (OURS, *peers) and any(map(entry.takes, cells))]
    return Record(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=Settings(
            cells=list(cells), contestants=names, threads=threads, rounds=rounds, processes=processes,
            peer_processes=peer_processes, seconds=seconds, budget=budget,
            timings=list(timings),
        ),
        environment=environment(),
        limits=[],
        contestants={name: Contestant(label=CONTESTANTS[name].label, notes=CONTESTANTS[name].notes) for name in names},
    )  # fmt: skip


def resume(record: Record) -> None:
    """Make sure that `record` can continue here. Raises InputError if its machine or its versions are not those of now."""
    for kind, names, known in (
        ("contestant", record.settings.contestants, CONTESTANTS),
        ("timing", record.settings.timings, TIMINGS),
        ("method", [cell.method for cell in record.left], METHODS),
        ("device", [cell.device for cell in record.left], DEVICES),
        ("precision", [cell.precision for cell in record.left], PRECISIONS["cuda"]),
    ):
        check_names(kind, names, known)
    for cell in record.left:
        find_network(cell.network)
    now, then = environment(), record.environment
    for what in ("machine", "versions", "commit"):
        before, after = getattr(then, what), getattr(now, what)
        if before != after:
            raise InputError(f"this run cannot continue: its {what} was {before}, and is {after} now; start a new one")


def run(record: Record, path: Path | None = None, watcher: Watcher | None = None) -> Record:
    """Run the cells of `record` that are left, and write it to `path` after each. Returns it.

    Raises FileError at the end if the record could not be written: what had been written before is still there.
    """
    watcher = watcher or Watcher()
    trouble: FileError | None = None
    processes: dict[tuple[str, str], Process] = {}
    with closing(processes), Neighbor(record.settings.threads) as neighbor:
        field = _Field(record, processes, neighbor, watcher)
        for cell in record.left:
            record.done.append(field.run(cell))
            if path is not None:
                try:
                    write(record, path)
                    trouble = None
                except FileError as error:
                    trouble = error
                    watcher.warn(f"{error}; it is tried again after the next cell")
            watcher.cell(record, record.done[-1])  # what is shown has been written
    if trouble is not None:
        raise trouble
    return record


class _Field:
    """The contestants of a run, and the cells that they are sent through."""

    def __init__(
        self, record: Record, processes: dict[tuple[str, str], Process], neighbor: Neighbor, watcher: Watcher
    ) -> None:  # fmt: skip
        self.record, self.processes, self.neighbor, self.watcher = record, processes, neighbor, watcher
        self.settings = record.settings
        self.entries = [CONTESTANTS[name] for name in self.settings.contestants]
        self.missing = {entry.name: entry.missing() for entry in self.entries}
        self.limited = {limit.device for limit in record.limits}
        """Devices whose limits were asked for."""

    def run(self, cell: Cell) -> Measured:
        """One cell; whatever a contestant does, the cell ends within about its budget."""
        results, ready = self._contestants(cell)
        measured = Measured(cell=cell, threads=self.settings.threads, work=[], reference=Reference(), results=results)
        if not ready:
            return measured
        self._limits(cell.device)
        self._start(cell, ready)
        began = time.monotonic()
        ends = began + PREPARING * self.settings.budget
        self.watcher.stage(f"{cell}: the same computation?")
        try:
            measured.work = self._oracle(cell, "work", ends)["work"]
            expected = {d: self._oracle(cell, "losses", ends, dropout=d)["losses"] for d in _dropouts(cell)}
        except (Failed, Cannot) as error:
            for entry in ready:
                results[entry.name] = Result(status="failed", reason=f"fastnn has nothing to compare it with: {error}")
            return measured
        left = list(ready)
        for entry in list(ready):
            with self._trying(entry, ready, results):
                left.remove(entry)
                # What one leaves of its share is there for the next.
                share = (ends - time.monotonic()) / (1 + len(left))
                try:
                    results[entry.name] = self._prepare(cell, entry, expected, time.monotonic() + share)
                except TimedOut as error:
                    raise TimedOut(f"not ready in {share:.0f} s") from error
        self._race(cell, ready, measured, began + self.settings.budget)
        for entry in list(ready):
            with self._trying(entry, ready, results):
                results[entry.name].peak_bytes = self._process(entry, cell.device).ask("end", 30.0)["peak_bytes"]
        return measured

    def _prepare(self, cell: Cell, entry: Entry, expected: Mapping[bool, list[float]], ends: float) -> Result:
        """Check that its losses are ours, then let it train its first epoch."""
        network, process = find_network(cell.network), self._process(entry, cell.device)
        process.ask("hello", HELLO)
        asked = msgspec.to_builtins(cell)
        computed: dict[bool, list[float]] = {}
        for dropout, losses in expected.items():
            computed[dropout] = process.ask("losses", ends - time.monotonic(), cell=asked, dropout=dropout)["losses"]
            tolerance = DROPOUT_TOLERANCE if dropout else network.tolerance * GPU_TOLERANCE[cell.precision]
            reason = disagreement(losses, computed[dropout], tolerance, "output" if cell.inference else "loss of step")
            if reason:
                raise Disagrees(reason)
        if len(computed) > 1 and not disagreement(computed[False], computed[True], network.tolerance):
            raise Disagrees("its losses are the same with and without dropout")
        self.watcher.stage(f"{cell}: {entry.label} warms up")
        first = process.ask("prepare", ends - time.monotonic(), cell=asked)["first_seconds"]
        return Result(status="failed", reason="was not timed", losses=computed[False], first_seconds=first)

    def _contestants(self, cell: Cell) -> tuple[dict[str, Result], list[Entry]]:
        """A result for each, to be filled in, and those who can start."""
        results, ready = {}, []
        for entry in self.entries:
            name = entry.name
            if not entry.takes(cell):
                # Peers for another device, or for training alone: no result, since their users would not pick them here.
                continue
            if cell.device == "cuda" and self.record.environment.gpu is None:
                results[name] = Result(status="no_device", reason="no GPU here")
            elif self.missing[name]:
                results[name] = Result(status="missing", reason=self.missing[name])
            elif cell.precision not in PRECISIONS[cell.device]:
                results[name] = Result(status="cannot", reason=f"no {cell.precision} on the {cell.device}")
            else:
                results[name] = Result(status="failed", reason="was never begun")
                ready.append(entry)
        return results, ready

    def _process(self, entry: Entry, device: str) -> Process:
        key = (entry.name, device)
        if key not in self.processes:
            self.processes[key] = Process(entry, device, self.settings.threads)
        return self.processes[key]

    def _start(self, cell: Cell, ready: Sequence[Entry]) -> None:
        """Start the processes that are not running, all at once; that they cannot is found when they are asked."""
        new = [self._process(entry, cell.device) for entry in ready] + [self._process(entry, "cpu") for entry in REFERENCES]
        new = [process for process in new if not process.started]
        if new:
            self.watcher.stage("starting the contestants")
        for process in new:
            process.send("hello")
        deadline = time.monotonic() + HELLO
        for process in new:
            with contextlib.suppress(Failed, Cannot):
                process.receive(deadline - time.monotonic())
        for process in new:
            if process.entry in REFERENCES:
                process.ask("prepare", HELLO, cell=msgspec.to_builtins(Cell("planar", 1)))

    def _limits(self, device: str) -> None:
        """Measure the limits of a device, once a run, whether they can be measured or not."""
        if device in self.limited:
            return
        self.limited.add(device)
        self.watcher.stage("measuring the limits of the machine")
        cell = msgspec.to_builtins(Cell("planar", 1, device))
        with Process(METER, device, self.settings.threads) as process:
            try:
                answer = process.ask("limits", HELLO, cell=cell)
            except (Failed, Cannot) as error:
                self.watcher.warn(f"the limits of {device} could not be measured: {error}")
                return
        measured = msgspec.convert(answer["limits"], list[Limit])
        self.record.limits += limits.best_known(measured, self.record.environment.machine)

    def _oracle(self, cell: Cell, do: str, deadline: float, **request: Any) -> dict[str, Any]:
        """What fastnn says on the CPU, whatever the device of the cell."""
        process = self._process(CONTESTANTS[OURS], "cpu")
        left = deadline - time.monotonic()
        return process.ask(do, left, cell=msgspec.to_builtins(cell), device="cpu", **request)

    @contextlib.contextmanager
    def _trying(self, entry: Entry, ready: list[Entry], results: dict[str, Result]) -> Iterator[None]:
        """A failure is written down as the contestant's result, and it takes no further part in the cell."""
        try:
            yield
        except (Cannot, Failed) as error:
            status: Status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), "failed")
            results[entry.name] = Result(status=status, reason=str(error), timings=results[entry.name].timings)
            ready.remove(entry)

    def _race(self, cell: Cell, ready: list[Entry], measured: Measured, ends: float) -> None:
        """Find out how many epochs make a turn, then let all take turns until the rounds are over or the budget is spent."""
        self.watcher.stage(f"{cell}: taking turns")
        results, settings = measured.results, self.settings
        turns: dict[str, _Turns] = {}
        others: dict[str, _Others] = {}
        for entry in REFERENCES:
            process = self._process(entry, "cpu")
            turns[entry.name] = _Turns(process, process.ask("run", HELLO, runs=1)["seconds"], settings.seconds / 2)
        for entry in list(ready):
            with self._trying(entry, ready, results):
                process, first = self._process(entry, cell.device), results[entry.name].first_seconds or 0.0
                if first < SLOW:  # which holds what it compiled too
                    first = process.ask("run", SLOW * TURN, runs=1)["seconds"]
                turns[entry.name] = _Turns(process, first, settings.seconds)
                others[entry.name] = _Others(cell, results[entry.name], ends)
                for kind in settings.timings:
                    others[entry.name].add(kind, functools.partial(self._turns_of, kind, process, first))
                    others[entry.name].renew_if_late(turns[entry.name])
        self.watcher.turns(settings.rounds * len(ready))
        for index in range(settings.rounds):
            for entry in list(ready):
                count = settings.processes if entry.name == OURS else settings.peer_processes
                first = results[entry.name].first_seconds or 0.0
                if index * count // settings.rounds > turns[entry.name].current and first < SLOW and time.monotonic() < ends:
                    with self._trying(entry, ready, results):
                        turns[entry.name].renew(cell)
                        others[entry.name].warm()
                        others[entry.name].renew_if_late(turns[entry.name])
            first_up = index % max(1, len(ready))
            for entry in [*ready[first_up:], *ready[:first_up]]:
                with self._trying(entry, ready, results):
                    time.sleep(REST)
                    turns[entry.name].take()
                    others[entry.name].take()
                    others[entry.name].renew_if_late(turns[entry.name])
                self.watcher.turn()
            for entry in REFERENCES:
                time.sleep(REST)
                turns[entry.name].take()
            if time.monotonic() > ends:
                break
        measured.reference = Reference(**{entry.name: turns[entry.name].seconds for entry in REFERENCES})
        for entry in ready:
            result, taken = results[entry.name], turns[entry.name]
            result.status, result.reason, result.runs = "measured", "", taken.runs
            result.seconds, result.process = taken.seconds, taken.process
            others[entry.name].note()

    def _turns_of(self, kind: str, process: Process, epoch: float) -> _Turns:
        """Of epochs beside the neighbor, or of short calls, which take as long as the epochs of a turn, all kinds together."""
        if kind == NEIGHBOR:
            return _Turns(process, epoch, self.settings.seconds, self.neighbor.awake)
        first = process.ask("run", SLOW * TURN, runs=1, call=kind)["seconds"]
        return _Turns(process, first, self.settings.seconds / len(CALLS), call=kind)


class _Turns:
    """The turns of one contestant in one cell: epochs, or what else `request` asks for, each turn `during` something."""

    def __init__(
        self,
        running: Process,
        epoch: float,
        seconds: float,
        during: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        **request: Any,
    ) -> None:
        self.running, self.during, self.request = running, during, request
        self.runs = max(1, min(MOST_RUNS, round(seconds / max(epoch, 1e-9))))
        self.patience = max(5.0, TURN * epoch * self.runs)
        self.seconds: list[float] = []
        self.process: list[int] = []
        self.current = 0

    def renew(self, cell: Cell) -> None:
        """Continue in a fresh process: two of them may differ, by where memory lies and by which cores threads share."""
        self.running.close()
        self.running.ask("prepare", HELLO, cell=msgspec.to_builtins(cell))
        self.current += 1

    def warm(self) -> None:
        """Let a fresh process compile what it needs for another request than an epoch."""
        if not self.request:
            return
        self.running.ask("run", SLOW * TURN, runs=1, **self.request)

    def take(self) -> None:
        with self.during():
            self.seconds.append(self.running.ask("run", self.patience, runs=self.runs, **self.request)["seconds"])
        self.process.append(self.current)


class _Others:
    """The turns of one contestant in one cell at what is timed beside epochs; `note` puts them into its result.

    What fails is a kind alone. If the process ended with it, the next turn of epochs finds that; a process that was ended for
    being late is followed by a fresh one.
    """

    def __init__(self, cell: Cell, result: Result, ends: float) -> None:
        self.cell, self.result, self.ends = cell, result, ends
        self.turns: dict[str, _Turns] = {}
        self.is_late = False

    def add(self, kind: str, begin: Callable[[], _Turns]) -> None:
        if time.monotonic() > self.ends:
            self._write(kind, reason=SPENT)
            return
        with self._trying(kind):
            self.turns[kind] = begin()

    def warm(self) -> None:
        for kind, turns in list(self.turns.items()):
            if not self.is_late:
                with self._trying(kind):
                    turns.warm()

    def renew_if_late(self, epochs: _Turns) -> None:
        """Go on in a fresh process where one was ended for being late; as that ends a kind, it comes to an end itself."""
        while self.is_late:
            self.is_late = False
            epochs.renew(self.cell)
            self.warm()

    def take(self) -> None:
        """One turn at each, if the budget of the cell lasts."""
        for kind, turns in list(self.turns.items()):
            if time.monotonic() < self.ends and not self.is_late:
                with self._trying(kind):
                    turns.take()

    def note(self) -> None:
        for kind, turns in self.turns.items():
            self._write(kind, seconds=turns.seconds, reason="" if turns.seconds else SPENT)

    @contextlib.contextmanager
    def _trying(self, kind: str) -> Iterator[None]:
        try:
            yield
        except (Cannot, Failed) as error:
            self.is_late = self.is_late or isinstance(error, TimedOut)
            self._write(kind, reason=str(error))
            self.turns.pop(kind, None)

    def _write(self, kind: str, **found: Any) -> None:
        steps = self.cell.steps if kind == NEIGHBOR else CALLS[kind].steps
        self.result.timings[kind] = Timing(steps=steps, **found)


def _dropouts(cell: Cell) -> list[bool]:
    return [False, True] if find_network(cell.network).dropout and not cell.inference else [False]


def disagreement(expected: Sequence[float], actual: Sequence[float], tolerance: float, what: str = "loss of step") -> str:
    """Why two lists of losses, or of `what` else, are not of the same computation; empty if they may be.

    They may differ by `tolerance`, relative where the expected one is above 1. NaN agrees with nothing.
    """
    if len(expected) != len(actual):
        return f"{len(actual)} numbers where {len(expected)} were expected"
    for step, (a, b) in enumerate(zip(expected, actual, strict=True), 1):
        if not abs(b - a) <= tolerance * max(1.0, abs(a)):
            return f"its {what} {step} is {b:.6g}, and ours {a:.6g}"
    return ""
