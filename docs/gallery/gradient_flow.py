"""Vanishing gradients: the same deep network with sigmoid units, and with rectifiers and He's weights.

dC/da shrinks by a factor at each sigmoid layer, whose derivative is a quarter at most, so that the first layers hardly learn.
Nielsen, Neural Networks and Deep Learning, chapter 5.
"""

import warnings

import fastnn

digits = fastnn.datasets.load("digits")
flows = {}
for activation in ("sigmoid", "relu"):
    hidden = [fastnn.Dense(30, activation=activation) for _ in range(6)]
    model = fastnn.Sequential([*hidden, fastnn.Dense(10)], seed=0)
    flow = flows[activation] = fastnn.GradientFlow()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(
            digits.X_train, digits.y_train, optimizer=fastnn.SGD(0.1), batch_size=32, epochs=10, callbacks=[flow], verbose=0
        )
    print(f"--- {activation}: accuracy {history['accuracy'][-1]:.1%} after {flow.steps[-1]} steps")
    for warning in caught:
        print(f"warned: {warning.message}")
    print(f"at the start\n{flow.table(0)}\nat the end, {flow}\n")

try:
    from matplotlib.figure import Figure
except ImportError:
    print("pip install matplotlib for the picture")
else:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (activation, flow) in zip(figure.subplots(1, 2, sharey=True), flows.items(), strict=True):
        for layer, values in enumerate(flow.gradients.T):
            axes.semilogy(flow.steps, values, label=f"layer {layer}")
        axes.set(title=activation, xlabel="step", ylabel="root mean square of dC/da")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig("gradient_flow.png", dpi=150)
    print("gradient_flow.png: dC/da of each layer over the steps")
