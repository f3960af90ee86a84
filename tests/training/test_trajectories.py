"""Whole training runs against the NumPy definition and PyTorch: same weights, same order, every optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import by_turns
from trajectories import (
    BATCH,
    CLASSES,
    FEATURES,
    NORMS,
    OPTIMIZERS,
    N,
    difference,
    examples,
    network,
    order,
    torch_nadam,
    trained,
)  # fmt: skip

import fastnn


def clip_by_norm(torch: Any, pairs: dict[str, Any], largest: float) -> None:
    """g * min(1, largest / norm); PyTorch's own adds 1e-6 to the norm."""
    norm = torch.sqrt(sum((p.grad**2).sum() for p in pairs.values()))
    for parameter in pairs.values():
        parameter.grad.mul_(torch.clamp(largest / norm, max=1.0))


def torch_parameters(twin: Any, norm: str) -> dict[str, Any]:
    if norm:
        return {
            "0.weight": twin[0].weight, **({"0.bias": twin[0].bias} if norm == "layer norm" else {}),
            "1.gamma": twin[1].weight, "1.beta": twin[1].bias, "3.weight": twin[3].weight, "3.bias": twin[3].bias,
        }  # fmt: skip
    return {"0.weight": twin[0].weight, "0.bias": twin[0].bias, "1.weight": twin[2].weight, "1.bias": twin[2].bias}


def torch_optimizer(torch: Any, name: str, pairs: dict[str, Any]) -> Any:
    weights = [p for k, p in pairs.items() if k.endswith("weight")]
    others = [p for k, p in pairs.items() if not k.endswith("weight")]
    both = [*weights, *others]
    make: dict[str, Callable[[], Any]] = {
        "sgd": lambda: torch.optim.SGD(both, lr=0.1),
        "momentum": lambda: torch.optim.SGD(both, lr=0.05, momentum=0.9),
        "nesterov": lambda: torch.optim.SGD(both, lr=0.05, momentum=0.9, nesterov=True),
        # v = beta v + (1 - beta) g with rate 0.3 is the classical form with rate 0.03
        "averaged momentum": lambda: torch.optim.SGD(both, lr=0.3 * (1 - 0.9), momentum=0.9),
        "rmsprop": lambda: torch.optim.RMSprop(both, lr=0.001, alpha=0.9, eps=1e-8),
        "adagrad": lambda: torch.optim.Adagrad(both, lr=0.05, eps=1e-10),
        "adam": lambda: torch.optim.Adam(both, lr=0.002),
        "adamw": lambda: torch.optim.AdamW(
            [{"params": weights, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=0.002
        ),
        "nadam": lambda: torch_nadam(both, lr=0.002),
        "adam, clipped by norm": lambda: torch.optim.Adam(both, lr=0.002),
        "sgd, clipped by value": lambda: torch.optim.SGD(both, lr=0.1),
    }
    return make[name]()


@pytest.mark.parametrize(("name", "norm"), by_turns(OPTIMIZERS, ["", *NORMS]))
def test_100_steps_in_float32_follow_the_definition(name: str, norm: str) -> None:
    options = {"l2": 1e-3, "l1": 1e-4}
    ours = trained("float32", OPTIMIZERS[name], "cpu", 100, norm, **options)
    theirs = trained("float32", OPTIMIZERS[name], "numpy", 100, norm, **options)
    assert difference(ours, theirs.weights) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_3000_steps_in_float64_follow_the_definition(name: str) -> None:
    ours = trained("float64", OPTIMIZERS[name], "cpu", 3000)
    theirs = trained("float64", OPTIMIZERS[name], "numpy", 3000)
    assert difference(ours, theirs.weights) < 1e-12


@pytest.mark.parametrize("steps", [100, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "norm"), by_turns([n for n in OPTIMIZERS if not n.endswith("epsilon inside")], [*NORMS, ""]))
def test_steps_follow_pytorch(name: str, norm: str, steps: int) -> None:
    """float32 over 100 steps, float64 over 300, and over 3,000 with each optimizer once and the networks by turns. PyTorch has
    no epsilon inside the root.

    With layer norm over 1,000: by step 3,000 the rates for momentum are too high for it. The loss then jumps from 0.002 to 0.1,
    and the definition itself ends 1e-13 away where its initial weights differ in the last bit.
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # waiting for one another costs its threads more than products of this size
    dtype = "float32" if steps == 100 else "float64"
    if steps == 3000:
        turn = (*NORMS, "")[list(OPTIMIZERS).index(name) % 3]
        steps = 300 if norm != turn else 1000 if norm == "layer norm" else 3000
    model = network(dtype, norm).build(FEATURES)
    start = model.weights
    layers: list[Any] = [torch.nn.Linear(FEATURES, 17, bias=norm != "batch norm")]
    theirs = {"batch norm": torch.nn.BatchNorm1d, "layer norm": torch.nn.LayerNorm}
    layers += [theirs[norm](17), torch.nn.ReLU()] if norm else [torch.nn.Tanh()]
    layers += [torch.nn.Linear(17, CLASSES)]
    twin = torch.nn.Sequential(*layers).to(getattr(torch, dtype))
    pairs = torch_parameters(twin, norm)
    with torch.no_grad():
        for key, parameter in pairs.items():
            parameter.copy_(torch.from_numpy(start[key].T.copy() if key.endswith("weight") else start[key]))
    optimizer = torch_optimizer(torch, name, pairs)
    X, y = examples(dtype)
    Xt, yt = torch.from_numpy(X), torch.from_numpy(y)
    per_epoch = -(-N // BATCH)
    l2 = 0.0 if "adamw" in name else 1e-3
    for epoch in range(-(-steps // per_epoch)):
        visit = order(epoch)
        for first in range(0, N, BATCH):
            index = torch.from_numpy(visit[first : first + BATCH].copy())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(twin(Xt[index]), yt[index]).backward()
            if name.endswith("by norm"):
                clip_by_norm(torch, pairs, 0.5)
            if name.endswith("by value"):
                torch.nn.utils.clip_grad_value_(twin.parameters(), 0.01)
            for key, parameter in pairs.items():
                if key.endswith("weight"):
                    parameter.grad.add_(parameter.detach(), alpha=l2)
            optimizer.step()
    model.fit(
        X, y, optimizer=OPTIMIZERS[name], batch_size=BATCH, epochs=-(-steps // per_epoch), order=order, verbose=0, l2=l2
    )  # fmt: skip
    expected = {k: (p.detach().numpy().T if k.endswith("weight") else p.detach().numpy()) for k, p in pairs.items()}
    if norm == "batch norm":
        expected |= {"1.running_mean": twin[1].running_mean.numpy(), "1.running_variance": twin[1].running_var.numpy()}
    assert set(expected) == set(model.weights)
    assert difference(model, expected) < (5e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_100_steps_of_a_convolutional_network_follow_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    rng = np.random.default_rng(6)
    X, y = rng.standard_normal((N, 14, 12, 2)), rng.integers(0, CLASSES, N)
    model = fastnn.Sequential(
        [
            fastnn.Conv2D(6, 3, activation="relu"), fastnn.MaxPool2D(2), fastnn.Conv2D(7, (3, 2), padding=1, activation="tanh"),
            fastnn.L2Pool2D(2), fastnn.Flatten(), fastnn.Dense(CLASSES),
        ], seed=3, dtype="float64",
    ).build(X.shape[1:])  # fmt: skip

    class Last(torch.nn.Linear):  # type: ignore[misc]
        """Flattens (B, C, H, W) in the order (H, W, C)."""

        def forward(self, images: Any) -> Any:
            return super().forward(images.permute(0, 2, 3, 1).flatten(1))

    twin = torch.nn.Sequential(
        torch.nn.Conv2d(2, 6, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(6, 7, (3, 2), padding=1),
        torch.nn.Tanh(), torch.nn.LPPool2d(2, 2), Last(model.weights["5.weight"].shape[0], CLASSES),
    ).to(torch.float64)  # fmt: skip
    pairs = {
        f"{ours}.{kind}": getattr(twin[theirs], theirs_kind)
        for ours, theirs in ((0, 0), (2, 3), (5, 6))
        for kind, theirs_kind in (("weight", "weight"), ("bias", "bias"))
    }
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    with torch.no_grad():
        for key, parameter in pairs.items():
            value = model.weights[key]
            parameter.copy_(torch.from_numpy(value.transpose(axes[value.ndim]).copy()))
    optimizer = torch_optimizer(torch, name, pairs)
    images, labels = torch.from_numpy(X.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y)
    epochs = -(-100 // -(-N // BATCH))
    for epoch in range(epochs):
        visit = order(epoch)
        for first in range(0, N, BATCH):
            index = torch.from_numpy(visit[first : first + BATCH].copy())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(twin(images[index]), labels[index]).backward()
            optimizer.step()
    model.fit(X, y, optimizer=OPTIMIZERS[name], batch_size=BATCH, epochs=epochs, order=order, verbose=0)
    back = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    expected = {key: p.detach().numpy().transpose(back[p.ndim]) for key, p in pairs.items()}
    assert set(expected) == set(model.weights)
    assert difference(model, expected) < 1e-9


def test_the_first_loss_and_gradient_are_those_of_jax() -> None:
    jax = pytest.importorskip("jax")
    X, y = examples("float32")
    model = network("float32").build(FEATURES)
    w = model.weights

    def cost(p: dict[str, Any]) -> Any:
        hidden = jax.numpy.tanh(X @ p["0.weight"] + p["0.bias"])
        logits = jax.nn.log_softmax(hidden @ p["1.weight"] + p["1.bias"])
        return -jax.numpy.take_along_axis(logits, y[:, None], 1).mean()

    expected, gradient = jax.value_and_grad(cost)({k: jax.numpy.asarray(v) for k, v in w.items()})
    history = model.fit(X, y, optimizer=fastnn.SGD(1.0), batch_size=N, epochs=1, verbose=0)
    assert abs(history["loss"][0] - float(expected)) < 1e-6
    for name, value in model.weights.items():
        np.testing.assert_allclose(w[name] - value, np.asarray(gradient[name]), atol=2e-6)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_a_smaller_last_mini_batch_and_a_table_of_rates(device: str) -> None:
    """Plain gradient descent by hand, in float64."""
    rng = np.random.default_rng(0)
    X, t = rng.standard_normal((7, 3)), rng.standard_normal((7, 2))
    model = fastnn.Sequential([fastnn.Dense(2, bias_init="normal")], seed=0, dtype="float64").build(3)
    w, b = model.weights["0.weight"], model.weights["0.bias"]
    rates = {0: 0.1, 2: 0.05}
    history = model.fit(
        X, t, loss="quadratic", optimizer=fastnn.SGD(fastnn.schedules.Table(rates)), batch_size=3, epochs=4,
        order=lambda epoch: np.arange(7), l2=0.01, device=device, verbose=0,
    )  # fmt: skip
    for epoch in range(4):
        rate = 0.1 if epoch < 2 else 0.05
        losses, penalties = [], []
        for first in (0, 3, 6):
            x, target = X[first : first + 3], t[first : first + 3]
            error = x @ w + b - target
            losses.append(0.5 * (error**2).sum())
            penalties.append(0.5 * 0.01 * (w**2).sum() * len(x))
            w, b = w - rate * (x.T @ error / len(x) + 0.01 * w), b - rate * error.mean(0)
        assert abs(history["loss"][epoch] - sum(losses) / 7) < 1e-14
        assert abs(history["penalty"][epoch] - sum(penalties) / 7) < 1e-14
    np.testing.assert_allclose(model.weights["0.weight"], w, atol=1e-14)
    np.testing.assert_allclose(model.weights["0.bias"], b, atol=1e-14)


def test_weights_of_examples(rng: np.random.Generator) -> None:
    """sum(w l) / sum(w): whole weights are repetitions, weight 0 is absence."""
    X, y = examples("float64")
    repeats = rng.integers(0, 4, N)
    repeated = np.repeat(np.arange(N), repeats)
    a, b = network("float64").build(FEATURES), network("float64").build(FEATURES)
    options: dict[str, Any] = {"optimizer": fastnn.SGD(0.5), "epochs": 3, "verbose": 0}
    one = a.fit(X, y, sample_weight=repeats, batch_size=N, **options)
    two = b.fit(X[repeated], y[repeated], batch_size=len(repeated), **options)
    assert difference(a, b.weights) < 1e-13
    assert np.allclose(one["loss"], two["loss"], rtol=1e-13)
    assert np.allclose(one["accuracy"], two["accuracy"], rtol=1e-13)
    c, d = network("float64").build(FEATURES), network("float64").build(FEATURES)
    c.fit(X, y, class_weight={0: 3.0, 2: 0.0}, batch_size=20, **options)
    table = np.array([3.0, 1.0, 0.0, 1.0, 1.0])
    d.fit(X, y, sample_weight=table[y], batch_size=20, **options)
    assert difference(c, d.weights) == 0.0
    assert a.evaluate(X, y, sample_weight=repeats)["accuracy"] == pytest.approx(
        b.evaluate(X[repeated], y[repeated])["accuracy"], rel=1e-12
    )
