"""What a network does with images: the layers of `--conv`, and the arguments in `--augment`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from fastnn.configurations import read_fields
from fastnn.errors import InputError
from fastnn.pieces import Piece

# Written out, and not read from the library, what would load NumPy; a test compares them.
FLIPS = ("horizontal_flip", "vertical_flip")
AUGMENTATIONS = (
    *FLIPS, "rotation", "zoom", "shift", "shear", "distortion", "smoothness", "brightness", "contrast", "pivot", "fill",
)  # fmt: skip


def build_layers(piece: Piece, activation: str, initial: str | None) -> list[Any]:
    """The layers of a piece; those behind a convolution are its normalization and its activation."""
    import fastnn

    options = dict(piece.options)
    if piece.kind == "conv":
        conv = functools.partial(fastnn.Conv2D, piece.numbers["filters"], piece.numbers["size"], weight_init=initial)
        if options.pop("norm", False):
            return [conv(**options), fastnn.BatchNorm(), fastnn.Activation(activation)]
        return [conv(**options, activation=activation)]
    if piece.kind == "drop":
        return [fastnn.Dropout(piece.numbers["rate"], **options)]
    if piece.kind == "global":
        return [fastnn.GlobalMeanPool2D()]
    pools = {"pool": fastnn.MaxPool2D, "mean": fastnn.MeanPool2D, "l2pool": fastnn.L2Pool2D}
    return [pools[piece.kind](piece.numbers["size"], **options)]


def read_augmentation(text: str) -> dict[str, Any]:
    """The arguments of `fastnn.Augment` in `rotation=10,shift=0.1,horizontal_flip=yes`. Raises InputError for what is none."""
    fields = read_fields("an augmentation", text, AUGMENTATIONS)
    if not fields:
        raise InputError("expected what is changed, such as rotation=10,shift=0.1")
    return {name: _augmented(name, value) for name, value in fields.items()}


def _augmented(name: str, value: str) -> Any:
    if name in FLIPS:
        if value.lower() not in ("yes", "no"):
            raise InputError(f"{name}: expected yes or no, got {value!r}")
        return value.lower() == "yes"
    if name == "fill" and value == "edge":
        return value
    try:
        return int(value) if name == "smoothness" else float(value)
    except ValueError as error:
        raise InputError(f"{name}: expected a number, got {value!r}") from error


def check_pieces(pieces: Sequence[Piece], layers: Callable[[Sequence[Piece]], Any], error: InputError) -> None:
    """Raise click.UsageError for the first piece with which the layers cannot be built; `error` is that of all."""
    for count in range(1, len(pieces) + 1):
        try:
            layers(pieces[:count])
        except InputError as wrong:
            raise click.UsageError(f"--conv: {pieces[count - 1].text!r}: {wrong}") from error
