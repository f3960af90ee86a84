"""
A computation built first, then run
===================================

As TensorFlow's graph and session, in the notes: a cost is written once on symbols, its gradient follows from it, and nothing is
computed until values are fed in. The cost is a w^2 + b w + c, its coefficients are fed; gradient descent finds w = 5 for
w^2 - 10 w + 25, and w = 10 for w^2 - 20 w + 100. Softmax regression on any number of rows is recorded in the same way, and what
`fit` plays as well: `model.program` shows it, call by call.
"""

import sys
from pathlib import Path

import numpy as np

import fastnn
from fastnn import ops

FOLDER = Path(*sys.argv[1:2])

cost = fastnn.record(lambda w, a, b, c: a * w * w + b * w + c, w=(), a=(), b=(), c=(), gradients="w", dtype="float64")
print(cost)


def descended(b: float, c: float) -> tuple[float, list[float]]:
    """Where 1000 steps of gradient descent on w^2 + b w + c end, and the costs on the way."""
    w, costs = 0.0, []
    for _ in range(1000):
        found = cost(w=w, a=1, b=b, c=c)
        costs.append(float(found["value"]))
        w -= 0.01 * float(found["d w"])
    return w, costs


places = []
for b, c in ((-10, 25), (-20, 100)):  # other values, the same program
    place, costs = descended(b, c)
    places.append(place)
    print(f"w = {place:.6f} for w^2 - {-b} w + {c}, where the cost is {costs[-1]:.2e}")

rng = np.random.default_rng(0)
X, labels, w = rng.standard_normal((90, 4)), rng.integers(0, 3, 90), rng.standard_normal((4, 3))
regression = fastnn.record(
    lambda x, t, w: ops.mean(ops.softmax_cross_entropy(x @ w, t)),
    x=("B", 4), t=("B",), w=(4, 3), gradients="w", dtype="float64", dtypes={"t": "int64"},
)  # fmt: skip
print(regression)
errors = []
for rows in (90, 16, 1):
    found = regression(x=X[:rows], t=labels[:rows], w=w)
    powers = np.exp(X[:rows] @ w)
    p = powers / powers.sum(axis=1, keepdims=True)
    errors.append(np.abs(found["d w"] - X[:rows].T @ (p - np.eye(3)[labels[:rows]]) / rows).max())
    print(f"{rows} rows: cost {found['value']:.4f}, gradient X.T (p - y) / m within {errors[-1]:.0e}")

model = fastnn.Sequential([fastnn.Dense(4, activation="tanh"), fastnn.Dense(1)], seed=0).build(2)
print(model.program(64, loss="sigmoid_cross_entropy", optimizer="sgd"))

axes = fastnn.plots.cost_curves({}, steps=costs)
axes.set_xlabel("step")
axes.set_yscale("log")
axes.set_title("gradient descent on $w^2 - 20 w + 100$", fontsize="medium")
axes.get_legend().remove()
fastnn.plots.save(axes, FOLDER / "program.png")

assert np.abs(np.subtract(places, (5.0, 10.0))).max() < 1e-6
assert costs[0] == 100.0
assert costs[-1] < 1e-12
assert max(errors) < 1e-14
