"""Optimizers: immutable configurations of the update kernels. Their state (one array a slot) belongs to the model.

Notation: w a parameter; g its gradient, clipped, with the L2 and L1 penalties of the cost added; rate the learning rate
of the step; t the number of the update since the state began, counted from 1. v, m and s start at 0.

Clipping comes first and in this order: `clip_value` limits each element of the gradient to [-clip_value, clip_value];
`clip_norm` then multiplies the whole gradient by min(1, clip_norm / norm), with the norm of all parameters' gradients
together (Pascanu, Mikolov & Bengio 2013, section 3.2). None turns either off. The penalties are not clipped.

Layers may multiply the learning rate by a factor (`learning_rate_factor`): rate is then the product, the weight decay of AdamW
included. Frozen layers have no gradient, neither in the norm nor in the state.

Where epsilon stands matters, since libraries differ. Adam here adds it to the root of the *corrected* mean square,
sqrt(s / (1 - beta2^t)) + epsilon, as do the algorithm of Kingma & Ba 2015, PyTorch and optax; Keras adds it to sqrt(s) and
corrects afterwards (the paper's "epsilon hat", end of section 2), which in the first steps acts as a larger epsilon. The
values differ too: 1e-8 here, in PyTorch and in optax, 1e-7 in Keras.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnn.configurations import Configuration, check_names, set_number, set_switch
from fastnn.errors import InputError, nearest
from fastnn.schedules import Schedule, as_schedule
from fastnn_kernels.contract import UPDATES

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Optimizer(Configuration):
    """The base of all optimizers: a learning rate (a number or a schedule), clipping, and what a run asks of them."""

    types: ClassVar[dict[str, type[Configuration]]] = {}

    learning_rate: float | Schedule = 0.01
    clip_norm: float | None = field(default=None, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        schedule = as_schedule(self.learning_rate)
        is_number = not isinstance(self.learning_rate, (Schedule, Mapping))
        object.__setattr__(self, "learning_rate", float(self.learning_rate) if is_number else schedule)  # type: ignore[arg-type]
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                set_number(self, name, above=0)

    @property
    def kernel(self) -> str:
        """The name of the update kernel."""
        raise NotImplementedError

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the arrays of state, each as large as the parameters."""
        return UPDATES[self.kernel].slots

    @property
    def weight_decay(self) -> float:
        """The decoupled weight decay of the weights; 0 for an optimizer that has none."""
        return 0.0

    def attributes(self) -> dict[str, float | bool]:
        """The attributes of the update kernel; 0.0 stands for no clipping."""
        return {"clip_value": self.clip_value or 0.0, "clip_norm": self.clip_norm or 0.0, **self._numbers()}

    def _numbers(self) -> dict[str, float | bool]:
        return {}

    @property
    def _corrected(self) -> tuple[float, float]:
        """The betas of the two bias corrections; 0 for a correction of 1."""
        return 0.0, 0.0

    def scalars(self, steps: Integers, rates: Floats) -> Floats:
        """The table (len(steps), 3) of the update kernels: rate, 1 / (1 - beta1^t), 1 / (1 - beta2^t), in float64.

        `steps` are the numbers t of the updates, from 1; `rates` their learning rates. Corrections are 1 where the
        optimizer has none. 1 - beta^t is taken as -expm1(t * log(beta)): subtracting would lose half the digits of the
        first steps for a beta near 1.
        """
        steps = np.asarray(steps, np.int64)
        if steps.size and steps.min() < 1:
            raise InputError(f"update numbers: expected at least 1, got {steps.min()}")
        table = np.ones((len(steps), 3))
        table[:, 0] = rates
        for column, beta in enumerate(self._corrected, start=1):
            if beta > 0:
                with np.errstate(under="ignore"):
                    table[:, column] = -1.0 / np.expm1(steps * math.log(beta))
        return table


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with classical or Nesterov momentum where `momentum` is above 0.

        momentum = 0          w -= rate * g
        momentum = beta       v = beta * v + g;  w -= rate * v
        nesterov              v = beta * v + g;  w -= rate * (g + beta * v)

    Sutskever, Martens, Dahl & Hinton 2013, section 2, with the rate taken out of v, as in PyTorch: a change of the rate
    then acts at once on the whole step (theirs, v = beta * v - rate * g, is the same while the rate is constant). Nesterov's is
    written in the shifted variable, at which the gradient is taken. Plain descent: Nielsen's book, chapters 1 and 3.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "momentum", least=0, below=1)
        set_switch(self, "nesterov")
        if self.nesterov and self.momentum == 0:
            raise InputError("SGD: nesterov=True expected a momentum above 0, such as 0.9, got 0")

    @property
    def kernel(self) -> str:
        if self.momentum == 0:
            return "sgd"
        return "nesterov" if self.nesterov else "momentum"

    def _numbers(self) -> dict[str, float | bool]:
        return {"beta": self.momentum} if self.momentum else {}


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Momentum as an exponentially weighted average of the gradients (see `fastnn.averages`), without bias correction.

        v = beta * v + (1 - beta) * g;  w -= rate * v

    Andrew Ng's course, "Gradient descent with momentum", where beta is 0.9: about the mean of the last ten
    gradients. While the rate is constant this is `SGD(rate * (1 - beta), momentum=beta)`: with beta = 0.9 a tenth of the
    classical step.
    """

    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "beta", least=0, below=1)

    @property
    def kernel(self) -> str:
        return "averaged_momentum"

    def _numbers(self) -> dict[str, float | bool]:
        return {"beta": self.beta}


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """The gradient divided by the root of the running mean of its square.

        s = beta * s + (1 - beta) * g^2
        w -= rate * g / (sqrt(s) + epsilon)         the default
        w -= rate * g / sqrt(s + epsilon)           epsilon_inside=True

    Tieleman & Hinton 2012 (lecture 6.5 of "Neural networks for machine learning"); both places of epsilon occur in the
    notes on Andrew Ng's course, where epsilon only keeps the divisor from 0. The course's beta is `rho` in
    Keras (default 0.9), `alpha` in PyTorch (0.99) and `decay` in optax (0.9). PyTorch adds epsilon outside the root, Keras
    and (by default) optax inside.
    """

    learning_rate: float | Schedule = 1e-3
    beta: float = 0.9
    epsilon: float = 1e-8
    epsilon_inside: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "beta", least=0, below=1)
        set_number(self, "epsilon", above=0)
        set_switch(self, "epsilon_inside")

    @property
    def kernel(self) -> str:
        return "rmsprop"

    def _numbers(self) -> dict[str, float | bool]:
        return {"beta": self.beta, "epsilon": self.epsilon, "epsilon_inside": self.epsilon_inside}


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """The gradient divided by the root of the sum of all its squares: each parameter has a rate of its own, which only falls.

        s += g^2
        w -= rate * g / (sqrt(s) + epsilon)

    Duchi, Hazan & Singer 2011, section 1.1 (the diagonal form). s starts at 0 and epsilon is outside the root, as in PyTorch;
    Keras and optax start at 0.1, and optax puts epsilon inside.
    """

    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "epsilon", above=0)

    @property
    def kernel(self) -> str:
        return "adagrad"

    def _numbers(self) -> dict[str, float | bool]:
        return {"epsilon": self.epsilon}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moment estimation: bias-corrected averages of the gradient (see `Momentum`) and of its square (see `RMSprop`).

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g^2
        w -= rate * m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + epsilon)

    Kingma & Ba 2015, algorithm 1 (section 2), where s is called v. Epsilon is outside the root and after the correction:
    as in PyTorch and optax, not as in Keras (see the module).
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "beta1", least=0, below=1)
        set_number(self, "beta2", least=0, below=1)
        set_number(self, "epsilon", above=0)

    @property
    def kernel(self) -> str:
        return "adam"

    def _numbers(self) -> dict[str, float | bool]:
        return {"beta1": self.beta1, "beta2": self.beta2, "epsilon": self.epsilon}

    @property
    def _corrected(self) -> tuple[float, float]:
        return self.beta1, self.beta2


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: first w -= rate * weight_decay * w, then the step of Adam.

    Loshchilov & Hutter 2019, algorithm 2, for weights only; biases and the scales and shifts of normalization are not
    decayed. As in PyTorch and optax the decay is multiplied by the learning rate; in the paper by the schedule's multiplier
    alone, so that its lambda is our weight_decay times the learning rate that the schedule multiplies.
    """

    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "weight_decay", least=0)


@dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of an average of the gradients: every weight moves by the learning rate, one way or the other.

        w -= rate * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g

    Chen et al. 2023, Symbolic discovery of optimization algorithms, program 1. Rates are 3 to 10 times smaller than Adam's,
    and the decay larger by as much (section 5). Weights alone are decayed, before the step, as in `AdamW`.
    """

    learning_rate: float | Schedule = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_number(self, "beta1", least=0, below=1)
        set_number(self, "beta2", least=0, below=1)
        set_number(self, "weight_decay", least=0)

    @property
    def kernel(self) -> str:
        return "lion"

    def _numbers(self) -> dict[str, float | bool]:
        return {"beta1": self.beta1, "beta2": self.beta2}


Optimizer.types.update({made.__name__: made for made in (SGD, Momentum, RMSprop, Adagrad, Adam, AdamW, Lion)})

NAMES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "sgd": (SGD, {}),
    "momentum": (Momentum, {}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (RMSprop, {}),
    "adagrad": (Adagrad, {}),
    "adam": (Adam, {}),
    "adamw": (AdamW, {}),
    "lion": (Lion, {}),
}
"""The names of `by_name`: the class, and what differs from its defaults."""


def by_name(name: str, **hyperparameters: Any) -> Optimizer:
    """The optimizer of that name with its defaults, except for `hyperparameters`.

    "momentum" is `Momentum`, the averaged form; the classical one is by_name("sgd", momentum=0.9).
    """
    if not isinstance(name, str) or name not in NAMES:
        raise InputError(f"unknown optimizer {name!r}{nearest(name, NAMES)}")
    made, defaults = NAMES[name]
    check_names(made, hyperparameters)
    return made(**{**defaults, **hyperparameters})


__all__ = ["NAMES", "SGD", "Adagrad", "Adam", "AdamW", "Lion", "Momentum", "Optimizer", "RMSprop", "by_name"]
