"""
Softmax regression
==================

Softmax makes outputs z into probabilities, exp(z_j) / sum_k exp(z_k). One layer with it and the cross-entropy is softmax
regression, logistic regression for several classes: with two classes it is the same model. The derivative of the cost by z is
p - y, labels may be class numbers or one-hot rows, and outputs of a thousand do no harm. The pictures show the ten columns of
weights on the digits, and which digits are taken for which.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn
from fastnn import engines, ops
from fastnn.program.differentiate import gradients
from fastnn.program.shapes import B
from fastnn.program.trace import Trace

FOLDER = Path(*sys.argv[1:2])

z, y = np.array([[5.0, 2.0, -1.0, 3.0]]), ops.one_hot(np.array([0]), 4, "float64")
p = ops.softmax(z)
trace = Trace("float64")
outputs, targets = trace.input("z", (B, 4)), trace.input("y", (B, 4))
(slope,) = gradients(ops.sum(ops.softmax_cross_entropy(outputs, targets)), [outputs])
session = engines.instantiate(trace.program({"slope": slope}), rows=1, threads=1)
session.bind(z=z, y=y)
session.play()
print(f"z = {z[0]}: p = {p[0].round(3)}, derivative of the cost = {session.output('slope')[0].round(3)}")

data = fastnn.datasets.load("digits")
options = {"optimizer": fastnn.SGD(0.5), "batch_size": 64, "epochs": 30, "verbose": 0}
ten, rows = (fastnn.Sequential([fastnn.Dense(10)], seed=0, dtype="float64") for _ in range(2))
ten.fit(data.X_train, data.y_train, **options)
rows.fit(data.X_train, np.eye(10)[data.y_train], **options)
accuracy = ten.evaluate(data.X_test, data.y_test)["accuracy"]
print(f"ten classes: {accuracy:.2%} of the test images are right")

few, odd = data.X_train[:500], data.y_train[:500] % 2
two = fastnn.Sequential([fastnn.Dense(2, weight_init="zeros")], seed=0, dtype="float64")
one = fastnn.Sequential([fastnn.Dense(1, weight_init="zeros")], seed=0, dtype="float64")
descent = {"batch_size": "all", "epochs": 200, "verbose": 0}
two.fit(few, odd, optimizer=fastnn.SGD(0.25), **descent)  # z1 - z0 moves twice as fast as z1
one.fit(few, odd, loss="sigmoid_cross_entropy", optimizer=fastnn.SGD(0.5), **descent)
difference = float(np.abs(two.predict_proba(few)[:, 1] - one.predict_proba(few).reshape(len(few), -1)[:, -1]).max())
print(f"odd or even: the probabilities of softmax and of the sigmoid differ by {difference:.1e} at most")

figure = Figure(figsize=(11.0, 4.2), layout="constrained")
weights, confused = figure.subplots(1, 2)
fastnn.plots.weights_as_images(ten, ax=weights)
fastnn.plots.confusion_matrix(data.y_test, ten.predict(data.X_test), ax=confused)
fastnn.plots.save(figure, FOLDER / "softmax.png")

assert np.allclose(p, np.exp(z) / np.exp(z).sum())
assert np.allclose(session.output("slope"), p - y, atol=1e-15)
assert np.allclose(ops.softmax(1000.0 * z), [[1.0, 0.0, 0.0, 0.0]])
assert all(np.allclose(value, rows.weights[name], atol=1e-12) for name, value in ten.weights.items())
assert difference < 1e-12
assert accuracy > 0.93
