"""Find a learning rate: a short training in which the rate rises, and what trainings at the suggested rate and others reach.

Smith 2015, Cyclical Learning Rates for Training Neural Networks, section 3.3.
"""

import fastnn

digits = fastnn.datasets.load("digits")
layers = [fastnn.Dense(64, activation="relu"), fastnn.Dense(10)]
found = {}
for optimizer in (fastnn.SGD, fastnn.Adam):
    model = fastnn.Sequential(layers, seed=0)
    test = found[optimizer.__name__] = fastnn.find_learning_rate(
        model, digits.X_train, digits.y_train, optimizer=optimizer(), batch_size=64
    )
    print(f"--- {optimizer.__name__}: {test}")
    for rate in (test.suggestion / 100, test.suggestion, min(10.0, test.suggestion * 100)):
        trained = fastnn.Sequential(layers, seed=0)
        history = trained.fit(digits.X_train, digits.y_train, optimizer=optimizer(rate), batch_size=64, epochs=10, verbose=0)
        print(f"  10 epochs at {rate:<8.2g} end with a loss of {history['loss'][-1]:.4g}")

try:
    from matplotlib.figure import Figure
except ImportError:
    print("pip install matplotlib for the picture")
else:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (name, test) in zip(figure.subplots(1, 2), found.items(), strict=True):
        axes.semilogx(test.rates, test.losses, color="0.8")
        axes.semilogx(test.rates, test.smoothed)
        axes.axvline(test.suggestion, linestyle="--", color="0.4", label=f"suggested: {test.suggestion:.2g}")
        axes.set(title=name, xlabel="learning rate", ylabel="loss", ylim=(0, 1.5 * test.losses[0]))
        axes.legend(frameon=False)
    figure.savefig("learning_rate_finder.png", dpi=150)
    print("learning_rate_finder.png: the losses over the rates")
