"""What all pages of the benchmark are made of: columns of tables, axes of plots, one file that asks the network for nothing.

A page's content security policy lets it ask for nothing. What a record says is foreign: it is escaped wherever it stands, and
only the two scripts that are written into the page here may run. plotly and Jinja are imported when a page is made.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastnn.benchmarks.table import verdict
from fastnn.errors import PackageError


@dataclass(frozen=True)
class Column:
    """What one row has in one column: a text, what it is sorted by, its classes, and a sign with the word for it."""

    text: str = ""
    sort: str = ""
    kind: str = ""
    sign: str = ""
    word: str = ""


@dataclass(frozen=True)
class Table:
    """A table to be sorted; a header that begins with `-` is of numbers."""

    label: str
    headers: list[str]
    rows: list[list[Column]]


EMPTY = Column(kind="number")


def packages() -> tuple[Any, Any]:
    """plotly's function for its script, and Jinja. Raises PackageError where one of them is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise PackageError.of("plotly", "a page", error) from error
    try:
        import jinja2
    except ImportError as error:
        raise PackageError.of("jinja2", "a page", error) from error
    return get_plotlyjs, jinja2


def render(template: str, **words: Any) -> str:
    """The page of a template; among its words are `figures`, plain data. Raises PackageError."""
    get_plotlyjs, jinja2 = packages()
    plotly, script = get_plotlyjs(), _resource("page.js")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page: str = environment.get_template(template).render(
        policy=_policy(plotly, script), style=_resource("page.css"), plotly=plotly, script=script, **words
    )  # fmt: skip
    return page


def _resource(name: str) -> str:
    return importlib.resources.files("fastnn.benchmarks").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Only these scripts, only styles of the page, only pictures that it makes, nothing from elsewhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def plain(figure: Any, sizes: list[int], rates: Sequence[float]) -> dict[str, Any]:
    """A Plotly figure of rates by mini-batch size as plain data, with the axes of such a plot."""
    low, high = math.log10(sizes[0] / 1.6), math.log10(sizes[-1] * 1.6)
    axis = {"showline": True, "automargin": True, "zeroline": False}
    figure.update_layout(
        template="none", showlegend=False, margin={"l": 10, "r": 10, "t": 10, "b": 10}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"size": 12, "family": "system-ui, sans-serif"}, hovermode="closest",
        xaxis=axis | {
            "type": "log", "title": {"text": "mini-batch size (examples)"}, "range": [low, high], "tickmode": "array",
            "tickvals": _apart(sizes), "ticktext": [str(size) for size in _apart(sizes)], "tickangle": 0,
        },
        yaxis=axis | _between(rates) | {"type": "log", "title": {"text": "throughput (examples/s)"}, "tickformat": "~s"},
    )  # fmt: skip
    data: dict[str, Any] = json.loads(figure.to_json())
    return data


def _between(rates: Sequence[float]) -> dict[str, Any]:
    """Numbers at the powers of ten; at 1, 2 and 5 where few powers are in sight, and as Plotly likes where none is."""
    decades = math.log10(max(rates) / min(rates))
    return {"dtick": 1} if decades > 2.5 else {"dtick": "D2"} if decades > 0.7 else {"nticks": 8}


def _apart(sizes: list[int]) -> list[int]:
    """Those whose numbers do not touch on an axis: at least three times the one before."""
    shown: list[int] = []
    for size in sizes:
        if not shown or size >= 3 * shown[-1]:
            shown.append(size)
    return shown


def ratio_column(ratio: float) -> Column:
    """Marked by a sign too, not by its color alone."""
    if not math.isfinite(ratio):
        return EMPTY
    word = verdict(ratio)
    sign, style = {"slower": ("▼", " lost"), "level": ("=", ""), "faster": ("▲", " won")}[word]
    return Column(ratio_text(ratio), repr(ratio), f"number{style}", sign, word)


def ratio_text(ratio: float) -> str:
    """Three digits that count, so that what is slower is never shown as 1.00."""
    return f"{ratio:.{3 if ratio < 1 else 2 if ratio < 10 else 1 if ratio < 100 else 0}f}"


def rate_text(rate: float) -> str:
    """Four digits that count, in groups of three."""
    return f"{float(f'{rate:.4g}'):,.0f}" if rate >= 1000 else f"{rate:.4g}"


def number(value: float, text: str, kind: str = "") -> Column:
    """A column that is sorted by its value; empty for NaN."""
    return Column(text, repr(value), f"number {kind}".strip()) if math.isfinite(value) else EMPTY


def text(text: str, otherwise: str = "", *, reason: bool = False, mine: bool = False) -> Column:
    """A column that is sorted by its words; `otherwise` is shown where there are none, and sorted last."""
    return Column(text or otherwise, text, "reason" if reason else "mine" if mine else "")
