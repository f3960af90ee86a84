"""`search`: many trainings, each at another point of a space, side by side ("caviar" in Ng's words)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastnn import random
from fastnn.errors import FileError, InputError, InputTypeError, PackageError, nearest, warn
from fastnn.tuning.results import Results
from fastnn.tuning.space import Distribution, Space
from fastnn.tuning.strategies import STRATEGIES, SearchOptions
from fastnn.tuning.trial import Job, Outcome, Train

if TYPE_CHECKING:
    from fastnn.tuning.study import Study

PRUNERS = ("median", "halving")
MODES = ("min", "max")


def search(
    train: Train,
    space: Mapping[str, Distribution],
    *,
    trials: int = 50,
    strategy: str = "random",
    mode: str = "min",
    workers: int = 1,
    storage: str | os.PathLike[str] | None = None,
    name: str = "search",
    seed: int | None = None,
    pruner: Any = None,
    rounds: int | None = None,
    share: float | None = None,
    verbose: int = 1,
) -> Results:
    """Call `train(parameters, trial)` at points of the space, and return what came of them.

        def train(parameters, trial):
            model = fastnn.Sequential([fastnn.Dense(parameters["units"], "relu"), fastnn.Dense(10)], seed=trial.seed)
            history = model.fit(
                X, y, optimizer=fastnn.Adam(parameters["learning_rate"]), validation_data=(X_dev, y_dev),
                callbacks=[trial.callback(monitor="val_loss")], verbose=0,
            )
            return history["val_loss"][-1]

        space = {"learning_rate": LogUniform(1e-4, 1), "units": Integers(16, 256, log=True)}
        results = search(train, space, trials=60, workers=4, storage="search.db", seed=0)

    `train`: any function that returns a number, the better the smaller it is (`mode="min"`) or the greater (`mode="max"`). An
    exception, NaN, infinity, or what is no number, makes the trial a failed one; the others continue. Warns where all have
    failed. `trials`: how many. Those that a storage holds already count; a larger number adds trials ("random" and "tpe" only).
    `strategy`: "random"; "grid", in equal steps on each scale, at most `trials` points; "tpe", the tree-structured Parzen
    estimator (Bergstra et al. 2011) of Optuna; "coarse-to-fine": `rounds` (3) rounds of random points, from the second on in
    `Results.narrow(share)` of the rounds before (`share` is 0.25 by default). `workers`: processes, each with one thread,
    that run trials side by side; 1 runs them in this process. `storage`: a file that keeps the study `name`, or the URL of a
    database for `optuna.storages.RDBStorage`; one that exists is resumed. A file is SQLite's, or, where its name ends in
    `.journal`, a journal, which may lie in a folder that machines share; searches of the same storage and name, on any number
    of machines, do one study together. After Ctrl-C or a kill, the same call continues: what has ended is not repeated, what
    was running is run again, at the same point. `seed`: of the points and of `trial.seed`; drawn, and kept in the storage, if
    None. Points of "random" and "grid" depend on it and on the number of the trial alone, whatever the workers; those of
    "coarse-to-fine" too, if the values do. `pruner`: "median" (`optuna.pruners.MedianPruner()`), "halving"
    (`SuccessiveHalvingPruner()`) or a pruner of Optuna's: ends trials by what they report that are worse than others at the
    same step. Reports are kept only where there is one. `verbose`: 1 shows a bar in a terminal.

    Raises InputError and InputTypeError for arguments that cannot be used, and FileError for a storage that cannot.
    """
    options, explicit = _search_options(train, space, trials, strategy, mode, seed, rounds, share)
    pruned_by = _pruner(pruner)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers: expected an integer >= 1, got {workers!r}")
    _check_name(name)
    from fastnn.tuning.study import close_storage, open_study, quiet

    study = open_study(storage, name, replace(options, prunes=pruned_by is not None), explicit, pruned_by)
    try:
        with _storage_errors(storage), quiet(), study.alive():
            results = _run(study, train, workers, bool(verbose))
    finally:
        close_storage(study.storage)
    failed = results.failed
    if failed and len(failed) == len(results):
        which = f"all {len(failed)} trials failed, the last" if len(failed) > 1 else "the only trial failed,"
        warn(f"{which} with {failed[-1].error}")
    return results


def _run(study: Study, train: Train, workers: int, shown: bool) -> Results:
    """Run the trials of a study that are left, here or in processes; what came of all that this call asked for."""
    from fastnn.tuning import workers as runners
    from fastnn.tuning.study import latest, results_of

    with _bar(study.options, shown) as notify:
        if workers == 1:
            runners.run_here(study, train, notify)
        else:
            runners.run_in_processes(study, train, notify, workers)
    trials = latest(study.study.get_trials(deepcopy=False))
    asked = {k: trial for k, trial in trials.items() if k < study.options.total or trial.state.is_finished()}
    return results_of(study.options.space, study.options.mode, asked)


@contextlib.contextmanager
def _storage_errors(storage: Any) -> Iterator[None]:
    """Failures of the storage as FileError."""
    import optuna

    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise FileError(f"storage {storage} failed: {error.__cause__ or error}") from error


def load(storage: str | os.PathLike[str], name: str = "search") -> Results:
    """What a storage holds of a study, while it runs or after. Raises FileError, and InputError for an unknown name."""
    _check_name(name)
    _require()
    import optuna

    from fastnn.tuning.study import OPTIONS, close_storage, latest, open_storage, quiet, results_of

    kept = open_storage(storage, make=False)
    try:
        with quiet():
            known = optuna.get_all_study_names(kept)
            if name not in known:
                raise InputError(f"{storage} has no study {name!r}{nearest(name, known)}")
            study = optuna.load_study(storage=kept, study_name=name)
        config = study.user_attrs.get(OPTIONS)
        if config is None:
            raise InputError(f"the study {name!r} of {storage} was not made by fastnn")
        return results_of(Space.from_config(config["space"]), config["mode"], latest(study.get_trials(deepcopy=False)))
    finally:
        close_storage(kept)


def _search_options(
    train: Any, space: Any, trials: Any, strategy: Any, mode: Any, seed: Any, rounds: Any, share: Any
) -> tuple[SearchOptions, list[str]]:
    """The checked options, and which of those with a default are explicit."""
    _require()
    if not callable(train):
        raise InputTypeError(f"train: expected a function of (parameters, trial), got {type(train).__name__}")
    explicit = [key for key, value in (("seed", seed), ("rounds", rounds), ("share", share)) if value is not None]
    rounds = 3 if rounds is None else rounds
    share = 0.25 if share is None else share
    for key, value in (("trials", trials), ("rounds", rounds)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{key}: expected an integer >= 1, got {value!r}")
    for key, value, known in (("strategy", strategy, STRATEGIES), ("mode", mode, MODES)):
        if value not in known:
            raise InputError(f"{key}: unknown {value!r}{nearest(value, known)}")
    if not isinstance(share, float | int) or not 0.0 < share <= 1.0:
        raise InputError(f"share: expected a number above 0 and at most 1, got {share!r}")
    if seed is None:
        seed = random.draw_seed()
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed: expected an integer from 0 to 2^63 - 1, got {seed!r}")
    options = SearchOptions(Space(space), trials, strategy, mode, seed, min(rounds, trials), float(share))
    assert options.total > 0  # a grid that has no room for its options says so now
    return options, explicit


def _require() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise PackageError.of("optuna", "searching", error) from error


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise InputTypeError(f"name: expected the name of a study, got {name!r}")


def _pruner(pruner: Any) -> Any:
    import optuna

    if pruner is None or isinstance(pruner, optuna.pruners.BasePruner):
        return pruner
    if not isinstance(pruner, str):
        raise InputTypeError(f"pruner: expected a name or a pruner of Optuna's, got {type(pruner).__name__}")
    if pruner not in PRUNERS:
        raise InputError(f"pruner: unknown {pruner!r}{nearest(pruner, PRUNERS)}")
    return optuna.pruners.MedianPruner() if pruner == "median" else optuna.pruners.SuccessiveHalvingPruner()


@contextlib.contextmanager
def _bar(options: SearchOptions, shown: bool) -> Iterator[Any]:
    """A bar over the trials of this search, with the best value so far."""
    from tqdm.auto import tqdm

    sign = 1.0 if options.mode == "min" else -1.0
    best: list[float] = []
    hidden = not shown or not sys.stderr.isatty()
    with tqdm(total=options.total, unit="trial", leave=False, disable=hidden, dynamic_ncols=True) as bar:

        def advance(job: Job, outcome: Outcome) -> None:
            if outcome.value is not None:
                best[:] = [min([*best, outcome.value], key=lambda value: sign * value)]
                bar.set_postfix_str(f"best {best[0]:.4g}", refresh=False)
            bar.update()

        yield advance
