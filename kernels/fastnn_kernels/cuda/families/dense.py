"""Matrix products and dense layers: by bodies of our own where they are small, else by cuBLASLt.

Which it is follows from shape and precision alone, by the rule that `CHOICE_VERSION` names, unless a choice made by timing says
otherwise (`fastnn_kernels.cuda.choices`). What cuBLASLt does not support falls back: an epilogue on a plain product with bodies
of our own behind it, and that on our own bodies for everything. They also compute every product on a device without cuBLASLt,
empty ones, and those with an axis that cuBLASLt does not count (2^31 and more).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fastnn_kernels.cuda.lowering import (
    Body,
    Pointer,
    Product,
    Request,
    Work,
    lowering,
    reading,
    spread,
)
from fastnn_kernels.cuda.tiles import TILES, Cut, best_cut, cut, divide
from fastnn_kernels.cuda.variants import Library, Own, Variant

CHOICE_VERSION = 2
"""Of everything here and in `fastnn_kernels.cuda.tiles` that decides who computes a product, in which tiles and splits: other
numbers, other last bits."""

OWN_UP_TO = {"float32": 2**25, "tf32": 2**23, "float64": 2**23, "bfloat16": 2**22}
"""rows * columns * inner up to which a product is our own, by the precision of its multiplications. Estimated from the model
of `fastnn_kernels.cuda.tiles`, taking 3 us for cuBLASLt's smallest; the sooner tensor cores can take over, the smaller."""

TIMED_UP_TO = 8
"""Our own bodies are timed against cuBLASLt for products of up to so many times OWN_UP_TO."""

EPILOGUES = {None: "bias", "relu": "relu_bias"}
"""Activations that cuBLASLt adds to `dense`; all others are one more pass over its result."""

MASKED = ("tf32", "bfloat16")
"""Precisions in which ReLU keeps a mask for the backward pass, by the rule, where cuBLASLt computes both products: those are
fast enough for a pass over the result to count. Not float32, whose bits stay those of the kernels without a mask."""


@dataclass(frozen=True)
class Sizes:
    """c (rows, columns) = op(a) (rows, inner) @ op(b) (inner, columns), for operands `a`, `b` and `c` of a call."""

    a: str
    b: str
    c: str
    rows: int
    columns: int
    inner: int
    transpose_a: bool = False
    transpose_b: bool = False

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.rows, self.columns, self.inner


# --- who computes a product -------------------------------------------------------------------------------------------


def sizes(call: Request) -> Sizes:
    """The product of a call."""
    if call.name == "matmul":
        transpose_a, transpose_b = (bool(call.attributes.get(f"transpose_{operand}", False)) for operand in "ab")
        inner = call.shape("a")[0 if transpose_a else 1]
        return Sizes("a", "b", "c", *call.matrix("c"), inner, transpose_a, transpose_b)
    if call.name in ("dense", "dense_with_mask"):
        return Sizes("x", "w", "y", *call.matrix("y"), call.shape("w")[0])
    if call.name == "dense_backward_weight":
        return Sizes("x", "dz", "dw", *call.matrix("dw"), call.shape("x")[0], transpose_a=True)
    return Sizes("dz", "w", "dx", *call.matrix("dx"), call.shape("w")[1], transpose_b=True)


def products(call: Request) -> list[Product]:
    """What cuBLASLt may do for a call, whether or not it supports it: from all of the call to the product alone.

    A vector that is added, or the sum that is taken, has the type of the result: cuBLASLt knows no other.
    """
    of = sizes(call)
    a, b, c = reading(call[of.a]), reading(call[of.b]), call[of.c]
    if not call.device.products or a.type != b.type or min(of.numbers) == 0 or max(of.numbers) >= 2**31:
        return []
    compute = "float32" if precision(call) == "bfloat16" else precision(call)
    plain = Product(a, b, c, *of.numbers, of.transpose_a, of.transpose_b, compute)

    def vector(name: str) -> Pointer | None:
        return call[name] if name in call.operands and call[name].type == c.type else None

    candidates = []
    bias, activation = vector("b"), call.attributes.get("activation")
    if call.name == "dense" and bias and activation in EPILOGUES:
        candidates.append(replace(plain, epilogue=EPILOGUES[activation], bias=bias))
    elif call.name == "dense_with_mask" and bias:
        candidates.append(replace(plain, epilogue="relu_aux_bias", bias=bias, mask=call["mask"]))
        candidates.append(replace(plain, epilogue="relu_bias", bias=bias))
    elif call.name == "dense_backward_input_with_mask":
        if total := vector("db"):
            candidates.append(replace(plain, epilogue="drelu_bgrad", bias=total, mask=call["mask"]))
        candidates.append(replace(plain, epilogue="drelu", mask=call["mask"]))
    elif call.name == "dense_backward_weight" and (total := vector("db")):
        candidates.append(replace(plain, epilogue="bgradb", bias=total))
    return [*candidates, plain]


def precision(call: Request) -> str:
    """A key of OWN_UP_TO."""
    if call.F == "double":
        return "float64"
    return "bfloat16" if any(o.dtype.name == "bfloat16" for o in call.operands.values()) else call.device.precision


def key(call: Request) -> str:
    """All that may decide how long a product takes on a device, in words: `matmul a=8x4:float32 ... transpose_a=True tf32`."""
    operands = (f"{name}={'x'.join(map(str, o.shape))}:{o.dtype.name}" for name, o in call.operands.items())
    aligned = (f"{name}@{alignment}" for name, alignment in call.alignments.items())
    attributes = (f"{name}={value}" for name, value in sorted(call.attributes.items()))
    return " ".join((call.name, *operands, *aligned, *attributes, precision(call)))


def list_variants(call: Request, algorithms: Callable[[Product], Sequence[bytes]]) -> list[Variant]:
    """All variants of a call that are worth timing; `algorithms`: that cuBLASLt has for a product that it supports."""
    of, variants = sizes(call), list[Variant]()
    for product in filter(call.device.supports, products(call)):
        named = algorithms(product)
        variants += [Library(product.epilogue, name, rank, len(named)) for rank, name in enumerate(named, 1)]
    if not variants or math.prod(of.numbers) <= TIMED_UP_TO * OWN_UP_TO[precision(call)]:
        cuts = (best_cut([tile], *of.numbers) for tile in TILES[_itemsize(call)])
        variants += [Own(cut.tile.rows, cut.tile.columns, cut.splits) for cut in cuts]
    return variants


def choose(call: Request) -> Product | Cut:
    """How a call is computed: as was found fastest, else by the rule. Says so in `call.note`."""
    of, known = sizes(call), {product.epilogue: product for product in products(call)}
    choice = call.device.choices.get(key(call))
    variant = choice.variant if choice else None
    if isinstance(variant, Library) and variant.epilogue in known and call.device.supports(known[variant.epilogue]):
        rank = f", algorithm {variant.rank} of {variant.count}" if variant.rank else ""
        call.note = f"{_by_library(variant.epilogue)}{rank} (tuned)"
        return replace(known[variant.epilogue], algorithm=variant.algorithm)
    if isinstance(variant, Own):
        for tile in TILES[_itemsize(call)]:
            if (tile.rows, tile.columns) == (variant.rows, variant.columns):
                own_cut = divide(tile, variant.splits, *of.numbers)
                call.note = f"{own_cut.note} (tuned)"
                return own_cut
    if math.prod(of.numbers) > OWN_UP_TO[precision(call)]:
        for product in filter(call.device.supports, known.values()):
            call.note = _by_library(product.epilogue)
            return product
    own_cut = cut(*of.numbers, _itemsize(call))
    call.note = own_cut.note
    return own_cut


def _by_library(epilogue: str) -> str:
    return "cuBLASLt" if epilogue == "none" else f"cuBLASLt, {epilogue}"


def _itemsize(call: Request) -> int:
    """Bytes of a number that is computed in."""
    return 8 if call.F == "double" else 4


def is_all_of(call: Request) -> bool:
    """Whether cuBLASLt's kernel does all of a call that has a mask, so that no pass over the result is left."""
    product = choose(call)
    return isinstance(product, Product) and bool(product.mask) and ("db" not in call.operands or bool(product.bias))


# --- lowerings ----------------------------------------------------------------------------------------------------------


def parts(call: Request, of: Sizes, cut: Cut, *sums: Pointer) -> tuple[Body, Pointer]:
    """A body that computes every split of a product, and where it leaves them; with `sums`, those of the rows of b as well."""
    scratch = call.temporary(cut.splits * of.rows * of.columns)
    flags = () if sums else (_flag(of.transpose_a), _flag(of.transpose_b))
    body = call.body(
        "product_and_sum_parts" if sums else "product_parts",
        call[of.a], call[of.b], scratch, *sums, *of.numbers, cut.splits, cut.length,
        blocks=cut.blocks, shared=cut.tile.shared, template=(*cut.tile.template, *flags),
    )  # fmt: skip
    return body, reading(scratch)


def bare(call: Request, of: Sizes, choice: Product | Cut) -> tuple[Work, Pointer, int]:
    """The product alone, where it is left, and in how many parts: in the result itself where cuBLASLt computes it."""
    if isinstance(choice, Product):
        return choice, reading(call[of.c]), 1
    return *parts(call, of, choice), choice.splits


def sum_of_rows(call: Request, z: Pointer, total: Pointer, rows: int, columns: int) -> Iterator[Work]:
    """total (columns,) = sum of z (rows, columns) over its rows: the part of a weight gradient without rows that makes db."""
    choice = cut(0, columns, rows, _itemsize(call))
    if choice.splits == 1:
        yield call.body(
            "dense_backward_weight", z, z, total, total, 0, columns, rows,
            blocks=choice.blocks, shared=choice.tile.shared, template=choice.tile.template,
        )  # fmt: skip
        return
    sums = call.temporary(choice.splits * columns)
    yield call.body(
        "product_and_sum_parts", z, z, sums, sums, 0, columns, rows, choice.splits, choice.length,
        blocks=choice.blocks, shared=choice.tile.shared, template=choice.tile.template,
    )  # fmt: skip
    yield call.body("add_product", reading(sums), total, choice.splits, columns, blocks=spread(columns, call.device, 1))


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _function(call: Request) -> tuple[str, float]:
    """The activation of a call as a template argument, and its alpha."""
    return f"{call.attributes.get('activation') or 'none'}_function", float(call.attributes.get("alpha", 0.0))


@lowering("matmul", family="dense")
def matmul(call: Request) -> Iterable[Work]:
    of, choice = sizes(call), choose(call)
    if isinstance(choice, Cut) and choice.splits == 1:
        yield call.body(
            "matmul", call["a"], call["b"], call["c"], *of.numbers, blocks=choice.blocks, shared=choice.tile.shared,
            template=(*choice.tile.template, _flag(of.transpose_a), _flag(of.transpose_b)),
        )  # fmt: skip
        return
    work, sums, splits = bare(call, of, choice)
    yield work
    if isinstance(choice, Cut):
        size = call.size("c")
        yield call.body("add_product", sums, call["c"], splits, size, blocks=spread(size, call.device, 1))


@lowering("dense", "dense_with_mask", family="dense")
def dense(call: Request) -> Iterable[Work]:
    of, choice = sizes(call), choose(call)
    with_mask = call.name == "dense_with_mask"
    function, alpha = ("relu_function", 0.0) if with_mask else _function(call)
    if isinstance(choice, Cut) and choice.splits == 1:
        yield call.body(
            "dense", call["x"], call["w"], call["b"], call["y"], *of.numbers, alpha,
            blocks=choice.blocks, shared=choice.tile.shared, template=(*choice.tile.template, function),
        )  # fmt: skip
    elif isinstance(choice, Product) and choice.epilogue != "none":
        yield choice
    else:
        work, sums, splits = bare(call, of, choice)
        yield work
        yield call.body(
            "add_dense", sums, call["b"], call["y"], splits, of.rows, of.columns, alpha,
            blocks=spread(call.size("y"), call.device, 1), template=(function,),
        )  # fmt: skip
    if with_mask and not (isinstance(choice, Product) and choice.mask):
        yield call.body(
            "mask_of", reading(call["y"]), call["mask"], of.rows, of.columns, call.shape("mask")[1],
            blocks=spread(call.size("mask"), call.device, 1),
        )  # fmt: skip


@lowering("dense_backward_input", family="dense")
def dense_backward_input(call: Request) -> Iterable[Work]:
    of, choice = sizes(call), choose(call)
    function, alpha = _function(call)
    if isinstance(choice, Cut) and choice.splits == 1:
        yield call.body(
            "dense_backward_input", call["dz"], call["w"], call["y"], call["dx"], *of.numbers, alpha,
            blocks=choice.blocks, shared=choice.tile.shared, template=(*choice.tile.template, function),
        )  # fmt: skip
        return
    work, sums, splits = bare(call, of, choice)
    yield work
    if isinstance(choice, Cut) or function != "none_function":
        size = call.size("dx")
        yield call.body(
            "add_backward_input", sums, call["y"], call["dx"], splits, size, alpha,
            blocks=spread(size, call.device, 1), template=(function,),
        )  # fmt: skip


@lowering("dense_backward_input_with_mask", family="dense")
def dense_backward_input_with_mask(call: Request) -> Iterable[Work]:
    of, choice = sizes(call), choose(call)
    if isinstance(choice, Product) and choice.mask:
        yield choice
    else:
        work, sums, splits = bare(call, of, choice)
        yield work
        yield call.body(
            "add_masked", sums, call["mask"], call["dx"], splits, of.rows, of.columns, call.shape("mask")[1],
            blocks=spread(call.size("dx"), call.device, 1),
        )  # fmt: skip
    if "db" in call.operands and not (isinstance(choice, Product) and choice.bias):
        yield from sum_of_rows(call, reading(call["dx"]), call["db"], of.rows, of.columns)


@lowering("dense_backward_weight", family="dense")
def dense_backward_weight(call: Request) -> Iterable[Work]:
    of, choice = sizes(call), choose(call)
    if isinstance(choice, Product):
        yield choice
        if not choice.bias:
            yield from sum_of_rows(call, call["dz"], call["db"], of.inner, of.columns)
        return
    if choice.splits == 1:
        yield call.body(
            "dense_backward_weight", call["x"], call["dz"], call["dw"], call["db"], *of.numbers,
            blocks=choice.blocks, shared=choice.tile.shared, template=choice.tile.template,
        )  # fmt: skip
        return
    sums = call.temporary(choice.splits * of.columns)
    body, scratch = parts(call, of, choice, sums)
    yield body
    size = call.size("dw")
    yield call.body(
        "add_backward_weight", scratch, reading(sums), call["dw"], call["db"], choice.splits, size, of.columns,
        blocks=spread(size, call.device, 1),
    )  # fmt: skip
