"""Labels in any script: a font that has the glyphs is taken where there is one, and else it is said once what to do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import plots

matplotlib = pytest.importorskip("matplotlib")
builder = pytest.importorskip("fontTools.fontBuilder")

from matplotlib import font_manager  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from fastnn.plots import fonts, look  # noqa: E402

LABELS = np.array(["玫瑰", "郁金香", "tulip"])


def make_font(path: Path, family: str, letters: str) -> None:
    """A font in which each of the letters is a black triangle."""
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    pen.lineTo((475, 800))
    pen.lineTo((950, 0))
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    font = builder.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    font.save(path)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system with matplotlib's own fonts, in a process that has warned of nothing yet."""
    own = [entry for entry in font_manager.fontManager.ttflist if Path(matplotlib.get_data_path()) in Path(entry.fname).parents]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "_warned", set())
    fonts._find.cache_clear()
    yield
    fonts._find.cache_clear()


@pytest.fixture
def chinese(tmp_path: Path) -> list[str]:
    """Two fonts, none of which has all characters, and their families."""
    families = {"Flowers One": "玫瑰郁", "Flowers Two": "金香"}
    for family, letters in families.items():
        make_font(tmp_path / f"{family}.ttf", family, letters)
        font_manager.fontManager.addfont(tmp_path / f"{family}.ttf")
    return list(families)


def draw(labels: np.ndarray = LABELS) -> Axes:
    return plots.confusion_matrix(labels, labels[::-1], classes=labels)


def families(axes: Axes) -> dict[str, list[str]]:
    return {text.get_text(): text.get_fontfamily() for text in axes.figure.findobj(Text) if text.get_text() > "\u3000"}


def test_fonts_with_the_glyphs_are_taken(tmp_path: Path, chinese: list[str]) -> None:
    usual = [*matplotlib.rcParams["font.family"]]
    axes = draw()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(axes, tmp_path / "c.png")
        axes.figure.canvas.draw()  # as a notebook does
    assert families(axes) == {"玫瑰": [*usual, "Flowers One"], "郁金香": [*usual, *chinese[::-1]]}
    plots.save(axes, tmp_path / "c.svg")
    assert [*matplotlib.rcParams["font.family"]] == usual


def test_a_font_that_is_set_is_kept(tmp_path: Path, chinese: list[str]) -> None:
    with matplotlib.rc_context({"font.family": ["DejaVu Serif", *chinese]}):
        assert families(draw()) == {"玫瑰": ["DejaVu Serif", *chinese], "郁金香": ["DejaVu Serif", *chinese]}


def test_without_one_it_is_said_once(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"no font of this system has \w{5}: .* apt install fonts-noto-cjk\), and delete"
    ) as said:
        axes = draw()
    assert [each.filename for each in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(axes, tmp_path / "c.png")
        plots.save(draw(np.array(["ア", "イ", "ウ"])), tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 0


@pytest.mark.parametrize(
    "labels", [["роза", "тюльпан"], ["ρόδο", "Nelke"], ["Größe", "œillet"], ["a", "b"], ["a b\n", "\u2028x"]]
)
def test_what_the_usual_font_has_is_left_alone(tmp_path: Path, labels: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(draw(np.array(labels)), tmp_path / "c.png")


@pytest.mark.parametrize("place", ["legend", "axis", "title", "own text"])
def test_every_text_is_covered(tmp_path: Path, chinese: list[str], place: str) -> None:
    axes = look.axes_for(None)
    axes.plot([0, 1], label="玫" if place == "legend" else "a")
    axes.set_title("玫" if place == "title" else "a")
    look.frame(axes, "玫" if place == "axis" else "a", "b")
    if place == "own text":
        axes.text(0.5, 0.5, "玫")
        axes.annotate("瑰", (0.2, 0.2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(axes, tmp_path / "c.png")
    assert all("Flowers One" in found for found in families(axes).values())
    assert families(axes)


def test_fonts_that_cannot_be_read_are_passed_over(tmp_path: Path, chinese: list[str]) -> None:
    (tmp_path / "Flowers One.ttf").write_bytes(b"no font")
    fonts._open.cache_clear()
    entry: Any = font_manager.FontEntry(fname=str(tmp_path / "gone.ttf"), name="AAA Gone")
    font_manager.fontManager.ttflist.append(entry)
    with pytest.warns(UserWarning, match="no font of this system has 玫瑰郁:"):
        draw()


def test_a_preferred_family_goes_first(tmp_path: Path, chinese: list[str]) -> None:
    make_font(tmp_path / "p.ttf", fonts.PREFERRED[3], "玫瑰郁金香")
    font_manager.fontManager.addfont(tmp_path / "p.ttf")
    assert {found[-1] for found in families(draw()).values()} == {fonts.PREFERRED[3]}
