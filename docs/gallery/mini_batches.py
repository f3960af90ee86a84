"""
Batch, mini-batch and stochastic gradient descent
=================================================

The same network from the same weights, with all examples in each step, with 64, and with one. Steps on all examples go straight
down, but there is only one an epoch; steps on few are noisy, and many. The notes advise all examples up to about 2,000, else a
power of two from 64 to 512 that fits into memory. The last mini-batch of an epoch is smaller here, and is trained on as it is.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
EPOCHS = 10

data = fastnn.datasets.load("digits")
figure = Figure(figsize=(13.0, 3.4), layout="constrained")
noise, cost = {}, {}
print("mini-batch   steps an epoch   noise of a step's cost   cost of the last epoch")
for axes, (size, rate) in zip(figure.subplots(1, 3), (("all", 0.5), (64, 0.2), (1, 0.02)), strict=True):
    model = fastnn.Sequential([fastnn.Dense(32, activation="relu"), fastnn.Dense(10)], seed=0)
    steps = fastnn.callbacks.StepLosses()
    history = model.fit(
        data.X_train, data.y_train, optimizer=fastnn.SGD(rate), batch_size=size, epochs=EPOCHS, callbacks=[steps], verbose=0
    )
    by_epoch = steps.losses.reshape(EPOCHS, -1)
    noise[size], cost[size] = float(by_epoch[-1].std()), history["loss"][-1]
    print(f"{size:>10} {by_epoch.shape[1]:16} {noise[size]:24.3f} {cost[size]:24.3f}")
    fastnn.plots.cost_curves(history, axes, steps=steps).set_title(f"mini-batch: {size}")
fastnn.plots.save(figure, FOLDER / "mini_batches.png")

assert by_epoch.shape[1] == len(data.X_train)
assert noise["all"] == 0.0
assert noise["all"] < noise[64] < noise[1]
assert max(cost[64], cost[1]) < 0.5 * cost["all"]
