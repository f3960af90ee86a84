"""Chains: elementwise calls that follow each other become one call, which keeps what they hand on in registers.

A result is kept in a chain where only elementwise calls of its shape read it. Where they end up in several chains, each of them
computes it anew, which costs less than writing it once and reading it everywhere. Single numbers that a program fills in become
steps without inputs. The bits stay the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from fastnn.program.plan import split_constants
from fastnn.program.shapes import BatchDim, Shape
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import CHAIN_INPUTS, CHAINED, COMPARISONS, Step

MOST_STEPS = 16
"""Of one chain; more would need more registers than a thread should have."""

COSTLY = ("power",)
"""What is computed once only, however many chains read it."""

FAMILIES = {"float32": "float", "bfloat16": "float", "float64": "double"}
"""dtype name -> type that is computed in."""


@dataclass(eq=False)
class _Chain:
    """Calls that are to become one: `last`, and others whose results are read by calls of the chain."""

    last: Call
    calls: tuple[Call, ...]
    """In the program's order."""
    numbers: Mapping[Symbol, float]
    """The constants of the program that are single numbers."""

    @property
    def read(self) -> list[Symbol]:
        """What the chain reads and does not make, in the order in which it is first read."""
        results = {call.outputs[0] for call in self.calls}
        return list(dict.fromkeys(symbol for call in self.calls for symbol in call.inputs if symbol not in results))

    @property
    def inputs(self) -> list[Symbol]:
        return [symbol for symbol in self.read if symbol not in self.numbers]

    def fits(self) -> bool:
        families = {family for call in self.calls for family in _families(call)}
        return len(self.calls) <= MOST_STEPS and len(self.inputs) <= CHAIN_INPUTS and len(families) <= 1

    def call(self) -> Call:
        """The one call."""
        inputs = self.inputs
        numbers = {symbol: number for number, symbol in enumerate(inputs)}
        filled: dict[str, int] = {}  # by how it is written, which tells 0 from -0
        steps: list[Step] = []
        for symbol in self.read:
            if symbol in self.numbers:
                value = self.numbers[symbol]
                if repr(value) not in filled:
                    filled[repr(value)] = len(inputs) + len(steps)
                    steps.append(Step("fill", (), (("value", value),)))
                numbers[symbol] = filled[repr(value)]
        for call in self.calls:
            (result,) = call.outputs
            rounded = result.dtype.name == "bfloat16" and call is not self.last
            arguments = tuple(numbers[symbol] for symbol in call.inputs)
            steps.append(Step(call.kernel, arguments, tuple(sorted(call.attributes.items())), "bfloat16" if rounded else ""))
            numbers[result] = len(inputs) + len(steps) - 1
        return Call(f"chain_{len(inputs)}", (*inputs, *self.last.outputs), {"steps": tuple(steps)})


def chain_elementwise(program: Program) -> Program:
    """The program with elementwise calls that follow each other put together, for kernel sets that have chains."""
    chains = _chains(program)
    last = {chain.last: chain for chain in chains if len(chain.calls) > 1}
    kept_inside = {call for chain in chains for call in chain.calls} - {chain.last for chain in chains}
    calls = [last[call].call() if call in last else call for call in program.calls if call not in kept_inside]
    read = {symbol.root for symbol in program.outputs.values()} | {symbol.root for call in calls for symbol in call.reads}
    numbers = _numbers(program)
    return program.with_calls(call for call in calls if not (call.outputs and call.outputs[0] in numbers.keys() - read))


def _numbers(program: Program) -> dict[Symbol, float]:
    """The constants that are a single number which chains can compute with, and what they are."""
    touched = {symbol.root for call in program.calls for symbol in call.updated}
    touched |= {symbol.root for symbol in program.inputs.values()}
    touched |= {call.inputs[0].root for call in program.calls if call.kernel == "dropout"}  # a chain needs an array
    return {
        call.outputs[0]: float(call.attributes["value"])
        for call in program.calls
        if call.kernel == "fill"
        and all(dimension == 1 for dimension in call.outputs[0].shape)
        and call.outputs[0].dtype.name in ("float32", "float64")
        and call.outputs[0].root not in touched
    }


def _chains(program: Program) -> list[_Chain]:
    """All elementwise calls, each in the chain that it ends, or in those of all its readers."""
    numbers = _numbers(program)
    position = {call: index for index, call in enumerate(program.calls)}
    once = set(split_constants(program)[0])
    held = {symbol.root for symbol in (*program.inputs.values(), *program.outputs.values())}
    readers: dict[Symbol, list[Call]] = defaultdict(list)
    written: dict[Symbol, list[int]] = defaultdict(list)
    for call in program.calls:
        for root in {symbol.root for symbol in call.reads}:
            readers[root].append(call)
        if not call.is_view:
            for root in {symbol.root for symbol in (*call.updated, *call.outputs)}:
                written[root].append(position[call])
    homes: dict[Call, list[_Chain]] = {}
    chains: list[_Chain] = []

    def chains_of_readers(call: Call) -> list[_Chain]:
        """The chains that the call may be a part of: those of all its readers, or none."""
        (result,) = call.outputs
        if result.root in held or written[result.root] != [position[call]]:
            return []
        for reader in readers[result]:
            alone = reader in homes and all(symbol is result for symbol in reader.reads if symbol.root is result)
            if not alone or reader.outputs[0].shape != result.shape:
                return []
        candidates = list(dict.fromkeys(chain for reader in readers[result] for chain in homes[reader]))
        if len(candidates) > 1 and call.kernel in COSTLY:
            return []
        return candidates if all(joins(call, chain) for chain in candidates) else []

    def joins(call: Call, chain: _Chain) -> bool:
        """Whether the call may be done where the chain ends: nothing writes until then what it reads."""
        between = range(position[call] + 1, position[chain.last] + 1)
        unchanged = not any(index in between for symbol in call.inputs for index in written[symbol.root])
        return unchanged and _Chain(chain.last, (call, *chain.calls), numbers).fits()

    for call in reversed(program.calls):
        if call in once or not _is_elementwise(call):
            continue
        homes[call] = chains_of_readers(call)
        for chain in homes[call]:
            chain.calls = (call, *chain.calls)
        if not homes[call]:
            homes[call] = [_Chain(call, (call,), numbers)]
            chains += homes[call]
    return chains


def _is_elementwise(call: Call) -> bool:
    """Whether the call may be a step of a chain: floats of one type, and inputs that chains can broadcast."""
    if call.kernel not in CHAINED or len(_families(call)) != 1 or "" in _families(call):
        return False
    whole = call.outputs[0].shape
    return BatchDim(0) not in whole and all(_is_broadcast(symbol.shape, whole) for symbol in call.inputs)


def _families(call: Call) -> set[str]:
    """The types that the floats of a call are computed in; "" for what is no float."""
    floats = list(call.operands)
    if call.kernel == "where":
        floats = floats[1:]
    elif call.kernel == "dropout":
        floats = [floats[0], floats[2]]
    elif call.kernel in COMPARISONS:
        floats = floats[:2]
    return {FAMILIES.get(symbol.dtype.name, "") for symbol in floats}


def _is_broadcast(shape: Shape, whole: Shape) -> bool:
    """Whether an array of `shape` is repeated to `whole` as chains can: as it is, one element, a row or a column."""
    row = shape[-1:] == whole[-1:] and all(dimension == 1 for dimension in shape[:-1])
    return shape in (whole, (*whole[:-1], 1)) or all(dimension == 1 for dimension in shape) or row
