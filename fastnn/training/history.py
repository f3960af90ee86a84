"""What `fit` returns."""

from __future__ import annotations

from fastnn import notebooks


class History(dict[str, list[float]]):
    """One list a quantity, one value an epoch; and how the run was done.

    NaN stands for the epochs in which a quantity was not measured: those before or after `fit(resume=...)` asked for others.
    """

    device: str = ""
    reason: str = ""
    precision: str = "float32"
    autotuned: bool = False
    batch_size: int = 0
    training_rows: int = 0
    """How many rows of X were trained on; 0 for an iterable of mini-batches."""
    validation_rows: int = 0
    """How many rows were validated with, of `validation_data` or held back by `validation_split`."""
    threads: int = 1
    seed: int = 0

    def _repr_html_(self) -> str:
        return notebooks.history(self, f"{self.device}, mini-batches of {self.batch_size}, seed {self.seed}")
