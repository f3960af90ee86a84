"""Whole training against PyTorch eager and JAX's jit + scan, each in a process of its own, taking turns.

    python bench/training.py                                   # every network and mini-batch size
    python bench/training.py --network nielsen --batch 10      # one cell
    python bench/training.py --json result.json

A cell is one call of `fit` for one epoch after a warm-up: shuffle, mini-batches, every update, the loss read back.
Same network, data,
precision (float32), optimizer (Adam) and number of threads for all. The first loss of each peer, from the same
weights, must agree
with ours before anything is timed. A process that waits for its turn is blocked on a pipe.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

NETWORKS: dict[str, dict[str, Any]] = {
    "planar": {"sizes": [2, 5, 1], "activation": "tanh"},
    "nielsen": {"sizes": [784, 30, 10], "activation": "sigmoid"},
    "mnist": {"sizes": [784, 128, 10], "activation": "relu"},
    "deep": {"sizes": [784, 512, 512, 10], "activation": "relu", "norm": True, "dropout": 0.2},
    "wide": {"sizes": [784, 1024, 1024, 1024, 1024, 10], "activation": "relu"},
}
BATCHES = (1, 8, 32, 128, 512, 2048)
PEERS = ("fastnn", "torch", "jax")


def rows_for(batch: int) -> int:
    return min(60_000, max(2_000, 200 * batch))


def data_for(cell: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    n, sizes = rows_for(cell["batch"]), NETWORKS[cell["network"]]["sizes"]
    X = rng.random((n, sizes[0]), dtype=np.float32)
    if sizes[-1] == 1:
        return X, (X[:, 0] > X[:, 1]).astype(np.float32)[:, None]
    return X, rng.integers(0, sizes[-1], n)


def weights_for(cell: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    sizes = NETWORKS[cell["network"]]["sizes"]
    return [
        ((rng.standard_normal((i, o)) / math.sqrt(i)).astype(np.float32), np.zeros(o, np.float32))
        for i, o in itertools.pairwise(sizes)
    ]


class Fastnn:
    """Ours."""

    def __init__(self, cell: dict[str, Any], threads: int) -> None:
        import fastnn

        network = NETWORKS[cell["network"]]
        layers: list[Any] = []
        for units in network["sizes"][1:-1]:
            if network.get("norm"):
                layers += [fastnn.Dense(units), fastnn.BatchNorm(), fastnn.Activation(network["activation"])]
                layers += [fastnn.Dropout(network["dropout"])]
            else:
                layers.append(fastnn.Dense(units, activation=network["activation"]))
        layers.append(fastnn.Dense(network["sizes"][-1]))
        self.X, self.y = data_for(cell)
        self.model = fastnn.Sequential(layers, seed=0).build(network["sizes"][0])
        dense = [i for i, layer in enumerate(self.model.layers) if isinstance(layer, fastnn.Dense)]
        values = {}
        for i, (w, b) in zip(dense, weights_for(cell), strict=True):
            values[f"{i}.weight"] = w
            if self.model.layers[i].use_bias:
                values[f"{i}.bias"] = b
        self.model.set_weights(values)
        self.loss = "sigmoid_cross_entropy" if network["sizes"][-1] == 1 else "softmax_cross_entropy"
        self.options = {
            "loss": self.loss, "optimizer": fastnn.Adam(1e-3), "batch_size": cell["batch"], "epochs": 1, "verbose": 0,
            "threads": threads if cell.get("force_threads") else None,
        }  # fmt: skip

    def first_loss(self) -> float:
        return self.model.evaluate(self.X[:64], self.y[:64], loss=self.loss)["loss"]

    def run(self) -> float:
        return self.model.fit(self.X, self.y, **self.options)["loss"][0]


class Torch:
    """PyTorch eager with fused Adam."""

    def __init__(self, cell: dict[str, Any], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        network = NETWORKS[cell["network"]]
        functions = {"tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU}
        layers: list[Any] = []
        weights = weights_for(cell)
        for i, (w, b) in enumerate(weights):
            last = i == len(weights) - 1
            linear = torch.nn.Linear(*w.shape, bias=last or not network.get("norm"))
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(w.T.copy()))
                if linear.bias is not None:
                    linear.bias.copy_(torch.from_numpy(b))
            layers.append(linear)
            if last:
                break
            if network.get("norm"):
                layers += [torch.nn.BatchNorm1d(w.shape[1])]
            layers.append(functions[network["activation"]]())
            if network.get("dropout"):
                layers.append(torch.nn.Dropout(network["dropout"]))
        self.model = torch.nn.Sequential(*layers)
        X, y = data_for(cell)
        self.X, self.y, self.batch = torch.from_numpy(X), torch.from_numpy(y), cell["batch"]
        binary = network["sizes"][-1] == 1
        self.loss = torch.nn.BCEWithLogitsLoss() if binary else torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)

    def first_loss(self) -> float:
        self.model.eval()
        with self.torch.no_grad():
            return float(self.loss(self.model(self.X[:64]), self.y[:64]))

    def run(self) -> float:
        torch, n = self.torch, len(self.X)
        self.model.train()
        total = torch.zeros(())
        order = torch.randperm(n)
        for start in range(0, n, self.batch):
            index = order[start : start + self.batch]
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(self.model(self.X[index]), self.y[index])
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return float(total)


class Jax:
    """JAX: one jitted function an epoch, a scan over its shuffled mini-batches."""

    def __init__(self, cell: dict[str, Any], threads: int) -> None:
        import jax
        import jax.numpy as jnp

        network = NETWORKS[cell["network"]]
        functions = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}
        function, norm, rate = functions[network["activation"]], network.get("norm"), network.get("dropout", 0.0)
        X, y = data_for(cell)
        batch, n = cell["batch"], len(X)
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        weights = weights_for(cell)
        for i, (w, b) in enumerate(weights):
            params[f"w{i}"] = jnp.asarray(w)
            if i == len(weights) - 1 or not norm:
                params[f"b{i}"] = jnp.asarray(b)
            else:
                params[f"g{i}"], params[f"h{i}"] = jnp.ones(w.shape[1]), jnp.zeros(w.shape[1])
                state[f"m{i}"], state[f"v{i}"] = jnp.zeros(w.shape[1]), jnp.ones(w.shape[1])
        count = len(weights)

        def forward(p: Any, s: Any, x: Any, key: Any) -> Any:
            s = dict(s)
            for i in range(count):
                x = x @ p[f"w{i}"]
                if f"b{i}" in p:
                    x = x + p[f"b{i}"]
                if i == count - 1:
                    return x, s
                if norm:
                    if key is None:
                        mean, variance = s[f"m{i}"], s[f"v{i}"]
                    else:
                        mean, variance = x.mean(0), x.var(0)
                        rows = x.shape[0]
                        s[f"m{i}"] = 0.9 * s[f"m{i}"] + 0.1 * mean
                        s[f"v{i}"] = 0.9 * s[f"v{i}"] + 0.1 * variance * rows / max(rows - 1, 1)
                    x = p[f"g{i}"] * (x - mean) * jax.lax.rsqrt(variance + 1e-5) + p[f"h{i}"]
                x = function(x)
                if rate and key is not None:
                    keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, x.shape)
                    x = jnp.where(keep, x / (1 - rate), 0.0)
            return x, s

        def cost(p: Any, s: Any, x: Any, t: Any, key: Any) -> Any:
            z, s = forward(p, s, x, key)
            if z.shape[1] == 1:
                return (jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z)))).mean(), s
            return -jnp.take_along_axis(jax.nn.log_softmax(z), t[:, None], 1).mean(), s

        def step(carry: Any, index: Any) -> Any:
            p, s, m, v, t, key, Xd, yd = carry
            key, sub = jax.random.split(key)
            (loss, s), g = jax.value_and_grad(cost, has_aux=True)(p, s, Xd[index], yd[index], sub)
            t = t + 1
            m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
            v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
            c1, c2 = 1 / (1 - 0.9**t), 1 / (1 - 0.999**t)
            p = jax.tree.map(lambda w, a, b: w - 1e-3 * (a * c1) / (jnp.sqrt(b * c2) + 1e-8), p, m, v)
            return (p, s, m, v, t, key, Xd, yd), loss

        def epoch(p: Any, s: Any, m: Any, v: Any, t: Any, key: Any, Xd: Any, yd: Any) -> Any:
            key, sub = jax.random.split(key)
            order = jax.random.permutation(sub, n)
            whole = n // batch
            carry, losses = jax.lax.scan(step, (p, s, m, v, t, key, Xd, yd), order[: whole * batch].reshape(whole, batch))
            total = losses.sum()
            if n % batch:
                carry, last = step(carry, order[whole * batch :])
                total = total + last
            return (*carry[:6], total)

        self.cost = jax.jit(lambda p, s, x, t: cost(p, s, x, t, None)[0])
        self.epoch = jax.jit(epoch, donate_argnums=(0, 1, 2, 3))
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
        self.carry = (params, state, zeros(), zeros(), jnp.zeros(()), jax.random.key(0))
        self.X, self.y = jnp.asarray(X), jnp.asarray(y)

    def first_loss(self) -> float:
        return float(self.cost(self.carry[0], self.carry[1], self.X[:64], self.y[:64]))

    def run(self) -> float:
        *carry, total = self.epoch(*self.carry, self.X, self.y)
        self.carry = tuple(carry)
        return float(total)


CONTESTANTS = {"fastnn": Fastnn, "torch": Torch, "jax": Jax}


def work(name: str, threads: int) -> None:
    """A contestant's process: a request a line on standard input, an answer a line on standard output."""
    contestant: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if "cell" in request:
            contestant = CONTESTANTS[name](request["cell"], threads)
            answer: dict[str, Any] = {"loss": contestant.first_loss()}
        else:
            started = time.perf_counter()
            for _ in range(request["runs"]):
                contestant.run()
            answer = {"seconds": (time.perf_counter() - started) / request["runs"]}
        print(json.dumps(answer), flush=True)


class Process:
    """The other end of the pipes."""

    def __init__(self, name: str, threads: int) -> None:
        environment = dict(os.environ)
        flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}"
        environment |= {"OMP_NUM_THREADS": str(threads), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, "--work", name, "--threads", str(threads)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(network: str, batch: int, peers: list[str], threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    processes = [Process(name, threads) for name in peers]
    cell = {"network": network, "batch": batch}
    try:
        losses = {p.name: p.ask(cell=cell)["loss"] for p in processes}
        worst = max(abs(loss - losses[peers[0]]) for loss in losses.values())
        if worst > 1e-4 * max(1.0, abs(losses[peers[0]])):
            raise SystemExit(f"{network} at {batch}: the first losses differ, so that they are not the same network: {losses}")
        for p in processes:
            p.ask(runs=1)
        runs = {}
        for p in processes:
            once = p.ask(runs=1)["seconds"]
            runs[p.name] = max(1, min(200, int(seconds / max(once, 1e-6))))
        times: dict[str, list[float]] = {p.name: [] for p in processes}
        for _ in range(rounds):
            for p in processes:
                times[p.name].append(p.ask(runs=runs[p.name])["seconds"])
    finally:
        for p in processes:
            p.close()
    steps = -(-rows_for(batch) // batch)
    result: dict[str, Any] = {"network": network, "batch": batch, "threads": threads, "steps": steps}
    for name, values in times.items():
        middle = statistics.median(values)
        result[name] = {"us_per_step": middle / steps * 1e6, "spread": (max(values) - min(values)) / middle}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--peer", action="append", choices=PEERS[1:])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="how long a turn takes at least")
    parser.add_argument("--json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.threads)
        return
    peers = ["fastnn", *(options.peer or PEERS[1:])]
    results = []
    print(f"{'network':<8} {'batch':>5} " + " ".join(f"{p + ' us':>11}" for p in peers) + "  ratio to each peer (spread)")
    for network in options.network or NETWORKS:
        batches = options.batch or (*BATCHES, *([400] if network == "planar" else []))
        for batch in batches:
            if network == "deep" and batch < 8:
                continue
            r = measure(network, batch, peers, options.threads, options.rounds, options.seconds)
            results.append(r)
            ours = r["fastnn"]["us_per_step"]
            row = " ".join(f"{r[p]['us_per_step']:11.1f}" for p in peers)
            ratios = "  ".join(f"{p} {r[p]['us_per_step'] / ours:.2f}x" for p in peers[1:])
            noise = max(r[p]["spread"] for p in peers)
            print(f"{network:<8} {batch:>5} {row}  {ratios} ({noise:.0%})", flush=True)
    if options.json:
        record = {"machine": platform.processor() or platform.machine(), "python": platform.python_version(), "cells": results}
        with open(options.json, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
