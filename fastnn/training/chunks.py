"""The loop of every training: the mini-batches of an epoch, played in chunks of steps.

Between chunks the host writes the table of learning rates, reads the losses of the steps and looks for Ctrl-C. Chunks end where
an epoch ends or a callback is due; no result depends on how long they are.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from fastnn.data.feeds import Feed
from fastnn.data.orders import batch_runs
from fastnn.engines import Engine
from fastnn.network.programs import LOG_ROWS
from fastnn.schedules import Constant, Schedule
from fastnn.training.divergence import Attempt, Steps, attempt

CHUNK_SECONDS = 0.05
"""How long a chunk should take: the pace of the progress bar and of Ctrl-C."""

SNAPSHOT_SHARE = 20
"""A chunk takes at least this many times as long as the snapshot before it."""


class Chunks:
    """Deals out steps in chunks, whose length follows the time that the last one took."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.length = 0
        """Steps of the next chunk; 0 before the first."""

    def epoch(self, order: Any, batch_size: int, pairs: bool = False, done: int = 0) -> Generator[Any]:
        """Play an epoch that visits `order`, but for its first `done` steps; yields what each chunk wrote down.

        `pairs`: a last mini-batch of one row joins the one before.
        """
        self.steps.feed.begin(order)
        position = 0
        for rows, count in batch_runs(len(order), batch_size, pairs):
            behind = min(done, count)
            done -= behind
            yield from self.play(rows, behind, count, position)
            position += rows * count

    def play(self, rows: int, done: int, count: int, position: int) -> Generator[Any]:
        """Play mini-batches `done` to `count` of `rows` rows each, whose first one begins at `position` of the order."""
        while done < count:
            start = position + done * rows
            instance = self.steps.instance(rows)
            length = min(self.length or instance.first_chunk(CHUNK_SECONDS), count - done, LOG_ROWS)
            length = min(length, self.steps.until_call() or length)
            length = min(length, self.steps.feed.most(start, rows) or length)
            made = attempt(self.steps, instance, rows, length, start)
            self._follow(made, length)
            if made.undone:  # each model is left at its last finite step
                for index in range(length):
                    step = attempt(self.steps, self.steps.instance(rows), rows, 1, start + index * rows)
                    self.steps.count(step.log, rows)
                    yield step.log
            else:
                self.steps.count(made.log, rows)
                yield made.log
            done += length

    def _follow(self, made: Attempt, length: int) -> None:
        """Choose how long the next chunk is."""
        aim = max(CHUNK_SECONDS, SNAPSHOT_SHARE * made.copying)
        self.length = int(min(LOG_ROWS, max(1, min(8 * length, aim * length / max(made.playing, 1e-7)))))


def write_tables(engine: Engine, storage: Mapping[str, Any], feed: Feed, position: int, step: int, scalars: np.ndarray) -> None:
    """Write what a chunk reads: the control block, and a row of `scalars` for each of its steps."""
    engine.write(storage["control"], (0, feed.ready(position), step))
    engine.write(storage["scalars"], scalars)


def learning_rates(schedule: Schedule, count: int, step: int, epoch: int, steps_per_epoch: int, epochs: int) -> np.ndarray:
    """The rates of `count` steps from number `step` of the training on, which belong to `epoch`."""
    if type(schedule) is Constant:
        rates = np.empty(count)
        rates[:] = schedule.rate
        return rates
    numbers = np.full(count, epoch * steps_per_epoch) if schedule.per == "epoch" else np.arange(count) + step
    return schedule.rates(numbers, steps_per_epoch, epochs * steps_per_epoch)


def accumulate(total: Any, values: np.ndarray) -> np.ndarray:
    """total + values[0] + values[1] + ..., one after the other: the same bits wherever chunks end. Changes values[0]."""
    values[0] += total
    sums: np.ndarray = np.add.accumulate(values)[-1]
    return sums
