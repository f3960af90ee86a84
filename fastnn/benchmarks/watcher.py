"""What a run tells while it continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastnn.benchmarks.record import Measured, Record


class Watcher:
    """Override what you need."""

    def stage(self, text: str) -> None:
        """What is done now."""

    def turns(self, count: int) -> None:
        """That so many turns are to come in this cell."""

    def turn(self) -> None:
        """That one is over."""

    def cell(self, record: Record, measured: Measured) -> None:
        """That a cell is over."""

    def warn(self, text: str) -> None:
        """Something the user should know, which does not end the run."""
