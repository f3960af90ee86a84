"""The record of a run of `ci/gpu.sh`, from what its steps left in a folder, and the summary that is read first.

    python ci/gpu_record.py usable   the name of the GPU; ends with 3 where there is none, with 1 where it cannot be used
    python ci/gpu_record.py missing  packages that are not here, one a line
    python ci/gpu_record.py write FOLDER OUT SECONDS STATE
                                     OUT/<gpu>-<date>.json and OUT/summary.txt of what the steps left in FOLDER in so many
                                     seconds; STATE is `running`, `finished` or `interrupted`

A step that left nothing, or something that cannot be read, is said to have done so; it never keeps the record from being
written. Needs nothing but the standard library, but for `usable`.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FORMAT, VERSION = "fastnn-gpu", 3

NEEDED = (
    "array_api_compat", "click", "cupy", "filelock", "ml_dtypes", "msgspec", "numba", "numpy", "safetensors", "scipy",
    "sklearn", "threadpoolctl", "tqdm", "hypothesis", "pytest", "pytest_benchmark", "xdist", "torch", "jax",
)  # fmt: skip
"""Modules that the library, its tests and the benchmark's peers import."""

DISTRIBUTIONS = ("numpy", "numba", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "jaxlib", "pytest", "msgspec", "ml-dtypes")

SECTIONS = {
    "open": "it opens", "compile": "compiles", "copies": "copies", "products": "products of cuBLASLt", "kernels": "kernels",
    "bits": "equal bits", "cells": "cells",
}  # fmt: skip
"""Sections of `ci/gpu_probe.py`, each a step that leaves findings."""

SUITES = {"gpu-tests": "the engine", "kernel-tests": "kernels", "memory": "memory", "mnist": "MNIST"}
"""Steps that leave a junit file of their name."""

ONLY = ("STAGES", "CELLS", "KERNELS", "PRODUCTS", "TESTS", "REPEATS")
"""Variables of the environment that select a part, see `ci/gpu.sh`."""

CELL = ("network", "batch_size", "rows")
"""What names a cell, and the examples of an epoch."""

OURS, PEERS = "fastnn", ("torch-graph", "jax-while")
OPTIONAL = ("versions", *(f"peer-{name}" for name in PEERS))
"""Steps without which a run has passed."""

TOOLS = ("memcheck", "racecheck")

SUMMARY = re.compile(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+) (?:error|hazard)")
RUN = re.compile(r"^(\d+) calls of (\d+) kernels$", re.MULTILINE)
BESIDE_MS = 0.5
"""Milliseconds that a call of `fit` may take beside its steps."""

UNSUPPORTED = re.compile(r"device not supported|not supported on this|unable to (?:initialize|attach)", re.IGNORECASE)


# --- before a run -----------------------------------------------------------------------------------------------------


def usable() -> int:
    """Print the name of the first GPU, or one line that says why it cannot be used; returns the exit code."""
    from fastnn import engines
    from fastnn.engines.cuda import CudaEngine
    from fastnn.errors import DeviceError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it would warn of is the reason
            print(engines.gpu(0).runtime.name)
    except DeviceError as error:
        broken = CudaEngine.is_broken(error)
        print(f"the GPU cannot be used: {error}" if broken else f"no GPU here: {error}")
        return 1 if broken else 3
    return 0


def missing() -> list[str]:
    """Modules of NEEDED that are not here."""
    absent = []
    for name in NEEDED:
        with contextlib.suppress(ValueError):  # it is loaded, and does not say from where
            if importlib.util.find_spec(name) is None:
                absent.append(name)
    return absent


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


def findings(text: str) -> list[dict[str, Any]]:
    """Of a file of `ci/gpu_probe.py`; a line that was cut off is left out."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and {"section", "what", "ok"} <= value.keys():
                found.append(value)
    return found


def cells(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By cell what ours takes, milliseconds of an epoch of everybody, the best peer, and its time as a multiple of ours."""
    by_cell: dict[str, dict[str, Any]] = {}
    for each in found:
        measured = each["section"] == "cells" or "contestant" in each
        if measured and each["ok"]:
            cell = by_cell.setdefault(each["what"], {"cell": each["what"], "epoch_ms": {}, "best_peer": None, "ratio": None})
            if "contestant" in each:
                cell["epoch_ms"][each["contestant"]] = each["epoch_ms"]
                cell |= {name: each[name] for name in CELL if name in each}
            else:
                cell |= {name: value for name, value in each.items() if name not in ("section", "what", "ok", "at", "ms")}
    for cell in by_cell.values():
        peers = {name: ms for name, ms in cell["epoch_ms"].items() if name != OURS}
        if peers and OURS in cell["epoch_ms"]:
            cell["best_peer"] = min(peers, key=peers.__getitem__)
            cell["ratio"] = round(peers[cell["best_peer"]] / cell["epoch_ms"][OURS], 3)
    return list(by_cell.values())


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
        return git("rev-parse", "HEAD")[:12] + ("+" if git("--no-optional-locks", "status", "--porcelain", "-uno") else "")
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
        "gpu": device(text("nvidia-smi.csv")), "versions": versions(), "missing": missing(),
        "only": {name: os.environ[name] for name in ONLY if os.environ.get(name)}, "steps": steps(text("steps.tsv")),
        "findings": {}, "cells": [], "tests": {}, "sanitizer": {}, "mnist": {}, "trouble": [],
    }  # fmt: skip
    asked = {step["name"]: step for step in made["steps"]}
    found = [each for path in sorted(folder.glob("*.jsonl")) for each in findings(text(path.name))]
    for section in dict.fromkeys([*SECTIONS, *(each["section"] for each in found)]):
        lines = [each for each in found if each["section"] == section]
        if lines:
            wrong = [{"what": each["what"], "error": each.get("error", "")} for each in lines if not each["ok"]]
            made["findings"][section] = {"ok": len(lines) - len(wrong), "wrong": wrong}
    made["cells"] = cells(found)
    for name in SUITES:
        if asked.get(name, {}).get("exit", -1) >= 0:
            try:
                made["tests"][name] = junit(folder / f"{name}.xml")
            except (OSError, ElementTree.ParseError) as error:
                made["trouble"].append(f"{name}: no results ({error})")
    properties = made["tests"].get("mnist", {}).get("properties", {})
    made["mnist"] = {key.removeprefix("mnist "): float(value) for key, value in properties.items() if key.startswith("mnist ")}
    for tool in TOOLS:
        if tool in asked:
            made["sanitizer"][tool] = sanitizer(text(f"{tool}.log"))
    made["trouble"] += [
        f"{step['name']}: {ending(step['exit'])}" for step in made["steps"] if step["exit"] and step["name"] not in OPTIONAL
    ]  # fmt: skip
    tests = made["tests"].values()
    broken = any(suite["failed"] or suite["errors"] or not suite["passed"] for suite in tests)
    unsafe = any(tool["status"] not in ("clean", "unsupported") for tool in made["sanitizer"].values())
    wrong = any(made["findings"][section]["wrong"] for section in made["findings"] if section not in OPTIONAL)
    asked_for = bool(tests) or ("STAGES" in made["only"] and bool(asked))
    made["passed"] = asked_for and not (broken or unsafe or wrong or made["trouble"])
    made["worst"] = [line for _, line in complaints(made)]
    return made


def complaints(record: dict[str, Any]) -> list[tuple[float, str]]:
    """What is wrong, the worst first: it does not open; other results than there should be; failures; slowness."""
    made: list[tuple[float, str]] = []
    for section, found in record["findings"].items():
        wrong = found["wrong"]
        if wrong:
            weight = {"open": 100.0, "cells": 60.0}.get(section, 25.0 if section in OPTIONAL else 90.0)
            share = f"{len(wrong)} of {len(wrong) + found['ok']}"
            made.append((weight, f"{section}: {share} not right; first {wrong[0]['what']}: {wrong[0]['error']}"))
    for tool, found in record["sanitizer"].items():
        if found["errors"]:
            made.append((85.0, f"{tool}: {found['errors']} errors"))
    for name, suite in record["tests"].items():
        if suite["failures"]:
            count = suite["failed"] + suite["errors"]
            made.append((80.0, f"{name}: {count} of {count + suite['passed']} failed; first {suite['failures'][0]}"))
        elif not suite["passed"]:
            made.append((75.0, f"{name}: none passed, {suite['skipped']} were skipped"))
    known = {line.split(":")[0] for _, line in made}
    for line in record["trouble"]:
        if line.split(":")[0] not in known:
            made.append((10.0 if line.endswith(ending(-1)) else 70.0, line))
    for cell in record["cells"]:
        name = cell["cell"]
        if cell["ratio"] is not None and cell["ratio"] < 1:
            made.append((50 * (1 - cell["ratio"]), f"{name}: {cell['ratio']:.2f} times as fast as {cell['best_peer']}"))
        if cell.get("captures"):
            made.append((35.0, f"{name}: a call of fit of known shapes captures {cell['captures']:g} graphs"))
        whole, steps = cell.get("fit_ms", 0.0), cell.get("steps_ms", 0.0)
        if whole - steps > BESIDE_MS:
            weight = 40 * (whole - steps) / whole
            made.append((weight, f"{name}: a fit takes {whole:.2f} ms, its steps {steps:.2f} ms"))
    if record["missing"]:
        made.append((30.0, f"not installed: {', '.join(record['missing'])}"))
    return sorted(made, key=lambda each: -each[0])


def ending(code: int) -> str:
    """What an exit code of a step means."""
    return "no time was left" if code == -1 else "out of time" if code in (124, 137) else f"ended with {code}"


# --- the summary ------------------------------------------------------------------------------------------------------


def table(record: dict[str, Any]) -> Iterator[str]:
    """The record in lines of two columns."""

    def row(label: str, value: str) -> str:
        return f"{label:<24}{value}"

    gpu = record["gpu"]
    yield row("GPU", f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}" if gpu else "nvidia-smi says nothing")
    yield row("commit", record["commit"] or "not known")
    for section, found in record["findings"].items():
        if section in SECTIONS:
            wrong = found["wrong"]
            yield row(SECTIONS[section], f"{found['ok']} right" + (f", {len(wrong)} NOT" if wrong else ""))
            yield from (row("", f"{each['what']}: {each['error']}"[:160]) for each in wrong[:6])
    for name, suite in record["tests"].items():
        counts = ", ".join(f"{suite[kind]} {kind}" for kind in ("passed", "failed", "errors", "skipped") if suite[kind])
        yield row(f"tests of {SUITES[name]}", f"{counts or 'none ran'}; {suite['seconds']:.0f} s")
        yield from (row("", f"failed: {failure}") for failure in suite["failures"][:10])
    for tool, found in record["sanitizer"].items():
        errors = f", {found['errors']} errors" if found["errors"] else ""
        yield row(tool, f"{found['status']}{errors}; {found['calls']} calls of {found['kernels']} kernels")
    for what, accuracy in record["mnist"].items():
        yield row(f"MNIST, {what}", f"{accuracy:.2%}")
    for cell in record["cells"]:
        ours = "fit {fit_ms:.2f} ms, steps {steps_ms:.2f} ms, begin {begin_ms:.2f} ms, {step_us:.1f} us a step".format(
            **cell
        ) if "fit_ms" in cell else ""  # fmt: skip
        ours += f", {cell['row_us']:.1f} us with all nodes in a row" if "row_us" in cell else ""
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in cell["epoch_ms"].items())
        ratio = f"{cell['ratio']:.2f} x {cell['best_peer']}" if cell["ratio"] is not None else ""
        yield row(cell["cell"].removesuffix(" on cuda"), "; ".join(filter(None, (ratio, ours, times))))
    yield from (row("trouble", what) for what in record["trouble"])
    yield row("steps", ", ".join(f"{step['name']} {step['seconds']} s" for step in record["steps"]))
    part = ", ".join(f"{name}={value}" for name, value in record["only"].items())
    yield row("result", ("passed" if record["passed"] else "FAILED") + (f" (a part: {part})" if part else ""))


def summary(record: dict[str, Any], seconds: str, state: str) -> str:
    """One page: the three worst things, then the table."""
    worst = [f"{index}. {line[:200]}" for index, line in enumerate(record["worst"][:3], 1)] or ["nothing"]
    return "\n".join([f"{state} after {seconds} s; the worst:", *worst, "", *table(record), ""])


def without_home(text: str) -> str:
    """Paths with `~` for the home folder, whose name is a person's; the record is meant to be handed on."""
    home = str(Path.home())
    return text.replace(home, "~") if home.count("/") > 1 else text


def write_whole(path: Path, text: str) -> None:
    """A file that is whole at any time."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)


def write(folder: Path, out: Path, seconds: str, state: str) -> dict[str, Any]:
    """Build the record of what lies in `folder`; write it and the summary into `out`."""
    now = datetime.datetime.now(datetime.UTC)
    record = build(folder, now)
    name = re.sub(r"[^a-z0-9]+", "-", record["gpu"].get("name", "gpu").lower()).strip("-")
    path = out / f"{name}-{now:%Y-%m-%d}.json"
    write_whole(path, without_home(json.dumps(record, indent=1)) + "\n")
    write_whole(out / "summary.txt", f"{summary(record, seconds, state)}record                  {path}\n")
    return record


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["usable"]:
            return usable()
        case ["missing"]:
            print("\n".join(missing()))
        case ["write", folder, out, seconds, state]:
            return 0 if write(Path(folder), Path(out), seconds, state)["passed"] else 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
