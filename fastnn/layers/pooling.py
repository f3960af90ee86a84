"""Layers that pool images."""

from __future__ import annotations

from typing import Any, ClassVar

from fastnn import ops
from fastnn.layers.base import Layer
from fastnn.layers.images import as_channels, as_images
from fastnn.ops.dispatch import Array
from fastnn.ops.windows import Pair, Window, as_padding, as_pair, lay_windows, windows_of


class _Pool2D(Layer):
    """A layer that makes one pixel of each window of pixels, channel by channel."""

    options = ("size", "strides", "padding")
    operation: ClassVar[str]

    def __init__(self, size: int | tuple[int, int] = 2, strides: Any = None, padding: Any = "valid") -> None:
        name = type(self).__name__
        self.size = as_pair(name, "size", size)
        self.strides = self.size if strides is None else as_pair(name, "strides", strides)
        self.padding = as_padding(name, padding)

    def forward(self, x: Array, training: bool) -> Array:
        images = as_images(type(self).__name__, x)
        self.windows(images.shape[1:3])  # refuses images in the name of the layer
        y = getattr(ops, self.operation)(images, self.size, strides=self.strides, padding=self.padding)
        return y if images is x else ops.reshape(y, y.shape[:3])

    def windows(self, image: Pair) -> tuple[Window, Window]:
        _, before = lay_windows(type(self).__name__, image, self.size, self.strides, self.padding, touching=True)
        return windows_of(self.size, self.strides, before)

    def forward_vectorized(self, x: Array, grouped: bool) -> Array:
        """The models lie behind the channels, and are as many more of them."""
        if not grouped:
            return self.forward(x, True)
        *_, channels = as_channels(type(self).__name__, x.shape[1:-1])
        y = self.forward(ops.reshape(x, (*x.shape[:3], channels * x.shape[-1])), True)
        return ops.reshape(y, (*y.shape[:3], *x.shape[3:]))

    def __repr__(self) -> str:
        shown = [repr(self.size[0]) if self.size[0] == self.size[1] else repr(self.size)]
        shown += [f"strides={self.strides}"] if self.strides != self.size else []
        shown += [f"padding={self.padding!r}"] if self.padding != "valid" else []
        return self._written(shown)


class MaxPool2D(_Pool2D):
    """y (B, OH, OW, C) = the largest pixel of each window of images x (B, H, W, C), or (B, H, W) of one channel.

        fastnn.MaxPool2D(2)    # (B, 24, 24, 20) -> (B, 12, 12, 20)

    `size`: pixels of a window, a number or (rows, columns), 255 at most; `strides`: from a window to the next one, by default
    the size; `padding`: as in `Conv2D`, of pixels that count for nothing. With "valid", a rest of pixels is in no window.
    Raises InputError where no window fits. Source: Nielsen, Neural Networks and Deep Learning, chapter 6.
    """

    operation = "max_pool2d"
    records_alike = True
    vectorizes = True


class MeanPool2D(_Pool2D):
    """y (B, OH, OW, C) = the mean of the pixels of each window that lie in the image.

        fastnn.MeanPool2D(2)

    Inputs, arguments and errors are those of `MaxPool2D`. Source: LeCun et al. 1998, section II.A.
    """

    operation = "mean_pool2d"
    records_alike = True
    vectorizes = True


class L2Pool2D(_Pool2D):
    """y (B, OH, OW, C) = the square root of the sum of the squares of the pixels of each window.

        fastnn.L2Pool2D(2)

    Inputs, arguments and errors are those of `MaxPool2D`. Source: Nielsen, Neural Networks and Deep Learning, chapter 6.
    """

    operation = "l2_pool2d"
    records_alike = True
    vectorizes = True


class GlobalMeanPool2D(Layer):
    """y (B, C) = the mean of each channel of images x (B, H, W, C); of (B, H, W), y is (B, 1).

        fastnn.Sequential([fastnn.Conv2D(64, 3, activation="relu"), fastnn.GlobalMeanPool2D(), fastnn.Dense(10)])

    Raises InputError for inputs that are no images. Source: Lin, Chen & Yan 2014, Network in network, section 3.2.
    """

    records_alike = True

    def forward(self, x: Array, training: bool) -> Array:
        return ops.mean(as_images("GlobalMeanPool2D", x), (1, 2))
