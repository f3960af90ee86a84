"""Where the windows of pooling and of convolutions lie in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastnn.errors import InputError
from fastnn.ops.dispatch import Array
from fastnn.program.shapes import describe

Pair = tuple[int, int]
Padding = str | int | Sequence[Any]
"""`"valid"`, `"same"`, a number for all sides, one for (rows, columns), or (before, after) of both."""

PADDINGS = ("valid", "same")


@dataclass(frozen=True)
class Window:
    """Along an axis, output r is made of the pixels r stride - before + i dilation, i = 0 ... size - 1, of those there are."""

    size: int = 1
    stride: int = 1
    before: int = 0
    dilation: int = 1


def windows_of(size: Pair, strides: Pair, before: Pair, dilation: Pair = (1, 1)) -> tuple[Window, Window]:
    """Those of rows and of columns."""
    rows, columns = (Window(*numbers) for numbers in zip(size, strides, before, dilation, strict=True))
    return rows, columns


PIXELWISE = (Window(), Window())
"""Of what makes each pixel of the same pixel."""


def as_pair(owner: str, name: str, value: Any) -> Pair:
    """(rows, columns) of a number for both or of two, integers >= 1. Raises InputError."""
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(pair) != 2 or not all(_is_count(number, 1) for number in pair):
        raise InputError(f"{owner}: {name}: expected an integer >= 1, or a pair of them (rows, columns), got {value!r}")
    return int(pair[0]), int(pair[1])


def as_padding(owner: str, value: Any) -> str | tuple[Pair, Pair]:
    """One of "valid", "same", or the pixels ((above, below), (left, right)). Raises InputError."""
    if isinstance(value, str) and value in PADDINGS:
        return value
    sides = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    pairs = tuple(tuple(side) if isinstance(side, Sequence) and not isinstance(side, str) else (side, side) for side in sides)
    if len(pairs) != 2 or not all(len(pair) == 2 and all(_is_count(number, 0) for number in pair) for pair in pairs):
        raise InputError(
            f'{owner}: padding: expected "valid", "same", an integer >= 0, a pair (rows, columns) or pairs '
            f"((above, below), (left, right)), got {value!r}"
        )
    (above, below), (left, right) = pairs
    return (int(above), int(below)), (int(left), int(right))


def lay_windows(
    owner: str,
    image: Sequence[int],
    size: Pair,
    strides: Pair,
    padding: str | tuple[Pair, Pair],
    dilation: Pair = (1, 1),
    touching: bool = False,
) -> tuple[Pair, Pair]:
    """How many windows there are, (rows, columns), and the pixels of padding in front of the first one, (above, left).

    Along an axis of L pixels, windows reach over k = dilation (size - 1) + 1 pixels. "valid": those that lie in the image,
    (L - k) // stride + 1. "same": ceil(L / stride), the padding that takes on both sides, where it is odd one more behind.
    `touching`: every window has pixels of the image, as one that is pooled must. Raises InputError where no window fits, and
    where they are to be touching and padding is as long as one.
    """
    reach = tuple(d * (s - 1) + 1 for d, s in zip(dilation, size, strict=True))
    counts, before = [], []
    for axis, (length, over, stride) in enumerate(zip(image, reach, strides, strict=True)):
        if padding == "same":
            count = -(-length // stride)
            first = max(0, (count - 1) * stride + over - length) // 2
        else:
            first, last = (0, 0) if isinstance(padding, str) else padding[axis]
            if touching and max(first, last) >= over:
                raise InputError(f"{owner}: padding of {max(first, last)} pixels: windows of {over} would lie beyond the image")
            count = (length + first + last - over) // stride + 1 if length + first + last >= over else 0
        if count < 1:
            windows, there = " x ".join(map(str, reach)), " x ".join(map(str, image))
            raise InputError(
                f'{owner}: windows of {windows} pixels do not fit into images of {there}; make them smaller, or padding="same"'
            )
        counts.append(count)
        before.append(first)
    return (counts[0], counts[1]), (before[0], before[1])


def check_images(owner: str, x: Array) -> None:
    """Raise InputError where x does not hold images (B, H, W, C)."""
    if len(x.shape) != 4:
        raise InputError(f"{owner}: expected images x (B, H, W, C), got {describe(tuple(x.shape))}")


def _is_count(number: Any, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least
