"""Data to train on: the bundled digits, MNIST, and files of the user's own."""

from fastnn.datasets.dataset import Dataset, load
from fastnn.datasets.idx import read_idx

__all__ = ["Dataset", "load", "read_idx"]
