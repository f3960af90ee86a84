"""CIFAR's binary files: what is in them comes back, and what is wrong with them is said."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fastnn.cli import main
from fastnn.datasets import cifar, load, read_cifar
from fastnn.errors import FastnnError, FileError, FormatError, InputError

TEN = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def record(labels: tuple[int, ...], image: np.ndarray) -> bytes:
    """Byte by byte as the description of the format has it."""
    planes = [[int(image[row, column, channel]) for row in range(32) for column in range(32)] for channel in range(3)]
    return struct.pack(f"{len(labels)}B3072B", *labels, *planes[0], *planes[1], *planes[2])


def write(path: Path, labels: list[tuple[int, ...]], pixels: np.ndarray) -> Path:
    path.write_bytes(b"".join(record(*each) for each in zip(labels, pixels, strict=True)))
    return path


def write_ten(folder: Path, names: str | None = "\n".join(NAMES) + "\n\n") -> tuple[np.ndarray, np.ndarray]:
    """Five batches of 2, 3, 4, 5 and 6 images and a test batch of 4; all images and labels, in order."""
    folder.mkdir()
    X, y = images(24), np.random.default_rng(1).integers(0, 10, 24)
    ends = np.cumsum([2, 3, 4, 5, 6, 4])
    for file, end, count in zip(TEN, ends, (2, 3, 4, 5, 6, 4), strict=True):
        write(folder / file, [(int(label),) for label in y[end - count : end]], X[end - count : end])
    if names is not None:
        (folder / "batches.meta.txt").write_text(names)
    return X, y


def write_hundred(folder: Path) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    folder.mkdir()
    X, labels = images(7), [(3, 99), (19, 0), (0, 5), (3, 5), (7, 70), (7, 71), (3, 99)]
    write(folder / "train.bin", labels[:5], X[:5])
    write(folder / "test.bin", labels[5:], X[5:])
    return X, labels


@pytest.mark.parametrize("count", [1, 1000, 1001])
def test_a_file_of_any_length(tmp_path: Path, count: int) -> None:
    pixels = images(count)
    rows = np.concatenate(
        [(np.arange(count)[:, None] % 10).astype(np.uint8), pixels.transpose(0, 3, 1, 2).reshape(count, -1)], 1
    )
    (tmp_path / "b.bin").write_bytes(rows.tobytes())
    X, y = read_cifar(tmp_path / "b.bin")
    assert (X.dtype, y.dtype, y.shape) == (np.uint8, np.uint8, (count, 1))
    np.testing.assert_array_equal(X, pixels)
    np.testing.assert_array_equal(y[:, 0], np.arange(count) % 10)


def test_cifar_10(tmp_path: Path) -> None:
    X, y = write_ten(tmp_path / "set", names=None)
    data = load(tmp_path / "set").as_images()
    assert data.X_test is not None
    assert (data.X_train.shape, data.X_test.shape, data.X_train.dtype) == ((20, 32, 32, 3), (4, 32, 32, 3), np.uint8)
    assert (data.name, data.classes, data.scale, data.image_shape) == ("set", len(set(y.tolist())), 1 / 255, (32, 32, 3))
    np.testing.assert_array_equal(np.concatenate([data.X_train, data.X_test]), X)
    np.testing.assert_array_equal(np.concatenate([data.y_train, data.y_test]), y)
    assert data.y_train.dtype == np.int64
    rows = load(tmp_path / "set")
    np.testing.assert_array_equal(rows.X_train, X[:20].reshape(20, 3072))
    one, label = read_cifar(tmp_path / "set" / "data_batch_2.bin")
    np.testing.assert_array_equal(one, X[2:5])
    np.testing.assert_array_equal(label[:, 0], y[2:5])


def test_labels_are_names_where_a_file_says_them(tmp_path: Path) -> None:
    _, y = write_ten(tmp_path / "set")
    data = load(tmp_path / "set")
    assert np.concatenate([data.y_train, data.y_test]).tolist() == [NAMES[label] for label in y]


def test_cifar_100(tmp_path: Path) -> None:
    X, labels = write_hundred(tmp_path / "set")
    fine, coarse = load(tmp_path / "set"), load(tmp_path / "set", "coarse")
    np.testing.assert_array_equal(fine.as_images().X_train, X[:5])
    assert fine.y_train.tolist() == load(tmp_path / "set", "fine").y_train.tolist() == [pair[1] for pair in labels[:5]]
    assert [*coarse.y_train, *coarse.y_test] == [pair[0] for pair in labels]
    assert (fine.classes, coarse.classes) == (5, 4)
    (tmp_path / "set" / "coarse_label_names.txt").write_text("\n".join(f"group {number}" for number in range(20)))
    assert load(tmp_path / "set", "coarse").y_train.tolist() == ["group 3", "group 19", "group 0", "group 3", "group 7"]
    assert load(tmp_path / "set").y_train.tolist() == [99, 0, 5, 5, 70]
    _, both = read_cifar(tmp_path / "set" / "train.bin", labels=2)
    assert both.tolist() == [list(pair) for pair in labels[:5]]
    with pytest.raises(InputError, match="the labels of CIFAR-100 are 'coarse' and 'fine', got 'medium'"):
        load(tmp_path / "set", "medium")
    with pytest.raises(InputError, match="drop: only tables"):
        load(tmp_path / "set", drop="fine")


def test_folders_are_found_in_fastnn_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    with pytest.raises(FileError, match=r"where is CIFAR-10.*set FASTNN_DATA"):
        load("cifar10")
    monkeypatch.setenv("FASTNN_DATA", str(tmp_path))
    with pytest.raises(FileError, match=r"there is no folder .*cifar100 \(nor cifar-100-binary\); FASTNN_DATA is"):
        load("cifar100")
    write_ten(tmp_path / "cifar-10-batches-bin")
    assert load("cifar10").name == "cifar10"
    assert load(tmp_path / "cifar-10-batches-bin").name == "cifar-10-batches-bin"
    (tmp_path / "empty").mkdir()
    write_hundred(tmp_path / "hundred")
    for folder in ("empty", "hundred"):
        (tmp_path / "cifar10").unlink(missing_ok=True)
        (tmp_path / "cifar10").symlink_to(tmp_path / folder)
        with pytest.raises(FileError, match=r"there are no binary files of CIFAR-10 in .*cifar10$"):
            load("cifar10")
    write_hundred(tmp_path / "cifar100")
    assert load("cifar100", "coarse").name == "cifar100"


def shortened(folder: Path) -> None:
    path = folder / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-100])


def emptied(folder: Path) -> None:
    (folder / "test_batch.bin").write_bytes(b"")


def cut_to_less_than_a_record(folder: Path) -> None:
    (folder / "test_batch.bin").write_bytes(bytes(3072))


def mislabeled(folder: Path) -> None:
    path = folder / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)


def without_a_batch(folder: Path) -> None:
    (folder / "data_batch_3.bin").unlink()


def with_a_folder_for_a_file(folder: Path) -> None:
    without_a_batch(folder)
    (folder / "data_batch_3.bin").mkdir()


def with_a_name_too_few(folder: Path) -> None:
    (folder / "batches.meta.txt").write_text("\n".join(NAMES[:9]))


def with_a_name_twice(folder: Path) -> None:
    (folder / "batches.meta.txt").write_text("\n".join((*NAMES[:9], "cat")))


def with_names_in_no_text(folder: Path) -> None:
    (folder / "batches.meta.txt").write_bytes(b"\xff\xfe\xff")


def with_the_other_set(folder: Path) -> None:
    (folder / "train.bin").write_bytes(bytes(3074))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shortened, FormatError, r"data_batch_4.bin has 15,265 bytes, .* 3,073 \(CIFAR-10\), got 4 of them and 2,973 more"),
        (emptied, FormatError, "test_batch.bin has 0 bytes, expected records of 3,073 .*, got none"),
        (cut_to_less_than_a_record, FormatError, "test_batch.bin has 3,072 bytes, .*, got less than one"),
        (mislabeled, FormatError, "data_batch_2.bin: the label of record 1 is 10, expected 0 to 9"),
        (without_a_batch, FileError, "there is no data_batch_3.bin in .*; the binary version of CIFAR-10 has data_batch_1.bin"),
        (with_a_folder_for_a_file, FileError, "there is no data_batch_3.bin in"),
        (with_a_name_too_few, FormatError, "batches.meta.txt: expected 10 different names, one a line, got 9: airplane"),
        (with_a_name_twice, FormatError, "batches.meta.txt: expected 10 different names, one a line, got 10"),
        (with_names_in_no_text, FormatError, "batches.meta.txt: expected the names of 10 classes as text"),
        (with_the_other_set, FormatError, "holds files of CIFAR-10 and of CIFAR-100"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: Callable[[Path], None], error: type[FastnnError], message: str) -> None:
    write_ten(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(error, match=message):
        load(tmp_path / "set")


def test_labels_of_cifar_100_are_both_checked(tmp_path: Path) -> None:
    for label, pair in (("coarse", (20, 0)), ("fine", (0, 100))):
        path = write(tmp_path / "train.bin", [(0, 0), pair], images(2))
        with pytest.raises(FormatError, match=f"the {label} label of record 1 is {max(pair)}, expected 0 to {max(pair) - 1}"):
            read_cifar(path, labels=2)


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.bin", [(0,), (1,)], images(2))
    monkeypatch.setattr(cifar, "_count", lambda *_: 3)
    with pytest.raises(FormatError, match=r"^[^:]*a\.bin became shorter while it was read$"):
        read_cifar(path)


def test_what_is_no_file_of_cifar(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*missing"):
        read_cifar(tmp_path / "missing.bin")
    (tmp_path / "a.bin").write_bytes(bytes(3073))
    with pytest.raises(InputError, match=r"labels: expected 1 label byte \(CIFAR-10\) or 2 \(CIFAR-100\), got 3"):
        read_cifar(tmp_path / "a.bin", labels=3)
    for name in ("data_batch_1", "batches.meta"):
        (tmp_path / name).write_bytes(b"\x80")
    with pytest.raises(FormatError, match="holds CIFAR-10 for Python, in pickles; take the binary version"):
        load(tmp_path)
    with pytest.raises(InputError, match="target: only tables"):
        load("digits", "coarse")


def test_the_command_trains_on_a_folder(tmp_path: Path) -> None:
    write_hundred(tmp_path / "set")
    arguments = [
        "train",
        str(tmp_path / "set"),
        "--target",
        "coarse",
        "--conv",
        "2x3,pool4",
        "--hidden",
        "none",
        "--epochs",
        "1",
    ]
    result = CliRunner().invoke(main, [*arguments, "--validation", "0"])
    assert result.exit_code == 0, result.output
    assert "32 x 32 x 3 features, 4 classes" in result.stdout
    assert re.search(r"test accuracy: (0|0.5|1).0*", result.stdout)
    result = CliRunner().invoke(main, ["train", str(tmp_path / "set"), "--target", "middle"])
    assert result.exit_code != 0
    assert "the labels of CIFAR-100 are 'coarse' and 'fine'" in " ".join(result.stderr.split())


def test_saved_networks_know_which_labels_they_were_trained_for(tmp_path: Path) -> None:
    write_hundred(tmp_path / "set")
    (tmp_path / "set" / "coarse_label_names.txt").write_text("\n".join(f"group {number}" for number in range(20)))
    folder, model = str(tmp_path / "set"), str(tmp_path / "m.safetensors")
    run = CliRunner().invoke
    options = ["--target", "coarse", "--hidden", "none", "--epochs", "1", "--validation", "0", "--save", model]
    assert run(main, ["train", folder, *options]).exit_code == 0
    for command in (["evaluate", model, folder], ["train", folder, "--from", model, "--epochs", "1", "--validation", "0"]):
        result = run(main, command)
        assert result.exit_code == 0, result.output
    assert "group 19" in run(main, ["evaluate", model, folder]).stdout
    assert set(run(main, ["predict", model, folder]).stdout.split("\n")[1:3]) <= {f"group {label}" for label in (0, 3, 7, 19)}
    assert run(main, ["evaluate", model, folder, "--target", "fine"]).exit_code == 1
