"""The tables that come with fastnn: made by their rule, in files, as data sets and through the command."""

from __future__ import annotations

import csv
import io
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fastnn.cli import main
from fastnn.cli.samples import SAMPLES
from fastnn.datasets import flowers, houses, load, samples
from fastnn.datasets.dataset import NAMES


def test_the_files_are_what_the_rules_make() -> None:
    for name, text in {"houses": samples.make_houses(), "flowers": samples.make_flowers()}.items():
        assert resources.files("fastnn.datasets").joinpath(f"{name}.csv").read_bytes() == text.encode("ascii")
    assert set(SAMPLES) == set(samples.TARGETS) <= set(NAMES)


def test_houses_are_plausible() -> None:
    data = houses()
    assert data.feature_names == ("area", "rooms", "age", "distance", "garden")
    assert [each.shape for each in (data.X_train, data.y_train, data.X_test, data.y_test)] == [
        (320, 5),
        (320, 1),
        (80, 5),
        (80, 1),
    ]
    assert (data.classes, data.outputs) == (None, 1)
    X, y = np.concatenate([data.X_train, data.X_test]), np.concatenate([data.y_train, data.y_test])[:, 0]
    area, rooms, age, distance, garden = X.T
    assert 18 <= area.min() < 40
    assert 120 < area.max() < 200
    assert set(rooms) == {1, 2, 3, 4, 5, 6}
    assert 0 <= age.min() <= age.max() < 100
    assert 1 <= distance.min() <= distance.max() <= 25
    assert 0.3 < np.mean(garden == 0) < 0.5
    assert (y % 100 == 0).all()
    assert 20_000 <= y.min() <= y.max() < 1_000_000
    assert np.corrcoef(area, y)[0, 1] > 0.7
    assert np.corrcoef(distance, y)[0, 1] < -0.2


def test_flowers_are_of_three_species() -> None:
    data = flowers()
    assert data.feature_names == ("stem", "petal", "width", "petals")
    assert (data.classes, data.X_train.shape, data.X_test.shape) == (3, (240, 4), (60, 4))
    for y, count in ((data.y_train, 80), (data.y_test, 20)):
        assert dict(zip(*np.unique(y, return_counts=True), strict=True)) == dict.fromkeys(samples.SPECIES, count)
    assert (data.X_train > 0).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_command_writes_what_the_data_set_holds(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    data, target = load(name), samples.TARGETS[name]
    whole, train, test = (tmp_path / f"{part}.csv" for part in ("whole", "train", "test"))
    for options in ((whole,), (train, "--test", test)):
        result = CliRunner().invoke(main, ["data", name, "--to", *map(str, options)])
        assert result.exit_code == 0, result.output
        assert f"the target is {target}" in " ".join(result.stdout.split())
    assert CliRunner().invoke(main, ["data", name]).stdout == whole.read_text() == samples.render(*samples.read(name))
    for path, X, y in ((train, data.X_train, data.y_train), (test, data.X_test, data.y_test)):
        table = load(path, [target] if name == "houses" else target)
        np.testing.assert_array_equal(table.X_train, X)
        np.testing.assert_array_equal(table.y_train, y)
        assert table.feature_names == data.feature_names
    rows = [list(csv.reader(io.StringIO(path.read_text())))[1:] for path in (train, test, whole)]
    assert sorted(rows[0] + rows[1]) == sorted(rows[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("house", "unknown name 'house'; did you mean 'houses'?"),
        ("houses --test t.csv", "--test: the other rows go to another file, --to"),
        ("houses --to t.csv --test t.csv", "--test: the other rows go to another file, --to"),
        ("houses --to nowhere/t.csv", "--to: there is no folder"),
    ],
)
def test_wrong_usage_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["data", *arguments.split()])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_network_learns_each(tmp_path: Path) -> None:
    for name, options, least in (("flowers", "", 0.93), ("houses", "--standardize-target", 0.9)):
        arguments = ["train", name, "--standardize", "--epochs", "60", "--quiet", *options.split()]
        result = CliRunner().invoke(main, arguments)
        assert float(result.stdout.split()[-1]) > least, result.output
