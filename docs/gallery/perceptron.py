"""
Perceptrons as gates
====================

A perceptron answers 1 where w.x + b > 0, else 0. With w = (-2, -2) and b = 3 it is a NAND gate, of which any circuit can be
built: XOR here, and a half adder, the sum and the carry of two bits, as networks of perceptrons whose weights are set and not
learned. No single perceptron computes XOR: no line parts its answers, and its derivative is 0, so that gradients teach
it nothing.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

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

figure = Figure(figsize=(13.0, 3.4), layout="constrained")
activations, *planes = figure.subplots(1, 3)
fastnn.plots.activation(["step", "sigmoid"], ax=activations).set_title("a step has no slope to learn by", fontsize="medium")
side = np.linspace(-0.5, 1.5, 201, dtype="float32")
plane = np.stack([each.ravel() for each in np.meshgrid(side, side)], axis=1)
for axes, gate, title in zip(planes, (nand(), xor), ("NAND: one line", "XOR: no line, but four gates"), strict=True):
    axes.contourf(side, side, gate(plane).reshape(201, 201), [-0.5, 0.5, 1.5], colors=fastnn.plots.COLORS[:2], alpha=0.35)
    for answer in (0, 1):
        points = bits[gate(bits)[:, 0] == answer]
        axes.plot(*points.T, "o^"[answer], color=fastnn.plots.COLORS[answer], markersize=8, label=f"answer {answer}")
    axes.set(xlabel="a", ylabel="b", xticks=(0, 1), yticks=(0, 1))
    axes.set_title(title, fontsize="medium")
figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right center")
fastnn.plots.save(figure, FOLDER / "perceptron.png")

a, b = bits.astype(bool).T
assert ([~(a & b), a ^ b, a ^ b, a & b] == answers.T).all()
