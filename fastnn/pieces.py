"""How the layers of a network for images are written: `20x5,pool2,40x5:same,pool2`, and `28x28x1` for the images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastnn.errors import InputError, nearest

PIECES = "20x5 (FILTERSxKERNEL), pool2, mean2, l2pool2, global or drop0.25"
PIECE = re.compile(
    r"(?P<filters>\d+)x(?P<kernel>\d+(?:x\d+)?)|(?P<pool>pool|mean|l2pool)(?P<size>\d+(?:x\d+)?)|drop(?P<rate>\d*\.?\d+)|global"
)


@dataclass(frozen=True)
class Piece:
    """One part of the text: what it is, and the options behind its colons."""

    text: str
    kind: str
    """`conv`, `pool`, `mean`, `l2pool`, `drop` or `global`."""
    numbers: Mapping[str, Any]
    options: Mapping[str, Any]


PLACES = {"same": "padding", "pad": "padding", "stride": "strides"}
OPTIONS: dict[str, dict[str, str]] = {
    "conv": {**PLACES, "dilation": "dilation", "groups": "groups", "norm": "norm"},
    **dict.fromkeys(("pool", "mean", "l2pool"), PLACES),
    "drop": {"channels": "channels"},
    "global": {},
}
"""By kind, what may stand behind a colon, and the argument of the layer."""
NUMBERED = ("pad", "stride", "dilation", "groups")
"""Options with a number, or two, behind them."""


def read_pieces(text: str) -> tuple[Piece, ...]:
    """The pieces of `20x5,pool2,40x5:same,pool2`, none of `none`. Raises InputError that names the wrong one."""
    if text.strip().lower() == "none":
        return ()
    return tuple(_read_piece(piece.strip()) for piece in text.split(","))


def _read_piece(text: str) -> Piece:
    head, *behind = text.split(":")
    found = PIECE.fullmatch(head)
    if found is None:
        raise InputError(f"{text!r}: expected {PIECES}")
    kind = "conv" if found["filters"] else found["pool"] or ("drop" if found["rate"] else "global")
    numbers: dict[str, Any] = {}
    if found["filters"]:
        numbers = {"filters": _integer(text, found["filters"]), "size": _pair(text, found["kernel"])}
    elif found["pool"]:
        numbers = {"size": _pair(text, found["size"])}
    elif found["rate"]:
        numbers = {"rate": float(found["rate"])}
        if numbers["rate"] >= 1:
            raise InputError(f"{text!r}: expected a share below 1 to drop, such as drop0.25")
    options: dict[str, Any] = {}
    for word in behind:
        name, number = re.fullmatch(r"(\D*)(.*)", word).groups()  # type: ignore[union-attr]
        if name not in OPTIONS[kind]:
            known = tuple(OPTIONS[kind])
            raise InputError(f"{text!r}: unknown option {word!r}{nearest(name, known) if known else '; it takes none'}")
        argument = OPTIONS[kind][name]
        if argument in options:
            raise InputError(f"{text!r}: {argument} is given twice")
        if (name in NUMBERED) == (not number):
            raise InputError(f"{text!r}: {word!r}: expected " + (f"a number, as in {name}2" if name in NUMBERED else name))
        least = 0 if name == "pad" else 1
        if name == "groups":
            options[argument] = _integer(text, number)
        else:
            options[argument] = _pair(text, number, least) if name in NUMBERED else "same" if name == "same" else True
    return Piece(text, kind, numbers, options)


def _integer(text: str, number: str, least: int = 1) -> int:
    if not number.isdecimal() or int(number) < least:
        raise InputError(f"{text!r}: expected an integer of at least {least}, got {number!r}")
    return int(number)


def _pair(text: str, numbers: str, least: int = 1) -> int | tuple[int, int]:
    """A number for rows and columns, or `5x3`."""
    parts = [_integer(text, number, least) for number in numbers.split("x")]
    if len(parts) > 2:
        raise InputError(f"{text!r}: expected a number or two, as in 5x3, got {numbers!r}")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def read_shape(text: str) -> tuple[int, ...]:
    """(28, 28) of `28x28`, (32, 32, 3) of `32x32x3`. Raises InputError for what is no shape of images."""
    parts = text.strip().lower().replace(",", "x").split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(
            f"expected the height and the width of an image, and its channels, such as 28x28 or 32x32x3, got {text!r}"
        )
    return tuple(map(int, parts))
