"""What all commands share: how errors end, and how lines are printed."""

from __future__ import annotations

import functools
import math
import textwrap
import warnings
from typing import Any

import click

WIDTH = 80
LABEL = 10


class Command(click.Command):
    """A command whose errors are one line on stderr: exit code 1, and 130 if it was interrupted.

    Wrong usage is click's: exit code 2. `--debug` lets the exception through.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))

    def invoke(self, ctx: click.Context) -> Any:
        debug = ctx.params.pop("debug")
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except Exception as error:
            if debug:
                raise
            click.echo(f"error: {describe(error)}", err=True)
            ctx.exit(1)


class Group(Command, click.Group):
    """A command that has commands."""


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)


def describe(error: Exception) -> str:
    """An error in one line: what fastnn and the system say as they say it, anything else with its type."""
    from fastnn.errors import FastnnError

    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) and not isinstance(error, FastnnError):
        return f"out of memory{': ' if text else ''}{text}"
    if isinstance(error, (FastnnError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def line(label: str, text: str) -> None:
    """Print `text` behind a label, wrapped to the width of a terminal."""
    indent = " " * LABEL
    # Paths are copied from here: they stay whole.
    fill = functools.partial(textwrap.fill, break_on_hyphens=False, break_long_words=False)
    click.echo(fill(text, WIDTH, initial_indent=label.ljust(LABEL), subsequent_indent=indent))


class Number(click.FloatRange):
    """A range of finite numbers: click's own lets NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number
