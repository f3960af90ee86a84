"""`fastnn doctor`: what it prints, what it says of a part that fails, and how it ends."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cuda_on_host.runtime import HostRuntime

from fastnn.cli import main

doctor = importlib.import_module("fastnn.cli.doctor")  # as an attribute of fastnn.cli it is the command
LABELS = ["versions", "processor", "threads", "memory", "libraries", "kernels", "data", "gpu", "training"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def in_a_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a process of its own says, under these variables of the environment; one that is empty is not set."""
    environment = {name: value for name, value in (os.environ | variables).items() if value}
    command = [sys.executable, "-m", "fastnn", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def no_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what does not depend on it: reading it takes longer than everything else."""
    monkeypatch.delenv("FASTNN_DATA", raising=False)


@pytest.fixture
def no_training(no_mnist: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PARTS, "training", lambda: ({}, ["not tried"]))


def test_a_screen() -> None:
    import numpy as np

    result = run()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [text[:10].strip() for text in lines if text[0] != " "] == LABELS
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    assert "\x1b" not in result.stdout
    assert f"numpy {np.__version__}" in " ".join(result.stdout.split())
    assert "training  works on cpu: loss 2." in result.stdout


def test_json_says_the_same() -> None:
    import numpy as np

    from fastnn.engines import cores
    from fastnn_kernels.cpu.processor import level

    result = run("--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert list(facts) == LABELS
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["processor"]["level"] == level()
    assert facts["threads"]["usable"] == cores()
    assert 0 < facts["memory"]["free"] <= facts["memory"]["total"]
    assert facts["data"]["digits"] == {"training": 1437, "test": 360}
    assert facts["training"]["loss"][1] < facts["training"]["loss"][0]
    assert facts["training"]["loss"] == pytest.approx(facts["training"]["expected_loss"], rel=1e-5)


@pytest.mark.slow
def test_kernels_come_from_the_folder() -> None:
    run()  # by now they have been compiled
    result = in_a_process("--json", FASTNN_DATA="")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["training"]["compiled"] == 0
    assert 0 < facts["training"]["cached"] <= facts["kernels"]["files"]
    folder = Path(facts["kernels"]["folder"])
    assert facts["kernels"]["bytes"] >= max(path.stat().st_size for path in folder.iterdir())
    assert facts["data"]["FASTNN_DATA"] is None
    assert "where is MNIST?" in facts["data"]["mnist"]["error"]


@pytest.mark.slow
def test_kernels_are_compiled(tmp_path: Path) -> None:
    result = in_a_process("--json", FASTNN_CACHE_DIR=str(tmp_path / "kernels"))
    facts = json.loads(result.stdout)
    assert facts["kernels"]["FASTNN_CACHE_DIR"] == facts["kernels"]["folder"] == str(tmp_path / "kernels")
    assert facts["kernels"]["files"] == facts["training"]["cached"] == 0
    assert facts["training"]["compiled"] == len(list((tmp_path / "kernels").iterdir())) > 0


@pytest.mark.usefixtures("no_training")
def test_a_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fastnn_kernels import caching

    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTNN_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(caching, "_warned", set())
    monkeypatch.setattr(caching, "cache_folder", caching.cache_folder.__wrapped__)
    for _ in range(2):  # the second time nobody warns any more
        result = run("--json")
        assert result.exit_code == 0
        assert result.stderr == ""
        kernels = json.loads(result.stdout)["kernels"]
        assert not kernels["writable"]
        assert "they live in memory only" in kernels["reason"]


@pytest.mark.usefixtures("no_training")
def test_a_part_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("the line is dead")

    for label in ("versions", "memory"):
        monkeypatch.setitem(doctor.PARTS, label, broken)
    result = run()
    assert result.exit_code == 0
    assert "versions  failed: the line is dead\n" in result.stdout
    assert "\nthreads   up to " in result.stdout
    facts = json.loads(run("--json").stdout)
    assert facts["memory"] == {"error": "the line is dead"}
    assert list(facts) == LABELS


@pytest.mark.usefixtures("no_mnist")
@pytest.mark.parametrize("error", [ArithmeticError("the sums are wrong"), RuntimeError("two\nlines")])
def test_without_training_it_ends_with_1(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(device: str) -> Any:
        raise error

    monkeypatch.setattr(doctor, "_train", broken)
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    result = run()
    assert result.exit_code == 1
    assert f"\ntraining  failed: {text}\n" in result.stdout
    assert result.stderr == f"error: training does not work on the CPU: {text} (--debug shows where)\n"
    assert json.loads(run("--json").stdout)["training"] == {"error": text}
    raised = run("--debug").exception
    assert raised is not None
    assert raised.__cause__ is error


@pytest.mark.usefixtures("no_mnist")
@pytest.mark.parametrize("loss", [1.01, 0.99, float("nan"), float("inf")])
def test_a_wrong_loss_is_an_error(monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    monkeypatch.setattr(doctor, "_train", lambda device: [2.0, 1.0 if device == "numpy" else loss])
    result = run()
    assert result.exit_code == 1
    assert f"the loss on cpu comes to {loss:.4f}, expected 1.0000" in result.stderr


@pytest.mark.usefixtures("no_training")
def test_a_gpu_is_tried(monkeypatch: pytest.MonkeyPatch, cuda_host: HostRuntime) -> None:
    tried = []

    def train(device: str) -> list[float]:
        tried.append(device)
        return [2.0, 1.0]

    monkeypatch.setattr(doctor, "_train", train)
    gpu = json.loads(run("--json").stdout)["gpu"]
    assert gpu["usable"]
    assert gpu["device"] == "cuda:0"
    assert gpu["loss"] == [2.0, 1.0]
    assert tried == ["cuda", "numpy"]
    monkeypatch.setattr(doctor, "_train", lambda device: [2.0, 1.0 if device == "numpy" else 3.0])
    result = run()
    assert result.exit_code == 0  # the CPU is what counts
    assert "training on cuda:0 failed: " in " ".join(result.stdout.split())


@pytest.mark.usefixtures("no_training", "cuda_hosts")
def test_without_a_gpu_the_reason_is_that_of_the_engines() -> None:
    from fastnn import engines
    from fastnn.errors import DeviceError

    with pytest.raises(DeviceError) as error:
        engines.choose("cuda")
    gpu = json.loads(run("--json").stdout)["gpu"]
    assert not gpu["usable"]
    assert gpu["reason"] == str(error.value)


@pytest.mark.usefixtures("no_training")
def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name.startswith(("cupy", "polars", "scipy")) else "1.2")
    text = " ".join(run().stdout.split())
    assert 'cupy is not installed: pip install "fastnn-xp[cuda13]"' in text
    assert "polars is not installed: pip install polars" in text
    assert "scipy is not installed: pip install scipy" in text
    assert "pyarrow 1.2" in text


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(("quota", "says"), [(None, False), (1e-9, True), (0.5, True), (1e6, False)])
def test_the_quota_of_a_container(monkeypatch: pytest.MonkeyPatch, quota: float | None, says: bool) -> None:
    monkeypatch.setattr(doctor, "_quota", lambda: quota)
    assert ("give threads=1" in " ".join(run().stdout.split())) is says


@pytest.mark.parametrize(("text", "quota"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("", None)])
def test_a_quota_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, quota: float | None) -> None:
    monkeypatch.setattr(doctor, "QUOTA", tmp_path / "cpu.max")
    assert doctor._quota() is None
    (tmp_path / "cpu.max").write_text(text)
    assert doctor._quota() == quota
