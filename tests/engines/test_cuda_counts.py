"""How often a GPU is asked for something by whole calls of `fit`, `evaluate` and `predict`: exact numbers, to be lowered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_on_host.runtime import HostMemory, HostRuntime
from hosts import Hosts

import fastnn
import fastnn.training.chunks
import fastnn.training.trainer
from fastnn.benchmarks.grid import NETWORKS, Cell
from fastnn_kernels.cuda.runtime import Node

COLUMNS = {
    "uploads": "upload",
    "downloads": "download",
    "waits": "synchronize",
    "captures": "capture",
    "graphs": "launch",
    "kernels": "run",
}
"""What is counted, by the method of `fastnn_kernels.cuda.runtime.Runtime`: copies from and to the host, waits for a stream,
graphs captured and launched, and kernels that are launched on their own."""

COUNTS: dict[tuple[str, int], dict[str, tuple[int, ...]]] = {
    # uploads, downloads, waits, captures, graphs, kernels
    ("planar", 400): {
        "first fit":   (16,  2,  1,  3, 25,  3),
        "second fit":  ( 5,  2,  1,  1, 11,  1),
        "third fit":   ( 5,  2,  1,  0, 11,  1),
        "evaluate":    ( 5,  2,  2,  0,  8,  0),
        "predict":     ( 8,  8,  1,  0,  8,  0),
    },
    ("nielsen", 10): {
        "first fit":   (16,  2,  1,  2, 26,  3),
        "second fit":  ( 5,  2,  1,  1,  5,  1),
        "third fit":   ( 5,  2,  1,  0,  5,  1),
        "evaluate":    ( 4,  1,  1,  0,  1,  0),
        "predict":     ( 1,  1,  1,  0,  1,  0),
    },
    ("mnist", 128): {
        "first fit":   (16,  2,  1,  2, 26,  3),
        "second fit":  ( 5,  2,  1,  1,  5,  1),
        "third fit":   ( 5,  2,  1,  0,  5,  1),
        "evaluate":    ( 5,  2,  2,  0,  4,  0),
        "predict":     ( 4,  4,  1,  0,  4,  0),
    },
    ("mnist", 8192): {
        "first fit":   (18,  4,  2,  3,  9,  6),
        "second fit":  ( 7,  4,  2,  0,  9,  2),
        "third fit":   ( 7,  4,  2,  0,  9,  2),
        "evaluate":    ( 5,  2,  2,  0,  8,  0),
        "predict":     ( 8,  8,  1,  0,  8,  0),
    },
    ("deep", 128): {
        "first fit":   (16,  2,  1,  2, 26,  3),
        "second fit":  ( 5,  2,  1,  1,  5,  1),
        "third fit":   ( 5,  2,  1,  0,  5,  1),
        "evaluate":    ( 5,  2,  2,  0,  4,  0),
        "predict":     ( 4,  4,  1,  0,  4,  0),
    },
    ("deep", 8192): {
        "first fit":   (18,  4,  2,  3,  9,  6),
        "second fit":  ( 7,  4,  2,  0,  9,  2),
        "third fit":   ( 7,  4,  2,  0,  9,  2),
        "evaluate":    ( 5,  2,  2,  0,  8,  0),
        "predict":     ( 8,  8,  1,  0,  8,  0),
    },
    ("wide", 128): {
        "first fit":   (16,  2,  1,  2, 26,  3),
        "second fit":  ( 5,  2,  1,  1,  5,  1),
        "third fit":   ( 5,  2,  1,  0,  5,  1),
        "evaluate":    ( 5,  2,  2,  0,  4,  0),
        "predict":     ( 4,  4,  1,  0,  4,  0),
    },
    ("wide", 8192): {
        "first fit":   (18,  4,  2,  3,  9,  6),
        "second fit":  ( 7,  4,  2,  0,  9,  2),
        "third fit":   ( 7,  4,  2,  0,  9,  2),
        "evaluate":    ( 5,  2,  2,  0,  8,  0),
        "predict":     ( 8,  8,  1,  0,  8,  0),
    },
    ("wide", 65536): {
        "first fit":   (16,  2,  1,  2,  5,  3),
        "second fit":  ( 5,  2,  1,  0,  5,  1),
        "third fit":   ( 5,  2,  1,  0,  5,  1),
        "evaluate":    ( 4,  1,  1,  0,  4,  0),
        "predict":     (32, 32,  1,  0, 32,  0),
    },
}  # fmt: skip
"""By network and mini-batch size of the benchmarks' grid, of one epoch each: what the first `fit` of a model asks for, the
second and the third one on the same data, and an `evaluate` and a `predict` of them when they are called again. The second
captures where so many steps have come together that longer graphs are worth it."""


class Counting(HostRuntime):
    """Counts what it is asked, and computes nothing: all memory holds zeros."""

    def allocate(self, nbytes: int) -> HostMemory:
        memory = super().allocate(nbytes)
        self.clear(memory.address, nbytes, self.stream)
        return memory

    def prepare(self, nodes: Sequence[Node]) -> None:
        pass

    def run(self, node: Node, stream: Any) -> None:
        self.asked.append("run")

    def launch(self, graph: Any, stream: Any) -> None:
        self.asked.append("launch")


def build_narrow(name: str) -> tuple[fastnn.Sequential, int]:
    """A network of the grid with narrow layers, and the number of its inputs."""
    network = NETWORKS[name]
    layers: list[fastnn.Layer] = []
    for _ in network.sizes[1:-1]:
        layers += (
            [fastnn.Dense(4, use_bias=False), fastnn.BatchNorm(), fastnn.Activation(network.activation)]
            if network.norm else [fastnn.Dense(4, activation=network.activation)]
        )  # fmt: skip
        layers += [fastnn.Dropout(network.dropout)] if network.dropout else []
    return fastnn.Sequential([*layers, fastnn.Dense(network.sizes[-1])], seed=0), 3


def count_requests(runtime: HostRuntime, call: Callable[[], Any]) -> tuple[int, ...]:
    """What a call asks for, in the order of COLUMNS."""
    runtime.asked.clear()
    call()
    return tuple(map(runtime.asked.count, COLUMNS.values()))


def count(runtime: HostRuntime, name: str, batch_size: int) -> dict[str, tuple[int, ...]]:
    rng, (model, inputs) = np.random.default_rng(0), build_narrow(name)
    rows, outputs = Cell(name, batch_size, "cuda").rows, NETWORKS[name].sizes[-1]
    X, y = rng.standard_normal((rows, inputs)).astype("float32"), np.arange(rows) % max(2, outputs)
    loss = "sigmoid_cross_entropy" if outputs == 1 else "softmax_cross_entropy"

    def fit() -> None:
        model.fit(X, y, loss=loss, optimizer=fastnn.Adam(), batch_size=batch_size, epochs=1, device="cuda", verbose=0)

    fits = {f"{number} fit": count_requests(runtime, fit) for number in ("first", "second", "third")}
    for use in (model.evaluate, lambda X, y: model.predict(X)):
        use(X, y)
    return {
        **fits,
        "evaluate": count_requests(runtime, lambda: model.evaluate(X, y)),
        "predict": count_requests(runtime, lambda: model.predict(X)),
    }


@pytest.mark.parametrize(("name", "batch_size"), COUNTS)
def test_what_a_gpu_is_asked(name: str, batch_size: int, cuda_hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is as long as the log, whatever a busy machine takes for the one before."""
    monkeypatch.setattr(fastnn.training.chunks, "CHUNK_SECONDS", 1e6)
    monkeypatch.setattr(fastnn.training.trainer, "BACKUP_SECONDS", 1e6)
    runtime = cuda_hosts.installed[0] = Counting()
    counted, expected = count(runtime, name, batch_size), COUNTS[name, batch_size]
    for call, numbers in counted.items():
        assert dict(zip(COLUMNS, numbers, strict=True)) == dict(zip(COLUMNS, expected[call], strict=True)), call
