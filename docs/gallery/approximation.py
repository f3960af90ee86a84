"""
A network approximates any function
===================================

With one hidden layer and enough units a network comes as near as one likes to any continuous function (Nielsen, chapter 4;
Cybenko 1989). Here tanh units fit a wavy function of one variable, better the more there are, and two layers fit one of two
variables.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])


def wavy(x: np.ndarray) -> np.ndarray:
    """Nielsen's example: 0.2 + 0.4 x^2 + 0.3 x sin(15 x) + 0.05 cos(50 x)."""
    return 0.2 + 0.4 * x**2 + 0.3 * x * np.sin(15.0 * x) + 0.05 * np.cos(50.0 * x)


def fit(X: np.ndarray, y: np.ndarray, hidden: list[int], steepness: float, epochs: int) -> fastnn.Sequential:
    spread = fastnn.initializers.Normal(steepness)  # of the first units, whose bends lie all over the interval
    first = [fastnn.Dense(hidden[0], activation="tanh", weight_init=spread, bias_init=spread)]
    rest = [fastnn.Dense(units, activation="tanh") for units in hidden[1:]]
    model = fastnn.Sequential([*first, *rest, fastnn.Dense(1)], seed=0)
    rate = fastnn.schedules.Cosine(0.01)
    model.fit(X, y, loss="mean_squared_error", optimizer=fastnn.Adam(rate), batch_size=100, epochs=epochs, verbose=0)
    return model


x = np.linspace(0.0, 1.0, 1000, dtype="float32")[:, np.newaxis]
figure = Figure(figsize=(13.0, 3.4), layout="constrained")
panels = figure.subplots(1, 3)
panels[0].plot(x, wavy(x), color="black", label="function")
errors = {}
for color, hidden in zip(fastnn.plots.COLORS, (5, 20, 100), strict=False):
    model = fit(x, wavy(x), [hidden], 0.4 * hidden, 1000)
    errors[hidden] = float(np.sqrt(np.mean((model(x) - wavy(x)) ** 2)))
    print(f"one variable, {hidden:3} tanh units: root mean square error {errors[hidden]:.4f}")
    panels[0].plot(x, model(x), color=color, label=f"{hidden} units", linewidth=1)
panels[0].legend(frameon=False, fontsize="small")
panels[0].set_title("one variable, one layer of tanh units")
panels[0].set_xlabel("x")
panels[0].set_ylabel("f(x)")

side = np.linspace(-1.0, 1.0, 60, dtype="float32")
grid = np.stack([a.ravel() for a in np.meshgrid(side, side)], axis=1)
surface = np.sin(3.0 * grid[:, :1]) * np.cos(3.0 * grid[:, 1:]) + grid[:, :1] * grid[:, 1:]
model = fit(grid, surface, [40, 40], 2.0, 100)
errors["surface"] = float(np.sqrt(np.mean((model(grid) - surface) ** 2)))
print(f"two variables, two layers of 40: root mean square error {errors['surface']:.4f}")
for axes, values, name in zip(
    panels[1:], (surface, model(grid)), ("two variables: function", "two variables: network"), strict=True
):
    shown = axes.contourf(side, side, values.reshape(60, 60), np.linspace(-1.6, 1.6, 17), cmap="cividis")
    axes.set_title(name)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
figure.colorbar(shown, ax=panels[2], label="f(x, y)")
fastnn.plots.save(figure, FOLDER / "approximation.png")

assert errors[100] < 0.02 < errors[5]
assert errors["surface"] < 0.02
