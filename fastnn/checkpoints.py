"""Models in files: see `fastnn.storage.model_file` for what is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastnn.layers import BUILT_IN, Layer
from fastnn.sequential import Sequential
from fastnn.storage.archives import File
from fastnn.storage.folder import Folder
from fastnn.storage.model_file import Stored, restore, save


class Content(NamedTuple):
    """A model, and what `save` was given as `run` beside it: None and no arrays where there was nothing."""

    model: Sequential
    values: dict[str, Any] | None
    arrays: dict[str, np.ndarray]


def load(path: File, layers: Mapping[str, type[Layer]] | None = None) -> Sequential:
    """Read a model that `save` wrote, from a path or a binary file object; `layers` names the classes of layers of your own.

    Raises FileError if the file cannot be read, FormatError if it is not a whole model of a version that is understood.
    """
    return read_run(path, layers).model


def read_run(path: File, layers: Mapping[str, type[Layer]] | None = None) -> Content:
    """The same, and what was stored beside the model."""
    stored = Stored.read(path)
    model = stored.make({**BUILT_IN, **(layers or {})}, Sequential)
    stored.put_into(model)
    return Content(model, stored.manifest.run, stored.arrays)


__all__ = ["Content", "Folder", "load", "read_run", "restore", "save"]
