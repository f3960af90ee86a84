"""`--from` and `--freeze`: saved networks that are trained on from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import fastnn
from fastnn.cli import main
from fastnn.cli.continuing import read_freeze
from fastnn.errors import InputError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def shown(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of images for the digits: 0 Conv2D, 1 BatchNorm, 2 Activation, 3 MaxPool2D, 4 Flatten, 5 Dense, 6 Dense."""
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    options = ["--conv", "4x3:norm,pool2", "--hidden", 8, "--epochs", 2, "--seed", 5, "--loss", "softmax_focal"]
    shown(run("train", "digits", *options, "--save", path))
    return path


@pytest.mark.parametrize(
    ("freeze", "frozen", "trained"),
    [
        (None, [], 40 + 8 - 4 + 296 + 90),
        ("none", [], 40 + 8 - 4 + 296 + 90),
        ("conv", [0], 8 + 296 + 90),
        ("conv, norm", [0, 1], 296 + 90),
        ("0-5", [0, 1, 5], 90),
        ("5,1-3", [1, 5], 36 + 90),
        ("dense", [5, 6], 36 + 8),
    ],
)
def test_the_rest_is_trained_on(saved: Path, tmp_path: Path, freeze: str | None, frozen: list[int], trained: int) -> None:
    """With the bits of the same in Python."""
    options = [] if freeze is None else ["--freeze", freeze]
    text = shown(run("train", "digits", "--from", saved, *options, "--epochs", 1, "--save", tmp_path / "b.safetensors"))
    assert f"network {saved}: 8 x 8 -> Conv2D(4, 3" in text
    assert "training softmax_focal, adam" in text, "the loss is the one of before"
    total = 36 + 8 + 296 + 90
    names = ", ".join(f"{index} {type(fastnn.load(saved).layers[index]).__name__}" for index in frozen)
    assert (f"frozen {names}; {trained} of {total} parameters are trained" in text) == bool(frozen)
    assert (" frozen " in text) == bool(frozen)
    before, after = fastnn.load(saved), fastnn.load(tmp_path / "b.safetensors")
    assert list(after.network.frozen) == frozen
    for name, values in after.weights.items():
        assert np.array_equal(values, before.weights[name]) == (int(name.partition(".")[0]) in frozen), name
    model, data = fastnn.load(saved), fastnn.datasets.load("digits").as_images()
    if frozen:
        model.freeze(*frozen)
    (X, y), held_back = fastnn.datasets.split(
        data.X_train, data.y_train, sizes=(1293, 144), seed=5, stratify=data.y_train
    )  # fmt: skip
    model.fit(X, y, loss="softmax_focal", batch_size=32, epochs=1, validation_data=held_back, verbose=0)
    for name, values in after.weights.items():
        np.testing.assert_array_equal(values, model.weights[name], err_msg=name)


def test_what_was_saved_frozen_stays_so(saved: Path, tmp_path: Path) -> None:
    model = fastnn.load(saved).freeze(0)
    model.save(tmp_path / "frozen.safetensors")
    assert "frozen 0 Conv2D; 394 of 430" in shown(
        run("train", "digits", "--from", tmp_path / "frozen.safetensors", "--epochs", 1)
    )
    text = shown(run("train", "digits", "--from", tmp_path / "frozen.safetensors", "--freeze", "5", "--epochs", 1))
    assert "frozen 5 Dense; 134 of 430" in text
    model.freeze().save(tmp_path / "all.safetensors")
    result = run("train", "digits", "--from", tmp_path / "all.safetensors")
    assert result.exit_code == 2
    assert "every layer with parameters is frozen in" in said(result)
    assert "give --freeze none to train all" in said(result)
    shown(run("train", "digits", "--from", tmp_path / "all.safetensors", "--freeze", "none", "--epochs", 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--freeze 7", "--freeze: 7: the layers of {saved} are 0 to 6: 0 Conv2D, 1 BatchNorm,"),
        ("--freeze conv,2-9", "--freeze: 2-9: the layers of {saved} are 0 to 6"),
        ("--freeze 2-4", "--freeze: 2-4: there are no parameters to freeze; {saved} has 0 Conv2D"),
        ("--freeze 0-6", "nothing is left to train: every layer with parameters is frozen by --freeze 0-6"),
        ("--freeze conv,norm,dense", "nothing is left to train: every layer with parameters is frozen by --freeze conv,norm,d"),
        ("--hidden 3", "--hidden: the network is in the file already"),
        ("--seed 3", "--seed: the network is in the file already"),
        ("--standardize", "--standardize: the network is in the file already"),
        ("--save {saved}", "--save: {saved} is the file of --from too; give another name"),
    ],
)
def test_what_does_not_go_together(saved: Path, options: str, says: str) -> None:
    result = run("train", "digits", "--from", saved, *options.format(saved=saved).split())
    assert result.exit_code == 2
    assert says.format(saved=saved) in said(result)


def test_kinds_that_a_network_does_not_have(tmp_path: Path) -> None:
    fastnn.Sequential([fastnn.Dense(10)], seed=0).build(64, loss="softmax_cross_entropy").save(tmp_path / "d.safetensors")
    result = run("train", "digits", "--from", tmp_path / "d.safetensors", "--freeze", "norm")
    assert result.exit_code == 2
    assert "d.safetensors has no BatchNorm or LayerNorm layer; it has 0 Dense" in said(result)
    assert run("train", "digits", "--freeze", "0").exit_code == 2
    assert "--freeze goes with --from, which is missing" in said(run("train", "digits", "--freeze", "0"))
    assert run("train", "digits", "--from", tmp_path / "none.safetensors").exit_code == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("none", ()), ("0", (range(1),)), ("2-4, conv,7", (range(2, 5), "conv", range(7, 8))), ("norm", ("norm",))],
)
def test_the_grammar(text: str, expected: tuple[Any, ...]) -> None:
    assert read_freeze(text) == expected


def test_a_network_in_the_configuration_is_refused(saved: Path, tmp_path: Path) -> None:
    """Where it is another than that without the option."""
    configuration = tmp_path / "run.toml"
    for text, says in (
        ("hidden = [9]", "hidden in the configuration: the network is in the file already"),
        ("standardize-target = true", "standardize-target in the configuration: the network is in the file already"),
        ("dropout = 0.5", "dropout in the configuration"),
    ):
        configuration.write_text(text + "\n")
        result = run("train", "digits", "--config", configuration, "--from", saved, "--epochs", 1)
        assert result.exit_code == 2
        assert says in said(result)
    printed = run("train", "digits", "--epochs", 1, "--print-config").stdout
    configuration.write_text(printed)
    shown(run("train", "--config", configuration, "--from", saved))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'': expected numbers of layers such as 0 or 0-2, conv, dense or norm"),
        ("3-1", "'3-1': expected the smaller number first, as in 1-3"),
        ("-1", "'-1': expected numbers"),
        ("0-", "'0-': expected numbers"),
        ("0,,1", "'': expected numbers"),
        ("convv", "'convv': expected numbers .*; did you mean 'conv'"),
        ("conv,none", "'none': expected numbers"),
        ("1.5", "'1.5': expected numbers"),
    ],
)
def test_what_is_not_of_the_grammar(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_freeze(text)


def table(path: Path, columns: dict[str, np.ndarray], labels: list[str]) -> Path:
    rows = [",".join([*columns, "kind"])]
    rows += [",".join([*map(str, values), label]) for *values, label in zip(*columns.values(), labels, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_tables_are_read_as_the_network_takes_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ["round", "long", "flat"]
    a, b = rng.normal(size=(2, 90)).round(3)
    labels = [kinds[index] for index in np.digitize(a + b, [-0.5, 0.5])]
    first = table(tmp_path / "first.csv", {"a": a, "b": b}, labels)
    model, on = tmp_path / "m.safetensors", tmp_path / "on.safetensors"
    shown(run("train", first, "--target", "kind", "--standardize", "--hidden", 5, "--epochs", 2, "--save", model))
    few = [index for index, label in enumerate(labels) if label != "long"]
    other = {"weight": np.ones(len(few)), "b": b[few], "more": a[few], "a": a[few]}
    second = table(tmp_path / "second.csv", other, [labels[index] for index in few])
    shown(run("train", second, "--from", model, "--sample-weight", "weight", "--freeze", "1", "--epochs", 3, "--save", on))
    trained = fastnn.load(on)
    assert trained.classes_.tolist() == ["flat", "long", "round"]
    assert (trained.feature_names, trained.target_names) == (("a", "b"), ("kind",))
    third = table(tmp_path / "third.csv", {"a": a, "b": b}, ["square", *labels[1:]])
    result = run("train", third, "--from", model)
    assert result.exit_code == 1
    assert "square" in said(result)
    lacking = table(tmp_path / "lacking.csv", {"a": a}, labels)
    assert "b" in said(run("train", lacking, "--from", model))
    result = run("train", "digits", "--from", model)
    assert result.exit_code == 1
    assert "the network takes 2 features, and examples of digits have 8 x 8" in said(result)


def test_numbers_beyond_everything(saved: Path) -> None:
    result = run("train", "digits", "--from", saved, "--freeze", f"0-{10**20}")
    assert result.exit_code == 2
    assert f"--freeze: 0-{10**20}: the layers of {saved} are 0 to 6" in said(result)


def test_amounts_stay_amounts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    np.savez(tmp_path / "a.npz", X=X, y=X.sum(axis=1))
    np.savez(tmp_path / "b.npz", X=X, y=X.sum(axis=1).round().astype(int))
    shown(run("train", tmp_path / "a.npz", "--epochs", 1, "--hidden", "none", "--save", tmp_path / "m.safetensors"))
    text = shown(run("train", tmp_path / "b.npz", "--from", tmp_path / "m.safetensors", "--epochs", 1))
    assert "3 features, 1 target" in text
    assert "training mean_squared_error" in text


def test_inputs_of_another_size_are_told(saved: Path, tmp_path: Path) -> None:
    data = fastnn.datasets.load("digits").as_images()
    np.savez(tmp_path / "bytes.npz", X=(data.X_train * 255).astype(np.uint8), y=data.y_train)
    hint = "hint the network multiplies inputs by 1, and these are made for 0.00392; bring them to its scale"
    assert hint in shown(run("train", tmp_path / "bytes.npz", "--from", saved, "--epochs", 1))
    assert "hint" not in shown(run("train", "digits", "--from", saved, "--epochs", 1))


def test_a_training_that_goes_on_is_resumed(saved: Path, tmp_path: Path) -> None:
    options = ["train", "digits", "--from", saved, "--freeze", "conv"]
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    shown(run(*options, "--epochs", 3, "--save", whole))
    shown(run(*options, "--epochs", 2, "--checkpoint", tmp_path / "run"))
    text = shown(run(*options, "--epochs", 3, "--checkpoint", tmp_path / "run", "--resume", "--save", parts))
    assert "resumed after step 82, with 2 of 3 epochs done" in text
    expected = fastnn.load(whole).weights
    for name, values in fastnn.load(parts).weights.items():
        np.testing.assert_array_equal(values, expected[name])
    result = run("train", "digits", "--from", saved, "--epochs", 4, "--checkpoint", tmp_path / "run", "--resume")
    assert result.exit_code == 1, "other layers are frozen"


def test_an_interruption_counts_from_the_saved_network_on(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.cli import tables

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables.Epochs, "epoch_end", interrupted)
    result = run("train", "digits", "--from", saved, "--epochs", 3)
    assert result.exit_code == 130
    assert "interrupted after step 41, in epoch 2 of 3" in said(result)
    monkeypatch.setattr(tables.Epochs, "begin", interrupted)
    assert "interrupted before the first step" in said(run("train", "digits", "--from", saved, "--epochs", 3))


def test_options_in_a_file(saved: Path, tmp_path: Path) -> None:
    options = ["train", "digits", "--from", saved, "--freeze", "conv", "--epochs", 1]
    (tmp_path / "run.toml").write_text(run(*options, "--print-config").stdout)
    assert shown(run("train", "--config", tmp_path / "run.toml")) == shown(run(*options))
