"""`fastnn predict`: what a saved network says of data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastnn.cli import data as sources
from fastnn.cli.commands import FILE, Command, check_written, device_option, line
from fastnn.cli.data import TableOptions, table_options

if TYPE_CHECKING:
    import numpy as np

    from fastnn.sequential import Sequential

ROWS = 1 << 14
"""Rows of text that are made in one go."""


@click.command(cls=Command, short_help="Predict with a saved network.")
@click.argument("model", type=FILE)
@click.argument("data")
@click.option("--output", type=FILE, metavar="FILE", help="Write .csv or .parquet. [default: CSV on the terminal]")
@click.option("--proba", is_flag=True, help="Print the probability of each class.")
@table_options
@device_option("cpu")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads on the CPU. [default: as many as cores]")
def predict(model: Path, data: str, output: Path | None, proba: bool, device: str, threads: int | None, **options: Any) -> None:
    """Predict the rows of DATA with the network in MODEL, a file of `fastnn train --save`.

    DATA is a table (.csv, .tsv, .parquet, or - for standard input) with the columns that
    the network was trained on (others are ignored), an .npz file with X, or a data set
    such as digits, of which the test data are taken.

    \b
    Examples:
      fastnn predict flowers.safetensors new.csv
      fastnn predict flowers.safetensors new.csv --proba --output species.parquet
      fastnn predict flowers.safetensors - --id number < new.csv
    """
    check_written({"--output": output}, {"MODEL": model, "DATA": data})
    if output is not None and output.suffix.lower() not in (".csv", ".parquet"):
        raise click.UsageError(f"--output: expected a name that ends in .csv or .parquet, got {output}")
    import fastnn

    network = fastnn.load(model).to(device)
    X, identifiers = _inputs(data, network, TableOptions(**options))
    X = sources.as_images(X, network)
    columns = _shares(network, X, threads) if proba else _columns("prediction", network.predict(X, threads=threads))
    columns = _beside(identifiers, columns)
    if output is None:
        for text in _as_csv(columns):
            click.echo(text, nl=False)
    elif output.suffix.lower() == ".csv":
        from fastnn.storage.atomic import write_whole

        write_whole(output, (text.encode() for text in _as_csv(columns)))
    else:
        _write_parquet(output, columns)
    if output is not None:
        line("written", f"{output}: {len(X):,} rows")


def _inputs(data: str, network: Sequential, table: TableOptions) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The rows to predict, of a file all, of a data set the test data; and the column that names them, if there is one."""
    from fastnn.datasets import read_features
    from fastnn.datasets.dataset import NAMES, take_features

    if sources.is_table(data):
        content, name = table.read_table(data), table.identifier
        identifiers = {} if name is None else {name: content.take_text(name)}
        return take_features(content, network.feature_names)[0], identifiers
    if data not in NAMES and not Path(data).is_dir() and Path(data).suffix and table.is_default:
        return read_features(data, network.feature_names)[0], {}
    dataset = sources.read(data, table=table)
    return dataset.X_train if dataset.X_test is None else dataset.X_test, {}


def _beside(identifiers: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of the rows and the predictions. Raises InputError where both have a column of one name."""
    from fastnn.errors import InputError

    for name in identifiers:
        if name in columns:
            raise InputError(f"--id: the predictions have a column {name!r} too; rename that of the table")
    return {**identifiers, **columns}


def _columns(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Columns (n,) by name: numbered from 1 where there are several."""
    if values.ndim == 1 or values.shape[1] == 1:
        return {name: values.reshape(-1)}
    return {f"{name}_{number}": column for number, column in enumerate(values.T, 1)}


def _shares(network: Sequential, X: np.ndarray, threads: int | None) -> dict[str, np.ndarray]:
    """A column of probabilities for each class, named after it."""

    shares = network.predict_proba(X, threads=threads)
    if network.task is None or network.task.classes is None:
        return _columns("probability", shares)
    return {str(label): column for label, column in zip(network.classes_.tolist(), shares.T, strict=True)}


def _as_csv(columns: Mapping[str, np.ndarray]) -> Iterator[str]:
    """The lines of a CSV file, many at a time."""
    yield _lines([tuple(columns)])
    rows = len(next(iter(columns.values())))
    for start in range(0, rows, ROWS):
        # The shortest digits that mean the same number: those of float64 would be longer.
        block = [column[start : start + ROWS].astype(str).tolist() for column in columns.values()]
        yield _lines(list(zip(*block, strict=True)))


def _lines(rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_parquet(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    from fastnn.errors import FileError
    from fastnn.storage.atomic import write_whole

    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise FileError(f"{path} is written by PyArrow, which is not installed: pip install pyarrow") from error
    content = io.BytesIO()
    parquet.write_table(pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()}), content)
    write_whole(path, content.getvalue())
