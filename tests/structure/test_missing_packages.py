"""Packages that are not installed: what does not need them works, and what does says so in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastnn.errors import FastnnError, PackageError

SETUP = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p]!r}

class Missing:
    '''A finder that finds nothing of some packages.'''

    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

import numpy as np
import fastnn
from fastnn.errors import PackageError

X, y = np.random.default_rng(0).normal(size=(64, 5)).astype("float32"), np.arange(64) % 3
model = fastnn.Sequential([fastnn.Dense(4, activation="relu"), fastnn.Dropout(0.1), fastnn.Dense(3)], seed=0)

def says(call):
    try:
        call()
    except PackageError as error:
        print(error)
    else:
        print("nothing")
"""

ON_A_GPU = """
from cuda_on_host.runtime import HostRuntime
import fastnn_kernels.cuda
host = HostRuntime()
fastnn_kernels.cuda.runtime = lambda ordinal=0: host
packages = ["msgspec", "array_api_compat", "threadpoolctl", "tqdm", "click", "scipy", "sklearn", "ml_dtypes", "numba"]
packages.append("llvmlite")
for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
    del sys.modules[name]
sys.meta_path.insert(0, Missing(*packages))
options = {"device": "cuda", "batch_size": 16}
history = model.fit(X, y, epochs=2, validation_data=(X, y), **options)
assert history.device == "cuda:0"
assert model.predict(X).shape == (64,)
assert model.evaluate(X, y)["loss"] == history["val_loss"][-1]
says(lambda: model.fit(X, y, autotune=True, **options))
says(lambda: model.fit(X, y, precision="bf16", **options))
says(lambda: model.save("m.safetensors"))
says(lambda: fastnn.load("m.safetensors"))
says(lambda: model.fit(X, y, device="cpu", batch_size=16))
"""

ON_A_CPU = """
sys.meta_path.insert(0, Missing("msgspec", "array_api_compat", "threadpoolctl", "tqdm", "click", "sklearn", "ml_dtypes"))
model.fit(X, y, device="cpu", batch_size=16, epochs=2, validation_data=(X, y), metrics=["f1"])
assert model.predict(X).shape == (64,)
says(lambda: model.save("m.safetensors"))
says(lambda: model.fit(X, y, resume=".", device="cpu", batch_size=16))
"""

CHECKPOINTS = """
sys.meta_path.insert(0, Missing("filelock"))
model.fit(X, y, device="cpu", batch_size=16)
says(lambda: fastnn.callbacks.Checkpoint("c"))
"""


def lines(code: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return [line for line in run.stdout.splitlines() if not line.startswith("epoch ")]


MODELS = "reading and writing models needs msgspec, which is not installed: pip install msgspec"


def test_on_a_gpu_the_small_packages_are_not_needed() -> None:
    """Nor is Numba, but for what is computed on the host."""
    pytest.importorskip("ml_dtypes")
    *found, numba = lines(ON_A_GPU)
    assert found == [
        "choosing by timing needs msgspec, which is not installed: pip install msgspec",
        'precision="bf16" needs ml-dtypes, which is not installed: pip install ml-dtypes',
        MODELS,
        MODELS,
    ]
    assert numba.startswith("the CPU engine needs numba, which ")
    assert numba.endswith("numba")


def test_on_a_cpu_the_small_packages_are_not_needed() -> None:
    assert lines(ON_A_CPU) == [MODELS, MODELS]


def test_only_checkpoints_need_filelock() -> None:
    assert lines(CHECKPOINTS) == ["writing checkpoints needs filelock, which is not installed: pip install filelock"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModuleNotFoundError("No module named 'a_b'", name="a_b"), "x needs a-b, which is not installed: pip install a-b"),
        (ModuleNotFoundError("No module named 'a_b.c'", name="a_b.c"), "x needs a-b, which is not installed: pip install a-b"),
        (ImportError("a.so: bad ELF"), "x needs a-b, which cannot be imported (a.so: bad ELF): pip install --upgrade a-b"),
        (ModuleNotFoundError("no c", name="c"), "x needs a-b, which cannot be imported (no c): pip install --upgrade a-b"),
    ],
)
def test_what_is_missing_and_what_is_broken(error: ImportError, says: str) -> None:
    made = PackageError.of("a-b", "x", error)
    assert str(made) == says
    assert isinstance(made, FastnnError)
    assert isinstance(made, ImportError)
