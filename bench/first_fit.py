"""A user's first program: `python first_fit.py DEVICE` trains 784-128-10 on 2,000 examples and prints the loss."""

from __future__ import annotations

import sys

import numpy as np

import fastnn

ROWS = 2000
BATCH_SIZE = 128


def network() -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(128, activation="relu"), fastnn.Dense(10)], seed=0)


def fit(device: str) -> float:
    """The loss of the first epoch."""
    rng = np.random.default_rng(0)
    X, y = rng.random((ROWS, 784), dtype=np.float32), rng.integers(0, 10, ROWS)
    return network().fit(X, y, batch_size=BATCH_SIZE, epochs=1, device=device, verbose=0)["loss"][0]


if __name__ == "__main__":
    print(fit(sys.argv[1]))
