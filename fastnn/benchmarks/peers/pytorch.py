"""PyTorch: eager, compiled, and with the whole step captured in a CUDA graph; always with fused Adam."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import numpy as np
import torch

from fastnn.benchmarks.grid import LEARNING_RATE, Task
from fastnn.benchmarks.peers import Cannot, Contestant, channels_first, rows_of_channels_first

ACTIVATIONS = {"tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU}


class Eager(Contestant):
    """A loop over a random permutation; every mini-batch is gathered from data that lies on the device."""

    adam: ClassVar[dict[str, Any]] = {}
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Of images and of the weights of convolutions."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        cell = task.cell
        if cell.device == "cuda" and not torch.cuda.is_available():
            raise Cannot("this PyTorch was built without CUDA, or its CUDA finds no driver")
        torch.set_num_threads(task.threads)
        torch.set_float32_matmul_precision("high" if cell.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = cell.precision == "tf32"  # which convolutions else would be in by default
        self.device = torch.device(cell.device)
        self.model = build(task).to(self.device, memory_format=self.memory_format)
        self.X, self.y = (torch.from_numpy(array).to(self.device) for array in self.host_data())
        self.loss: Any = torch.nn.BCEWithLogitsLoss() if task.binary else torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, fused=True, **self.adam)
        if cell.inference:
            self.model.eval()

    def host_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, C, H, W), in memory by the format."""
        X, y = self.task.X, self.task.y
        in_place = X.ndim == 4 and self.memory_format == torch.channels_last
        return X.transpose(0, 3, 1, 2) if in_place else channels_first(X), y

    def loss_of(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        bf16 = self.task.cell.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss: torch.Tensor = self.loss(self.model(x), t)
        return loss

    def step(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(x, t)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def losses(self, order: np.ndarray) -> list[float]:
        self.model.train()
        return [float(self.step(self.X[index], self.y[index])) for index in torch.from_numpy(order).to(self.device)]

    def epoch(self) -> float:
        return self.train(self.X, self.y)

    def train(self, X: torch.Tensor, y: torch.Tensor) -> float:
        """One epoch on data of the device."""
        self.model.train()
        total = torch.zeros((), device=self.device)
        for index in torch.randperm(len(X), device=self.device).split(self.task.cell.batch_size):
            total += self.step(X[index], y[index])
        return float(total)

    def short_fit(self, X: np.ndarray, y: np.ndarray) -> float:
        return self.train(torch.from_numpy(X).to(self.device), torch.from_numpy(y).to(self.device))

    def partial_fit(self, x: np.ndarray, t: np.ndarray) -> float:
        self.model.train()
        return float(self.step(torch.from_numpy(x).to(self.device), torch.from_numpy(t).to(self.device)))

    def predict(self, x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            z = self.model(torch.from_numpy(x))
            if self.task.probabilities:
                z = z.sigmoid() if self.task.binary else z.softmax(1)
            outputs: np.ndarray = z.numpy()
        return outputs

    def time(self, runs: int) -> float:
        if self.device.type == "cpu":
            return super().time(runs)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(runs):
            self.epoch()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / runs

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


class Compiled(Eager):
    """Forward pass, loss and backward pass through `torch.compile`."""

    mode: str | None = None

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.compiled = torch.compile(super().loss_of, mode=self.mode, dynamic=False)

    def loss_of(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        loss: torch.Tensor = self.compiled(x, t)
        return loss


class EagerChannelsLast(Eager):
    memory_format = torch.channels_last


class CompiledChannelsLast(Compiled):
    memory_format = torch.channels_last


class ReduceOverhead(Compiled):
    mode = "reduce-overhead"


class MaxAutotune(Compiled):
    mode = "max-autotune"


class WholeStepGraph(Eager):
    """Gather, forward, backward and update in one CUDA graph, one for the last, smaller mini-batch.

    Its replays read their mini-batch at a position on the device, which each of them moves on.
    """

    adam: ClassVar[dict[str, Any]] = {"capturable": True}

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.model.train()
        rows, batch = len(self.X), task.cell.batch_size
        self.order = torch.arange(rows, device=self.device)
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.total = torch.zeros((), device=self.device)
        first = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.graphs = {size: self.capture(size) for size in {min(batch, rows), rows % batch} - {0}}
        self.model.load_state_dict(first)
        with torch.no_grad():
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def capture(self, size: int) -> Any:
        offsets = torch.arange(size, device=self.device)

        def step() -> None:
            index = self.order[self.position + offsets]
            self.total += super(WholeStepGraph, self).step(self.X[index], self.y[index])
            self.position += size

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.position.zero_()
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.position.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph

    def replay(self, order: torch.Tensor) -> float:
        self.order[: len(order)] = order
        self.position.zero_()
        self.total.zero_()
        for start in range(0, len(order), self.task.cell.batch_size):
            self.graphs[min(self.task.cell.batch_size, len(order) - start)].replay()
        return float(self.total)

    def losses(self, order: np.ndarray) -> list[float]:
        return [self.replay(index) for index in torch.from_numpy(order).to(self.device)]

    def epoch(self) -> float:
        return self.replay(torch.randperm(len(self.X), device=self.device))

    def short_fit(self, X: np.ndarray, y: np.ndarray) -> float:
        raise Cannot("its graph reads the data that it was captured with")

    def partial_fit(self, x: np.ndarray, t: np.ndarray) -> float:
        raise Cannot("its graph reads the data that it was captured with")


def build(task: Task) -> torch.nn.Sequential:
    """The network with the task's initial weights."""
    network = task.network
    layers: list[torch.nn.Module] = []
    kernels = iter(task.kernels)
    for layer in network.image_layers:
        if not layer.filters:
            layers.append(torch.nn.MaxPool2d(layer.size))
            continue
        w, b = next(kernels)
        conv = torch.nn.Conv2d(layer.of[2], layer.filters, layer.size, padding="same" if layer.same else 0)
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(w.transpose(3, 2, 0, 1).copy()))
            assert conv.bias is not None
            conv.bias.copy_(torch.from_numpy(b))
        layers += [conv, ACTIVATIONS[network.activation]()]
    if network.image_layers:
        layers.append(torch.nn.Flatten())
    for i, (w, b) in enumerate(rows_of_channels_first(task)):
        last = i == len(task.weights) - 1
        linear = torch.nn.Linear(w.shape[0], w.shape[1], bias=last or not network.norm)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w.T.copy()))
            if linear.bias is not None:
                linear.bias.copy_(torch.from_numpy(b))
        layers.append(linear)
        if last:
            break
        if network.norm:
            layers.append(torch.nn.BatchNorm1d(w.shape[1]))
        layers.append(ACTIVATIONS[network.activation]())
        if task.dropout:
            layers.append(torch.nn.Dropout(task.dropout))
    return torch.nn.Sequential(*layers)
