"""`fastnn bench`: measure training throughput, show a record, compare two."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastnn.benchmarks.watcher import Watcher
from fastnn.cli.commands import WIDTH, Checked, Command, Group, Number, line
from fastnn.cli.networks import Name, sizes
from fastnn.pieces import read_pieces, read_shape

if TYPE_CHECKING:
    from fastnn.benchmarks.grid import Cell
    from fastnn.benchmarks.record import Measured, Record

QUICK = {"rounds": 3, "processes": 2, "peers": 1, "seconds": 0.1, "budget": 30.0}
GRID = {"rounds": 10, "processes": 5, "peers": 3, "seconds": 0.2, "budget": 240.0}

ACTIVATIONS = ("relu", "sigmoid", "tanh")
"""Those of `fastnn.benchmarks.grid`, written out since that loads NumPy: `--help` is to come at once."""

FILE = click.Path(dir_okay=False, path_type=Path)


class Percent(click.ParamType[float]):
    """`10%` or `0.1`, as a share."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share < float("inf"):
            self.fail(f"expected a share such as 10% or 0.1, got {value!r}", param, ctx)
        return share


def _sizes(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    return None if value is None else sizes(context, parameter, value)


@click.group(cls=Group, invoke_without_command=True, short_help="Measure training against other libraries.")
@click.option("--quick", is_flag=True, help="Five cells, without torch.compile. This is the default.")
@click.option("--full", is_flag=True, help="The whole grid, on every device.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="NAME",
    help="planar, nielsen, mnist, deep, wide, nielsen1, nielsen2, cifar, or sizes such as 512-768-768-20; repeatable.",
)
@click.option("--inputs", type=click.IntRange(1), metavar="N", help="Inputs of a network of your own.")
@click.option(
    "--shape", type=Checked(read_shape), metavar="HxW[xC]", help="Instead of --inputs: the shape of images, e.g. 28x28x1."
)
@click.option(
    "--conv",
    type=Checked(read_pieces),
    metavar="PIECES",
    help="Layers for images in front of the hidden ones, e.g. 20x5,pool2: FILTERSxKERNEL, also with :same, and max pooling.",
)
@click.option("--hidden", callback=_sizes, metavar="SIZES", help="Units of its hidden layers, e.g. 768,768; or none.")
@click.option("--outputs", type=click.IntRange(1), metavar="N", help="Its outputs: a class each, or one for a yes or no.")
@click.option("--activation", type=Name(ACTIVATIONS), metavar="NAME", help="relu, sigmoid or tanh. [default: relu]")
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    type=click.IntRange(1, 2**20),
    metavar="B",
    help="Mini-batch size; repeatable.",
)
@click.option("--device", "devices", multiple=True, metavar="NAME", help="cpu or cuda; repeatable. [default: what is here]")
@click.option(
    "--precision", "precisions", multiple=True, metavar="NAME", help="float32, and on a GPU tf32 or bf16; repeatable."
)
@click.option(
    "--peer", "peers", multiple=True, metavar="NAME", help="Whom to compare with, or none; repeatable. [default: everyone]"
)
@click.option("--inference", is_flag=True, help="Measure inference instead of training, on the CPU.")
@click.option(
    "--calls", is_flag=True, help="Also time short calls: fit of 1, 4 and 16 steps, partial_fit, and a training_step."
)
@click.option("--neighbor", is_flag=True, help="Also time epochs beside a process that keeps one core busy.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of everybody. [default: as many as cores]")
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="Turns of everybody in a cell. [default: 3 or 10]")
@click.option("--seconds", type=Number(0, min_open=True), metavar="S", help="Length of a turn. [default: 0.1 or 0.2]")
@click.option("--budget", type=Number(0, min_open=True), metavar="S", help="What a cell may take. [default: 30 or 240]")
@click.option("--output", type=FILE, metavar="FILE", help="The record, as JSON. [default: fastnn-bench-DATE-TIME.json]")
@click.option("--resume", type=FILE, metavar="FILE", help="Continue with the run of this record.")
@click.pass_context
def bench(
    context: click.Context,
    quick: bool,
    full: bool,
    networks: Sequence[str],
    inputs: int | None,
    shape: str | None,
    conv: str | None,
    hidden: tuple[int, ...] | None,
    outputs: int | None,
    activation: str | None,
    batch_sizes: Sequence[int],
    devices: Sequence[str],
    precisions: Sequence[str],
    peers: Sequence[str],
    inference: bool,
    calls: bool,
    neighbor: bool,
    threads: int | None,
    rounds: int | None,
    seconds: float | None,
    budget: float | None,
    output: Path | None,
    resume: Path | None,
) -> None:
    """Measure how many examples a second are trained on, in turns with other libraries.

    Each cell of the grid is a network at a mini-batch size on a device. Writes a
    record (JSON), and beside it plots (PNG, SVG) and a page (HTML).

    \b
    Examples:
      fastnn bench
      fastnn bench --network mnist --batch-size 32 --batch-size 128 --peer jax
      fastnn bench --inputs 512 --hidden 768,768 --outputs 20 --batch-size 100
      fastnn bench --shape 28x28 --conv 20x5,pool2 --hidden 100 --outputs 10
      fastnn bench --calls --peer torch --peer jax
      fastnn bench --inference --peer torch --peer onnxruntime
      fastnn bench --full --output full.json
      fastnn bench --resume full.json
      fastnn bench show full.json other-machine.json
      fastnn bench compare before.json after.json
    """
    if context.invoked_subcommand is not None:
        return
    networks = [*networks, *_own(inputs, shape, conv, hidden, outputs, activation)]
    chosen = bool(networks or batch_sizes)
    if quick + full + chosen > 1:
        raise click.UsageError("give --quick, or --full, or networks and mini-batch sizes")
    others = (devices, precisions, peers, inference, calls, neighbor, threads, rounds, seconds, budget, output)
    if resume is not None and (quick or full or chosen or any(others)):
        raise click.UsageError("--resume continues under the settings of its record, and takes no others")
    from fastnn.benchmarks import record as records
    from fastnn.benchmarks import runner
    from fastnn.errors import InputError

    if resume is not None:
        record, path = records.read(resume), resume
        runner.resume(record)
    else:
        try:
            if inference:
                cells = _inference_cells(full, chosen, networks, batch_sizes, devices, precisions)
            else:
                cells = _cells(full, chosen, networks, batch_sizes, devices, precisions)
            record = _plan(cells, full or chosen, peers, _timings(calls, neighbor), threads, rounds, seconds, budget)
        except InputError as error:
            raise click.UsageError(str(error)) from error
        path = _new_file(output, record)
        records.write(record, path)
    _heading(record, *_taking_part(record))
    terminal = _Terminal(record)
    try:
        runner.run(record, path, terminal)
    except KeyboardInterrupt:
        terminal.close()
        click.echo(f"what was measured is in {path}; continue with: fastnn bench --resume {path}", err=True)
        raise
    finally:
        terminal.close()
    _footer(record)
    _draw(record, path)


@bench.command(cls=Command, short_help="Show a record again, or several side by side.")
@click.argument("records", type=FILE, nargs=-1, required=True)
@click.option("--by-ratio", is_flag=True, help="Sort by the ratio to the best peer, what is slower first.")
@click.option("--no-plots", is_flag=True, help="Print the table alone.")
@click.option("--output", type=FILE, metavar="FILE", help="The page of several records. [default: fastnn-bench-machines.html]")
def show(records: Sequence[Path], by_ratio: bool, no_plots: bool, output: Path | None) -> None:
    """Print the table of a record, and draw its plots and its page beside it.

    Several RECORDS, of GPUs or processors, are laid side by side in one page, which
    says what differs between them. They may be records of `ci/gpu.sh` too, also a
    single one if --output is given.
    """
    if len(records) > 1 or output is not None:
        if by_ratio:
            raise click.UsageError("--by-ratio sorts the table of one record")
        _show_machines(records, None if no_plots else output or Path("fastnn-bench-machines.html"))
        return
    from fastnn.benchmarks import record as formats
    from fastnn.benchmarks import table

    (path,) = records
    results = formats.read(path)
    _heading(results, [name for name in results.contestants if any(name in measured.measured for measured in results.done)])
    click.echo(table.header(results))
    cells = [measured for measured in results.done if not (by_ratio and math.isnan(measured.ratio))]
    for measured in sorted(cells, key=lambda measured: measured.ratio) if by_ratio else cells:
        for text in filter(None, (table.row(results, measured), table.neighbor_row(results, measured))):
            click.echo(text)
    _footer(results)
    if not no_plots:
        _draw(results, path)


@bench.command(cls=Command, short_help="Find what became faster or slower.")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option(
    "--fail",
    type=Percent(),
    default="10%",
    show_default=True,
    metavar="SHARE",
    help="Exit with 1 if a cell lost more than this.",
)
@click.option("--all", "everything", is_flag=True, help="Show the cells too that did not change.")
@click.option("--other-machine", is_flag=True, help="Compare records of different machines.")
def compare(old: Path, new: Path, fail: float, everything: bool, other_machine: bool) -> None:
    """Compare the training throughput of fastnn in two records, OLD and NEW.

    Times count relative to fixed workloads that were run in the same rounds. A cell
    has changed if the change goes beyond the spread of its times and is significant
    among as many cells as are compared.
    """
    from fastnn.benchmarks import compare as comparing
    from fastnn.benchmarks import record as records

    comparison = comparing.compare(records.read(old), records.read(new), other_machine=other_machine)
    for text in comparing.lines(comparison, fail, everything):
        click.echo(text)
    if comparison.regressions(fail):
        click.get_current_context().exit(1)


def _show_machines(paths: Sequence[Path], output: Path | None) -> None:
    """Records side by side, as text, and as a page."""
    from fastnn.benchmarks import machines, machines_page
    from fastnn.errors import PackageError
    from fastnn.storage.atomic import write_whole

    several = machines.read(paths)
    for text in machines.headings(several):
        click.echo(textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    click.echo()
    for text in machines.rows(several):
        click.echo(text)
    if output is None:
        return
    click.echo()
    try:
        write_whole(output, machines_page.render(several).encode())
        line("page", str(output))
    except PackageError as error:
        line("missing", str(error))


def _own(
    inputs: int | None,
    shape: str | None,
    conv: str | None,
    hidden: tuple[int, ...] | None,
    outputs: int | None,
    activation: str | None,
) -> list[str]:
    """The name of a network of one's own; none if none was described."""
    if (inputs, shape, conv, hidden, outputs, activation) == (None,) * 6:
        return []
    if (inputs is None) == (shape is None) or (shape is None) != (conv is None) or hidden is None or outputs is None:
        raise click.UsageError(
            "a network of your own needs --inputs, or --shape and --conv, and --hidden (none where there is no hidden layer) "
            "and --outputs"
        )
    from fastnn.benchmarks.grid import own_network
    from fastnn.errors import InputError

    try:
        if inputs is not None:
            return [own_network((inputs, *hidden, outputs), activation or "relu").name]
        image = (*read_shape(shape or ""), 1)[:3]
        return [own_network((*hidden, outputs), activation or "relu", image, conv or "").name]
    except InputError as error:
        raise click.UsageError(str(error)) from error


def _timings(calls: bool, neighbor: bool) -> list[str]:
    """What is timed beside epochs."""
    from fastnn.benchmarks.grid import CALLS, NEIGHBOR

    return [*(CALLS if calls else ()), *([NEIGHBOR] if neighbor else [])]


def _plan(
    cells: Sequence[Cell],
    wide: bool,
    peers: Sequence[str],
    timings: Sequence[str],
    threads: int | None,
    rounds: int | None,
    seconds: float | None,
    budget: float | None,
) -> Record:
    """The record of a run that has not begun; what is not given is that of the whole grid if `wide`, else of --quick."""
    from fastnn.benchmarks import runner
    from fastnn.benchmarks.peers import CONTESTANTS

    defaults = GRID if wide else QUICK
    everyone = None if wide else [name for name in CONTESTANTS if name not in ("fastnn", "torch-compile", "compile-nhwc")]
    return runner.plan(
        cells,
        [] if tuple(peers) == ("none",) else list(peers) or everyone,
        threads,
        rounds or int(defaults["rounds"]),
        int(defaults["processes"]),
        int(defaults["peers"]),
        seconds or defaults["seconds"],
        budget or defaults["budget"],
        timings,
    )


def _new_file(output: Path | None, record: Record) -> Path:
    """Where the record goes: a file that is not there yet, in a folder that is."""
    created = record.created[:19].replace("-", "").replace(":", "").replace("T", "-")
    path = output or Path(f"fastnn-bench-{created}.json")
    if path.exists():
        raise click.UsageError(f"{path} is there already: --resume {path} continues with it")
    if not path.resolve().parent.is_dir():
        raise click.UsageError(f"there is no folder {path.resolve().parent}")
    return path


def _cells(
    full: bool,
    chosen: bool,
    networks: Sequence[str],
    batch_sizes: Sequence[int],
    devices: Sequence[str],
    precisions: Sequence[str],
) -> list[Cell]:
    """The cells that were asked for; without a device, the CPU and, if there is one or everything is asked for, the GPU."""
    from fastnn.benchmarks import environment, grid

    devices = devices or (("cpu", "cuda") if full or environment.gpu() is not None else ("cpu",))
    if full or chosen:
        return list(grid.cells(networks, batch_sizes, devices, precisions or ("float32",)))
    pairs = {(cell.network, cell.batch_size) for cell in grid.QUICK}
    everything = grid.cells((), (), devices, precisions or ("float32",))
    return [cell for cell in everything if (cell.network, cell.batch_size) in pairs]


def _inference_cells(
    full: bool,
    chosen: bool,
    networks: Sequence[str],
    rows: Sequence[int],
    devices: Sequence[str],
    precisions: Sequence[str],
) -> list[Cell]:
    """Those of inference that were asked for."""
    from fastnn.benchmarks import grid

    if {*devices} - {"cpu"} or {*precisions} - {"float32"}:
        raise click.UsageError("inference is measured on the CPU, in float32")
    return list(grid.inference_cells(networks, rows) if full or chosen else grid.QUICK_INFERENCE)


def _taking_part(record: Record) -> tuple[list[str], list[tuple[str, str]]]:
    """Who can run here, and what keeps the others from it, each with a label."""
    from fastnn.benchmarks.peers import CONTESTANTS

    ready, absent = [], []
    for name in record.settings.contestants:
        entry = CONTESTANTS[name]
        if entry.devices == ("cuda",) and record.environment.gpu is None:
            absent.append(("no GPU", name))
        elif entry.missing():
            absent.append(("missing", f"{name}: {entry.missing()}"))
        else:
            ready.append(name)
    return ready, absent


def _heading(record: Record, taking_part: Sequence[str], absent: Sequence[tuple[str, str]] = ()) -> None:
    """What is measured, where, and with whom."""
    from fastnn.benchmarks import table

    settings, environment = record.settings, record.environment
    threads = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    line(
        "machine",
        f"{environment.processor}, {environment.cores} cores, {environment.memory / 2**30:.0f} GiB; "
        + (environment.gpu.name if environment.gpu else "no GPU here"),
    )
    inference = all(cell.inference for cell in settings.cells)
    what = "inference" if inference else "training"
    line("cells", f"{len(settings.cells)}, examples of {what} a second; {threads} for everybody, on as many cores")
    line("in turns", ", ".join(taking_part) + f"; {settings.rounds} rounds of {settings.seconds:g} s each")
    if settings.timings:
        line("also", ", ".join(table.kind_label(kind) for kind in settings.timings))
    for label, text in absent:
        line(label, text)
    click.echo()


class _Terminal(Watcher):
    """A bar for the cell that is run, seen on a terminal only, and a row for each that is over."""

    def __init__(self, record: Record) -> None:
        from tqdm.auto import tqdm

        self.cells = len(record.left)
        self.over = 0
        self.bar: Any = tqdm(
            unit="turn", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True, bar_format="{desc} {bar}{postfix}"
        )

    def stage(self, text: str) -> None:
        self.bar.set_description_str(f"[{self.over + 1}/{self.cells}] {text}")

    def turns(self, count: int) -> None:
        self.bar.reset(count)

    def turn(self) -> None:
        self.bar.update()

    def cell(self, record: Record, measured: Measured) -> None:
        from fastnn.benchmarks import table

        if not self.over:
            self._print(table.header(record))
        self.over += 1
        for row in filter(None, (table.row(record, measured), table.neighbor_row(record, measured))):
            self._print(row)

    def warn(self, text: str) -> None:
        self.bar.write(f"warning: {text}", file=sys.stderr)

    def close(self) -> None:
        self.bar.close()

    def _print(self, row: str) -> None:
        self.bar.write(row, file=sys.stdout)
        sys.stdout.flush()


def _footer(record: Record) -> None:
    from fastnn.benchmarks import table

    calls = list(table.calls_table(record))
    for text in ["", *calls, ""] if calls else [""]:
        click.echo(text)
    for text in table.footer(record):
        indent = text[: len(text) - len(text.lstrip())] + "  "
        click.echo(textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False))


def _draw(record: Record, path: Path) -> None:
    """Plots and page beside the record; without the libraries that draw them, a line that says what to install."""
    from fastnn.benchmarks import page, plots
    from fastnn.errors import PackageError
    from fastnn.storage.atomic import write_whole

    pictures = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    click.echo()
    line("record", str(path))
    try:
        plots.save(record, pictures)
        line("plots", ", ".join(map(str, pictures)))
        write_whole(path.with_suffix(".html"), page.render(record).encode())
        line("page", str(path.with_suffix(".html")))
    except PackageError as error:
        line("missing", str(error))
