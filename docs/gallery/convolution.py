"""
Nielsen's convolutional networks on MNIST
=========================================

The networks of "Neural Networks and Deep Learning", chapter 6: 20 local receptive fields of 5 x 5 pixels with shared weights,
2 x 2 max pooling, 100 sigmoid units and a softmax, trained as there with mini-batches of 10 and eta = 0.1. Without a second
argument, that network alone, for 3 of its 60 epochs; with `long`, all of the chapter, which takes long, or for as many epochs
as a third argument says: a second convolution, ReLU with lambda = 0.1, images shifted by up to a pixel (`Augment` shifts each
anew in every epoch; the book has four copies more, and five times the steps), a second hidden layer, dropout with 1,000 units
each, and five such networks that vote. The book's accuracies are 98.78, 99.06, 99.23, 99.37, 99.43, 99.60 and 99.67 %. Takes
the bundled digits where `$FASTNN_DATA` is not set.
"""

import os
import sys
from pathlib import Path

import numpy as np

import fastnn

FOLDER = Path(*sys.argv[1:2])
LONG = "long" in sys.argv[2:]
EPOCHS = [int(word) for word in sys.argv[2:] if word.isdecimal()]
MNIST = "FASTNN_DATA" in os.environ
KERNELS = (5, 5) if MNIST else (3, 2)

data = fastnn.datasets.load("mnist" if MNIST else "digits").as_images()
kept = len(data.X_train) * 5 // 6
X, y = data.X_train[:kept], data.y_train[:kept]
validation = data.X_train[kept:], data.y_train[kept:]


def vote(models, X):
    """The label that most of the networks say of each image; of two that are level the smaller one, as `argmax` has it."""
    labels = models[0].classes_
    votes = sum((model.predict(X)[:, None] == labels).astype(int) for model in models)
    return labels[votes.argmax(axis=1)]


def train(name, convolutions, activation, hidden, rate, epochs, penalty=0.0, shift=False, dropout=0.0, seed=0):
    """Nielsen's network of this name; his lambda / n is `l2` here."""
    (epochs,) = EPOCHS[:1] or [epochs]
    layers = [fastnn.Augment(shift=1 / data.shape[0])] if shift else []
    for filters, kernel in zip(convolutions, KERNELS, strict=False):
        layers += [fastnn.Conv2D(filters, kernel, activation=activation), fastnn.MaxPool2D(2)]
    layers.append(fastnn.Flatten())
    for units in hidden:
        layers += [fastnn.Dense(units, activation=activation), *([fastnn.Dropout(dropout)] if dropout else [])]
    model = fastnn.Sequential([*layers, fastnn.Dense(data.outputs)], seed=seed, input_scale=data.scale)
    history = model.fit(
        X, y, optimizer=fastnn.SGD(rate), batch_size=10, epochs=epochs, l2=penalty / len(X), validation_data=validation,
        verbose=0,
    )  # fmt: skip
    best = max(history["val_accuracy"])
    test = model.evaluate(data.X_test, data.y_test)["accuracy"]
    print(f"{name:22} {model.parameter_count:9,} parameters, {epochs:2} epochs: best {best:.2%}, on the test images {test:.2%}")
    return model, history, best


epochs = 60 if LONG else 3 if MNIST else 40  # the digits are few
model, history, one = train("one convolution", (20,), "sigmoid", (100,), 0.1, epochs)
if LONG:
    train("two convolutions", (20, 40), "sigmoid", (100,), 0.1, 60)
    train("ReLU", (20, 40), "relu", (100,), 0.03, 60, 0.1)
    train("shifted images", (20, 40), "relu", (100,), 0.03, 60, 0.1, shift=True)
    train("two hidden layers", (20, 40), "relu", (100, 100), 0.03, 60, 0.1, shift=True)
    runs = [train("dropout", (20, 40), "relu", (1000, 1000), 0.03, 40, shift=True, dropout=0.5, seed=n) for n in range(5)]
    model, history, last = runs[0]
    votes = np.mean(vote([run[0] for run in runs], data.X_test) == data.y_test)
    print(f"{'five that vote':22} on the test images {votes:.2%}")

first = next(index for index, layer in enumerate(model.layers) if isinstance(layer, fastnn.Conv2D))
image, middle = validation[0][0], (data.shape[0] - KERNELS[0] + 1) // 4
fastnn.plots.save(history, FOLDER / "convolution_curves.png")
fastnn.plots.save(fastnn.plots.filters(model, first), FOLDER / "convolution_filters.png")
fastnn.plots.save(fastnn.plots.feature_maps(model, image, first), FOLDER / "convolution_maps.png")
fastnn.plots.save(fastnn.plots.receptive_field(model, image, first + 1, (middle, middle)), FOLDER / "convolution_field.png")
fastnn.plots.save(fastnn.plots.most_activating(model, data.X_test, first + 1, channel=0), FOLDER / "convolution_activating.png")
fastnn.plots.save(fastnn.plots.misclassified(model, *validation), FOLDER / "convolution_misclassified.png")

assert EPOCHS or one > (0.985 if LONG and MNIST else 0.96 if MNIST else 0.85)
assert not (LONG and MNIST and not EPOCHS) or (last > 0.992 and votes > 0.993)
