"""Lines over the course of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.errors import InputError, InputTypeError, nearest
from fastnn.plots import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = Mapping[str, Sequence[float]]

DOTS = 20
"""Points up to which each has a dot; more would hide the line."""
RUNAWAY = 1e3
"""Times its beginning above which a cost has run away, and hides all else on a linear scale."""
FLOWS = {
    "activations": "root mean square of activations",
    "gradients": "root mean square of gradients",
    "parameter_gradients": "root mean square of parameters' gradients",
    "parameters": "root mean square of parameters",
    "updates": "root mean square of updates",
}


def cost_curves(history: Columns, ax: Axes | None = None, *, steps: Any = None) -> Axes:
    """The mean loss of each epoch: of training solid, of validation dashed; beneath them that of each mini-batch, thin.

    `history`: what `fit` returned, or its columns. `steps`: the losses of its mini-batches, in order, as many in every epoch:
    a `fastnn.callbacks.StepLosses` that was among its callbacks, or its `losses`. Training's loss is the mean over the steps
    of an epoch, each before its update; that of validation is measured after the epoch. An epoch's mean stands at its end;
    without whole epochs, mini-batches are counted instead. NaN and infinity leave a gap, and a cost that ran away, to more
    than a thousand times its beginning, is drawn on a logarithmic scale. Raises InputError for a history without a loss, for
    losses that cannot be shared out among its epochs, and where matplotlib is missing, InputTypeError for what is no history.
    """
    losses = None if steps is None else look.numbers("steps", getattr(steps, "losses", steps))
    epochs = len(_check_history(history).get("loss", ()))
    if losses is not None and (losses.ndim != 1 or (epochs and len(losses) % epochs)):
        raise InputError(f"steps: expected as many losses in each of {epochs} epochs, got shape {losses.shape}")
    if losses is None or epochs:
        axes = _curves(history, "loss", "cost", ax)
    else:
        axes = look.frame(look.axes_for(ax), "mini-batch", "cost")
        _count(axes)
    if losses is not None and losses.size:
        x = np.arange(1, len(losses) + 1) * (epochs / len(losses) if epochs else 1.0)
        axes.plot(
            x, losses, color=look.COLORS[5], linewidth=0.5, label="mini-batches", zorder=1.5, marker=_dot(losses), markersize=2
        )
        look.explain(axes)
    for line in axes.get_lines():
        values = look.numbers("loss", line.get_ydata())
        seen = values[np.isfinite(values)]
        if seen.size and seen.min() > 0 and seen.max() > RUNAWAY * seen[0]:
            axes.set_yscale("log")
    return axes


def accuracy_curves(history: Columns, ax: Axes | None = None) -> Axes:
    """The accuracy of each epoch, as `cost_curves`. Raises InputError for the history of a task that has none."""
    return _curves(history, "accuracy", "accuracy", ax)


def gradient_flow(flow: Any, quantity: str = "gradients", *, ax: Axes | None = None) -> Axes:
    """How large a quantity of each layer is over the steps of a training, on a logarithmic scale; a line a layer.

    `flow`: what was recorded, with `steps` (n,), `layers`, their L names, and `quantity`, an array (n, L): "activations",
    "gradients" (with respect to activations), "parameter_gradients", "parameters" or "updates"; what is 0 or NaN leaves a gap.
    Early layers whose gradients lie orders of magnitude below those of late ones learn too slowly: they vanish; above them,
    they explode (Nielsen, chapter 5). The first layers are dark; of more than eight, the first and the last are named. Raises
    InputError for an unknown quantity and for arrays of other shapes, InputTypeError for what has none.
    """
    if quantity not in FLOWS:
        raise InputError(f"quantity: unknown {quantity!r}{nearest(quantity, FLOWS)}")
    look.require_parts(flow, "a GradientFlow", "steps", "layers", quantity)
    steps, values = np.asarray(flow.steps), look.numbers(quantity, getattr(flow, quantity))
    if values.shape != (len(steps), len(flow.layers)):
        raise InputError(f"{quantity}: expected shape {(len(steps), len(flow.layers))}, got {values.shape}")
    axes = look.axes_for(ax)
    count = len(flow.layers)
    for index, (name, column, shade) in enumerate(zip(flow.layers, values.T, look.shades(count), strict=True)):
        seen = np.where(column > 0, column, np.nan)  # nothing of 0 can be seen on a logarithmic scale
        label = look.layer_name(name, index, count)
        axes.plot(steps, seen, color=shade, label=label, marker=_dot(steps), markersize=3)
    axes.set_yscale("log")
    _count(axes)
    return look.frame(axes, "step", FLOWS[quantity])


def learning_rate_finder(result: Any, *, ax: Axes | None = None) -> Axes:
    """The loss over rising learning rates, thin as measured and bold as smoothed, and the suggested rate.

    `result`: with `rates`, `losses` and `smoothed`, all (n,), and `suggestion`, a rate or None. Raises InputError for arrays of
    different lengths, or without an element, InputTypeError for what has none.
    """
    look.require_parts(result, "what find_learning_rate returned", "rates", "losses", "smoothed", "suggestion")
    rates, losses, smoothed = (look.numbers(name, getattr(result, name)) for name in ("rates", "losses", "smoothed"))
    if not (rates.ndim == 1 and rates.size and rates.shape == losses.shape == smoothed.shape):
        raise InputError(
            f"expected rates, losses and smoothed of one shape (n,), got {rates.shape}, {losses.shape} and {smoothed.shape}"
        )
    axes = look.axes_for(ax)
    axes.plot(rates, losses, color=look.COLORS[5], linewidth=0.5, label="mini-batches")
    axes.plot(rates, smoothed, color=look.TRAINING, label="smoothed", marker=_dot(rates), markersize=3)
    if result.suggestion is not None:
        axes.axvline(result.suggestion, color=look.VALIDATION, linestyle="--", label=f"suggestion {result.suggestion:.2g}")
    axes.set_xscale("log")
    seen = np.concatenate([smoothed, losses])
    first, least = smoothed[0], np.min(seen, where=np.isfinite(seen), initial=np.inf)
    if np.inf > first > least:  # a loss that runs away would hide the valley
        axes.set_ylim(least - 0.1 * (first - least), first + 0.5 * (first - least))
    return look.frame(axes, "learning rate", "cost")


def _curves(history: Columns, column: str, label: str, ax: Axes | None) -> Axes:
    _check_history(history)
    look.require()
    kinds = (("training", column, look.TRAINING, "-"), ("validation", f"val_{column}", look.VALIDATION, "--"))
    shown = [(name, history[key], color, dashes) for name, key, color, dashes in kinds if key in history]
    if not shown:
        raise InputError(f"the history has no {column!r}; it has {', '.join(history) or 'nothing'}")
    lines = [(name, look.numbers(column, values), color, dashes) for name, values, color, dashes in shown]
    axes = look.axes_for(ax)
    for name, values, color, dashes in lines:
        axes.plot(range(1, len(values) + 1), values, dashes, color=color, label=name, marker=_dot(values), markersize=3)
    _count(axes)
    return look.frame(axes, "epoch", label)


def _check_history(history: Any) -> Columns:
    if not isinstance(history, Mapping):
        raise InputTypeError(f"history: expected what fit returned, a dict of columns, got {type(history).__name__}")
    return history


def _dot(values: Sequence[float] | np.ndarray) -> str | None:
    return "o" if len(values) <= DOTS else None


def _count(axes: Axes) -> None:
    """Write integers along x alone, of a single one too."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
