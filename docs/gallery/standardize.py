"""
Inputs of one scale
===================

Two features, one of about 1 and one of about 1000: gradient descent must take steps small enough for the larger one, and hardly
moves in the other. Standardized by the mean and the deviation of the training set, both learn at one rate; each way gets the
best of four rates here. The same two numbers are used for all later inputs: a `Standardizer` layer keeps them in the model, and
in its file.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

X, y = fastnn.datasets.moons(500)
X = X * np.array([1.0, 1000.0], "float32") + np.array([0.0, 3000.0], "float32")
(X_train, y_train), (X_dev, y_dev) = fastnn.datasets.split(X, y, sizes=(0.7, 0.3))
standardizer = fastnn.Standardizer().fit(X_train)
print(f"training set: means {standardizer.mean.round(1).tolist()}, deviations {standardizer.deviation.round(1).tolist()}")

figure = Figure(figsize=(9.6, 3.4), layout="constrained")
costs, plane = figure.subplots(1, 2)
accuracy = {}
for color, name, first in zip(fastnn.plots.COLORS, ("raw", "standardized"), ([], [standardizer]), strict=False):
    best = None
    for rate in (1e-6, 1e-4, 1e-2, 1.0):
        model = fastnn.Sequential([*first, fastnn.Dense(16, activation="tanh"), fastnn.Dense(1)], seed=0)
        descent = fastnn.SGD(rate)
        history = model.fit(
            X_train, y_train, loss="sigmoid_cross_entropy", optimizer=descent, batch_size="all", epochs=1000, verbose=0
        )
        if best is None or history["loss"][-1] < best[1]["loss"][-1]:
            best = model, history, rate
    model, history, rate = best
    accuracy[name] = model.evaluate(X_dev, y_dev)["accuracy"]
    print(f"{name:>12}: best rate {rate:g}, cost {history['loss'][-1]:.3f}, accuracy on dev data {accuracy[name]:.2%}")
    costs.plot(range(1, 1001), history["loss"], color=color, label=f"{name}, rate {rate:g}")
costs.set_xlabel("epoch")
costs.set_ylabel("cost")
costs.set_title("the best of four rates", fontsize="medium")
costs.legend(frameon=False)
fastnn.plots.decision_boundary(model, X_dev, y_dev, ax=plane).set_title("standardized, dev data", fontsize="medium")
fastnn.plots.save(figure, FOLDER / "standardize.png")

assert np.allclose(standardizer.mean, X_train.mean(axis=0, dtype="float64"))
assert np.allclose(standardizer.deviation, X_train.std(axis=0, dtype="float64"))
assert accuracy["standardized"] > max(0.93, accuracy["raw"])
