"""Records of benchmarks: their file, their figures, and what a comparison of two finds."""

from __future__ import annotations

import copy
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastnn.benchmarks import record as records
from fastnn.benchmarks import table
from fastnn.benchmarks.compare import compare, holm, lines, values
from fastnn.benchmarks.grid import Cell, cells
from fastnn.benchmarks.record import Contestant, Environment, Limit, Measured, Record, Reference, Settings, Timing
from fastnn.benchmarks.record import Result as Found
from fastnn.cli import main
from fastnn.engines.explain import Limits
from fastnn.errors import FileError, FormatError, InputError

GRID = cells()


def environment(machine: str = "one", **changes: Any) -> Environment:
    found: dict[str, Any] = {
        "machine": machine, "processor": "A Processor", "features": "avx2", "cores": 2, "memory": 2**34, "system": "Linux",
        "python": "3.11.0", "versions": {"fastnn": "0.1.0"}, "commit": "0123456789ab", "gpu": None,
    }  # fmt: skip
    return Environment(**{**found, **changes})


def measured(
    cell: Cell, seconds: dict[str, Sequence[float]], process: Sequence[int] | None = None, reference: float = 0.01
) -> Measured:
    results = {
        name: Found(status="measured", seconds=[float(t) for t in times], process=list(process or range(len(times))), runs=1)
        for name, times in seconds.items()
    }  # fmt: skip
    rounds = max(len(result.seconds) for result in results.values())
    units = Reference(one_core=[reference] * rounds, all_cores=[1.1 * reference] * rounds)
    return Measured(cell=cell, threads=2, work=[(1000, 400), (0, 80)], reference=units, results=results)


def record(done: Sequence[Measured], **changes: Any) -> Record:
    names = dict.fromkeys(name for m in done for name in m.results)
    limit = Limits(2, 1e9, ((1000, 1e9), (10000, 1e8)))
    return Record(
        created="2026-01-02T03:04:05+00:00",
        settings=Settings(
            cells=[m.cell for m in done],
            contestants=list(names),
            threads=2,
            rounds=5,
            processes=5,
            peer_processes=1,
            seconds=0.1,
            budget=10.0,
        ),
        environment=environment(**changes),
        limits=[Limit(device="cpu", precision="float32", best=limit, now=limit)],
        contestants={name: Contestant(label=name.title()) for name in names},
        done=list(done),
    )


def noisy_run(seed: int, slower: dict[Cell, float] | None = None, speed: float = 1.0) -> Record:
    """The whole grid, on a machine of some speed: five processes that differ by 4 %, turns that differ by 2 %."""
    rng = np.random.default_rng(seed)
    done = []
    for cell in GRID:
        factor = (slower or {}).get(cell, 1.0) * speed
        each = np.repeat(np.exp(0.04 * rng.standard_normal(5)), 2) * np.exp(0.02 * rng.standard_normal(10))
        reference = 0.01 * speed * math.exp(0.005 * rng.standard_normal())
        done.append(measured(cell, {"fastnn": 0.1 * factor * each}, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], reference))
    return record(done)


def write(found: Record, path: Path) -> Path:
    records.write(found, path)
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    found = noisy_run(0)
    found.done[0].results["torch"] = Found(status="failed", reason='an \u00fcnusual "reason"')
    found.contestants["torch"] = Contestant(label="PyTorch")
    path = write(found, tmp_path / "record.json")
    assert records.read(path) == found
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_records_of_version_1_are_read(tmp_path: Path) -> None:
    found = noisy_run(0)
    path = write(found, tmp_path / "record.json")
    content = json.loads(path.read_text())
    content["version"] = 1
    del content["settings"]["timings"]
    for cell in content["settings"]["cells"]:
        del cell["method"]
    for cell in content["done"]:
        del cell["cell"]["method"]
        for result in cell["results"].values():
            del result["timings"]
    path.write_text(json.dumps(content))
    assert records.read(path) == found
    assert records.read(path).version == records.VERSION


def test_the_schema_in_the_documentation_is_that_of_the_code() -> None:
    path = Path(__file__).parents[2] / "docs" / "benchmark-record.schema.json"
    if not path.parent.is_dir():
        pytest.skip("the documentation is not here")
    assert structure(json.loads(path.read_text())) == structure(records.schema())


def structure(schema: Any) -> Any:
    """What a schema accepts: without descriptions, and without the order in which names are listed."""
    if isinstance(schema, dict):
        return {key: structure(value) for key, value in schema.items() if key not in ("description", "title")}
    if isinstance(schema, list):
        return sorted((structure(value) for value in schema), key=repr)
    return schema


@pytest.mark.parametrize(
    ("where", "value"), [(("required",), []), (("properties", "version"), {}), (("properties", "done", "type"), "object")]
)
def test_a_schema_that_accepts_something_else_is_told_apart(where: tuple[str, ...], value: Any) -> None:
    changed = copy.deepcopy(records.schema())
    entry = changed["$defs"]["Record"]
    for name in where[:-1]:
        entry = entry[name]
    assert where[-1] in entry
    entry[where[-1]] = value
    assert structure(changed) != structure(records.schema())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(share: float, tmp_path: Path) -> None:
    path = write(noisy_run(0), tmp_path / "record.json")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FormatError, match="not JSON, or was cut off"):
        records.read(path)


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        (("format",), "pytest-benchmark", "not a fastnn benchmark"),
        (("version",), 3, "has version 3 of the format; this fastnn reads versions 1 and 2"),
        (("version",), "1", "has version '1'"),
        (("created",), 5, "is damaged: .*created"),
        (("unheard_of",), 1, "is damaged: .*unheard_of"),
        (("done", 0, "cell", "batch_size"), "8", "is damaged: .*batch_size"),
        (("done", 0, "results", "fastnn", "status"), "fine", "is damaged: .*status"),
        (("done", 0, "results", "fastnn", "seconds"), [], "0 times and the status 'measured'"),
        (("done", 0, "results", "fastnn", "seconds", 0), -1.0, "not above 0"),
        (("done", 0, "results", "fastnn", "seconds", 0), 0, "not above 0"),
        (("done", 0, "results", "fastnn", "seconds", 0), None, "is damaged: .*seconds"),
        (("done", 0, "results", "fastnn", "process"), [0], "times of 1 processes"),
        (("done", 0, "results", "fastnn", "timings"), {"fit-1": {"steps": 0}}, "number of steps of 'fit-1'"),
        (("done", 0, "results", "fastnn", "timings"), {"fit-1": {"steps": 1, "seconds": [0]}}, "a time or a number"),
        (("done", 0, "results", "fastnn", "timings"), {"fit-1": {}}, "is damaged: .*steps"),
        (("done", 0, "results", "stranger"), {"status": "failed"}, "'stranger' is no contestant"),
        (("done", 0, "reference", "one_core", 0), 0.0, "reference has a time that is not above 0"),
        (("done", 0, "work", 0, 0), -1, "work below 0"),
        (("done", 0, "cell", "batch_size"), 0, "is damaged: .*batch_size"),
        (("limits", 0, "best", "operations"), 0.0, "limit of the machine is not above 0"),
        (("limits", 0, "now", "copies"), [], "limit of the machine is not above 0"),
        (("environment",), None, "is damaged: .*environment"),
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_refused(where: tuple[Any, ...], value: Any, expected: str, tmp_path: Path) -> None:
    path = write(noisy_run(0), tmp_path / "record.json")
    content = json.loads(path.read_text())
    place = content
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=expected):
        records.read(path)
    for arguments in (["show", path], ["compare", path, path], ["--resume", path]):
        result = command(*arguments)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
        assert str(path) in result.stderr


def test_files_that_are_no_records(tmp_path: Path) -> None:
    for content in (b"[]", b'{"a": 1}', b"\xff\xfe", b"null", b"x" * 1000):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(FormatError):
            records.read(tmp_path / "other")
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileError, match="could not be read"):
            records.read(path)
    with pytest.raises(FileError, match="cannot be written"):
        records.write(noisy_run(0), tmp_path / "nowhere" / "record.json")


# --- its figures ------------------------------------------------------------------------------------------------------


def test_medians_spreads_ratios_and_shares() -> None:
    cell = Cell("mnist", 128)
    m = measured(cell, {"fastnn": [2.0, 1.0, 1.2], "jax": [3.0, 2.0, 4.0], "torch": [2.5, 2.4, 2.6]})
    found = record([m])
    assert m.results["fastnn"].median == 1.2
    assert m.results["fastnn"].spread == pytest.approx(1.0 / 1.2)
    assert m.results["fastnn"].noisy
    assert not m.results["torch"].noisy
    assert m.best_peer == "torch"
    assert m.ratio == pytest.approx(2.5 / 1.2)
    assert m.examples_per_second("jax") == cell.rows / 3.0
    # 1000 operations on 400 bytes at 1e9 of each a second, then 80 bytes: 1.08 microseconds for 128 examples.
    assert found.limit_examples_per_second(m) == pytest.approx(128 / 1.08e-6)
    assert found.roofline_share(m) == pytest.approx(cell.rows / 1.2 / (128 / 1.08e-6))
    assert found.left == []


def test_figures_of_what_was_not_measured() -> None:
    m = measured(Cell("mnist", 128), {"torch": [1.0, 2.0]})
    m.results["fastnn"] = Found(status="failed", reason="it fell")
    found = record([m])
    assert math.isnan(m.ratio)
    assert math.isnan(m.results["fastnn"].median)
    assert math.isnan(found.roofline_share(m))
    assert m.best_peer == "torch"
    assert table.row(found, m) == "mnist     128 cpu       fastnn failed: it fell"


def short_calls() -> Record:
    """In one cell jax is faster in calls of one step, and torch could not make them; in the other nobody was asked."""
    done = [measured(Cell("mnist", 32), {"fastnn": [1.0], "jax": [4.0], "torch": [3.0]}), measured(GRID[0], {"fastnn": [1.0]})]
    for name, one, four in (("fastnn", [2e-3, 1e-3, 3e-3], [4e-4]), ("jax", [5e-4], [8e-4])):
        done[0].results[name].timings = {"fit-1": Timing(steps=1, seconds=one), "fit-4": Timing(steps=4, seconds=four)}
    done[0].results["torch"].timings = {"fit-1": Timing(steps=1, reason="it has no hands"), "fit-4": Timing(steps=4)}
    found = record(done)
    found.settings.timings = ["fit-1", "fit-4"]
    return found


def test_figures_of_short_calls() -> None:
    m = short_calls().done[0]
    assert m.step_seconds("fastnn") == pytest.approx(1.0 / 200)
    assert m.step_seconds("fastnn", "fit-1") == 2e-3
    assert m.step_seconds("fastnn", "fit-4") == 1e-4
    assert m.results["fastnn"].timings["fit-1"].noisy
    assert math.isnan(m.step_seconds("torch", "fit-1"))
    assert math.isnan(m.step_seconds("torch", "fit-16"))
    assert [m.best_peer_in(kind) for kind in ("", "fit-1", "fit-4", "fit-16")] == ["torch", "jax", "jax", None]
    assert m.ratio_in("fit-1") == pytest.approx(0.25)
    assert m.ratio_in("fit-4") == pytest.approx(2.0)
    assert math.isnan(m.ratio_in("fit-16"))


def test_the_table_of_short_calls(tmp_path: Path) -> None:
    found = short_calls()
    text = list(table.calls_table(found))
    assert all(len(row) <= 80 for row in text)
    assert text[1].split() == ["network", "batch", "device", "fit", "1", "fit", "4"]
    assert text[2].split() == ["mnist", "32", "cpu", "2,000", "0.25x", "100", "2.00x"]
    assert text[3].split() == ["planar", "1", "cpu", "-", "-"]
    footer = list(table.footer(found))
    assert "fit 1: slower than the best peer in 1 of 1 cells" in footer
    assert "fit 4: slower than the best peer in 0 of 1 cells" in footer
    shown = command("show", write(found, tmp_path / "record.json"), "--no-plots")
    assert "\n".join(text) in shown.stdout
    found.settings.timings = []
    assert list(table.calls_table(found)) == []


def test_the_row_beside_a_neighbor(tmp_path: Path) -> None:
    found = short_calls()
    m = found.done[0]
    m.results["fastnn"].timings["neighbor"] = Timing(steps=200, seconds=[2.0, 2.6])
    m.results["jax"].timings["neighbor"] = Timing(steps=200, seconds=[1.0])
    found.settings.timings = ["neighbor"]
    row = table.neighbor_row(found, m)
    assert row.split() == ["beside", "a", "neighbor", "2.78", "k~", "jax", "6.40", "k", "0.43x", "0%", "SLOWER"]
    assert row.index("~") == table.row(found, m).index("k") + 1
    assert m.examples_per_second("fastnn", "neighbor") == pytest.approx(m.cell.rows / 2.3)
    share = found.roofline_share(m, "fastnn", "neighbor")
    assert share == pytest.approx(found.roofline_share(m) / 2.3)
    assert table.neighbor_row(found, found.done[1]) == ""
    assert "beside a neighbor: slower than the best peer in 1 of 1 cells" in table.footer(found)
    shown = command("show", write(found, tmp_path / "record.json"), "--no-plots").stdout.splitlines()
    assert shown[shown.index(table.row(found, m)) + 1] == row
    m.results["fastnn"].timings["neighbor"] = Timing(steps=200, reason="it moved away")
    assert table.neighbor_row(found, m).endswith("failed: it moved away")


@pytest.mark.parametrize(
    ("seconds", "text"), [(4e-8, "0.04"), (7.38e-6, "7.38"), (1.2345e-3, "1,230"), (0.0255, "25,500"), (1.5, "1,500,000")]
)
def test_microseconds(seconds: float, text: str) -> None:
    assert table.microseconds(seconds) == text


def test_the_table_shows_what_is_lost_as_well_as_what_is_won() -> None:
    done = [
        measured(Cell("mnist", 32), {"fastnn": [1.0], "jax": [4.0]}),
        measured(Cell("mnist", 128), {"fastnn": [1.0], "jax": [0.8]}),
        measured(Cell("wide", 128), {"fastnn": [1.0, 1.3], "jax": [0.5]}),
        measured(Cell("wide", 8), {"fastnn": [1.0]}),
    ]
    done[3].results["torch-compile"] = Found(status="timeout", reason="not ready in 20 s")
    found = record(done)
    rows = [table.row(found, m) for m in done]
    assert all(len(row) <= 80 for row in (*rows, table.header(found)))
    assert [row.endswith("SLOWER") for row in rows] == [False, True, True, False]
    assert "4.00x" in rows[0]
    assert "0.80x" in rows[1]
    assert "~" in rows[2]
    assert "none measured" in rows[3]
    text = list(table.footer(found))
    where = text.index("slower than the best peer in 2 of 3 cells:")
    assert text[where + 1].strip() == "wide at 128 on cpu: 0.43x the speed of jax"
    assert text[where + 2].strip() == "mnist at 128 on cpu: 0.80x the speed of jax"
    assert "Torch-Compile (wide at 8): out of time: not ready in 20 s" in text
    assert "geometric mean of the ratios: small networks 1.79x, large networks 0.43x" in text


def test_convolutional_networks_have_a_mean_of_their_own() -> None:
    done = [
        measured(cell, {"fastnn": [1.0], "torch-nhwc": [ratio]})
        for cell, ratio in ((Cell("nielsen2", 10), 2.0), (Cell("8x8x1-2x3-1", 10), 8.0), (Cell("wide", 8), 3.0))
    ]
    text = list(table.footer(record(done)))
    assert "geometric mean of the ratios: large networks 3.00x, convolutional networks 4.00x" in text
    assert "torch-nhwc" in table.row(record(done), done[0])


def test_long_names_of_networks_keep_the_columns_below_their_headers() -> None:
    own = Cell("512-768-768-20", 100)
    done = [measured(cell, {"fastnn": [1.0], "jax": [4.0]}) for cell in (Cell("mnist", 32), own)]
    found = record(done)
    rows = [table.row(found, m) for m in done]
    for heading in ("fastnn", "ratio"):
        end = table.header(found).index(heading) + len(heading)
        assert all(row[end - 1] != " " and row[end] in " ~" for row in rows), rows
    assert "small networks 4.00x, large networks 4.00x" in " ".join(table.footer(found))


@pytest.mark.parametrize(
    ("seconds", "ratio", "word"),
    [(0.998, "1.00x", "level"), (1.004, "1.00x", "level"), (1.0, "1.00x", "level"), (0.994, "0.99x", "slower"),
     (1.006, "1.01x", "faster")],
)  # fmt: skip
def test_what_is_shown_as_level_is_not_called_slower(seconds: float, ratio: str, word: str) -> None:
    done = [measured(Cell("mnist", 32), {"fastnn": [1.0], "jax": [seconds]})]
    row, footer = table.row(record(done), done[0]), list(table.footer(record(done)))
    assert ratio in row
    assert table.verdict(done[0].ratio) == word
    assert row.endswith("SLOWER") == (word == "slower")
    assert f"slower than the best peer in {int(word == 'slower')} of 1 cells" in footer[0]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (0.5, "0.500"), (9.999, "10.0"), (999.6, "1.00 k"), (123456, "123 k"),
        (1.2345e6, "1.23 M"), (9.9996e8, "1.00 G"),
    ],
)  # fmt: skip
def test_quantities(number: float, text: str) -> None:
    assert table.quantity(number) == text


# --- comparing ----------------------------------------------------------------------------------------------------------


def test_holm_by_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([0.01, math.nan, 0.02])
    assert corrected[0] == pytest.approx(0.02)
    assert math.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.02)


def test_a_value_is_the_median_of_a_process() -> None:
    m = measured(Cell("mnist", 8), {"fastnn": [1.0, 3.0, 2.0, 8.0]}, [0, 0, 0, 1], reference=0.5)
    assert values(m, m.reference.one_core) == pytest.approx([math.log(4.0), math.log(16.0)])
    m = measured(Cell("mnist", 8), {"fastnn": [1.0, 3.0]}, [0, 0], reference=0.5)
    assert values(m, m.reference.one_core) == pytest.approx([math.log(2.0), math.log(6.0)])
    assert values(m, [0.5, 1.5]) == pytest.approx([math.log(2.0), math.log(2.0)])


@pytest.mark.slow
def test_runs_of_the_same_code_agree() -> None:
    """A hundred pairs of whole grids; at the level of 5 % for a whole grid, five may differ by chance, ten hardly do."""
    wrong = 0
    for seed in range(100):
        found = compare(noisy_run(2 * seed), noisy_run(2 * seed + 1, speed=1.5))
        wrong += any(change.verdict != "same" for change in found.changes)
    assert wrong <= 10


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.3, 1 / 1.3])
def test_a_change_of_30_percent_in_one_cell_is_found(factor: float) -> None:
    """In all but a few of fifty pairs, and hardly ever in another cell."""
    cell = GRID[17]
    hits = others = 0
    for seed in range(50):
        found = compare(noisy_run(2 * seed), noisy_run(2 * seed + 1, {cell: factor}, speed=0.7))
        verdicts = {change.cell: change.verdict for change in found.changes}
        hits += verdicts.pop(cell) == ("slower" if factor > 1 else "faster")
        others += any(verdict != "same" for verdict in verdicts.values())
    assert hits >= 45
    assert others <= 6


def test_a_regression_ends_with_exit_code_1(tmp_path: Path) -> None:
    old = write(noisy_run(0), tmp_path / "old.json")
    new = write(noisy_run(1, {GRID[3]: 1.3, GRID[5]: 1 / 1.5}), tmp_path / "new.json")
    result = command("compare", old, new)
    assert result.exit_code == 1
    assert all(len(text) <= 80 for text in result.stdout.splitlines())
    assert f"regression: 1 lost more than 10%, {GRID[3]} the most" in result.stdout
    assert f"{len(GRID)} cells: 1 slower, 1 faster, {len(GRID) - 2} unchanged" in result.stdout
    rows = [text for text in result.stdout.splitlines() if text.endswith(("slower", "faster"))]
    assert rows[0].split()[:3] == [GRID[3].network, str(GRID[3].batch_size), "cpu"]
    for fail in ("50%", "0.5"):
        assert command("compare", old, new, "--fail", fail).exit_code == 0
    assert command("compare", new, old).exit_code == 1  # what became faster has become slower
    assert command("compare", old, old).exit_code == 0
    whole = command("compare", old, old, "--all").stdout
    assert sum(text.endswith("same") for text in whole.splitlines()) == len(GRID)
    for fail in ("-1%", "ten", "nan"):
        assert command("compare", old, new, "--fail", fail).exit_code == 2


def test_other_machines_are_compared_only_when_told(tmp_path: Path) -> None:
    old = write(noisy_run(0), tmp_path / "old.json")
    other = noisy_run(1)
    other.environment = environment("two", processor="Another")
    new = write(other, tmp_path / "new.json")
    result = command("compare", old, new)
    assert result.exit_code == 1
    assert "different machines (A Processor, 2 cores; Another, 2 cores)" in result.stderr
    assert "--other-machine" in result.stderr
    result = command("compare", old, new, "--other-machine")
    assert result.exit_code == 0
    assert "different machines" in result.stdout


def test_what_cannot_be_compared_is_said() -> None:
    old, new = noisy_run(0), noisy_run(1)
    new.done[0].results["fastnn"] = Found(status="failed", reason="it fell")
    new.done[1].reference = Reference()
    del new.done[2]
    new.environment = environment(versions={"fastnn": "0.2.0", "torch": "3"}, commit=None)
    found = compare(old, new)
    assert len(found.changes) == len(GRID) - 3
    assert found.others == (
        f"{GRID[0]}: fastnn was not measured in the new record",
        f"{GRID[1]}: the reference was not measured",
        f"{GRID[2]}: only in the old record",
    )
    assert found.notes == ("commit 0123456789ab -> unknown", "fastnn 0.1.0 -> 0.2.0", "torch none -> 3")
    with pytest.raises(InputError, match="no cell in common"):
        compare(old, record([measured(Cell("mnist", 3), {"fastnn": [1.0]})]))


def test_too_few_turns_are_not_called_a_change() -> None:
    cell = Cell("mnist", 8)
    found = compare(record([measured(cell, {"fastnn": [1.0]})]), record([measured(cell, {"fastnn": [9.0]})]))
    assert found.changes[0].verdict == "unclear"
    assert "1 with too few turns to tell" in "\n".join(lines(found, 0.1))


def test_equal_times_are_equal_and_exact_ones_differ() -> None:
    cell = Cell("mnist", 8)
    one = record([measured(cell, {"fastnn": [1.0, 1.0]})])
    assert compare(one, one).changes[0].verdict == "same"
    assert compare(one, record([measured(cell, {"fastnn": [2.0, 2.0]})])).changes[0].verdict == "slower"


def test_a_core_that_was_lost_is_no_change_of_the_code() -> None:
    """What needs all cores takes as much longer as the workload on all cores does; what needs one is as it was."""
    cell = Cell("mnist", 8)
    times = [1.0, 1.01, 0.99, 1.0]
    old = record([measured(cell, {"fastnn": times})])
    slowed = measured(cell, {"fastnn": [1.8 * seconds for seconds in times]})
    slowed.reference.all_cores = [1.8 * seconds for seconds in slowed.reference.all_cores]
    assert compare(old, record([slowed])).changes[0].verdict == "same"
    same = measured(cell, {"fastnn": times})
    same.reference.all_cores = slowed.reference.all_cores
    assert compare(old, record([same])).changes[0].verdict == "same"
    worse = measured(cell, {"fastnn": [2.5 * seconds for seconds in times]})
    worse.reference.all_cores = slowed.reference.all_cores
    change = compare(old, record([worse])).changes[0]
    assert change.verdict == "slower"
    assert change.factor == pytest.approx(1.8 / 2.5)


def test_a_spread_as_large_as_the_change_hides_it() -> None:
    cell = Cell("mnist", 8)
    wild = [1.0, 1.8, 1.1, 1.7, 1.2] * 20
    old = record([measured(cell, {"fastnn": wild})])
    new = record([measured(cell, {"fastnn": [1.3 * seconds for seconds in wild]})])
    change = compare(old, new).changes[0]
    assert change.p < 0.05
    assert change.verdict == "same"
    assert change.factor == pytest.approx(1 / 1.3)
    assert change.spread == pytest.approx(0.8)
    assert statistics.median(wild) == 1.2


# --- the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--network", "mnits"], "no network is called 'mnits'; did you mean 'mnist'?"),
        (["--peer", "jaxx"], "no peer is called 'jaxx'; did you mean 'jax'?"),
        (["--device", "gpu"], "no device is called 'gpu'; did you mean 'cuda'?"),
        (["--quick", "--full"], "give --quick, or --full"),
        (["--full", "--network", "mnist"], "give --quick, or --full"),
        (["--resume", "x.json", "--quick"], "takes no others"),
        (["--resume", "x.json", "--seconds", "1"], "takes no others"),
        (["--resume", "x.json", "--budget", "9"], "takes no others"),
        (["--seconds", "nan"], "'nan' is not a finite number"),
        (["--output", "nowhere/x.json"], "there is no folder"),
        (["--network", "deep", "--batch-size", "1"], "no cell is left"),
    ],
)
def test_usage_that_makes_no_sense(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command(*arguments)
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value"), [("--batch-size", "-8"), ("--batch-size", "few"), ("--seconds", "nan")])
def test_a_value_that_is_none_is_named_with_its_option_in_one_line(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command(option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert any(option in line and value in line for line in result.stderr.splitlines()), result.stderr
    assert not list(tmp_path.iterdir())


def test_a_record_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = write(noisy_run(0), tmp_path / "record.json")
    before = path.read_bytes()
    result = command("--quick", "--output", path)
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert path.read_bytes() == before


def test_a_record_is_shown_again(tmp_path: Path) -> None:
    done = [
        measured(Cell("mnist", size), {"fastnn": [1.0], "jax": [seconds]})
        for size, seconds in ((8, 4.0), (32, 0.5), (128, 2.0))
    ]
    done.append(measured(Cell("mnist", 512), {"fastnn": [1.0]}))
    path = write(record(done), tmp_path / "record.json")
    result = command("show", path, "--no-plots")
    assert result.exit_code == 0, result.output
    rows = [text.split() for text in result.stdout.splitlines() if text.startswith("mnist")]
    assert [row[1] for row in rows] == ["8", "32", "128", "512"]
    result = command("show", path, "--no-plots", "--by-ratio")
    rows = [text.split() for text in result.stdout.splitlines() if text.startswith("mnist")]
    assert [row[1] for row in rows] == ["32", "128", "8"]
    assert all(len(text) <= 80 for text in result.stdout.splitlines())
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_several_records_are_shown_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    paths = [
        write(record([measured(Cell("mnist", 8), {"fastnn": [1.0], "jax": [seconds]})]), tmp_path / f"{seconds}.json")
        for seconds in (4.0, 0.5)
    ]
    result = command("show", *paths, "--output", tmp_path / "both.html")
    assert result.exit_code == 0, result.output
    (row,) = (text.split() for text in result.stdout.splitlines() if text.startswith("mnist"))
    assert [word for word in row if word.endswith("x")] == ["4.00x", "0.50x"]
    assert all(len(text) <= 80 for text in result.stdout.splitlines() if "/" not in text)
    assert (tmp_path / "both.html").read_bytes().startswith(b"<!DOCTYPE html>")
    before = sorted(tmp_path.iterdir())
    assert command("show", *paths, "--no-plots").exit_code == 0
    assert sorted(tmp_path.iterdir()) == before
    result = command("show", *paths, "--by-ratio")
    assert result.exit_code == 2
    assert "--by-ratio sorts the table of one record" in result.stderr


def test_plots_and_page_are_drawn_beside_a_record(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    path = write(noisy_run(0), tmp_path / "record.json")
    result = command("show", path)
    assert result.exit_code == 0, result.output
    assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<"), (".html", b"<!DOCTYPE html>")):
        assert path.with_suffix(suffix).read_bytes().startswith(start)
        assert str(path.with_suffix(suffix)) in result.stdout.replace("\n          ", " ")


def test_a_foreign_record_is_shown_but_not_gone_on_with(tmp_path: Path) -> None:
    """Who took part is the record's to say, not this installation's."""
    path = write(record([measured(Cell("unheard", 8), {"fastnn": [1.0], "stranger": [2.0]})]), tmp_path / "record.json")
    result = command("show", path, "--no-plots")
    assert result.exit_code == 0, result.output
    assert "in turns  fastnn, stranger;" in result.stdout
    result = command("--resume", path)
    assert result.exit_code == 1
    assert "no contestant is called 'stranger'" in result.stderr


def test_what_draws_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = write(noisy_run(0), tmp_path / "record.json")
    result = command("show", path)
    assert result.exit_code == 0, result.output
    assert "a plot needs matplotlib, which is not installed: pip install matplotlib" in " ".join(result.stdout.split())
