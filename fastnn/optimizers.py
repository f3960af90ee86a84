"""Optimizers: immutable configurations of the update kernels. Their state (one array a slot) belongs to the model.

Notation: w a parameter; g its gradient, clipped, with the L2 and L1 penalties of the cost added; rate the learning rate
of the step; t the number of the update since the state began, counted from 1. v, m and s start at 0.

Clipping comes first and in this order: `clip_value` limits each element of the gradient to [-clip_value, clip_value];
`clip_norm` then multiplies the whole gradient by min(1, clip_norm / norm), with the norm of all parameters' gradients
together (Pascanu, Mikolov & Bengio 2013, section 3.2). None turns either off. The penalties are not clipped.

`ema`, 0 < ema < 1, keeps the exponential moving average a of the parameters beside them: after each step

    a = ema * a + (1 - ema) * w

with the new w: about the last 1 / (1 - ema) steps count. a starts from the parameters before the first step, as in Keras
(`use_ema=True, ema_momentum=ema`) and in PyTorch (`swa_utils.get_ema_multi_avg_fn(ema)`), and there is no bias correction.
It is the slot `average` of `Sequential.optimizer_state`; `Sequential.averaged` makes a model of it. Another `ema` in the next
`fit` continues it. The update kernel computes a + (1 - ema) * (w - a), so that the average of what does not move is exactly
that; in frozen layers a = w. The steps have the same bits with and without it. None or 0: no average.

Layers may multiply the learning rate by a factor (`learning_rate_factor`): rate is then the product, the weight decay of AdamW
included. Frozen layers have no gradient, neither in the norm nor in the state.

Where epsilon stands matters, since libraries differ. Adam here adds it to the root of the *corrected* mean square,
sqrt(s / (1 - beta2^t)) + epsilon, as do the algorithm of Kingma & Ba 2015, PyTorch and optax; Keras adds it to sqrt(s) and
corrects afterwards (the paper's "epsilon hat", end of section 2), which in the first steps acts as a larger epsilon. The
values differ too: 1e-8 here, in PyTorch and in optax, 1e-7 in Keras. `epsilon_hat=True` is the place of Keras, and of
scikit-learn. With `epsilon_inside=True` it is added under the root, sqrt(s / (1 - beta2^t) + epsilon), which is `eps_root` in
optax.

NumPy and the schedules are loaded when an optimizer is made or used: the command line reads names and defaults for its help.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fastnn.configurations import Configuration, check_names, number, set_number, set_numbers, set_switch
from fastnn.errors import InputError, nearest
from fastnn_kernels.contract import SCALARS, UPDATES, with_average

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fastnn.schedules import Schedule

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Optimizer(Configuration):
    """The base of all optimizers: a learning rate (a number or a schedule), clipping, an average, and what a run asks."""

    types: ClassVar[dict[str, type[Configuration]]] = {}

    learning_rate: float | Schedule = 0.01
    clip_norm: float | None = field(default=None, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)
    ema: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        from fastnn.schedules import Schedule, as_schedule

        schedule = as_schedule(self.learning_rate)
        is_number = not isinstance(self.learning_rate, (Schedule, Mapping))
        object.__setattr__(self, "learning_rate", float(self.learning_rate) if is_number else schedule)  # type: ignore[arg-type]
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                set_number(self, name, above=0)
        if self.ema is not None:
            set_number(self, "ema", least=0, below=1)
            object.__setattr__(self, "ema", self.ema or None)
        set_numbers(self)

    @property
    def kernel(self) -> str:
        """The name of the update kernel that makes a step."""
        raise NotImplementedError

    @property
    def update_kernel(self) -> str:
        """The name of the update kernel that a program calls: `kernel`, or with `ema` the one that averages as well."""
        return self.kernel if self.ema is None else with_average(self.kernel)

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the arrays of state, each as large as the parameters."""
        return UPDATES[self.update_kernel].slots

    @property
    def weight_decay(self) -> float:
        """The decoupled weight decay of the weights; 0 for an optimizer that has none."""
        return 0.0

    def attributes(self) -> dict[str, float | bool]:
        """The attributes of the update kernel; 0.0 stands for no clipping."""
        average = {} if self.ema is None else {"ema": self.ema}
        return {"clip_value": self.clip_value or 0.0, "clip_norm": self.clip_norm or 0.0, **self._numbers(), **average}

    def _numbers(self) -> dict[str, float | bool]:
        """The attributes of the kernel beside clipping: the fields that are called so."""
        return {name: getattr(self, name) for name in UPDATES[self.kernel].attributes}

    def _corrections(self, steps: Integers) -> dict[str, Floats]:
        """By column of `SCALARS`, what `scalars` writes where it is not 1."""
        return {}

    def scalars(self, steps: Integers, rates: Floats) -> Floats:
        """The table (len(steps), len(SCALARS)) of the update kernels in float64: the rates, and corrections such as
        1 / (1 - beta1^t), 1 where the optimizer has none.

        `steps` are the numbers t of the updates, from 1; `rates` their learning rates. The row of a step depends on t and its
        rate alone, whatever other steps are asked with it.
        """
        import numpy as np

        steps = np.asarray(steps, np.int64)
        if steps.size and np.minimum.reduce(steps) < 1:
            raise InputError(f"update numbers: expected at least 1, got {steps.min()}")
        with np.errstate(over="ignore", under="ignore"):  # of exponents, where a power is 0
            columns = {"rate": rates, **self._corrections(steps)}
        table = np.ones((len(steps), len(SCALARS)))
        for name, values in columns.items():
            table[:, SCALARS.index(name)] = values
        return table


def _complement(beta: float, steps: Integers) -> Any:
    """1 - beta^t, as -expm1(t * log(beta)): subtracting would lose half the digits of the first steps for a beta near 1."""
    import numpy as np

    return -np.expm1(steps * math.log(beta)) if beta > 0 else 1.0


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

    momentum: float = number(0.0, least=0, below=1)
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
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

    beta: float = number(0.9, least=0, below=1)

    @property
    def kernel(self) -> str:
        return "averaged_momentum"


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
    beta: float = number(0.9, least=0, below=1)
    epsilon: float = number(1e-8, above=0)
    epsilon_inside: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_switch(self, "epsilon_inside")

    @property
    def kernel(self) -> str:
        return "rmsprop"


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """The gradient divided by the root of the sum of all its squares: each parameter has a rate of its own, which only falls.

        s += g^2
        w -= rate * g / (sqrt(s) + epsilon)

    Duchi, Hazan & Singer 2011, section 1.1 (the diagonal form). s starts at 0 and epsilon is outside the root, as in PyTorch;
    Keras and optax start at 0.1, and optax puts epsilon inside.
    """

    epsilon: float = number(1e-10, above=0)

    @property
    def kernel(self) -> str:
        return "adagrad"


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moment estimation: bias-corrected averages of the gradient (see `Momentum`) and of its square (see `RMSprop`).

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g^2
        w -= rate * m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + epsilon)         the default
        w -= rate * m / (1 - beta1^t) / sqrt(s / (1 - beta2^t) + epsilon)           epsilon_inside=True
        w -= rate * m / (1 - beta1^t) * sqrt(1 - beta2^t) / (sqrt(s) + epsilon)     epsilon_hat=True

    Kingma & Ba 2015, algorithm 1 (section 2), where s is called v. Epsilon is outside the root and after the correction:
    as in PyTorch and optax; inside, it is `eps_root` of optax. Before the correction it is the paper's "epsilon hat", as in
    Keras and scikit-learn.
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = number(0.9, least=0, below=1)
    beta2: float = number(0.999, least=0, below=1)
    epsilon: float = number(1e-8, above=0)
    epsilon_inside: bool = field(default=False, kw_only=True)
    epsilon_hat: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        set_switch(self, "epsilon_inside")
        set_switch(self, "epsilon_hat")

    @property
    def kernel(self) -> str:
        return "adam"

    def scalars(self, steps: Integers, rates: Floats) -> Floats:
        table = super().scalars(steps, rates)
        if self.epsilon_hat:  # the correction of the mean square is the rate's, and none of the square's
            of_squares = SCALARS.index("correction2")
            table[:, SCALARS.index("rate")] /= table[:, of_squares] ** 0.5
            table[:, of_squares] = 1.0
        return table

    def _corrections(self, steps: Integers) -> dict[str, Floats]:
        return {"correction1": 1.0 / _complement(self.beta1, steps), "correction2": 1.0 / _complement(self.beta2, steps)}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: first w -= rate * weight_decay * w, then the step of Adam.

    Loshchilov & Hutter 2019, algorithm 2, for weights only; biases and the scales and shifts of normalization are not
    decayed. As in PyTorch and optax the decay is multiplied by the learning rate; in the paper by the schedule's multiplier
    alone, so that its lambda is our weight_decay times the learning rate that the schedule multiplies.
    """

    weight_decay: float = number(0.01, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon_hat and self.weight_decay:
            raise InputError("AdamW: epsilon_hat changes the rate of the step, which weight_decay is multiplied by; use Adam")


@dataclass(frozen=True)
class NAdam(Adam):
    """Adam with Nesterov momentum, which is built up over the first steps: the gradient takes part in its own step at once.

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g^2
        mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2),  P_t = mu_1 mu_2 ... mu_t
        w -= rate * ((1 - mu_t) / (1 - P_t) * g + mu_(t+1) / (1 - P_(t+1)) * m) / (sqrt(s / (1 - beta2^t)) + epsilon)

    Dozat 2016, Incorporating Nesterov momentum into Adam. Epsilon, which `epsilon_inside` puts under the root as in `Adam`, and
    the schedule of mu are those of PyTorch, which rounds P_t to float32 unless float64 is its default; in optax mu_t is beta1
    at every t.
    """

    learning_rate: float | Schedule = 2e-3
    momentum_decay: float = number(4e-3, least=0)

    @property
    def kernel(self) -> str:
        return "nadam"

    def _corrections(self, steps: Integers) -> dict[str, Floats]:
        import numpy as np

        t = steps.astype(np.float64)
        now, following = (0.5 * np.exp(self._decay * times) for times in (t, t + 1.0))  # mu_t is beta1 * (1 - now)
        return {
            "correction1": self.beta1 * (1.0 - following) / -np.expm1(self._log_product(t + 1.0)),
            "correction2": 1.0 / _complement(self.beta2, steps),
            "gradient_factor": (1.0 - self.beta1 + self.beta1 * now) / -np.expm1(self._log_product(t)),
        }

    @property
    def _decay(self) -> float:
        return self.momentum_decay * math.log(0.96)

    def _log_product(self, t: Floats) -> Floats:
        """log(P_t) = t * log(beta1) + the sum of log(1 - q^i / 2) over i = 1 .. t, with q = 0.96^momentum_decay.

        In the power series of the logarithm the sum over i is a geometric one: q^k (1 - q^(k t)) / (1 - q^k) for the k-th term.
        So a step costs the same whatever t is, and needs none of those before it. 50 terms leave out less than 2^-54 of it.
        """
        import numpy as np

        logarithm = t * (math.log(self.beta1) if self.beta1 > 0 else -math.inf)
        felt = logarithm > -40.0  # where P_t is below 2^-57, 1 - P_t is 1 whatever the sum is
        t, total = t[felt], np.zeros(np.count_nonzero(felt))
        for k in range(1, 51):
            of_k = k * self._decay
            terms = math.exp(of_k) * np.expm1(of_k * t) / math.expm1(of_k) if of_k < 0 else t
            total += terms * (0.5**k / k)
        logarithm[felt] -= total
        return logarithm


@dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of an average of the gradients: every weight moves by the learning rate, one way or the other.

        w -= rate * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g

    Chen et al. 2023, Symbolic discovery of optimization algorithms, program 1. Rates are 3 to 10 times smaller than Adam's,
    and the decay larger by as much (section 5). Weights alone are decayed, before the step, as in `AdamW`.
    """

    learning_rate: float | Schedule = 1e-4
    beta1: float = number(0.9, least=0, below=1)
    beta2: float = number(0.99, least=0, below=1)
    weight_decay: float = number(0.0, least=0)

    @property
    def kernel(self) -> str:
        return "lion"


NAMES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "sgd": (SGD, {}),
    "momentum": (Momentum, {}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (RMSprop, {}),
    "adagrad": (Adagrad, {}),
    "adam": (Adam, {}),
    "adamw": (AdamW, {}),
    "nadam": (NAdam, {}),
    "lion": (Lion, {}),
}
"""The names of `by_name`: the class, and what differs from its defaults."""

Optimizer.types.update({cls.__name__: cls for cls, _ in NAMES.values()})


def by_name(name: str, **hyperparameters: Any) -> Optimizer:
    """The optimizer of that name with its defaults, except for `hyperparameters`.

    "momentum" is `Momentum`, the averaged form; the classical one is by_name("sgd", momentum=0.9).
    """
    if not isinstance(name, str) or name not in NAMES:
        raise InputError(f"unknown optimizer {name!r}{nearest(name, NAMES)}")
    optimizer_class, defaults = NAMES[name]
    check_names(optimizer_class, hyperparameters)
    return optimizer_class(**{**defaults, **hyperparameters})


__all__ = ["NAMES", "SGD", "Adagrad", "Adam", "AdamW", "Lion", "Momentum", "NAdam", "Optimizer", "RMSprop", "by_name"]
