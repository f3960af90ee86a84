"""
Caviar: many models side by side
================================

Where there is room for many trainings, many are begun at once and the best is taken. Here 32 networks of four units, with
learning rates and L2 penalties drawn at random on log scales and initial weights of their own, are trained at the same time on
the same mini-batches of the "flower". Networks as small as these go through one program together, one beside the other in the
registers of the processor: each ends with the weights, bit for bit, that it would have alone, and all of them sooner. Andrew
Ng, Improving Deep Neural Networks, week 3.
"""

import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn.tuning import LogUniform, Space, train_together

FOLDER = Path(*sys.argv[1:2])
MODELS, EPOCHS = 32, 200

(X, y), dev = fastnn.datasets.split(*fastnn.datasets.flower(800), sizes=(0.5, 0.5))
space, draw = Space({"learning_rate": LogUniform(1e-3, 10.0), "l2": LogUniform(1e-6, 1e-1)}), np.random.default_rng(0)
settings = [{**space.sample(draw), "seed": seed} for seed in range(MODELS)]
rates, penalties = (np.array([setting[name] for setting in settings]) for name in ("learning_rate", "l2"))


def network(seed):
    return fastnn.Sequential([fastnn.Dense(4, activation="tanh"), fastnn.Dense(1)], seed=seed)


def order(epoch):
    """The same examples in the same mini-batches for all."""
    return np.random.default_rng(epoch).permutation(len(X))


options = {"loss": "sigmoid_cross_entropy", "optimizer": fastnn.SGD(), "batch_size": 32, "epochs": EPOCHS, "order": order}
once = {**options, "epochs": 1, "validation_data": dev}
train_together((network, settings), X, y, **once)  # compiles what is not compiled yet
network(0).fit(X, y, **once, verbose=0)
begun = time.perf_counter()
models, histories = train_together((network, settings), X, y, validation_data=dev, **options)
together = time.perf_counter() - begun

alone = []
begun = time.perf_counter()
for setting in settings:
    model, rate = network(setting["seed"]), fastnn.SGD(setting["learning_rate"])
    model.fit(X, y, **{**options, "optimizer": rate}, l2=setting["l2"], validation_data=dev, verbose=0)
    alone.append(model)
one_by_one = time.perf_counter() - begun

costs = np.array([history["val_loss"][-1] for history in histories])
best = int(costs.argmin())
right = models[best].evaluate(*dev)["accuracy"]
print(f"{MODELS} models for {EPOCHS} epochs: {together:.2f} s together, {one_by_one:.2f} s one after another,")
print(f"a ratio of {one_by_one / together:.1f}; the best has rate {rates[best]:.3g}, l2 {penalties[best]:.2g},")
print(f"cost {costs[best]:.3f} and accuracy {right:.1%} on dev data")

figure = Figure(figsize=(13.0, 3.6), layout="constrained")
lines, scatter, plane = figure.subplots(1, 3)
for index, history in enumerate(histories):
    of_best = {"color": fastnn.plots.COLORS[1], "zorder": 3, "label": "best"} if index == best else {"color": "0.8"}
    lines.plot(range(1, EPOCHS + 1), history["val_loss"], linewidth=1.0, **of_best)
lines.set(xlabel="epoch", ylabel="cost of dev data", ylim=(0.0, 1.2))
lines.legend(frameon=False)
dots = scatter.scatter(rates, penalties, c=np.minimum(costs, 0.8), cmap="cividis", s=24)
scatter.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="l2")
figure.colorbar(dots, ax=scatter, label="cost of dev data, up to 0.8")
fastnn.plots.decision_boundary(models[best], *dev, ax=plane).set_title("the best, on dev data")
fastnn.plots.save(figure, FOLDER / "tuning_caviar.png")

for model, same in zip(models, alone, strict=True):
    assert all(value.tobytes() == same.weights[name].tobytes() for name, value in model.weights.items())
assert histories[0].method == "vectorized"
assert right > 0.85
