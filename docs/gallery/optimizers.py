"""
Optimizers on one problem, and on a saddle
==========================================

Gradient descent, momentum, Nesterov's momentum, RMSprop and Adam train the same network from the same weights on the bundled
digits, with the same mini-batches: cost per epoch, and per mini-batch, which is noisy. Then each starts beside the saddle point
of f(x, y) = x^2 - y^2 + y^4/4, trained through the library as a model of two parameters: near a saddle the gradient is almost
0, and those that remember earlier gradients, or divide by their size, leave it sooner.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

data = fastnn.datasets.load("digits")
optimizers = {
    "SGD": fastnn.SGD(0.1),
    "momentum": fastnn.SGD(0.1, momentum=0.9),
    "Nesterov": fastnn.SGD(0.1, momentum=0.9, nesterov=True),
    "RMSprop": fastnn.RMSprop(0.01),
    "Adam": fastnn.Adam(0.01),
}
figure = Figure(figsize=(13.0, 3.6), layout="constrained")
per_step, per_epoch, saddle = figure.subplots(1, 3)
first, last = {}, {}
print("optimizer    cost after epoch 1   after epoch 10   accuracy on test data")
for color, (name, optimizer) in zip(fastnn.plots.COLORS, optimizers.items(), strict=False):
    model = fastnn.Sequential([fastnn.Dense(32, activation="relu"), fastnn.Dense(10)], seed=0)
    steps = fastnn.callbacks.StepLosses()
    history = model.fit(data.X_train, data.y_train, optimizer=optimizer, batch_size=64, epochs=10, callbacks=[steps], verbose=0)
    first[name], last[name] = history["loss"][0], history["loss"][-1]
    accuracy = model.evaluate(data.X_test, data.y_test)["accuracy"]
    print(f"{name:>9} {first[name]:18.3f} {last[name]:16.3f} {accuracy:23.2%}")
    per_epoch.plot(range(1, 11), history["loss"], color=color, label=name)
    per_step.plot(np.arange(1, len(steps.losses) + 1), steps.losses, color=color, label=name, linewidth=0.6)
for axes, unit in ((per_step, "mini-batch"), (per_epoch, "epoch")):
    axes.set_yscale("log")
    axes.set_xlabel(unit)
    axes.set_ylabel("cost")
    axes.set_title(f"digits, cost of each {unit}", fontsize="medium")
    axes.legend(frameon=False, fontsize="small")


class Point(fastnn.Layer):
    """Two parameters, x and y, beginning beside the saddle."""

    def parameters(self, shape):
        return {"place": fastnn.Parameter((2,), lambda key, shape, dtype: np.array([1.0, 1e-3], dtype))}

    def forward(self, x, training):
        return x + self.place


class Places(fastnn.callbacks.Callback):
    """The place after every step."""

    every = 1

    def begin(self, run):
        self.places = [run.model.weights["0.place"]]

    def step_end(self, run):
        self.places.append(run.model.weights["0.place"])


def height(x, y):
    return x * x - y * y + 0.25 * (y * y) * (y * y)


def loss(outputs, targets):
    return fastnn.ops.mean(height(fastnn.ops.slice(outputs, 0, 1), fastnn.ops.slice(outputs, 1, 2)))


rate = 0.01
on_saddle = {
    "SGD": fastnn.SGD(rate),
    "momentum": fastnn.SGD(rate, momentum=0.9),
    "Nesterov": fastnn.SGD(rate, momentum=0.9, nesterov=True),
    "RMSprop": fastnn.RMSprop(rate),
    "Adam": fastnn.Adam(rate),
}
nothing = np.zeros((1, 2))
paths, left = {}, {}
for name, optimizer in on_saddle.items():
    path = Places()
    point = fastnn.Sequential([Point()], seed=0, dtype="float64")
    point.fit(nothing, nothing, loss=loss, optimizer=optimizer, batch_size=1, epochs=600, callbacks=[path], verbose=0)
    paths[name] = np.array(path.places)
    left[name] = int(np.argmax(np.abs(paths[name][:, 1]) > 1.0))
    print(f"{name:>9} has left the saddle after {left[name]} steps")
fastnn.plots.optimizer_paths(paths, height, ax=saddle).set_title("away from a saddle point", fontsize="medium")
fastnn.plots.save(figure, FOLDER / "optimizers.png")

assert all(last[name] < last["SGD"] for name in last if name != "SGD")
assert all(0 < left[name] < left["SGD"] for name in left if name != "SGD")
