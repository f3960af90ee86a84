"""The order of work on a simulated GPU, whose streams do it in any order that CUDA allows; and that faults of it are found.

Each situation asks the engine for something and compares the result. A planted fault leaves out what keeps the work in order.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulated_cupy
from simulated_cupy import streams
from simulated_cupy.streams import CUDARuntimeError, Stream

import fastnn
from fastnn import engines
from fastnn.engines import cuda
from fastnn.engines.cuda import CudaEngine, CudaInstance, PinnedFetching, PinnedPassage, PinnedRing, _Half
from fastnn.errors import InputError
from fastnn.network.state import State
from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda import player as player_module
from fastnn_kernels.cuda.cublaslt import WORKSPACE
from fastnn_kernels.cuda.device import CupyRuntime, _Lent
from fastnn_kernels.cuda.families import dense
from fastnn_kernels.cuda.lowering import request
from fastnn_kernels.cuda.player import PlacedCall, Player
from fastnn_kernels.cuda.runtime import CudaError, CudaOutOfMemory
from fastnn_kernels.cuda.schedule import SCRATCH, Place, Placed
from fastnn_kernels.cuda.variants import Choice, Own

SEEDS = range(20)

Patch = pytest.MonkeyPatch


def ends_well(situation: Callable[[CudaEngine], bool], order: str = "random", seed: int = 0) -> bool:
    """Whether a situation ends well on a GPU that does its work in this order, and nobody waits in vain."""
    with simulated_cupy.install(order, seed) as gpu:
        engine, _ = engines.choose("cuda")
        assert isinstance(engine, CudaEngine)
        return situation(engine) and not gpu.scheduler.vain_waits


# --- situations -----------------------------------------------------------------------------------------------------------


def blocks_come_and_go(engine: CudaEngine) -> bool:
    """Six blocks of a stream are copied beside the work on them; the host never waits for the work."""
    rows, blocks = 5, np.arange(6 * 5 * 3, dtype=np.float32).reshape(6, 5, 3)
    copied = engine.empty(blocks.shape, np.float32)
    before = engine.zeros((2 * rows, 3), np.float32)
    engine.compute("identity", (before, engine.zeros(before.shape, np.float32)), {})
    del before  # its memory is the ring's now, and work on it may be left
    ring = engine.feed(rows, {"X": blocks[0]})

    def load(block: int) -> None:
        ring.fill(block % 2, rows, lambda name, target: np.copyto(target, blocks[block]))

    load(0)
    for block in range(len(blocks)):
        if block + 1 < len(blocks):
            load(block + 1)
        ring.enter(block % 2)
        half = ring.arrays["X"].rows(block % 2 * rows, rows)
        engine.compute("identity", (half, copied.rows(block, 1).view(0, half.shape)), {})
        ring.leave(block % 2)
    return np.array_equal(engine.read(copied)[0], blocks)


def results_are_read(engine: CudaEngine) -> bool:
    """What a program leaves is read by way of pinned memory."""
    values = np.linspace(0, 1, 7, dtype=np.float32)
    result = engine.zeros((7,), np.float32, mirrored=True)
    engine.compute("identity", (engine.to_device(values), result), {})
    return np.array_equal(engine.read(result)[0], values)


def arrays_are_exchanged(engine: CudaEngine) -> bool:
    """A user's stream writes the inputs before, and reads the outputs after, without waiting for anything."""
    import cupy

    values, stream = np.linspace(0, 1, 300, dtype=np.float32), cupy.cuda.Stream(non_blocking=True)
    with stream:
        inputs = cupy.zeros(values.shape, "float32")
        inputs[...] = cupy.asarray(values)
        outputs = engine.empty(values.shape, np.float32)
        engine.compute("identity", (engine.to_device(inputs), outputs), {})
        exported = engine.export(outputs)
        del outputs
        others = engine.to_device(np.zeros_like(values))
        copied = exported.copy()
        inputs[...] = 0
        del exported, inputs
        more = engine.to_device(np.zeros_like(values))
        results = copied.get(stream=stream)
    engine.wait()
    del others, more
    return np.array_equal(results, values)


def a_network_predicts(engine: CudaEngine) -> bool:
    """Two networks are asked by turns."""
    X = np.random.default_rng(3).standard_normal((40, 6)).astype("float32")
    models = [fastnn.Sequential([fastnn.Dense(9, activation="tanh"), fastnn.Dense(2)], seed=seed).build(6) for seed in (1, 2)]
    expected = [model(X) for model in models]
    for model in models:
        model.to("cuda")
    outputs = [model(X) for _ in range(2) for model in models]
    return all(np.allclose(values, right, atol=1e-6) for values, right in zip(outputs, expected * 2, strict=True))


def a_block_is_not_gathered(engine: CudaEngine) -> bool:
    """A file that cannot be read: the pinned memory of the blocks before it is that of another stream next."""
    rows, values = 50, np.arange(300, dtype=np.float32).reshape(2, 50, 3)
    read = {"X": values[0], "y": np.arange(50, dtype=np.float32)}

    def gather(name: str, target: np.ndarray) -> None:
        if name == "y":
            raise OSError("gone")
        np.copyto(target, read[name])

    first = engine.feed(rows, read)
    with pytest.raises(OSError, match="gone"):
        first.fill(0, rows, gather)
    half = first.arrays["X"].rows(0, rows)
    del first, gather
    engine.runtime.allocate_pinned(values[0].nbytes).fill(7)
    engine.runtime.synchronize(engine.runtime.copies)
    return np.array_equal(half.read(), values[0])


def a_model_is_backed_up(engine: CudaEngine) -> bool:
    """What the host has when the GPU is lost is the values of some step, with the number of that step."""
    sources = [engine.to_device(np.full(300, step, np.float32)) for step in range(9)]
    state = State(np.float32)
    state.add(parameters=300, statistics=0)
    state.start_optimizer("SGD")
    state.begin(engine, 0.0)
    for source in sources[1:]:
        engine.compute("identity", (source, state.on(engine)["parameters"]), {})
        state.advance(engine, 1)
        state.back_up(0.0)
    state.lose()
    return bool((state.read()["parameters"] == state.counters.step).all())


def many_blocks_are_predicted(engine: CudaEngine) -> bool:
    """Seven blocks, of which two are under way; at first some that end with an error, whose memory the others have next."""
    X = np.random.default_rng(5).standard_normal((215, 6)).astype("float32")
    model = fastnn.Sequential([fastnn.Dense(9, activation="tanh"), fastnn.Dense(6)], seed=3).build(6)
    expected, wrong = model(X), X.copy()
    wrong[-1] = np.nan
    model.to("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaEngine, "block_rows", 32)
        patch.setattr(cuda, "STAGED_BYTES", 1)
        with pytest.raises(InputError):
            model(wrong)
        return np.allclose(model(X), expected, atol=1e-6)


def products_follow_each_other(engine: CudaEngine) -> bool:
    """Six products of cuBLASLt, none of which reads what another writes."""
    rng = np.random.default_rng(4)
    pairs = [[rng.standard_normal((4, 4)).astype("float32") for _ in range(2)] for _ in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 0))
        placed = [[*map(engine.to_device, pair), engine.empty((4, 4), np.float32)] for pair in pairs]
        for operands in placed:
            engine.compute("matmul", operands, {"transpose_a": False, "transpose_b": False})
        engine.wait()
    results = engine.read(*(result for *_, result in placed))
    return all(np.allclose(c, a @ b, atol=1e-5) for (a, b), c in zip(pairs, results, strict=True))


def calls_side_by_side() -> list[PlacedCall]:
    """a = x @ y + x @ z + (a @ u) @ (a @ v), where the products of x are our own, in parts that are kept in scratch memory."""

    def call(kernel: str, *names: str) -> PlacedCall:
        operands = tuple(Operand(SHAPES.get(name, (4, 4)), np.dtype("float32")) for name in names)
        flags = {"transpose_a": False, "transpose_b": False} if kernel == "matmul" else {}
        return PlacedCall(kernel, operands, flags, tuple(Place(name, 0) for name in names))

    products = [call("matmul", *names) for names in ("auc", "avd", "xyp", "xzq", "cde")]
    return [*products, call("add", *"pqs"), call("add", *"sea")]


def play_side_by_side(engine: CudaEngine, capture: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """What three steps of them leave in `a`, and what is right.

    In each, two products of cuBLASLt are side by side, then one and the kernel in which the parts of the others are added up.
    """
    rng = np.random.default_rng(5)
    values = {name: rng.standard_normal(shape).astype("float32") / 8 for name, shape in SHAPES.items()}
    arrays = {name: engine.to_device(value) for name, value in values.items()}
    arrays |= {name: engine.empty((4, 4), np.float32) for name in "cdepqs"}
    calls = calls_side_by_side()
    requests = [request(call.kernel, call.operands, call.attributes, engine.runtime.device) for call in calls[2:4]]
    by_us = {dense.key(each): Choice(Own(4, 8, 2), 0.0) for each in requests}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 0))
        player = Player(engine.runtime, calls, capture=capture, choices=by_us)
    for name, array in arrays.items():
        player.bind(name, array.address)
    assert [len(stage) for stage in player.stages(1)] == [2, 1, 2, 1, 1]
    player.play(3, engine.runtime.stream)
    a, u, v, x, y, z = (value.astype(np.float64) for value in values.values())
    for _ in range(3):
        a = x @ y + x @ z + (a @ u) @ (a @ v)
    return engine.read(arrays["a"])[0], a


SHAPES = {"a": (4, 4), "u": (4, 4), "v": (4, 4), "x": (4, 1024), "y": (1024, 4), "z": (1024, 4)}
"""Of what is there before the first step; all else is (4, 4)."""


def nodes_are_side_by_side(engine: CudaEngine) -> bool:
    """The branches of a graph run in any order; what CUDA refuses does not end well."""
    try:
        found, expected = play_side_by_side(engine)
    except CudaError:
        return False
    return np.allclose(found, expected, atol=1e-5)


SITUATIONS = (
    blocks_come_and_go, a_block_is_not_gathered, results_are_read, arrays_are_exchanged, a_network_predicts,
    a_model_is_backed_up, many_blocks_are_predicted, products_follow_each_other,
    nodes_are_side_by_side,
)  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(
    ("order", "seeds"),
    [("late", [0]), ("copies first", [0]), ("random", [0, 1]), pytest.param("random", SEEDS, marks=pytest.mark.slow)],
)
def test_every_order_gives_the_right_result(order: str, seeds: Sequence[int], situation: Callable[[CudaEngine], bool]) -> None:
    assert all(ends_well(situation, order, seed) for seed in seeds)


# --- planted faults -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """What is left out, and the situation that needs it."""

    plant: Callable[[Patch], None]
    situation: Callable[[CudaEngine], bool]


def no_event_when_a_ring_is_made(patch: Patch) -> None:
    create = PinnedRing.__init__

    def init(ring: PinnedRing, *arguments: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(PinnedRing, "leave", lambda ring, half: None)
            create(ring, *arguments)

    patch.setattr(PinnedRing, "__init__", init)


def without(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, in which a method of the runtime does nothing."""

    def call(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(CupyRuntime, name, lambda runtime, *given: None)
            return function(*arguments)

    return call


def no_event_when_a_block_has_come(patch: Patch) -> None:
    patch.setattr(PinnedRing, "fill", without("record", PinnedRing.fill))


def no_event_before_a_backup(patch: Patch) -> None:
    patch.setattr(PinnedFetching, "__init__", without("wait", PinnedFetching.__init__))


def no_copy_for_a_backup(patch: Patch) -> None:
    patch.setattr(CudaEngine, "duplicate", lambda engine, arrays: dict(arrays))


def no_event_after_a_backup(patch: Patch) -> None:
    patch.setattr(CupyRuntime, "is_done", lambda runtime, event: True)


def no_wait_when_a_block_has_come(patch: Patch) -> None:
    patch.setattr(PinnedRing, "fill", without("synchronize", PinnedRing.fill))


def no_event_when_a_block_is_left(patch: Patch) -> None:
    create = PinnedRing.__init__

    def init(ring: PinnedRing, *arguments: Any) -> None:
        create(ring, *arguments)
        ring.leave = lambda half: None  # type: ignore[method-assign]

    patch.setattr(PinnedRing, "__init__", init)


def no_event_for_what_users_write(patch: Patch) -> None:
    def adopt(runtime: CupyRuntime, array: Any) -> Any:
        return array.data.ptr, array.shape, array.dtype, array

    patch.setattr(CupyRuntime, "adopt", adopt)


def no_event_for_what_users_read(patch: Patch) -> None:
    def lend(runtime: CupyRuntime, address: int, shape: Any, dtype: Any, owner: Any) -> Any:
        memory = runtime.cupy.cuda.UnownedMemory(address, 0, _Lent(runtime, owner), 0)
        return runtime.cupy.ndarray(shape, dtype, runtime.cupy.cuda.MemoryPointer(memory, 0))

    patch.setattr(CupyRuntime, "lend", lend)


def no_event_when_users_let_go(patch: Patch) -> None:
    patch.delattr(_Lent, "__del__")


def no_owner_of_what_users_hold(patch: Patch) -> None:
    def forget(lent: _Lent, runtime: CupyRuntime, owner: Any) -> None:
        lent._runtime, lent._owner = runtime, None

    patch.setattr(_Lent, "__init__", forget)


def no_owner_of_a_workspace(patch: Patch) -> None:
    create = CudaInstance.__init__

    def init(instance: CudaInstance, *arguments: Any) -> None:
        create(instance, *arguments)
        memory = instance._workspace
        instance._workspace = SimpleNamespace(address=memory.address, nbytes=memory.nbytes)  # type: ignore[assignment]

    patch.setattr(CudaInstance, "__init__", init)


def no_wait_for_copies(patch: Patch) -> None:
    synchronize = CupyRuntime.synchronize

    def skip_copies(runtime: CupyRuntime, stream: Any) -> None:
        if stream is not runtime.copies:
            synchronize(runtime, stream)

    patch.setattr(CupyRuntime, "synchronize", skip_copies)


def no_wait_for_a_half(patch: Patch) -> None:
    patch.setattr(_Half, "take_out", without("synchronize", _Half.take_out))


def no_wait_after_an_error(patch: Patch) -> None:
    patch.setattr(PinnedPassage, "__call__", PinnedPassage._through)


def no_wait_for_results(patch: Patch) -> None:
    patch.setattr(CupyRuntime, "synchronize", lambda runtime, stream: None)


def products_on_two_streams(patch: Patch) -> None:
    """Every second program runs on the second stream, after all that the first one was given; whoever waits, waits for both."""
    play, wait, turns = Player.play, CudaEngine.wait, [0]

    def play_beside(player: Player, repeats: int, stream: Any) -> None:
        runtime = player.runtime
        turns[0] += 1
        if turns[0] % 2:
            play(player, repeats, stream)
            return
        event = runtime.event()
        runtime.record(event, runtime.stream)
        runtime.wait(runtime.copies, event)
        play(player, repeats, runtime.copies)

    def wait_for_both(engine: CudaEngine) -> None:
        engine.runtime.synchronize(engine.runtime.copies)
        wait(engine)

    patch.setattr(Player, "play", play_beside)
    patch.setattr(CudaEngine, "wait", wait_for_both)


def no_branch_is_joined(patch: Patch) -> None:
    let_wait = CupyRuntime._let_wait

    def fork_only(runtime: CupyRuntime, stream: Any, other: Any) -> None:
        if other is not runtime._branch:
            let_wait(runtime, stream, other)

    patch.setattr(CupyRuntime, "_let_wait", fork_only)


def branches_are_joined_at_the_end(patch: Patch) -> None:
    """Of a graph, and not before its next stage."""
    let_wait, end, joins = CupyRuntime._let_wait, Stream.end_capture, list[Callable[[], None]]()

    def join_later(runtime: CupyRuntime, stream: Any, other: Any) -> None:
        if other is runtime._branch:
            joins.append(lambda: let_wait(runtime, stream, other))
        else:
            let_wait(runtime, stream, other)

    def join_and_end(stream: Stream) -> Any:
        while joins:
            joins.pop()()
        return end(stream)

    patch.setattr(CupyRuntime, "_let_wait", join_later)
    patch.setattr(Stream, "end_capture", join_and_end)


def branches_begin_too_early(patch: Patch) -> None:
    """All but the first of a graph wait for no stage before them."""
    let_wait = CupyRuntime._let_wait

    def fork_once(runtime: CupyRuntime, stream: Any, other: Any) -> None:
        if stream is not runtime._branch or stream.capture is None:
            let_wait(runtime, stream, other)

    patch.setattr(CupyRuntime, "_let_wait", fork_once)


def branches_are_not_captured(patch: Patch) -> None:
    """What the other stream is given runs when the graph is captured."""
    let_wait = CupyRuntime._let_wait

    def join_only(runtime: CupyRuntime, stream: Any, other: Any) -> None:
        if stream is not runtime._branch:
            let_wait(runtime, stream, other)

    patch.setattr(CupyRuntime, "_let_wait", join_only)


def one_workspace_for_both_branches(patch: Patch) -> None:
    run = CupyRuntime.run

    def run_in_one(runtime: CupyRuntime, node: Any, stream: Any) -> None:
        runtime._branch_workspace = runtime._workspace
        run(runtime, node, stream)

    patch.setattr(CupyRuntime, "run", run_in_one)


def one_scratch_for_all_calls(patch: Patch) -> None:
    """Which the schedule takes for memory of their own."""
    place, create, calls = player_module.place, Player.__init__, itertools.count()

    def place_at_the_start(lowered: Any, places: Any, scratch: int) -> list[Placed]:
        space = f"{SCRATCH} of call {next(calls)}"
        return [
            replace(each, places=tuple(replace(at, space=space) if at.space == SCRATCH else at for at in each.places))
            for each in place(lowered, places, 0)
        ]

    def init(player: Player, *arguments: Any, **options: Any) -> None:
        create(player, *arguments, **options)
        spaces = {at.space for works in player.calls for placed in works for at in placed.places}
        player.spaces.update((space, player.spaces[SCRATCH]) for space in spaces if space.startswith(SCRATCH))

    patch.setattr(player_module, "place", place_at_the_start)
    patch.setattr(Player, "__init__", init)


PLANTED = {
    "an event is missing: a block is overwritten by work that its memory was given to before": Planted(
        no_event_when_a_ring_is_made, blocks_come_and_go
    ),
    "an event is missing: a block is overwritten while it is worked on": Planted(
        no_event_when_a_block_is_left, blocks_come_and_go
    ),
    "an event is missing: what waits for a block waits in vain": Planted(no_event_when_a_block_has_come, blocks_come_and_go),
    "an event is missing: a backup is copied to the host before the steps are done": Planted(
        no_event_before_a_backup, a_model_is_backed_up
    ),
    "an event is missing: a backup is used before it has come": Planted(no_event_after_a_backup, a_model_is_backed_up),
    "a backup is overwritten by the next step": Planted(no_copy_for_a_backup, a_model_is_backed_up),
    "an event is missing: an array is read before its owner has written it": Planted(
        no_event_for_what_users_write, arrays_are_exchanged
    ),
    "an event is missing: a result is read before it is there": Planted(no_event_for_what_users_read, arrays_are_exchanged),
    "an event is missing: a result is overwritten while its user reads it": Planted(
        no_event_when_users_let_go, arrays_are_exchanged
    ),
    "a buffer is given back too early: a result that a user holds": Planted(no_owner_of_what_users_hold, arrays_are_exchanged),
    "a buffer is given back too early: the intermediate arrays of a program": Planted(
        no_owner_of_a_workspace, a_network_predicts
    ),
    "an array of the host is changed before its copy": Planted(no_wait_for_copies, blocks_come_and_go),
    "an array of the host is given back before its copy: a block that was not gathered whole": Planted(
        no_wait_when_a_block_has_come, a_block_is_not_gathered
    ),
    "an array of the host is read before its copy": Planted(no_wait_for_results, results_are_read),
    "an array of the host is given back before its copy: rows of a prediction that failed": Planted(
        no_wait_after_an_error, many_blocks_are_predicted
    ),
    "an array of the host is read before its copy: blocks of a prediction": Planted(
        no_wait_for_a_half, many_blocks_are_predicted
    ),
    "a product begins before its workspace is free": Planted(products_on_two_streams, products_follow_each_other),
    "a branch of a graph is never joined": Planted(no_branch_is_joined, nodes_are_side_by_side),
    "a branch of a graph is joined at its end only": Planted(branches_are_joined_at_the_end, nodes_are_side_by_side),
    "a branch of a graph begins before the nodes that it needs": Planted(branches_begin_too_early, nodes_are_side_by_side),
    "a branch of a graph is not captured": Planted(branches_are_not_captured, nodes_are_side_by_side),
    "two branches of a graph share a workspace": Planted(one_workspace_for_both_branches, nodes_are_side_by_side),
    "two calls that run side by side share scratch memory": Planted(one_scratch_for_all_calls, nodes_are_side_by_side),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, monkeypatch: Patch) -> None:
    planted = PLANTED[name]
    planted.plant(monkeypatch)
    assert not all(ends_well(planted.situation, "random", seed) for seed in SEEDS)


def test_products_on_two_streams_are_right_with_two_workspaces(monkeypatch: Patch) -> None:
    """So it is the workspace alone that keeps them from running side by side."""
    products_on_two_streams(monkeypatch)
    run = CupyRuntime.run

    def with_two(runtime: CupyRuntime, node: Any, stream: Any) -> None:
        spaces = runtime.__dict__.setdefault("spaces", {runtime.stream: runtime._workspace})
        if stream not in spaces:
            spaces[stream] = runtime.allocate(runtime._workspace.nbytes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "_workspace", spaces[stream])
            run(runtime, node, stream)

    monkeypatch.setattr(CupyRuntime, "run", with_two)
    assert all(ends_well(products_follow_each_other, "random", seed) for seed in SEEDS[:8])


def test_nodes_side_by_side_give_the_bits_of_nodes_in_a_row() -> None:
    results = []
    for capture in (False, True):
        with simulated_cupy.install():
            engine, _ = engines.choose("cuda")
            assert isinstance(engine, CudaEngine)
            results.append(play_side_by_side(engine, capture)[0].tobytes())
            assert isinstance(engine.runtime, CupyRuntime)
            assert (engine.runtime._branch_workspace is not None) == capture, "a second one where it is needed"
            del engine
    assert results[0] == results[1]


def test_without_room_for_a_second_workspace_nodes_follow_one_another(monkeypatch: Patch) -> None:
    """A later graph has its branches, where there is room again."""
    allocate, room = CupyRuntime.allocate, iter([False])

    def refuse_once(runtime: CupyRuntime, nbytes: int) -> Any:
        if nbytes == WORKSPACE and not next(room, True):
            raise CudaOutOfMemory(nbytes, 0, 2**30)
        return allocate(runtime, nbytes)

    with simulated_cupy.install():
        engine, _ = engines.choose("cuda")
        assert isinstance(engine, CudaEngine)
        right = play_side_by_side(engine, capture=False)[0].tobytes()
        monkeypatch.setattr(CupyRuntime, "allocate", refuse_once)
        runtime = engine.runtime
        assert isinstance(runtime, CupyRuntime)
        assert play_side_by_side(engine)[0].tobytes() == right
        assert runtime._branch_workspace is None
        assert play_side_by_side(engine)[0].tobytes() == right
        assert runtime._branch_workspace is not None


def test_after_a_capture_that_fails_with_two_branches_the_next_one_is_whole(monkeypatch: Patch) -> None:
    run, failures = CupyRuntime.run, iter([True])

    def fail_once(runtime: CupyRuntime, node: Any, stream: Any) -> None:
        if stream is runtime._branch and next(failures, False):
            raise CudaError("it was told to fail")
        run(runtime, node, stream)

    monkeypatch.setattr(CupyRuntime, "run", fail_once)
    with simulated_cupy.install() as gpu:
        engine, _ = engines.choose("cuda")
        assert isinstance(engine, CudaEngine)
        with pytest.raises(CudaError, match="told to fail"):
            play_side_by_side(engine)
        assert not any(stream.capture for stream in gpu.scheduler.streams)
        assert nodes_are_side_by_side(engine)


# --- the simulation itself ------------------------------------------------------------------------------------------------


def test_branches_of_a_graph_run_in_every_order() -> None:
    """begin -> (left -> left, then right) -> end, by two streams."""
    orders: dict[str, set[str]] = {}
    for order in simulated_cupy.ORDERS:
        with simulated_cupy.install(order) as gpu:
            import cupy

            ran: list[str] = []
            first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
            fork, join = cupy.cuda.Event(), cupy.cuda.Event()
            first.begin_capture()
            first.give(functools.partial(ran.append, "("))
            fork.record(first)
            second.wait_event(fork)
            for stream, letter in ((first, "a"), (second, "x"), (first, "b"), (second, "y")):
                stream.give(functools.partial(ran.append, letter))
            join.record(second)
            first.wait_event(join)
            first.give(functools.partial(ran.append, ")"))
            graph = first.end_capture()
            assert not any(stream.capture for stream in gpu.scheduler.streams)
            assert not ran
            for _ in range(200):
                graph.launch(first)
            first.synchronize()
            text = "".join(ran)
            assert len(text) == 6 * 200
            orders[order] = {text[start : start + 6] for start in range(0, len(text), 6)}
    assert orders["random"] == {f"({middle})" for middle in ("abxy", "axby", "axyb", "xaby", "xayb", "xyab")}
    assert orders["late"] == orders["copies first"] == {"(xyab)"}


def test_captures_that_cuda_refuses_are_refused() -> None:
    """Each with its own status; whatever it is, nothing is captured after the end."""
    with simulated_cupy.install() as gpu:
        import cupy

        first, second, third = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))
        fork = cupy.cuda.Event()

        def refusal(action: Callable[[], Any]) -> int:
            with pytest.raises(CUDARuntimeError) as caught:
                action()
            return caught.value.status

        first.begin_capture()
        fork.record(first)
        second.wait_event(fork)
        third.begin_capture()
        assert refusal(lambda: third.wait_event(fork)) == streams.CAPTURE_MERGE
        assert refusal(second.end_capture) == streams.CAPTURE_UNMATCHED
        assert refusal(second.synchronize) == streams.CAPTURE_UNSUPPORTED
        assert refusal(fork.synchronize) == streams.CAPTURED_EVENT
        second.give(lambda: None)
        assert refusal(first.end_capture) == streams.CAPTURE_UNJOINED
        assert third.end_capture().nodes == []
        assert refusal(lambda: second.wait_event(fork)) == streams.CAPTURED_EVENT
        assert not any(stream.capture for stream in gpu.scheduler.streams)
        fork.record(first)
        second.wait_event(fork)
        second.synchronize()


def test_orders_do_what_they_say() -> None:
    lengths = {}
    for order in simulated_cupy.ORDERS:
        with simulated_cupy.install(order) as gpu:
            import cupy

            work, copies = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
            lengths[order] = [[]]
            for count in range(20):
                work.give(lambda: None, computes=True)
                copies.give(lambda: None)
                lengths[order].append([len(work.queue), len(copies.queue), count + 1])
            event = cupy.cuda.Event()
            event.record(work)
            copies.wait_event(event)
            copies.synchronize()
            assert not work.queue
            assert not copies.queue
            assert gpu.scheduler.current is gpu.scheduler.default
    assert lengths["late"][1:] == [[count, count, count] for count in range(1, 21)]
    assert lengths["copies first"][1:] == [[count, 0, count] for count in range(1, 21)]
    assert any(0 < len_work < count for len_work, _, count in lengths["random"][1:])


def test_memory_that_is_given_back_is_poisoned_in_the_order_of_its_stream() -> None:
    with simulated_cupy.install("late"):
        import cupy

        first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        with first:
            array = cupy.ones(3, "float32")
            before = array.copy()
        with second:
            first.synchronize()
            after = array.copy()
        del array
        first.synchronize()
        assert before.get(stream=first).tolist() == [1, 1, 1]
        assert np.isnan(after.get(stream=second)).all()


@pytest.mark.parametrize("kept", [True, False])
def test_a_write_beyond_memory_is_found(kept: bool) -> None:
    references = []

    def write() -> None:
        with simulated_cupy.install():
            memory = engines.gpu(0).runtime.allocate(512)
            np.frombuffer((ctypes.c_uint8 * 513).from_address(memory.address), np.uint8)[512] = 7
            references.extend([memory] if kept else [])
            del memory

    with pytest.raises(AssertionError, match="beyond its memory"):
        write()


@pytest.mark.parametrize("action", ["copy", "wait", "synchronize"])
def test_what_a_capture_does_not_allow_is_refused(action: str) -> None:
    with simulated_cupy.install():
        engine = engines.gpu(0)
        assert isinstance(engine.runtime, CupyRuntime)
        runtime, values = engine.runtime, np.ones(3)
        target, event = engine.to_device(values), runtime.event()
        runtime.record(event, runtime.stream)
        stream = runtime._capturing
        stream.begin_capture()
        actions = {
            "copy": lambda: runtime.upload(target.address, values, stream),
            "wait": lambda: runtime.wait(stream, event),
            "synchronize": lambda: runtime.synchronize(stream),
        }
        with pytest.raises(CudaError, match="capture"):
            actions[action]()
        stream.end_capture()


def test_copies_outside_of_memory_are_refused() -> None:
    with simulated_cupy.install():
        engine = engines.gpu(0)
        with pytest.raises(CudaError, match="beyond what is allocated"):
            engine.runtime.upload(engine.to_device(np.ones(3)).address, np.ones(1000), engine.runtime.stream)


def test_times_of_events_that_have_not_come_are_refused() -> None:
    with simulated_cupy.install("late"):
        import cupy

        events = [cupy.cuda.Event() for _ in range(2)]
        for event in events:
            event.record()
        with pytest.raises(CUDARuntimeError):
            cupy.cuda.get_elapsed_time(*events)
        events[1].synchronize()
        assert cupy.cuda.get_elapsed_time(*events) > 0
