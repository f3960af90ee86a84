"""The data that commands are given: read, and brought into the order that a model takes.

How a table is read belongs to its file: a saved network knows the names of its features and targets, nothing else of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastnn.cli.commands import F, option

if TYPE_CHECKING:
    import numpy as np

    from fastnn.datasets import Dataset, Table
    from fastnn.sequential import Sequential

DATA, TABLE = "Data", "Tables"
WHOLE = 20
"""Different whole numbers of a target up to which they may be meant for classes."""
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


TABLE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    option(
        TABLE,
        "--separator",
        metavar="CHAR",
        help="Character between values, or comma, semicolon, tab, pipe. [default: detected]",
    ),
    option(TABLE, "--decimal", type=click.Choice([".", ","]), metavar="CHAR", help="Decimal mark, . or , [default: detected]"),
    option(
        TABLE,
        "--encoding",
        metavar="NAME",
        help="Encoding of the file, such as gbk, big5 or cp1252. [default: utf-8, or by its byte order mark]",
    ),
    option(
        TABLE,
        "--na",
        "missing",
        multiple=True,
        metavar="VALUE",
        help="Value that counts as missing, as an empty one always does; repeatable. [default: NA, N/A, NaN, null, None, ...]",
    ),
    option(TABLE, "--drop", multiple=True, metavar="COLUMN", help="Column to leave out; repeatable."),
    option(
        TABLE,
        "--id",
        "identifier",
        metavar="COLUMN",
        help="Column that names the rows: not a feature, written beside the predictions.",
    ),
)


def table_options(command: F) -> F:
    for add in reversed(TABLE_OPTIONS):
        command = add(command)
    return command


@dataclass(frozen=True)
class TableOptions:
    """How the tables of a command are read."""

    separator: str | None
    decimal: str | None
    encoding: str | None
    missing: Sequence[str]
    drop: Sequence[str]
    identifier: str | None

    @property
    def is_default(self) -> bool:
        """Whether nothing is said about tables."""
        return not any(vars(self).values())

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of `load` and `read_table` that say how a text is written."""
        texts = {"separator": self.separator, "decimal": self.decimal, "encoding": self.encoding}
        return {**texts, "missing": tuple(self.missing) or None}

    @property
    def dropped(self) -> tuple[str, ...]:
        """The columns that are no features."""
        return (*self.drop, *([] if self.identifier is None else [self.identifier]))

    def read_table(self, data: str) -> Table:
        """The table, without the columns that are dropped; the name of each row stays as it is written."""
        from fastnn.datasets import read_table

        text = [] if self.identifier is None else [self.identifier]
        return read_table(data, **self.reading, text=text).without(self.drop)


def is_table(data: str) -> bool:
    from fastnn.datasets import tables

    return tables.is_table(Path(data))


def targets_of(data: str, network: Sequential) -> Sequence[str]:
    """What a saved network was trained to predict, where the data have it beside other things; else nothing."""
    from fastnn.datasets.dataset import labels_of

    names = network.target_names or ()
    return names if is_table(data) or set(names) & set(labels_of(data)) else ()


def read(
    data: str,
    targets: Sequence[str] = (),
    regression: bool = False,
    *,
    table: TableOptions,
    features: Sequence[str] | None = None,
    classes: bool = False,
) -> Dataset:
    """The data set; one target is labels or values by what it holds, several are values, and all are in a `regression`.

    `features`: the columns of a table to take. `classes`: a target of whole numbers is labels however they are written.
    """
    from fastnn.datasets import load
    from fastnn.errors import InputError

    target = list(targets) if len(targets) > 1 else next(iter(targets), None)
    columns = {"features": features} if is_table(data) and features is not None else {"drop": table.dropped}
    dataset = load(data, target, **columns, **table.reading)
    if dataset.classes is None and classes and not regression and has_whole_target(dataset):
        return _as_classes(dataset)
    if not regression or dataset.classes is None:
        return dataset
    if dataset.y_train.dtype.kind not in "iu":
        raise InputError(f"expected numbers for a regression, and the target of {dataset.name} holds {_kind(dataset.y_train)}")
    y_test = None if dataset.y_test is None else _column(dataset.y_test)
    return replace(dataset, y_train=_column(dataset.y_train), y_test=y_test, classes=None)


def has_whole_target(dataset: Dataset) -> bool:
    """Whether the target is one column of floating-point numbers that are all whole."""
    targets = [y for y in (dataset.y_train, dataset.y_test) if y is not None]
    return dataset.classes is None and all(y.shape[1] == 1 and bool((y == y.round()).all()) for y in targets)


def warn_of_classes(dataset: Dataset) -> None:
    """Warn where a target that is taken for an amount looks like classes whose numbers were written with a decimal point."""
    import numpy as np

    from fastnn.errors import warn

    values = np.unique(dataset.y_train)
    if has_whole_target(dataset) and len(values) <= WHOLE:
        shown = ", ".join(f"{value:.1f}" for value in values[:5]) + ", ..." * (len(values) > 5)
        warn(
            f"the target of {dataset.name} holds {shown}: with decimal points, these are amounts, and this is a regression. "
            "If they are classes, add --loss softmax_cross_entropy; if they are amounts, --regression"
        )


def _as_classes(dataset: Dataset) -> Dataset:
    """The data set with the whole numbers of its target as labels."""
    import numpy as np

    y_train = dataset.y_train.reshape(-1).astype(np.int64)
    y_test = None if dataset.y_test is None else dataset.y_test.reshape(-1).astype(np.int64)
    labels = y_train if y_test is None else np.concatenate([y_train, y_test])
    return replace(dataset, y_train=y_train, y_test=y_test, classes=len(np.unique(labels)))


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


def with_images(dataset: Dataset, shape: tuple[int, ...] | None) -> Dataset:
    """The data set with images in the place of rows. Raises click.UsageError without a shape, InputError for a wrong one."""
    if shape is None and dataset.image_shape is None:
        raise click.UsageError(
            f"--conv and --augment are for images, and examples of {dataset.name} are {dataset.features} numbers in a row; if "
            "they are images, say their height and width, as in --shape 28x28, or 32x32x3 with channels"
        )
    return dataset.as_images(shape)


def for_network(dataset: Dataset, network: Sequential) -> Dataset:
    """The data set with images in the place of rows, where the network takes images. Raises InputError for others than its."""
    from fastnn.errors import InputError

    given, taken = dataset.image_shape, network.network.features
    if given is not None and len(taken) > 1 and (*given, 1)[:3] != (*taken, 1)[:3]:
        shapes = [" x ".join(map(str, shape)) for shape in (taken, given)]
        raise InputError(f"the network takes images of {shapes[0]}, and those of {dataset.name} are {shapes[1]}")
    X_test = None if dataset.X_test is None else as_images(dataset.X_test, network)
    return replace(dataset, X_train=as_images(dataset.X_train, network), X_test=X_test)


def as_images(X: np.ndarray, network: Sequential) -> np.ndarray:
    """Rows in the shape of the images that a network takes; as they are where they are of another size."""
    features = network.network.features
    return X.reshape(len(X), *features) if math.prod(X.shape[1:]) == math.prod(features) else X
