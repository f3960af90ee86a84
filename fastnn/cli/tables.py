"""What the commands print in columns: the epochs of a training, and which labels are taken for which."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from fastnn.callbacks import Callback, Progress
from fastnn.cli.commands import WIDTH, line
from fastnn.cli.networks import rows_of_table

if TYPE_CHECKING:
    import numpy as np

    from fastnn.callbacks import RunState

TITLES = {
    "r2": "R^2",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "val_r2": "validation R^2",
    "val_mae": "validation mae",
}
LONGEST_NAME = 16
"""Letters of a label that a table shows."""
SILENCE = 30.0
"""Seconds after which a training that writes into a file says where it is."""


class Record(Callback):
    """Keeps hold of the history, which a training that is interrupted does not return."""

    def __init__(self) -> None:
        self.history: Mapping[str, Sequence[float]] = {}

    def begin(self, run: RunState) -> None:
        self.history = run.history


class Epochs(Progress):
    """A row for each of at most ten epochs, and for those that end after a silence.

    The bar is seen on a terminal only; elsewhere a line on standard error says after a silence how far the epoch is.
    """

    def begin(self, run: RunState) -> None:
        if run.step:
            left = "" if run.epoch < run.epochs else ": nothing is left to do; --epochs adds more"
            line("resumed", f"after step {run.step:,}, with {run.epoch} of {run.epochs} epochs done{left}")
            click.echo()
        super().begin(run)
        self.titles: dict[str, str] = {}
        self.spoke = time.monotonic()

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        super().chunk_end(run, losses)
        if self.bar.disable and self._is_silent():
            total = f" of {run.total_steps:,}" if run.total_steps else ""
            click.echo(
                f"in epoch {run.epoch + 1} of {run.epochs}, after step {run.step:,}{total}: loss {losses[-1]:.4f}", err=True
            )
            self.spoke = time.monotonic()

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        if not self.titles:
            self.titles = titles(values)
            self._print("epoch" + "".join(f"  {title:>8}" for title in self.titles.values()))
        if epoch + 1 in rows_of_table(run.epochs) or self._is_silent():
            cells = (_cell(values[name], max(8, len(title))) for name, title in self.titles.items())
            self._print("  ".join([f"{epoch + 1:>5}", *cells]))

    def _is_silent(self) -> bool:
        return time.monotonic() - self.spoke > SILENCE

    def _print(self, row: str) -> None:
        self.bar.write(row, file=sys.stdout)
        sys.stdout.flush()
        self.spoke = time.monotonic()


def _cell(value: float, width: int) -> str:
    text = f"{value:>{width}.4f}"
    return text if len(text) <= width else f"{value:>{width}.2e}"


def titles(names: Sequence[str] | Mapping[str, float]) -> dict[str, str]:
    """The columns that a table of epochs has room for, with their titles: short ones where the long ones are too wide."""

    def fitting(table: Mapping[str, str]) -> dict[str, str]:
        left, chosen = WIDTH - len("epoch"), {}
        for name, title in table.items():
            left -= 2 + max(8, len(title))
            if left < 0:
                break
            chosen[name] = title
        return chosen

    long = fitting({name: TITLES.get(name, name) for name in names})
    return long if len(long) == len(names) else fitting({name: name for name in names})


def confusion(counts: np.ndarray, names: Sequence[str]) -> list[str]:
    """The table of counts (C, C), a row for each label and a column for what was predicted, in lines of a terminal's width."""
    rows = heads = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 2]}.." for name in names]
    digits = len(str(counts.max()))
    label, cell = max(map(len, rows)), max(digits, *map(len, heads)) + 2
    if label + cell * len(names) > WIDTH and label > digits:
        heads = [str(number) for number in range(1, len(names) + 1)]
        rows = [f"{head:>2} {name}" for head, name in zip(heads, rows, strict=True)]
        label, cell = label + 3, max(digits, 2) + 2
    across = max(1, (WIDTH - label) // cell)
    lines = []
    for start in range(0, len(names), across):
        columns = range(start, min(start + across, len(names)))
        lines += [""] if start else []
        lines.append(" " * label + "".join(f"{heads[column]:>{cell}}" for column in columns))
        lines += [
            f"{name:<{label}}" + "".join(f"{counts[row, column]:>{cell}}" for column in columns)
            for row, name in enumerate(rows)
        ]
    return lines
