"""`Sequential`: layers one after another, and what is asked of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays, notebooks, ops
from fastnn.configurations import answers_keywords
from fastnn.data import targets
from fastnn.errors import InputTypeError, NotReadyError
from fastnn.layers import final_activation
from fastnn.losses import PROBABILITIES, LossLike, find
from fastnn.network.inference import answers, outputs_of
from fastnn.network.model import ModelState
from fastnn.network.summary import Summary, summarize
from fastnn.training.fit import evaluate, fit, partial_fit, step_program, training_step
from fastnn.training.options import FitOptions

if TYPE_CHECKING:
    import os

    from fastnn.callbacks import Callback
    from fastnn.engines.explain import Explanation
    from fastnn.optimizers import Optimizer
    from fastnn.training.history import History
    from fastnn.training.step import StepFunction


SAY_TASK = "call fit first, load a model, or say it by build(features, loss=..., classes=[...])"
"""What a model needs that does not know its task."""


class Sequential(ModelState):
    """A network of layers, each fed with the outputs of the one before.

    `layers`: a sequence of layers. `seed`: of the initial weights, the shuffles and dropout; drawn and kept if None.
    `dtype`: "float32" or "float64", of parameters and of everything that is computed. `input_scale`: what inputs are
    multiplied by when they are cast to the dtype, such as 1/255 for uint8 images.

    Arrays are rows: X (n, features), or (n, ...) for networks that begin with Flatten. A model holds one flat array, the
    arena, of which each parameter is a part: first the weights (on which L1 and L2 act), then the rest.
    """

    def summary(self) -> Summary:
        """Layers, shapes, parameters, memory and work, to be printed; raises NotReadyError before `build`."""
        return summarize(self)

    def __call__(self, X: Any, *, threads: int | None = None) -> Any:
        """Outputs of the last layer (n, O) in inference mode, in the namespace of X.

        An array of a GPU is predicted on that GPU, any other one on `device`; the result comes in the namespace of X.
        """
        return arrays.to_device(outputs_of(self, X, threads), X)

    def predict_proba(self, X: Any, *, threads: int | None = None) -> Any:
        """Probabilities: softmax or sigmoid of the logits. (n, C), a column for each of `classes_`, both of a yes-or-no output
        as well; or (n, O) for several binary outputs, and for shares.
        """
        shares = self._probabilities(X, threads)
        if self.task is not None and self.task.kind == "binary":
            if isinstance(shares, np.ndarray):
                shares = np.concatenate([1.0 - shares, shares], 1)
            else:
                shares = ops.concatenate([ops.subtract(1.0, shares), shares], 1)
        return arrays.to_device(shares, X)

    def _probabilities(self, X: Any, threads: int | None) -> Any:
        if self.task is None:
            raise NotReadyError(f"probabilities need a loss that says what the outputs mean; {SAY_TASK}")
        if self.task.link in PROBABILITIES:
            return outputs_of(self, X, threads, self.task.link, self.task.link)
        if final_activation(self.layers) not in ("softmax", "sigmoid"):
            raise NotReadyError(f"the loss {self.task.loss} makes no probabilities of outputs without softmax or sigmoid")
        return outputs_of(self, X, threads)

    @property
    def classes_(self) -> np.ndarray:
        """The labels (C,), in the order of the outputs; of a binary task (2,): no, yes."""
        if self.task is None:
            raise NotReadyError(f"the classes are not known yet; {SAY_TASK}")
        if self.task.classes is None:
            raise NotReadyError(f"the model was trained for {self.task.kind}, which have no classes")
        return self.task.classes.copy()

    def predict(self, X: Any, *, threads: int | None = None) -> Any:
        """What `y` was in training: labels (n,), 0/1 (n, O) for several binary outputs, or values for regression, of the shape
        that `y` had, (n,) or (n, O).

        Labels have the dtype that they had in `y`. Those that were class indices come in the namespace of X, any others as a
        NumPy array. Values are what the link of the loss makes of the outputs: after `poisson` the mean, exp(outputs).
        """
        if self.task is None:
            raise NotReadyError(f"whether to predict classes or values is not known yet; {SAY_TASK}; or take model(X)")
        if self.task.kind == "values":  # shares from 0 to 1 where the loss includes a sigmoid, means where it includes an exp
            outputs = outputs_of(self, X, threads, self.task.link, self.task.link)
            return arrays.to_device(outputs[:, 0] if self.task.flat else outputs, X)
        predictions = answers(outputs_of(self, X, threads, self.task.link), self.task.kind, self.task.link)
        if self.task.indices:
            labels = predictions if self.task.classes is None else predictions.astype(self.task.classes.dtype)
            return arrays.to_device(labels, X)
        return targets.decode(self.task, arrays.to_host(predictions))

    @answers_keywords
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        loss: LossLike = "softmax_cross_entropy",
        optimizer: str | Optimizer | None = None,
        batch_size: int | str = 128,
        epochs: int = 5,
        validation_data: tuple[Any, ...] | None = None,
        validation_split: float | None = None,
        sample_weight: Any = None,
        class_weight: Mapping[Any, float] | str | None = None,
        classes: Sequence[Any] | None = None,
        metrics: Sequence[Any] = (),
        label_smoothing: float = 0.0,
        l2: float = 0.0,
        l1: float = 0.0,
        shuffle: bool = True,
        order: Callable[[int], Any] | None = None,
        callbacks: Sequence[Callback] = (),
        resume: str | os.PathLike[str] | bool | None = None,
        steps_per_epoch: int | None = None,
        shard_rows: int | None = None,
        device: str = "auto",
        precision: str = "float32",
        autotune: bool = False,
        threads: int | None = None,
        verbose: int = 1,
    ) -> History:
        """Train on X (n, ...) and y; returns the history, one value an epoch.

        X: rows of numbers: NumPy, CuPy, anything with `__array__` or `__dlpack__`, a pandas or polars frame (its column
        names are kept as `feature_names`), a SciPy sparse matrix or a memory map (made dense and cast per mini-batch), lists
        of rows. Or, without y, an iterable of mini-batches (X, y) or (X, y, weights), or a function that returns one for each
        epoch; they are trained on in their order, each in one step (`steps_per_epoch`: at most so many; schedules need it).

        y: labels (n,) of any kind (class indices, other integers, strings, booleans), one-hot or soft rows (n, C), 0/1
        (n, O) for several binary outputs, or values (n,) or (n, O). `classes`: the labels in the order of the outputs;
        by default sorted. `sample_weight` (n,) and `class_weight` ({label: weight} or "balanced") multiply; the loss is
        then sum(w l)/sum(w).

        `loss`: a name (`fastnn.losses.LOSSES`), with parameters if it has some ("huber:delta=2.0", which is
        `fastnn.losses.huber(delta=2.0)`), or a function of (outputs, targets) in the vocabulary. `optimizer`: a
        configuration or a name; Adam by default. The cost is mean loss + l2/2 sum ||W||^2 + l1 sum |W|, weights only (the
        course notes' lambda/m is `l2` here), with `l2` and `l1` of a layer where it has its own; clipping acts on the
        gradient of the mean loss alone. Frozen layers (see `freeze`) have no penalty. `metrics`: names, functions of (y,
        predictions), or `fastnn.metrics.Metric`s, computed on the validation data, which they need, after each epoch.

        `label_smoothing`: 0 <= s < 1, of the targets t of softmax cross-entropy, (1 - s) t + s / C, and of sigmoid
        cross-entropy, (1 - s) t + s / 2; InputError for other losses. It belongs to the loss: the history's "val_loss", and
        `evaluate` and `partial_fit` where no loss is named, have it too, as it is with PyTorch's and Keras's loss objects;
        accuracy and `metrics` compare with the targets as they are, and so does `evaluate(loss="softmax_cross_entropy")`.

        `validation_data`: a pair (X, y) that loss, accuracy and `metrics` are computed on after each epoch, or (X, y, weights)
        for means that are weighted as those of `evaluate(sample_weight=weights)`. Or `validation_split`, 0 < share < 1: before
        the first epoch this share of the rows of X and y is held back as validation data, drawn by the model's seed as
        `fastnn.datasets.split(rows, sizes=(1 - share, share), seed=model.seed)` does, with `stratify` for a task with classes.
        Both parts keep the order of the rows, and nothing of X is copied. `sample_weight` goes with the rows into both parts;
        `class_weight` is of the training alone ("balanced" by its rows). `history.training_rows` and `history.validation_rows`
        say how many there are. Raises InputError where a part would be empty, where a class has one row only or none to train
        on, and together with `validation_data`, `order` or an iterable of mini-batches.

        `epochs`: passes over the examples. `batch_size`: "all" is one mini-batch of all examples (batch gradient descent),
        which the course advises for up to 2000 of them; 1 is stochastic gradient descent; between them a power of two from 64
        to 512 is usual. "auto" takes the largest power of two, or all, whose buffers fit into half of the memory that is free;
        which it was is in `history.batch_size`. A smaller last mini-batch is trained on; with batch norm a last one of one row
        joins the one before. `shuffle`: every epoch visits the rows in another order, drawn by the model's seed; False: in the
        order that they have. `order(epoch)` returns the indices that an epoch visits instead, in that order, of any length.
        `shard_rows`: shuffle shards of so many rows, and the rows of each, instead of all rows: a memory map larger than
        main memory is then read shard by shard.

        `callbacks`: see `fastnn.callbacks`. `resume`: a checkpoint, or a folder of them, that `callbacks.Checkpoint` wrote:
        the run continues from there, and ends with the same bits as one that was never interrupted. Data, loss, mini-batches,
        order and `validation_split` must be those of that run. `True`: the folder of the Checkpoint among the callbacks, if it
        has one yet.

        `device`: "cpu", "cuda", "cuda:1", ..., or "auto", which takes a GPU where there is one (that of X where X lies on one).
        Data that the GPU has no room for is streamed to it, with the same results. `precision`: of matrix products on a GPU,
        "float32", "tf32" (factors with 10 bits of mantissa, sums in float32) or "bf16" (factors with 7 bits, and what products
        hand to each other is stored so; weights, the optimizer's state, logits and losses stay float32). Evaluation and
        prediction multiply in float32 after "bf16". `autotune`: time the ways to compute each matrix product of a step on this
        GPU before training, and take the fastest: cuBLASLt's algorithms, or kernels of this library. What is found is kept
        beside the compiled kernels for later calls with `autotune=True`; its last bits differ from those of the versioned rule
        that is followed without. `history.autotuned` says whether that was done; a CPU has one way only, and `autotune` does
        nothing there. `threads` changes no bits; by default it is chosen by the size of the step. `verbose`: 0 nothing, 1
        progress.

        history: "loss" (data loss at visit time, weighted by examples), "penalty" beside it where there is an l1 or l2,
        "accuracy" for classes, and with validation data "val_loss", "val_accuracy" or "val_r2" and "val_mae", and the
        metrics.

        Raises, before the first step and with nothing changed, InputError and InputTypeError for what cannot be trained on,
        FileError for a checkpoint; later, with the model at its last whole step, DivergenceError (its last finite one),
        what a callback or an iterable raised, and for a GPU DeviceMemoryError, DeviceError, and DeviceLostError (at the
        step that the host last fetched). While it runs, another thread that predicts sees the weights as they are at that
        moment, in the middle of a step too.
        """
        settings = FitOptions(
            loss=loss, optimizer=optimizer, batch_size=batch_size, epochs=epochs, validation_data=validation_data,
            validation_split=validation_split, sample_weight=sample_weight, class_weight=class_weight, classes=classes,
            metrics=metrics, label_smoothing=label_smoothing, l2=l2, l1=l1, shuffle=shuffle, order=order, callbacks=callbacks,
            resume=resume, steps_per_epoch=steps_per_epoch, shard_rows=shard_rows, device=device, precision=precision,
            autotune=autotune, threads=threads, verbose=verbose,
        )  # fmt: skip
        return fit(self, X, y, settings)

    @answers_keywords
    def partial_fit(
        self,
        X: Any,
        y: Any,
        *,
        loss: LossLike | None = None,
        optimizer: str | Optimizer | None = None,
        classes: Sequence[Any] | None = None,
        sample_weight: Any = None,
        l2: float = 0.0,
        l1: float = 0.0,
        device: str = "auto",
        threads: int | None = None,
    ) -> dict[str, float]:
        """One step on all rows of X as one mini-batch; returns its loss (and accuracy), from before the step.

        `loss` and `optimizer` are those of the last call unless others are given (at first softmax cross-entropy and Adam).
        A schedule of the learning rate goes on from call to call, and counts the updates of the optimizer: it has `per="step"`,
        and does not depend on how long the run is. `classes`: all labels that will come, in the order of the outputs; needed
        in the first call where labels are others than 0, 1, ..., C-1. Errors are those of `fit`.
        """
        last = self.loss or (self.task and (find(self.task.loss) or self.task.loss))
        settings = FitOptions(
            loss=loss or last or "softmax_cross_entropy",
            optimizer=optimizer or self.optimizer, classes=classes, sample_weight=sample_weight, l2=l2, l1=l1, device=device,
            threads=threads,
        )  # fmt: skip
        return partial_fit(self, X, y, settings)

    @answers_keywords
    def training_step(
        self,
        *,
        loss: LossLike = "softmax_cross_entropy",
        optimizer: str | Optimizer | None = None,
        batch_size: int = 128,
        label_smoothing: float = 0.0,
        l2: float = 0.0,
        l1: float = 0.0,
        normalize_weights: bool = True,
        input_gradients: bool = False,
        device: str = "auto",
        precision: str = "float32",
        autotune: bool = False,
        threads: int | None = None,
    ) -> StepFunction:
        """A function that trains on one mini-batch, for loops of one's own: online and reinforcement learning, generators.

            step = model.build(4).training_step(loss="softmax_cross_entropy", optimizer=fastnn.Adam(1e-3), batch_size=32)
            for X, y in mini_batches:
                loss = step(X, y)

        `step(X, y, sample_weight=None)` makes one step and returns the loss of the mini-batch before it, a float on the host:
        on a GPU it waits for the step. X (B, ...) is an array of the model's dtype. y: class indices (B,) where there are
        several outputs and the loss compares classes, else values, shares or 0/1, (B, O) or of one output (B,), integers or of
        the model's dtype. `sample_weight` (B,), of the model's dtype: the loss is sum(w l) / sum(w), as in `fit`; with
        `normalize_weights=False` it is sum(w l) / B, for weights of any sign, such as the advantages of a policy gradient.

        Any number of rows may come, and each has a program of its own, made when it comes first and kept; up to `batch_size`
        rows there is room from the beginning. With `input_gradients=True` a step returns (loss, dX): dX (B, ...) is the
        derivative of that loss with respect to X, before the step.

        A step has the bits of `partial_fit` on the same mini-batch. It counts one step and one epoch, as that does, and goes on
        from whatever the model is: other steps, `fit` and `set_weights` may come between. `optimizer`, `l2`, `l1`, `device`,
        `precision`, `autotune` and `threads` are those of `fit`; schedules those of `partial_fit`. Only shapes, dtypes and the
        range of class indices are checked.

        Raises NotReadyError for a model without parameters, InputError and InputTypeError for options that are invalid and, in
        a step, for arrays of another shape or dtype: then nothing is changed. A step raises DivergenceError where the loss or a
        parameter is NaN or infinite, as it is for such inputs, and what ends one early (Ctrl-C, a fault) goes on to the caller;
        the model is then as it was before the step.
        """
        return training_step(
            self,
            FitOptions(
                loss=loss, optimizer=optimizer, batch_size=batch_size, label_smoothing=label_smoothing, l2=l2, l1=l1,
                device=device, precision=precision, autotune=autotune, threads=threads,
            ),
            normalize_weights,
            input_gradients,
        )  # fmt: skip

    @answers_keywords
    def evaluate(
        self,
        X: Any,
        y: Any,
        *,
        loss: LossLike | None = None,
        metrics: Sequence[Any] = (),
        sample_weight: Any = None,
        threads: int | None = None,
    ) -> dict[str, float]:
        """`{"loss": ..., "accuracy": ...}` for classes, `{"loss": ..., "r2": ..., "mae": ...}` for values, in inference mode.

        `loss` is the one the model was trained with, its label smoothing included, unless another is given; `metrics` as in
        `fit`. r2 is
        1 - sum (y - a)^2 / sum (y - mean y)^2, averaged over outputs (1 where both are 0, 0 where only the second is), as
        scikit-learn defines it; NaN for one example. mae is the mean of |y - a|.
        """
        return evaluate(self, X, y, loss=loss, metrics=metrics, sample_weight=sample_weight, threads=threads)

    def program(
        self,
        batch_size: int = 128,
        *,
        loss: LossLike | None = None,
        optimizer: str | Optimizer | None = None,
        l2: float = 0.0,
        l1: float = 0.0,
        device: str | None = None,
        precision: str = "float32",
        autotune: bool = False,
        threads: int | None = None,
        fused: bool = True,
    ) -> Explanation:
        """One training step as a program for `batch_size` rows: print it, or `explain()` it with measured times.

        It is instantiated on `device`, by default on the one that the model was trained on last. `precision` and `autotune` are
        those of `fit`.
        The loss is the one of the last fit unless another is given; the optimizer is Adam unless another is given.
        """
        return step_program(
            self,
            batch_size,
            loss=loss,
            optimizer=optimizer,
            l2=l2,
            l1=l1,
            device=device,
            precision=precision,
            autotune=autotune,
            threads=threads,
            fused=fused,
        )

    def save(self, path: str | os.PathLike[str] | IO[bytes], *, optimizer: bool = False) -> None:
        """Write the model to a safetensors file, or a binary file object, with `optimizer` the optimizer's state too; see
        `fastnn.checkpoints.save`."""
        from fastnn.storage import model_file  # needs msgspec, which training does without

        model_file.save(self, path, optimizer=optimizer)

    def _repr_html_(self) -> str:
        return notebooks.preformatted(str(self.summary()) if self.built else repr(self))

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}], seed={self.seed}, dtype='{self.dtype}')"


def as_model(model: object) -> Sequential:
    """What was given, if it is a model; InputTypeError for anything else."""
    if not isinstance(model, Sequential):
        raise InputTypeError(f"model: expected a Sequential, got {type(model).__name__}")
    return model
