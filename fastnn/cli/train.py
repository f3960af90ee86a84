"""`fastnn train`: train a network on a data set and say how well it does."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastnn.cli import continuing
from fastnn.cli import data as sources
from fastnn.cli.commands import FILE, Checked, Command, Number, check_written, command_line, device_option, line, option
from fastnn.cli.configuration import config_option
from fastnn.cli.data import DATA, METRICS, TableOptions, regression_option, table_options, target_option
from fastnn.cli.networks import NETWORK, TRAINING, Name, Network, network_options, refuse_network

if TYPE_CHECKING:
    import numpy as np

    from fastnn.callbacks import Callback, Checkpoint, EarlyStopping
    from fastnn.cli.tables import Record
    from fastnn.datasets import Dataset
    from fastnn.layers import Standardizer
    from fastnn.network.state import Counters
    from fastnn.optimizers import Optimizer
    from fastnn.sequential import Sequential

STOPPING, FILES, DEVICE = "Stopping and going on", "Files", "Device"
FOREIGN = (
    ".bin", ".h5", ".hdf5", ".joblib", ".json", ".keras", ".npy", ".npz", ".onnx", ".pickle", ".pkl", ".pt", ".pth", ".zip",
)  # fmt: skip
"""How names of files in other formats end."""
LARGE, UNLIKE = 100.0, 1000.0
"""The size of a feature, and the ratio of the sizes of two, from which on they are better standardized."""
SCALABLE = ("mean_squared_error", "mean_absolute_error", "quantile")
"""Losses that have the same minimum for a scaled target; `huber` has another delta then."""
MANY, FEW = 20, 10
"""More classes than this, with fewer examples each than that, are hardly meant."""
CROSS_ENTROPIES = ("sigmoid_cross_entropy", "softmax_cross_entropy")
MONITORS = ("loss", "accuracy", "penalty", "val_loss", *(f"val_{name}" for name in METRICS))


class ShareOrFile(click.ParamType[float | str]):
    """A share from 0 to 1, or the path of a file."""

    name = "share or file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        try:
            float(value)
        except ValueError:
            return str(value)
        return float(Number(0, 1, max_open=True).convert(value, param, ctx))


class ClassWeights(click.ParamType[str]):
    """`balanced`, or `label=weight,label=weight`; it stays as it was given."""

    name = "class weights"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "balanced":
            try:
                read_weights(value)
            except ValueError:
                self.fail(
                    f"expected balanced, or label=weight,label=weight with numbers of at least 0, got {value!r}", param, ctx
                )
        return str(value)


def read_weights(text: str) -> dict[str, float]:
    """{label: weight} of `label=weight,label=weight`; ValueError for what is none."""
    pairs = [entry.rpartition("=") for entry in text.split(",")]
    weights = {label.strip(): float(weight) for label, _, weight in pairs}
    if "" in weights or len(weights) < len(pairs) or not all(0 <= weight < float("inf") for weight in weights.values()):
        raise ValueError(text)
    return weights


@click.command(cls=Command, short_help="Train a network on a data set.")
@click.argument("data")
@target_option()
@regression_option()
@option(
    DATA,
    "--validation",
    type=ShareOrFile(),
    default="0.1",
    show_default=True,
    metavar="SHARE|FILE",
    help="Share of the training data held back (as much of each class), or a file such as DATA; evaluated after each epoch.",
)
@option(DATA, "--sample-weight", metavar="COLUMN", help="Column of a table with the weight of each example.")
@option(
    DATA,
    "--class-weight",
    type=ClassWeights(),
    metavar="WEIGHTS",
    help="balanced, or weights of the classes such as yes=5,no=1 (1 where none is given).",
)
@table_options
@option(NETWORK, "--standardize", is_flag=True, help="Bring each feature to mean 0 and deviation 1 by the training data.")
@option(
    NETWORK,
    "--standardize-target",
    is_flag=True,
    help="Train on (target - mean) / deviation, whose losses are shown; the network predicts in the units of the target.",
)
@network_options
@option(TRAINING, "--epochs", type=click.IntRange(1), default=40, show_default=True, metavar="N", help="Passes over the data.")
@option(
    TRAINING,
    "--metric",
    "metrics",
    type=Name(METRICS),
    multiple=True,
    metavar="NAME",
    help=f"Additional metric (repeatable): {', '.join(METRICS)}.",
)
@option(
    TRAINING,
    "--label-smoothing",
    type=Number(0, 1, max_open=True),
    default=0.0,
    metavar="S",
    help="Train on targets (1 - S) t + S/C of C classes, + S/2 of yes or no. [default: 0]",
)
@option(TRAINING, "--shuffle/--no-shuffle", default=True, help="Visit the rows of each epoch in another order, or as they are.")
@option(TRAINING, "--shard-rows", type=click.IntRange(1), metavar="N", help="Shuffle shards of N rows, for data beyond memory.")
@option(
    STOPPING,
    "--from",
    "origin",
    type=FILE,
    metavar="MODEL",
    help="Train a saved network on, with its layers and weights, instead of a new one.",
)
@option(
    STOPPING,
    "--freeze",
    type=Checked(continuing.read_freeze),
    metavar="LAYERS",
    help="Layers of it that stay as they are, such as 0-2, or conv, dense, norm, several with commas; none. "
    "[default: those that it was saved with]",
)
@option(
    STOPPING, "--patience", type=click.IntRange(0), metavar="N", help="End after N epochs that were no better; keep the best."
)
@option(
    STOPPING,
    "--monitor",
    type=Name(MONITORS),
    metavar="NAME",
    help="What has to be better: for --patience, --plateau, --keep-best. [default: val_loss; loss without validation]",
)
@option(
    STOPPING,
    "--plateau",
    type=click.IntRange(0),
    metavar="N",
    help="Lower the rate after more than N epochs that were no better.",
)
@option(STOPPING, "--plateau-factor", type=Number(0, 1, True, True), metavar="F", help="... by this factor. [default: 0.1]")
@option(STOPPING, "--min-delta", type=Number(0), metavar="D", help="Better means by more than this. [default: 0]")
@option(
    STOPPING,
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep the state of the training there. [default: after each epoch]",
)
@option(STOPPING, "--checkpoint-epochs", type=click.IntRange(1), metavar="N", help="Keep it after each N epochs.")
@option(STOPPING, "--checkpoint-steps", type=click.IntRange(1), metavar="N", help="Keep it after each N steps.")
@option(STOPPING, "--keep", type=click.IntRange(1), metavar="K", help="Keep the newest K states. [default: 2]")
@option(STOPPING, "--keep-best", is_flag=True, help="Keep the state of the best epoch besides, as best.safetensors.")
@option(STOPPING, "--resume", is_flag=True, help="Continue from the newest state in the folder; start afresh if there is none.")
@option(FILES, "--save", type=FILE, metavar="FILE", help="Save the trained network as safetensors.")
@option(FILES, "--save-optimizer", is_flag=True, help="Save the state of the optimizer with it.")
@option(FILES, "--log", type=FILE, metavar="FILE.csv", help="Write a row an epoch.")
@option(FILES, "--plot", type=FILE, metavar="FILE.png", help="Draw the curves of cost and accuracy (or .svg, .pdf).")
@device_option("auto", DEVICE)
@option(
    DEVICE,
    "--precision",
    default="float32",
    show_default=True,
    metavar="NAME",
    help="Of products on a GPU: float32, tf32 or bf16.",
)
@option(DEVICE, "--autotune", is_flag=True, help="Time the ways to compute each product on this GPU, and take the fastest.")
@option(DEVICE, "--threads", type=click.IntRange(1), metavar="N", help="Threads on the CPU. [default: as many as cores]")
@click.option("--quiet", is_flag=True, help="Print the result alone.")
@config_option
def train(**values: Any) -> None:
    """Train a network on DATA and evaluate it on the test data.

    DATA is `digits`, `houses` or `flowers` (bundled), `mnist`, `cifar10` or
    `cifar100` (folders in $FASTNN_DATA), a folder with MNIST-like IDX files or
    CIFAR's binary files, a table (.csv, .tsv, .parquet, or - for standard input),
    an .npz file with X and y (and X_test and y_test), or flower, circles, moons,
    blobs, quantiles: points in the plane.

    \b
    Examples:
      fastnn train digits
      fastnn train mnist --hidden 256,128 --dropout 0.2 --batch-size 128
      fastnn train mnist --conv 20x5,pool2,40x5,pool2 --hidden 100
      fastnn train cifar10 --conv 32x3:same,pool2,64x3:same,pool2
      fastnn train flowers.csv --target species --save flowers.safetensors
      fastnn train new.npz --from mnist.safetensors --freeze conv --rate 1e-4
      fastnn train big.parquet --patience 5 --checkpoint run1 --resume
    """
    options = _Options(**{field.name: values.pop(field.name) for field in fields(_Options)})
    network = Network.of(values)
    options.check()
    origin = None
    if options.origin is not None:
        refuse_network()
        origin = continuing.load(options.origin, options.freeze)
        options, network = options.of_file(origin), network.of_file(origin)
    optimizer = network.build_optimizer()
    if optimizer.ema is not None and options.save_optimizer:
        raise click.UsageError("--ema saves averages, to which no state of an optimizer belongs; keep states with --checkpoint")
    watchers = _Watchers.of(options)
    parts = _Parts.read(options, network.seed, network.loss, origin)
    parts.check(options, network)
    loss = network.loss_for(parts.dataset.classes)
    if options.standardize_target:
        _check_scaled_target(parts.classes, loss)
    class_weights = _class_weights(options.class_weight, parts.classes)
    device = _device(options)
    if isinstance(network.batch_size, int):
        network = replace(network, batch_size=min(network.batch_size, len(parts.X)))
    if origin is not None:
        parts = parts.for_network(origin)
    elif network.takes_images:
        parts = parts.as_images(network.image_shape)
    model = _model(network, loss, parts, options) if origin is None else origin
    begun = replace(model.counters)
    knows_classes = origin is not None and origin.task is not None and origin.task.classes is not None
    if not options.quiet:
        _describe(model, network, loss, parts, options, device)
    scaling = None
    if options.standardize_target:
        from fastnn.layers import Standardizer

        scaling = Standardizer().fit(parts.y)
        parts = parts.with_targets(scaling.transform)
    try:
        history = model.fit(
            parts.X, parts.y, loss=loss, optimizer=optimizer, batch_size=network.batch_size, epochs=options.epochs,
            validation_data=parts.held_back, sample_weight=parts.weights, class_weight=class_weights,
            classes=None if parts.classes is None or knows_classes else parts.classes.tolist(),
            metrics=options.metrics if parts.held_back else (), label_smoothing=options.label_smoothing,
            l2=network.l2, l1=network.l1, shuffle=options.shuffle, callbacks=watchers.callbacks, resume=options.resume,
            shard_rows=options.shard_rows, device=options.device, precision=options.precision, autotune=options.autotune,
            threads=options.threads, verbose=0,
        )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        if model.counters.step == begun.step:
            raise KeyboardInterrupt(" before the first step") from interrupt
        drawn = options.plot if watchers.record.history.get("loss") else None
        _write(_result(model, optimizer), watchers.record.history, scaling, options, drawn)
        raise KeyboardInterrupt(_describe_interruption(model, options, drawn, begun)) from interrupt
    result, last = _result(model, optimizer), _last(history)
    if not options.quiet:
        _tell_end(history, watchers.stopping)
    if result is not model and parts.held_back is not None:
        measures = result.evaluate(*parts.held_back, metrics=options.metrics)
        last = {f"val_{name}": value for name, value in measures.items()}
        if not options.quiet:
            line("averages", ", ".join(f"{name} {value:.4f}" for name, value in last.items()))
    _write(result, history, scaling, options, options.plot)
    if not options.quiet:
        options.tell_files()
    _report(result, parts.dataset, options.metrics)
    if options.quiet and parts.dataset.X_test is None:
        _report_last(last, options.metrics)


@dataclass(frozen=True)
class _Options(TableOptions):
    """What the command was given, but for the options of the network."""

    data: str
    targets: Sequence[str]
    regression: bool
    validation: float | str
    sample_weight: str | None
    class_weight: str | None
    standardize: bool
    standardize_target: bool
    epochs: int
    metrics: Sequence[str]
    label_smoothing: float
    shuffle: bool
    shard_rows: int | None
    patience: int | None
    monitor: str | None
    plateau: int | None
    plateau_factor: float | None
    min_delta: float | None
    checkpoint: Path | None
    checkpoint_epochs: int | None
    checkpoint_steps: int | None
    keep: int | None
    keep_best: bool
    origin: Path | None
    freeze: str | None
    resume: bool
    save: Path | None
    save_optimizer: bool
    log: Path | None
    plot: Path | None
    device: str
    precision: str
    autotune: bool
    threads: int | None
    quiet: bool

    @property
    def watched(self) -> str:
        """What has to become better."""
        return self.monitor or ("val_loss" if self.validation else "loss")

    def check(self) -> None:
        """Raise click.UsageError, before any work, for options that do not go together, and files that could not be written."""
        written = {"--save": self.save, "--log": self.log, "--plot": self.plot, "--checkpoint": self.checkpoint}
        validation = self.validation if isinstance(self.validation, str) else None
        check_written(written, {"DATA": self.data, "--validation": validation, "--from": self.origin})
        if self.save is not None and self.save.suffix.lower() in FOREIGN:
            raise click.UsageError(
                f"--save: the format is safetensors, expected a name such as {self.save.stem}.safetensors, got {self.save}"
            )
        if self.data == self.validation == "-":
            raise click.UsageError("--validation: standard input is the training data already")
        _need("--from", self.origin, {"--freeze": self.freeze})
        _need("--save", self.save, {"--save-optimizer": self.save_optimizer})
        _need("--patience", self.patience, {"--min-delta": self.min_delta})
        _need("--plateau", self.plateau, {"--plateau-factor": self.plateau_factor})
        watching = self.patience is not None or self.plateau is not None or self.keep_best
        _need("--patience, --plateau or --keep-best", watching or None, {"--monitor": self.monitor})
        kept = {
            "--checkpoint-epochs": self.checkpoint_epochs, "--checkpoint-steps": self.checkpoint_steps, "--keep": self.keep,
            "--keep-best": self.keep_best, "--resume": self.resume,
        }  # fmt: skip
        _need("--checkpoint", self.checkpoint, kept)
        if self.standardize_target and (self.checkpoint is not None or self.save_optimizer):
            other = "--save-optimizer" if self.checkpoint is None else "--checkpoint"
            raise click.UsageError(
                f"--standardize-target does not go with {other}, which keeps states of the scaled target; "
                "scale the column yourself"
            )

    def of_file(self, model: Sequential) -> _Options:
        """The same for a saved network: the target is that which it was trained for, where none is named."""
        targets = self.targets or sources.targets_of(self.data, model)
        values = model.task is not None and model.task.classes is None
        return replace(self, targets=targets, regression=self.regression or values)

    def tell_files(self) -> None:
        """Print where everything was written to."""
        for label, path in {"saved": self.save, "log": self.log, "plot": self.plot, "states": self.checkpoint}.items():
            if path is not None:
                line(label, str(path))


@dataclass(frozen=True)
class _Watchers:
    """The callbacks of the training."""

    record: Record
    stopping: EarlyStopping | None
    callbacks: Sequence[Callback]

    @classmethod
    def of(cls, options: _Options) -> _Watchers:
        from fastnn import callbacks, plots
        from fastnn.cli.tables import Epochs, Record

        if options.plot is not None:
            plots.check(options.plot)
        record, stopping = Record(), None
        watching: list[Callback] = [record] if options.quiet else [record, Epochs()]
        if options.patience is not None:
            stopping = callbacks.EarlyStopping(options.watched, patience=options.patience, min_delta=options.min_delta or 0.0)
            watching.append(stopping)
        if options.plateau is not None:
            factor = options.plateau_factor or 0.1
            watching.append(callbacks.ReduceLROnPlateau(options.watched, patience=options.plateau, factor=factor))
        watching += [] if options.log is None else [callbacks.CSVLog(options.log)]
        watching += [] if options.checkpoint is None else [_checkpoints(options.checkpoint, options)]
        return cls(record, stopping, watching)


@dataclass(frozen=True)
class _Parts:
    """What is trained on, and what is held back of it or comes from another file."""

    dataset: Dataset
    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    held_back: tuple[np.ndarray, np.ndarray] | None
    classes: np.ndarray | None
    """All labels that occur, sorted; None for targets."""

    @classmethod
    def read(cls, options: _Options, seed: int, loss: str | None = None, model: Sequential | None = None) -> _Parts:
        """The data; of a table for a saved `model`, the features that it takes."""
        import numpy as np

        from fastnn.datasets import split
        from fastnn.errors import InputError

        targets, regression, validation = options.targets, options.regression, options.validation
        as_classes = loss in CROSS_ENTROPIES
        taken = None if model is None or model.feature_names is None else model.feature_names
        if taken is not None and options.sample_weight is not None:
            taken = (*taken, options.sample_weight)
        dataset, weights = (
            sources.read(options.data, targets, regression, table=options, features=taken, classes=as_classes), None
        )  # fmt: skip
        if dataset.classes is None and not regression and len(targets) < 2 and not as_classes:
            sources.warn_of_classes(dataset)
        if options.sample_weight is not None:
            dataset, weights = sources.without(dataset, options.sample_weight)
        X, y, held_back = dataset.X_train, dataset.y_train, None
        if isinstance(validation, str):
            whole = regression or dataset.classes is None  # amounts may all be whole there
            names = dataset.feature_names
            other = sources.read(validation, targets, whole, table=options, features=names, classes=as_classes)
            other = sources.in_order(other, names)
            held_back = other.X_train, other.y_train
        elif validation:
            count = round(validation * len(X))
            if not 0 < count < len(X):
                raise click.UsageError(
                    f"--validation {validation:g} of {len(X)} examples is {count}: nothing to train on or to validate with"
                )
            arrays = (X, y) if weights is None else (X, y, weights)
            few = dataset.classes is None or np.unique(y, return_counts=True)[1].min() < 2
            sizes, labels = (len(X) - count, count), None if few else y
            (X, y, *rest), held_back = split(*arrays, sizes=sizes, seed=seed, stratify=labels)
            weights, held_back = (rest[0] if rest else None), held_back[:2]
        classes = None
        if dataset.classes is not None:
            label_sets = [dataset.y_train, *(each for each in (dataset.y_test, held_back and held_back[1]) if each is not None)]
            classes = np.unique(np.concatenate(label_sets))
            if len(classes) == 1:
                raise InputError(f"the target of {dataset.name} holds one class only ({classes[0].item()!r})")
        return cls(dataset, X, y, weights, held_back, classes)

    def check(self, options: _Options, network: Network) -> None:
        """Raise click.UsageError and InputError for data that cannot be trained on; here, rows are still those of the file."""
        import numpy as np

        from fastnn.data.inputs import check_finite

        dataset = self.dataset
        if options.metrics and self.held_back is None and dataset.X_test is None:
            raise click.UsageError("--metric is measured on validation or test data, and there are none; give --validation")
        check_finite(dataset.X_train, f"{dataset.name}: X", np.dtype(network.dtype), dataset.feature_names)
        check_finite(dataset.y_train, f"{dataset.name}: y")

    def outputs(self, network: Network) -> int:
        """How many outputs the network has for the targets."""
        return network.outputs_for(self.dataset.outputs if self.classes is None else len(self.classes), self.dataset.classes)

    def as_images(self, shape: tuple[int, ...] | None) -> _Parts:
        """The same, with images in the place of rows. Raises InputError where they are none."""
        dataset = sources.with_images(self.dataset, shape)
        held_back = None if self.held_back is None else (self.held_back[0].reshape(-1, *dataset.shape), self.held_back[1])
        return replace(self, dataset=dataset, X=self.X.reshape(-1, *dataset.shape), held_back=held_back)

    def for_network(self, model: Sequential) -> _Parts:
        """The same, as a saved network takes it. Raises InputError for other inputs than its."""
        from fastnn.errors import InputError

        features = model.network.features
        if math.prod(features) != self.dataset.features:
            shapes = [" x ".join(map(str, shape)) for shape in (features, self.dataset.shape)]
            raise InputError(f"the network takes {shapes[0]} features, and examples of {self.dataset.name} have {shapes[1]}")
        dataset = sources.for_network(self.dataset, model)
        held_back = None if self.held_back is None else (sources.as_images(self.held_back[0], model), self.held_back[1])
        return replace(self, dataset=dataset, X=sources.as_images(self.X, model), held_back=held_back)

    def with_targets(self, function: Callable[[np.ndarray], np.ndarray]) -> _Parts:
        """The same, with `function` of the targets."""
        held_back = None if self.held_back is None else (self.held_back[0], function(self.held_back[1]))
        return replace(self, y=function(self.y), held_back=held_back)


def _checkpoints(folder: Path, options: _Options) -> Checkpoint:
    """What writes states into the folder, which holds none of another training."""
    from fastnn import callbacks

    writer = callbacks.Checkpoint(
        folder, epochs=options.checkpoint_epochs, steps=options.checkpoint_steps, keep=options.keep or 2,
        best=options.watched if options.keep_best else None,
    )  # fmt: skip
    if not options.resume and writer.folder.latest() is not None:
        raise click.UsageError(f"{folder} holds the states of a training already: continue with --resume, or name another")
    return writer


def _device(options: _Options) -> str:
    """The device, and why it is that one."""
    from fastnn import engines

    chosen, reason = engines.choose(options.device, options.precision)
    return f"{chosen.name}: {reason}"


def _describe(model: Sequential, network: Network, loss: str, parts: _Parts, options: _Options, device: str) -> None:
    """Print what is trained on what, where, and what the data ask for."""
    from fastnn_kernels.caching import cache_folder

    line("data", _describe_examples(parts))
    line("", _describe_shape(parts.dataset, parts.classes))
    if options.origin is None:
        inputs = parts.dataset.shape if network.takes_images else (parts.dataset.features,)
        shape = network.describe(" x ".join(map(str, inputs)), parts.outputs(network), loss)
        shape = "standardized " * options.standardize + shape
        shape += ", trained on the standardized target" * options.standardize_target
        line("network", f"{shape}; {model.parameter_count:,} parameters")
    else:
        line("network", continuing.describe_network(model, options.origin))
        if frozen := continuing.describe_frozen(model):
            line("frozen", frozen)
        if scale := continuing.describe_scale(model, parts.dataset.scale):
            line("hint", scale)
    line("training", f"{network.describe_training(loss)}, {options.epochs} epoch{'s' * (options.epochs > 1)}")
    line("device", device)
    saved = options.origin is not None  # such a network takes what it was trained on
    for text in _hints(parts, loss, options.standardize or saved, options.standardize_target or saved):
        line("hint", text)
    folder = cache_folder()
    if folder is not None and not any(folder.iterdir()):
        line("kernels", f"compiled now, for the first time, which takes a while; they are kept in {folder}")
    click.echo()


def _check_scaled_target(classes: np.ndarray | None, loss: str) -> None:
    """Raise click.UsageError for a target that cannot be standardized."""
    if classes is None and loss.partition(":")[0] in SCALABLE:
        return
    got = loss if classes is None else "classes"
    cure = "; add --regression if they are amounts" if classes is not None and classes.dtype.kind == "i" else ""
    raise click.UsageError(f"--standardize-target is for numbers and {', '.join(SCALABLE)}, not for {got}{cure}")


def _tell_end(history: Mapping[str, Sequence[float]], stopping: EarlyStopping | None) -> None:
    """What the table of epochs has no room for, and which epoch's network is kept."""
    from fastnn.cli.tables import titles

    click.echo()
    hidden = [f"{name} {value:.4f}" for name, value in _last(history).items() if name not in titles(tuple(history))]
    if hidden:
        line("besides", f"after the last epoch {', '.join(hidden)}")
    if stopping is not None and stopping.best_epoch >= 0:
        ending = f"stopped after epoch {len(history['loss'])}; " if stopping.stopped else ""
        best = f"epoch {stopping.best_epoch + 1} ({stopping.watched.name} {stopping.best:.4f})"
        line("kept", f"{ending}the network is that of {best}")


def _need(name: str, value: Any, others: Mapping[str, Any]) -> None:
    """Raise click.UsageError for options that mean nothing without another one."""
    for other, other_value in others.items():
        if value is None and other_value not in (None, False):
            raise click.UsageError(f"{other} goes with {name}, which is missing")


def _model(network: Network, loss: str, parts: _Parts, options: _Options) -> Sequential:
    """The network, with its initial weights."""
    from fastnn.layers import Standardizer

    first = [Standardizer().fit(parts.X)] if options.standardize else []
    scale = 1.0 if options.standardize else parts.dataset.scale
    model: Sequential = network.build_model(parts.X.shape[1:], parts.outputs(network), loss, scale, first)
    model.feature_names, model.target_names = parts.dataset.feature_names, tuple(options.targets) or None
    return model


def _class_weights(text: str | None, classes: np.ndarray | None) -> dict[Any, float] | str | None:
    """What `fit` takes: weights by labels as they are in the data."""
    from fastnn.errors import nearest

    if text is None or text == "balanced":
        return text
    if classes is None:
        raise click.UsageError("--class-weight is for classes, and the data have targets")
    labels = {str(label): label for label in classes.tolist()}
    weights = read_weights(text)
    for name in weights:
        if name not in labels:
            raise click.UsageError(f"--class-weight: there is no label {name!r}{nearest(name, labels)}")
    return {labels[name]: weight for name, weight in weights.items()}


def _hints(parts: _Parts, loss: str, standardize: bool, standardize_target: bool) -> Iterator[str]:
    """What the data ask for and the options leave out.

    An optimizer takes long to reach large targets, and small features are lost beside large ones.
    """
    import numpy as np

    if parts.dataset.scale == 1.0 and not standardize:
        sizes = np.maximum(parts.X.max(axis=0), -parts.X.min(axis=0).astype(np.float64))
        least, most = sizes.min(where=sizes > 0, initial=np.inf), sizes.max()
        if most > LARGE or most > UNLIKE * least:
            yield f"the features reach from {_number(least)} to {_number(most)}; try --standardize"
    names, X = parts.dataset.feature_names or (), parts.dataset.X_train.reshape(len(parts.dataset.X_train), -1)
    for name, column in zip(names, X.T, strict=False):
        if len(X) > MANY and column[0] in (0, 1) and column[-1] - column[0] == len(X) - 1 and (np.diff(column) == 1).all():
            yield f"the column {name!r} numbers the rows, and is a feature; leave it out with --drop {shlex.quote(name)}"
    if parts.classes is not None and len(parts.classes) > MANY and len(parts.X) < FEW * len(parts.classes):
        cure = (
            "if they are amounts, try --regression" if parts.classes.dtype.kind == "i" else "is this the column that is meant?"
        )
        yield f"the target holds {len(parts.classes):,} different labels for {len(parts.X):,} examples; {cure}"
    if parts.classes is None and loss.partition(":")[0] in SCALABLE and not standardize_target:
        most = np.abs(parts.y).max()
        if most > LARGE:
            yield f"the target reaches {_number(most)}; try --standardize-target"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 10 <= value < 1e9 else f"{value:.2g}"


def _result(model: Sequential, optimizer: Optimizer) -> Sequential:
    """The network that a training is to leave: with `ema` the average of the parameters."""
    return model if optimizer.ema is None else model.averaged()


def _write(
    model: Sequential,
    history: Mapping[str, Sequence[float]],
    scaling: Standardizer | None,
    options: _Options,
    plot: Path | None,
) -> None:
    """Write what a training was to leave, and let its network predict in the units of the data."""
    from fastnn import plots

    if scaling is not None:
        _fold(model, scaling)
    if options.save is not None:
        model.save(options.save, optimizer=options.save_optimizer)
    if plot is not None:
        plots.save(history, plot)


def _fold(model: Sequential, scaling: Standardizer) -> None:
    """x W + b, trained on (y - mean) / deviation, becomes x (W deviation) + (b deviation + mean)."""
    weight, bias = (f"{len(model.layers) - 1}.{name}" for name in ("weight", "bias"))
    weights = model.weights
    folded = {weight: weights[weight] * scaling.deviation, bias: weights[bias] * scaling.deviation + scaling.mean}
    model.set_weights({name: array.astype(model.dtype) for name, array in folded.items()})


def _describe_interruption(model: Sequential, options: _Options, plot: Path | None, begun: Counters) -> str:
    """What an interrupted training leaves: where it stands, what was written, and how to continue.

    `begun`: the steps and epochs that the model had before it.
    """
    from fastnn.checkpoints import Folder

    epochs, save, checkpoint = options.epochs, options.save, options.checkpoint
    step, epoch = model.counters.step - begun.step, model.counters.epoch - begun.epoch
    text = f" after step {step:,}, in epoch {min(epoch + 1, epochs)} of {epochs}"
    text += "" if save is None else f"; the network is saved as it was then: {save}"
    text += "" if plot is None else f"; the curves are in {plot}"
    if checkpoint is None:
        return text
    newest = Folder(checkpoint).newest_step()
    if newest is None:
        return f"{text}; no state of it is in {checkpoint} yet"
    place = "it stands" if newest == step else f"its state after step {newest:,} is"
    return f"{text}; {place} in {checkpoint}, continue with:\n{command_line('--resume')}"


def _describe_examples(parts: _Parts) -> str:
    dataset = parts.dataset
    counts = [f"{len(parts.X):,} training"]
    counts += [f"{len(parts.held_back[0]):,} validation"] if parts.held_back is not None else []
    counts += [f"{len(dataset.X_test):,} test"] if dataset.X_test is not None else []
    return f"{dataset.name}: {', '.join(counts)} examples"


def _describe_shape(dataset: Dataset, classes: np.ndarray | None) -> str:
    features = " x ".join(map(str, dataset.shape)) + " feature" + "s" * (dataset.features != 1)
    if classes is None:
        return f"{features}, {dataset.outputs} target{'s' * (dataset.outputs != 1)}"
    count = f"{features}, {len(classes)} class{'es' * (len(classes) != 1)}"
    if classes.dtype.kind not in "Ub":
        return count
    names = ", ".join(map(str, classes[:5])) + ", ..." * (len(classes) > 5)
    return f"{count}: {names}"


def _last(history: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What was measured in the last epoch."""
    return {name: values[-1] for name, values in history.items() if values and not math.isnan(values[-1])}


def _report_last(last: Mapping[str, float], metrics: Sequence[str]) -> None:
    """What says most of a training without test data, of what was measured `last`, and the metrics that were asked for."""
    from fastnn.cli.tables import TITLES

    order = ("val_accuracy", "val_r2", "val_loss", "accuracy", "loss")
    first = next((name for name in order if name in last), "")
    for name in dict.fromkeys((first, *(f"val_{metric}" for metric in metrics))):
        if name in last:
            click.echo(f"{TITLES.get(name, name)}: {last[name]:.4f}")


def _report(model: Any, dataset: Dataset, metrics: Sequence[str]) -> None:
    from fastnn.cli.tables import TITLES

    if dataset.X_test is None or dataset.y_test is None or not len(dataset.X_test):
        return
    result = model.evaluate(dataset.X_test, dataset.y_test, metrics=metrics)
    name = next(name for name in ("accuracy", "r2", "loss") if name in result)
    for each in dict.fromkeys((name, *metrics)):
        click.echo(f"test {TITLES.get(each, each)}: {result[each]:.4f}")
