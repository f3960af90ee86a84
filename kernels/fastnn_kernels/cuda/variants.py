"""Who computes a matrix product, and what was found fastest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """By cuBLASLt with an epilogue, and by our bodies what that leaves to be done. `algorithm`: see Product; it was the
    `rank`-th of `count` that the heuristic named."""

    epilogue: str
    algorithm: bytes = b""
    rank: int = 0
    count: int = 0


@dataclass(frozen=True)
class Own:
    """By our bodies, in tiles of `rows` x `columns`, the inner axis in `splits`."""

    rows: int
    columns: int
    splits: int


Variant = Library | Own


@dataclass(frozen=True)
class Choice:
    """The variant that was found fastest, and the seconds that it takes."""

    variant: Variant
    seconds: float
