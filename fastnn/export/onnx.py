"""Models as ONNX files: the program of a prediction, call by call, as nodes of a graph.

Whatever a layer computes is a few calls of the vocabulary, those of your own included; each kernel has its nodes here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastnn._version import __version__
from fastnn.errors import InputError, InputTypeError, NotReadyError, PackageError
from fastnn.layers import final_activation
from fastnn.losses import PROBABILITIES, apply_link
from fastnn.network.layout import Network, forward
from fastnn.network.programs import Decision
from fastnn.program.shapes import B, BatchDim, Shape
from fastnn.program.trace import Call, Program, Symbol, Trace
from fastnn.sequential import Sequential, as_model
from fastnn.storage.atomic import write_whole

OPSET, IR_VERSION = 17, 8
"""Of 2022: ONNX Runtime reads it from version 1.12 on."""

FLOAT32_ONLY = ("AveragePool", "Conv", "Elu", "Erf", "LpPool", "Softplus")
"""Nodes that ONNX Runtime has for no float64."""

MOST_BYTES = 2**31 - 2**20
"""Of constants: what the format leaves for them."""

DTYPES = ("float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64")
"""Of the input."""


def to_onnx(
    model: Sequential, path: str | os.PathLike[str] | IO[bytes], *, dtype: str | None = None, input_dtype: str | None = None
) -> None:
    """Write a trained model as an ONNX file (opset 17), for ONNX Runtime and whatever else reads such files.

        fastnn.to_onnx(model, "model.onnx")
        session = onnxruntime.InferenceSession("model.onnx")
        label, probabilities = session.run(None, {"X": X})

    The input is `X` (n, ...). The outputs are `label` (n,), what `predict` returns, and `probabilities` (n, C), what
    `predict_proba` returns, for classes; `label` (n, O), 0 or 1, and `probabilities` (n, O) for several yeses; `values`, as
    `predict` returns them, for numbers; `outputs` of the last layer, (n, O), in place of probabilities where the loss makes
    none, and alone for a model that does not know its task. Standardizers and `input_scale` are nodes of the graph. Names of
    classes, features and targets, and what wrote the file, are in its metadata
    (`session.get_modelmeta().custom_metadata_map`), as JSON where there are several.

    `path`: of a file, which is written whole or not at all, or a binary file object. `dtype`: "float32" or "float64", of
    weights and of what is computed, by default the model's own; convolutions, mean and L2 pooling, elu, softplus, mish and gelu
    are computed in float32 all the same, since ONNX Runtime has them in no other, and epsilons and slopes are float32 numbers
    in the format. `input_dtype`: of X, by default the same; "uint8" for images as they are stored.

    Raises NotReadyError before `build`, InputError for dtypes, for what a layer of your own computes without a counterpart in
    ONNX, and for a file that would be larger than 2 GB; FileError; and PackageError without `onnx` (the extra `onnx`).
    """
    as_model(model)
    if not isinstance(path, str | os.PathLike) and not hasattr(path, "write"):
        raise InputTypeError(f"to_onnx: path: expected a path or a binary file object, got {type(path).__name__}")
    if not model.built:
        raise NotReadyError("to_onnx: the model has no parameters yet; call fit, or build(n_features)")
    computed = str(model.dtype) if dtype is None else dtype
    if computed not in ("float32", "float64"):
        raise InputError(f'to_onnx: dtype: expected "float32" or "float64", got {dtype!r}')
    read = computed if input_dtype is None else input_dtype
    if read not in DTYPES:
        raise InputError(f"to_onnx: input_dtype: expected one of {', '.join(DTYPES)}, got {input_dtype!r}")
    content = _Graph(model, computed, read).write()
    if isinstance(path, str | os.PathLike):
        write_whole(Path(path), content)
    else:
        path.write(content)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise PackageError.of("onnx", "to_onnx", error) from error
    return onnx


class _Graph:
    """The nodes of one model, and the constants that they read."""

    def __init__(self, model: Sequential, dtype: str, input_dtype: str) -> None:
        self.onnx = _onnx()
        self.model, self.dtype, self.input_dtype = model, np.dtype(dtype), np.dtype(input_dtype)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.names: dict[Symbol, str] = {}
        self.outputs: list[Any] = []
        self._arenas = model.snapshot().on_host().arrays
        self._numbered = 0

    def write(self) -> bytes:
        """The file. Raises InputError where it cannot be."""
        helper = self.onnx.helper
        self._answer(*self._translate())
        size = sum(len(constant.raw_data) for constant in self.constants.values())
        if size > MOST_BYTES:
            raise InputError(f"to_onnx: the file would have {size:,} bytes; a file of ONNX has at most {MOST_BYTES:,}")
        graph = helper.make_graph(
            self.nodes, "fastnn", [self._described("X", self.input_dtype, self.model.network.features)], self.outputs,
            list(self.constants.values()),
        )  # fmt: skip
        written = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fastnn",
            producer_version=__version__,
        )  # fmt: skip
        helper.set_model_props(written, self._metadata())
        try:
            self.onnx.checker.check_model(written, full_check=True)
            content: bytes = written.SerializeToString()
        except (ValueError, self.onnx.checker.ValidationError, self.onnx.shape_inference.InferenceError) as error:
            raise InputError(f"to_onnx: the model cannot be written as ONNX: {error}") from error
        return content

    # --- the program ----------------------------------------------------------------------------------------------------

    def _translate(self) -> tuple[str, str]:
        """Nodes for what a prediction computes; the names of the outputs, and of what the loss makes of them."""
        task = self.model.task
        network = self.model.network
        link = None if task is None else task.link
        program = _program(network.without_activation(link), link)
        self.names[program.inputs["x"]] = self._mapped()
        for call in program.calls:
            translation = _view if call.is_view else TRANSLATIONS.get(call.kernel)
            if translation is None:
                raise InputError(f"to_onnx: {call.kernel} has no counterpart in ONNX; a layer computes it in inference")
            translation(self, call)
        return self.name_of(program.outputs["outputs"]), self.name_of(program.outputs["linked"])

    def _mapped(self) -> str:
        """X as the first layer reads it: cast, scaled, and standardized in float64."""
        x, mapping = "X", self.model.network.input_map
        wide = np.dtype("float64") if mapping.offset is not None else self.dtype
        if self.input_dtype != wide:
            x = self.add("Cast", [x], to=self._type(wide))
        if mapping.scale != 1.0:
            x = self.add("Mul", [x, self.constant("input_scale", np.asarray(mapping.scale, wide))])
        if mapping.offset is not None:
            assert mapping.factor is not None
            features = self.model.network.features
            x = self.add("Sub", [x, self.constant("input_offset", mapping.offset.reshape(features))])
            x = self.add("Mul", [x, self.constant("input_factor", mapping.factor.reshape(features))])
        return x if wide == self.dtype else self.add("Cast", [x], to=self._type(self.dtype))

    def name_of(self, symbol: Symbol) -> str:
        """The name of what a symbol stands for; parameters and statistics become constants."""
        known = self.names.get(symbol)
        if known is None:
            values = self.values_of(symbol)
            known = self.names[symbol] = self.constant(symbol.name or self._fresh("array"), values)
        return known

    def values_of(self, symbol: Symbol) -> np.ndarray:
        """The values of a parameter or statistic."""
        arena = self._arenas.get(symbol.root.name or "") if symbol.root is not symbol else None
        shape = tuple(int(d) for d in symbol.shape if isinstance(d, int))
        if arena is None or len(shape) != len(symbol.shape):
            raise InputError(f"to_onnx: {symbol!r} is no parameter, and ONNX needs a constant there")
        values: np.ndarray = arena[symbol.start : symbol.start + math.prod(shape)].reshape(shape).astype(self.dtype)
        return values

    # --- what is added --------------------------------------------------------------------------------------------------

    def constant(self, name: str, values: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        return name

    def number(self, value: float) -> str:
        return self.constant(f"number {value!r}", np.asarray(value, self.dtype))

    def integers(self, *values: int) -> str:
        return self.constant(f"integers {values}", np.array(values, np.int64))

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """A node with one output; the name of that."""
        if kind in FLOAT32_ONLY and self.dtype == np.float64:
            narrow = [self.add("Cast", [name], to=self._type(np.dtype("float32"))) for name in inputs]
            made = self._fresh(kind)
            self.nodes.append(self.onnx.helper.make_node(kind, narrow, [made], **attributes))
            return self.add("Cast", [made], output, to=self._type(self.dtype))
        output = output or self._fresh(kind)
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def made(self, call: Call, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        """A node for what the call makes."""
        self.names[call.outputs[0]] = self.add(kind, inputs, **attributes)

    def _fresh(self, kind: str) -> str:
        self._numbered += 1
        return f"{kind.lower()}_{self._numbered}"

    # --- what it is for --------------------------------------------------------------------------------------------------

    def _answer(self, outputs: str, linked: str) -> None:
        """The outputs of the graph, of what the last layer makes, and the loss of that."""
        model, task, of_labels = self.model, self.model.task, np.dtype("int64")
        shape = model.layout.outputs
        if task is None:
            self._finish("outputs", outputs, self.dtype, shape)
            return
        if task.kind == "values":
            values = self.add("Squeeze", [linked, self.integers(1)]) if task.flat else linked
            self._finish("values", values, self.dtype, () if task.flat else shape)
            return
        # Labels are read off what the loss takes, as `predict` does: a probability may be rounded to another one.
        decision = Decision.of(task.kind, task.link)
        assert decision is not None
        if task.kind == "classes":
            answer = self.add("ArgMax", [outputs], axis=1, keepdims=0)
        else:
            column = outputs if task.kind == "multilabel" else self.add("Squeeze", [outputs, self.integers(1)])
            yes = self.add("Greater", [column, self.number(decision.threshold)])
            answer = self.add("Cast", [yes], to=self._type(of_labels))
        if task.classes is not None:
            labels = task.classes.astype(object) if task.classes.dtype.kind == "U" else task.classes
            answer, of_labels = self.add("Gather", [self.constant("classes", labels), answer]), task.classes.dtype
        self._finish("label", answer, of_labels, shape if task.kind == "multilabel" else ())
        if task.link not in PROBABILITIES and final_activation(model.layers) not in PROBABILITIES:
            self._finish("outputs", outputs, self.dtype, shape)
            return
        if task.kind == "binary":
            linked, shape = self.add("Concat", [self.add("Sub", [self.number(1.0), linked]), linked], axis=1), (2,)
        self._finish("probabilities", linked, self.dtype, shape)

    def _finish(self, name: str, computed: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.add("Identity", [computed], name)
        self.outputs.append(self._described(name, dtype, shape))

    def _described(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), ["n", *shape])

    def _type(self, dtype: np.dtype[Any]) -> int:
        if dtype.kind == "U":
            return int(self.onnx.TensorProto.STRING)
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(dtype))

    def _metadata(self) -> dict[str, str]:
        model, task = self.model, self.model.task
        found = {"fastnn_version": __version__}
        if task is not None:
            found |= {"task": task.kind, "loss": task.loss}
            if task.classes is not None:
                found["classes"] = json.dumps(task.classes.tolist())
        for name, names in {"feature_names": model.column_names, "target_names": model.target_names}.items():
            if names is not None:
                found[name] = json.dumps(list(names))
        return found


def _program(network: Network, link: str | None) -> Program:
    """What a prediction computes, call by call: nothing is fused, so that each call is one operation of the vocabulary."""
    trace = Trace(network.dtype)
    x = trace.input("x", (B, *network.features))
    outputs, _ = forward(trace, network, x, False, None)
    return trace.program({"outputs": outputs, "linked": apply_link(link, outputs)})


# --- the kernels --------------------------------------------------------------------------------------------------------


def _view(graph: _Graph, call: Call) -> None:
    graph.made(call, "Reshape", [graph.name_of(call.inputs[0]), graph.integers(*_lengths(call.outputs[0].shape))])


def _lengths(shape: Shape) -> list[int]:
    """A shape for Reshape, in which the number of rows follows from the others."""
    if sum(isinstance(d, BatchDim) for d in shape) > 1:
        raise InputError(f"to_onnx: a shape with several axes of rows has no counterpart in ONNX: {shape}")
    return [-1 if isinstance(d, BatchDim) else int(d) for d in shape]


def _node(kind: str, **attributes: Any) -> Callable[[_Graph, Call], None]:
    """One node that reads what the call reads."""

    def translate(graph: _Graph, call: Call) -> None:
        graph.made(call, kind, [graph.name_of(symbol) for symbol in call.inputs], **attributes)

    return translate


def _with_alpha(kind: str) -> Callable[[_Graph, Call], None]:
    def translate(graph: _Graph, call: Call) -> None:
        graph.made(call, kind, [graph.name_of(call.inputs[0])], alpha=float(call.attributes["alpha"]))

    return translate


def _matmul(graph: _Graph, call: Call) -> None:
    sides = []
    for symbol, flag in zip(call.inputs, ("transpose_a", "transpose_b"), strict=True):
        name = graph.name_of(symbol)
        sides.append(graph.add("Transpose", [name], perm=(1, 0)) if call.attributes[flag] else name)
    graph.made(call, "MatMul", sides)


def _not_equal(graph: _Graph, call: Call) -> None:
    graph.made(call, "Not", [graph.add("Equal", [graph.name_of(symbol) for symbol in call.inputs])])


def _step(graph: _Graph, call: Call) -> None:
    above = graph.add("Greater", [graph.name_of(call.inputs[0]), graph.number(0.0)])
    graph.made(call, "Cast", [above], to=graph._type(graph.dtype))


def _gelu(graph: _Graph, call: Call) -> None:
    x = graph.name_of(call.inputs[0])
    erf = graph.add("Erf", [graph.add("Mul", [x, graph.number(float(np.sqrt(0.5)))])])
    half = graph.add("Mul", [x, graph.number(0.5)])
    graph.made(call, "Mul", [half, graph.add("Add", [erf, graph.number(1.0)])])


def _silu(graph: _Graph, call: Call) -> None:
    x = graph.name_of(call.inputs[0])
    if graph.dtype == np.float32:
        graph.made(call, "Mul", [x, graph.add("Sigmoid", [x])])
        return
    # The same, which ONNX Runtime 1.18 does not make into a node that it has for no float64.
    below = graph.add("Add", [graph.number(1.0), graph.add("Exp", [graph.add("Neg", [x])])])
    graph.made(call, "Div", [x, below])


def _mish(graph: _Graph, call: Call) -> None:
    x = graph.name_of(call.inputs[0])
    graph.made(call, "Mul", [x, graph.add("Tanh", [graph.add("Softplus", [x])])])


def _reduce(kind: str) -> Callable[[_Graph, Call], None]:
    def translate(graph: _Graph, call: Call) -> None:
        x, axes = graph.name_of(call.inputs[0]), [int(axis) for axis in call.attributes["axis"]]
        if kind == "ReduceSum":
            graph.made(call, kind, [x, graph.integers(*axes)], keepdims=0)
        else:
            graph.made(call, kind, [x], axes=axes, keepdims=0)

    return translate


def _transpose(graph: _Graph, call: Call) -> None:
    graph.made(call, "Transpose", [graph.name_of(call.inputs[0])], perm=[int(axis) for axis in call.attributes["axes"]])


def _concatenate(graph: _Graph, call: Call) -> None:
    graph.made(call, "Concat", [graph.name_of(symbol) for symbol in call.inputs], axis=int(call.attributes["axis"]))


def _slice(graph: _Graph, call: Call) -> None:
    axis, start = int(call.attributes["axis"]), int(call.attributes["start"])
    length = call.outputs[0].shape[axis]
    if isinstance(length, BatchDim):
        raise InputError("to_onnx: a part of the rows has no counterpart in ONNX, where their number is not known")
    ends = (graph.integers(start), graph.integers(start + int(length)), graph.integers(axis))
    graph.made(call, "Slice", [graph.name_of(call.inputs[0]), *ends])


def _fill(graph: _Graph, call: Call) -> None:
    (made,), value = call.outputs, np.asarray(call.attributes["value"], call.outputs[0].dtype)
    if made.dtype.kind == "f":
        value = value.astype(graph.dtype)
    if any(isinstance(d, BatchDim) for d in made.shape):
        raise InputError("to_onnx: an array of one number and as many rows as X has no counterpart in ONNX")
    graph.names[made] = graph.constant(
        graph._fresh("filled"), np.full([int(d) for d in made.shape if isinstance(d, int)], value)
    )


def _argmax(graph: _Graph, call: Call) -> None:
    graph.made(call, "ArgMax", [graph.name_of(call.inputs[0])], axis=-1, keepdims=0)


def _batch_norm(graph: _Graph, call: Call) -> None:
    names = [graph.name_of(symbol) for symbol in call.inputs]
    graph.made(call, "BatchNormalization", names, epsilon=float(call.attributes["epsilon"]))


def _layer_norm(graph: _Graph, call: Call) -> None:
    names = [graph.name_of(symbol) for symbol in call.inputs]
    graph.made(call, "LayerNormalization", names, axis=-1, epsilon=float(call.attributes["epsilon"]))


def _pads(call: Call, size: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Above, left, below, right: pixels around the image that the windows of the outputs reach."""
    image, windows = call.inputs[0].shape[1:3], call.outputs[0].shape[1:3]
    before = [int(p) for p in call.attributes["padding"]]
    after = []
    for axis in range(2):
        length, count = image[axis], windows[axis]
        assert isinstance(length, int)
        assert isinstance(count, int)
        reach = (count - 1) * int(call.attributes["strides"][axis]) + (size[axis] - 1) * int(dilation[axis]) + 1
        after.append(max(0, reach - length - before[axis]))
    return [*before, *after]


def _channels_first(graph: _Graph, call: Call, kind: str, more: Sequence[str] = (), **attributes: Any) -> None:
    """A node on images (n, C, H, W), as ONNX has them, between two transpositions, which a runtime takes out in pairs."""
    image = graph.add("Transpose", [graph.name_of(call.inputs[0])], perm=(0, 3, 1, 2))
    made = graph.add(kind, [image, *more], strides=[int(s) for s in call.attributes["strides"]], **attributes)
    graph.made(call, "Transpose", [made], perm=(0, 2, 3, 1))


def _conv2d(graph: _Graph, call: Call) -> None:
    _, w, b = call.inputs
    kernels = graph.values_of(w)
    size, dilation = kernels.shape[:2], [int(d) for d in call.attributes["dilation"]]
    weight = graph.constant(f"{w.name or graph._fresh('kernel')} (O, C, KH, KW)", kernels.transpose(3, 2, 0, 1))
    _channels_first(
        graph, call, "Conv", [weight, graph.name_of(b)], pads=_pads(call, size, dilation), dilations=dilation,
        group=int(call.attributes["groups"]),
    )  # fmt: skip


def _pool(kind: str, **attributes: Any) -> Callable[[_Graph, Call], None]:
    def translate(graph: _Graph, call: Call) -> None:
        size = [int(s) for s in call.attributes["size"]]
        _channels_first(graph, call, kind, kernel_shape=size, pads=_pads(call, size, (1, 1)), **attributes)

    return translate


TRANSLATIONS: Mapping[str, Callable[[_Graph, Call], None]] = {
    "matmul": _matmul,
    "identity": _node("Identity"),
    "negative": _node("Neg"),
    "exp": _node("Exp"),
    "log": _node("Log"),
    "sqrt": _node("Sqrt"),
    "abs": _node("Abs"),
    "sign": _node("Sign"),
    "step": _step,
    "relu": _node("Relu"),
    "leaky_relu": _with_alpha("LeakyRelu"),
    "elu": _with_alpha("Elu"),
    "sigmoid": _node("Sigmoid"),
    "tanh": _node("Tanh"),
    "gelu": _gelu,
    "mish": _mish,
    "silu": _silu,
    "softplus": _node("Softplus"),
    "softmax": _node("Softmax", axis=-1),
    "log_softmax": _node("LogSoftmax", axis=-1),
    "add": _node("Add"),
    "subtract": _node("Sub"),
    "multiply": _node("Mul"),
    "divide": _node("Div"),
    "power": _node("Pow"),
    "maximum": _node("Max"),
    "minimum": _node("Min"),
    "equal": _node("Equal"),
    "not_equal": _not_equal,
    "less": _node("Less"),
    "less_equal": _node("LessOrEqual"),
    "greater": _node("Greater"),
    "greater_equal": _node("GreaterOrEqual"),
    "where": _node("Where"),
    "sum": _reduce("ReduceSum"),
    "mean": _reduce("ReduceMean"),
    "max": _reduce("ReduceMax"),
    "transpose": _transpose,
    "concatenate": _concatenate,
    "slice": _slice,
    "fill": _fill,
    "argmax": _argmax,
    "batch_norm_inference": _batch_norm,
    "layer_norm": _layer_norm,
    "conv2d": _conv2d,
    "max_pool2d": _pool("MaxPool"),
    "mean_pool2d": _pool("AveragePool"),
    "l2_pool2d": _pool("LpPool", p=2),
}
"""By kernel, what makes its nodes."""
