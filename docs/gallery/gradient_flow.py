"""
Vanishing gradients
===================

dC/da shrinks at each layer of sigmoid units, whose derivative is a quarter at most: the first layers of six learn nothing, and
the network stays at guessing. Rectifiers with He's initial weights keep the size of the gradients, and the same network
learns. Nielsen, Neural Networks and Deep Learning, chapter 5.
"""

import sys
import warnings
from pathlib import Path

from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])

digits = fastnn.datasets.load("digits")
flows, accuracy, warned = {}, {}, {}
for activation in ("sigmoid", "relu"):
    hidden = [fastnn.Dense(30, activation=activation) for _ in range(6)]
    model = fastnn.Sequential([*hidden, fastnn.Dense(10)], seed=0)
    flow = flows[activation] = fastnn.GradientFlow()
    options = {"optimizer": fastnn.SGD(0.1), "batch_size": 32, "epochs": 10, "verbose": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(digits.X_train, digits.y_train, callbacks=[flow], **options)
    accuracy[activation], warned[activation] = history["accuracy"][-1], [str(each.message) for each in caught]
    print(f"--- {activation}: accuracy {accuracy[activation]:.1%} after {flow.steps[-1]} steps")
    print("\n".join([*warned[activation], flow.table(0), flow.table(-1), ""]))

figure = Figure(figsize=(9.0, 3.4), layout="constrained")
for axes, (activation, flow) in zip(figure.subplots(1, 2, sharey=True), flows.items(), strict=True):
    fastnn.plots.gradient_flow(flow, ax=axes).set_title(activation)
    axes.legend([f"layer {layer}" for layer in range(7)], fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
fastnn.plots.save(figure, FOLDER / "gradient_flow.png")

ratio = {activation: flow.gradients[0, 0] / flow.gradients[0, -1] for activation, flow in flows.items()}
assert ratio["sigmoid"] < 1e-3 < 0.1 < ratio["relu"] < 10
assert "gradients vanish" in warned["sigmoid"][0]
assert not warned["relu"]
assert accuracy["sigmoid"] < 0.2 < 0.9 < accuracy["relu"]
