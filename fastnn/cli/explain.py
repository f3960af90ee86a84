"""`fastnn explain`: the program that a training step of a network is made into."""

from __future__ import annotations

from typing import Any

import click

from fastnn.cli.commands import Command
from fastnn.cli.networks import Network, network_options


@click.command(cls=Command, short_help="Print the program of a training step.")
@click.argument("data", required=False)
@click.option("--inputs", type=click.IntRange(1), metavar="I", help="Features of an example, where no DATA is given.")
@click.option("--outputs", type=click.IntRange(1), metavar="O", help="Outputs of the network, where no DATA is given.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="auto, cpu, cuda, or cuda:1 for a second GPU.")
@click.option(
    "--precision", default="float32", show_default=True, metavar="NAME", help="Of products on a GPU: float32, tf32 or bf16."
)
@network_options
def explain(data: str | None, inputs: int | None, outputs: int | None, device: str, precision: str, **options: Any) -> None:
    """Print the program of one training step: every call with its shapes and costs.

    The network is described as for `fastnn train`, for DATA or for --inputs and --outputs.

    \b
    Examples:
      fastnn explain digits
      fastnn explain --inputs 784 --outputs 10 --hidden 512,512 --batch-size 128
    """
    network = Network(**options)
    if (data is None) == (inputs is None and outputs is None):
        raise click.UsageError("give either DATA or --inputs and --outputs")
    classes, scale = None, 1.0
    if data is not None:
        from fastnn.datasets import load

        dataset = load(data)
        inputs, outputs, classes, scale = dataset.features, dataset.outputs, dataset.classes, dataset.scale
    elif inputs is None or outputs is None:
        raise click.UsageError(f"--{'inputs' if inputs is None else 'outputs'} is missing")
    else:
        classes = outputs
    loss = network.loss_for(classes)
    model = network.build_model(outputs, loss, scale).build(inputs)
    program = model.program(
        network.batch_size, loss=loss, optimizer=network.build_optimizer(), l2=network.l2, l1=network.l1, device=device,
        precision=precision,
    )  # fmt: skip
    click.echo(str(program.explain()))
