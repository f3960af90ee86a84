"""Operations on images: where their windows lie, what is refused, and single values that can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import ops, random
from fastnn.errors import FastnnError, InputError, InputTypeError
from fastnn.ops.windows import as_padding, as_pair, lay_windows

IMAGES = np.arange(2 * 5 * 6 * 3, dtype="float32").reshape(2, 5, 6, 3)
KERNEL = np.ones((2, 2, 3, 4), "float32")
POOLS = ("l2_pool2d", "max_pool2d", "mean_pool2d")


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_windows_lie_where_counting_puts_them(length: int, size: int, stride: int, dilation: int) -> None:
    """Starts of windows are tried one by one."""
    reach = dilation * (size - 1) + 1
    inside = [start for start in range(0, length, stride) if start + reach <= length]

    def lay(padding: Any) -> tuple[int, int]:
        counts, before = lay_windows("conv2d", (length, 40), (size, 1), (stride, 1), padding, (dilation, 1))
        assert counts[1] == 40
        assert before[1] == 0
        return counts[0], before[0]

    if inside:
        assert lay("valid") == lay(((0, 0), (0, 0))) == (len(inside), 0)
    else:
        with pytest.raises(InputError, match=rf"windows of {reach} x 1 pixels do not fit into images of {length} x 40"):
            lay("valid")
    count, first = lay("same")
    assert count == len(range(0, length, stride))
    behind = (count - 1) * stride + reach - first - length
    assert behind - first in (0, 1) or (first == 0 and behind <= 0)
    for above, below in (
        (reach - 1, 0),
        (0, reach - 1),
        (reach - 1, reach - 1),
        (reach, 0),
        (0, reach + 4),
        (reach + 3, reach),
    ):
        padded = [start for start in range(0, length + above + below, stride) if start + reach <= length + above + below]
        if padded:
            assert lay(((above, below), (0, 0))) == (len(padded), above)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("valid", "valid"), ("same", "same"), (0, ((0, 0), (0, 0))), (2, ((2, 2), (2, 2))), ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))), (((1, 0), (0, 2)), ((1, 0), (0, 2))), ([[1, 0], 3], ((1, 0), (3, 3))),
    ],
)  # fmt: skip
def test_padding_in_all_its_forms(value: Any, expected: Any) -> None:
    assert as_padding("Conv2D", value) == expected
    if expected != "same" and expected != "valid":
        assert as_padding("Conv2D", expected) == expected, "what is kept is understood again"


@pytest.mark.parametrize("value", ["full", "", None, -1, 1.0, True, (1,), (1, 2, 3), ((1, 2), (3,)), ((1, -2), (0, 0)), "11"])
def test_what_is_no_padding(value: Any) -> None:
    with pytest.raises(InputError, match=r'^Conv2D: padding: expected "valid", "same", an integer >= 0, a pair'):
        as_padding("Conv2D", value)


@pytest.mark.parametrize("value", ["2", "", None, 0, -1, 2.0, True, (1,), (1, 2, 3), (1, 0), (1, True)])
def test_what_is_no_pair(value: Any) -> None:
    with pytest.raises(InputError, match=r"^MaxPool2D: size: expected an integer >= 1, or a pair of them \(rows, columns\),"):
        as_pair("MaxPool2D", "size", value)
    assert as_pair("MaxPool2D", "size", 3) == (3, 3)
    assert as_pair("MaxPool2D", "size", [1, 2]) == (1, 2)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: ops.conv2d(IMAGES[0], KERNEL), InputError, r"conv2d: expected images x \(B, H, W, C\), got \(5, 6, 3\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL[0]), InputError, r"expected w \(KH, KW, C / groups, O\), got \(2, 3, 4\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL[:0]), InputError, r"expected w \(KH, KW, C / groups, O\), got \(0, 2, 3, 4\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL[:, :, :2]), InputError, r"w \(2, 2, 2, 4\) is for 2 channels, and x has 3"),
        (
            lambda: ops.conv2d(IMAGES, KERNEL, groups=2), InputError,
            r"w \(2, 2, 3, 4\) is for 3 channels in each of 2 groups, and x has 3",
        ),
        (lambda: ops.conv2d(IMAGES, KERNEL, groups=3), InputError, "groups: expected a divisor of the 4 outputs of w, got 3"),
        (lambda: ops.conv2d(IMAGES, KERNEL, groups=0), InputError, "groups: expected a divisor of the 4 outputs of w, got 0"),
        (lambda: ops.conv2d(IMAGES, KERNEL, groups=True), InputError, "groups: expected a divisor"),
        (lambda: ops.conv2d(IMAGES, KERNEL, KERNEL[0, 0, 0, :3]), InputError, r"expected b of shape \(4,\), got \(3,\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL, strides=0), InputError, "conv2d: strides: expected an integer >= 1"),
        (lambda: ops.conv2d(IMAGES, KERNEL, dilation=(1, 2, 3)), InputError, "conv2d: dilation: expected an integer >= 1"),  # type: ignore[arg-type]
        (lambda: ops.conv2d(IMAGES, KERNEL, padding="ful"), InputError, 'conv2d: padding: expected "valid", "same"'),
        (
            lambda: ops.conv2d(IMAGES, KERNEL, dilation=5), InputError,
            r"windows of 6 x 6 pixels do not fit into images of 5 x 6; make them smaller, or padding=\"same\"",
        ),
        (lambda: ops.conv2d(IMAGES.astype("int64"), KERNEL), InputTypeError, "conv2d"),
        (lambda: ops.conv2d(IMAGES.astype("uint8"), KERNEL), InputTypeError, "conv2d"),
        (lambda: ops.conv2d(IMAGES.astype("float64"), KERNEL), InputTypeError, "conv2d"),
        (lambda: ops.conv2d(IMAGES, KERNEL, np.zeros(4)), InputTypeError, "conv2d"),
        (lambda: ops.conv2d(IMAGES, KERNEL, activation="rel"), InputError, "relu"),
        (lambda: ops.conv2d(IMAGES, KERNEL, activation="relu", alpha=0.1), InputError, "alpha"),
        (
            lambda: ops.max_pool2d(IMAGES, (2, 128), padding="same"), InputError,
            r"at most 255 pixels, got \(2, 128\); use ops.max",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(wrong: Any, error: type[FastnnError], says: str) -> None:
    with pytest.raises(error, match=says):
        wrong()


@pytest.mark.parametrize("name", POOLS)
def test_poolings_refuse_alike(name: str) -> None:
    pool = getattr(ops, name)
    for wrong, error, says in (
        (lambda: pool(IMAGES[0]), InputError, rf"{name}: expected images x \(B, H, W, C\), got \(5, 6, 3\)"),
        (lambda: pool(IMAGES.astype("int32")), InputTypeError, name),
        (lambda: pool(IMAGES, 0), InputError, rf"{name}: size: expected an integer >= 1"),
        (lambda: pool(IMAGES, 2, strides=1.5), InputError, rf"{name}: strides: expected an integer >= 1"),
        (lambda: pool(IMAGES, 6), InputError, rf"{name}: windows of 6 x 6 pixels do not fit into images of 5 x 6"),
        (lambda: pool(IMAGES, 2, padding=2), InputError, rf"{name}: padding of 2 pixels: windows of 2 would lie beyond"),
    ):
        with pytest.raises(error, match=says):
            wrong()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_counted_by_hand(dtype: str) -> None:
    x = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype).reshape(1, 3, 3, 1)
    w = np.array([[1, 0], [0, -1]], dtype).reshape(2, 2, 1, 1)
    assert ops.conv2d(x, w)[0, :, :, 0].tolist() == [[-4, -4], [-4, -4]], "not flipped: it is a cross-correlation"
    assert ops.conv2d(x, w, padding="same")[0, :, :, 0].tolist() == [[-4, -4, 3], [-4, -4, 6], [7, 8, 9]]
    assert ops.conv2d(x, w, np.array([1], dtype), strides=2, padding=1)[0, :, :, 0].tolist() == [[0, -2], [-6, -3]]
    assert ops.conv2d(x, w, dilation=2)[0, :, :, 0].tolist() == [[-8]]
    assert ops.max_pool2d(x, 2)[0, :, :, 0].tolist() == [[5]]
    assert ops.max_pool2d(x, 2, padding="same")[0, :, :, 0].tolist() == [[5, 6], [8, 9]]
    assert ops.mean_pool2d(x, 2, padding="same")[0, :, :, 0].tolist() == [[3, 4.5], [7.5, 9]]
    norms = ops.l2_pool2d(x, (1, 2), strides=1, padding="same")
    assert norms[0, 0, :, 0].tolist() == np.sqrt([5, 13, 9]).astype(dtype).tolist()
    assert ops.max_pool2d(-x, 2, padding="same")[0, 1, 1, 0] == -9, "what lies outside counts for nothing, not for 0"


def test_one_group_a_channel_keeps_channels_apart() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 5, 6, 3)), rng.normal(size=(2, 3, 1, 6))
    y = ops.conv2d(x, w, groups=3)
    for channel in range(3):
        outputs = slice(2 * channel, 2 * channel + 2)
        alone = ops.conv2d(x[..., channel : channel + 1].copy(), w[..., outputs].copy())
        np.testing.assert_allclose(y[..., outputs], alone, rtol=1e-13)


@pytest.mark.parametrize("shape", [(4, 9), (3, 5, 9), (3, 5, 6, 31), (0, 2, 2, 3)])
def test_channels_are_dropped_as_a_whole(shape: tuple[int, ...]) -> None:
    x, key = np.random.default_rng(1).uniform(0.5, 1, shape).astype("float32"), random.key(3, random.DROPOUT)
    y = ops.dropout(x, 0.25, key, 5, channels=True)
    kept = random.uniform(key, 5, (shape[0], shape[-1]), "float32") >= 0.25
    mask = np.broadcast_to(kept.reshape(shape[0], *(1,) * (len(shape) - 2), shape[-1]), shape)
    np.testing.assert_array_equal(y, np.where(mask, x * np.float32(1 / 0.75), 0))
    if len(shape) == 2:
        assert y.tobytes() == ops.dropout(x, 0.25, key, 5).tobytes()


def test_a_computation_of_ones_own_with_a_convolution() -> None:
    """The kernel that made an image is found again by its gradient."""
    rng = np.random.default_rng(2)
    x, sought = rng.normal(size=(20, 8, 8, 2)), rng.normal(size=(3, 3, 2, 3))

    def cost(x: Any, w: Any, y: Any) -> Any:
        return ops.mean((ops.conv2d(x, w, padding="same") - y) ** 2.0)

    recorded = fastnn.record(cost, x=("B", 8, 8, 2), w=(3, 3, 2, 3), y=("B", 8, 8, 3), dtype="float64", gradients="w")
    y, w = ops.conv2d(x, sought, padding="same"), np.zeros_like(sought)
    for _ in range(60):
        w -= recorded(x=x, w=w, y=y)["d w"]
    np.testing.assert_allclose(w, sought, atol=1e-6)
