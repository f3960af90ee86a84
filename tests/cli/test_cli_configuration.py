"""`--config FILE` and `--print-config`: on commands made here, and on those of fastnn."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.core import ParameterSource
from click.testing import CliRunner, Result

from fastnn.cli import main
from fastnn.cli.commands import Command, Group, Number
from fastnn.cli.configuration import config_option
from fastnn.cli.networks import sizes

seen: dict[str, Any] = {}


@click.group(cls=Group)
def shop() -> None:
    pass


@shop.command(cls=Command)
@click.argument("goods")
@click.option("--how-many", type=click.IntRange(1), default=1)
@click.option("--price", "--cost", type=Number(0), help="In coins.")
@click.option("--sizes", callback=sizes, default="3")
@click.option("--gift/--no-gift", default=True)
@click.option("--quick", is_flag=True)
@click.option("--tag", "tags", multiple=True)
@click.option("--box", type=(int, str))
@click.option("--kind", type=click.Choice(["plain", "Fancy"]), required=True)
@click.option("--out", type=click.Path(path_type=Path))
@config_option
def buy(**options: Any) -> None:
    seen.clear()
    seen.update(options)
    seen["sources"] = {name: click.get_current_context().get_parameter_source(name) for name in options}


@shop.command(cls=Command)
@click.argument("files", nargs=-1)
@click.option("--quick", is_flag=True)
@config_option
def sell(**options: Any) -> None:
    seen.clear()
    seen.update(options)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(text: str | bytes, *arguments: str, of: click.Command = shop, command: str = "buy") -> Result:
        Path("c.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return CliRunner().invoke(of, [command, *arguments, "--config", "c.toml"])

    return run


EVERYTHING = """
goods = "tea"
how-many = 3
price = 2.5
sizes = [128, 64]
gift = false
quick = true
tags = "ignored"
tag = ["a", "b"]
box = [4, "red"]
kind = "Fancy"
out = "there/it.txt"
"""


def test_every_kind_of_option(run: Any) -> None:
    result = run(EVERYTHING.replace('tags = "ignored"\n', ""))
    assert result.exit_code == 0, result.output
    sources = seen.pop("sources")
    assert seen == {
        "goods": "tea", "how_many": 3, "price": 2.5, "sizes": (128, 64), "gift": False, "quick": True, "tags": ("a", "b"),
        "box": (4, "red"), "kind": "Fancy", "out": Path("there/it.txt"),
    }  # fmt: skip
    assert set(sources.values()) == {ParameterSource.DEFAULT_MAP}


def test_the_name_of_the_option_counts_not_that_of_the_variable(run: Any) -> None:
    result = run(EVERYTHING)
    assert result.exit_code == 2
    assert "c.toml: shop buy has no option 'tags'; did you mean 'tag'?" in result.stderr


def test_the_command_line_goes_first(run: Any) -> None:
    text = 'goods = "tea"\nkind = "Fancy"\nprice = 2\nquick = true\ngift = true\nhow_many = 3\ntag = ["a", "b"]'
    result = run(text, "milk", "--kind", "plain", "--cost", "0.5", "--no-gift", "--tag", "c")
    assert result.exit_code == 0, result.output
    assert (seen["goods"], seen["kind"], seen["price"], seen["gift"], seen["tags"]) == ("milk", "plain", 0.5, False, ("c",))
    assert (seen["quick"], seen["how_many"]) == (True, 3)
    assert seen["sizes"] == (3,)  # nobody spoke of them


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("how_many = 7", "how_many", 7),
        ("how-many = '7'", "how_many", 7),
        ("cost = 1", "price", 1.0),
        ("sizes = 5", "sizes", (5,)),
        ("sizes = 'none'", "sizes", ()),
        ("sizes = []", "sizes", ()),
        ("sizes = '5, 6'", "sizes", (5, 6)),
        ("tag = 'one'", "tags", ("one",)),
        ("tag = []", "tags", ()),
        ("[buy]\nhow-many = 2", "how_many", 2),
        ("how-many = 3\n[buy]\nhow-many = 2", "how_many", 2),
        ("how-many = 3\n[sell]\nhow-many = 2\nanything = 4", "how_many", 3),
        ("\ufeffhow-many = 3\r\nquick = true\r\n", "how_many", 3),
    ],
)
def test_forms(run: Any, text: str, name: str, value: Any) -> None:
    result = run(text, "tea", "--kind", "plain")
    assert result.exit_code == 0, result.output
    assert seen[name] == value


def test_as_many_arguments_as_there_are(run: Any) -> None:
    assert run("[sell]\nfiles = ['a', 'b']", command="sell").exit_code == 0
    assert seen["files"] == ("a", "b")
    assert run("[sell]\nfiles = ['a', 'b']", "c", command="sell").exit_code == 0
    assert seen["files"] == ("c",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("how-mony = 3", "c.toml: shop buy has no option 'how-mony'; did you mean 'how-many'?"),
        ("[buy]\nhow-mony = 3", "c.toml: shop buy has no option 'buy.how-mony'; did you mean 'how-many'?"),
        ("zzz = 3", "has no option 'zzz'; known are 'box', 'cost', 'debug', 'gift', 'goods', 'how-many'"),
        ("[bye]\nquick = true", "c.toml: there is no command 'bye' for [bye]; did you mean 'buy'?"),
        ("config = 'd.toml'", "has no option 'config'"),
        ("help = true", "has no option 'help'"),
        ("no-gift = true", "has no option 'no-gift'"),
    ],
)
def test_unknown_keys_are_named_with_the_file(run: Any, text: str, message: str) -> None:
    result = run(text, "tea", "--kind", "plain", "--how-many", "2")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("how-many = -5", "how-many", "-5"),
        ("[buy]\nhow_many = 0", "buy.how_many", "0"),
        ("how-many = 1.5", "how-many", "1.5"),
        ("how-many = true", "how-many", "expected a text, a number or a list of them, got true"),
        ("how-many = [[1]]", "how-many", "expected a text, a number or a list of them, got a list in a list"),
        ("how-many = [1, 2]", "how-many", "1,2"),
        ("out = 2020-01-02", "out", "expected a text, a number or a list of them, got 2020-01-02"),
        ("[goods]\nx = 1", "goods", "expected a text, a number or a list of them, got a table"),
        ("price = nan", "price", "'nan' is not a finite number"),
        ("quick = 1", "quick", "expected true or false, got 1"),
        ("gift = 'yes'", "gift", "expected true or false, got 'yes'"),
        ("box = [1]", "box", ""),
        ("box = ['many', 'y']", "box", "many"),
        ("kind = 'fancy'", "kind", "fancy"),
        ("sizes = [0]", "sizes", "expected integers above 0"),
        ("price = 1\ncost = 2", "cost", "the option is given twice, under two names"),
        ("how-many = 1\nhow_many = 2", "how_many", "the option is given twice, under two names"),
    ],
)
def test_wrong_values_are_named_with_key_and_file_in_one_line(run: Any, text: str, key: str, told: str) -> None:
    result = run(text, "tea", "--kind", "plain", "--how-many", "2")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    where = f"{key!r} in c.toml"
    lines = [line.replace(where, "") for line in result.stderr.splitlines() if where in line]
    assert any(told in line for line in lines), result.stderr


def test_what_neither_says_is_missing(run: Any) -> None:
    usual = run("how-many = -5").stderr.splitlines()  # the usage, which stands beside every mistake
    for text, arguments, name in (("how-many = 3", ("--kind", "plain"), "GOODS"), ("goods = 'tea'", (), "--kind")):
        result = run(text, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert any(name in line for line in result.stderr.splitlines() if line not in usual), result.stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("goods = 'tea'\nkind = \n", 2),
        ("goods = 'tea'\n\nsizes = [1,\n2\n\n\n", 4),
        ("quick = true\nquick = true", 2),
        (b"goods = '\xff'", None),
    ],
)
def test_what_is_not_toml_is_an_error_of_one_line(run: Any, text: str | bytes, line: int | None) -> None:
    result = run(text)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert "c.toml" in result.stderr
    assert line is None or re.search(rf"\b{line}\b", result.stderr)


@pytest.mark.parametrize("path", ["nowhere.toml", "."])
def test_no_file(run: Any, path: str) -> None:
    result = run("", "--config", path, "tea", "--kind", "plain")
    assert result.exit_code == 0  # the last one is taken, as of every option
    result = CliRunner().invoke(shop, ["buy", "tea", "--config", path])
    assert result.exit_code == 2
    assert path in result.stderr


def test_a_command_alone(run: Any) -> None:
    Path("d.toml").write_text("[buy]\nquick = true\n")
    assert CliRunner().invoke(buy, ["tea", "--kind", "plain", "--config", "d.toml"]).exit_code == 0
    assert seen["quick"] is True
    Path("d.toml").write_text("[sell]\nquick = true\n")
    assert CliRunner().invoke(buy, ["tea", "--kind", "plain", "--config", "d.toml"]).exit_code == 2


# What is printed can be read again.


@pytest.mark.parametrize(
    "arguments",
    [
        ["tea", "--kind", "plain"],
        ["tea", "--kind", "Fancy", "--sizes", "none", "--no-gift", "--quick", "--price", "1e-300", "--how-many", "7"],
        ["tea", "--kind", "Fancy", "--sizes", "5,6", "--tag", "a,b", "--tag", 'c"\\d', "--box", "1", "[x]"],
        ["new\nline\ttab\x7f\x01 'quote' \U0001f375", "--kind", "plain", "--out", "a b/ç"],
    ],
)
def test_round_trip(run: Any, arguments: list[str]) -> None:
    assert CliRunner().invoke(shop, ["buy", *arguments]).exit_code == 0
    wanted = dict(seen)
    del wanted["sources"]
    seen.clear()
    printed = CliRunner().invoke(shop, ["buy", *arguments, "--print-config"])
    assert printed.exit_code == 0, printed.output
    assert not seen  # nothing was done
    assert run(printed.stdout).exit_code == 0
    assert {name: value for name, value in seen.items() if name != "sources"} == wanted
    assert run(printed.stdout, "--print-config").stdout == printed.stdout


# The commands of fastnn.


def test_train_takes_a_file(run: Any) -> None:
    text = """
        batch-size = 64
        hidden = []
        [explain]
        device = "cpu"
        [train]
        data = "digits"
        epochs = 2
        quiet = true
    """
    result = run(text, of=main, command="train")
    assert result.exit_code == 0, result.output
    options = "--batch-size 64 --hidden none --epochs 2 --quiet"
    again = CliRunner().invoke(main, ["train", "digits", *options.split()])
    assert result.stdout == again.stdout != ""
    other = run(text, "--epochs", "1", of=main, command="train")
    assert other.stdout != result.stdout


@pytest.mark.usefixtures("known_limits")
def test_explain_takes_the_same_file(run: Any) -> None:
    text = "batch-size = 33\nhidden = 31\n[train]\nepochs = 3\n[explain]\ninputs = 7\noutputs = 5\n"
    result = run(text, of=main, command="explain")
    assert result.exit_code == 0, result.output
    for expected in ("mini-batch 33 ", "(B, 7)", "(408,)"):  # 7 x 31 + 31 + 31 x 5 + 5 parameters
        assert expected in " ".join(result.stdout.split())


def test_train_prints_what_it_takes(run: Any) -> None:
    options = "--hidden 9,8 --rate 1e-05 --batch-norm --seed 18446744073709551615 --save x.safetensors --print-config"
    printed = CliRunner().invoke(main, ["train", "digits", *options.split()])
    assert printed.exit_code == 0, printed.output
    values = tomllib.loads(printed.stdout)
    assert values["data"] == "digits"
    assert values["hidden"] == [9, 8]
    assert values["learning-rate"] == 1e-5
    assert values["seed"] == 2**64 - 1
    assert values["batch-norm"] is True
    assert values["autotune"] is False
    assert "threads" not in values
    assert run(printed.stdout, "--print-config", of=main, command="train").stdout == printed.stdout


def test_wrong_usage_of_train(run: Any) -> None:
    result = run("[train]\nepoch = 3", "digits", of=main, command="train")
    assert result.exit_code == 2
    assert "has no option 'train.epoch'; did you mean 'epochs'?" in result.stderr


def test_help_says_how(run: Any) -> None:
    for command, option in itertools.product(("train", "explain"), ("--config", "--print-config")):
        assert option in CliRunner().invoke(main, [command, "--help"]).stdout
