"""
Few examples: dropout and augmentation
======================================

A network with 100 hidden units learns 1,000 images of MNIST by heart and names 88 % of others. Dropout keeps its units from
relying on each other: 89 %. Augmentation shows each image turned, stretched, moved and bent anew in every step, which stays
the same digit: 95 %, with what dropout adds already there. Where MNIST is not at hand, 100 small images of the bundled digits
show the same, less clearly. Nielsen, Neural Networks and Deep Learning, chapter 3; Simard, Steinkraus & Platt 2003.
"""

import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
SEEDS = range(5)

if "FASTNN_DATA" in os.environ:
    data, examples, epochs, moved = fastnn.datasets.load("mnist"), 1000, 80, {"shift": 0.07, "distortion": 4.0}
else:
    data, examples, epochs, moved = fastnn.datasets.load("digits"), 100, 200, {}
X, y = data.X_train[:examples], data.y_train[:examples]
augment = fastnn.Augment(rotation=10, zoom=0.1, shape=data.shape, **moved)
networks = {
    "neither": ([], []),
    "dropout": ([], [fastnn.Dropout(0.5)]),
    "augmentation": ([augment], []),
    "both": ([augment], [fastnn.Dropout(0.2)]),
}

print(f"{examples} training images of {data.shape[0]} x {data.shape[1]} pixels, {len(data.X_test)} others, {epochs} epochs")
print(f"accuracy, mean and deviation over {len(SEEDS)} seeds\n{'':14}{'training images':>18}{'others':>18}")
accuracy = {}
for name, (before, behind) in networks.items():
    found = []
    for seed in SEEDS:
        layers = [*before, fastnn.Dense(100, activation="relu"), *behind, fastnn.Dense(10)]
        model = fastnn.Sequential(layers, seed=seed, input_scale=data.scale)
        model.fit(X, y, batch_size=50, epochs=epochs, verbose=0)
        found.append([model.evaluate(*each)["accuracy"] for each in ((X, y), (data.X_test, data.y_test))])
    mean, deviation = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
    accuracy[name] = mean[1]
    print(f"{name:14}" + "".join(f"{m:10.2%} ± {d:.2%}" for m, d in zip(mean, deviation, strict=True)))

figure = Figure(figsize=(6.0, 4.0), layout="constrained")
steps = 8
rows = np.repeat(X[:5] * np.float32(data.scale), steps, axis=0)
changed = augment.examples(rows).reshape(5, steps, *data.shape)
changed[:, 0] = rows[::steps].reshape(5, *data.shape)
for axes, image in zip(figure.subplots(5, steps).flat, changed.reshape(-1, *data.shape), strict=True):
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set_axis_off()
figure.suptitle("a digit, and what seven steps make of it")
fastnn.plots.save(figure, FOLDER / "augmentation.png")

assert accuracy["neither"] < min(accuracy["dropout"], accuracy["augmentation"], accuracy["both"])
assert not moved or accuracy["neither"] + 0.005 < accuracy["dropout"] < accuracy["augmentation"] - 0.03
assert len({image.tobytes() for image in changed.reshape(-1, *data.shape)}) == 5 * steps
