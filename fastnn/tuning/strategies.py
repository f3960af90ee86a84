"""Where the trials of a search lie: at random, on a grid, from coarse to fine, or where Optuna's TPE puts them.

Points of "random" and "grid" depend on the seed and the number of the trial alone; those of "coarse-to-fine" on the values of
the rounds before, too; those of "tpe" on the trials that had ended when the trial began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastnn.errors import InputError
from fastnn.tuning.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STRATEGIES = ("random", "grid", "tpe", "coarse-to-fine")
POINT, MODEL, TPE = range(3)
"""What a random number is for: one stream each."""
LEAST = 5
"""Points in a box: k random points of a region span (k - 1)/(k + 1) of it on average, and two of them a third only."""


@dataclass(frozen=True)
class SearchOptions:
    """What determines the points of a search; kept in the study."""

    space: Space
    trials: int
    strategy: str
    mode: str
    seed: int
    rounds: int
    share: float
    prunes: bool = False

    def to_config(self) -> dict[str, Any]:
        kept = ("trials", "strategy", "mode", "seed", "rounds", "share")
        return {"space": self.space.to_config(), **{name: getattr(self, name) for name in kept}}

    def continue_from(self, before: Mapping[str, Any], explicit: Sequence[str], name: str) -> Self:
        """These options, continuing with a study that was made with others: more trials may be added to some strategies only.

        Raises InputError for another value of one that the user gave, or that has no default.
        """
        now = self.to_config()
        extensible = self.strategy in ("random", "tpe")
        fixed = ["space", "strategy", "mode", *([] if extensible else ["trials", "rounds", "share"]), "seed"]
        for key in fixed:
            if now[key] != before[key] and (key in explicit or key not in ("seed", "rounds", "share")):
                was, got = (Space.from_config(c[key]) if key == "space" else c[key] for c in (before, now))
                raise InputError(f"the study {name!r} was made with {key}={was!r}, got {got!r}; keep it, or give another name=")
        return replace(self, seed=before["seed"], rounds=before["rounds"], share=before["share"])

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        return self.space.grid(self.trials)

    @property
    def total(self) -> int:
        """How many trials there are: a grid may have no use for the last few."""
        return len(self.grid) if self.strategy == "grid" else self.trials

    def seed_of(self, number: int, purpose: int = MODEL) -> int:
        """A seed below 2^32 for each trial and each purpose."""
        return int(np.random.SeedSequence(self.seed, spawn_key=(purpose, number)).generate_state(1)[0])

    def round_start(self, number: int) -> int:
        """The first trial of the round of this one."""
        starts = [round * self.trials // self.rounds for round in range(self.rounds)]
        return max(start for start in starts if start <= number)

    def is_ready(self, number: int, trials: Mapping[int, FrozenTrial]) -> bool:
        """Whether the trials on which the point of this one depends have ended."""
        if self.strategy != "coarse-to-fine":
            return True
        return all(trials[before].state.is_finished() for before in range(self.round_start(number)))

    def point(self, number: int, trials: Mapping[int, FrozenTrial]) -> dict[str, Any]:
        """Where a trial lies, unless Optuna decides that."""
        if self.strategy == "grid":
            return self.grid[number]
        space = self.space
        if self.strategy == "coarse-to-fine" and (start := self.round_start(number)):
            ended = [trials[k] for k in range(start) if trials[k].state.name == "COMPLETE"]
            sign = 1.0 if self.mode == "min" else -1.0
            ended.sort(key=lambda trial: sign * float(trial.value))  # type: ignore[arg-type]
            space = narrow(space, [space.point(trial.params) for trial in ended], self.share)
        return space.sample(np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(POINT, number))))

    def sampler(self, count: int) -> BaseSampler:
        """Optuna's sampler for the next trial of a study that has `count`."""
        import optuna

        return optuna.samplers.TPESampler(seed=self.seed_of(count, TPE)) if self.strategy == "tpe" else point_sampler({})


def point_sampler(point: Mapping[str, Any]) -> BaseSampler:
    """Optuna's sampler of one point only."""
    import optuna

    class Planned(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return point[param_name]

    return Planned()


def narrow(space: Space, best_first: Sequence[Mapping[str, Any]], share: float) -> Space:
    """The smallest box around the best `share` of the points, `LEAST` at least; all of the space where there are fewer."""
    if len(best_first) < LEAST:
        return space
    return space.narrow(best_first[: max(LEAST, round(share * len(best_first)))])
