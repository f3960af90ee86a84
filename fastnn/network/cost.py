"""The cost of examples as a function of the parameters: what gradient checks compare, and full-batch solvers minimize."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from fastnn import engines
from fastnn.data.prepared import DataLayout
from fastnn.losses import Loss
from fastnn.network.layout import Network, as_loss_network
from fastnn.network.programs import Cost


class CostFunction:
    """C(p) = mean loss + l2/2 ||W||^2 + l1 |W| of all examples, and dC/dp, for flat arrays p of all parameters in the order of
    the arena, (P,) in the network's dtype.

    `X` (n, ...), `y` and `weights` are as programs read them, in arrays of the host; they are placed on the engine once. With
    `training` the layers do what they do in training. The programs are made when they are first needed.
    """

    def __init__(
        self, network: Network, loss: Loss, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None, statistics: np.ndarray,
        l2: float = 0.0, l1: float = 0.0, *, training: bool = False, fused: bool = True, engine: str | engines.Engine = "cpu",
        threads: int | None = 1,
    ) -> None:  # fmt: skip
        self.network = as_loss_network(network, loss)
        self._loss, self._training, self._fused, self._threads = loss, training, fused, threads
        self._engine = engines.by_name(engine) if isinstance(engine, str) else engine
        self._rows, self._layout = len(X), DataLayout(X.dtype.name, y.dtype.name, y.shape[1:], weights is not None)
        starts, penalties = self.network.penalty_table(l2, l1)
        self._l2, self._l1 = (np.repeat(column, np.diff(starts)) for column in penalties.T[:2])
        size, dtype = self.network.size, self.network.dtype
        data = {"x": X, "t": y, "statistics": statistics, "step": np.array(0), **({} if weights is None else {"w": weights})}
        self._bound: dict[str, Any] = {name: self._engine.to_device(array) for name, array in data.items()}
        self._bound |= {name: self._engine.zeros((size,), dtype) for name in ("parameters", "gradient")}

    @cached_property
    def _value(self) -> engines.Instance:
        return self._instance(False)

    @cached_property
    def _slopes(self) -> engines.Instance:
        return self._instance(True)

    def _instance(self, gradient: bool) -> engines.Instance:
        program = Cost(self._loss, self._layout, self._training, gradient, self._fused).build(self.network)
        instance = self._engine.instantiate(program, self._rows, self._threads)
        instance.bind(**{name: self._bound[name] for name in program.inputs})
        return instance

    def value(self, parameters: np.ndarray) -> float:
        """C(p)."""
        return self._play(self._value, parameters)

    def value_and_gradient(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """C(p) and dC/dp (P,); 0 for frozen parameters."""
        value = self._play(self._slopes, parameters)
        gradient = self._engine.read(self._bound["gradient"])[0]
        slopes: np.ndarray = gradient + self._l2 * parameters + self._l1 * np.sign(parameters)
        return value, slopes

    def _play(self, instance: engines.Instance, parameters: np.ndarray) -> float:
        self._engine.write(self._bound["parameters"], parameters)
        instance.play()
        penalty = 0.5 * self._l2 * parameters**2 + self._l1 * np.abs(parameters)
        return float(self._engine.read(instance.output("cost"))[0]) + float(penalty.sum())
