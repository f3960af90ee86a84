"""`Study`: the trials of a search in an Optuna study: who runs which, how they ended, and what a killed search left behind.

Runners ask for jobs and tell how they ended; where and how many at a time they run them is theirs. A process that runs a study
keeps its own name, and a sign of life, beside each of its trials. A trial whose process is gone is put back: the study marks it
as failed and lost, and enqueues it again at the same point.

The number of a trial is not Optuna's, which counts those that were put back too: a fresh trial's number is how many fresh ones
came before it, and one that was put back keeps its number. Optuna hands its own numbers out atomically and says at once which
of the trials are fresh, so that searches that share a study, on any number of machines, agree on the numbers without a lock.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastnn.errors import FileError, InputError
from fastnn.tuning.results import Results, TrialResult
from fastnn.tuning.space import Space
from fastnn.tuning.strategies import SearchOptions, point_sampler
from fastnn.tuning.trial import Job, Outcome

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

OPTIONS = "fastnn"
OWNER, LOST, NUMBER, ERROR = "owner", "lost", "number", "error"
STOPPED, SURPLUS = "stopped", "surplus"
"""Why a trial was lost: it was stopped, or it is one more than were asked for."""

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}

ASKED = -1
"""The number of a trial whose number is not known yet."""
BEAT_SECONDS = 30.0
"""How often a process gives a sign of life; looking for trials that were lost is as rare."""
GONE_SECONDS = 300.0
"""After how long without one a process on another machine is taken for dead; the clocks may differ by half of it."""
LOCK_SECONDS = 60.0
"""How long SQLite waits for others that write."""
JOURNAL_SECONDS = 10
"""After how long without a change the lock of a journal is taken from a process that was killed while it wrote."""
MADE_SECONDS = 2.0
"""How long a study may go without its options: they are written right after it was made."""
UNOWNED_SECONDS = 10.0
"""How long a trial may go without an owner: it is written right after the trial was made."""


def me() -> str:
    """This process among all processes of all machines."""
    return f"{_machine()} {os.getpid()} {_start_time(os.getpid())}"


def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _start_time(process: int) -> str:
    """When a process of this machine began, in clock ticks; "" where there is none, "?" where the system does not tell."""
    if not os.path.isdir("/proc/self"):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "?"
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # proc(5): state is field 3, starttime field 22


def _is_gone(trial: FrozenTrial) -> bool:
    """Whether nobody runs this trial any more that is running by its state."""
    owner = trial.user_attrs.get(OWNER)
    if owner is None:
        begun = trial.datetime_start
        return begun is None or (datetime.now() - begun).total_seconds() > UNOWNED_SECONDS
    machine, process, started = owner["process"].rsplit(" ", 2)
    if machine == _machine():
        return bool(_start_time(int(process)) != started)
    return time.time() - float(owner["seen"]) > GONE_SECONDS


class Study:
    """The trials of one search; `open_study` makes it."""

    def __init__(self, study: optuna.Study, storage: Any, options: SearchOptions, shared: bool) -> None:
        self.study, self.storage, self.options = study, storage, options
        self.shared = shared
        """Whether others may see the trials: now in other processes, or later in another search."""
        self.running: dict[int, optuna.Trial] = {}
        """By number, from before the study knows who runs it until it knows how it ended: Ctrl-C may come at any moment."""
        self.owner = me()
        self._looked = -BEAT_SECONDS

    # --- what runners call --------------------------------------------------------------------------------------

    def ask(self) -> Job | Literal["wait"] | None:
        """The next job; "wait" where it depends on trials that are running; None where there is none left."""
        if self.shared and time.monotonic() - self._looked >= BEAT_SECONDS:
            self.put_back()
        trials = self._trials()
        if not any(trial.state.name == "WAITING" for trial in trials):
            fresh = _fresh(trials)
            if fresh >= self.options.total:
                if any(OWNER not in trial.user_attrs for trial in trials if trial.state.name == "RUNNING"):
                    self._looked = -BEAT_SECONDS
                    return "wait"
                return None
            if not self.options.is_ready(fresh, latest(trials)):
                return "wait"
        self.study.sampler = self.options.sampler(len(trials))
        trial = self.running[ASKED] = self.study.ask()
        if self.shared:
            self._sign(trial._trial_id)
        trials = self._trials()[: trial.number + 1]
        again = trials[-1].user_attrs.get(NUMBER)
        number = _fresh(trials) - 1 if again is None else int(again)
        if number >= self.options.total:  # another search has begun the last one at the same moment
            surplus = self.running.pop(ASKED)
            self._lose(surplus._trial_id, surplus.number, SURPLUS)
            return None
        if self.options.strategy != "tpe":
            self.study.sampler = point_sampler(self.options.space.to_stored(self.options.point(number, latest(trials))))
        for name, distribution in self.options.space.to_optuna().items():
            _suggest(trial, name, distribution)
        self.running[number] = self.running.pop(ASKED)
        seed = self.options.seed_of(number)
        return Job(number, self.options.space.point(trial.params), seed, self.options.mode)

    def report(self, job: Job, value: float, step: int) -> bool:
        """Keep a value for the pruner, if there is one; whether it says that the trial should end."""
        if not self.options.prunes:
            return False
        trial = self.running[job.number]
        trial.report(value, step)
        return trial.should_prune()

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Write down how a job ended."""
        from optuna.trial import TrialState

        trial = self.running[job.number]
        if outcome.error:
            with _ignore_finished():
                trial.set_user_attr(ERROR, outcome.error)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.study.tell(trial.number, outcome.value, state=states[outcome.state], skip_if_finished=True)
        del self.running[job.number]

    def give_back(self, *numbers: int) -> None:
        """These are not run to their end: the next search takes them up."""
        for number in numbers:
            trial = self.running[number]
            self._lose(trial._trial_id, trial.number)
            del self.running[number]

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life meanwhile, and what is running back where it ends early."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                for trial in list(self.running.values()):
                    with contextlib.suppress(Exception):  # the next one may get through
                        self._sign(trial._trial_id)

        if self.shared:
            threading.Thread(target=beat, name="fastnn search", daemon=True).start()
        try:
            yield
        finally:
            over.set()
            self.give_back(*self.running)

    # --- numbers and points -------------------------------------------------------------------------------------

    def put_back(self) -> None:
        """Enqueue again what nobody runs any more."""
        self._looked = time.monotonic()
        mine = {trial.number for trial in self.running.values()}
        for trial in self._trials():
            if trial.state.name == "RUNNING" and trial.number not in mine and _is_gone(trial):
                self._lose(trial._trial_id, trial.number)
        for number, trial in latest(self._trials()).items():
            if trial.state.name == "FAIL" and LOST in trial.user_attrs and number < self.options.total:
                names = self.options.space.to_optuna()
                known = trial.params if len(trial.params) == len(names) else {}
                self.study.enqueue_trial(known, user_attrs={NUMBER: number})

    def _sign(self, trial_id: int) -> None:
        """This process runs the trial, and is alive now."""
        self.storage.set_trial_user_attr(trial_id, OWNER, {"process": self.owner, "seen": time.time()})

    def _lose(self, trial_id: int, number: int, why: str = STOPPED) -> None:
        from optuna.trial import TrialState

        with _ignore_finished():
            self.storage.set_trial_user_attr(trial_id, LOST, why)
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def latest(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """By number, the trial that counts: the last one that was put back, unless an earlier one has come to its end after all."""
    current: dict[int, FrozenTrial] = {}
    fresh = 0
    for trial in trials:
        number = trial.user_attrs.get(NUMBER)
        if number is None:
            number, fresh = fresh, fresh + 1
        if number not in current or LOST in current[number].user_attrs or current[number].state.name in ("RUNNING", "WAITING"):
            current[number] = trial
    return dict(sorted(current.items()))


def results_of(space: Space, mode: str, trials: dict[int, FrozenTrial]) -> Results:
    """The table of Optuna's trials by their numbers."""
    rows = []
    for number, trial in trials.items():
        lost = trial.user_attrs.get(LOST)
        if lost == SURPLUS:
            continue
        begun, ended = trial.datetime_start, trial.datetime_complete
        seconds = (ended - begun).total_seconds() if begun is not None and ended is not None and lost is None else math.nan
        value = trial.value if trial.value is not None else math.nan
        state = "interrupted" if lost is not None else STATES[trial.state.name]
        rows.append(TrialResult(number, space.point(trial.params), value, state, seconds, trial.user_attrs.get(ERROR, "")))
    return Results(space, rows, mode)


def _fresh(trials: Sequence[FrozenTrial]) -> int:
    return sum(NUMBER not in trial.user_attrs for trial in trials)


def _suggest(trial: optuna.Trial, name: str, distribution: Any) -> None:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    else:
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


@contextlib.contextmanager
def _ignore_finished() -> Iterator[None]:
    """A trial that was taken for lost, and was not, may be finished by two."""
    from optuna.exceptions import UpdateFinishedTrialError

    with contextlib.suppress(UpdateFinishedTrialError):
        yield


# --- storages -----------------------------------------------------------------------------------------------------


def open_storage(storage: str | os.PathLike[str] | None, make: bool) -> Any:
    """Optuna's storage of a path or a URL; in memory for None.

    A file that ends in `.journal` is a journal, for folders that machines share over a network; any other file is SQLite's,
    which is whole after a kill at any moment and gives its locks back. Raises FileError.
    """
    import optuna

    if storage is None:
        return optuna.storages.InMemoryStorage()
    text = os.fspath(storage)
    try:
        if "://" in text:
            return optuna.storages.RDBStorage(text)
        if not make and not Path(text).is_file():
            raise FileNotFoundError("there is no such file")
        if text.endswith(".journal"):
            from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

            return optuna.storages.JournalStorage(JournalFileBackend(text, lock_obj=JournalFileOpenLock(text, JOURNAL_SECONDS)))
        return _sqlite(Path(text).absolute())
    except Exception as error:
        raise FileError(f"storage {text} cannot be used: {error}") from error


def _sqlite(path: Path) -> Any:
    """SQLite with a write-ahead log that is seldom flushed: a kill loses nothing, a power cut the last trials."""
    import sqlalchemy

    if not path.exists():
        _make_sqlite(path)
    storage = _rdb(path)
    storage.engine.dispose()
    sqlalchemy.event.listen(
        storage.engine, "connect", lambda connection, record: connection.execute("PRAGMA synchronous=NORMAL")
    )
    return storage


def _make_sqlite(path: Path) -> None:
    """The empty tables, whole or not at all, and once: others may be at it at the same moment."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb"):  # says better than SQLite why not
            pass
        with contextlib.closing(sqlite3.connect(temporary)) as file:
            file.execute("PRAGMA journal_mode=WAL")
        close_storage(_rdb(temporary))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _rdb(path: Path) -> Any:
    """Connections are made here: a path may have characters that mean something in a URL."""
    import optuna

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False)

    return optuna.storages.RDBStorage("sqlite:///fastnn", engine_kwargs={"creator": connect})


def close_storage(storage: Any) -> None:
    """Close its files, so that SQLite's is one file again."""
    if hasattr(storage, "engine"):
        storage.remove_session()
        storage.engine.dispose()


def open_study(
    storage: str | os.PathLike[str] | None, name: str, options: SearchOptions, explicit: Sequence[str], pruner: Any
) -> Study:
    """The study of that name, made or resumed. Raises FileError, and InputError where its options differ in one of those
    that are `explicit`."""
    kept = open_storage(storage, make=True)
    try:
        with quiet():
            try:
                study, before = _study_in(kept, name, options, pruner)
            except Exception as error:
                raise FileError(f"storage {storage} cannot be used: {error}") from error
        if before is None:
            raise InputError(f"the study {name!r} of {storage} was not made by fastnn; give another name=")
        return Study(study, kept, options.continue_from(before, explicit, name), shared=storage is not None)
    except BaseException:
        close_storage(kept)
        raise


def _study_in(kept: Any, name: str, options: SearchOptions, pruner: Any) -> tuple[optuna.Study, dict[str, Any] | None]:
    """The study of that name, and the options that it was made with: those of whoever made it, where several begin at the same
    moment. None where it is somebody else's."""
    import optuna

    directions = optuna.study.StudyDirection
    direction = directions.MINIMIZE if options.mode == "min" else directions.MAXIMIZE
    try:
        study = optuna.create_study(storage=kept, study_name=name, direction=direction, pruner=pruner)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=kept, study_name=name, pruner=pruner)
        until = time.monotonic() + MADE_SECONDS
        while OPTIONS not in study.user_attrs and not study.get_trials(deepcopy=False) and time.monotonic() < until:
            time.sleep(MADE_SECONDS / 40)
    if OPTIONS not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(OPTIONS, options.to_config())
    return study, study.user_attrs.get(OPTIONS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna logs each study that is made; say what went wrong only."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
