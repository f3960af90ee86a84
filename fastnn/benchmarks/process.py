"""A contestant's process, and the other end of its pipes.

    python -m fastnn.benchmarks.process MODULE:CLASS THREADS

It reads one request a line on standard input and answers each with one line on standard output; between its turns it is
blocked on that pipe, so that it takes no time from the others. Whatever a library prints goes to standard error, which is kept
for the message if the process ends. Before anything is imported, the process is put on as many cores as it has threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Self

import msgspec

from fastnn.benchmarks.grid import CALLS, Cell, check_order, make_task
from fastnn.benchmarks.peers import Cannot, Contestant, Entry, load

PREPARED = ("run", "end")
"""Requests that only a process can answer that was told to prepare."""
LINGER = 5.0
"""Seconds that a process gets to end by itself."""


class Failed(Exception):
    """A request that could not be answered: the contestant raised, its process ended, or it was too late."""


class TimedOut(Failed):
    """No answer in time; the process was ended."""


# --- the contestant's side --------------------------------------------------------------------------------------------


class Worker:
    """Answers requests about one contestant; `prepare` comes first."""

    def __init__(self, home: str, threads: int) -> None:
        self.home, self.threads = home, threads
        self.contestant: Any = None
        self.called: set[str] = set()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = getattr(self, "do_" + request.pop("do"))(**request)
        return reply

    def do_hello(self) -> dict[str, Any]:
        """Import the library."""
        load(self.home)
        return {}

    def do_limits(self, cell: dict[str, Any]) -> dict[str, Any]:
        meter: Any = self.make(msgspec.convert(cell, Cell))
        return {"limits": msgspec.to_builtins(meter.limits())}

    def do_losses(self, cell: dict[str, Any], dropout: bool, **options: Any) -> dict[str, Any]:
        """The losses of the first steps, on the same mini-batches for everybody, with and without dropout; or some outputs."""
        converted = msgspec.convert(cell, Cell)
        contestant = self.make(converted, checking=not dropout, **options)
        return {"losses": contestant.sample() if converted.inference else contestant.losses(check_order(converted))}

    def do_prepare(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Get ready for the turns: one epoch or one answer, in which everything is compiled that can be."""
        _forget_peak()
        self.contestant = self.make(msgspec.convert(cell, Cell))
        return {"first_seconds": self.contestant.time(1)}

    def do_work(self, cell: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {"work": self.make(msgspec.convert(cell, Cell), **options).work()}

    def do_run(self, runs: int, call: str = "") -> dict[str, Any]:
        """Seconds of an epoch, or of a kind of short calls, of which the first is not timed: it compiles what it needs."""
        if not call:
            return {"seconds": self.contestant.time(runs)}
        if call not in self.called:
            self.contestant.time_calls(CALLS[call], 1)
            self.called.add(call)
        return {"seconds": self.contestant.time_calls(CALLS[call], runs)}

    def do_end(self) -> dict[str, Any]:
        """How much memory it took; then let go of it."""
        peak = self.contestant.peak_bytes() if self.contestant is not None else None
        self.contestant = None
        gc.collect()
        return {"peak_bytes": peak if peak is not None else _peak()}

    def make(self, cell: Cell, checking: bool = False, **options: Any) -> Contestant:
        self.contestant = None
        self.called.clear()
        gc.collect()
        return load(self.home)(make_task(cell, self.threads, checking), **options)


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak() -> int | None:
    """The most resident memory since `_forget_peak`, in bytes; None where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


def serve(home: str, threads: int) -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker(home, threads)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Cannot as error:
            answer = {"cannot": str(error)}
        except Exception as error:
            text = " ".join(str(error).split())
            answer = {"failed": f"{type(error).__name__}: {text}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def end_with_parent() -> None:
    """Let the system end this process when the runner is gone, even while it is busy (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def pin(threads: int) -> None:
    """Keep this process and all its threads on the first `threads` of its cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


# --- the other side ---------------------------------------------------------------------------------------------------


def variables(entry: Entry, device: str, threads: int) -> dict[str, str]:
    """The environment that makes every library use so many threads, and the device that is meant."""
    values = dict(os.environ)
    for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM"):
        values[f"{library}_NUM_THREADS"] = str(threads)
    values["JAX_PLATFORMS"] = "cuda" if device == "cuda" else "cpu"
    values["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes most of a GPU's memory, and the others share the rest
    values["PYTHONWARNINGS"] = "ignore"
    flags = [values.get("XLA_FLAGS", "")]
    if device == "cpu":
        values["CUDA_VISIBLE_DEVICES"] = ""
        values["PJRT_NPROC"] = str(threads)
        flags.append(f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}")
    flags.append(entry.flags)
    values["XLA_FLAGS"] = " ".join(filter(None, flags))
    return values


class Process:
    """A contestant on a device. Requests that fail raise `Failed`, and the process is started anew for the next one."""

    def __init__(self, entry: Entry, device: str, threads: int) -> None:
        self.entry, self.device, self.threads = entry, device, threads
        self.started = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, do: str, **request: Any) -> None:
        """Begin a request. `receive` takes its answer."""
        if do in PREPARED and (self._process is None or self._process.poll() is not None):
            raise Failed(self._end())
        process = self._running()
        assert process.stdin
        try:
            process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # `receive` finds out why

    def receive(self, seconds: float) -> dict[str, Any]:
        """The answer, if it comes in so many seconds. Raises Failed, TimedOut, and Cannot where there is no way to do it."""
        answer = self._line(time.monotonic() + max(0.0, seconds))
        if answer is None:
            self.kill()
            raise TimedOut(f"no answer in {seconds:.0f} s")
        if not answer:
            raise Failed(self._end())
        reply: dict[str, Any] = json.loads(answer)
        if "cannot" in reply:
            raise Cannot(reply["cannot"])
        if "failed" in reply:
            raise Failed(reply["failed"])
        return reply

    def ask(self, do: str, seconds: float, **request: Any) -> dict[str, Any]:
        """A request and its answer."""
        self.send(do, **request)
        return self.receive(seconds)

    def close(self) -> None:
        """End the process: by closing its pipe, and if that does not help, by force."""
        if self._process is not None:
            assert self._process.stdin
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LINGER)
            self.kill()

    def kill(self) -> None:
        """End the process and what it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, self._errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.kill()
        self._errors, self._rest = tempfile.TemporaryFile(), b""  # noqa: SIM115
        command = [sys.executable, "-m", "fastnn.benchmarks.process", self.entry.home, str(self.threads)]
        # A session of its own: Ctrl-C is for the runner, and whatever the process starts can be ended with it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
            env=variables(self.entry, self.device, self.threads),
        )  # fmt: skip
        self.started += 1
        return self._process

    def _line(self, deadline: float) -> bytes | None:
        """The next line of the answers; empty if the process ended, None if it is too late."""
        process = self._process
        if process is None:
            return b""
        assert process.stdout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return None
            read = os.read(process.stdout.fileno(), 65536)
            if not read:
                return b""
            self._rest += read
        line, self._rest = self._rest.split(b"\n", 1)
        return line + b"\n"

    def _end(self) -> str:
        """How the process ended, and the last it said."""
        process = self._process
        if process is None:
            return "its process is gone"
        try:
            code = process.wait(LINGER)
        except subprocess.TimeoutExpired:
            code = 0
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        self.kill()
        how = f"was ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        return f"its process {how}{': ' if last else ''}{last}"[:300]


@contextlib.contextmanager
def closing(processes: dict[Any, Process]) -> Iterator[None]:
    """End all of them at the end, whatever happens."""
    try:
        yield
    finally:
        for process in processes.values():
            process.close()


if __name__ == "__main__":
    end_with_parent()
    pin(int(sys.argv[2]))
    serve(sys.argv[1], int(sys.argv[2]))
