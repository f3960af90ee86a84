"""Choices by timing: the fastest variant of a product on one GPU, found once and kept on disk.

cuBLASLt's algorithms, with an epilogue and with bodies of ours behind the plain product, and our own bodies where the product
is small compete on operands of the call's own shapes, types and alignment. What is found holds for one name of a GPU, version
of cuBLASLt and `dense.CHOICE_VERSION`: other bits than the rule's, but the same ones as long as the choice is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import statistics
import tempfile
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from fastnn_kernels.caching import cache_folder
from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda.cublaslt import Algorithm, CublasError
from fastnn_kernels.cuda.families.dense import CHOICE_VERSION, key, list_variants
from fastnn_kernels.cuda.lowering import ALIGNMENT, request
from fastnn_kernels.cuda.player import PlacedCall, Player
from fastnn_kernels.cuda.runtime import CudaOutOfMemory, Memory, Runtime
from fastnn_kernels.cuda.schedule import Place
from fastnn_kernels.cuda.variants import Choice, Library, Own, Variant

ALGORITHMS = 16
"""Of cuBLASLt that are timed for a product, with each epilogue."""

REPEATS = 20
"""Of a call in the graph that is timed."""

ROUNDS = 5
"""In which those that came close are timed by turns; the median counts."""

CLOSE = 1.3
"""Times the fastest of the first round: what is slower is timed no more."""

PATTERN = 2**18
"""Random numbers that operands are filled with, again and again."""


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """A choice on disk: one of the two kinds, and seconds."""

    seconds: float
    library: Library | None = None
    bodies: Own | None = msgspec.field(default=None, name="own")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    device: str
    cublaslt: int
    choice_version: int
    choices: dict[str, _Kept]


class Choices:
    """What was found on a GPU: `entries`, by `dense.key`. Safe to use from any thread."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._lock = threading.Lock()
        folder = cache_folder()
        self._made_for = (runtime.name, runtime.products_version, CHOICE_VERSION)
        digest = hashlib.sha256(repr(self._made_for).encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"products-{digest}.json"
        self.entries: dict[str, Choice] = self._read()

    def tune(self, calls: Iterable[PlacedCall], precision: str) -> None:
        """Find the fastest variant for each of these calls of products for which that has not been done.

        A call for whose operands the GPU has no room is left to the rule. `precision`: of products of float32.
        """
        device = replace(self.runtime.device, precision=precision)
        with self._lock:
            new: dict[str, Choice] = {}
            for call in calls:
                requested = request(call.kernel, call.operands, call.attributes, device, call.offsets)
                name = key(requested)
                if name in self.entries or name in new:
                    continue
                candidates = list_variants(requested, functools.partial(self.runtime.algorithms, count=ALGORITHMS))
                with contextlib.suppress(CudaOutOfMemory):
                    choice = self._fastest(call, name, candidates, precision)
                    if choice is not None:
                        new[name] = choice
            if new:
                self.entries = {**self._read(), **self.entries, **new}
                self._write()

    def _fastest(self, call: PlacedCall, name: str, candidates: Sequence[Variant], precision: str) -> Choice | None:
        """The fastest variant of a call; None where none of them runs."""
        runtime = self.runtime
        offsets = [offset % ALIGNMENT for offset in call.offsets]
        memory = [allocate_filled(runtime, operand, offset) for operand, offset in zip(call.operands, offsets, strict=True)]
        alone = replace(call, places=tuple(Place(str(index), offset) for index, offset in enumerate(offsets)))
        runners: list[tuple[Variant, Any, Player]] = []
        for variant in candidates:
            player = Player(runtime, [alone], precision, choices={name: Choice(variant, 0.0)})
            for index, each in enumerate(memory):
                player.bind(str(index), each.address)
            nodes = player.nodes(1)
            with contextlib.suppress(CublasError):  # what the heuristic names may be refused after all
                runtime.prepare(nodes)
                for node in nodes:
                    runtime.run(node, runtime.stream)
                runners.append((variant, runtime.capture([[node] for node in nodes] * REPEATS), player))
        if not runners:
            return None
        first = [self._seconds(graph) for _, graph, _ in runners]
        close = [runner for runner, seconds in zip(runners, first, strict=True) if seconds <= CLOSE * min(first)]
        rounds = [[self._seconds(graph) for _, graph, _ in close] for _ in range(ROUNDS)]
        medians = [statistics.median(seconds) for seconds in zip(*rounds, strict=True)]
        best = medians.index(min(medians))
        return Choice(close[best][0], medians[best])

    def _seconds(self, graph: Any) -> float:
        """Of one call, REPEATS of which are in the graph."""
        runtime = self.runtime
        before, after = runtime.event(), runtime.event()
        runtime.launch(graph, runtime.stream)  # so that the GPU is busy when the first event comes
        runtime.record(before, runtime.stream)
        runtime.launch(graph, runtime.stream)
        runtime.record(after, runtime.stream)
        return runtime.elapsed_seconds(before, after) / REPEATS

    # --- on disk ------------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Choice]:
        """What is kept; what cannot be used costs a warning."""
        try:
            content = b"" if self._path is None else self._path.read_bytes()
            return self._decode(content) if content else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            _warn_once(f"what was chosen by timing, {self._path}, cannot be used ({error}); it is chosen anew")
            return {}

    def _decode(self, content: bytes) -> dict[str, Choice]:
        file = msgspec.json.decode(content, type=_File)
        if (file.device, file.cublaslt, file.choice_version) != self._made_for:
            raise ValueError("it was made for another GPU or version")
        entries = {}
        for name, kept in file.choices.items():
            variant = kept.library or kept.bodies
            fits = variant is not None and (kept.library is None or kept.bodies is None) and 0 < kept.seconds < math.inf
            if isinstance(variant, Library):
                fits &= len(variant.algorithm) == ctypes.sizeof(Algorithm)
            elif isinstance(variant, Own):
                fits &= 1 <= variant.splits <= 2**10
            if variant is None or not fits:
                raise ValueError(f"there is no such choice for {name}")
            entries[name] = Choice(variant, kept.seconds)
        return entries

    def _write(self) -> None:
        """Keep everything, whole or not at all."""
        if self._path is None:
            return
        kept = {}
        for name, choice in sorted(self.entries.items()):
            variant = choice.variant
            library, bodies = (variant, None) if isinstance(variant, Library) else (None, variant)
            kept[name] = _Kept(choice.seconds, library, bodies)
        content = msgspec.json.format(msgspec.json.encode(_File(*self._made_for, kept)))
        try:
            with tempfile.NamedTemporaryFile(dir=self._path.parent, suffix=".tmp", delete=False) as file:
                file.write(content)
            os.replace(file.name, self._path)
        except OSError as error:
            _warn_once(f"what was chosen by timing cannot be kept ({error})")


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=5)


def allocate_filled(runtime: Runtime, operand: Operand, offset: int) -> Memory:
    """Memory for an operand `offset` bytes behind its start, with numbers from -1 to 1 in it (masks: any bits)."""
    memory = runtime.allocate(max(operand.nbytes + offset, 1))
    count, rng = min(PATTERN, operand.size), np.random.default_rng(0)
    values = rng.integers(0, 256, count) if operand.dtype == np.uint8 else rng.uniform(-1, 1, count)
    pattern = values.astype(operand.dtype).view(np.uint8)
    runtime.upload(memory.address + offset, pattern, runtime.stream)
    done = pattern.nbytes
    while done < operand.nbytes:
        more = min(done, operand.nbytes - done)
        runtime.copy(memory.address + offset + done, memory.address + offset, more, runtime.stream)
        done += more
    runtime.synchronize(runtime.stream)
    return memory
