"""The record of a benchmark: what was measured, where and how, as one JSON file.

What is stored is what was measured: seconds of every turn. Medians, spreads, ratios and shares are worked out from them, here
and nowhere else. The file is written whole or not at all, so that a run that ends at any moment leaves its last whole state.
`docs/benchmark-record.schema.json` is the JSON schema of `VERSION`, made from the classes below.
"""

from __future__ import annotations

import inspect
import math
import statistics
from pathlib import Path
from typing import Any, Literal

import msgspec

from fastnn.benchmarks.grid import Cell
from fastnn.engines.explain import Limits
from fastnn.errors import FileError, FormatError
from fastnn.storage.atomic import write_whole

FORMAT = "fastnn-benchmark"
VERSION = 2
READ = (1, 2)
"""Versions that are read. 1 knew no `timings`, and no `method` of a cell but `fit`."""
NOISY = 0.15
"""A spread beyond this is marked: the machine was busy with something else."""
OURS = "fastnn"

Status = Literal["measured", "no_device", "missing", "cannot", "failed", "timeout", "disagrees"]
STATUS_TEXTS = {
    "no_device": "no GPU here",
    "missing": "not installed",
    "cannot": "cannot run it",
    "failed": "failed",
    "timeout": "out of time",
    "disagrees": "computes something else",
}


class _Struct(msgspec.Struct, forbid_unknown_fields=True):
    """Strict: a field that is unknown is an error, so that no newer file is half understood."""


class Gpu(_Struct, kw_only=True):
    name: str
    memory: int
    driver: str


class Environment(_Struct, kw_only=True):
    """Where and with what it was measured. `machine` is a digest of the hardware: equal for equal machines."""

    machine: str
    processor: str
    features: str
    cores: int
    memory: int
    system: str
    python: str
    versions: dict[str, str]
    commit: str | None
    gpu: Gpu | None


class Limit(_Struct, kw_only=True):
    """Rates of the machine for one device, precision and number of threads.

    `best` is the best that was ever measured on this machine, and what shares are of; `now` is what this run measured.
    """

    device: str
    precision: str
    best: Limits
    now: Limits


class Contestant(_Struct, kw_only=True):
    """Who took part: `notes` say what else a reader should know of it."""

    label: str
    notes: str = ""


class _Timed(_Struct):
    """Something whose turns were timed: `seconds` of it, one value a turn."""

    seconds: list[float] = []

    @property
    def median(self) -> float:
        """Seconds of one; NaN where nothing was measured."""
        return statistics.median(self.seconds) if self.seconds else math.nan

    @property
    def spread(self) -> float:
        """(max - min) / median of the turns."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.seconds else math.nan

    @property
    def noisy(self) -> bool:
        return self.spread > NOISY


class Timing(_Timed, kw_only=True):
    """What else was timed: `steps` in one, `seconds` of one, one value a turn; a `reason` where there are none."""

    steps: int
    reason: str = ""


class Result(_Timed, kw_only=True):
    """What one contestant did in one cell.

    `seconds` of one epoch, one value a turn (the mean over the `runs` of the turn), and for each turn the number of the
    `process` that took it: what differs between processes, such as where memory lies, is no property of the code.
    `losses`: of the first steps, those that were compared, in inference some outputs; `first_seconds`: of the first epoch, with
    what it compiled.
    `timings`: what else was asked for: short calls by their kind, such as `fit-4`, and an epoch beside a busy `neighbor`.
    """

    status: Status
    reason: str = ""
    process: list[int] = []
    runs: int = 0
    losses: list[float] = []
    first_seconds: float | None = None
    peak_bytes: int | None = None
    timings: dict[str, Timing] = {}


class Reference(_Struct, kw_only=True):
    """Seconds of fixed workloads, one value a round."""

    one_core: list[float] = []
    all_cores: list[float] = []


class Measured(_Struct, kw_only=True):
    """A cell that was run. `work`: (floating-point operations, bytes) of each call of one training step.

    `reference`: seconds of fixed workloads, on one core and on all cores, one value a round: by them runs are compared.
    """

    cell: Cell
    threads: int
    work: list[tuple[int, int]]
    reference: Reference
    results: dict[str, Result]

    @property
    def measured(self) -> dict[str, Result]:
        return {name: result for name, result in self.results.items() if result.status == "measured"}

    def examples_per_second(self, name: str, kind: str = "") -> float:
        """In an epoch, or in another kind of its `timings`; NaN where that was not measured."""
        if not kind:
            return self.cell.rows / self.results[name].median
        return self.cell.rows / self.cell.steps / self.step_seconds(name, kind)

    def step_seconds(self, name: str, kind: str = "") -> float:
        """Of one step in an epoch or in another kind of its `timings`; NaN where that was not measured."""
        result = self.results[name]
        if not kind:
            return result.median / self.cell.steps
        return result.timings[kind].median / result.timings[kind].steps if kind in result.timings else math.nan

    def best_peer_in(self, kind: str = "") -> str | None:
        """Who of the others is fastest."""
        peers = {name: self.step_seconds(name, kind) for name in self.measured if name != OURS}
        peers = {name: seconds for name, seconds in peers.items() if not math.isnan(seconds)}
        return min(peers, key=peers.__getitem__) if peers else None

    def ratio_in(self, kind: str = "") -> float:
        """Our throughput to that of the best peer; NaN where one of them is missing."""
        best = self.best_peer_in(kind)
        if best is None or OURS not in self.measured:
            return math.nan
        return self.step_seconds(best, kind) / self.step_seconds(OURS, kind)

    @property
    def best_peer(self) -> str | None:
        return self.best_peer_in()

    @property
    def ratio(self) -> float:
        return self.ratio_in()

    @property
    def noisy(self) -> bool:
        """Whether the turns of ours or of the best peer differ by more than `NOISY`."""
        return any(self.results[name].noisy for name in (OURS, self.best_peer) if name in self.measured)


class Settings(_Struct, kw_only=True):
    """What was asked for: a run that is resumed continues under these."""

    cells: list[Cell]
    contestants: list[str]
    threads: int
    rounds: int
    processes: int
    peer_processes: int
    seconds: float
    budget: float
    timings: list[str] = []


class Record(_Struct, kw_only=True):
    """Everything of one run. `done` holds the cells in the order in which they were run."""

    format: Literal["fastnn-benchmark"] = "fastnn-benchmark"
    version: Literal[1, 2] = 2
    created: str
    settings: Settings
    environment: Environment
    limits: list[Limit]
    contestants: dict[str, Contestant]
    done: list[Measured] = []

    @property
    def left(self) -> list[Cell]:
        """The cells that were asked for and not run yet."""
        finished = {measured.cell for measured in self.done}
        return [cell for cell in self.settings.cells if cell not in finished]

    def limit_examples_per_second(self, measured: Measured) -> float:
        """Throughput of the step's calls at the machine's limits; NaN where they are not known.

        The least time of a call is the longer of its operations at the one rate and its bytes at the other.
        """
        cell = measured.cell
        for limit in self.limits:
            if (limit.device, limit.precision, limit.best.threads) == (cell.device, cell.precision, measured.threads):
                least = sum(limit.best.seconds(operations, moved) for operations, moved in measured.work)
                return cell.batch_size / least if least else math.nan
        return math.nan

    def roofline_share(self, measured: Measured, name: str = OURS, kind: str = "") -> float:
        """The share of the machine's limit that a contestant reaches, 1 being the limit."""
        if name not in measured.measured:
            return math.nan
        return measured.examples_per_second(name, kind) / self.limit_examples_per_second(measured)


def geometric_mean(ratios: list[float]) -> float:
    """NaN of nothing."""
    return statistics.geometric_mean(ratios) if ratios else math.nan


def write(record: Record, path: Path) -> None:
    """Write `path` whole or not at all: what was there before stays until the new file is safely on the disk."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def decode(path: Path) -> Any:
    """What is in a JSON file. Raises FileError if there is none, FormatError if it is no JSON or was cut off."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise FileError(f"{path} could not be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not JSON, or was cut off: {error}") from error


def read(path: Path) -> Record:
    """Read a record, of an older version too. Raises FileError if there is none, FormatError for what is not a whole record."""
    head = decode(path)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise FormatError(f'{path} is not a fastnn benchmark: expected "format": "{FORMAT}"')
    if head.get("version") not in READ:
        versions = " and ".join(map(str, READ))
        raise FormatError(f"{path} has version {head.get('version')!r} of the format; this fastnn reads versions {versions}")
    try:
        record = msgspec.convert(head, Record)
    except msgspec.ValidationError as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    record.version = 2
    check(record, path)
    return record


def check(record: Record, path: Path) -> None:
    """Raise FormatError where the numbers of a record cannot be what was measured."""
    for rates in (rates for limit in record.limits for rates in (limit.best, limit.now)):
        if not rates.copies or min(rates.operations, *(rate for _, rate in rates.copies)) <= 0:
            raise FormatError(f"{path} is damaged: a limit of the machine is not above 0")
    for measured in record.done:
        where = f"{path} is damaged: {measured.cell}"
        for name, result in measured.results.items():
            if name not in record.contestants:
                raise FormatError(f"{where}: {name!r} is no contestant of this run")
            if (result.status == "measured") != bool(result.seconds):
                raise FormatError(f"{where}: {name} has {len(result.seconds)} times and the status {result.status!r}")
            if len(result.process) != len(result.seconds):
                raise FormatError(f"{where}: {name} has {len(result.seconds)} times of {len(result.process)} processes")
            if any(seconds <= 0 for seconds in result.seconds):
                raise FormatError(f"{where}: {name} has a time that is not above 0")
            for kind, timing in result.timings.items():
                if timing.steps < 1 or any(seconds <= 0 for seconds in timing.seconds):
                    raise FormatError(f"{where}: {name} has a time or a number of steps of {kind!r} that is not above 0")
        if any(number < 0 for call in measured.work for number in call):
            raise FormatError(f"{where}: a call has work below 0")
        if any(seconds <= 0 for seconds in (*measured.reference.one_core, *measured.reference.all_cores)):
            raise FormatError(f"{where}: the reference has a time that is not above 0")


def schema() -> dict[str, Any]:
    """The JSON schema of a record. Descriptions are docstrings less their indentation, which some versions of msgspec keep."""
    document: dict[str, Any] = msgspec.json.schema(Record)
    for entry in document["$defs"].values():
        if "description" in entry:
            entry["description"] = inspect.cleandoc(entry["description"])
    return document
