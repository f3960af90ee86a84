"""`fastnn data`: the tables that come with fastnn, as CSV."""

from __future__ import annotations

from pathlib import Path

import click

from fastnn.cli.commands import FILE, Command, check_written, line
from fastnn.cli.networks import Name

SAMPLES = ("flowers", "houses")


@click.command("data", cls=Command, short_help="Write a table to try things on.")
@click.argument("name", type=Name(SAMPLES), metavar="NAME")
@click.option("--to", type=FILE, metavar="FILE.csv", help="Write it there. [default: print it]")
@click.option("--test", type=FILE, metavar="FILE.csv", help="Write a fifth of the rows there, and only the others to --to.")
def sample(name: str, to: Path | None, test: Path | None) -> None:
    """Write one of the two tables that come with fastnn, as CSV. NAME is

    \b
      houses   400 houses and their prices; the target is price, a regression
      flowers  300 flowers of three species; the target is species

    They are made up, and part of fastnn, under its license.

    \b
    Examples:
      fastnn data flowers --to flowers.csv
      fastnn data houses --to houses.csv --test new.csv
    """
    if test is not None and (to is None or to == test):
        raise click.UsageError("--test: the other rows go to another file, --to")
    for option, path in (("--to", to), ("--test", test)):
        if path is not None and path.suffix.lower() != ".csv":
            raise click.BadParameter(
                f"the table is written as CSV: expected a name that ends in .csv, got {path}", param_hint=option
            )
    check_written({"--to": to, "--test": test})
    from fastnn.datasets import samples
    from fastnn.datasets.dataset import split_sample
    from fastnn.storage.atomic import write_whole

    names, rows = samples.read(name)
    if to is None:
        click.echo(samples.render(names, rows), nl=False)
        return
    parts = {to: rows}
    if test is not None:
        parts = {path: [rows[index] for index in chosen] for path, chosen in zip((to, test), split_sample(name), strict=True)}
    for path, part in parts.items():
        write_whole(path, samples.render(names, part).encode())
        line("written", f"{path}: {len(part)} rows; the target is {samples.TARGETS[name]}")
