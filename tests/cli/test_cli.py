"""The command line: what it prints, how it ends, and that asking for help loads nothing."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastnn.cli import main
from fastnn.cli.networks import rows_of_table
from fastnn.errors import FileError, InputError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    """What stands on stderr, wherever its lines end."""
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two well separated clouds of points, and targets that are linear in them."""
    generator = np.random.default_rng(0)
    y = np.arange(120) % 2
    X = generator.normal(size=(120, 2)) + 6 * y[:, None]
    folder = tmp_path_factory.mktemp("clouds")
    np.savez(folder / "clouds.npz", X=X[:100], y=y[:100], X_test=X[100:], y_test=y[100:])
    targets = X @ np.array([0.5, -0.25]) + 1
    np.savez(folder / "targets.npz", X=X[:100], y=targets[:100], X_test=X[100:], y_test=targets[100:])
    np.savez(folder / "alone.npz", X=X, y=y)
    return folder


# Training.


def test_training_on_the_digits_reaches_97_percent() -> None:
    result = run("train", "digits")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "data      digits: 1,293 training, 144 validation, 360 test examples"
    assert lines[1] == "          8 x 8 features, 10 classes"
    assert "network   64 -> 128 relu -> 10; 9,610 parameters" in lines
    assert any(text.startswith("device    ") for text in lines)
    table = lines[next(i for i, text in enumerate(lines) if text.startswith("epoch")) :]
    assert table[0].split() == ["epoch", "loss", "accuracy", "validation", "loss", "validation", "accuracy"]
    rows = [text.split() for text in table[1 : table.index("")]]
    assert [int(row[0]) for row in rows] == list(range(4, 41, 4))
    assert float(rows[-1][1]) < float(rows[0][1])
    assert max(map(len, lines)) <= 80
    assert "\r" not in result.output
    assert "\x1b" not in result.output
    match = re.fullmatch(r"test accuracy: (\d\.\d{4})", lines[-1])
    assert match is not None, lines[-1]
    assert float(match[1]) >= 0.97


def test_the_same_seed_prints_the_same(clouds: Path) -> None:
    outputs = [
        run("train", clouds / "clouds.npz", "--epochs", 3, "--hidden", 7, "--seed", seed, "--threads", threads).stdout
        for seed, threads in ((1, 1), (1, 2), (2, 1))
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]


@pytest.mark.parametrize(
    "options",
    [
        "--hidden none --batch-size 1",
        "--hidden 5,3 --activation tanh --batch-norm --dropout 0.1 --optimizer sgd --rate 0.05 --momentum 0.5",
        "--hidden 5,3 --activation elu --layer-norm --optimizer sgd --rate 0.05 --momentum 0.5",
        "--hidden 8 --loss quadratic --activation sigmoid --optimizer nesterov --learning-rate 0.3",
        "--hidden 8 --loss sigmoid_cross_entropy --optimizer momentum --l2 0.01 --l1 0.001 --validation 0",
        "--hidden 8 --loss mean_squared_error --optimizer rmsprop --rate 0.05 --dtype float64 --validation 0.5 --threads 1",
        "--hidden 8 --optimizer adamw --rate 0.01 --device cpu --seed 18446744073709551615",
        "--standardize --rate 0.01 --schedule warmup:length=3,then=cosine --initial he_uniform --clip-norm 1 --beta1 0.8",
        "--optimizer adamw --rate 0.05 --weight-decay 0.1 --epsilon 1e-6 --beta2 0.99 --batch-size all --class-weight 1=2",
        "--optimizer rmsprop --rate 0.1 --schedule staircase:factor=0.5,every=5 --beta2 0.95 --clip-value 5 --batch-size auto",
        "--optimizer nadam --rate 0.05 --beta1 0.8 --momentum-decay 0.01 --ema 0.9",
        "--rate 0.05 --label-smoothing 0.1 --no-shuffle --plateau 1 --plateau-factor 0.5 --monitor val_accuracy",
        "--rate 0.05 --schedule one_cycle:per=step --class-weight balanced --shard-rows 32 --patience 20 --monitor val_loss",
    ],
)
def test_every_option_trains(clouds: Path, options: str) -> None:
    result = run("train", clouds / "clouds.npz", "--epochs", 12, "--quiet", *options.split())
    assert result.exit_code == 0, result.output
    assert float(result.output.removeprefix("test accuracy: ")) >= 0.9


def test_targets_are_fitted(clouds: Path) -> None:
    result = run("train", clouds / "targets.npz", "--hidden", "none", "--rate", 0.05, "--epochs", 60)
    assert result.exit_code == 0, result.output
    assert "2 features, 1 target\n" in result.stdout
    assert "mean_squared_error" in result.stdout
    assert float(result.stdout.splitlines()[-1].removeprefix("test R^2: ")) > 0.99


def priced(folder: Path, prices: np.ndarray) -> Path:
    rows = (f"{value},{price}" for value, price in zip(np.linspace(-1, 1, len(prices)), prices, strict=True))
    (folder / "houses.csv").write_text("\n".join(["size,price", *rows]))
    return folder / "houses.csv"


def test_whole_numbers_are_amounts_in_a_regression(tmp_path: Path) -> None:
    houses = priced(tmp_path, 250_000 + 1000 * np.arange(60))
    told = run("train", houses, "--target", "price", "--epochs", 1)
    assert "hint      the target holds 60 different labels for 54 examples; if they are\n" in told.stdout
    assert "amounts, try --regression\n" in told.stdout
    asked = run("train", houses, "--target", "price", "--standardize-target")
    assert (asked.exit_code, "add --regression if they are amounts" in said(asked)) == (2, True)
    options = ["--regression", "--standardize-target", "--hidden", "none", "--rate", 0.05, "--epochs", 60]
    whole = tmp_path / "whole.safetensors"
    found = run("train", houses, "--target", "price", *options, "--validation", houses, "--save", whole)
    assert found.exit_code == 0, found.output
    assert "1 feature, 1 target\n" in found.stdout
    r2 = re.search(r"R\^2 +(\S+)", run("evaluate", whole, houses).stdout)
    assert r2 is not None
    assert float(r2[1]) > 0.99
    assert "Dense(1," in run("explain", houses, "--target", "price", "--regression").stdout


def test_a_regression_of_texts_is_refused(tmp_path: Path) -> None:
    found = run("train", priced(tmp_path, np.array(["low", "high"] * 10)), "--target", "price", "--regression")
    assert (found.exit_code, found.stderr) == (
        1,
        "error: expected numbers for a regression, and the target of houses holds strings such as 'low'\n",
    )


def test_one_class_is_none_to_learn(tmp_path: Path) -> None:
    found = run("train", priced(tmp_path, np.array(["low"] * 10)), "--target", "price")
    assert (found.exit_code, found.stderr) == (1, "error: the target of houses holds one class only ('low')\n")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("X", np.nan, "X: 1 values are NaN, infinite or too large, the first in row 7, column 1;"),
        ("X", 1e39, "too large for float32: scale the features, or make the model with --dtype float64"),
        ("y", np.inf, "y: 1 values are NaN, infinite or too large, the first in row 7"),
    ],
)
def test_a_wrong_value_is_told_by_the_row_of_the_file(tmp_path: Path, name: str, value: float, told: str) -> None:
    arrays = {"X": np.ones((40, 2)), "y": np.linspace(0, 1, 40)}
    arrays[name].reshape(40, -1)[7, -1] = value
    np.savez(tmp_path / "d.npz", **arrays)
    found = run("train", tmp_path / "d.npz")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: d: ")
    assert told in found.stderr
    assert not found.stdout


def test_amounts_may_all_be_whole_in_the_validation_data(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = priced(tmp_path / "whole", np.arange(20))
    found = run(
        "train", priced(tmp_path, np.arange(20) / 2), "--target", "price", "--standardize-target", "--validation", whole
    )
    assert found.exit_code == 0, found.output


def test_a_network_is_saved(clouds: Path, tmp_path: Path) -> None:
    import fastnn

    result = run("train", clouds / "clouds.npz", "--epochs", 5, "--save", tmp_path / "m.safetensors")
    assert result.exit_code == 0, result.output
    model = fastnn.load(tmp_path / "m.safetensors")
    with np.load(clouds / "clouds.npz") as data:
        accuracy = model.evaluate(data["X_test"].astype(np.float32), data["y_test"])["accuracy"]
    assert result.stdout.splitlines()[-1] == f"test accuracy: {accuracy:.4f}"


def test_averages_are_measured_tested_and_saved(clouds: Path, tmp_path: Path) -> None:
    """The rows of the epochs are those of the training itself."""
    import fastnn

    arguments = ["train", clouds / "clouds.npz", "--validation", clouds / "alone.npz", "--epochs", 4]
    averaging = run(*arguments, "--save", tmp_path / "averages.safetensors", "--ema", 0.95)
    plain = run(*arguments, "--save", tmp_path / "plain.safetensors")
    rows = [[line for line in result.stdout.splitlines() if re.match(r" +\d+ +\d+\.", line)] for result in (averaging, plain)]
    assert len(rows[0]) == 4
    assert rows[0] == rows[1]
    model, other = (fastnn.load(tmp_path / f"{name}.safetensors") for name in ("averages", "plain"))
    assert all((model.weights[name] != weights).any() for name, weights in other.weights.items())
    with np.load(clouds / "alone.npz") as data:
        measures = model.evaluate(data["X"].astype(np.float32), data["y"])
    text = f"averages  val_loss {measures['loss']:.4f}, val_accuracy {measures['accuracy']:.4f}"
    assert text in averaging.stdout.splitlines()
    with np.load(clouds / "clouds.npz") as data:
        accuracy = model.evaluate(data["X_test"].astype(np.float32), data["y_test"])["accuracy"]
    assert averaging.stdout.splitlines()[-1] == f"test accuracy: {accuracy:.4f}"


def test_what_is_measured_last_is_of_the_averages(clouds: Path) -> None:
    arguments = ["train", clouds / "alone.npz", "--epochs", 1, "--validation", 0.5, "--rate", 0.5]
    shown = [run(*arguments, *more).stdout for more in (("--ema", 0.9), ("--ema", 0.9, "--quiet"), ("--quiet",))]
    (accuracy,) = re.findall(r"^averages .* val_accuracy (\S+)$", shown[0], re.MULTILINE)
    assert [text.split()[-1] == accuracy for text in shown[1:]] == [True, False]


def test_data_without_a_test_part(clouds: Path) -> None:
    result = run("train", clouds / "alone.npz", "--epochs", 2)
    assert result.exit_code == 0, result.output
    assert "test" not in result.stdout.splitlines()[-1]


def test_every_metric_that_was_asked_for_is_shown(clouds: Path) -> None:
    asked = ["f1", "precision", "recall", "log_loss"]
    options = [word for name in asked for word in ("--metric", name)]
    shown = run("train", clouds / "alone.npz", "--epochs", 2, *options).stdout
    missing = [name for name in asked if not re.search(rf"val_{name}\b", shown)]
    assert not missing, shown
    assert re.search(r"\nbesides   after the last epoch val_recall \d\.\d{4}, val_log_loss \d\.\d{4}\n", shown), shown
    quiet = run("train", clouds / "alone.npz", "--epochs", 2, "--quiet", *options).stdout.splitlines()
    assert [text.split(":")[0] for text in quiet] == ["validation accuracy", *(f"val_{name}" for name in asked)]


def test_a_metric_needs_data_to_be_measured_on(clouds: Path) -> None:
    found = run("train", clouds / "alone.npz", "--validation", 0, "--metric", "f1")
    assert found.exit_code == 2
    assert "--metric is measured on validation or test data, and there are none; give --validation" in said(found)
    assert run("train", clouds / "clouds.npz", "--validation", 0, "--metric", "f1", "--epochs", 1).exit_code == 0


# Explaining.


@pytest.mark.usefixtures("known_limits")
def test_explain_prints_the_program(clouds: Path) -> None:
    result = run("explain", "--inputs", 64, "--outputs", 10, "--hidden", 31, "--batch-size", 33)
    assert result.exit_code == 0, result.output
    for expected in ("dense", "softmax_cross_entropy", "adam", "33", "31"):
        assert expected in result.stdout
    result = run("explain", clouds / "targets.npz")
    assert result.exit_code == 0, result.output
    assert "squared_error" in result.stdout


# Errors.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train digts", "error: there is no data set or file called 'digts'; did you mean 'digits'?"),
        ("train /nowhere/x.npz", "error: there is no file /nowhere/x.npz"),
        ("explain /nowhere", "error: there is no file or folder /nowhere"),
    ],
)
def test_an_error_is_one_line(arguments: str, message: str) -> None:
    result = run(*arguments.split())
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == message + "\n"


def test_a_wrong_label_is_told_before_the_header(clouds: Path) -> None:
    result = run("train", clouds / "clouds.npz", "--class-weight", "7=2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--class-weight: there is no label '7'" in said(result)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("which column? Name it, as in target='a b'; no", "which column? Name it, as in --target 'a b'; no"),
        ("target: only tables have columns", "--target: only tables have columns"),
        ("precision='bf16' needs a GPU", "--precision bf16 needs a GPU"),
        ("resumed (resume=True), or another", "resumed (--resume), or another"),
        ("sample_weight: expected numbers", "--sample-weight: expected numbers"),
        ("use batch_size >= 2; make it with seed=3", "use --batch-size >= 2; make it with --seed 3"),
        ("give validation_data", "give --validation"),
        ("seed, the target: loss=x.y in /a/batch_size.csv", "seed, the target: --loss x.y in /a/batch_size.csv"),
        ("no column 'sample_weight'; batch_size(3)", "no column 'sample_weight'; batch_size(3)"),
        ("batch_size.csv has no rows; class_weight.", "batch_size.csv has no rows; --class-weight."),
        ("pass classes=[...] with all", "pass classes=[...] with all"),
        ("no 'val_f1'; give metrics=['f1']", "no 'val_f1'; give --metric f1"),
        ("it has 'softmax_cross_entropy:label_smoothing=0.2'", "it has 'softmax_cross_entropy:label_smoothing=0.2'"),
        ("has Dense(5, activation='relu'), seed=3", "has Dense(5, activation='relu'), --seed 3"),
    ],
)
def test_messages_name_options(monkeypatch: pytest.MonkeyPatch, message: str, shown: str) -> None:
    import fastnn.datasets

    def failing(*arguments: object, **options: object) -> None:
        warnings.warn(message, stacklevel=1)
        raise InputError(message)

    monkeypatch.setattr(fastnn.datasets, "load", failing)
    assert run("train", "digits").stderr == f"warning: {shown}\nerror: {shown}\n"


def test_debug_lets_the_error_through() -> None:
    result = run("train", "/nowhere/x.npz", "--debug")
    assert isinstance(result.exception, FileError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train digits --hidden 12,x", "expected integers above 0"),
        ("train digits --hidden 0", "expected integers above 0"),
        ("train digits --rate nan", "not a finite number"),
        ("train digits --optimizer adamm", "unknown name 'adamm'; did you mean 'adam'?"),
        ("train digits --momentum 0.5", "--momentum is for sgd, momentum, nesterov, not for adam"),
        ("train digits --validation 0.0001", "--validation 0.0001 of 1437 examples is 0"),
        ("train digits --device abacus", "no device is called 'abacus'; known are 'auto', 'cpu', 'cuda'"),
        ("train digits --device gpu", "no device is called 'gpu'; did you mean 'cuda'?"),
        ("evaluate m.safetensors digits --device GPU:1", "did you mean 'cuda:1'?"),
        ("train digits --save m.pkl", "--save: the format is safetensors, expected a name such as m.safetensors, got m.pkl"),
        ("train digits --keep-best", "--keep-best goes with --checkpoint, which is missing"),
        ("train digits --monitor val_loss", "--monitor goes with --patience, --plateau or --keep-best, which is missing"),
        ("train digits --plateau-factor 0.5", "--plateau-factor goes with --plateau, which is missing"),
        ("train digits --schedule table:1=0.1", "table needs rates by epoch, the first one for 0"),
        ("train digits --schedule table:0=x", "table: 0: expected a number, got 'x'"),
        ("train digits --schedule table:0=1,0=2", "--schedule: Table: 0 has two rates"),
        ("train digits --schedule table:0=1 --rate 1", "--learning-rate: the rates are those of the table"),
        ("train digits --standardize-target", "mean_squared_error, mean_absolute_error, quantile, not for classes"),
        ("train digits --standardize-target --checkpoint c", "--standardize-target does not go with --checkpoint"),
        ("train digits --save /nowhere/m.safetensors", "there is no folder /nowhere"),
        ("train digits --loss softmax", "unknown name 'softmax'"),
        ("train digits --activation rellu", "unknown name 'rellu'; did you mean 'relu'?"),
        ("train digits --metric accurcy", "did you mean 'accuracy'?"),
        ("train digits --schedule cosin", "unknown schedule 'cosin'; did you mean 'cosine'?"),
        ("train digits --schedule cosine:finl=1", "cosine has no 'finl'; did you mean 'final'?"),
        ("train digits --schedule staircase:every=2", "staircase needs factor"),
        ("train digits --schedule cosine:final=x", "expected a number, got 'x'"),
        ("train digits --schedule cosine:final=-1", "final: expected a finite number >= 0"),
        ("train digits --batch-size some", "expected an integer above 0, auto or all"),
        ("train digits --class-weight 3", "expected balanced, or label=weight"),
        ("train digits --class-weight 10=3", "there is no label '10'"),
        ("train digits --weight-decay 0.1", "--weight-decay is for adamw, lion, not for adam"),
        ("train digits --optimizer adamw --momentum-decay 0.1", "--momentum-decay is for nadam, not for adamw"),
        ("train digits --momentum-decay -0.1", "-0.1 is not in the range x>=0"),
        ("train digits --beta1 1", "1.0 is not in the range 0<=x<1"),
        ("train digits --epsilon 0", "0.0 is not in the range x>0"),
        ("train digits --min-delta 0.1", "--min-delta goes with --patience, which is missing"),
        ("train digits --resume", "--resume goes with --checkpoint, which is missing"),
        ("train digits --save-optimizer", "--save-optimizer goes with --save, which is missing"),
        ("train digits --ema 1", "1.0 is not in the range 0<=x<1"),
        ("train digits --ema 0.9 --save m.safetensors --save-optimizer", "keep states with --checkpoint"),
        ("train digits --log /nowhere/a.csv", "there is no folder /nowhere"),
        ("predict m.safetensors digits --output x.txt", "expected a name that ends in .csv or .parquet"),
        ("explain m.safetensors --hidden 3", "--hidden: the network is in the file already"),
        ("explain digits --batch-size auto", "expected an integer, got auto"),
        ("explain", "give either DATA or --inputs and --outputs"),
        ("explain digits --inputs 3", "give either DATA or --inputs and --outputs"),
        ("explain --inputs 3", "--outputs is missing"),
        ("explain digits --batch-norm --layer-norm", "give either --batch-norm or --layer-norm"),
        ("train digits --batch-norm --layer-norm", "give either --batch-norm or --layer-norm"),
    ],
)
def test_wrong_usage(arguments: str, message: str) -> None:
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert message in said(result)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("learn", ["learn"]),
        ("train digits --optimiser sgd", ["--optimiser"]),
        ("train digits --rate 0", ["--rate", "0"]),
        ("train digits --rate -0.25", ["--rate", "-0.25"]),
        ("train digits --rate fast", ["--rate", "fast"]),
        ("train digits --dropout 1", ["--dropout", "1"]),
        ("train digits --dropout 1.25", ["--dropout", "1.25"]),
        ("train digits --epochs 0", ["--epochs", "0"]),
        ("train digits --epochs -3", ["--epochs", "-3"]),
        ("train digits --epochs 1.5", ["--epochs", "1.5"]),
    ],
)
def test_wrong_usage_is_named_in_one_line(arguments: str, named: list[str]) -> None:
    """In click's words, whatever they are."""
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert any(all(text in line for text in named) for line in result.stderr.splitlines()), result.stderr


def test_an_argument_that_is_missing_is_named() -> None:
    """Not only where the usage stands, as beside every mistake."""
    result = run("train")
    assert (result.exit_code, result.stdout) == (2, "")
    usual = run("train", "digits", "--epochs", 0).stderr.splitlines()
    assert any("DATA" in line for line in result.stderr.splitlines() if line not in usual), result.stderr


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastnn.datasets

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fastnn.datasets, "load", interrupted)
    result = run("train", "digits")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize("delay", [0.0, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.4, 1.3))])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_training_is_interrupted(compiled: bool, delay: float, tmp_path: Path) -> None:
    """With an empty cache the signal comes while kernels are compiled."""
    command = [sys.executable, "-m", "fastnn", "train", "digits", "--epochs", "1000000"]
    environment = dict(os.environ) if compiled else os.environ | {"FASTNN_CACHE_DIR": str(tmp_path / "cache")}
    # A shell's background jobs ignore the signal, and so would what they start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, preexec_fn=heed, **pipes) as process:
        try:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("epoch"):
                assert process.poll() is None
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert re.search(r"interrupted (before the first step|after step [\d,]+, in epoch \d+ of 1000000)\n$", error)
    assert "Traceback" not in error


def test_the_first_run_says_that_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn_kernels import caching

    monkeypatch.setattr(caching, "cache_folder", lambda: tmp_path)
    for filled in (False, True):
        result = run("train", "moons", "--epochs", "1", "--hidden", "none")
        said = " ".join(result.stdout.split())
        assert ("kernels compiled now, for the first time, which takes a while; they are kept in" in said) == (not filled)
        (tmp_path / "a-kernel").touch()


# Help.


@pytest.mark.parametrize("arguments", [(), ("train",), ("predict",), ("evaluate",), ("explain",), ("data",)])
def test_help_fits_80_columns(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_loads_nothing() -> None:
    code = """
import sys
import time
from fastnn.cli import main
for arguments in (["--help"], ["train", "--help"], ["predict", "--help"], ["evaluate", "--help"], ["--version"]):
    main(arguments, standalone_mode=False)
print("loaded:", [name for name in ("numpy", "numba", "cupy", "sklearn", "tqdm") if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "loaded: []"


def test_the_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"fastnn (\d+\.\d+\.\d+\S*|\(run from its source, not installed\))\n", result.stdout)


def test_python_dash_m() -> None:
    result = subprocess.run([sys.executable, "-m", "fastnn", "train", "digts"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no data set")


@pytest.mark.parametrize("epochs", [*range(1, 60), 997])
def test_the_table_has_at_most_ten_rows(epochs: int) -> None:
    rows = rows_of_table(epochs)
    assert len(rows) <= 10
    assert rows[-1] == epochs
    assert rows == sorted(set(rows))
    assert rows[0] >= 1
    assert len(rows) == epochs or len(rows) >= 5


@pytest.mark.parametrize("name", ["flowers.parquet", "flowers.npz", "flowers.csv.gz", "flowers"])
def test_a_sample_is_written_as_csv_only(name: str, tmp_path: Path) -> None:
    result = run("data", "flowers", "--to", tmp_path / name)
    assert result.exit_code == 2
    assert "expected a name that ends in .csv" in said(result)
    assert not list(tmp_path.iterdir())
