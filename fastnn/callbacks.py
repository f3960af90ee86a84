"""Callbacks: what `fit` tells while it runs. A callback sees the model only between chunks, when all its steps are whole."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnn.model import Sequential


class Callback:
    """Override what you need."""

    def begin(self, model: Sequential, epochs: int, steps: int) -> None:
        """Before the first step of `steps` in `epochs`."""

    def chunk_end(self, model: Sequential, steps: int, loss: float) -> None:
        """After a chunk of `steps` steps, the last of which had this loss. How long chunks are depends on the machine."""

    def epoch_end(self, model: Sequential, epoch: int, values: Mapping[str, float]) -> bool | None:
        """After an epoch (counted from 0) with what the history gets; return True to end the training."""
        return None

    def end(self, model: Sequential) -> None:
        """After the last step, also when an error or Ctrl-C ended the training."""


class Progress(Callback):
    """A bar over all steps on a terminal, and a line an epoch (at most about `lines` of them)."""

    def __init__(self, lines: int = 10) -> None:
        self.lines = lines
        self.bar: Any = None
        self.epochs = 0

    def begin(self, model: Sequential, epochs: int, steps: int) -> None:
        from tqdm.auto import tqdm

        self.epochs = epochs
        self.bar = tqdm(total=steps, unit="step", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self.bar.set_postfix_str("preparing the step")

    def chunk_end(self, model: Sequential, steps: int, loss: float) -> None:
        self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self.bar.update(steps)

    def epoch_end(self, model: Sequential, epoch: int, values: Mapping[str, float]) -> None:
        every = max(1, -(-self.epochs // self.lines))
        if (epoch + 1) % every == 0 or epoch in (0, self.epochs - 1):
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            self.bar.write(f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  {shown}", file=sys.stdout)

    def end(self, model: Sequential) -> None:
        if self.bar is not None:
            self.bar.close()
