"""`MLPClassifier`: scikit-learn's, trained by fastnn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from fastnn.estimators.labels import Labels, are_shares
from fastnn.estimators.multilayer import Multilayer


def _by_kind(sigmoid: str, softmax: str) -> dict[str, str]:
    return {"binary": sigmoid, "multilabel": sigmoid, "multiclass": softmax, "shares": softmax}


class MLPClassifier(Labels, Multilayer):
    """A multilayer perceptron that classifies, with the parameters of scikit-learn's `MLPClassifier`, and more.

        from fastnn.estimators import MLPClassifier

        classifier = MLPClassifier((100,), early_stopping=True, random_state=0).fit(X, y)
        classifier.predict_proba(X[:5])
        classifier.model_.save("model.safetensors")     # the trained `fastnn.Sequential`

    The cost of a mini-batch of weight S (its rows, or the sum of their weights) is the mean loss + alpha / (2 S) sum ||W||^2.
    y: labels (n,); 0/1 (n, C), several yeses a row; or shares (n, C) that add up to 1 in each row. The network computes in the
    dtype of X, float32 or float64, and in float64 for any other. From the same `random_state` come the results of
    scikit-learn's, up to rounding, unless an option is used that it does not have, or the data are so far from the usual scale
    that probabilities are rounded to 0 or 1: its loss is cut off there, and ours is not.

    As there: `hidden_layer_sizes`, `alpha`, `batch_size` ("auto": min(200, n)), `learning_rate` of sgd ("constant",
    "invscaling", "adaptive"), `learning_rate_init`, `power_t`, `max_iter` (epochs), `shuffle`, `random_state`, `tol` and
    `n_iter_no_change` (when to stop), `verbose`, `warm_start`, `momentum`, `nesterovs_momentum`, `early_stopping`,
    `validation_fraction`, `beta_1`, `beta_2`, `epsilon` (added before the correction, see `fastnn.optimizers`), `max_fun`.

    More than there:

    - `activation`: "identity", "logistic", "tanh", "relu", any of `fastnn.ops.ACTIVATIONS`, or a list with one a hidden layer.
    - `solver`: "adam", "sgd", "lbfgs"; the name of any other optimizer of fastnn, which gets `learning_rate_init`; or such an
      optimizer, whose own learning rate counts. `learning_rate` may be a schedule of `fastnn.schedules`.
    - `loss`: "log_loss", "focal", or a loss of `fastnn.losses` that ends in softmax, or in a sigmoid for two classes and
      several yeses.
    - `dropout`: the share of outputs dropped behind each hidden layer, or a list of such; `batch_norm` before its activation.
    - `class_weight`: as in other classifiers of scikit-learn, {label: weight} or "balanced".
    - `callbacks`: of `fastnn.callbacks`. `device`, `precision` and `threads`: as in `fastnn.Sequential.fit`.

    Attributes: `classes_`, `coefs_`, `intercepts_`, `loss_`, `loss_curve_`, `best_loss_`, `validation_scores_`,
    `best_validation_score_`, `n_iter_`, `t_`, `n_layers_`, `n_outputs_`, `out_activation_`, `n_features_in_`,
    `feature_names_in_` as there; `model_`, the `fastnn.Sequential`, which knows the labels (integers, strings, booleans), and
    `history_` of its training.
    """

    loss_names: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "log_loss": _by_kind("sigmoid_cross_entropy", "softmax_cross_entropy"),
        "focal": _by_kind("focal", "softmax_focal"),
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        dropout: Any = 0.0,
        batch_norm: bool = False,
        class_weight: Any = None,
        callbacks: Any = (),
        device: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        for name, value in locals().items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation_data: Any = None) -> Self:
        """Train on X (n, features), dense or sparse, and y; returns the estimator.

        `sample_weight` (n,). `validation_data`: (X, y) or (X, y, weights), whose score is in `validation_scores_` after each
        epoch; early stopping looks at it instead of holding examples out. Raises ValueError for what cannot be trained on, and
        where the training diverges; with early stopping that is a ConvergenceWarning, and the best model so far stays.
        """
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight, validation_data)

    @available_if(Multilayer._is_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch on X and y, from where the last call ended; returns the estimator.

        `classes`: all labels that will come; needed in the first call, for labels.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all examples at once; give partial_fit a dict of weights by class")
        if classes is not None and hasattr(self, "classes_") and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}")
        several = are_shares(y) or type_of_target(y).startswith("multilabel")
        if not hasattr(self, "classes_") and not several and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        with self._all_or_nothing():
            if not hasattr(self, "classes_") and not several:
                self.classes_, self._kind = unique_labels(classes), ""
            return self._fit(X, y, sample_weight, incremental=True)

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        return targets.astype(bool).reshape(-1, 1) if self.n_outputs_ == 1 else None  # as scikit-learn: of two classes alone
