"""The pictures and the page of a benchmark record."""

from __future__ import annotations

import datetime
import importlib
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fastnn.benchmarks import curves, machines, machines_page, page, plots
from fastnn.benchmarks import record as records
from fastnn.benchmarks.crossover import crossover_lines, crossovers
from fastnn.benchmarks.grid import NETWORKS, Cell
from fastnn.benchmarks.record import Contestant, Environment, Gpu, Limit, Measured, Record, Reference, Result, Timing, check
from fastnn.benchmarks.runner import plan
from fastnn.engines.explain import Limits
from fastnn.errors import FileError, FormatError, InputError, PackageError

EVIL = (
    '</script x><script>window.evil = 1</script>"\' onfocus="window.evil = 2"><img src=x onerror="window.evil = 3">'
    "&lt;b&gt;{{plotly}} $\\frac$ %{x}"
)
GPU = Gpu(name="A GPU", memory=2**34, driver="12.4")


def result(cell: Cell, rate: float, spread: float = 0.02, first_seconds: float = 0.5) -> Result:
    """Of so many examples a second."""
    median = cell.rows / rate
    seconds = [median * (1 - spread / 2), median, median * (1 + spread / 2)]
    return Result(
        status="measured", seconds=seconds, process=[0] * 3, runs=1, first_seconds=first_seconds, peak_bytes=3 * 2**20
    )  # fmt: skip


def make(rates: dict[Cell, dict[str, float | Result]], *, gpu: Gpu | None = None, processor: str = "A processor") -> Record:
    """A record of what is given for each cell: examples a second, or a whole result."""
    record = plan(list(rates), peers=["torch", "jax", "sklearn"], threads=1)
    record.created = datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC).isoformat()
    record.environment = Environment(
        machine="0" * 12, processor=processor, features="avx2 fma", cores=2, memory=2**33,
        system="Linux x86_64", python="3.11.0", versions={"fastnn": "0.1.0", "numpy": "2.0.0"}, commit="abcdef012345", gpu=gpu,
    )  # fmt: skip
    best = Limits(1, 1e11, ((2**15, 2e10), (2**26, 1e10)))
    record.limits = [Limit(device=device, precision="float32", best=best, now=best) for device in ("cpu", "cuda")]
    for cell, given in rates.items():
        results = {name: what if isinstance(what, Result) else result(cell, what) for name, what in given.items()}
        work = [(1000 * cell.batch_size, 400 * cell.batch_size)]
        record.done.append(
            Measured(cell=cell, threads=1, work=work, reference=Reference(one_core=[0.01], all_cores=[0.01]), results=results)
        )
    check(record, Path("record.json"))
    return record


@pytest.fixture
def record() -> Record:
    """Two networks: a win, a loss, a noisy cell, and somebody who cannot."""
    cannot = Result(status="cannot", reason="MLPClassifier has no batch norm")
    noisy = result(Cell("mnist", 32), 90_000, spread=0.5)
    return make(
        {
            Cell("mnist", 8): {"fastnn": 40_000, "torch": 9_000, "jax": 20_000, "sklearn": 8_000},
            Cell("mnist", 32): {"fastnn": 100_000, "torch": noisy, "jax": 50_000, "sklearn": 30_000},
            Cell("deep", 8): {"fastnn": 2_000, "torch": 10_000, "jax": 9_000, "sklearn": cannot},
        }
    )


def nothing() -> Record:
    return make({})


def no_device() -> Record:
    absent = Result(status="no_device", reason="no GPU here")
    return make({Cell("mnist", size, "cuda"): {"fastnn": absent, "torch": absent} for size in (8, 32)})


def one_cell() -> Record:
    return make({Cell("planar", 32): {"fastnn": 1e6, "torch": 1e5}})


def foreign() -> Record:
    """Everything that may be text in a record is hostile."""
    failed = Result(status="failed", reason=EVIL)
    record = make(
        {Cell(EVIL, 8): {"fastnn": 10.0, "torch": failed}, Cell("mnist", 8, EVIL, EVIL): {"fastnn": 10.0, "jax": 5.0}},
        processor=EVIL,
    )
    record.created = record.environment.commit = record.environment.features = record.environment.system = EVIL
    record.environment.versions[EVIL] = EVIL
    record.environment.gpu = Gpu(name=EVIL, memory=1, driver=EVIL)
    record.contestants[EVIL] = Contestant(label=EVIL)
    record.done[0].results[EVIL] = result(record.done[0].cell, 10.0)
    for contestant in record.contestants.values():
        contestant.label, contestant.notes = EVIL, EVIL
    return record


def with_timings() -> Record:
    """One cell with short calls, and a neighbor that one of two could not be measured beside."""
    record = one_cell()
    record.settings.timings = ["fit-4", "neighbor"]
    for name, seconds in (("fastnn", 1e-3), ("torch", 5e-4)):
        record.done[0].results[name].timings = {"fit-4": Timing(steps=4, seconds=[seconds])}
    record.done[0].results["torch"].timings["neighbor"] = Timing(steps=200, reason="it moved away")
    record.done[0].results["fastnn"].timings["neighbor"] = Timing(steps=200, seconds=[0.1, 0.2])
    return record


def inference() -> Record:
    """Both methods for one row, and many rows; scikit-learn has one of them alone."""
    cannot = Result(status="cannot", reason="it has no logits")
    one, proba, many = (
        Cell("nielsen", 1, method=m) if m else Cell("nielsen", 32, method="model") for m in ("model", "predict_proba", "")
    )
    rates: dict[str, float | Result] = {"fastnn": 1e5, "torch": 5e4}
    return make({one: {**rates, "sklearn": cannot}, proba: {**rates, "sklearn": 1e3}, many: {**rates, "sklearn": cannot}})


def test_inference_has_panels_of_its_own_and_no_crossover() -> None:
    record = inference()
    assert [panel.title for panel in curves.panels(record)] == [
        "nielsen  784-30-10  model(x)", "nielsen  784-30-10  predict_proba",
    ]  # fmt: skip
    assert curves.headline(record) == "Inference throughput"
    assert curves.absences(record) == ["scikit-learn (everything through model(x)): cannot run it: it has no logits"]
    assert crossovers(record) == []
    training, both_kinds = one_cell(), one_cell()
    both_kinds.settings.cells.append(record.settings.cells[0])
    assert [curves.headline(r) for r in (training, both_kinds)] == ["Training throughput", "Training and inference throughput"]


# Crossover


def both(cpu: dict[int, float], gpu: dict[int, float], precision: str = "float32") -> Record:
    cells: dict[Cell, dict[str, float | Result]] = {Cell("mnist", size): {"fastnn": rate} for size, rate in cpu.items()}
    cells |= {Cell("mnist", size, "cuda", precision): {"fastnn": rate} for size, rate in gpu.items()}
    return make(cells, gpu=GPU)


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ({8: 50, 32: 150, 128: 500}, 32),
        # Faster, slower again, faster for good: from then on.
        ({8: 150, 32: 50, 128: 500}, 128),
        ({8: 150, 32: 150, 128: 500}, 8),
        ({8: 150, 32: 150, 128: 50}, None),
        # As fast as the CPU is not faster.
        ({8: 100, 32: 100, 128: 101}, 128),
        # What the CPU was not measured at says nothing.
        ({32: 50, 512: 500}, None),
    ],
)
def test_crossover(gpu: dict[int, float], expected: int | None) -> None:
    [found] = crossovers(both({8: 100, 32: 100, 128: 100}, gpu))
    assert (found.network, found.precision, found.batch_size) == ("mnist", "float32", expected)
    assert found.batch_sizes == tuple(size for size in gpu if size <= 128)


def test_crossover_is_of_rates_where_an_epoch_has_more_rows_on_the_gpu() -> None:
    [found] = crossovers(both({32768: 100}, {32768: 101}))
    assert Cell("mnist", 32768).rows < Cell("mnist", 32768, "cuda").rows
    assert found.batch_size == 32768


def test_crossover_in_words() -> None:
    assert "mini-batch of 32 " in crossover_lines(both({8: 100, 32: 100}, {8: 50, 32: 150}, "tf32"))[0]
    assert "tf32" in crossover_lines(both({8: 100, 32: 100}, {8: 50, 32: 150}, "tf32"))[0]
    assert "slower" in crossover_lines(both({8: 100}, {8: 50}))[0]
    assert "wherever" in crossover_lines(both({8: 100}, {8: 500}))[0]
    assert "no network" in crossover_lines(both({8: 100}, {32: 500}))[0]
    assert crossover_lines(make({Cell("mnist", 8): {"fastnn": 1.0}})) == ["no GPU here"]


def test_crossover_needs_fastnn_measured_on_both() -> None:
    record = both({8: 100}, {8: 500})
    record.done[1].results["fastnn"] = Result(status="failed", reason="it fell over")
    assert crossovers(record) == []


# Curves


def test_curves_hold_what_the_record_holds(record: Record) -> None:
    mnist, deep = curves.panels(record)
    assert (mnist.title, deep.title) == ("mnist  784-128-10", "deep  784-512-512-10")
    assert mnist.batch_sizes == [8, 32]
    assert [curve.contestant for curve in mnist.curves][-1] == "fastnn"
    torch = next(curve for curve in mnist.curves if curve.contestant == "torch")
    assert [point.noisy for point in torch.points] == [False, True]
    assert torch.points[1].rate == pytest.approx(90_000)
    assert torch.points[1].slowest == pytest.approx(90_000 / 1.25)
    assert torch.points[1].fastest == pytest.approx(90_000 / 0.75)
    assert mnist.limits[0].points == ((8, pytest.approx(2e10 / 400)), (32, pytest.approx(2e10 / 400)))


def test_nobody_is_left_out_silently(record: Record) -> None:
    assert curves.absences(record) == ["scikit-learn (deep): cannot run it: MLPClassifier has no batch norm"]
    assert curves.absences(no_device()) == ["fastnn, PyTorch eager (everything): no GPU here"]
    record.settings.cells.append(Cell("wide", 8))
    assert "1 of 4 cells" in curves.absences(record)[-1]
    some = make({Cell("mnist", size): {"fastnn": Result(status="timeout", reason="30 s")} for size in (1, 8)})
    some.done.append(
        Measured(cell=Cell("mnist", 32), threads=1, work=[], reference=Reference(one_core=[], all_cores=[]), results={})
    )
    assert curves.absences(some)[0] == "fastnn (mnist at 1, 8): out of time: 30 s"


def test_precisions_have_panels_of_their_own_and_are_named() -> None:
    cells = [Cell("mnist", 8), Cell("mnist", 8, "cuda"), Cell("mnist", 8, "cuda", "bf16")]
    record = make({cell: {"fastnn": 1.0} for cell in cells}, gpu=GPU)
    float32, bf16 = curves.panels(record)
    assert "float32" in float32.title
    assert "bf16" in bf16.title
    assert [curve.device for curve in float32.curves] == ["cpu", "cuda"]
    assert curves.shown_devices([float32, bf16]) == ["cpu", "cuda"]


# Pictures


def strings(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def test_titles_of_long_networks_are_broken() -> None:
    """No line is longer than its panel, no letter is lost, and the panels make room for the longest title."""
    pytest.importorskip("matplotlib")
    label = NETWORKS["cifar"].label
    networks = ("mnist", "nielsen1", "cifar")
    record = make({Cell(name, size): {"fastnn": 1e3} for name in networks for size in (32, 128)})
    figure = plots.draw(record)
    mnist, nielsen1, cifar = (axes.get_title(loc="left") for axes in figure.axes)
    assert mnist == "mnist  784-128-10"
    assert nielsen1 == "nielsen1  28x28x1-20x5,pool2-\n100-10"
    assert cifar.splitlines() == [
        "cifar  32x32x3-32x3:same,", "32x3:same,pool2,64x3:same,", "64x3:same,pool2-128-10",
    ]  # fmt: skip
    assert cifar.replace("\n", "") == f"cifar  {label}"
    importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure).draw()
    legend = min(legend.get_window_extent().y0 for legend in figure.legends)
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert all(box.y1 < legend and box.x1 <= figure.bbox.x1 for box in boxes)


def test_tables_name_a_convolutional_network_briefly() -> None:
    assert curves.network_in_row("cifar") == "cifar"
    assert curves.network_in_row("mnist") == "mnist  784-128-10"
    assert curves.network_in_row("8x8x1-2x3-1") == "8x8x1-2x3-1"


def test_picture_has_titles_units_limits_and_where_it_was_measured(record: Record) -> None:
    pytest.importorskip("matplotlib")
    figure = plots.draw(record)
    mnist, deep = figure.axes
    assert [axes.get_title(loc="left") for axes in (mnist, deep)] == ["mnist  784-128-10", "deep  784-512-512-10"]
    assert mnist.get_ylabel() == "throughput (examples/s)"
    assert {axes.get_xlabel() for axes in (mnist, deep)} == {"mini-batch size (examples)"}
    assert {mnist.get_xscale(), mnist.get_yscale()} == {"log"}
    dashed = [line for line in mnist.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), [5e7, 5e7])
    # Ours is the widest line, and the noisy point alone is hollow.
    widest = max(mnist.lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(widest.get_ydata(), [40_000, 100_000])
    hollow = [line for line in mnist.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_ydata()) for line in hollow if len(line.get_ydata())] == [[pytest.approx(90_000)]]
    found = " ".join(strings(figure))
    for text in ("A processor", "no GPU here", "1 thread", "float32", "numpy 2.0.0", "abcdef012345", "2024-05-06",
                 "PyTorch eager", "limit of the machine", "noisy", "scikit-learn (deep): cannot run it"):  # fmt: skip
        assert text in found


def test_pictures_are_drawn(record: Record, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    paths = [tmp_path / "plots.png", tmp_path / "plots.svg"]
    plots.save(record, paths)
    pixels = imread(paths[0])
    assert pixels.shape[1] == plots.WIDTH * plots.DPI
    assert 0.02 < np.mean(np.any(pixels[..., :3] < 0.95, axis=-1)) < 0.5
    drawn = " ".join(" ".join(ElementTree.parse(paths[1]).getroot().itertext()).split())
    for text in ("mnist 784-128-10", "deep 784-512-512-10", "throughput (examples/s)", "mini-batch size (examples)"):
        assert text in drawn
    again = tmp_path / "again.svg"
    plots.save(record, [again])
    assert again.read_text() == paths[1].read_text()


@pytest.mark.parametrize("edge", [nothing, no_device, one_cell, inference, foreign])
def test_picture_of(edge: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = edge()
    plots.save(record, [tmp_path / "plots.png", tmp_path / "plots.svg"])
    found = strings(plots.draw(record))
    assert ("nothing was measured" in found) == (not any(measured.measured for measured in record.done))
    if edge is one_cell:
        assert "fastnn  1.0 M" in found


def test_picture_files_are_checked_before_drawing(record: Record, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        plots.save(record, [tmp_path / "plots.png", tmp_path / "plots.pdf"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileError, match="could not be written"):
        plots.save(record, [tmp_path / "missing" / "plots.png"])


@pytest.mark.parametrize(("package", "make_it"), [("matplotlib", plots.draw), ("plotly", page.render), ("jinja2", page.render)])
def test_what_is_missing_is_named(package: str, make_it: Any, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "jinja2":
        pytest.importorskip("plotly")
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PackageError, match=rf"needs {package}, which is not installed: pip install {package}"):
        make_it(record)


# The page


class Reader(HTMLParser):
    """The elements of a page, the text of its cells and the scripts in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.in_script = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script:
            self.scripts[-1] += data
        else:
            self.text += data


def read_page(record: Record) -> Reader:
    return read_text(page.render(record))


def read_text(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_page_says_everything(record: Record) -> None:
    pytest.importorskip("plotly")
    text = read_page(record).text
    for expected in ("A processor", "avx2 fma", "no GPU here", "abcdef012345", "numpy 2.0.0", "▼ 0.200", "▲ 2.00", "50% noisy",
                     "cannot run it: MLPClassifier has no batch norm", "faster in 2 of 3 cells", "slower in 1"):  # fmt: skip
        assert expected in text
    assert "{{" not in text


def test_page_shows_other_timings(record: Record) -> None:
    pytest.importorskip("plotly")
    text = read_page(with_timings()).text
    for expected in ("Other calls", "fit 4 (µs a step)", "beside a neighbor (µs a step)", "250", "▼ 125", "it moved away",
                     "noisy", "kept one of the cores busy", "Short calls are of fit"):  # fmt: skip
        assert expected in text
    plain = read_page(record).text
    assert "Other calls" not in plain
    assert "Short calls" not in plain
    assert "NumPy arrays in and out" in read_page(inference()).text


def test_page_fetches_nothing(record: Record) -> None:
    pytest.importorskip("plotly")
    reader = read_page(record)
    for _, attributes in reader.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(a["content"] for tag, a in reader.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_foreign_text_is_escaped() -> None:
    pytest.importorskip("plotly")
    reader = read_page(foreign())
    assert len(reader.scripts) == 3
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert not [attributes for _, attributes in reader.tags if {"onerror", "onfocus"} & attributes.keys()]
    figures = json.loads(reader.scripts[0])
    assert len(figures) == 2
    # Plotly reads markup, and fills in templates.
    for figure in figures:
        for trace in figure["data"]:
            assert "<" not in trace["name"]
            assert "evil" not in trace["hovertemplate"]
    # It stands there to be read.
    assert EVIL in reader.text


@pytest.mark.parametrize("edge", [nothing, no_device, one_cell, inference, with_timings])
def test_page_of(edge: Any) -> None:
    pytest.importorskip("plotly")
    record = edge()
    reader = read_page(record)
    figures = json.loads(reader.scripts[0])
    assert len(figures) == len(curves.panels(record))
    assert ("Nothing was measured" in reader.text) == (not figures)
    assert "nan" not in reader.text.lower()


# Machines side by side


def script_record(**changed: Any) -> dict[str, Any]:
    """As `ci/gpu.sh` writes it; it holds more."""
    cell = {
        "network": "mnist",
        "batch_size": 8,
        "rows": 2000,
        "epoch_ms": {"fastnn": 4.0, "torch-graph": 5.0, "jax-while": 6.0},
    }
    return {
        "format": "fastnn-gpu", "version": 3, "created": "2024-05-07T00:00:00+00:00", "commit": "123456789abc",
        "gpu": {"name": "NVIDIA RTX A2000", "memory": "6138 MiB", "driver": "580.95"},
        "versions": {"python": "3.12.1", "numpy": "2.1.0"}, "cells": [cell], "steps": [], **changed,
    }  # fmt: skip


def gpu_record(name: str, factor: float = 1.0, driver: str = "12.4") -> Record:
    cells = {Cell("mnist", size, "cuda"): {"fastnn": 1e6 * factor * size, "torch": 5e5 * size} for size in (8, 32)}
    noisy = result(Cell("wide", 8, "cuda", "tf32"), 2e3, spread=0.5)
    return make(
        {**cells, Cell("wide", 8, "cuda", "tf32"): {"fastnn": noisy}}, gpu=Gpu(name=name, memory=2**34, driver=driver)
    )  # fmt: skip


@pytest.fixture
def paths(record: Record, tmp_path: Path) -> list[Path]:
    """A record of a processor, two of GPUs, and one of the script."""
    several = [record, gpu_record("A GPU"), gpu_record("Another GPU", 0.4, "13.0")]
    names = [tmp_path / f"{index}.json" for index in range(4)]
    for name, each in zip(names, several, strict=False):
        records.write(each, name)
    names[3].write_text(json.dumps(script_record()))
    return names


def test_machines_are_named_by_their_device_and_have_its_rates(paths: list[Path]) -> None:
    several = machines.read(paths)
    assert [machine.label for machine in several] == ["A processor", "A GPU", "Another GPU", "NVIDIA RTX A2000"]
    cpu, gpu, other, script = several
    assert cpu.rates[machines.Place("mnist", 8, "float32")].ours == pytest.approx(40_000)
    assert cpu.rates[machines.Place("mnist", 8, "float32")].peer_label == "JAX jit + scan"
    assert cpu.rates[machines.Place("deep", 8, "float32")].ratio == pytest.approx(0.2)
    assert dict(cpu.verdicts) == {"faster": 2, "slower": 1}
    assert gpu.mean == pytest.approx(2.0)
    assert other.mean == pytest.approx(0.8)
    tf32 = gpu.rates[machines.Place("wide", 8, "tf32")]
    assert tf32.noisy
    assert np.isnan(tf32.ratio)
    assert script.rates == {machines.Place("mnist", 8, "float32"): machines.Rates(500_000.0, 400_000.0, "torch-graph")}
    assert machines.places(several) == [
        ("mnist", 8, "float32", "fit"), ("mnist", 32, "float32", "fit"), ("deep", 8, "float32", "fit"),
        ("wide", 8, "tf32", "fit"),
    ]  # fmt: skip


def test_a_record_of_both_devices_is_of_two_machines() -> None:
    cpu, gpu = machines.of_record(both({8: 100}, {8: 500}))
    assert (cpu.label, gpu.label) == ("A processor", "A GPU")
    assert [each.rates[machines.Place("mnist", 8, "float32")].ours for each in (cpu, gpu)] == [
        pytest.approx(100), pytest.approx(500)
    ]  # fmt: skip
    assert "GPU" not in cpu.facts


def test_training_and_inference_are_different_cells(tmp_path: Path) -> None:
    """A network at a number of rows may be in a record as training, and twice as inference."""
    pytest.importorskip("plotly")
    name = "16-32-768-100"
    rates = {"fit": 100.0, "model": 2000.0, "predict_proba": 1000.0}
    cells = {Cell(name, 8, method=method): {"fastnn": rate} for method, rate in rates.items()}
    several = machines.of_record(make(cells))
    assert {place.method: each.ours for place, each in several[0].rates.items()} == pytest.approx(rates)
    header, *rows = machines.rows(several)
    assert [row.split() for row in rows] == [
        [name, "8", "float32", "100"], [name, "8", "float32", "model", "2.00", "k"],
        [name, "8", "float32", "proba", "1.00", "k"],
    ]  # fmt: skip
    assert {len(row) for row in rows} == {header.index("[1]") + len("[1]")}
    assert all(row.index("8", len(name)) == header.index("batch") + 4 for row in rows)
    reader = read_text(machines_page.render(several))
    assert "Training and inference throughput, machine by machine" in reader.text
    assert "float32, predict_proba" in reader.text
    assert len(json.loads(reader.scripts[0])) == 3


def test_machines_of_one_name_are_told_apart(paths: list[Path]) -> None:
    assert [each.label for each in machines.read([paths[1], paths[0], paths[1]])] == ["A GPU (1)", "A processor", "A GPU (2)"]


def test_what_differs_is_said_and_what_does_not_apart(paths: list[Path]) -> None:
    several = machines.read(paths)
    different, same = machines.differing(several[1:3]), machines.same(several[1:3])
    assert different == {"GPU": ["A GPU", "Another GPU"], "CUDA of the driver": ["12.4", "13.0"]}
    assert same["numpy"] == "2.0.0"
    assert not different.keys() & same.keys()
    different = machines.differing(several)
    assert different["numpy"] == ["2.0.0", "2.0.0", "2.0.0", "2.1.0"]
    assert different["driver"] == ["", "", "", "580.95"]
    assert different["by"][2:] == [
        "fastnn bench, median of up to 10 turns of 0.2 s",
        "ci/gpu.sh, the least of a few calls of fit",
    ]
    assert machines.differing(several[:1]) == {}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"version": 2}, "has version 2 of its format"),
        ({"cells": [{"network": "mnist"}]}, "is damaged"),
        ({"cells": [{"network": "mnist", "batch_size": 8, "rows": 0, "epoch_ms": {"fastnn": 1.0}}]}, "not above 0"),
        ({"cells": [{"network": "mnist", "batch_size": 8, "rows": 9, "epoch_ms": {"fastnn": -1.0}}]}, "not above 0"),
        ({"format": "fastnn"}, "is not a fastnn benchmark"),
    ],
)
def test_records_that_cannot_be_shown_are_refused(changed: dict[str, Any], error: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(script_record(**changed)))
    with pytest.raises(FormatError, match=error):
        machines.read([path])


def test_machines_as_text(paths: list[Path]) -> None:
    several = machines.read(paths)
    said = [*machines.headings(several), *machines.rows(several)]
    assert said[0] == "[1] A processor: 3 cells; 2 faster, 1 slower, geometric mean 0.76x"
    assert "CUDA of the driver: [1] not said; [2] 12.4; [3] 13.0; [4] not said" in said
    assert next(line for line in said if line.startswith("mnist        8")).split() == [
        "mnist", "8", "float32", "40.0", "k", "2.00x", "8.00", "M", "2.00x", "3.20", "M", "0.80x", "500", "k", "1.25x",
    ]  # fmt: skip
    assert next(line for line in said if line.startswith("wide")).split() == ["wide", "8", "tf32", "2.00", "k~", "2.00", "k~"]


def test_page_of_machines(paths: list[Path]) -> None:
    pytest.importorskip("plotly")
    reader = read_text(machines_page.render(machines.read(paths)))
    for expected in ("Another GPU (examples/s)", "NVIDIA RTX A2000", "580.95", "CUDA of the driver", "not said", "▼ 0.800",
                     "2,000 noisy", "the best peer on that machine", "abcdef012345"):  # fmt: skip
        assert expected in reader.text
    mnist, deep, wide = json.loads(reader.scripts[0])
    assert [trace["name"] for trace in deep["data"]] == ["A processor"] * 2
    assert [(trace["name"], trace["line"]["dash"]) for trace in mnist["data"]] == [
        (name, dash) for name in ("A processor", "A GPU", "Another GPU", "NVIDIA RTX A2000") for dash in ("dot", "solid")
    ]  # fmt: skip
    assert mnist["data"][3]["y"] == [pytest.approx(8e6), pytest.approx(32e6)]
    assert [trace["meta"]["noisy"] for trace in wide["data"]] == [[True]] * 2
    assert len({trace["line"]["color"] for trace in mnist["data"]}) == 4


def test_page_of_machines_that_are_hostile(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    (tmp_path / "script.json").write_text(
        json.dumps(script_record(gpu={"name": EVIL, "memory": EVIL, "driver": EVIL}, versions={EVIL: EVIL}, commit=EVIL))
    )
    evil = [*machines.of_record(foreign()), *machines.read([tmp_path / "script.json"])]
    reader = read_text(machines_page.render(evil))
    assert len(reader.scripts) == 3
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert not [attributes for _, attributes in reader.tags if {"onerror", "onfocus"} & attributes.keys()]
    for figure in json.loads(reader.scripts[0]):
        for trace in figure["data"]:
            assert "<" not in trace["name"] + "".join(trace["customdata"])
            assert "evil" not in trace["hovertemplate"]
    assert EVIL in reader.text


def test_page_of_no_machines_is_refused() -> None:
    with pytest.raises(InputError, match="hold no cell"):
        machines_page.render(machines.of_record(nothing()))


# In a browser


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not both installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1200,900",
        f"--user-data-dir={tmp_path / 'browser'}",
    ):  # fmt: skip
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(chromedriver)) as driver:
        yield driver


def open_page(browser: Any, record: Record, path: Path) -> None:
    open_text(browser, page.render(record), path)


def open_text(browser: Any, text: str, path: Path) -> None:
    """Open a page and wait until every plot has points."""
    from selenium.webdriver.support.ui import WebDriverWait

    path.write_text(text, encoding="utf-8")
    browser.get(path.as_uri())
    plotted = "return [...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.point'))"
    WebDriverWait(browser, 30).until(lambda browser: browser.execute_script(plotted))


def columns(browser: Any, column: int) -> list[str]:
    """What a column of the table of all results shows, from the top."""
    rows = "[...document.querySelectorAll('table.sortable')[1].tBodies[0].rows]"
    shown: list[str] = browser.execute_script(f"return {rows}.map((row) => row.cells[arguments[0]].textContent)", column)
    return shown


@pytest.mark.slow
def test_page_in_a_browser(browser: Any, record: Record, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, record, tmp_path / "page.html")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot .point")) == 11
    boxes = "return [...document.querySelectorAll('.plot .main-svg')].map((svg) => svg.getBoundingClientRect().width)"
    assert min(browser.execute_script(boxes)) > 200

    # Sorted by numbers: 8,000 comes before 100,000, and who was not measured comes last both ways.
    headers = browser.find_elements(By.CSS_SELECTOR, "table.sortable")[1].find_elements(By.TAG_NAME, "th")
    column = [header.text.split()[0] for header in headers].index("examples/s")
    button = headers[column].find_element(By.TAG_NAME, "button")
    rates = [2_000, 8_000, 9_000, 9_000, 10_000, 20_000, 30_000, 40_000, 50_000, 90_000, 100_000]
    button.click()
    assert headers[column].get_attribute("aria-sort") == "ascending"
    assert columns(browser, column) == [*(f"{rate:,}" for rate in rates), "cannot run it"]
    button.click()
    assert headers[column].get_attribute("aria-sort") == "descending"
    assert columns(browser, column) == [*(f"{rate:,}" for rate in reversed(rates)), "cannot run it"]

    # By the keyboard, and words by the alphabet.
    headers[0].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert headers[0].get_attribute("aria-sort") == "ascending"
    assert headers[column].get_attribute("aria-sort") == "none"
    networks = columns(browser, 0)
    assert networks == sorted(networks)
    headers[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert columns(browser, 0) == sorted(networks, reverse=True)

    # Who is switched off is in no plot.
    browser.find_element(By.CSS_SELECTOR, '.keys button[data-contestant="jax"]').click()
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot .point")) == 8

    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    # Of all that the browser sent, what it sent for this page: the page.
    uri = (tmp_path / "page.html").as_uri()
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in sent if request["documentURL"] == uri]
    assert [url for url in urls if not url.startswith("data:")] == [uri]


@pytest.mark.slow
def test_foreign_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    open_page(browser, foreign(), tmp_path / "page.html")
    assert browser.execute_script("return window.evil") is None
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_page_fits_a_narrow_window(browser: Any, record: Record, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(browser, record, tmp_path / "page.html")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400


@pytest.mark.slow
def test_machines_in_a_browser(browser: Any, paths: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from selenium.webdriver.common.by import By

    open_text(browser, machines_page.render(machines.read(paths)), tmp_path / "page.html")
    points = len(browser.find_elements(By.CSS_SELECTOR, ".plot .point"))
    assert points == 2 * (2 + 2 + 2 + 1) + 2 + 2
    browser.find_element(By.CSS_SELECTOR, '.keys button[data-contestant="Another GPU"]').click()
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot .point")) == points - 5
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
