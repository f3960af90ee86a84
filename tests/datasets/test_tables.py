"""Tables: CSV and Parquet files, what becomes of their columns, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn.datasets import load, read_features, read_table
from fastnn.errors import FileError, FormatError, InputError

pyarrow = pytest.importorskip("pyarrow")

TEXT = "a,b,y\n1,2.5,red\n3,-4e1,blue\n-5,.5,red\n"
X = np.array([[1, 2.5], [3, -40], [-5, 0.5]])


def write(path: Path, text: str | bytes) -> Path:
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_parquet(path: Path, row_group_size: int | None = None, **columns: Any) -> Path:
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return path


# What becomes of them.


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.CSV"])
def test_text_of_every_kind(tmp_path: Path, name: str) -> None:
    data = load(write(tmp_path / name, TEXT.replace(",", "\t") if "tsv" in name else TEXT))
    np.testing.assert_array_equal(data.X_train, X)
    assert data.X_train.dtype == np.float64
    assert data.X_train.flags.c_contiguous
    assert data.y_train.tolist() == ["red", "blue", "red"]
    assert (data.name, data.shape, data.classes, data.outputs, data.scale) == ("t", (2,), 2, 2, 1.0)
    assert data.feature_names == ("a", "b")
    assert (data.X_test, data.y_test) == (None, None)


@pytest.mark.parametrize("rows", [1, 2, None])
def test_parquet(tmp_path: Path, rows: int | None) -> None:
    path = write_parquet(tmp_path / "t.parquet", rows, a=[1, 3, -5], y=["red", "blue", "red"], b=[2.5, -40.0, 0.5])
    data = load(path)
    np.testing.assert_array_equal(data.X_train, X)
    assert data.y_train.tolist() == ["red", "blue", "red"]
    assert data.feature_names == ("a", "b")


@pytest.mark.parametrize(
    ("values", "dtype", "classes"),
    [
        ("7,-2,7", np.int64, 2),
        ("true,false,true", np.bool_, 2),
        ("no,yes,no", np.str_, 2),
        ("1.5,2.5,1e300", np.float64, None),
        ("1,2.5,3", np.float64, None),
    ],
)
def test_the_type_of_the_target_decides(tmp_path: Path, values: str, dtype: type, classes: int | None) -> None:
    rows = "".join(f"{i},{value}\n" for i, value in enumerate(values.split(",")))
    data = load(write(tmp_path / "t.csv", f"x,label\n{rows}"))
    assert np.issubdtype(data.y_train.dtype, dtype)
    assert data.y_train.shape == ((3,) if classes else (3, 1))
    assert data.classes == classes


def test_several_targets_are_values(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b,c\n1,2,3\n4,5,6\n")
    data = load(path, ["c", "a"])
    np.testing.assert_array_equal(data.y_train, [[3.0, 1.0], [6.0, 4.0]])
    assert data.y_train.dtype == np.float64
    assert (data.classes, data.outputs, data.feature_names) == (None, 2, ("b",))
    assert load(path, ["c"]).y_train.tolist() == [[3.0], [6.0]]
    assert load(path, "c").classes == 2


@pytest.mark.slow
def test_a_type_that_shows_only_at_the_end(tmp_path: Path) -> None:
    # Longer than a block, so that the type of the first block is not the last word.
    path = write(tmp_path / "t.csv", b"a,y\n" + b"1,2\n" * 5_000_000 + b"2.5,x\n")
    table = read_table(path)
    assert len(table) == 5_000_001
    assert table["a"][-1] == 2.5
    assert table["y"][[0, -1]].tolist() == ["2", "x"]


def test_small_types_stay_small(tmp_path: Path) -> None:
    small = {"a": np.array([1, 255], np.uint8), "b": np.array([True, False]), "c": np.array([0.1, 0.2], np.float32)}
    table = read_table(write_parquet(tmp_path / "t.parquet", **small))
    matrix = table.take_matrix(["a", "b", "c"])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.column_stack([small["a"], small["b"], small["c"]]))
    wide = read_table(write_parquet(tmp_path / "t.parquet", **small, d=np.array([2**53 - 1, 1])))
    assert wide.take_matrix(["d", "a"]).tolist() == [[2.0**53 - 1, 1], [1, 255]]


def test_categories_and_decimals_of_parquet(tmp_path: Path) -> None:
    from decimal import Decimal

    path = write_parquet(
        tmp_path / "t.parquet", 2,
        x=[Decimal("1.25"), Decimal("2.5"), Decimal("3.5")], y=pyarrow.array(["u", "v", "u"]).dictionary_encode(),
    )  # fmt: skip
    data = load(path)
    np.testing.assert_array_equal(data.X_train, [[1.25], [2.5], [3.5]])
    assert data.y_train.tolist() == ["u", "v", "u"]


def test_a_frame_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.0, 2.0, 3.0], "y": ["a", "b", "a"]}, index=[5, 7, 9])
    frame.to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").feature_names == ("x",)
    frame.to_csv(tmp_path / "t.csv")
    for _ in range(2):  # written, and read and written again
        with pytest.warns(UserWarning, match=r"t.csv: the first column has no name and tells the rows apart: an index"):
            assert load(tmp_path / "t.csv").feature_names == ("x",)
        pandas.read_csv(tmp_path / "t.csv").to_csv(tmp_path / "t.csv", index=False)


def test_ten_thousand_columns(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(-1000, 1000, (3, 10_000))
    names = [f"feature number {i:06}" for i in range(10_000)]
    rows = "".join(",".join(map(str, row)) + ",1\n" for row in values.tolist())
    path = write(tmp_path / "t.csv", ",".join(names) + ",y\n" + rows)
    data = load(path)
    np.testing.assert_array_equal(data.X_train, values)
    with pytest.raises(InputError) as caught:
        load(path, "zzzz")
    assert len(str(caught.value)) < 500


def test_quotes_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    data = load(write(tmp_path / "t.csv", '\ufeff"x, of a","y"\r\n"1","a\r\nb"\r\n2,"say ""c"""\r\n'))
    assert data.feature_names == ("x, of a",)
    assert data.y_train.tolist() == ["a\r\nb", 'say "c"']


# To predict from.


def test_features_without_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "note,b,a\nhello,2.5,1\nworld,3,4\n")
    matrix, names = read_features(path, ("a", "b"))
    np.testing.assert_array_equal(matrix, [[1, 2.5], [4, 3]])
    assert names == ("a", "b")
    with pytest.raises(FormatError, match="column 'note': expected numbers, got text"):
        read_features(path)
    with pytest.raises(InputError, match=r"has no column 'aa'; did you mean 'a'\?"):
        read_features(path, ("aa", "b"))
    with pytest.raises(InputError, match="has no columns 'p', 'q'"):
        read_features(path, ("p", "q"))


def test_features_of_an_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=np.arange(12).reshape(2, 2, 3))
    matrix, names = read_features(tmp_path / "t.npz")
    np.testing.assert_array_equal(matrix, np.arange(12).reshape(2, 6))
    assert names is None
    with pytest.raises(FormatError, match="expected 3 features"):
        read_features(tmp_path / "t.npz", ("a", "b", "c"))
    np.savez(tmp_path / "t.npz", y=X)
    with pytest.raises(FormatError, match="no array 'X'; it holds 'y'"):
        read_features(tmp_path / "t.npz")
    with pytest.raises(FileError, match="there is no file"):
        read_features(tmp_path / "none.npz")
    with pytest.raises(FormatError, match=r"expected an \.npz file, a table"):
        read_features(write(tmp_path / "t.txt", TEXT))


# What can be wrong.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n", "cannot read"),
        ("a,y\n", "no rows below the names"),
        ("a,y", "cannot read|no rows"),
        ("a,y\n1,2\n3\n", "expected 2 values in a row, got 1 in line 3"),
        ("a,y\n1,2\n3,4\n5,6,7\n", "expected 2 values in a row, got 3 in line 4"),
        ("a,y,a\n1,2,3\n", "more than one column 'a'"),
        ("1.5,2.5,3\n1,2,3\n", "expected the names of the columns in the first row, got columns '1.5'"),
        ("1,2,3\n1,2,3\n", "expected the names"),
        (",a,y\n1,2,3\n1,2,3\n", r"column 1 has no name.*index=False"),
        ("a,,y\n1,2,3\n", r"column 2 has no name"),
        ("a;y\n1;2;3\n", "expected 2 values in a row, got 3 in line 2"),
        ("a,b,y\n1,2020-01-31,0\n", r"dates or times \(2020-01-31 in line 2 .* turn them into numbers, such as the days"),
        ("a,b,y\n1,red,0\n2,blue,1\n", r"text \('red' in line 2 of 'b'\); .*get_dummies\(frame, columns=\['b'\]\)"),
        ("a,b,y\n1,2,0\n2,3,1\n4,?,1\n", r"text \('\?' in line 4 of 'b'\); write all numbers as 1234.5 and fill in missing"),
        ('a,b,y\n1,"1,250.5",0\n2,"3,999.0",1\n', "'1,250.5' has thousands separators: .*, as 1250.5"),
        ("5.1,3.5,y\n1,2,x\n4,5,y\n", "in the first row, got columns '5.1', '3.5', 'y', and 'y' is a label"),
        ("1,2,y\n1,2,x\n4,5,y\n", "'y' is a label in other rows too; put the names there"),
        (TEXT.encode("utf-16-le"), "no byte order mark; name its encoding, such as encoding='utf-16-le'"),
        ("a,y\n1,é\n".encode("latin1"), r"line 2 is not UTF-8; name the encoding of the file, such as encoding='gbk'"),
        ("é,y\n1,2\n".encode("latin1"), "line 1 is not UTF-8"),
        ("a,b,y\n1,,0\n2,3,1\n4,NaN,1\n", "column 'b': 2 values are missing, the first in line 2"),
        ("a,b,y\n1,2,0\n2,NA,1\n", "column 'b': 1 value is missing, the first in line 3"),
        ("a,b,y\n1,,0\n2,,1\n", "column 'b': 2 values are missing, the first in line 2"),
        ("a,b,y\n1,2,0\n2,-inf,1\n", "column 'b': 1 value is NaN or infinite, the first in line 3"),
        ("a,y\n1,u\n2,\n", "column 'y': 1 value is missing, the first in line 3"),
        ("a,y\n1,1.5\n2,\n", "column 'y': 1 value is missing, the first in line 3"),
        ('\n"a\nb",y\n\n1,"u\r\nv"\n2,\n', "column 'y': 1 value is missing, the first in line 7"),
        ("a,y\n1,2020-01-31\n", "column 'y': expected numbers, got dates"),
        ("a,y\n1," + "long " * 60, "expected labels of at most 256 characters, got 'long"),
        ("a,b,y\n1,2,0\n2,Paris,1\n", r"column 'b': expected numbers, got text \('Paris' in line 3 of 'b'\).*columns=\['b'\]"),
        ("a,b,y\nu,2020-01-31,0\n", "columns 'a', 'b': expected numbers"),
        ("b,y\n2020-01-31,0\n", r"got dates or times \(2020-01-31 in line 2"),
        ("y\n1\n", "no column beside the target"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_csv_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(FormatError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_are_numbers_in_order_are_names(tmp_path: Path) -> None:
    assert load(write(tmp_path / "t.csv", "0,1,2\n5,6,7\n"), "2").feature_names == ("0", "1")
    assert load(write(tmp_path / "t.csv", "long,links,spam\n5,6,spam\n7,8,ham\n"), "spam").classes == 2
    assert load(write(tmp_path / "t.csv", "400.5,401.0,y\n5,6,7\n")).feature_names == ("400.5", "401.0")
    with pytest.raises(InputError, match=r"which column is the target\?.*'5.1', '3.5', 'setosa'; if these are values, put"):
        load(write(tmp_path / "t.csv", "5.1,3.5,setosa\n1,2,iris\n"))


def test_which_column_is_the_target(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,price\n1,2\n")
    with pytest.raises(InputError, match=r"which column is the target\?.*target='price'; there are columns 'a', 'price'$"):
        load(path)
    with pytest.raises(InputError, match=r"no column 'prize'; did you mean 'price'\?"):
        load(path, "prize")
    with pytest.raises(InputError, match=r"no column 'prize'; did you mean 'price'\?"):
        load(path, ["prize"])
    for targets in ([], ["a", "a"]):
        with pytest.raises(InputError, match="expected different names"):
            load(path, targets)
    with pytest.raises(InputError, match="'y' and 'label' might be it"):
        load(write(tmp_path / "t.csv", "label,y,a\n1,2,3\n"))
    with pytest.raises(InputError, match="only tables"):
        load("digits", "y")


def test_parquet_that_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", "text that is no table")
    with pytest.raises(FormatError, match="cannot read"):
        load(path)
    path = write_parquet(path, x=[[1, 2], [3]], y=[1, 2])
    with pytest.raises(FormatError, match="column 'x': expected numbers, got list"):
        load(path)
    with pytest.raises(FormatError, match="column 'x': 1 value is NaN or infinite, the first in row 3"):
        load(write_parquet(path, 2, x=[1.0, 2.0, np.nan], y=[1, 2, 3]))
    with pytest.raises(FormatError, match="column 'y': 1 value is missing, the first in row 3"):
        load(write_parquet(path, 2, x=[1.0, 2.0, 3.0], y=["a", "b", None]))
    with pytest.raises(FormatError, match="no rows"):
        load(write_parquet(path, x=[], y=[]))


def test_gzip_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(TEXT.encode())[:-12])
    with pytest.raises(FileError, match="cannot read"):
        load(path)
    with pytest.raises(FileError, match="there is no file"):
        load(tmp_path / "none.csv")


def test_pyarrow_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.csv", TEXT)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FileError, match="pip install pyarrow"):
        load(path)


def test_the_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (write(tmp_path / "t.csv", TEXT), write_parquet(tmp_path / "t.parquet", x=[1.0], y=[2])):
        read_table(path)
        assert capsys.readouterr() == ("", "")
        read_table(path, progress=True)
        assert path.name in capsys.readouterr().err


def test_reading_imports_no_pandas(tmp_path: Path) -> None:
    code = """
import sys
import fastnn.datasets
print("pyarrow" in sys.modules)
fastnn.datasets.load(sys.argv[1])
print([name for name in ("pandas", "polars", "scipy", "numba", "sklearn", "tqdm") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(write(tmp_path / "t.csv", TEXT))]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert output.stdout.split("\n")[:2] == ["False", "[]"]
    assert output.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_million_rows(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 1000, (1_000_000, 20)).astype(str)
    path = tmp_path / "t.csv"
    with path.open("w") as file:
        file.write(",".join(f"x{i}" for i in range(20)) + ",y\n")
        file.writelines(",".join(row) + ".5,label\n" for row in values.tolist())
    code = """
import sys, time
import pyarrow.csv
from fastnn.datasets import load
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before, start = peak(), time.perf_counter()
data = load(sys.argv[1])
print(time.perf_counter() - start, (peak() - before) / (data.X_train.nbytes / 2**20))
"""
    output = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    seconds, copies = map(float, output.split())
    assert seconds < 30
    assert copies < 3.5
