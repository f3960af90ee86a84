"""
Logistic regression, and why it is not enough
=============================================

One sigmoid unit with the binary cross-entropy is logistic regression: its boundary is a line. It parts two clouds, and fails on
the "flower", where it is right about as often as a coin: the notes print 47 %, found here on the points of the exercise.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

draw = np.random.RandomState(1)  # the points of the exercise; `fastnn.datasets.flower` draws others of the same kind
petals = []
for j in range(2):
    t = np.linspace(3.12 * j, 3.12 * (j + 1), 200) + 0.2 * draw.randn(200)
    r = 4.0 * np.sin(4.0 * t) + 0.2 * draw.randn(200)
    petals.append(np.stack([r * np.sin(t), r * np.cos(t)], axis=1))
y = np.repeat([0, 1], 200)
sets = {"two blobs": fastnn.datasets.blobs(centers=2), "flower": (np.concatenate(petals), y)}

figure = Figure(figsize=(9.0, 3.4), layout="constrained")
accuracy = {}
for axes, (name, (X, y)) in zip(figure.subplots(1, 2), sets.items(), strict=True):
    model = fastnn.Sequential([fastnn.Dense(1, weight_init="zeros")], seed=0, dtype="float64")
    descent = fastnn.SGD(0.1)
    model.fit(X, y, loss="sigmoid_cross_entropy", optimizer=descent, batch_size="all", epochs=3000, verbose=0)
    accuracy[name] = model.evaluate(X, y)["accuracy"]
    print(f"{name:>10}: {accuracy[name]:.2%} right")
    fastnn.plots.decision_boundary(model, X, y, ax=axes).set_title(f"{name}: {accuracy[name]:.0%}")
fastnn.plots.save(figure, FOLDER / "logistic_regression.png")

assert accuracy["two blobs"] > 0.95
assert abs(accuracy["flower"] - 0.47) < 0.01
