"""`--from` and `--freeze`: a saved network that is trained on, and the layers of it that stay as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastnn.errors import InputError, nearest

if TYPE_CHECKING:
    from fastnn.sequential import Sequential

KINDS = {"conv": ("Conv2D",), "dense": ("Dense",), "norm": ("BatchNorm", "LayerNorm")}
"""By word, the layers that it stands for."""
FREEZE = "numbers of layers such as 0 or 0-2, conv, dense or norm, several with commas, or none"


def read_freeze(text: str) -> tuple[str | range, ...]:
    """The kinds and the numbers of layers in `conv,4-6,9`, nothing of `none`. Raises InputError for what is neither."""
    if text.strip().lower() == "none":
        return ()
    return tuple(_read_item(item.strip()) for item in text.split(","))


def _read_item(item: str) -> str | range:
    if item in KINDS:
        return item
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
    if numbers is None:
        hint = nearest(item, KINDS) if item.isalpha() else ""
        raise InputError(f"{item!r}: expected {FREEZE}{hint}")
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    if last < first:
        raise InputError(f"{item!r}: expected the smaller number first, as in {last}-{first}")
    return range(first, last + 1)


def load(path: Path, freeze: str | None) -> Sequential:
    """The network in the file, with these layers frozen and no others; None: with those that it was saved with.

    Raises click.UsageError for layers that it does not have, and where nothing would be left to train.
    """
    from fastnn.checkpoints import load as load_model

    model = load_model(path)
    if freeze is not None:
        numbers = {number for item in read_freeze(freeze) for number in _numbers(item, model, path)}
        model.unfreeze()
        if numbers:
            model.freeze(*sorted(numbers))
    layers = {place.layer for place in model.network.parameters}
    if layers and layers.issubset(model.network.frozen):
        where = f"in {path}; give --freeze none to train all" if freeze is None else f"by --freeze {freeze}"
        raise click.UsageError(f"nothing is left to train: every layer with parameters is frozen {where}")
    return model


def _numbers(item: str | range, model: Sequential, path: Path) -> list[int]:
    """The numbers of the layers that an item stands for, which have parameters."""
    parameters = {place.layer for place in model.network.parameters}
    if isinstance(item, str):
        numbers = [index for index, layer in enumerate(model.layers) if type(layer).__name__ in KINDS[item]]
        if not numbers:
            raise click.UsageError(f"--freeze: {path} has no {' or '.join(KINDS[item])} layer; it has {describe_layers(model)}")
        return numbers
    last, text = len(model.layers) - 1, f"{item[0]}" if item[0] == item[-1] else f"{item[0]}-{item[-1]}"
    if item[-1] > last:
        raise click.UsageError(f"--freeze: {text}: the layers of {path} are 0 to {last}: {describe_layers(model)}")
    if not parameters.intersection(item):
        raise click.UsageError(f"--freeze: {text}: there are no parameters to freeze; {path} has {describe_layers(model)}")
    return list(item)


def describe_layers(model: Sequential) -> str:
    """`0 Conv2D, 1 MaxPool2D`."""
    return ", ".join(f"{index} {type(layer).__name__}" for index, layer in enumerate(model.layers))


def describe_frozen(model: Sequential) -> str:
    """Which layers are frozen, and how many parameters train; empty where none are."""
    frozen = [index for index in model.network.frozen if any(place.layer == index for place in model.network.parameters)]
    names = ", ".join(f"{index} {type(model.layers[index]).__name__}" for index in frozen)
    trained = sum(place.size for place in model.network.trained()) if frozen else 0
    return f"{names}; {trained:,} of {model.parameter_count:,} parameters are trained" if frozen else ""


def describe_network(model: Sequential, path: Path) -> str:
    """`m.safetensors: 28 x 28 -> Conv2D(20, 5) -> Dense(10)`."""
    inputs = " x ".join(map(str, model.network.features))
    return f"{path}: {' -> '.join([inputs, *map(repr, model.layers)])}; {model.parameter_count:,} parameters"


def describe_scale(model: Sequential, scale: float) -> str:
    """That the inputs are not of the size that the network was trained on, where that is to be seen; else empty."""
    if model.input_scale == scale or model.network.input_map.offset is not None:
        return ""
    return (
        f"the network multiplies inputs by {model.input_scale:.3g}, and these are made for {scale:.3g}; bring them to its scale"
    )
