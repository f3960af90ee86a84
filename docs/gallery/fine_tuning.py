"""
Frozen layers: an old network for a new question
================================================

A network that tells the ten digits apart is given another question: does the digit have a loop, as 0, 6, 8 and 9 do? Few images
have a label. Its hidden layers are frozen, so that training leaves them as they are, bit for bit, and only a new head is
trained; then everything is trained on, in small steps. A network that starts afresh knows nothing but the few labels. Means
over five seeds.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
SEEDS, LABELS = range(5), (10, 20, 40, 80, 160)

data = fastnn.datasets.load("digits")
X, X_test = data.X_train, data.X_test
loop, loop_test = (np.isin(labels, (0, 6, 8, 9)) for labels in (data.y_train, data.y_test))


def network(seed, outputs):
    hidden = [fastnn.Dense(units, activation="relu") for units in (64, 32)]
    return fastnn.Sequential([*hidden, fastnn.Dense(outputs)], seed=seed).build(data.features)


def train(model, count, rate=0.003, epochs=100):
    """The accuracy on test data after training on so many labeled examples."""
    adam = fastnn.Adam(rate)
    model.fit(X[:count], loop[:count], loss="sigmoid_cross_entropy", optimizer=adam, batch_size=10, epochs=epochs, verbose=0)
    return model.evaluate(X_test, loop_test)["accuracy"]


accuracy = {name: np.zeros(len(LABELS)) for name in ("afresh", "new head", "then everything")}
for seed in SEEDS:
    digits = network(seed, 10)
    digits.fit(X, data.y_train, batch_size=32, epochs=20, verbose=0)
    kept = {name: value for name, value in digits.weights.items() if not name.startswith("2.")}
    for index, count in enumerate(LABELS):
        accuracy["afresh"][index] += train(network(seed, 1), count) / len(SEEDS)
        model = network(seed, 1)
        model.set_weights(kept)
        accuracy["new head"][index] += train(model.freeze(0, 1), count) / len(SEEDS)
        assert all(value.tobytes() == kept[name].tobytes() for name, value in model.weights.items() if name in kept)
        accuracy["then everything"][index] += train(model.unfreeze(), count, 1e-4, 20) / len(SEEDS)

print(model.freeze(0, 1).summary(), "\n")
print(f"{'labels':<16}" + "".join(f"{count:>8}" for count in LABELS))
axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
for color, (name, found) in zip(fastnn.plots.COLORS, accuracy.items(), strict=False):
    print(f"{name:<16}" + "".join(f"{each:8.1%}" for each in found))
    axes.semilogx(LABELS, found, "o-", color=color, label=name)
axes.set(xlabel="labeled examples", ylabel="accuracy on test data", xticks=LABELS, xticklabels=LABELS)
axes.set_title("does a digit have a loop?", fontsize="medium")
axes.minorticks_off()
axes.legend(frameon=False)
fastnn.plots.save(axes, FOLDER / "fine_tuning.png")

assert (accuracy["new head"] > accuracy["afresh"]).all()
assert (accuracy["then everything"] > accuracy["afresh"]).all()
