"""The host that stands in for a GPU finds what goes wrong on one: planted faults, each beside the kernel that has none."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_host import calls, host, sanitized
from laws import guarded, guards_whole

import fastnn_kernels.cuda  # noqa: F401 - declares the lowerings
from fastnn_kernels.cuda.kernels import Kernel, Section, unit
from fastnn_kernels.cuda.lowering import LOWERINGS, Body, Lowered, Pointer, lower

SEEDS = range(1, 21)
ROWS, COLUMNS = 5, 301

SUMS = """
// y (rows,): the sums of the rows of x (rows, columns), one row a block.
template <class F> __device__ void sums(Grid grid, const F* x, F* y, i64 rows, i64 columns) {
  F* scratch = (F*)grid.shared;
  for (i64 row = grid.block; row < rows; row += grid.blocks) {
    F sum = 0;
    for (i64 j = threadIdx.x; j < columns; j += THREADS) sum += x[row * columns + j];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) y[row] = sum;
  }
}
"""

TURNED = """
// y (rows, columns): x with every 32 elements turned round; where x has ended, it continues with zeros.
template <class F> __device__ void turned(Grid grid, const F* x, F* y, i64 rows, i64 columns) {
  i64 size = rows * columns;
  int lane = lane_of_warp();
  F* mine = (F*)grid.shared + warp_of_block() * WARP;
  for (i64 first = first_of(grid) - lane; first < size; first += stride_of(grid)) {
    i64 i = first + lane;
    mine[lane] = i < size ? x[i] : 0;
    __syncwarp();
    F other = mine[WARP - 1 - lane];
    __syncwarp();
    if (i < size) y[i] = other;
  }
}
"""


def sums_of(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1)


def turned_of(x: np.ndarray) -> np.ndarray:
    padded = np.concatenate([x.ravel(), np.zeros(-x.size % 32)])
    return padded.reshape(-1, 32)[:, ::-1].ravel()[: x.size].reshape(x.shape)


@dataclass(frozen=True)
class Sound:
    """A body of (x, y, rows, columns) without a fault, what it makes of x, and the elements of shared memory it needs."""

    text: str
    expected: Callable[[np.ndarray], np.ndarray]
    shared: int


BODIES = {"sums": Sound(SUMS, sums_of, 8), "turned": Sound(TURNED, turned_of, 256)}


def outcomes(
    name: str, edits: Sequence[tuple[str, str]] = (), shared: int | None = None, blocks: int = 2,
    sanitizers: tuple[str, ...] = (),
) -> set[str]:  # fmt: skip
    """What became of a body, changed by `edits`, over all seeds: "right", "wrong", "beyond" the end, or what the host said."""
    body = BODIES[name]
    kernel = Kernel((Section("planted", f"{name}<double>", ("const double*", "double*", "i64", "i64")),))
    text = "\n".join([unit([]), body.text, kernel.text()])
    for old, new in edits:
        assert text.count(old) == 1, f"{text.count(old)} times: {old}"
        text = text.replace(old, new)
    address = host.load([kernel], sanitizers, text)[kernel]
    x = np.random.default_rng(0).integers(1, 9, (ROWS, COLUMNS)).astype(np.float64)
    expected, found = body.expected(x), set()
    for seed in SEEDS:
        y, whole = guarded(np.full(expected.shape, np.nan))
        if sanitizers:
            y = sanitized.placed(y, 0)
        nbytes = 8 * (body.shared if shared is None else shared)
        values = [blocks, x.ctypes.data, y.ctypes.data, ROWS, COLUMNS]
        try:
            host.run_kernel(kernel, blocks, nbytes, values, sanitizers, seed, address)
        except host.Fault as fault:
            found.add(str(fault))
            continue
        found.add("right" if np.array_equal(y, expected) else "wrong")
        if not guards_whole(y, whole):
            found.add("beyond")
    return found


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_what_is_sound_is_right_in_every_order(name: str, blocks: int) -> None:
    assert outcomes(name, blocks=blocks) == {"right"}


BLOCK_SUM = """scratch[warp_of_block()] = x;
  __syncthreads();
  F total = scratch[0];
  for (int w = 1; w < WARPS; w++) total += scratch[w];
  __syncthreads();
"""
CALL = "sum = block_sum(sum, scratch);"
FIRST, SECOND = BLOCK_SUM.split("  __syncthreads();\n", 1)
TURN = """mine[lane] = i < size ? x[i] : 0;
    __syncwarp();
    F other = mine[WARP - 1 - lane];
    __syncwarp();
"""
BEFORE, AFTER = TURN.split("    __syncwarp();\n", 1)

FAULTS: dict[str, tuple[str, list[tuple[str, str]], str]] = {
    "no barrier before reading": ("sums", [(BLOCK_SUM, FIRST + SECOND)], "wrong"),
    "no barrier after reading": ("sums", [(BLOCK_SUM, BLOCK_SUM.removesuffix("  __syncthreads();\n"))], "wrong"),
    "no barrier of the warp before reading": ("turned", [(TURN, BEFORE + AFTER)], "wrong"),
    "no barrier of the warp after reading": ("turned", [(TURN, TURN.removesuffix("    __syncwarp();\n"))], "wrong"),
    "writes one beyond the end": ("turned", [("if (i < size) y[i]", "if (i <= size) y[i]")], "beyond"),
    "writes one twice, another not at all": ("turned", [("y[i] = other", "y[i == 7 ? 8 : i] = other")], "wrong"),
    "leaves out the last": ("turned", [("if (i < size) y[i]", "if (i < size - 1) y[i]")], "wrong"),
    "reads another one's shared memory": ("turned", [("mine[WARP - 1 - lane]", "mine[WARP - lane]")], "wrong"),
    "reads shared memory that nobody wrote": (
        "turned", [("mine[lane] = i < size ? x[i] : 0", "if (i < size) mine[lane] = x[i]")], "wrong",
    ),
    "writes beyond shared memory": ("turned", [("mine[lane] =", "mine[lane + 1] =")], "wrote beyond the shared memory"),
    "some threads at the barrier": ("sums", [(CALL, f"if (threadIdx.x < 100) {CALL}")], "from a lane that takes no part"),
    "some warps at the barrier": ("sums", [(CALL, f"if (threadIdx.x < 128) {CALL}")], "wait elsewhere|threads that have ended"),
    "two barriers for one": (
        "sums", [(CALL, f"if (threadIdx.x < 128) __syncthreads();\n else\n __syncthreads();\n {CALL}")],
        "threads that wait elsewhere",
    ),
    "two barriers of a warp for one": (
        "turned", [("    F other", "    if (lane < 16) __syncwarp();\n else\n __syncwarp();\n F other")],
        "lanes that wait elsewhere",
    ),
    "a shuffle beside a barrier": (
        "turned", [("    F other", "    if (lane < 16) __syncwarp(); else lane = __shfl_xor_sync(ALL, lane, 0); F other")],
        "lanes that wait elsewhere",
    ),
    "a shuffle from a lane that has left": (
        "sums", [("F* scratch =", "if (threadIdx.x % 2) return; F* scratch =")], "from a lane that takes no part",
    ),
    "a shuffle from a lane outside the mask": (
        "turned", [("F other = mine[WARP - 1 - lane]", "F other = lane < 16 ? __shfl_xor_sync(0xffffu, mine[lane], 31) : 0")],
        "from a lane that takes no part",
    ),
    "a mask without oneself": ("turned", [("F other", "__syncwarp(~1u); F other")], "its own mask leaves out"),
    "reads what another block writes": (
        "sums", [("F sum = 0", "F sum = threadIdx.x == 0 && row > 0 ? (y[row - 1] == y[row - 1] ? 0 : 1) : 0")], "wrong",
    ),
    "blocks that all do the same rows": (
        "sums", [("row = grid.block;", "row = 0;"), ("row += grid.blocks", "row += 2")], "wrong",
    ),
    "trap": ("sums", [("F* scratch =", "if (threadIdx.x == 77) __trap(); F* scratch =")], "trap .*thread 77"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    name, edits, expected = FAULTS[fault]
    found = outcomes(name, edits)
    assert any(re.search(expected, one) for one in found), found


def test_shared_memory_that_is_too_small_is_found() -> None:
    assert any("wrote beyond the shared memory" in one for one in outcomes("sums", shared=7))


def test_after_a_fault_the_next_kernel_runs() -> None:
    assert outcomes("sums", FAULTS["trap"][1]) != {"right"}
    assert outcomes("sums") == {"right"}


def test_equal_seeds_give_equal_orders() -> None:
    """A wrong result can be had again."""
    edits = FAULTS["no barrier before reading"][1]
    assert outcomes("sums", edits) == outcomes("sums", edits)


def test_lanes_may_leave_or_meet_in_halves() -> None:
    """What CUDA allows: barriers and votes of those lanes that are left, and two halves of a warp in two places."""
    halves = """if (lane < 16) __syncwarp(0xffffu); else { __syncwarp(0xffff0000u); __syncwarp(0xffff0000u); }
    F other = mine[WARP - 1 - lane];
    if (__popc(__ballot_sync(ALL, lane % 2)) != 16 || !__any_sync(ALL, lane == 3) || __all_sync(ALL, lane < 31)) return;
"""
    assert outcomes("turned", [(AFTER.splitlines(keepends=True)[0], halves)]) == {"right"}
    leaving = "if (lane_of_warp() > 29) return; __syncwarp(); if (!__all_sync(ALL, 1)) __trap(); return; F* scratch ="
    assert outcomes("sums", [("F* scratch =", leaving)]) == {"wrong"}


def test_writing_beyond_scratch_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output that goes to scratch memory that is one element too small."""

    def cramped(*call: Any) -> Lowered:
        body = lower(*call).works[0]
        assert isinstance(body, Body)
        x, y, *others = body.arguments
        assert isinstance(y, Pointer)
        return Lowered((replace(body, arguments=(x, replace(y, operand=-1, nbytes=y.nbytes - 4), *others)),), 256)

    x = np.ones((3, 5), np.float32)
    host.run("softmax", [x, np.empty_like(x)], {})
    monkeypatch.setattr(host, "lower", cramped)
    with pytest.raises(host.Fault, match="scratch"):
        host.run("softmax", [x, np.empty_like(x)], {})


def test_what_does_not_compile_says_why() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        outcomes("sums", [("F sum = 0", "nonsense = 0")])


SANITIZER = sanitized.environment()
with_sanitizers = [pytest.mark.slow, pytest.mark.skipif(SANITIZER is None, reason="g++ has no libasan and libubsan")]


def sanitizing(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], env=SANITIZER, capture_output=True, text=True, check=False)


PLANTED: dict[str, tuple[str, list[tuple[str, str]], str]] = {
    "reads beyond the end": ("turned", [("i < size ? x[i] : 0", "x[i]")], "heap-buffer-overflow"),
    "writes beyond the end": ("turned", [("if (i < size) y[i]", "y[i]")], "heap-buffer-overflow"),
    "writes before the start": ("turned", [("y[i] =", "y[i - 1] =")], "heap-buffer-overflow"),
    "reads beyond shared memory": ("turned", [("mine[WARP - 1 - lane]", "mine[WARP - lane]")], "heap-buffer-overflow"),
    "writes beyond a local array": (
        "turned", [("F other =", "F kept[31]; kept[lane] = 0; F other = kept[3] +")], "index 31 out of bounds",
    ),
    "signed overflow": (
        "turned", [("int lane = lane_of_warp();", "int lane = lane_of_warp(); lane += lane * (1 << 27);")],
        "signed integer overflow",
    ),
    "shifts too far": ("turned", [("mine[lane] =", "mine[(1 << (lane + 1)) & 31] =")], "shift exponent 32"),
    "a misaligned load": ("sums", [("sum += x[", "sum += ((const Pack<F, 2>*)(x + 1))->at[0] + x[")], "misaligned"),
}  # fmt: skip


class TestSanitizers:
    """AddressSanitizer and UndefinedBehaviorSanitizer; whatever they find ends a process."""

    pytestmark = with_sanitizers

    def of_planted(self, name: str, edits: list[tuple[str, str]]) -> subprocess.CompletedProcess[str]:
        code = f"import test_cuda_on_host as t\nprint(t.outcomes({name!r}, {edits!r}, sanitizers=t.host.SANITIZERS))"
        return sanitizing("-c", code)

    @pytest.mark.parametrize("name", BODIES)
    def test_what_is_sound_passes(self, name: str) -> None:
        ended = self.of_planted(name, [])
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "{'right'}\n", "")

    @pytest.mark.parametrize("fault", ["trap", "some warps at the barrier", "a shuffle from a lane that has left"])
    def test_what_the_host_finds_is_still_found(self, fault: str) -> None:
        name, edits, expected = FAULTS[fault]
        ended = self.of_planted(name, edits)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert re.search(expected, ended.stdout)

    @pytest.mark.parametrize("fault", PLANTED)
    def test_a_planted_fault_is_found(self, fault: str) -> None:
        name, edits, expected = PLANTED[fault]
        ended = self.of_planted(name, edits)
        assert ended.returncode != 0
        assert expected in ended.stderr

    @pytest.mark.skipif(not calls.CASES.exists(), reason="bench/ is not here; it is not installed")
    @pytest.mark.parametrize("family", sorted({family for family, _ in LOWERINGS.values()}))
    def test_the_families_have_none(self, family: str) -> None:
        ended = sanitizing("-m", "cuda_on_host.sanitized", family)
        assert ended.returncode == 0, ended.stderr[:4000]
        assert "calls of" in ended.stdout


def test_the_sanitizers_find_their_cases() -> None:
    """`ci/sanitize.py` needs a GPU for everything but this."""
    script = Path(__file__).parents[2] / "ci" / "sanitize.py"
    code = f"import runpy; print(next(runpy.run_path({str(script)!r})['turns']()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
