"""Tables from disk: CSV (`.csv`, `.tsv`, and either with `.gz`) and Parquet, read by PyArrow column by column."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.errors import FileError, FormatError, InputError, nearest

ENDS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t", ".parquet": None, ".pq": None}
"""What the names of tables end in, and what parts the values of a row."""
BLOCK = 1 << 24
"""Bytes of text that are taken apart in one go; no row may be longer."""
LABEL = 256
"""Characters of the longest label: what is longer is text."""
LOOKED_AT = 1000
"""Values of a column that tell whether most are numbers."""
SHOWN = 5
"""Names that a message lists."""


class Table:
    """The columns of a file, under their names; `table[name]` is one of them as a NumPy array (rows,)."""

    def __init__(self, path: Path, columns: dict[str, Any]) -> None:
        self.path = path
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
        if _kind(column.type) == "text":
            return self._labels(name, column)
        self._check_numbers([name])
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

    def _column(self, name: str) -> Any:
        if name not in self._columns:
            raise InputError(f"{self.path} has no column {name!r}{_nearest(name, self.names)}")
        return self._columns[name]

    def _check_numbers(self, names: Sequence[str]) -> None:
        """Raise for what is no number in any of the columns."""
        other = {name: kind for name in names if (kind := _kind(self._column(name).type)) not in ("number", "nothing")}
        if other:
            name, kind = next(iter(other.items()))
            values = enumerate(_values(self._columns[name]))
            row, value = next((at for at in values if at[1] is not None and not is_number(at[1])), (0, None))
            place = f"{_place(self.path, row)} of {name!r}"
            raise FormatError(
                f"{self.path}: {listing(other)}: expected numbers, got {kind} ({_short(value)} in {place}); "
                f"{_cure(self._columns[name], kind, list(other)[:SHOWN])}, or leave them out"
            )
        for name in names:
            _check_whole(self.path, name, self._columns[name])

    def _labels(self, name: str, column: Any) -> np.ndarray:
        _check_present(self.path, name, column)
        encoded = column.combine_chunks().dictionary_encode()
        known, numbers = encoded.dictionary.to_pylist(), _numbers(encoded.indices)
        if "" in known:
            raise FormatError(_missing(self.path, name, numbers == known.index("")))
        longest = max(known, key=lambda value: len(str(value)))
        if len(str(longest)) > LABEL:
            raise FormatError(
                f"{self.path}: column {name!r}: expected labels of at most {LABEL} characters, got {_short(longest)}"
            )
        labels: np.ndarray = np.asarray(known)[numbers]
        return labels


def is_table(path: Path) -> bool:
    """Whether the file is a table by its name."""
    return path.name.lower().endswith(tuple(ENDS))


def read_table(path: str | os.PathLike[str], *, progress: bool | None = None) -> Table:
    """The table in a CSV or Parquet file; its first row holds the names of the columns.

    A column's type is found from all of its values. `progress`: show a bar of the bytes read; None for a terminal only.

    Raises FileError if the file or PyArrow is missing and FormatError for what is no table: an empty file, no names or the
    same one twice, rows of unequal length, text that is not UTF-8.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    try:
        import pyarrow
    except ImportError as error:
        raise FileError(f"{path} is read by PyArrow, which is not installed: pip install pyarrow") from error
    if not path.stat().st_size:
        raise FormatError(f"{path} is empty")
    try:
        with _open_with_progress(path, sys.stderr.isatty() if progress is None else progress) as file:
            delimiter = _delimiter(path)
            table = _read_parquet(file) if delimiter is None else _read_csv(path, file, delimiter)
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: the names of the columns are not UTF-8; save the file as UTF-8") from error
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, EOFError) as error:
        raise FormatError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    _check_names(path, table.column_names, delimiter)
    if not table.num_rows:
        raise FormatError(f"{path} has no rows below the names of its columns")
    return Table(path, dict(zip(table.column_names, table.columns, strict=True)))


def select(table: Table, names: Sequence[str]) -> np.ndarray:
    """X (rows, columns) of these columns in this order; the others are ignored. Raises InputError for a missing one."""
    known = set(table.names)
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{table.path} has no {listing(missing)}{_nearest(missing[0], table.names)}")
    return table.take_matrix(names)


class _Watched(io.FileIO):
    """A file that tells a bar what is read of it."""

    bar: Any = None

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size)
        if self.bar is not None:
            self.bar.update(len(content))
        return content


@contextlib.contextmanager
def _open_with_progress(path: Path, shown: bool) -> Iterator[_Watched]:
    with _Watched(path) as file:
        if not shown:
            yield file
            return
        from tqdm import tqdm

        with tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, leave=False) as file.bar:
            yield file


def _read_csv(path: Path, file: _Watched, delimiter: str) -> Any:
    import pyarrow
    from pyarrow import csv as arrow

    start = file.read(2)
    file.seek(0)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise FormatError(f"{path} is UTF-16; save it as UTF-8")

    def read(reader: Any, **options: Any) -> Any:
        file.seek(0)
        stream = pyarrow.PythonFile(file, mode="r")
        return reader(
            pyarrow.CompressedInputStream(stream, "gzip") if start == b"\x1f\x8b" else stream,
            read_options=arrow.ReadOptions(block_size=BLOCK, **options),
            parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        )

    try:
        table = read(arrow.open_csv).read_all()
    except pyarrow.ArrowInvalid:
        # A later block is not of the types found in the first one, or not of its shape. This reader holds all of the text until
        # it knows the types, and, with one thread, the number of the row that it cannot read.
        file.bar = None
        try:
            table = read(arrow.read_csv, use_threads=False)
        except pyarrow.ArrowInvalid as error:
            ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
            if ragged is None:
                raise
            row, expected, got = map(int, ragged.groups())
            raise FormatError(f"{path}: expected {expected} values in a row, got {got} in {_place(path, row - 2)}") from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        if str(column.type) == "binary":
            raise FormatError(f"{path}: column {name!r} is not UTF-8; save the file as UTF-8")
    return table


def _read_parquet(file: _Watched) -> Any:
    import pyarrow
    from pyarrow import parquet

    source = parquet.ParquetFile(file)
    columns = [name for name in source.schema_arrow.names if not re.fullmatch(r"__index_level_\d+__", name)]
    groups = [source.read_row_group(group, columns=columns) for group in range(source.num_row_groups)]
    return pyarrow.concat_tables(groups) if groups else source.schema_arrow.empty_table()


def _check_names(path: Path, names: Sequence[str], delimiter: str | None) -> None:
    if "" in names:
        cure = "give it one, or save a frame with index=False"
        raise FormatError(f"{path}: column {list(names).index('') + 1} has no name; {cure}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if all(map(is_number, names)) and list(names) != [str(i) for i in range(len(names))]:
        raise FormatError(f"{path}: expected the names of the columns in the first row, got {listing(names)}; put them there")
    if twice:
        raise FormatError(f"{path} has more than one {listing(twice)}: expected different names")
    if len(names) == 1 and delimiter is not None and re.search(r"[;\t,|]", names[0]):
        raise FormatError(f"{path}: expected columns parted by {delimiter!r}, got one called {_short(names[0])}; save it so")


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


def _check_present(path: Path, name: str, column: Any) -> None:
    """Raise FormatError where values are missing."""
    if column.null_count:
        raise FormatError(_missing(path, name, np.concatenate([_numbers(chunk) for chunk in column.is_null().chunks])))


def _check_whole(path: Path, name: str, column: Any) -> None:
    """Raise FormatError where values are missing, NaN or infinite."""
    _check_present(path, name, column)
    bad = [~np.isfinite(values) if (values := _numbers(chunk)).dtype.kind == "f" else None for chunk in column.chunks]
    if any(nonfinite is not None and nonfinite.any() for nonfinite in bad):
        nonfinite = np.concatenate([nonfinite for nonfinite in bad if nonfinite is not None])
        raise FormatError(_missing(path, name, nonfinite, "NaN or infinite"))


def _missing(path: Path, name: str, bad: np.ndarray, what: str = "missing") -> str:
    count = int(np.count_nonzero(bad))
    are = "value is" if count == 1 else "values are"
    return (
        f"{path}: column {name!r}: {count:,} {are} {what}, the first in {_place(path, int(bad.argmax()))}; "
        "fill them in, or leave out the rows or the column"
    )


def _delimiter(path: Path) -> str | None:
    """What parts the values of a row; None in a Parquet file."""
    return next((delimiter for end, delimiter in ENDS.items() if path.name.lower().endswith(end)), ",")


def _place(path: Path, row: int) -> str:
    """Where the row of this number (from 0) is: a line of a text file, whose names are in line 1, or a row, from 1."""
    delimiter = _delimiter(path)
    if delimiter is not None:
        with contextlib.suppress(csv.Error):  # a value is longer than Python's reader takes
            return f"line {_line(path, delimiter, row)}"
    return f"row {row + 1}"


def _line(path: Path, delimiter: str, row: int) -> int:
    """The line in which a row begins. Values may have line breaks in them, and empty lines are no rows."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""), delimiter=delimiter)
        line, left = 1, row + 1
        for values in rows:
            if values and not left:
                break
            left -= bool(values)
            line = rows.line_num + 1
    return line


def _values(column: Any) -> Iterator[Any]:
    """The values that are not missing or empty; None instead of these."""
    for chunk in column.chunks:
        yield from (None if value == "" else value for value in chunk.to_pylist())


def _cure(column: Any, kind: str, names: list[str]) -> str:
    """What makes numbers of columns of which the first holds this."""
    if kind not in ("text", "categories"):
        return "turn them into numbers, such as the days since a date"
    values = [str(value).replace(",", "") for value in islice(_values(column), LOOKED_AT) if value is not None]
    if 2 * sum(map(is_number, values)) > len(values):
        return "write all numbers as 1234.5 and fill in missing values"
    return f"turn them into columns of numbers, e.g. with pandas.get_dummies(frame, columns={names})"


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
