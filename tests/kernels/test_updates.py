"""Update kernels: against the definition, bit for bit in the same dtype, and against torch.optim over ten steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from cuda_on_host.outcomes import bodies, outcomes, placed
from laws import FLOATS, check_definition, check_kernel
from trajectories import torch_nadam

import fastnn_kernels.cpu as cpu_set
import fastnn_kernels.numpy as numpy_set
from fastnn_kernels.contract import AVERAGE, KERNELS, SCALARS, SUM_BLOCK, UPDATES, with_average
from fastnn_kernels.cuda.kernels import kernel
from fastnn_kernels.cuda.lowering import Ahead, Number, Pointer, Request

VALUES: dict[str, Any] = {"beta": 0.95, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-3, "epsilon_inside": False, "ema": 0.8}
"""Of attributes; epsilon is large enough to be seen in float32."""
ATTRIBUTES = {name: {attribute: VALUES[attribute] for attribute in row.attributes} for name, row in UPDATES.items()}
COLUMNS = len(SCALARS)
NO_CLIPPING = {"clip_value": 0.0, "clip_norm": 0.0}
SIZES = (0, 1, 7, 31, 33, 127, 1009)


def cut(size: int, segments: int) -> np.ndarray:
    """Starts of `segments` segments, some of them empty."""
    return np.sort(np.r_[0, np.arange(1, segments) * 37 % (size + 1), size]).astype(np.int64)


def operands(name: str, size: int, dtype: str, *, segments: int = 5, penalized: bool = True) -> list[np.ndarray]:
    random = np.random.default_rng(size)
    gradient = random.normal(size=size).astype(dtype)
    scalars = random.uniform(0.01, 1.5, (4, COLUMNS)).astype(dtype)
    penalties = np.tile(np.array([0, 0, 0, 1], dtype), (segments, 1))
    if penalized:
        penalties[1::2] = [[0.1 * (k + 1), 0.01, 0.2, (1.5, 0.6, 0.0)[k % 3]] for k in range(len(penalties[1::2]))]
        penalties[2:3] = [0.0, 0.0, 0.3, 0.7]
    parameters = random.normal(size=size).astype(dtype)
    parameters[::5] = 0  # where the sign is 0
    states = [random.uniform(0.1, 1, size).astype(dtype) for _ in UPDATES[name].slots]
    return [gradient, np.array(1.7, dtype), scalars, np.array(2), cut(size, segments), penalties, parameters, *states]


def run_all(name: str, arrays: list[np.ndarray], **attributes: Any) -> list[list[np.ndarray]]:
    """All operands after the definition, the CPU kernel and the CUDA bodies (without fused multiply-add) ran."""
    definition, ours = [a.copy() for a in arrays], [a.copy() for a in arrays]
    getattr(numpy_set, name)(*definition, **attributes)
    cpu_set.run(name, ours, attributes)
    return [definition, ours, *outcomes(name, arrays, attributes)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("size", SIZES)
def test_update(name: str, size: int, dtype: str) -> None:
    arrays = operands(name, size, dtype)
    check_kernel(name, arrays, [], tolerance=16, **NO_CLIPPING, **ATTRIBUTES[name])
    check_kernel(name, arrays, [], tolerance=16, clip_value=0.7, clip_norm=1.1, **ATTRIBUTES[name])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("clipping", [{}, {"clip_value": 0.7}, {"clip_norm": 1.1}, {"clip_norm": 2.0}])
def test_same_bits_as_the_definition(name: str, dtype: str, clipping: dict[str, float]) -> None:
    attributes = {**NO_CLIPPING, **clipping, **ATTRIBUTES[name]}
    definition, *ours = run_all(name, operands(name, 1009, dtype), **attributes)
    for outcome in ours:
        for operand, a, b in zip(KERNELS[name].operands, outcome, definition, strict=True):
            assert a.tobytes() == b.tobytes(), operand


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_are_rounded_once(dtype: str) -> None:
    """1 - beta2 in float32 arithmetic would be off by 5 units in the fourth digit."""
    arrays = operands("adam", 3, dtype, segments=1, penalized=False)
    arrays[0][:], arrays[8][:] = 1, 0
    attributes = {**NO_CLIPPING, "beta1": 0.9, "beta2": 0.9999, "epsilon": 1e-8, "epsilon_inside": False}
    for outcome in run_all("adam", arrays, **attributes):
        assert outcome[8].tolist() == [np.dtype(dtype).type(1 - 0.9999)] * 3


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["rmsprop", "adam", "nadam"])
def test_epsilon_inside_the_root_has_the_bits_of_the_definition(name: str, dtype: str) -> None:
    attributes = {**NO_CLIPPING, **ATTRIBUTES[name], "epsilon_inside": True}
    for size in SIZES:
        check_kernel(name, operands(name, size, dtype), [], tolerance=16, **attributes)
    definition, *ours = run_all(name, operands(name, 1009, dtype), **attributes)
    for outcome in ours:
        assert [a.tobytes() for a in outcome] == [a.tobytes() for a in definition]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "factor"), [("adam", 0.0), ("nadam", 0.25)])
def test_adam_and_nadam_with_epsilon_inside_and_outside_by_hand(name: str, factor: float, dtype: str) -> None:
    """m = (2 + 2) / 2 = 2, s = (2 + 4) / 2 = 3, corrected to 4 and 15; epsilon 1, rate 2, w 1."""
    one = np.ones(1, dtype)
    scalars = np.array([[2, 2, 5, factor]], dtype)
    arrays = [2 * one, np.array(0, dtype), scalars, np.array(0), np.array([0, 1]), np.array([[0, 0, 0, 1]], dtype)]
    ahead = 4 + 2 * factor
    for inside, expected in ((True, 1 - 2 * ahead / 4), (False, 1 - 2 * ahead / (math.sqrt(15) + 1))):
        attributes = {"beta1": 0.5, "beta2": 0.5, "epsilon": 1.0, "epsilon_inside": inside}
        for outcome in run_all(name, [*arrays, one, 2 * one, 2 * one], **NO_CLIPPING, **attributes):
            np.testing.assert_allclose(outcome[6], expected, rtol=1e-6)
            assert (outcome[7], outcome[8]) == (2, 3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rmsprop_epsilon_inside(dtype: str) -> None:
    # By hand: s = 0.5 * 2 + 0.5 * 4 = 3, epsilon 1; w = 1 - 2 * 2 / sqrt(4) = -1, and outside 1 - 4 / (sqrt(3) + 1).
    one = np.ones(1, dtype)
    rate, segment = np.full((1, COLUMNS), 2, dtype), [np.array([0, 1]), np.array([[0, 0, 0, 1]], dtype)]
    arrays = [2 * one, np.array(0, dtype), rate, np.array(0), *segment, one, 2 * one]
    for inside, expected in ((True, -1.0), (False, 1 - 4 / (math.sqrt(3) + 1))):
        attributes = {"beta": 0.5, "epsilon": 1.0, "epsilon_inside": inside}
        for outcome in run_all("rmsprop", arrays, **NO_CLIPPING, **attributes):
            np.testing.assert_allclose(outcome[6], expected, rtol=1e-6)
            assert outcome[7] == 3


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UPDATES)
def test_not_a_number_is_not_hidden(name: str, dtype: str) -> None:
    """Neither clipping nor penalties turn NaN into a number, and only its own element gets it."""
    for attributes in (NO_CLIPPING, {"clip_value": 0.5, "clip_norm": 0.0}):
        for penalized in (False, True):
            arrays = operands(name, 33, dtype, segments=2, penalized=penalized)
            arrays[0][[3, 30]] = np.nan
            for outcome in run_all(name, arrays, **attributes, **ATTRIBUTES[name]):
                assert np.flatnonzero(np.isnan(outcome[6])).tolist() == [3, 30]
    arrays = operands(name, 33, dtype)
    arrays[1][...] = np.nan
    for outcome in run_all(name, arrays, clip_value=0.0, clip_norm=1.0, **ATTRIBUTES[name]):
        assert np.isnan(outcome[6]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UPDATES)
def test_infinity_stays_where_there_are_no_penalties(name: str, dtype: str) -> None:
    """0 * infinity would be NaN."""
    arrays = operands(name, 33, dtype, penalized=False)
    arrays[6][[2, 31]] = np.inf, -np.inf
    for outcome in run_all(name, arrays, **NO_CLIPPING, **ATTRIBUTES[name]):
        assert outcome[6][[2, 31]].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UPDATES)
def test_gradient_of_norm_zero_with_clipping(name: str, dtype: str) -> None:
    arrays = operands(name, 33, dtype, penalized=False)
    arrays[0][:], arrays[1][...] = 0, 0
    for outcome in run_all(name, arrays, clip_value=0.0, clip_norm=1.0, **ATTRIBUTES[name]):
        assert np.isfinite(outcome[6]).all()


def test_a_real_arena_with_many_parts() -> None:
    """More parts than two cores, segments of all lengths, equal neighbors among them."""
    arrays = operands("adam", 20011, "float32", segments=40)
    arrays[5][10:20] = arrays[5][10]
    check_kernel("adam", arrays, [], tolerance=16, parts=(1, 5, 64), **NO_CLIPPING, **ATTRIBUTES["adam"])


@pytest.mark.parametrize("name", UPDATES)
def test_segments_that_meet_anywhere(name: str) -> None:
    """Of one to nine elements and of none, so that a vector of elements lies in up to four of them."""
    arrays = operands(name, 301, "float32", segments=90)
    arrays[4][1:-1] = np.sort(np.random.default_rng(1).integers(0, 302, 89))
    definition, *ours = run_all(name, arrays, **NO_CLIPPING, **ATTRIBUTES[name])
    for outcome in ours:
        assert outcome[6].tobytes() == definition[6].tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UPDATES)
def test_a_factor_of_0_keeps_every_bit(name: str, dtype: str) -> None:
    """Of parameters and states, whatever gradient, penalties and decay are: NaN, infinity and -0.0 included."""
    arrays = operands(name, 301, dtype, segments=4, penalized=False)
    arrays[4][:] = 0, 5, 150, 203, 301
    arrays[5][:] = [[0, 0, 0, 1], [0.5, 0.25, 0.1, 0], [0, 0, 0, 0], [0.5, 0, 0.1, 1]]
    arrays[0][[5, 17, 160]], arrays[6][[6, 18, 202]], arrays[6][[149, 200]] = np.nan, -0.0, np.inf
    kept = slice(5, 203)
    for outcome in run_all(name, arrays, **NO_CLIPPING, **ATTRIBUTES[name]):
        for operand, before, after in zip(KERNELS[name].operands[6:], arrays[6:], outcome[6:], strict=True):
            expected = arrays[6] if operand == AVERAGE else before  # the average of what does not move is that
            assert after[kept].tobytes() == expected[kept].tobytes()
            assert (after[:5] != before[:5]).all()
            assert (after[203:] != before[203:]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UPDATES)
def test_a_factor_is_another_rate(name: str, dtype: str) -> None:
    """The same bits as that rate, rounded, with a factor of 1; decay included."""
    arrays = operands(name, 127, dtype, segments=2)
    arrays[5][:] = [[0.1, 0.01, 0.2, 0.3], [0, 0, 0, 0.3]]
    expected = [array.copy() for array in arrays]
    expected[2][:, 0] *= expected[5][0, 3]
    expected[5][:, 3] = 1
    getattr(numpy_set, name)(*expected, **NO_CLIPPING, **ATTRIBUTES[name])
    for outcome in run_all(name, arrays, **NO_CLIPPING, **ATTRIBUTES[name]):
        for got, wanted in zip(outcome[6:], expected[6:], strict=True):
            assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", UPDATES)
def test_steps_ahead_of_the_control_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of `scalars` is that of the step, not of the control block."""
    arrays = operands(name, 33, "float64")
    attributes = {**NO_CLIPPING, **ATTRIBUTES[name]}
    (body,) = bodies(name, arrays, attributes)
    assert [a for a in body.arguments if isinstance(a, Ahead)] == [Ahead(1, KERNELS[name].operands.index("index"))]
    expected = run_all(name, arrays, **attributes)[0]
    monkeypatch.setattr(Request, "ahead", lambda call, name, unit=1: Number("i64", 2 * unit))
    for outcome in outcomes(name, [*arrays[:3], np.array(0), *arrays[4:]], attributes):
        assert outcome[6].tobytes() == expected[6].tobytes()


@pytest.mark.parametrize("name", UPDATES)
def test_gradient_in_16_bits(name: str) -> None:
    """The same as that gradient in float32, norm included."""
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    arrays = operands(name, 4099, "float32")
    short = arrays[0].astype(bfloat16)
    arrays[0] = short.astype(np.float32)
    attributes = {"clip_value": 0.7, "clip_norm": 1.1, **ATTRIBUTES[name]}
    definition = run_all(name, arrays, **attributes)[0]
    for outcome in outcomes(name, [short, *arrays[1:]], attributes):
        for got, expected in zip(outcome[1:], definition[1:], strict=True):
            assert got.tobytes() == expected.tobytes()
    for _, partial in outcomes("block_sum_squares", [short, np.zeros(2, np.float32)], {"clip_value": 0.7, "scale": 1.0}):
        exact = [math.fsum(np.clip(part.astype(float), -0.7, 0.7) ** 2) for part in (short[:SUM_BLOCK], short[SUM_BLOCK:])]
        np.testing.assert_allclose(partial, exact, rtol=2e-6)


@pytest.mark.parametrize("name", ["adam", "adam_with_average"])
@pytest.mark.parametrize("size", [1, 33, 1008])
def test_copy_of_the_parameters_in_16_bits(size: int, name: str) -> None:
    """A body that is given one more pointer rounds the new parameters to it."""
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    attributes = {**NO_CLIPPING, **ATTRIBUTES[name]}
    for beyond in (0, 1):
        arrays = [placed(array, beyond) for array in operands(name, size, "float32")]
        low_precision_weights = placed(np.zeros(size, bfloat16), beyond)
        (body,) = bodies(name, arrays, attributes)
        body = dataclasses.replace(body, arguments=(*body.arguments, Pointer(len(arrays), "bf16", True)))
        memory = [*arrays, low_precision_weights]
        values = [
            memory[a.operand].ctypes.data if isinstance(a, Pointer) else a.value if isinstance(a, Number) else 0
            for a in body.arguments
        ]
        host.run_kernel(kernel([body]), body.blocks, body.shared, [body.blocks, *values])
        assert low_precision_weights.tobytes() == arrays[6].astype(bfloat16).tobytes()
        assert np.count_nonzero(low_precision_weights) == size


STEPS = [name for name, row in UPDATES.items() if not row.step]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", STEPS)
def test_averaging_changes_no_bit_of_the_step(name: str, dtype: str) -> None:
    """And the average has the bits of a + (1 - ema) * (w - a), 1 - ema being rounded once."""
    arrays = operands(with_average(name), 1009, dtype, segments=8)
    *alone, before = arrays
    attributes = {"clip_value": 0.7, "clip_norm": 1.1, **ATTRIBUTES[name]}
    steps = run_all(name, alone, **attributes)
    for ema in (0.8, 0.9999, 1e-300):
        for step, outcome in zip(steps, run_all(with_average(name), arrays, ema=ema, **attributes), strict=True):
            *others, after = outcome
            assert [a.tobytes() for a in others] == [a.tobytes() for a in step]
            w, factors = others[6], np.repeat(arrays[5][:, 3], np.diff(arrays[4]))
            expected = np.where(factors == 0, w, before + np.dtype(dtype).type(1 - ema) * (w - before))
            assert after.tobytes() == expected.tobytes()
            assert (factors == 0).any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_average_of_what_does_not_move_is_that(dtype: str) -> None:
    """Exactly; 0.9999 and 1 - 0.9999 in float32 do not add up to 1, and ema * a + (1 - ema) * w drifts off, by w / 6000."""
    w = np.random.default_rng(8).normal(size=127).astype(dtype)
    segment = [np.array([0, 127]), np.array([[0, 0, 0, 1]], dtype)]
    arrays = [np.zeros_like(w), np.array(0, dtype), np.ones((1, COLUMNS), dtype), np.array(0), *segment, w, w.copy()]
    for ema in (0.5, 0.999, 0.9999):
        for outcome in run_all("sgd_with_average", arrays, **NO_CLIPPING, ema=ema):
            assert outcome[-1].tobytes() == w.tobytes()


# The outside oracle: ten steps of torch.optim, with every state.

WEIGHT_DECAY = 0.1


def torch_optimizers(torch: Any) -> dict[str, tuple[str, dict[str, Any], Any, dict[str, str], int]]:
    """Case: kernel, attributes, how torch makes it, torch's name of each state, and what decay is: 0 off, 1 l2, 2 decoupled."""
    adam = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "epsilon_inside": False}
    rmsprop = {"beta": 0.95, "epsilon": 1e-6, "epsilon_inside": False}
    optim = torch.optim
    return {
        "sgd": ("sgd", {}, lambda w, r: optim.SGD([w], r), {}, 0),
        "momentum": (
            "momentum", {"beta": 0.9}, lambda w, r: optim.SGD([w], r, momentum=0.9),
            {"velocity": "momentum_buffer"}, 0,
        ),
        "nesterov": (
            "nesterov", {"beta": 0.9}, lambda w, r: optim.SGD([w], r, momentum=0.9, nesterov=True),
            {"velocity": "momentum_buffer"}, 0,
        ),
        "l2": ("sgd", {}, lambda w, r: optim.SGD([w], r, weight_decay=WEIGHT_DECAY), {}, 1),
        "rmsprop": (
            "rmsprop", rmsprop, lambda w, r: optim.RMSprop([w], r, alpha=0.95, eps=1e-6), {"square": "square_avg"}, 0,
        ),
        "adagrad": ("adagrad", {"epsilon": 1e-6}, lambda w, r: optim.Adagrad([w], r, eps=1e-6), {"square": "sum"}, 0),
        "adam": (
            "adam", adam, lambda w, r: optim.Adam([w], r, betas=(0.9, 0.99), eps=1e-6),
            {"mean": "exp_avg", "square": "exp_avg_sq"}, 0,
        ),
        "adamw": (
            "adam", adam, lambda w, r: optim.AdamW([w], r, betas=(0.9, 0.99), eps=1e-6, weight_decay=WEIGHT_DECAY),
            {"mean": "exp_avg", "square": "exp_avg_sq"}, 2,
        ),
        "nadam": (
            "nadam", adam, lambda w, r: torch_nadam([w], lr=r, betas=(0.9, 0.99), eps=1e-6),
            {"mean": "exp_avg", "square": "exp_avg_sq"}, 0,
        ),
    }  # fmt: skip


CASES = ("sgd", "momentum", "nesterov", "l2", "rmsprop", "adagrad", "adam", "adamw", "nadam")


def scalars_of_ten_steps(name: str, rate: float, beta1: float = 0.0, beta2: float = 0.0, **_: Any) -> np.ndarray:
    """As written in the papers; for nadam with a momentum decay of 0.004."""
    table = [[rate, 1 / (1 - beta1**t), 1 / (1 - beta2**t), 1.0] for t in range(1, 11)]
    if name == "nadam":
        momenta = [beta1 * (1 - 0.5 * 0.96 ** (t * 0.004)) for t in range(1, 12)]
        for t, row in enumerate(table, start=1):
            row[1] = momenta[t] / (1 - math.prod(momenta[: t + 1]))
            row[3] = (1 - momenta[t - 1]) / (1 - math.prod(momenta[:t]))
    return np.array(table)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("clip_value", [0.0, 0.5])
def test_ten_steps_of_torch(case: str, dtype: str, clip_value: float) -> None:
    torch = pytest.importorskip("torch")
    name, attributes, make, states, decayed = torch_optimizers(torch)[case]
    random = np.random.default_rng(5)
    start = random.normal(size=101).astype(dtype)
    gradients = random.normal(size=(10, 101)).astype(dtype)
    rate, tolerance = 0.05, 3e-5 if dtype == "float32" else 1e-12
    scalars = scalars_of_ten_steps(name, rate, **attributes).astype(dtype)
    penalties = np.array([[WEIGHT_DECAY * (decayed == 1), 0, WEIGHT_DECAY * (decayed == 2), 1]], dtype)
    numbers = {"clip_value": clip_value, "clip_norm": 0.0, **attributes}

    weights = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = make(weights, rate)
    ours: list[list[np.ndarray]] = [[start.copy(), *(np.zeros_like(start) for _ in UPDATES[name].slots)] for _ in range(2)]
    for step, gradient in enumerate(gradients):
        weights.grad = torch.from_numpy(gradient.copy())
        if clip_value:
            torch.nn.utils.clip_grad_value_([weights], clip_value)
        optimizer.step()
        read = [gradient, np.zeros((), dtype), scalars, np.array(step), np.array([0, 101]), penalties]
        cpu_set.run(name, [*(a.copy() for a in read), *ours[0]], numbers)
        getattr(numpy_set, name)(*read, *ours[1], **numbers)
        expected = [weights.detach().numpy(), *(optimizer.state[weights][states[slot]].numpy() for slot in UPDATES[name].slots)]
        for which in ours:
            for got, wanted in zip(which, expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance / 30)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("decay", [0.0, WEIGHT_DECAY])
def test_ten_steps_of_lion_of_optax(dtype: str, decay: float) -> None:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    random = np.random.default_rng(6)
    start, rate = random.normal(size=101).astype(dtype), 0.05
    gradients = random.normal(size=(10, 101)).astype(dtype)
    scalars, penalties = np.full((10, COLUMNS), rate, dtype), np.array([[0, 0, decay, 1]], dtype)
    ours: list[list[np.ndarray]] = [[start.copy(), np.zeros_like(start)] for _ in range(2)]
    with jax.enable_x64(dtype == "float64"):
        optimizer = optax.lion(rate, b1=0.9, b2=0.99, weight_decay=decay)
        weights = jax.numpy.asarray(start)
        state = optimizer.init(weights)
        for step, gradient in enumerate(gradients):
            changes, state = optimizer.update(jax.numpy.asarray(gradient), state, weights)
            weights = optax.apply_updates(weights, changes)
            read = [gradient, np.zeros((), dtype), scalars, np.array(step), np.array([0, 101]), penalties]
            cpu_set.run("lion", [*(a.copy() for a in read), *ours[0]], {**NO_CLIPPING, **ATTRIBUTES["lion"]})
            numpy_set.lion(*read, *ours[1], **NO_CLIPPING, **ATTRIBUTES["lion"])
        expected = [np.asarray(weights), np.asarray(state[0].mu)]
    for which in ours:
        for got, wanted in zip(which, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=3e-5 if dtype == "float32" else 1e-12, atol=1e-6)


def test_lion_keeps_nan_and_moves_nothing_where_the_average_is_zero() -> None:
    gradient = np.array([np.nan, 0.0, 1e-30, -np.inf])
    for run in (lambda *a, **k: cpu_set.run("lion", a, k), numpy_set.lion):
        w, m = np.zeros(4), np.zeros(4)
        given = (gradient, np.zeros(()), np.ones((1, COLUMNS)), np.array(0), np.array([0, 4]), np.array([[0.0, 0, 0, 1]]))
        run(*given, w, m, **NO_CLIPPING, **ATTRIBUTES["lion"])
        assert np.isnan(w[0])
        assert w[1:].tolist() == [0.0, -1.0, 1.0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_averaged_momentum_is_momentum_rescaled(dtype: str) -> None:
    """From a velocity of zero, averaging divides velocities by 1 / (1 - beta): momentum at rate * (1 - beta) in torch."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(6)
    start, gradients, beta, rate = random.normal(size=53), random.normal(size=(10, 53)), 0.8, 0.1
    weights = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.SGD([weights], rate * (1 - beta), momentum=beta)
    ours = [start.astype(dtype), np.zeros(53, dtype)]
    scalars = np.full((1, COLUMNS), rate, dtype)
    for gradient in gradients:
        weights.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        segment = [np.array([0, 53]), np.array([[0, 0, 0, 1]], dtype)]
        read = [gradient.astype(dtype), np.zeros((), dtype), scalars, np.array(0), *segment]
        cpu_set.run("averaged_momentum", [*read, *ours], {**NO_CLIPPING, "beta": beta})
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(ours[0], weights.detach().numpy(), rtol=tolerance, atol=tolerance)
    velocity = optimizer.state[weights]["momentum_buffer"].numpy() * (1 - beta)
    np.testing.assert_allclose(ours[1], velocity, rtol=tolerance, atol=tolerance)


def test_clipping_by_norm_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    gradient = np.random.default_rng(7).normal(size=97)
    for limit in (0.5, 100.0):
        weights = torch.nn.Parameter(torch.zeros(97, dtype=torch.float64))
        weights.grad = torch.from_numpy(gradient.copy())
        norm = torch.nn.utils.clip_grad_norm_([weights], limit)
        rate, segment = np.ones((1, COLUMNS)), [np.array([0, 97]), np.array([[0.0, 0, 0, 1]])]
        arrays = [gradient, np.array(norm.item()), rate, np.array(0), *segment, np.zeros(97)]
        for outcome in run_all("sgd", arrays, clip_value=0.0, clip_norm=limit):
            np.testing.assert_allclose(-outcome[6], weights.grad.numpy(), rtol=1e-5)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("dtype", FLOATS)
def test_l1_is_the_gradient_of_its_penalty(dtype: str) -> None:
    """An update of rate 1 from a zero gradient moves by the derivative of block_penalty's l2/2 w^2 + l1 |w|."""
    w = np.array([-2.0, -0.5, 0.0, 0.5, 2.0], dtype)
    penalties = np.array([[0.25, 0.125, 0.0, 1.0]], dtype)
    rate, starts = np.ones((1, COLUMNS), dtype), np.array([0, 5])
    arrays = [np.zeros(5, dtype), np.zeros((), dtype), rate, np.array(0), starts, penalties, w]
    for outcome in run_all("sgd", arrays, **NO_CLIPPING):
        np.testing.assert_array_equal(outcome[6], w - (0.25 * w + 0.125 * np.sign(w)))


BLOCKS = (0, 1, 31, 33, 1009, SUM_BLOCK - 1, SUM_BLOCK, SUM_BLOCK + 1, 3 * SUM_BLOCK + 127)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", BLOCKS)
def test_block_sum_squares(size: int, dtype: str) -> None:
    x = np.random.default_rng(size).normal(size=size).astype(dtype)
    blocks = -(-size // SUM_BLOCK)
    for clip_value, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 0.25), (0.5, 0.25)):
        (partial,) = check_kernel(
            "block_sum_squares", [x], [((blocks,), dtype)], tolerance=8, clip_value=clip_value, scale=scale
        )
        clipped = np.clip(x, -0.5, 0.5) if clip_value else x
        exact = [
            math.fsum((scale * float(v)) ** 2 for v in clipped[k * SUM_BLOCK : (k + 1) * SUM_BLOCK]) for k in range(blocks)
        ]
        check_definition("block_sum_squares", [x], {"partial": np.array(exact, dtype)}, 16, clip_value=clip_value, scale=scale)
        np.testing.assert_allclose(partial, exact, rtol=2e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", BLOCKS)
def test_block_penalty(size: int, dtype: str) -> None:
    w = np.random.default_rng(size).normal(size=size).astype(dtype)
    starts = cut(size, 4)
    penalties = np.array([[0.1, 0, 0.5, 1], [0, 0, 0, 1], [0, 0.2, 0, 0], [0.3, 0.4, 0, 0.5]], dtype)
    check_kernel("block_penalty", [w, starts, penalties], [((-(-size // SUM_BLOCK),), dtype)], tolerance=8)
    per_element = np.repeat(penalties, np.diff(starts), axis=0).astype(np.float64)
    terms = per_element[:, 0] / 2 * w.astype(np.float64) ** 2 + per_element[:, 1] * np.abs(w)
    exact = [math.fsum(terms[k : k + SUM_BLOCK]) for k in range(0, size, SUM_BLOCK)]
    check_definition("block_penalty", [w, starts, penalties], {"partial": np.array(exact, dtype)}, 16)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1009, 2 * SUM_BLOCK + 33])
def test_block_sums_depend_on_nothing_but_the_shape(size: int, dtype: str) -> None:
    """Neither on where the arrays lie nor on the number of blocks that sum."""
    x, partial = np.random.default_rng(size).normal(size=size).astype(dtype), np.zeros(-(-size // SUM_BLOCK), dtype)
    penalties = np.random.default_rng(0).random((40, 4)).astype(dtype)
    for name, arrays, attributes in (
        ("block_sum_squares", [x, partial], {"clip_value": 0.5, "scale": 1.0}),
        ("block_penalty", [x, cut(size, 40), penalties, partial], {}),
    ):
        first, *others = outcomes(name, arrays, attributes)
        assert first[-1].all()
        for outcome in others:
            assert outcome[-1].tobytes() == first[-1].tobytes()


def test_sums_do_not_hide_infinity() -> None:
    x = np.ones(SUM_BLOCK + 5, np.float32)
    x[3], x[SUM_BLOCK + 2] = np.inf, np.nan
    (partial,) = check_kernel("block_sum_squares", [x], [((2,), "float32")], tolerance=8, clip_value=0.0, scale=1.0)
    assert partial[0] == np.inf
    assert np.isnan(partial[1])
