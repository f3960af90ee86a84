"""
A computation built first, then run
===================================

As TensorFlow's graph and session, in the notes: a cost is written once on symbols, its gradient follows from it, and nothing is
computed until the program is run with values fed in. The cost is w^2 - 10 w + 25 with its coefficients fed; gradient descent
finds w = 5. What `fit` plays is built the same way, and `model.program` shows it, call by call.
"""

import sys
from pathlib import Path

import numpy as np

import fastnn
from fastnn import engines, ops
from fastnn.program.differentiate import gradients
from fastnn.program.trace import Trace

FOLDER = Path(*sys.argv[1:2])

trace = Trace("float64")
w, a, b, c = (trace.input(name, (1,)) for name in ("w", "a", "b", "c"))
cost = ops.sum(a * w * w + b * w + c)
(slope,) = gradients(cost, [w])
program = trace.program({"cost": cost, "slope": slope})
print(program)

session = engines.instantiate(program, rows=1, threads=1)
place = np.zeros(1)
session.bind(w=place, a=np.array([1.0]), b=np.array([-10.0]), c=np.array([25.0]))
costs = []
for _ in range(1000):
    session.play()
    costs.append(float(session.output("cost")))
    place -= 0.01 * session.output("slope")
print(f"w = {place[0]:.6f} where the cost is {costs[-1]:.2e}")

session.bind(a=np.array([1.0]), b=np.array([-20.0]), c=np.array([100.0]))  # other values, the same program
for _ in range(1000):
    session.play()
    place -= 0.01 * session.output("slope")
print(f"w = {place[0]:.6f} for w^2 - 20 w + 100")

model = fastnn.Sequential([fastnn.Dense(4, activation="tanh"), fastnn.Dense(1)], seed=0).build(2)
step = model.program(64, loss="sigmoid_cross_entropy", optimizer="sgd")
print(step)

axes = fastnn.plots.cost_curves({}, steps=costs)
axes.set_xlabel("step")
axes.set_yscale("log")
fastnn.plots.save(axes, FOLDER / "program.png")

assert abs(place[0] - 10.0) < 1e-6
assert costs[0] == 25.0
assert costs[-1] < 1e-12
