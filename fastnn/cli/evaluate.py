"""`fastnn evaluate`: how well a saved network does on data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastnn.cli import data as sources
from fastnn.cli.commands import FILE, Command, device_option, line, option
from fastnn.cli.data import DATA, METRICS, TableOptions, table_options, target_option
from fastnn.cli.networks import Name

if TYPE_CHECKING:
    import numpy as np

    from fastnn.sequential import Sequential

MOST = 20
"""Classes up to which it is shown which are taken for which."""


@click.command(cls=Command, short_help="Evaluate a saved network.")
@click.argument("model", type=FILE)
@click.argument("data")
@target_option("what the network was trained for")
@option(
    DATA,
    "--metric",
    "metrics",
    type=Name(METRICS),
    multiple=True,
    metavar="NAME",
    help=f"Additional metric (repeatable): {', '.join(METRICS)}.",
)
@table_options
@device_option("cpu")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads on the CPU. [default: as many as cores]")
def evaluate(
    model: Path, data: str, targets: Sequence[str], metrics: Sequence[str], device: str, threads: int | None, **options: Any
) -> None:
    """Evaluate the network in MODEL, a file of `fastnn train --save`, on DATA.

    DATA is what `fastnn train` takes; where it has test data, these are taken.

    \b
    Examples:
      fastnn evaluate digits.safetensors digits
      fastnn evaluate flowers.safetensors more.csv --metric f1
    """
    import fastnn
    from fastnn.cli.tables import TITLES, confusion

    network = fastnn.load(model).to(device)
    targets = targets or sources.targets_of(data, network)
    columns, classes = network.feature_names, network.task is not None and network.task.classes is not None
    dataset = sources.read(data, targets, table=TableOptions(**options), features=columns, classes=classes)
    dataset = sources.for_network(sources.in_order(dataset, columns), network)
    X, y, part = dataset.X_test, dataset.y_test, " test"
    if X is None or y is None:
        X, y, part = dataset.X_train, dataset.y_train, ""
    result = network.evaluate(X, y, metrics=metrics, threads=threads)
    line("data", f"{dataset.name}: {len(X):,}{part} examples")
    line("network", f"{model}: {network.parameter_count:,} parameters, {network.task.loss if network.task else ''}")
    click.echo()
    names = {name: TITLES.get(name, name) for name in result}
    for name, title in names.items():
        click.echo(f"{title:<{max(map(len, names.values()))}}  {result[name]:.4f}")
    task = network.task
    if task is not None and task.classes is not None and len(task.classes) <= MOST:
        click.echo("\nlabels (rows) and what was predicted (columns):")
        for text in confusion(_counts(network, X, y, threads), [str(label) for label in task.classes.tolist()]):
            click.echo(text)


def _counts(network: Sequential, X: np.ndarray, y: np.ndarray, threads: int | None) -> np.ndarray:
    """How many examples of each class (rows) were taken for each (columns)."""
    import numpy as np

    from fastnn.data.targets import indices

    classes = network.classes_
    pairs = indices(y.ravel(), classes), indices(np.asarray(network.predict(X, threads=threads)), classes)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, pairs, 1)
    return counts
