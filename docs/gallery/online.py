"""
Online learning: examples that come one at a time
=================================================

The question changes while it is asked: two classes of points are told apart by a parabola that turns once around in 20,000
examples. One network learns from each example as soon as it has answered it, in a step of its own, and never sees one again;
another one learns in the same way from the first 2,000 and then stays as it is. What counts is whether an answer was right
before its example was learned from.
"""

import copy
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
COUNT, LEARNED = 20_000, 2_000
rng = np.random.default_rng(0)

angle = 2 * np.pi * np.arange(COUNT) / COUNT
X = rng.uniform(-1, 1, (COUNT, 2)).astype("float32")
across, along = X[:, 0] * np.cos(angle) + X[:, 1] * np.sin(angle), X[:, 1] * np.cos(angle) - X[:, 0] * np.sin(angle)
y = (along > across**2 - 0.3).astype(np.int64)

network = fastnn.Sequential([fastnn.Dense(16, activation="tanh"), fastnn.Dense(2)], seed=0).build(2)
step = network.training_step(optimizer=fastnn.SGD(0.1), batch_size=1)
right = np.zeros(COUNT, bool)
started = time.perf_counter()
for i in range(COUNT):
    x = X[i : i + 1]
    right[i] = network(x).argmax() == y[i]
    step(x, y[i : i + 1])
    if i + 1 == LEARNED:
        stopped = copy.deepcopy(network)
seconds = time.perf_counter() - started
stays = stopped(X).argmax(axis=1) == y

later = slice(LEARNED, None)
print(f"{network.counters.step} examples, {1e6 * seconds / COUNT:.0f} us for an answer and a step")
print(f"right after the first {LEARNED}: {right[later].mean():.1%} learning on, {stays[later].mean():.1%} without")
axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
for color, (name, found) in zip(fastnn.plots.COLORS, {"learns on": right, "stops learning": stays}.items(), strict=False):
    axes.plot(fastnn.averages.exponentially_weighted_average(found, 0.998), color=color, label=name)
axes.axvline(LEARNED, color="gray", linewidth=0.8)
axes.set(xlabel="example", ylabel="share of right answers", title="a question that changes")
axes.legend(frameon=False)
fastnn.plots.save(axes, FOLDER / "online.png")

assert network.counters.step == COUNT
assert right[later].mean() > 0.92
assert right[later].mean() > stays[later].mean() + 0.2
