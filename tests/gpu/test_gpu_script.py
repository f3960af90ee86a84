"""`ci/gpu.sh` and `ci/gpu-bench.sh` whole, on a machine whose GPU is simulated: every stage is the real one, made small."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import simulated_cupy
import simulated_machine

from fastnn.benchmarks import machines

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "ci"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CI / "gpu.sh").is_file(), reason="ci/ is not here; it is not installed"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="the CUDA sources are not run on the host: there is no g++ here"),
]

SMALL = {
    "CELLS": "planar:10", "KERNELS": "^(argmax|tanh|adam)$", "PRODUCTS": "^130x77x65 NN .* (none|relu_aux_bias)$",
    "TESTS": "initial_weights or more_memory or test_argmax", "REPEATS": "1", "WORKERS": "0",
}  # fmt: skip

STEPS = {
    "contact": ["open", "compile", "copies", "products", "kernels", "bits"], "cells": ["cells"],
    "peers": ["peer-torch-graph", "peer-fastnn"], "tests": ["gpu-tests", "kernel-tests", "memcheck"], "memory": ["memory"],
    "rest": ["peer-jax-while"],
}  # fmt: skip
"""By stage; without MNIST, whose accuracy would take the host hours."""


def check_out(folder: Path) -> Path:
    """A checkout of the project but for the library, which is found where it is."""
    checkout = folder / "checkout"
    if not checkout.exists():
        checkout.mkdir()
        for name in ("ci", "tests", "bench"):
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", checkout)
    return checkout


def start(script: str, folder: Path, *options: str, machine: dict[str, Any] | None = None, **variables: str) -> Any:
    """A script that writes into `folder/out`, in a session of its own."""
    command = ["bash", str(check_out(folder) / "ci" / script), *options]
    environment = simulated_machine.environment(folder, **machine or {}) | {"FASTNN_DATA": str(folder / "no-data")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, start_new_session=True,
        env=environment | SMALL | variables,
    )  # fmt: skip


def until(run: Any, words: str) -> str:
    """What a run prints until it prints some words."""
    said = ""
    while words not in said:
        line = run.stdout.readline()
        assert line, said
        said += line
    return said


def left(out: Path) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """The lines of the summary, the record and the logs in a folder that holds nothing else, each of them whole."""
    (record,) = out.glob("*.json")
    assert {path.name for path in out.iterdir() if path.suffix != ".new"} == {record.name, "summary.txt", "logs.tgz"}
    logs = {}
    with tarfile.open(out / "logs.tgz") as file:
        for each in file.getmembers():
            content = file.extractfile(each)
            if content is not None and each.name.endswith(".log"):
                logs[Path(each.name).stem] = content.read().decode()
    return (out / "summary.txt").read_text().splitlines(), json.loads(record.read_text()), logs


def test_a_whole_run_and_what_a_kill_after_each_stage_would_leave(tmp_path: Path) -> None:
    laid_out = set(check_out(tmp_path).rglob("*"))
    run = start("gpu.sh", tmp_path, "out")
    printed = ""
    for index, stage in enumerate(STEPS):
        printed += until(run, f"== {stage}")
        if index:
            shutil.copytree(tmp_path / "out", tmp_path / stage)  # files are moved to their places: these stay as they are
    rest, _ = run.communicate(timeout=200)
    printed += rest
    for index, stage in enumerate(STEPS):
        if index:
            lines, record, logs = left(tmp_path / stage)
            ended = {step["name"] for step in record["steps"]} - {"versions"}
            assert ended == {name for names in list(STEPS.values())[:index] for name in names}
            assert lines[0].startswith("running after ")
            assert ended <= set(logs)
    lines, record, logs = left(tmp_path / "out")
    assert run.returncode == 0, printed
    assert record["passed"], record["trouble"]
    assert "\n".join(lines) in printed
    assert lines[0].startswith("finished after ")
    codes = {step["name"]: step["exit"] for step in record["steps"]}
    peers = {"peer-torch-graph", "peer-jax-while"}  # they meet no GPU: only fastnn's is simulated
    assert {name for name, code in codes.items() if code} == peers
    assert {name: found["wrong"] for name, found in record["findings"].items() if name not in peers} == {
        name: [] for name in (*STEPS["contact"], "cells", "peer-fastnn")
    }
    assert record["findings"]["products"]["ok"] == 5 * 2
    assert record["findings"]["kernels"]["ok"] == 3 * 2
    assert record["findings"]["bits"]["ok"] == 5
    assert record["gpu"]["name"] == simulated_cupy.NAME
    assert record["only"] == {name: value for name, value in SMALL.items() if name != "WORKERS"}
    (cell,) = record["cells"]
    assert (cell["network"], cell["batch_size"], cell["rows"]) == ("planar", 10, 2000)
    assert cell["fit_ms"] > 0
    assert cell["epoch_ms"]["fastnn"] > 0
    passed = {name: suite["passed"] for name, suite in record["tests"].items()}
    assert passed.keys() == {"gpu-tests", "kernel-tests", "memory"}
    assert min(passed.values()) >= 1
    assert record["sanitizer"]["memcheck"]["status"] == "clean"
    assert record["sanitizer"]["memcheck"]["kernels"] == 3
    assert not [name for name, log in logs.items() if "Traceback" in log], "nor is anything wrong with the simulated GPU"

    assert set(check_out(tmp_path).rglob("*")) == laid_out, "nothing is written beside what was asked for"
    assert not (tmp_path / "connections").exists(), "nothing is sent anywhere"
    (machine,) = machines.read([next((tmp_path / "out").glob("*.json"))])
    assert (machine.label, list(machine.rates)) == (simulated_cupy.NAME, [("planar", 10, "float32", "fit")])


def test_wrong_products_and_a_missing_package(tmp_path: Path) -> None:
    machine = {"fault": 1.1, "absent": ["torch"]}
    run = start("gpu.sh", tmp_path, "out", machine=machine, STAGES="contact peers")
    printed, _ = run.communicate(timeout=200)
    lines, record, _ = left(tmp_path / "out")
    assert run.returncode == 1, printed
    assert lines[1].startswith("1. products: 10 of 10 not right; first 130x77x65 NN float->float float32 none: ")
    assert lines[-2].startswith("result                  FAILED (a part: STAGES=contact peers, ")
    assert record["missing"] == ["torch"]
    worst = [line.split(":")[0] for line in record["worst"]]
    assert worst.index("products") < worst.index("not installed") < worst.index("peer-torch-graph")
    codes = {step["name"]: step["exit"] for step in record["steps"]}
    assert codes.keys() - {"versions"} == {*STEPS["contact"], *STEPS["peers"]}
    assert {name for name, code in codes.items() if code} == {"products", "peer-torch-graph"}


@pytest.mark.parametrize(("how", "state"), [(signal.SIGKILL, "running"), (signal.SIGTERM, "interrupted")])
def test_a_run_that_is_killed_has_told_what_it_knew(how: signal.Signals, state: str, tmp_path: Path) -> None:
    run = start("gpu.sh", tmp_path, "out", STAGES="cells peers")
    until(run, "== peers")
    if how == signal.SIGKILL:
        os.killpg(run.pid, how)
    else:
        run.send_signal(how)
    run.communicate(timeout=60)
    lines, record, logs = left(tmp_path / "out")
    assert run.returncode == (130 if how == signal.SIGTERM else -how)
    assert lines[0].startswith(f"{state} after ")
    (cell,) = record["cells"]
    assert cell["fit_ms"] > 0
    assert "1 findings, all right" in logs["cells"]


BENCH = "--network planar --batch-size 10 --batch-size 11 --batch-size 12 --peer none --rounds 1 --seconds 0.01 --threads 1"


def timer_of(run: Any) -> int:
    """The process `timeout` of a script."""
    for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text() == "timeout\n":
            return int(pid)
    raise LookupError("it runs nothing for a limited time")


def test_the_benchmark_goes_on_after_a_piece_that_was_killed(tmp_path: Path) -> None:
    def done() -> list[dict[str, Any]]:
        cells: list[dict[str, Any]] = json.loads((tmp_path / "out" / "full.json").read_text())["done"]
        return cells

    def sizes() -> list[int]:
        return [measured["cell"]["batch_size"] for measured in done()]

    run = start("gpu-bench.sh", tmp_path, "out", *BENCH.split())
    said = until(run, "planar     10 cuda")
    assert "the limits of cuda could not be measured" in said, "the simulated CuPy has no cuBLAS of its own"
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    assert sizes() == [10]
    assert done()[0]["results"]["fastnn"]["status"] == "measured"
    first = done()

    run = start("gpu-bench.sh", tmp_path, "--resume", "out", PIECE="0.1")
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == 1, printed
    assert "2 cells are left\nnone was finished in 0.1 s: " in printed

    run = start("gpu-bench.sh", tmp_path, "--resume", "out")
    until(run, "planar     11 cuda")
    os.kill(timer_of(run), signal.SIGINT)  # as at the end of a piece
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == 3, printed
    assert sizes() == [10, 11]

    run = start("gpu-bench.sh", tmp_path, "--resume", "out")
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == 0, printed
    assert printed.endswith("0 cells are left\n")
    assert sizes() == [10, 11, 12]
    assert done()[:1] == first
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"full.json", "full.log"}
    log = (tmp_path / "out" / "full.log").read_text()  # of all pieces, but for the last line of the one that was killed
    assert all(part in log for part in ("limits of cuda could not be measured", "planar     11 cuda", "planar     12 cuda"))


def test_two_pieces_do_not_run_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / "full.log").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        run = start("gpu-bench.sh", tmp_path, "out", *BENCH.split())
        printed, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert printed.startswith("another piece is still at work on ")
    assert not (tmp_path / "out" / "full.json").exists()


def test_a_record_that_was_cut_off_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "full.json").write_text('{"format": "fastnn-benchmark", ')
    run = start("gpu-bench.sh", tmp_path, "--resume", "out")
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "was cut off" in printed
    assert (tmp_path / "out" / "full.json").read_text() == '{"format": "fastnn-benchmark", '
