"""Fonts for labels in any script: those of the system that have the glyphs which the usual font lacks."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from fastnn.errors import warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREFERRED = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans GB", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Heiti TC", "Droid Sans Fallback",
    "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans",
)  # fmt: skip
"""Families that are taken before others which have as many of the glyphs."""
PLACEHOLDER = "Last Resort"
"""How a family is called that has a box for every character."""
SHOWN = 5
"""Characters that a warning lists."""

_warned: set[str] = set()
"""The characters that a warning was about, which comes once a process."""


def cover(drawn: Axes | Figure) -> None:
    """Give the texts of axes or a figure fonts with all of their glyphs; warn once of characters that no font here has."""
    from matplotlib.axes import Axes
    from matplotlib.text import Text

    panels = [drawn] if isinstance(drawn, Axes) else list(drawn.axes)
    for axes in panels:
        # Labels of ticks have their texts only once they were asked for.
        axes.get_xticklabels(), axes.get_yticklabels()
    texts = [text for text in drawn.findobj(Text) if not text.get_text().isascii()]
    missing: set[str] = set()
    for text in texts:
        families = tuple(text.get_fontfamily())
        letters = {letter for letter in text.get_text() if letter.isprintable() and not letter.isspace()}
        more, absent = _find(families, frozenset(letters))
        missing |= absent
        if more:
            text.set_fontfamily([*families, *more])
    _warn_of(missing)


def _warn_of(letters: Collection[str]) -> None:
    if not letters or _warned:
        return
    import matplotlib

    _warned.update(letters)
    shown = "".join(sorted(letters)[:SHOWN]) + "..." * (len(letters) > SHOWN)
    warn(
        f"no font of this system has {shown}: the plot shows boxes. Install one that has, such as Noto Sans CJK (Debian and "
        f"Ubuntu: apt install fonts-noto-cjk), and delete the fontlist files in {matplotlib.get_cachedir()}"
    )


@functools.cache
def _find(families: tuple[str, ...], letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The families that have the glyphs which `families` lack, as few as possible, and the characters that none has."""
    from matplotlib.font_manager import FontProperties, findfont

    left = set(letters)
    for family in families:
        left -= _covered(findfont(FontProperties(family=[family])), left)
    chosen: list[str] = []
    while left:
        best, found = "", frozenset[str]()
        for family, path in _installed():
            covered = _covered(path, left)
            if len(covered) > len(found):
                best, found = family, covered
        if not found:
            break
        chosen.append(best)
        left -= found
    return tuple(chosen), frozenset(left)


def _installed() -> Sequence[tuple[str, str]]:
    """The families of upright letters that are installed, the preferred ones first, with a file of each."""
    from matplotlib.font_manager import fontManager

    files: dict[str, str] = {}
    for entry in sorted(fontManager.ttflist, key=lambda entry: abs(_weight(entry.weight) - 400)):
        if entry.style == "normal" and not entry.name.startswith(PLACEHOLDER):
            files.setdefault(entry.name, entry.fname)
    order = {name: index for index, name in enumerate(PREFERRED)}
    return sorted(files.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))


def _weight(weight: Any) -> int:
    return weight if isinstance(weight, int) else 400


def _covered(path: str, letters: Collection[str]) -> frozenset[str]:
    """Those of the characters that a font file has glyphs for."""
    try:
        font = _open(path)
    except (OSError, RuntimeError):  # a font that was removed, or is of no kind that can be read
        return frozenset()
    return frozenset(letter for letter in letters if font.get_char_index(ord(letter)))


@functools.lru_cache(64)
def _open(path: str) -> Any:
    from matplotlib.ft2font import FT2Font

    return FT2Font(path)
