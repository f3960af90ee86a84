"""
Bias and variance
=================

The errors on training and dev data say what to try next. Of three networks on the bundled digits one is too small (high bias),
one has learned 100 examples by heart (high variance), and one, bigger and trained on more, has neither. What is a high bias is
a question of the base error, too: where nobody errs less than 15 %, an error of 15 % is none. Andrew Ng, Improving Deep Neural
Networks, week 1.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

digits = fastnn.datasets.load("digits")
dev = (digits.X_test, digits.y_test)
few, everything = ((digits.X_train[:n], digits.y_train[:n]) for n in (100, None))
cases = {
    "2 hidden units": ([fastnn.Dense(2, activation="tanh")], everything),
    "256 units, 100 examples": ([fastnn.Dense(256, activation="relu")], few),
    "256 units, all examples, dropout": ([fastnn.Dense(256, activation="relu"), fastnn.Dropout(0.3)], everything),
}
found = {}
for name, (hidden, train) in cases.items():
    model = fastnn.Sequential([*hidden, fastnn.Dense(10)], seed=0)
    model.fit(*train, batch_size=50, epochs=40, verbose=0)
    found[name] = fastnn.diagnose_model(model, train, dev)
    print(f"--- {name}\n{found[name]}\n")
hard = fastnn.diagnose(0.15, 0.16, base_error=0.15)
print(f"--- the course's 15 % and 16 %, over a base error of 15 %\n{hard}")

axes = Figure(figsize=(6.4, 3.4), layout="constrained").subplots()
for shift, kind, color in zip((-0.2, 0.2), ("train_error", "dev_error"), fastnn.plots.COLORS, strict=False):
    errors = [100 * getattr(each, kind) for each in found.values()]
    axes.bar(np.arange(3) + shift, errors, 0.4, label=kind.replace("_", " "), color=color)
axes.set(ylabel="errors in %", xticks=range(3), xticklabels=[f"{n}\n{d.verdict}" for n, d in found.items()])
axes.tick_params(axis="x", labelsize="x-small")
axes.set_title("what the errors of three networks say", fontsize="medium")
axes.legend(frameon=False)
fastnn.plots.save(axes, FOLDER / "diagnosis.png")

assert [each.verdict for each in found.values()] == ["high bias", "high variance", "low bias and low variance"]
assert hard.verdict == "low bias and low variance"
