"""Matrix products of dense layers on the CPU: our kernels against PyTorch, in the same process, turn by turn.

    python bench/gemm.py [--layers 784,128 128,10] [--batches 1 32 512] [--threads 2] [--dtype float64] [--json FILE]

For each layer (inputs, outputs) and batch it runs the forward product with bias (`dense` against `torch.addmm`), the
weight gradient (`dense_backward_weight`, which also sums the bias gradient, against `torch.mm`) and the input gradient
(`dense_backward_input` against `torch.mm`), each into memory that is there already. Results are compared first. Times are
medians over rounds in which the two take turns; `ratio` is PyTorch's time over ours. Our time is that of a call in a
program, PyTorch's that of a call from Python.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import fastnn_kernels.cpu as cpu_set
from fastnn_kernels.contract import KERNELS, Operand

LAYERS = ("2,5", "784,30", "30,10", "784,128", "128,10", "784,512", "512,512", "1024,1024")
BATCHES = (1, 8, 10, 32, 128, 512, 2048)
PRODUCTS = ("dense", "dense_backward_weight", "dense_backward_input")


def prepared(name: str, arrays: list[np.ndarray], attributes: dict[str, Any], threads: int) -> Callable[[int], None]:
    """A function that runs the kernel so many times on `threads` threads."""
    lowered = cpu_set.lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes)
    scratch = cpu_set.aligned((lowered.scratch or 0) * threads, np.uint8)
    words = np.array(lowered.words([array.ctypes.data for array in arrays], scratch.ctypes.data), np.int64)
    call = np.array([lowered.address, words.ctypes.data], np.int64)
    play = cpu_set.play()

    def repeat(times: int) -> None:
        arrived = np.zeros(1, np.int64)
        helpers = [
            threading.Thread(target=play, args=(call.ctypes.data, 1, times, part, threads, arrived.ctypes.data))
            for part in range(1, threads)
        ]
        for helper in helpers:
            helper.start()
        play(call.ctypes.data, 1, times, 0, threads, arrived.ctypes.data)
        for helper in helpers:
            helper.join()

    repeat.keep = (arrays, scratch, words)  # type: ignore[attr-defined]
    return repeat


def contestants(name: str, batch: int, inputs: int, outputs: int, dtype: str, threads: int) -> tuple[Any, Any, int]:
    """Our product, PyTorch's, and the number of floating-point operations; their results agree."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        array = cpu_set.aligned(int(np.prod(shape)), dtype).reshape(shape)
        array[...] = rng.standard_normal(shape)
        return array

    x, w, b, dz = random(batch, inputs), random(inputs, outputs), random(outputs), random(batch, outputs)
    if name == "dense":
        arrays, attributes = [x, w, b, random(batch, outputs)], {"activation": None, "alpha": 0.0}
        result = arrays[3]
    elif name == "dense_backward_weight":
        arrays, attributes = [x, dz, random(inputs, outputs), random(outputs)], {}
        result = arrays[2]
    else:
        arrays, attributes = [dz, w, x, random(batch, inputs)], {"activation": None, "alpha": 0.0}
        result = arrays[3]
    ours = prepared(name, arrays, attributes, threads)
    tx, tw, tb, tdz = (torch.from_numpy(array) for array in (x, w, b, dz))
    out = torch.empty(result.shape, dtype=tx.dtype)
    step = {
        "dense": lambda: torch.addmm(tb, tx, tw, out=out),
        "dense_backward_weight": lambda: torch.mm(tx.t(), tdz, out=out),
        "dense_backward_input": lambda: torch.mm(tdz, tw.t(), out=out),
    }[name]

    def theirs(times: int) -> None:
        for _ in range(times):
            step()

    ours(1)
    theirs(1)
    scale = np.abs(out.numpy()).max()
    assert np.allclose(result, out.numpy(), rtol=0, atol=scale * (1e-4 if dtype == "float32" else 1e-12)), name
    operations = KERNELS[name].operations(tuple(Operand(array.shape, array.dtype) for array in arrays))
    return ours, theirs, operations


def seconds(run: Callable[[int], None], times: int) -> float:
    start = time.perf_counter()
    run(times)
    return (time.perf_counter() - start) / times


def measure(ours: Any, theirs: Any, rounds: int, turn: float) -> tuple[float, float]:
    """Median seconds a call of both, in turns of about `turn` seconds."""
    counts = []
    for run in (ours, theirs):
        run(1)
        times = 1
        # The best of three: a thread that had to wait for a core would make the turn far too short.
        while (spent := min(seconds(run, times) for _ in range(3)) * times) < turn / 4 and times < 10**6:
            times *= 2
        counts.append(max(1, round(times * turn / max(spent, 1e-9))))
    pairs = [(seconds(ours, counts[0]), seconds(theirs, counts[1])) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="I,O")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=PRODUCTS)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=float, default=0.01, help="seconds of one turn")
    parser.add_argument("--json", help="write the results to this file too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'layer':>10} {'batch':>5}  {'product':21} {'ours us':>9} {'torch us':>9} {'GFLOP/s':>8} {'ratio':>6}")
    for layer in options.layers:
        inputs, outputs = map(int, layer.split(","))
        for batch in options.batches:
            for name in options.products:
                ours, theirs, operations = contestants(name, batch, inputs, outputs, options.dtype, options.threads)
                mine, other = measure(ours, theirs, options.rounds, options.turn)
                rows.append(
                    {"inputs": inputs, "outputs": outputs, "batch": batch, "product": name, "ours": mine, "torch": other}
                )
                print(
                    f"{layer:>10} {batch:5}  {name:21} {mine * 1e6:9.2f} {other * 1e6:9.2f} "
                    f"{operations / mine / 1e9:8.1f} {other / mine:6.2f}", flush=True,
                )  # fmt: skip
    ratios = [row["torch"] / row["ours"] for row in rows]
    slower = sum(ratio < 1 for ratio in ratios)
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}, slower {slower} of {len(ratios)}")
    if options.json:
        versions = {"torch": torch.__version__, "numpy": np.__version__, "processor": platform.processor()}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"threads": options.threads, "dtype": options.dtype, **versions, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
