"""Optimizers: their numbers, their kernels' names and attributes, and ten steps against PyTorch's."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from trajectories import torch_nadam

import fastnn
import fastnn_kernels.numpy as numpy_set
from fastnn.errors import InputError
from fastnn.optimizers import NAMES, SGD, Adagrad, Adam, AdamW, Lion, Momentum, NAdam, Optimizer, RMSprop, by_name
from fastnn.schedules import Constant, Cosine, as_schedule
from fastnn_kernels.contract import KERNELS, SCALARS, UPDATES, with_average

EACH = [
    SGD(),
    SGD(0.1, 0.9),
    SGD(0.1, 0.9, True),
    Momentum(0.1),
    RMSprop(),
    RMSprop(0.01, 0.99, 1e-6, True),
    Adam(),
    AdamW(Cosine(0.1, per="step"), weight_decay=0.1, clip_norm=1.0, clip_value=0.5),
    Lion(weight_decay=0.2),
    Adagrad(),
    NAdam(0.01, 0.8, momentum_decay=0.1),
]
"""Without an average."""
KERNEL_NAMES = [
    "sgd", "momentum", "nesterov", "averaged_momentum", "rmsprop", "rmsprop", "adam", "adam", "lion", "adagrad", "nadam",
]  # fmt: skip


@pytest.mark.parametrize(("optimizer", "kernel"), list(zip(EACH, KERNEL_NAMES, strict=True)), ids=repr)
def test_kernels_slots_and_attributes_are_the_contracts(optimizer: Optimizer, kernel: str) -> None:
    assert optimizer.kernel == kernel
    assert optimizer.slots == UPDATES[kernel].slots
    assert set(optimizer.attributes()) == set(KERNELS[kernel].attributes)


@pytest.mark.parametrize("optimizer", EACH, ids=repr)
def test_an_average_is_one_more_slot_and_one_more_attribute(optimizer: Optimizer) -> None:
    averaging = replace(optimizer, ema=0.75)
    assert (averaging.kernel, averaging.update_kernel) == (optimizer.kernel, with_average(optimizer.update_kernel))
    assert averaging.slots == UPDATES[averaging.update_kernel].slots == (*optimizer.slots, "average")
    assert averaging.attributes() == {**optimizer.attributes(), "ema": 0.75}
    assert set(averaging.attributes()) == set(KERNELS[averaging.update_kernel].attributes)


@pytest.mark.parametrize("optimizer", EACH, ids=repr)
@pytest.mark.parametrize("off", [None, 0, 0.0, False])
def test_no_average_is_the_optimizer_as_it_was(optimizer: Optimizer, off: Any) -> None:
    if off is False:
        with pytest.raises(InputError, match="ema: expected a finite number >= 0 and < 1, got False"):
            replace(optimizer, ema=off)
        return
    assert replace(optimizer, ema=off) == optimizer
    assert replace(optimizer, ema=off).ema is None


def test_every_update_kernel_has_an_optimizer() -> None:
    assert {*KERNEL_NAMES, *map(with_average, KERNEL_NAMES)} == set(UPDATES)


def test_attributes() -> None:
    off = {"clip_value": 0.0, "clip_norm": 0.0}
    assert SGD().attributes() == off
    assert SGD(momentum=0.8).attributes() == {**off, "beta": 0.8}
    assert Momentum(beta=0).attributes() == {**off, "beta": 0.0}
    assert RMSprop(epsilon_inside=True).attributes() == {**off, "beta": 0.9, "epsilon": 1e-8, "epsilon_inside": True}
    assert Adam(clip_norm=2, clip_value=3).attributes() == {
        "clip_value": 3.0, "clip_norm": 2.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "epsilon_inside": False,
    }  # fmt: skip
    assert [optimizer.weight_decay for optimizer in EACH] == [0, 0, 0, 0, 0, 0, 0, 0.1, 0.2, 0, 0]


@pytest.mark.parametrize("optimizer", EACH[:6], ids=repr)
def test_scalars_without_corrections(optimizer: Optimizer) -> None:
    rates = np.array([0.1, 0.2, 0.3])
    table = optimizer.scalars(np.arange(1, 4), rates)
    assert table.dtype == np.float64
    assert SCALARS[0] == "rate"
    np.testing.assert_array_equal(table, np.stack([rates, *np.ones((len(SCALARS) - 1, 3))], axis=1))


@pytest.mark.parametrize("beta1", [0.0, 1e-300, 0.5, 0.9, 1 - 2.0**-40])
@pytest.mark.parametrize("beta2", [0.0, 0.999, 1 - 2.0**-53])
def test_bias_corrections_are_right_to_the_last_digits(beta1: float, beta2: float) -> None:
    steps = np.array([1, 2, 3, 10, 99, 400])
    table = Adam(beta1=beta1, beta2=beta2).scalars(steps, np.full(6, 0.25))
    for row, t in zip(table, steps, strict=True):
        exact = [0.25, *(float(1 / (1 - Fraction(beta) ** int(t))) for beta in (beta1, beta2)), 1.0]
        # t * log(beta) is rounded, which costs up to t * |log(beta)| units where that is about 1.
        np.testing.assert_allclose(row, exact, rtol=4 * 2.0**-52, atol=0)


def test_bias_corrections_become_one() -> None:
    table = AdamW().scalars(np.array([10**6, 10**12, 2**62]), np.ones(3))
    np.testing.assert_array_equal(table, np.ones((3, len(SCALARS))))


@pytest.mark.parametrize("beta1", [0.0, 1e-300, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("momentum_decay", [0.0, 1e-320, 1e-9, 4e-3, 1.0, 1e308])
def test_scalars_of_nadam_are_those_of_the_running_product(beta1: float, momentum_decay: float) -> None:
    """To the last digits, over the steps in which the product is felt and beyond."""
    steps = np.arange(1, 1001)
    table = NAdam(beta1=beta1, momentum_decay=momentum_decay).scalars(steps, np.full(1000, 0.25))
    momenta = [Fraction(beta1) * (1 - Fraction(0.96 ** (t * momentum_decay)) / 2) for t in range(1, 1002)]
    product, bits = Fraction(1), 2**400
    for row, momentum, following in zip(table, momenta, momenta[1:], strict=False):
        product = Fraction(round(product * momentum * bits), bits)
        assert row[0] == 0.25
        exact = [following / (1 - product * following), (1 - momentum) / (1 - product)]
        np.testing.assert_allclose(row[[1, 3]], [float(value) for value in exact], rtol=4 * 2.0**-52, atol=0)
    np.testing.assert_array_equal(table[:, 2], Adam().scalars(steps, np.ones(1000))[:, 2])


def test_scalars_of_nadam_after_any_number_of_steps() -> None:
    table = NAdam(beta1=0.75).scalars(np.array([10**6, 10**12, 2**62]), np.ones(3))
    np.testing.assert_array_equal(table, [[1.0, 0.75, 1.0, 0.25]] * 3)


@pytest.mark.parametrize("optimizer", EACH, ids=repr)
def test_scalars_do_not_depend_on_the_chunk(optimizer: Optimizer) -> None:
    steps = np.arange(1, 500)
    whole = optimizer.scalars(steps, np.ones(499))
    for start in (0, 1, 7, 100, 350, 390):
        for length in (0, 1, 3, 8, 31, 33):
            part = optimizer.scalars(steps[start : start + length], np.ones(length))
            np.testing.assert_array_equal(part, whole[start : start + length])


def test_scalars_count_from_one() -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        Adam().scalars(np.arange(3), np.ones(3))


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=False)


STEPS = 10
SIZES = (33, 7)


def penalties_of(optimizer: Optimizer, l2: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two segments, weights and biases: only weights are decayed and penalized."""
    starts = np.array([0, SIZES[0], sum(SIZES)], np.int64)
    return starts, np.array([[l2, 0.0, optimizer.weight_decay, 1.0], [0.0, 0.0, 0.0, 1.0]])


def train(optimizer: Optimizer, start: np.ndarray, target: np.ndarray, l2: float = 0.0) -> np.ndarray:
    """The parameters after each of ten steps down sum((w - target)^4), by the definition of the kernels."""
    numbers = np.arange(STEPS)
    rates = as_schedule(optimizer.learning_rate).rates(numbers, 1, STEPS)
    scalars = optimizer.scalars(numbers + 1, rates)
    starts, penalties = penalties_of(optimizer, l2)
    attributes = optimizer.attributes()
    w = start.copy()
    slots = [np.zeros_like(w) for _ in optimizer.slots]
    path = []
    for step in range(STEPS):
        gradient = 4 * (w - target) ** 3
        bound = attributes["clip_value"] or math.inf
        norm = np.array(np.linalg.norm(np.clip(gradient, -bound, bound)))
        index = np.array(step, np.int64)
        kernel = getattr(numpy_set, optimizer.kernel)
        kernel(gradient, norm, scalars, index, starts, penalties, w, *slots, **attributes)
        path.append(w.copy())
    return np.stack(path)


def torch_train(make: Any, start: np.ndarray, target: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    w = [torch.tensor(part, requires_grad=True) for part in np.split(start, [SIZES[0]])]
    aim = [torch.tensor(part) for part in np.split(target, [SIZES[0]])]
    decayed = {name: options.pop(name) for name in ("weight_decay",) if name in options}
    undecayed = dict.fromkeys(decayed, 0.0)
    optimizer = make(torch)([{"params": w[:1], **decayed}, {"params": w[1:], **undecayed}], **options)
    path = []
    for _ in range(STEPS):
        for part, goal in zip(w, aim, strict=True):
            part.grad = 4 * (part.detach() - goal) ** 3
        optimizer.step()
        path.append(np.concatenate([part.detach().numpy().copy() for part in w]))
    return np.stack(path)


@pytest.mark.parametrize(
    ("ours", "l2", "theirs", "options"),
    [
        (SGD(0.01), 0.0, lambda torch: torch.optim.SGD, {"lr": 0.01}),
        (SGD(0.01), 0.1, lambda torch: torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.1}),
        (SGD(0.01, 0.9), 0.0, lambda torch: torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        (SGD(0.01, 0.9, True), 0.0, lambda torch: torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
        (Momentum(0.1, 0.9), 0.0, lambda torch: torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        (RMSprop(0.05), 0.0, lambda torch: torch.optim.RMSprop, {"lr": 0.05, "alpha": 0.9}),
        (Adam(0.05), 0.0, lambda torch: torch.optim.Adam, {"lr": 0.05}),
        (Adam(0.05, 0.0, 0.5, 0.1), 0.0, lambda torch: torch.optim.Adam, {"lr": 0.05, "betas": (0.0, 0.5), "eps": 0.1}),
        (AdamW(0.05), 0.0, lambda torch: torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.01}),
        (NAdam(), 0.0, lambda torch: torch_nadam, {}),
        (NAdam(0.05), 0.1, lambda torch: torch_nadam, {"lr": 0.05, "weight_decay": 0.1}),
        (NAdam(beta1=0.7, momentum_decay=0.3), 0.0, lambda torch: torch_nadam, {"betas": (0.7, 0.999), "momentum_decay": 0.3}),
        (NAdam(0.05, 0.0, 0.5, 0.1, 0), 0.0, lambda torch: torch_nadam, {"lr": 0.05, "betas": (0.0, 0.5), "eps": 0.1}),
    ],
    ids=lambda value: repr(value) if isinstance(value, Optimizer) else "",
)
def test_ten_steps_are_pytorchs(ours: Optimizer, l2: float, theirs: Any, options: dict[str, Any]) -> None:
    generator = np.random.default_rng(5)
    start, target = generator.normal(size=(2, sum(SIZES)))
    assert_close(train(ours, start, target, l2), torch_train(theirs, start, target, dict(options)), 1e-12)


def test_epsilon_inside_the_root_and_a_schedule() -> None:
    generator = np.random.default_rng(6)
    start, target = generator.normal(size=(2, sum(SIZES)))
    optimizer = RMSprop(Cosine(0.1, 0.01), 0.8, 0.01, epsilon_inside=True)
    w, s, path = start.copy(), np.zeros_like(start), []
    for t in range(STEPS):
        g = 4 * (w - target) ** 3
        s = 0.8 * s + 0.2 * g * g
        w = w - (0.01 + 0.09 * (1 + math.cos(math.pi * t / STEPS)) / 2) * g / np.sqrt(s + 0.01)
        path.append(w)
    assert_close(train(optimizer, start, target), np.stack(path), 1e-13)


@pytest.mark.parametrize("optimizer", [Adam, functools.partial(AdamW, weight_decay=0.0)], ids=["Adam", "AdamW"])
def test_adam_with_epsilon_inside_the_root_is_as_written_out_and_as_in_optax(optimizer: Any) -> None:
    generator = np.random.default_rng(8)
    start, target = generator.normal(size=(2, sum(SIZES)))
    ours = optimizer(0.05, 0.8, 0.9, 0.01, epsilon_inside=True)
    w, m, s, path = start.copy(), np.zeros_like(start), np.zeros_like(start), []
    for t in range(1, STEPS + 1):
        g = 4 * (w - target) ** 3
        m, s = 0.8 * m + 0.2 * g, 0.9 * s + 0.1 * g * g
        w = w - 0.05 * m / (1 - 0.8**t) / np.sqrt(s / (1 - 0.9**t) + 0.01)
        path.append(w)
    assert_close(train(ours, start, target), np.stack(path), 1e-12)
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    with jax.enable_x64(True):
        theirs = optax.adam(0.05, b1=0.8, b2=0.9, eps=0.0, eps_root=0.01)
        weights, path = jax.numpy.asarray(start), []
        state = theirs.init(weights)
        for _ in range(STEPS):
            updates, state = theirs.update(4 * (weights - target) ** 3, state, weights)
            weights = weights + updates
            path.append(np.asarray(weights))
    assert_close(train(ours, start, target), np.stack(path), 1e-12)


@pytest.mark.parametrize("inside", [False, True])
def test_adam_with_epsilon_hat_is_as_written_out(inside: bool) -> None:
    """The last formula of section 2 of Kingma & Ba: epsilon is added before the correction."""
    generator = np.random.default_rng(8)
    start, target = generator.normal(size=(2, sum(SIZES)))
    w, m, s, path = start.copy(), np.zeros_like(start), np.zeros_like(start), []
    for t in range(1, STEPS + 1):
        g = 4 * (w - target) ** 3
        m, s = 0.8 * m + 0.2 * g, 0.9 * s + 0.1 * g * g
        below = np.sqrt(s + 0.1) if inside else np.sqrt(s) + 0.1
        w = w - 0.05 * math.sqrt(1 - 0.9**t) / (1 - 0.8**t) * m / below
        path.append(w)
    ours = Adam(0.05, 0.8, 0.9, 0.1, epsilon_hat=True, epsilon_inside=inside)
    assert_close(train(ours, start, target), np.stack(path), 1e-12)
    assert AdamW(weight_decay=0.0, epsilon_hat=True).epsilon_hat


def test_nadam_with_epsilon_inside_the_root_is_as_written_out() -> None:
    generator = np.random.default_rng(9)
    start, target = generator.normal(size=(2, sum(SIZES)))
    mu = [0.8 * (1 - 0.96 ** (t * 0.1) / 2) for t in range(STEPS + 2)]
    w, m, s, path = start.copy(), np.zeros_like(start), np.zeros_like(start), []
    for t in range(1, STEPS + 1):
        g = 4 * (w - target) ** 3
        m, s = 0.8 * m + 0.2 * g, 0.9 * s + 0.1 * g * g
        now, following = math.prod(mu[1 : t + 1]), math.prod(mu[1 : t + 2])
        ahead = (1 - mu[t]) / (1 - now) * g + mu[t + 1] / (1 - following) * m
        w = w - 0.05 * ahead / np.sqrt(s / (1 - 0.9**t) + 0.01)
        path.append(w)
    ours = NAdam(0.05, 0.8, 0.9, 0.01, epsilon_inside=True, momentum_decay=0.1)
    assert_close(train(ours, start, target), np.stack(path), 1e-12)


def test_clipping_by_value_then_by_norm() -> None:
    generator = np.random.default_rng(7)
    start, target = 3 * generator.normal(size=(2, sum(SIZES)))
    w, path = start.copy(), []
    for _ in range(STEPS):
        g = np.clip(4 * (w - target) ** 3, -2.0, 2.0)
        norm = math.sqrt(float((g * g).sum()))
        w = w - 0.1 * g * min(1.0, 5.0 / norm)
        path.append(w)
    assert norm > 5.0
    assert_close(train(SGD(0.1, clip_norm=5.0, clip_value=2.0), start, target), np.stack(path), 1e-13)


@pytest.mark.parametrize("optimizer", [*EACH, AdamW(ema=0.999)], ids=repr)
def test_configurations_survive_json(optimizer: Optimizer) -> None:
    back = Optimizer.from_config(json.loads(json.dumps(optimizer.to_config())))
    assert back == optimizer
    assert type(back) is type(optimizer)
    assert hash(back) == hash(optimizer)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "Adan"}, "unknown Optimizer 'Adan'; did you mean 'Adam'"),
        ({"type": "Adam", "beta_1": 0.9}, "Adam has no 'beta_1'; did you mean 'beta1'"),
        ({"type": "Adam", "learning_rate": {"type": "Cosine", "initial": -1.0}}, "Cosine: initial"),
        ({"type": "Cosine", "initial": 0.1}, "unknown Optimizer 'Cosine'"),
    ],
)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Optimizer.from_config(config)


def test_a_subclass_reads_its_own() -> None:
    assert Adam.from_config(AdamW().to_config()) == AdamW()
    with pytest.raises(InputError, match="unknown AdamW 'Adam'"):
        AdamW.from_config(Adam().to_config())


def test_learning_rates_stay_what_they_are() -> None:
    assert SGD(1).learning_rate == 1.0
    assert isinstance(SGD(np.float32(0.5)).learning_rate, float)
    cosine = Cosine(0.1)
    assert Adam(cosine).learning_rate is cosine
    assert Adam(Constant(0.1)) != Adam(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "learning rate: expected a finite number >= 0 or a schedule, got -0.1"),
        (lambda: SGD("fast"), "got 'fast'"),  # type: ignore[arg-type]
        (lambda: Adam(math.nan), "got nan"),
        (lambda: SGD(momentum=1.0), "SGD: momentum: expected a finite number >= 0 and < 1, got 1.0"),
        (lambda: SGD(nesterov=True), "momentum above 0"),
        (lambda: SGD(momentum=0.9, nesterov=1), "nesterov: expected True or False, got 1"),  # type: ignore[arg-type]
        (lambda: SGD(clip_norm=0.0), "clip_norm: expected a finite number > 0, got 0.0"),
        (lambda: Adam(clip_value=-1.0), "clip_value"),
        (lambda: Adam(ema=1.0), "Adam: ema: expected a finite number >= 0 and < 1, got 1.0"),
        (lambda: SGD(ema=-0.1), "SGD: ema: expected a finite number >= 0 and < 1, got -0.1"),
        (lambda: Lion(ema="0.9"), "ema"),  # type: ignore[arg-type]
        (lambda: NAdam(ema=math.nan), "ema"),
        (lambda: Momentum(beta=-0.1), "beta"),
        (lambda: RMSprop(beta=1.0), "beta"),
        (lambda: RMSprop(epsilon=0.0), "epsilon: expected a finite number > 0, got 0.0"),
        (lambda: RMSprop(epsilon_inside=None), "epsilon_inside"),  # type: ignore[arg-type]
        (lambda: AdamW(epsilon_hat=True), "weight_decay"),
        (lambda: Adam(epsilon_hat=1), "Adam: epsilon_hat: expected True or False, got 1"),  # type: ignore[arg-type]
        (lambda: Adam(epsilon_inside=1), "Adam: epsilon_inside: expected True or False, got 1"),  # type: ignore[arg-type]
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=math.inf), "beta2"),
        (lambda: Adam(epsilon=-1e-8), "epsilon"),
        (lambda: AdamW(weight_decay=-0.01), "weight_decay"),
        (lambda: NAdam(momentum_decay=-0.01), "NAdam: momentum_decay: expected a finite number >= 0, got -0.01"),
        (lambda: NAdam(momentum_decay=math.inf), "momentum_decay"),
        (lambda: NAdam(beta1=1.0), "beta1"),
        (lambda: NAdam(epsilon=0), "epsilon"),
        (lambda: Lion(beta2=1), "beta2"),
        (lambda: Adagrad(epsilon="1"), "epsilon"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_by_name() -> None:
    assert set(NAMES) == {"sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "nadam", "lion"}
    assert by_name("sgd") == SGD()
    assert by_name("momentum", learning_rate=0.2) == Momentum(0.2)
    assert by_name("nesterov") == SGD(momentum=0.9, nesterov=True)
    assert by_name("nesterov", momentum=0.5, clip_norm=1.0) == SGD(momentum=0.5, nesterov=True, clip_norm=1.0)
    assert by_name("rmsprop") == RMSprop()
    assert by_name("adagrad", epsilon=1e-7) == Adagrad(epsilon=1e-7)
    assert by_name("adam") == Adam()
    assert by_name("adamw") == AdamW()
    assert by_name("nadam", momentum_decay=0) == NAdam(momentum_decay=0.0)
    assert by_name("lion", beta2=0.98) == Lion(beta2=0.98)
    with pytest.raises(InputError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        by_name("adm")
    with pytest.raises(InputError, match="Adam has no 'momentum'"):
        by_name("adam", momentum=0.9)
    with pytest.raises(InputError, match="unknown optimizer None"):
        by_name(None)  # type: ignore[arg-type]


def test_importing_compiles_nothing() -> None:
    code = "import sys, fastnn.optimizers, fastnn.initializers; assert not {'numba', 'torch', 'cupy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_immutable() -> None:
    for optimizer in EACH:
        with pytest.raises(FrozenInstanceError):
            optimizer.learning_rate = 1.0  # type: ignore[misc]


def test_an_optimizer_of_ones_own_needs_an_update_kernel() -> None:
    class Mine(Optimizer):
        pass

    class Odd(Optimizer):
        @property
        def kernel(self) -> str:
            return "odd"

    class Averaged(Optimizer):
        @property
        def kernel(self) -> str:
            return "sgd_with_average"

    class Slow(SGD):
        @property
        def kernel(self) -> str:
            return "sgd"

    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    X, t = np.ones((4, 1)), np.ones((4, 1))
    for made in (Mine(), Odd(), Averaged()):
        with pytest.raises(InputError, match=f"{type(made).__name__} names no update kernel: derive it from a class such as"):
            model.fit(X, t, loss="quadratic", optimizer=made, batch_size="all", epochs=1, verbose=0)
        assert not model.built
    model.fit(X, t, loss="quadratic", optimizer=Slow(0.1), batch_size="all", epochs=1, verbose=0)
    assert model.counters.step == 1
    model.fit(X, t, loss="quadratic", optimizer=Slow(0.1, ema=0.5), batch_size="all", epochs=1, verbose=0)
    assert set(model.optimizer_state or ()) == {"average"}
