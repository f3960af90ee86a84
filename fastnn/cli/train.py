"""`fastnn train`: train a network on a data set and say how well it does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastnn.callbacks import Progress
from fastnn.cli.commands import Command, Number, line
from fastnn.cli.networks import Network, network_options, rows_of_table

if TYPE_CHECKING:
    import numpy as np

    from fastnn.datasets import Dataset
    from fastnn.model import Sequential

TITLES = {
    "r2": "R^2",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "val_r2": "validation R^2",
}


@click.command(cls=Command, short_help="Train a network on a data set.")
@click.argument("data")
@network_options
@click.option(
    "--epochs", type=click.IntRange(1), default=40, show_default=True, metavar="N", help="Passes over the training data."
)
@click.option(
    "--validation",
    type=Number(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Share of the training data held back and evaluated after each epoch.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, or cuda:1 for a second GPU."
)
@click.option(
    "--precision", default="float32", show_default=True, metavar="NAME", help="Of products on a GPU: float32, tf32 or bf16."
)
@click.option("--tune", is_flag=True, help="Time the ways to compute each product on this GPU, and take the fastest.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads on the CPU. [default: as many as cores]")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Save the trained network as safetensors."
)
@click.option("--quiet", is_flag=True, help="Print the result alone.")
def train(
    data: str,
    epochs: int,
    validation: float,
    device: str,
    precision: str,
    tune: bool,
    threads: int | None,
    save: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a network on DATA and evaluate it on the test data.

    DATA is `digits` (bundled), `mnist` (the folder $FASTNN_DATA/mnist), a folder with
    MNIST-like IDX files, or an .npz file with X and y (and X_test and y_test).

    \b
    Examples:
      fastnn train digits
      fastnn train mnist --hidden 256,128 --dropout 0.2 --batch-size 128
      fastnn train flowers.npz --activation tanh --save flowers.safetensors
    """
    network = Network(**options)
    if save is not None and not save.resolve().parent.is_dir():
        raise click.UsageError(f"--save: there is no folder {save.resolve().parent}")
    optimizer = network.build_optimizer()

    from fastnn import engines
    from fastnn.datasets import load

    dataset = load(data)
    loss = network.loss_for(dataset.classes)
    chosen, reason = engines.choose(device, precision)
    X, y, held_back = _split(dataset, validation, network.seed)
    network = replace(network, batch_size=min(network.batch_size, len(X)))
    model = network.build_model(dataset.outputs, loss, dataset.scale).build(dataset.features)
    if not quiet:
        line("data", _describe_examples(dataset, len(X), 0 if held_back is None else len(held_back[0])))
        line("", _describe_shape(dataset))
        shape = network.describe(dataset.features, dataset.outputs, loss)
        line("network", f"{shape}; {model.parameter_count:,} parameters")
        line("training", f"{network.describe_training(loss)}, {epochs} epoch{'s' * (epochs > 1)}")
        line("device", f"{chosen.name}: {reason}")
        click.echo()

    model.fit(
        X,
        y,
        loss=loss,
        optimizer=optimizer,
        batch_size=network.batch_size,
        epochs=epochs,
        validation_data=held_back,
        l2=network.l2,
        l1=network.l1,
        callbacks=() if quiet else (Table(),),
        device=device,
        precision=precision,
        tune=tune,
        threads=threads,
        verbose=0,
    )
    if not quiet:
        click.echo()
    if save is not None:
        model.save(save)
        if not quiet:
            line("saved", str(save))
    _report(model, dataset)


def _split(dataset: Dataset, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """The training data and what of them is held back: the first of a permutation drawn from the seed."""
    import numpy as np

    import fastnn.random

    X, y = dataset.X_train, dataset.y_train
    count = round(share * len(X))
    if share and not 0 < count < len(X):
        raise click.UsageError(
            f"--validation {share:g} of {len(X)} examples is {count}: nothing to train on or to validate with"
        )
    if not count:
        return X, y, None
    order = fastnn.random.permutation(fastnn.random.key(seed, fastnn.random.SPLIT), 0, len(X))
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return X[kept], y[kept], (X[held], y[held])


def _describe_examples(dataset: Dataset, training: int, validation: int) -> str:
    counts = [f"{training:,} training"]
    counts += [f"{validation:,} validation"] if validation else []
    counts += [f"{len(dataset.X_test):,} test"] if dataset.X_test is not None else []
    return f"{dataset.name}: {', '.join(counts)} examples"


def _describe_shape(dataset: Dataset) -> str:
    features = " x ".join(map(str, dataset.shape)) + " feature" + "s" * (dataset.features != 1)
    if dataset.classes is not None:
        return f"{features}, {dataset.classes} class{'es' * (dataset.classes != 1)}"
    return f"{features}, {dataset.outputs} target{'s' * (dataset.outputs != 1)}"


class Table(Progress):
    """A row for each of at most ten epochs; the bar is seen on a terminal only."""

    def epoch_end(self, model: Sequential, epoch: int, values: Mapping[str, float]) -> None:
        titles = {name: TITLES.get(name, name) for name in values}
        if epoch == 0:
            self._print("epoch" + "".join(f"  {title:>8}" for title in titles.values()))
        if epoch + 1 in rows_of_table(self.epochs):
            cells = (f"  {values[name]:>{max(8, len(title))}.4f}" for name, title in titles.items())
            self._print(f"{epoch + 1:>5}" + "".join(cells))

    def _print(self, row: str) -> None:
        self.bar.write(row, file=sys.stdout)
        sys.stdout.flush()


def _report(model: Any, dataset: Dataset) -> None:
    if dataset.X_test is None or dataset.y_test is None or not len(dataset.X_test):
        return
    result = model.evaluate(dataset.X_test, dataset.y_test)
    name = next(name for name in ("accuracy", "r2", "loss") if name in result)
    click.echo(f"test {TITLES.get(name, name)}: {result[name]:.4f}")
