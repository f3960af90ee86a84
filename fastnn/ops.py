"""The vocabulary: one public function an operation, dispatched by the type of its arguments and nothing else.

NumPy arrays are computed at once by the CPU kernels; `Symbol`s are recorded into the program that is being traced; anything
mixed raises. Shapes are written with `B` batch, `I` inputs, `O` outputs, `C` classes. Arrays are float32 or float64 and all
of one dtype; labels and indices are integers; conditions are bool. Results are new arrays; nothing is written in place
except the running statistics of `batch_norm`. Python numbers take the dtype of the arrays they meet.

Each operation declares its own backward rule beside it, in terms of the vocabulary or of a fused backward kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import engines
from fastnn.arrays import to_device
from fastnn.configurations import as_number
from fastnn.errors import CaptureError, InputError, KindError, nearest
from fastnn.program.differentiate import backward
from fastnn.program.shapes import MOST_AXES, Dimension, Rows, Shape, broadcast_shapes, concrete, describe, elements
from fastnn.program.trace import FLOATS, Call, Symbol, check_matrix, check_same, family, floats, product, promote
from fastnn_kernels.contract import (
    ACTIVATIONS_FROM_INPUT,
    ACTIVATIONS_FROM_OUTPUT,
    AFFINE,
    ALPHA_ACTIVATIONS,
    COMPARISONS,
    KERNELS,
    NO_ACTIVATION,
    SUM_BLOCK,
    TRANSFORMS,
    UPDATES,
    control_points,
)
from fastnn_kernels.memory import owned

Array = Any
"""A NumPy array, a CuPy array or a Symbol; in one call all of the same kind."""

ACTIVATIONS = ("identity", "step", *ACTIVATIONS_FROM_OUTPUT, *ACTIVATIONS_FROM_INPUT, "softmax", "log_softmax")
"""Names that `activate`, `Dense` and `Activation` take."""


# --- dispatch -------------------------------------------------------------------------------------------------------


def _apply(
    kernel: str, reads: Sequence[Array], outputs: Sequence[tuple[Shape, Any]], attributes: Mapping[str, Any] | None = None
) -> Any:
    """Record the call on symbols, or run it on arrays; returns its output, or a tuple of them."""
    attributes = dict(attributes or {})
    results: Sequence[Any]
    if isinstance(reads[0], Symbol):
        results = reads[0].trace.record(kernel, reads, outputs, attributes)
    else:
        results = _compute(kernel, reads, outputs, attributes)
    return results[0] if len(results) == 1 else tuple(results)  # an update in place has none


def _compute(
    kernel: str, reads: Sequence[np.ndarray], outputs: Sequence[tuple[Shape, Any]], attributes: Mapping[str, Any]
) -> list[np.ndarray]:
    with engines.translated():
        engine = engines.of(reads[0])
        entry = KERNELS[kernel]
        inputs = [engine.place(x) for x in reads[: len(entry.inputs)]]
        targets = dict(zip(entry.updated, reads[len(inputs) :], strict=True))
        for name, target in targets.items():
            if isinstance(target, np.ndarray) and not target.flags.writeable:
                raise InputError(f"{kernel}: {name} is updated in place, and this array is read-only; pass a copy")
        # Kernels never write to memory of others, which may have any strides and alignment: NumPy does.
        updated = [owned(x) if isinstance(x, np.ndarray) else engine.place(x) for x in targets.values()]
        made = [engine.outputs(reads[0], concrete(shape, 0), dtype) for shape, dtype in outputs]
        engine.compute(kernel, [*inputs, *updated, *made], attributes)
        for target, values in zip(targets.values(), updated, strict=True):
            if isinstance(target, np.ndarray):
                target[...] = values
        return [engine.lent(array) for array in made]


def _integers(name: str, x: Any) -> Any:
    """Integer labels or indices as int64."""
    family(name, x)
    if np.dtype(x.dtype).kind not in "iu":
        raise KindError(f"{name}: expected integers, got {x.dtype}")
    return x if isinstance(x, Symbol) else x.astype(np.int64, copy=False)


def _axes(name: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    for a in axes:
        if not -ndim <= a < ndim:
            raise InputError(f"{name}: axis {a} of an array with {ndim} axes")
    result = tuple(sorted(int(a) % ndim for a in axes))
    if len(set(result)) < len(result):
        raise InputError(f"{name}: an axis is named twice in {axes}")
    return result


def _without(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(d for a, d in enumerate(shape) if a not in axes)


def _shrink(gradient: Symbol, shape: Shape) -> Symbol:
    """The gradient of an operand of `shape` that was broadcast: summed over the axes it was repeated along."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    axes = tuple(
        a for a, d in enumerate(gradient.shape) if a < extra or (shape[a - extra] == 1 and d != 1)
    )  # fmt: skip
    summed = sum(gradient, axes) if axes else gradient
    return reshape(summed, shape) if summed.shape != shape else summed


# --- dense ----------------------------------------------------------------------------------------------------------


def matmul(a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """c (M, N) = op(a) @ op(b) with op the transpose where asked for; a, b two-dimensional.

    Raises InputError where the inner dimensions differ, KindError for other dtypes than float32 and float64.
    """
    output = product(a, b, transpose_a, transpose_b)
    return _apply("matmul", (a, b), [output], {"transpose_a": transpose_a, "transpose_b": transpose_b})


@backward("matmul")
def _matmul_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    ta, tb = call.attributes["transpose_a"], call.attributes["transpose_b"]
    da = matmul(b, dc, transpose_a=tb, transpose_b=True) if ta else matmul(dc, b, transpose_b=not tb)
    db = matmul(dc, a, transpose_a=True, transpose_b=ta) if tb else matmul(a, dc, transpose_a=not ta)
    return da, db


def dense(x: Array, w: Array, b: Array | None = None, activation: str | None = None, alpha: float | None = None) -> Array:
    """y (B, O) = activation(x (B, I) @ w (I, O) + b (O,)).

    `activation` is one of `ops.ACTIVATIONS`, or None for none; `alpha` goes to leaky_relu and elu.
    Source: Nielsen, Neural Networks and Deep Learning, chapter 2, equation 25, transposed to rows.
    """
    dtype = floats("dense", x, w) if b is None else floats("dense", x, w, b)
    check_matrix("dense", "x (B, I)", x)
    check_matrix("dense", "w (I, O)", w)
    check_same("dense", w.shape[0], x.shape[1], f"columns of x {describe(tuple(x.shape))} for w {describe(tuple(w.shape))}")
    if b is not None and tuple(b.shape) != (w.shape[1],):
        raise InputError(f"dense: expected b of shape ({w.shape[1]},), got {describe(tuple(b.shape))}")
    if activation is not None:
        alpha = check_activation(activation, alpha)
    if b is None or isinstance(x, Symbol):
        z = matmul(x, w)
        z = z if b is None else add(z, b)
        return z if activation is None else activate(z, activation, alpha)
    fused = activation if activation in ACTIVATIONS_FROM_OUTPUT else None
    attributes = {"activation": fused, "alpha": float(alpha or 0.0)}
    y = _apply("dense", (x, w, b), [((x.shape[0], w.shape[1]), dtype)], attributes)
    return y if activation is None or fused else activate(y, activation, alpha)


def grouped_dense(x: Array, w: Array, b: Array) -> Array:
    """The linear layers of G models side by side: y (B, O, G), y[:, :, g] = x[:, :, g] @ w[:, :, g] + b[:, g].

    x (B, I, G), or (B, I) where all models read the same; w (I, O, G), b (O, G). Raises InputError for other shapes, KindError
    for other dtypes than float32 and float64.
    """
    dtype = floats("grouped_dense", x, w, b)
    shapes = [describe(tuple(array.shape)) for array in (x, w, b)]
    if len(w.shape) != 3 or w.shape[2] < 1 or tuple(x.shape[1:]) not in ((w.shape[0],), (w.shape[0], w.shape[2])):
        raise InputError(
            f"grouped_dense: expected x (B, I) or (B, I, G) and w (I, O, G), G >= 1, got {' and '.join(shapes[:2])}"
        )
    if tuple(b.shape) != tuple(w.shape[1:]):
        raise InputError(f"grouped_dense: expected b of shape {describe(tuple(w.shape[1:]))}, got {shapes[2]}")
    return _apply("grouped_dense", (x, w, b), [((x.shape[0], *w.shape[1:]), dtype)])


@backward("grouped_dense")
def _grouped_dense_backward(call: Call, dy: Symbol) -> tuple[Symbol, Symbol, Symbol]:
    x, w, b = call.inputs
    dx = _apply("grouped_dense_backward_input", (dy, w), [((dy.shape[0], w.shape[0], w.shape[2]), x.dtype)])
    dw, db = _apply("grouped_dense_backward_weight", (x, dy), [(w.shape, w.dtype), (b.shape, b.dtype)])
    return dx if x.ndim == 3 else sum(dx, 2), dw, db


# --- activations ----------------------------------------------------------------------------------------------------

DEFAULT_ALPHA = {"leaky_relu": 0.01, "elu": 1.0}


def check_activation(name: str, alpha: float | None) -> float | None:
    """The alpha that the activation uses, None for one that takes none; InputError for an unknown name or a wrong alpha."""
    if name not in ACTIVATIONS:
        raise InputError(f"no activation is called {name!r}{nearest(name, ACTIVATIONS)}")
    if name not in ALPHA_ACTIVATIONS:
        if alpha is not None:
            raise InputError(f"{name} takes no alpha; leaky_relu and elu do")
        return None
    value = DEFAULT_ALPHA[name] if alpha is None else float(alpha)
    if not 0.0 <= value < float("inf"):
        raise InputError(f"{name}: expected alpha >= 0, got {value}")
    return value


def activate(x: Array, activation: str, alpha: float | None = None) -> Array:
    """The activation of that name, elementwise (softmax and log_softmax over the last axis)."""
    alpha = check_activation(activation, alpha)
    if activation == "identity":
        return x
    function: Callable[..., Array] = globals()[activation]
    return function(x) if alpha is None else function(x, alpha)


def _unary(name: str, x: Array, **attributes: Any) -> Array:
    dtype = floats(name, x)
    return _apply(name, (x,), [(tuple(x.shape), dtype)], attributes)


def identity(x: Array) -> Array:
    """y = x, as a new array."""
    return _unary("identity", x)


def step(x: Array) -> Array:
    """y = 1 where x > 0, else 0: the perceptron's. Its derivative is taken as 0."""
    return _unary("step", x)


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + exp(-x)); dy/dx = y (1 - y)."""
    return _unary("sigmoid", x)


def tanh(x: Array) -> Array:
    """y = tanh(x); dy/dx = 1 - y^2."""
    return _unary("tanh", x)


def relu(x: Array) -> Array:
    """y = max(x, 0); the derivative at 0 is taken as 0. NaN stays NaN."""
    return _unary("relu", x)


def leaky_relu(x: Array, alpha: float = 0.01) -> Array:
    """y = x where x > 0, else alpha x, with alpha >= 0."""
    return _unary("leaky_relu", x, alpha=float(alpha))


def elu(x: Array, alpha: float = 1.0) -> Array:
    """y = x where x > 0, else alpha (exp(x) - 1). Source: Clevert et al. 2016."""
    return _unary("elu", x, alpha=float(alpha))


def gelu(x: Array) -> Array:
    """y = x Phi(x), Phi the normal distribution function (exact, not the tanh form). Source: Hendrycks & Gimpel 2016."""
    return _unary("gelu", x)


def silu(x: Array) -> Array:
    """y = x sigmoid(x), also called swish."""
    return _unary("silu", x)


def softplus(x: Array) -> Array:
    """y = log(1 + exp(x)); dy/dx = sigmoid(x)."""
    return _unary("softplus", x)


def _activation_rule(name: str) -> None:
    from_output = name in ACTIVATIONS_FROM_OUTPUT

    @backward(name)
    def rule(call: Call, dy: Symbol) -> tuple[Symbol]:
        at = call.outputs[0] if from_output else call.inputs[0]
        return (_apply(f"{name}_backward", (dy, at), [(dy.shape, dy.dtype)], call.attributes),)


for _name in ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT:
    _activation_rule(_name)


def _rows(name: str, x: Array) -> np.dtype[Any]:
    dtype = floats(name, x)
    if len(x.shape) < 1:
        raise InputError(f"{name}: expected at least one axis, got a single number")
    return dtype


def softmax(x: Array) -> Array:
    """y_j = exp(x_j) / sum_k exp(x_k) over the last axis, with the largest x taken off first."""
    dtype = _rows("softmax", x)
    return _apply("softmax", (x,), [(tuple(x.shape), dtype)])


def log_softmax(x: Array) -> Array:
    """y_j = x_j - log sum_k exp(x_k) over the last axis, with the largest x taken off first."""
    dtype = _rows("log_softmax", x)
    return _apply("log_softmax", (x,), [(tuple(x.shape), dtype)])


@backward("softmax", "log_softmax")
def _softmax_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (_apply(f"{call.kernel}_backward", (dy, call.outputs[0]), [(dy.shape, dy.dtype)]),)


@backward("step")
def _step_backward(call: Call, dy: Symbol) -> tuple[None]:
    return (None,)


# --- batch norm, dropout --------------------------------------------------------------------------------------------


def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
    *,
    training: bool,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
) -> Array:
    """y (B, O) = gamma (x - mean) / sqrt(variance + epsilon) + beta, all statistics (O,).

    Training: mean and biased variance of the mini-batch; `running_mean` and `running_variance` are updated **in place**,
    running = momentum running + (1 - momentum) batch, with the unbiased variance (B - 1).
    Inference: the running ones. Source: Ioffe & Szegedy 2015, algorithms 1 and 2.
    """
    dtype = floats("batch_norm", x, gamma, beta, running_mean, running_variance)
    check_matrix("batch_norm", "x (B, O)", x)
    for name, value in {
        "gamma": gamma, "beta": beta, "running_mean": running_mean, "running_variance": running_variance
    }.items():  # fmt: skip
        if tuple(value.shape) != (x.shape[1],):
            raise InputError(f"batch_norm: expected {name} of shape ({x.shape[1]},), got {describe(tuple(value.shape))}")
    if not 0.0 <= momentum <= 1.0 or not epsilon > 0.0:
        raise InputError(f"batch_norm: expected 0 <= momentum <= 1 and epsilon > 0, got {momentum} and {epsilon}")
    shape, columns = tuple(x.shape), (x.shape[1],)
    if not training:
        reads = (x, gamma, beta, running_mean, running_variance)
        return _apply("batch_norm_inference", reads, [(shape, dtype)], {"epsilon": epsilon, **NO_ACTIVATION})
    if x.shape[0] == 1:
        raise InputError("batch_norm: one row has no variance to normalise by in training; use at least two rows")
    y, _, _ = _apply(
        "batch_norm", (x, gamma, beta, running_mean, running_variance),
        [(shape, dtype), (columns, dtype), (columns, dtype)], {"momentum": momentum, "epsilon": epsilon, **NO_ACTIVATION},
    )  # fmt: skip
    return y


@backward("batch_norm")
def _batch_norm_backward(call: Call, dy: Symbol, *statistics: None) -> Sequence[Symbol]:
    x, gamma, beta = call.inputs
    _, mean_, inverse_deviation = call.outputs
    outputs = [(x.shape, x.dtype), (gamma.shape, x.dtype), (gamma.shape, x.dtype)]
    reads = (dy, x, gamma, beta, mean_, inverse_deviation)
    made: Sequence[Symbol] = _apply("batch_norm_backward", reads, outputs, NO_ACTIVATION)
    return made


@backward("batch_norm_inference")
def _batch_norm_inference_backward(call: Call, dy: Symbol) -> Sequence[Symbol | None]:
    x, gamma, _, running_mean, running_variance = call.inputs
    scale = divide(1.0, sqrt(add(running_variance, call.attributes["epsilon"])))
    normal = multiply(subtract(x, running_mean), scale)
    return multiply(dy, multiply(gamma, scale)), sum(multiply(dy, normal), 0), sum(dy, 0), None, None


def dropout(x: Array, rate: float, key: tuple[int, int], step: Array | int) -> Array:
    """Inverted dropout: y = x / (1 - rate) where the uniform number of the element is >= rate, else 0.

    The uniform numbers are those of `fastnn.random` for `key` and `step` (a number, or a 0-d int64 symbol) and the
    element `row * O + column`; the same ones are drawn again in the backward pass. 0 <= rate < 1.
    Source: Srivastava et al. 2014, section 10 (inverted form).
    """
    dtype = floats("dropout", x)
    if not 0.0 <= rate < 1.0:
        raise InputError(f"dropout: expected 0 <= rate < 1, got {rate}")
    if rate == 0.0:
        return x
    if isinstance(x, Symbol) != isinstance(step, Symbol):
        raise CaptureError("dropout: x and step must both be symbols, or both be values")
    if not isinstance(step, Symbol):
        step = np.asarray(step, np.int64)
    return _apply("dropout", (x, step), [(tuple(x.shape), dtype)], {"rate": float(rate), "key": (int(key[0]), int(key[1]))})


@backward("dropout")
def _dropout_backward(call: Call, dy: Symbol) -> tuple[Symbol, None]:
    return _apply("dropout", (dy, call.inputs[1]), [(dy.shape, dy.dtype)], call.attributes), None


def augment(
    x: Array,
    key: tuple[int, int],
    step: Array | int,
    *,
    pivot: float = 0.0,
    distortion: float = 0.0,
    smoothness: int = 7,
    fill: float | str = 0.0,
    **ranges: tuple[float, float],
) -> Array:
    """Images x (B, H, W) or (B, H, W, C), each changed by a transform of its own, drawn for `key` and `step`.

    `ranges`: (low, high) of what is drawn uniformly for each image: `rotation` and `shear` (turns, about the middle), `zoom` (a
    factor), `shift_rows` and `shift_columns` (pixels), `flip_rows` and `flip_columns` (flipped where the number is below 0),
    `contrast` (a factor g) and `brightness` (a number b): of a value v that was found between the pixels of x, bilinearly,
    becomes g (v - pivot) + pivot + b. What is not named changes nothing. `distortion`: pixels that no place is displaced beyond
    along an axis, by a smooth field: uniform cubic B-splines of random control points every `smoothness` pixels. `fill`: the
    value outside the images, or "edge" for that of the nearest pixel. The random numbers are those of `fastnn.random`; `step`
    is a number, or a 0-d int64 symbol. There is no gradient of x. Source: Simard, Steinkraus & Platt 2003, section 2.
    """
    dtype = floats("augment", x)
    shape = tuple(x.shape)
    if len(shape) not in (3, 4):
        raise InputError(f"augment: expected images (B, H, W) or (B, H, W, C), got shape {describe(shape)}")
    check_augmentation("augment", ranges, pivot, distortion, smoothness, fill)
    if isinstance(x, Symbol) != isinstance(step, Symbol):
        raise CaptureError("augment: x and step must both be symbols, or both be values")
    if not isinstance(step, Symbol):
        step = to_device(np.asarray(step, np.int64), x)
    images = reshape(x, (*shape, 1)) if len(shape) == 3 else x
    spacing = int(smoothness) if distortion else 0
    points = control_points(shape[1], spacing) * control_points(shape[2], spacing) if spacing else 0
    drawn = {
        "key": (int(key[0]), int(key[1])),
        "size": shape[1:3],
        "ranges": tuple(tuple(map(float, ranges.get(name, nothing))) for name, nothing in TRANSFORMS.items()),
        "pivot": float(pivot),
        "amplitude": float(distortion),
    }
    transforms = _apply("draw_transforms", (step,), [((shape[0], AFFINE + 2 * points), dtype)], drawn)
    outside = {"fill": 0.0, "edge": True} if isinstance(fill, str) else {"fill": float(fill), "edge": False}
    y = _apply("transform_images", (images, transforms), [(tuple(images.shape), dtype)], {"spacing": spacing, **outside})
    return reshape(y, shape) if len(shape) == 3 else y


LIMITS = {"rotation": (-0.5, 0.5), "shear": (-0.24, 0.24), "zoom": (0.01, 100.0)}
"""Where ranges of `augment` have to lie: a shear of a quarter turn, and a zoom by 0, leave nothing to be seen."""


def check_augmentation(
    name: str, ranges: Mapping[str, tuple[float, float]], pivot: float, distortion: float, smoothness: int, fill: float | str
) -> None:
    """InputError unless these are options of `augment`."""
    for what, given in ranges.items():
        if what not in TRANSFORMS:
            raise InputError(f"{name}: no range is called {what!r}{nearest(what, TRANSFORMS)}")
        low, high = LIMITS.get(what, (-1e6, 1e6))
        pair = [as_number(number) for number in given] if isinstance(given, Sequence) else []
        if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
            raise InputError(f"{name}: {what}: expected {low:g} <= low <= high <= {high:g}, got {given!r}")
    if not np.isfinite(as_number(pivot)):
        raise InputError(f"{name}: pivot: expected a finite number, got {pivot!r}")
    if not 0.0 <= as_number(distortion) <= 1e6:
        raise InputError(f"{name}: distortion: expected pixels, a number >= 0, got {distortion!r}")
    if not isinstance(smoothness, int | np.integer) or isinstance(smoothness, bool) or not 1 <= smoothness < 2**31:
        raise InputError(f"{name}: smoothness: expected a whole number of pixels >= 1, got {smoothness!r}")
    if fill != "edge" and not np.isfinite(as_number(fill)):
        raise InputError(f'{name}: fill: expected a finite number or "edge", got {fill!r}')


@backward("draw_transforms")
def _draw_transforms_backward(call: Call, dy: Symbol) -> tuple[None]:
    return (None,)


@backward("transform_images")
def _transform_images_backward(call: Call, dy: Symbol) -> Sequence[Symbol | None]:
    raise CaptureError("augment has no derivative; put it in front of every layer with parameters")


# --- losses ---------------------------------------------------------------------------------------------------------


def _loss(name: str, z: Array, t: Array, **attributes: Any) -> Array:
    dtype = floats(name, z)
    check_matrix(name, "outputs (B, O)", z)
    return _apply(name, (z, t), [((z.shape[0],), dtype)], attributes)


def softmax_cross_entropy(z: Array, t: Array) -> Array:
    """losses (B,) = -sum_j t_j log softmax(z)_j from logits z (B, C); t (B,) class indices or (B, C) shares that add up to 1.

    Gradient: softmax(z) - t. Source: Nielsen, chapter 3, equation 80.
    """
    floats("softmax_cross_entropy", z)
    check_matrix("softmax_cross_entropy", "outputs (B, O)", z)
    return _loss("softmax_cross_entropy", z, _classes_or_rows("softmax_cross_entropy", z, t))


def _classes_or_rows(name: str, z: Array, t: Array) -> Array:
    """Check targets t that are class indices (B,), or rows of the shape and dtype of z (B, C)."""
    family(name, z, t)
    if np.dtype(getattr(t, "dtype", object)).kind not in "iu":
        _targets(name, z, t)
        return t
    t = _integers(name, t)
    if tuple(t.shape) != (z.shape[0],):
        expected = describe((z.shape[0],))
        raise InputError(f"{name}: expected one class index a row, shape {expected}, got {describe(tuple(t.shape))}")
    _check_labels(name, t, z.shape[-1])
    return t


def _check_labels(name: str, t: Any, classes: Dimension) -> None:
    if isinstance(t, Symbol) or t.size == 0 or not isinstance(classes, int):
        return
    if t.min() < 0 or t.max() >= classes:
        raise InputError(f"{name}: expected class indices 0 to {classes - 1}, got {t.min()} to {t.max()}")


def sigmoid_cross_entropy(z: Array, t: Array) -> Array:
    """losses (B,) = sum_j max(z_j, 0) - z_j t_j + log(1 + exp(-|z_j|)) from logits z (B, O) and targets t (B, O) in [0, 1].

    Gradient: sigmoid(z) - t. Source: the binary cross-entropy of Nielsen, chapter 3, equation 63, in its stable form.
    """
    _targets("sigmoid_cross_entropy", z, t)
    return _loss("sigmoid_cross_entropy", z, t)


def squared_error(a: Array, t: Array, scale: float = 0.5) -> Array:
    """losses (B,) = scale * sum_j (a_j - t_j)^2 of outputs a (B, O) and targets t (B, O).

    With scale 1/2 Nielsen's quadratic cost (chapter 1, equation 6).
    """
    _targets("squared_error", a, t)
    return _loss("squared_error", a, t, scale=float(scale))


def _targets(name: str, z: Array, t: Array) -> None:
    floats(name, z, t)
    if tuple(t.shape) != tuple(z.shape):
        raise InputError(f"{name}: expected targets of shape {describe(tuple(z.shape))}, got {describe(tuple(t.shape))}")


@backward("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")
def _loss_backward(call: Call, dlosses: Symbol) -> tuple[Symbol, None]:
    z, t = call.inputs
    return _apply(f"{call.kernel}_backward", (z, t, dlosses), [(z.shape, z.dtype)], call.attributes), None


def weighted_mean(losses: Array, weights: Array) -> Array:
    """sum(w l) / sum(w) of losses (B,) and weights (B,), a 0-d array; 0 where all weights are 0."""
    dtype = floats("weighted_mean", losses, weights)
    if len(losses.shape) != 1 or tuple(losses.shape) != tuple(weights.shape):
        raise InputError(
            "weighted_mean: expected losses and weights of one shape (B,), "
            f"got {describe(tuple(losses.shape))} and {describe(tuple(weights.shape))}"
        )
    return _apply("weighted_mean", (losses, weights), [((), dtype)])


@backward("weighted_mean")
def _weighted_mean_backward(call: Call, dmean: Symbol) -> tuple[Symbol, None]:
    losses, weights = call.inputs
    return _apply("weighted_mean_backward", (dmean, weights), [(losses.shape, losses.dtype)]), None


def is_correct(z: Array, t: Array, threshold: float = 0.0, multilabel: bool = False) -> Array:
    """(B,): 1 where the largest of outputs z (B, C) is the class t ((B,) indices or (B, C) shares), else 0.

    With one column, or `multilabel`: the share of columns in which (z > threshold) == (t > 1/2).
    """
    dtype = floats("is_correct", z)
    check_matrix("is_correct", "outputs (B, C)", z)
    t = _classes_or_rows("is_correct", z, t)
    attributes = {"threshold": float(threshold), "multilabel": bool(multilabel)}
    return _apply("is_correct", (z, t), [((z.shape[0],), dtype)], attributes)


# --- array algebra --------------------------------------------------------------------------------------------------


def _binary(name: str, a: Array, b: Array) -> Array:
    a, b = promote(name, a, b)
    shape = broadcast_shapes(name, tuple(a.shape), tuple(b.shape))
    return _apply(name, (a, b), [(shape, np.dtype(bool) if name in COMPARISONS else a.dtype)])


def add(a: Array, b: Array) -> Array:
    """a + b with broadcasting."""
    return _binary("add", a, b)


def subtract(a: Array, b: Array) -> Array:
    """a - b with broadcasting."""
    return _binary("subtract", a, b)


def multiply(a: Array, b: Array) -> Array:
    """a * b with broadcasting."""
    return _binary("multiply", a, b)


def divide(a: Array, b: Array) -> Array:
    """a / b with broadcasting; division by 0 gives infinity or NaN, as in IEEE 754."""
    return _binary("divide", a, b)


def power(a: Array, b: Array) -> Array:
    """a ** b with broadcasting; NaN where a < 0 and b is not whole. The derivative by b is taken as 0 where a <= 0."""
    return _binary("power", a, b)


def maximum(a: Array, b: Array) -> Array:
    """The larger of two; NaN if either is. Where they are equal each gets half of the gradient."""
    return _binary("maximum", a, b)


def minimum(a: Array, b: Array) -> Array:
    """The smaller of two; NaN if either is. Where they are equal each gets half of the gradient."""
    return _binary("minimum", a, b)


def equal(a: Array, b: Array) -> Array:
    """a == b, bool."""
    return _binary("equal", a, b)


def not_equal(a: Array, b: Array) -> Array:
    """a != b, bool."""
    return _binary("not_equal", a, b)


def less(a: Array, b: Array) -> Array:
    """a < b, bool."""
    return _binary("less", a, b)


def less_equal(a: Array, b: Array) -> Array:
    """a <= b, bool."""
    return _binary("less_equal", a, b)


def greater(a: Array, b: Array) -> Array:
    """a > b, bool."""
    return _binary("greater", a, b)


def greater_equal(a: Array, b: Array) -> Array:
    """a >= b, bool."""
    return _binary("greater_equal", a, b)


def where(condition: Array, a: Array, b: Array) -> Array:
    """a where the condition (bool) holds, else b, with broadcasting. The gradient goes to the one that was taken."""
    family("where", condition, a, b)
    if not hasattr(condition, "dtype") or np.dtype(condition.dtype) != np.dtype(bool):
        raise KindError(f"where: expected a bool condition, got {getattr(condition, 'dtype', type(condition).__name__)}")
    if not any(hasattr(x, "shape") for x in (a, b)):
        raise KindError("where: expected an array for a or b, got numbers only")
    a, b = promote("where", a, b)
    shape = broadcast_shapes("where", tuple(condition.shape), tuple(a.shape), tuple(b.shape))
    return _apply("where", (condition, a, b), [(shape, a.dtype)])


def negative(x: Array) -> Array:
    """-x."""
    return _unary("negative", x)


def exp(x: Array) -> Array:
    """e ** x."""
    return _unary("exp", x)


def log(x: Array) -> Array:
    """The natural logarithm; -inf at 0, NaN below."""
    return _unary("log", x)


def sqrt(x: Array) -> Array:
    """The square root; NaN below 0."""
    return _unary("sqrt", x)


def abs(x: Array) -> Array:
    """The absolute value; its derivative at 0 is taken as 0."""
    return _unary("abs", x)


def sign(x: Array) -> Array:
    """-1, 0 or 1; its derivative is 0."""
    return _unary("sign", x)


@backward("identity")
def _identity_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (dy,)


@backward("negative")
def _negative_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (negative(dy),)


@backward("exp")
def _exp_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (multiply(dy, call.outputs[0]),)


@backward("log")
def _log_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (divide(dy, call.inputs[0]),)


@backward("sqrt")
def _sqrt_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (divide(multiply(dy, 0.5), call.outputs[0]),)


@backward("abs")
def _abs_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (multiply(dy, sign(call.inputs[0])),)


@backward("sign", "fill", *COMPARISONS, "is_correct", "argmax", "one_hot", "gather_rows", "shuffle")
def _no_backward(call: Call, dy: Symbol) -> Sequence[None]:
    return (None,) * len(call.inputs)


@backward("add")
def _add_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    return _shrink(dc, a.shape), _shrink(dc, b.shape)


@backward("subtract")
def _subtract_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    return _shrink(dc, a.shape), _shrink(negative(dc), b.shape)


@backward("multiply")
def _multiply_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    return _shrink(multiply(dc, b), a.shape), _shrink(multiply(dc, a), b.shape)


@backward("divide")
def _divide_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    da = divide(dc, b)
    return _shrink(da, a.shape), _shrink(negative(multiply(da, call.outputs[0])), b.shape)


@backward("power")
def _power_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    da = multiply(dc, multiply(b, power(a, subtract(b, 1.0))))
    logarithm = log(where(greater(a, 0.0), a, 1.0))
    return _shrink(da, a.shape), _shrink(multiply(dc, multiply(call.outputs[0], logarithm)), b.shape)


@backward("maximum", "minimum")
def _extremum_backward(call: Call, dc: Symbol) -> tuple[Symbol, Symbol]:
    a, b = call.inputs
    wins = greater if call.kernel == "maximum" else less
    half = multiply(dc, 0.5)
    tie = where(equal(a, b), half, 0.0)
    return _shrink(where(wins(a, b), dc, tie), a.shape), _shrink(where(wins(b, a), dc, tie), b.shape)


@backward("where")
def _where_backward(call: Call, dc: Symbol) -> tuple[None, Symbol, Symbol]:
    condition, a, b = call.inputs
    return None, _shrink(where(condition, dc, 0.0), a.shape), _shrink(where(condition, 0.0, dc), b.shape)


# --- reductions -----------------------------------------------------------------------------------------------------


def _reduce(name: str, x: Array, axis: int | Sequence[int] | None) -> Array:
    dtype = floats(name, x)
    axes = _axes(name, axis, len(x.shape))
    if not axes:
        return x
    return _apply(name, (x,), [(_without(tuple(x.shape), axes), dtype)], {"axis": axes})


def sum(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """The sum over `axis` (a number, several, or None for all); the axes are dropped."""
    return _reduce("sum", x, axis)


def mean(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """The mean over `axis` (a number, several, or None for all); the axes are dropped."""
    return _reduce("mean", x, axis)


def max(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """The largest over `axis` (a number, several, or None for all); equal largest ones share the gradient."""
    return _reduce("max", x, axis)


def expand(x: Array, shape: Shape, axis: int | Sequence[int], *, mean: bool = False) -> Array:
    """x repeated along the new axes `axis` to `shape` (divided by the number of repeats if `mean`): the converse of sum."""
    dtype = floats("expand", x)
    axes = _axes("expand", axis, len(shape))
    if _without(shape, axes) != tuple(x.shape):
        raise InputError(f"expand: expected shape {describe(_without(shape, axes))}, got {describe(tuple(x.shape))}")
    return _apply("expand", (x,), [(tuple(shape), dtype)], {"axis": axes, "mean": mean})


@backward("sum", "mean")
def _sum_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (expand(dy, call.inputs[0].shape, call.attributes["axis"], mean=call.kernel == "mean"),)


@backward("expand")
def _expand_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    reduced = mean if call.attributes["mean"] else sum
    return (reduced(dy, call.attributes["axis"]),)


@backward("max")
def _max_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    x, axes = call.inputs[0], call.attributes["axis"]
    largest = where(equal(x, expand(call.outputs[0], x.shape, axes)), expand(constant_like(dy, 1.0), x.shape, axes), 0.0)
    share = divide(dy, sum(largest, axes))
    return (multiply(largest, expand(share, x.shape, axes)),)


def constant_like(x: Symbol, value: float) -> Symbol:
    """A symbol of the shape and dtype of `x`, filled with `value`."""
    return x.trace.record("fill", (), [(x.shape, x.dtype)], {"value": float(value)})[0]


def argmax(x: Array) -> Array:
    """int64 index of the largest of the last axis, the first of equal ones. Not differentiable."""
    _rows("argmax", x)
    return _apply("argmax", (x,), [(tuple(x.shape[:-1]), np.dtype("int64"))])


# --- moving elements ------------------------------------------------------------------------------------------------


def transpose(x: Array, axes: Sequence[int] | None = None) -> Array:
    """The axes in another order, reversed by default, as a new array."""
    dtype = floats("transpose", x)
    ndim = len(x.shape)
    given = tuple(reversed(range(ndim))) if axes is None else tuple(int(a) for a in axes)
    order = tuple(a % ndim if -ndim <= a < ndim else a for a in given)
    if ndim > MOST_AXES:
        raise InputError(f"transpose: at most {MOST_AXES} axes can be reordered, got {ndim}")
    if sorted(order) != list(range(ndim)):
        raise InputError(f"transpose: expected an order of {ndim} axes, got {axes}")
    return _apply("transpose", (x,), [(tuple(x.shape[a] for a in order), dtype)], {"axes": order})


@backward("transpose")
def _transpose_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (transpose(dy, tuple(int(a) for a in np.argsort(call.attributes["axes"]))),)


def reshape(x: Array, shape: Sequence[Dimension]) -> Array:
    """The same elements in the same order in another shape; one dimension may be -1.

    Recorded, it is a view and costs nothing.
    """
    family("reshape", x)
    if not isinstance(x, Symbol):
        try:
            return np.reshape(x, shape)
        except (ValueError, TypeError) as error:
            raise InputError(f"reshape: {describe(tuple(x.shape))} has no place for {tuple(shape)}") from error
    whole = elements(x.shape)
    known = elements(tuple(d for d in shape if d != -1))
    if -1 in shape:
        k, n = _factor(whole), _factor(known)
        if (isinstance(known, Rows) and not isinstance(whole, Rows)) or n == 0 or k % n:
            raise InputError(f"reshape: {describe(x.shape)} has no place for {describe(tuple(shape))}")
        rest: Dimension = k // n if isinstance(known, Rows) or isinstance(whole, int) else Rows(k // n)
        shape = tuple(rest if d == -1 else d for d in shape)
    if elements(tuple(shape)) != whole:
        raise InputError(f"reshape: {describe(x.shape)} has other elements than {describe(tuple(shape))}")
    return x.trace.reshape(x, tuple(shape))


def _factor(d: Dimension) -> int:
    return d.factor if isinstance(d, Rows) else d


@backward("reshape")
def _reshape_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (reshape(dy, call.inputs[0].shape),)


def concatenate(arrays: Sequence[Array], axis: int = 0) -> Array:
    """The arrays one after another along `axis`; all other dimensions equal."""
    if len(arrays) < 1:
        raise InputError("concatenate: expected at least one array, got none")
    dtype = floats("concatenate", *arrays)
    (along,) = _axes("concatenate", axis, len(arrays[0].shape))
    joined = arrays[0]
    for x in arrays[1:]:
        if len(x.shape) != len(joined.shape) or _without(tuple(x.shape), (along,)) != _without(tuple(joined.shape), (along,)):
            raise InputError(
                f"concatenate: {describe(tuple(joined.shape))} and {describe(tuple(x.shape))} differ beside axis {along}"
            )
        shape = tuple(_total(joined.shape[a], x.shape[a]) if a == along else d for a, d in enumerate(joined.shape))
        joined = _apply("concatenate", (joined, x), [(shape, dtype)], {"axis": along})
    return joined


def _total(a: Dimension, b: Dimension) -> Dimension:
    if isinstance(a, Rows) and isinstance(b, Rows):
        return Rows(a.factor + b.factor)
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    raise CaptureError(f"concatenate: {a} and {b} rows together have no name in a program for any number of rows")


def slice(x: Array, start: int, stop: int, axis: int = -1) -> Array:
    """x[..., start:stop, ...] along `axis`, as a new array; 0 <= start <= stop <= the dimension."""
    dtype = floats("slice", x)
    (along,) = _axes("slice", axis, len(x.shape))
    size = x.shape[along]
    if not isinstance(size, int):
        raise CaptureError("slice: an axis that depends on the number of rows cannot be cut")
    if not 0 <= start <= stop <= size:
        raise InputError(f"slice: expected 0 <= start <= stop <= {size}, got {start} and {stop}")
    shape = tuple(stop - start if a == along else d for a, d in enumerate(x.shape))
    return _apply("slice", (x,), [(shape, dtype)], {"axis": along, "start": start})


@backward("concatenate")
def _concatenate_backward(call: Call, dc: Symbol) -> Sequence[Symbol]:
    a, b = call.inputs
    along = call.attributes["axis"]
    first, second = a.shape[along], b.shape[along]
    if along == 0 and isinstance(first, Rows) and isinstance(second, Rows):
        return _split_rows(dc, a.shape, b.shape)
    if not (isinstance(first, int) and isinstance(second, int)):
        raise CaptureError("concatenate: along rows, the derivative needs the rows as the first axis of both")
    return slice(dc, 0, first, along), slice(dc, first, first + second, along)


def _split_rows(dc: Symbol, first: Shape, second: Shape) -> tuple[Symbol, Symbol]:
    """Cut (k B + l B, ...) behind its first k B rows, as k + l blocks of B rows each."""
    k, rest = _factor(first[0]), _factor(second[0])
    inner = tuple(first[1:])
    blocks = reshape(dc, (k + rest, Rows(), *inner))
    return reshape(slice(blocks, 0, k, 0), first), reshape(slice(blocks, k, k + rest, 0), second)


@backward("slice")
def _slice_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    x, along, start = call.inputs[0], call.attributes["axis"], call.attributes["start"]
    size, length = x.shape[along], dy.shape[along]
    assert isinstance(size, int)
    assert isinstance(length, int)

    def zeros(n: int) -> list[Symbol]:
        shape = tuple(n if a == along else d for a, d in enumerate(x.shape))
        return [x.trace.record("fill", (), [(shape, x.dtype)], {"value": 0.0})[0]] if n else []

    return (concatenate([*zeros(start), dy, *zeros(size - start - length)], along),)


def gather(x: Array, indices: Array) -> Array:
    """Rows x[indices] along the first axis; indices (N,) integers in 0 .. rows - 1. Equal indices add up in the gradient."""
    dtype = floats("gather", x)
    family("gather", x, indices)
    indices = _integers("gather", indices)
    if len(x.shape) < 1 or len(indices.shape) != 1:
        raise InputError(
            f"gather: expected rows and a list of indices, got {describe(tuple(x.shape))} and {describe(tuple(indices.shape))}"
        )
    _check_labels("gather", indices, x.shape[0])
    return _apply("gather", (x, indices), [((indices.shape[0], *x.shape[1:]), dtype)])


@backward("gather")
def _gather_backward(call: Call, dy: Symbol) -> tuple[Symbol, None]:
    x, indices = call.inputs
    return _apply("scatter_add", (indices, dy), [(x.shape, x.dtype)]), None


def one_hot(labels: Array, classes: int, dtype: Any = "float32") -> Array:
    """(B, C): 1 in the column of the label, 0 elsewhere; labels (B,) integers in 0 .. classes - 1."""
    labels = _integers("one_hot", labels)
    if len(labels.shape) != 1 or not isinstance(classes, int | np.integer) or classes < 1:
        raise InputError(f"one_hot: expected labels (B,) and classes >= 1, got {describe(tuple(labels.shape))} and {classes}")
    _check_labels("one_hot", labels, classes)
    if np.dtype(dtype) not in FLOATS:
        raise KindError(f"one_hot: expected float32 or float64, got {np.dtype(dtype)}")
    return _apply("one_hot", (labels,), [((labels.shape[0], int(classes)), np.dtype(dtype))])


# --- updates --------------------------------------------------------------------------------------------------------


def update(
    name: str,
    parameters: Array,
    state: Sequence[Array],
    gradient: Array,
    norm: Array,
    scalars: Array,
    index: Array,
    starts: Array,
    penalties: Array,
    attributes: Mapping[str, Any],
) -> None:
    """One step of an optimizer over a whole arena, **in place** in `parameters` (P,) and in each array of `state` (P,).

    `name`: sgd, momentum, nesterov, averaged_momentum, rmsprop or adam (which is AdamW where `penalties` hold a weight decay);
    equations, `scalars`, `index`, `starts`, `penalties` and `attributes` as in `fastnn_kernels.contract`.
    """
    if name not in UPDATES:
        raise InputError(f"no update is called {name!r}{nearest(name, UPDATES)}")
    floats(name, gradient, norm, scalars, penalties, parameters, *state)
    if len(state) != len(UPDATES[name]) or any(tuple(s.shape) != tuple(parameters.shape) for s in (gradient, *state)):
        raise InputError(f"{name}: expected a gradient and {len(UPDATES[name])} arrays of state, all of the parameters' shape")
    index, starts = _integers(name, index), _segments(name, parameters, starts, penalties)
    if tuple(norm.shape) != () or tuple(index.shape) != () or len(scalars.shape) != 2 or scalars.shape[1] != 3:
        got = ", ".join(describe(tuple(x.shape)) for x in (norm, scalars, index))
        raise InputError(f"{name}: expected norm (), scalars (N, 3) and index (), got {got}")
    if isinstance(index, np.ndarray) and not 0 <= int(index) < len(scalars):
        raise InputError(f"{name}: expected an index from 0 to {len(scalars) - 1}, got {int(index)}")
    _apply(name, (gradient, norm, scalars, index, starts, penalties, parameters, *state), [], attributes)


def sum_of_squares(x: Array, clip_value: float = 0.0) -> Array:
    """sum x^2 over everything, a 0-d array; with clip_value > 0 of min(max(x, -clip_value), clip_value) instead of x."""
    dtype = floats("sum_of_squares", x)
    blocks = _blocks("sum_of_squares", x)
    return sum(_apply("block_sum_squares", (x,), [((blocks,), dtype)], {"clip_value": float(clip_value)}))


def penalty(parameters: Array, starts: Array, penalties: Array) -> Array:
    """sum over segments of l2/2 sum w^2 + l1 sum |w|, a 0-d array; `starts` and `penalties` as in `update`."""
    dtype = floats("penalty", parameters, penalties)
    starts = _segments("penalty", parameters, starts, penalties)
    blocks = _blocks("penalty", parameters)
    return sum(_apply("block_penalty", (parameters, starts, penalties), [((blocks,), dtype)]))


def _segments(name: str, parameters: Array, starts: Array, penalties: Array) -> Array:
    """The checked `starts` (S + 1,) of the segments of an arena (P,), as int64."""
    starts = _integers(name, starts)
    if len(parameters.shape) != 1 or len(starts.shape) != 1 or tuple(penalties.shape) != (starts.shape[0] - 1, 4):
        got = ", ".join(describe(tuple(x.shape)) for x in (parameters, starts, penalties))
        raise InputError(f"{name}: expected parameters (P,), starts (S + 1,) and penalties (S, 4), got {got}")
    if isinstance(starts, np.ndarray) and (starts[0] != 0 or starts[-1] != len(parameters) or (np.diff(starts) < 0).any()):
        raise InputError(f"{name}: expected starts that rise from 0 to {len(parameters)}, the number of parameters")
    return starts


def _blocks(name: str, x: Array) -> int:
    size = elements(tuple(x.shape))
    if not isinstance(size, int):
        raise CaptureError(f"{name}: the size of the array must not depend on the number of rows")
    return -(-size // SUM_BLOCK)


# --- data -----------------------------------------------------------------------------------------------------------


def gather_rows(source: Array, order: Array, position: Array, rows: Dimension, dtype: Any, scale: float = 1.0) -> Array:
    """y[b] = source[order[position + b]] * scale for b = 0 .. rows - 1: a mini-batch out of the resident data.

    source (N, ...) uint8, int64, float32 or float64; order int64; position 0-d int64; y of `dtype`, (rows, ...).
    """
    family("gather_rows", source, order, position)
    if np.dtype(source.dtype) not in (np.dtype("uint8"), np.dtype("int64"), *FLOATS):
        raise KindError(f"gather_rows: expected uint8, int64, float32 or float64, got {source.dtype}")
    order, position = _integers("gather_rows", order), _integers("gather_rows", position)
    if len(order.shape) != 1 or position.shape != () or len(source.shape) < 1:
        raise InputError(
            "gather_rows: expected rows, a list of indices and a 0-d position, got shapes "
            f"{', '.join(describe(tuple(x.shape)) for x in (source, order, position))}"
        )
    if not isinstance(order, Symbol):
        start = int(position)
        if not (isinstance(rows, int) and 0 <= start <= len(order) - rows and rows >= 0):
            raise InputError(f"gather_rows: {rows} rows from position {start} are not in an order of {len(order)}")
        _check_labels("gather_rows", order[start : start + rows], len(source))
    return _apply(
        "gather_rows", (source, order, position), [((rows, *source.shape[1:]), np.dtype(dtype))], {"scale": float(scale)}
    )


def shuffle(n: int, key: tuple[int, int], epoch: int) -> np.ndarray:
    """The order (n,) int64 in which epoch `epoch` visits n examples: the bijection of `fastnn.random.permutation`."""
    made: np.ndarray = _compute("shuffle", (np.asarray(epoch, np.int64),), [((n,), np.dtype("int64"))], {"key": key})[0]
    return made
