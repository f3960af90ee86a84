"""
A worked example, digit by digit
================================

Three examples with two features, four tanh units and a sigmoid: the network that Andrew Ng's planar exercise trains to check
one's own code. Points and initial weights are drawn as there, so that costs and weights after 10,000 steps of gradient descent
can be compared with the printed ones. The exercise has examples in columns; here they are rows, and its W are transposed.
"""

import sys
from pathlib import Path

import numpy as np

import fastnn

FOLDER = Path(*sys.argv[1:2])

points = np.random.RandomState(1)
X, Y = points.randn(2, 3), points.randn(1, 3) > 0
initial = np.random.RandomState(2)
W1, W2 = 0.01 * initial.randn(4, 2), 0.01 * initial.randn(1, 4)

model = fastnn.Sequential([fastnn.Dense(4, activation="tanh"), fastnn.Dense(1)], seed=0, dtype="float64").build(2)
model.set_weights({"0.weight": W1.T, "1.weight": W2.T})
steps = fastnn.callbacks.StepLosses()
history = model.fit(
    X.T,
    Y.T.astype("float64"),
    loss="sigmoid_cross_entropy",
    optimizer=fastnn.SGD(1.2),
    batch_size="all",
    epochs=10_000,
    callbacks=[steps],
    verbose=0,
)

printed = (0.692739, 0.000218, 0.000107, 0.000071, 0.000053, 0.000042, 0.000035, 0.000030, 0.000026, 0.000023)
print("iteration   cost here   cost printed")
for iteration, cost in zip(range(0, 10_000, 1000), printed, strict=True):
    print(f"{iteration:9}   {steps.losses[iteration]:.6f}    {cost:.6f}")
for name, values in model.weights.items():
    print(name, values.T.round(8).tolist())

axes = fastnn.plots.cost_curves(history)
axes.set_yscale("log")
axes.set_title("10,000 steps of the worked example", fontsize="medium")
fastnn.plots.save(axes, FOLDER / "worked_example.png")

expected = {
    "0.weight": [[-0.65848169, 1.21866811], [-0.76204273, 1.39377573], [0.5792005, -1.10397703], [0.76773391, -1.41477129]],
    "0.bias": [0.287592, 0.3511264, -0.2431246, -0.35772805],
    "1.weight": [[-2.45566237, -3.27042274, 2.00784958, 3.36773273]],
    "1.bias": [0.20459656],
}
assert np.abs(steps.losses[::1000] - printed).max() < 1e-6
for name, values in expected.items():
    assert np.abs(model.weights[name].T - values).max() < 1e-7, name
