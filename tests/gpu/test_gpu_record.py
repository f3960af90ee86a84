"""The record of `ci/gpu.sh`: what it makes of what the steps left, whole, cut off or not there. The scripts without a GPU."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fastnn import engines
from fastnn.benchmarks import record as records
from fastnn.errors import DeviceError

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "ci"
pytestmark = pytest.mark.skipif(not (CI / "gpu_record.py").is_file(), reason="ci/ is not here; it is not installed")

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" errors="1" failures="1" tests="5">
<testcase classname="tests.gpu.test_gpu" name="test_mnist[float32]" time="2.5">
<properties><property name="mnist float32" value="0.9803"/></properties></testcase>
<testcase classname="tests.gpu.test_gpu" name="test_mnist[tf32]" time="1.5">
<properties><property name="mnist tf32" value="0.9788"/></properties></testcase>
<testcase classname="tests.gpu.test_gpu" name="test_a" time="0.25"><failure message="no">E</failure></testcase>
<testcase classname="tests.gpu.test_gpu" name="test_b" time="0.25"><error message="no">E</error></testcase>
<testcase classname="tests.gpu.test_gpu" name="test_c" time="0"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>
"""
PASSED = '<testsuites><testsuite><testcase classname="t" name="a" time="1"/></testsuite></testsuites>'

CLEAN = "========= COMPUTE-SANITIZER\n300 calls of 87 kernels\n========= ERROR SUMMARY: 0 errors\n"
SMI = "NVIDIA H200, 143771 MiB, 580.159.03\n"


@pytest.fixture(scope="module")
def made() -> Any:
    """The module `ci/gpu_record.py`."""
    spec = importlib.util.spec_from_file_location("gpu_record", CI / "gpu_record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lay_out(folder: Path, **files: str) -> Path:
    """Files by name, with `_` for the dot."""
    for name, text in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_text(text)
    return folder


def steps(**codes: int) -> str:
    return "".join(f"{name}\t{code}\t7\n" for name, code in codes.items())


def test_a_junit_file_is_counted(made: Any, tmp_path: Path) -> None:
    found = made.junit(lay_out(tmp_path, mnist_xml=JUNIT) / "mnist.xml")
    assert {kind: found[kind] for kind in ("passed", "failed", "errors", "skipped")} == {
        "passed": 2, "failed": 1, "errors": 1, "skipped": 1,
    }  # fmt: skip
    assert found["seconds"] == 4.5
    assert found["failures"] == ["tests.gpu.test_gpu::test_a", "tests.gpu.test_gpu::test_b"]
    assert found["properties"] == {"mnist float32": "0.9803", "mnist tf32": "0.9788"}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (CLEAN, ("clean", 0, 300)),
        (
            "300 calls of 87 kernels\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
            ("clean", 0, 300),
        ),
        (CLEAN.replace("0 errors", "1 error"), ("errors", 1, 300)),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)\n", ("errors", 3, 0)),
        ("========= ERROR SUMMARY: 0 errors\n", ("was not finished", 0, 0)),
        ("========= Error: Device not supported. Please refer to the documentation\n", ("unsupported", 0, 0)),
        ("300 calls of 87 kernels\n", ("no summary", 0, 300)),
        ("", ("no summary", 0, 0)),
    ],
)
def test_a_log_of_a_sanitizer_is_read(made: Any, log: str, expected: tuple[str, int, int]) -> None:
    found = made.sanitizer(log)
    assert (found["status"], found["errors"], found["calls"]) == expected


def test_a_whole_run(made: Any, tmp_path: Path) -> None:
    made.plan(tmp_path / "bench.json", quick=False)
    lay_out(
        tmp_path, tests_xml=PASSED, kernels_xml=PASSED, memcheck_log=CLEAN,
        mnist_xml=JUNIT.replace("<failure", "<skipped").replace("<error", "<skipped")
        .replace("</failure", "</skipped").replace("</error", "</skipped"),
        steps_tsv=steps(tests=0, mnist=0, bench=0, kernels=0, memcheck=0),
    )  # fmt: skip
    (tmp_path / "nvidia-smi.csv").write_text(SMI)
    found = made.build(tmp_path, NOW)
    assert found["passed"], found["trouble"]
    assert found["created"] == "2026-01-02T03:04:05+00:00"
    assert found["gpu"] == {"name": "NVIDIA H200", "memory": "143771 MiB", "driver": "580.159.03"}
    assert found["mnist"] == {"float32": 0.9803, "tf32": 0.9788}
    assert found["sanitizer"] == {"memcheck": {"status": "clean", "errors": 0, "calls": 300, "kernels": 87}}
    assert [step["name"] for step in found["steps"]] == ["tests", "mnist", "bench", "kernels", "memcheck"]
    text = "\n".join(made.table(found))
    assert "NVIDIA H200, 143771 MiB" in text
    assert "98.03%" in text
    assert text.endswith("passed")


@pytest.mark.parametrize(
    ("files", "trouble"),
    [
        ({"steps_tsv": steps(tests=1), "tests_xml": JUNIT}, "tests: ended with 1"),
        ({"steps_tsv": steps(tests=124), "tests_xml": PASSED}, "tests: out of time"),
        ({"steps_tsv": steps(tests=0), "tests_xml": JUNIT[:300]}, "tests: no results"),
        ({"steps_tsv": steps(tests=137)}, "tests: no results"),
        ({"steps_tsv": steps(bench=0), "bench_json": "{"}, "bench: no figures"),
        ({"steps_tsv": steps(bench=1)}, "bench: no figures"),
        ({"steps_tsv": steps(memcheck=9), "memcheck_log": CLEAN.replace("0 errors", "2 errors")}, "memcheck: ended with 9"),
    ],
)
def test_what_a_step_left_undone_is_said(made: Any, files: dict[str, str], trouble: str, tmp_path: Path) -> None:
    found = made.build(lay_out(tmp_path, **files), NOW)
    assert not found["passed"]
    assert any(what.startswith(trouble) for what in found["trouble"]), found["trouble"]
    assert "\n".join(made.table(found)).endswith("FAILED")


def test_tests_that_were_all_skipped_are_no_success(made: Any, tmp_path: Path) -> None:
    skipped = PASSED.replace("/></testsuite>", "><skipped/></testcase></testsuite>")
    assert not made.build(lay_out(tmp_path, steps_tsv=steps(tests=0), tests_xml=skipped), NOW)["passed"]


def test_errors_of_a_sanitizer_are_no_success(made: Any, tmp_path: Path) -> None:
    log = CLEAN.replace("0 errors", "2 errors")
    files = {"steps_tsv": steps(tests=0, memcheck=0, racecheck=0), "tests_xml": PASSED, "memcheck_log": log}
    lay_out(tmp_path, **files, racecheck_log="Error: Device not supported")
    found = made.build(tmp_path, NOW)
    assert not found["passed"]
    assert not found["trouble"]
    (tmp_path / "memcheck.log").write_text(CLEAN)
    assert made.build(tmp_path, NOW)["passed"]


def test_the_ratios_are_those_of_the_benchmark(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    made.plan(path, quick=True)
    record = records.read(path)
    assert {str(cell) for cell in record.left} == {f"{network} at {size} on cuda" for network, size in made.QUICK}
    seconds = {"fastnn": 0.5, "jax": 1.0, "torch-graph": 0.75}
    results = {n: records.Result(status="measured", seconds=[s], process=[0], runs=1) for n, s in seconds.items()}
    results["torch"] = records.Result(status="failed", reason="why")
    cell, other = record.left
    record.done += [
        records.Measured(cell=cell, threads=1, work=[], reference=records.Reference(), results=results),
        records.Measured(
            cell=other, threads=1, work=[], reference=records.Reference(),
            results={"fastnn": records.Result(status="cannot", reason="no GPU")},
        ),
    ]  # fmt: skip
    records.write(record, path)
    first, second = made.cells(path)
    assert (first["best_peer"], first["ratio"]) == ("torch-graph", 1.5)
    assert first["results"]["fastnn"]["examples_per_second"] == 2 * cell.rows
    assert first["results"]["torch"] == {"status": "failed", "reason": "why", "examples_per_second": None}
    assert second["ratio"] is None
    found = made.build(lay_out(tmp_path, steps_tsv=steps(bench=0)), NOW)
    text = "\n".join(made.table(found))
    assert "1.50 x torch-graph" in text
    assert "fastnn: cannot no GPU" in text


def test_it_is_written_and_shown(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nvidia-smi.csv").write_text(SMI)
    (tmp_path / "out").mkdir()
    written = made.write(tmp_path, tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    assert path.name.startswith("nvidia-h200-")
    assert json.loads(path.read_text()) == written
    assert str(path) in capsys.readouterr().out


def test_nothing_at_all_makes_a_record_that_did_not_pass(made: Any, tmp_path: Path) -> None:
    assert made.main(["write", str(tmp_path), str(tmp_path)]) == 1
    assert list(tmp_path.glob("gpu-*.json"))
    assert made.main(["wrong"]) == 2


@pytest.mark.parametrize("command", [["gpu.sh"], ["gpu.sh", "--quick"], ["gpu-bench.sh"]])
def test_without_a_gpu_the_scripts_say_so(command: list[str], tmp_path: Path) -> None:
    try:
        engines.gpu(0)
    except DeviceError:
        pass
    else:
        pytest.skip("a GPU is here")
    script, *options = command
    ended = subprocess.run(
        ["bash", str(CI / script), *options, str(tmp_path / "out")], env=os.environ | {"PYTHON": sys.executable},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    *before, said = (ended.stdout + ended.stderr).splitlines()
    assert said.startswith("no GPU here: ")
    assert not any((tmp_path / "out").glob("*.json"))
    if script == "gpu.sh":
        assert [line.partition(":")[0] for line in before] == ["not installed"], "what is missing is said before it ends"
        assert (tmp_path / "out" / "summary.txt").read_text() == ended.stdout
    else:
        assert not before


STAND_IN = f"""#!/usr/bin/env bash
# Python on a machine with a GPU, as far as the script looks: tests pass, networks are explained, a benchmark takes its time.
case "$*" in
    "ci/gpu_record.py usable") echo "NVIDIA Stand-in" ;;
    "-m pytest "*)
        for argument; do [[ $argument == --junitxml=* ]] && echo '{PASSED}' >"${{argument#--junitxml=}}"; done
        echo "$*" ;;
    "-m fastnn bench "*) sleep "$PAUSE" ;;
    "-m fastnn "* | "ci/sanitize.py "*) echo "$*" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


def on_a_stand_in(folder: Path, pause: int, *options: str) -> subprocess.Popen[str]:
    python = folder / "python"
    python.write_text(STAND_IN)
    python.chmod(0o700)
    return subprocess.Popen(
        ["bash", str(CI / "gpu.sh"), *options, str(folder / "out")], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHON": str(python), "PAUSE": str(pause), "PATH": "/usr/bin:/bin", "FASTNN_DATA": str(folder)},
    )  # fmt: skip


def packed(folder: Path) -> set[str]:
    with tarfile.open(folder / "out" / "logs.tgz") as file:
        return {Path(name).name for name in file.getnames()} - {"."}


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_a_whole_run_leaves_three_files(options: list[str], tmp_path: Path) -> None:
    printed, _ = on_a_stand_in(tmp_path, 0, *options).communicate(timeout=300)
    (record,) = (tmp_path / "out").glob("*.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {record.name, "summary.txt", "logs.tgz"}
    assert (tmp_path / "out" / "summary.txt").read_text() == printed
    assert [name for name in ("tests", "mnist", "bench", "explain0") if f"== {name} " not in printed] == []
    steps = json.loads(record.read_text())["steps"]
    assert all(step["exit"] == 0 for step in steps if step["name"] not in ("memcheck", "racecheck")), printed
    assert {f"{step['name']}.log" for step in steps} < packed(tmp_path)
    assert {"bench.json", "tests.xml", "versions.log"} < packed(tmp_path)
    with tarfile.open(tmp_path / "out" / "logs.tgz") as file:
        logs = {name: file.extractfile(f"./{name}.log") for name in ("tests", *(["kernels"] if not options else []))}
        asked = {name: log.read().decode().split() for name, log in logs.items() if log is not None}
    files = {name: {word for word in words if word.endswith(".py")} for name, words in asked.items()}
    assert all((ROOT / file).is_file() for names in files.values() for file in names)
    assert files["tests"] == {"tests/gpu/test_gpu.py"}
    assert options or {"tests/kernels/test_dense.py", "tests/kernels/test_updates.py"} < files["kernels"]


@pytest.mark.slow
def test_a_run_that_is_cut_off_has_told_what_it_could(tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, 600)
    assert run.stdout is not None
    said = []
    while "mnist" not in "".join(said):
        said.append(run.stdout.readline())
        assert said[-1], said
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    assert {"tests.log", "mnist.log", "steps.tsv"} <= packed(tmp_path)
    assert "== tests " in (tmp_path / "out" / "summary.txt").read_text()


@pytest.mark.parametrize("arguments", [["gpu.sh"], ["gpu.sh", "a", "b"], ["gpu-bench.sh"], ["gpu-bench.sh", "--resume"]])
def test_wrong_arguments_are_answered_with_the_usage(arguments: list[str]) -> None:
    script, *rest = arguments
    ended = subprocess.run(["bash", str(CI / script), *rest], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: ")
