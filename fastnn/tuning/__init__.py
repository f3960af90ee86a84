"""Hyper-parameter search: spaces on the scales that suit them, and trials at random, on a grid, or from coarse to fine.

Studies are kept by Optuna (`pip install optuna`), so that several processes and machines may share one.
"""

from fastnn.tuning.results import Results, TrialResult
from fastnn.tuning.search import load, search
from fastnn.tuning.space import Choice, Distribution, Integers, LogUniform, OneMinus, Space, Uniform
from fastnn.tuning.together.members import MemberHistory
from fastnn.tuning.together.train import train_together
from fastnn.tuning.trial import Trial

__all__ = [
    "Choice",
    "Distribution",
    "Integers",
    "LogUniform",
    "MemberHistory",
    "OneMinus",
    "Results",
    "Space",
    "Trial",
    "TrialResult",
    "Uniform",
    "load",
    "search",
    "train_together",
]
