"""Compiling in two processes: what is done where, and that nothing is lost where the second one is not to be had."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from fastnn_kernels.cpu import beside


class Work:
    """Calls that are never compiled: what was asked for, and the processes that were started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kept: int = 0, code: str = "") -> None:
        self.compiled: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.calls: list[Any] = [(f"kernel {k}", (), {"number": k}) for k in range(6)]
        popen = subprocess.Popen

        def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
            self.processes.append(popen(*arguments, **options))
            return self.processes[-1]

        monkeypatch.setattr(beside, "kernel_key", lambda name, operands, attributes: (name, None, ()))
        monkeypatch.setattr(beside, "is_kept", lambda key: int(key[0].split()[1]) < kept)
        monkeypatch.setattr(beside, "kernel_address", lambda name, *_: self.compiled.append(name))
        monkeypatch.setattr(beside, "lower", lambda name, operands, attributes: f"lowered {name}")
        monkeypatch.setattr(beside, "CODE", code)
        monkeypatch.setattr(beside.subprocess, "Popen", start)

    def lower(self, cores: int = 2) -> None:
        assert beside.lower_all(self.calls, lambda: cores) == [f"lowered {call[0]}" for call in self.calls]
        self.check_over()

    def check_over(self) -> None:
        assert not beside._starting.locked()
        for process in self.processes:
            process.wait(20)


def test_this_process_begins_with_the_last_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = "import pickle, sys; path = pickle.load(sys.stdin.buffer); calls = pickle.load(sys.stdin.buffer)\n"
    work = Work(
        monkeypatch, kept=1, code=seen + f"assert path == {sys.path!r} and len(calls) == 5; print(flush=True)\nsys.stdin.read()"
    )
    work.lower()
    assert work.compiled == [f"kernel {k}" for k in (5, 4, 3, 2, 1)]
    assert [process.returncode for process in work.processes] == [0]


@pytest.mark.parametrize(("kept", "cores"), [(0, 1), (3, 2), (6, 2)])
def test_no_process_is_started_for_little_work_or_on_one_core(kept: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, kept)
    work.lower(cores)
    assert not work.processes
    assert not work.compiled


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import time; time.sleep(60)"])
def test_a_process_that_fails_or_hangs_costs_nothing_but_time(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, code=code)
    monkeypatch.setattr(beside, "PATIENCE", 0.2)
    started = time.monotonic()
    work.lower()
    assert time.monotonic() - started < 30
    assert len(work.processes) == 1
    assert len(work.compiled) == 6


def test_a_process_that_cannot_be_started_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError("no processes here")

    monkeypatch.setattr(beside.subprocess, "Popen", refuse)
    work.lower()
    assert len(work.compiled) == 6


@pytest.mark.parametrize("program", ["/opt/editor/bin/editor", "", None])
def test_a_program_that_holds_python_is_not_started_again(program: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    monkeypatch.setattr(sys, "executable", program)
    work.lower()
    assert not work.processes


def test_attributes_that_cannot_travel_are_compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    work.calls[2] = ("kernel 2", (), {"function": lambda: None})
    work.lower()
    assert not work.processes
    assert len(work.compiled) == 6


def test_an_interruption_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, code="import time; time.sleep(60)")

    def interrupt(*key: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(beside, "kernel_address", interrupt)
    with pytest.raises(KeyboardInterrupt):
        beside.lower_all(work.calls, lambda: 2)
    work.check_over()
    assert len(work.processes) == 1
