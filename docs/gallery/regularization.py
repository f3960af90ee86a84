"""
L2, dropout and early stopping on few examples
==============================================

A network of 2-64-64-1 trained on 100 noisy points follows each of them, and is wrong about others, and sure of it. L2, dropout,
and stopping where a validation set is understood best, with the best weights put back, each help it to generalize: means over
five seeds, each with training and validation points of its own, tested on 4,000 others.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn.callbacks import EarlyStopping
from fastnn.datasets import moons

FOLDER = Path(*sys.argv[1:2])
SEEDS, NOISE = 5, 0.4

ways = {"nothing": {}, "L2": {"l2": 0.02}, "dropout": {"keep": 0.6}, "early stopping": {"stop": True}}
X_test, y_test = moons(4000, NOISE, seed=1000)


def train(seed: int, l2: float = 0.0, keep: float = 1.0, stop: bool = False) -> tuple[fastnn.Sequential, float, float]:
    """The network, and its accuracy and cost on the test points."""
    layers = [fastnn.Dense(64, activation="relu"), fastnn.Dropout(1.0 - keep)]
    layers += [fastnn.Dense(64, activation="relu"), fastnn.Dropout(1.0 - keep), fastnn.Dense(1)]
    model = fastnn.Sequential(layers, seed=seed)
    model.fit(
        *moons(100, NOISE, seed=seed), loss="sigmoid_cross_entropy", optimizer=fastnn.Adam(0.005), batch_size=50, epochs=500,
        l2=l2, validation_data=moons(100, NOISE, seed=500 + seed),
        callbacks=[EarlyStopping("val_loss", patience=20)] if stop else [], verbose=0,
    )  # fmt: skip
    found = model.evaluate(X_test, y_test)
    return model, found["accuracy"], found["loss"]


figure = Figure(figsize=(14.4, 3.4), layout="constrained")
accuracy, cost = {}, {}
print("                test accuracy   test cost")
for axes, (name, options) in zip(figure.subplots(1, 4), ways.items(), strict=True):
    results = [train(seed, **options) for seed in range(SEEDS)]
    accuracy[name], cost[name] = (float(np.mean([result[i] for result in results])) for i in (1, 2))
    print(f"{name:>14} {accuracy[name]:14.2%} {cost[name]:11.3f}")
    fastnn.plots.decision_boundary(results[0][0], *moons(100, NOISE, seed=0), ax=axes)
    axes.set_title(f"{name}: {accuracy[name]:.1%} on test data", fontsize="medium")
fastnn.plots.save(figure, FOLDER / "regularization.png")

for name in ("L2", "dropout", "early stopping"):
    assert accuracy[name] > accuracy["nothing"], name
    assert cost[name] < 0.7 * cost["nothing"], name
