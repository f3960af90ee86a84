"""From which mini-batch on the GPU overtakes the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from fastnn.benchmarks.record import OURS, Record


@dataclass(frozen=True)
class Crossover:
    """fastnn on the GPU in one precision against fastnn on the CPU (float32), over the mini-batch sizes measured on both.

    `batch_size`: the first at which the GPU is faster and stays so; None if it is slower at the last.
    """

    network: str
    precision: str
    batch_sizes: tuple[int, ...]
    batch_size: int | None

    def __str__(self) -> str:
        first, last = self.batch_sizes[0], self.batch_sizes[-1]
        who = f"{self.network}: the GPU in {self.precision}"
        sizes = f"a mini-batch of {first}" if first == last else f"mini-batches of {first} to {last}"
        if self.batch_size is None:
            still = "is slower" if first == last else f"is still slower at {last}"
            return f"{who} {still} than the CPU (measured on both: {sizes})"
        if self.batch_size == first:
            return f"{who} is faster than the CPU wherever both were measured ({sizes})"
        return f"{who} overtakes the CPU at a mini-batch of {self.batch_size} (measured on both: {sizes})"


def crossovers(record: Record) -> list[Crossover]:
    """One for every network and GPU precision that fastnn was trained in on both devices, in the order of the record."""
    rates: dict[tuple[str, str, str], dict[int, float]] = {}
    for measured in record.done:
        if OURS in measured.measured and not measured.cell.inference:
            cell = measured.cell
            key = (cell.network, cell.device, cell.precision)
            rates.setdefault(key, {})[cell.batch_size] = measured.examples_per_second(OURS)
    crossings = []
    for (network, device, precision), gpu in rates.items():
        cpu = rates.get((network, "cpu", "float32"), {})
        both = sorted(cpu.keys() & gpu.keys())
        if device == "cuda" and both:
            slower = [index for index, size in enumerate(both) if gpu[size] <= cpu[size]]
            since = both[slower[-1] + 1 :] if slower else both
            crossings.append(Crossover(network, precision, tuple(both), since[0] if since else None))
    return crossings


def crossover_lines(record: Record) -> list[str]:
    """The same in words, and why there is nothing to say where there is not."""
    if record.environment.gpu is None:
        return ["no GPU here"]
    return [str(crossover) for crossover in crossovers(record)] or ["no network was measured on both the CPU and the GPU"]
