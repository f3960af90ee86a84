"""The benchmark's runner: the same computation for everybody, faults of contestants, budgets, and runs that end early."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from fastnn.benchmarks import record as records
from fastnn.benchmarks import runner
from fastnn.benchmarks.grid import (
    ACTIVATIONS,
    CALLS,
    NETWORKS,
    QUICK,
    QUICK_INFERENCE,
    Cell,
    Task,
    cells,
    check_order,
    find_network,
    inference_cells,
    make_task,
    own_network,
)  # fmt: skip
from fastnn.benchmarks.limits import best_known
from fastnn.benchmarks.neighbor import Neighbor
from fastnn.benchmarks.peers import CONTESTANTS, REFERENCES, Cannot, Contestant, Entry, load
from fastnn.benchmarks.peers.ours import Fastnn
from fastnn.benchmarks.process import Failed, Process, TimedOut
from fastnn.benchmarks.watcher import Watcher
from fastnn.cli import main
from fastnn.engines import cores
from fastnn.engines.explain import Limits
from fastnn.errors import FileError, FormatError, InputError

TINY = Cell("planar", 32)


def entry(name: str) -> Entry:
    return Entry(name, name, f"planted:{name}", (), ("cpu",), infers=True)


@pytest.fixture(autouse=True)
def _planted_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contestants' processes find `planted.py` too."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH")]))
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Puts contestants of `planted.py` into the table, and leaves the limits of the machine unmeasured."""
    monkeypatch.setattr(runner._Field, "_limits", lambda field, device: None)

    def plant(*names: str) -> list[str]:
        for name in names:
            monkeypatch.setitem(CONTESTANTS, name, entry(name))
        return list(names)

    return plant


def run(cells: list[Cell], peers: list[str], **settings: Any) -> records.Record:
    return runner.run(
        runner.plan(
            cells, peers, **{"rounds": 2, "processes": 1, "peer_processes": 1, "seconds": 0.01, "budget": 60.0, **settings}
        )
    )


# --- the grid -------------------------------------------------------------------------------------------------------


def test_the_grid_is_that_of_the_documentation() -> None:
    found = cells()
    # Five networks at six sizes, but for deep at 1; planar at 400; three with convolutions at four sizes of their own.
    assert len(found) == 5 * 6 - 1 + 1 + 3 * 4
    assert Cell("planar", 400) in found
    assert Cell("deep", 8) in found
    assert Cell("deep", 1) not in found
    assert [cell.batch_size for cell in found if cell.network == "cifar"] == [10, 32, 128, 512]
    assert {cell.batch_size for cell in cells(devices=["cuda"])} == {1, 8, 10, 32, 128, 400, 512, 2048, 8192, 65536}
    assert [Cell("mnist", size).rows for size in (1, 32, 2048)] == [2000, 6400, 60000]
    assert Cell("mnist", 65536, "cuda").rows == 4 * 65536
    assert set(QUICK) <= set(found)
    assert any(NETWORKS[cell.network].image_layers for cell in QUICK)
    assert NETWORKS["wide"].label == "784-1024x4-10"


def test_convolutional_networks_of_the_grid() -> None:
    """Labels, inputs of the first dense layer, parameters, and operations of a step, counted here layer by layer."""
    one, two, cifar = (NETWORKS[name] for name in ("nielsen1", "nielsen2", "cifar"))
    assert one.label == "28x28x1-20x5,pool2-100-10"
    assert two.label == "28x28x1-20x5,pool2,40x5,pool2-100-10"
    assert cifar.label == "32x32x3-32x3:same,32x3:same,pool2,64x3:same,64x3:same,pool2-128-10"
    assert (one.sizes[0], two.sizes[0], cifar.sizes[0]) == (12 * 12 * 20, 4 * 4 * 40, 8 * 8 * 64)
    assert one.parameters == 26 * 20 + 2881 * 100 + 1010
    assert two.parameters == 26 * 20 + 501 * 40 + 641 * 100 + 1010
    assert cifar.parameters == 28 * 32 + 289 * (32 + 64) + 577 * 64 + 4097 * 128 + 1290
    assert {find_network(name).kind for name in ("nielsen1", "8x8x1-2x3-1")} == {"convolutional networks"}
    assert (NETWORKS["mnist"].kind, NETWORKS["deep"].kind) == ("small networks", "large networks")
    # Of no more operations than a machine does in a second or so, but of four mini-batches, all of them whole.
    for cell in cells(["nielsen1", "nielsen2", "cifar"]):
        assert cell.rows % cell.batch_size == 0
        assert cell.steps == 4 or cell.rows * find_network(cell.network).operations <= 2**36
    assert (Cell("cifar", 128).steps, Cell("cifar", 512).steps, Cell("nielsen1", 32).steps) == (4, 4, 200)
    assert Cell("cifar", 512, "cuda").rows == 2**28 // (4 * 32 * 32 * 3)


@pytest.mark.parametrize("name", ["nielsen2", "cifar"])
def test_the_limit_counts_every_operation_of_a_convolution(name: str) -> None:
    """Two operations for every weight and every place, three times but for the inputs; what else there is, is little."""
    network, rows = NETWORKS[name], 8
    work = Fastnn(make_task(Cell(name, rows), 1)).work()
    first, *others = [rows * layer.operations for layer in network.image_layers if layer.filters]
    dense = [2 * rows * i * o for i, o in itertools.pairwise(network.sizes)]
    least = 2 * first + 3 * sum(others) + 3 * sum(dense)
    assert least <= sum(operations for operations, _ in work) < 1.1 * least + 20 * network.parameters


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"networks": ["mnits"]}, "did you mean 'mnist'"),
        ({"devices": ["cud"]}, "did you mean 'cuda'"),
        ({"precisions": ["bf61"]}, "did you mean 'bf16'"),
        ({"batch_sizes": [0]}, "integer"),
        ({"batch_sizes": [True]}, "integer"),
        ({"networks": ["deep"], "batch_sizes": [4]}, "no cell is left"),
        ({"precisions": ["bf16"]}, "no cell is left"),
    ],
)
def test_what_is_not_in_the_grid_is_refused(asked: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        cells(**asked)


@pytest.mark.parametrize(
    ("name", "sizes", "activation", "canonical"),
    [
        ("512-768-768-20", (512, 768, 768, 20), "relu", "512-768-768-20"),
        ("512-768x2-20-relu", (512, 768, 768, 20), "relu", "512-768-768-20"),
        ("33-7x5-3-tanh", (33, 7, 7, 7, 7, 7, 3), "tanh", "33-7x5-3-tanh"),
        ("5-1", (5, 1), "relu", "5-1"),
    ],
)
def test_networks_of_ones_own_say_what_they_are(name: str, sizes: tuple[int, ...], activation: str, canonical: str) -> None:
    network = find_network(name)
    assert (network.sizes, network.activation, network.name) == (sizes, activation, canonical)
    assert own_network(sizes, activation) == network
    assert find_network(canonical) == network
    assert cells([name, canonical], [8]) == (Cell(canonical, 8),)


@pytest.mark.parametrize(
    ("name", "images", "canonical"),
    [
        ("28x28x1-20x5,pool2-100-10", [(24, 24, 20), (12, 12, 20)], ""),
        ("28x28x1-20x5x5, pool2x2-100-10-relu", [(24, 24, 20), (12, 12, 20)], "28x28x1-20x5,pool2-100-10"),
        ("9x7x2-5x3x2:same,pool2x3,4x2:same-3-tanh", [(9, 7, 5), (4, 2, 5), (4, 2, 4)], ""),
        ("8x8x3-pool3-6-6-6-1", [(2, 2, 3)], "8x8x3-pool3-6x3-1"),
    ],
)
def test_networks_with_convolutions_say_what_they_are(name: str, images: list[tuple[int, ...]], canonical: str) -> None:
    network = find_network(name)
    assert [layer.images for layer in network.image_layers] == images
    assert network.name == (canonical or name)
    assert find_network(network.name) == network
    task = make_task(Cell(name, 5), 1)
    assert task.X.shape[1:] == network.example == network.image
    assert [w.shape for w, _ in task.kernels] == [layer.weight for layer in network.convolutions]
    assert [w.shape for w, _ in task.weights] == list(itertools.pairwise(network.sizes))
    assert network.sizes[0] == np.prod(images[-1])


def test_data_of_a_network_of_ones_own() -> None:
    for name in ("1-4-1", "7-3"):
        task = make_task(Cell(name, 8), 1)
        assert len(np.unique(task.y)) == max(2, task.network.sizes[-1])
        assert [w.shape for w, _ in task.weights] == list(itertools.pairwise(task.network.sizes))
    assert Cell("784-2", 2048).rows == 60_000
    assert Cell("50000-2", 1000).rows == 2**28 // 200_000  # X is no larger than 256 MiB
    assert Cell("50000-2", 4000).rows == 4000  # but for one mini-batch
    assert Cell("a network of another version", 8).rows == 2000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("512", "expected 2 to 100 sizes"),
        ("512-0-10", "from 1 to 65536"),
        ("70000-10", "from 1 to 65536, inputs first and outputs last, got 70000-10"),
        ("2x99-2-1", "expected 2 to 100 sizes"),
        ("60000-60000-2", "3,600,180,002 parameters"),
        ("512-20-rleu", "did you mean 'relu'"),
        ("512-a-20", "no network is called '512-a-20'"),
        ("512-5x0-20", "no network is called"),
        ("512--20", "no network is called"),
        ("", "no network is called"),
        ("28x28x1", "no network is called"),
        ("28x28x1-20x5", "no network is called"),
        ("28x28x1-20-10", "'20': expected 20x5"),
        ("28x28x1-none-10", "expected 1 to 100 layers for images"),
        ("28x28x1-mean2-10", "'mean2': in the benchmark images go through convolutions"),
        ("28x28x1-20x5:norm-10", "'20x5:norm': in the benchmark"),
        ("28x28x1-pool2:same-10", "'pool2:same': in the benchmark"),
        ("28x28x1-20x5,pool25-10", "'pool25': windows of 25 x 25 pixels do not fit into images of 24 x 24"),
        ("28x0x1-20x5-10", "expected height, width and channels of images, got 28x0x1"),
        ("28x28x1-20x5-0", "expected sizes of dense layers from 1 to 65536"),
        ("2000x600x1-1x1-10", "images of 1,200,000 numbers"),
    ],
)
def test_what_is_no_network_is_refused(name: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        find_network(name)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--inputs", "512"], "needs --inputs, or --shape and --conv, and --hidden"),
        (["--shape", "28x28", "--hidden", "5", "--outputs", "2"], "needs --inputs, or --shape and --conv"),
        (["--inputs", "784", "--conv", "2x2", "--hidden", "5", "--outputs", "2"], "needs --inputs, or --shape and --conv"),
        (["--shape", "28", "--conv", "2x2", "--hidden", "5", "--outputs", "2"], "the height and the width of an image"),
        (["--shape", "28x28", "--conv", "2x", "--hidden", "5", "--outputs", "2"], "'2x': expected 20x5"),
        (["--shape", "28x28", "--conv", "global", "--hidden", "5", "--outputs", "2"], "'global': in the benchmark"),
        (["--inputs", "512", "--hidden", "768,x", "--outputs", "20"], "expected integers above 0"),
        (["--inputs", "512", "--hidden", "768", "--outputs", "0"], "--outputs"),
        (["--inputs", "70000", "--hidden", "none", "--outputs", "2"], "from 1 to 65536"),
        (["--inputs", "5", "--hidden", "none", "--outputs", "2", "--activation", "tnh"], "did you mean 'tanh'"),
        (["--inputs", "5", "--hidden", "none", "--outputs", "2", "--full"], "give --quick"),
    ],
)
def test_options_that_describe_no_network_are_refused(options: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, ["bench", *options])
    assert result.exit_code == 2
    assert expected in result.stderr


def test_the_command_knows_the_activations_of_the_grid() -> None:
    assert importlib.import_module("fastnn.cli.bench").ACTIVATIONS == ACTIVATIONS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name", "compared"),
    [
        ("--inputs 5 --hidden 7,7,7 --outputs 3 --activation tanh", "5-7x3-3-tanh", {"sklearn"}),
        ("--shape 6x5 --conv 3x3:same,pool2 --hidden 4 --outputs 1", "6x5x1-3x3:same,pool2-4-1", set()),
    ],
)
def test_a_network_of_ones_own_is_measured(options: str, name: str, compared: set[str], tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    settings = "--batch-size 9 --peer sklearn --rounds 1 --seconds 0.01"
    result = CliRunner().invoke(main, ["bench", *options.split(), *settings.split(), "--output", str(path)])
    assert result.exit_code == 0, result.stderr
    [measured] = records.read(path).done
    assert measured.cell == Cell(name, 9)
    assert set(measured.measured) == {"fastnn"} | compared, measured.results
    assert f"{name}     9" in result.stdout
    assert ("MLPClassifier has no convolutions" in " ".join(result.stdout.split())) is not bool(compared)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"peers": ["troch"]}, "did you mean 'torch'"),
        ({"peers": ["fastnn"]}, "no peer"),
        ({"timings": ["fit-2"]}, "no timing is called 'fit-2'"),
        ({"timings": ["neighbor"], "threads": 1}, "neighbor: expected 2 threads"),
        ({"threads": 0}, "threads"),
        ({"threads": 63}, "cores here"),
        ({"rounds": 0}, "rounds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"budget": -1.0}, "budget"),
    ],
)
def test_settings_that_make_no_sense_are_refused(asked: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        runner.plan([TINY], **asked)


def test_a_task_is_the_same_wherever_it_is_made() -> None:
    code = (
        "from fastnn.benchmarks.grid import *; import hashlib\n"
        "t = make_task(Cell('mnist', 8), 1)\n"
        "arrays = [t.X, t.y, t.weights[0][0], check_order(t.cell)]\n"
        "print(hashlib.sha256(b''.join(array.tobytes() for array in arrays)).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)
    }
    assert len(digests) == 1


# --- the same computation --------------------------------------------------------------------------------------------


SLOW = [pytest.param(cell, marks=pytest.mark.slow) for cell in QUICK[1:]]


IMAGES = [Cell("nielsen2", 10), Cell("9x7x2-5x3x2:same,pool2x3,4x2:same,pool2,3x1-6-3-tanh", 7), Cell("8x8x1-4x3,pool2-1", 9)]
"""Two layers of convolutions; sides, windows and channels that all differ, pixels that pooling leaves out; a yes or no."""


@pytest.mark.slow
@pytest.mark.parametrize("cell", [TINY, *SLOW, pytest.param(Cell("wide", 32), marks=pytest.mark.slow), *IMAGES], ids=str)
@pytest.mark.parametrize("name", ["torch", "torch-nhwc", "jax", "sklearn"])
def test_the_peers_compute_what_fastnn_computes(cell: Cell, name: str) -> None:
    if CONTESTANTS[name].missing():
        pytest.skip(CONTESTANTS[name].missing())
    ours = Fastnn(make_task(cell, 1, checking=True), device="numpy").losses(check_order(cell))
    asked = {"cell": msgspec.to_builtins(cell)}
    with Process(CONTESTANTS[name], "cpu", 1) as process:
        images = bool(find_network(cell.network).image_layers)
        if name == "sklearn" and (images or cell.network == "deep"):
            with pytest.raises(Cannot, match="no convolutions" if images else "no batch norm"):
                process.ask("losses", 60.0, dropout=False, **asked)
            return
        theirs = process.ask("losses", 60.0, dropout=False, **asked)["losses"]
        assert runner.disagreement(ours, theirs, find_network(cell.network).tolerance) == ""
        assert process.ask("prepare", 120.0, **asked)["first_seconds"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as the processes of contestants do
def test_jax_computes_the_same_in_a_loop_and_in_a_scan() -> None:
    """The loop is for convolutions on a CPU, the scan for those on a GPU."""
    if CONTESTANTS["jax"].missing():
        pytest.skip(CONTESTANTS["jax"].missing())
    cell = IMAGES[1]
    task, order = make_task(cell, 1, checking=True), check_order(cell)
    expected = Fastnn(task, device="numpy").losses(order)
    for looping in (True, False):
        contestant: Any = load(CONTESTANTS["jax"].home)(task)
        assert contestant.looping
        contestant.looping = looping
        assert runner.disagreement(expected, contestant.losses(order), 2e-5) == ""
        mean = contestant.short_fit(task.X[:21], task.y[:21]) / 3
        assert runner.disagreement([expected[-1]], [mean], 0.2) == ""


@pytest.mark.slow
@pytest.mark.parametrize("cell", [TINY, Cell("nielsen", 8), IMAGES[1]], ids=str)
@pytest.mark.parametrize("name", ["fastnn", "torch", "torch-nhwc", "torch-compile", "compile-nhwc", "jax", "sklearn"])
@pytest.mark.filterwarnings("ignore")  # as the processes of contestants do
def test_short_calls_compute_what_an_epoch_computes(cell: Cell, name: str) -> None:
    """A call of one step sees the rows of one mini-batch in whatever order, one of four steps the same row in every place."""
    if CONTESTANTS[name].missing():
        pytest.skip(CONTESTANTS[name].missing())
    if cell in IMAGES and name == "sklearn":
        pytest.skip("it has no convolutions")
    order = check_order(cell)
    task = make_task(cell, 1, checking=True)
    expected = Fastnn(task, device="numpy").losses(order)
    for method in ("short_fit", "partial_fit", "training_step"):
        contestant = load(CONTESTANTS[name].home)(task)
        X, y = contestant.host_data()
        found = [getattr(contestant, method)(X[index], y[index]) for index in order]
        assert runner.disagreement(expected, found, find_network(cell.network).tolerance) == "", method
    same = np.full((5, cell.batch_size), order[0, 0])
    if name == "fastnn":  # whose first labels must be of several classes
        before = contestant.model.state.counters.step
        contestant.short_fit(X[order[:4].ravel()], y[order[:4].ravel()])
        assert contestant.model.state.counters.step == before + 4
        return
    if CONTESTANTS["torch"].missing():
        pytest.skip(CONTESTANTS["torch"].missing())
    *four, fifth = load(CONTESTANTS["torch"].home)(task).losses(same)
    contestant = load(CONTESTANTS[name].home)(task)
    mean = contestant.short_fit(X[same[:4].ravel()], y[same[:4].ravel()]) / (1 if name == "sklearn" else 4)
    after = contestant.partial_fit(X[same[4]], y[same[4]])
    assert runner.disagreement([sum(four) / 4, fifth], [mean, after], find_network(cell.network).tolerance) == ""


INFERENCE = [
    Cell("planar", 1, method="model"), Cell("planar", 3, method="predict_proba"), Cell("deep", 7, method="model"),
    Cell("13-5x3-4-sigmoid", 33, method="predict_proba"), Cell("nielsen", 1, method="predict_proba"),
    *(Cell(cell.network, 5, method=method) for cell in IMAGES for method in ("model", "predict_proba")),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("cell", INFERENCE, ids=str)
@pytest.mark.parametrize("name", ["fastnn", "torch", "torch-nhwc", "jax", "sklearn", "onnxruntime"])
@pytest.mark.filterwarnings("ignore")  # as the processes of contestants do
def test_everybody_infers_the_same(cell: Cell, name: str) -> None:
    if CONTESTANTS[name].missing():
        pytest.skip(CONTESTANTS[name].missing())
    task = make_task(cell, 1)
    images = bool(task.network.image_layers)
    assert CONTESTANTS[name].takes(cell) is (images or name != "torch-nhwc")
    if name == "sklearn" and (cell.method == "model" or images):
        with pytest.raises(Cannot, match="no convolutions" if images else r"not with logits|no batch norm"):
            load(CONTESTANTS[name].home)(task)
        return
    expected, found = Fastnn(task, device="numpy").sample(), load(CONTESTANTS[name].home)(task)
    assert runner.disagreement(expected, found.sample(), 2e-5, "output") == ""
    assert len(found.predict(found.host_data()[0])) == cell.batch_size
    assert found.time(2) > 0


def test_what_is_compared_of_an_answer() -> None:
    class Linear(Contestant):
        def predict(self, x: np.ndarray) -> np.ndarray:
            columns = np.arange(20 if not self.task.binary else 2)
            return np.arange(len(x))[:, None] * 100.0 + columns

    ten = list(range(10, 20))
    assert Linear(make_task(Cell("5-20", 1, method="model"), 1)).sample() == ten
    sample = Linear(make_task(Cell("5-20", 7, method="model"), 1)).sample()
    assert sample == [100 * row + column for row in (0, 1, 2, 5, 6) for column in ten]
    assert Linear(make_task(Cell("5-1", 2, method="predict_proba"), 1)).sample() == [1, 101]  # of no and yes the latter


def test_an_answer_that_is_not_finite_or_not_whole_is_not_timed() -> None:
    class Short(Contestant):
        answer: np.ndarray

        def predict(self, x: np.ndarray) -> np.ndarray:
            return self.answer

    contestant = Short(make_task(Cell("5-3", 2, method="model"), 1))
    for answer in (np.zeros((1, 3)), np.full((2, 3), np.nan)):
        contestant.answer = answer
        with pytest.raises(ArithmeticError, match="rows for 2"):
            contestant.time(1)


def test_the_cells_of_inference() -> None:
    found = inference_cells()
    assert len(found) == 5 * (4 + 1) + 3 * (3 + 1)
    assert {cell.batch_size for cell in found if cell.network == "cifar"} == {1, 32, 1024}
    assert {cell.batch_size for cell in found} == {1, 32, 1024, 16384}
    assert {cell for cell in found if cell.method == "predict_proba"} == {
        Cell(name, 1, method="predict_proba") for name in NETWORKS
    }
    assert set(QUICK_INFERENCE) <= set(found)
    assert inference_cells(["deep"], [1]) == tuple(Cell("deep", 1, method=method) for method in ("model", "predict_proba"))
    assert all(cell.rows == cell.batch_size and cell.steps == 1 for cell in found)
    for asked, expected in (((["mnits"],), "did you mean 'mnist'"), (((), [0]), "integer")):
        with pytest.raises(InputError, match=expected):
            inference_cells(*asked)


def test_inference_and_training_have_their_contestants() -> None:
    training, inference = runner.plan([TINY]), runner.plan([INFERENCE[0]])
    assert set(training.settings.contestants) == {"fastnn", "torch", "jax", "sklearn", "torch-compile"}
    assert set(inference.settings.contestants) == {"fastnn", "torch", "jax", "sklearn", "onnxruntime"}
    images = runner.plan([TINY, Cell("cifar", 10)])
    assert {*images.settings.contestants} - {*training.settings.contestants} == {"torch-nhwc", "compile-nhwc"}
    assert {*runner.plan([Cell("cifar", 1, method="model")]).settings.contestants} == {
        *inference.settings.contestants, "torch-nhwc",
    }  # fmt: skip
    assert all("NCHW" in images.contestants[name].notes for name in ("torch", "torch-compile"))
    assert all("channels_last" in images.contestants[name].notes for name in ("torch-nhwc", "compile-nhwc"))
    with pytest.raises(InputError, match="short calls are of training"):
        runner.plan([INFERENCE[0]], timings=["fit-4"])


def test_methods_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="no method is called 'predict'; did you mean 'predict_proba'"):
        runner.plan([Cell("planar", 1, method="predict")])


@pytest.mark.slow
def test_inference_is_measured_and_what_answers_wrongly_is_not(planted: Callable[..., list[str]], tmp_path: Path) -> None:
    cells = [INFERENCE[0], Cell("nielsen", 1, method="predict_proba"), Cell("nielsen", 3000, method="model")]
    record = run(cells, [*planted("Sound", "Doubles"), "onnxruntime"], processes=2)
    for measured in record.done:
        assert measured.results["fastnn"].status == "measured", measured.results["fastnn"].reason
        assert measured.results["Doubles"].status == "disagrees"
        assert "its output 1 is" in measured.results["Doubles"].reason
        assert sum(operations for operations, _ in measured.work) > 2 * measured.cell.rows * 10
        status = "missing" if CONTESTANTS["onnxruntime"].missing() else "measured"
        assert measured.results["onnxruntime"].status == status
    records.write(record, tmp_path / "record.json")
    assert [measured.cell for measured in records.read(tmp_path / "record.json").done] == cells


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--inference", "--device", "cuda"], "inference is measured on the CPU"),
        (["--inference", "--precision", "bf16"], "inference is measured on the CPU"),
        (["--inference", "--calls"], "short calls are of training"),
    ],
)
def test_inference_that_is_not_measured_is_refused(options: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, ["bench", *options])
    assert result.exit_code == 2
    assert expected in result.stderr


@pytest.mark.parametrize("cell", [TINY, *SLOW], ids=str)
def test_fastnn_computes_what_its_definition_computes(cell: Cell) -> None:
    task = make_task(cell, 1, checking=True)
    found, expected = (Fastnn(task, device=device).losses(check_order(cell)) for device in ("cpu", "numpy"))
    assert runner.disagreement(expected, found, NETWORKS[cell.network].tolerance) == ""


def test_losses_that_differ_are_told_apart() -> None:
    assert runner.disagreement([1.0, 2.0], [1.0, 2.0], 1e-6) == ""
    assert runner.disagreement([0.1], [0.1 + 1e-5], 2e-5) == ""
    assert runner.disagreement([100.0], [100.001], 2e-5) == ""
    assert "step 2" in runner.disagreement([1.0, 2.0], [1.0, 2.001], 1e-6)
    assert "nan" in runner.disagreement([1.0], [float("nan")], 1e-6)
    assert "0 numbers where 1" in runner.disagreement([1.0], [], 1e-6)
    assert runner.disagreement([float("nan")], [1.0], 1e-6)


# --- contestants that go wrong ---------------------------------------------------------------------------------------

FAULTS = {
    "FasterLearner": ("disagrees", "its loss of step"),
    "NotANumber": ("disagrees", "nan"),
    "Unable": ("cannot", "it has no hands"),
    "Raises": ("failed", "ValueError: one and two"),
    "Dies": ("failed", "signal 11 (SIGSEGV): the last words"),
    "Diverges": ("failed", "the loss of the last epoch is inf"),
}


@pytest.mark.slow
def test_every_fault_is_written_down_and_the_run_goes_on(planted: Callable[..., list[str]]) -> None:
    found = run([TINY, Cell("nielsen", 8)], planted(*FAULTS, "Sound"))
    for measured in found.done:
        assert list(measured.results) == ["fastnn", *FAULTS, "Sound"]
        for name, (status, reason) in FAULTS.items():
            assert measured.results[name].status == status, name
            assert reason in measured.results[name].reason, name
            assert not measured.results[name].seconds
        for name in ("fastnn", "Sound"):
            result = measured.results[name]
            assert result.status == "measured", result.reason
            assert len(result.seconds) == len(result.process) == 2
            assert result.first_seconds is not None
            assert len(result.losses) == 5
            assert result.peak_bytes is None or result.peak_bytes > 10**7
        assert len(measured.reference.one_core) == len(measured.reference.all_cores) == 2
        assert sum(operations for operations, _ in measured.work) > 0
        assert measured.best_peer == "Sound"


@pytest.mark.slow
def test_dropout_that_is_left_away_is_found(planted: Callable[..., list[str]]) -> None:
    found = run([Cell("deep", 8)], planted("Forgetful"), rounds=1)
    assert found.done[0].results["Forgetful"].status == "disagrees"
    assert "with and without dropout" in found.done[0].results["Forgetful"].reason
    assert found.done[0].results["fastnn"].status == "measured"


@pytest.mark.slow
def test_who_hangs_costs_its_share_of_the_budget_and_no_more(
    planted: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    found = run([TINY], planted("Hangs", "Sound"), budget=8.0)
    assert time.monotonic() - started < 8.0 + 15.0  # and what starting the processes takes
    results = found.done[0].results
    assert (results["Hangs"].status, results["Sound"].status) == ("timeout", "measured")
    assert "not ready in" in results["Hangs"].reason


@pytest.mark.slow
def test_who_hangs_in_a_turn_is_left_behind(planted: Callable[..., list[str]]) -> None:
    results = run([TINY], planted("HangsLater", "Sound")).done[0].results
    assert (results["HangsLater"].status, results["Sound"].status) == ("timeout", "measured")


@pytest.mark.slow
def test_peers_that_are_missing_and_devices_that_are_not_here(
    planted: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTESTANTS, "absent", Entry("absent", "Absent", "absent:Absent", ("absent_library",), ("cpu",)))
    record = runner.plan([TINY, Cell("mnist", 128, "cuda")], ["absent", "torch-graph"], rounds=1, seconds=0.01)
    record.environment.gpu = None
    runner.run(record)
    here, there = record.done
    assert here.results["absent"].status == "missing"
    assert "absent_library" in here.results["absent"].reason
    assert "pip install" in here.results["absent"].reason
    assert here.results["fastnn"].status == "measured"
    assert {result.status for result in there.results.values()} == {"no_device"}
    assert list(there.results) == ["fastnn", "torch-graph"]


@pytest.mark.slow
def test_a_run_on_a_gpu_alone_has_the_references_of_the_cpu(
    planted: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTESTANTS, "OnTheCpu", Entry("OnTheCpu", "here", "planted:OnTheCpu", (), ("cuda",)))
    record = runner.plan([Cell("planar", 32, "cuda")], ["OnTheCpu"], rounds=2, seconds=0.01)
    record.environment.gpu = records.Gpu(name="one that is not here", memory=2**30, driver="13.0")
    (cell,) = runner.run(record).done
    assert cell.results["OnTheCpu"].status == "measured"
    assert len(cell.reference.one_core) == len(cell.reference.all_cores) == 2


@pytest.mark.slow
def test_contestants_go_on_in_fresh_processes(planted: Callable[..., list[str]]) -> None:
    results = run([TINY], planted("Sound"), rounds=4, processes=4, peer_processes=2).done[0].results
    assert results["fastnn"].process == [0, 1, 2, 3]
    assert results["Sound"].process == [0, 0, 1, 1]


@pytest.mark.slow
def test_short_calls_have_turns_and_failures_of_their_own(planted: Callable[..., list[str]]) -> None:
    cell = Cell("planar", 1024)
    results = run([cell], planted("Sound", "Epochs", "Ends"), timings=list(CALLS), processes=2).done[0].results
    for name in ("fastnn", "Sound"):
        timings = results[name].timings
        assert {kind: timing.steps for kind, timing in timings.items()} == {kind: call.steps for kind, call in CALLS.items()}
        assert all(len(timing.seconds) == 2 and not timing.reason for timing in timings.values()), timings
    assert results["Epochs"].status == "measured"
    assert {timing.reason for timing in results["Epochs"].timings.values()} == {"it has no patience for less"}
    assert not any(timing.seconds for timing in results["Epochs"].timings.values())
    assert results["Ends"].status == "failed"
    assert "SIGSEGV" in results["Ends"].timings["fit-1"].reason


@pytest.mark.slow
def test_who_is_late_beside_its_epochs_goes_on_in_a_fresh_process(planted: Callable[..., list[str]]) -> None:
    """Behind its last turn too, where it is asked for its memory."""
    late = run([Cell("planar", 1024)], planted("Late"), timings=["fit-1", "fit-4"], rounds=2).done[0].results["Late"]
    assert (late.status, late.reason, late.process) == ("measured", "", [0, 1])
    assert late.peak_bytes
    for kind in ("fit-1", "fit-4"):
        assert (late.timings[kind].reason, late.timings[kind].seconds) == ("no answer in 5 s", [])


def ticks(pid: int) -> int:
    """Of processor time that a process used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.slow
def test_a_neighbor_is_busy_while_it_is_awake_and_at_no_other_time() -> None:
    with Neighbor(1) as neighbor:
        used = []
        for _ in range(2):
            with neighbor.awake():
                assert neighbor.process is not None
                pid = neighbor.process.pid
                started = ticks(pid)
                time.sleep(0.5)
                used.append(ticks(pid) - started)
            started = ticks(pid)
            time.sleep(0.3)
            assert ticks(pid) - started <= 1
        assert min(used) > 0.1 * os.sysconf("SC_CLK_TCK") * 0.5  # at least a tenth of a core, even on a busy machine
        if hasattr(os, "sched_getaffinity"):
            assert len(os.sched_getaffinity(pid)) == 1
        awake = neighbor.awake()
        awake.__enter__()
        os.kill(pid, signal.SIGKILL)
        neighbor.process.wait()
        with pytest.raises(Failed, match="exit code -9"):
            awake.__exit__(None, None, None)
        with neighbor.awake():  # and is there again
            assert neighbor.process.pid != pid
        pid = neighbor.process.pid
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
@pytest.mark.skipif(cores() < 2, reason="a neighbor needs a second core")
def test_turns_beside_a_neighbor(planted: Callable[..., list[str]]) -> None:
    record = runner.plan(
        [TINY], planted("Sound"), threads=2, rounds=2, processes=2, peer_processes=1, seconds=0.01, timings=["neighbor"]
    )
    results = runner.run(record).done[0].results
    for name in ("fastnn", "Sound"):
        [(kind, timing)] = results[name].timings.items()
        assert (kind, timing.steps, len(timing.seconds), timing.reason) == ("neighbor", TINY.steps, 2, "")


@pytest.mark.slow
def test_short_calls_end_with_the_budget(planted: Callable[..., list[str]]) -> None:
    """What is slow costs one call of one kind beyond it, and says so of the others."""
    started = time.monotonic()
    results = run([TINY], planted("Slow", "Sound"), timings=list(CALLS), budget=6.0, rounds=3).done[0].results
    assert time.monotonic() - started < 60.0
    assert (results["Slow"].status, results["fastnn"].status) == ("measured", "measured")
    timings = list(results["Slow"].timings.values())
    assert len(timings) == len(CALLS)
    assert timings[-1].reason == runner.SPENT
    assert not timings[-1].seconds


class Spy(Contestant):
    """Notes (first row, number of rows) of every call."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.seen: list[tuple[int, int]] = []

    def partial_fit(self, x: Any, t: Any) -> float:
        assert len(x) == len(t)
        self.seen.append((int(np.flatnonzero(self.task.X[:, 0] == x[0, 0])[0]), len(x)))
        return 0.0

    short_fit = partial_fit


def test_single_steps_see_all_of_the_data_and_short_fits_the_same_rows() -> None:
    contestant = Spy(make_task(Cell("planar", 300), 1))
    assert contestant.task.cell.rows == 60_000
    for _ in range(2):
        assert contestant.time_calls(CALLS["partial_fit"], 150) > 0
    assert contestant.seen == [(300 * (call % 200), 300) for call in range(300)]
    contestant.seen.clear()
    contestant.time_calls(CALLS["fit-16"], 3)
    assert contestant.seen == [(0, 4800)] * 3
    with pytest.raises(Cannot, match="60000 rows, and 64000 are needed"):
        Spy(make_task(Cell("planar", 4000), 1)).time_calls(CALLS["fit-16"], 1)
    with pytest.raises(Cannot, match="no single steps"):
        Contestant(contestant.task).time_calls(CALLS["partial_fit"], 1)


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_is_pinned_and_waits_without_working() -> None:
    with Process(REFERENCES[0], "cpu", 1) as process:
        process.ask("prepare", 60.0, cell={"network": "planar", "batch_size": 1})
        assert process._process is not None
        pid = process._process.pid
        if hasattr(os, "sched_getaffinity"):
            assert len(os.sched_getaffinity(pid)) == 1

        process.ask("run", 60.0, runs=3)
        before = ticks(pid)
        time.sleep(0.5)
        assert ticks(pid) - before <= 2
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_process_that_ended_is_started_anew() -> None:
    with Process(entry("Dies"), "cpu", 1) as process:
        with pytest.raises(Failed, match="SIGSEGV"):
            process.ask("prepare", 60.0, cell={"network": "planar", "batch_size": 32})
        assert process.ask("hello", 60.0) == {}
        assert process.started == 2


@pytest.mark.slow
def test_a_late_answer_ends_the_process() -> None:
    with Process(entry("Hangs"), "cpu", 1) as process:
        process.ask("hello", 60.0)
        with pytest.raises(TimedOut, match="no answer in 1 s"):
            process.ask("losses", 1.0, cell={"network": "planar", "batch_size": 32}, dropout=False)
        assert process._process is None


# --- runs that end early -----------------------------------------------------------------------------------------------


class Interrupting(Watcher):
    def cell(self, record: records.Record, measured: records.Measured) -> None:
        if len(record.done) == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_run_goes_on(planted: Callable[..., list[str]], tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = runner.plan([TINY, Cell("planar", 8), Cell("planar", 1)], [], rounds=1, seconds=0.01)
    with pytest.raises(KeyboardInterrupt):
        runner.run(record, path, Interrupting())
    kept = records.read(path)
    assert [measured.cell for measured in kept.done] == [TINY, Cell("planar", 8)]
    assert kept.left == [Cell("planar", 1)]
    runner.resume(kept)
    first = kept.done[0].results["fastnn"].seconds
    runner.run(kept, path)
    whole = records.read(path)
    assert [measured.cell for measured in whole.done] == record.settings.cells
    assert whole.done[0].results["fastnn"].seconds == first


@pytest.mark.parametrize("what", ["machine", "commit", "versions"])
def test_a_run_does_not_go_on_elsewhere(what: str) -> None:
    record = runner.plan([TINY], [])
    setattr(record.environment, what, {"fastnn": "0.0.1"} if what == "versions" else "another")
    with pytest.raises(InputError, match=what):
        runner.resume(record)


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_written(
    planted: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on file sizes is lowered after the first cell: a real failure of a real write."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "record.json"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    warnings: list[str] = []

    class Filling(Watcher):
        def cell(self, record: records.Record, measured: records.Measured) -> None:
            if len(record.done) == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

        def warn(self, text: str) -> None:
            warnings.append(text)

    record = runner.plan([TINY, Cell("planar", 8)], [], rounds=1, seconds=0.01)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(FileError, match="cannot be written"):
            runner.run(record, path, Filling())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warnings) == 1
    assert [measured.cell for measured in records.read(path).done] == [TINY]
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
    assert len(record.done) == 2


@pytest.mark.slow
def test_a_killed_run_loses_at_most_the_running_cell(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    command = [
        sys.executable, "-m", "fastnn", "bench", "--network", "planar", "--peer", "none", "--rounds", "2", "--seconds", "0.01",
        "--output", str(path),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    for text in process.stdout:
        if text.startswith(b"planar"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = records.read(path)
    assert kept.done
    assert kept.left
    resumed = subprocess.run(
        [sys.executable, "-m", "fastnn", "bench", "--resume", str(path)], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    whole = records.read(path)
    assert not whole.left
    assert len(whole.done) == len(whole.settings.cells) == 7


# --- limits ------------------------------------------------------------------------------------------------------------


def test_the_best_limits_of_a_machine_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnn_kernels.caching.cache_folder", lambda: tmp_path)

    def limit(operations: float, rate: float) -> records.Limit:
        now = Limits(2, operations, ((100, rate), (1000, rate / 2)))
        return records.Limit(device="cpu", precision="float32", best=now, now=now)

    assert best_known([limit(10.0, 4.0)], "a")[0].best == Limits(2, 10.0, ((100, 4.0), (1000, 2.0)))
    found = best_known([limit(9.0, 5.0)], "a")[0]
    assert found.best == Limits(2, 10.0, ((100, 5.0), (1000, 2.5)))
    assert found.now == Limits(2, 9.0, ((100, 5.0), (1000, 2.5)))
    assert best_known([limit(1.0, 1.0)], "b")[0].best.operations == 1.0
    assert best_known([limit(1.0, 1.0)], "a")[0].best.operations == 10.0
    (tmp_path / "limits.json").write_text("{broken")
    assert best_known([limit(1.0, 1.0)], "a")[0].best.operations == 1.0
    assert json.loads((tmp_path / "limits.json").read_text())["a"]


@pytest.mark.slow
@pytest.mark.slow
def test_limits_that_cannot_be_measured_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    watcher = Watcher()
    monkeypatch.setattr(watcher, "warn", warnings.append)
    monkeypatch.setattr(runner, "METER", Entry("meter", "meter", "nowhere:Meter", (), ("cpu",)))
    record = runner.run(runner.plan([TINY, Cell("planar", 33)], [], rounds=1, seconds=0.01), watcher=watcher)
    assert len(record.done) == 2
    assert record.limits == []
    assert len(warnings) == 1
    assert warnings[0].startswith("the limits of cpu could not be measured: ")


@pytest.mark.slow
def test_the_limits_are_measured_by_a_process_of_their_own() -> None:
    record = runner.run(runner.plan([TINY], [], rounds=1, seconds=0.01))
    threads = sorted({1, record.settings.threads})
    assert [(limit.device, limit.precision, limit.best.threads) for limit in record.limits] == [
        ("cpu", "float32", count) for count in threads
    ]
    assert all(1e8 < limit.now.operations <= limit.best.operations < 1e14 for limit in record.limits)
    assert 0 < record.roofline_share(record.done[0]) < 1.5


def test_a_record_that_is_no_record_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(FormatError, match="not a fastnn benchmark"):
        records.read(tmp_path / "a.json")
