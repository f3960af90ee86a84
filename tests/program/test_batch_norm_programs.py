"""Batch norm in programs: what is put together with it, what is not, and that no bit changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from laws import FLOATS, by_turns

import fastnn
from fastnn import ops
from fastnn.engines import cuda
from fastnn.program.passes import fuse
from fastnn.program.passes.norm_dropout import merge_norm_dropout
from fastnn.program.shapes import B
from fastnn.program.trace import Program, Symbol, Trace
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, NO_ACTIVATION

CHEAP = ("relu", "leaky_relu")


def network(activation: str, rate: float = 0.3, dtype: str = "float32") -> fastnn.Sequential:
    """Two times Dense-BatchNorm-Activation-Dropout, on columns with and without a factor of four."""
    layers: list[Any] = []
    for width in (36, 33):
        layers += [fastnn.Dense(width), fastnn.BatchNorm(), fastnn.Activation(activation), fastnn.Dropout(rate)]
    return fastnn.Sequential([*layers, fastnn.Dense(4)], seed=3, dtype=dtype)


def kernels(program: Program) -> Counter[str]:
    return Counter(call.kernel for call in program.calls)


def step(activation: str, rate: float = 0.3) -> Program:
    return network(activation, rate).build(7).program(16, device="cpu").program


def examples(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((75, 7)).astype(dtype), rng.integers(0, 4, 75)


def trained(model: fastnn.Sequential, device: str) -> dict[str, np.ndarray]:
    X, y = examples(model.dtype.name)
    model.fit(X, y, batch_size=16, epochs=2, verbose=0, device=device)
    return dict(model.weights)


@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
def test_what_a_step_is_made_of(activation: str) -> None:
    found, on_gpu = kernels(step(activation)), kernels(merge_norm_dropout(step(activation)))
    assert activation not in found
    assert found[f"{activation}_backward"] == (0 if activation in CHEAP else 2)
    assert (found["batch_norm"], found["batch_norm_backward"], found["dropout"]) == (2, 2, 4)
    assert (on_gpu["batch_norm_dropout"], on_gpu["batch_norm_dropout_backward"]) == (2, 2)
    assert not on_gpu.keys() & {"batch_norm", "batch_norm_backward", "dropout", f"{activation}_backward"}
    without = kernels(merge_norm_dropout(step(activation, rate=0.0)))
    assert (without["batch_norm"], without["batch_norm_backward"]) == (2, 2)


def test_an_activation_in_front_of_a_dense_layer_is_given_to_the_batch_norm() -> None:
    """Its derivative could be put behind the product as well."""
    found = kernels(step("relu", rate=0.0))
    assert found["dense_backward_input"] == 0
    assert kernels(step("tanh", rate=0.0))["dense_backward_input"] == 2


def inputs(trace: Trace) -> tuple[Symbol, list[Symbol]]:
    """x, and gamma, beta and the running statistics."""
    return trace.input("x", (B, 5)), [trace.input(name, (5,)) for name in ("gamma", "beta", "running_mean", "running_variance")]


def recorded(read_again: str) -> Program:
    """x -> batch norm -> relu -> dropout, with one result read by someone else."""
    trace = Trace("float32")
    x, arrays = inputs(trace)
    made = {"z": ops.batch_norm(x, *arrays, training=True)}
    made["h"] = ops.relu(made["z"])
    made["y"] = ops.dropout(made["h"], 0.5, (1, 2), trace.input("step", (), "int64"))
    return fuse.fuse(trace.program({"y": made["y"], **({read_again: made[read_again]} if read_again else {})}))


@pytest.mark.parametrize(
    ("read_again", "expected"),
    [
        ("", {"batch_norm_dropout": 1}),
        ("h", {"batch_norm": 1, "dropout": 1}),
        ("z", {"batch_norm": 1, "relu": 1, "dropout": 1}),
    ],
)
def test_what_others_read_is_still_written(read_again: str, expected: dict[str, int]) -> None:
    assert kernels(merge_norm_dropout(recorded(read_again))) == expected


@pytest.mark.parametrize("other", ["", "output", "slope", "input", "reader"])
def test_only_the_slope_of_the_very_activation_is_merged(other: str) -> None:
    """Not the slope at another output, with another alpha, of a norm of something else, or one that others read as well."""
    trace = Trace("float32")
    x, arrays = inputs(trace)
    dy, apart = trace.input("dy", (B, 5)), trace.input("apart", (B, 5))
    z = ops.batch_norm(x, *arrays, training=True)
    h = ops.leaky_relu(z, 0.25)
    _, mean, inverse_deviation = trace.calls[0].outputs
    alpha = {"alpha": 0.5 if other == "slope" else 0.25}
    (dz,) = trace.append("leaky_relu_backward", (dy, apart if other == "output" else h), [((B, 5), "float32")], alpha)
    reads = (dz, apart if other == "input" else x, *arrays[:2], mean, inverse_deviation)
    outputs = [((B, 5), "float32"), ((5,), "float32"), ((5,), "float32")]
    dx, dgamma, dbeta = trace.append("batch_norm_backward", reads, outputs, NO_ACTIVATION)
    results = {"h": h, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, **({"dz": dz} if other == "reader" else {})}
    expected = {"batch_norm": 1, "batch_norm_backward": 1, **({"leaky_relu_backward": 1} if other else {})}
    assert kernels(merge_norm_dropout(fuse.fuse(trace.program(results)))) == expected


@pytest.mark.parametrize(("activation", "dtype"), by_turns(ACTIVATIONS_FROM_OUTPUT, FLOATS))
def test_merging_changes_no_bit(activation: str, dtype: str, cuda_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    together = trained(network(activation, dtype=dtype), "cuda")
    on_cpu = trained(network(activation, dtype=dtype), "cpu")
    monkeypatch.setattr(cuda, "merge_norm_dropout", lambda program: program)
    apart = trained(network(activation, dtype=dtype), "cuda")
    for name, value in together.items():
        assert value.tobytes() == apart[name].tobytes(), name
        np.testing.assert_allclose(value, on_cpu[name], rtol=0, atol=2e-3 if dtype == "float32" else 1e-9, err_msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
def test_fusion_changes_no_bit(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.network import programs

    fused = trained(network(activation), "cpu")
    monkeypatch.setattr(programs, "fuse", fuse.drop_unread)
    for name, value in trained(network(activation), "cpu").items():
        assert value.tobytes() == fused[name].tobytes(), name
