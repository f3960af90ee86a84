"""Immutable settings: frozen dataclasses that check their fields and go through JSON and back without loss.

Schedules, optimizers and initializers are `Configuration`s. Their fields are numbers, strings, booleans, None, tuples of
numbers and other configurations. Each family keeps a fixed table of the classes that may be read back, so that a
checkpoint names no code of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from numbers import Integral, Real
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

from fastnn.errors import InputError, InputTypeError, nearest

P = ParamSpec("P")
R = TypeVar("R")

BOUNDS = "bounds"
"""Where the metadata of a field have the bounds of its number."""


class Keywords:
    """The base of classes whose constructors answer a keyword that they do not take with the one of theirs that is meant.

    Keywords are looked at beside `__init__`, whose signature is what editors show. Raises InputTypeError, which is a TypeError.
    """

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        if keywords:
            _, *taken = signature(cls.__init__).parameters.values()
            known = [parameter.name for parameter in taken]
            unknown = [name for name in keywords if name not in known]
            if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
                raise InputTypeError(f"{cls.__name__} has no {unknown[0]!r}{nearest(unknown[0], known)}")
        return super().__new__(cls)


def answers_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """A function or method that answers a keyword that it does not take with the one of its own that is meant.

    Raises InputTypeError, which is a TypeError.
    """
    known = [
        parameter.name for parameter in signature(function).parameters.values() if parameter.kind is parameter.KEYWORD_ONLY
    ]
    taken = frozenset(signature(function).parameters)

    @functools.wraps(function)
    def answering(*arguments: P.args, **keywords: P.kwargs) -> R:
        if not keywords.keys() <= taken:
            unknown = next(name for name in keywords if name not in taken)
            raise InputTypeError(f"{function.__name__} has no {unknown!r}{nearest(unknown, known)}")
        return function(*arguments, **keywords)

    return answering


@dataclass(frozen=True)
class Configuration(Keywords):
    """The base of one family per subclass that sets `types`; `from_config` of the family reads any member of it."""

    types: ClassVar[dict[str, type[Configuration]]] = {}

    def to_config(self) -> dict[str, Any]:
        """A dict of plain JSON values: the class under "type", then the fields. Raises for a class outside the table."""
        name = type(self).__name__
        if self.types.get(name) is not type(self):
            family = next(base.__name__ for base in type(self).__mro__ if "types" in vars(base))
            raise InputError(
                f"{name} cannot be stored: expected one of {', '.join(self.types)}; let files name it by "
                f"{family}.types[{name!r}] = {name}"
            )
        return {"type": name, **{each.name: _plain(getattr(self, each.name)) for each in fields(self)}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The configuration that `to_config` described. Raises InputError for unknown classes and fields."""
        if not isinstance(config, Mapping) or "type" not in config:
            raise InputError(f'expected a dict with "type" and the fields of a {cls.__name__}, got {config!r}')
        values = dict(config)
        name = values.pop("type")
        configuration_class = cls.types.get(name) if isinstance(name, str) else None
        if configuration_class is None or not issubclass(configuration_class, cls):
            known = [key for key, value in cls.types.items() if issubclass(value, cls)]
            raise InputError(f"unknown {cls.__name__} {name!r}{nearest(name, known)}")
        check_names(configuration_class, values)
        try:
            return configuration_class(**values)
        except TypeError as error:
            raise InputError(f"incomplete configuration of {name}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Configuration):
        return value.to_config()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def check_names(configuration_class: type[Configuration], values: Mapping[str, Any]) -> None:
    """Raise InputError if `values` names a field that `configuration_class` does not have."""
    known = [each.name for each in fields(configuration_class)]
    for name in values:
        if name not in known:
            raise InputError(f"{configuration_class.__name__} has no {name!r}{nearest(name, known)}")


def read_fields(name: str, text: str, known: Sequence[str]) -> dict[str, str]:
    """The fields in `field=value,field=value`, as texts. Raises InputError, with this name, for what `known` does not have."""
    values: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        field, sign, value = (part.strip() for part in entry.partition("="))
        if field not in known:
            raise InputError(f"{name} has no {field!r}{nearest(field, known)}")
        if not sign or field in values:
            raise InputError(f"{name}: expected each number once, as in {field}=0.5, got {text!r}")
        values[field] = value
    return values


def as_number(value: object) -> float:
    """`value` as a float; NaN for what is no real number (booleans are none) or is beyond the range of floats."""
    if type(value) is float:
        return value
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def as_count(name: str, value: object, least: int = 1) -> int:
    """`value` as an int. Raises InputError, with this name, for what is no integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: expected an integer >= {least}, got {value!r}")
    return int(value)


def is_index(value: object, count: int) -> bool:
    """Whether it is an integer from 0 to `count` - 1; booleans are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < count


def number(default: float, **bounds: float) -> Any:
    """A field with that default whose bounds, as in `set_number`, are kept with it; `set_numbers` checks them."""
    return field(default=default, metadata={BOUNDS: bounds})


def set_numbers(configuration: Configuration) -> None:
    """`set_number` for each field that `number` made."""
    for each in fields(configuration):
        if BOUNDS in each.metadata:
            set_number(configuration, each.name, **each.metadata[BOUNDS])


def set_number(
    configuration: Configuration,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Replace the field by its float; InputError unless it is finite, >= least, > above, <= most and < below."""
    value = getattr(configuration, name)
    bounds = [
        f"{sign} {bound:g}" for sign, bound in ((">=", least), (">", above), ("<=", most), ("<", below)) if math.isfinite(bound)
    ]
    number = as_number(value)
    if not (math.isfinite(number) and number >= least and number > above and number <= most and number < below):
        expected = " ".join(["expected a finite number", " and ".join(bounds)]).strip()
        raise InputError(f"{type(configuration).__name__}: {name}: {expected}, got {value!r}")
    object.__setattr__(configuration, name, number)


def set_count(configuration: Configuration, name: str, *, least: int = 1) -> None:
    """Replace the field by its int; InputError unless it is an integer >= least."""
    value = getattr(configuration, name)
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{type(configuration).__name__}: {name}: expected an integer >= {least}, got {value!r}")
    object.__setattr__(configuration, name, int(value))


def set_switch(configuration: Configuration, name: str) -> None:
    """InputError unless the field is True or False."""
    value = getattr(configuration, name)
    if not isinstance(value, bool):
        raise InputError(f"{type(configuration).__name__}: {name}: expected True or False, got {value!r}")


def set_choice(configuration: Configuration, name: str, choices: tuple[str, ...]) -> None:
    """InputError unless the field is one of `choices`."""
    value = getattr(configuration, name)
    if value not in choices:
        raise InputError(f"{type(configuration).__name__}: unknown {name} {value!r}{nearest(value, choices)}")
