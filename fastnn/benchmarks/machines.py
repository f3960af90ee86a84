"""Records of several machines side by side: of each device what fastnn and its best peer reach, and what differs besides.

A record is one of `fastnn bench`, or one of a run of `ci/gpu.sh`, whose cells are timed otherwise: the least of a few calls of
`fit`, and not a median of turns. A record of both the CPU and the GPU is of two machines here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from fastnn.benchmarks import curves, record
from fastnn.benchmarks.record import OURS, Measured, Record, geometric_mean
from fastnn.benchmarks.table import quantity, verdict
from fastnn.errors import FormatError

SCRIPT_FORMAT = "fastnn-gpu"
SCRIPT_VERSION = 3


FIRST = (
    "GPU", "GPU memory", "driver", "CUDA of the driver", "processor", "vector instructions", "cores", "memory", "system",
    "Python",
)  # fmt: skip
LAST = ("commit", "measured", "threads", "by")
"""Facts in their order; versions of packages stand between them."""


class Place(NamedTuple):
    """What is compared between machines: a cell whatever its device."""

    network: str
    batch_size: int
    precision: str
    method: str = "fit"

    @property
    def kind(self) -> str:
        """`float32`, or in inference `float32 model` and `float32 proba`."""
        return self.precision if self.method == "fit" else f"{self.precision} {self.method.removeprefix('predict_')}"


@dataclass(frozen=True)
class Rates:
    """Examples a second of fastnn, NaN where it was not measured; of the best peer, None where there is none."""

    ours: float
    peer: float | None = None
    peer_label: str = ""
    noisy: bool = False

    @property
    def ratio(self) -> float:
        return math.nan if self.peer is None else self.ours / self.peer


@dataclass(frozen=True)
class Machine:
    """One device of one record. `facts`: where, when and with what it was measured, in words, by what they are about."""

    label: str
    facts: dict[str, str]
    rates: dict[Place, Rates]

    @property
    def ratios(self) -> list[float]:
        """To the best peer, where both were measured."""
        return [rates.ratio for rates in self.rates.values() if math.isfinite(rates.ratio)]

    @property
    def verdicts(self) -> Counter[str]:
        """In how many cells fastnn is "faster" than the best peer, "level" and "slower"."""
        return Counter(map(verdict, self.ratios))

    @property
    def mean(self) -> float:
        """The geometric mean of the ratios; NaN of none."""
        return geometric_mean(self.ratios)


# --- from records -----------------------------------------------------------------------------------------------------


class _ScriptCell(msgspec.Struct):
    network: str
    batch_size: int
    rows: int
    epoch_ms: dict[str, float]


class _ScriptRecord(msgspec.Struct):
    """Of the record of `ci/gpu.sh` what is shown; it holds more."""

    version: Literal[3]
    created: str
    commit: str | None
    gpu: dict[str, str]
    versions: dict[str, str]
    cells: list[_ScriptCell]


def read(paths: Sequence[Path]) -> list[Machine]:
    """The machines of some records, each with a label of its own. Raises FileError and FormatError."""
    machines = [machine for path in paths for machine in _read(path)]
    counts = Counter(machine.label for machine in machines)
    seen: Counter[str] = Counter()
    for index, machine in enumerate(machines):
        if counts[machine.label] > 1:
            seen[machine.label] += 1
            machines[index] = replace(machine, label=f"{machine.label} ({seen[machine.label]})")
    return machines


def _read(path: Path) -> list[Machine]:
    head = record.decode(path)
    if isinstance(head, dict) and head.get("format") == SCRIPT_FORMAT:
        return [of_script(head, path)]
    return of_record(record.read(path))


def of_record(measured: Record) -> list[Machine]:
    """One for each device with a cell in which fastnn was measured, the CPU first."""
    environment, settings = measured.environment, measured.settings
    devices = {each.cell.device for each in measured.done if OURS in each.measured}
    common = {
        "processor": environment.processor,
        "vector instructions": environment.features,
        "cores": str(environment.cores),
        "memory": curves.gibibytes(environment.memory) if environment.memory else "",
        "system": environment.system,
        "Python": environment.python,
        **environment.versions,
        "commit": environment.commit or "",
        "measured": measured.created,
        "threads": str(settings.threads),
        "by": f"fastnn bench, median of up to {settings.rounds} turns of {settings.seconds:g} s",
    }
    machines = []
    for device in sorted(devices, key=lambda device: (device != "cpu", device)):
        gpu, label, facts = environment.gpu, environment.processor, {}
        if device != "cpu":
            label = curves.device_label(device) if gpu is None else gpu.name
            facts = {"GPU": label} | (
                {} if gpu is None else {"GPU memory": curves.gibibytes(gpu.memory), "CUDA of the driver": gpu.driver}
            )  # fmt: skip
        rates = {
            Place(each.cell.network, each.cell.batch_size, each.cell.precision, each.cell.method): _rates(measured, each)
            for each in measured.done
            if each.cell.device == device and OURS in each.measured
        }
        machines.append(Machine(label, facts | common, rates))
    return machines


def _rates(measured: Record, cell: Measured) -> Rates:
    ours, best = cell.examples_per_second(OURS), cell.best_peer
    if best is None:
        return Rates(ours, noisy=cell.noisy)
    return Rates(ours, cell.examples_per_second(best), measured.contestants[best].label, cell.noisy)


def of_script(head: Any, path: Path) -> Machine:
    """Of a record of `ci/gpu.sh`, decoded from JSON. Raises FormatError."""
    if head.get("version") != SCRIPT_VERSION:
        raise FormatError(
            f"{path} has version {head.get('version')!r} of its format; this fastnn reads version {SCRIPT_VERSION}"
        )
    try:
        found = msgspec.convert(head, _ScriptRecord)
    except msgspec.ValidationError as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    gpu = found.gpu
    facts = {
        "GPU": gpu.get("name", "a GPU that nvidia-smi did not name"),
        "GPU memory": gpu.get("memory", ""),
        "driver": gpu.get("driver", ""),
        **{{"python": "Python"}.get(name, name): version for name, version in found.versions.items()},
        "commit": found.commit or "",
        "measured": found.created,
        "by": "ci/gpu.sh, the least of a few calls of fit",
    }
    rates = {}
    for cell in found.cells:
        seconds = {name: ms / 1e3 for name, ms in cell.epoch_ms.items()}
        if cell.rows < 1 or not all(0 < each < math.inf for each in seconds.values()):
            raise FormatError(f"{path} is damaged: {cell.network} at {cell.batch_size} has a time or rows that are not above 0")
        if OURS in seconds:
            ours = cell.rows / seconds.pop(OURS)
            best = min(seconds, key=seconds.__getitem__, default=None)
            peer = Rates(ours) if best is None else Rates(ours, cell.rows / seconds[best], best)
            rates[Place(cell.network, cell.batch_size, "float32")] = peer
    return Machine(facts["GPU"], facts, rates)


# --- side by side -----------------------------------------------------------------------------------------------------


def places(machines: Sequence[Machine]) -> list[Place]:
    """What was measured on any of them: by network as they come first, by precision, training first, by mini-batch."""
    found = list(dict.fromkeys(each for machine in machines for each in machine.rates))
    networks = list(dict.fromkeys(each.network for each in found))
    precisions = list(dict.fromkeys(each.precision for each in found))
    methods = sorted({each.method for each in found}, key=lambda method: (method != "fit", method))
    return sorted(
        found,
        key=lambda it: (
            networks.index(it.network), precisions.index(it.precision), methods.index(it.method), it.batch_size,
        ),
    )  # fmt: skip


def differing(machines: Sequence[Machine]) -> dict[str, list[str]]:
    """What is not the same everywhere, by machine; "" where a record does not say."""
    facts = {what: [machine.facts.get(what, "") for machine in machines] for what in _known(machines)}
    return {what: texts for what, texts in facts.items() if len(set(texts)) > 1}


def same(machines: Sequence[Machine]) -> dict[str, str]:
    """What all records say alike."""
    different = differing(machines)
    return {what: machines[0].facts[what] for what in _known(machines) if what not in different}


def _known(machines: Sequence[Machine]) -> list[str]:
    """What any of them says something about."""
    found = dict.fromkeys(what for machine in machines for what, text in machine.facts.items() if text)
    versions = sorted(found.keys() - {*FIRST, *LAST})
    return [what for what in (*FIRST, *versions, *LAST) if what in found]


def headings(machines: Sequence[Machine]) -> Iterator[str]:
    """As text: the machines with their numbers, and what differs."""
    for number, machine in enumerate(machines, 1):
        counts = machine.verdicts
        against = ", ".join(f"{counts[word]} {word}" for word in ("faster", "level", "slower") if counts[word])
        mean = f"; {against}, geometric mean {machine.mean:.2f}x" if machine.ratios else "; compared with nobody"
        yield f"[{number}] {machine.label}: {len(machine.rates)} cell{'s' * (len(machine.rates) != 1)}{mean}"
    for what, texts in differing(machines).items():
        yield f"{what}: " + "; ".join(f"[{number}] {text or 'not said'}" for number, text in enumerate(texts, 1))


def rows(machines: Sequence[Machine]) -> Iterator[str]:
    """As text: a row a cell, with our examples a second on each machine and our ratio to the best peer there."""
    numbers = "".join(f" {f'[{number}]':>9} {'':>7}" for number in range(1, len(machines) + 1))
    found = places(machines)
    names = max([8, *(len(each.network) for each in found)])
    kinds = max([9, *(len(each.kind) for each in found)])
    yield f"{'network':<{names}} {'batch':>5} {'':<{kinds}}{numbers}".rstrip()
    for each in found:
        row = f"{each.network:<{names}} {each.batch_size:>5} {each.kind:<{kinds}}"
        for machine in machines:
            rates = machine.rates.get(each)
            ratio = "" if rates is None or math.isnan(rates.ratio) else f"{rates.ratio:.2f}x"
            row += f" {'' if rates is None else quantity(rates.ours) + '~' * rates.noisy:>9} {ratio:>7}"
        yield row.rstrip()
