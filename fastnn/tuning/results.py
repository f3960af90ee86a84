"""`Results`: the trials of a search as a table."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.errors import InputError, NotReadyError, nearest
from fastnn.notebooks import Printed
from fastnn.storage.atomic import write_whole
from fastnn.tuning.space import Space
from fastnn.tuning.strategies import narrow

WIDTH = 80
SHOWN = 20
"""Rows that are printed."""
SHORT, LONGEST = 9, 12
"""Characters of a parameter's name, and of its values, where there is no room for all."""


@dataclass(frozen=True)
class TrialResult:
    """A row: the number of the trial, the point at which it lies, its value (of a pruned one the last that it reported; NaN
    where there is none), its state ("complete", "pruned", "failed", "running", "waiting" or "interrupted"), how long it took
    (NaN before its end) and what made it fail.
    """

    number: int
    parameters: dict[str, Any]
    value: float
    state: str
    seconds: float
    error: str = ""


class Results(Sequence[TrialResult], Printed):
    """The trials of a search, in the order of their numbers or as `sorted`; printed, a table of the best.

    `names`: of the parameters; `scales`: the scale of each, as `Distribution.scale`; `values`: (n,) float64, NaN where there is
    none; `results[name]`: a parameter's value of each trial; `mode`: "min" or "max", which values are better.
    """

    def __init__(self, space: Space, trials: Sequence[TrialResult], mode: str) -> None:
        self.space, self.trials, self.mode = space, list(trials), mode

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.space)

    @property
    def scales(self) -> dict[str, str]:
        return {name: distribution.scale for name, distribution in self.space.items()}

    @property
    def values(self) -> np.ndarray:
        return np.array([trial.value for trial in self.trials], np.float64)

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[TrialResult]:
        return iter(self.trials)

    def __getitem__(self, key: Any) -> Any:
        """A trial by its place, some by a slice, or the column of a parameter (n,) by its name."""
        if isinstance(key, str):
            self.space[key]  # an unknown name is an error that says the nearest
            return np.array([trial.parameters.get(key) for trial in self.trials])
        return self._with(self.trials[key]) if isinstance(key, slice) else self.trials[key]

    @property
    def failed(self) -> list[TrialResult]:
        """The trials that failed, each with its error, in the order of this table."""
        return [trial for trial in self.trials if trial.state == "failed"]

    @property
    def best(self) -> TrialResult:
        """The complete trial with the best value. Raises NotReadyError where there is none."""
        ranked = self._ranking()
        if not ranked:
            why = f"; the first that failed: {self.failed[0].error}" if self.failed else ""
            raise NotReadyError(f"none of the {len(self.trials)} trials is complete{why}")
        return ranked[0]

    def _ranking(self) -> list[TrialResult]:
        """Complete trials, the best first."""
        sign = 1.0 if self.mode == "min" else -1.0
        return sorted((trial for trial in self.trials if trial.state == "complete"), key=lambda trial: sign * trial.value)

    def sorted(self, by: str = "value", reverse: bool = False) -> Results:
        """The same trials by "value" (the best first, then those that are not complete), "number", "seconds", "state", or by a
        parameter. Raises InputError for another name.
        """
        if by == "value":
            ranked = self._ranking()
            order = ranked + [trial for trial in self.trials if trial.state != "complete"]
        elif by in ("number", "seconds", "state"):
            order = sorted(self.trials, key=lambda trial: _key(getattr(trial, by)))
        elif by in self.space:
            order = sorted(self.trials, key=lambda trial: _key(trial.parameters.get(by)))
        else:
            raise InputError(f"sorted: unknown {by!r}{nearest(by, ('value', 'number', 'seconds', 'state', *self.names))}")
        return self._with(order[::-1] if reverse else order)

    def _with(self, trials: Sequence[TrialResult]) -> Results:
        return Results(self.space, trials, self.mode)

    def narrow(self, share: float = 0.25) -> Space:
        """The smallest box, on the scales of the space, around the best `share` of the complete trials.

        Five trials at least are in it; where there are fewer, it is the whole space.
        """
        if not 0.0 < share <= 1.0:
            raise InputError(f"share: expected a number above 0 and at most 1, got {share!r}")
        return narrow(self.space, [trial.parameters for trial in self._ranking()], share)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """A row for each trial: number, state, value, seconds, the parameters and the error. Raises FileError."""
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["number", "state", "value", "seconds", *self.names, "error"])
        for trial in self.trials:
            numbers = ("" if math.isnan(number) else repr(number) for number in (trial.value, trial.seconds))
            point = (trial.parameters.get(name, "") for name in self.names)
            rows.writerow([trial.number, trial.state, *numbers, *point, trial.error])
        write_whole(Path(path), text.getvalue().encode())

    def __repr__(self) -> str:
        return f"Results({len(self.trials)} trials of {', '.join(self.names)})"

    def __str__(self) -> str:
        """The best trials first, in 80 columns; what they have no room for is named below."""
        order = self.sorted().trials[:SHOWN]
        first = {"trial": [str(t.number) for t in order], "value": [_text(t.value) for t in order]}
        last = {"seconds": [_text(t.seconds, ".3g") for t in order]}
        if any(trial.state != "complete" for trial in order):
            last["state"] = [t.state for t in order]
        points = {name: [_text(t.parameters.get(name)) for t in order] for name in self.names}
        room = WIDTH - sum(_width(title, cells) + 2 for title, cells in (first | last).items()) + 2
        if sum(_width(title, cells) + 2 for title, cells in points.items()) > room:  # shorter titles, and then fewer columns
            points = {name: [_cut(cell, LONGEST) for cell in cells] for name, cells in points.items()}
            widths = [_width(_cut(name, SHORT), cells) + 2 for name, cells in points.items()]
            shown = sum(end <= room for end in np.cumsum(widths))
        else:
            widths = [_width(title, cells) + 2 for title, cells in points.items()]
            shown = len(points)
        hidden = self.names[shown:]
        columns = [(title, _width(title, cells), cells) for title, cells in first.items()]
        columns += [(name, width - 2, points[name]) for name, width in zip(self.names[:shown], widths, strict=False)]
        columns += [(title, _width(title, cells), cells) for title, cells in last.items()]
        padded = [[_cut(cell, width).rjust(width) for cell in (title, *cells)] for title, width, cells in columns]
        lines = ["  ".join(row) for row in zip(*padded, strict=True)]
        lines += [f"... and {len(self.trials) - SHOWN} more"] if len(self.trials) > SHOWN else []
        lines += [_cut(f"not shown: {', '.join(hidden)}", WIDTH)] if hidden else []
        failed = sorted(self.failed, key=lambda trial: trial.number)
        if failed:
            which = "all" if len(failed) == len(self) > 1 else ", ".join(str(trial.number) for trial in failed)
            lines.append(_cut(f"{len(failed)} of {len(self)} failed: {which}", WIDTH))
            lines.append(_cut(f"the last of them, {failed[-1].number}: {failed[-1].error}", WIDTH))
        return "\n".join(lines)


def _key(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then strings and others by their names; NaN and what is missing last."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (False, (math.isnan(value), 0.0 if math.isnan(value) else value))
    return (True, str(value))


def _text(value: Any, form: str = ".4g") -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else format(value, form)
    return "-" if value is None else str(value)


def _width(title: str, cells: Sequence[str]) -> int:
    return max(len(title), *map(len, cells))


def _cut(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 2]}.."
