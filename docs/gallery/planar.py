"""
One hidden layer on points in the plane
=======================================

Logistic regression parts the "flower" of Andrew Ng's planar exercise by a line and gets it as wrong as a coin; one hidden layer
of tanh units follows its petals. Here are the accuracies for 1 to 50 hidden units after gradient descent at rate 1.2 on all 400
points, beside those printed in the notes; points and initial weights are drawn as there. The larger networks overfit: their
boundaries follow single points. Last, four hidden units on the other planar sets.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
PRINTED = {1: 67.5, 2: 67.25, 3: 90.75, 4: 90.5, 5: 91.25, 20: 90.0, 50: 90.25}


def flower() -> tuple[np.ndarray, np.ndarray]:
    """The 400 points of the exercise: those of `fastnn.datasets.flower`, with NumPy's old random numbers."""
    draw = np.random.RandomState(1)
    petals = []
    for j in range(2):
        t = np.linspace(3.12 * j, 3.12 * (j + 1), 200) + 0.2 * draw.randn(200)
        r = 4.0 * np.sin(4.0 * t) + 0.2 * draw.randn(200)
        petals.append(np.stack([r * np.sin(t), r * np.cos(t)], axis=1))
    return np.concatenate(petals), np.repeat([0, 1], 200)


def train(X: np.ndarray, y: np.ndarray, hidden: int, iterations: int, rate: float = 1.2) -> tuple[fastnn.Sequential, float]:
    """The network after gradient descent on all examples, and how many of them it gets right, in percent."""
    draw = np.random.RandomState(2)
    layers = [fastnn.Dense(hidden, activation="tanh"), fastnn.Dense(1)]
    model = fastnn.Sequential(layers, seed=0, dtype="float64").build(2)
    model.set_weights({"0.weight": 0.01 * draw.randn(hidden, 2).T, "1.weight": 0.01 * draw.randn(1, hidden).T})
    descent = fastnn.SGD(rate)
    model.fit(X, y, loss="sigmoid_cross_entropy", optimizer=descent, batch_size="all", epochs=iterations, verbose=0)
    return model, 100.0 * model.evaluate(X, y)["accuracy"]


X, y = flower()
found = {}
boundaries = Figure(figsize=(14.4, 6.8), layout="constrained")
panels = boundaries.subplots(2, 4).ravel()
print("hidden units   accuracy   in the notes")
for axes, (hidden, printed) in zip(panels, PRINTED.items(), strict=False):
    model, found[hidden] = train(X, y, hidden, 5000)
    print(f"{hidden:12} {found[hidden]:8.2f} % {printed:11.2f} %")
    fastnn.plots.decision_boundary(model, X, y, ax=axes).set_title(f"{hidden} hidden: {found[hidden]:.2f} %")
model, longer = train(X, y, 4, 10_000)
print(f"{4:12} {longer:8.2f} % after 10,000 iterations")
fastnn.plots.decision_boundary(model, X, y, ax=panels[-1]).set_title(f"4 hidden, 10,000 iterations: {longer:.2f} %")
fastnn.plots.save(boundaries, FOLDER / "planar.png")

others = Figure(figsize=(14.4, 3.4), layout="constrained")
right = {}
for axes, name in zip(others.subplots(1, 4), ("circles", "moons", "blobs", "quantiles"), strict=True):
    points, labels = getattr(fastnn.datasets, name)()
    model, right[name] = train(points.astype("float64"), labels, 4, 5000, 0.5)
    print(f"{name:>12} {right[name]:8.2f} %")
    fastnn.plots.decision_boundary(model, points, labels, ax=axes).set_title(f"{name}: {right[name]:.2f} %")
fastnn.plots.save(others, FOLDER / "planar_others.png")

assert all(abs(found[hidden] - printed) <= 1.0 for hidden, printed in PRINTED.items())
assert 90.0 <= longer <= 92.0
assert min(right["moons"], right["quantiles"]) > 95
