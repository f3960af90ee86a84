"""
Train, dev and test
===================

Examples are shuffled by a seed and parted by shares, 70/30, 60/20/20, or 98/1/1 where there are many, or by numbers. With
`stratify` every part has as great a share of each class as all examples, rounded up or down; without it, small parts may be far
from it. The model is chosen by dev and judged by test, so both should come from one source: `compare` says whether they look
as if they did, and warns where the images of test are blurred.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

data = fastnn.datasets.load("digits")
X, y = np.concatenate([data.X_train, data.X_test]), np.concatenate([data.y_train, data.y_test])
for sizes in ((0.7, 0.3), (0.6, 0.2, 0.2), (0.98, 0.01, 0.01), (1000, 400, 397)):
    parts = fastnn.datasets.split(X, y, sizes=sizes, seed=1)
    counts = [len(labels) for _, labels in parts]
    print(f"{sizes!s:>20}: {counts}")
    assert sum(counts) == len(X)

_, dev, test = fastnn.datasets.split(X, y, sizes=(0.6, 0.2, 0.2), seed=1)
alike = fastnn.datasets.compare(dev, test)
images = test[0].reshape(-1, 8, 8)
blurred = (images + np.roll(images, 1, axis=1) + np.roll(images, 1, axis=2)) / 3.0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    differ = fastnn.datasets.compare(dev, (blurred.reshape(-1, 64), test[1]))
print(f"\n{str(alike).splitlines()[-1]}\nblurred: {str(differ).splitlines()[-1]}\nwarning: {caught[0].message}\n")

figure = Figure(figsize=(9.6, 3.2), layout="constrained")
farthest = {}
for axes, stratify in zip(figure.subplots(1, 2, sharey=True), (None, y), strict=True):
    name = "at random" if stratify is None else "stratified"
    parts = fastnn.datasets.split(X, y, sizes=(0.9, 0.05, 0.05), seed=1, stratify=stratify)
    shares = [np.bincount(labels, minlength=10) / len(labels) for _, labels in parts]
    farthest[name] = max(float(np.abs(share - shares[0]).max()) for share in shares[1:])
    print(f"{name:>10}: a class's share of dev or test is up to {farthest[name]:.1%} away from that of train")
    for index, part in enumerate(("train", "dev", "test")):
        axes.bar(np.arange(10) + 0.25 * (index - 1), shares[index], 0.25, color=fastnn.plots.COLORS[index], label=part)
    axes.set_title(name, fontsize="medium")
    axes.set_xlabel("class")
    axes.set_xticks(range(10))
axes.legend(frameon=False, fontsize="small")
figure.axes[0].set_ylabel("share of the part")
fastnn.plots.save(figure, FOLDER / "splits.png")

assert farthest["stratified"] < 0.012 < farthest["at random"]
assert alike.same
assert len(differ.shifted) > 10
assert "labels" not in differ.shifted
