"""The command `fastnn`: train a network, use it, look at its program, measure how fast it is.

Nothing here or in the commands' modules imports Numba, NumPy or the rest of fastnn before a command runs: `--help` is
immediate.
"""

from __future__ import annotations

import click

from fastnn.cli.bench import bench
from fastnn.cli.doctor import doctor
from fastnn.cli.evaluate import evaluate
from fastnn.cli.explain import explain
from fastnn.cli.predict import predict
from fastnn.cli.samples import sample
from fastnn.cli.train import train


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"fastnn {version('fastnn-xp')}")
    except PackageNotFoundError:
        click.echo("fastnn (run from its source, not installed)")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit."
)
def main() -> None:
    """Train dense neural networks fast, from the command line."""


main.add_command(train)
main.add_command(predict)
main.add_command(evaluate)
main.add_command(explain)
main.add_command(bench)
main.add_command(sample)
main.add_command(doctor)
