"""The options that describe a network and its training, and what they build."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fastnn.cli import images
from fastnn.cli.commands import Checked, F, Number, as_options, option
from fastnn.configurations import BOUNDS, read_fields
from fastnn.errors import InputError, nearest
from fastnn.optimizers import NAMES, by_name
from fastnn.pieces import Piece, read_pieces, read_shape
from fastnn_kernels.contract import ACTIVATIONS_FROM_INPUT, ACTIVATIONS_FROM_OUTPUT

if TYPE_CHECKING:
    from fastnn.sequential import Sequential

# Written out, and not read from the library, what would load NumPy: `--help` is to come at once. A test compares them.
ACTIVATIONS = tuple(sorted(("identity", *ACTIVATIONS_FROM_OUTPUT, *ACTIVATIONS_FROM_INPUT)))
LOSSES = (
    "focal", "huber", "mean_absolute_error", "mean_squared_error", "poisson", "quadratic", "quantile", "sigmoid_cross_entropy",
    "softmax_cross_entropy", "softmax_focal",
)  # fmt: skip
YES_OR_NO = ("focal", "sigmoid_cross_entropy")
"""Losses of two classes for which one output is enough."""
OPTIMIZERS = tuple(sorted(NAMES))
INITIALIZERS = (
    "glorot", "glorot_normal", "glorot_uniform", "he", "he_normal", "he_uniform", "lecun", "lecun_normal", "lecun_uniform",
    "normal", "xavier", "xavier_normal", "xavier_uniform", "zeros",
)  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    name: {each.name: preset.get(each.name, each.default) for each in dataclasses.fields(kind)}
    for name, (kind, preset) in NAMES.items()
}
"""By optimizer, the defaults of its fields."""
# Above those of the library where no momentum makes a step up to ten times as long as the gradient asks for.
RATES: dict[str, float] = {
    **{name: defaults["learning_rate"] for name, defaults in DEFAULTS.items()}, "sgd": 0.1, "momentum": 0.1,
}  # fmt: skip
NUMBER_HELP = {
    "momentum": ("M", "For"),
    "beta1": ("B", "Decay of the mean:"),
    "beta2": ("B", "Decay of the mean square:"),
    "epsilon": ("E", "For"),
}
"""How the help shows the number of an option, and what it says before the optimizers; of others `_number_option` makes it."""
RENAMED = {("momentum", "beta"): "momentum", ("rmsprop", "beta"): "beta2"}
"""By optimizer and field, the option where it is not called as the field."""


def _numbers() -> dict[str, dict[str, dataclasses.Field[Any]]]:
    numbers: dict[str, dict[str, dataclasses.Field[Any]]] = {name: {} for name in NUMBER_HELP}
    for name, (kind, _) in NAMES.items():
        for each in dataclasses.fields(kind):
            if BOUNDS in each.metadata:
                numbers.setdefault(RENAMED.get((name, each.name), each.name), {})[name] = each
    return numbers


NUMBERS = _numbers()
"""By option, the optimizers that it is for and their fields."""

SCHEDULES: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "constant": ("Constant", "rate", (), ()),
    "cosine": ("Cosine", "initial", (), ("final",)),
    "exponential": ("Exponential", "initial", (), ("base",)),
    "inverse_sqrt": ("InverseSqrt", "initial", (), ("k",)),
    "inverse_time": ("InverseTime", "initial", ("decay",), ()),
    "one_cycle": ("OneCycle", "peak", (), ("initial", "final", "rise")),
    "staircase": ("Staircase", "initial", ("factor", "every"), ()),
    "warmup": ("Warmup", "then", ("length",), ()),
}
"""By name, the class of `fastnn.schedules`, the field that takes the learning rate, those that are needed, and the others.

`TABLE` is beside them: it has rates by epoch instead of fields.
"""
TABLE = "table"

NETWORK, TRAINING, OPTIMIZER = "Network", "Training", "Optimizer"


def sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """The sizes of layers in `128,64`, or none in `none`."""
    if value.strip().lower() == "none":
        return ()
    try:
        units = tuple(int(size) for size in value.split(","))
    except ValueError:
        units = (0,)
    if min(units) < 1:
        raise click.BadParameter(f"expected integers above 0 such as 128,64, or none, got {value!r}")
    return units


class BatchSize(click.ParamType[int | str]):
    """An integer above 0, `auto` or `all`."""

    name = "batch size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        text = str(value).strip().lower()
        if text in ("auto", "all"):
            return text
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"expected an integer above 0, auto or all, got {value!r}", param, ctx)
        return int(text)


class Name(click.Choice[str]):
    """One of some names; what is none of them is told the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            self.fail(f"unknown name {value!r}{nearest(value, self.choices)}", param, ctx)
        return str(value)


class LossText(Name):
    """`huber`, or with parameters `huber:delta=2`; it stays as it was given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        plain, colon, _ = str(value).partition(":")
        super().convert(plain, param, ctx)
        if colon:
            from fastnn.losses import find  # loads NumPy

            try:
                find(str(value))
            except InputError as error:
                self.fail(str(error), param, ctx)
        return str(value)


def read_schedule(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a schedule and its fields in `name:field=value,field=value`; InputError for what is none."""
    name, _, rest = text.strip().partition(":")
    if name == TABLE:
        return name, _read_rates(rest)
    if name not in SCHEDULES:
        raise InputError(f"unknown schedule {name!r}{nearest(name, (*SCHEDULES, TABLE))}")
    _, rate, needed, others = SCHEDULES[name]
    known = (rate, *needed, *others, "per")
    fields: dict[str, Any] = {
        field: value if field == "per" or (field == "then" and value in SCHEDULES) else _number(name, field, value)
        for field, value in read_fields(name, rest, known).items()
    }
    missing = [field for field in needed if field not in fields]
    if missing:
        raise InputError(f"{name} needs {' and '.join(missing)}, as in {name}:{','.join(f'{each}=...' for each in missing)}")
    return name, fields


def _read_rates(text: str) -> dict[str, Any]:
    """The fields of a table of rates: `0=0.1,10=0.01`, and what its times are as `per=step`."""
    pairs = [tuple(part.strip() for part in entry.split("=", 1)) for entry in text.split(",")]
    if not all(len(pair) == 2 for pair in pairs) or not any(pair[0] == "0" for pair in pairs):
        raise InputError(f"table needs rates by epoch, the first one for 0, as in table:0=0.1,10=0.01, got {text!r}")
    entries = [(_number(TABLE, "epoch", time), _number(TABLE, time, rate)) for time, rate in pairs if time != "per"]
    return {"entries": entries, **{name: value for name, value in pairs if name == "per"}}


def _number(name: str, field: str, value: str) -> float | int:
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError as error:
        raise InputError(f"{name}: {field}: expected a number, got {value!r}") from error


def build_schedule(text: str, rate: float) -> Any:
    """The schedule in `text`; fields that it leaves out start from the learning rate. Raises InputError."""
    from fastnn import schedules

    name, fields = read_schedule(text)
    if name == TABLE:
        return schedules.Schedule.from_config({"type": "Table", **fields})
    kind, start, *_ = SCHEDULES[name]
    fields.setdefault(start, rate)
    if isinstance(fields[start], str):  # what follows a warm-up, in the same unit of time
        after = build_schedule(fields[start], rate)
        fields[start] = dataclasses.replace(after, per=fields.get("per", after.per))
    return schedules.Schedule.from_config({"type": kind, **fields})


def _number_option(name: str) -> Callable[[F], F]:
    """The option of a number of `NUMBERS`, with the bounds and defaults of the optimizers' fields."""
    takers = NUMBERS[name]
    metavar, use = NUMBER_HELP.get(name, (name.rpartition("_")[2].upper(), "For"))
    first, *_ = takers.values()
    return option(
        OPTIMIZER,
        f"--{name.replace('_', '-')}",
        type=_range(**first.metadata[BOUNDS]),
        metavar=metavar,
        help=f"{use} {', '.join(takers)}. [default: {_describe_defaults(name)}]",
    )


def _range(
    least: float | None = None, above: float | None = None, most: float | None = None, below: float | None = None
) -> Number:
    return Number(
        least if above is None else above,
        most if below is None else below,
        min_open=above is not None,
        max_open=below is not None,
    )


def _describe_defaults(name: str) -> str:
    """`0.999; 0.9 for rmsprop, 0.99 for lion`: the most common one first."""
    takers: dict[float, list[str]] = {}
    for optimizer, each in NUMBERS[name].items():
        takers.setdefault(DEFAULTS[optimizer][each.name], []).append(optimizer)
    usual = max(takers, key=lambda value: len(takers[value]))
    others = [f"{value:g} for {' and '.join(names)}" for value, names in takers.items() if value != usual]
    return "; ".join([f"{usual:g}", *([", ".join(others)] if others else [])]).replace("e-0", "e-")


NETWORK_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    option(
        NETWORK,
        "--conv",
        type=Checked(read_pieces),
        metavar="PIECES",
        help="Layers for images in front of the hidden ones, e.g. 20x5,pool2,40x5,pool2: FILTERSxKERNEL, a convolution, with "
        ":same, :padN, :strideN, :dilationN, :groupsN, :norm (batch norm) behind it; pool2 (max), mean2, l2pool2, with :same, "
        ":padN, :strideN; global, the mean of each channel; drop0.25, dropout, with :channels for whole ones.",
    ),
    option(
        NETWORK,
        "--augment",
        type=Checked(images.read_augmentation),
        metavar="NAME=N,...",
        help="Images changed at random while training, e.g. rotation=10,shift=0.1,horizontal_flip=yes; "
        f"{', '.join(images.AUGMENTATIONS)}.",
    ),
    option(
        NETWORK,
        "--shape",
        type=Checked(read_shape),
        metavar="HxW[xC]",
        help="Shape of the images that come in rows, e.g. 28x28 or 32x32x3. [default: that of the data]",
    ),
    option(
        NETWORK,
        "--hidden",
        callback=sizes,
        default="128",
        show_default=True,
        metavar="SIZES",
        help="Units of the hidden layers, e.g. 128,64; or none.",
    ),
    option(
        NETWORK,
        "--activation",
        type=Name(ACTIVATIONS),
        default="relu",
        show_default=True,
        metavar="NAME",
        help=f"Activation of the hidden layers: {', '.join(ACTIVATIONS)}.",
    ),
    option(NETWORK, "--batch-norm", is_flag=True, help="Normalize each hidden layer over the mini-batch."),
    option(NETWORK, "--layer-norm", is_flag=True, help="Normalize each hidden layer example by example."),
    option(
        NETWORK,
        "--dropout",
        type=Number(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        metavar="RATE",
        help="Share of hidden units dropped in training.",
    ),
    option(
        NETWORK,
        "--initial",
        type=Name(INITIALIZERS),
        metavar="NAME",
        help="Initial weights: normal, zeros, or glorot, he or lecun with _normal or _uniform. "
        "[default: he_normal before the relu family, else glorot_uniform]",
    ),
    option(
        NETWORK,
        "--dtype",
        type=Name(["float32", "float64"]),
        default="float32",
        show_default=True,
        metavar="NAME",
        help="float32 or float64.",
    ),
    option(
        NETWORK,
        "--seed",
        type=click.IntRange(0, 2**64 - 1),
        default=0,
        show_default=True,
        metavar="SEED",
        help="Seed of all that is random.",
    ),
    option(
        TRAINING,
        "--loss",
        type=LossText(LOSSES),
        metavar="NAME[:...]",
        help=f"Loss: {', '.join(LOSSES)}; e.g. huber:delta=2, quantile:level=0.9, focal:gamma=2,alpha=none. "
        "[default: softmax_cross_entropy for classes, else mean_squared_error]",
    ),
    option(
        TRAINING,
        "--batch-size",
        type=BatchSize(),
        default="32",
        show_default=True,
        metavar="B",
        help="Examples in a mini-batch; all; or auto, as many as fit into memory.",
    ),
    option(TRAINING, "--l2", type=Number(0), default=0.0, metavar="LAMBDA", help="L2 penalty on the weights."),
    option(TRAINING, "--l1", type=Number(0), default=0.0, metavar="LAMBDA", help="L1 penalty on the weights."),
    option(
        OPTIMIZER,
        "--optimizer",
        type=Name(OPTIMIZERS),
        default="adam",
        show_default=True,
        metavar="NAME",
        help=f"Optimizer: {', '.join(OPTIMIZERS)}.",
    ),
    option(
        OPTIMIZER,
        "--learning-rate",
        "--rate",
        type=Number(0, min_open=True),
        metavar="RATE",
        help=f"Learning rate. [default: by the optimizer; {RATES['adam']:g} for adam]",
    ),
    option(
        OPTIMIZER,
        "--schedule",
        type=Checked(read_schedule),
        metavar="NAME[:...]",
        help=f"How the learning rate goes: {', '.join(SCHEDULES)}, {TABLE}; e.g. staircase:factor=0.5,every=10, "
        "one_cycle:per=step, warmup:length=5,then=cosine, table:0=0.1,10=0.01.",
    ),
    *map(_number_option, NUMBERS),
    option(
        OPTIMIZER, "--clip-norm", type=Number(0, min_open=True), metavar="NORM", help="Clip the global gradient norm to this."
    ),
    option(
        OPTIMIZER,
        "--clip-value",
        type=Number(0, min_open=True),
        metavar="VALUE",
        help="Clip each element of the gradient to this.",
    ),
    option(
        OPTIMIZER,
        "--ema",
        type=Number(0, 1, max_open=True),
        metavar="D",
        help="Average the parameters over the steps, a = D a + (1 - D) w; test and save the averages.",
    ),
)


def network_options(command: F) -> F:
    for add in reversed(NETWORK_OPTIONS):
        command = add(command)
    return command


def is_given(name: str) -> bool:
    """Whether the option is on the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_network() -> None:
    """Raise click.UsageError for options that describe a network, where it comes from a file."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name
        if name is None or getattr(parameter, "heading", None) != NETWORK:
            continue
        if is_given(name):
            raise click.UsageError(f"{parameter.opts[0]}: the network is in the file already")
        configured = context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
        if configured and context.params[name] != parameter.process_value(context, parameter.default):
            raise click.UsageError(f"{name.replace('_', '-')} in the configuration: the network is in the file already")


@dataclass(frozen=True)
class Network:
    """The options of one network, as given."""

    conv: str | None
    augment: str | None
    shape: str | None
    hidden: tuple[int, ...]
    activation: str
    batch_norm: bool
    layer_norm: bool
    dropout: float
    initial: str | None
    dtype: str
    seed: int
    loss: str | None
    batch_size: int | str
    l2: float
    l1: float
    optimizer: str
    learning_rate: float | None
    schedule: str | None
    clip_norm: float | None
    clip_value: float | None
    ema: float | None
    overrides: Mapping[str, float]
    """The numbers of the optimizer that are given, by option."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Network:
        overrides = {name: options[name] for name in NUMBERS if options[name] is not None}
        return cls(**{name: value for name, value in options.items() if name not in NUMBERS}, overrides=overrides)

    def of_file(self, model: Sequential) -> Network:
        """The same for a saved network: with its seed and dtype, and the loss that it was trained for where none is given."""
        loss = self.loss or (None if model.task is None else model.task.loss)
        return dataclasses.replace(self, seed=model.seed, dtype=model.dtype.name, loss=loss)

    def loss_for(self, classes: int | None) -> str:
        if self.loss is None:
            return "softmax_cross_entropy" if classes is not None else "mean_squared_error"
        return self.loss

    def outputs_for(self, outputs: int, classes: int | None) -> int:
        """One output says yes or no; several without a softmax are a yes or no each."""
        return 1 if classes == 2 and (self.loss or "").partition(":")[0] in YES_OR_NO else outputs

    @property
    def norm(self) -> str:
        """What normalizes the hidden layers, if anything. Raises click.UsageError for two at once."""
        if self.batch_norm and self.layer_norm:
            raise click.UsageError("give either --batch-norm or --layer-norm")
        return "batch norm" if self.batch_norm else "layer norm" if self.layer_norm else ""

    def rate(self) -> float:
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def has_table(self) -> bool:
        """Whether the schedule names every learning rate itself."""
        return self.schedule is not None and read_schedule(self.schedule)[0] == TABLE

    def numbers(self) -> dict[str, float]:
        """The numbers that are given, by the optimizer's fields. Raises click.UsageError for those of another one."""
        for name in self.overrides:
            if self.optimizer not in NUMBERS[name]:
                dashed = name.replace("_", "-")
                raise click.UsageError(f"--{dashed} is for {', '.join(NUMBERS[name])}, not for {self.optimizer}")
        return {NUMBERS[name][self.optimizer].name: value for name, value in self.overrides.items()}

    def build_optimizer(self) -> Any:
        fields = self.numbers()
        if self.has_table and self.learning_rate is not None:
            raise click.UsageError("--learning-rate: the rates are those of the table in --schedule")
        try:
            rate = self.rate() if self.schedule is None else build_schedule(self.schedule, self.rate())
        except InputError as error:
            raise click.UsageError(f"--schedule: {error}") from error
        try:
            return by_name(
                self.optimizer, learning_rate=rate, clip_norm=self.clip_norm, clip_value=self.clip_value, ema=self.ema, **fields
            )
        except InputError as error:
            raise click.UsageError(as_options(str(error))) from error

    def output_activation(self, loss: str) -> str:
        """The cross-entropies take logits; the quadratic cost is Nielsen's, of sigmoid outputs."""
        return "sigmoid" if loss == "quadratic" else "identity"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What --conv says."""
        return read_pieces(self.conv or "none")

    @property
    def takes_images(self) -> bool:
        return bool(self.pieces or self.augment or self.shape)

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """What --shape says."""
        return read_shape(self.shape) if self.shape else None

    def build_model(
        self, features: int | tuple[int, ...], outputs: int, loss: str, scale: float = 1.0, first: Sequence[Any] = ()
    ) -> Any:
        """The network for examples of this shape; `first`: layers in front of it.

        Raises click.UsageError for the part of --conv that does not fit.
        """
        import fastnn

        def build(pieces: Sequence[Piece], last: Sequence[Any] = ()) -> Any:
            front = [layer for piece in pieces for layer in images.build_layers(piece, self.activation, self.initial)]
            model = fastnn.Sequential([*before, *front, *last], seed=self.seed, dtype=self.dtype, input_scale=scale)
            return model.build(features)

        dense = functools.partial(fastnn.Dense, weight_init=self.initial)
        before, norms = list(first), {"batch norm": fastnn.BatchNorm, "layer norm": fastnn.LayerNorm}
        if self.augment:
            try:
                before.append(fastnn.Augment(**images.read_augmentation(self.augment)))
            except InputError as error:
                raise click.UsageError(f"--augment: {str(error).removeprefix('Augment: ')}") from error
        layers: list[Any] = [fastnn.Flatten()] if self.takes_images else []
        for size in self.hidden:
            if self.norm:
                layers += [dense(size), norms[self.norm](), fastnn.Activation(self.activation)]
            else:
                layers.append(dense(size, activation=self.activation))
            if self.dropout:
                layers.append(fastnn.Dropout(self.dropout))
        layers.append(dense(outputs, activation=self.output_activation(loss)))
        try:
            return build(self.pieces, layers)
        except InputError as error:
            images.check_pieces(self.pieces, build, error)
            raise

    def describe(self, inputs: str, outputs: int, loss: str) -> str:
        """`64 -> 128 relu -> 10`."""
        extras = [*([self.norm] if self.norm else []), self.activation]
        extras += [f"dropout {self.dropout:g}"] if self.dropout else []
        hidden = [" ".join([str(size), ", ".join(extras)]) for size in self.hidden]
        last = self.output_activation(loss)
        front = [*([f"augmented by {self.augment}"] if self.augment else []), *(piece.text for piece in self.pieces)]
        return " -> ".join([inputs, *front, *hidden, str(outputs) if last == "identity" else f"{outputs} {last}"])

    def describe_training(self, loss: str) -> str:
        numbers = {**self.overrides, **{name: getattr(self, name) for name in ("clip_norm", "clip_value", "ema")}}
        optimizer = [] if self.has_table else [f"learning rate {self.rate():g}"]
        optimizer += [self.schedule] if self.schedule else []
        optimizer += [f"{name.replace('_', ' ')} {value:g}" for name, value in numbers.items() if value is not None]
        size = self.batch_size
        mini = f"mini-batches of {size}" if isinstance(size, int) else f"mini-batch size {size}"
        *first, last = optimizer
        parts = [loss, f"{self.optimizer} with {' and '.join([', '.join(first), last] if first else [last])}", mini]
        parts += [f"L2 {self.l2:g}"] if self.l2 else []
        parts += [f"L1 {self.l1:g}"] if self.l1 else []
        return ", ".join([*parts, self.dtype])


def rows_of_table(epochs: int, most: int = 10) -> Sequence[int]:
    """At most `most` epochs to show, 1 to `epochs`: even steps, the last one always."""
    step = max(1, -(-epochs // most))
    return sorted({epochs, *range(step, epochs + 1, step)})
