"""How tables are written as text: encoding, separator, decimal mark and missing values, found where they are not named."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastnn.errors import FileError, FormatError, InputError, nearest

ENDS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t", ".parquet": None, ".pq": None}
"""What the names of tables end in, and their usual separator; None is Parquet."""
STANDARD_INPUT = "-"
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""Separators that are found without being named, and the names under which they can be given."""
DECIMALS = (".", ",")
MISSING = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
    "None", "n/a", "nan", "null",
)  # fmt: skip
"""What counts as missing besides the empty value, where nothing else is named: the list of pandas."""
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
"""Byte order marks and the encodings that they announce; those of UTF-32 begin as those of UTF-16 do."""
SAMPLE = 1 << 18
"""Bytes from the beginning of a file in which separator and decimal mark are looked for."""
GZIP = b"\x1f\x8b"
GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(?:(?P<mark>[.,'\u2019 \u00a0\u202f])\d{3})(?:(?P=mark)\d{3})*(?P<rest>[.,]\d+)?")
"""A number with thousands separators, or one with three decimals."""


@dataclass(frozen=True)
class Source:
    """Where a table is: a file, or standard input, which is read whole."""

    path: Path
    content: bytes | None = None
    """What came from standard input; None for a file."""

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Source:
        """The source of this path; `-` is standard input. Raises FileError without a file, FormatError if it is empty."""
        if os.fspath(path) == STANDARD_INPUT:
            source = cls(Path(path), sys.stdin.buffer.read())
        else:
            source = cls(Path(path).expanduser())
            if not source.path.is_file():
                raise FileError(f"there is no file {source.path}")
        if not source.size:
            raise FormatError(f"{source} is empty")
        return source

    def __str__(self) -> str:
        return str(self.path) if self.content is None else "standard input"

    @property
    def name(self) -> str:
        """The name of the file up to its first dot."""
        return self.path.name.split(".")[0] if self.content is None else str(self)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.content is None else len(self.content)

    @property
    def usual_separator(self) -> str | None:
        """By the name of the file, the separator of its values; None for Parquet."""
        if self.content is not None:
            return None if self.content.startswith(b"PAR1") else ","
        return next((separator for end, separator in ENDS.items() if self.path.name.lower().endswith(end)), ",")

    @property
    def packed(self) -> bool:
        """Whether the text is packed by gzip."""
        with self.open() as raw:
            return raw.read(len(GZIP)) == GZIP

    def open(self) -> BinaryIO:
        return cast("BinaryIO", io.FileIO(self.path) if self.content is None else io.BytesIO(self.content))

    @contextlib.contextmanager
    def open_unzipped(self) -> Iterator[BinaryIO]:
        """The bytes of the text, also where they are packed by gzip."""
        with self.open() as raw:
            yield cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if self.packed else raw


@dataclass(frozen=True)
class Layout:
    """How a text is written."""

    separator: str
    decimal: str
    encoding: str
    missing: tuple[str, ...]

    @classmethod
    def of(
        cls,
        source: Source,
        separator: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        missing: str | Sequence[str] | None = None,
    ) -> Layout:
        """The layout of the text in `source`; what is None is found in its beginning, or is the usual.

        Raises InputError for values that cannot be used, FormatError where the text can be read in two ways.
        """
        if separator is not None:
            separator = _check_separator(separator)
        if decimal not in (None, *DECIMALS):
            raise InputError(f"decimal: expected '.' or ',', got {decimal!r}")
        with source.open_unzipped() as file:
            start = file.read(SAMPLE)
            whole = not file.read(1)
        encoding = _find_encoding(source, start, encoding)
        text = codecs.getincrementaldecoder(encoding)("replace").decode(start).removeprefix("\ufeff")
        separator = separator or _find_separator(source, text, whole)
        decimal = decimal or _find_decimal(source, _rows(text, separator, whole)[1:])
        values = MISSING if missing is None else (missing,) if isinstance(missing, str) else tuple(missing)
        return cls(separator, decimal, encoding, ("", *values))

    def line(self, source: Source, row: int) -> int:
        """The line, from 1, in which the row of this number (from 0, below the names) begins.

        Values may have line breaks in them, and empty lines are no rows. Raises csv.Error for values that Python cannot take.
        """
        with source.open_unzipped() as file:
            text = io.TextIOWrapper(file, encoding=self.encoding, errors="replace", newline="")
            rows = csv.reader(text, delimiter=self.separator)
            line, left = 1, row + 1
            for values in rows:
                if values and not left:
                    break
                left -= bool(values)
                line = rows.line_num + 1
        return line

    def undecodable_line(self, source: Source) -> int:
        """The first line, from 1, that has bytes which are not of this encoding."""
        with source.open_unzipped() as file:
            lines = io.TextIOWrapper(file, encoding=self.encoding, errors="replace")
            return next((number for number, line in enumerate(lines, 1) if "\ufffd" in line), 1)


def describe_encoding(source: Source, layout: Layout) -> str:
    """The message about a text that is in another encoding."""
    return (
        f"{source}: line {layout.undecodable_line(source)} is not {layout.encoding.upper()}; name the encoding of the file, "
        "such as encoding='gbk' (or big5, shift_jis, cp1252), or save it as UTF-8"
    )


def _check_separator(separator: str) -> str:
    known = SEPARATORS.get(separator.lower(), "\t" if separator == "\\t" else separator)
    if len(known) != 1 or known in '"\r\n' or known.isalnum() or ord(known) > 127:
        raise InputError(
            f"separator: expected one character such as ';', or {', '.join(SEPARATORS)}, got {separator!r}"
            + nearest(separator, SEPARATORS) * (len(separator) > 1)
        )
    return known


def _find_encoding(source: Source, start: bytes, encoding: str | None) -> str:
    """The encoding that a byte order mark announces, else the one that was named, else UTF-8."""
    if encoding is not None:
        try:
            info = codecs.lookup(encoding)
        except (LookupError, ValueError) as error:
            known = ("utf-8", "utf-16", "gbk", "gb18030", "big5", "shift_jis", "euc_kr", "cp1252", "latin-1", "cp1251")
            raise InputError(f"encoding: unknown encoding {encoding!r}{nearest(encoding, known)}") from error
        if not info._is_text_encoding:
            raise InputError(f"encoding: expected an encoding of text such as gbk, got {encoding!r}")
        encoding = info.name
    announced = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if announced is not None and (encoding is None or encoding.startswith(announced)):
        return announced
    if encoding is None and b"\0" in start:
        guess = "utf-16-be" if start.startswith(b"\0") else "utf-16-le"
        raise FormatError(f"{source} is not UTF-8, and has no byte order mark; name its encoding, such as encoding={guess!r}")
    return encoding or "utf-8"


def _rows(text: str, separator: str, whole: bool) -> list[list[str]]:
    """The rows of a text, without empty ones and, where it is not whole, without the last."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # a value is longer than Python's reader takes
        rows.extend(row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row)
    return rows if whole else rows[:-1]


def _find_separator(source: Source, text: str, whole: bool) -> str:
    """What parts all rows into equally many values, as many as possible; else what does so with the names of the columns.

    Raises FormatError where two do so equally well.
    """
    usual = source.usual_separator or ","
    fitting: dict[str, int] = {}
    names: dict[str, int] = {}
    for separator in sorted(SEPARATORS.values(), key=usual.__ne__):
        rows = _rows(text, separator, whole)
        names[separator] = len(rows[0]) if rows else 0
        if names[separator] > 1 and len({len(row) for row in rows}) == 1:
            fitting[separator] = names[separator]
    widths = fitting or names
    first, *others = [separator for separator, count in widths.items() if count == max(widths.values())]
    if fitting and others:
        raise FormatError(
            f"{source}: its values may be separated by {first!r} or by {others[0]!r}; name it, as in separator={others[0]!r}"
        )
    return first


def _find_decimal(source: Source, rows: Sequence[Sequence[str]]) -> str:
    """The decimal mark of the numbers in these rows.

    Raises FormatError where all that tells is like 1,234: it may be meant for 1234 or for 1.234.
    """
    certain = dict.fromkeys(DECIMALS, False)
    unclear = None
    for value in dict.fromkeys(value.strip() for row in rows for value in row if "," in value or "." in value):
        grouped = GROUPED.fullmatch(value)
        if grouped is not None and grouped["mark"] in DECIMALS:
            other = "." if grouped["mark"] == "," else ","
            if grouped["rest"] is not None or value.count(grouped["mark"]) > 1:
                certain[other] = certain[other] or grouped["rest"] is None or grouped["rest"][0] == other
            elif grouped["mark"] == ",":
                unclear = unclear or value
        elif number := re.fullmatch(r"[-+]?(?=[\d.,]*\d)\d*([.,])\d*(?:[eE][-+]?\d+)?", value):
            certain[number[1]] = True
    if unclear is not None and not any(certain.values()):
        plain = unclear.replace(",", "")
        raise FormatError(
            f"{source}: {unclear} may be {plain} or {unclear.replace(',', '.')}: name the decimal mark, decimal=',' or "
            f"decimal='.', and write numbers without thousands separators, as {plain}"
        )
    return "," if certain[","] and not certain["."] else "."


def decimal_cure(values: Sequence[Any], decimal: str) -> str | None:
    """What to do about numbers that are written otherwise than with this decimal mark; None where few of them are."""
    texts = [str(value).strip() for value in values]
    grouped = [text for text in texts if (match := GROUPED.fullmatch(text)) is not None and _has_groups(match, decimal)]
    if grouped:
        plain = re.sub(rf"[^\d{re.escape(decimal)}+-]", "", grouped[0])
        return f"{grouped[0]!r} has thousands separators: write all numbers without them, as {plain}"
    other = "." if decimal == "," else ","
    marked = [text for text in texts if re.fullmatch(rf"[-+]?\d*{re.escape(other)}\d+(?:[eE][-+]?\d+)?", text)]
    if 2 * len(marked) > len(texts):
        return f"the decimal mark is {decimal!r} for this file: if it is {other!r}, say so, decimal={other!r}"
    return None


def _has_groups(match: re.Match[str], decimal: str) -> bool:
    return match["mark"] != decimal and (match["rest"] is None or match["rest"][0] == decimal)
