"""
Learning rates that fall
========================

The decays of the course, and later ones: a0 / (1 + decay epoch), 0.95^epoch a0, k a0 / sqrt(epoch), a staircase, a table by
hand, half a cosine, one cycle and a warm-up. A constant large rate with mini-batches of 8 keeps jumping about the minimum of
softmax regression on the digits; rates that fall settle in it: the cost of all training examples after an epoch moves less and
less.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn import schedules

FOLDER = Path(*sys.argv[1:2])
EPOCHS, RATE = 30, 2.0

rates = {
    "constant": schedules.Constant(RATE),
    "inverse time": schedules.InverseTime(RATE, 0.3),
    "exponential": schedules.Exponential(RATE, 0.95),
    "inverse root": schedules.InverseSqrt(RATE, 1.0),
    "staircase": schedules.Staircase(RATE, 0.5, 6),
    "by hand": schedules.Table({0: RATE, 15: 0.2, 25: 0.02}),
    "cosine": schedules.Cosine(RATE),
    "one cycle": schedules.OneCycle(RATE, 0.2, 0.0),
    "warm-up, cosine": schedules.Warmup(5, schedules.Cosine(RATE)),
}
data = fastnn.datasets.load("digits")
figure = Figure(figsize=(11.0, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
noise = {}
for color, (name, schedule) in zip((*fastnn.plots.COLORS, "#999999"), rates.items(), strict=True):
    model = fastnn.Sequential([fastnn.Dense(10)], seed=0)
    everything = data.X_train, data.y_train
    descent = fastnn.SGD(schedule)
    history = model.fit(*everything, optimizer=descent, batch_size=8, epochs=EPOCHS, validation_data=everything, verbose=0)
    cost, noise[name] = history["val_loss"][-1], float(np.std(history["val_loss"][-5:]))
    print(f"{name:>16}: cost {cost:.4f}, moving by {noise[name]:.4f} over the last 5 epochs")
    left.plot(range(1, EPOCHS + 1), schedule.rates(np.arange(EPOCHS), 1, EPOCHS), color=color, label=name)
    right.plot(range(1, EPOCHS + 1), history["val_loss"], color=color)
left.set_title("learning rates", fontsize="medium")
left.set_xlabel("epoch")
left.set_ylabel("learning rate")
right.set_title("what they lead to", fontsize="medium")
right.set_xlabel("epoch")
right.set_ylabel("cost of all training examples")
right.set_yscale("log")
figure.legend(loc="outside right center", frameon=False, fontsize="small")
fastnn.plots.save(figure, FOLDER / "schedules.png")

steps = np.arange(EPOCHS)
assert np.allclose(rates["inverse time"].rates(steps, 1, EPOCHS), RATE / (1.0 + 0.3 * steps))
assert np.allclose(rates["exponential"].rates(steps, 1, EPOCHS), RATE * 0.95**steps)
assert np.allclose(rates["inverse root"].rates(steps, 1, EPOCHS), RATE / np.sqrt(steps + 1))
assert set(rates["by hand"].rates(steps, 1, EPOCHS)) == {RATE, 0.2, 0.02}
assert all(noise[name] < 0.5 * noise["constant"] for name in noise if name != "constant")
