"""`Classifier` and `Regressor`: any model of fastnn as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from sklearn.utils import check_random_state

from fastnn.errors import DivergenceError, InputError, InputTypeError
from fastnn.estimators.base import Trained
from fastnn.estimators.labels import Labels
from fastnn.estimators.values import Values
from fastnn.layers import Dense, Layer
from fastnn.sequential import Sequential

SETTLED = ("sample_weight", "validation_data", "classes", "loss", "resume", "threads", "device", "class_weight")
"""Options of `Sequential.fit` that an estimator has as parameters, or that its `fit` has."""


def hidden_layer(features: int, outputs: int) -> Sequence[Layer]:
    """The layers of a network with 100 hidden units: what is built where nothing else is asked for."""
    return [Dense(100, activation="relu"), Dense(outputs)]


class OfModel(Trained):
    """What trains a model of one's own, which `build` makes of the numbers of features and outputs."""

    build: Any
    options: Mapping[str, Any] | None
    random_state: Any
    device: str

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation_data: Any) -> Self:
        if self.options is not None and not isinstance(self.options, Mapping):
            raise InputTypeError(f"{type(self).__name__}: options: expected a dict, got {type(self.options).__name__}")
        for name in SETTLED:
            if name in (self.options or {}):
                raise InputError(f"{type(self).__name__}: options: {name} is a parameter of its own, or one of fit")
        X, targets = self._read(X, y, False, True)
        options = {"verbose": 0, "batch_size": min(128, X.shape[0]), **(self.options or {})}
        weights = self._weights(X, y, sample_weight)
        if validation_data is not None:
            X_held_out, y_held_out, weights_held_out = self._validation(validation_data)
            weighted = () if weights_held_out is None else (weights_held_out,)
            options["validation_data"] = X_held_out, y_held_out, *weighted
        seed = int(check_random_state(self.random_state).randint(2**31))
        self.model_ = self._model(X.shape[1], self._outputs(targets), seed, X.dtype.name)
        try:
            self.history_ = self.model_.fit(
                X, targets, loss=self._loss(), sample_weight=weights, classes=self._labels(), device=self.device,
                threads=self.threads, **options,
            )  # fmt: skip
        except DivergenceError as error:
            raise ValueError(str(error)) from error
        self.n_iter_ = len(self.history_.get("loss", ()))
        self._settle()
        return self

    def _model(self, features: int, outputs: int, seed: int, dtype: str) -> Sequential:
        """A new model, of this dtype where `build` makes layers. Raises InputError for one that does not fit the data."""
        build = hidden_layer if self.build is None else self.build
        if not isinstance(build, Sequential) and not callable(build):
            raise InputTypeError(
                f"{type(self).__name__}: build: expected a Sequential or a function that makes layers, got {build!r}"
            )
        made = build if isinstance(build, Sequential) else build(features, outputs)
        model = made.clone(seed=seed) if isinstance(made, Sequential) else Sequential(made, seed=seed, dtype=dtype)
        shape = model.layout_for((features,)).outputs
        if shape != (outputs,):
            raise InputError(f"{type(self).__name__}: build: expected a model with {outputs} outputs, got the shape {shape}")
        return model


class Classifier(Labels, OfModel):
    """A classifier around any `fastnn.Sequential`.

        import fastnn
        from fastnn.estimators import Classifier

        def build(features, outputs):
            return [fastnn.Dense(64), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dense(outputs)]

        classifier = Classifier(build, options={"epochs": 20, "optimizer": fastnn.AdamW()}, random_state=0).fit(X, y)

    `build`: a function of the numbers of features and of outputs, which returns layers or a `Sequential`; or a `Sequential`,
    of which each `fit` trains a clone. By default a hidden layer of 100 units. Layers compute in the dtype of X, float32 or
    float64, and in float64 for any other; a `Sequential` in its own. `loss`: "log_loss" (softmax cross-entropy, and
    sigmoid cross-entropy for several yeses), or a loss of `fastnn.losses` that ends in softmax or a sigmoid; with a sigmoid
    there is one output for two classes. `options`: arguments of `Sequential.fit`. `class_weight`: {label: weight} or
    "balanced". `random_state` draws the seed of the model. Labels and predictions are those of `MLPClassifier`.

    Attributes: `classes_`, `n_features_in_`, `feature_names_in_`, `n_iter_` (epochs), `model_`, `history_`.
    """

    loss_names: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "log_loss": {
            **dict.fromkeys(("binary", "multiclass", "shares"), "softmax_cross_entropy"), "multilabel": "sigmoid_cross_entropy"
        }
    }  # fmt: skip

    def __init__(
        self, build: Any = None, *, loss: Any = "log_loss", options: Any = None, class_weight: Any = None,
        random_state: Any = None, device: str = "auto", threads: int | None = None,
    ) -> None:  # fmt: skip
        self.build = build
        self.loss = loss
        self.options = options
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.threads = threads

    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation_data: Any = None) -> Self:
        """Train a new model on X (n, features), dense or sparse, and y; returns the estimator.

        `sample_weight` (n,). `validation_data`: (X, y) or (X, y, weights), measured after each epoch, see `history_`. Raises
        ValueError for what cannot be trained on.
        """
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight, validation_data)


class Regressor(Values, OfModel):
    """A regressor around any `fastnn.Sequential`, as `Classifier` is a classifier.

    `loss`: "squared_error", 1/2 sum_j (a_j - y_j)^2, "poisson", "absolute_error", or a loss of `fastnn.losses` that compares
    numbers.
    """

    def __init__(
        self, build: Any = None, *, loss: Any = "squared_error", options: Any = None, random_state: Any = None,
        device: str = "auto", threads: int | None = None,
    ) -> None:  # fmt: skip
        self.build = build
        self.loss = loss
        self.options = options
        self.random_state = random_state
        self.device = device
        self.threads = threads

    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation_data: Any = None) -> Self:
        """Train a new model on X (n, features), dense or sparse, and y, (n,) or (n, O). As `Classifier.fit`."""
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight, validation_data)
