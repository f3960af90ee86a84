"""`ci/gpu_probe.py` where there is no GPU, and on one made of the host, whose planted faults it finds."""

from __future__ import annotations

import importlib.util
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import laws
import numpy as np
import pytest
import simulated_cupy
from cuda_on_host import calls
from cuda_on_host.cublaslt import FakeCublasLt
from cuda_on_host.runtime import HostRuntime
from hosts import Hosts

import fastnn.training.chunks as chunks
from fastnn import engines
from fastnn.data import feeds
from fastnn.engines.cuda import CudaEngine
from fastnn.errors import DeviceError
from fastnn_kernels.cuda import lowering
from fastnn_kernels.cuda.cublaslt import CublasLt
from fastnn_kernels.cuda.families import dense
from fastnn_kernels.cuda.runtime import Multiplication

PROBE = Path(__file__).resolve().parents[2] / "ci" / "gpu_probe.py"
pytestmark = pytest.mark.skipif(not PROBE.is_file(), reason="ci/ is not here; it is not installed")


@pytest.fixture(scope="module")
def probe() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(probe: ModuleType, section: str, folder: Path, *rest: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the findings of a section."""
    path = folder / "findings.jsonl"
    code = probe.main([section, str(path), *rest])
    return code, [json.loads(line) for line in path.read_text().splitlines()]


class Multiplying(HostRuntime):
    """A GPU made of the host that multiplies by a stand-in for cuBLASLt."""

    def __init__(self, library: FakeCublasLt) -> None:
        super().__init__()
        self.cublas = CublasLt(library, 4096)
        self._memory = np.zeros(4096, np.uint8)
        self.device = replace(self.device, products=True, supports=self.cublas.supports)

    def multiply(self, node: Multiplication) -> None:
        self.cublas.plan(node.product).run(node.addresses, self._memory.ctypes.data, 0)


class Wrong(FakeCublasLt):
    """Its products are `scale` times as large as they should be, and `drift` times more so each time."""

    def __init__(self, scale: float = 1.0, drift: float = 1.0) -> None:
        super().__init__()
        self.scale, self.drift = scale, drift

    def _epilogue(self, wanted: Any, result: Any, x: Any, y: Any, d: Any) -> None:
        super()._epilogue(wanted, self.scale * result, x, y, d)
        self.scale *= self.drift


@pytest.mark.parametrize(
    "section",
    ["open", "compile", "copies", "products", "kernels", "bits", "cells", pytest.param("peer", marks=pytest.mark.slow)],
)
def test_without_a_gpu_every_section_says_so(probe: Any, section: str, tmp_path: Path) -> None:
    try:
        engines.gpu(0)
    except DeviceError:
        pass
    else:
        pytest.skip("a GPU is here")
    code, found = ask(probe, section, tmp_path, *(["fastnn"] if section == "peer" else []))
    wrong = [each for each in found if not each["ok"]]
    assert code == 1
    assert wrong
    assert all(each["error"] and each["section"].startswith(section) for each in wrong)


def test_wrong_arguments_are_answered_with_the_usage(probe: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "findings.jsonl")
    for arguments in ([], ["open"], ["nothing", path], ["peer", path], ["open", path, "fastnn"]):
        assert probe.main(arguments) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", [{"CELLS": "mnist"}, {"CELLS": "moon:8"}, {"CELLS": "mnist:0"}, {"REPEATS": "none"}])
def test_wrong_variables_are_answered(
    probe: Any, variable: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    ((name, value),) = variable.items()
    monkeypatch.setenv(name, value)
    code, (found,) = ask(probe, "peer", tmp_path, "fastnn")
    assert code == 1
    assert found["error"].startswith(f"ValueError: {name}: expected ")
    assert repr(value) in found["error"]


def test_cells_are_those_that_are_named(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(probe.wanted_cells()) == 9
    monkeypatch.setenv("CELLS", "planar:10 wide:7")
    assert list(map(str, probe.wanted_cells())) == ["planar at 10 on cuda", "wide at 7 on cuda"]


def test_a_section_of_which_nothing_is_left_is_not_right(
    probe: Any, cuda_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_hosts.installed[0] = Multiplying(FakeCublasLt())
    monkeypatch.setenv("PRODUCTS", "^nothing")
    code, (found,) = ask(probe, "products", tmp_path)
    assert code == 1
    assert "nothing is left" in found["error"]


def test_every_epilogue_is_asked_for_in_every_precision_and_transposition(probe: Any) -> None:
    names, precisions, products = zip(*probe.every_product(), strict=True)
    assert len(set(names)) == len(set(products)) == 3 * 3 * 5 * 8
    assert set(precisions) == set(probe.ERRORS)


@pytest.mark.parametrize(
    ("library", "error"),
    [(Wrong(), ""), (Wrong(scale=1.1), "an error of 0."), (Wrong(drift=1.00001), "other bits the second time")],
    ids=["right", "wrong", "drifting"],
)
def test_products(
    probe: Any, library: Wrong, error: str, cuda_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The products of the smallest size, the first transposition of each kind."""
    cuda_hosts.installed[0] = Multiplying(library)
    some = [each for each in probe.every_product() if each[0].startswith("130x77x65 NN")]
    assert len(some) == 40
    monkeypatch.setattr(probe, "every_product", lambda: iter(some))
    code, found = ask(probe, "products", tmp_path)
    assert code == bool(error)
    assert len(found) == 40
    if error:
        assert sum(error in str(each.get("error", "")) for each in found) > 20, found
    else:
        assert all(each["ok"] and each.get("error", 0.0) < 0.02 for each in found)


def test_a_product_that_is_not_supported_is_no_fault(
    probe: Any, cuda_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeCublasLt()
    library.nothing_found = True
    cuda_hosts.installed[0] = Multiplying(library)
    some = list(itertools.islice(probe.every_product(), 3))
    monkeypatch.setattr(probe, "every_product", lambda: iter(some))
    code, found = ask(probe, "products", tmp_path)
    assert (code, [each["supported"] for each in found]) == (0, [False] * 3)


@pytest.mark.parametrize("by", [pytest.param("us", marks=pytest.mark.slow), "cuBLASLt"])
def test_a_step_with_nodes_side_by_side_is_timed_in_both_ways(
    probe: Any, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTNN_CUDA_CAPTURE", raising=False)
    monkeypatch.setenv("CELLS", "planar:2048")
    monkeypatch.setenv("REPEATS", "1")
    if by == "cuBLASLt":
        monkeypatch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 0))
    with simulated_cupy.install("late"):
        code, (cell,) = ask(probe, "cells", tmp_path)
    assert (code, cell["what"], cell["steps"]) == (0, "planar at 2048 on cuda", 30)
    assert ("side by side" in cell["played"], "row_us" in cell) == (by == "cuBLASLt",) * 2
    assert cell["steps_ms"] == pytest.approx(30e-3 * cell["step_us"], abs=1e-3)


@pytest.mark.skipif(not calls.CASES.exists(), reason="bench/ is not here; it is not installed")
@pytest.mark.parametrize("planted", ["", "other values", "NaN in other places", "an error of"])
def test_kernels(probe: Any, planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CudaEngine(HostRuntime(), capture=False)
    monkeypatch.setattr(laws, "gpu", lambda: engine)
    names = ("argmax", "tanh", "adam")
    monkeypatch.setattr(lowering, "LOWERINGS", {name: lowering.LOWERINGS[name] for name in names})
    run_on_gpu = laws.run_on_gpu

    def run(name: str, arrays: Any, attributes: Any, beyond: int = 0) -> None:
        run_on_gpu(name, arrays, attributes, beyond)
        written = arrays[-1].reshape(-1)
        if planted == "other values" and written.dtype.kind == "i":
            written[0] += 1
        elif planted and written.dtype.kind == "f":
            written[0] = np.nan if planted.startswith("NaN") else written[0] + 1

    monkeypatch.setattr(laws, "run_on_gpu", run)
    code, found = ask(probe, "kernels", tmp_path)
    assert {each["what"].split()[0] for each in found} == set(names)
    assert code == bool(planted)
    assert any(planted in each.get("error", "") for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("planted", [False, True])
def test_bits(
    probe: Any, planted: bool, cuda_host: HostRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    import trainings

    digests = itertools.count() if planted else itertools.repeat(0)
    if planted:
        monkeypatch.setattr(trainings, "digest", lambda model: f"run {next(digests)}")
    for module, name in ((chunks, "LOG_ROWS"), (feeds, "RESIDENT_SHARE"), (feeds, "BLOCK_BYTES")):
        monkeypatch.setattr(module, name, getattr(module, name))  # the section leaves them changed
    code, found = ask(probe, "bits", tmp_path)
    assert len(found) == 5
    assert [each["ok"] for each in found] == [not planted] * 5
    assert code == planted
