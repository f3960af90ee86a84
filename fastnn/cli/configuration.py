"""`--config FILE`: the options of a command from a TOML file; `--print-config`: the options in force, as such a file.

    batch-size = 64            # for every command that is given the file

    [train]                    # for `fastnn train` alone, and before what stands above
    data = "digits"
    hidden = [128, 64]         # as --hidden 128,64; [] is none
    batch-norm = true

A key is the name of an option or argument, with - or _ in it. What the command line says goes before the file. Paths mean
the same in both: they start at the folder in which the command is run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click

from fastnn.errors import nearest

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """Give a command `--config` and `--print-config`."""

    @functools.wraps(function)
    def run(*arguments: Any, print_config: bool, **options: Any) -> Any:
        if not print_config:
            return function(*arguments, **options)
        click.echo(_as_toml(click.get_current_context()))
        return None

    # Both are eager, which keeps them out of the files.
    for option in (
        click.option("--print-config", is_flag=True, is_eager=True, help="Print the options as such a file, and exit."),
        click.option(
            "--config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=_read,
            metavar="FILE",
            help="Take options from a TOML file; those given here go first.",
        ),
    ):
        run = option(run)
    return cast(F, run)


def _read(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Make what the file says the defaults of the command, checked as the command line would be."""
    if path is None or context.resilient_parsing:
        return
    content = _parse(context, path)
    command = context.command
    known = {_key(name): each for each in command.params if not each.is_eager for name in each.opts}
    family = context.parent.command if context.parent else None
    commands = set(family.commands) if isinstance(family, click.Group) else {command.name or ""}
    sections = {key: table for key, table in content.items() if isinstance(table, dict) and _key(key) not in known}
    for name in sections:
        if name not in commands:
            raise click.UsageError(f"{path}: there is no command {name!r} for [{name}]{nearest(name, commands)}", context)
    general = {key: value for key, value in content.items() if key not in sections}
    section = sections.get(command.name or "", {})
    context.default_map = {
        **(context.default_map or {}),
        **_defaults(context, known, general, path, ""),
        **_defaults(context, known, section, path, f"{command.name}."),
    }


def _parse(context: click.Context, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        _end(context, f"cannot read {path}: {error}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = len(text.rstrip().splitlines())
        _end(context, f"{path} is not TOML: {str(error).replace('at end of document', f'at line {last}, the last')}")


def _end(context: click.Context, message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    context.exit(1)


def _key(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


def _defaults(
    context: click.Context, known: Mapping[str, click.Parameter], table: Mapping[str, Any], path: Path, section: str
) -> dict[str, Any]:
    """By the names of parameters, what the keys of `table` say. Raises click.UsageError for a key or value that is wrong."""
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        parameter = known.get(_key(key))
        if parameter is None or parameter.name is None:
            raise click.UsageError(f"{path}: {context.command_path} has no option {section + key!r}{nearest(_key(key), known)}")
        hint = f"{section + key!r} in {path}"
        if parameter.name in defaults:
            raise click.BadParameter("the option is given twice, under two names", context, param_hint=hint)
        try:
            defaults[parameter.name] = _as_given(parameter, value)
            parameter.process_value(context, defaults[parameter.name])
        except click.UsageError as error:
            raise click.BadParameter(error.message, context, param_hint=hint) from error
    return defaults


def _as_given(parameter: click.Parameter, value: Any) -> Any:
    """`value` as the command line would hand it to the parameter: in text, but for flags."""
    if parameter.multiple:
        values = value if isinstance(value, list) else [value]
        return tuple(_as_one(parameter, each) for each in values)
    return _as_one(parameter, value)


def _as_one(parameter: click.Parameter, value: Any) -> Any:
    if isinstance(parameter, click.Option) and parameter.is_bool_flag:
        if not isinstance(value, bool):
            raise click.BadParameter(f"expected true or false, got {value!r}")
        return value
    if parameter.nargs != 1:
        return tuple(map(_text, value if isinstance(value, list) else [value]))
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "none"
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        got = {bool: str(value).lower(), dict: "a table", list: "a list in a list"}.get(type(value), str(value))
        raise click.BadParameter(f"expected a text, a number or a list of them, got {got}")
    return str(value)


def _as_toml(context: click.Context) -> str:
    """The options of the command in `context` that have a value; the others go by their defaults."""
    values = {each: context.params.get(each.name or "") for each in context.command.params if not each.is_eager}
    return "\n".join(f"{_key(each.opts[0])} = {_literal(value)}" for each, value in values.items() if value is not None)


def _literal(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    # JSON's escapes are TOML's too, but for a character that JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
