"""
Linear layers collapse into one
===============================

Without a non-linear activation, depth gains nothing: W1 W2 ... WL is one matrix. A network of five linear layers equals the one
layer of their product, and learns no more of noisy moons than logistic regression; the same network with ReLU parts them.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
X, y = fastnn.datasets.moons(400)
X = X.astype("float64")


def train(hidden: int, activation: str) -> fastnn.Sequential:
    layers = [fastnn.Dense(8, activation=activation) for _ in range(hidden)]
    model = fastnn.Sequential([*layers, fastnn.Dense(1)], seed=1, dtype="float64")
    model.fit(X, y, loss="sigmoid_cross_entropy", optimizer=fastnn.Adam(0.01), batch_size="all", epochs=2000, verbose=0)
    return model


models = {
    "logistic regression": train(0, "identity"),
    "5 layers, linear": train(4, "identity"),
    "5 layers, ReLU": train(4, "relu"),
}
figure = Figure(figsize=(13.0, 3.4), layout="constrained")
accuracy = {}
for axes, (name, model) in zip(figure.subplots(1, 3), models.items(), strict=True):
    accuracy[name] = model.evaluate(X, y)["accuracy"]
    print(f"{name:>20}: {accuracy[name]:.2%}")
    fastnn.plots.decision_boundary(model, X, y, ax=axes).set_title(f"{name}: {accuracy[name]:.2%}")
fastnn.plots.save(figure, FOLDER / "linear_collapse.png")

deep = models["5 layers, linear"]
weight, bias = np.eye(2), np.zeros(2)
for layer in range(5):
    own = deep.weights[f"{layer}.weight"]
    weight, bias = weight @ own, bias @ own + deep.weights[f"{layer}.bias"]
one = fastnn.Sequential([fastnn.Dense(1)], seed=0, dtype="float64").build(2)
one.set_weights({"0.weight": weight, "0.bias": bias})
difference = float(np.abs(deep(X) - one(X)).max())
print(f"five linear layers and the product of their weights differ by {difference:.1e} at most")

assert difference < 1e-10
assert abs(accuracy["5 layers, linear"] - accuracy["logistic regression"]) <= 0.01
assert accuracy["5 layers, ReLU"] > accuracy["logistic regression"] + 0.05
