"""The learning-rate range test: train for a few steps while the rate rises, and see where the loss falls and where it diverges.

Source: Smith 2015, Cyclical Learning Rates for Training Neural Networks, section 3.3; rates rise exponentially here, not
linearly, so that all decades are looked at alike.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.callbacks import Callback
from fastnn.configurations import as_count, as_number
from fastnn.errors import DivergenceError, InputError
from fastnn.notebooks import Printed

if TYPE_CHECKING:
    from fastnn.callbacks import RunState
    from fastnn.losses import LossLike
    from fastnn.optimizers import Optimizer
    from fastnn.sequential import Sequential

NOISE = 4.0
"""Half of all curves of 100 independent losses of one distribution fall by 3.4 standard deviations of their averages."""


@dataclass(frozen=True, eq=False)
class RangeTest(Printed):
    """What a range test saw, float64 arrays of one entry a step: the `rates`, the `losses` of the mini-batches before each
    update, and `smoothed`, their corrected exponentially weighted averages with beta `smoothing`. `diverged`: whether it ended
    before the last rate.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    smoothing: float
    diverged: bool

    @property
    def rate_at_lowest_loss(self) -> float:
        """The rate at which the smoothed loss is lowest: too high to train with, for what follows is divergence."""
        return float(self.rates[self._lowest])

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls most steeply over the logarithm of the rate; None where it falls nowhere.

        What falls is looked for after the last step, before the lowest loss, at which no more than a quarter of the way down
        was made: on the plateau before it noise may fall as steeply. The way down is that from the highest to the lowest
        smoothed loss; up to `NOISE` standard deviations of the averages it is no fall at all. The slope at a step is the
        difference over the steps around it that the average spans, s = 1/(1 - beta), which noise hides less than that of two
        neighbors. The first s steps are left out, since their averages rest on fewer, and so are rates above a tenth of
        `rate_at_lowest_loss` (or above that of half as many steps, if this is higher), unless the fall begins there.
        """
        lowest = self._lowest
        if lowest <= self._span:
            return None
        way = self.smoothed[: lowest + 1] - self.smoothed[lowest]
        down = way[self._span :].max()
        variance = np.mean(np.diff(self.losses[self._span : lowest + 1]) ** 2) / 2
        if down <= NOISE * math.sqrt(variance * (1.0 - self.smoothing) / (1.0 + self.smoothing)):
            return None
        start = max(self._span, int(np.flatnonzero(way >= 0.75 * down)[-1]))
        tenth = int(np.searchsorted(self.rates, self.rates[lowest] / 10, "right"))
        steps, half = np.arange(start, max(tenth, lowest // 2 + 1, start + 1)), self._span // 2
        falls = self.smoothed[steps - half] - self.smoothed[np.minimum(steps + half, len(self.rates) - 1)]
        return float(self.rates[steps[falls.argmax()]])

    @property
    def _span(self) -> int:
        """How many steps an average rests on, about."""
        return max(2, round(1.0 / (1.0 - self.smoothing)))

    @property
    def _lowest(self) -> int:
        first = self._span if len(self.rates) > self._span else 0
        return first + int(self.smoothed[first:].argmin())

    def __str__(self) -> str:
        rate = "none: the loss falls nowhere by more than its noise" if self.suggestion is None else f"{self.suggestion:.2g}"
        end = "the loss diverged" if self.diverged else "the last rate was reached"
        return (
            f"learning rates from {self.rates[0]:.2g} to {self.rates[-1]:.2g} in {len(self.rates)} steps; {end}\n"
            f"  lowest smoothed loss  {self.smoothed[self._lowest]:.4g} at {self.rate_at_lowest_loss:.2g}\n"
            f"  suggested rate        {rate}"
        )


def find_learning_rate(
    model: Sequential,
    X: Any,
    y: Any,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    divergence_factor: float = 4.0,
    loss: LossLike = "softmax_cross_entropy",
    optimizer: str | Optimizer | None = None,
    batch_size: int | str = 128,
    sample_weight: Any = None,
    l2: float = 0.0,
    l1: float = 0.0,
    device: str = "auto",
    threads: int | None = None,
) -> RangeTest:
    """Train a copy of `model` on X and y for up to `steps` steps at the rates lowest (highest/lowest)^(k/(steps - 1)).

        test = fastnn.find_learning_rate(model, X, y)
        model.fit(X, y, optimizer=fastnn.Adam(test.suggestion))

    `test.suggestion` is None where the loss falls by no more than its noise: take larger mini-batches, or other rates. The
    model is not changed; the copy begins with its parameters (those that `fit` would draw, where it has none yet) and a fresh
    state of the optimizer. Losses are smoothed as v = beta v + (1 - beta) loss, over 1 - beta^k, with beta `smoothing`. The
    test ends early where the smoothed loss is more than `divergence_factor` times the lowest so far, or not finite. All other
    arguments are those of `fit`. Raises InputError for numbers out of range, DivergenceError where the first step diverges,
    InputTypeError for what is no model, and what `fit` raises.
    """
    from fastnn.sequential import as_model

    if not 0.0 < as_number(lowest) < as_number(highest) < math.inf:
        raise InputError(f"expected 0 < lowest < highest, got {lowest!r} and {highest!r}")
    steps = as_count("steps", steps, 2)
    if not 0.0 <= as_number(smoothing) < 1.0:
        raise InputError(f"smoothing: expected 0 <= beta < 1, got {smoothing!r}")
    if not as_number(divergence_factor) > 1.0:
        raise InputError(f"divergence_factor: expected a number above 1, got {divergence_factor!r}")
    rising = _Rising(np.geomspace(lowest, highest, steps), float(smoothing), float(divergence_factor))
    twin = copy.deepcopy(as_model(model))
    twin.state.start_optimizer(None)
    try:
        twin.fit(
            X, y, loss=loss, optimizer=optimizer, batch_size=batch_size, epochs=steps, sample_weight=sample_weight, l2=l2,
            l1=l1, callbacks=[rising], device=device, threads=threads, verbose=0,
        )  # fmt: skip
    except DivergenceError:
        if not rising.losses:
            raise
        rising.diverged = True
    count = len(rising.losses)
    return RangeTest(rising.rates[:count], np.array(rising.losses), np.array(rising.smoothed), rising.beta, rising.diverged)


class _Rising(Callback):
    """Sets the rate of each step, writes down its loss, and ends the training after the last rate or when the loss diverges."""

    every = 1

    def __init__(self, rates: np.ndarray, beta: float, divergence_factor: float) -> None:
        self.rates, self.beta, self.divergence_factor = rates, beta, divergence_factor
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.diverged = False
        self._average = 0.0

    def begin(self, run: RunState) -> None:
        run.learning_rate = self.rates[0]

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        loss = float(losses[-1])
        self._average = self.beta * self._average + (1.0 - self.beta) * loss
        self.losses.append(loss)
        self.smoothed.append(self._average / (1.0 - self.beta ** len(self.losses)))

    def step_end(self, run: RunState) -> bool:
        count = len(self.losses)
        self.diverged = self.smoothed[-1] > self.divergence_factor * min(self.smoothed)
        if self.diverged or count == len(self.rates):
            return True
        run.learning_rate = self.rates[count]
        return False
