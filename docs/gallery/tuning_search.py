"""
Hyper-parameters searched
=========================

The learning rate, the L2 penalty and the number of hidden units of a network on the digits, drawn on log scales, since what
matters is their order of magnitude. A grid of 60 points tries five learning rates; 60 random points try 60 of them, and as many
of everything else, whichever parameter it is that matters. Here it is the learning rate: whether one of the grid's five, two
decades apart, is a good one is chance. From coarse to fine, a second and a third round look closer around the best quarter of
those before. Andrew Ng, Improving Deep Neural Networks, week 3; Bergstra & Bengio 2012.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn.tuning import Integers, LogUniform, search

FOLDER = Path(*sys.argv[1:2])

SPACE = {"learning_rate": LogUniform(3e-6, 300), "l2": LogUniform(1e-7, 1e-2), "units": Integers(32, 128, log=True)}
data = fastnn.datasets.load("digits")
(X, y), dev = fastnn.datasets.split(data.X_train, data.y_train, sizes=(0.75, 0.25), seed=0, stratify=data.y_train)


def train(parameters, trial):
    """The cost of examples that were not trained on."""
    model = fastnn.Sequential([fastnn.Dense(parameters["units"], activation="relu"), fastnn.Dense(10)], seed=trial.seed)
    history = model.fit(
        X, y, optimizer=fastnn.SGD(parameters["learning_rate"]), l2=parameters["l2"], batch_size=64, epochs=5,
        validation_data=dev, callbacks=[trial.callback(monitor="val_loss")], verbose=0,
    )  # fmt: skip
    return history["val_loss"][-1]


figure = Figure(figsize=(13.0, 9.6), layout="constrained")
found = {}
for axes, strategy in zip(figure.subplots(3, 3), ("grid", "random", "coarse-to-fine"), strict=True):
    results = found[strategy] = search(train, SPACE, trials=60, strategy=strategy, seed=0)
    print(f"{strategy:>14}: {results.best.value:.4f} at {results.best.parameters}")
    for panel in fastnn.plots.search_results(results, ax=axes):
        panel.set(yscale="log", ylim=(0.1, 10.0), ylabel="cost")  # rates that are far too large lie above
    axes[0].set_title(strategy)
fastnn.plots.save(figure, FOLDER / "tuning_search.png")
print(f"\n{found['coarse-to-fine']}\n\nthe next box: {found['coarse-to-fine'].narrow()}")

tried = {strategy: len(np.unique(results["learning_rate"])) for strategy, results in found.items()}
assert tried["grid"] == 5
assert tried["random"] == tried["coarse-to-fine"] == 60
assert found["coarse-to-fine"].best.value < found["random"].best.value < found["grid"].best.value
