"""What a layer is: forward mathematics in the vocabulary, and the parameters it needs."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from fastnn.configurations import Keywords, as_number
from fastnn.errors import InputError, MissingError
from fastnn.ops.dispatch import Array
from fastnn.ops.windows import PIXELWISE, Pair, Window
from fastnn.random import DROPOUT


@dataclass(frozen=True)
class Parameter:
    """A trained array: its shape, its initial values (`initial(key, shape, dtype)`), and how training treats it.

    `regularized`: whether L2, L1 and weight decay act on it, with the numbers of `fit` or, where given, its own `l2` and
    `l1`. `learning_rate_factor`: what its learning rate is multiplied by, decay included.
    """

    shape: tuple[int, ...]
    initial: Any
    regularized: bool = False
    l2: float | None = None
    l1: float | None = None
    learning_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        check_training("Parameter", self.l2, self.l1, self.learning_rate_factor)


@dataclass(frozen=True)
class Statistic:
    """An array that the forward pass keeps but that is not trained: its shape and its first value."""

    shape: tuple[int, ...]
    initial: float | np.ndarray


def check_training(
    owner: str, l2: float | None = None, l1: float | None = None, learning_rate_factor: float = 1.0, trainable: bool = True
) -> None:
    """Raise InputError for numbers that training cannot work with."""
    for name, value in {"l2": l2, "l1": l1}.items():
        if value is not None and not 0.0 <= as_number(value) < math.inf:
            raise InputError(f"{owner}: {name}: expected a number >= 0, or None for that of fit, got {value!r}")
    if not 0.0 < as_number(learning_rate_factor) < math.inf:
        raise InputError(
            f"{owner}: learning_rate_factor: expected a number above 0, got {learning_rate_factor!r}; "
            "trainable=False freezes a layer"
        )
    if not isinstance(trainable, bool):
        raise InputError(f"{owner}: trainable: expected True or False, got {trainable!r}")


class Layer(Keywords):
    """One layer. A layer of your own defines `forward` and, where it has any, `parameters`:

        class Residual(fastnn.Layer):
            def parameters(self, shape):
                return {"weight": Parameter((shape[0], shape[0]), fastnn.initializers.He(), regularized=True)}

            def forward(self, x, training):
                return x + ops.relu(x @ self.weight)

    While a step is recorded, `forward` runs on a copy of the layer whose parameters, statistics, random `key` and `step`
    are attributes holding symbols; it returns a symbol and changes nothing. A layer object holds options only, no values,
    and each option is set once: a model has laid out its arrays and recorded its steps by them.
    A layer whose forward pass in training is another one while it is frozen asks for `self.trainable`.
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments, for saving and printing."""
    needs_two_rows: ClassVar[bool] = False
    """Whether training on one row is impossible (batch statistics)."""
    draws_random: ClassVar[bool] = False
    """Whether the layer draws random numbers while it trains."""
    cancels_bias: ClassVar[bool] = False
    """Whether a constant that is added to all its inputs changes nothing, so that a linear layer in front needs no bias."""
    keeps_activation: ClassVar[bool] = False
    """Whether the initial weights of a linear layer in front go by the activation behind this layer."""
    records_alike: ClassVar[bool] = False
    """Whether models with the same options record the same calls, random keys included. Not inherited."""
    vectorizes: ClassVar[bool] = False
    """Whether `forward_vectorized` computes many models at a time. Not inherited."""
    pixelwise: ClassVar[bool] = False
    """Whether, at inference, a pixel of the outputs is made of the same pixel of the inputs alone. Not inherited."""
    feature_names: tuple[str, ...] | None = None
    """The columns of frames that the layer is for, where it is the first; None for all."""
    trainable: bool = True
    """Whether training changes the parameters; see `Sequential.freeze`. It is stored beside the options."""
    purpose: ClassVar[int] = DROPOUT
    """What its `key` is for: a purpose of `fastnn.random`."""

    key: tuple[int, int]
    step: Array

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in ("records_alike", "vectorizes", "pixelwise"):  # a subclass may record something else, and says so itself
            if name not in vars(cls):
                setattr(cls, name, False)
        if "forward" in vars(cls) and "final_activation" not in vars(cls):
            cls.final_activation = Layer.final_activation  # type: ignore[method-assign]
        if "forward" in vars(cls) and "windows" not in vars(cls):
            cls.windows = Layer.windows  # type: ignore[method-assign]

    def __init__(self) -> None:
        """Without options."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.options and name in vars(self):
            raise InputError(
                f"{type(self).__name__}: {name}: the options of a layer do not change; make another layer, a model of it and "
                "the others, and give that the values: made.set_weights(model.weights)"
            )
        super().__setattr__(name, value)

    def parameters(self, shape: tuple[int, ...]) -> Mapping[str, Parameter]:
        """The trained arrays for inputs of `shape` (without the batch axis)."""
        return {}

    def statistics(self, shape: tuple[int, ...]) -> Mapping[str, Statistic]:
        """The arrays kept beside the trained ones."""
        return {}

    @property
    def has_parameters(self) -> bool:
        """Whether the layer declares any, which may be none for some inputs."""
        return type(self).parameters is not Layer.parameters

    def input_map(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Float64 arrays (offset, factor) where the layer is (x - offset) factor, element by element of an example.

        As the first of a network such a layer is computed while examples are read, in float64, and its `forward` is not called.
        """
        return None

    def forward(self, x: Array, training: bool) -> Array:
        """The outputs (B, ...) for inputs (B, ...)."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def forward_vectorized(self, x: Array, grouped: bool) -> Array:
        """The outputs of G models in training; their arrays end in an axis G.

        Inputs are (B, ..., G) where `grouped`, and else (B, ...), the same for all models. Outputs end in the axis G where the
        inputs do or the layer has parameters.
        """
        return self.forward(x, True)

    def windows(self, image: Pair) -> tuple[Window, Window] | None:
        """Of which pixels of inputs with (H, W) of them a pixel of the outputs is made at inference, along rows and columns.

        None: of any. A subclass with a `forward` of its own says so itself.
        """
        return PIXELWISE if self.pixelwise else None

    @property
    def final_activation(self) -> str | None:
        """The name of the activation whose values the outputs are; None for all others.

        A layer that names one defines `without_activation` too. A subclass with a `forward` of its own names none unless it
        says so itself.
        """
        return None

    def without_activation(self) -> Self | None:
        """The layer without its final activation; None where nothing is left of it."""
        if self.final_activation is not None:
            raise NotImplementedError(f"{type(self).__name__} has a final_activation and defines no without_activation")
        return self

    def in_context(self, following: Sequence[Layer]) -> Self:
        """The layer with the options that were left open decided by the layers that follow it."""
        return self

    def bound(self, values: Mapping[str, Any]) -> Self:
        """A copy whose parameters, statistics, `key` and `step` are the attributes given."""
        layer = copy.copy(self)
        vars(layer).update(values)
        return layer

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values."""
        return {name: getattr(self, name) for name in self.options}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        arrays = {attribute for base in type(self).__mro__ for attribute in inspect.get_annotations(base)}
        known = [attribute for attribute in {*dir(self), *arrays} if not attribute.startswith("_")]
        if name not in arrays and (close := difflib.get_close_matches(name, known, n=1, cutoff=0.75)):
            raise MissingError(f"{type(self).__name__} has no {name!r}; did you mean {close[0]!r}?")
        raise MissingError(
            f"{type(self).__name__} has no {name!r} here: parameters exist only inside a model, while forward is recorded"
        )

    def __repr__(self) -> str:
        return self._written(f"{name}={value!r}" for name, value in self.config().items() if value is not None)

    def _written(self, arguments: Iterable[str]) -> str:
        """The layer as a call with these arguments."""
        return f"{type(self).__name__}({', '.join([*arguments, *(() if self.trainable else ('trainable=False',))])})"
