"""The bar and the lines that `fit` prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastnn.callbacks.base import Callback, RunState

PREPARING = "preparing the step; new kernels are compiled, once, and kept"
"""What is shown before the first step: compiling takes seconds, or minutes, and the next run does not."""


class Progress(Callback):
    """A bar over all steps in a terminal or a notebook, and a line an epoch (at most about `lines` of them).

    Where standard error is neither, or tqdm is not installed, the lines alone are printed.
    """

    def __init__(self, lines: int = 10) -> None:
        self.lines = lines
        self.bar: Any = None

    def begin(self, run: RunState) -> None:
        if run.held_back is not None:
            print("training on {:,} rows, validating with {:,}".format(*run.held_back))
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        shown = sys.stderr.isatty() or in_notebook()
        total = run.total_steps
        self.bar = tqdm(total=total, initial=run.step, unit="step", leave=False, disable=not shown, dynamic_ncols=True)
        self.bar.bar_format = "{desc} [{elapsed}]"
        self.bar.set_description_str(PREPARING)

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        if self.bar is not None:
            if self.bar.desc == PREPARING:
                self.bar.bar_format = None
                self.bar.set_description_str("", refresh=False)
            self.bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
            self.bar.update(len(losses))

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        every = max(1, -(-run.epochs // self.lines))
        if (epoch + 1) % every == 0 or epoch in (0, run.epochs - 1):
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            line = f"epoch {epoch + 1:>{len(str(run.epochs))}}/{run.epochs}  {shown}"
            print(line) if self.bar is None else self.bar.write(line, file=sys.stdout)

    def end(self, run: RunState, error: BaseException | None) -> None:
        if self.bar is not None:
            self.bar.close()


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, where tqdm draws a bar of the page's own."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
