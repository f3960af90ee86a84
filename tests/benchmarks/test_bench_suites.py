"""The bench suites: everything is in them, they check what they time, and what they write can be compared."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fastnn.benchmarks.grid import Cell
from fastnn.engines import cores
from fastnn_kernels.contract import KERNELS

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not here; it is not installed")

MODULES = ("cases", "measuring", "bench_kernels")
INFORMATION = {
    "operations", "bytes", "repeats", "device", "threads", "precision", "versions", "commit", "roofline_share",
}  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of bench/; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module
    for module in MODULES:
        sys.modules.pop(module, None)


def run_pytest(*arguments: str, code: int = 0, folder: Path = ROOT) -> str:
    """What a pytest of its own writes that is run in `folder`; `code` is the exit status it must have."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # or it measures nothing
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=own)
    assert ended.returncode == code, ended.stdout[-4000:] + ended.stderr[-2000:]
    return ended.stdout + ended.stderr


def test_every_kernel_has_cases(bench: Any) -> None:
    cases = bench("cases").CASES
    assert set(cases) == set(KERNELS)
    for kernel, known in cases.items():
        assert len({case.label for case in known}) == len(known), f"{kernel}: two cases of one name"
        for case in known:
            for precision in case.precisions:
                arrays = case.arrays(precision)
                assert len(arrays) == len(KERNELS[kernel].operands), case
                assert set(case.attributes) >= set(KERNELS[kernel].attributes) - {"alpha", "scale"}, case
                kinds = {array.dtype.name for array in arrays if array.dtype.kind == "f"}
                assert precision in kinds or (precision == "int64" and not kinds), case
        if known[0].precisions != ("int64",):
            assert known[0].precisions == ("float32", "float64"), f"{kernel} is not timed in both precisions"


def test_a_wrong_result_is_not_timed(bench: Any) -> None:
    kernels, cases = bench("bench_kernels"), bench("cases").CASES
    for name in ("dense", "adam", "argmax", "batch_norm"):
        case = cases[name][0]
        before = case.arrays("float32")
        after = [array.copy() for array in before]
        with pytest.raises(AssertionError):
            kernels.check(case, "float32", before, after)  # nothing was computed
        kernels.one_call(case, after, 1).play()
        kernels.check(case, "float32", before, after)
        after[-1].flat[-1] += 1
        with pytest.raises(AssertionError):
            kernels.check(case, "float32", before, after)
    case = cases["adam"][0]
    arrays = case.arrays("float32")
    kernels.check_finite(case, arrays)
    arrays[-1][3] = np.inf
    with pytest.raises(AssertionError, match="square"):
        kernels.check_finite(case, arrays)


def test_wrong_losses_are_not_timed(bench: Any) -> None:
    measuring, cell = bench("measuring"), Cell("planar", 32)
    expected = measuring.expected_losses(cell)
    measuring.check_losses(cell, expected)
    with pytest.raises(AssertionError, match="step 5"):
        measuring.check_losses(cell, [*expected[:-1], expected[-1] + 1e-3])


@pytest.mark.slow
def test_the_everyday_run_does_not_collect_them() -> None:
    found = run_pytest("--collect-only", "-q", "-m", "")
    assert "tests/benchmarks/test_bench_suites.py::" in found
    assert "bench/bench_" not in found
    found = run_pytest("bench", "--collect-only", "-q", "-m", "")
    for suite in ("kernels", "training", "inference", "start", "memory"):
        assert f"bench/bench_{suite}.py::" in found


@pytest.mark.slow
def test_they_run(tmp_path: Path) -> None:
    """A few of each suite, once and untimed; those for a GPU are skipped with a reason that is shown."""
    few = (
        "(test_cpu and argmax) or (test_numpy and log_value) or (test_cuda and argmax) or (test_inference and planar) "
        "or (test_training and planar) or (test_short_calls and planar) or (test_memory and planar-at-8)"
    )
    run_pytest("bench", "-q", "--benchmark-disable", f"--junitxml={tmp_path / 'found.xml'}", "-k", few)
    passed, skipped = [], []
    for case in ElementTree.parse(tmp_path / "found.xml").iter("testcase"):
        why = case.find("skipped")
        if why is None:
            passed.append(f"{case.get('classname')}::{case.get('name')}")
        else:
            skipped.append(" ".join([*why.attrib.values(), *why.itertext()]))
    on_a_gpu = any(name.startswith("bench.bench_kernels::test_cuda") for name in passed)
    assert on_a_gpu or any("no GPU here" in why for why in skipped), skipped
    for bench in ("kernels::test_cpu", "kernels::test_numpy", "training::", "inference::", "memory::"):
        assert any(name.startswith(f"bench.bench_{bench}") for name in passed), passed


@pytest.mark.slow
def test_what_they_write_can_be_compared(tmp_path: Path) -> None:
    few = (
        "test_cpu and dense-784x128-at-32 or test_numpy and softmax-31x33 or test_inference and planar and single "
        "or test_training and cpu-planar-at-32 or test_memory and cpu-planar-at-32 or test_filled_cache"
    )
    select = (str(BENCH), "-q", "-k", few, "--benchmark-storage=stored")
    run_pytest(*select, "--benchmark-json=written.json", "--benchmark-save=base", folder=tmp_path)
    record = json.loads((tmp_path / "written.json").read_text())
    assert record["machine_info"]
    benches = {bench["name"]: bench for bench in record["benchmarks"]}
    suites = {bench["fullname"].split("::")[0] for bench in benches.values()}
    assert suites == {f"bench/bench_{suite}.py" for suite in ("kernels", "training", "inference", "start", "memory")}
    for name, bench in benches.items():
        check_information(name, bench)

    some = (str(BENCH / "bench_kernels.py"), *select[1:])
    compare = ("--benchmark-compare=0001", "--benchmark-compare-fail=median:400%")
    (saved,) = tmp_path.glob("stored/*/0001_base.json")
    base = json.loads(saved.read_text())
    base["machine_info"]["node"] = "another"
    for factor, code in ((20.0, 0), (1 / 20, 1)):
        # A past that was 20 times as slow is no reproach, one that was 20 times as fast is.
        for bench, original in zip(base["benchmarks"], record["benchmarks"], strict=True):
            bench["stats"]["median"] = factor * original["stats"]["median"]
        saved.write_text(json.dumps(base))
        # And what is said of the other machine is no error.
        assert "PytestBenchmarkWarning" in run_pytest(*some, *compare, code=code, folder=tmp_path)


def check_information(name: str, bench: dict[str, Any]) -> None:
    information, median = bench["extra_info"], bench["stats"]["median"]
    assert set(information) >= INFORMATION, name
    assert information["operations"] > 0, name
    assert information["bytes"] > 0, name
    assert 0 < information["roofline_share"] < 10, name
    assert information["device"] in ("cpu", "numpy"), name
    assert 1 <= information["threads"] <= cores(), name
    assert information["precision"] in ("float32", "float64"), name
    assert {"fastnn", "numpy", "numba"} <= set(information["versions"]), name
    rate = information["examples_per_second"]
    assert round(rate * median) == pytest.approx(rate * median, rel=1e-6), f"{name}: examples of one call"
    if "dense-784x128-at-32-" in name:
        assert information["operations"] == information["repeats"] * (2 * 32 * 784 * 128 + 2 * 32 * 128)
        assert rate * median == pytest.approx(32 * information["repeats"])
    if "test_memory" in name:
        assert 2**24 < information["peak_bytes"] < 2**34
