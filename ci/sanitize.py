"""Every kernel of the CUDA set at small and awkward shapes, and two small trainings, for a sanitizer to watch on a GPU.

    compute-sanitizer --tool memcheck python ci/sanitize.py --seconds 60

Every array is an allocation of the driver's own, as large as it must be, and every kernel is launched on its own. Kernels take
turns, so that each has run once before one runs twice; after `--seconds` no call is begun any more. What is computed is not
looked at. Prints how many calls of how many kernels were run, and what could not be. Ends with 1 where that is anything, and
where no GPU can be used. KERNELS of the environment is a regular expression for the names of those that are run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 100_000
"""Elements of the operands of a call; larger ones are left out."""

os.environ["FASTNN_CUDA_CAPTURE"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))


def turns() -> Iterator[tuple[Any, str]]:
    """Cases and precisions: the first of every kernel, then the second of every kernel, ..."""
    from cuda_on_host import calls

    from fastnn_kernels.cuda.lowering import LOWERINGS

    names = [name for name in LOWERINGS if name in calls.cases().CASES]
    if len(names) < len(LOWERINGS):
        print("kernels without cases:", *sorted(set(LOWERINGS) - set(names)))
    names = [name for name in names if re.search(os.environ.get("KERNELS", ""), name)]
    known = ([(case, p) for case in calls.calls(name) for p in calls.precisions(case)] for name in names)
    for row in itertools.zip_longest(*known):
        yield from filter(None, row)


def train() -> None:
    """Programs, in which bodies run side by side: batch norm and dropout with classes, and one output with an L2 penalty."""
    import fastnn

    rng = np.random.default_rng(0)
    X = rng.standard_normal((67, 13)).astype("float32")
    hidden = [fastnn.Dense(33), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.3)]
    classes = fastnn.Sequential([*hidden, fastnn.Dense(5)], seed=1)
    classes.fit(X, np.arange(67) % 5, batch_size=16, epochs=2, optimizer=fastnn.Adam(clip_norm=1.0), device="cuda", verbose=0)
    classes.predict(X)
    values = fastnn.Sequential([fastnn.Dense(7, activation="tanh"), fastnn.Dense(1)], seed=1)
    values.fit(X, X[:, :1], loss="mean_squared_error", batch_size=31, epochs=2, l2=1e-3, device="cuda", verbose=0)
    values.evaluate(X, X[:, :1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    ends = time.monotonic() + parser.parse_args().seconds
    from fastnn import engines
    from fastnn.errors import DeviceError

    try:
        engine = engines.gpu()
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    import cupy

    from fastnn_kernels.cuda.runtime import CudaLost

    cupy.cuda.set_allocator(None)
    failed: dict[str, str] = {}
    try:
        train()
    except Exception as error:
        failed["training"] = repr(error)
    kernels, count = set(), 0
    for case, precision in turns():
        if time.monotonic() > ends:
            print("out of time")
            break
        arrays = case.arrays(precision)
        if case.kernel in failed or sum(array.size for array in arrays) > LARGEST:
            continue
        try:
            engine.compute(case.kernel, [engine.to_device(array) for array in arrays], case.attributes)
            engine.wait()
        except Exception as error:
            failed[case.kernel] = repr(error)
            if isinstance(error, CudaLost):
                break
        kernels.add(case.kernel)
        count += 1
    for name, reason in failed.items():
        print(f"failed: {name}: {reason[:400]}")
    print(f"{count} calls of {len(kernels)} kernels")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
