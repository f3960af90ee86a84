"""The command line from a file to predictions: tables with labels in words, states of a training, and what is made of them."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import fastnn
from fastnn import callbacks, initializers, losses, metrics, optimizers, schedules
from fastnn.cli import data as sources
from fastnn.cli import main, networks, tables
from fastnn.cli.tables import confusion, titles
from fastnn.storage import archives
from fastnn.training.trainer import Trainer

pytest.importorskip("pyarrow")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def passed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clouds of flowers with names, two of them alone, and sums to be predicted; and a network for the first."""
    generator = np.random.default_rng(0)
    kinds = np.array(["daisy", "rose, red", "tulip"])
    y = np.arange(150) % 3
    X = generator.normal(size=(150, 2)) + 5 * np.eye(3)[y][:, :2]
    made = tmp_path_factory.mktemp("flowers")
    table = {"length": X[:, 0], "width": X[:, 1], "kind": kinds[y], "weight": 1.0 + y}
    write(made / "flowers.csv", table)
    write(made / "more.csv", {name: table[name][:60] for name in ("kind", "width", "length")})
    write(made / "two.csv", {name: table[name][y < 2] for name in ("length", "width", "kind")})
    write(made / "sums.csv", {"a": X[:, 0], "b": X[:, 1], "sum": X.sum(1) + 0.25, "difference": X[:, 0] - X[:, 1]})
    options = [
        "--target",
        "kind",
        "--sample-weight",
        "weight",
        "--standardize",
        "--epochs",
        "30",
        "--rate",
        "0.01",
        "--hidden",
        "8",
    ]
    passed("train", made / "flowers.csv", *options, "--save", made / "flowers.safetensors")
    return made


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of numbers of unlike sizes, two of which are to be predicted."""
    generator = np.random.default_rng(0)
    area, rooms = generator.uniform(30, 200, 200), np.arange(200) % 7 + 1
    income = np.linspace(2e4, 2.99e5, 200)
    price = 3e3 * area + 2e4 * rooms + income / 2 + 1e6
    table = {"area": area, "rooms": rooms, "income": income, "price": price, "tax": 2.0 - area / 100}
    return write(tmp_path_factory.mktemp("prices") / "prices.csv", table)


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


# Tables.


def test_a_table_with_labels_in_words(folder: Path) -> None:
    weighed = "--sample-weight", "weight", "--epochs", 2
    found = passed("train", folder / "flowers.csv", "--target", "kind", *weighed, "--validation", folder / "more.csv")
    lines = found.splitlines()
    assert lines[0] == "data      flowers: 150 training, 60 validation examples"
    assert lines[1] == "          2 features, 3 classes: daisy, rose, red, tulip"


def test_columns_are_found_by_name(folder: Path) -> None:
    """The other file has its columns in another order, and lacks one that is no feature."""
    found = passed("evaluate", folder / "flowers.safetensors", folder / "more.csv", "--target", "kind", "--metric", "f1")
    model = fastnn.load(folder / "flowers.safetensors")
    assert model.feature_names == ("length", "width")
    table = rows((folder / "more.csv").read_text())[1:]
    X = np.array([[float(length), float(width)] for _, width, length in table])
    accuracy = np.mean(model.predict(X) == np.array([kind for kind, *_ in table]))
    assert accuracy > 0.95
    assert f"accuracy  {accuracy:.4f}" in found
    assert re.search(r"^f1 +(1\.0|0\.9)", found, re.MULTILINE)


def test_predictions_are_labels(folder: Path) -> None:
    found = rows(passed("predict", folder / "flowers.safetensors", folder / "more.csv"))
    assert found[0] == ["prediction"]
    kinds = [row[0] for row in rows((folder / "more.csv").read_text())[1:]]
    assert np.mean([row[0] == kind for row, kind in zip(found[1:], kinds, strict=True)]) > 0.95


def test_probabilities_have_the_names_of_the_classes(folder: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    given = folder / "flowers.safetensors", folder / "more.csv", "--proba"
    found = rows(passed("predict", *given))
    assert found[0] == ["daisy", "rose, red", "tulip"]
    shares = np.array(found[1:], np.float32)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    passed("predict", *given, "--output", tmp_path / "p.parquet")
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == found[0]
    np.testing.assert_array_equal(np.stack([column.to_numpy() for column in table.columns], 1), shares)
    said = " ".join(passed("predict", *given, "--output", tmp_path / "p.csv").split())
    assert said == f"written {tmp_path / 'p.csv'}: 60 rows"
    assert rows((tmp_path / "p.csv").read_text()) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.parquet"]


def test_no_file_that_is_read_is_replaced(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever name it is called; and no two files are written to one place."""
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "flowers.csv"
    table.write_text("a,b,kind\n" + 10 * "1,2,x\n2,1,y\n")
    (tmp_path / "link.csv").symlink_to(table)
    train = ("train", "flowers.csv", "--target", "kind", "--epochs", 1, "--quiet")
    passed(*train, "--save", "m.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments, message in {
        ("predict", "m.safetensors", "flowers.csv", "--output", "./flowers.csv"): "--output: flowers.csv is the file of DATA",
        ("predict", "m.safetensors", "flowers.csv", "--output", "link.csv"): "--output: link.csv is the file of DATA",
        (*train, "--log", table): "is the file of DATA",
        (*train, "--validation", "link.csv", "--log", table): "is the file of",
        (*train, "--log", "new.csv", "--plot", "../" + tmp_path.name + "/new.csv"): "is the file of --log",
        ("data", "flowers", "--to", "new.csv", "--test", "./new.csv"): "--test: the other rows go to another file",
        ("data", "flowers", "--to", "new.csv", "--test", tmp_path / "new.csv"): "is the file of --to",
    }.items():
        result = run(*arguments)
        assert (result.exit_code, message in result.output) == (2, True), result.output
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_output_says_yes_or_no(folder: Path, tmp_path: Path) -> None:
    options = [
        "--target",
        "kind",
        "--loss",
        "sigmoid_cross_entropy",
        "--rate",
        "0.05",
        "--hidden",
        "none",
        "--class-weight",
        "daisy=2",
    ]
    passed("train", folder / "two.csv", *options, "--save", tmp_path / "two.safetensors")
    assert fastnn.load(tmp_path / "two.safetensors").network.parameters[-1].shape == (1,)
    head, *shares = rows(passed("predict", tmp_path / "two.safetensors", folder / "two.csv", "--proba"))
    assert head == ["daisy", "rose, red"]
    said = [row[0] for row in rows(passed("predict", tmp_path / "two.safetensors", folder / "two.csv"))[1:]]
    assert said == [head[float(yes) > float(no)] for no, yes in shares]
    table = passed("evaluate", tmp_path / "two.safetensors", folder / "two.csv", "--target", "kind").splitlines()
    assert [line.split()[-2:] for line in table[-2:]] == [["50", "0"], ["0", "50"]]


def test_several_targets_are_values(folder: Path, tmp_path: Path) -> None:
    options = [
        "--target",
        "sum",
        "--target",
        "difference",
        "--hidden",
        "none",
        "--rate",
        "0.05",
        "--patience",
        "3",
        "--min-delta",
        "0.0001",
        "--epochs",
        "200",
    ]
    found = passed("train", folder / "sums.csv", *options, "--save", tmp_path / "sums.safetensors")
    assert "2 features, 2 targets" in found
    assert re.search(r"^kept .*stopped after epoch \d+; ", found, re.MULTILINE)
    head, *values = rows(passed("predict", tmp_path / "sums.safetensors", folder / "sums.csv"))
    assert head == ["prediction_1", "prediction_2"]
    wanted = np.array(rows((folder / "sums.csv").read_text())[1:], float)[:, 2:]
    np.testing.assert_allclose(np.array(values, float), wanted, atol=0.1)
    result = run("predict", tmp_path / "sums.safetensors", folder / "sums.csv", "--proba")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the loss mean_squared_error makes no probabilities")


@pytest.mark.usefixtures("known_limits")
def test_the_test_data_of_the_digits(tmp_path: Path) -> None:
    told = passed("train", "digits", "--epochs", 3, "--quiet", "--save", tmp_path / "d.safetensors")
    found = passed("evaluate", tmp_path / "d.safetensors", "digits").splitlines()
    assert found[0] == "data      digits: 360 test examples"
    accuracy = float(told.removeprefix("test accuracy: "))
    assert f"accuracy  {accuracy:.4f}" in found
    counts = np.array([line.split()[1:] for line in found[-10:]], int)
    assert counts.sum() == 360
    assert np.trace(counts) / 360 == pytest.approx(accuracy, abs=1e-4)
    assert len(rows(passed("predict", tmp_path / "d.safetensors", "digits"))) == 361
    for expected in ("softmax_cross_entropy", "(B, 64)", "mini-batch 20 "):
        assert expected in " ".join(passed("explain", tmp_path / "d.safetensors", "--batch-size", 20).split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train flowers.csv", "flowers.csv: which column is the target?"),
        ("train flowers.csv --target knd", "flowers.csv has no column 'knd'; did you mean 'kind'?"),
        ("train flowers.csv --target kind --sample-weight wieght", "flowers has no column 'wieght'; did you mean 'weight'?"),
        ("train digits --sample-weight w", "only tables have columns, and digits is none"),
        ("train flowers.csv --target kind --validation sums.csv", "sums.csv has no column 'kind'"),
        ("evaluate flowers.safetensors sums.csv --target sum", "sums.csv has no columns 'length', 'width'"),
        ("predict flowers.safetensors sums.csv", "sums.csv has no columns 'length', 'width'"),
        ("predict flowers.csv flowers.csv", "flowers.csv"),
        ("predict none.safetensors flowers.csv", "none.safetensors"),
        ("train digits --plot curves.gif", "curves.gif: expected a name that ends in .png"),
    ],
)
def test_an_error_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str) -> None:
    monkeypatch.chdir(folder)
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", result.stderr)


def test_the_target_is_known_to_the_network(folder: Path, tmp_path: Path) -> None:
    """Also where the table has columns that might be it."""
    table = rows((folder / "more.csv").read_text())
    named = {name: np.array(column) for name, column in zip(table[0], zip(*table[1:], strict=True), strict=True)}
    path = write(tmp_path / "more.csv", {**named, "y": np.zeros(60), "label": np.zeros(60)})
    model = folder / "flowers.safetensors"
    assert fastnn.load(model).target_names == ("kind",)
    told = passed("evaluate", model, path, "--target", "kind")
    assert passed("evaluate", model, path) == told
    assert len(rows(passed("predict", model, path))) == 61
    manifest, tensors = archives.read(model)
    older = {name: value for name, value in manifest.items() if name != "target_names"}
    archives.write(tmp_path / "older.safetensors", older, tensors)
    assert run("evaluate", tmp_path / "older.safetensors", path).exit_code == 1
    assert passed("evaluate", tmp_path / "older.safetensors", path, "--target", "kind").count("daisy")
    values = "--hidden", "none", "--epochs", 1, "--save", tmp_path / "sums.safetensors"
    passed("train", folder / "sums.csv", "--target", "sum", "--target", "difference", *values)
    assert "R^2" in passed("evaluate", tmp_path / "sums.safetensors", folder / "sums.csv")


def test_large_numbers_are_pointed_out(folder: Path, prices: Path) -> None:
    def hints(*options: object) -> list[str]:
        said = passed("train", prices, *targets, "--epochs", 1, "--hidden", "none", *options)
        return [text.removeprefix("hint      ") for text in said.splitlines() if text.startswith("hint")]

    targets = "--target", "price", "--target", "tax"
    features, target = "the features reach from 7 to 299,000; try --standardize", "the target reaches "
    first, second = hints()
    assert first == features
    assert re.fullmatch(rf"{target}[\d,]+; try --standardize-target", second)
    assert [text[: len(target)] for text in hints("--standardize")] == [target]
    assert hints("--standardize-target") == [features]
    assert hints("--standardize", "--standardize-target") == hints("--quiet") == []
    assert "hint" not in passed("train", folder / "sums.csv", "--target", "sum", "--epochs", 1)
    assert "hint" not in passed("train", "digits", "--epochs", 1, "--hidden", "none")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_standardized_target_is_predicted_in_its_own_units(prices: Path, tmp_path: Path, dtype: str, optimizer: str) -> None:
    targets = "--target", "price", "--target", "tax"
    options = "--standardize", "--standardize-target", "--hidden", 16, "--rate", 0.02, "--epochs", 30, "--dtype", dtype
    path = tmp_path / "m.safetensors"
    said = passed("train", prices, *targets, *options, "--optimizer", optimizer, "--save", path, "--patience", 5)
    assert "trained on the standardized target" in " ".join(said.split())
    last = [text.split() for text in said.splitlines() if re.match(r" +\d+ ", text)][-1]
    assert 0 < float(last[1]) < 0.1  # of targets with deviation 1
    wanted = np.array(rows(prices.read_text())[1:], float)[:, 3:]
    found = np.array(rows(passed("predict", path, prices))[1:], float)
    assert (1 - ((found - wanted) ** 2).sum(0) / ((wanted - wanted.mean(0)) ** 2).sum(0)).min() > 0.9
    model = fastnn.load(path)
    X = np.array(rows(prices.read_text())[1:], float)[:, :3]
    np.testing.assert_allclose(model.predict(X), found, rtol=1e-5)
    assert float(model.evaluate(X, wanted)["r2"]) > 0.9


def test_a_share_has_as_much_of_each_class(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def labels(y: np.ndarray) -> np.ndarray:
        np.savez(tmp_path / "t.npz", X=generator.normal(size=(len(y), 2)), y=y)
        given = command.train.make_context("train", [str(tmp_path / "t.npz")]).params
        options = command._Options(**{field.name: given[field.name] for field in dataclasses.fields(command._Options)})
        return command._Parts.read(options, 3).held_back[1]

    command: Any = importlib.import_module("fastnn.cli.train")
    y = np.repeat([0, 1, 2], [100, 50, 10])
    held_back = labels(y)
    assert np.bincount(held_back).tolist() == [10, 5, 1]
    np.testing.assert_array_equal(labels(y), held_back)
    assert len(labels(np.append(y, 3))) == 16  # of which one alone has no share
    assert len(labels(y * 0.5)) == 16


# What a training leaves.


def test_a_training_is_gone_on_with(tmp_path: Path) -> None:
    def go(epochs: int, *more: object) -> str:
        options = ["digits", "--hidden", "9", "--rate", "0.01"]
        return passed("train", *options, "--epochs", epochs, *more)

    states = "--checkpoint", tmp_path / "states", "--checkpoint-steps", 30, "--keep", 3
    go(2, *states, "--log", tmp_path / "a.csv", "--resume")
    assert len(list((tmp_path / "states").glob("step-*"))) == 3
    resumed = go(4, *states, "--log", tmp_path / "a.csv", "--resume")
    assert "resumed   after step 82, with 2 of 4 epochs done" in resumed
    whole = go(4, "--log", tmp_path / "b.csv")
    assert resumed.splitlines()[-1] == whole.splitlines()[-1]
    logs = [[row[:2] + row[3:] for row in rows((tmp_path / name).read_text())] for name in ("a.csv", "b.csv")]
    assert logs[0] == logs[1]
    assert [row[0] for row in logs[0]] == ["epoch", "1", "2", "3", "4"]
    result = run("train", "digits", *states)
    assert result.exit_code == 2
    assert "continue with --resume" in " ".join(result.stderr.split())


def test_the_best_network_is_kept(tmp_path: Path) -> None:
    options = "--hidden", 9, "--rate", 0.3, "--epochs", 30, "--patience", 2, "--monitor", "val_accuracy"
    found = passed("train", "digits", *options, "--save", tmp_path / "m.safetensors", "--save-optimizer")
    match = re.search(r"^kept +stopped after epoch (\d+); .* epoch (\d+)", found.replace("\n          ", " "), re.MULTILINE)
    assert match is not None, found
    assert int(match[1]) == int(match[2]) + 2
    state = fastnn.load(tmp_path / "m.safetensors").optimizer_state
    assert state is not None
    assert state.updates == 41 * int(match[2])


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    passed("train", "digits", "--hidden", 5, "--epochs", 2, "--plot", tmp_path / "curves.png", "--quiet")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_need_matplotlib_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("train", "digits", "--plot", tmp_path / "curves.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: a plot needs matplotlib, which is not installed: pip install matplotlib\n"


@pytest.mark.parametrize("epochs", [0, 2])
def test_an_interrupted_training_leaves_everything(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """The network, the curves where an epoch is over, and the states."""
    pytest.importorskip("matplotlib")

    def interrupted(callback: object, run: Trainer, *more: object) -> None:
        if (run.epoch, run.in_epoch > 0) >= (epochs, not epochs):
            raise KeyboardInterrupt

    monkeypatch.setattr(tables.Record, "chunk_end", interrupted)
    names = "m.safetensors", "curves.png", "states"
    network, curves, states = (tmp_path / name for name in names)
    files = "--save", network, "--plot", curves, "--checkpoint", states
    result = run("train", folder / "sums.csv", "--target", "sum", "--target", "difference", "--epochs", 5, *files)
    assert result.exit_code == 130, result.output
    step = fastnn.load(network).counters.step
    assert step >= 5 * epochs + 1
    assert (states / f"step-{step:09d}.safetensors").is_file()
    assert curves.is_file() == (epochs > 0)
    drawn = f"; the curves are in {curves}" * curves.is_file()
    told, command = result.stderr.splitlines()
    saved = f"; the network is saved as it was then: {network}"
    assert (
        told
        == f"interrupted after step {step}, in epoch {epochs + 1} of 5{saved}{drawn}; it stands in {states}, continue with:"
    )
    assert command.endswith("--resume")


def test_an_interrupted_training_predicts_in_the_units_of_the_target(
    prices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(callback: object, run: Trainer, *more: object) -> None:
        if run.epoch == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(tables.Record, "chunk_end", interrupted)
    targets, scaled = ("--target", "price", "--target", "tax"), ("--standardize", "--standardize-target", "--rate", 0.01)
    path = tmp_path / "m.safetensors"
    assert run("train", prices, *targets, *scaled, "--epochs", 30, "--save", path).exit_code == 130
    first = np.array(rows(passed("predict", path, prices))[1:], float)[:, 0]
    assert 1e6 < first.min() < first.max() < 3e6


def test_a_long_epoch_says_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SILENCE", -1.0)
    result = run("train", folder / "sums.csv", "--target", "sum", "--epochs", 30, "--batch-size", "all")
    assert result.exit_code == 0, result.output
    assert re.match(r"in epoch 1 of 30, after step 1 of 30: loss \d+\.\d{4}\n", result.stderr)
    table = result.stdout[result.stdout.index("epoch ") :].split("\n\n")[0].splitlines()[1:]
    assert [int(row.split()[0]) for row in table] == list(range(1, 31))


def test_the_best_state_is_kept(tmp_path: Path) -> None:
    states = tmp_path / "states"
    watched = "--keep-best", "--monitor", "val_accuracy"
    passed(
        "train",
        "digits",
        "--hidden",
        9,
        "--rate",
        0.3,
        "--epochs",
        6,
        "--checkpoint",
        states,
        *watched,
        "--log",
        tmp_path / "l",
    )
    log = list(csv.DictReader(io.StringIO((tmp_path / "l").read_text())))
    best = max(log, key=lambda row: float(row["val_accuracy"]))
    assert fastnn.load(states / "best.safetensors").counters.step == int(best["step"])


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ([30, 45], r"interrupted after step 45, .*; it stands in .*states, continue with:\n.* --resume$"),
        ([30], r"interrupted after step 45, .*; its state after step 30 is in .*states, continue with:\n.* --resume$"),
        ([], r"interrupted after step 45, .*; no state of it is in .*states yet$"),
    ],
)
def test_what_an_interrupted_training_has_left(
    written: list[int], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a second Ctrl-C came before the last state was written."""
    folder = tmp_path / "states"
    folder.mkdir()

    def interrupted(model: fastnn.Sequential, *data: Any, **options: Any) -> None:
        model.build(data[0].shape[1:])
        for step in written:
            (folder / f"step-{step:09d}.safetensors").touch()
        model.counters.step = 45
        raise KeyboardInterrupt

    monkeypatch.setattr(fastnn.Sequential, "fit", interrupted)
    result = CliRunner().invoke(main, ["train", "digits", "--epochs", "3", "--checkpoint", str(folder)])
    assert result.exit_code == 130
    assert re.search(says, result.stderr.rstrip(), re.DOTALL), result.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupted_training_says_how_to_go_on(tmp_path: Path) -> None:
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = ["train", "digits", "--epochs", "1000000", "--checkpoint", str(tmp_path / "my states")]
    for options in (["--checkpoint-epochs", "1000"], ["--save", str(tmp_path / "m.safetensors")]):
        given = [*(command if options[0] != "--save" else command[:4]), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-m", "fastnn", *given], text=True, preexec_fn=heed, **pipes) as process:
            try:
                assert process.stdout is not None
                while not process.stdout.readline().startswith("epoch"):
                    assert process.poll() is None
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
                _, error = process.communicate(timeout=30)
            finally:
                process.kill()
        assert process.returncode == 130
        match = re.search(r"interrupted after step ([\d,]+), in epoch \d+ of 1000000; ", error)
        assert match is not None, error
        step = int(match[1].replace(",", ""))
        if options[0] == "--save":
            assert fastnn.load(tmp_path / "m.safetensors").counters.step == step
        else:
            assert error.splitlines()[-1] == shlex.join(["fastnn", *given, "--resume"])
            assert (tmp_path / "my states" / f"step-{step:09d}.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a pipe that is closed")
def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    command = [sys.executable, "-m", "fastnn", "predict", str(folder / "flowers.safetensors"), str(folder / "big.csv")]
    n = 60_000
    write(folder / "big.csv", {"length": np.zeros(n), "width": np.zeros(n)})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "prediction\n"
        process.stdout.close()
        assert process.stderr.read() == ""


# Pieces.


def test_the_names_are_those_of_the_library() -> None:
    assert set(networks.LOSSES) == set(losses.LOSSES)
    assert set(networks.INITIALIZERS) == set(initializers.NAMES)
    assert set(sources.METRICS) == set(metrics.METRICS)
    kinds = {kind for kind, *_ in networks.SCHEDULES.values()}
    assert kinds == set(schedules.Schedule.types) - {networks.TABLE.capitalize()}
    for name in importlib.import_module("fastnn.cli.train").MONITORS:  # `fastnn.cli.train` is the command
        callbacks.EarlyStopping(name)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_number_of_an_optimizer_has_an_option(name: str) -> None:
    made, defaults = optimizers.NAMES[name]
    numbers = {each.name for each in dataclasses.fields(made) if isinstance(each.default, float)} - {"learning_rate"}
    options = {takers[name].name: option for option, takers in networks.NUMBERS.items() if name in takers}
    assert set(options) == numbers
    given = [word for option in options.values() for word in (f"--{option.replace('_', '-')}", "0.25")]
    parsed = main.commands["train"].make_context("train", ["digits", "--optimizer", name, *given]).params
    fields = {each.name for each in dataclasses.fields(networks.Network)} | set(networks.NUMBERS)
    network = networks.Network.of({option: value for option, value in parsed.items() if option in fields})
    wanted = made(networks.RATES[name], **{**defaults, **dict.fromkeys(numbers, 0.25)})
    assert network.build_optimizer() == wanted


def test_defaults_are_those_of_the_library() -> None:
    told = {each.name: each.help or "" for each in main.commands["train"].params if isinstance(each, click.Option)}
    assert told["momentum"] == "For sgd, momentum, nesterov. [default: 0.9; 0 for sgd]"
    assert told["momentum_decay"] == "For nadam. [default: 0.004]"
    assert told["epsilon"].endswith("[default: 1e-8; 1e-10 for adagrad]")
    assert told["beta2"].endswith("[default: 0.999; 0.9 for rmsprop, 0.99 for lion]")
    assert networks.RATES["nadam"] == 0.002
    others = {name for name, rate in networks.RATES.items() if rate != optimizers.by_name(name).learning_rate}
    assert others == {"sgd", "momentum"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("constant", schedules.Constant(0.5)),
        ("cosine:final=0.1,per=step", schedules.Cosine(0.5, 0.1, per="step")),
        ("exponential", schedules.Exponential(0.5)),
        ("inverse_sqrt:k=2", schedules.InverseSqrt(0.5, 2.0)),
        ("inverse_time:decay=1e-2", schedules.InverseTime(0.5, 0.01)),
        ("inverse_time:initial=3,decay=1", schedules.InverseTime(3.0, 1.0)),
        ("one_cycle:rise=0.2", schedules.OneCycle(0.5, rise=0.2)),
        ("staircase:factor=0.5,every=10", schedules.Staircase(0.5, 0.5, 10)),
        ("table:0=0.1,10=1e-2", schedules.Table({0: 0.1, 10: 0.01})),
        ("table:0=0.1,100=0.05,per=step", schedules.Table({0: 0.1, 100: 0.05}, per="step")),
        ("warmup:length=5", schedules.Warmup(5, 0.5)),
        ("warmup:length=5,then=cosine,per=step", schedules.Warmup(5, schedules.Cosine(0.5, per="step"), per="step")),
    ],
)
def test_schedules(text: str, wanted: schedules.Schedule) -> None:
    assert networks.build_schedule(text, 0.5) == wanted


@pytest.mark.parametrize("count", [1, 2, 7, 12, 20])
@pytest.mark.parametrize("name", ["", "a rather long name of a class "])
def test_confusion_fits_a_terminal(count: int, name: str) -> None:
    counts = np.arange(count * count).reshape(count, count) * 11
    lines = confusion(counts, [f"{name}{index}" for index in range(count)])
    assert max(map(len, lines)) <= 80
    shown = [line.split() for line in lines if line]
    for row in counts:
        assert any(line[-1] == str(row[-1]) for line in shown)


def test_columns_that_do_not_fit_are_left_out() -> None:
    assert titles(["loss", "val_loss"]) == {"loss": "loss", "val_loss": "validation loss"}
    many = ["loss", "accuracy", "val_loss", "val_accuracy", *(f"val_metric{index}" for index in range(9))]
    found = titles(many)
    assert list(found) == many[: len(found)]
    assert 5 + sum(2 + max(8, len(title)) for title in found.values()) <= 80
