"""Callbacks: what `fit` tells while it runs. A callback sees the model only between chunks, when all its steps are whole.

`fit(callbacks=[...])` calls them in the order of the list. An exception that one of them raises ends the training at the last
whole step: `fit` passes it on, after `end` of every callback was called.
"""

from fastnn.callbacks.base import Callback, RunState
from fastnn.callbacks.checkpoint import Checkpoint
from fastnn.callbacks.early_stopping import EarlyStopping
from fastnn.callbacks.learning_rate import LearningRate
from fastnn.callbacks.logs import CSVLog, StepLosses
from fastnn.callbacks.plateau import ReduceLROnPlateau
from fastnn.callbacks.progress import Progress
from fastnn.callbacks.trackers import MLflow, TensorBoard

__all__ = [
    "CSVLog",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "LearningRate",
    "MLflow",
    "Progress",
    "ReduceLROnPlateau",
    "RunState",
    "StepLosses",
    "TensorBoard",
]
