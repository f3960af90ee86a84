"""What became faster or slower between two records, beyond what chance and the machine do.

Both records ran fixed workloads in every round, on one core and on all of them, and times count relative to those of their
round: a machine that was slower changes nothing, nor does one that lost a core to somebody else for a while. fastnn took its
turns in several processes, because where memory lies can make two processes of the same code differ by a tenth; the median of
each process is one value. A cell has changed if

- Welch's t-test of the logarithms of these values is significant at `LEVEL` after Holm's correction for the number of
  cells, and
- the change is larger than the spread of the values within either record, and than `LEAST`, by which two runs of the same
  code were seen to differ,

by both workloads: the smaller of the two changes counts, the larger spread and the larger p.

Where an epoch is so long that all turns were taken by one process, each turn is a value.
"""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastnn.benchmarks.grid import Cell
from fastnn.benchmarks.record import OURS, Measured, Record
from fastnn.benchmarks.table import place, quantity
from fastnn.errors import InputError

LEVEL = 0.05
LEAST = 0.05


@dataclass(frozen=True)
class Change:
    """One cell in both records. `old` and `new` in examples a second; `factor`: new throughput to old, by the reference.

    `p` is corrected for the number of cells; `spread`: of the values of the record that has more, as a factor - 1.
    `verdict`: "faster", "slower", "same", or "unclear" where there are too few values for a test.
    """

    cell: Cell
    old: float
    new: float
    factor: float
    spread: float
    p: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """The cells that are in both records, and why others could not be compared."""

    changes: tuple[Change, ...]
    others: tuple[str, ...]
    notes: tuple[str, ...]

    def regressions(self, fail: float) -> list[Change]:
        """Those that lost more than the share `fail` of their throughput, the worst first."""
        lost = [change for change in self.changes if change.verdict == "slower" and change.factor < 1 - fail]
        return sorted(lost, key=lambda change: change.factor)


def compare(old: Record, new: Record, *, other_machine: bool = False, name: str = OURS) -> Comparison:
    """Compare the cells of one contestant. Raises InputError for records that cannot be compared."""
    a, b = old.environment, new.environment
    if a.machine != b.machine and not other_machine:
        raise InputError(
            f"these records are of different machines ({a.processor}, {a.cores} cores; {b.processor}, {b.cores} cores), and "
            "their times cannot be compared; --other-machine compares them all the same"
        )
    before = {_key(measured): measured for measured in old.done}
    after = {_key(measured): measured for measured in new.done}
    pairs, others = [], []
    for key in dict.fromkeys((*before, *after)):
        first, second = before.get(key), after.get(key)
        if first is None or second is None:
            others.append(f"{key[0]}: only in the {'new' if first is None else 'old'} record")
        elif name not in first.measured or name not in second.measured:
            which = "old" if name not in first.measured else "new"
            others.append(f"{key[0]}: {name} was not measured in the {which} record")
        elif not all(times for m in (first, second) for times in references(m)):
            others.append(f"{key[0]}: the reference was not measured")
        else:
            pairs.append((first, second))
    if not pairs:
        raise InputError("the records have no cell in common that both have measured")
    tests = [_test(first, second, name) for first, second in pairs]
    corrected = holm([p for _, _, p in tests])
    changes = tuple(
        _change(first, second, name, factor, spread, p)
        for (first, second), (factor, spread, _), p in zip(pairs, tests, corrected, strict=True)
    )
    return Comparison(changes, tuple(others), tuple(_notes(old, new)))


def _key(measured: Measured) -> tuple[Cell, int]:
    return measured.cell, measured.threads


def references(measured: Measured) -> tuple[list[float], list[float]]:
    """Seconds of the fixed workloads, one value a round."""
    return measured.reference.one_core, measured.reference.all_cores


def values(measured: Measured, reference: Sequence[float], name: str = OURS) -> list[float]:
    """Logarithms of seconds relative to those of a workload in their round: the median of each process, or each turn of one."""
    result = measured.results[name]
    turns: dict[int, list[float]] = {}
    for process, seconds, unit in zip(result.process, result.seconds, reference, strict=True):
        turns.setdefault(process, []).append(math.log(seconds / unit))
    groups = list(turns.values()) if len(turns) > 1 else [[value] for value in turns[result.process[0]]]
    return [statistics.median(group) for group in groups]


def _test(first: Measured, second: Measured, name: str) -> tuple[float, float, float]:
    """The change as a factor of throughput, the spread within the records, and the p of the test before correction.

    By both workloads the smaller change, the larger spread and the larger p; where by one it is faster and by the other
    slower, there is no change.
    """
    tests = [
        _test_by(values(first, unit, name), values(second, other, name))
        for unit, other in zip(references(first), references(second), strict=True)
    ]
    factors, spreads, ps = zip(*tests, strict=True)
    if min(factors) < 1 < max(factors):
        return 1.0, max(spreads), math.nan if math.isnan(ps[0]) else 1.0
    return min(factors, key=lambda factor: abs(math.log(factor))), max(spreads), max(ps)


def _test_by(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    from scipy.stats import ttest_ind

    change = statistics.fmean(a) - statistics.fmean(b)
    spread = max(max(a) - min(a), max(b) - min(b))
    if min(len(a), len(b)) < 2:
        p = math.nan
    elif spread == 0:
        p = float(change == 0)
    else:
        p = float(ttest_ind(a, b, equal_var=False).pvalue)
    return math.exp(change), math.expm1(spread), p


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction (1979): with n tests, the k-th smallest p times n - k + 1, never below the one before, at most 1.

    NaN, where no test was possible, stays and does not count.
    """
    ranked = sorted((p, index) for index, p in enumerate(ps) if not math.isnan(p))
    corrected = [math.nan] * len(ps)
    largest = 0.0
    for rank, (p, index) in enumerate(ranked):
        largest = max(largest, min(1.0, p * (len(ranked) - rank)))
        corrected[index] = largest
    return corrected


def _change(first: Measured, second: Measured, name: str, factor: float, spread: float, p: float) -> Change:
    size = max(factor, 1 / factor) - 1
    if math.isnan(p):
        verdict = "unclear"
    elif p < LEVEL and size > max(spread, LEAST):
        verdict = "faster" if factor > 1 else "slower"
    else:
        verdict = "same"
    old, new = first.examples_per_second(name), second.examples_per_second(name)
    return Change(first.cell, old, new, factor, spread, p, verdict)


def _notes(old: Record, new: Record) -> Iterator[str]:
    """What else differs between the records and may be the reason."""
    a, b = old.environment, new.environment
    if a.machine != b.machine:
        yield f"different machines: {a.processor}, {a.cores} cores; {b.processor}, {b.cores} cores"
    yield f"commit {a.commit or 'unknown'} -> {b.commit or 'unknown'}"
    for package in sorted({*a.versions, *b.versions}):
        before, after = a.versions.get(package, "none"), b.versions.get(package, "none")
        if before != after:
            yield f"{package} {before} -> {after}"


def lines(comparison: Comparison, fail: float, everything: bool = False) -> Iterator[str]:
    """A comparison as text: what changed, the worst first, then what did not."""
    yield from comparison.notes
    yield ""
    changed = sorted((c for c in comparison.changes if c.verdict in ("slower", "faster")), key=lambda change: change.factor)
    shown = sorted(comparison.changes, key=lambda change: change.factor) if everything else changed
    names = max([8, *(len(change.cell.network) for change in shown)])
    if shown:
        yield f"{'network':<{names}} {'batch':>5} {'device':<9} {'old':>7}  {'new':>7}  {'change':>7}  {'spread':>6}  {'p':>7}"
    for c in shown:
        cell = c.cell
        yield (
            f"{cell.network:<{names}} {cell.batch_size:>5} {place(cell):<9} {quantity(c.old):>7}  {quantity(c.new):>7}  "
            f"{c.factor - 1:>+7.1%}  {c.spread:>6.1%}  {c.p:>7.2g}  {c.verdict}"
        )
    counts = collections.Counter(change.verdict for change in comparison.changes)
    strings = [f"{counts['slower']} slower", f"{counts['faster']} faster", f"{counts['same']} unchanged"]
    strings += [f"{counts['unclear']} with too few turns to tell"] if counts["unclear"] else []
    yield f"{len(comparison.changes)} cells: {', '.join(strings)}"
    yield from comparison.others
    lost = comparison.regressions(fail)
    if lost:
        yield f"regression: {len(lost)} lost more than {fail:.0%}, {lost[0].cell} the most ({lost[0].factor - 1:+.1%})"
