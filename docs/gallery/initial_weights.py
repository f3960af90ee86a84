"""
Initial weights
===============

What becomes of the activations in 20 layers of rectifiers: He's weights, N(0, 2/fan_in), keep their size; N(0, 1) lets them
explode, N(0, 0.01^2) and N(0, 1/fan_in) let them vanish. And zeros keep all units of a layer alike for ever, so that four of
them learn no more than one would. He et al. 2015, section 2.2; Andrew Ng, Improving Deep Neural Networks, week 1.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn.initializers import Normal

FOLDER = Path(*sys.argv[1:2])

X = np.random.default_rng(0).standard_normal((500, 200)).astype(np.float32)
starts = {"He": "he", "N(0, 1)": Normal(1.0), "N(0, 0.01^2)": Normal(0.01), "N(0, 1/fan_in)": "lecun"}
found = {}
print(f"{'initial weights':<18}{'deviation of the activations of layer 1':>42}{'layer 20':>12}")
for name, start in starts.items():
    model = fastnn.Sequential([fastnn.Dense(200, activation="relu", weight_init=start) for _ in range(20)], seed=0)
    found[name] = fastnn.activation_statistics(model, X).std
    print(f"{name:<18}{found[name][0]:>42.3g}{found[name][-1]:>12.3g}")

digits = fastnn.datasets.load("digits")
different, accuracy = {}, {}
print("\nfour tanh units trained on the digits for 20 epochs:")
for name, start in (("zeros", "zeros"), ("N(0, 0.01^2)", Normal(0.01))):
    layers = [fastnn.Dense(4, activation="tanh", weight_init=start), fastnn.Dense(10, weight_init=start)]
    model = fastnn.Sequential(layers, seed=0)
    history = model.fit(digits.X_train, digits.y_train, epochs=20, optimizer=fastnn.Adam(0.01), verbose=0)
    different[name], accuracy[name] = len(np.unique(model.weights["0.weight"], axis=1).T), history["accuracy"][-1]
    print(f"{name:<18}{different[name]} different units, accuracy {accuracy[name]:.1%}")

axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
for color, (name, deviations) in zip(fastnn.plots.COLORS, found.items(), strict=False):
    axes.semilogy(range(1, 21), deviations, color=color, label=name)
axes.set(xlabel="layer", ylabel="deviation of the activations", xticks=range(0, 21, 5))
axes.set_title("what is left of the inputs after 20 ReLU layers", fontsize="medium")
axes.legend(frameon=False, loc="lower left")
fastnn.plots.save(axes, FOLDER / "initial_weights.png")

ratio = {name: deviations[-1] / deviations[0] for name, deviations in found.items()}
assert 0.5 < ratio["He"] ** 2 < 2.0, "the variance, within a factor of two"
assert ratio["N(0, 1)"] > 1e15
assert ratio["N(0, 1/fan_in)"] < 1e-2
assert different == {"zeros": 1, "N(0, 0.01^2)": 4}
assert accuracy["zeros"] < accuracy["N(0, 0.01^2)"] / 2
