"""How many processor cores a process may use: affinity, quotas of control groups, and what the environment says."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on, at most its quota of processor time in cores (rounded up), and at most what
    `FASTNN_THREADS` says, or else `OMP_NUM_THREADS`, which joblib, among others, sets in its workers. At least 1.

    Raises:
        ValueError: `FASTNN_THREADS` is no integer >= 1.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [float(usable), math.ceil(min(_own_quota(), usable))]
    most = os.environ.get("FASTNN_THREADS", "")
    if most and not (most.isdecimal() and int(most)):
        raise ValueError(f"FASTNN_THREADS: expected an integer >= 1, got {most!r}")
    if not most:
        most = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a number for each level of nesting
    if most.isdecimal() and int(most):
        limits.append(int(most))
    return int(min(limits))


@functools.cache
def _own_quota() -> float:
    return quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))


def quota(mounted: Path, groups: Path) -> float:
    """Cores' worth of processor time that Linux lets a process take; inf where there is no limit.

    `mounted`: where control groups are; `groups`: the file that names those of the process.
    """
    least = math.inf
    for path in _limits(mounted, groups):
        with contextlib.suppress(OSError, ValueError):
            words = path.read_text(encoding="ascii").split()
            if path.name != "cpu.max":  # version 1
                words += path.with_name("cpu.cfs_period_us").read_text(encoding="ascii").split()
            allowed, period = words
            if allowed != "max" and int(allowed) > 0 and int(period) > 0:
                least = min(least, int(allowed) / int(period))
    return least


def _limits(mounted: Path, groups: Path) -> Iterator[Path]:
    """The files that limit the process's groups and those above them; a container sees its own as the one that is mounted."""
    with contextlib.suppress(OSError, ValueError):
        for line in groups.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            folder, name = (mounted / "cpu", "cpu.cfs_quota_us") if controllers else (mounted, "cpu.max")
            parts = Path(group).parts[1:]
            for depth in range(len(parts), -1, -1):
                yield folder.joinpath(*parts[:depth], name)
