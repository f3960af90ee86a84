"""
Gradients checked, and a mistake found
======================================

A loss is written forwards only, and the library differentiates it. Two-sided differences say whether that went well: they
agree with the gradients of a network with batch norm and dropout, whose units are frozen for the check, to about ten digits.
Then a derivative is made 1 % too large, and the report names the parameters that it spoils and where to look for it. Andrew
Ng, Improving Deep Neural Networks, week 1.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn import ops
from fastnn.program import differentiate

FOLDER = Path(*sys.argv[1:2])

rng = np.random.default_rng(0)
X, y = rng.standard_normal((16, 6)), rng.standard_normal((16, 2))


def smooth_l1(outputs, targets):
    """Quadratic near 0, linear beyond 1."""
    d = outputs - targets
    return ops.sum(ops.where(ops.abs(d) < 1.0, 0.5 * d * d, ops.abs(d) - 0.5), 1)


layers = [fastnn.Dense(8), fastnn.BatchNorm(), fastnn.Activation("tanh"), fastnn.Dropout(0.3), fastnn.Dense(2)]
model = fastnn.Sequential(layers, seed=0)


def check():
    return fastnn.check_gradients(model, X, y, loss=smooth_l1, dropout="frozen", l2=0.01)


right = check()
print(f"As it is:\n{right}\n")

derivative = differentiate.RULES["tanh"]
differentiate.RULES["tanh"] = lambda call, dy: [ops.multiply(derivative(call, dy)[0], 1.01)]
wrong = check()
differentiate.RULES["tanh"] = derivative
print(f"With a derivative of tanh that is 1 % too large:\n{wrong}")

axes = Figure(figsize=(6.4, 3.4), layout="constrained").subplots()
checked = {"right": right, "tanh 1 % too large": wrong}
for shift, (label, found), color in zip((-0.2, 0.2), checked.items(), fastnn.plots.COLORS, strict=False):
    axes.barh(np.arange(len(found.names)) + shift, list(found.relative.values()), 0.4, label=label, color=color)
axes.set(xscale="log", xlabel="||g - g'|| / (||g|| + ||g'||)", yticks=range(len(right.names)), yticklabels=right.names)
axes.axvline(1e-7, linestyle=":", color="0.4", label="accepted up to 1e-7")
axes.set_title("a wrong rule spoils what lies in front of it", fontsize="medium")
axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
fastnn.plots.save(axes, FOLDER / "gradient_check.png")

assert right.passed
assert set(wrong.failed) == {"0.weight", "1.gamma", "1.beta"}, "what lies in front of tanh, and nothing behind it"
