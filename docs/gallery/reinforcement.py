"""
Reinforcement learning: a pole on a cart
========================================

A cart is pushed to the left or to the right, and a pole on it must not fall: nobody says which push was right, only when it is
over. An actor (4-32-2) draws pushes from its softmax, and a critic (4-32-1) learns how long the pole will stay up. 64 carts are
driven side by side, and every push is learned from at once. The advantage of a push is how much longer the critic expects the
pole to stay up than before it: where it is positive, the actor makes the push likelier, else rarer. It is the weight of the
push in the actor's cross-entropy, of any sign, so weights are not divided by their sum. The cart is that of Barto, Sutton &
Anderson 1983, with steps of 0.02 s; an episode ends after 200 of them at the latest.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastnn

FOLDER = Path(*sys.argv[1:2])
CARTS, STEPS, LIMIT, DISCOUNT = 64, 2500, 200, 0.98
rng = np.random.default_rng(0)


def push(state, right):
    """The carts a fiftieth of a second later; state: position, speed, angle, angular speed of each."""
    _, v, angle, spin = state.T
    force, sine, cosine = np.where(right, 10.0, -10.0), np.sin(angle), np.cos(angle)
    common = (force + 0.05 * spin**2 * sine) / 1.1  # cart 1 kg, pole 0.1 kg, half of its length 0.5 m
    turning = (9.8 * sine - cosine * common) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    moving = common - 0.05 * turning * cosine / 1.1
    return (state + 0.02 * np.stack([v, moving, spin, turning], axis=1)).astype("float32")


def begin(count):
    return rng.uniform(-0.05, 0.05, (count, 4)).astype("float32")


def network(outputs, seed):
    return fastnn.Sequential([fastnn.Dense(32, activation="tanh"), fastnn.Dense(outputs)], seed=seed).build(4)


actor, critic = network(2, 0), network(1, 1)
act = actor.training_step(optimizer=fastnn.Adam(0.003), batch_size=CARTS, normalize_weights=False)
judge = critic.training_step(loss="mean_squared_error", optimizer=fastnn.Adam(0.01), batch_size=CARTS)

state, age, ages, when = begin(CARTS), np.zeros(CARTS, int), [], []
for step in range(STEPS):
    logits = actor(state)
    right = (rng.random(CARTS) < 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).astype(np.int64)
    after = push(state, right)
    fallen = (np.abs(after[:, 0]) > 2.4) | (np.abs(after[:, 2]) > np.deg2rad(12))
    target = 1 + DISCOUNT * np.where(fallen, 0, critic(after)[:, 0])
    advantage = target - critic(state)[:, 0]
    judge(state, target.astype("float32"))
    act(state, right, (advantage / (advantage.std() + 1e-6)).astype("float32"))
    age += 1
    over = fallen | (age >= LIMIT)
    ages += age[over].tolist()
    when += [step] * int(over.sum())
    after[over], age[over] = begin(int(over.sum())), 0
    state = after

smooth = fastnn.averages.exponentially_weighted_average(ages, 0.98)
print(f"{len(ages)} episodes, {actor.counters.step} steps of the actor")
print(f"the first 100 took {np.mean(ages[:100]):.0f} pushes, the last 100 {np.mean(ages[-100:]):.0f} of {LIMIT}")
axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
axes.plot(when, ages, ".", markersize=2, alpha=0.3)
axes.plot(when, smooth, color="black")
axes.set(xlabel="step", ylabel="pushes until the pole falls", title="64 carts learn at once")
fastnn.plots.save(axes, FOLDER / "reinforcement.png")

assert np.mean(ages[:100]) < 40
assert np.mean(ages[-100:]) > 150
