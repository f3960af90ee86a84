"""Searching hyper-parameters on the digits: at random on log scales, on a grid, and from coarse to fine.

The learning rate, the L2 penalty and the number of hidden units are drawn on log scales, since what matters is their order of
magnitude. A grid of 60 points tries five learning rates; 60 random points try 60 of them, and as many of everything else,
whichever parameter it is that matters (Ng, "Improving Deep Neural Networks", week 3; Bergstra & Bengio 2012). Here it is the
learning rate: whether one of the grid's five, two decades apart, is a good one is chance. From coarse to fine: a second and a
third round look closer around the best quarter of those before.

    python docs/gallery/tuning_search.py

prints the best trials and writes `tuning_search.png`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import fastnn
from fastnn.tuning import Integers, LogUniform, Results, Trial, search

SPACE = {
    "learning_rate": LogUniform(3e-6, 300),
    "l2": LogUniform(1e-7, 1e-2),
    "units": Integers(32, 128, log=True),
}
STRATEGIES = ("grid", "random", "coarse-to-fine")


@cache
def digits() -> tuple[Any, Any]:
    """Examples to train on, and those to choose by."""
    data = fastnn.datasets.load("digits")
    return fastnn.datasets.split(data.X_train, data.y_train, sizes=(0.75, 0.25), seed=0, stratify=data.y_train)


def train(parameters: dict[str, Any], trial: Trial) -> float:
    """The loss on examples that were not trained on."""
    (X, y), dev = digits()
    model = fastnn.Sequential([fastnn.Dense(parameters["units"], activation="relu"), fastnn.Dense(10)], seed=trial.seed)
    history = model.fit(
        X,
        y,
        optimizer=fastnn.SGD(parameters["learning_rate"]),
        l2=parameters["l2"],
        batch_size=64,
        epochs=5,
        validation_data=dev,
        callbacks=[trial.callback(monitor="val_loss")],
        verbose=0,
    )
    return history["val_loss"][-1]


def run(strategy: str, trials: int = 60, seed: int = 0) -> Results:
    return search(train, SPACE, trials=trials, strategy=strategy, seed=seed)


def draw(found: dict[str, Results], path: Path) -> None:
    """Learning rate and L2 penalty of every trial, the darker the better; and the best value after each trial."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.4), layout="constrained")
    *maps, curves = figure.subplots(1, len(found) + 1)
    for axes, (strategy, results) in zip(maps, found.items(), strict=True):
        values = np.where(np.isnan(results.values), 3.0, np.minimum(results.values, 3.0))
        dots = axes.scatter(results["learning_rate"], results["l2"], c=values, cmap="viridis", vmin=0.1, vmax=2.5, s=18)
        best = results.best.parameters
        axes.plot(best["learning_rate"], best["l2"], "o", markersize=11, color="#D55E00", fillstyle="none")
        axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="l2", title=strategy)
        axes.set(xlim=(1e-6, 1e3), ylim=(5e-8, 2e-2))
        best_so_far = np.fmin.accumulate(results.values)
        curves.plot(np.arange(1, len(results) + 1), best_so_far, drawstyle="steps-post", label=strategy)
    figure.colorbar(dots, ax=maps[-1], label="validation loss")
    curves.set(xlabel="trials", ylabel="best validation loss", yscale="log")
    curves.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    found = {strategy: run(strategy) for strategy in STRATEGIES}
    for strategy, results in found.items():
        print(f"{strategy}: {results.best.value:.4f} at {results.best.parameters}")
    print(f"\n{found['coarse-to-fine']}")
    print(f"\nthe next box: {found['coarse-to-fine'].narrowed()}")
    draw(found, Path("tuning_search.png"))
