"""The errors of fastnn: each is a `FastnnError` and the built-in exception it belongs with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class FastnnError(Exception):
    """The base of every error that fastnn raises on purpose."""


class InputError(FastnnError, ValueError):
    """A value, shape or name that cannot be used: says what was expected, what came and how to mend it."""


class KindError(FastnnError, TypeError):
    """An argument of a type or dtype that cannot be used."""


class CaptureError(FastnnError, TypeError):
    """Something was asked of a `Symbol` that only an array can do."""


class NotReadyError(FastnnError, RuntimeError):
    """A model was asked for something before it has parameters, or before it was trained."""


class MissingError(NotReadyError, AttributeError):
    """A layer was asked for an array that it has only while a model records it."""


class DivergenceError(FastnnError, ArithmeticError):
    """Training produced NaN or infinity; the model is back at its last finite step."""


class FileError(FastnnError, OSError):
    """A file that cannot be read or written."""


class FormatError(FileError, ValueError):
    """A file that is not what its reader understands."""


class DeviceError(FastnnError, RuntimeError):
    """A device that was asked for cannot be used here."""


class DeviceMemoryError(DeviceError, MemoryError):
    """A GPU has no room for what was asked; the model is at its last whole step."""


class DeviceLostError(DeviceError):
    """A GPU stopped answering, and this process cannot use it again; the model is at the step that the host last fetched."""


ELSEWHERE = {
    "acc": ("accuracy",),
    "bce": ("sigmoid_cross_entropy",),
    "bcewithlogits": ("sigmoid_cross_entropy",),
    "binaryaccuracy": ("accuracy",),
    "binarycrossentropy": ("sigmoid_cross_entropy",),
    "categoricalaccuracy": ("accuracy",),
    "categoricalcrossentropy": ("softmax_cross_entropy",),
    "crossentropy": ("softmax_cross_entropy", "log_loss"),
    "gd": ("sgd",),
    "gpu": ("cuda",),
    "gradientdescent": ("sgd",),
    "gradientchecking": ("check_gradients",),
    "kaiming": ("he", "he_normal", "He"),
    "kaimingnormal": ("he_normal",),
    "kaiminguniform": ("he_uniform",),
    "linear": ("identity",),
    "log": ("log_loss", "softmax_cross_entropy"),
    "logistic": ("sigmoid", "sigmoid_cross_entropy"),
    "lrelu": ("leaky_relu",),
    "l1": ("mae",),
    "l2": ("mse", "mean_squared_error"),
    "meanabsoluteerror": ("mae",),
    "meansquarederror": ("mse",),
    "mse": ("mean_squared_error",),
    "nag": ("nesterov",),
    "negativeloglikelihood": ("softmax_cross_entropy", "log_loss"),
    "nll": ("softmax_cross_entropy", "log_loss"),
    "rsquared": ("r2",),
    "softmaxcrossentropywithlogits": ("softmax_cross_entropy",),
    "sparsecategoricalaccuracy": ("accuracy",),
    "sparsecategoricalcrossentropy": ("softmax_cross_entropy",),
    "squarederror": ("mean_squared_error", "mse"),
    "stochasticgradientdescent": ("sgd",),
    "standardscaler": ("Standardizer",),
    "swish": ("silu",),
    "traintestsplit": ("split",),
    "xavier": ("Glorot",),
}
"""What others call things that are here, in lower-case letters and digits, without "loss" or "score" behind it: our names."""


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `known`, else the list of them, for the end of a message.

    Nearest is the one that is written in other letters ("LeakyReLU"), the one that others call so (`ELSEWHERE`), or the one of
    the most letters in common.
    """
    names = sorted(known)
    whole = "".join(filter(str.isalnum, str(name))).lower()
    bare = re.sub("(?<=.)(loss|score)$", "", whole)
    alike = [own for own in names if whole and own.replace("_", "").lower() in (whole, bare)]
    meant = [own for own in ELSEWHERE.get(bare, ()) if own in names]
    close = alike or meant or difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(map(repr, names))}"
