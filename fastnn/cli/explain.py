"""`fastnn explain`: the program that a training step of a network is made into."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import click

from fastnn.cli.commands import Command, device_option
from fastnn.cli.configuration import config_option
from fastnn.cli.data import TableOptions, read, regression_option, table_options, target_option, with_images
from fastnn.cli.networks import Network, is_given, network_options, refuse_network

MODEL = ".safetensors"


@click.command(cls=Command, short_help="Print the program of a training step.")
@click.argument("data", required=False, metavar="[DATA|MODEL]")
@target_option()
@regression_option()
@click.option("--inputs", type=click.IntRange(1), metavar="I", help="Features of an example, where no DATA is given.")
@click.option("--outputs", type=click.IntRange(1), metavar="O", help="Outputs of the network, where no DATA is given.")
@table_options
@device_option("cpu")
@click.option(
    "--precision", default="float32", show_default=True, metavar="NAME", help="Of products on a GPU: float32, tf32 or bf16."
)
@network_options
@config_option
def explain(
    data: str | None,
    targets: tuple[str, ...],
    regression: bool,
    inputs: int | None,
    outputs: int | None,
    device: str,
    precision: str,
    **options: Any,
) -> None:
    """Print the program of one training step: every call with its shapes and costs.

    The network is described as for `fastnn train`, for DATA or for --inputs and
    --outputs; or it is MODEL, a file of `fastnn train --save`.

    \b
    Examples:
      fastnn explain digits
      fastnn explain digits.safetensors --batch-size 128
      fastnn explain mnist --conv 20x5,pool2 --hidden 100
      fastnn explain --inputs 784 --outputs 10 --hidden 512,512 --batch-size 128
    """
    table = TableOptions(**{each.name: options.pop(each.name) for each in fields(TableOptions)})
    network = Network.of(options)
    if (data is None) == (inputs is None and outputs is None):
        raise click.UsageError("give either DATA or --inputs and --outputs")
    optimizer = network.build_optimizer()
    loss, examples = network.loss, None
    if data is not None and data.endswith(MODEL):
        refuse_network()
        from fastnn.checkpoints import load

        model = load(data)
        if not is_given("optimizer"):
            optimizer = model.optimizer or optimizer
    else:
        classes, scale = outputs, 1.0
        shape: tuple[int, ...] | None = None
        if data is not None:
            dataset = read(data, targets, regression, table=table)
            dataset = with_images(dataset, network.image_shape) if network.takes_images else dataset
            shape, outputs, classes, scale = dataset.X_train.shape[1:], dataset.outputs, dataset.classes, dataset.scale
            examples, inputs = len(dataset.X_train), dataset.features
        elif network.takes_images:
            shape = network.image_shape
            if shape is None:
                raise click.UsageError("--shape is missing: how large are the images? As in --shape 28x28")
            if inputs not in (None, math.prod(shape)):
                raise click.UsageError(
                    f"--inputs: images of --shape {network.shape} have {math.prod(shape)} numbers, got {inputs}"
                )
            inputs = math.prod(shape)
        elif inputs is not None:
            shape = (inputs,)
        if inputs is None or outputs is None or shape is None:
            raise click.UsageError(f"--{'inputs' if inputs is None else 'outputs'} is missing")
        loss = network.loss_for(classes)
        model = network.build_model(shape, network.outputs_for(outputs, classes), loss, scale)
    rows = examples if network.batch_size == "all" else network.batch_size
    if not isinstance(rows, int):
        raise click.UsageError(f"--batch-size: expected an integer, got {network.batch_size}")
    program = model.program(
        rows, loss=loss, optimizer=optimizer, l2=network.l2, l1=network.l1, device=device, precision=precision
    )
    click.echo(str(program.explain()))
