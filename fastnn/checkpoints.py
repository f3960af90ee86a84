"""A model in one file: safetensors for the arrays, a JSON manifest in its header for everything else. Nothing in it is code.

Written to a temporary file beside the target, flushed to the disk and renamed, so that a crash leaves the old file
or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fastnn import random
from fastnn.errors import FastnnError, FileError, FormatError, InputError, NotReadyError, nearest
from fastnn.files import write_whole
from fastnn.layers import BUILT_IN, Layer
from fastnn.model import Sequential, Task, Trained

FORMAT_VERSION = 1
KEY = "fastnn"


def save(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write architecture, parameters, running statistics, seed, counters, task of `model`, and how it was trained to `path`.

    Layers of your own are named in the file; `load` must be given their classes. Raises NotReadyError before the model has
    parameters, FileError if the file cannot be written (an old one then survives).
    """
    from safetensors.numpy import save as serialize

    if not model.built:
        raise NotReadyError("the model has no parameters to save yet; call fit, or build(n_features)")
    manifest = {
        "format": FORMAT_VERSION,
        "random_stream": random.STREAM_VERSION,
        "dtype": model.dtype.name,
        "seed": model.seed,
        "input_scale": model.input_scale,
        "features": list(model.network.features),
        "layers": [{"layer": type(layer).__name__, **layer.config()} for layer in model.layers],
        "task": None if model.task is None else {"loss": model.task.loss, "kind": model.task.kind},
        "trained": None if model.trained is None else asdict(model.trained),
        "counters": {"step": model.counters.step, "epoch": model.counters.epoch},
    }
    try:
        text = json.dumps(manifest, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the options of a layer cannot be stored as JSON: {error}") from error
    content = serialize({name: np.ascontiguousarray(value) for name, value in model.weights.items()}, {KEY: text})
    write_whole(Path(path), content)


def load(path: str | os.PathLike[str], layers: Mapping[str, type[Layer]] | None = None) -> Sequential:
    """Read a model that `save` wrote; `layers` names the classes of layers of your own.

    Raises FileError if the file cannot be read, FormatError if it is not a model of a version that is understood.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise FormatError(f"{path} is a safetensors file, but not a model of fastnn")
            manifest = json.loads(metadata[KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FastnnError:
        raise
    except (SafetensorError, ValueError, OSError) as error:
        raise FormatError(f"{path} is not a model of fastnn, or is damaged: {error}") from error
    return _from_manifest(path, manifest, weights, {**BUILT_IN, **(layers or {})})


def _from_manifest(path: Path, manifest: Any, weights: dict[str, np.ndarray], classes: Mapping[str, type[Layer]]) -> Sequential:
    try:
        version = manifest["format"]
        if version != FORMAT_VERSION:
            raise FormatError(f"{path} has format {version}; this version of fastnn reads format {FORMAT_VERSION}")
        if manifest["random_stream"] != random.STREAM_VERSION:
            raise FormatError(
                f"{path} goes on with random stream {manifest['random_stream']}, which this version does not make"
            )
        layers = []
        for config in manifest["layers"]:
            options = dict(config)
            name = options.pop("layer")
            if name not in classes:
                raise FormatError(
                    f"{path} has a layer {name!r}{nearest(name, classes)}; give your own as layers={{{name!r}: ...}}"
                )
            layers.append(classes[name](**options))
        model = Sequential(
            layers, seed=int(manifest["seed"]), dtype=manifest["dtype"], input_scale=float(manifest["input_scale"])
        )
        model.build([int(d) for d in manifest["features"]])
        expected, got = {k: v.shape for k, v in model.weights.items()}, {k: v.shape for k, v in weights.items()}
        if expected != got:
            raise FormatError(f"{path}: expected the arrays {expected}, got {got}")
        model.set_weights(weights)
        if manifest["task"] is not None:
            model.task = Task(str(manifest["task"]["loss"]), str(manifest["task"]["kind"]))
        if manifest.get("trained") is not None:
            model.trained = Trained(str(manifest["trained"]["device"]), str(manifest["trained"]["precision"]))
        model.counters.step = int(manifest["counters"]["step"])
        model.counters.epoch = int(manifest["counters"]["epoch"])
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, FastnnError) as error:
        raise FormatError(f"{path} does not describe a model: {error}") from error
    return model
