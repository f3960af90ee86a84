"""Searches: the same points in any order and after any end, what fails, what is pruned, what is kept, and the table."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn.errors import FastnnError, FileError, InputError, InputTypeError, NotReadyError, PackageError
from fastnn.tuning import Choice, Integers, LogUniform, OneMinus, Results, Space, Trial, TrialResult, Uniform, load, search
from fastnn.tuning import study as study_module

optuna = pytest.importorskip("optuna")

SPACE = Space(
    {"x": LogUniform(1e-3, 1), "beta": OneMinus(LogUniform(1e-3, 1e-1)), "n": Integers(1, 9), "c": Choice(["a", "b"])}
)


def bowl(parameters: dict[str, Any], trial: Trial) -> float:
    return (math.log10(parameters["x"]) + 2) ** 2 + abs(parameters["n"] - 4)


def fails_sometimes(parameters: dict[str, Any], trial: Trial) -> float:
    if trial.number == 1:
        raise ValueError("no luck")
    if trial.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if trial.number == 3:
        sys.exit(3)
    return float(trial.number)


def threads(parameters: dict[str, Any], trial: Trial) -> float:
    from fastnn import engines

    trial.report(float(trial.number), 0)
    return engines.cores() + (signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)


def points(results: Results) -> list[dict[str, Any]]:
    return [trial.parameters for trial in results]


# --- where trials lie ---------------------------------------------------------------------------------------------


def test_points_depend_on_the_seed_and_the_number_alone(tmp_path: Path) -> None:
    whole = search(bowl, SPACE, trials=6, seed=3)
    assert points(search(bowl, SPACE, trials=4, seed=3)) == points(whole)[:4]
    assert points(search(bowl, SPACE, trials=6, seed=4)) != points(whole)
    stored = search(bowl, SPACE, trials=3, seed=3, storage=tmp_path / "a.journal")
    assert points(stored) == points(whole)[:3]
    further = search(bowl, SPACE, trials=6, storage=tmp_path / "a.journal")  # its seed is kept
    assert points(further) == points(whole)
    assert [trial.value for trial in further] == [trial.value for trial in whole]


def test_values_are_those_of_the_function() -> None:
    results = search(bowl, SPACE, trials=10, seed=0)
    for number, trial in enumerate(results):
        p = trial.parameters
        assert (trial.number, trial.state, trial.error) == (number, "complete", "")
        assert trial.value == (np.log10(p["x"]) + 2) ** 2 + abs(p["n"] - 4)
        assert 0 <= trial.seconds < 5
    assert results.best.value == min(results.values)
    assert search(bowl, SPACE, trials=10, seed=0, mode="max").best.value == max(results.values)


def test_a_grid() -> None:
    results = search(bowl, SPACE, trials=40, strategy="grid", seed=0)
    assert points(results) == SPACE.grid(40)
    assert len(results) == 36  # 3 x 3 x 2 x 2


@pytest.mark.parametrize("storage", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_from_coarse_to_fine(storage: bool, tmp_path: Path) -> None:
    space = {"x": LogUniform(1e-3, 1), "y": Uniform(0, 1)}

    def far(parameters: dict[str, Any], trial: Trial) -> float:
        return math.hypot(math.log10(parameters["x"]) + 2, parameters["y"] - 0.5)

    options: dict[str, Any] = {"strategy": "coarse-to-fine", "seed": 1, "rounds": 2, "share": 0.25}
    results = search(far, space, trials=60, **options, **({"storage": tmp_path / "c.db"} if storage else {}))
    first = sorted(results.trials[:30], key=lambda trial: trial.value)[:8]
    for name in space:
        lower, upper = (extreme(trial.parameters[name] for trial in first) for extreme in (min, max))
        later = results[name][30:]
        assert (lower <= later).all()
        assert (later <= upper).all()
        assert results[name][:30].min() < lower < upper < results[name][:30].max()
    assert np.median(results.values[30:]) < np.median(results.values[:30])


def test_tpe_learns_from_what_has_ended() -> None:
    results = search(bowl, SPACE, trials=40, strategy="tpe", seed=0)
    assert np.median(results.values[20:]) < np.median(results.values[:10])
    assert points(search(bowl, SPACE, trials=40, strategy="tpe", seed=0)) == points(results)


def test_each_trial_has_a_seed_of_its_own() -> None:
    def seed(parameters: dict[str, Any], trial: Trial) -> float:
        return float(trial.seed)

    found = search(seed, SPACE, trials=5, seed=0).values
    assert len(set(found)) == 5
    assert list(search(seed, SPACE, trials=5, seed=0).values) == list(found)


@pytest.mark.slow
def test_random_points_beat_a_grid_on_the_digits() -> None:
    """Nine studies of 60 trials, with the grid's five rates, two decades apart, at another place in each.

    Where one of them happens to be near the best rate, the grid is ahead; but not by the median, the mean and the worst.
    """
    import fastnn

    data = fastnn.datasets.load("digits")
    (X, y), dev = fastnn.datasets.split(data.X_train, data.y_train, sizes=(0.75, 0.25), seed=0, stratify=data.y_train)

    def train(parameters: dict[str, Any], trial: Trial) -> float:
        model = fastnn.Sequential([fastnn.Dense(parameters["units"], activation="relu"), fastnn.Dense(10)], seed=trial.seed)
        history = model.fit(
            X, y, optimizer=fastnn.SGD(parameters["rate"]), l2=parameters["l2"], batch_size=64, epochs=5, validation_data=dev,
            verbose=0, device="cpu",
        )  # fmt: skip
        return history["val_loss"][-1]

    best = []
    for study, shift in enumerate(np.linspace(-0.9, 1.1, 10)[:9]):  # one period of the grid
        rate = LogUniform(10 ** (shift - 6), 10 ** (shift + 2))
        space = {"rate": rate, "l2": LogUniform(1e-7, 1e-3), "units": Integers(32, 128, log=True)}
        best.append([search(train, space, trials=60, strategy=s, seed=study).best.value for s in ("grid", "random")])
    for of_all in (np.median, np.mean, np.max):
        grid, drawn = of_all(best, axis=0)
        assert drawn < grid


# --- what goes wrong in a trial -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (math.nan, "got nan"),
        (math.inf, "got inf"),
        (None, "got None"),
        ("0.5", "got '0.5'"),
        (True, "got True"),
        ([1.0], "got [1.0]"),
    ],
)
def test_what_is_no_finite_number_fails_the_trial(returned: Any, shown: str) -> None:
    results = search(lambda parameters, trial: returned if trial.number else 1.0, SPACE, trials=2, seed=0)
    assert [trial.state for trial in results] == ["complete", "failed"]
    assert math.isnan(results[1].value)
    assert results[1].error == f"expected a finite number from the function, {shown}"


@pytest.mark.parametrize("returned", [1, np.float32(0.5), np.array(2.0), np.int64(3)])
def test_numbers_of_any_kind(returned: Any) -> None:
    assert search(lambda parameters, trial: returned, SPACE, trials=1).best.value == float(returned)


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_whole_number_beyond_float64_fails_the_trial(digits: int) -> None:
    """Of more than 4300 digits Python does not even write it down."""
    results = search(lambda parameters, trial: 10**digits if trial.number else 1.0, SPACE, trials=2, seed=0)
    assert [trial.state for trial in results] == ["complete", "failed"]
    assert results[1].error.startswith("OverflowError")


@pytest.mark.slow
def test_an_exception_is_kept_and_the_others_go_on(tmp_path: Path) -> None:
    def f(parameters: dict[str, Any], trial: Trial) -> float:
        return 1.0 if trial.number != 1 else float(parameters["bet"])

    for results in (search(f, SPACE, trials=3, storage=tmp_path / "s.db"), load(tmp_path / "s.db")):
        assert [trial.state for trial in results] == ["complete", "failed", "complete"]
        assert results[1].error.startswith("InputError: the space has no 'bet'; did you mean 'beta'? (")
    again = search(f, SPACE, trials=3, storage=tmp_path / "s.db")
    assert len(again) == 3  # what has failed has ended


def test_none_is_best_where_all_have_failed() -> None:
    with pytest.warns(UserWarning, match=r"^all 2 trials failed, the last with ZeroDivisionError: ") as told:
        results = search(lambda parameters, trial: 1 / 0, SPACE, trials=2)
    assert (len(told), told[0].filename) == (1, __file__)
    with pytest.raises(NotReadyError, match=r"none of the 2 trials is complete; the first that failed: ZeroDivisionError"):
        _ = results.best
    assert str(results).splitlines()[3] == "2 of 2 failed: all"
    assert str(results).splitlines()[4].startswith("the last of them, 1: ZeroDivisionError")


def test_the_only_trial_fails() -> None:
    with pytest.warns(UserWarning, match=r"^the only trial failed, with ZeroDivisionError: "):
        results = search(lambda parameters, trial: 1 / 0, SPACE, trials=1)
    assert [trial.number for trial in results.failed] == [0]


def test_a_pruned_trial_is_none_that_failed() -> None:
    def f(parameters: dict[str, Any], trial: Trial) -> float:
        if trial.number:
            raise ValueError("no luck")
        trial.stopped = True
        return 1.0

    assert [trial.number for trial in search(f, SPACE, trials=2).failed] == [1]  # and nobody warns


# --- workers ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_workers_fail_their_trial_alone() -> None:
    results = search(fails_sometimes, SPACE, trials=6, workers=2, seed=5)
    assert [trial.state for trial in results] == ["complete", "failed", "failed", "failed", "complete", "complete"]
    assert "no luck (test_tuning.py, line" in results[1].error
    assert results[2].error == "the process of the trial ended with signal 9 (SIGKILL)"
    assert results[3].error == "the process of the trial ended with exit code 3"
    assert points(results) == points(search(bowl, SPACE, trials=6, seed=5))


@pytest.mark.slow
def test_workers_have_one_thread_and_are_deaf_to_ctrl_c() -> None:
    before = dict(os.environ)
    results = search(threads, SPACE, trials=3, workers=2, pruner="median")
    assert list(results.values) == [1.0, 1.0, 1.0]
    assert dict(os.environ) == before


def test_functions_that_other_processes_cannot_load() -> None:
    with pytest.raises(InputError, match="workers=2 need a function that other processes can load"):
        search(lambda parameters, trial: 1.0, SPACE, trials=2, workers=2)


def test_functions_of_modules_that_other_processes_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = types.ModuleType("ghost")
    exec("def f(parameters, trial): return 1.0", ghost.__dict__)
    monkeypatch.setitem(sys.modules, "ghost", ghost)
    with pytest.raises(InputError, match=r"cannot load the function: ModuleNotFoundError: .*ghost"):
        search(ghost.f, SPACE, trials=2, workers=2)


@pytest.mark.slow
def test_scripts_that_search_whenever_they_are_imported(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    command = [sys.executable, script, tmp_path / "s.journal", tmp_path / "log", "4", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "a worker ended with exit code 1 before its first trial" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "log").exists()


def test_the_number_of_threads_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn import engines

    usable = engines.cores()
    monkeypatch.setenv("FASTNN_THREADS", "1")
    assert engines.cores() == 1
    monkeypatch.setenv("FASTNN_THREADS", str(10 * usable))
    assert engines.cores() == usable
    monkeypatch.setenv("FASTNN_THREADS", "two")
    with pytest.raises(InputError, match="FASTNN_THREADS: expected an integer"):
        engines.cores()
    monkeypatch.delenv("FASTNN_THREADS")
    for threads, expected in (("1", 1), ("1,4", 1), (str(10 * usable), usable), ("", usable), ("many", usable), ("0", usable)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert engines.cores() == expected
    monkeypatch.setenv("FASTNN_THREADS", str(usable))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert engines.cores() == usable, "what is said to fastnn counts more"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "50000 100000"}, 0.5),
        ("0::/docker/1234\n", {"cpu.max": "300000 100000"}, 3.0),
        ("7:memory:/x\n4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, 2.0),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("3:cpuset:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000"}, math.inf),
        ("", {}, math.inf),
        ("what is this\n", {"cpu.max": "nonsense"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_quotas_of_control_groups(groups: str | None, files: dict[str, str], cores: float, tmp_path: Path) -> None:
    """Of either version, of the process's own group or of one above, or as a container sees its own."""
    from fastnn_kernels.cores import quota

    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    assert quota(tmp_path / "mounted", tmp_path / "groups") == cores


# --- pruning and callbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pruner", ["median", "halving", optuna.pruners.ThresholdPruner(upper=50)])
def test_a_pruner_ends_what_is_worse(pruner: Any) -> None:
    def f(parameters: dict[str, Any], trial: Trial) -> float:
        value = 100.0 if trial.number == 7 else 1.0
        for step in range(10):
            if trial.report(value, step):
                assert trial.number == 7
                break
        return value

    results = search(f, SPACE, trials=9, pruner=pruner)
    assert [trial.state for trial in results] == ["complete"] * 7 + ["pruned"] + ["complete"]
    assert results[7].value == 100.0
    assert results.best.value == 1.0


def test_the_callback_reports_each_epoch_and_ends_the_fit() -> None:
    import fastnn

    X, y = fastnn.datasets.moons(64, seed=0)
    epochs = []

    def train(parameters: dict[str, Any], trial: Trial) -> float:
        model = fastnn.Sequential([fastnn.Dense(4, activation="tanh"), fastnn.Dense(2)], seed=trial.seed)
        history = model.fit(
            X, y, optimizer=fastnn.SGD(parameters["rate"]), epochs=6, batch_size=16, validation_data=(X, y),
            callbacks=[trial.callback(monitor="val_loss")], verbose=0, device="cpu",
        )  # fmt: skip
        epochs.append(len(history["val_loss"]))
        return history["val_loss"][-1]

    space = {"rate": Choice([0.5])}
    pruner = optuna.pruners.ThresholdPruner(upper=1e-6, n_warmup_steps=2)
    results = search(train, space, trials=2, pruner=pruner, seed=0)
    assert epochs == [3, 3]
    assert {trial.state for trial in results} == {"pruned"}
    assert search(train, space, trials=1, seed=0).best.state == "complete"
    assert epochs[-1] == 6


@pytest.mark.filterwarnings("ignore:the only trial failed:UserWarning")
def test_a_callback_that_watches_the_wrong_way() -> None:
    for monitor, mode in (("val_accuracy", "min"), ("val_loss", "max")):
        results = search(lambda parameters, trial, m=monitor: trial.callback(m), SPACE, trials=1, mode=mode)
        assert f"monitor '{monitor}' and a search with mode='{mode}'" in results[0].error


@pytest.mark.filterwarnings("ignore:the only trial failed:UserWarning")
def test_bad_reports() -> None:
    for call in (("x", 0), (1.0, -1), (1.0, 0.5)):
        results = search(lambda parameters, trial, c=call: trial.report(*c), SPACE, trials=1, pruner="median")
        assert "report: expected" in results[0].error
    twice = search(lambda parameters, trial: [trial.report(1.0, 0) for _ in range(2)], SPACE, trials=1)
    assert "that was not reported yet, got 0" in twice[0].error


# --- storages, and what is resumed ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s.db", "s.journal", pytest.param("sqlite:///{}/s.db", marks=pytest.mark.slow)])
def test_a_study_is_kept_and_gone_on_with(name: str, tmp_path: Path) -> None:
    storage = name.format(tmp_path) if "://" in name else tmp_path / name
    calls = []

    def f(parameters: dict[str, Any], trial: Trial) -> float:
        calls.append(trial.number)
        return bowl(parameters, trial)

    whole = search(f, SPACE, trials=3, seed=0, storage=storage)
    calls.clear()
    assert search(f, SPACE, trials=3, seed=0, storage=storage).trials == whole.trials == load(storage).trials
    assert not calls
    assert len(search(f, SPACE, trials=4, seed=0, storage=storage)) == 4
    assert calls == [3]
    assert len(search(f, SPACE, trials=1, seed=9, storage=storage, name="another")) == 1


@pytest.mark.slow
def test_ctrl_c_leaves_a_study_to_go_on_with(tmp_path: Path) -> None:
    calls: list[int] = []

    def f(parameters: dict[str, Any], trial: Trial) -> float:
        calls.append(trial.number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return bowl(parameters, trial)

    with pytest.raises(KeyboardInterrupt):
        search(f, SPACE, trials=5, seed=0, storage=tmp_path / "s.db")
    assert [trial.state for trial in load(tmp_path / "s.db")] == ["complete", "complete", "interrupted"]
    results = search(f, SPACE, trials=5, storage=tmp_path / "s.db")
    assert calls == [0, 1, 2, 2, 3, 4]
    assert points(results) == points(search(bowl, SPACE, trials=5, seed=0))
    assert {trial.state for trial in results} == {"complete"}


SCRIPT = """
import os, sys, time
from pathlib import Path
from fastnn.tuning import Uniform, search

def f(parameters, trial):
    with open(sys.argv[2], "a") as log:
        log.write(f"begin {trial.number}\\n")
    time.sleep(0.05)
    with open(sys.argv[2], "a") as log:
        log.write(f"end {trial.number} {parameters['x']!r}\\n")
    return parameters["x"]

if __name__ == "__main__":
    search(f, {"x": Uniform(0, 1)}, trials=int(sys.argv[3]), seed=0, storage=sys.argv[1], workers=int(sys.argv[4]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "workers"),
    [
        ("s.db", signal.SIGKILL, 1),
        ("s.db", signal.SIGKILL, 2),
        ("s.db", signal.SIGINT, 2),
        ("s.journal", signal.SIGKILL, 1),
    ],
)
def test_killed_searches_go_on_without_repeating_what_has_ended(
    name: str, kind: signal.Signals, workers: int, tmp_path: Path
) -> None:
    script, log, storage = tmp_path / "script.py", tmp_path / "log", tmp_path / name
    script.write_text(SCRIPT)
    command = [sys.executable, script, storage, log, "16", str(workers)]
    for killed in range(3):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        goal, patience = 4 * (killed + 1), time.monotonic() + 60
        while (log.read_text() if log.exists() else "").count("end") < goal and process.poll() is None:
            assert time.monotonic() < patience
            time.sleep(0.003)
        os.killpg(process.pid, kind)
        process.wait(30)
    subprocess.run(command, check=True, timeout=120)
    results = load(storage)
    assert [trial.state for trial in results] == ["complete"] * 16
    reference = search(lambda parameters, trial: parameters["x"], {"x": Uniform(0, 1)}, trials=16, seed=0)
    assert points(results) == points(reference)
    begun = [line for line in log.read_text().splitlines() if line.startswith("begin")]
    assert len(begun) <= 16 + 2 * 3 * workers  # running ones, and those that had ended and not been told yet


@pytest.mark.slow
def test_searches_side_by_side_do_one_study_together(tmp_path: Path) -> None:
    script, log, storage = tmp_path / "script.py", tmp_path / "log", tmp_path / "s.db"
    script.write_text(SCRIPT)
    command = [sys.executable, script, storage, log, "30", "1"]
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait(100) == 0
    begun = [line for line in log.read_text().splitlines() if line.startswith("begin")]
    assert sorted(begun) == sorted(f"begin {number}" for number in range(30))
    assert {trial.state for trial in load(storage)} == {"complete"}


@pytest.mark.parametrize("gone", [True, False])
def test_what_another_machine_ran(gone: bool, tmp_path: Path) -> None:
    search(bowl, SPACE, trials=2, seed=0, storage=tmp_path / "s.db")
    with opened(tmp_path / "s.db") as kept:
        study = optuna.load_study(storage=kept, study_name="search")
        other = study.ask()  # trial 2, of a machine that was last seen an hour or a second ago
        owner = {"process": "elsewhere/boot/pid 1 2", "seen": time.time() - (3600 if gone else 1)}
        other.set_user_attr("owner", owner)
    results = search(bowl, SPACE, trials=4, seed=0, storage=tmp_path / "s.db")
    reference = search(bowl, SPACE, trials=4, seed=0)
    assert results[3] == TrialResult(3, reference[3].parameters, reference[3].value, "complete", results[3].seconds)
    assert results[2].state == ("complete" if gone else "running")
    if gone:
        assert points(results) == points(reference)


def test_a_trial_more_than_were_asked_for_is_kept_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two searches begin their last trial at the same moment: the second one has looked before the first one began."""
    path = tmp_path / "s.journal"
    search(bowl, SPACE, trials=2, seed=0, storage=path)
    real, early = study_module._fresh, [1]
    with monkeypatch.context() as patched:
        patched.setattr(study_module, "_fresh", lambda trials: early.pop() if early else real(trials))
        assert len(search(bowl, SPACE, trials=2, seed=0, storage=path)) == 2
    kept = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    assert len(optuna.load_study(storage=kept, study_name="search").trials) == 3
    assert len(load(path)) == 2
    results = search(bowl, SPACE, trials=3, seed=0, storage=path)
    assert points(results) == points(search(bowl, SPACE, trials=3, seed=0))


def test_what_another_search_has_begun_too_much_is_not_shown(tmp_path: Path) -> None:
    """Between the moments when it begins the trial and when it finds that it is one too many."""
    path = tmp_path / "s.db"
    search(bowl, SPACE, trials=2, seed=0, storage=path)
    with opened(path) as kept:
        begun = optuna.load_study(storage=kept, study_name="search").ask()
        begun.set_user_attr("owner", {"process": "elsewhere/boot/pid 1 2", "seen": time.time()})
        assert len(search(bowl, SPACE, trials=2, seed=0, storage=path)) == 2


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The storage of a file, by Optuna alone."""
    kept = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        yield kept
    finally:
        kept.remove_session()
        kept.engine.dispose()


@pytest.mark.slow
def test_searches_that_begin_at_the_same_moment_have_the_settings_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes when the first has made the study and not written its seed yet."""
    path, second = tmp_path / "s.db", []
    real = optuna.Study.set_user_attr

    def slow(study: Any, name: str, value: Any) -> None:
        if not second:
            second.append(threading.Thread(target=lambda: second.append(search(bowl, SPACE, trials=3, storage=path))))
            second[0].start()
            time.sleep(0.3)
        real(study, name, value)

    monkeypatch.setattr(optuna.Study, "set_user_attr", slow)
    search(bowl, SPACE, trials=3, seed=5, storage=path)
    second[0].join()
    assert len(second) == 2, "the other search has ended well"
    assert points(load(path)) == points(search(bowl, SPACE, trials=3, seed=5))  # each alone may show one that the other began


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a?b.db", "a#b.db", "a%20b.db", "a b.db", "{a}.db", "a?mode=ro&uri=true"])
def test_a_path_is_no_url(name: str, tmp_path: Path) -> None:
    search(bowl, SPACE, trials=2, seed=0, storage=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(load(tmp_path / name)) == 2


def test_a_storage_that_is_refused_is_closed(tmp_path: Path) -> None:
    """SQLite keeps two files more beside that of an open storage."""
    search(bowl, SPACE, trials=2, seed=0, storage=tmp_path / "s.db")
    with pytest.raises(InputError, match="seed"):
        search(bowl, SPACE, trials=2, seed=1, storage=tmp_path / "s.db")
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    search(bowl, SPACE, trials=2, seed=0, storage=path)
    before = load(path).trials
    narrow = {**SPACE, "x": LogUniform(1e-2, 1)}
    for change, message in (
        ({"seed": 1}, "made with seed=0, got 1"),
        ({"strategy": "tpe"}, "made with strategy='random', got 'tpe'"),
        ({"mode": "max"}, "made with mode='min', got 'max'"),
        ({"space": narrow}, "made with space=Space"),
    ):
        options: dict[str, Any] = {"space": SPACE, **change}
        with pytest.raises(InputError, match=message):
            search(bowl, trials=2, storage=path, **options)
    search(bowl, SPACE, trials=9, strategy="grid", storage=path, name="grid")
    with pytest.raises(InputError, match="made with trials=9, got 10"):
        search(bowl, SPACE, trials=10, strategy="grid", storage=path, name="grid")
    assert load(path).trials == before


def test_storages_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, and long enough to be looked at by anyone who opens it" * 20)
    for storage in (tmp_path / "no" / "s.db", tmp_path / "no" / "s.journal", tmp_path, tmp_path / "text.db", "nosuch://x"):
        with pytest.raises(FileError, match="cannot be used"):
            search(bowl, SPACE, trials=1, storage=storage)
    with pytest.raises(FileError, match="no such file"):
        load(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()
    search(bowl, SPACE, trials=1, storage=tmp_path / "s.db", name="digits")
    with pytest.raises(InputError, match="has no study 'digit'; did you mean 'digits'"):
        load(tmp_path / "s.db", "digit")


def test_a_storage_that_fails_later(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    def f(parameters: dict[str, Any], trial: Trial) -> float:
        with contextlib.closing(sqlite3.connect(path)) as file:
            for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                file.execute(f'DROP TABLE "{name}"')
        return 1.0

    with pytest.raises(FileError, match=r"s\.db failed: .+"):
        search(f, SPACE, trials=2, storage=path)


@pytest.mark.parametrize("moment", ["set_trial_user_attr", "set_trial_param", "set_trial_state_values"])
def test_ctrl_c_at_any_moment(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same process continues: its trials cannot be told from running ones by their owner."""
    kind, calls = optuna.storages.JournalStorage, []
    real = getattr(kind, moment)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(kind, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(bowl, SPACE, trials=3, seed=0, storage=tmp_path / "s.journal")
    results = search(bowl, SPACE, trials=3, seed=0, storage=tmp_path / "s.journal")
    assert {trial.state for trial in results} == {"complete"}
    assert points(results) == points(search(bowl, SPACE, trials=3, seed=0))


def test_a_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    other = optuna.create_study(storage=url, study_name="search")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InputError, match="was not made by fastnn"):
        search(bowl, SPACE, trials=2, storage=url)
    with pytest.raises(InputError, match="was not made by fastnn"):
        load(url)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"strategy": "rand"}, InputError, "strategy: unknown 'rand'; did you mean 'random'"),
        ({"mode": "minimum"}, InputError, "did you mean 'min'"),
        ({"trials": 0}, InputError, "trials: expected an integer >= 1, got 0"),
        ({"trials": 2.0}, InputError, "trials: expected an integer"),
        ({"workers": 0}, InputError, "workers: expected an integer >= 1"),
        ({"rounds": 0}, InputError, "rounds: expected"),
        ({"share": 0}, InputError, "share: expected a number above 0"),
        ({"seed": -1}, InputError, "seed: expected an integer from 0"),
        ({"pruner": "medan"}, InputError, "did you mean 'median'"),
        ({"pruner": 3}, InputTypeError, "pruner: expected a name or a pruner"),
        ({"name": ""}, InputTypeError, "name: expected the name of a study"),
        ({"space": {}}, InputError, "at least one parameter"),
        ({"space": {"x": 1}}, InputTypeError, "x: expected one of"),
        ({"train": 3}, InputTypeError, "train: expected a function"),
        ({"strategy": "grid", "trials": 1}, InputError, "1 points are too few for 2 combinations"),
    ],
)
def test_bad_arguments(options: dict[str, Any], kind: type[FastnnError], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        search(**{"train": bowl, "space": SPACE, "storage": tmp_path / "s.db", **options})
    assert not list(tmp_path.iterdir())


def test_optuna_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PackageError, match="pip install optuna"):
        search(bowl, SPACE, trials=1)


def test_importing_loads_no_optuna() -> None:
    code = "import sys, fastnn; fastnn.tuning.Space; assert not {'optuna', 'sqlalchemy', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the table ----------------------------------------------------------------------------------------------------


def table() -> Results:
    rows = [
        TrialResult(0, {"x": 0.5, "beta": 0.9, "n": 3, "c": "a"}, 2.0, "complete", 1.5),
        TrialResult(1, {"x": 0.01, "beta": 0.99, "n": 1, "c": "b"}, 1.0, "complete", 0.5),
        TrialResult(2, {"x": 0.1, "beta": 0.95, "n": 2, "c": "a"}, math.nan, "failed", 0.1, "ValueError: no, luck\nat all"),
        TrialResult(3, {"x": 0.2, "beta": 0.95, "n": 2, "c": "a"}, 0.5, "pruned", 0.2),
    ]
    return Results(SPACE, rows, "min")


def test_the_table() -> None:
    results = table()
    assert results.names == ("x", "beta", "n", "c")
    assert results.scales == {"x": "log", "beta": "one minus log", "n": "linear", "c": "choice"}
    np.testing.assert_array_equal(results.values, [2.0, 1.0, math.nan, 0.5])
    np.testing.assert_array_equal(results["x"], [0.5, 0.01, 0.1, 0.2])
    assert results.best.number == 1  # a pruned trial is not the best
    assert [trial.number for trial in results.sorted()] == [1, 0, 2, 3]
    assert [trial.number for trial in results.sorted("x")] == [1, 2, 3, 0]
    assert [trial.number for trial in results.sorted("seconds", reverse=True)] == [0, 1, 3, 2]
    assert [trial.number for trial in results[1:3]] == [1, 2]
    for name in ("betta", "valu"):
        with pytest.raises(InputError, match="did you mean"):
            results.sorted(name)
    with pytest.raises(InputError, match="did you mean 'beta'"):
        results["betta"]


def test_the_printed_table() -> None:
    lines = str(table()).splitlines()
    assert lines[0].split() == ["trial", "value", "x", "beta", "n", "c", "seconds", "state"]
    assert lines[1].split() == ["1", "1", "0.01", "0.99", "1", "b", "0.5", "complete"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[5:] == ["1 of 4 failed: 2", "the last of them, 2: ValueError: no, luck at all"]


def test_the_printed_table_names_those_that_failed_and_are_not_shown() -> None:
    rows = [TrialResult(k, {"x": 0.5, "beta": 0.9, "n": 3, "c": "a"}, 1.0, "complete", 1.5) for k in range(20)]
    rows += [TrialResult(k, rows[0].parameters, math.nan, "failed", 1.5, f"ValueError: {k}") for k in (21, 20)]
    lines = str(Results(SPACE, rows, "min").sorted(reverse=True)).splitlines()
    assert lines[21:] == ["... and 2 more", "2 of 22 failed: 20, 21", "the last of them, 21: ValueError: 21"]


@pytest.mark.parametrize("count", [1, 5, 9, 30])
def test_it_fits_80_columns(count: int) -> None:
    space = Space({f"a_long_name_of_parameter_{i}": LogUniform(1e-9, 1) for i in range(count)})
    results = search(lambda parameters, trial: float(trial.number) if trial.number < 30 else math.nan, space, trials=31, seed=0)
    lines = str(results).splitlines()
    assert max(map(len, lines)) <= 80
    assert "... and 11 more" in lines
    assert "seconds" in lines[0]
    assert ("not shown" in str(results)) == (count > 5)


def test_csv(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0] == {
        "number": "0", "state": "complete", "value": "2.0", "seconds": "1.5", "x": "0.5", "beta": "0.9", "n": "3", "c": "a",
        "error": "",
    }  # fmt: skip
    assert (rows[2]["value"], rows[2]["error"]) == ("", "ValueError: no, luck\nat all")
    with pytest.raises(FileError, match="cannot be written"):
        table().to_csv(tmp_path / "no" / "t.csv")


def test_narrowed() -> None:
    results = search(bowl, SPACE, trials=40, seed=0)
    best = sorted(results, key=lambda trial: trial.value)[:10]
    assert results.narrow(0.25) == SPACE.narrow([trial.parameters for trial in best])
    assert results[:3].narrow() == SPACE  # too few to say where
    with pytest.raises(InputError, match="share"):
        results.narrow(0)
