"""What trainings of every kind start from: the engine, the state of the optimizer, the task, and a look at the data."""

from __future__ import annotations

import numpy as np

from fastnn import engines
from fastnn.data.prepared import Glance, PreparedData
from fastnn.data.targets import Task
from fastnn.errors import InputError, warn
from fastnn.network.model import ModelState
from fastnn.network.state import State
from fastnn.optimizers import Optimizer
from fastnn.schedules import Constant, Schedule, Warmup, as_schedule
from fastnn.training.options import FitOptions
from fastnn_kernels.contract import AVERAGE

BACKUP_SECONDS = 2.0
"""How often a model is backed up that is trained on a GPU, which may be lost."""


def choose_engine(model: ModelState, device: str, settings: FitOptions) -> tuple[engines.Engine, str]:
    """The engine of a training on this device, and why it is that one."""
    precision = settings.precision
    chosen = engines.choose(device, precision, settings.autotune)
    if precision != "float32" and model.dtype != np.float32:
        raise InputError(f"precision={precision!r} is for models of float32, and this one is of {model.dtype}")
    return chosen


def start_optimizer(state: State, optimizer: Optimizer) -> None:
    """The optimizer's state: resumed if the class is the same, else started from scratch.

    The average of the parameters starts from those before the first step, which may have been set since the state was made.
    """
    if continues(state, optimizer):
        return
    kept, name = state.optimizer, type(optimizer).__name__
    if kept is not None and kept.optimizer != name:
        warn(f"the optimizer state of {kept.optimizer} cannot be used by {name}; starting from a fresh state")
        kept = None
    updates, slots = (0, set()) if kept is None else (kept.updates, set(kept.slots))
    usable, needed = slots if updates else slots - {AVERAGE}, set(optimizer.slots)
    if AVERAGE in usable - needed:
        warn(f"{name} has no ema now; the average of the parameters is dropped")
    state.start_optimizer(name, optimizer.slots, updates, usable)


def continues(state: State, optimizer: Optimizer) -> bool:
    """Whether what the optimizer of the last training kept is what this one goes on with."""
    kept = state.optimizer
    if kept is None or kept.optimizer != type(optimizer).__name__ or kept.slots.keys() != set(optimizer.slots):
        return False
    return kept.updates > 0 or AVERAGE not in kept.slots


def glance_at(model: ModelState, examples: PreparedData) -> Glance:
    """What tells the examples from others. Warns where a `fit` goes on with others: a new beginning, or cross-validation, needs
    a clone."""
    before, glance = model.data_glance, examples.glance()
    if before is not None and before.differs(glance) and not model.network.frozen:
        warn(
            "the model was trained on other data before, and this training goes on from there: model.clone() is a model to "
            "begin anew with, for cross-validation too; partial_fit goes on without this warning"
        )
    return glance


def known_task(model: ModelState, settings: FitOptions) -> Task | None:
    """The task that the model is trained for already, or was built for, if new labels must be among its classes."""
    task = model.task
    if task is None or task.classes is None or settings.classes is not None:
        return None
    by_default = model.trained is None and task.indices  # `build` takes 0 to C - 1 where no classes are named
    return None if by_default else task


def needs_two_rows(model: ModelState) -> bool:
    """Whether a mini-batch of one row cannot be trained on."""
    return any(layer.needs_two_rows and layer.trainable for layer in model.layers)


def check_endless(schedule: Schedule, whose: str) -> None:
    """Raise InputError for a schedule that single steps cannot follow: they are of no epoch, and of a run without end."""
    name = type(schedule).__name__
    if isinstance(schedule, Warmup):
        check_endless(as_schedule(schedule.then), whose)
    if schedule.depends_on_length:
        raise InputError(
            f"{whose}: the rates of {name} depend on how long the run is, which is not known; use another schedule"
        )
    if schedule.per == "epoch" and not isinstance(schedule, Constant):
        raise InputError(f'{whose}: single steps belong to no epoch; give {name} per="step"')
