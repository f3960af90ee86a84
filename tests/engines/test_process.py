"""What a process sees: imports, caches, forks, threads, memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastnn
import fastnn_kernels
from fastnn import engines

SETUP = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"

FIT = (
    SETUP
    + """
import time
started = time.perf_counter()
import numpy as np
import fastnn
rng = np.random.default_rng(0)
X, y = rng.random((500, 20), dtype=np.float32), rng.integers(0, 3, 500)
layers = [fastnn.Dense(16), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.1), fastnn.Dense(3)]
model = fastnn.Sequential(layers, seed=0)
model.fit(X, y, batch_size=32, epochs=2, verbose=0)
model.predict(X)
from fastnn_kernels.cpu.compiling import CacheStatistics
print(CacheStatistics.hits, CacheStatistics.misses, float(model.weights["0.weight"].sum()))
"""
)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_importing_is_free() -> None:
    code = (
        SETUP
        + """
import time
started = time.perf_counter()
import fastnn
seconds = time.perf_counter() - started
fastnn.Sequential([fastnn.Dense(3)], seed=0)
for name in ("numba", "llvmlite", "cupy", "sklearn", "scipy", "tqdm", "click", "safetensors"):
    assert name not in sys.modules, name
print(seconds)
"""
    )
    found = [python(code) for _ in range(3)]
    assert all(run.returncode == 0 for run in found), found[0].stderr
    assert min(float(run.stdout) for run in found) < 0.3


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    alone = python(FIT, FASTNN_CACHE_DIR=str(tmp_path / "alone"), FASTNN_THREADS="1")
    assert alone.returncode == 0, alone.stderr
    hits, count, total = alone.stdout.split()
    assert hits == "0"
    assert int(count) > 10
    folder = tmp_path / "kernels"
    first = python(FIT, FASTNN_CACHE_DIR=str(folder))
    assert first.returncode == 0, first.stderr
    hits, misses, same = first.stdout.split()
    assert (int(hits) + int(misses), same) == (int(count), total)
    if engines.cores() > 1:
        assert int(hits) >= 2, "a second process compiled some of them"
    assert (folder.stat().st_mode & 0o777) == 0o700
    ends = time.monotonic() + 30
    while list(folder.glob("*.tmp")):  # the second process may be at its last kernel
        assert time.monotonic() < ends
        time.sleep(0.1)
    second = python(FIT, FASTNN_CACHE_DIR=str(folder))
    assert second.stdout.split() == [count, "0", total]
    damage(folder)
    third = python(FIT, FASTNN_CACHE_DIR=str(folder))
    assert third.returncode == 0, third.stderr
    assert third.stdout.split()[2] == total
    assert third.stderr.count("is damaged; it is compiled again") == 1
    fourth = python(FIT, FASTNN_CACHE_DIR=str(folder))
    assert fourth.stdout.split() == [count, "0", total], "damaged files are replaced"


STAMPS = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import fastnn_kernels.cpu
from fastnn_kernels.cpu.compiling import _stamp
files = sorted({m.__file__ for name, m in sys.modules.items() if name.startswith("fastnn_kernels")})
assert all(file.startswith(sys.argv[1]) for file in files), files
before = _stamp()
for file in files:
    path = pathlib.Path(file)
    content = path.read_bytes()
    path.write_bytes(content + b"# one more line\\n")
    _stamp.cache_clear()
    print(path.relative_to(sys.argv[1]).as_posix(), _stamp() != before)
    path.write_bytes(content)
_stamp.cache_clear()
assert _stamp() == before
"""


def copied(folder: Path) -> Path:
    """The package of kernels, in a folder of its own that sys.path can begin with."""
    package = Path(fastnn_kernels.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_every_source_that_the_kernels_are_made_of_counts(tmp_path: Path) -> None:
    """After an upgrade nothing is played that was compiled from other sources."""
    run = subprocess.run([sys.executable, "-c", STAMPS, str(copied(tmp_path))], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = dict(line.split() for line in run.stdout.splitlines())
    assert set(found.values()) == {"True"}
    assert len(found) > 30
    for name in ("contract.py", "shapes.py", "cpu/gemm.py", "numpy/augment.py", "numpy/philox.py"):
        assert f"fastnn_kernels/{name}" in found


ROTATED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from fastnn_kernels import cpu, numpy as definition
from fastnn_kernels.contract import TRANSFORMS
ranges = tuple({**TRANSFORMS, "rotation": (0.1, 0.2)}.values())
attributes = {"key": (1, 2), "size": (3, 3), "ranges": ranges, "pivot": 0.0, "amplitude": 0.0}
for kernels in (definition, cpu):
    operands = np.array(0), np.zeros((1, 8))
    run = getattr(kernels, "run", lambda name, operands, attributes: getattr(kernels, name)(*operands, **attributes))
    run("draw_transforms", operands, attributes)
    print(*operands[1][0].round(9))
"""


@pytest.mark.slow
def test_a_constant_of_the_definition_that_changes_is_compiled_in_anew(tmp_path: Path) -> None:
    """The cosine by which images are rotated, before and after its first coefficient is doubled; the cache is the same."""
    folder = copied(tmp_path / "package")

    def rotations() -> list[str]:
        environment = os.environ | {"FASTNN_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run(
            [sys.executable, "-c", ROTATED, str(folder)], env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()

    before = rotations()
    assert before[0] == before[1]
    source = folder / "fastnn_kernels" / "numpy" / "augment.py"
    text = source.read_text()
    assert text.count("\n    1.0, -1.2337") == 1
    source.write_text(text.replace("\n    1.0, -1.2337", "\n    2.0, -1.2337"))
    after = rotations()
    assert after[0] == after[1]
    assert after[0] != before[0]


def damage(folder: Path) -> None:
    """Truncate one file, empty another, flip a bit of a third."""
    files = sorted(folder.glob("*.kernel"))
    files[0].write_bytes(files[0].read_bytes()[:1000])
    files[1].write_bytes(b"")
    content = bytearray(files[2].read_bytes())
    content[len(content) // 2] ^= 1
    files[2].write_bytes(content)


@pytest.mark.slow
def test_a_home_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    run = python(FIT, FASTNN_CACHE_DIR=str(blocked / "kernels"))
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("RuntimeWarning") == 1
    assert "memory only" in run.stderr


def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    code = SETUP + "from fastnn_kernels.caching import cache_folder; print(cache_folder())"
    run = python(code, FASTNN_CACHE_DIR=str(folder))
    assert run.stdout.strip() == "None"
    assert "can be written by others" in run.stderr


def small_model() -> tuple[fastnn.Sequential, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X, y = rng.random((400, 20), dtype=np.float32), rng.integers(0, 3, 400)
    model = fastnn.Sequential([fastnn.Dense(64, activation="relu"), fastnn.Dense(3)], seed=0)
    model.fit(X, y, epochs=1, verbose=0, threads=2)
    return model, X, y


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not place threads")
def test_workers_are_kept_on_cores_of_their_own() -> None:
    """Where there are as many as cores, beside the caller's; more or fewer go where the system puts them."""
    from fastnn_kernels.cpu.team import TEAM, Work

    nothing = Work(np.zeros((0, 2), np.int64), np.array([[0, 0, 64]]))
    cores = os.sched_getaffinity(0)

    def places(workers: int) -> list[set[int]]:
        TEAM.play(nothing, 1, workers)
        return [os.sched_getaffinity(worker.native_id or 0) for worker in TEAM.workers[: workers - 1]]

    if len(cores) > 1:
        apart = places(len(cores))
        assert len(set().union(*apart)) == len(apart) == len(cores) - 1
        assert all(len(place) == 1 and place < cores for place in apart)
    assert places(len(cores) + 1) == [cores] * len(cores)
    assert os.sched_getaffinity(0) == cores
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert places(2) == [{min(cores)}], "the caller's cores are the team's"
    finally:
        os.sched_setaffinity(0, cores)


FORK = (
    SETUP
    + """
import os, time
import numpy as np
from test_process import small_model
model, X, y = small_model()
expected = model(X, threads=2)
child = os.fork()
if child == 0:
    same = np.array_equal(model(X, threads=2), expected)
    model.fit(X, y, epochs=1, verbose=0, threads=2)
    os._exit(0 if same and np.isfinite(model.weights["0.weight"]).all() else 3)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        assert os.waitstatus_to_exitcode(status) == 0, status
        break
    time.sleep(0.05)
else:
    os.kill(child, 9)
    raise SystemExit("the forked child hangs")
model.fit(X, y, epochs=1, verbose=0, threads=2)
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")
def test_a_forked_child_trains_and_predicts() -> None:
    """In a process of its own: other libraries that the tests load do not survive a fork."""
    run = python(FORK)
    assert run.returncode == 0, run.stderr


def test_eight_threads_predict_at_once() -> None:
    model, X, _ = small_model()
    expected = [model(X[i : i + 50]) for i in range(0, 400, 50)]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(50):
            if not np.array_equal(model(X[50 * index : 50 * index + 50], threads=2), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_is_trained_by_one_caller_at_a_time() -> None:
    model, X, y = small_model()
    with model.reserve(), pytest.raises(fastnn.FastnnError, match="another call of fit"):
        model.fit(X, y, verbose=0)
    model.fit(X, y, epochs=1, verbose=0)


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("steps", "fits"), [(2_000, 40), pytest.param(10_000, 300, marks=pytest.mark.slow)]
)  # fmt: skip
def test_nothing_leaks(steps: int, fits: int) -> None:
    model, X, y = small_model()

    def several(count: int) -> None:
        for _ in range(count):
            model.fit(X, y, batch_size=30, epochs=1, verbose=0, threads=2, validation_data=(X, y))
            model.predict(X[:7])

    several(20)
    model.fit(X, y, batch_size=4, epochs=5, verbose=0)
    before = resident(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    model.fit(X, y, batch_size=4, epochs=steps // 100, verbose=0)
    several(fits)
    after = resident(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    assert after[0] - before[0] <= 4 * 2**20
    assert after[1:] == before[1:]
