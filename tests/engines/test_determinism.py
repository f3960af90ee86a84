"""The same bits whatever the number of threads, the length of chunks, fusion, the hash seed, or who calls."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from trainings import digest, examples, network, run

import fastnn
import fastnn.training.chunks

PROGRAM = """
import sys, hashlib
sys.path[:0] = {path!r}
from trainings import digest, run
print(digest(run()))
"""

WRITTEN_DOWN = {
    "0.weight": [0.5846366871083967, 0.758952355273859],
    "0.bias": [0.0, 0.0],
    "1.weight": [-0.6536076490680033, 0.5817874127536746],
    "1.bias": [1.159284044279261, 1.9901033707974398],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [fastnn.Adam(clip_norm=1.0), fastnn.SGD(0.1, momentum=0.9, nesterov=True)])
def test_threads_change_no_bit(dtype: str, optimizer: Any) -> None:
    first = digest(run(dtype, optimizer=optimizer, threads=1))
    assert [digest(run(dtype, optimizer=optimizer, threads=threads)) for threads in (2, 3, 4)] == [first] * 3


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_chunks_change_no_bit(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digest(run())
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", length)
    assert digest(run()) == expected


def test_fusion_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.network import programs
    from fastnn.program.passes.fuse import drop_unread

    expected = digest(run())
    monkeypatch.setattr(programs, "fuse", drop_unread)
    assert digest(run()) == expected


def test_eager_equals_played() -> None:
    """The forward pass of the model, operation by operation on arrays."""
    from fastnn import ops

    X, _ = examples()
    model = run()
    w = model.weights
    z = ops.matmul(X, w["0.weight"])
    z = ops.batch_norm(z, w["1.gamma"], w["1.beta"], w["1.running_mean"], w["1.running_variance"], training=False, epsilon=1e-5)
    h = ops.dense(ops.relu(z), w["4.weight"], w["4.bias"], "tanh")
    assert np.array_equal(ops.dense(h, w["5.weight"], w["5.bias"]), model(X))


def test_two_fits_are_one() -> None:
    once, twice = run(epochs=4), run(epochs=2)
    X, y = examples()
    twice.fit(X, y, batch_size=32, epochs=2, verbose=0, l2=1e-4)
    assert digest(once) == digest(twice)


def test_how_many_rows_are_predicted_at_once_changes_no_bit() -> None:
    X, _ = examples()
    model = run()
    whole = model(X)
    assert np.array_equal(np.concatenate([model(X[i : i + 1]) for i in range(40)]), whole[:40])
    assert np.array_equal(np.concatenate([model(X[:17]), model(X[17:300]), model(X[300:])]), whole)


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["0", "1", "77"])
def test_the_hash_seed_changes_no_bit(hash_seed: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(path=[p for p in sys.path if p])]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == digest(run())


def test_another_seed_is_another_run() -> None:
    a, b = network(), fastnn.Sequential(network().layers, seed=12)
    X, y = examples()
    for model in (a, b):
        model.fit(X, y, epochs=1, verbose=0)
    assert digest(a) != digest(b)


def test_initial_weights_written_down() -> None:
    """He normal, Glorot uniform and N(0, 1) for seed 0, on every machine."""
    layers = [fastnn.Dense(3, activation="relu"), fastnn.Dense(2, bias_init="normal")]
    weights = fastnn.Sequential(layers, seed=0, dtype="float64").build(2).weights
    assert {name: value.ravel()[:2].tolist() for name, value in weights.items()} == WRITTEN_DOWN
