"""
Batch norm in a deep network
============================

Eight sigmoid layers squeeze what comes in until nothing is left to learn from. Batch norm gives the inputs of every layer mean
0 and deviation 1 over the mini-batch, then a deviation gamma and a mean beta that are learned: the same network learns the
digits. Predictions use running averages of mean and variance, so that they do not depend on who else is asked about.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
DEPTH = 8

data = fastnn.datasets.load("digits")
figure = Figure(figsize=(4.8, 3.4), layout="constrained")
axes = figure.subplots()
accuracy = {}
for color, name in zip(fastnn.plots.COLORS, ("without", "with"), strict=False):
    norm = [fastnn.BatchNorm()] if name == "with" else []
    hidden = [layer for _ in range(DEPTH) for layer in (fastnn.Dense(32), *norm, fastnn.Activation("sigmoid"))]
    model = fastnn.Sequential([*hidden, fastnn.Dense(10)], seed=0)
    momentum = fastnn.SGD(0.1, momentum=0.9)
    history = model.fit(data.X_train, data.y_train, optimizer=momentum, batch_size=64, epochs=15, verbose=0)
    accuracy[name] = model.evaluate(data.X_test, data.y_test)["accuracy"]
    print(f"{name:>7} batch norm: cost {history['loss'][-1]:.3f}, accuracy on test data {accuracy[name]:.2%}")
    axes.plot(range(1, 16), history["loss"], color=color, label=f"{name} batch norm")
axes.set_xlabel("epoch")
axes.set_ylabel("cost of training")
axes.set_title("eight sigmoid layers", fontsize="medium")
axes.legend(frameon=False)
fastnn.plots.save(figure, FOLDER / "batch_norm.png")

alone = np.concatenate([model(data.X_test[i : i + 1]) for i in range(5)])
assert np.allclose(alone, model(data.X_test[:5]), atol=1e-5)
assert accuracy["without"] < 0.3
assert accuracy["with"] > 0.9
