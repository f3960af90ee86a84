"""Tables as people have them, through `train`, `evaluate` and `predict`: separators, decimals, encodings, gaps, indices."""

from __future__ import annotations

import csv
import gzip
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastnn.cli import main

pytest.importorskip("pyarrow")

ROWS = 40
KINDS = ("玫瑰", "tulip; red, or\npink|white\tstriped", 'the "white" one')


def columns() -> dict[str, list[str]]:
    """Three kinds of flowers, two of whose names need quotes, by two numbers."""
    generator = np.random.default_rng(0)
    number = np.arange(ROWS) % 3
    length = 4.25 + number + generator.normal(size=ROWS).round(2) / 8
    return {
        "length": [f"{value:.4f}" for value in length],
        "count": [str(value) for value in 3 * number - 2],
        "kind": [KINDS[value] for value in number],
    }


def render(table: dict[str, list[str]], separator: str = ",", decimal: str = ".", end: str = "\n") -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    writer.writerow(table)
    for row in zip(*table.values(), strict=True):
        writer.writerow([value.replace(".", decimal) if re.fullmatch(r"-?\d+\.\d+", value) else value for value in row])
    return text.getvalue()


def with_column(name: str, values: list[str], first: bool = False) -> dict[str, list[str]]:
    return {name: values, **columns()} if first else {**columns(), name: values}


def with_value(name: str, row: int, value: str) -> dict[str, list[str]]:
    """The table with another value in one row, counted from 0."""
    table = columns()
    table[name][row] = value
    return table


def run(command: str, content: bytes | None = None) -> Result:
    return CliRunner().invoke(main, shlex.split(command), input=content)


def answers(content: bytes, options: str = "", name: str = "t.csv", target: str = "kind") -> dict[str, Result]:
    """What the three commands say to a table, in the folder that is the current one."""
    stdin = content if name == "-" else None
    if stdin is None:
        Path(name).write_bytes(content)
    quick = "--hidden 4 --epochs 1 --validation 0 --batch-size 8"
    commands = {
        "train": f"train {name} --target {target} {quick} --save m.safetensors {options}",
        "evaluate": f"evaluate m.safetensors {name} {options}",
        "predict": f"predict m.safetensors {name} --proba {options}",
    }
    results = {}
    for command, line in commands.items():
        results[command] = run(line, stdin)
        if results["train"].exit_code:
            break
    return results


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """The answers to the table as UTF-8 with commas."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        results = answers(render(columns()).encode())
    assert all((result.exit_code, result.stderr) == (0, "") for result in results.values()), results["train"].output
    return results


DATES, MORE_DATES = [f"2024-{1 + row % 12:02}-11" for row in range(ROWS)], [f"{1 + row % 28}.03.2024" for row in range(ROWS)]
FLOATS = [f"{row % 2}.0" for row in range(ROWS)]
LARGE = [f"{1200 + 37 * row + 0.5:,}" for row in range(ROWS)]
NUMBERS = [f"{row:03}" for row in range(7, 7 + ROWS)]
BOM = "\ufeff"

SAME: dict[str, tuple[bytes, str]] = {
    **{
        f"{name}, decimal {decimal}": (render(columns(), separator, decimal).encode(), "")
        for name, separator in (("comma", ","), ("semicolon", ";"), ("tab", "\t"), ("pipe", "|"))
        for decimal in ".,"
    },
    **{
        f"{encoding} with a byte order mark, {name}": ((BOM + render(columns(), separator, ",")).encode(encoding), "")
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")
        for name, separator in (("comma", ","), ("semicolon", ";"))
    },
    "GBK, named": (render(columns(), ";", ",").encode("gbk"), "--encoding gbk"),
    "UTF-16 without a mark, named": (render(columns()).encode("utf-16-le"), "--encoding utf-16-le"),
    "UTF-16 with a mark, named": ((BOM + render(columns())).encode("utf-16-le"), "--encoding utf-16-le"),
    "everything named": (render(columns(), "~", ",").encode(), "--separator '~' --decimal , --encoding utf-8"),
    "a separator by its name": (render(columns(), "\t").encode(), "--separator tab"),
    "lines that end in CR LF": (render(columns(), ";", ",", "\r\n").encode(), ""),
    "a separator at the end of each line": (
        re.sub(r"(玫瑰|\"|kind)\n", r"\1;\n", render(columns(), ";", ",")).encode(),
        "",
    ),
    "gzip": (gzip.compress((BOM + render(columns(), ";", ",")).encode("utf-16-le")), ""),
    "dates, dropped": (render(with_column("day", DATES)).encode(), "--drop day"),
    "two columns, dropped": (render({**with_column("day", DATES), "note": DATES}).encode(), "--drop day --drop note"),
    "text with gaps, dropped": (render(with_column("note", ["", "NA", *("x" * (ROWS - 2))])).encode(), "--drop note"),
}

INDEX = "the first column has no name and tells the rows apart: an index, which is no feature"
INDICES: dict[str, tuple[str, list[str]]] = {
    "the index of pandas": ("", [str(row) for row in range(ROWS)]),
    "an index in another order": ("", [str(7 * row % ROWS) for row in range(ROWS)]),
    "an index of text": ("", [f"r{row}" for row in range(ROWS)]),
    "an index read and written again": ("Unnamed: 0", [str(row) for row in range(ROWS)]),
}

FAILED: dict[str, tuple[bytes, str, str]] = {
    "GBK, not named": (
        render(columns()).encode("gbk"), "",
        "t.csv: line 2 is not UTF-8; name the encoding of the file, such as --encoding gbk (or big5, shift_jis, cp1252)",
    ),
    "GBK in the names": (render(with_column("长", NUMBERS)).encode("gbk"), "", "t.csv: line 1 is not UTF-8; "),
    "UTF-16 without a mark": (
        render(columns()).encode("utf-16-le"), "", "no byte order mark; name its encoding, such as --encoding utf-16-le",
    ),
    "big-endian UTF-16 without a mark": (render(columns()).encode("utf-16-be"), "", "such as --encoding utf-16-be"),
    "no such encoding": (b"a,kind\n1,x\n", "--encoding gkb", "--encoding: unknown encoding 'gkb'; did you mean 'gbk'?"),
    "no encoding of text": (render(columns()).encode(), "--encoding base64", "--encoding: expected an encoding of text"),
    "another encoding than named": (
        render(columns()).encode(), "--encoding ascii", "t.csv: line 2 is not ASCII; name the encoding",
    ),
    "another separator than named": (
        render(columns(), ";").encode(), "--separator ,",
        "t.csv: expected 1 value in a row, got 2 in line 3; a value with a ',' in it needs quotes, and another separator is "
        "named as --separator ';'",
    ),
    "no separator": (render(columns()).encode(), "--separator ab", "--separator: expected one character such as ';', or comma"),
    "two separators": (b"a,b;kind\n1,2;3\n4,5;6\n", "", "may be separated by ',' or by ';'; name it, as in --separator ';'"),
    "a row that is too long": (
        render(columns(), ";", ",").encode() + b"1;2;x;4\n", "", "expected 3 values in a row, got 4 in line 55",
    ),
    "dates": (
        render(with_column("day", DATES)).encode(), "",
        "column 'day': expected numbers, got dates or times (2024-01-11 in line 2 of 'day'); turn them into numbers, such as "
        "the days since a date; or leave it out, --drop day",
    ),
    "dates with days first": (
        render(with_column("day", MORE_DATES), ";", ",").encode(), "",
        "column 'day': expected numbers, got dates or times ('1.03.2024' in line 2 of 'day'); turn them into numbers",
    ),
    "dates as the target": (
        render({**columns(), "kind": MORE_DATES}).encode(), "",
        "('1.03.2024' in line 2 of 'kind'); turn them into numbers, such as the days since a date\n",
    ),
    "gaps": (
        render(with_value("length", 4, "")).encode(), "",
        "column 'length': 1 value is missing, the first in line 7; fill them in, or leave out the rows or the column, "
        "--drop length",
    ),
    "gaps in two columns": (
        render({**with_value("length", 4, "NA"), "more": ["1"] * 7 + ["nan"] * (ROWS - 7)}).encode(), "",
        "column 'length': 1 value is missing, the first in line 7; column 'more': 33 values are missing, the first in line 11;",
    ),
    "gaps in the labels": (
        render(with_value("kind", 6, "NA")).encode(), "",
        "column 'kind': 1 value is missing, the first in line 10; fill them in, or leave out the rows; if NA or the like is a "
        "label, name what is missing instead, as --na -",
    ),
    "a sign for gaps": (
        render(with_value("length", 3, "?")).encode(), "",
        "got text ('?' in line 6 of 'length'); write all numbers as 1234.5 and fill in missing values; if '?' stands for "
        "missing values, say so, --na '?'",
    ),
    "a sign for gaps, named": (
        render(with_value("length", 3, "?")).encode(), "--na '?'", "column 'length': 1 value is missing, the first in line 6;",
    ),
    "infinity": (render(with_value("length", 3, "inf")).encode(), "", "1 value is NaN or infinite, the first in line 6;"),
    "thousands separated by commas": (
        render(with_column("area", LARGE)).encode(), "",
        "column 'area': expected numbers, got text ('1,200.5' in line 2 of 'area'); '1,200.5' has thousands separators: write "
        "all numbers without them, as 1200.5",
    ),
    "thousands separated by points": (
        render(with_column("area", [value.translate(str.maketrans(".,", ",.")) for value in LARGE]), ";", ",").encode(), "",
        "'1.200,5' has thousands separators: write all numbers without them, as 1200,5",
    ),
    "thousands alone, separated by points": (
        render(with_column("area", ["1.250"] * ROWS), ";", ",").replace("1,250", "1.250").encode(), "",
        "got text ('1.250' in line 2 of 'area'); '1.250' has thousands separators: write all numbers without them, as 1250",
    ),
    "thousands separated by spaces": (
        render(with_column("area", [value.replace(",", "\u00a0") for value in LARGE])).encode(), "", "as 1200.5",
    ),
    "thousands separated by apostrophes": (
        render(with_column("area", [value.replace(",", "'") for value in LARGE])).encode(), "", "as 1200.5",
    ),
    "a comma that may be either": (
        b"area;kind\n1,234;a\n5,678;b\n", "",
        "1,234 may be 1234 or 1.234: name the decimal mark, --decimal , or --decimal ., and write numbers without thousands",
    ),
    "the other decimal mark": (
        render(columns(), ";", ",").encode(), "--decimal .",
        "the decimal mark is '.' for this file: if it is ',', say so, --decimal ,",
    ),
    "no column to drop": (render(columns()).encode(), "--drop lenght", "t.csv has no column 'lenght'; did you mean 'length'?"),
    "no column of names": (render(columns()).encode(), "--id kimd", "t.csv has no column 'kimd'; did you mean 'kind'?"),
    "the target dropped": (render(columns()).encode(), "--drop kind", "t.csv has no column 'kind'"),
    "nothing but an index": (b",kind\n0,a\n1,b\n", "", "there is no column beside the target and an index without a name"),
    "an unnamed column of equal values": (
        render(with_column("", ["1"] * ROWS, True)).encode(), "", "column 1 has no name; give it one, or save a frame with",
    ),
}  # fmt: skip


def outputs(results: dict[str, Result]) -> dict[str, str]:
    """What was printed, without hints and the name of the data."""
    return {
        command: re.sub(r"^hint .*(\n .*)*\n|^data +[\w ]+:", "", result.stdout, flags=re.M)
        for command, result in results.items()
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("situation", SAME)
def test_every_way_to_write_a_table_gives_the_same_bits(folder: Path, plain: dict[str, Result], situation: str) -> None:
    content, options = SAME[situation]
    results = answers(content, options, "t.csv.gz" if situation == "gzip" else "t.csv")
    assert [result.stderr for result in results.values()] == [""] * len(results)
    assert outputs(results) == outputs(plain)


@pytest.mark.parametrize("situation", [name for name in SAME if "with a byte order mark" in name or "decimal" in name])
def test_standard_input_is_read_as_a_file_is(folder: Path, plain: dict[str, Result], situation: str) -> None:
    content, options = SAME[situation]
    results = answers(content, options, "-")
    assert outputs(results) == outputs(plain)
    assert results["train"].stdout.startswith("data      standard input: 40 training examples")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("situation", INDICES)
def test_an_index_is_left_out_and_said(folder: Path, plain: dict[str, Result], situation: str) -> None:
    results = answers(render(with_column(*INDICES[situation], first=True)).encode())
    assert outputs(results) == outputs(plain)
    assert results["train"].stderr == f"warning: t.csv: {INDEX}\n"
    assert results["evaluate"].stderr == results["predict"].stderr == ""


@pytest.mark.parametrize("situation", FAILED)
def test_what_cannot_be_read_is_said_with_its_cure(folder: Path, situation: str) -> None:
    content, options, message = FAILED[situation]
    result = answers(content, options)["train"]
    assert (result.exit_code, result.stdout) == (1, ""), result.stdout
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "m.safetensors").exists()


def test_gaps_and_encodings_are_said_by_every_command(folder: Path) -> None:
    assert answers(render(columns()).encode())["predict"].exit_code == 0
    for content, message in (
        (render(columns()).encode("gbk"), "line 2 is not UTF-8; name the encoding of the file, such as --encoding gbk"),
        (render(with_value("length", 4, "")).encode(), "column 'length': 1 value is missing, the first in line 7"),
    ):
        Path("t.csv").write_bytes(content)
        for command in ("evaluate", "predict"):
            result = run(f"{command} m.safetensors t.csv")
            assert result.exit_code == 1
            assert message in result.stderr


def test_rows_keep_their_names(folder: Path, plain: dict[str, Result]) -> None:
    """`007` stays as it is, also where other rows have letters; the column is no feature; other columns do not matter."""
    for names in (NUMBERS, [f"row {row}" for row in range(ROWS)], DATES):
        table = with_column("number", names, first=True)
        results = answers(render(table, ";", ",").encode(), "--id number")
        assert outputs(results)["evaluate"] == outputs(plain)["evaluate"]
        rows = list(csv.reader(io.StringIO(results["predict"].stdout)))
        wanted = list(csv.reader(io.StringIO(plain["predict"].stdout)))
        assert rows == [[name, *row] for name, row in zip(("number", *names), wanted, strict=True)]
    assert run("predict m.safetensors t.csv --id number --output p.parquet").exit_code == 0
    assert run("predict m.safetensors p.parquet --id number").stderr.count("has no columns 'length', 'count'") == 1
    table = {**columns(), KINDS[0]: NUMBERS}
    Path("t.csv").write_text(render(table), encoding="utf-8")
    assert (
        f"the predictions have a column '{KINDS[0]}' too" in run(f"predict m.safetensors t.csv --proba --id {KINDS[0]}").stderr
    )
    gap = with_column("number", ["1", "NA", *NUMBERS[2:]])
    Path("t.csv").write_text(render(gap), encoding="utf-8")
    assert "column 'number': 1 value is missing, the first in line 3" in run("predict m.safetensors t.csv --id number").stderr
    assert run("predict m.safetensors t.csv --id number --na none").stdout.split("\n")[2].startswith("NA,")


def test_a_network_takes_its_own_columns_of_a_file_that_is_written_otherwise(folder: Path, plain: dict[str, Result]) -> None:
    """Separators belong to the file, and not to the network; columns that it does not know are ignored."""
    assert answers(render(columns()).encode())["train"].exit_code == 0
    table = {"day": DATES, **columns(), "note": ["", *("x" * (ROWS - 1))]}
    backwards = dict(reversed(table.items()))
    Path("t.csv").write_text(render(backwards, ";", ","), encoding="utf-16")
    assert run("evaluate m.safetensors t.csv").stdout == plain["evaluate"].stdout
    assert run("predict m.safetensors t.csv --proba").stdout == plain["predict"].stdout
    validation = run("train t.csv --target kind --drop day --drop note --validation t.csv --epochs 1")
    assert validation.exit_code == 0, validation.stderr


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("values", [FLOATS, [f"{row % 3}.0" for row in range(ROWS)]])
def test_classes_written_with_a_decimal_point_are_warned_of(folder: Path, values: list[str]) -> None:
    content = render({**columns(), "kind": values}).encode()
    said = answers(content)["train"]
    shown = ", ".join(sorted(set(values)))
    assert said.exit_code == 0
    assert said.stderr.startswith(f"warning: the target of t holds {shown}: with decimal points, these are amounts")
    assert "add --loss softmax_cross_entropy" in said.stderr
    assert "1 target\n" in said.stdout
    assert answers(content, "--quiet")["train"].stderr == said.stderr
    regression = run("train t.csv --target kind --epochs 1 --regression")
    assert (regression.exit_code, regression.stderr) == (0, "")
    for loss in ("softmax_cross_entropy", *(["sigmoid_cross_entropy"] if values is FLOATS else [])):
        trained = run(f"train t.csv --target kind --epochs 1 --hidden 4 --save c.safetensors --loss {loss}")
        assert (trained.exit_code, trained.stderr) == (0, "")
        assert f"{len(set(values))} classes" in trained.stdout
        assert set(run("predict c.safetensors t.csv").stdout.split()[1:]) <= {"0", "1", "2"}
        assert "labels (rows)" in run("evaluate c.safetensors t.csv").stdout


def test_amounts_are_not_warned_of(folder: Path) -> None:
    amounts = [f"{row * 1.5}" for row in range(ROWS)], [f"{row}.0" for row in range(ROWS)], [str(row) for row in range(ROWS)]
    for values in amounts:
        assert answers(render({**columns(), "kind": values}).encode())["train"].stderr == ""


def test_a_column_that_numbers_the_rows_is_pointed_out(folder: Path) -> None:
    for start in (0, 1):
        numbers = [str(start + row) for row in range(ROWS)]
        said = " ".join(answers(render(with_column("row no", numbers)).encode())["train"].stdout.split())
        assert "hint the column 'row no' numbers the rows, and is a feature; leave it out with --drop 'row no'" in said
    for other in ([str(2 * row) for row in range(ROWS)], [str(row % 20) for row in range(ROWS)]):
        assert "numbers the rows" not in answers(render(with_column("row", other)).encode())["train"].stdout


@pytest.mark.parametrize("option", ["--separator ;", "--decimal ,", "--encoding gbk", "--na x", "--drop x"])
def test_what_is_no_table_has_no_separator(folder: Path, option: str) -> None:
    np.savez("t.npz", X=np.zeros((3, 2)), y=np.arange(3))
    for data in ("t.npz", "digits"):
        result = run(f"train {data} {option.replace(';', shlex.quote(';'))}")
        assert result.exit_code == 1
        assert f"error: {option.split()[0]}: only tables" in result.stderr


def test_standard_input_is_read_once(folder: Path) -> None:
    result = run("train - --target kind --validation -", render(columns()).encode())
    assert result.exit_code == 2
    assert "standard input is the training data already" in " ".join(result.stderr.split())
    assert run("train - --target kind", b"").stderr == "error: standard input is empty\n"
