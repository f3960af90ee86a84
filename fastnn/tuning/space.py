"""Hyper-parameters and the scales that they are searched on, after Ng, "Improving Deep Neural Networks", week 3.

A distribution is a monotone map from u in [0, 1) to values: drawn with u uniform, on a grid with u in equal steps. A learning
rate between 1e-4 and 1 is as often in [1e-4, 1e-3) as in [0.1, 1): `LogUniform(1e-4, 1)`. A momentum near 1 averages about
1/(1 - beta) values, so that 1 - beta is what has such a scale: `OneMinus(LogUniform(0.001, 0.1))` for beta in [0.9, 0.999].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from fastnn.configurations import Configuration
from fastnn.errors import InputError, InputTypeError, nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ONE_MINUS = "1 - "
"""Optuna keeps 1 - value of a `OneMinus`, under a name that begins with this."""


@dataclass(frozen=True)
class Distribution(Configuration):
    """Values of one hyper-parameter, on a scale of theirs."""

    types: ClassVar[dict[str, type[Configuration]]] = {}

    @property
    def scale(self) -> str:
        """On which axis the values lie evenly: "linear", "log", "one minus log" (log of 1 - value) or "choice"."""
        raise NotImplementedError

    @property
    def most(self) -> float:
        """How many different values there are."""
        return math.inf

    def at(self, u: float) -> Any:
        """The value at the share u in [0, 1] of the scale."""
        raise NotImplementedError

    def grid(self, points: int) -> tuple[Any, ...]:
        """At most so many different values in equal steps on the scale, both ends among them; one alone is the middle."""
        return tuple(self.at(float(u)) for u in np.linspace(0.0, 1.0, points)) if points > 1 else (self.at(0.5),)

    def around(self, values: Sequence[Any]) -> Distribution:
        """The least part of this scale in which these values of it lie."""
        raise NotImplementedError

    def to_optuna(self) -> BaseDistribution:
        """Optuna's distribution of `stored(value)`."""
        raise NotImplementedError

    def to_stored(self, value: Any) -> Any:
        """What Optuna keeps for this value; `value` is its inverse."""
        return value

    def value(self, stored: Any) -> Any:
        return stored


@dataclass(frozen=True)
class Uniform(Distribution):
    """lower + u (upper - lower)."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        for bound in (self.lower, self.upper):
            if isinstance(bound, bool) or not isinstance(bound, Real) or not math.isfinite(bound):
                raise InputError(f"{type(self).__name__}: expected two finite numbers, got {self.lower!r} and {self.upper!r}")
        if not self.lower < self.upper:
            raise InputError(f"{type(self).__name__}: expected lower < upper, got {self.lower!r} and {self.upper!r}")
        object.__setattr__(self, "lower", float(self.lower))
        object.__setattr__(self, "upper", float(self.upper))

    @property
    def scale(self) -> str:
        return "linear"

    def at(self, u: float) -> float:
        return self._within(self.lower + u * (self.upper - self.lower))

    def _within(self, value: float) -> float:
        return min(max(float(value), self.lower), self.upper)

    def around(self, values: Sequence[float]) -> Distribution:
        lower, upper = self._within(min(values)), self._within(max(values))
        return type(self)(lower, upper) if lower < upper else Choice((lower,))

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.lower, self.upper, log=self.scale == "log")


@dataclass(frozen=True)
class LogUniform(Uniform):
    """10^r with r = log10 lower + u (log10 upper - log10 lower)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lower <= 0.0:
            raise InputError(f"LogUniform: expected 0 < lower, got {self.lower!r}; there is no logarithm of it")

    @property
    def scale(self) -> str:
        return "log"

    def at(self, u: float) -> float:
        low, high = math.log(self.lower), math.log(self.upper)
        return self._within(math.exp(low + u * (high - low)))


@dataclass(frozen=True)
class OneMinus(Distribution):
    """1 - x, with x of another distribution: of `LogUniform(0.001, 0.1)`, 1 - 10^r with r in [-3, -1]."""

    of: Uniform

    def __post_init__(self) -> None:
        if not isinstance(self.of, Uniform):
            raise InputTypeError(f"OneMinus: expected a LogUniform or a Uniform, got {self.of!r}")

    @property
    def scale(self) -> str:
        return "one minus log" if self.of.scale == "log" else "linear"

    def at(self, u: float) -> float:
        return self.value(self.of.at(1.0 - u))

    def around(self, values: Sequence[float]) -> Distribution:
        part = self.of.around([1.0 - value for value in values])
        return OneMinus(part) if isinstance(part, Uniform) else Choice((float(values[0]),))

    def to_optuna(self) -> BaseDistribution:
        return self.of.to_optuna()

    def to_stored(self, value: float) -> float:
        return self.of._within(1.0 - value)

    def value(self, stored: float) -> float:
        return 1.0 - stored


@dataclass(frozen=True)
class Integers(Distribution):
    """Integers from lower to upper, both among them: each as likely as the others, or, with `log`, by their logarithms.

    Those of `log` are 10^r, rounded, with r uniform from log10(lower - 1/2) to log10(upper + 1/2).
    """

    lower: int
    upper: int
    log: bool = False

    def __post_init__(self) -> None:
        for bound in (self.lower, self.upper):
            if isinstance(bound, bool) or not isinstance(bound, Integral):
                raise InputError(f"Integers: expected two integers, got {self.lower!r} and {self.upper!r}")
        if not self.lower < self.upper:
            raise InputError(f"Integers: expected lower < upper, got {self.lower!r} and {self.upper!r}")
        if self.log and self.lower < 1:
            raise InputError(f"Integers: expected lower >= 1 on a log scale, got {self.lower!r}")
        object.__setattr__(self, "lower", int(self.lower))
        object.__setattr__(self, "upper", int(self.upper))

    @property
    def scale(self) -> str:
        return "log" if self.log else "linear"

    @property
    def most(self) -> int:
        return self.upper - self.lower + 1

    def at(self, u: float) -> int:
        if self.log:
            low, high = math.log(self.lower - 0.5), math.log(self.upper + 0.5)
            return min(max(round(math.exp(low + u * (high - low))), self.lower), self.upper)
        return min(self.lower + int(u * self.most), self.upper)

    def grid(self, points: int) -> tuple[int, ...]:
        bounds: Uniform = LogUniform(self.lower, self.upper) if self.log else Uniform(self.lower, self.upper)
        return tuple(dict.fromkeys(round(value) for value in bounds.grid(points)))

    def around(self, values: Sequence[int]) -> Distribution:
        lower, upper = int(min(values)), int(max(values))
        return Integers(lower, upper, self.log) if lower < upper else Choice((lower,))

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.lower, self.upper, log=self.log)


@dataclass(frozen=True)
class Choice(Distribution):
    """One of some strings, numbers, booleans or None, each as likely as the others; a grid takes all of them."""

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not isinstance(self.options, Sequence):
            raise InputTypeError(f"Choice: expected a list of options, got {self.options!r}")
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options:
            raise InputError("Choice: expected at least one option, got none")
        for option in self.options:
            if not isinstance(option, str | bool | int | float | None):
                kind = type(option).__name__
                raise InputTypeError(f"Choice: expected strings, numbers, booleans or None, got a {kind}; look it up by a name")
            if option != option:
                raise InputError("Choice: expected options that equal themselves, got NaN")
        if len({(type(option), option) for option in self.options}) < len(self.options):
            raise InputError(f"Choice: expected different options, got {list(self.options)}")

    @property
    def scale(self) -> str:
        return "choice"

    @property
    def most(self) -> int:
        return len(self.options)

    def at(self, u: float) -> Any:
        return self.options[min(int(u * len(self.options)), len(self.options) - 1)]

    def grid(self, points: int) -> tuple[Any, ...]:
        return self.options

    def around(self, values: Sequence[Any]) -> Distribution:
        kept = {(type(value), value) for value in values}
        return Choice(tuple(option for option in self.options if (type(option), option) in kept))

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)


Distribution.types.update({kind.__name__: kind for kind in (Uniform, LogUniform, OneMinus, Integers, Choice)})


class Space(Mapping[str, Distribution]):
    """Hyper-parameters by name; a point of the space is a dict of a value for each name.

        space = Space({"learning_rate": LogUniform(1e-4, 1), "units": Integers(16, 256, log=True)})

    Raises InputError for no parameter at all, InputTypeError for what is no distribution.
    """

    def __init__(self, distributions: Mapping[str, Distribution]) -> None:
        if not isinstance(distributions, Mapping):
            raise InputTypeError(f"space: expected a dict of distributions by name, got {type(distributions).__name__}")
        if not distributions:
            raise InputError("space: expected at least one parameter, got none")
        for name, distribution in distributions.items():
            if not isinstance(name, str) or not name:
                raise InputTypeError(f"space: expected names of parameters, got {name!r}")
            if name.startswith(ONE_MINUS):
                raise InputError(f"space: expected a name that does not begin with {ONE_MINUS!r}, got {name!r}")
            if not isinstance(distribution, Distribution):
                raise InputTypeError(
                    f"space: {name}: expected one of {', '.join(Distribution.types)}, got {distribution!r}"
                    "; a value that stays as it is belongs into the function"
                )
        self._distributions = dict(distributions)

    def __getitem__(self, name: str) -> Distribution:
        if name not in self._distributions:
            raise InputError(f"the space has no {name!r}{nearest(name, self._distributions)}")
        return self._distributions[name]

    def __contains__(self, name: object) -> bool:
        return name in self._distributions

    def __iter__(self) -> Iterator[str]:
        return iter(self._distributions)

    def __len__(self) -> int:
        return len(self._distributions)

    def __repr__(self) -> str:
        return f"Space({self._distributions})"

    def sample(self, rng: np.random.Generator | int) -> dict[str, Any]:
        """A point drawn at random, by a generator or a seed."""
        numbers = np.random.default_rng(rng).random(len(self))
        return {name: chosen.at(float(u)) for (name, chosen), u in zip(self.items(), numbers, strict=True)}

    def grid(self, points: int | Mapping[str, int]) -> list[dict[str, Any]]:
        """Points in equal steps along every scale, the last parameter changing fastest.

        `points`: how many values by name; or how many points there are at most: steps are then shared out evenly, and every
        option of a `Choice` is taken. Raises InputError where not even one value of each parameter fits.
        """
        counts = {name: int(number) for name, number in points.items()} if isinstance(points, Mapping) else self._counts(points)
        for name, number in counts.items():
            if number < 1:
                raise InputError(f"grid: {name}: expected at least 1 value, got {number}")
            self[name]
        if len(counts) < len(self):
            raise InputError(f"grid: expected a number of values for each of {', '.join(self)}; got {', '.join(counts)}")
        combinations: list[dict[str, Any]] = [{}]
        for name, distribution in self.items():
            values = distribution.grid(counts[name])
            combinations = [point | {name: value} for point in combinations for value in values]
        return combinations

    def _counts(self, points: int) -> dict[str, int]:
        """As many values of each as make at most so many points."""
        counts = {name: int(distribution.most) if distribution.scale == "choice" else 1 for name, distribution in self.items()}
        if math.prod(counts.values()) > points:
            raise InputError(f"grid: {points} points are too few for {math.prod(counts.values())} combinations of options")
        growing = True
        while growing:
            growing = False
            for name, distribution in self.items():
                larger = counts | {name: counts[name] + 1}
                if larger[name] <= distribution.most and math.prod(larger.values()) <= points:
                    counts, growing = larger, True
        return counts

    def narrow(self, points: Sequence[Mapping[str, Any]]) -> Space:
        """The smallest box, on these scales, in which all the points lie: from coarse to fine."""
        if not points:
            raise InputError("narrow: expected at least one point, got none")
        return Space({name: distribution.around([point[name] for point in points]) for name, distribution in self.items()})

    def to_optuna(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions, by the names that its studies know; `from_optuna` gives this space back."""
        return {_stored_name(name, distribution): distribution.to_optuna() for name, distribution in self.items()}

    @classmethod
    def from_optuna(cls, distributions: Mapping[str, BaseDistribution]) -> Self:
        """The space of such distributions. Raises InputError for one with steps, which has no counterpart here."""
        space: dict[str, Distribution] = {}
        for name, distribution in distributions.items():
            converted = _from_optuna(name, distribution)
            if name.startswith(ONE_MINUS):
                space[name.removeprefix(ONE_MINUS)] = OneMinus(converted)  # type: ignore[arg-type]
            else:
                space[name] = converted
        return cls(space)

    def to_stored(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The point as Optuna keeps it; `point` is the inverse."""
        return {_stored_name(name, distribution): distribution.to_stored(point[name]) for name, distribution in self.items()}

    def point(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: distribution.value(stored[_stored_name(name, distribution)])
            for name, distribution in self.items()
            if _stored_name(name, distribution) in stored
        }

    def to_config(self) -> dict[str, Any]:
        """Plain JSON values by name, in order."""
        return {name: distribution.to_config() for name, distribution in self.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The space that `to_config` described."""
        return cls({name: _from_config(description) for name, description in config.items()})


def _from_config(config: Mapping[str, Any]) -> Distribution:
    inner = config.get("of")
    return Distribution.from_config(config if inner is None else {**config, "of": Uniform.from_config(inner)})


def _stored_name(name: str, distribution: Distribution) -> str:
    return ONE_MINUS + name if isinstance(distribution, OneMinus) else name


def _from_optuna(name: str, distribution: BaseDistribution) -> Distribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return Choice(tuple(distribution.choices))
    if isinstance(distribution, IntDistribution) and distribution.step == 1:
        return Integers(distribution.low, distribution.high, distribution.log)
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return (LogUniform if distribution.log else Uniform)(distribution.low, distribution.high)
    raise InputError(f"{name}: expected a distribution without steps, got {distribution!r}")
