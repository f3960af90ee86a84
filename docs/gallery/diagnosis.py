"""Bias and variance of three networks on the digits: one too small, one that learns by heart, and one that was helped.

The errors on training and dev data say what to try next. Andrew Ng, Improving Deep Neural Networks, week 1.
"""

import numpy as np

import fastnn

digits = fastnn.datasets.load("digits")
dev = (digits.X_test, digits.y_test)


def network(*hidden):
    return fastnn.Sequential([*hidden, fastnn.Dense(10)], seed=0)


few = (digits.X_train[:100], digits.y_train[:100])
everything = (digits.X_train, digits.y_train)
cases = {
    "two hidden units, all 1437 examples": (network(fastnn.Dense(2, activation="tanh")), everything),
    "256 hidden units, 100 examples": (network(fastnn.Dense(256, activation="relu")), few),
    "256 hidden units with dropout, all examples": (
        network(fastnn.Dense(256, activation="relu"), fastnn.Dropout(0.3)), everything,
    ),
}  # fmt: skip
for name, (model, train) in cases.items():
    model.fit(*train, batch_size=min(64, len(train[0])), epochs=30, verbose=0)
    print(f"--- {name}\n{fastnn.diagnose_model(model, train, dev)}\n")

print("--- The course's example where nobody errs less than 15 %: errors of 15 % and 16 %")
print(fastnn.diagnose(0.15, 0.16, base_error=0.15))
assert np.isclose(fastnn.diagnose(0.15, 0.16, base_error=0.15).bias, 0.0)
