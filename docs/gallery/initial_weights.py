"""Initial weights: what becomes of activations after 20 layers of rectifiers, and of a network that begins with zeros.

He's weights, N(0, 2/fan_in), keep the size of the activations; N(0, 1) lets it explode, N(0, 0.01^2) and N(0, 1/fan_in) let it
vanish; zeros keep all units of a layer alike for ever. He et al. 2015, section 2.2; Andrew Ng, Improving Deep Neural Networks.
"""

import numpy as np

import fastnn
from fastnn.initializers import Normal

X = np.random.default_rng(0).standard_normal((500, 200)).astype(np.float32)
starts = {"He": "he", "N(0, 1)": Normal(1.0), "N(0, 0.01^2)": Normal(0.01), "N(0, 1/fan_in)": "lecun"}

found = {}
print(f"{'initial weights':<18}{'deviation of the activations of layer 1':>42}{'layer 20':>12}")
for name, start in starts.items():
    model = fastnn.Sequential([fastnn.Dense(200, activation="relu", weight_init=start) for _ in range(20)], seed=0)
    found[name] = fastnn.activation_statistics(model, X).deviation
    print(f"{name:<18}{found[name][0]:>42.3g}{found[name][-1]:>12.3g}")

digits = fastnn.datasets.load("digits")
print("\nfour tanh units trained on the digits for 20 epochs:")
for name, start in (("zeros", "zeros"), ("N(0, 0.01^2)", Normal(0.01))):
    layers = [fastnn.Dense(4, activation="tanh", weight_init=start), fastnn.Dense(10, weight_init=start)]
    model = fastnn.Sequential(layers, seed=0)
    history = model.fit(digits.X_train, digits.y_train, epochs=20, optimizer=fastnn.Adam(0.01), verbose=0)
    different = len(np.unique(model.weights["0.weight"], axis=1).T)
    print(f"{name:<18}{different} different units, accuracy {history['accuracy'][-1]:.1%}")

try:
    from matplotlib.figure import Figure
except ImportError:
    print("pip install matplotlib for the picture")
else:
    axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
    for name, deviations in found.items():
        axes.semilogy(range(1, 21), deviations, label=name)
    axes.set(xlabel="layer", ylabel="deviation of the activations")
    axes.legend(frameon=False)
    axes.figure.savefig("initial_weights.png", dpi=150)
    print("initial_weights.png: the deviation layer by layer")
