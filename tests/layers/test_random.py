"""The random stream: published answers, its definition written again in plain integers, and its statistics."""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from cuda_on_host import host

import fastnn_kernels.cpu as cpu_set
from fastnn import random as stream
from fastnn.errors import InputError
from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.team import Work
from fastnn_kernels.numpy.philox import philox, words

KEY = (0x1C2F9B99, 0x345181D6)
"""key(42, DROPOUT, 3)."""


def plain_philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x32-10 in Python's integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(c0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(c2 * 0xCD9E8D57, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


# The known answers for philox4x32 of ten rounds published with Random123.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in philox(counter, key)) == expected  # type: ignore[arg-type]
    assert plain_philox(counter, key) == expected


def test_arrays_of_counters() -> None:
    counters = np.random.default_rng(0).integers(0, 2**32, (4, 50))
    found = np.array(philox(tuple(counters), KEY)).T  # type: ignore[arg-type]
    assert [tuple(row) for row in found.tolist()] == [plain_philox(tuple(c), KEY) for c in counters.T.tolist()]


def test_words() -> None:
    step = 2**33 + 7
    expected = [plain_philox((e // 4, 0, 7, 2), KEY)[e % 4] for e in range(11)]
    assert words(KEY, step, 11).tolist() == expected
    assert words(KEY, step, 0).size == 0
    written_down = [0x99C666A7, 0xF22AA390, 0x52FBE65F, 0xED7475F1, 0x9E756C66, 0x19B1374D]
    assert words(KEY, 2**32 + 1, 6).tolist() == written_down


def test_keys() -> None:
    assert stream.key(42, stream.DROPOUT, 3) == KEY == plain_philox((3, 3, 0, 0), (42, 0))[:2]
    assert stream.key(2**64 - 1, stream.SHUFFLE) == (0x17625282, 0x6F3D8616)
    assert stream.key(np.int64(42), stream.DROPOUT, 3) == KEY
    purposes = (stream.INITIAL_WEIGHTS, stream.SHUFFLE, stream.DROPOUT, stream.SPLIT, stream.AUGMENTATION, stream.POINTS)
    assert purposes == (1, 2, 3, 4, 5, 6)
    keys = {stream.key(*which) for which in itertools.product((0, 1, 2**32, 2**63), purposes, range(20))}
    assert len(keys) == 4 * 6 * 20
    assert stream.STREAM_VERSION == 1


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None, True])
def test_seeds_that_cannot_be_used(seed: object) -> None:
    with pytest.raises(InputError, match="seed must be an integer from 0 to 2\\*\\*64 - 1, not"):
        stream.key(seed, stream.SHUFFLE)  # type: ignore[arg-type]


def test_drawn_seeds_differ_and_can_be_used() -> None:
    seeds = {stream.draw_seed() for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    stream.key(seeds.pop(), stream.SHUFFLE)


def test_uniforms() -> None:
    written_down = np.array([927151, 4815767, 4609448, 16076189, 13638694, 2922987]) / 2**24
    for dtype in (np.float32, np.float64):
        found = stream.uniform(KEY, 7, (2, 3), dtype)
        assert found.dtype == dtype
        assert found.tolist() == written_down.reshape(2, 3).tolist()
    assert stream.uniform(KEY, 7, (0, 3)).shape == (0, 3)
    assert stream.uniform(KEY, 7, ()).shape == ()
    assert stream.uniform(KEY, 7, (6,))[0] == np.float32(plain_philox((0, 0, 7, 0), KEY)[0] >> 8) * np.float32(2.0**-24)


def test_masks_written_down() -> None:
    rows = ["00011011", "00110011", "10011110", "10001011", "01101100", "11101011", "00010011", "00110101"]
    for run in (cpu_set.run, host.run):
        y = np.empty((8, 8), np.float32)
        run("dropout", [np.ones((8, 8), np.float32), np.array(7), y], {"rate": 0.5, "key": KEY})
        assert ["".join(str(int(kept)) for kept in row) for row in y > 0] == rows


def chi_square(counts: np.ndarray) -> float:
    """How many standard deviations the chi-square statistic of equally likely cells is above its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float((((counts - expected) ** 2).sum() / expected - freedom) / math.sqrt(2 * freedom))


def test_chi_square_sees_unequal_counts() -> None:
    generator = np.random.default_rng(0)
    assert abs(chi_square(np.bincount(generator.integers(0, 24, 30000), minlength=24))) < 4
    skewed = np.full(24, 1 / 24)
    skewed[:2] = 1.3 / 24, 0.7 / 24
    assert chi_square(np.bincount(generator.choice(24, 30000, p=skewed), minlength=24)) > 8
    assert chi_square(np.array([100, 100, 0, 100])) > 8


def test_uniforms_are_uniform() -> None:
    for step in (0, 1, 2**40):
        u = stream.uniform(stream.key(step, stream.DROPOUT), step, (1 << 18,), np.float64)
        assert ((u >= 0) & (u < 1)).all()
        assert abs(chi_square(np.bincount((u * 256).astype(int), minlength=256))) < 4
        pairs = (u * 32).astype(int).reshape(-1, 2)
        assert abs(chi_square(np.bincount(pairs[:, 0] * 32 + pairs[:, 1], minlength=1024))) < 4


def test_normals_written_down() -> None:
    written_down = [
        "-0x1.d7f469fdf9272p+0", "0x1.1a5a1107e6e2ep-2", "-0x1.0dfd93bee73fdp+0",
        "-0x1.437687c37d0d2p-1", "0x1.b93ef94ad9601p-1", "0x1.d57a23a220d2ap-3",
    ]  # fmt: skip
    found = stream.normal(KEY, (2, 3), np.float64)
    assert [value.hex() for value in found.ravel().tolist()] == written_down
    assert stream.normal(KEY, (2, 3)).dtype == np.float32
    assert (stream.normal(KEY, (2, 3)) == found.astype(np.float32)).all()
    assert stream.normal(KEY, (3, 0)).shape == (3, 0)
    # Against the library's inverse of the distribution function, from the words.
    for e, value in enumerate(found.ravel().tolist()):
        pair = [plain_philox((w // 4, 0, 0, 0), KEY)[w % 4] for w in (2 * e, 2 * e + 1)]
        k = pair[0] * 2**20 + pair[1] // 2**12
        assert math.isclose(value, statistics.NormalDist().inv_cdf((k + 0.5) / 2**52), rel_tol=1e-12)


def test_normals_are_accurate_in_the_tails() -> None:
    near_ends = np.arange(1, 4001, 2)
    middle = 2**52 + np.arange(-2001, 2001, 2)
    logarithmic = np.array([2 * int(2.0**e) + 1 for e in np.arange(1, 51.9, 0.05)])
    odd = np.concatenate([near_ends, 2**53 - near_ends, middle, logarithmic, 2**53 - logarithmic])
    found = stream._inverse_normal(odd)
    expected = np.array([statistics.NormalDist().inv_cdf(o * 2.0**-53) for o in odd.tolist()])
    np.testing.assert_allclose(found, expected, rtol=2e-14)
    assert (stream._inverse_normal(2**53 - odd) == -found).all()
    special = pytest.importorskip("scipy.special")
    np.testing.assert_allclose(found, special.ndtri(odd * 2.0**-53), rtol=2e-14)


def test_logarithm() -> None:
    x = np.concatenate([np.ldexp(1.0, np.arange(-1000, 1000, 7)), np.linspace(0.4, 2.5, 10001), [5e-324, 1.0]])
    np.testing.assert_allclose(stream._logarithm(x), np.log(x), rtol=1e-15, atol=1e-17)


def test_normals_are_normal() -> None:
    z = stream.normal(stream.key(1, stream.INITIAL_WEIGHTS), (1 << 18,), np.float64)
    uniform = np.array([statistics.NormalDist().cdf(value) for value in z[: 1 << 16].tolist()])
    assert abs(chi_square(np.bincount((uniform * 256).astype(int), minlength=256))) < 4
    count = len(z)
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**moment).mean() - expected) < 4 * math.sqrt(variance / count)
    assert abs((z[:-1] * z[1:]).mean()) < 4 / math.sqrt(count)


def plain_permutation(key: tuple[int, int], epoch: int, n: int) -> list[int]:
    """The shuffle as `fastnn/random.py` describes it, one position at a time."""
    bits = max(8, math.ceil(math.log2(n)) if n else 0)
    width = bits - bits // 2

    def network(position: int) -> int:
        left, right = divmod(position, 2**width)
        for r in range(8):
            half = right if r % 2 else left
            word = plain_philox((half, r % 2, epoch % 2**32, epoch // 2**32), key)[r // 2]
            if r % 2:
                left ^= word % 2 ** (bits // 2)
            else:
                right ^= word % 2**width
        return left * 2**width + right

    order = []
    for position in range(n):
        position = network(position)
        while position >= n:
            position = network(position)
        order.append(position)
    return order


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 31, 256, 257, 511, 513])
def test_permutation_is_as_described(n: int) -> None:
    for epoch in (0, 3, 2**32 + 1):
        found = stream.permutation(KEY, epoch, n)
        assert found.dtype == np.int64
        assert found.tolist() == plain_permutation(KEY, epoch, n)


def test_permutations_written_down() -> None:
    assert stream.permutation(KEY, 0, 10).tolist() == [6, 4, 5, 2, 8, 0, 7, 3, 1, 9]
    assert stream.permutation(KEY, 1, 10).tolist() == [8, 9, 6, 4, 1, 2, 7, 3, 5, 0]
    assert stream.permutation(KEY, 2**32 + 1, 1000)[:8].tolist() == [669, 196, 723, 854, 687, 357, 730, 567]
    last = [3227, 33230, 17156, 16026, 36814, 17339, 56256, 37504]
    assert stream.permutation(KEY, 2, 100000)[-8:].tolist() == last


def shuffler(n: int) -> Callable[[int], np.ndarray]:
    """The compiled shuffle of n elements as a function of the epoch; the array is the same at every call."""
    epoch, order = np.zeros((), np.int64), np.zeros(n, np.int64)
    lowered = cpu_set.lower("shuffle", [Operand(a.shape, a.dtype) for a in (epoch, order)], {"key": KEY})
    scratch = cpu_set.aligned_zeros(lowered.scratch or 0, np.uint8)
    operands = np.array(lowered.words([epoch.ctypes.data, order.ctypes.data], scratch.ctypes.data), np.int64)
    work = Work(np.array([[lowered.address, operands.ctypes.data]]), np.array([[0, 1, 1]]), (scratch, operands))

    def shuffle(number: int) -> np.ndarray:
        epoch[...] = number
        work.play(1)
        return order

    return shuffle


def count_orders(n: int, epochs: int) -> np.ndarray:
    shuffle = shuffler(n)
    powers = n ** np.arange(n)
    codes = np.fromiter((int(shuffle(epoch) @ powers) for epoch in range(epochs)), np.int64, epochs)
    found = np.bincount(codes, minlength=n**n)
    return found[[int(np.array(order) @ powers) for order in itertools.permutations(range(n))]]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_are_equally_likely(n: int) -> None:
    counts = count_orders(n, 30_000)
    assert counts.sum() == 30_000
    assert abs(chi_square(counts)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_orders_are_equally_likely_in_a_million(n: int) -> None:
    assert abs(chi_square(count_orders(n, 1_000_000))) < 4


@pytest.mark.parametrize("n", [10, 100, 256])
def test_positions_and_pairs_are_equally_likely(n: int) -> None:
    shuffle, epochs = shuffler(n), 4000
    orders = np.array([shuffle(epoch).copy() for epoch in range(epochs)])
    position_of_value = np.bincount((np.arange(n) * n + orders).ravel(), minlength=n * n)
    # Rows and columns of this table have equal sums: (n - 1)^2 degrees of freedom, not n^2 - 1.
    expected, freedom = epochs / n, (n - 1) ** 2
    statistic = ((position_of_value - expected) ** 2).sum() / expected
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)
    # What comes next, counted around the circle: n - 1 distances, equally likely.
    distances = np.bincount(((orders[:, 1:] - orders[:, :-1]) % n).ravel(), minlength=n)[1:]
    assert abs(chi_square(distances)) < 4
    # Orders of two epochs have one element in common on average, whatever n.
    common = (orders[1:] == orders[:-1]).sum(1)
    assert abs(common.mean() - 1) < 4 / math.sqrt(epochs)
    # Rises and falls are as many: the mean of n - 1 with variance (n + 1) / 12.
    rises = (orders[:, 1:] > orders[:, :-1]).sum(1)
    assert abs(rises.mean() - (n - 1) / 2) < 4 * math.sqrt((n + 1) / 12 / epochs)


def test_nothing_is_compiled_for_the_stream() -> None:
    code = "import sys, fastnn.random as r; r.permutation(r.key(0, 1), 0, 5); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
