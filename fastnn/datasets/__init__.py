"""Data to train on: the bundled digits, tables to try things on, MNIST, CIFAR, points in the plane, and your own files."""

from fastnn.datasets.cifar import read_cifar
from fastnn.datasets.comparison import DistributionComparison, compare
from fastnn.datasets.dataset import Dataset, flowers, houses, load, read_features
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
    "flowers",
    "houses",
    "load",
    "moons",
    "quantiles",
    "read_cifar",
    "read_features",
    "read_idx",
    "read_table",
    "split",
]
