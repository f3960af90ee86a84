"""
Activations and their derivatives
=================================

The functions of the course, solid, and what the backward pass multiplies by, dashed: the derivatives are those that the
differentiated program computes. Sigmoid and tanh are flat where their input is large, so that units there learn slowly; ReLU
has slope 1 wherever it is active.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

figure = Figure(figsize=(13.0, 6.4), layout="constrained")
panels = figure.subplots(2, 3).ravel()
for axes, name in zip(panels, ("step", "identity", "sigmoid", "tanh", "relu", "leaky_relu"), strict=True):
    fastnn.plots.activation(name, 0.1 if name == "leaky_relu" else None, ax=axes).set_title(name)
fastnn.plots.save(figure, FOLDER / "activations.png")

z = np.linspace(-4.0, 4.0, 601)
sigmoid = 1.0 / (1.0 + np.exp(-z))
by_formula = {
    "step": 0.0 * z,
    "identity": 1.0 + 0.0 * z,
    "sigmoid": sigmoid * (1.0 - sigmoid),
    "tanh": 1.0 - np.tanh(z) ** 2,
    "relu": np.where(z > 0, 1.0, 0.0),
    "leaky_relu": np.where(z > 0, 1.0, 0.1),
}
for axes, (name, slopes) in zip(panels, by_formula.items(), strict=True):
    error = float(np.abs(axes.get_lines()[1].get_ydata() - slopes)[z != 0].max())
    print(f"{name:>10}: derivative differs from the formula by {error:.1e} at most")
    assert error < 1e-12
