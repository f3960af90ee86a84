"""What a layer says of itself: nobody else asks for its class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import ops
from fastnn.errors import MissingError
from fastnn.initializers import He
from fastnn.layers import BUILT_IN, final_activation

SAYS = {
    "Activation": {"pixelwise", "records_alike", "vectorizes"},
    "Augment": {"draws_random", "pixelwise"},
    "BatchNorm": {"cancels_bias", "keeps_activation", "needs_two_rows", "pixelwise", "records_alike"},
    "Conv2D": {"records_alike"},
    "Dense": {"records_alike", "vectorizes"},
    "Dropout": {"draws_random", "keeps_activation", "pixelwise"},
    "Flatten": {"records_alike", "vectorizes"},
    "GlobalMeanPool2D": {"records_alike"},
    "L2Pool2D": {"records_alike", "vectorizes"},
    "LayerNorm": {"keeps_activation", "records_alike"},
    "MaxPool2D": {"records_alike", "vectorizes"},
    "MeanPool2D": {"records_alike", "vectorizes"},
    "Standardizer": {"pixelwise"},
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_the_layers_say(name: str) -> None:
    names = {"cancels_bias", "draws_random", "keeps_activation", "needs_two_rows", "pixelwise", "records_alike", "vectorizes"}
    assert {each for each in names if getattr(BUILT_IN[name], each)} == SAYS[name]


def test_a_subclass_that_may_compute_something_else_is_neither_vectorized_nor_recorded_once() -> None:
    class Doubled(fastnn.Dense):
        def forward(self, x: Any, training: bool) -> Any:
            return super().forward(x, training) * 2.0

    class Same(fastnn.Dense):
        records_alike = vectorizes = True

    assert (Doubled.vectorizes, Doubled.records_alike) == (False, False)
    assert (Same.vectorizes, Same.records_alike) == (True, True)


def test_a_layer_of_ones_own_may_answer_too() -> None:
    class Centered(fastnn.Layer):
        """x less its mean over the mini-batch."""

        cancels_bias = keeps_activation = True

        def forward(self, x: Any, training: bool) -> Any:
            return x - ops.mean(x, 0)

    class Rectified(fastnn.Layer):
        final_activation = "relu"

        def forward(self, x: Any, training: bool) -> Any:
            return ops.relu(x)

    model = fastnn.Sequential([fastnn.Dense(4), Centered(), Rectified(), fastnn.Dense(2)], seed=0)
    first, last = model.layers[0], model.layers[-1]
    assert isinstance(first, fastnn.Dense)
    assert isinstance(last, fastnn.Dense)
    assert (first.use_bias, last.use_bias) == (False, True)
    assert first.weight_init == He()
    assert last.weight_init != He()
    y = model.build(3)(np.eye(3, dtype=np.float32))
    assert y.shape == (3, 2)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([], None),
        ([fastnn.Dense(2)], None),
        ([fastnn.Dense(2, "softmax")], "softmax"),
        ([fastnn.Dense(2), fastnn.Activation("sigmoid")], "sigmoid"),
        ([fastnn.Activation("sigmoid"), fastnn.Dropout(0.1)], None),
    ],
)
def test_the_final_activation(layers: list[fastnn.Layer], expected: str | None) -> None:
    assert final_activation(layers) == expected


def test_layers_without_their_activation() -> None:
    bare = fastnn.Dense(2, "softmax").without_activation()
    assert bare is not None
    assert bare.final_activation is None
    assert fastnn.Activation("softmax").without_activation() is None
    dropout = fastnn.Dropout(0.5)
    assert dropout.without_activation() is dropout


def test_a_subclass_with_a_forward_of_its_own_ends_in_no_activation_that_it_does_not_name() -> None:
    class Twice(fastnn.Activation):
        def forward(self, x: Any, training: bool) -> Any:
            return ops.softmax(2.0 * x)

    class Named(Twice):
        final_activation = "softmax"

    model = fastnn.Sequential([fastnn.Dense(3), Twice("softmax")], seed=0)
    assert Twice("softmax").final_activation is None
    X, y = np.random.default_rng(0).normal(size=(60, 4)).astype("float32"), np.arange(60) % 3
    model.fit(X, y, loss="mean_squared_error", batch_size=20, epochs=1, verbose=0)
    bare = fastnn.Sequential([fastnn.Dense(3)], seed=0).build(4)
    bare.set_weights(model.weights)
    np.testing.assert_allclose(model(X), ops.softmax(np.asarray(2.0 * bare(X), "float32")), rtol=1e-5)
    assert Named("softmax").final_activation == "softmax"


def test_a_final_activation_without_a_way_to_leave_it_out_is_told() -> None:
    class Soft(fastnn.Layer):
        final_activation = "softmax"

        def forward(self, x: Any, training: bool) -> Any:
            return ops.softmax(x)

    model = fastnn.Sequential([fastnn.Dense(3), Soft()], seed=0)
    with pytest.raises(NotImplementedError, match="Soft has a final_activation and defines no without_activation"):
        model.fit(np.zeros((6, 4), "float32"), np.arange(6) % 3, verbose=0)
    assert not model.built


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unts", r"Dense has no 'unts'; did you mean 'units'\?"),
        ("activaton", r"Dense has no 'activaton'; did you mean 'activation'\?"),
        ("weight", "Dense has no 'weight' here: parameters exist only inside a model"),
        ("bias", "Dense has no 'bias' here: parameters exist only inside a model"),
        ("step", "Dense has no 'step' here: parameters exist only inside a model"),
    ],
)
def test_an_attribute_that_a_layer_does_not_have(name: str, says: str) -> None:
    with pytest.raises(MissingError, match=says):
        getattr(fastnn.Dense(3), name)
    assert getattr(fastnn.Dense(3), name, "none") == "none"
