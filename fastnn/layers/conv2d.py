"""The convolutional layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastnn import ops
from fastnn.errors import InputError
from fastnn.layers.base import Parameter
from fastnn.layers.images import as_channels, as_images
from fastnn.layers.weighted import Weighted, as_count
from fastnn.ops.dispatch import Array
from fastnn.ops.windows import Pair, Window, as_padding, as_pair, lay_windows, windows_of


class Conv2D(Weighted):
    """y (B, OH, OW, O) = activation(the sum of x[r, c] @ weight[i, j] over the taps (i, j) + bias (O,)), O = `filters`.

        model = fastnn.Sequential(
            [fastnn.Conv2D(20, 5, activation="relu"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(10)]
        )

    Each output looks at a window of the image, its local receptive field, and all windows share the weights (KH, KW,
    C / groups, O). `x`: images (B, H, W, C), or (B, H, W) of one channel. `kernel_size`: pixels of a window; `strides`: from
    a window to the next one; `dilation`: from a pixel of a window to the next one; each a number, or (rows, columns).

    `padding`, with zeros: "valid" for none, OH = (H - dilation (KH - 1) - 1) // stride + 1; "same" for OH = ceil(H / stride);
    or numbers: of pixels on all sides, of (rows, columns), or ((above, below), (left, right)). `groups`: channels and filters
    are cut into so many groups, each output made of the channels of its own; as many as channels for a depthwise convolution.

    The other options are those of `Dense`. Fans of the initial weights are KH KW C / groups and KH KW O. Raises InputError for
    options that do not go together, and for inputs that are no images or smaller than a window. Source: Nielsen, Neural
    Networks and Deep Learning, chapter 6, equation 125; LeCun et al. 1998.
    """

    options = (
        "filters", "kernel_size", "strides", "padding", "dilation", "groups", "activation", "use_bias", "weight_init",
        "bias_init", "alpha", "l2", "l1", "learning_rate_factor",
    )  # fmt: skip
    records_alike = True

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: Any = "valid",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool | None = None,
        weight_init: Any = None,
        bias_init: Any = "zeros",
        alpha: float | None = None,
        *,
        l2: float | None = None,
        l1: float | None = None,
        learning_rate_factor: float = 1.0,
        trainable: bool = True,
    ) -> None:
        self.filters: int = as_count("Conv2D", "filters", filters)
        self.kernel_size = as_pair("Conv2D", "kernel_size", kernel_size)
        self.strides = as_pair("Conv2D", "strides", strides)
        self.padding = as_padding("Conv2D", padding)
        self.dilation = as_pair("Conv2D", "dilation", dilation)
        self.groups: int = as_count("Conv2D", "groups", groups)
        if self.filters % self.groups:
            raise InputError(f"Conv2D: groups: expected a divisor of the {self.filters} filters, got {self.groups}")
        super().__init__(
            activation, use_bias, weight_init, bias_init, alpha, l2, l1, learning_rate_factor, trainable
        )  # fmt: skip

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        height, width, channels = as_channels("Conv2D", shape)
        if channels % self.groups:
            raise InputError(f"Conv2D: groups: expected a divisor of the {channels} channels of the inputs, got {self.groups}")
        self.windows((height, width))  # refuses images that are too small
        return self.arrays((*self.kernel_size, channels // self.groups, self.filters))

    def forward(self, x: Array, training: bool) -> Array:
        return ops.conv2d(
            as_images("Conv2D", x), self.weight, self.bias if self.use_bias else None, strides=self.strides,
            padding=self.padding, dilation=self.dilation, groups=self.groups, activation=self.activation, alpha=self.alpha,
        )  # fmt: skip

    def windows(self, image: Pair) -> tuple[Window, Window]:
        _, before = lay_windows("Conv2D", image, self.kernel_size, self.strides, self.padding, self.dilation)
        return windows_of(self.kernel_size, self.strides, before, self.dilation)

    @property
    def final_activation(self) -> str | None:
        return self.activation

    def __repr__(self) -> str:
        shown = [f"{self.filters}", _short(self.kernel_size)]
        usual = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1), "groups": 1}
        for name, default in usual.items():
            if (value := getattr(self, name)) != default:
                shown.append(f"{name}={_short(value) if isinstance(value, tuple) else repr(value)}")
        return self._written([*shown, *self._shown()])


def _short(pair: Any) -> str:
    """A pair of two equal ones as one."""
    return repr(pair[0]) if pair[0] == pair[1] and isinstance(pair[0], int) else repr(pair)
