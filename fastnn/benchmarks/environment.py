"""Where a benchmark runs: processor, memory, GPU, versions, commit."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path

from fastnn._version import __version__
from fastnn.benchmarks.record import Environment, Gpu
from fastnn.engines import cores

PACKAGES = (
    "numpy", "numba", "scikit-learn", "torch", "jax", "jaxlib", "onnx", "onnxruntime", "cupy-cuda12x", "cupy-cuda13x",
    "pytest-benchmark",
)  # fmt: skip
FEATURES = ("avx512f", "avx2", "fma", "asimd", "sve")


def environment() -> Environment:
    """Of this machine and this installation, found without importing any peer."""
    processor, features, memory, device = _processor(), _features(), _memory(), gpu()
    hardware = (processor, features, cores(), round(memory / 2**30), "" if device is None else device.name)
    return Environment(
        machine=hashlib.sha256(repr(hardware).encode()).hexdigest()[:12],
        processor=processor, features=features, cores=cores(), memory=memory,
        system=f"{platform.system()} {platform.machine()}", python=platform.python_version(),
        versions=versions(), commit=commit(), gpu=device,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Of fastnn and of every package here that it is compared with or built on."""
    installed = {"fastnn": __version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def commit() -> str | None:
    """The commit that fastnn runs from, with `+` behind it where files were changed; None if that cannot be known."""
    folder = Path(__file__).resolve().parents[1]
    try:
        if Path(_git(folder, "rev-parse", "--show-toplevel")) == folder.parent:
            changed = _git(folder, "status", "--porcelain", "-uno")
            return _git(folder, "rev-parse", "HEAD")[:12] + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        text = importlib.metadata.distribution("fastnn-xp").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    commit_id = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return commit_id[:12] if isinstance(commit_id, str) else None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()  # fmt: skip


def gpu() -> Gpu | None:
    """The first NVIDIA GPU that its driver shows; None where there is none. Asks the driver alone, so no library is needed."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        return None
    count, version, device, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    label = ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(label, len(label), device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    driver_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name=label.value.decode(errors="replace"), memory=memory.value, driver=driver_version)


def _cpuinfo(field: str) -> str:
    with contextlib.suppress(OSError):
        match = re.search(rf"^{field}\s*: *(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return ""


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _features() -> str:
    """Of the vector instructions, those that decide speed."""
    known = f"{_cpuinfo('flags')} {_cpuinfo('Features')}".split()
    return " ".join(feature for feature in FEATURES if feature in known)


def _memory() -> int:
    """Bytes of main memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
