"""Networks of other libraries as models: those of scikit-learn, PyTorch and Keras, and weights in foreign safetensors files."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.errors import FileError, FormatError, InputError, InputTypeError, PackageError, nearest
from fastnn.layers import Activation, BatchNorm, Dense, Dropout, Flatten, Layer, LayerNorm
from fastnn.sequential import Sequential, as_model

SKLEARN_ACTIVATIONS = {"identity": None, "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
SKLEARN_LOSSES = {
    "softmax": "softmax_cross_entropy", "logistic": "sigmoid_cross_entropy", "identity": "quadratic", "exp": "poisson",
}  # fmt: skip
"""By `out_activation_`."""

TORCH_ACTIVATIONS = {
    "ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu", "Sigmoid": "sigmoid", "Tanh": "tanh", "GELU": "gelu",
    "SiLU": "silu", "Mish": "mish", "Softplus": "softplus", "Softmax": "softmax", "LogSoftmax": "log_softmax",
}  # fmt: skip

Weights = dict[str, np.ndarray]


def from_sklearn(estimator: Any) -> Sequential:
    """The network of a fitted `MLPClassifier` or `MLPRegressor` of scikit-learn, with its labels: it predicts the same.

        model = fastnn.from_sklearn(classifier)
        model.predict(X)

    Of an estimator of `fastnn.estimators` it is a copy of its `model_`.
    Weights keep their dtype, float32 or float64. The model can be trained further, with the loss that was minimized there (for
    several outputs of a regressor their sum, by whose gradient scikit-learn descends, while it reports the mean). Raises
    InputTypeError for another object, and InputError for one that is not fitted, or knows one class only.
    """
    name, ours = type(estimator).__name__, getattr(estimator, "model_", None)
    if isinstance(ours, Sequential):
        return copy.deepcopy(ours)
    if not all(hasattr(estimator, attribute) for attribute in ("hidden_layer_sizes", "activation", "solver")):
        raise InputTypeError(f"from_sklearn: expected an MLPClassifier or MLPRegressor of scikit-learn, got {name}")
    if not hasattr(estimator, "coefs_"):
        raise InputError(f"from_sklearn: this {name} is not fitted yet; call its fit first")
    activation, last = SKLEARN_ACTIVATIONS.get(estimator.activation, estimator.activation), len(estimator.coefs_) - 1
    layers = [
        Dense(weight.shape[1], activation if index < last else None, True, "zeros")
        for index, weight in enumerate(estimator.coefs_)
    ]
    arrays = {f"{index}.weight": weight for index, weight in enumerate(estimator.coefs_)}
    arrays |= {f"{index}.bias": bias for index, bias in enumerate(estimator.intercepts_)}
    several = estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1
    classes = None if several else getattr(estimator, "classes_", None)
    if classes is not None and len(classes) < 2:
        raise InputError(f"from_sklearn: expected at least two classes, and this {name} knows {list(classes)} alone")
    names = getattr(estimator, "feature_names_in_", None)
    model = _made(layers, arrays, estimator.coefs_[0].shape[0])
    model.build(estimator.coefs_[0].shape[0], loss=SKLEARN_LOSSES[estimator.out_activation_], classes=classes)
    model.feature_names = None if names is None else tuple(map(str, names))
    return model


def from_torch(module: Any) -> Sequential:
    """The network of a `torch.nn.Sequential` of dense layers, in inference the same up to rounding.

        model = fastnn.from_torch(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)))

    Known are Linear, BatchNorm1d and LayerNorm of rows, Dropout, Flatten, Identity, nested Sequentials, and the activations
    ReLU, LeakyReLU, ELU, Sigmoid, Tanh, GELU, SiLU, Mish, Softplus, Softmax and LogSoftmax. float32 and float64 stay what they
    are; what is used twice is there twice. What the outputs mean is not known: call `build(features, loss=..., classes=[...])`,
    or give `loss` to `fit`, whose cross-entropies take logits or a final softmax, and no LogSoftmax.

    Raises InputTypeError for another object, and InputError, which names the module, for what has no counterpart here.
    """
    if not hasattr(module, "named_children") or not hasattr(module, "state_dict"):
        raise InputTypeError(f"from_torch: expected a torch.nn.Module, got {type(module).__name__}")
    layers: list[Layer] = []
    arrays: Weights = {}
    for place, part in _parts(module, ""):
        try:
            _append(layers, arrays, place, part)
        except InputError as error:
            known = str(error).startswith("from_torch: ")
            raise error if known else _refusal(place, part, str(error)) from error
    features = next((array.shape[0] for name, array in arrays.items() if name.endswith(".weight")), None)
    if features is None:
        raise InputError("from_torch: there is no Linear layer")
    return _made(layers, arrays, features)


def from_keras(
    weights: Sequence[Any], *, activation: str | Sequence[str | None] | None = "relu", final_activation: str | None = None
) -> Sequential:
    """The network of dense layers with these weights, as `keras.Model.get_weights()` returns them.

        model = fastnn.from_keras(keras_model.get_weights(), activation="relu", final_activation="softmax")

    `weights`: a kernel (I, O) for each Dense layer, followed by its bias (O,) where it has one. `activation`: of the hidden
    layers, one for all or one each, under our names. Raises InputError for arrays that are no such network.
    """
    if not isinstance(weights, list | tuple) or not all(hasattr(array, "shape") for array in weights):
        raise InputTypeError("from_keras: expected a list of arrays, as get_weights() returns it")
    arrays = [np.asarray(array) for array in weights]
    if not all(array.dtype.kind in "fiu" for array in arrays):
        raise InputTypeError("from_keras: expected arrays of real numbers")
    kernels = [index for index, array in enumerate(arrays) if array.ndim == 2]
    if not kernels or kernels[0] != 0:
        raise InputError("from_keras: expected a kernel (I, O) first, and a bias (O,) or another kernel behind each kernel")
    hidden = len(kernels) - 1
    names = [activation] * hidden if activation is None or isinstance(activation, str) else list(activation)
    if len(names) != hidden:
        raise InputError(f"from_keras: activation: expected one for each of the {hidden} hidden layers, got {len(names)}")
    layers: list[Layer] = []
    found: Weights = {}
    for number, (start, end, name) in enumerate(
        zip(kernels, [*kernels[1:], len(arrays)], [*names, final_activation], strict=True)
    ):
        kernel, biases = arrays[start], arrays[start + 1 : end]
        fits = number == 0 or kernel.shape[0] == layers[-1].config()["units"]
        if not fits or len(biases) > 1 or any(bias.shape != kernel.shape[1:] for bias in biases):
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise InputError(
                f"from_keras: expected the kernels and biases of dense layers one after another, got shapes {shapes}"
            )
        layers.append(Dense(kernel.shape[1], name, bool(biases), "zeros"))
        found |= {f"{number}.weight": kernel, **{f"{number}.bias": bias for bias in biases}}
    return _made(layers, found, arrays[0].shape[0])


def load_safetensors(
    model: Sequential, path: str | os.PathLike[str], names: Mapping[str, str], *, transposed: bool = False
) -> None:
    """Set the weights of a model from a safetensors file that another library wrote.

        names = {"0.weight": "fc1.weight", "0.bias": "fc1.bias"}
        fastnn.load_safetensors(model.build(4), "theirs.safetensors", names, transposed=True)

    `names`: which array of the file each parameter of the model is, `{ours: theirs}`; others stay as they are.
    `transposed`: matrices in the file are (O, I), and kernels of convolutions (O, C, KH, KW), as PyTorch has them. Numbers are
    converted to the model's dtype. The rows of a matrix behind `Flatten` stay in the order of the file: where images are
    flattened as (C, H, W) there, and here as (H, W, C), they are to be reordered before.

    Raises InputError for names and shapes that do not fit, FileError and FormatError for the file, and PackageError without
    `safetensors`; then nothing is changed.
    """
    if not isinstance(names, Mapping):
        raise InputTypeError(f"load_safetensors: names: expected a dict {{ours: theirs}}, got {type(names).__name__}")
    with contextlib.suppress(ImportError):
        import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 then
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise PackageError.of("safetensors", "load_safetensors", error) from error
    shapes = {name: array.shape for name, array in as_model(model).weights.items()}
    for name in names:
        if name not in shapes:
            raise InputError(f"load_safetensors: the model has no {name!r}{nearest(name, shapes)}")
    found = {}
    try:
        with safe_open(Path(path), framework="numpy") as file:
            for name, theirs in names.items():
                if theirs not in file.keys():  # noqa: SIM118 - it is no dict
                    raise InputError(f"load_safetensors: the file has no {theirs!r}{nearest(theirs, list(file.keys()))}")
                found[name] = _turned(file.get_tensor(theirs)) if transposed else file.get_tensor(theirs)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (TypeError, AttributeError) as error:  # of a dtype that NumPy has not
        raise FormatError(f"{path} cannot be read: {error}; convert its arrays to float32") from error
    except SafetensorError as error:
        raise FormatError(f"{path} is no safetensors file that can be read: {error}") from error
    for name, array in found.items():
        if array.shape != shapes[name]:
            turned = array.shape[::-1] == shapes[name] and not transposed
            cure = "; are matrices transposed there? give transposed=True" if turned else ""
            raise InputError(
                f"load_safetensors: {names[name]}: expected shape {shapes[name]} for {name}, got {array.shape}{cure}"
            )
    model.set_weights({name: array.astype(model.dtype) for name, array in found.items()})


def _turned(array: np.ndarray) -> np.ndarray:
    """A matrix (O, I) as (I, O), and a kernel (O, C, KH, KW) as (KH, KW, C, O)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _made(layers: Sequence[Layer], arrays: Weights, features: int) -> Sequential:
    """A model of these layers with these weights."""
    dtypes = {array.dtype.name for array in arrays.values()}
    dtype = "float64" if "float64" in dtypes else "float32"
    model = Sequential(layers, seed=0, dtype=dtype).build(features)
    model.set_weights({name: np.ascontiguousarray(array, dtype) for name, array in arrays.items()})
    return model


# --- PyTorch ------------------------------------------------------------------------------------------------------------


def _parts(module: Any, place: str) -> Iterator[tuple[str, Any]]:
    """The modules inside nested Sequentials, in order, and where they are."""
    if not _is_sequential(module):
        yield place or "the module", module
        return
    _check_hooks(place or "the module", module)
    for name, part in module._modules.items():  # `named_children` leaves out what is there twice
        yield from _parts(part, f"{place}.{name}" if place else name)


def _is_sequential(module: Any) -> bool:
    """Whether it is a torch.nn.Sequential, and computes what one does."""
    theirs: Any = type(module)
    named = ("torch.nn.modules.container", "Sequential")
    bases = [each for each in theirs.__mro__ if (each.__module__, each.__name__) == named]
    return bool(bases) and theirs.forward is bases[0].forward


def _check_hooks(place: str, part: Any) -> None:
    """Raise InputError where a hook may change what a module computes."""
    if part._forward_hooks or part._forward_pre_hooks:
        raise _refusal(place, part, "it has hooks, as weight_norm, spectral_norm and prune set them; remove them first")


def _refusal(place: str, part: Any, why: str) -> InputError:
    return InputError(f"from_torch: {place} ({type(part).__name__}) has no counterpart here: {why}")


def _append(layers: list[Layer], arrays: Weights, place: str, part: Any) -> None:
    """Add the layer that a module of PyTorch is. Raises InputError where there is none."""
    kind, index = type(part).__name__, len(layers)

    def refuse(why: str) -> InputError:
        return _refusal(place, part, why)

    if not type(part).__module__.startswith("torch.nn.modules."):
        raise refuse("only torch.nn.Sequential and the layers of torch.nn are known")
    _check_hooks(place, part)
    if kind == "Linear":
        layers.append(Dense(part.out_features, None, part.bias is not None, "zeros"))
        arrays[f"{index}.weight"] = _array(part.weight).T
        if part.bias is not None:
            arrays[f"{index}.bias"] = _array(part.bias)
    elif kind in TORCH_ACTIVATIONS:
        _activate(layers, kind, part, refuse)
    elif kind == "BatchNorm1d":
        if part.running_mean is None or part.weight is None or part.momentum is None:
            raise refuse("it keeps no running statistics, averages all of them, or has no scale and shift")
        layers.append(BatchNorm(1.0 - part.momentum, part.eps))
        own = {"gamma": part.weight, "beta": part.bias, "running_mean": part.running_mean, "running_variance": part.running_var}
        arrays |= {f"{index}.{name}": _array(value) for name, value in own.items()}
    elif kind == "LayerNorm":
        if len(part.normalized_shape) != 1 or part.weight is None or part.bias is None:
            raise refuse("it normalizes several axes, or has no scale and shift")
        layers.append(LayerNorm(epsilon=part.eps))
        arrays |= {f"{index}.gamma": _array(part.weight), f"{index}.beta": _array(part.bias)}
    elif kind == "Dropout":
        layers += [Dropout(part.p)] if part.p else []
    elif kind == "Flatten":
        if (part.start_dim, part.end_dim) != (1, -1):
            raise refuse("expected start_dim=1 and end_dim=-1")
        layers += [Flatten()] if layers else []  # rows of features are flat already
    elif kind != "Identity":
        raise refuse("only layers of dense networks are known")


def _activate(layers: list[Layer], kind: str, part: Any, refuse: Any) -> None:
    """Add an activation: of the dense layer before it, or on its own."""
    name, alpha = TORCH_ACTIVATIONS[kind], None
    if kind in ("LeakyReLU", "ELU"):
        alpha = part.negative_slope if kind == "LeakyReLU" else part.alpha
    if kind in ("Softmax", "LogSoftmax") and part.dim not in (-1, 1):
        raise refuse(f"it acts along axis {part.dim}; expected dim=-1")
    if kind == "GELU" and part.approximate != "none":
        raise refuse("only the exact GELU is known")
    if kind == "Softplus" and (part.beta != 1 or not math.isfinite(part.threshold) or part.threshold < 15):
        raise refuse("expected beta=1 and a threshold of at least 15")
    last = layers[-1] if layers else None
    if isinstance(last, Dense) and last.activation is None:
        layers[-1] = Dense(last.units, name, last.use_bias, "zeros", alpha=alpha)
    else:
        layers.append(Activation(name, alpha))


def _array(tensor: Any) -> np.ndarray:
    try:
        values: np.ndarray = tensor.detach().cpu().numpy()
    except (TypeError, NotImplementedError) as error:
        raise InputTypeError(f"from_torch: expected weights of float32 or float64, got {tensor.dtype}: {error}") from error
    if values.dtype not in (np.float32, np.float64):
        raise InputTypeError(f"from_torch: expected weights of float32 or float64, got {values.dtype}")
    return values
