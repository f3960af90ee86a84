"""ONNX Runtime: the network as a graph, with its batch norm and final softmax as nodes. It infers and does not train."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from fastnn.benchmarks.grid import Task
from fastnn.benchmarks.peers import Contestant, channels_first, rows_of_channels_first

ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
OPSET, IR_VERSION = 17, 8
"""Old enough for every ONNX Runtime that this Python can install."""


class Session(Contestant):
    """A session on as many threads as everybody, for any number of rows."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = task.threads, 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            build(task).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )  # fmt: skip

    def host_data(self) -> tuple[np.ndarray, np.ndarray]:
        return channels_first(self.task.X), self.task.y

    def predict(self, x: np.ndarray) -> np.ndarray:
        outputs: np.ndarray = self.session.run(None, {"x": x})[0]
        return outputs


def build(task: Task) -> Any:
    """The network with the task's initial weights, x (rows, inputs) or (rows, C, H, W) -> y (rows, outputs)."""
    network, nodes, constants = task.network, [], []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    last, h, kernels = len(task.weights) - 1, "x", iter(task.kernels)
    for i, layer in enumerate(network.image_layers):
        if not layer.filters:
            h = node("MaxPool", [h], f"pool{i}", kernel_shape=layer.size, strides=layer.size)
            continue
        w, b = next(kernels)
        (above, below), (left, right) = layer.padding
        kernel, bias = constant(f"kernel{i}", w.transpose(3, 2, 0, 1).copy()), constant(f"bias{i}", b)
        h = node("Conv", [h, kernel, bias], f"conv{i}", pads=(above, left, below, right))
        h = node(ACTIVATIONS[network.activation], [h], f"convolved{i}")
    if network.image_layers:
        h = node("Flatten", [h], "flat")
    for i, (w, b) in enumerate(rows_of_channels_first(task)):
        weight = constant(f"w{i}", w)
        if i == last or not network.norm:
            h = node("Gemm", [h, weight, constant(f"b{i}", b)], f"dense{i}")
        else:
            ones, zeros = np.ones(w.shape[1], np.float32), np.zeros(w.shape[1], np.float32)
            moments = [("gamma", ones), ("beta", zeros), ("mean", zeros), ("variance", ones)]
            h = node("MatMul", [h, weight], f"dense{i}")
            h = node(
                "BatchNormalization", [h, *(constant(f"{name}{i}", values) for name, values in moments)], f"norm{i}",
                epsilon=1e-5,
            )  # fmt: skip
        if i < last:
            h = node(ACTIVATIONS[network.activation], [h], f"activation{i}")
    if task.probabilities:
        h = node("Sigmoid", [h], "p") if task.binary else node("Softmax", [h], "p", axis=1)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, *shape])
        for name, shape in (("x", channels_first(task.X[:1]).shape[1:]), (h, network.sizes[-1:]))
    )
    graph = helper.make_graph(nodes, "network", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
