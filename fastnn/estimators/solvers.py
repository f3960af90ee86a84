"""How the estimators train: scikit-learn's idea of an iteration, of its learning rates and of when to stop; and L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning

from fastnn.callbacks import Callback
from fastnn.errors import warn
from fastnn.network.cost import CostFunction
from fastnn.optimizers import SGD, Adam, Optimizer, by_name

if TYPE_CHECKING:
    from fastnn.callbacks.base import RunState
    from fastnn.network.state import Snapshot

SMALLEST_RATE = 1e-6
"""Where an adaptive learning rate ends the training instead of becoming smaller."""


def optimizer_of(estimator: Any) -> Optimizer:
    """The optimizer that the parameters of an estimator describe."""
    solver, rate = estimator.solver, estimator.learning_rate_init
    if not isinstance(estimator.learning_rate, str):
        rate = estimator.learning_rate
    if isinstance(solver, Optimizer):
        return solver
    if solver == "adam":
        return Adam(rate, estimator.beta_1, estimator.beta_2, estimator.epsilon, epsilon_hat=True)
    if solver == "sgd":
        return SGD(rate, estimator.momentum, estimator.nesterovs_momentum and estimator.momentum > 0)
    return by_name(solver, learning_rate=rate)


@dataclass
class Rate:
    """The learning rate of the next step, where scikit-learn's rules change it. It stays from call to call of `partial_fit`, as
    `_optimizer` of an estimator, where scikit-learn's own tests look for it."""

    learning_rate: float


class Iterations(Callback):
    """Counts the epochs of a training as scikit-learn does: loss curve, scores, learning rates, and when it is over.

    `batch_size`: of the mini-batches that the `rows` examples are cut into. `loss_of(loss, penalty)`: what is reported of an
    epoch. `score`: that of the model on the validation data; None without.
    """

    def __init__(
        self, estimator: Any, rows: int, batch_size: int, loss_of: Callable[[float, float], float],
        score: Callable[[], float] | None, incremental: bool,
    ) -> None:  # fmt: skip
        self.estimator, self.rows, self.batch_size, self.loss_of = estimator, rows, batch_size, loss_of
        self.score, self.incremental = score, incremental
        self._losses: list[np.ndarray] = []
        """Of this epoch's chunks so far."""
        self.best: Snapshot | None = None
        """Of the best validation score."""
        ruled = isinstance(estimator.learning_rate, str) and not isinstance(estimator.solver, Optimizer)
        self.rule = estimator.learning_rate if ruled and estimator.solver == "sgd" else "constant"

    def begin(self, run: RunState) -> None:
        if self.rule != "constant":
            run.learning_rate = self.estimator._optimizer.learning_rate

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        self._losses.append(losses)

    def _mean_loss(self) -> float:
        """The mean of the losses of an epoch's mini-batches, each as often as it has rows, whatever their weights are."""
        losses = np.concatenate(self._losses)
        self._losses.clear()
        sizes = np.full(len(losses), self.batch_size)
        sizes[-1] = self.rows - self.batch_size * (len(losses) - 1)
        return float(losses @ sizes) / self.rows

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> bool | None:
        estimator = self.estimator
        loss = self.loss_of(self._mean_loss(), values.get("penalty", 0.0))
        estimator.n_iter_, estimator.loss_, estimator.t_ = estimator.n_iter_ + 1, loss, estimator.t_ + self.rows
        estimator.loss_curve_.append(loss)
        self._say(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        self._compare(run, loss)
        if self.rule == "invscaling":
            self._set_rate(run, estimator.learning_rate_init / (estimator.t_ + 1) ** estimator.power_t)
        if estimator._no_improvement_count > estimator.n_iter_no_change and self._stops(run):
            return True
        if not self.incremental and estimator.n_iter_ == estimator.max_iter:
            warn(
                f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and the optimization "
                "hasn't converged yet.",
                ConvergenceWarning,
            )
        return None

    def _compare(self, run: RunState, loss: float) -> None:
        """Count the epochs in a row that are no better, by the validation score or by the loss."""
        estimator = self.estimator
        if self.score is not None:
            score = self.score()
            estimator.validation_scores_.append(score)
            self._say(f"Validation score: {score:f}")
        if estimator.early_stopping:
            worse = score < estimator.best_validation_score_ + estimator.tol
            if score > estimator.best_validation_score_:
                estimator.best_validation_score_, self.best = score, run.model.snapshot()
        else:
            worse = loss > estimator.best_loss_ - estimator.tol
            estimator.best_loss_ = min(estimator.best_loss_, loss)
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if worse else 0

    def _stops(self, run: RunState) -> bool:
        """Whether the training is over that does not become better; an adaptive learning rate becomes smaller first."""
        estimator = self.estimator
        what = "Validation score" if estimator.early_stopping else "Training loss"
        said = f"{what} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} consecutive epochs."
        if self.rule != "adaptive":
            self._say(f"{said} Stopping.")
            return True
        if run.learning_rate <= SMALLEST_RATE:
            self._say(f"{said} Learning rate too small. Stopping.")
            return True
        self._set_rate(run, run.learning_rate / 5.0)
        estimator._no_improvement_count = 0
        self._say(f"{said} Setting learning rate to {run.learning_rate:f}")
        return False

    def _set_rate(self, run: RunState, rate: float) -> None:
        """Set the learning rate of the next step. scikit-learn's velocity has the rates of its steps inside, ours has not."""
        before, self.estimator._optimizer.learning_rate = run.learning_rate, rate
        run.learning_rate = rate
        state = run.model.optimizer_state
        if state is not None and "velocity" in state and rate > 0:
            factor = before / rate
            with np.errstate(over="ignore"):
                scaled = {name: value * value.dtype.type(factor) for name, value in state["velocity"].items()}
            run.model.set_optimizer_state({"velocity": scaled})

    def _say(self, sentence: str) -> None:
        if self.estimator.verbose:
            print(sentence)


def minimize(estimator: Any, cost: CostFunction, start: np.ndarray) -> np.ndarray:
    """The parameters (P,) at which SciPy's L-BFGS-B ends that begins at `start`; the estimator learns loss and iterations.

    Source: Byrd, Lu, Nocedal & Zhu 1995, A limited memory algorithm for bound constrained optimization.
    """

    def function(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = cost.value_and_gradient(point.astype(start.dtype))
        return value, gradient.astype(np.float64)

    iterations = 0

    def report(intermediate_result: Any) -> None:
        nonlocal iterations
        iterations += 1
        print(f"Iteration {iterations}, loss = {intermediate_result.fun:.8f}")

    options = {"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol}
    result = scipy.optimize.minimize(
        function, start.astype(np.float64), method="L-BFGS-B", jac=True, options=options,
        callback=report if estimator.verbose else None,
    )  # fmt: skip
    estimator.n_iter_, estimator.loss_ = min(int(result.nit), estimator.max_iter), float(result.fun)
    if result.status != 0:
        more = f" Increase max_iter (it is {estimator.max_iter})." if estimator.n_iter_ == estimator.max_iter else ""
        warn(
            f"lbfgs failed to converge after {estimator.n_iter_} iteration(s): {result.message}.{more} Data of about the same "
            "scale in every column help: sklearn.preprocessing.StandardScaler",
            ConvergenceWarning,
        )
    found: np.ndarray = result.x.astype(start.dtype)
    return found if math.isfinite(estimator.loss_) else np.full_like(found, np.nan)
