"""The record of a run of `ci/gpu.sh`, from what its steps left in a folder, and the table that is printed last.

    python ci/gpu_record.py usable               the name of the GPU; ends with 1 and the reason where none can be used
    python ci/gpu_record.py missing              packages that are not here, one a line
    python ci/gpu_record.py plan FILE [--quick]  a benchmark of a few cells, for `fastnn bench --resume FILE`
    python ci/gpu_record.py write FOLDER OUT     OUT/<gpu>-<date>.json of what the steps left in FOLDER, and the table

A step that left nothing, or something that cannot be read, is said to have done so; it never keeps the record from being
written. Needs nothing but the standard library, but for `usable`, and for `plan` and the ratios what `fastnn bench` needs.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FORMAT, VERSION = "fastnn-gpu", 1

NEEDED = (
    "array_api_compat", "click", "cupy", "filelock", "msgspec", "numba", "numpy", "safetensors", "scipy", "sklearn",
    "threadpoolctl", "tqdm", "hypothesis", "pytest", "pytest_benchmark", "xdist", "torch", "jax",
)  # fmt: skip
"""Modules that the library, its tests and the benchmark's peers import."""

DISTRIBUTIONS = ("numpy", "numba", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "jaxlib", "pytest", "msgspec", "ml-dtypes")

CELLS = (("mnist", 128), ("mnist", 8192), ("nielsen", 8), ("planar", 400), ("deep", 2048), ("wide", 8192))
QUICK = (("mnist", 128), ("wide", 8192))
PEERS = ("torch", "torch-graph", "jax", "jax-while")
"""Those that need no long compiling."""

SUITES = {"tests": "the engine", "kernels": "kernels", "mnist": "MNIST"}
"""Steps that leave a junit file of their name."""

TOOLS = ("memcheck", "racecheck")

SUMMARY = re.compile(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+) (?:error|hazard)")
RUN = re.compile(r"^(\d+) calls of (\d+) kernels$", re.MULTILINE)
UNSUPPORTED = re.compile(r"device not supported|not supported on this|unable to (?:initialize|attach)", re.IGNORECASE)


# --- before a run -----------------------------------------------------------------------------------------------------


def usable() -> str:
    """The name of the first GPU. Raises SystemExit with one line where it cannot be used."""
    from fastnn import engines
    from fastnn.errors import DeviceError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it would warn of is the reason
            return engines.gpu(0).runtime.name
    except DeviceError as error:
        raise SystemExit(f"no GPU here: {error}") from error


def missing() -> list[str]:
    """Modules of NEEDED that are not here."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def plan(path: Path, quick: bool) -> None:
    """Write the record of a benchmark that is still to be run."""
    from fastnn.benchmarks import grid, record, runner

    cells = [grid.Cell(network, size, "cuda") for network, size in (QUICK if quick else CELLS)]
    # Few turns, since the cells together have about three minutes.
    made = runner.plan(cells, PEERS, rounds=5, processes=2, peer_processes=1, seconds=0.1, budget=20.0 if quick else 26.0)
    record.write(made, path)


# --- what the steps left ----------------------------------------------------------------------------------------------


def junit(path: Path) -> dict[str, Any]:
    """The counts of a junit file of pytest, the names of what failed, and the properties that tests recorded.

    Raises OSError or ElementTree.ParseError for one that is not there or cut off.
    """
    counts = dict.fromkeys(("passed", "failed", "errors", "skipped"), 0)
    failures, properties, seconds = [], {}, 0.0
    for case in ElementTree.parse(path).iter("testcase"):
        seconds += float(case.get("time", 0))
        kinds = {child.tag for child in case}
        outcome = next(
            (o for tag, o in (("error", "errors"), ("failure", "failed"), ("skipped", "skipped")) if tag in kinds), "passed"
        )
        counts[outcome] += 1
        if outcome in ("failed", "errors"):
            failures.append(f"{case.get('classname', '')}::{case.get('name', '')}")
        properties |= {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
    return {**counts, "seconds": round(seconds, 1), "failures": failures, "properties": properties}


def sanitizer(log: str) -> dict[str, Any]:
    """What a log of compute-sanitizer over `ci/sanitize.py` says: a status, the number of errors and of calls."""
    found, ran = SUMMARY.findall(log), RUN.search(log)
    counts = {"calls": int(ran[1]), "kernels": int(ran[2])} if ran else {"calls": 0, "kernels": 0}
    if UNSUPPORTED.search(log):
        return {"status": "unsupported", "errors": 0, **counts}
    if not found:
        return {"status": "no summary", "errors": 0, **counts}
    errors = int(found[-1])
    status = "errors" if errors else "clean" if ran else "was not finished"
    return {"status": status, "errors": errors, **counts}


def steps(text: str) -> list[dict[str, Any]]:
    """From lines of name, exit code and seconds, separated by tabs."""
    rows = [line.split("\t") for line in text.splitlines() if line.count("\t") == 2]
    return [{"name": name, "exit": int(code), "seconds": int(seconds)} for name, code, seconds in rows]


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a benchmark that were run: our throughput, the best peer's, their ratio, and how everybody fared."""
    from fastnn.benchmarks import record

    found = []
    for measured in record.read(path).done:
        ours, best = record.OURS in measured.measured, measured.best_peer
        results = {}
        for name, result in measured.results.items():
            rate = round(measured.examples_per_second(name)) if name in measured.measured else None
            results[name] = {"status": result.status, "reason": result.reason, "examples_per_second": rate}
        ratio = round(measured.ratio, 3) if ours and best else None
        found.append(
            {"cell": str(measured.cell), "best_peer": best, "ratio": ratio, "noisy": measured.noisy, "results": results}
        )
    return found


def device(text: str) -> dict[str, str]:
    """From `nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader`; the first GPU."""
    fields = [field.strip() for field in text.splitlines()[0].split(",")] if text.strip() else []
    return dict(zip(("name", "memory", "driver"), fields, strict=False)) if len(fields) == 3 else {}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str | None:
    """The commit of the checkout that this file lies in, with `+` behind it where files were changed."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()  # fmt: skip

    try:
        return git("rev-parse", "HEAD")[:12] + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def build(folder: Path, now: datetime.datetime) -> dict[str, Any]:
    """The record of what lies in `folder`."""

    def text(name: str) -> str:
        with contextlib.suppress(OSError):
            return (folder / name).read_text(errors="replace")
        return ""

    made: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "created": now.isoformat(timespec="seconds"), "commit": commit(),
        "gpu": device(text("nvidia-smi.csv")), "versions": versions(), "missing": missing(), "steps": steps(text("steps.tsv")),
        "tests": {}, "sanitizer": {}, "mnist": {}, "cells": [], "trouble": [],
    }  # fmt: skip
    asked = {step["name"]: step for step in made["steps"]}
    for name in SUITES:
        if name in asked:
            try:
                made["tests"][name] = junit(folder / f"{name}.xml")
            except (OSError, ElementTree.ParseError) as error:
                made["trouble"].append(f"{name}: no results ({error})")
    properties = made["tests"].get("mnist", {}).get("properties", {})
    made["mnist"] = {key.removeprefix("mnist "): float(value) for key, value in properties.items() if key.startswith("mnist ")}
    for tool in TOOLS:
        if tool in asked:
            made["sanitizer"][tool] = sanitizer(text(f"{tool}.log"))
    if "bench" in asked:
        try:
            made["cells"] = cells(folder / "bench.json")
        except Exception as error:  # whatever a benchmark left, the rest of the record is worth having
            made["trouble"].append(f"bench: no figures ({error})")
    made["trouble"] += [f"{step['name']}: {ending(step['exit'])}" for step in made["steps"] if step["exit"]]
    tests = made["tests"].values()
    broken = any(suite["failed"] or suite["errors"] or not suite["passed"] for suite in tests)
    unsafe = any(found["status"] not in ("clean", "unsupported") for found in made["sanitizer"].values())
    made["passed"] = bool(tests) and not (broken or unsafe or made["trouble"])
    return made


def ending(code: int) -> str:
    """What an exit code of a step means."""
    return "out of time" if code in (124, 137) else f"ended with {code}"


# --- the table --------------------------------------------------------------------------------------------------------


def table(record: dict[str, Any]) -> Iterator[str]:
    """The record in lines of two columns."""

    def row(label: str, value: str) -> str:
        return f"{label:<24}{value}"

    gpu = record["gpu"]
    yield row("GPU", f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}" if gpu else "nvidia-smi says nothing")
    yield row("commit", record["commit"] or "not known")
    for name, suite in record["tests"].items():
        counts = ", ".join(f"{suite[kind]} {kind}" for kind in ("passed", "failed", "errors", "skipped") if suite[kind])
        yield row(f"tests of {SUITES[name]}", f"{counts or 'none ran'}; {suite['seconds']:.0f} s")
        yield from (row("", f"failed: {failure}") for failure in suite["failures"][:20])
    for tool, found in record["sanitizer"].items():
        errors = f", {found['errors']} errors" if found["errors"] else ""
        yield row(tool, f"{found['status']}{errors}; {found['calls']} calls of {found['kernels']} kernels")
    for what, accuracy in record["mnist"].items():
        yield row(f"MNIST, {what}", f"{accuracy:.2%}")
    for cell in record["cells"]:
        rate = cell["results"].get("fastnn", {}).get("examples_per_second")
        if cell["ratio"] is None:
            reasons = [
                f"{name}: {r['status']} {r['reason']}" for name, r in cell["results"].items() if not r["examples_per_second"]
            ]
            yield row(cell["cell"], (f"{rate:,} examples/s; " if rate else "") + "; ".join(reasons))
        else:
            noisy = ", noisy" if cell["noisy"] else ""
            yield row(cell["cell"], f"{rate:,} examples/s, {cell['ratio']:.2f} x {cell['best_peer']}{noisy}")
    yield from (row("trouble", what) for what in record["trouble"])
    yield row("result", "passed" if record["passed"] else "FAILED")


def write(folder: Path, out: Path) -> dict[str, Any]:
    """Build the record of what lies in `folder`, write it into `out`, print the table."""
    now = datetime.datetime.now(datetime.UTC)
    record = build(folder, now)
    name = re.sub(r"[^a-z0-9]+", "-", record["gpu"].get("name", "gpu").lower()).strip("-")
    path = out / f"{name}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join([*table(record), f"{'record':<24}{path}"]))
    return record


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["usable"]:
            print(usable())
        case ["missing"]:
            print("\n".join(missing()))
        case ["plan", path, *rest] if rest in ([], ["--quick"]):
            plan(Path(path), bool(rest))
        case ["write", folder, out]:
            return 0 if write(Path(folder), Path(out))["passed"] else 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
