"""Windows of max pooling in vectors of channels: the largest pixel and which it is, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from fastnn_kernels.cpu.tiles import BYTES, I32, I64, Vectors, caller, new_function

WINDOW = (
    "values", "places", "pixels", "rows", "columns", "row_step", "column_step", "number", "wide", "channels",
)  # fmt: skip
"""What a window is told: the address of its value and of its place for the first channel, that of its first pixel in the image,
how many rows and columns of it lie in the image and the bytes from one to the next, the number of the first pixel, by how much
the number of a row's first pixel grows, and how many channels there are."""


def _each_vector(name: str, float_type: Any, module: ir.Module, visit: Callable[..., Any]) -> ir.Function:
    """A function of WINDOW that visits every pixel of a window for each vector of its channels.

    `visit(of, mask, value, place, pixel, word)` with the byte pointers of the window returns the vectors to begin with, a
    function that makes the next ones from (pixel's pointer, number, vectors), and one that is given the last ones. There is no
    mask where all lanes count, and no loop where the window has two rows and two columns.
    """
    function, builder, word = new_function(module, f"{name}_{float_type}", WINDOW)
    of = Vectors(float_type, builder)
    width = of.lanes * of.size
    check, whole, next_vector, rest, part, leave = (
        function.append_basic_block(label) for label in ("check", "whole", "next_vector", "rest", "part", "leave")
    )
    entry = builder.block
    value, place, pixel = (builder.inttoptr(word[label], BYTES) for label in ("values", "places", "pixels"))
    is_two = [builder.icmp_signed("==", word[label], I64(2)) for label in ("rows", "columns")]
    is_square = builder.and_(*is_two)
    builder.branch(check)

    builder.position_at_end(check)
    left, value_at, place_at, pixel_at = builder.phi(I64), builder.phi(BYTES), builder.phi(BYTES), builder.phi(BYTES)
    builder.cbranch(builder.icmp_signed(">=", left, I64(of.lanes)), whole, rest)

    def window(mask: ir.Value | None, behind: ir.Block) -> None:
        """Visit the pixels of one vector of channels, then go on at `behind`."""
        start, step, finish = visit(of, mask, value_at, place_at, pixel_at, word)
        begin = builder.block
        square, rows, columns, after_row, after = (
            function.append_basic_block(label) for label in ("square", "rows", "columns", "after_row", "after")
        )
        builder.cbranch(is_square, square, rows)

        builder.position_at_end(square)
        new, row_at, row_number = start, pixel_at, word["number"]
        for _ in range(2):
            for at, number in (
                (row_at, row_number),
                (of.at(row_at, word["column_step"]), builder.add(row_number, I64(1))),
            ):
                new = step(at, builder.trunc(number, I32), new)
            row_at, row_number = of.at(row_at, word["row_step"]), builder.add(row_number, word["wide"])
        finish(new)
        builder.branch(behind)

        builder.position_at_end(rows)
        rows_left, row_at, row_number = builder.phi(I64), builder.phi(BYTES), builder.phi(I64)
        at_row = [builder.phi(vector.type) for vector in start]
        builder.branch(columns)

        builder.position_at_end(columns)
        columns_left, column_at, number = builder.phi(I64), builder.phi(BYTES), builder.phi(I64)
        at_column = [builder.phi(vector.type) for vector in start]
        new = step(column_at, builder.trunc(number, I32), at_column)
        fewer = builder.sub(columns_left, I64(1))
        column_next, number_next = of.at(column_at, word["column_step"]), builder.add(number, I64(1))
        builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), columns, after_row)

        builder.position_at_end(after_row)
        rows_fewer = builder.sub(rows_left, I64(1))
        row_next, row_number_next = of.at(row_at, word["row_step"]), builder.add(row_number, word["wide"])
        builder.cbranch(builder.icmp_signed(">", rows_fewer, I64(0)), rows, after)

        builder.position_at_end(after)
        finish(new)
        builder.branch(behind)
        for phi, first, following in [
            (rows_left, word["rows"], rows_fewer), (row_at, pixel_at, row_next), (row_number, word["number"], row_number_next),
            *zip(at_row, start, new, strict=True),
        ]:  # fmt: skip
            phi.add_incoming(first, begin)
            phi.add_incoming(following, after_row)
        for phi, first, following in [
            (columns_left, word["columns"], fewer), (column_at, row_at, column_next), (number, row_number, number_next),
            *zip(at_column, at_row, new, strict=True),
        ]:  # fmt: skip
            phi.add_incoming(first, rows)
            phi.add_incoming(following, columns)

    builder.position_at_end(whole)
    window(None, next_vector)

    builder.position_at_end(next_vector)
    left_next = builder.sub(left, I64(of.lanes))
    value_next, place_next, pixel_next = of.at(value_at, width), of.at(place_at, of.lanes), of.at(pixel_at, width)
    builder.branch(check)
    for phi, first, following in (
        (left, word["channels"], left_next), (value_at, value, value_next), (place_at, place, place_next),
        (pixel_at, pixel, pixel_next),
    ):  # fmt: skip
        phi.add_incoming(first, entry)
        phi.add_incoming(following, next_vector)

    builder.position_at_end(rest)
    builder.cbranch(builder.icmp_signed(">", left, I64(0)), part, leave)
    builder.position_at_end(part)
    window(of.mask(left), leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


def _numbers(of: Vectors, number: ir.Value) -> ir.Value:
    """A vector of this number."""
    kind = ir.VectorType(I32, of.lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    first = of.builder.insert_element(undefined, number, I32(0))
    return of.builder.shuffle_vector(first, undefined, ir.Constant(kind, [0] * of.lanes))


def _define_largest(module: ir.Module, float_type: Any) -> ir.Function:
    """values = the largest pixel of the window, places = its number: the first of equal ones; NaN is the largest."""

    def visit(of: Vectors, mask: ir.Value | None, value: ir.Value, place: ir.Value, pixel: ir.Value, word: Any) -> Any:
        builder = of.builder
        start = [of.load(pixel, mask), _numbers(of, builder.trunc(word["number"], I32))]

        def step(at: ir.Value, number: ir.Value, vectors: list[ir.Value]) -> list[ir.Value]:
            most, which = vectors
            found = of.load(at, mask)
            unknown = builder.and_(builder.fcmp_unordered("uno", found, found), builder.fcmp_ordered("ord", most, most))
            larger = builder.or_(builder.fcmp_ordered(">", found, most), unknown)
            return [builder.select(larger, found, most), builder.select(larger, _numbers(of, number), which)]

        def finish(vectors: list[ir.Value]) -> None:
            of.store(vectors[0], value, mask)
            of.store_bytes(vectors[1], place, mask)

        return start, step, finish

    return _each_vector("largest", float_type, module, visit)


def _define_spread(module: ir.Module, float_type: Any) -> ir.Function:
    """The pixel of the window whose number is in places = values, all others of it = 0."""

    def visit(of: Vectors, mask: ir.Value | None, value: ir.Value, place: ir.Value, pixel: ir.Value, word: Any) -> Any:
        builder = of.builder
        slope, which = of.load(value, mask), of.load_bytes(place, mask)

        def step(at: ir.Value, number: ir.Value, vectors: list[ir.Value]) -> list[ir.Value]:
            here = builder.icmp_signed("==", which, _numbers(of, number))
            of.store(builder.select(here, slope, of.zero), at, mask)
            return vectors

        return [], step, lambda vectors: None

    return _each_vector("spread", float_type, module, visit)


def largest(float_type: Any) -> Any:
    """An intrinsic that is given WINDOW: see `_define_largest`."""
    return caller("largest", _define_largest, float_type)


def spread(float_type: Any) -> Any:
    """An intrinsic that is given WINDOW: see `_define_spread`."""
    return caller("spread", _define_spread, float_type)
