"""The page of public names: `python docs/api.py > docs/api.md` writes it anew from the docstrings.

Public are the names in `fastnn.__all__`, and those in `__all__` of each public module (`fastnn._MODULES`).
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastnn

HEAD = """\
# Public names

Written by `python docs/api.py > docs/api.md` from the docstrings; do not edit it by hand. `help(fastnn.Dense)` shows the whole
docstring. What counts as public, and what you can rely on, is in [policy.md](policy.md).
"""

LONGEST = 72
"""Characters of a signature that is shown; of a longer one, the name alone."""


def modules() -> Iterator[tuple[str, list[str]]]:
    """Each public module, the package first, and its public names."""
    yield "fastnn", [name for name in fastnn.__all__ if name not in fastnn._MODULES]
    for name in fastnn._MODULES:
        module = importlib.import_module(f"fastnn.{name}")
        yield module.__name__, list(getattr(module, "__all__", ()))


def docstring(module: str, name: str) -> str:
    """What is written of a public name: its docstring, or, of a constant, the string below its assignment."""
    value = getattr(importlib.import_module(module), name)
    if not callable(value) or not hasattr(value, "__module__") or not hasattr(value, "__qualname__"):
        return _of_constant(module, name)
    written = value.__doc__ or ""
    return "" if written.startswith(f"{name}(") else inspect.cleandoc(written)  # a dataclass without one gets its signature


def _of_constant(module: str, name: str) -> str:
    """The string below the assignment of `name`, in the module or in the one that it was imported from."""
    body = _tree(module).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.ImportFrom) and {alias.name for alias in statement.names} & {name, "*"}:
            found = _of_constant(statement.module or "", name)
            if found:
                return found
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            text = following.value if isinstance(following, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                return inspect.cleandoc(text.value)
    return ""


@functools.cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def signature(module: str, name: str) -> str:
    """`Dense(units, activation=None, ...)` without annotations; the name alone for what is not called, or is long."""
    value: Any = getattr(importlib.import_module(module), name)
    if not callable(value) or not hasattr(value, "__qualname__") or not _is_made(value):
        return name
    parameters = [_plain(parameter) for parameter in inspect.signature(value).parameters.values()]
    if inspect.isabstract(value) or (parameters and all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)):
        return name
    text = name + str(inspect.Signature(parameters))
    return text if len(text) <= LONGEST else f"{name}(...)"


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """Without its annotation, and with a class that is its default as a name."""
    default = parameter.default
    named = isinstance(default, type) and default is not parameter.empty
    return parameter.replace(annotation=parameter.empty, default=_Name(default.__name__) if named else default)


class _Name(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _is_made(value: Any) -> bool:
    """Whether a function, or a class whose constructor is its own: no exception, no dict, no protocol."""
    return not (isinstance(value, type) and (issubclass(value, Exception | dict) or getattr(value, "_is_protocol", False)))


def first_sentence(text: str) -> str:
    """Up to the first full stop with a space behind it, in one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    found = re.match(r"(.*?[^.\s][.!?])(?=\s+[A-Z`\[(])", paragraph)
    return (found[1] if found else paragraph).rstrip(":").replace("|", r"\|")


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for module, names in modules():
        about = first_sentence(inspect.cleandoc(importlib.import_module(module).__doc__ or ""))
        lines += [f"## `{module}`", "", about, "", "| name | |", "| --- | --- |"]
        for name in names:
            lines.append(f"| `{signature(module, name)}` | {first_sentence(docstring(module, name))} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
