"""Small trainings with every optimizer, on any device, in an order of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastnn

OPTIMIZERS: dict[str, Any] = {
    "sgd": fastnn.SGD(0.1),
    "momentum": fastnn.SGD(0.05, momentum=0.9),
    "nesterov": fastnn.SGD(0.05, momentum=0.9, nesterov=True),
    "averaged momentum": fastnn.Momentum(0.3),
    "rmsprop": fastnn.RMSprop(0.001),
    "rmsprop, epsilon inside": fastnn.RMSprop(0.001, epsilon=1e-6, epsilon_inside=True),
    "adagrad": fastnn.Adagrad(0.05),
    "adam": fastnn.Adam(0.002),
    "adam, epsilon inside": fastnn.Adam(0.002, epsilon=1e-6, epsilon_inside=True),
    "adamw": fastnn.AdamW(0.002, weight_decay=0.05),
    "nadam": fastnn.NAdam(0.002),
    "adam, clipped by norm": fastnn.Adam(0.002, clip_norm=0.5),
    "sgd, clipped by value": fastnn.SGD(0.1, clip_value=0.01),
}


N, FEATURES, CLASSES, BATCH = 203, 13, 5, 31


def examples(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    centers = rng.standard_normal((CLASSES, FEATURES))
    y = rng.integers(0, CLASSES, N)
    return (centers[y] + rng.standard_normal((N, FEATURES))).astype(dtype), y


def order(epoch: int) -> np.ndarray:
    return np.random.default_rng(100 + epoch).permutation(N)


NORMS: dict[str, Any] = {"batch norm": fastnn.BatchNorm, "layer norm": fastnn.LayerNorm}


def network(dtype: str, norm: str = "") -> fastnn.Sequential:
    """One hidden layer: with a norm of NORMS and ReLU, else with tanh."""
    hidden = [fastnn.Dense(17), NORMS[norm](), fastnn.Activation("relu")] if norm else [fastnn.Dense(17, activation="tanh")]
    return fastnn.Sequential([*hidden, fastnn.Dense(CLASSES)], seed=3, dtype=dtype)


def trained(dtype: str, optimizer: Any, device: str, steps: int, norm: str = "", **options: Any) -> fastnn.Sequential:
    """A model after at least `steps` steps."""
    X, y = examples(dtype)
    model = network(dtype, norm)
    per_epoch = -(-N // BATCH)
    model.fit(
        X, y, optimizer=optimizer, batch_size=BATCH, epochs=-(-steps // per_epoch), order=order, device=device, verbose=0,
        **options,
    )  # fmt: skip
    return model


def torch_nadam(parameters: Any, **options: Any) -> Any:
    """`torch.optim.NAdam` with its product of momenta in float64; it would begin it in PyTorch's default dtype, float32."""
    import torch

    optimizer = torch.optim.NAdam(parameters, **options)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros(()), "mu_product": torch.ones((), dtype=torch.float64),
                "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
            }  # fmt: skip
    return optimizer


def difference(a: fastnn.Sequential, b: dict[str, np.ndarray]) -> float:
    """The worst relative Frobenius difference over tensors."""
    return max(float(np.linalg.norm(v - b[k]) / max(np.linalg.norm(b[k]), 1e-30)) for k, v in a.weights.items())
