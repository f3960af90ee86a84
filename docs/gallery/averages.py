"""
Exponentially weighted averages
===============================

A year of noisy temperatures, averaged as momentum and Adam average gradients: v = beta v + (1 - beta) x, which is about the
mean of the last 1/(1 - beta) days. A larger beta is smoother and comes later; without the correction v / (1 - beta^t) the first
days are far too small, because v begins at 0.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn.averages import exponentially_weighted_average

FOLDER = Path(*sys.argv[1:2])

days = np.arange(365)
season = 10.0 - 9.0 * np.cos(2.0 * np.pi * (days - 20) / 365)
temperatures = season + np.random.default_rng(0).normal(0.0, 3.0, 365)

figure = Figure(figsize=(9.0, 3.6), layout="constrained")
axes = figure.subplots()
axes.plot(days, temperatures, ".", color="#b0b0b0", markersize=3, label="measured")
errors = {}
for color, beta in zip(fastnn.plots.COLORS, (0.5, 0.9, 0.98), strict=False):
    average = exponentially_weighted_average(temperatures, beta, corrected=True)
    errors[beta] = float(np.sqrt(np.mean((average - season)[50:] ** 2)))
    about = round(1.0 / (1.0 - beta))
    print(f"beta = {beta}: about {about:2} days, {errors[beta]:.2f} degrees from the season")
    axes.plot(days, average, color=color, label=f"beta = {beta}, about {about} days")
plain = exponentially_weighted_average(temperatures, 0.98, corrected=False)
axes.plot(days, plain, "--", color=color, label="beta = 0.98, not corrected", linewidth=1)
print(f"the first day, beta = 0.98: {temperatures[0]:.2f} measured, {plain[0]:.2f} without the correction")
axes.set_xlabel("day of the year")
axes.set_ylabel("temperature (degrees Celsius)")
axes.set_title("the larger beta, the smoother and the later", fontsize="medium")
axes.legend(frameon=False, fontsize="small")
fastnn.plots.save(figure, FOLDER / "averages.png")

by_hand, v = [], 0.0
for t, x in enumerate(temperatures, start=1):
    v = 0.98 * v + 0.02 * x
    by_hand.append(v / (1.0 - 0.98**t))
assert np.allclose(average, by_hand, rtol=1e-12)
assert abs(plain[0] - 0.02 * temperatures[0]) < 1e-12
assert errors[0.9] < min(errors[0.5], errors[0.98])
