"""
Nielsen's networks on MNIST
===========================

The networks of "Neural Networks and Deep Learning", trained as there on 50,000 images and watched on 10,000 others: first
784-30-10 with the quadratic cost, weights N(0, 1) and eta = 3 (chapter 1: about 95 %), then cross-entropy, weights N(0, 1/n)
and L2 with lambda = 5, eta = 0.5 (chapter 3: about 96.5 %). With `long` as second argument each trains for all its 30 epochs,
and 784-100-10 for 60 (about 98 %); without it, fewer. Takes the bundled digits where `$FASTNN_DATA` is not set.
"""

import os
import sys
from pathlib import Path

import fastnn
from fastnn.initializers import LeCun, Normal

FOLDER = Path(*sys.argv[1:2])
LONG = "long" in sys.argv[2:]
MNIST = "FASTNN_DATA" in os.environ
EPOCHS = 100 if not MNIST else 30 if LONG else 10  # the digits are few

data = fastnn.datasets.load("mnist" if MNIST else "digits")
kept = len(data.X_train) * 5 // 6
X, y = data.X_train[:kept], data.y_train[:kept]
validation = data.X_train[kept:], data.y_train[kept:]


def train(hidden, loss, weights, rate, penalty, epochs):
    """Nielsen's network; his lambda / n is `l2` here."""
    layers = [
        fastnn.Dense(units, activation="sigmoid", weight_init=weights, bias_init=Normal()) for units in (hidden, data.outputs)
    ]
    model = fastnn.Sequential(layers, seed=0, input_scale=data.scale)
    history = model.fit(
        X, y, loss=loss, optimizer=fastnn.SGD(rate), batch_size=10, epochs=epochs, l2=penalty / len(X),
        validation_data=validation, verbose=0,
    )  # fmt: skip
    best = max(history["val_accuracy"])
    print(f"{data.features}-{hidden}-{data.outputs} {loss:>22}, {epochs:2} epochs: best accuracy {best:.2%}")
    return model, history, best


_, history, quadratic = train(30, "quadratic", Normal(), 3.0, 0.0, EPOCHS)
fastnn.plots.save(history, FOLDER / "mnist_nielsen_quadratic.png")
model, history, entropy = train(30, "sigmoid_cross_entropy", LeCun(), 0.5, 5.0 * MNIST, EPOCHS)
fastnn.plots.save(history, FOLDER / "mnist_nielsen_cross_entropy.png")
if LONG:
    model, history, larger = train(100, "sigmoid_cross_entropy", LeCun(), 0.5, 5.0 * MNIST, 60)
    fastnn.plots.save(history, FOLDER / "mnist_nielsen_long.png")
fastnn.plots.save(fastnn.plots.misclassified(model, *validation), FOLDER / "mnist_nielsen_misclassified.png")
confused = fastnn.plots.confusion_matrix(validation[1], model.predict(validation[0]))
fastnn.plots.save(confused, FOLDER / "mnist_nielsen_confusion.png")
fastnn.plots.save(fastnn.plots.weights_as_images(model), FOLDER / "mnist_nielsen_weights.png")

assert quadratic > (0.94 if MNIST else 0.9)
assert entropy > (0.955 if MNIST else 0.9)
assert not (LONG and MNIST) or larger > 0.978
