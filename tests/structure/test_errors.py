"""Names that are not known: which of ours is meant."""

from __future__ import annotations

import ast
import copy
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastnn
from fastnn import initializers, losses, metrics, ops, optimizers
from fastnn.errors import ELSEWHERE, FastnnError, nearest
from fastnn.losses import as_loss
from fastnn.metrics import as_metric


@pytest.mark.parametrize(
    ("ask", "name", "meant"),
    [
        *((as_loss, name, "mean_squared_error") for name in ("mse", "MSE", "MSELoss", "mse_loss", "l2_loss", "squared_error")),
        *((as_loss, name, "softmax_cross_entropy") for name in ("crossentropy", "cross_entropy", "CrossEntropyLoss", "nll")),
        *((as_loss, name, "softmax_cross_entropy") for name in ("sparse_categorical_crossentropy", "log_loss", "nll_loss")),
        *((as_loss, name, "sigmoid_cross_entropy") for name in ("bce", "binary_crossentropy", "BCEWithLogitsLoss", "logistic")),
        *((as_loss, name, "mean_absolute_error") for name in ("mae", "L1Loss", "absolute_error")),
        *((as_loss, name, "huber") for name in ("HuberLoss", "smooth_l1_loss")),
        *((as_loss, name, "poisson") for name in ("PoissonNLLLoss", "poisson_nll")),
        *((as_loss, name, "focal") for name in ("sigmoid_focal_loss", "BinaryFocalCrossentropy")),
        (as_loss, "CategoricalFocalCrossentropy", "softmax_focal"),
        (as_loss, "pinball_loss", "quantile"),
        (as_metric, "mean_squared_error", "mse"),
        (as_metric, "mean_absolute_error", "mae"),
        (as_metric, "acc", "accuracy"),
        (as_metric, "f1_score", "f1"),
        (as_metric, "R2", "r2"),
        (as_metric, "cross_entropy", "log_loss"),
        (fastnn.Activation, "swish", "silu"),
        (fastnn.Activation, "LeakyReLU", "leaky_relu"),
        (fastnn.Activation, "ReLU", "relu"),
        (fastnn.Activation, "linear", "identity"),
        (optimizers.by_name, "Adam", "adam"),
        (optimizers.by_name, "nag", "nesterov"),
        (optimizers.by_name, "gradient_descent", "sgd"),
        (initializers.by_name, "HeNormal", "he_normal"),
        (initializers.by_name, "kaiming_normal", "he_normal"),
        (fastnn.engines.choose, "gpu", "cuda"),
    ],
)
def test_names_that_others_use_are_answered_with_ours(ask: Any, name: str, meant: str) -> None:
    with pytest.raises(FastnnError, match=f"did you mean '{meant}'"):
        ask(name)


def test_the_nearest_name() -> None:
    assert nearest("los", ["loss", "val_loss"]) == "; did you mean 'loss'?"
    assert nearest("mse", ["loss", "penalty"]) == "; known are 'loss', 'penalty'", "what others call so must be there"
    assert nearest("", ["a", "_"]) == "; known are '_', 'a'"
    assert nearest("loss", ["b", "a"]) == nearest(3, ["b", "a"]) == "; known are 'a', 'b'"


def test_every_name_of_the_table_leads_to_one_that_is_here() -> None:
    callbacks = [getattr(fastnn.callbacks, name) for name in fastnn.callbacks.__all__]
    classes = [*fastnn.layers.BUILT_IN.values(), *optimizers.Optimizer.types.values(), *callbacks]
    known = {
        *losses.LOSSES, *metrics.METRICS, *optimizers.NAMES, *initializers.NAMES, *ops.ACTIVATIONS, *fastnn.engines.DEVICES,
        *fastnn.__all__, *(name for module in fastnn._MODULES for name in vars(getattr(fastnn, module))),
        *(argument for made in classes for argument in inspect.signature(made).parameters),
        *inspect.signature(fastnn.Sequential.fit).parameters,
    }  # fmt: skip
    for name, entries in ELSEWHERE.items():
        assert name == name.lower()
        assert name.isalnum()
        assert {re.split(r"\W", entry)[0] for entry in entries} <= known, name


# --- names of the package -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("EarlyStopping", r"has no attribute 'EarlyStopping'; it is fastnn\.callbacks\.EarlyStopping$"),
        ("Checkpoint", r"it is fastnn\.callbacks\.Checkpoint$"),
        ("InputError", r"it is fastnn\.errors\.InputError$"),
        ("He", r"it is fastnn\.initializers\.He$"),
        ("Metric", r"it is fastnn\.metrics\.Metric$"),
        ("save", r"it is fastnn\.checkpoints\.save or fastnn\.plots\.save$"),
        ("softmax_cross_entropy", r"it is fastnn\.losses\.softmax_cross_entropy or fastnn\.ops\.softmax_cross_entropy$"),
        ("EarlyStoping", r"did you mean fastnn\.callbacks\.EarlyStopping\?$"),
        ("Dence", r"did you mean fastnn\.Dense\?$"),
        ("Sequental", r"did you mean fastnn\.Sequential\?$"),
        ("Xavier", r"did you mean fastnn\.initializers\.Glorot\?$"),
        ("XavierNormal", r"did you mean fastnn\.initializers\.Glorot\(\"normal\"\)\?$"),
        ("KaimingUniform", r"did you mean fastnn\.initializers\.He\(\"uniform\"\)\?$"),
        ("Linear", r"did you mean fastnn\.Dense\?$"),
        ("ReLU", r"did you mean fastnn\.Activation\(\"relu\"\)\?$"),
        ("relu", r"it is fastnn\.ops\.relu$"),
        ("Model", r"did you mean fastnn\.Sequential\?$"),
        ("MLPClassifier", r"did you mean fastnn\.Sequential\?$"),
        ("BatchNormalization", r"did you mean fastnn\.BatchNorm\?$"),
        ("BatchNorm1d", r"did you mean fastnn\.BatchNorm\?$"),
        ("BatchNorm2d", r"did you mean fastnn\.BatchNorm\?$"),
        ("Conv2d", r"did you mean fastnn\.Conv2D\?$"),
        ("MaxPooling2D", r"did you mean fastnn\.MaxPool2D\?$"),
        ("AvgPool2d", r"did you mean fastnn\.MeanPool2D\?$"),
        ("GlobalAveragePooling2D", r"did you mean fastnn\.GlobalMeanPool2D\?$"),
        ("DepthwiseConv2D", r"did you mean fastnn\.Conv2D\(\.\.\., groups=C\)\?$"),
        ("SpatialDropout2D", r"did you mean fastnn\.Dropout\(rate, channels=True\)\?$"),
        ("LayerNormalization", r"did you mean fastnn\.LayerNorm\?$"),
        ("CrossEntropyLoss", r"did you mean fastnn\.losses\.softmax_cross_entropy\?$"),
        ("Nesterov", r"did you mean fastnn\.SGD\(momentum=0\.9, nesterov=True\)\?$"),
        ("train_test_split", r"did you mean fastnn\.datasets\.split\?$"),
        ("ModelCheckpoint", r"did you mean fastnn\.callbacks\.Checkpoint\?$"),
        ("Path", "has no attribute 'Path'"),
        ("StandardScaler", r"did you mean fastnn\.Standardizer\?$"),
        ("xyzzy", "has no attribute 'xyzzy'$"),
        ("no.name", "has no attribute 'no.name'$"),
    ],
)
def test_names_that_lie_elsewhere_are_pointed_to(name: str, says: str) -> None:
    with pytest.raises(AttributeError, match=says):
        getattr(fastnn, name)
    assert not hasattr(fastnn, name)


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    tree = ast.parse(Path(fastnn.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(alias.asname, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {*((name, "fastnn") for name in fastnn._MODULES), *fastnn._HOME.items()}
    assert {name for name, _ in seen} == set(fastnn.__all__)
    for name, home in seen:
        assert getattr(fastnn, name) is getattr(importlib.import_module(home), name)
    assert {made.__name__ for made, _ in optimizers.NAMES.values()} <= set(fastnn.__all__)


def test_what_a_pointer_names_is_there_at_once() -> None:
    for name in ("errors.InputError", "checkpoints.save", "callbacks.EarlyStopping"):
        code = f"import fastnn; fastnn.{name}"
        assert not subprocess.run([sys.executable, "-c", code], check=False).returncode, name


def test_tools_that_ask_for_names_of_their_own_are_answered_at_once() -> None:
    code = """
import sys, fastnn
before = set(sys.modules)
for name in ("__wrapped__", "__path__x", "_repr_html_", "_ipython_canary_method_should_not_exist_", "__bases__"):
    assert not hasattr(fastnn, name)
assert set(sys.modules) == before
from fastnn import errors
from fastnn.network import state
assert "fastnn.datasets" not in sys.modules, "a module is asked for before it is loaded"
assert not hasattr(fastnn, "Nothing")
for name in ("numba", "llvmlite", "cupy", "sklearn", "scipy", "tqdm", "click", "pandas", "pyarrow", "matplotlib"):
    assert name not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(fastnn.__all__) <= set(dir(fastnn))
    with pytest.raises(TypeError):  # as for every module
        copy.deepcopy(fastnn)
    assert doctest.DocTestFinder().find(fastnn)


# --- arguments of constructors --------------------------------------------------------------------------------------


class Scaled(fastnn.Layer):
    """A layer of one's own."""

    def __init__(self, factor: float = 1.0, **others: float) -> None:
        self.factor, self.others = factor, others


class Quiet(fastnn.Layer):
    """One without options."""


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (fastnn.Adam, {"lr": 0.1}, "Adam has no 'lr'; did you mean 'learning_rate'?"),
        (fastnn.Adam, {"use_ema": True}, "Adam has no 'use_ema'; did you mean 'ema'?"),
        (fastnn.SGD, {"ema_momentum": 0.9}, "SGD has no 'ema_momentum'; did you mean 'ema'?"),
        (fastnn.Adam, {"alpha": 0.1}, "Adam has no 'alpha'; did you mean 'learning_rate'?"),
        (fastnn.Adam, {"beta_1": 0.9}, "Adam has no 'beta_1'; did you mean 'beta1'?"),
        (fastnn.Adam, {"betas": (0.9, 0.99)}, "Adam has no 'betas'; did you mean 'beta1 = betas[0], beta2 = betas[1]'?"),
        (fastnn.SGD, {"momentum": 0.9, "lr": 0.1}, "SGD has no 'lr'; did you mean 'learning_rate'?"),
        (fastnn.RMSprop, {"rho": 0.9}, "RMSprop has no 'rho'; did you mean 'beta'?"),
        (fastnn.Dropout, {"keep_prob": 0.8}, "Dropout has no 'keep_prob'; did you mean 'rate = 1 - keep_prob'?"),
        (fastnn.Dropout, {"p": 0.2}, "Dropout has no 'p'; did you mean 'rate'?"),
        (
            fastnn.Dense,
            {"units": 3, "kernel_initializer": "he"},
            "Dense has no 'kernel_initializer'; did you mean 'weight_init'?",
        ),
        (fastnn.Dense, {"units": 3, "bias": False}, "Dense has no 'bias'; did you mean 'use_bias'?"),
        (fastnn.BatchNorm, {"eps": 1e-3}, "BatchNorm has no 'eps'; did you mean 'epsilon'?"),
        (fastnn.LayerNorm, {"eps": 1e-3}, "LayerNorm has no 'eps'; did you mean 'epsilon'?"),
        (initializers.Normal, {"std": 0.1}, "Normal has no 'std'; known are 'deviation'"),
        (fastnn.Flatten, {"axis": 1}, "Flatten has no 'axis'"),
        (Quiet, {"loud": True}, "Quiet has no 'loud'"),
        (
            fastnn.callbacks.EarlyStopping,
            {"monitor": "loss", "restore_best_weights": True},
            "EarlyStopping has no 'restore_best_weights'; did you mean 'restore_best'?",
        ),
    ],
)
def test_arguments_that_others_use_are_answered_with_ours(make: Any, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError) as caught:
        make(**arguments)
    assert str(caught.value) == says
    assert isinstance(caught.value, FastnnError)


@pytest.mark.parametrize(
    ("method", "keyword", "says"),
    [
        ("fit", "lr", "fit has no 'lr'; did you mean 'optimizer=Adam(lr)'?"),
        ("fit", "learning_rate", "did you mean 'optimizer=Adam(learning_rate)'?"),
        ("fit", "nb_epoch", "did you mean 'epochs'?"),
        ("fit", "batchsize", "did you mean 'batch_size'?"),
        ("fit", "max_iter", "did you mean 'epochs'?"),
        ("fit", "shuffel", "fit has no 'shuffel'; did you mean 'shuffle'?"),
        ("partial_fit", "shuffle", "partial_fit has no 'shuffle'; known are 'classes'"),
        ("fit", "validation_spilt", "fit has no 'validation_spilt'; did you mean 'validation_split'?"),
        ("fit", "validation_fraction", "fit has no 'validation_fraction'; did you mean 'validation_split'?"),
        ("fit", "labelsmoothing", "fit has no 'labelsmoothing'; did you mean 'label_smoothing'?"),
        ("partial_fit", "validation_split", "partial_fit has no 'validation_split'; known are 'class"),
        ("fit", "zzz", "fit has no 'zzz'; known are 'autotune', 'batch_size'"),
        ("partial_fit", "sample_weights", "partial_fit has no 'sample_weights'; did you mean 'sample_weight'?"),
        ("evaluate", "metric", "evaluate has no 'metric'; did you mean 'metrics'?"),
    ],
)
def test_arguments_of_fit_that_others_use(method: str, keyword: str, says: str) -> None:
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    with pytest.raises(TypeError, match=re.escape(says)):
        getattr(model, method)([[1.0]], [1.0], **{keyword: 1})
    assert not model.built


def test_signatures_are_those_of_the_constructors() -> None:
    """And what Python itself refuses is refused as before."""
    assert list(inspect.signature(fastnn.Dropout).parameters) == ["rate", "channels"]
    assert list(inspect.signature(fastnn.Adam).parameters)[:2] == ["learning_rate", "beta1"]
    assert list(inspect.signature(fastnn.Flatten.__init__).parameters) == ["self"]
    assert Scaled(2.0, other=3.0).others == {"other": 3.0}
    for make in (lambda: fastnn.Flatten(3), fastnn.Dense, lambda: fastnn.Adam(*range(9))):  # type: ignore[call-arg, arg-type]
        with pytest.raises(TypeError) as caught:
            make()
        assert not isinstance(caught.value, FastnnError)
