"""
Perceptrons as gates
====================

A perceptron answers 1 where w.x + b > 0, else 0. With w = (-2, -2) and b = 3 it is a NAND gate, of which any circuit can be
built: XOR here, and a half adder, the sum and the carry of two bits, as networks of perceptrons whose weights are set and not
learnt. No single perceptron computes XOR: no line parts its answers, and its derivative is 0, so that nothing can be learnt by
gradients.
"""

import sys
from pathlib import Path

import numpy as np

import fastnn
from fastnn.circuits import circuit, nand

FOLDER = Path(*sys.argv[1:2])

bits = np.array([(0, 0), (0, 1), (1, 0), (1, 1)], "float32")
gates = {"n": ("a", "b"), "left": ("a", "n"), "right": ("b", "n"), "sum": ("left", "right"), "carry": ("n", "n")}
xor = circuit(gates, inputs=["a", "b"], outputs=["sum"])
half_adder = circuit(gates, inputs=["a", "b"], outputs=["sum", "carry"])

print("a b   NAND   XOR   sum carry")
answers = np.hstack([nand()(bits), xor(bits), half_adder(bits)]).astype(int)
for (a, b), (no, either, total, carry) in zip(bits.astype(int), answers, strict=True):
    print(f"{a} {b}   {no:4}   {either:3}   {total:3} {carry:5}")
print(half_adder)

axes = fastnn.plots.activation(["step", "sigmoid"])
fastnn.plots.save(axes, FOLDER / "perceptron.png")

a, b = bits.astype(bool).T
assert ([~(a & b), a ^ b, a ^ b, a & b] == answers.T).all()
