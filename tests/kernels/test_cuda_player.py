"""Schedules and graphs of the CUDA set: nothing that depends on each other is done at once or in another order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cuda_on_host.runtime import HostRuntime
from hypothesis import given
from hypothesis import strategies as st

from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda.arrays import DeviceArray
from fastnn_kernels.cuda.families import dense
from fastnn_kernels.cuda.lowering import Ahead, Body, Pointer, Product
from fastnn_kernels.cuda.player import CONTROL, LENGTHS, WORTH, PlacedCall, Player
from fastnn_kernels.cuda.runtime import Launch, Multiplication, Node
from fastnn_kernels.cuda.schedule import PRODUCT_BLOCK, Place, Placed, Schedule, depend, kernels_of, schedule, stages_of

SPACE = 24
"""Bytes that the intervals of the random works lie in."""

# --- schedules ----------------------------------------------------------------------------------------------------------

touches = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, SPACE - 1), st.integers(1, 4), st.booleans(), st.booleans()),
    min_size=1, max_size=3,
)  # fmt: skip
"""(space, first byte, bytes, whether they are written, whether the length is unknown) of each pointer of a work."""


def work_of(touched: Sequence[tuple[str, int, int, bool, bool]], blocks: int = 1) -> Placed:
    pointers = tuple(Pointer(index, "u8", written, 0, count) for index, (_, _, count, written, _) in enumerate(touched))
    places = tuple(Place(space, start, unknown) for space, start, _, _, unknown in touched)
    return Placed(Body("none", "none<float>", pointers, blocks), places)


def memory(work: Placed) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """The bytes that a work may touch, and those of them that it may write."""
    touched: set[tuple[str, int]] = set()
    written: set[tuple[str, int]] = set()
    for pointer, place in zip(work.work.pointers, work.places, strict=True):
        stop = 2 * SPACE if place.open else place.offset + pointer.nbytes
        found = {(place.space, byte) for byte in range(place.offset, stop)}
        touched |= found
        written |= found if pointer.written else set()
    return touched, written


def conflict(a: Placed, b: Placed) -> bool:
    (a_touched, a_written), (b_touched, b_written) = memory(a), memory(b)
    return bool(a_written & b_touched or b_written & a_touched)


programs = st.lists(st.builds(work_of, touches, st.sampled_from([1, 1, 2])), max_size=9)


@given(touches, touches)
def test_works_depend_where_one_writes_a_byte_that_the_other_touches(a: Any, b: Any) -> None:
    first, second = work_of(a), work_of(b)
    assert depend(first, second) == depend(second, first) == conflict(first, second)


def log_to(*columns: int, start: int = 0, pitch: int = 16) -> Placed:
    """A work that writes these bytes of the rows of an array of unknown length."""
    pointer = Pointer(0, "u8", True, 0, 64, columns=(pitch, *columns) if columns else None)  # type: ignore[arg-type]
    return Placed(Body("none", "none<float>", (pointer,), 1), (Place("log", start, open=True),))


def test_works_that_write_other_columns_of_an_array_do_not_depend_on_each_other() -> None:
    first = log_to(0, 4)
    assert not depend(first, log_to(4, 8))
    assert not depend(log_to(8, 16), first)
    for other in (log_to(0, 4), log_to(3, 5), log_to(0, 16), log_to(), log_to(4, 8, start=16), log_to(4, 8, pitch=12)):
        assert depend(first, other)
        assert depend(other, first)


def test_loss_and_accuracy_are_logged_side_by_side() -> None:
    def call(column: int, value: str) -> PlacedCall:
        operands = (operand(), operand(dtype=INT), operand(STEPS, 4))
        places = (Place(value, 0), Place(CONTROL, 0), Place("log", 0, open=True))
        return PlacedCall("log_value", operands, {"column": column}, places)

    together = Player(HostRuntime(), [call(0, "loss"), call(1, "accuracy")])
    assert [len(level) for level in together.schedule.levels] == [2]
    assert [len(level) for level in Player(HostRuntime(), [call(1, "loss"), call(1, "accuracy")]).schedule.levels] == [1, 1]


def positions(levels: Sequence[Sequence[tuple[Placed, int]]]) -> dict[tuple[int, int], int]:
    """(identity of the work, step) -> level; every one is there once."""
    found = Counter((id(work), step) for level in levels for work, step in level)
    assert set(found.values()) <= {1}
    return {(id(work), step): index for index, level in enumerate(levels) for work, step in level}


def in_order(works: Sequence[Placed], levels: Sequence[Sequence[tuple[Placed, int]]], count: int) -> bool:
    """Whether what depends on each other is done in the order of the steps and of the works, and not at once."""
    where = positions(levels)
    assert len(where) == count * len(works)
    given = [(step, work) for step in range(count) for work in works]
    return all(
        where[id(a), s] < where[id(b), t]
        for later, (t, b) in enumerate(given)
        for s, a in given[:later]
        if conflict(a, b)
    )  # fmt: skip


def earliest_levels(works: Sequence[Placed]) -> list[int]:
    depths: list[int] = []
    for index, work in enumerate(works):
        depths.append(1 + max((depths[other] for other in range(index) if conflict(works[other], work)), default=-1))
    return depths


@given(programs)
def test_a_level_holds_what_can_be_done_at_once_and_as_early_as_can_be(works: list[Placed]) -> None:
    """All but single blocks for which nobody waits, or nobody but others that are late."""
    levels = schedule(works).levels
    assert in_order(works, [[(work, 0) for work in level] for level in levels], 1)
    where, earliest = positions([[(work, 0) for work in level] for level in levels]), earliest_levels(works)
    late = {index for index, work in enumerate(works) if where[id(work), 0] != earliest[index]}
    for index in late:
        assert where[id(works[index]), 0] > earliest[index]
        assert works[index].work.blocks == 1  # type: ignore[union-attr]
        assert late.issuperset(other for other in range(index + 1, len(works)) if conflict(works[index], works[other]))
        (level,) = (level for level in levels if any(work is works[index] for work in level))
        assert any(work is works[other] for work in level for other in range(len(works)) if other not in late)
    assert len(levels) == max(earliest, default=-1) + 1


@given(programs)
def test_what_is_late_keeps_no_step_from_beginning(works: list[Placed]) -> None:
    earliest = earliest_levels(works)
    early = [[work for work, depth in zip(works, earliest, strict=True) if depth == level] for level in range(9)]
    early = [level for level in early if level]
    shared = schedule(works).shared
    for more in range(shared + 1, len(early)):
        assert not in_order(works, Schedule(tuple(map(tuple, early)), more).steps(2), 2)


@given(programs, st.integers(0, 4))
def test_steps_that_share_levels_stay_in_order(works: list[Placed], count: int) -> None:
    assert in_order(works, schedule(works).steps(count), count)


@given(programs)
def test_as_many_levels_are_shared_as_can_be(works: list[Placed]) -> None:
    found = schedule(works)
    assert 0 <= found.shared <= max(0, len(found.levels) - 1)
    for more in range(found.shared + 1, len(found.levels)):
        assert not in_order(works, Schedule(found.levels, more).steps(2), 2)


def test_levels_are_shared_where_a_step_begins_with_what_no_end_touches() -> None:
    """load -> use -> store: the next load needs nothing that the store touches, but must wait for the use."""
    load, use, store = (
        work_of([("a", 0, 4, False, False), ("b", 0, 4, True, False)]),
        work_of([("b", 0, 4, False, False), ("b", 4, 4, True, False)]),
        work_of([("b", 4, 4, False, False), ("b", 8, 4, True, False)]),
    )
    found = schedule([load, use, store])
    assert found.shared == 1
    assert found.steps(2) == [[(load, 0)], [(use, 0)], [(store, 0), (load, 1)], [(use, 1)], [(store, 1)]]


def product(a: int, b: int, c: int) -> Placed:
    """Of four bytes at `a` and `b`, written to `c`."""
    read, written = Pointer(0, "float", False, 0, 4), Pointer(0, "float", True, 0, 4)
    return Placed(Product(read, read, written, 1, 1, 1), tuple(Place("b", each) for each in (a, b, c)))


@pytest.mark.parametrize("blocks", [1, 3, 9], ids=["a single block", "a small update", "a large update"])
def test_logs_stand_beside_the_update_and_not_between_products(blocks: int) -> None:
    """forward -> loss -> two products -> update; the loss and the accuracy are logged, one after the other, in one log."""
    forward, loss = product(0, 4, 8), work_of([("b", 8, 4, False, False), ("b", 12, 8, True, False)], 9)
    log_loss, log_accuracy = (
        work_of([("b", start, 4, False, False), ("log", 0, 4, True, True)]) for start in (12, 16)
    )  # fmt: skip
    apply = work_of([("b", 20, 4, True, False)], 9)
    back, gradient = product(8, 4, 20), product(20, 0, 24)
    update = work_of([("b", 24, 4, False, False), ("b", 4, 4, True, False)], blocks)
    found = schedule([forward, loss, log_loss, log_accuracy, back, apply, gradient, update])
    expected = [[forward], [loss, back], [log_loss, apply], [gradient], [log_accuracy, update]]
    assert [{id(work) for work in level} for level in found.levels] == [set(map(id, level)) for level in expected]
    nodes = [node for level in found.steps(1) for node in kernels_of(level, 4)]
    assert not any(len(node) == 1 and node[0][0] in (log_loss, log_accuracy) for node in nodes)


def test_a_single_block_beside_which_only_products_stand_is_not_moved() -> None:
    first, log = product(0, 4, 8), work_of([("b", 0, 4, False, False), ("log", 0, 4, True, False)])
    then = product(8, 4, 12)
    assert schedule([first, log, then]).levels == ((first, log), (then,))


def test_a_large_body_takes_single_blocks_into_its_node_and_nothing_else() -> None:
    large, single, small = ((work_of([("a", 0, 1, False, False)], count), 0) for count in (9, 1, 2))
    alone = (product(0, 4, 8), 0)
    shared = (Placed(replace(single[0].work, shared=64), single[0].places), 0)  # type: ignore[type-var]
    assert kernels_of([large, single, alone], 4) == [[single, large], [alone]]
    assert kernels_of([large, single, small], 4) == [[large], [single, small]]
    assert kernels_of([large, shared], 4) == [[large], [shared]]
    assert kernels_of([alone, single], 4) == [[alone], [single]]


def product_of(blocks: int) -> Placed:
    """Which counts as so many blocks."""
    pointer = Pointer(0, "float", False, 0, 4)
    return Placed(Product(pointer, pointer, pointer, blocks, PRODUCT_BLOCK - 1, 1), (Place("a", 0),) * 3)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=8))
def test_nodes_that_leave_room_for_each_other_are_one_stage(blocks: list[tuple[bool, int]]) -> None:
    level = [
        (product_of(count) if is_product else work_of([("a", 0, 1, False, False)], count), step)
        for step, (is_product, count) in enumerate(blocks)
    ]

    def size(node: Sequence[tuple[Placed, int]]) -> int:
        return sum(blocks[step][1] for _, step in node)

    def level_order(node: Sequence[tuple[Placed, int]]) -> int:
        return min(step for _, step in node)

    stages = stages_of(level, 6)
    expected, found = kernels_of(level, 6), [node for stage in stages for node in stage]
    assert sorted(found, key=level_order) == sorted(expected, key=level_order)
    for stage in stages:
        assert len(stage) == 1 or sum(map(size, stage)) <= 6
        assert len(stage) == 1 or any(isinstance(node[0][0].work, Product) for node in stage)
        assert len(stage) <= 2
    alone = [size(stage[0]) for stage in stages if len(stage) == 1]
    assert all(a + b > 6 for index, a in enumerate(alone) for b in alone[:index]), "no two that fit are left"


def test_a_product_counts_by_the_size_of_its_result() -> None:
    """Two of 4 blocks are no stage where there is room for 7, whatever they read; nor are three of 2 blocks."""
    four, two = (product_of(4), 0), (product_of(2), 0)
    assert stages_of([four, four], 8) == [[[four], [four]]]
    assert stages_of([four, four], 7) == [[[four]], [[four]]]
    assert stages_of([two, two, two], 8) == [[[two], [two]], [[two]]]
    small = (work_of([("a", 0, 1, False, False)], 3), 0)
    assert stages_of([small, four], 7) == [[[four], [small]]]
    long = (Placed(replace(four[0].work, inner=10**6), four[0].places), 0)  # type: ignore[type-var]
    assert stages_of([long, four], 8) == [[[long], [four]]]


@given(st.lists(st.one_of(st.none(), st.integers(1, 9)), max_size=8))
def test_products_and_large_bodies_are_nodes_of_their_own(blocks: list[int | None]) -> None:
    pointer = Pointer(0, "float", False, 0, 4)
    product = Product(pointer, pointer, pointer, 1, 1, 1)
    place = Place("a", 0)
    level = [
        (Placed(product, (place,) * 3) if count is None else work_of([("a", 0, 1, False, False)], count), step)
        for step, count in enumerate(blocks)
    ]
    nodes = kernels_of(level, 4)
    assert Counter(item for node in nodes for item in node) == Counter(level)
    small = [item for item, count in zip(level, blocks, strict=True) if count is not None and count <= 4]
    large = [item for item, count in zip(level, blocks, strict=True) if count is not None and count > 4]
    single = {count for count in blocks if count is not None and count <= 4} == {1}
    together = [*small, large[0]] if single and large else small
    assert [node for node in nodes if len(node) > 1] == ([together] if len(together) > 1 else [])


# --- playing --------------------------------------------------------------------------------------------------------------

ROWS, EXAMPLES, WIDTH = 3, 40, 4
STEPS = 330
"""That the order and the log have room for."""
INT, FLOAT = np.dtype("int64"), np.dtype("float32")


def operand(*shape: int, dtype: np.dtype[Any] = FLOAT) -> Operand:
    return Operand(shape, dtype)


def step_calls() -> list[PlacedCall]:
    """y = rows of the source, log[index] = their sum, state += y, and the control block moved on."""
    y, total = operand(ROWS, WIDTH), operand()
    state = Place("state", 0)
    return [
        PlacedCall(
            "gather_rows", (operand(EXAMPLES, WIDTH), operand(EXAMPLES, dtype=INT), operand(dtype=INT), y), {"scale": 1.0},
            (Place("source", 0), Place("order", 0), Place(CONTROL, 8), Place("y", 0)),
        ),
        PlacedCall("sum", (y, total), {"axis": (0, 1)}, (Place("y", 0), Place("total", 0))),
        PlacedCall("add", (y, y, y), {}, (Place("y", 0), state, state)),
        PlacedCall(
            "log_value", (total, operand(dtype=INT), operand(STEPS, 4)), {"column": 1},
            (Place("total", 0), Place(CONTROL, 0), Place("log", 0, open=True)),
        ),
        PlacedCall("advance", (operand(8, dtype=INT),), {"rows": ROWS}, (Place(CONTROL, 0),)),
    ]  # fmt: skip


BLIND = PlacedCall("one_hot", (operand(1, dtype=INT), operand(1, 5)), {}, (Place(CONTROL, 16), Place("y", 0)))
"""Reads the control block, and does not know how far the steps are ahead of it."""


class Bound:
    """The arrays of the program above on a GPU made of the host, bound to a player."""

    def __init__(self, calls: Sequence[PlacedCall], capture: bool = True) -> None:
        self.runtime = HostRuntime()
        self.player = Player(self.runtime, calls, capture=capture)
        rng = np.random.default_rng(1)
        values = {
            "source": rng.integers(-9, 9, (EXAMPLES, WIDTH)).astype(FLOAT),
            "order": np.resize(rng.permutation(EXAMPLES), STEPS * ROWS),
            CONTROL: np.zeros(8, INT), "y": np.zeros((ROWS, WIDTH), FLOAT), "total": np.zeros((), FLOAT),
            "state": np.zeros((ROWS, WIDTH), FLOAT), "log": np.zeros((STEPS, 4), FLOAT),
        }  # fmt: skip
        self.arrays: dict[str, DeviceArray] = {}
        for name, value in values.items():
            self.put(name, value)

    def put(self, name: str, value: np.ndarray) -> None:
        """A new array for a space."""
        array = self.arrays[name] = DeviceArray.empty(self.runtime, value.shape, value.dtype)
        array.write(value)
        self.player.bind(name, array.address)

    def values(self) -> dict[str, bytes]:
        return {name: array.read().tobytes() for name, array in self.arrays.items()}


def lanes(nodes: Sequence[Node]) -> Iterator[tuple[str, tuple[int | float | bool, ...]]]:
    """(function, values of its arguments) of every body of some nodes, in order."""
    for node in nodes:
        assert isinstance(node, Launch)
        values = iter(node.values)
        for section in node.kernel.sections:
            next(values)  # its blocks
            yield section.function.split("<")[0], tuple(next(values) for _ in section.types)


def ahead_of(player: Player, steps: int, function: str) -> list[int | float | bool]:
    """What a body is told, in each of so many steps, of how far it is ahead."""
    bodies = [placed.work for works in player.calls for placed in works]
    body = next(b for b in bodies if isinstance(b, Body) and b.function.split("<")[0] == function)
    index = next(i for i, argument in enumerate(body.arguments) if isinstance(argument, Ahead))
    return [values[index] for name, values in lanes(player.nodes(steps)) if name == function]


def test_each_step_of_a_graph_is_told_how_far_it_is_ahead() -> None:
    player = Bound(step_calls()).player
    assert ahead_of(player, 4, "gather_rows") == [0, ROWS, 2 * ROWS, 3 * ROWS]
    assert ahead_of(player, 4, "log_value") == [0, 1, 2, 3]
    assert ahead_of(player, 4, "advance") == [3], "once a graph, for all its steps"
    assert ahead_of(player, 1, "advance") == [0]
    last = list(lanes(player.nodes(4)))[-1]
    assert last[0] == "advance", "after everything that reads the control block"


def graphs(bound: Bound, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Lists that will hold the steps of every graph that is captured, and of every one that is launched."""
    captured: list[int] = []
    launched: list[int] = []

    def steps(stages: Sequence[Sequence[Node]]) -> int:
        (ahead,) = (values[1] for stage in stages for name, values in lanes(stage) if name == "advance")
        return int(ahead) + 1

    capture, launch = bound.runtime.capture, bound.runtime.launch

    def note_capture(stages: Sequence[Sequence[Node]]) -> Any:
        captured.append(steps(stages))
        return capture(stages)

    def note_launch(graph: Any, stream: Any) -> None:
        launched.append(steps(graph))
        launch(graph, stream)

    monkeypatch.setattr(bound.runtime, "capture", note_capture)
    monkeypatch.setattr(bound.runtime, "launch", note_launch)
    return captured, launched


def test_graphs_are_as_long_as_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (LENGTHS, WORTH) == ((64, 8, 1), 4)
    bound = Bound(step_calls())
    captured, launched = graphs(bound, monkeypatch)
    player, stream = bound.player, bound.runtime.stream
    player.play(31, stream)
    assert (captured, launched) == ([1], [1] * 31), "31 steps are not worth a graph of 8"
    launched.clear()
    player.play(12, stream)
    assert (captured, launched) == ([1, 8], [8, 1, 1, 1, 1])
    launched.clear()
    player.play(130, stream)
    assert launched == [8] * 16 + [1, 1], "173 steps were asked for, which is not worth a graph of 64"
    launched.clear()
    player.play(150, stream)
    assert (captured, launched) == ([1, 8, 64], [64, 64, 8, 8, *[1] * 6])
    assert bound.arrays[CONTROL].read().tolist() == [323, 323 * ROWS, 323, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("plays", [[1], [7], [33], [40, 64, 3], [190]])
def test_graphs_change_no_bit(plays: list[int]) -> None:
    """One step after another, by kernels of their own, is what graphs of any length must do."""
    alone, replayed, launched = Bound(step_calls(), capture=False), Bound(step_calls()), Bound(step_calls(), capture=False)
    alone.player.lengths = (1,)
    for count in plays:
        for bound in (alone, replayed, launched):
            bound.player.play(count, bound.runtime.stream)
    assert alone.values() == replayed.values() == launched.values()
    assert "launch" not in launched.runtime.asked
    steps = sum(plays)
    source, order = alone.arrays["source"].read(), alone.arrays["order"].read()
    sums = [source[order[ROWS * s : ROWS * (s + 1)]].sum() for s in range(steps)]
    assert alone.arrays["log"].read()[:steps, 1].tolist() == sums
    assert alone.arrays["state"].read().sum() == sum(sums)


def test_what_does_not_look_ahead_is_played_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound([*step_calls()[:1], BLIND, *step_calls()[1:]])
    _, launched = graphs(bound, monkeypatch)
    bound.player.play(70, bound.runtime.stream)
    assert launched == [1] * 70


def test_another_address_is_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound(step_calls())
    captured, _ = graphs(bound, monkeypatch)
    bound.player.play(2, bound.runtime.stream)
    bound.player.bind("source", bound.arrays["source"].address)
    bound.player.play(2, bound.runtime.stream)
    assert captured == [1], "the address is the same"
    zeros = np.zeros((EXAMPLES, WIDTH), FLOAT)
    before = bound.arrays["source"]
    bound.put("source", zeros)
    bound.player.play(1, bound.runtime.stream)
    assert captured == [1, 1]
    assert bound.arrays["log"].read()[4, 1] == 0.0
    assert before.read().any(), "the old one is still there and was not read"


def test_calls_are_played_on_their_own() -> None:
    bound = Bound(step_calls())
    bound.player.play_calls(0, 2, 3, bound.runtime.stream)
    assert [what for what in bound.runtime.asked if what in ("run", "launch", "capture")][:2] == ["run", "run"]
    source, order = bound.arrays["source"].read(), bound.arrays["order"].read()
    assert bound.arrays["total"].read() == source[order[:ROWS]].sum()
    assert not bound.arrays[CONTROL].read().any()
    assert not bound.arrays["log"].read().any()
    bound.player.play_calls(3, 2, 2, bound.runtime.stream)
    assert bound.arrays[CONTROL].read()[:3].tolist() == [2, 2 * ROWS, 2]
    assert (bound.arrays["log"].read()[:3, 1] == [source[order[:ROWS]].sum()] * 2 + [0]).all()


def backward_calls(rows: int = 8, width: int = 8) -> list[PlacedCall]:
    """dx = dz @ w.T, dw = x.T @ dz, and dx += dx: the gradients do not depend on each other."""
    x, w = operand(rows, width), operand(width, width)
    at = {name: Place(name, 0) for name in ("x", "dz", "w", "dx", "dw")}
    flags = {"transpose_a": False, "transpose_b": False}
    return [
        PlacedCall("matmul", (x, w, x), {**flags, "transpose_b": True}, (at["dz"], at["w"], at["dx"])),
        PlacedCall("matmul", (x, x, w), {**flags, "transpose_a": True}, (at["x"], at["dz"], at["dw"])),
        PlacedCall("add", (x, x, x), {}, (at["dx"], at["dx"], at["dx"])),
    ]


def backward_player(monkeypatch: pytest.MonkeyPatch, capture: bool = True, **sizes: int) -> Player:
    """Of the calls above, with products by cuBLASLt, on a GPU that has room for 8 blocks."""
    monkeypatch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 0))
    player = Player(HostRuntime(products=True), backward_calls(**sizes), capture=capture)
    for index, name in enumerate(("x", "dz", "w", "dx", "dw")):
        player.bind(name, 4096 * (index + 1))
    return player


def test_gradients_that_leave_room_for_each_other_are_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    player = backward_player(monkeypatch)
    (input_product, weight_product), (addition,) = player.stages(1)
    assert isinstance(input_product, Multiplication)
    assert isinstance(weight_product, Multiplication)
    assert (input_product.product.transpose_b, weight_product.product.transpose_a) == (True, True)
    assert isinstance(addition, Launch)
    assert player.nodes(1) == [input_product, weight_product, addition]
    assert player.describe() == "3.0 nodes a step, 2.0 of them in pairs side by side, 1 step a graph"
    assert backward_player(monkeypatch, capture=False).describe() == "3.0 nodes a step, 1 step a graph"


def test_gradients_that_fill_the_gpu_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 x 4096 elements are as much as the whole GPU has room for."""
    player = backward_player(monkeypatch, rows=PRODUCT_BLOCK // 512, width=4096)
    assert [len(stage) for stage in player.stages(1)] == [1, 1, 1]
    assert player.describe() == "3.0 nodes a step, 1 step a graph"


def test_a_program_without_an_end_has_graphs_of_one_step() -> None:
    """Nothing moves the control block on: every step is the same."""
    bound = Bound(step_calls()[:-1])
    bound.player.play(40, bound.runtime.stream)
    assert bound.runtime.asked.count("launch") == 40
