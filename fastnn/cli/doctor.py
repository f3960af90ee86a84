"""`fastnn doctor`: what fastnn finds on this machine, and whether training works."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastnn.cli.commands import Command, describe, line

REQUIRED = ("numpy", "numba", "llvmlite", "scipy")
OPTIONAL = {
    '"fastnn-xp[cuda13]"': ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "matplotlib": ("matplotlib",),
    "plotly": ("plotly",),
    "jinja2": ("jinja2",),
    "scikit-learn": ("scikit-learn",),
    "pandas": ("pandas",),
    "polars": ("polars",),
    "pyarrow": ("pyarrow",),
}
"""What pip is to be given, and the distributions of which one is then there."""
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CPU_FEATURES")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds, or max, and the period to which they belong
TOLERANCE = 1e-3
"""Relative difference that rounding may make between the losses of the kernels and of their definition in `_train`."""

Found = tuple[dict[str, Any], list[str]]
"""What a part found: facts for JSON, and sentences for the screen."""


@click.command(cls=Command, short_help="Check the installation and the hardware.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show what fastnn finds on this machine, and train a small network to try it.

    Exit code 0 if training works on the CPU, else 1. A check that fails says why,
    and the others are still made.
    """
    facts: dict[str, dict[str, Any]] = {}
    failed: dict[str, Exception] = {}
    for label, part in PARTS.items():
        try:
            facts[label], sentences = part()
        except Exception as error:
            failed[label] = error
            facts[label] = {"error": _reason(error)}
            sentences = [f"failed: {_reason(error)}"]
        if not as_json:
            for number, sentence in enumerate(sentences):
                line("" if number else label, sentence)
    if as_json:
        import json

        click.echo(json.dumps(facts, indent=2))
    if "training" in failed:
        from fastnn.errors import NotReadyError

        raise NotReadyError(f"training does not work on the CPU: {describe(failed['training'])}") from failed["training"]


def _reason(error: Exception) -> str:
    return describe(error).removesuffix(" (--debug shows where)")


def _versions() -> Found:
    import fastnn
    from fastnn.benchmarks.environment import commit

    facts: dict[str, Any] = {"fastnn": fastnn.__version__, "commit": commit(), "python": platform.python_version()}
    facts |= {name: _version(name) for name in REQUIRED}
    fastnn_version = f"fastnn {facts['fastnn']}" + (f" ({facts['commit']})" if facts["commit"] else "")
    installed = [fastnn_version, f"Python {facts['python']}", *(f"{name} {facts[name]}" for name in REQUIRED if facts[name])]
    absent = [(name, name) for name in REQUIRED if not facts[name]]
    for package, names in OPTIONAL.items():
        versions: dict[str, str | None] = {name: version for name in names if (version := _version(name))}
        facts |= versions or {names[-1]: None}
        installed += [f"{name} {version}" for name, version in versions.items()]
        absent += [] if versions else [(names[-1], package)]
    return facts, [", ".join(installed), *(f"{name} is not installed: pip install {package}" for name, package in absent)]


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> Found:
    from fastnn.benchmarks.environment import environment
    from fastnn_kernels.cpu.processor import level

    host = environment()
    facts = {"model": host.processor, "system": host.system, "features": host.features.split(), "level": level()}
    return facts, [f"{host.processor}, {host.system}; kernels are made for {level()} ({host.features or 'features unknown'})"]


def _threads() -> Found:
    from fastnn.engines import cores

    usable, total = cores(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    quota = _quota()
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    facts = {"usable": usable, "cores": total, "quota": quota, "load": load, "environment": variables}
    busy = "" if load is None else f", load {load:.1f}"
    if quota is not None and quota < usable:
        busy += f", but the time of {quota:g} alone: give threads={max(1, int(quota))}"
    settings = [f"{name} is {value}" for name, value in variables.items()]
    return facts, ["; ".join([f"up to {usable}, on {usable} of {total} cores{busy}", *settings])]


def _quota() -> float | None:
    """How many cores' time a container may use; None where nothing limits it."""
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> Found:
    from fastnn.benchmarks.environment import environment
    from fastnn.engines.host import free_memory

    free, total = free_memory(), environment().memory
    return {"free": free, "total": total}, [f"{_bytes(free)} free of {_bytes(total)}"]


def _libraries() -> Found:
    import threadpoolctl

    facts = [
        {"name": each["internal_api"], "version": each["version"], "threads": each["num_threads"], "file": each["filepath"]}
        for each in threadpoolctl.threadpool_info()
    ]
    strings = [f"{each['name']} {each['version'] or ''}".strip() + f" with {each['threads']} threads" for each in facts]
    return {"loaded": facts}, [", ".join(strings) or "no BLAS, no OpenMP"]


def _kernels() -> Found:
    from fastnn_kernels.caching import cache_folder

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = cache_folder()
    named = os.environ.get("FASTNN_CACHE_DIR")
    facts: dict[str, Any]
    if folder is None:
        reason = str(caught[0].message) if caught else "compiled kernels cannot be kept; they live in memory only"
        facts = {"FASTNN_CACHE_DIR": named, "folder": None, "writable": False, "reason": reason}
        return facts, [f"{reason}; set FASTNN_CACHE_DIR to a folder of your own"]
    sizes = [entry.stat().st_size for entry in os.scandir(folder) if not entry.name.endswith(".tmp")]
    facts = {"FASTNN_CACHE_DIR": named, "folder": str(folder), "writable": True, "files": len(sizes), "bytes": sum(sizes)}
    whence = "as FASTNN_CACHE_DIR says" if named else "set FASTNN_CACHE_DIR for another"
    return facts, [f"kept in {folder} ({whence}); writable; {len(sizes):,} files, {_bytes(sum(sizes))}"]


def _data() -> Found:
    from fastnn.datasets import load
    from fastnn.errors import FastnnError

    root = os.environ.get("FASTNN_DATA")
    facts: dict[str, Any] = {"FASTNN_DATA": root}
    sentences = [f"FASTNN_DATA is {root or 'not set'}"]
    for name in ("digits", "mnist"):
        try:
            dataset = load(name)
        except FastnnError as error:
            facts[name] = {"error": describe(error)}
            sentences.append(f"{name}: {describe(error)}")
            continue
        training, test = len(dataset.X_train), 0 if dataset.X_test is None else len(dataset.X_test)
        facts[name] = {"training": training, "test": test}
        sentences[0] += f"; {name}: {training:,} + {test:,} examples"
    return facts, sentences


def _gpu() -> Found:
    from fastnn import engines
    from fastnn.benchmarks.environment import gpu
    from fastnn.errors import DeviceError

    seen = gpu()
    facts: dict[str, Any] = {"name": None, "memory": None, "driver": None}
    sentences = []
    if seen is not None:
        facts = {"name": seen.name, "memory": seen.memory, "driver": seen.driver}
        sentences.append(f"{seen.name}, {_bytes(seen.memory)}; its driver is made for CUDA {seen.driver}")
    try:
        engine, _ = engines.choose("cuda")
    except DeviceError as error:
        return facts | {"usable": False, "reason": str(error)}, [*sentences, str(error)]
    facts |= {"usable": True, "device": engine.name}
    try:
        tried, sentence = _try("cuda")
    except Exception as error:
        return facts | {"error": _reason(error)}, [*sentences, f"training on {engine.name} failed: {_reason(error)}"]
    return facts | tried, [*sentences, f"training {sentence}"]


def _training() -> Found:
    from fastnn_kernels.cpu.compiling import CacheStatistics

    before, files = CacheStatistics.misses + CacheStatistics.hits, _kernel_files()
    facts, sentence = _try("cpu")
    used, found = CacheStatistics.misses + CacheStatistics.hits - before, _kernel_files()
    # Those of a second process too, which this one finds in the cache; where there is none, all are compiled here.
    compiled = used if files is None or found is None else min(used, len(found - files))
    cached = used - compiled
    return facts | {"compiled": compiled, "cached": cached}, [
        f"{sentence}; {compiled} kernels were compiled, {cached} came from the cache"
    ]


def _kernel_files() -> set[str] | None:
    """The names of the kernels that are kept; None where none are."""
    from fastnn_kernels.caching import cache_folder

    folder = cache_folder()
    return None if folder is None else {path.name for path in folder.glob("*.kernel")}


def _try(device: str) -> tuple[dict[str, Any], str]:
    """Train on a device. Raises ArithmeticError where the loss is not that of the definition of the kernels."""
    started = time.perf_counter()
    loss = _train(device)
    seconds = time.perf_counter() - started
    expected = _train("numpy")
    if not abs(loss[-1] - expected[-1]) <= TOLERANCE * expected[-1]:
        raise ArithmeticError(f"the loss on {device} comes to {loss[-1]:.4f}, expected {expected[-1]:.4f}")
    facts = {"seconds": seconds, "loss": loss, "expected_loss": expected}
    return facts, f"works on {device}: loss {loss[0]:.3f}, then {loss[1]:.3f}, in {seconds:.1f} s"


def _train(device: str) -> list[float]:
    """The losses of two epochs with a small network on the digits."""
    import fastnn

    digits = fastnn.datasets.load("digits")
    model = fastnn.Sequential([fastnn.Dense(32, activation="relu"), fastnn.Dense(10)], seed=0)
    history = model.fit(digits.X_train, digits.y_train, batch_size=32, epochs=2, device=device, verbose=0)
    return history["loss"]


def _bytes(count: int) -> str:
    from fastnn_kernels.cuda.runtime import describe_bytes

    return describe_bytes(count)


PARTS: dict[str, Callable[[], Found]] = {
    "versions": _versions,
    "processor": _processor,
    "threads": _threads,
    "memory": _memory,
    "libraries": _libraries,
    "kernels": _kernels,
    "data": _data,
    "gpu": _gpu,
    "training": _training,
}
