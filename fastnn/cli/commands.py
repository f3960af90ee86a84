"""What all commands share: how errors end, and how lines are printed."""

from __future__ import annotations

import functools
import math
import re
import shlex
import textwrap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

WIDTH = 80
LABEL = 10
ARGUMENTS = "fastnn.arguments"
"""Where a context keeps what the command line said."""

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
SYNONYMS = {"validation_data": "--validation", "validation_split": "--validation", "missing": "--na"}
"""Options that are called otherwise than the arguments of `fit`."""
ARGUMENT = re.compile(
    r"""\b[A-Z]\w*\([^()]*\)|"""
    r"""(?<![\w./:'"-])(?P<name>[a-z]\w*)"""
    r"""(?:(?P<sign>=)(?:(?P<quote>['"])(?P<quoted>.*?)(?P=quote)|(?P<bare>(?:[\w./:-]*\w)?))"""
    r"""|(?P<colon>(?=:[ ]))|(?!\.?[\w/'"(]))"""
)
"""A name, with a value, before a colon or alone; none that is part of a path, in quotes, a function or a class's arguments."""


class Option(click.Option):
    """An option that `--help` shows below a heading."""

    def __init__(self, *args: Any, heading: str = "Options", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heading = heading


def option(heading: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` below a heading."""
    return click.option(*names, cls=Option, heading=heading, **settings)


class Command(click.Command):
    """A command whose errors are one line on stderr: exit code 1, and 130 if it was interrupted.

    Wrong usage is click's: exit code 2. `--debug` lets the exception through.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options by their headings, those without one last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading in sorted(sections, key="Options".__eq__):
            with formatter.section(heading):
                formatter.write_dl(sections[heading])

    def invoke(self, ctx: click.Context) -> Any:
        debug = ctx.params.pop("debug")
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
            raise
        except KeyboardInterrupt as interrupt:
            click.echo(f"interrupted{interrupt}", err=True)
            ctx.exit(130)
        except Exception as error:
            if debug:
                raise
            click.echo(f"error: {describe(error)}", err=True)
            ctx.exit(1)


class Group(Command, click.Group):
    """A command that has commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def command_line(*more: str) -> str:
    """The command that runs, as it was given, with `more` where that is missing."""
    context = click.get_current_context()
    arguments = context.meta[ARGUMENTS]
    return shlex.join(["fastnn", context.info_name or "", *arguments, *(word for word in more if word not in arguments)])


def check_written(written: Mapping[str, Path | None], read: Mapping[str, Path | str | None] | None = None) -> None:
    """Check the files that will be written at the end, by option, before any work, and beside those that are read.

    Raises click.UsageError where there is no folder for one, where two are the same, and where one would replace what is read.
    """
    taken = {Path(path).resolve(): name for name, path in (read or {}).items() if path is not None and Path(path).exists()}
    for name, path in written.items():
        if path is None:
            continue
        place = path.resolve()
        if not place.parent.is_dir():
            raise click.UsageError(f"{name}: there is no folder {place.parent}")
        if place in taken:
            raise click.UsageError(f"{name}: {path} is the file of {taken[place]} too; give another name")
        taken[place] = name


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    click.echo(f"warning: {as_options(' '.join(str(message).split()))}", err=True)


def as_options(text: str) -> str:
    """A message of the library with the options of the command that runs instead of the arguments it names.

    These are `name='value'` and `name=True`; `name:` where the message begins; and names that are no words, `batch_size`.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return text
    options = {each.opts[0][2:].replace("-", "_"): each.opts[0] for each in context.command.params if each.opts[0][:2] == "--"}
    options |= {name: option for name, option in SYNONYMS.items() if option in options.values()}

    def translate(match: re.Match[str]) -> str:
        option = options.get(match["name"] or "")
        if option is None or not (match["sign"] or "_" in match["name"] or (match.start() == 0 and match["colon"] is not None)):
            return match[0]
        value = match["quoted"] or match["bare"]
        return option if value in (None, "", "True") else f"{option} {shlex.quote(value)}"

    return ARGUMENT.sub(translate, re.sub(r"metrics=\['(\w+)'\]", r"--metric \1", text))


def describe(error: Exception) -> str:
    """An error in one line: what fastnn and the system say as they say it, anything else with its type.

    What fastnn says in several lines, such as how two architectures differ, stays so.
    """
    from fastnn.errors import FastnnError

    text = (
        "\n".join(map(str.rstrip, str(error).splitlines())) if isinstance(error, FastnnError) else " ".join(str(error).split())
    )
    if isinstance(error, MemoryError) and not isinstance(error, FastnnError):
        return f"out of memory{': ' if text else ''}{text}"
    if isinstance(error, (FastnnError, OSError)) and text:
        return as_options(text)
    return f"{type(error).__name__}: {text} (--debug shows where)"


def line(label: str, text: str) -> None:
    """Print `text` behind a label, wrapped to the width of a terminal."""
    indent = " " * LABEL
    # Paths are copied from here: they stay whole.
    fill = functools.partial(textwrap.fill, break_on_hyphens=False, break_long_words=False)
    click.echo(fill(text, WIDTH, initial_indent=label.ljust(LABEL), subsequent_indent=indent))


class Device(click.ParamType[str]):
    """The name of a device, whether there is such a one or not."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from fastnn.engines import check_name
        from fastnn.errors import InputError

        text = str(value)
        try:
            check_name(text)
        except InputError as error:
            self.fail(str(error), param, ctx)
        return text


def device_option(default: str, heading: str = "Options") -> Callable[[F], F]:
    return option(
        heading,
        "--device",
        type=Device(),
        default=default,
        show_default=True,
        metavar="NAME",
        help="auto, cpu, cuda, or cuda:1 for a second GPU.",
    )


class Number(click.FloatRange):
    """A range of finite numbers: click's own lets NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Checked(click.ParamType[str]):
    """A text that `read` understands; it stays as it was given."""

    name = "text"

    def __init__(self, read: Callable[[str], Any]) -> None:
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from fastnn.errors import InputError

        try:
            self.read(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)
        return str(value)
