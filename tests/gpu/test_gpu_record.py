"""`ci/gpu.sh`: what its record makes of what the steps left, whole or cut off; the script on a stand-in for Python."""

from __future__ import annotations

import ast
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastnn import engines
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
TWO_ERRORS = CLEAN.replace("0 errors", "2 errors")
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


@pytest.fixture(autouse=True)
def everything_is_asked_for(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs these tests may have asked for a part of them by the same variables."""
    for name in made.ONLY:
        monkeypatch.delenv(name, raising=False)


def finding(section: str, what: str, ok: bool = True, **figures: Any) -> str:
    return json.dumps({"section": section, "what": what, "ok": ok, "at": 0.1, **figures}) + "\n"


CELL = finding(
    "cells", "mnist at 128 on cuda", steps=469, fit_ms=4.0, steps_ms=3.8, begin_ms=0.05, step_us=8.1, row_us=9.2, captures=0
)  # fmt: skip


def epochs(**milliseconds: float) -> str:
    names = {name.replace("_", "-"): ms for name, ms in milliseconds.items()}
    return "".join(
        finding(f"peer-{name}", "mnist at 128 on cuda", contestant=name, epoch_ms=ms) for name, ms in names.items()
    )  # fmt: skip


def lay_out(folder: Path, **files: str) -> Path:
    """Files by name: the last `_` is the dot, others are hyphens."""
    for name, text in files.items():
        (folder / ".".join(name.rsplit("_", 1)).replace("_", "-")).write_text(text)
    return folder


def steps(**codes: int) -> str:
    return "".join(f"{name.replace('_', '-')}\t{code}\t7\n" for name, code in codes.items())


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


def whole(folder: Path, **files: str) -> Path:
    """A run in which everything was as it should be, but for `files`."""
    passed_of_mnist = JUNIT.replace("<failure", "<skipped").replace("<error", "<skipped").replace("</failure", "</skipped")
    names = ("open", "bits", "cells", "gpu_tests", "kernel_tests", "memory", "mnist", "memcheck")
    usual = {
        "gpu_tests_xml": PASSED, "kernel_tests_xml": PASSED, "memory_xml": PASSED, "memcheck_log": CLEAN,
        "mnist_xml": passed_of_mnist.replace("</error", "</skipped"), "steps_tsv": steps(**dict.fromkeys(names, 0)),
        "open_jsonl": finding("open", "opening the GPU"), "cells_jsonl": CELL,
        "bits_jsonl": finding("bits", "run after run") + finding("bits", "chunks of 1 steps"),
        "peer_fastnn_jsonl": epochs(fastnn=4.0), "peer_torch_graph_jsonl": epochs(torch_graph=5.0),
    }  # fmt: skip
    (folder / "nvidia-smi.csv").write_text(SMI)
    return lay_out(folder, **(usual | files))


def test_a_whole_run(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "missing", list)
    found = made.build(whole(tmp_path), NOW)
    assert found["passed"], found["trouble"]
    assert found["worst"] == []
    assert found["created"] == "2026-01-02T03:04:05+00:00"
    assert found["gpu"] == {"name": "NVIDIA H200", "memory": "143771 MiB", "driver": "580.159.03"}
    assert found["mnist"] == {"float32": 0.9803, "tf32": 0.9788}
    assert found["sanitizer"] == {"memcheck": {"status": "clean", "errors": 0, "calls": 300, "kernels": 87}}
    assert found["findings"]["bits"] == {"ok": 2, "wrong": []}
    (cell,) = found["cells"]
    assert (cell["best_peer"], cell["ratio"]) == ("torch-graph", 1.25)
    assert (cell["step_us"], cell["epoch_ms"]) == (8.1, {"fastnn": 4.0, "torch-graph": 5.0})
    text = made.summary(found, "200", "finished")
    assert text.startswith("finished after 200 s; the worst:\nnothing\n")
    for words in (
        "NVIDIA H200, 143771 MiB",
        "98.03%",
        "1.25 x torch-graph",
        "8.1 us a step, 9.2 us with all nodes in a row",
        "equal bits              2 right",
    ):
        assert words in text
    assert text.splitlines()[-1].endswith("passed")


@pytest.mark.parametrize(
    ("files", "worst"),
    [
        ({"gpu_tests_xml": JUNIT}, "gpu-tests: 2 of 4 failed; first tests.gpu.test_gpu::test_a"),
        ({"steps_tsv": steps(gpu_tests=124)}, "gpu-tests: out of time"),
        ({"steps_tsv": steps(gpu_tests=0), "gpu_tests_xml": JUNIT[:300]}, "gpu-tests: no results"),
        ({"steps_tsv": steps(kernel_tests=0), "kernel_tests_xml": ""}, "kernel-tests: no results"),
        ({"steps_tsv": steps(gpu_tests=0, memcheck=9), "memcheck_log": TWO_ERRORS}, "memcheck: 2 errors"),
        ({"steps_tsv": steps(gpu_tests=0, memcheck=0), "memcheck_log": TWO_ERRORS}, "memcheck: 2 errors"),
        ({"bits_jsonl": finding("bits", "chunks", False, error="other")}, "bits: 1 of 1 not right; first chunks: other"),
        ({"open_jsonl": finding("open", "NVRTC", False, error="none")}, "open: 1 of 1 not right; first NVRTC: none"),
        ({"steps_tsv": steps(gpu_tests=0, products=137)}, "products: out of time"),
        ({"steps_tsv": steps(gpu_tests=0, cells=-1)}, "cells: no time was left"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_the_worst_and_no_success(
    made: Any, files: dict[str, str], worst: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "missing", list)
    found = made.build(whole(tmp_path, **files), NOW)
    assert not found["passed"]
    assert found["worst"][0].startswith(worst), found["worst"]
    assert made.summary(found, "9", "running").splitlines()[-1].endswith("FAILED")


@pytest.mark.parametrize(
    ("files", "worst"),
    [
        ({"peer_torch_graph_jsonl": epochs(torch_graph=2.0)}, "mnist at 128 on cuda: 0.50 times as fast as torch-graph"),
        ({"peer_jax_while_jsonl": epochs(jax_while=1.0)}, "mnist at 128 on cuda: 0.25 times as fast as jax-while"),
        ({"cells_jsonl": CELL.replace("4.0", "14.0")}, "mnist at 128 on cuda: a fit takes 14.00 ms, its steps 3.80 ms"),
        ({"cells_jsonl": CELL.replace('"captures": 0', '"captures": 2.0')}, "mnist at 128 on cuda: a call of fit of known sh"),
        (
            {"steps_tsv": steps(gpu_tests=0, peer_jax_while=1),
             "peer_jax_while_jsonl": finding("peer-jax-while", "the whole section", False, error="jax not installed")},
            "peer-jax-while: 1 of 1 not right; first the whole section: jax not installed",
        ),
    ],
)  # fmt: skip
def test_what_is_slow_or_not_there_is_said_of_a_run_that_passed(
    made: Any, files: dict[str, str], worst: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "missing", list)
    found = made.build(whole(tmp_path, **files), NOW)
    assert found["passed"], found["trouble"]
    assert found["worst"][0].startswith(worst), found["worst"]


def test_wrong_results_come_before_failures_and_they_before_slowness(made: Any, tmp_path: Path) -> None:
    files = {
        "peer_torch_graph_jsonl": epochs(torch_graph=0.1), "gpu_tests_xml": JUNIT,
        "products_jsonl": finding("products", "one", False, error="an error of 1"),
    }  # fmt: skip
    found = made.build(whole(tmp_path, **files), NOW)
    lines = made.summary(found, "9", "running").splitlines()
    assert [line.split(":")[0] for line in lines[1:4]] == ["1. products", "2. gpu-tests", "3. mnist at 128 on cuda"]


def test_lines_that_were_cut_off_are_left_out(made: Any, tmp_path: Path) -> None:
    text = finding("products", "one") + finding("products", "two") + finding("products", "three")[:40]
    found = made.build(whole(tmp_path, products_jsonl=text), NOW)
    assert found["findings"]["products"] == {"ok": 2, "wrong": []}


def test_tests_that_were_all_skipped_are_no_success(made: Any, tmp_path: Path) -> None:
    skipped = PASSED.replace("/></testsuite>", "><skipped/></testcase></testsuite>")
    found = made.build(whole(tmp_path, gpu_tests_xml=skipped), NOW)
    assert not found["passed"]
    assert found["worst"][0] == "gpu-tests: none passed, 1 were skipped"


def test_a_sanitizer_that_the_gpu_does_not_support_is_no_failure(made: Any, tmp_path: Path) -> None:
    assert made.build(whole(tmp_path, memcheck_log="Error: Device not supported"), NOW)["passed"]


def test_it_is_written(made: Any, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi.csv").write_text(SMI)
    (tmp_path / "out").mkdir()
    written = made.write(tmp_path, tmp_path / "out", "12", "running")
    summary, record = sorted((tmp_path / "out").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert record.name.startswith("nvidia-h200-")
    assert json.loads(record.read_text()) == written
    assert summary.name == "summary.txt"
    assert str(record) in summary.read_text()


def test_the_record_does_not_name_the_home_folder(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    wrong = finding("open", "NVRTC", False, error="/home/somebody/fastnn/x.py: none")
    made.write(lay_out(tmp_path, open_jsonl=wrong), tmp_path, "12", "running")
    (record,) = tmp_path.glob("*.json")
    assert "somebody" not in record.read_text()
    assert "~/fastnn/x.py: none" in record.read_text()
    monkeypatch.setenv("HOME", "/")
    assert made.without_home("/a/b") == "/a/b"


def test_a_module_that_does_not_say_where_it_is_from_is_not_missing(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "NEEDED", ("cupy", "json", "nowhere_at_all"))
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    assert made.missing() == ["nowhere_at_all"]


def test_nothing_at_all_makes_a_record_that_did_not_pass(made: Any, tmp_path: Path) -> None:
    assert made.main(["write", str(tmp_path), str(tmp_path), "0", "finished"]) == 1
    assert list(tmp_path.glob("gpu-*.json"))
    assert made.main(["wrong"]) == 2


LARGE = {"cupy", "jax", "numba", "numpy", "scipy", "sklearn", "torch"}
"""Modules that a machine with a GPU has or does without."""
DISTRIBUTIONS = {"xdist": "pytest-xdist"}


def test_the_page_names_every_small_package_that_the_script_looks_for(made: Any) -> None:
    """With `--no-deps`, all that they need in turn as well."""
    (line,) = (line for line in (ROOT / "docs/gpu.md").read_text().splitlines() if line.startswith("pip download"))
    named = {word.lower().replace("_", "-") for word in line.split()[5:]}
    small = {DISTRIBUTIONS.get(module, module).replace("_", "-") for module in made.NEEDED if module not in LARGE}
    assert small <= named, small - named
    for name in sorted(named):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for requirement in importlib.metadata.requires(name) or ():
                needed = re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-")
                assert needed in named | {"numpy"} or ";" in requirement, f"{name} needs {needed}"


# --- the scripts ------------------------------------------------------------------------------------------------------


def test_tests_that_look_at_the_memory_of_the_gpu_run_alone() -> None:
    """Others take memory meanwhile."""
    tree = ast.parse((ROOT / "tests/gpu/test_gpu.py").read_text())
    looking = {
        function.name: {ast.unparse(mark) for mark in function.decorator_list}
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
        for words in [ast.unparse(function)]
        if ".memory()" in words or "used(" in words
    }
    assert len(looking) >= 3
    assert [name for name, marks in looking.items() if not marks & {"alone", "pytest.mark.alone"}] == []


@pytest.mark.parametrize("command", [["gpu.sh"], ["gpu.sh", "--minutes", "9"], ["gpu-bench.sh"]])
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
    assert "no GPU here: " in said
    assert not any((tmp_path / "out").glob("*.json"))
    if script == "gpu.sh":
        assert ["not installed" in line for line in before] == [True], "what is missing is said before it ends"
        assert (tmp_path / "out" / "summary.txt").read_text() == ended.stdout
    else:
        assert not before


STAGES = {
    "contact": ("open", "compile", "copies", "products", "kernels", "bits"), "cells": ("cells",),
    "peers": ("peer-torch-graph", "peer-fastnn"), "tests": ("gpu-tests", "kernel-tests", "memcheck"),
    "memory": ("memory", "mnist"), "rest": ("peer-jax-while",),
}  # fmt: skip
"""The stages of the script, and their steps."""

STAND_IN = f"""#!/usr/bin/env bash
# Python on a machine with a GPU, as far as the script looks: sections find something, tests pass, a sanitizer is content.
# FAILING: a section or suite that fails; ABSENT: a module that is not there; SLOW: a step that takes longer than anybody waits.
name=other
case "$*" in
    "ci/gpu_record.py usable") echo "NVIDIA Stand-in"; exit 0 ;;
    "ci/gpu_probe.py "*) name=$2; [[ $2 != peer ]] || name=peer-$4 ;;
    "-m pytest "*) for argument; do [[ $argument == --junitxml=* ]] && xml=${{argument#--junitxml=}}; done
        name=$(basename "$xml" .xml) ;;
    "ci/sanitize.py "*) name=memcheck ;;
    "-m pip list") exit 0 ;;
    *) exec {sys.executable} "$@" ;;
esac
echo "$*"
[[ $name != "$SLOW" ]] || exec {sys.executable} -c "
import time
try:
    time.sleep(30)
except KeyboardInterrupt:
    print('interrupted')"
[[ -z $ABSENT || $name != *"$ABSENT"* ]] || {{ echo "ModuleNotFoundError: No module named '$ABSENT'"; exit 1; }}
ok=true
[[ $name != "$FAILING" ]] || ok=false
if [[ -n ${{xml:-}} ]]; then
    [[ $ok == true ]] && echo '{PASSED}' >"$xml" || echo '{PASSED.replace("/></", "><failure/></testcase></")}' >"$xml"
elif [[ $name == memcheck ]]; then
    echo "300 calls of 87 kernels"
else
    printf '{{"section": "%s", "what": "a finding", "ok": %s, "error": "why"}}\n' "$name" "$ok" >>"$3"
fi
[[ $ok == true ]]
"""
SANITIZER = """#!/usr/bin/env bash
[[ $1 != --version ]] || exit 0
while [[ $1 == --* ]]; do [[ $1 == --tool ]] && tool=$2; shift 2; done
"$@"; code=$?
echo "========= ERROR SUMMARY: 0 errors"
exit $code
"""


def on_a_stand_in(folder: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("python", STAND_IN), ("compute-sanitizer", SANITIZER)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o700)
    (folder / "mnist").mkdir()
    usual = {"FAILING": "", "ABSENT": "", "SLOW": ""} | environment
    return subprocess.Popen(
        ["bash", str(CI / "gpu.sh"), *options, str(folder / "out")], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | usual | {
            "PYTHON": str(programs / "python"), "PATH": f"{programs}:/usr/bin:/bin", "FASTNN_DATA": str(folder),
        },
    )  # fmt: skip


def packed(folder: Path) -> set[str]:
    with tarfile.open(folder / "out" / "logs.tgz") as file:
        return {Path(name).name for name in file.getnames()} - {"."}


def left(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The lines of the summary and the record of a run, which left nothing else but the logs."""
    (record,) = (folder / "out").glob("*.json")
    names = {path.name for path in (folder / "out").iterdir() if path.suffix != ".new"}
    assert names == {record.name, "summary.txt", "logs.tgz"}
    return (folder / "out" / "summary.txt").read_text().splitlines(), json.loads(record.read_text())


@pytest.mark.parametrize("options", [[], pytest.param(["--sanitize"], marks=pytest.mark.slow)])
def test_a_whole_run_leaves_three_files(options: list[str], tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, *options)
    printed, _ = run.communicate(timeout=120)
    lines, record = left(tmp_path)
    assert run.returncode == 0, printed
    assert record["passed"]
    assert lines[0].startswith("finished after ")
    assert "\n".join(lines) in printed
    order = [line.split(" s  == ")[1] for line in printed.splitlines() if " s  == " in line]
    assert order == [*STAGES, "finished"]
    wanted = [name for names in STAGES.values() for name in names] + ["racecheck"] * bool(options)
    asked = {step["name"]: step["exit"] for step in record["steps"]}
    assert {name: asked.get(name) for name in wanted} == dict.fromkeys(wanted, 0)
    assert {f"{name}.log" for name in [*wanted, "versions", "run"]} <= packed(tmp_path)
    with tarfile.open(tmp_path / "out" / "logs.tgz") as file:
        logs = {name: file.extractfile(f"./{name}.log") for name in ("gpu-tests", "kernel-tests", "memory", "mnist")}
        commands = {name: log.read().decode() for name, log in logs.items() if log is not None}
    files = {name: {word for word in command.split() if word.endswith(".py")} for name, command in commands.items()}
    assert all((ROOT / file).is_file() for names in files.values() for file in names)
    assert files["gpu-tests"] == files["memory"] == files["mnist"] == {"tests/gpu/test_gpu.py"}
    assert {"tests/kernels/test_dense.py", "tests/kernels/test_updates.py"} < files["kernel-tests"]
    assert "-m gpu and not alone" in commands["gpu-tests"]
    assert "-m gpu and alone" in commands["memory"]
    assert "-n" not in commands["memory"].split()


@pytest.mark.parametrize(
    "name", ["cells", *(pytest.param(n, marks=pytest.mark.slow) for n in ("products", "gpu-tests", "peer-torch-graph"))]
)
def test_a_step_that_fails_keeps_no_other_from_running(name: str, tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, FAILING=name)
    printed, _ = run.communicate(timeout=120)
    lines, record = left(tmp_path)
    optional = name == "peer-torch-graph"
    assert run.returncode == (0 if optional else 1), printed
    assert record["passed"] is optional
    assert any(line.startswith(f"{index}. {name}: ") for index in "123" for line in lines[1:4]), lines
    codes = {step["name"]: step["exit"] for step in record["steps"]}
    assert {each for names in STAGES.values() for each in names} <= set(codes)
    assert {each for each, code in codes.items() if code and each != "versions"} == {name}


@pytest.mark.parametrize("module", ["torch", "jax"])
def test_a_package_that_is_missing_ends_its_own_step_only(module: str, tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, ABSENT=module)
    printed, _ = run.communicate(timeout=120)
    _, record = left(tmp_path)
    codes = {step["name"]: step["exit"] for step in record["steps"] if step["name"] != "versions"}
    assert [each for each, code in codes.items() if code] == [f"peer-{module}-{'graph' if module == 'torch' else 'while'}"]
    assert f"No module named '{module}'" in printed
    assert record["passed"], "a peer is not needed"


def test_a_part_is_run_and_said_to_be_one(tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, STAGES="cells rest", CELLS="mnist:128", TESTS="")
    printed, _ = run.communicate(timeout=120)
    lines, record = left(tmp_path)
    assert run.returncode == 0, printed
    assert {step["name"] for step in record["steps"]} == {"versions", "cells", "peer-jax-while"}
    assert record["only"] == {"STAGES": "cells rest", "CELLS": "mnist:128"}
    assert "result                  passed (a part: STAGES=cells rest, CELLS=mnist:128)" in lines


def test_a_stage_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["bash", str(CI / "gpu.sh"), str(tmp_path / "out")], env=os.environ | {"STAGES": "cells peer"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr == "STAGES: expected some of contact cells peers tests memory rest, got peer\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_interrupted_and_the_next_ones_run(tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, "--minutes", "1", SLOW="cells")
    printed, _ = run.communicate(timeout=120)
    lines, record = left(tmp_path)
    assert lines[1] == "1. cells: out of time"
    codes = {step["name"]: step["exit"] for step in record["steps"]}
    assert {each for each, code in codes.items() if code and each != "versions"} == {"cells"}
    assert codes["cells"] == 124
    assert {each for names in STAGES.values() for each in names} <= set(codes)
    seconds = next(step["seconds"] for step in record["steps"] if step["name"] == "cells")
    assert 10 <= seconds <= 14, "55 of 280 seconds, of one minute"
    assert "cells: exit 124 after" in printed
    assert "interrupted" in printed, "and not killed: pytest writes what it has when it is interrupted"


@pytest.mark.parametrize(
    ("how", "stage"),
    [
        pytest.param(how, stage, marks=() if how == signal.SIGKILL and stage in ("contact", "tests") else pytest.mark.slow)
        for how in (signal.SIGKILL, signal.SIGTERM) for stage in STAGES
    ],
)  # fmt: skip
def test_a_run_that_is_ended_in_a_stage_has_told_of_those_before(stage: str, how: int, tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, SLOW=STAGES[stage][0])
    assert run.stdout is not None
    said: list[str] = []
    while f"== {stage}" not in "".join(said):
        said.append(run.stdout.readline())
        assert said[-1], said
    before = [name for other in list(STAGES)[: list(STAGES).index(stage)] for name in STAGES[other]]
    if how == signal.SIGKILL:
        time.sleep(0.5)
        os.killpg(run.pid, how)
    else:
        time.sleep(0.5)
        run.send_signal(how)
    run.communicate(timeout=60)
    if how == signal.SIGKILL and not before:
        assert not list((tmp_path / "out").glob("*.json")), "nothing has ended yet"
        return
    lines, record = left(tmp_path)
    assert lines[0].startswith("running after " if how == signal.SIGKILL else "interrupted after ")
    assert set(before) <= {step["name"] for step in record["steps"]}
    assert {f"{name}.log" for name in before} <= packed(tmp_path)
    assert set(before) & set(record["tests"]) == set(before) & {"gpu-tests", "kernel-tests", "memory", "mnist"}


@pytest.mark.parametrize(
    "arguments",
    [["gpu.sh"], ["gpu.sh", "a", "b"], ["gpu.sh", "--quick", "a"], ["gpu.sh", "--minutes", "none", "a"], ["gpu-bench.sh"],
     ["gpu-bench.sh", "--resume"]],
)  # fmt: skip
def test_wrong_arguments_are_answered_with_the_usage(arguments: list[str]) -> None:
    script, *rest = arguments
    ended = subprocess.run(["bash", str(CI / script), *rest], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: ")
