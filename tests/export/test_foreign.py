"""Networks of scikit-learn, PyTorch and Keras as models, beside what they predict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor

import fastnn
from fastnn.errors import FileError, FormatError, InputError, InputTypeError

rng = np.random.default_rng(6)
X = rng.standard_normal((60, 5))
NAMES = np.array(["low", "middle", "high"])[(X[:, 0] > -0.4) * 1 + (X[:, 0] > 0.4)]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# scikit-learn.


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("y", [NAMES, NAMES == "low", np.stack([X[:, 0] > 0, X[:, 1] > 0], 1)], ids=["three", "two", "several"])
def test_a_classifier_of_scikit_learn(y: np.ndarray, activation: str) -> None:
    theirs = MLPClassifier((9, 4), activation, max_iter=20, random_state=0).fit(X, y)
    model = fastnn.from_sklearn(theirs)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
    assert model.dtype == np.float64


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_regressor_of_scikit_learn(loss: str, outputs: int) -> None:
    if loss == "poisson" and "loss" not in MLPRegressor().get_params():
        pytest.skip("the loss came with scikit-learn 1.7")
    y = np.abs(X[:, :outputs]) if outputs > 1 else np.abs(X[:, 0])
    given = {} if loss == "squared_error" else {"loss": loss}
    theirs = MLPRegressor(**given, max_iter=20, random_state=0).fit(X, y)
    model = fastnn.from_sklearn(theirs)
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), rtol=1e-9)


def test_a_classifier_of_scikit_learn_is_trained_further_and_saved(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.astype(np.float32), columns=list("abcde"))
    model = fastnn.from_sklearn(MLPClassifier((9,), max_iter=2, random_state=0).fit(frame, NAMES))
    assert (model.dtype, model.feature_names) == (np.float32, tuple("abcde"))
    before = model.evaluate(frame, NAMES)["loss"]
    model.fit(frame, NAMES, epochs=30, batch_size=20, verbose=0)
    assert model.evaluate(frame, NAMES)["loss"] < before
    model.save(tmp_path / "model.safetensors")
    assert fastnn.load(tmp_path / "model.safetensors").predict(frame).tolist() == model.predict(frame).tolist()


def test_our_own_estimators_are_read_as_well() -> None:
    ours = fastnn.estimators.MLPClassifier((7,), max_iter=5, random_state=0, batch_norm=True).fit(X, NAMES)
    np.testing.assert_allclose(fastnn.from_sklearn(ours).predict_proba(X), ours.predict_proba(X), atol=1e-12)


def test_what_is_no_perceptron_of_scikit_learn() -> None:
    with pytest.raises(InputTypeError, match="expected an MLPClassifier or MLPRegressor"):
        fastnn.from_sklearn(object())
    with pytest.raises(InputError, match="not fitted yet"):
        fastnn.from_sklearn(MLPClassifier())
    with pytest.raises(InputError, match="at least two classes"):
        fastnn.from_sklearn(MLPClassifier(max_iter=2).fit(X, np.ones(60)))


def test_labels_keep_their_dtype() -> None:
    labels = (X[:, 0] > 0).astype(np.uint8)
    theirs = MLPClassifier((4,), max_iter=2).fit(X, labels)
    assert fastnn.from_sklearn(theirs).predict(X).dtype == theirs.predict(X).dtype == np.uint8


# PyTorch.


def networks(nn: Any) -> dict[str, Any]:
    linear, inside = nn.Linear, nn.Sequential(nn.Linear(5, 8), nn.Sequential(nn.SiLU(), nn.Dropout(0.5)))
    norm = nn.BatchNorm1d(8, eps=1e-2, momentum=0.3)
    return {
        "one": linear(5, 3),
        "plain": nn.Sequential(linear(5, 8), nn.ReLU(), linear(8, 3, bias=False), nn.Softmax(dim=-1)),
        "norms": nn.Sequential(nn.BatchNorm1d(5), linear(5, 8), norm, nn.GELU(), nn.LayerNorm(8), linear(8, 2)),
        "nested": nn.Sequential(nn.Flatten(), inside, linear(8, 1)),
        "twice": nn.Sequential(linear(5, 8), nn.Tanh(), nn.Sigmoid(), linear(8, 1), nn.Identity(), nn.LogSoftmax(dim=1)),
        "others": nn.Sequential(
            linear(5, 6), nn.ELU(0.7), linear(6, 6), nn.LeakyReLU(0.2), linear(6, 6), nn.Mish(), linear(6, 6), nn.Softplus(),
            linear(6, 2),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["one", "plain", "norms", "nested", "twice", "others"])
def test_a_network_of_pytorch(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = networks(torch.nn)[name].to(getattr(torch, dtype))
    data = torch.tensor(X.astype(dtype))
    for _ in range(3):
        theirs(data)  # batch norm's statistics move
    theirs.eval()
    model = fastnn.from_torch(theirs)
    tolerance = 1e-6 if dtype == "float32" else 1e-7  # PyTorch's Softplus is linear from 20 on, which is off by 2e-9
    np.testing.assert_allclose(model(X.astype(dtype)), theirs(data).detach().numpy(), rtol=10 * tolerance, atol=tolerance)
    assert model.dtype == dtype


def test_a_network_of_pytorch_is_trained_further() -> None:
    torch = pytest.importorskip("torch")
    model = fastnn.from_torch(networks(torch.nn)["plain"])
    assert [type(layer).__name__ for layer in model.layers] == ["Dense", "Dense"]
    model.fit(X.astype(np.float32), NAMES, epochs=40, batch_size=20, optimizer=fastnn.Adam(0.02), verbose=0)
    assert model.evaluate(X, NAMES)["accuracy"] > 0.8


def test_modules_without_a_counterpart_are_named() -> None:
    nn = pytest.importorskip("torch").nn

    class Own(nn.Module):  # type: ignore[misc, name-defined]
        pass

    refused = {
        "1 (Conv2d)": nn.Sequential(nn.Linear(5, 3), nn.Conv2d(1, 1, 1)),
        "1.0 (Softplus)": nn.Sequential(nn.Linear(5, 3), nn.Sequential(nn.Softplus(beta=2))),
        "1 (GELU)": nn.Sequential(nn.Linear(5, 3), nn.GELU(approximate="tanh")),
        "0 (Softmax)": nn.Sequential(nn.Softmax(dim=0)),
        "1 (LayerNorm)": nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3, elementwise_affine=False)),
        "1 (BatchNorm1d)": nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        "the module (Own)": Own(),
    }
    for place, module in refused.items():
        with pytest.raises(InputError) as caught:
            fastnn.from_torch(module)
        assert str(caught.value).startswith(f"from_torch: {place} has no counterpart here"), place
    with pytest.raises(InputError, match="no Linear layer"):
        fastnn.from_torch(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputTypeError, match=r"torch\.nn\.Module"):
        fastnn.from_torch([1, 2])
    with pytest.raises(InputTypeError, match="float16"):
        fastnn.from_torch(nn.Linear(5, 3).half())


def test_modules_that_are_there_twice() -> None:
    torch = pytest.importorskip("torch")
    nn, data = torch.nn, torch.tensor(X)
    act, same = nn.ReLU(), nn.Linear(5, 5)
    block = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    for theirs in (
        nn.Sequential(nn.Linear(5, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 3)),
        nn.Sequential(same, nn.ReLU(), same),
        nn.Sequential(block, block),
    ):
        theirs.double()
        np.testing.assert_allclose(fastnn.from_torch(theirs)(X), theirs(data).detach().numpy(), atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_modules_that_compute_something_else_than_their_kind() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    hooked = nn.Linear(5, 3)
    hooked.register_forward_hook(lambda module, inputs, outputs: outputs + 1)

    class Sequential(nn.Sequential):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return super().forward(x) + 1

    class Plain(nn.Sequential):  # type: ignore[misc, name-defined]
        pass

    for module in (
        nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 3))), nn.Sequential(nn.utils.spectral_norm(nn.Linear(5, 3))),
        nn.Sequential(hooked), Sequential(nn.Linear(5, 3)), nn.Sequential(nn.Linear(5, 3), nn.Flatten(0)),
        nn.Sequential(nn.Linear(5, 3), nn.Dropout(1.0)), nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, momentum=0.0)),
        nn.Sequential(nn.Linear(5, 3), nn.LeakyReLU(-0.2)),
    ):  # fmt: skip
        with pytest.raises(InputError, match="has no counterpart here"):
            fastnn.from_torch(module)
    assert len(fastnn.from_torch(Plain(nn.Linear(5, 3))).layers) == 1
    with pytest.raises(InputTypeError, match="bfloat16"):
        fastnn.from_torch(nn.Linear(5, 3).bfloat16())
    with pytest.raises(InputTypeError, match="float32 or float64"):
        fastnn.from_torch(nn.Linear(5, 3, device="meta"))


# Keras.


def test_weights_of_keras() -> None:
    """By the equations of its Dense layer: activation(x @ kernel + bias)."""
    first, bias, second, third, last = (rng.standard_normal(shape) for shape in ((5, 7), (7,), (7, 4), (4, 3), (3,)))
    model = fastnn.from_keras([first, bias, second, third, last], activation=["relu", "tanh"], final_activation="softmax")
    logits = np.tanh(np.maximum(X @ first + bias, 0) @ second) @ third + last
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(X), shares, atol=1e-12)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "a kernel"),
        ([(3,)], "a kernel"),
        ([(5, 7), (6,)], "got shapes"),
        ([(5, 7), (7,), (7,)], "got shapes"),
        ([(5, 7), (8, 3)], "got shapes"),
        ([(5, 7), (7,), (3, 3, 1, 1)], "got shapes"),
    ],
)
def test_weights_that_are_no_dense_network(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fastnn.from_keras([np.zeros(shape) for shape in shapes])


def test_what_is_no_list_of_arrays_of_numbers() -> None:
    for weights in (np.zeros((2, 3, 4)), [[1.0, 2.0]], [np.zeros((2, 3), complex)], [np.array([["a"]])]):
        with pytest.raises(InputTypeError, match="from_keras: expected"):
            fastnn.from_keras(weights)  # type: ignore[arg-type]


def test_an_activation_each() -> None:
    with pytest.raises(InputError, match="one for each of the 1 hidden layers, got 2"):
        fastnn.from_keras([np.zeros((2, 3)), np.zeros((3, 1))], activation=["relu", "relu"])


# safetensors.


def test_a_file_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    nn = torch.nn
    theirs = nn.Sequential(nn.Conv2d(2, 3, (2, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 3 * 2, 4))
    names = {"0.weight": "0.weight", "0.bias": "0.bias", "3.weight": "3.weight", "3.bias": "3.bias"}
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    model = fastnn.Sequential([fastnn.Conv2D(3, (2, 3), activation="relu"), fastnn.Flatten(), fastnn.Dense(4)], seed=0)
    model.build((4, 4, 2))
    ours = {f"{2 if name[0] == '3' else 0}{name[1:]}": name for name in names}
    fastnn.load_safetensors(model, tmp_path / "theirs.safetensors", ours, transposed=True)
    images = rng.standard_normal((6, 4, 4, 2)).astype(np.float32)
    convolved = theirs[1](theirs[0](torch.tensor(images.transpose(0, 3, 1, 2))))
    weights = {name: array.detach().numpy() for name, array in theirs.state_dict().items()}
    np.testing.assert_array_equal(model.weights["2.weight"], weights["3.weight"].T)
    rows = convolved.detach().numpy().transpose(0, 2, 3, 1).reshape(6, -1)  # our order of what is flattened
    np.testing.assert_allclose(model(images), rows @ weights["3.weight"].T + weights["3.bias"], atol=1e-5)


def test_a_file_of_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    from safetensors.torch import save_file

    weight = torch.randn(3, 5).bfloat16()
    save_file({"w": weight}, tmp_path / "narrow.safetensors")
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0).build(5)
    fastnn.load_safetensors(model, tmp_path / "narrow.safetensors", {"0.weight": "w"}, transposed=True)
    np.testing.assert_array_equal(model.weights["0.weight"], weight.float().numpy().T)


def test_a_file_that_does_not_fit(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "theirs.safetensors"
    save_file({"fc.weight": np.ones((3, 5)), "fc.bias": np.ones(3)}, path)
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0).build(5)
    before = model.weights
    wrong: list[tuple[dict[str, str], str]] = [
        ({"0.weigth": "fc.weight"}, "the model has no '0.weigth'; did you mean '0.weight'"),
        ({"0.bias": "fc.bais"}, "the file has no 'fc.bais'; did you mean 'fc.bias'"),
        ({"0.bias": "fc.bias", "0.weight": "fc.weight"}, "are matrices transposed there"),
    ]
    for names, message in wrong:
        with pytest.raises(InputError, match=message):
            fastnn.load_safetensors(model, path, names)
    with pytest.raises(InputTypeError, match="expected a dict"):
        fastnn.load_safetensors(model, path, ["0.bias"])  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        fastnn.load_safetensors(
            fastnn.Sequential([fastnn.Dense(5)], seed=0).build(3), path, {"0.weight": "fc.weight"}, transposed=True
        )
    assert "transposed there" not in str(caught.value)
    with pytest.raises(FileError):
        fastnn.load_safetensors(model, tmp_path / "none.safetensors", {"0.bias": "fc.bias"})
    (tmp_path / "text").write_text("no safetensors", encoding="utf-8")
    with pytest.raises(FormatError):
        fastnn.load_safetensors(model, tmp_path / "text", {"0.bias": "fc.bias"})
    assert all(np.array_equal(array, before[name]) for name, array in model.weights.items())
    fastnn.load_safetensors(model, path, {"0.bias": "fc.bias"})  # float64 in the file, float32 in the model
    assert (model.weights["0.bias"] == 1).all()
