"""The data that commands are given: read, and brought into the order that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastnn.cli.commands import F, option

if TYPE_CHECKING:
    import numpy as np

    from fastnn.datasets import Dataset

DATA = "Data"
METRICS = (
    "accuracy", "auc", "average_precision", "balanced_accuracy", "brier", "f1", "log_loss", "mae", "mse", "precision", "r2",
    "recall", "rmse", "top_k_accuracy",
)  # fmt: skip


def target_option(default: str = "y, target, label or class") -> Callable[[F], F]:
    return option(
        DATA,
        "--target",
        "targets",
        multiple=True,
        metavar="COLUMN",
        help=f"Column of a table to be predicted; repeatable, for numbers. [default: {default}]",
    )


def regression_option() -> Callable[[F], F]:
    return option(DATA, "--regression", is_flag=True, help="The target is an amount, integers are no labels.")


def read(data: str, targets: Sequence[str] = (), regression: bool = False) -> Dataset:
    """The data set; one target is labels or values by what it holds, several are values, and all are in a `regression`."""
    from fastnn.datasets import load
    from fastnn.errors import InputError

    dataset = load(data, list(targets) if len(targets) > 1 else next(iter(targets), None))
    if not regression or dataset.classes is None:
        return dataset
    if dataset.y_train.dtype.kind not in "iu":
        raise InputError(f"expected numbers for a regression, and the target of {dataset.name} holds {_kind(dataset.y_train)}")
    y_test = None if dataset.y_test is None else _column(dataset.y_test)
    return replace(dataset, y_train=_column(dataset.y_train), y_test=y_test, classes=None)


def _column(labels: np.ndarray) -> np.ndarray:
    return labels.astype("float64").reshape(-1, 1)


def _kind(labels: np.ndarray) -> str:
    return "booleans" if labels.dtype.kind == "b" else f"strings such as {labels[0].item()!r}"


def without(dataset: Dataset, column: str) -> tuple[Dataset, np.ndarray]:
    """The data set without a column of its table, and that column. Raises InputError for a name that it does not have."""
    import numpy as np

    from fastnn.errors import InputError, nearest

    names = dataset.feature_names
    if names is None or dataset.X_test is not None:
        raise InputError(f"only tables have columns, and {dataset.name} is none: there is no {column!r}")
    if column not in names:
        raise InputError(f"{dataset.name} has no column {column!r}{nearest(column, names)}")
    index = names.index(column)
    left = tuple(name for name in names if name != column)
    rest = np.delete(dataset.X_train, index, axis=1)
    return replace(dataset, X_train=rest, shape=(len(left),), feature_names=left), dataset.X_train[:, index].copy()


def in_order(dataset: Dataset, names: Sequence[str] | None) -> Dataset:
    """The data set with the columns of these names, in this order, where it is a table and the names are known."""
    from fastnn.errors import InputError, nearest

    columns = dataset.feature_names
    if names is None or columns is None or tuple(names) == columns:
        return dataset
    for name in names:
        if name not in columns:
            raise InputError(f"{dataset.name} has no column {name!r}, which the network takes{nearest(name, columns)}")
    order = [columns.index(name) for name in names]
    X_test = None if dataset.X_test is None else dataset.X_test[:, order]
    return replace(dataset, X_train=dataset.X_train[:, order], X_test=X_test, shape=(len(order),), feature_names=tuple(names))
