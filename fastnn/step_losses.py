"""`StepLosses`: the loss of every mini-batch of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.callbacks import Callback

if TYPE_CHECKING:
    from fastnn.run import Run


class StepLosses(Callback):
    """Keep the loss of each step, in order:

        steps = fastnn.StepLosses()
        history = model.fit(X, y, callbacks=[steps])
        fastnn.plots.cost_curves(history, steps=steps)

    `losses`: float64 (steps,), each measured on its mini-batch before the update. They are read with the chunk that they belong
    to, so that keeping them costs nothing. A run that is gone on with keeps those of its earlier steps.
    """

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._restored = False

    @property
    def losses(self) -> np.ndarray:
        return np.concatenate([np.zeros(0), *self._chunks])

    def begin(self, run: Run) -> None:
        if not self._restored:
            self._chunks = []
        self._restored = False

    def chunk_end(self, run: Run, steps: int, loss: float) -> None:
        self._chunks.append(run.step_losses)

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._chunks = [np.array(state["losses"], np.float64)]
        self._restored = True
