"""Learning-rate schedules: the rate of every step, as a function of the step alone.

A schedule is immutable and holds no state. `rates` gives a chunk's rates at once, in float64; they are rounded once,
when they are written to the table that the update kernels read. The unit of time t is the epoch (`per="epoch"`, the
default: the rate is the same for all steps of an epoch) or the step (`per="step"`). t is counted from 0, from the start
of the call of `fit`, so the first epoch always runs at the rate of t = 0; T is the length of the run in the same unit.
Andrew Ng's course counts epochs from 1 in `a0 / (1 + decay * epoch)`: its table is ours one epoch later.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar, Literal, TypeGuard

import numpy as np
import numpy.typing as npt

from fastnn.configurations import Configuration, as_number, set_choice, set_count, set_number
from fastnn.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule(Configuration):
    """The base of all schedules. One of your own defines `rate_at(t, length)` and is a frozen dataclass too; it says
    `depends_on_length = False` if it does not use `length`.
    """

    types: ClassVar[dict[str, type[Configuration]]] = {}
    depends_on_length: ClassVar[bool] = True
    """Whether the rates depend on how long the run is. `partial_fit`, whose run has no end, takes only others."""
    per: Literal["epoch", "step"] = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        set_choice(self, "per", ("epoch", "step"))

    def rates(self, steps: Integers, steps_per_epoch: int, total_steps: int) -> Floats:
        """The learning rates of `steps` (numbers from 0), the same for a step whatever other steps are asked with it.

        `total_steps` is the length of the run. Raises InputError if a rate is negative, infinite or NaN.
        """
        if steps_per_epoch < 1:
            raise InputError(f"steps_per_epoch: expected at least 1, got {steps_per_epoch}")
        steps = np.asarray(steps, np.int64)
        # A rate that underflows is 0, which is right; one that overflows is found below.
        with np.errstate(all="ignore"):
            rates = np.asarray(self._rates(steps, steps_per_epoch, total_steps), np.float64)
        bad = ~(np.isfinite(rates) & (rates >= 0))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{type(self).__name__}: the learning rate of step {steps[first]} is {rates[first]}; "
                "expected a finite number >= 0"
            )
        return rates

    def _rates(self, steps: Integers, steps_per_epoch: int, total_steps: int) -> Floats:
        if self.per == "epoch":
            return self.rate_at(steps // steps_per_epoch, -(-total_steps // steps_per_epoch))
        return self.rate_at(steps, total_steps)

    def rate_at(self, t: Integers, length: int) -> Floats:
        """The rates at the times `t` of a run of `length`, both in the unit of `per`."""
        raise NotImplementedError(f"{type(self).__name__} does not define rate_at")


@dataclass(frozen=True)
class Constant(Schedule):
    """rate, always."""

    depends_on_length: ClassVar[bool] = False

    rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "rate", least=0)

    def rate_at(self, t: Integers, length: int) -> Floats:
        return np.full(t.shape, self.rate)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """initial / (1 + decay * t): the decay of Andrew Ng's course."""

    depends_on_length: ClassVar[bool] = False

    initial: float
    decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "initial", least=0)
        set_number(self, "decay", least=0)

    def rate_at(self, t: Integers, length: int) -> Floats:
        return self.initial / (1.0 + self.decay * t)


@dataclass(frozen=True)
class Exponential(Schedule):
    """initial * base^t; the course's example is base = 0.95. A base above 1 grows (a search for the largest usable rate)."""

    depends_on_length: ClassVar[bool] = False

    initial: float
    base: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "initial", least=0)
        set_number(self, "base", above=0)

    def rate_at(self, t: Integers, length: int) -> Floats:
        rates: Floats = self.initial * np.power(self.base, t)
        return rates


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """k / sqrt(t + 1) * initial: the course's k / sqrt(epoch) with epochs counted from 1."""

    depends_on_length: ClassVar[bool] = False

    initial: float
    k: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "initial", least=0)
        set_number(self, "k", least=0)

    def rate_at(self, t: Integers, length: int) -> Floats:
        rates: Floats = self.k / np.sqrt(t + 1.0) * self.initial
        return rates


@dataclass(frozen=True)
class Staircase(Schedule):
    """initial * factor^floor(t / every): a drop by `factor` every `every` epochs or steps."""

    depends_on_length: ClassVar[bool] = False

    initial: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "initial", least=0)
        set_number(self, "factor", above=0)
        set_count(self, "every")

    def rate_at(self, t: Integers, length: int) -> Floats:
        rates: Floats = self.initial * np.power(self.factor, t // self.every)
        return rates


@dataclass(frozen=True)
class Table(Schedule):
    """Rates by hand: a mapping from epoch (or step) to rate, each held until the next entry; 0 must be among them.

    `Table({0: 0.1, 10: 0.01})`. Kept as a sorted tuple of pairs.
    """

    depends_on_length: ClassVar[bool] = False

    entries: Mapping[int, float] | Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "entries", _as_entries(self.entries))

    def rate_at(self, t: Integers, length: int) -> Floats:
        pairs: Any = self.entries
        starts = np.array([start for start, _ in pairs], np.int64)
        values = np.array([rate for _, rate in pairs], np.float64)
        rates: Floats = values[np.searchsorted(starts, t, side="right") - 1]
        return rates


@dataclass(frozen=True)
class Cosine(Schedule):
    """final + (initial - final) * (1 + cos(pi * t / T)) / 2: half a cosine over the run, then `final`.

    `final` itself would be the rate of t = T, the first after the run, as in Loshchilov & Hutter 2017 (SGDR), equation 5,
    and as in PyTorch's CosineAnnealingLR with T_max = T.
    """

    initial: float
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "initial", least=0)
        set_number(self, "final", least=0)

    def rate_at(self, t: Integers, length: int) -> Floats:
        return _cosine_between(self.initial, self.final, t / max(length, 1))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from `initial` to `peak`, then down to `final`, along half a cosine each (Smith & Topin 2018).

    The peak is reached at t = rise * T - 1 and `final` at the last t, T - 1. `initial` is peak / 25 and `final` is
    initial / 10000 unless given: the numbers and the times of PyTorch's OneCycleLR, which has `per="step"`. Where
    rise * T < 1 there is no way up and the run begins at the peak; a run of one epoch (or step) is all peak.
    """

    peak: float
    initial: float | None = None
    final: float | None = None
    rise: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "peak", least=0)
        if self.initial is not None:
            set_number(self, "initial", least=0)
        if self.final is not None:
            set_number(self, "final", least=0)
        set_number(self, "rise", above=0, below=1)

    def rate_at(self, t: Integers, length: int) -> Floats:
        initial = self.peak / 25.0 if self.initial is None else self.initial
        final = initial / 1e4 if self.final is None else self.final
        last = max(length - 1, 0)
        top = max(self.rise * length - 1.0, 0.0)
        up = _cosine_between(initial, self.peak, t / top if top > 0 else np.ones(t.shape))
        down = _cosine_between(self.peak, final, (t - top) / (last - top) if last > top else np.zeros(t.shape))
        return np.where(t < top, up, down)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line up over `length` epochs or steps, then another schedule, which counts from there.

    The rate of t < length is target * (t + 1) / (length + 1), where target is the first rate of `then`: the line comes
    from 0 before the first step and meets `then` at its first. `then` is a number or a schedule with its own `per`; its t
    counts from the end of the warm-up, and its T is what is left of the run. With `per="step"` every step of the warm-up has
    its own rate (Goyal et al. 2017, section 2.2); with `per="epoch"` the line is a staircase.
    """

    length: int
    then: float | Schedule

    def __post_init__(self) -> None:
        super().__post_init__()
        set_count(self, "length")
        object.__setattr__(self, "then", as_schedule(self.then))

    @property
    def depends_on_length(self) -> bool:  # type: ignore[override]
        """As the schedule behind the warm-up does."""
        return as_schedule(self.then).depends_on_length

    def _rates(self, steps: Integers, steps_per_epoch: int, total_steps: int) -> Floats:
        then = as_schedule(self.then)
        unit = steps_per_epoch if self.per == "epoch" else 1
        shift = self.length * unit
        after = then._rates(np.maximum(steps - shift, 0), steps_per_epoch, max(total_steps - shift, 0))
        # While it warms up, `after` is the first rate of `then`, because its steps are clipped to 0.
        return np.where(steps < shift, after * ((steps // unit + 1.0) / (self.length + 1.0)), after)


Schedule.types.update(
    {cls.__name__: cls for cls in (Constant, InverseTime, Exponential, InverseSqrt, Staircase, Table, Cosine, OneCycle, Warmup)}
)


def as_schedule(rate: object) -> Schedule:
    """A schedule as it is, a number as `Constant`, a configuration read back; anything else raises InputError."""
    if isinstance(rate, Schedule):
        return rate
    if type(rate) is not float and isinstance(rate, Mapping):
        return Schedule.from_config(rate)
    if not is_rate(rate):
        raise InputError(f"learning rate: expected a finite number >= 0 or a schedule, got {rate!r}")
    return _constant(float(rate))


@functools.lru_cache(maxsize=64)
def _constant(rate: float) -> Constant:
    """The schedule of a number; it is immutable, and made once."""
    return Constant(rate)


def is_rate(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number >= 0 (and not a boolean)."""
    return 0 <= as_number(value) < math.inf


def _cosine_between(start: float, end: float, progress: Floats) -> Floats:
    """Half a cosine from `start` at progress 0 to `end` at progress 1, held at both ends."""
    weight: Floats = (1.0 + np.cos(np.pi * np.clip(progress, 0.0, 1.0))) / 2.0
    return weight * start + (1.0 - weight) * end


def _as_entries(entries: object) -> tuple[tuple[int, float], ...]:
    """The sorted pairs of a table, each an integer >= 0 and a rate; InputError otherwise."""
    pairs: list[Any] = []
    if isinstance(entries, Mapping):
        pairs = list(entries.items())
    elif isinstance(entries, Sequence) and not isinstance(entries, str):
        pairs = list(entries)
    checked: dict[int, float] = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"Table: expected pairs of a time and a rate, got {pair!r}")
        start, rate = pair
        if not isinstance(start, Integral) or isinstance(start, bool) or start < 0:
            raise InputError(f"Table: expected integers >= 0 as times, got {start!r}")
        if not is_rate(rate):
            raise InputError(f"Table: expected finite rates >= 0, got {rate!r} at {start}")
        if int(start) in checked:
            raise InputError(f"Table: {start} has two rates")
        checked[int(start)] = float(rate)
    if 0 not in checked:
        raise InputError(f"Table: expected a mapping such as {{0: 0.1, 10: 0.01}} with an entry for 0, got {entries!r}")
    return tuple(sorted(checked.items()))


__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSqrt",
    "InverseTime",
    "OneCycle",
    "Schedule",
    "Staircase",
    "Table",
    "Warmup",
]
