"""Shared fixtures."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from cuda_on_host.runtime import HostRuntime
    from hosts import Hosts


def pytest_configure() -> None:
    """Ctrl-C is answered, also where a shell began the tests in the background, which ignores it: some of them press it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # tests leave objects for each other to be looked through again and again


@pytest.fixture(scope="module", autouse=True)
def earlier_files_stay() -> None:
    """What the tests of other files left: a collection would look through all of it for each that a test asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `explain` compares with is not measured, and times are short: for tests that are about something else."""
    from fastnn.engines import explain

    monkeypatch.setattr(explain, "_measure_limits", lambda *_: explain.Limits(1, 1e9, ((2**20, 1e9),)))
    monkeypatch.setattr(explain, "SECONDS", 0.0)


@pytest.fixture
def mnist() -> Path:
    """The folder of the MNIST IDX files; the test is skipped where `FASTNN_DATA` does not name its parent."""
    folder = Path(os.environ.get("FASTNN_DATA", "")) / "mnist"
    if "FASTNN_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("FASTNN_DATA does not name a folder with mnist/")
    return folder


@pytest.fixture
def cuda_hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """The only GPUs of this process are those that are installed here."""
    from hosts import Hosts

    import fastnn_kernels.cuda
    from fastnn.engines import cuda

    hosts = Hosts()
    monkeypatch.setattr(fastnn_kernels.cuda, "runtime", hosts.runtime)
    monkeypatch.setattr(cuda, "_opened", {})
    monkeypatch.setattr(cuda, "_unusable", [])
    yield hosts
    cuda._single.cache_clear()


@pytest.fixture
def cuda_host(cuda_hosts: Hosts) -> HostRuntime:
    """A fresh GPU made of the host, as `cuda:0`."""
    return cuda_hosts.install()
