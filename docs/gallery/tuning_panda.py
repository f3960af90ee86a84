"""
Panda: one model, watched and adjusted
======================================

Where there is room for one training only, it is looked after: it begins with a rate that is as large as it bears, and when the
curve goes flat, or up and down, the training is paused, the rate lowered by hand, and the training resumed. The pause
here is a callback that returns True; in a terminal Ctrl-C does the same, since a training that ends so writes its checkpoint
too. `resume=True` continues from there. Andrew Ng, Improving Deep Neural Networks, week 3.
"""

import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

import fastnn
from fastnn.callbacks import Callback, Checkpoint

FOLDER = Path(*sys.argv[1:2])
EPOCHS, LARGE = 40, 1.0
PAUSES = {20: 0.1, 30: 0.01}  # after how many epochs there is a pause, and the rate after it


class Watch(Callback):
    """Train with this rate, and pause after so many epochs."""

    def __init__(self, rate, pause):
        self.rate, self.pause = rate, pause

    def begin(self, run):
        run.learning_rate = self.rate

    def epoch_end(self, run, epoch, values):
        return run.epoch == self.pause


def train(pauses):
    """The history of all epochs, with the large rate until the first pause."""
    model = fastnn.Sequential([fastnn.Dense(32, activation="tanh"), fastnn.Dense(2)], seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for rate, pause in zip((LARGE, *pauses.values()), (*pauses, None), strict=True):
            history = model.fit(
                *fastnn.datasets.flower(400, seed=0), optimizer=fastnn.SGD(LARGE), batch_size=8, epochs=EPOCHS,
                validation_data=fastnn.datasets.flower(400, seed=1), callbacks=[Watch(rate, pause), Checkpoint(folder)],
                resume=True, verbose=0,
            )  # fmt: skip
            done, loss, dev = len(history["loss"]), history["loss"][-1], history["val_loss"][-1]
            print(f"{done} epochs, the last ones with the rate {rate}: loss {loss:.4f}, validation loss {dev:.4f}")
    return history


histories = {f"rate {LARGE} throughout": train({}), "lowered in two pauses": train(PAUSES)}
figure = Figure(figsize=(9.0, 3.4), layout="constrained")
panels = figure.subplots(1, 2, sharey=True)
for axes, (title, history) in zip(panels, histories.items(), strict=True):
    fastnn.plots.cost_curves(history, axes).set_title(title)
for epoch, rate in PAUSES.items():
    axes.axvline(epoch + 0.5, color="0.6", linewidth=0.8)
    axes.text(epoch + 0.8, 0.65, f"rate {rate}", transform=axes.get_xaxis_transform(), fontsize="small")
fastnn.plots.save(figure, FOLDER / "tuning_panda.png")

left, adjusted = histories.values()
assert len(left["loss"]) == len(adjusted["loss"]) == EPOCHS
assert left["loss"][:20] == adjusted["loss"][:20], "the same until the first pause"
assert adjusted["loss"][-1] < left["loss"][-1]
assert adjusted["val_loss"][-1] < left["val_loss"][-1]
