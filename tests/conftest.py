"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def mnist() -> Path:
    """The folder of the MNIST IDX files; the test is skipped where `FASTNN_DATA` does not name its parent."""
    folder = Path(os.environ.get("FASTNN_DATA", "")) / "mnist"
    if "FASTNN_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("FASTNN_DATA does not name a folder with mnist/")
    return folder
