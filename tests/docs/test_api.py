"""The page of public names: every name of every public module is there, and nothing else, with what its docstring says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import fastnn

DOCS = Path(__file__).resolve().parents[2] / "docs"


def script() -> Any:
    """`docs/api.py` as a module."""
    spec = importlib.util.spec_from_file_location("docs_api", DOCS / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["docs_api"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


API = script()
PUBLIC = dict(API.modules())


def listed() -> dict[str, list[str]]:
    """The names on the page, by module."""
    found: dict[str, list[str]] = {}
    for line in (DOCS / "api.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## `([\w.]+)`", line):
            names = found[heading[1]] = []
        elif row := re.match(r"\| `(\w+)", line):
            names.append(row[1])
    return found


def test_every_public_module_says_what_is_public() -> None:
    for name in fastnn._MODULES:
        module = getattr(fastnn, name)
        assert getattr(module, "__all__", None), f"{module.__name__} has no __all__"
    for module_name, names in PUBLIC.items():
        assert len(set(names)) == len(names), module_name
        assert not [name for name in names if name.startswith("_")], module_name


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_documented(module: str) -> None:
    assert importlib.import_module(module).__doc__
    missing = [name for name in PUBLIC[module] if not API.first_sentence(API.docstring(module, name))]
    assert not missing, f"no docstring in {module}: {missing}"


def test_the_page_lists_the_public_names() -> None:
    assert listed() == PUBLIC, "run: python docs/api.py > docs/api.md"


def test_the_page_says_what_the_docstrings_say() -> None:
    assert (DOCS / "api.md").read_text(encoding="utf-8") == API.page(), "run: python docs/api.py > docs/api.md"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("One, e.g. this\none.\n\nTwo.", "One, e.g. this one."),
        ("x[..., start:stop, ...] along `axis`. Two.", "x[..., start:stop, ...] along `axis`."),
        ("|x| of 0.5. `y` is none.", r"\|x\| of 0.5."),
        ("Parts:\n\n    a, b", "Parts"),
    ],
)
def test_first_sentence(text: str, first: str) -> None:
    assert API.first_sentence(text) == first


def test_what_has_no_docstring_is_noticed() -> None:
    assert not API.docstring("fastnn.random", "_MIDDLE")
    assert not API.docstring("fastnn.losses", "Function")
    assert API.docstring("fastnn.plots", "COLORS").startswith("Okabe & Ito")
