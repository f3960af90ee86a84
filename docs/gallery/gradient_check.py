"""Check the gradients of a network against two-sided differences; then plant a mistake, and let the check find it.

A loss of your own is differentiated by the library, and the check says whether that went well. Andrew Ng, Improving Deep Neural
Networks, week 1.
"""

import numpy as np

import fastnn
from fastnn import ops
from fastnn.program import differentiate

rng = np.random.default_rng(0)
X, y = rng.standard_normal((16, 6)), rng.standard_normal((16, 2))


def huber(outputs, targets):
    """Quadratic near 0, linear beyond 1: written forwards only."""
    d = outputs - targets
    return ops.sum(ops.where(ops.abs(d) < 1.0, 0.5 * d * d, ops.abs(d) - 0.5), 1)


layers = [fastnn.Dense(8), fastnn.BatchNorm(), fastnn.Activation("tanh"), fastnn.Dropout(0.3), fastnn.Dense(2)]
model = fastnn.Sequential(layers, seed=0)

print("As it is, with the same units dropped at every evaluation:")
print(fastnn.check_gradients(model, X, y, loss=huber, dropout="frozen", l2=0.01))

right = differentiate.RULES["tanh"]
differentiate.RULES["tanh"] = lambda call, dy: [ops.multiply(right(call, dy)[0], 1.01)]
print("\nWith a derivative of tanh that is 1 % too large:")
print(fastnn.check_gradients(model, X, y, loss=huber, dropout="frozen", l2=0.01))
differentiate.RULES["tanh"] = right
