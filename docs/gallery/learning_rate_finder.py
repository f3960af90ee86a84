"""
A learning rate found
=====================

A short training in which the rate rises exponentially from step to step shows where the loss begins to fall and where it
diverges. The rate at which it falls most steeply is suggested: trainings at a hundredth and at a hundred times that rate end
with a higher loss, for SGD as for Adam. Smith 2015, Cyclical Learning Rates for Training Neural Networks, section 3.3.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

digits = fastnn.datasets.load("digits")
data = (digits.X_train, digits.y_train)
layers = [fastnn.Dense(64, activation="relu"), fastnn.Dense(10)]
figure = Figure(figsize=(9.0, 3.4), layout="constrained")
losses = {}
for axes, optimizer in zip(figure.subplots(1, 2), (fastnn.SGD, fastnn.Adam), strict=True):
    name = optimizer.__name__
    found = fastnn.find_learning_rate(fastnn.Sequential(layers, seed=0), *data, optimizer=optimizer(), batch_size=64)
    print(f"--- {name}: {found}")
    for factor in (0.01, 1, 100):
        rate = factor * found.suggestion
        history = fastnn.Sequential(layers, seed=0).fit(*data, optimizer=optimizer(rate), batch_size=64, epochs=10, verbose=0)
        losses[name, factor] = history["loss"][-1]
        print(f"  10 epochs at {rate:<8.2g} end with a loss of {losses[name, factor]:.4g}")
    fastnn.plots.learning_rate_finder(found, ax=axes).set_title(name)
fastnn.plots.save(figure, FOLDER / "learning_rate_finder.png")

for name in ("SGD", "Adam"):
    assert losses[name, 1] < 0.5 * min(losses[name, 0.01], losses[name, 100])
