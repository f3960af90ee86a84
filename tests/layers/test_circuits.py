"""Perceptrons and circuits: truth tables, against Python's own operators."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastnn.circuits import circuit, nand, perceptron
from fastnn.errors import InputError, InputTypeError


def table(inputs: int) -> np.ndarray:
    return np.array(list(itertools.product((0, 1), repeat=inputs)), "float32")


def test_nand_is_the_perceptron_of_the_book() -> None:
    gate = nand()
    assert gate.weights["0.weight"].ravel().tolist() == [-2.0, -2.0]
    assert gate.weights["0.bias"].tolist() == [3.0]
    assert gate(table(2)).ravel().tolist() == [1, 1, 1, 0]


def test_a_sum_of_zero_is_not_above_zero() -> None:
    assert perceptron([1.0, -1.0], 0.0)(np.array([(1, 1), (2, 1)], "float32")).ravel().tolist() == [0, 1]


def test_an_adder_of_two_bits_and_a_carry() -> None:
    """Two half adders, thirteen gates deep enough that signals must be passed on."""
    gates = {
        "n1": ("a", "b"), "n2": ("a", "n1"), "n3": ("b", "n1"), "s1": ("n2", "n3"),
        "n4": ("s1", "c"), "n5": ("s1", "n4"), "n6": ("c", "n4"), "sum": ("n5", "n6"), "carry": ("n1", "n4"),
    }  # fmt: skip
    adder = circuit(gates, ["a", "b", "c"], ["sum", "carry", "a"])
    bits = table(3)
    answers = adder(bits)
    assert (answers[:, 0] + 2 * answers[:, 1]).tolist() == bits.sum(axis=1).tolist()
    assert answers[:, 2].tolist() == bits[:, 0].tolist()


def test_gates_may_be_given_in_any_order_and_take_a_signal_twice() -> None:
    gates = {"or": ("na", "nb"), "na": ("a", "a"), "nb": ("b", "b")}
    assert circuit(gates, ["a", "b"], ["or"])(table(2)).ravel().tolist() == [0, 1, 1, 1]
    assert circuit({}, ["a"], ["a", "a"])(table(1)).tolist() == [[0, 0], [1, 1]]


def test_random_circuits_against_their_definition() -> None:
    rng = np.random.default_rng(2)
    bits = table(4)
    for _ in range(10):
        names = ["a", "b", "c", "d"]
        values = dict(zip(names, bits.astype(int).T, strict=True))
        gates = {}
        for index in range(12):
            first, second = rng.choice(names, 2)
            gates[f"g{index}"] = (str(first), str(second))
            values[f"g{index}"] = 1 - values[first] * values[second]
            names.append(f"g{index}")
        outputs = [str(name) for name in rng.choice(names, 3, replace=False)]
        assert ([values[name] for name in outputs] == circuit(gates, names[:4], outputs)(bits).T).all()


def test_what_is_no_circuit_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no 'x'"):
        circuit({"n": ("a", "x")}, ["a"], ["n"])
    with pytest.raises(InputError, match="there is no 'out'"):
        circuit({"n": ("a", "a")}, ["a"], ["out"])
    for pair in (("a",), ("a", "a", "a"), "aa", 3):
        with pytest.raises(InputError, match=r"a gate takes two signals.*'n' takes"):
            circuit({"n": pair}, ["a"], ["n"])  # type: ignore[dict-item]
    with pytest.raises(InputError, match="wait for each other: n, m"):
        circuit({"n": ("a", "m"), "m": ("a", "n")}, ["a"], ["n"])
    for inputs, outputs in (([], ["n"]), (["a"], []), (["a", "n"], ["n"])):
        with pytest.raises(InputError, match="a name of its own"):
            circuit({"n": ("a", "a")}, inputs, outputs)
    with pytest.raises(InputError, match="expected weights"):
        perceptron([[1.0]], 0.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        perceptron([np.nan], 0.0)
    with pytest.raises(InputTypeError, match="expected weights"):
        perceptron("ab", 0.0)
    for bias in ("1", np.nan, [1.0]):
        with pytest.raises(InputError, match="bias: expected a finite number"):
            perceptron([1.0], bias)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="gates: expected a dict"):
        circuit([("a", "a")], ["a"], ["n"])  # type: ignore[arg-type]
