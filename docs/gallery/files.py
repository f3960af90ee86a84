"""
Data from files, and shapes that do not fit
===========================================

The same examples as a CSV file, a Parquet file, an `.npz` file and a folder of MNIST's IDX files: each is read by its name, and
trains the same network. Shapes are said, never guessed: a single row instead of a table, a column instead of labels,
or a loss whose shapes would be broadcast to compare each example with every other, ends with what was expected, what was given,
and what to do.
"""

import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

import fastnn

FOLDER = Path(*sys.argv[1:2])

digits = fastnn.datasets.load("digits")
X, y = (16 * digits.X_train).astype("uint8"), digits.y_train
accuracy = {}
with tempfile.TemporaryDirectory() as made:
    folder = Path(made)
    table = pa.table({**{f"pixel{i}": column for i, column in enumerate(X.T)}, "digit": y})
    csv.write_csv(table, folder / "digits.csv")
    parquet.write_table(table, folder / "digits.parquet")
    np.savez(folder / "digits.npz", X=X, y=y)
    for part, n in (("train", len(y)), ("t10k", 9)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 8, 8) + X[:n].tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + bytes(y[:n].tolist()))
    for name in ("digits.csv", "digits.parquet", "digits.npz", ""):
        data = fastnn.datasets.load(folder / name, target="digit" if name.endswith(("csv", "parquet")) else None)
        model = fastnn.Sequential([fastnn.Dense(32, activation="relu"), fastnn.Dense(10)], seed=0, input_scale=1 / 16)
        model.fit(data.X_train, data.y_train, epochs=20, verbose=0)
        accuracy[name] = model.evaluate(16 * digits.X_test, digits.y_test)["accuracy"]
        kind = f"{data.X_train.dtype} {data.X_train.shape}"
        print(f"{name or 'folder of IDX files':>19}: X {kind}, accuracy {accuracy[name]:.2%}")


def compared(outputs, targets):
    """A mistake: (B, 10) less (B, 10), summed to (B,), is taken from a column (B, 1)."""
    errors = fastnn.ops.sum((outputs - targets) * (outputs - targets), 1)
    return fastnn.ops.mean(fastnn.ops.slice(outputs, 0, 1) - errors)


def attempt(*arguments, **options):
    try:
        fastnn.Sequential([fastnn.Dense(10)], seed=0).fit(*arguments, verbose=0, **options)
    except fastnn.errors.InputError as error:
        return str(error)
    raise AssertionError("this should not have been trained on")


messages = [attempt(X[0], y[:1]), attempt(X.T, y), attempt(X, y[:, np.newaxis]), attempt(X, np.eye(10)[y], loss=compared)]
print(*messages, sep="\n")
fastnn.plots.save(fastnn.plots.misclassified(model, 16 * digits.X_test, digits.y_test), FOLDER / "files.png")

assert len(set(accuracy.values())) == 1
assert "X.reshape(1, -1)" in messages[0]
assert "each example with every other" in messages[3]
