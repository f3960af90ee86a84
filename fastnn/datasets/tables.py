"""Tables: CSV (`.csv`, `.tsv`, and either with `.gz`, or standard input) and Parquet, read by PyArrow column by column."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastnn.datasets.text import ENDS, STANDARD_INPUT, Layout, Source, decimal_cure, describe_encoding
from fastnn.errors import FileError, FormatError, InputError, nearest, warn

BLOCK = 1 << 24
"""Bytes of text that are taken apart in one go; no row may be longer."""
LABEL = 256
"""Characters of the longest label: what is longer is text."""
LOOKED_AT = 1000
"""Values of a column that tell whether most are numbers."""
SHOWN = 5
"""Names that a message lists."""
UNNAMED = ("", "Unnamed: 0")
"""What the index of a frame is called that pandas wrote, and that of one that it read and wrote again."""
DATE = re.compile(r"(\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2})([ T]\d{1,2}:\d{2}.*)?")


class Table:
    """The columns of a file, under their names; `table[name]` is one of them as a NumPy array (rows,)."""

    def __init__(self, source: Source, layout: Layout | None, columns: dict[str, Any]) -> None:
        self.source = source
        self.layout = layout
        """How the text is written; None for Parquet."""
        self._columns = columns
        self.rows = len(next(iter(columns.values())))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, name: str) -> np.ndarray:
        """Integers as int64, others as float32 or float64, booleans as bool, text and categories as labels.

        Raises InputError for a name that the file does not have, FormatError for missing values and other types.
        """
        column = self._column(name)
        self._check_present([name], cure="fill them in, or leave out the rows")
        if _kind(column.type) == "text":
            return self._labels(name, column)
        self._check_numbers([name], needed=True)
        array = np.concatenate([_numbers(chunk) for chunk in column.chunks])
        return array.astype(np.int64) if array.dtype.kind in "iu" else array

    def take_matrix(self, names: Sequence[str]) -> np.ndarray:
        """Columns side by side: X (rows, columns), float32 if every value is exact in it by its type, else float64.

        The columns leave the table one after another, so that there are never two copies of all. Raises FormatError that
        names columns of text, categories and dates, and missing or infinite values.
        """
        self._check_numbers(names)
        types = {name: self._columns[name].type for name in names}
        small = all(re.fullmatch(r"bool|u?int(8|16)|halffloat|float", str(type)) for type in types.values())
        X = np.empty((self.rows, len(names)), np.float32 if small else np.float64)
        for index, name in enumerate(names):
            column, start = self._columns.pop(name), 0
            for chunk in column.chunks:
                X[start : start + len(chunk), index] = _numbers(chunk)
                start += len(chunk)
        return X

    def take_text(self, name: str) -> np.ndarray:
        """A column as it is written, such as names of rows, which leaves the table: text, or the numbers of a Parquet file."""
        column = self._column(name)
        self._check_present([name])
        values = self[name] if _kind(column.type) == "number" else np.asarray(column.cast("string").to_pylist(), np.str_)
        del self._columns[name]
        return values

    def without(self, names: Sequence[str]) -> Table:
        """The table without these columns. Raises InputError for a name that it does not have."""
        for name in names:
            self._column(name)
        return Table(
            self.source, self.layout, {name: column for name, column in self._columns.items() if name not in set(names)}
        )

    def drop_unnamed_index(self) -> Table:
        """The table without the index of a frame that pandas wrote: an unnamed first column of values that all differ.

        It is warned of, since it may be meant as a feature. Raises FormatError for other columns without a name.
        """
        from pyarrow import compute

        name, column = next(iter(self._columns.items()))
        if name not in UNNAMED:
            return self
        if len(self.names) == 1:
            raise FormatError(f"{self.source}: there is no column beside the target and an index without a name")
        kind = str(column.type)
        if kind.startswith(("int", "string")) and compute.count_distinct(column).as_py() == len(column):
            warn(f"{self.source}: the first column has no name and tells the rows apart: an index, which is no feature")
            return self.without([name])
        if name:
            return self
        raise FormatError(f"{self.source}: column 1 has no name; give it one, or save a frame with index=False")

    def _column(self, name: str) -> Any:
        if name not in self._columns:
            raise InputError(f"{self.source} has no column {name!r}{_nearest(name, self.names)}")
        return self._columns[name]

    def _kind(self, name: str) -> str:
        """What a column holds; text that is written as dates are is dates."""
        kind = _kind(self._column(name).type)
        if kind != "text":
            return kind
        values = [value for value in islice(_values(self._columns[name]), LOOKED_AT) if value is not None]
        return "dates or times" if values and all(DATE.fullmatch(str(value).strip()) for value in values) else kind

    def _check_numbers(self, names: Sequence[str], needed: bool = False) -> None:
        """Raise for what is no number in any of the columns; those that are not `needed` may be left out."""
        other = {name: kind for name in names if (kind := self._kind(name)) not in ("number", "nothing")}
        if other:
            name, kind = next(iter(other.items()))
            present = [(row, value) for row, value in enumerate(_values(self._columns[name])) if value is not None]
            row, value = next((at for at in present if not is_number(at[1])), present[0])
            place = f"{_place(self.source, self.layout, row)} of {name!r}"
            raise FormatError(
                f"{self.source}: {listing(other)}: expected numbers, got {kind} ({_short(value)} in {place}); "
                f"{self._cure(name, kind, list(other)[:SHOWN])}" + f"; or leave it out, drop={name!r}" * (not needed)
            )
        self._check_present(names)
        for name in names:
            self._check_finite(name)

    def _check_present(self, names: Sequence[str], cure: str | None = None) -> None:
        """Raise FormatError where values of these columns are missing."""
        gaps = {
            name: np.concatenate([_numbers(chunk) for chunk in column.is_null().chunks])
            for name in names
            if (column := self._column(name)).null_count
        }
        if gaps:
            text = cure is not None and self.layout is not None and _kind(self._columns[names[0]].type) == "text"
            labels = "; if NA or the like is a label, name what is missing instead, as missing='-'" if text else ""
            raise FormatError(self._describe_gaps(gaps, cure=cure and cure + labels))

    def _check_finite(self, name: str) -> None:
        """Raise FormatError where values are NaN or infinite."""
        chunks = [_numbers(chunk) for chunk in self._columns[name].chunks]
        nonfinite = np.concatenate([~np.isfinite(values) for values in chunks]) if chunks else np.zeros(0, bool)
        if nonfinite.any():
            raise FormatError(self._describe_gaps({name: nonfinite}, "NaN or infinite"))

    def _describe_gaps(self, gaps: dict[str, np.ndarray], what: str = "missing", cure: str | None = None) -> str:
        """The message about values that are missing: how many of each column, and in which line the first is."""
        parts = []
        for name, bad in list(gaps.items())[:SHOWN]:
            count = int(np.count_nonzero(bad))
            are = "value is" if count == 1 else "values are"
            parts.append(
                f"column {name!r}: {count:,} {are} {what}, the first in {_place(self.source, self.layout, int(bad.argmax()))}"
            )
        more = len(gaps) - len(parts)
        parts += [f"and {more:,} more columns"] if more > 0 else []
        cure = cure or f"fill them in, or leave out the rows or the column, drop={next(iter(gaps))!r}"
        return f"{self.source}: {'; '.join([*parts, cure])}"

    def _cure(self, name: str, kind: str, names: list[str]) -> str:
        """What makes numbers of columns of which `name` is the first."""
        if kind not in ("text", "categories"):
            return "turn them into numbers, such as the days since a date"
        values = [value for value in islice(_values(self._columns[name]), LOOKED_AT) if value is not None]
        cure = decimal_cure(values, self.layout.decimal) if self.layout is not None else None
        if cure is not None:
            return cure
        words = [value for value in values if not is_number(value)]
        if 2 * len(words) < len(values):
            missing = f"; if {_short(words[0])} stands for missing values, say so, missing={words[0]!r}" if words else ""
            return f"write all numbers as 1234.5 and fill in missing values{missing}"
        return f"turn them into columns of numbers, e.g. with pandas.get_dummies(frame, columns={names})"

    def _labels(self, name: str, column: Any) -> np.ndarray:
        if self._kind(name) != "text":
            self._check_numbers([name], needed=True)
        encoded = column.combine_chunks().dictionary_encode()
        known, numbers = encoded.dictionary.to_pylist(), _numbers(encoded.indices)
        if "" in known:
            raise FormatError(self._describe_gaps({name: numbers == known.index("")}))
        longest = max(known, key=lambda value: len(str(value)))
        if len(str(longest)) > LABEL:
            raise FormatError(
                f"{self.source}: column {name!r}: expected labels of at most {LABEL} characters, got {_short(longest)}"
            )
        labels: np.ndarray = np.asarray(known)[numbers]
        return labels


def is_table(path: Path) -> bool:
    """Whether this is a table: standard input (`-`), or a file by its name."""
    return str(path) == STANDARD_INPUT or path.name.lower().endswith(tuple(ENDS))


def read_table(
    path: str | os.PathLike[str],
    *,
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    missing: str | Sequence[str] | None = None,
    text: Sequence[str] = (),
    progress: bool | None = None,
) -> Table:
    """The table in a CSV or Parquet file, or in standard input (`-`); its first row holds the names of the columns.

    How a text is written is found in its first 256 KiB, where it is not named:

    - `separator`: one character between values; comma, semicolon, tab or `|` are found.
    - `decimal`: `"."` or `","`.
    - `encoding`: any of Python's, such as `"gbk"`; found are UTF-8, and UTF-16 and UTF-32 that begin with a byte order mark.
    - `missing`: values that count as missing, instead of `NA`, `NaN`, `null` and others of that kind; empty ones always do.

    A column's type is found from all of its values; those in `text` stay as they are written (`007`). An unnamed column that
    is empty, as separators at the ends of lines make it, is left out. `progress`: show a bar of the bytes read; None for a
    terminal only.

    Raises FileError if the file or PyArrow is missing, InputError for options that cannot be used, and FormatError for what is
    no table: an empty file, no names or the same one twice, rows of unequal length, text in another encoding, separators or
    decimal marks that may be either of two.

    Example: `read_table("houses.csv", separator=";", decimal=",")["price"]`.
    """
    source = Source.of(path)
    try:
        import pyarrow
    except ImportError as error:
        raise FileError(f"{source} is read by PyArrow, which is not installed: pip install pyarrow") from error
    layout = None
    try:
        if source.usual_separator is not None:
            layout = Layout.of(source, separator, decimal, encoding, missing)
        elif (separator, decimal, encoding, missing) != (None,) * 4:
            raise InputError(f"{source} is Parquet: separator, decimal, encoding and missing are for text")
        with _open_with_progress(source, sys.stderr.isatty() if progress is None else progress) as file:
            table = _read_parquet(file) if layout is None else _read_csv(source, layout, file, text)
    except FormatError:
        raise
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, EOFError, zlib.error) as error:
        raise FormatError(f"cannot read {source}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise FileError(f"cannot read {source}: {error.strerror or error}") from error
    columns = [
        (name, column)
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name or not table.num_rows or column.null_count < len(column)
    ]
    _check_names(source, [name for name, _ in columns], layout)
    if not table.num_rows:
        raise FormatError(f"{source} has no rows below the names of its columns")
    return Table(source, layout, dict(columns))


def select(table: Table, names: Sequence[str]) -> np.ndarray:
    """X (rows, columns) of these columns in this order; the others are ignored. Raises InputError for a missing one."""
    known = set(table.names)
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{table.source} has no {listing(missing)}{_nearest(missing[0], table.names)}")
    return table.take_matrix(names)


class _Watched(io.RawIOBase):
    """A file that tells a bar what is read of it."""

    def __init__(self, file: BinaryIO, bar: Any) -> None:
        self.file, self.bar = file, bar

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int | None = -1) -> bytes:
        content = self.file.read(-1 if size is None else size)
        if self.bar is not None:
            self.bar.update(len(content))
        return content


@contextlib.contextmanager
def _open_with_progress(source: Source, shown: bool) -> Iterator[_Watched]:
    with source.open() as file:
        if not shown:
            yield _Watched(file, None)
            return
        from tqdm import tqdm

        with tqdm(total=source.size, desc=source.path.name, unit="B", unit_scale=True, leave=False) as bar:
            yield _Watched(file, bar)


def _read_csv(source: Source, layout: Layout, file: _Watched, text: Sequence[str]) -> Any:
    import pyarrow
    from pyarrow import csv as arrow

    convert = arrow.ConvertOptions(
        null_values=list(layout.missing),
        strings_can_be_null=True,
        decimal_point=layout.decimal,
        column_types=dict.fromkeys(text, pyarrow.string()),
    )

    def read(reader: Any, **options: Any) -> Any:
        file.seek(0)
        stream = pyarrow.PythonFile(file, mode="r")
        return reader(
            pyarrow.CompressedInputStream(stream, "gzip") if source.packed else stream,
            read_options=arrow.ReadOptions(block_size=BLOCK, encoding=layout.encoding, **options),
            parse_options=arrow.ParseOptions(delimiter=layout.separator, newlines_in_values=True),
            convert_options=convert,
        )

    try:
        try:
            table = read(arrow.open_csv).read_all()
        except pyarrow.ArrowInvalid:
            # A later block is not of the types found in the first one, or not of its shape. This reader holds all of the text
            # until it knows the types, and, with one thread, the number of the row that it cannot read.
            file.bar = None
            table = read(arrow.read_csv, use_threads=False)
        undecodable = table.column_names and any(str(type) == "binary" for type in table.schema.types)
    except UnicodeDecodeError as error:
        raise FormatError(describe_encoding(source, layout)) from error
    except pyarrow.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise FormatError(describe_encoding(source, layout)) from error
        ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
        if ragged is None:
            raise
        row, expected, got = map(int, ragged.groups())
        place = _place(source, layout, row - 2)
        other = ";" if layout.separator == "," else ","
        values = f"{expected} value{'s' * (expected > 1)}"
        raise FormatError(
            f"{source}: expected {values} in a row, got {got} in {place}; a value with a {layout.separator!r} in it needs "
            f"quotes, and another separator is named as separator={other!r}"
        ) from error
    if undecodable:
        raise FormatError(describe_encoding(source, layout))
    return table


def _read_parquet(file: _Watched) -> Any:
    import pyarrow
    from pyarrow import parquet

    source = parquet.ParquetFile(file)
    columns = [name for name in source.schema_arrow.names if not re.fullmatch(r"__index_level_\d+__", name)]
    groups = [source.read_row_group(group, columns=columns) for group in range(source.num_row_groups)]
    return pyarrow.concat_tables(groups) if groups else source.schema_arrow.empty_table()


def _check_names(source: Source, names: Sequence[str], layout: Layout | None) -> None:
    """Raise FormatError for names that tell no columns apart. The first one may be empty: it is that of an index of pandas."""
    if "" in names[1:]:
        cure = "give it one, or save a frame with index=False"
        raise FormatError(f"{source}: column {list(names).index('', 1) + 1} has no name; {cure}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if all(map(is_number, names)) and list(names) != [str(i) for i in range(len(names))]:
        raise FormatError(f"{source}: expected the names of the columns in the first row, got {listing(names)}; put them there")
    if twice:
        raise FormatError(f"{source} has more than one {listing(twice)}: expected different names")
    if len(names) == 1 and layout is not None and re.search(r"[;\t,|]", names[0]):
        other = re.findall(r"[;\t,|]", names[0])[0]
        raise FormatError(
            f"{source}: expected columns separated by {layout.separator!r}, got one called {_short(names[0])}; "
            f"name what separates them, such as separator={other!r}"
        )


def _kind(type: Any) -> str:
    """What a column holds: "number", "nothing", "text", or a word for what cannot be used."""
    from pyarrow import types

    if types.is_dictionary(type):
        return "text" if _kind(type.value_type) == "text" else "categories"
    if types.is_null(type):
        return "nothing"
    if types.is_boolean(type) or types.is_integer(type) or types.is_floating(type) or types.is_decimal(type):
        return "number"
    if types.is_string(type) or types.is_large_string(type) or types.is_string_view(type):
        return "text"
    if types.is_temporal(type):
        return "dates or times"
    return str(type)


def _numbers(chunk: Any) -> np.ndarray:
    """The values of a chunk that has no missing ones. (PyArrow's `to_numpy` would import pandas, which takes a second.)"""
    from pyarrow import types

    if types.is_boolean(chunk.type):
        return np.from_dlpack(chunk.cast("uint8")).astype(np.bool_)
    array = np.from_dlpack(chunk.cast("float64") if types.is_decimal(chunk.type) else chunk)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _place(source: Source, layout: Layout | None, row: int) -> str:
    """Where the row of this number (from 0) is: a line of a text, whose names are in line 1, or a row, from 1."""
    if layout is not None:
        with contextlib.suppress(csv.Error):  # a value is longer than Python's reader takes
            return f"line {layout.line(source, row)}"
    return f"row {row + 1}"


def _values(column: Any) -> Iterator[Any]:
    """The values that are not missing or empty; None instead of these."""
    for chunk in column.chunks:
        yield from (None if value == "" else value for value in chunk.to_pylist())


def is_number(value: Any) -> bool:
    """Whether this is a finite number, or the text of one."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _short(value: Any) -> str:
    shown = repr(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def listing(names: Sequence[str] | dict[str, str]) -> str:
    """Names of columns for a message, the first few of many."""
    shown = ", ".join(_short(name) for name in list(names)[:SHOWN])
    rest = len(names) - SHOWN
    return f"column{'s' * (len(names) > 1)} {shown}{f' and {rest:,} more' if rest > 0 else ''}"


def _nearest(name: str, names: Sequence[str]) -> str:
    """The end of a message about a name that is not there; lists no thousands of them."""
    end = nearest(name, names)
    return end if len(names) <= 4 * SHOWN or not end.startswith("; known") else f"; it has {listing(names)}"
