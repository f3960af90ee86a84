"""`--conv`, `--augment` and `--shape`: networks for images from the command line, and what is done with saved ones."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import fastnn
from fastnn.cli import images, main
from fastnn.errors import InputError
from fastnn.pieces import read_pieces, read_shape


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a bright quarter, which is the label: gray, in color, in the rows of tables, and with a target."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 160)
    X = rng.integers(0, 60, (160, 8, 6, 3)).astype("uint8")
    for image, label in zip(X, y, strict=True):
        image[4 * (label // 2) :][:4, 3 * (label % 2) :][:, :3] += 150
    np.savez(folder / "color.npz", X=X[:120], y=y[:120], X_test=X[120:], y_test=y[120:])
    np.savez(folder / "gray.npz", X=X[:120, ..., 0], y=y[:120], X_test=X[120:, ..., 0], y_test=y[120:])
    np.savez(folder / "flat.npz", X=X[..., 0].reshape(160, 48), y=y)
    np.savez(folder / "values.npz", X=X[..., 0] / 255, y=y / 3.0)
    np.savez(folder / "new.npz", X=X[120:, ..., 0])
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"p{index}" for index in range(48)), "label"])
        writer.writerows([*(image[..., 0].ravel() / 255), f"quarter {label}"] for image, label in zip(X, y, strict=True))
    return folder


CONV = "6x3:same,pool2,8x3x2:norm,drop0.1:channels"


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("color.npz", ["--conv", CONV]),
        ("gray.npz", ["--conv", CONV, "--hidden", "none", "--standardize"]),
        ("gray.npz", ["--conv", "8x3:stride2,l2pool2:same:stride1,mean2x1,8x1,global", "--hidden", "none", "--rate", "0.03"]),
        ("flat.npz", ["--conv", CONV, "--shape", "8x6", "--validation", "0.25"]),
        ("table.csv", ["--conv", CONV, "--shape", "8x6x1", "--validation", "0.25"]),
        ("color.npz", ["--conv", "6x2:groups3:pad1", "--activation", "tanh", "--batch-norm", "--initial", "glorot"]),
        ("gray.npz", ["--augment", "shift=0.1,brightness=0.1,fill=edge,vertical_flip=no", "--hidden", "20"]),
        ("gray.npz", ["--augment", "rotation=5", "--conv", "6x3:dilation2", "--threads", "1"]),
        ("flat.npz", ["--shape", "8x6", "--augment", "shift=0.05", "--validation", "0.25"]),
    ],
)
def test_networks_of_images_train(folder: Path, data: str, options: list[str]) -> None:
    result = run("train", folder / data, "--epochs", 15, "--rate", 0.01, "--quiet", *options)
    assert result.exit_code == 0, result.output
    name, _, value = result.output.rpartition(": ")
    assert "accuracy" in name
    assert float(value) > 0.9


def test_a_target_is_fitted(folder: Path) -> None:
    result = run(
        "train", folder / "values.npz", "--conv", CONV, "--epochs", 15, "--rate", 0.01, "--standardize-target", "--quiet"
    )
    assert result.exit_code == 0, result.output
    assert float(result.output.rpartition(": ")[2]) > 0.5


def test_what_is_trained_is_printed(folder: Path) -> None:
    result = run("train", folder / "gray.npz", "--conv", CONV, "--augment", "shift=0.1", "--hidden", 9, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "8 x 6 features, 4 classes" in result.stdout
    text = " ".join(result.stdout.split())
    assert "8 x 6 -> augmented by shift=0.1 -> 6x3:same -> pool2 -> 8x3x2:norm -> drop0.1:channels -> 9 relu -> 4; " in text
    assert max(map(len, result.stdout.splitlines())) <= 80
    # 3 x 3 x 6 + 6, 3 x 2 x 6 x 8 without a bias + 2 x 8, 2 x 2 x 8 x 9 + 9, 9 x 4 + 4
    assert f"{60 + 288 + 16 + 297 + 40:,} parameters" in text


@pytest.mark.parametrize("data", ["gray.npz", "table.csv"])
def test_saved_networks_predict_evaluate_and_are_explained(folder: Path, tmp_path: Path, data: str) -> None:
    path, log = tmp_path / "model.safetensors", tmp_path / "log.csv"
    shape = ["--shape", "8x6"] if data == "table.csv" else []
    trained = run("train", folder / data, "--conv", CONV, *shape, "--epochs", 8, "--rate", 0.01, "--save", path, "--log", log)
    assert trained.exit_code == 0, trained.output
    network = fastnn.load(path)
    assert network.build((8, 6)) is network
    evaluated = run("evaluate", path, folder / data, "--metric", "f1")
    assert evaluated.exit_code == 0, evaluated.output
    accuracy = float(next(line for line in evaluated.stdout.splitlines() if line.startswith("accuracy")).split()[1])
    predicted = run("predict", path, folder / ("new.npz" if data == "gray.npz" else data))
    assert predicted.exit_code == 0, predicted.output
    answers = predicted.stdout.splitlines()[1:]
    if data == "gray.npz":
        labels = [str(label) for label in np.load(folder / data)["y_test"]]
        assert trained.stdout.splitlines()[-1] == f"test accuracy: {accuracy:.4f}"
    else:
        with (folder / data).open() as file:
            labels = [row["label"] for row in csv.DictReader(file)]
    assert np.mean([a == b for a, b in zip(answers, labels, strict=True)]) == pytest.approx(accuracy, abs=1e-4)
    np.savez(tmp_path / "turned.npz", X=np.zeros((3, 6, 8)), y=np.array([0, 1, 2]))
    turned = run("evaluate", path, tmp_path / "turned.npz")
    assert turned.exit_code == 1
    assert "the network takes images of 8 x 6" in said(turned)
    assert "and those of turned are 6 x 8" in said(turned)
    explained = run("explain", path, "--batch-size", 8)
    assert explained.exit_code == 0, explained.output
    assert "conv2d" in explained.stdout
    assert run("explain", path, "--conv", "4x3").exit_code == 2


def test_programs_are_explained(folder: Path) -> None:
    given = run("explain", folder / "color.npz", "--conv", "4x3,pool2", "--hidden", 5)
    assert given.exit_code == 0, given.output
    written = run("explain", "--shape", "8x6x3", "--outputs", 4, "--conv", "4x3,pool2", "--hidden", 5)
    assert written.exit_code == 0, written.output
    for result in (given, written):
        assert "Conv2D(4, 3, activation='relu')" in " ".join(result.stdout.split())
        assert "conv2d_max_pool" in result.stdout
    assert "--shape is missing" in said(run("explain", "--inputs", 48, "--outputs", 4, "--conv", "4x3"))
    wrong = run("explain", "--inputs", 47, "--outputs", 4, "--conv", "4x3", "--shape", "8x6")
    assert "--inputs: images of --shape 8x6 have 48 numbers, got 47" in said(wrong)


def test_options_in_files_are_those_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    options = ["--conv", CONV, "--augment", "rotation=5,fill=edge", "--shape", "8x6"]
    printed = run("train", folder / "flat.npz", *options, "--print-config")
    assert f'conv = "{CONV}"' in printed.stdout.splitlines()
    file = tmp_path / "options.toml"
    file.write_text(printed.stdout)
    assert run("train", "--config", file, "--print-config").stdout == printed.stdout
    arguments = ["--epochs", 2, "--hidden", 7, "--quiet"]
    trained = [run("train", folder / "flat.npz", *arguments, *given) for given in (options, ["--config", file])]
    assert trained[0].exit_code == 0, trained[0].output
    assert trained[0].stdout == trained[1].stdout
    file.write_text('conv = ["6x3", "pool2"]\nshape = [8, 6]\n')
    listed = run("train", folder / "flat.npz", *arguments, "--config", file)
    assert listed.stdout == run("train", folder / "flat.npz", *arguments, "--conv", "6x3,pool2", "--shape", "8x6").stdout
    file.write_text("conv = []\n")
    assert (
        run("train", folder / "flat.npz", *arguments, "--config", file).stdout
        == run("train", folder / "flat.npz", *arguments).stdout
    )


@pytest.mark.parametrize(
    ("conv", "says"),
    [
        ("20y5", "--conv': '20y5': expected 20x5 (FILTERSxKERNEL), pool2, mean2, l2pool2, global or drop0.25"),
        ("6x3,pol2", "'pol2': expected 20x5"),
        ("6x3,,pool2", "'': expected 20x5"),
        ("", "'': expected 20x5"),
        ("0x3", "'0x3': expected an integer of at least 1, got '0'"),
        ("6x0", "'6x0': expected an integer of at least 1, got '0'"),
        ("6x3x3x3", "'6x3x3x3': expected 20x5"),
        ("6x3:smae", "'6x3:smae': unknown option 'smae'; did you mean 'same'?"),
        ("6x3:same:pad1", "'6x3:same:pad1': padding is given twice"),
        ("6x3:stride", "'6x3:stride': 'stride': expected a number, as in stride2"),
        ("6x3:stride0", "'6x3:stride0': expected an integer of at least 1, got '0'"),
        ("6x3:stride1x2x3", "expected a number or two, as in 5x3, got '1x2x3'"),
        ("6x3:same2", "'6x3:same2': 'same2': expected same"),
        ("6x3:groups2x2", "'6x3:groups2x2': expected an integer of at least 1, got '2x2'"),
        ("pool2:norm", "'pool2:norm': unknown option 'norm'"),
        ("global:same", "'global:same': unknown option 'same'; it takes none"),
        ("drop1", "'drop1': expected a share below 1 to drop"),
        ("6x3:groups4", "--conv: '6x3:groups4': Conv2D: groups: expected a divisor of the 6 filters, got 4"),
        ("6x3,pool2,8x7", "--conv: '8x7': Conv2D: windows of 7 x 7 pixels do not fit into images of 3 x 2"),
        ("6x3,global,pool2", "--conv: 'pool2': MaxPool2D: expected images"),
        ("6x3,pool2:pad2", "--conv: 'pool2:pad2': MaxPool2D: padding of 2 pixels"),
    ],
)
def test_the_wrong_piece_is_named(folder: Path, conv: str, says: str) -> None:
    result = run("train", folder / "gray.npz", "--conv", conv, "--epochs", 1)
    assert result.exit_code == 2, result.output
    assert says in said(result)


@pytest.mark.parametrize(
    ("data", "options", "code", "says"),
    [
        ("flat.npz", ["--conv", "6x3"], 2, "examples of flat are 48 numbers in a row; if they are images, say"),
        ("table.csv", ["--augment", "shift=0.1"], 2, "as in --shape 28x28, or 32x32x3 with channels"),
        ("gray.npz", ["--conv", "6x3", "--shape", "7x7"], 1, "--shape: an image has 7 x 7 = 49 numbers, and an example of"),
        ("gray.npz", ["--conv", "6x3", "--shape", "48"], 2, "expected the height and the width of an image"),
        ("gray.npz", ["--conv", "6x3", "--shape", "0x48"], 2, "such as 28x28 or 32x32x3, got '0x48'"),
        ("gray.npz", ["--augment", "rotaton=5"], 2, "an augmentation has no 'rotaton'; did you mean 'rotation'?"),
        ("gray.npz", ["--augment", "rotation"], 2, "expected each number once"),
        ("gray.npz", ["--augment", "rotation=much"], 2, "rotation: expected a number, got 'much'"),
        ("gray.npz", ["--augment", "rotation=500"], 2, "--augment: rotation: expected a number from 0 to 180, got 500"),
        ("gray.npz", ["--augment", "vertical_flip=1"], 2, "vertical_flip: expected yes or no, got '1'"),
        ("gray.npz", ["--augment", ""], 2, "expected what is changed, such as rotation=10,shift=0.1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_images_is_told(folder: Path, data: str, options: list[str], code: int, says: str) -> None:
    result = run("train", folder / data, *options, "--epochs", 1)
    assert result.exit_code == code, result.output
    assert says in said(result)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("20x5", [fastnn.Conv2D(20, 5, activation="elu", weight_init="he")]),
        (
            "4x3x2:same:stride2x1:dilation2:groups2:norm",
            [
                fastnn.Conv2D(4, (3, 2), (2, 1), "same", 2, 2, weight_init="he"), fastnn.BatchNorm(), fastnn.Activation("elu"),
            ],
        ),
        ("pool2", [fastnn.MaxPool2D(2)]),
        ("mean3x2:pad1x0:stride1", [fastnn.MeanPool2D((3, 2), 1, (1, 0))]),
        ("l2pool2:same", [fastnn.L2Pool2D(2, padding="same")]),
        ("global", [fastnn.GlobalMeanPool2D()]),
        ("drop.5", [fastnn.Dropout(0.5)]),
        ("drop0.25:channels", [fastnn.Dropout(0.25, channels=True)]),
        ("none", []),
        ("pool2, global", [fastnn.MaxPool2D(2), fastnn.GlobalMeanPool2D()]),
    ],
)  # fmt: skip
def test_pieces_are_layers(text: str, layers: list[Any]) -> None:
    made = [layer for piece in read_pieces(text) for layer in images.build_layers(piece, "elu", "he")]
    assert [(type(each), each.config()) for each in made] == [(type(each), each.config()) for each in layers]


def test_augmentations_are_those_of_the_layer() -> None:
    assert set(images.AUGMENTATIONS) == set(fastnn.Augment.options) - {"shape"}
    given = "rotation=10,zoom=0.1,shift=0.2,smoothness=5,horizontal_flip=yes,fill=0.5"
    made = fastnn.Augment(**images.read_augmentation(given))
    expected = fastnn.Augment(rotation=10, zoom=0.1, shift=0.2, smoothness=5, horizontal_flip=True, fill=0.5)
    assert made.config() == expected.config()


@pytest.mark.parametrize(("text", "shape"), [("28x28", (28, 28)), (" 32X32x3", (32, 32, 3)), ("8,6", (8, 6))])
def test_shapes(text: str, shape: tuple[int, ...]) -> None:
    assert read_shape(text) == shape
    with pytest.raises(InputError, match="expected the height"):
        read_shape(f"{math.prod(shape)}")
