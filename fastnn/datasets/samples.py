"""Two small tables to try things on, made up by the rules below: `houses.csv` and `flowers.csv` in this folder.

They are part of fastnn, under its license, and describe no real house or flower. `make_houses()` and `make_flowers()` return
what is in the files. All numbers come from `fastnn.random` under seed 0 by + - * / alone, so they are the same bits everywhere.
Below, u is uniform in [0, 1), z a normal of mean 0 and variance 1, another one wherever it stands; [x] is x rounded as the
table shows it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib import resources

import numpy as np

from fastnn import random

HOUSES, FLOWERS = 400, 300
SPECIES = ("daisy", "poppy", "tulip")
TARGETS = {"houses": "price", "flowers": "species"}
"""The tables by name, and which of their columns is to be predicted."""


def make_houses() -> str:
    """400 houses as CSV: area (square meters), rooms, age (years), distance (km to the center), garden (square meters), price.

    rooms = 1 + [6 u], rounded down; area = [20 + 18 rooms + 10 z], at least 18; age = [100 u u]; distance = [1 + 24 u];
    garden is 0 with probability 0.4, else [40 + 80 rooms u];
    price = area (900 + 2600 / (1 + distance / 6)) (1 - age / 250) + 90 garden + 8000 z, in steps of 100, at least 20,000.
    """
    u = random.uniform(random.key(0, random.POINTS, 6), 0, (6, HOUSES), np.float64)
    z = random.normal(random.key(0, random.POINTS, 7), (2, HOUSES), np.float64)
    rooms = 1 + np.floor(6 * u[0])
    area = np.maximum(18.0, np.round(20 + 18 * rooms + 10 * z[0], 1))
    age = np.round(100 * u[1] * u[2])
    distance = np.round(1 + 24 * u[3], 1)
    garden = np.where(u[4] < 0.4, 0.0, np.round(40 + 80 * rooms * u[5]))
    price = area * (900 + 2600 / (1 + distance / 6)) * (1 - age / 250) + 90 * garden + 8000 * z[1]
    price = np.maximum(20000.0, 100 * np.round(price / 100))
    columns = {"area": area, "rooms": rooms, "age": age, "distance": distance, "garden": garden, "price": price}
    texts = {name: _numbers(column, 1 if name in ("area", "distance") else 0) for name, column in columns.items()}
    return render(list(texts), list(zip(*texts.values(), strict=True)))


def make_flowers() -> str:
    """300 flowers as CSV, 100 of each species by turns: stem, petal and width (cm), petals (their number), species.

    stem = [m + 5 z] with m = 18, 38, 30; petal = [m + 0.4 z] with m = 1.8, 3.4, 4.6; width = [petal (m + 0.05 z)] with
    m = 0.25, 0.95, 0.6; petals = [m + 4 u] with m = 16, 3, 4, rounded down.
    """
    kind = np.arange(FLOWERS) % len(SPECIES)
    z = random.normal(random.key(0, random.POINTS, 8), (3, FLOWERS), np.float64)
    u = random.uniform(random.key(0, random.POINTS, 9), 0, (FLOWERS,), np.float64)
    stem = np.maximum(5.0, np.round(np.array([18.0, 38.0, 30.0])[kind] + 5 * z[0], 1))
    petal = np.maximum(0.5, np.round(np.array([1.8, 3.4, 4.6])[kind] + 0.4 * z[1], 1))
    width = np.maximum(0.1, np.round(petal * (np.array([0.25, 0.95, 0.6])[kind] + 0.05 * z[2]), 1))
    petals = np.floor(np.array([16.0, 3.0, 4.0])[kind] + 4 * u)
    texts = [_numbers(stem, 1), _numbers(petal, 1), _numbers(width, 1), _numbers(petals, 0), [SPECIES[each] for each in kind]]
    return render(["stem", "petal", "width", "petals", "species"], list(zip(*texts, strict=True)))


def read(name: str) -> tuple[list[str], list[list[str]]]:
    """The names of the columns of the table that comes with the package, and its rows, as text."""
    names, *rows = csv.reader(io.StringIO(resources.files("fastnn.datasets").joinpath(f"{name}.csv").read_text("utf-8")))
    return names, rows


def render(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as CSV, below the names of their columns."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    return text.getvalue()


def _numbers(column: np.ndarray, decimals: int) -> list[str]:
    return [f"{value:.{decimals}f}" for value in column.tolist()]
