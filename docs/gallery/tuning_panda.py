"""One model, watched and adjusted while it trains: pause, lower the learning rate, go on.

Where there is room for one training only, it is looked after ("panda" in Ng's words): it begins with a rate that is as large as
it bears, and when the curve goes flat, or up and down, the rate is lowered by hand. The pause here is an exception of a
callback; in a terminal Ctrl-C does the same, since a training that ends so writes its checkpoint too.
`resume=True` goes on from there.

    python docs/gallery/tuning_panda.py

prints what was done and writes `tuning_panda.png`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import fastnn
from fastnn.callbacks import Callback, Checkpoint
from fastnn.plots import cost_curves
from fastnn.run import History, Run

EPOCHS, LARGE = 40, 1.0
PAUSES = {20: 0.1, 30: 0.01}
"""After how many epochs the training is paused, and the rate that it goes on with."""


class Pause(Exception):
    """What ends a call of fit that is to be gone on with."""


class Watch(Callback):
    """Train with this rate, and pause after so many epochs."""

    def __init__(self, rate: float, pause: int | None) -> None:
        self.rate, self.pause = rate, pause

    def begin(self, run: Run) -> None:
        run.learning_rate = self.rate

    def epoch_end(self, run: Run, epoch: int, values: Mapping[str, float]) -> None:
        if run.epoch == self.pause:
            print(f"paused after {run.epoch} epochs: loss {values['loss']:.4f}, validation loss {values['val_loss']:.4f}")
            raise Pause


def train(pauses: Mapping[int, float], folder: Path) -> History:
    """All epochs, with the large rate until the first pause."""
    X, y = fastnn.datasets.flower(400, seed=0)
    model = fastnn.Sequential([fastnn.Dense(32, activation="tanh"), fastnn.Dense(2)], seed=1)
    for rate, pause in zip((LARGE, *pauses.values()), (*pauses, None), strict=True):
        print(f"going on with the rate {rate}" if rate != LARGE else f"beginning with the rate {rate}")
        try:
            history = model.fit(
                X,
                y,
                optimizer=fastnn.SGD(LARGE),
                batch_size=8,
                epochs=EPOCHS,
                validation_data=fastnn.datasets.flower(400, seed=1),
                callbacks=[Watch(rate, pause), Checkpoint(folder)],
                resume=True,
                verbose=0,
            )
        except Pause:
            continue
    print(f"done: loss {history['loss'][-1]:.4f}, validation loss {history['val_loss'][-1]:.4f}\n")
    return history


def draw(left: History, adjusted: History, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, history, title in zip(axes, (left, adjusted), (f"rate {LARGE} throughout", "lowered in two pauses"), strict=True):
        cost_curves(history, ax).set(title=title)
    for epoch, rate in PAUSES.items():
        axes[1].axvline(epoch + 0.5, color="#999999", linewidth=0.8)
        axes[1].text(epoch + 0.8, 0.95, f"rate {rate}", transform=axes[1].get_xaxis_transform(), va="top", fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        left, adjusted = (train(pauses, Path(folder) / str(len(pauses))) for pauses in ({}, PAUSES))
    draw(left, adjusted, Path("tuning_panda.png"))
