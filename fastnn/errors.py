"""The errors of fastnn: each is a `FastnnError` and the built-in exception it belongs with."""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Collection, Iterable


class FastnnError(Exception):
    """The base of every error that fastnn raises on purpose."""


class InputError(FastnnError, ValueError):
    """A value, shape or name that cannot be used: says what was expected, what came and how to mend it."""


class InputTypeError(FastnnError, TypeError):
    """An argument of a type or dtype that cannot be used."""


class TracingError(FastnnError, TypeError):
    """Something was asked of a `Symbol` that only an array can do."""


class SymbolAttributeError(TracingError, AttributeError):
    """A `Symbol` was asked for an attribute that only an array has."""


class NotReadyError(FastnnError, RuntimeError):
    """A model was asked for something before it has parameters, or before it was trained."""


class MissingError(NotReadyError, AttributeError):
    """A layer was asked for an array that it has only while a model records it."""


class PackageError(FastnnError, ImportError):
    """A package that something needs is not installed, or cannot be imported."""

    @classmethod
    def of(cls, package: str, purpose: str, error: ImportError) -> PackageError:
        """What came of importing a package, called as it is installed; `purpose` is what needs it."""
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package.replace("-", "_")
        state = "is not installed" if absent else f"cannot be imported ({error})"
        cure = f"pip install {'' if absent else '--upgrade '}{package}"
        return cls(f"{purpose} needs {package}, which {state}: {cure}", name=error.name, path=error.path)


class DivergenceError(FastnnError, ArithmeticError):
    """Training produced NaN or infinity; the model is back at its last finite step."""

    @classmethod
    def of(cls, epoch: int, step: int, name: str, rate: float) -> DivergenceError:
        """Of a step with this learning rate, and the name of the tensor that it made NaN or infinite."""
        return cls(
            f"training diverged in epoch {epoch}, step {step}: {name} became NaN or infinite. "
            f"The model is back at its last finite step. Lower the learning rate (it was {rate:g}) or clip the gradient "
            "(clip_norm=1.0)"
        )


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
    "absoluteerror": ("mean_absolute_error", "mae"),
    "acc": ("accuracy",),
    "adaptiveavgpool2d": ("GlobalMeanPool2D",),
    "alpha": ("learning_rate",),
    "averagepooling2d": ("MeanPool2D",),
    "avgpool2d": ("MeanPool2D",),
    "batchnorm1d": ("BatchNorm",),
    "batchnorm2d": ("BatchNorm",),
    "batchnormalization": ("BatchNorm",),
    "bce": ("sigmoid_cross_entropy",),
    "bcewithlogits": ("sigmoid_cross_entropy",),
    "betas": ("beta1 = betas[0], beta2 = betas[1]",),
    "bias": ("use_bias",),
    "biasinitializer": ("bias_init",),
    "binaryaccuracy": ("accuracy",),
    "binarycrossentropy": ("sigmoid_cross_entropy",),
    "binaryfocalcrossentropy": ("focal",),
    "categoricalaccuracy": ("accuracy",),
    "categoricalcrossentropy": ("softmax_cross_entropy",),
    "categoricalfocalcrossentropy": ("softmax_focal",),
    "convolution2d": ("Conv2D",),
    "cosineannealinglr": ("Cosine",),
    "cosinedecay": ("Cosine",),
    "crossentropy": ("softmax_cross_entropy", "log_loss"),
    "csvlogger": ("CSVLog",),
    "decay": ("weight_decay",),
    "depthwiseconv2d": ("Conv2D(..., groups=C)",),
    "dilationrate": ("dilation",),
    "dropout2d": ("Dropout(rate, channels=True)",),
    "elu": ('Activation("elu")',),
    "emadecay": ("ema",),
    "emamomentum": ("ema",),
    "eps": ("epsilon",),
    "eta": ("learning_rate",),
    "exponentialdecay": ("Exponential",),
    "exponentiallr": ("Exponential",),
    "gd": ("sgd", "SGD"),
    "gelu": ('Activation("gelu")',),
    "globalaveragepooling2d": ("GlobalMeanPool2D",),
    "globalavgpool2d": ("GlobalMeanPool2D",),
    "glorotnormal": ('Glorot("normal")',),
    "glorotuniform": ('Glorot("uniform")',),
    "gpu": ("cuda",),
    "gradientchecking": ("check_gradients",),
    "gradientdescent": ("sgd", "SGD"),
    "henormal": ('He("normal")',),
    "heuniform": ('He("uniform")',),
    "kaiming": ("he", "he_normal", "He"),
    "kaimingnormal": ("he_normal", 'He("normal")'),
    "kaiminguniform": ("he_uniform", 'He("uniform")'),
    "keepprob": ("rate = 1 - keep_prob",),
    "kernelinitializer": ("weight_init",),
    "kernelregularizer": ("l2",),
    "leakyrelu": ('Activation("leaky_relu")',),
    "learningrate": ("learning_rate", "optimizer=Adam(learning_rate)"),
    "learningrateinit": ("learning_rate", "optimizer=Adam(learning_rate)"),
    "learningratescheduler": ("LearningRate",),
    "layernormalization": ("LayerNorm",),
    "lecunnormal": ('LeCun("normal")',),
    "lecununiform": ('LeCun("uniform")',),
    "linear": ("Dense", "identity"),
    "log": ("log_loss", "softmax_cross_entropy"),
    "logistic": ("sigmoid", "sigmoid_cross_entropy"),
    "logisticregression": ("Sequential",),
    "lppool2d": ("L2Pool2D",),
    "lr": ("learning_rate", "optimizer=Adam(lr)"),
    "maxiter": ("epochs",),
    "lrelu": ("leaky_relu",),
    "l1": ("mae", "mean_absolute_error"),
    "l2": ("mse", "mean_squared_error"),
    "maxpooling2d": ("MaxPool2D",),
    "mae": ("mean_absolute_error",),
    "makeblobs": ("blobs",),
    "makecircles": ("circles",),
    "makegaussianquantiles": ("quantiles",),
    "makemoons": ("moons",),
    "meanabsoluteerror": ("mae",),
    "mindelta": ("threshold",),
    "mish": ('Activation("mish")',),
    "meansquarederror": ("mse",),
    "mlpclassifier": ("Sequential",),
    "mlpregressor": ("Sequential",),
    "model": ("Sequential",),
    "modelcheckpoint": ("Checkpoint",),
    "module": ("Layer",),
    "mse": ("mean_squared_error",),
    "nag": ("nesterov",),
    "negativeloglikelihood": ("softmax_cross_entropy", "log_loss"),
    "nesterov": ("SGD(momentum=0.9, nesterov=True)",),
    "network": ("Sequential",),
    "neuralnetwork": ("Sequential",),
    "nll": ("softmax_cross_entropy", "log_loss"),
    "normalization": ("Standardizer",),
    "nbepoch": ("epochs",),
    "nepochs": ("epochs",),
    "ones": ("Constant(1.0)",),
    "outchannels": ("filters",),
    "outfeatures": ("units",),
    "p": ("rate",),
    "pinball": ("quantile",),
    "poissonnll": ("poisson",),
    "poolsize": ("size",),
    "randomnormal": ("Normal",),
    "relu": ('Activation("relu")',),
    "rho": ("beta",),
    "rsquared": ("r2",),
    "sigmoid": ('Activation("sigmoid")',),
    "sigmoidfocal": ("focal",),
    "smoothl1": ("huber",),
    "softmax": ('Activation("softmax")',),
    "softmaxcrossentropywithlogits": ("softmax_cross_entropy",),
    "sparsecategoricalaccuracy": ("accuracy",),
    "sparsecategoricalcrossentropy": ("softmax_cross_entropy",),
    "spatialdropout2d": ("Dropout(rate, channels=True)",),
    "squarederror": ("mean_squared_error", "mse"),
    "standardscaler": ("Standardizer",),
    "steplr": ("Staircase",),
    "stochasticgradientdescent": ("sgd", "SGD"),
    "stride": ("strides",),
    "swish": ("silu",),
    "tanh": ('Activation("tanh")',),
    "tocategorical": ("one_hot",),
    "traintestsplit": ("split",),
    "useema": ("ema",),
    "validationfraction": ("validation_split",),
    "xavier": ("Glorot",),
    "xaviernormal": ('Glorot("normal")',),
    "xavieruniform": ('Glorot("uniform")',),
}
"""What others call things that are here, in lower-case letters and digits, without "loss" or "score" behind it: our names,
and what else is to be written where a name alone would mean something else."""


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for what `best_match` finds, else the list of the known names, for the end of a message."""
    names = sorted(known)
    match = best_match(name, names)
    if match:
        return f"; did you mean {''.join(match)!r}?"
    return f"; known are {', '.join(map(repr, names))}" if names else ""


def best_match(name: object, known: Collection[str]) -> tuple[str, str] | None:
    """The nearest of `known`, and what is to be written behind it (often nothing); None where none is near.

    Nearest is the one that others call so (`ELSEWHERE`), the one that is written in other letters ("LeakyReLU"), or the one of
    the most letters in common.
    """
    whole = "".join(filter(str.isalnum, str(name))).lower()
    bare = re.sub("(?<=.)(loss|score)$", "", whole)
    for entry in ELSEWHERE.get(bare, ()):
        ours, behind = re.fullmatch(r"(\w+)(.*)", entry).groups()  # type: ignore[union-attr]
        if ours in known:
            return ours, behind
    alike = [candidate for candidate in known if whole and candidate.replace("_", "").lower() in (whole, bare)]
    close = alike or difflib.get_close_matches(str(name), known, n=1)
    return (close[0], "") if close else None


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, pointing at the line outside of this library that called it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("fastnn", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


__all__ = [
    "DeviceError",
    "DeviceLostError",
    "DeviceMemoryError",
    "DivergenceError",
    "FastnnError",
    "FileError",
    "FormatError",
    "InputError",
    "InputTypeError",
    "MissingError",
    "NotReadyError",
    "PackageError",
    "SymbolAttributeError",
    "TracingError",
]
