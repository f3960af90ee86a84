"""What is private to a model stays in its own files: `network/model.py` and `sequential.py`."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastnn

LIBRARY = Path(fastnn.__file__).parent
OWN = (LIBRARY / "network/model.py", LIBRARY / "sequential.py")


@functools.cache
def private_names() -> frozenset[str]:
    """Methods and attributes of `ModelState` and `Sequential` that begin with one underscore."""
    found = set()
    for path in OWN:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name in ("ModelState", "Sequential"):
                inside = [inner for item in node.body for inner in ast.walk(item)]
                found |= {inner.name for inner in inside if isinstance(inner, ast.FunctionDef)}
                found |= {
                    inner.attr for inner in inside if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "self"
                }
    return frozenset(name for name in found if name.startswith("_") and not name.startswith("__"))


def touches(source: str, names: frozenset[str]) -> Iterator[str]:
    """Where `source` uses one of these names of something that is not the object whose method it is in."""
    if not any(name in source for name in names):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) not in ("self", "cls"):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", sorted(set(LIBRARY.rglob("*.py")) - set(OWN)), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_no_other_file_touches_them(path: Path) -> None:
    names = private_names()
    assert {"_layout", "_training"} <= names
    assert list(touches(path.read_text(encoding="utf-8"), names)) == []


def test_a_touch_is_noticed() -> None:
    assert list(touches("def f(model):\n    return model._layout", private_names())) == ["line 2: model._layout"]
