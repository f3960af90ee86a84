"""The options that describe a network and its training, and what they build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from fastnn.cli.commands import Number

ACTIVATIONS = ("elu", "gelu", "identity", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh")
LOSSES = ("mean_squared_error", "quadratic", "sigmoid_cross_entropy", "softmax_cross_entropy")
OPTIMIZERS = ("adam", "adamw", "momentum", "nesterov", "rmsprop", "sgd")
# With a momentum of 0.9 a step is up to ten times as long as the gradient asks for.
RATES = {"adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "sgd": 0.1, "momentum": 0.1, "nesterov": 0.01}
MOMENTUM = {"sgd": 0.0, "momentum": 0.9, "nesterov": 0.9}

F = TypeVar("F", bound=Callable[..., Any])


def sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """The sizes of layers in `128,64`, or none in `none`."""
    if value.strip().lower() == "none":
        return ()
    try:
        units = tuple(int(size) for size in value.split(","))
    except ValueError:
        units = (0,)
    if min(units) < 1:
        raise click.BadParameter(f"expected whole numbers above 0 such as 128,64, or none, got {value!r}")
    return units


NETWORK_OPTIONS = (
    click.option(
        "--hidden",
        callback=sizes,
        default="128",
        show_default=True,
        metavar="SIZES",
        help="Units of the hidden layers, e.g. 128,64.",
    ),
    click.option(
        "--activation",
        type=click.Choice(ACTIVATIONS),
        default="relu",
        show_default=True,
        metavar="NAME",
        help=f"Activation of the hidden layers: {', '.join(ACTIVATIONS)}.",
    ),
    click.option("--batch-norm", is_flag=True, help="Normalise each hidden layer over the mini-batch."),
    click.option(
        "--dropout",
        type=Number(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        metavar="RATE",
        help="Share of hidden units dropped in training.",
    ),
    click.option(
        "--loss",
        type=click.Choice(LOSSES),
        metavar="NAME",
        help=f"Loss: {', '.join(LOSSES)}. [default: softmax_cross_entropy for classes, else mean_squared_error]",
    ),
    click.option(
        "--optimizer",
        type=click.Choice(OPTIMIZERS),
        default="adam",
        show_default=True,
        metavar="NAME",
        help=f"Optimizer: {', '.join(OPTIMIZERS)}.",
    ),
    click.option(
        "--learning-rate",
        "--rate",
        type=Number(0, min_open=True),
        metavar="RATE",
        help="Learning rate. [default: by the optimizer; 0.001 for adam]",
    ),
    click.option(
        "--momentum",
        type=Number(0, 1, max_open=True),
        metavar="M",
        help="For sgd, momentum and nesterov. [default: 0 for sgd, else 0.9]",
    ),
    click.option(
        "--batch-size", type=click.IntRange(1), default=32, show_default=True, metavar="B", help="Examples in a mini-batch."
    ),
    click.option("--l2", type=Number(0), default=0.0, metavar="LAMBDA", help="L2 penalty on the weights."),
    click.option("--l1", type=Number(0), default=0.0, metavar="LAMBDA", help="L1 penalty on the weights."),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**64 - 1),
        default=0,
        show_default=True,
        metavar="SEED",
        help="Seed of all that is random.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float64"]),
        default="float32",
        show_default=True,
        metavar="NAME",
        help="float32 or float64.",
    ),
)


def network_options(command: F) -> F:
    for option in reversed(NETWORK_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Network:
    """The options of one network, as given."""

    hidden: tuple[int, ...]
    activation: str
    batch_norm: bool
    dropout: float
    loss: str | None
    optimizer: str
    learning_rate: float | None
    momentum: float | None
    batch_size: int
    l2: float
    l1: float
    seed: int
    dtype: str

    def loss_for(self, classes: int | None) -> str:
        if self.loss is None:
            return "softmax_cross_entropy" if classes is not None else "mean_squared_error"
        return self.loss

    def rate(self) -> float:
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def build_optimizer(self) -> Any:
        import fastnn

        rate = self.rate()
        if self.optimizer not in MOMENTUM:
            if self.momentum is not None:
                raise click.UsageError(f"--momentum is for {', '.join(MOMENTUM)}, not for {self.optimizer}")
            classes: dict[str, Any] = {"adam": fastnn.Adam, "adamw": fastnn.AdamW, "rmsprop": fastnn.RMSprop}
            return classes[self.optimizer](learning_rate=rate)
        momentum = MOMENTUM[self.optimizer] if self.momentum is None else self.momentum
        if self.optimizer == "momentum":
            return fastnn.Momentum(learning_rate=rate, beta=momentum)
        return fastnn.SGD(learning_rate=rate, momentum=momentum, nesterov=self.optimizer == "nesterov")

    def output_activation(self, loss: str) -> str:
        """The cross-entropies take logits; the quadratic cost is Nielsen's, of sigmoid outputs."""
        return "sigmoid" if loss == "quadratic" else "identity"

    def build_model(self, outputs: int, loss: str, scale: float = 1.0) -> Any:
        import fastnn

        layers: list[Any] = []
        for size in self.hidden:
            if self.batch_norm:
                layers += [fastnn.Dense(size), fastnn.BatchNorm(), fastnn.Activation(self.activation)]
            else:
                layers.append(fastnn.Dense(size, activation=self.activation))
            if self.dropout:
                layers.append(fastnn.Dropout(self.dropout))
        layers.append(fastnn.Dense(outputs, activation=self.output_activation(loss)))
        return fastnn.Sequential(layers, seed=self.seed, dtype=self.dtype, input_scale=scale)

    def describe(self, inputs: int, outputs: int, loss: str) -> str:
        """`64 -> 128 relu -> 10`."""
        extras = [*(["batch norm"] if self.batch_norm else []), self.activation]
        extras += [f"dropout {self.dropout:g}"] if self.dropout else []
        hidden = [" ".join([str(size), ", ".join(extras)]) for size in self.hidden]
        last = self.output_activation(loss)
        return " -> ".join([str(inputs), *hidden, str(outputs) if last == "identity" else f"{outputs} {last}"])

    def describe_training(self, loss: str) -> str:
        parts = [loss, f"{self.optimizer} with learning rate {self.rate():g}"]
        if self.momentum is not None:
            parts[-1] += f" and momentum {self.momentum:g}"
        parts.append(f"mini-batches of {self.batch_size}")
        parts += [f"L2 {self.l2:g}"] if self.l2 else []
        parts += [f"L1 {self.l1:g}"] if self.l1 else []
        return ", ".join([*parts, self.dtype])


def rows_of_table(epochs: int, most: int = 10) -> Sequence[int]:
    """At most `most` epochs to show, 1 to `epochs`: even steps, the last one always."""
    step = max(1, -(-epochs // most))
    return sorted({epochs, *range(step, epochs + 1, step)})
