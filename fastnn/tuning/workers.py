"""Runners: they ask a study for jobs, run them, and tell how they ended. One runs them here, one in processes of their own.

Only the process of the search touches the study. Workers are started fresh (`spawn`), each with one thread: trials side by side
make better use of cores than threads within one. A worker gets its jobs, and sends its reports, through a pipe, whose end
tells that it was killed; the trial has failed then, and another worker takes its place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from multiprocessing.process import parent_process
from multiprocessing.reduction import ForkingPickler
from typing import Any

from fastnn.errors import InputError, NotReadyError
from fastnn.tuning.study import Study
from fastnn.tuning.trial import Job, Outcome, Train, Trial, outcome_of

ONE_THREAD = ("FASTNN_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
WAIT_SECONDS = 0.5
"""How often the study is asked again where a job depends on trials that others run."""

Tell = Callable[[Job, Outcome], None]
"""Called after each trial."""


def run_here(study: Study, train: Train, notify: Tell) -> None:
    """One trial after another in this process."""
    while (job := study.ask()) is not None:
        if job == "wait":
            time.sleep(WAIT_SECONDS)
            continue
        outcome = outcome_of(train, Trial(job, lambda value, step, job=job: study.report(job, value, step)))  # type: ignore[misc]
        study.tell(job, outcome)
        notify(job, outcome)


def run_in_processes(study: Study, train: Train, notify: Tell, count: int) -> None:
    """Trials side by side, in so many processes. Raises InputError for a function that other processes cannot find."""
    try:
        function = bytes(ForkingPickler.dumps(train))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers={count} need a function that other processes can load, defined at the top of a module; {error}"
        ) from error
    workers: list[_Worker] = []
    try:
        while True:
            waiting = False
            while not waiting and sum(worker.job is not None for worker in workers) < count:
                job = study.ask()
                if job is None:
                    break
                if job == "wait":
                    waiting = True
                    continue
                worker = next((worker for worker in workers if worker.job is None), None)
                if worker is None:
                    worker = _Worker(function)
                    workers.append(worker)
                worker.give(job)
            busy = {worker.pipe: worker for worker in workers if worker.job is not None}
            if not busy and not waiting:
                break
            for pipe in connection.wait(list(busy), timeout=WAIT_SECONDS if waiting else None):
                worker = busy[pipe]  # type: ignore[index]
                ended = worker.listen(study)
                if ended is not None:
                    job, outcome = ended
                    study.tell(job, outcome)
                    notify(job, outcome)
                if not worker.lives:
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that runs one job after another, seen from the search."""

    def __init__(self, function: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, function), name="fastnn search", daemon=True)
        with _environment(dict.fromkeys(ONE_THREAD, "1")):
            self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.ready, self.lives = False, True

    def give(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # dead already: its pipe says so when it is listened to
            self.pipe.send(job)

    def listen(self, study: Study) -> tuple[Job, Outcome] | None:
        """Take what it says; the job and its outcome where it has ended."""
        job = self.job
        assert job is not None
        try:
            kind, *values = self.pipe.recv()
            if kind == "report":
                self.pipe.send(study.report(job, *values))
        except (EOFError, OSError):
            return job, self._dead()
        if kind == "ready":
            self.ready = True
        elif kind == "broken":
            raise InputError(f"another process cannot load the function: {values[0]}; define it at the top of a module")
        elif kind == "ended":
            self.job = None
            return job, values[0]
        return None

    def _dead(self) -> Outcome:
        self.lives = False
        self.end()
        code = self.process.exitcode or 0
        if not self.ready:
            raise NotReadyError(
                f"a worker ended with exit code {code} before its first trial (its own words are above); a script that searches"
                ' with workers begins with `if __name__ == "__main__":` where it does more than define functions'
            )
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return Outcome("failed", error=f"the process of the trial ended with {how}")

    def end(self) -> None:
        """Let it go: at once where it has nothing to do, else by killing it."""
        self.pipe.close()
        if self.job is not None and self.lives:
            self.process.kill()
        self.process.join()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(pipe: Any, function: bytes) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        train = pickle.loads(function)
    except Exception as error:
        pipe.send(("broken", f"{type(error).__name__}: {error}"))
        return
    pipe.send(("ready",))

    def report(value: float, step: int) -> bool:
        pipe.send(("report", value, step))
        return bool(pipe.recv())

    with contextlib.suppress(EOFError, BrokenPipeError):  # the search is over
        while True:
            job = pipe.recv()
            pipe.send(("ended", outcome_of(train, Trial(job, report))))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
