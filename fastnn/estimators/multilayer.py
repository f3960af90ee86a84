"""What `MLPClassifier` and `MLPRegressor` share: a `Sequential` trained by scikit-learn's rules."""

from __future__ import annotations

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from fastnn import engines
from fastnn.errors import DivergenceError, InputError, warn
from fastnn.estimators.base import Trained
from fastnn.estimators.parameters import activations_of, check_parameters, dropouts_of, hidden_sizes
from fastnn.estimators.solvers import Iterations, Rate, minimize, optimizer_of
from fastnn.layers import Activation, BatchNorm, Dense, Dropout, Layer
from fastnn.network.cost import CostFunction
from fastnn.sequential import Sequential
from fastnn.training.fit import fit
from fastnn.training.options import FitOptions

NONFINITE = "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
FINAL_ACTIVATIONS = {"softmax": "softmax", "sigmoid": "logistic", "exp": "exp", None: "identity"}
"""scikit-learn's names of what the losses take the place of, by their links."""

CURVES = ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_")
"""Attributes that only a training on mini-batches has."""

KEPT_NETWORKS = 32
"""Of as many architectures an untrained network is kept, and what follows from it."""

CLIPPED = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"


@functools.lru_cache(KEPT_NETWORKS)
def untrained(
    features: int, hidden: tuple[tuple[int, str | None, float], ...], batch_norm: bool, outputs: int, dtype: str, seed: int
) -> Sequential:
    """A network with weights of zero: `hidden` has units, activation and dropout of each hidden layer.

    It is kept: searches and cross-validation train many such networks, and one takes longer to make than a small one to train.
    """
    layers: list[Layer] = []
    for units, activation, rate in hidden:
        layers.append(Dense(units, None if batch_norm else activation, True, "zeros"))
        if batch_norm:
            layers.append(BatchNorm())
            layers += [] if activation is None else [Activation(activation)]
        layers += [Dropout(rate)] if rate else []
    return Sequential([*layers, Dense(outputs, None, True, "zeros")], seed=seed, dtype=dtype).build(features)


def mean_of_batches(values: np.ndarray, weights: np.ndarray | None, visits: np.ndarray, size: int) -> float:
    """The mean of the weighted means of mini-batches of `size` of these values, each as often as it has rows."""
    if weights is None:
        return float(values.mean(dtype=np.float64))
    of_rows, starts = weights[visits].astype(np.float64), np.arange(0, len(values), size)
    sums, totals = np.add.reduceat(of_rows * values, starts), np.add.reduceat(of_rows, starts)
    means = np.divide(sums, totals, out=np.zeros_like(sums), where=totals != 0)
    return float(means @ np.diff([*starts, len(values)])) / len(values)


class Multilayer(Trained):
    """A multilayer perceptron with the parameters and attributes of scikit-learn's.

    From the same `random_state` the same initial weights, mini-batches and held-out examples are drawn as there, and the same
    steps are made, so that results differ by rounding alone where both can do the same. Not so where probabilities are rounded
    to 0 or 1, as on data that are not scaled: scikit-learn's loss, by which it stops, is cut off there, and ours is not; nor
    with lbfgs and several outputs, where its cost and gradient are not of the same function.
    """

    hidden_layer_sizes: Any
    activation: Any
    solver: Any
    alpha: float
    batch_size: Any
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    max_iter: int
    loss: Any
    shuffle: bool
    random_state: Any
    tol: float
    verbose: Any
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: Any
    max_fun: int
    dropout: Any
    batch_norm: bool
    callbacks: Any
    device: str
    precision: str

    # --- what classifiers and regressors do differently -----------------------------------------------------------

    @abstractmethod
    def _score_of(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """The validation score of predicted outputs (n, O)."""

    def _reported(self, loss: float, penalty: float, constant: float) -> float:
        """The loss as scikit-learn reports it; `constant`: the mean of `_loss_constants`."""
        return loss + constant + penalty

    def _loss_constants(self, targets: np.ndarray) -> np.ndarray | None:
        """What the loss of scikit-learn has more than ours of each example (n,), whatever the outputs are; None for nothing."""
        return None

    # --- training ---------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation_data: Any = None, incremental: bool = False) -> Self:
        check_parameters(self)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if validation_data is not None and self.solver == "lbfgs":
            raise InputError("validation_data: lbfgs makes no epochs after which they could be looked at; use adam")
        first = not hasattr(self, "model_") or not (self.warm_start or incremental)
        X, targets = self._read(X, y, incremental, first)
        if not first and self._outputs(targets) != self.n_outputs_:
            raise ValueError(f"y: expected {self.n_outputs_} outputs, got {self._outputs(targets)}")
        self.out_activation_ = FINAL_ACTIVATIONS[self._loss().link]
        weights = self._weights(X, y, sample_weight)
        held_out = None if validation_data is None else self._validation(validation_data)
        rng = self._random_state = check_random_state(self.random_state)
        if first:
            self._begin(X, targets, rng)
        elif not incremental:  # the weights stay, and the solver starts anew
            self.model_ = self._again(self.model_)
        # Labels are read anew as indices, and other examples are nothing to warn of.
        self.model_.build(X.shape[1], loss=self._loss(), classes=self._labels()).data_glance = None
        if self.solver == "lbfgs":
            self._fit_whole(X, targets, weights)
        else:
            self._fit_steps(X, targets, weights, held_out, rng, incremental)
        self._settle()
        return self

    def _begin(self, X: Any, targets: np.ndarray, rng: np.random.RandomState) -> None:
        """A new network, and all that counts iterations."""
        self.n_outputs_, self.n_iter_, self.t_, self._no_improvement_count = self._outputs(targets), 0, 0, 0
        sizes = [X.shape[1], *hidden_sizes(self), self.n_outputs_]
        self.n_layers_ = len(sizes)
        dtype = X.dtype.name
        drawn = [self._draw(rng, *fans, dtype) for fans in itertools.pairwise(sizes)]
        seed = rng.randint(2**31) if any(dropouts_of(self, len(sizes) - 2)) else 0
        self.model_ = self._network(X.shape[1], self.n_outputs_, dtype, int(seed))
        names = [name for i in self._dense_layers for name in (f"{i}.weight", f"{i}.bias")]
        self.model_.set_weights(dict(zip(names, [array for pair in drawn for array in pair], strict=True)))
        for name in CURVES:
            self.__dict__.pop(name, None)

    def _begin_curves(self, validated: bool) -> None:
        """What a training on mini-batches goes on with: a warm start has it, unless it was of another kind before."""
        self.loss_curve_: list[float] = getattr(self, "loss_curve_", [])
        scores, best = getattr(self, "validation_scores_", None), getattr(self, "best_validation_score_", None)
        lowest = getattr(self, "best_loss_", None)
        self.validation_scores_ = [] if scores is None and validated else scores
        self.best_validation_score_ = (-math.inf if best is None else best) if self.early_stopping else None
        self.best_loss_ = None if self.early_stopping else math.inf if lowest is None else lowest

    def _draw(self, rng: np.random.RandomState, fan_in: int, fan_out: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Initial weights (I, O) and biases (O,): uniform, with Glorot's bound for both."""
        bound = math.sqrt((2.0 if self.activation == "logistic" else 6.0) / (fan_in + fan_out))
        weights, biases = rng.uniform(-bound, bound, (fan_in, fan_out)), rng.uniform(-bound, bound, fan_out)
        return weights.astype(dtype, copy=False), biases.astype(dtype, copy=False)

    def _network(
        self, features: int, outputs: int, dtype: str, seed: int, weights: Mapping[str, np.ndarray] | None = None
    ) -> Sequential:
        """The untrained network of the parameters; `weights` in place of zeros."""
        sizes = hidden_sizes(self)
        hidden = tuple(zip(sizes, activations_of(self, len(sizes)), dropouts_of(self, len(sizes)), strict=True))
        like = untrained(features, hidden, self.batch_norm, outputs, dtype, seed)
        model = like.clone().build_like(like)
        if weights is not None:
            model.set_weights(weights)
        return model

    def _again(self, last: Sequential) -> Sequential:
        """A network with the weights of the last one, and its frozen layers frozen. Raises InputError for other layers."""
        sizes = [layer.units for layer in last.layers if isinstance(layer, Dense)]
        if sizes[:-1] != hidden_sizes(self):
            raise InputError(f"warm_start: hidden_layer_sizes are {hidden_sizes(self)} now, and were {sizes[:-1]}; begin anew")
        model = self._network(last.network.features[0], self.n_outputs_, last.dtype.name, last.seed, last.weights)
        frozen = last.network.frozen
        return model.freeze(*frozen) if frozen else model

    def _hold_out(
        self, X: Any, targets: np.ndarray, weights: np.ndarray | None, rng: np.random.RandomState
    ) -> tuple[tuple[Any, np.ndarray, np.ndarray | None], tuple[Any, np.ndarray, np.ndarray | None]]:
        """What is trained on, and the share of the examples that early stopping looks at."""
        parts = [X, targets] if weights is None else [X, targets, weights]
        split = train_test_split(*parts, random_state=rng, test_size=self.validation_fraction, stratify=self._strata(targets))
        if split[1].shape[0] < 2:
            raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
        none = (None, None) if weights is None else (split[4], split[5])
        return (split[0], split[2], none[0]), (split[1], split[3], none[1])

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        """What is to be as frequent among the examples that are held out as among all; None for nothing."""
        return None

    def _fit_steps(
        self, X: Any, targets: np.ndarray, weights: np.ndarray | None,
        held_out: tuple[Any, np.ndarray, np.ndarray | None] | None, rng: np.random.RandomState, incremental: bool,
    ) -> None:  # fmt: skip
        """Steps on mini-batches: at most `max_iter` epochs, or one of them."""
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = Rate(self.learning_rate_init)
        if self.early_stopping and held_out is None:
            (X, targets, weights), held_out = self._hold_out(X, targets, weights, rng)
        self._begin_curves(held_out is not None)
        rows, model, loss = X.shape[0], self.model_, self._loss()
        size = min(200, rows) if self.batch_size == "auto" else int(self.batch_size)
        if size > rows:
            warn(CLIPPED)
            size = rows
        visits = np.arange(rows)

        def order(epoch: int) -> np.ndarray:
            nonlocal visits
            if self.shuffle:  # as sklearn.utils.shuffle does, whose checks take longer than a small epoch
                drawn = np.arange(rows)
                rng.shuffle(drawn)
                visits = visits[drawn]
            return visits

        def score() -> float:
            assert held_out is not None
            outputs = self._predicted(model, held_out[0])
            with np.errstate(over="ignore", invalid="ignore"):  # of a training that diverges
                return self._score_of(outputs, *held_out[1:]) if np.isfinite(outputs).all() else math.nan

        constants = self._loss_constants(targets)

        def reported(loss: float, penalty: float) -> float:
            constant = 0.0 if constants is None else mean_of_batches(constants[visits], weights, visits, size)
            return self._reported(loss, penalty, constant)

        watch = Iterations(self, rows, size, reported, None if held_out is None else score, incremental)
        told = held_out if held_out is not None and self.callbacks else None  # others may look at what is measured there
        self.__dict__.pop("history_", None)
        self.n_iter_ = 0
        options = FitOptions(
            loss=loss, optimizer=optimizer_of(self), batch_size=size, epochs=1 if incremental else self.max_iter,
            sample_weight=weights, classes=self._labels(), l2=self.alpha, order=order, callbacks=[watch, *self.callbacks],
            device=self.device, precision=self.precision, threads=self.threads, verbose=0, penalties_by_weight=True,
            validation_data=None if told is None else told[: 2 if told[2] is None else 3],
        )  # fmt: skip
        try:
            self.history_ = fit(model, X, targets, options)
        except DivergenceError as error:
            if not self.early_stopping:
                raise ValueError(f"{NONFINITE} {error}") from error
            assert self.validation_scores_ is not None
            self.loss_ = math.nan
            self.validation_scores_.append(math.nan)
            warn(str(error), ConvergenceWarning)
        except KeyboardInterrupt:
            warn("Training interrupted by user.")
        if watch.best is not None:
            model.restore(watch.best)

    def _fit_whole(self, X: Any, targets: np.ndarray, weights: np.ndarray | None) -> None:
        """L-BFGS on all examples at once."""
        model, loss = self.model_, self._loss()
        X = np.ascontiguousarray(X.toarray() if scipy.sparse.issparse(X) else X, model.dtype)
        indices = loss.accepts == "classes" and targets.ndim == 1
        y = targets if indices else targets.reshape(len(targets), -1).astype(model.dtype)
        total = X.shape[0] if weights is None else float(weights.sum(dtype=np.float64))
        state = model.snapshot().on_host().arrays
        cost = CostFunction(
            model.network, loss, X, y, weights, state["statistics"], self.alpha / total if total else 0.0,
            engine=engines.choose(self.device, self.precision)[0], threads=self.threads,
        )  # fmt: skip
        found = minimize(self, cost, state["parameters"])
        if not np.isfinite(found).all():
            raise ValueError(NONFINITE)
        places = model.network.parameters
        model.set_weights({p.name: found[p.start : p.start + p.size].reshape(p.shape) for p in places})
        constants = self._loss_constants(targets)
        constant = 0.0 if constants is None else float(np.average(constants, weights=weights))
        penalty = 0.5 * self.alpha / total * sum(float(np.vdot(array, array)) for array in self.coefs_) if total else 0.0
        self.loss_ = self._reported(self.loss_ - penalty, penalty, constant)

    # --- the trained network ------------------------------------------------------------------------------------------

    @property
    def _dense_layers(self) -> list[int]:
        return [index for index, layer in enumerate(self.model_.layers) if isinstance(layer, Dense)]

    def _arrays(self, attribute: str) -> list[np.ndarray]:
        if "model_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no such attribute before fit")
        weights = self.model_.weights
        arrays = [weights[f"{index}.{attribute}"] for index in self._dense_layers]
        for array in arrays:
            array.flags.writeable = False
        return arrays

    def _set_arrays(self, attribute: str, arrays: Sequence[np.ndarray]) -> None:
        layers = self._dense_layers
        if len(arrays) != len(layers):
            raise InputError(f"expected {len(layers)} arrays, got {len(arrays)}")
        pairs = zip(layers, arrays, strict=True)
        self.model_.set_weights({f"{i}.{attribute}": np.asarray(array, self.model_.dtype) for i, array in pairs})

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weight matrices of the dense layers, (I, O) each: copies, read-only. What is assigned is set in `model_`."""
        return self._arrays("weight")

    @coefs_.setter
    def coefs_(self, arrays: Sequence[np.ndarray]) -> None:
        self._set_arrays("weight", arrays)

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The biases of the dense layers, (O,) each: as `coefs_`."""
        return self._arrays("bias")

    @intercepts_.setter
    def intercepts_(self, arrays: Sequence[np.ndarray]) -> None:
        self._set_arrays("bias", arrays)

    def _is_stochastic(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic.")
        return True
