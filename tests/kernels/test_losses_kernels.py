"""Losses, their gradients, weighted means and accuracy: every shape, extreme logits, outside oracles, equal bits."""

from __future__ import annotations

import numpy as np
import pytest
from laws import FLOATS, check_definition, check_kernel

SHAPES = [
    (0, 10), (10, 0), (1, 1), (31, 33), (33, 31), (127, 10), (7, 16), (103, 1), (3, 1025), (1, 2503),
    (9, 28), (5, 500), (2, 4099),
]  # fmt: skip
KINDS = ["classes", "soft", "any", "sigmoid", "squared"]


def example(kind, shape, dtype, rng):
    """Name, outputs, targets and attributes of a loss."""
    rows, columns = shape
    z = (4 * rng.normal(size=shape)).astype(dtype)
    if kind == "classes":
        return "softmax_cross_entropy", z, rng.integers(-1, columns + 1, rows), {}
    if kind == "soft":
        t = rng.dirichlet(np.ones(columns), rows) if columns else z
        return "softmax_cross_entropy", z, t.astype(dtype), {}
    if kind == "any":
        return "softmax_cross_entropy", z, rng.normal(size=shape).astype(dtype), {}
    if kind == "sigmoid":
        return "sigmoid_cross_entropy", z, rng.uniform(size=shape).astype(dtype), {}
    return "squared_error", z, rng.normal(size=shape).astype(dtype), {"scale": 0.7}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_and_both_at_once_have_the_bits_of_one_after_the_other(kind, shape, dtype, rng):
    name, z, t, attributes = example(kind, shape, dtype, rng)
    dlosses = rng.normal(size=shape[0]).astype(dtype)
    losses_like, dz_like = (shape[:1], dtype), (shape, dtype)
    tolerance = 20 + 4 * shape[1] if kind == "any" else 20 + shape[1] / 20
    (losses,) = check_kernel(name, [z, t], [losses_like], tolerance=tolerance, **attributes)
    (dz,) = check_kernel(f"{name}_backward", [z, t, dlosses], [dz_like], tolerance=tolerance, **attributes)
    both = check_kernel(f"{name}_with_gradient", [z, t, dlosses], [losses_like, dz_like], tolerance=tolerance, **attributes)
    assert losses.tobytes() == both[0].tobytes()
    assert dz.tobytes() == both[1].tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["sigmoid", "squared"])
@pytest.mark.parametrize("rows", [1, 15, 16, 33, 1025])
def test_one_column_has_the_bits_it_has_beside_one_that_costs_nothing(rows, kind, dtype, rng):
    name, z, t, attributes = example(kind, (rows, 1), dtype, rng)
    z[::7] = t[::7]
    dlosses = rng.normal(size=rows).astype(dtype)
    found = []
    for beside in (np.zeros((rows, 0), dtype), np.full((rows, 1), -1000 if kind == "sigmoid" else 0, dtype)):
        operands = [np.hstack([z, beside]), np.hstack([t, np.zeros_like(beside)]), dlosses]
        outputs = [((rows,), dtype), (operands[0].shape, dtype)]
        losses, dz = check_kernel(f"{name}_with_gradient", operands, outputs, tolerance=20, **attributes)
        found.append((losses.tobytes(), dz[:, 0].tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 1), (5, 3), (4, 40)])
def test_definition_is_what_torch_computes(kind, shape, rng):
    torch = pytest.importorskip("torch")
    name, z, t, attributes = example(kind, shape, np.float64, rng)
    if kind == "classes":
        t = rng.integers(0, shape[1], shape[0])
    dlosses = rng.normal(size=shape[0])
    leaf, target = torch.tensor(z, requires_grad=True), torch.tensor(t)
    functional = torch.nn.functional
    if kind == "sigmoid":
        losses = functional.binary_cross_entropy_with_logits(leaf, target, reduction="none").sum(dim=1)
    elif kind == "squared":
        losses = 0.7 * functional.mse_loss(leaf, target, reduction="none").sum(dim=1)
    else:
        losses = functional.cross_entropy(leaf, target, reduction="none")
    losses.backward(torch.tensor(dlosses))
    expected = {"losses": losses.detach().numpy(), "dz": leaf.grad.numpy()}
    check_definition(name, [z, t], expected, 100, **attributes)
    check_definition(f"{name}_backward", [z, t, dlosses], {"dz": expected["dz"]}, 100, **attributes)
    check_definition(f"{name}_with_gradient", [z, t, dlosses], expected, 100, **attributes)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("soft", [False, True])
def test_extreme_logits_give_no_nan(dtype, soft):
    z = np.array([[1e38, -1e38, 0], [-1e38, -1e38, -1e38], [-np.inf, 0, 1], [500, -500, 499], [-103, 0, -88]], dtype)
    labels = np.array([0, 2, 1, 0, 2])
    t = np.eye(3, dtype=dtype)[labels] if soft else labels
    dlosses = np.ones(5, dtype)
    losses, dz = check_kernel(
        "softmax_cross_entropy_with_gradient", [z, t, dlosses], [((5,), dtype), ((5, 3), dtype)], tolerance=8
    )
    assert np.isfinite(losses).all()
    assert np.isfinite(dz).all()
    binary = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 1, 0]], dtype)
    z[2, 0] = -1e38
    losses, dz = check_kernel(
        "sigmoid_cross_entropy_with_gradient", [z, binary, dlosses], [((5,), dtype), ((5, 3), dtype)], tolerance=8
    )
    assert np.isfinite(losses).all()
    assert np.isfinite(dz).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_impossible_class_costs_infinity_and_has_a_gradient(dtype):
    z = np.array([[-np.inf, 0, 0]], dtype)
    losses, dz = check_kernel(
        "softmax_cross_entropy_with_gradient",
        [z, np.array([0]), np.ones(1, dtype)],
        [((1,), dtype), ((1, 3), dtype)],
        tolerance=4,
    )
    assert losses[0] == np.inf
    np.testing.assert_array_equal(dz, [[-1, 0.5, 0.5]])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("label", [-1, 3, 2**62, -(2**62)])
def test_a_class_that_does_not_exist_is_a_target_of_zeros(dtype, label, rng):
    z = rng.normal(size=(2, 3)).astype(dtype)
    losses, dz = check_kernel(
        "softmax_cross_entropy_with_gradient",
        [z, np.array([label, 1]), np.ones(2, dtype)],
        [((2,), dtype), ((2, 3), dtype)],
        tolerance=8,
    )
    assert losses[0] == 0
    assert (dz[0] == 0).all()
    assert losses[1] > 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_spoils_its_example_and_no_other(kind, dtype, rng):
    name, z, t, attributes = example(kind, (3, 19), dtype, rng)
    z[1, 17] = np.nan
    for target in (t, t - t - 1) if kind == "classes" else (t,):
        losses, dz = check_kernel(
            f"{name}_with_gradient",
            [z, target, np.ones(3, dtype)],
            [((3,), dtype), ((3, 19), dtype)],
            tolerance=200,
            **attributes,
        )
        np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
        assert np.isnan(dz[1, 17])
        assert not np.isnan(dz[[0, 2]]).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [0, 1, 31, 33, 127, 5003, 40_001])
def test_weighted_mean(count, dtype, rng):
    losses, weights = rng.uniform(size=count).astype(dtype), rng.uniform(size=count).astype(dtype)
    dmean = np.array(-1.5, dtype)
    check_kernel("weighted_mean", [losses, weights], [((), dtype)], tolerance=8)
    check_kernel("weighted_mean_backward", [dmean, weights], [((count,), dtype)], tolerance=8)
    nothing = np.zeros(count, dtype)
    (mean,) = check_kernel("weighted_mean", [losses, nothing], [((), dtype)], tolerance=0)
    (dlosses,) = check_kernel("weighted_mean_backward", [dmean, nothing], [((count,), dtype)], tolerance=0)
    assert mean == 0
    assert (dlosses == 0).all()


def test_weighted_mean_is_what_torch_computes(rng):
    torch = pytest.importorskip("torch")
    losses, weights = torch.tensor(rng.uniform(size=50), requires_grad=True), torch.tensor(rng.uniform(size=50))
    mean = (losses * weights).sum() / weights.sum()
    mean.backward(torch.tensor(-1.5, dtype=torch.float64))
    check_definition("weighted_mean", [losses.detach().numpy(), weights.numpy()], {"mean": mean.detach().numpy()}, 8)
    check_definition("weighted_mean_backward", [np.array(-1.5), weights.numpy()], {"dlosses": losses.grad.numpy()}, 8)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 3), (1, 2), (31, 33), (33, 5), (127, 10), (103, 1), (2, 600)])
def test_is_correct(shape, dtype, rng):
    rows, columns = shape
    z = rng.integers(-2, 3, shape).astype(dtype)
    binary = rng.integers(0, 2, shape).astype(dtype)
    output = (shape[:1], dtype)

    def check(t, **attributes):
        return check_kernel("is_correct", [z, t], [output], tolerance=1, **attributes)[0]

    for multilabel in (False, True):
        correct = check(binary, threshold=0.0, multilabel=multilabel)
        by_column = multilabel or columns == 1
        agree = (z > 0) == (binary > 0.5)
        expected = agree.mean(axis=1) if by_column else z.argmax(axis=1) == binary.argmax(axis=1)
        np.testing.assert_allclose(correct, expected, rtol=1e-6)
    labels = rng.integers(0, max(columns, 2), rows)
    correct = check(labels, threshold=0.5, multilabel=False)
    expected = (z[:, 0] > 0.5) == (labels == 1) if columns == 1 else z.argmax(axis=1) == labels
    np.testing.assert_array_equal(correct, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_is_correct_takes_nan_for_the_class(dtype):
    z = np.array([[3, np.nan, 9, np.nan], [0, 1, 1, -1], [-np.inf] * 4], dtype)
    (correct,) = check_kernel(
        "is_correct", [z, np.array([1, 1, 0])], [((3,), dtype)], tolerance=0, threshold=0.5, multilabel=False
    )
    np.testing.assert_array_equal(correct, [1, 1, 1])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [2, 3, 15, 16, 17])
def test_is_correct_among_equals_nans_and_infinities(columns, dtype, rng):
    z = rng.choice(np.array([0, -0.0, 1, np.nan, np.inf, -np.inf], dtype), (500, columns), p=[0.3, 0.3, 0.2, 0.05, 0.05, 0.1])
    z[:20] = -np.inf
    labels = np.where(rng.uniform(size=500) < 0.5, z.argmax(axis=1), rng.integers(-1, columns + 1, 500))
    (correct,) = check_kernel("is_correct", [z, labels], [((500,), dtype)], tolerance=0, threshold=0.5, multilabel=False)
    np.testing.assert_array_equal(correct, z.argmax(axis=1) == labels)
