"""Data to train on: the bundled digits, MNIST, points in the plane, and files of the user's own; and their parts."""

from fastnn.datasets.comparison import DistributionComparison, compare
from fastnn.datasets.dataset import Dataset, load, read_features
from fastnn.datasets.idx import read_idx
from fastnn.datasets.planar import blobs, circles, flower, moons, quantiles
from fastnn.datasets.splitting import split
from fastnn.datasets.tables import Table, read_table

__all__ = [
    "Dataset",
    "DistributionComparison",
    "Table",
    "blobs",
    "circles",
    "compare",
    "flower",
    "load",
    "moons",
    "quantiles",
    "read_features",
    "read_idx",
    "read_table",
    "split",
]
