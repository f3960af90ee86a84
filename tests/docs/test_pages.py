"""What the pages for contributors name is there: files, names in them, and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastnn
import fastnn_kernels

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "architecture.md", DOCS / "CONTRIBUTING.md", DOCS / "glossary.md", *sorted((DOCS / "recipes").glob("*.md"))]
PACKAGES = {"fastnn": Path(fastnn.__file__).parent, "kernels/fastnn_kernels": Path(fastnn_kernels.__file__).parent}
NAMED = re.compile(r"`((?:fastnn|kernels|tests|bench|ci|docs)/[\w/.]*)(?::([\w.]+))?`")


def located(name: str) -> Path:
    """A path of the repository; the packages lie where they are imported from."""
    for prefix, folder in PACKAGES.items():
        if name.startswith(f"{prefix}/"):
            return folder / name.removeprefix(f"{prefix}/")
    return ROOT / name


def defines(text: str, name: str) -> bool:
    """Whether Python source defines a function, a class or a variable."""
    return bool(re.search(rf"^ *(?:(?:def|class) {name}\b|{name}(?:: [^=\n]+)? = )", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_names_are_there(page: Path) -> None:
    found = NAMED.findall(page.read_text(encoding="utf-8"))
    assert found
    for file, name in found:
        path = located(file)
        assert path.exists(), file
        for part in filter(None, name.split(".")):
            assert defines(path.read_text(encoding="utf-8"), part), f"{file}:{name}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists() or target == "LICENSE", target


def test_what_is_not_there_is_noticed() -> None:
    assert defines("def f() -> None:", "f")
    assert defines("class A(B):\n    def g(self): ...\nX: int = 3", "g")
    assert defines("X: dict[str, int] = {}", "X")
    assert not defines("f(3)\nfrom a import f", "f")
    assert NAMED.findall("`fastnn/losses.py:LOSSES`, `fastnn.ops`") == [("fastnn/losses.py", "LOSSES")]
