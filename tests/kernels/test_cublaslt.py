"""cuBLASLt: what the binding sets, in the library itself where it is installed; what is computed of it, by its stand-in."""

from __future__ import annotations

import ctypes
import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_on_host import host
from cuda_on_host.cublaslt import FakeCublasLt
from laws import EPSILON, assert_close

import fastnn_kernels.numpy as definition
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS, KERNELS, Operand, mask_pitch
from fastnn_kernels.cuda import cublaslt
from fastnn_kernels.cuda.cublaslt import CublasError, CublasLt
from fastnn_kernels.cuda.families import dense
from fastnn_kernels.cuda.kernels import kernel
from fastnn_kernels.cuda.lowering import Body, Device, Number, Pointer, Product, lower, request
from fastnn_kernels.cuda.runtime import CudaError, CudaUnavailable

NUMPY = {"float": np.dtype("float32"), "double": np.dtype("float64"), "bf16": np.dtype(ml_dtypes.bfloat16)}
KINDS = [
    ("float", "float", "float32"), ("float", "float", "tf32"), ("double", "double", "float64"),
    ("bf16", "float", "float32"), ("bf16", "bf16", "float32"),
]  # fmt: skip
"""(type of the operands, type of the result, computed in)."""

SIZES = (5, 130, 7)


def product(kind: tuple[str, str, str] = KINDS[0], epilogue: str = "none", sizes: Any = SIZES, **settings: Any) -> Product:
    operands, result, compute = kind
    vector = None
    if epilogue in cublaslt.READS_BIAS + cublaslt.WRITES_BIAS:
        vector = Pointer(3, result, epilogue in cublaslt.WRITES_BIAS)
    mask = Pointer(4, "u8", epilogue == "relu_aux_bias") if epilogue in cublaslt.USES_MASK else None
    a, b, c = Pointer(0, operands, False), Pointer(1, operands, False), Pointer(2, result, True)
    return Product(a, b, c, *sizes, compute=compute, epilogue=epilogue, bias=vector, mask=mask, **settings)


def placed(array: np.ndarray, offset: int = 0) -> np.ndarray:
    """A copy that starts `offset` bytes behind a boundary of 256."""
    whole = np.zeros(array.nbytes + 512, np.uint8)
    start = -whole.ctypes.data % 256 + offset
    inner = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    inner[...] = array
    return inner


def give(cublas: CublasLt, wanted: Product, arrays: list[np.ndarray]) -> None:
    """Run a product on arrays, in the order of its pointers."""
    workspace = np.zeros(cublas.workspace, np.uint8)
    cublas.plan(wanted).run([array.ctypes.data for array in arrays], workspace.ctypes.data, 77)


# --- the library itself ----------------------------------------------------------------------------------------------------


class WithoutHandle:
    """The library, whose handle alone needs a GPU."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)

    def cublasLtCreate(self, made: Any) -> int:
        return 0

    def cublasLtDestroy(self, handle: Any) -> int:
        return 0


@pytest.fixture(scope="module")
def library() -> Any:
    try:
        return cublaslt.load_library()
    except CudaUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def header() -> str:
    nvidia = pytest.importorskip("nvidia", reason="the headers of cuBLAS are in its wheel")
    found = [path for folder in nvidia.__path__ for path in Path(folder).rglob("cublasLt.h")]
    if not found:
        pytest.skip("there is no cublasLt.h")
    return found[0].read_text() + found[0].with_name("cublas_api.h").read_text()


def numbers(header: str, prefix: str) -> dict[str, int]:
    """The enumerators of a header that start so; those that are made of others resolved."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    found: dict[str, int] = {}
    for name, value in re.findall(rf"\b{prefix}(\w+)\s*=\s*([^,}}]+)", text):
        for other, number in found.items():
            value = re.sub(rf"\b{prefix}{other}\b", str(number), value)
        found[name] = eval(value, {"__builtins__": {}})
    return found


def test_numbers_are_those_of_the_headers(header: str) -> None:
    for prefix, table in (
        ("CUBLASLT_MATMUL_DESC_", cublaslt.DESCRIPTION), ("CUBLASLT_MATRIX_LAYOUT_", cublaslt.LAYOUT),
        ("CUBLASLT_MATMUL_PREF_", cublaslt.PREFERENCE),
    ):  # fmt: skip
        names = numbers(header, prefix)
        assert {name: number for name, (number, _) in table.items()} == {name: names[name] for name in table}
    epilogues = numbers(header, "CUBLASLT_EPILOGUE_")
    theirs = {name: name.upper() for name in cublaslt.EPILOGUES} | {"none": "DEFAULT", "bgrada": "BGRADB", "bgradb": "BGRADA"}
    assert {name: epilogues[other] for name, other in theirs.items()} == cublaslt.EPILOGUES
    compute = numbers(header, "CUBLAS_COMPUTE_")
    expected = {"float32": compute["32F"], "tf32": compute["32F_FAST_TF32"], "float64": compute["64F"]}
    assert {name: number for name, (number, _) in cublaslt.COMPUTE.items()} == expected
    statuses = numbers(header, "CUBLAS_STATUS_")
    assert {number: name for name, number in statuses.items() if number} == cublaslt.STATUSES
    schemes = numbers(header, "CUBLASLT_REDUCTION_SCHEME_")
    assert schemes["NONE"] | schemes["COMPUTE_TYPE"] == cublaslt.FIXED_ORDER
    assert numbers(header, "CUBLAS_OP_")["T"] == 1
    words = int(re.search(r"typedef struct \{\s*uint64_t data\[(\d+)\];\s*\} cublasLtMatmulAlgo_t;", header)[1])  # type: ignore[index]
    assert ctypes.sizeof(cublaslt.Algorithm) == 8 * words
    assert ctypes.sizeof(cublaslt.Heuristic) == 8 * words + 8 + 4 + 4 + 16


def get(cublas: CublasLt, kind: str, target: Any, attribute: tuple[int, Any]) -> int | None:
    number, type = attribute
    value, written = type(), ctypes.c_size_t()
    size = ctypes.sizeof(value)
    cublas.call(f"{kind}GetAttribute", "a test", target, number, ctypes.byref(value), size, ctypes.byref(written))
    assert written.value == size
    return value.value


@pytest.mark.parametrize("epilogue", cublaslt.EPILOGUES)
@pytest.mark.parametrize("kind", KINDS)
def test_library_keeps_what_is_set(library: Any, kind: tuple[str, str, str], epilogue: str) -> None:
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        wanted = product(kind, epilogue, transpose_a=transpose_a, transpose_b=transpose_b)
        with CublasLt(WithoutHandle(library)) as cublas:
            plan = cublas.plan(wanted)
            plan._point([256, 512, 768, 4096 + 4, 8192][: len(wanted.pointers)])
            expected = {"TRANSA": transpose_b, "TRANSB": transpose_a, "EPILOGUE": cublaslt.EPILOGUES[epilogue]}
            if wanted.bias is not None:
                expected |= {"BIAS_POINTER": 4100, "BIAS_DATA_TYPE": cublaslt.TYPES[kind[1]]}
            if wanted.mask is not None:
                expected |= {"EPILOGUE_AUX_POINTER": 8192 if wanted.bias is not None else 4100, "EPILOGUE_AUX_LD": 256}
            for name, value in expected.items():
                assert get(cublas, "MatmulDesc", plan._description, cublaslt.DESCRIPTION[name]) == value, name
            rows, columns, inner = SIZES
            shapes = ((rows, inner) if transpose_a else (inner, rows), (inner, columns) if transpose_b else (columns, inner))
            for layout, type, shape in zip(
                (plan._a, plan._b, plan._c), (kind[0], kind[0], kind[1]), (*shapes, (columns, rows)), strict=True
            ):
                values = {"TYPE": cublaslt.TYPES[type], "ORDER": 0, "ROWS": shape[0], "COLS": shape[1], "LD": shape[0]}
                for name, value in values.items():
                    assert get(cublas, "MatrixLayout", layout, cublaslt.LAYOUT[name]) == value, name


def test_library_keeps_preferences(library: Any) -> None:
    with CublasLt(WithoutHandle(library)) as cublas:
        assert cublas.version >= 120_000
        preference = cublas.make("MatmulPreferenceCreate", "a test")
        for index, attribute in enumerate(cublaslt.PREFERENCE.values()):
            cublas.set("MatmulPreference", "a test", preference, attribute, 1 << index)
        for index, attribute in enumerate(cublaslt.PREFERENCE.values()):
            assert get(cublas, "MatmulPreference", preference, attribute) == 1 << index
        with pytest.raises(CublasError, match="CUBLAS_STATUS_INVALID_VALUE: a test"):
            cublas.set("MatmulPreference", "a test", preference, (1, ctypes.c_uint32), 1)
        cublas.call("MatmulPreferenceDestroy", "a test", preference)


# --- what is computed of it -------------------------------------------------------------------------------------------------


def expected_of(wanted: Product, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What EPILOGUES promises, in float64; `rest` are bias and mask (as booleans) where there are any."""
    a, b, *rest = (array.astype(np.float64) for array in arrays)
    a, b = a.T if wanted.transpose_a else a, b.T if wanted.transpose_b else b
    p = a @ b
    match wanted.epilogue:
        case "none":
            return {"c": p}
        case "bias":
            return {"c": p + rest[0]}
        case "relu_bias":
            return {"c": np.maximum(p + rest[0], 0)}
        case "relu_aux_bias":
            return {"c": np.maximum(p + rest[0], 0), "mask": p + rest[0] > 0}
        case "drelu":
            return {"c": p * rest[0]}
        case "drelu_bgrad":
            return {"c": p * rest[0], "bias": (p * rest[0]).sum(axis=0)}
        case "bgrada":
            return {"c": p, "bias": a.sum(axis=1)}
        case "bgradb":
            return {"c": p, "bias": b.sum(axis=0)}
    raise AssertionError(wanted.epilogue)


def bits(flags: np.ndarray) -> np.ndarray:
    rows, columns = flags.shape
    whole = np.zeros((rows, 8 * mask_pitch(columns)), bool)
    whole[:, :columns] = flags
    return np.packbits(whole, axis=1, bitorder="little")


@pytest.mark.parametrize("epilogue", cublaslt.EPILOGUES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [SIZES, (1, 1, 1), (128, 3, 33)])
def test_row_major_products(sizes: tuple[int, int, int], kind: tuple[str, str, str], epilogue: str) -> None:
    rng = np.random.default_rng(0)
    rows, columns, inner = sizes
    operand, result = NUMPY[kind[0]], NUMPY[kind[1]]
    for transpose_a, transpose_b in itertools.product((False, True), repeat=2):
        wanted = product(kind, epilogue, sizes, transpose_a=transpose_a, transpose_b=transpose_b)
        a = placed(rng.uniform(-1, 1, (inner, rows) if transpose_a else (rows, inner)).astype(operand))
        b = placed(rng.uniform(-1, 1, (columns, inner) if transpose_b else (inner, columns)).astype(operand))
        c = placed(np.full((rows, columns), np.nan, result))
        vector = placed(rng.uniform(-1, 1, rows if epilogue == "bgrada" else columns).astype(result))
        flags = rng.uniform(size=(rows, columns)) < 0.5
        mask = placed(bits(flags))
        given = [vector] * (epilogue in cublaslt.READS_BIAS) + [flags] * (epilogue in ("drelu", "drelu_bgrad"))
        expected = expected_of(wanted, [a, b, *given])
        if epilogue in cublaslt.WRITES_BIAS:
            vector[...] = np.nan
        if epilogue == "relu_aux_bias":
            mask[...] = 0xA5
        fake = FakeCublasLt()
        with CublasLt(fake) as cublas:
            extras = [vector] * (wanted.bias is not None) + [mask] * (wanted.mask is not None)
            give(cublas, wanted, [a, b, c, *extras])
        tolerance = 2.0**-7 if kind[1] == "bf16" else (8 + inner) * EPSILON[result.name]
        assert_close(c.astype(np.float64), expected["c"], tolerance, "c")
        if "bias" in expected:
            assert_close(vector.astype(np.float64), expected["bias"], tolerance, "bias")
        if "mask" in expected:
            np.testing.assert_array_equal(mask, bits(expected["mask"]))
        assert fake.alive == {}
        assert fake.ran == [(1, 77)]


def test_relu_epilogue_hides_nan() -> None:
    """As cublasLt.h may be read; the docstring of EPILOGUES says so."""
    c, bias = placed(np.ones((1, 2), "f4")), placed(np.array([np.nan, 1], "f4"))
    with CublasLt(FakeCublasLt()) as cublas:
        give(
            cublas,
            product(epilogue="relu_bias", sizes=(1, 2, 1)),
            [placed(np.ones((1, 1), "f4")), placed(np.ones((1, 2), "f4")), c, bias],
        )
    np.testing.assert_array_equal(c, [[0, 2]])


# --- choosing and keeping ----------------------------------------------------------------------------------------------------


def operands(wanted: Product, offset: int = 0) -> list[np.ndarray]:
    rows, columns, inner = wanted.rows, wanted.columns, wanted.inner
    return [
        placed(np.ones(shape, NUMPY[wanted.a.type]), offset) for shape in ((rows, inner), (inner, columns), (rows, columns))
    ]


def test_preferences_are_fixed_and_alignments_told() -> None:
    fake, wanted = FakeCublasLt(), product()
    with CublasLt(fake, workspace=1 << 20) as cublas:
        arrays = operands(wanted)
        for _ in range(3):
            give(cublas, wanted, arrays)
        assert fake.calls["MatmulAlgoGetHeuristic"] == fake.calls["MatmulDescCreate"] == 1
        arrays[1] = placed(arrays[1], 4)
        give(cublas, wanted, arrays)
        give(cublas, wanted, arrays)
    assert fake.calls["MatmulAlgoGetHeuristic"] == 2
    aligned, shifted = fake.asked
    assert aligned == {1: 1 << 20, 3: 2, 5: 256, 6: 256, 7: 256, 8: 256}
    assert shifted == aligned | {5: 4}  # cuBLASLt's A is our b


def test_plans_are_shared_and_closed() -> None:
    fake = FakeCublasLt()
    cublas = CublasLt(fake)
    plan = cublas.plan(product())
    assert cublas.plan(product()) is plan
    assert cublas.plan(product(epilogue="bias")) is not plan
    assert cublas.plan(replace(product(), rows=6)) is not plan
    cublas.close()
    cublas.close()
    assert fake.alive == {}
    assert fake.calls["Destroy"] == 1


def test_a_named_algorithm_is_taken() -> None:
    fake, wanted = FakeCublasLt(), product()
    with CublasLt(fake) as cublas:
        candidates = cublas.algorithms(wanted, 8)
        assert [each.workspace for each in candidates] == [0, 1024, 2048]
        assert [each.waves for each in candidates] == [1.0, 0.5, pytest.approx(1 / 3)]
        assert len(cublas.algorithms(wanted, 2)) == 2
        named = replace(wanted, algorithm=candidates[2].data)
        give(cublas, named, operands(wanted))
        give(cublas, wanted, operands(wanted))
        assert [number for number, _ in fake.ran] == [3, 1]
        assert cublas.algorithms(named, 8) == candidates
        arrays = operands(wanted)
        arrays[1] = placed(arrays[1], 4)
        give(cublas, named, arrays)
        assert [number for number, _ in fake.ran] == [3, 1, 1], "it was named for operands that are better aligned"
        unaligned = replace(wanted, b=replace(wanted.b, alignment=4))
        give(cublas, replace(unaligned, algorithm=cublas.algorithms(unaligned)[2].data), arrays)
        assert fake.ran[-1][0] == 3


def test_a_named_algorithm_that_is_refused_is_left() -> None:
    fake = FakeCublasLt()
    with CublasLt(fake) as cublas:
        third = cublas.algorithms(product(), 3)[2].data
        for name in (bytes(64), bytes(range(64))):
            with pytest.warns(RuntimeWarning, match="is not taken .CUBLAS_STATUS_NOT_SUPPORTED"):
                give(cublas, replace(product(), algorithm=name), operands(product()))
    with CublasLt(fake, workspace=1024) as cublas, pytest.warns(RuntimeWarning, match="2048 bytes of workspace"):
        give(cublas, replace(product(), algorithm=third), operands(product()))
    assert [number for number, _ in fake.ran] == [1, 1, 1]


def test_a_named_algorithm_is_asked_about_again_where_the_check_fails_for_another_reason() -> None:
    fake = FakeCublasLt()
    with CublasLt(fake) as cublas:
        named = replace(product(), algorithm=cublas.algorithms(product(), 3)[2].data)
        fake.fail["MatmulAlgoCheck"] = 3
        with pytest.raises(CublasError, match="ALLOC_FAILED"):
            give(cublas, named, operands(product()))
        fake.fail.clear()
        give(cublas, named, operands(product()))
    assert [number for number, _ in fake.ran] == [3]


def test_what_is_supported() -> None:
    fake = FakeCublasLt()
    fake.refused = {cublaslt.EPILOGUES["bias"]}
    with CublasLt(fake) as cublas:
        for _ in range(3):
            assert cublas.supports(product())
            assert not cublas.supports(product(epilogue="bias"))
        assert fake.calls["MatmulAlgoGetHeuristic"] == 2, "asked once each"
        assert fake.asked[0] == {1: cublas.workspace, 3: 2, 5: 16, 6: 16, 7: 16, 8: 16}
        assert cublas.supports(replace(product(), a=replace(product().a, alignment=4)))
        assert fake.asked[-1][6] == 4, "cuBLASLt's B is our a"
    assert fake.alive == {}


@pytest.mark.parametrize("function", ["MatmulDescCreate", "MatmulPreferenceCreate", "MatmulAlgoGetHeuristic"])
@pytest.mark.parametrize("status", cublaslt.STATUSES)
def test_only_a_refusal_is_remembered(status: int, function: str) -> None:
    """What fails for a reason of the moment is raised, and asked again the next time."""
    fake = FakeCublasLt()
    refused = cublaslt.STATUSES[status] in ("INVALID_VALUE", "NOT_SUPPORTED")
    with CublasLt(fake) as cublas:
        fake.fail[function] = status
        for _ in range(2):
            if refused:
                assert not cublas.supports(product())
            else:
                with pytest.raises(CublasError, match=cublaslt.STATUSES[status]):
                    cublas.supports(product())
        assert fake.calls[function] == (1 if refused else 2)
        fake.fail.clear()
        assert cublas.supports(product()) is not refused
    assert fake.alive == {}


@pytest.mark.parametrize(
    "function",
    ["Create", "MatmulDescCreate", "MatmulDescSetAttribute", "MatrixLayoutCreate", "MatmulPreferenceCreate",
     "MatmulPreferenceSetAttribute", "MatmulAlgoGetHeuristic", "Matmul"],
)  # fmt: skip
@pytest.mark.parametrize("status", [1, 3, 7, 8, 13, 14, 15, 99])
def test_every_status_is_raised_and_nothing_is_left(function: str, status: int) -> None:
    fake, wanted = FakeCublasLt(), product(KINDS[1], "bias")
    fake.fail[function] = status
    arrays = [*operands(wanted), placed(np.ones(130, "f4"))]

    def use() -> None:
        with CublasLt(fake) as cublas:
            give(cublas, wanted, arrays)

    with pytest.raises(CublasError) as raised:
        use()
    assert isinstance(raised.value, CudaError)
    assert raised.value.status == f"CUBLAS_STATUS_{cublaslt.STATUSES.get(status, status)}"
    assert "\n" not in str(raised.value)
    if function != "Create":
        assert str(raised.value).endswith("float (5, 7) @ float (7, 130) -> float, tf32, bias")
    assert fake.alive == {}


def test_no_algorithm() -> None:
    fake = FakeCublasLt()
    fake.nothing_found = True
    with CublasLt(fake) as cublas, pytest.raises(CublasError, match="NOT_SUPPORTED: there is no algorithm for float"):
        cublas.algorithms(product())


@pytest.mark.parametrize(
    "wrong",
    [replace(product(), rows=0), replace(product(), inner=0), replace(product(), epilogue="bias"),
     replace(product(), epilogue="gelu"),
     replace(product(epilogue="bias"), epilogue="none"), replace(product(epilogue="drelu"), mask=None),
     replace(product(), compute="float16")],
)  # fmt: skip
def test_impossible_products_are_refused(wrong: Product) -> None:
    with CublasLt(FakeCublasLt()) as cublas, pytest.raises(ValueError, match="float"):
        cublas.plan(wrong)


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(cublaslt.importlib, "import_module", missing)
    with pytest.raises(CudaUnavailable, match=r"cuBLASLt is not found .*pip install"):
        cublaslt.load_library()


def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "libcublasLt.so"
    path.write_bytes(b"cut off")
    pathfinder = SimpleNamespace(load_nvidia_dynamic_lib=lambda name: SimpleNamespace(abs_path=str(path)))
    monkeypatch.setattr(cublaslt.importlib, "import_module", lambda name: pathfinder)
    with pytest.raises(CudaUnavailable, match=r"cuBLASLt is not found .*libcublasLt.*pip install"):
        cublaslt.load_library()


# --- the dense kernels by it -------------------------------------------------------------------------------------------------


def run(name: str, arrays: list[np.ndarray], attributes: dict[str, Any], refused: str) -> list[str]:
    """Run a call of the contract, its products by the stand-in, which refuses some epilogues ("all": everything). Returns the
    epilogue or the function of each work."""
    fake = FakeCublasLt()
    fake.nothing_found = refused == "all"
    fake.refused = set() if fake.nothing_found else {cublaslt.EPILOGUES[each] for each in refused.split()}
    with CublasLt(fake) as cublas:
        device = Device(supports=cublas.supports)
        lowered = lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes, device)
        scratch = placed(np.full(lowered.scratch, 0xFF, np.uint8))

        def address(pointer: Pointer) -> int:
            return int((scratch if pointer.operand < 0 else arrays[pointer.operand]).ctypes.data) + pointer.offset

        workspace = np.zeros(cublas.workspace, np.uint8)
        for work in lowered.works:
            if isinstance(work, Body):
                values = [
                    address(a) if isinstance(a, Pointer) else a.value if isinstance(a, Number) else 0 for a in work.arguments
                ]
                host.run_kernel(kernel([work]), work.blocks, work.shared, [work.blocks, *values])
            else:
                cublas.plan(work).run([address(pointer) for pointer in work.pointers], workspace.ctypes.data, 0)
    return [work.function.split("<")[0] if isinstance(work, Body) else work.epilogue for work in lowered.works]


SUMS = "dense_backward_weight"
"""The body that makes db, which is all it does where it is given no rows of dw."""

CALLS: list[tuple[str, Any, str, list[str]]] = [
    *(("matmul", {"transpose_a": a, "transpose_b": b}, "", ["none"]) for a in (False, True) for b in (False, True)),
    ("matmul", {"transpose_a": False, "transpose_b": False}, "all", ["matmul"]),
    ("dense", None, "", ["bias"]),
    ("dense", None, "bias", ["none", "add_dense"]),
    ("dense", None, "all", ["dense"]),
    ("dense", "relu", "", ["relu_bias"]),
    ("dense", "relu", "relu_bias", ["none", "add_dense"]),
    ("dense", "relu", "all", ["dense"]),
    *(("dense", name, "", ["none", "add_dense"]) for name in ACTIVATIONS_FROM_OUTPUT if name != "relu"),
    ("dense_backward_input", None, "", ["none"]),
    ("dense_backward_input", None, "all", ["dense_backward_input"]),
    *(("dense_backward_input", name, "", ["none", "add_backward_input"]) for name in ACTIVATIONS_FROM_OUTPUT),
    (SUMS, {}, "", ["bgradb"]),
    (SUMS, {}, "bgradb", ["none", SUMS]),
    (SUMS, {}, "all", [SUMS]),
    ("dense_with_mask", {}, "", ["relu_aux_bias"]),
    ("dense_with_mask", {}, "relu_aux_bias", ["relu_bias", "mask_of"]),
    ("dense_with_mask", {}, "relu_aux_bias relu_bias", ["none", "add_dense", "mask_of"]),
    ("dense_with_mask", {}, "all", ["dense", "mask_of"]),
    ("dense_backward_input_with_mask", {}, "", ["drelu"]),
    ("dense_backward_input_with_mask", {}, "drelu", ["none", "add_masked"]),
    ("dense_backward_input_with_mask", {}, "all", ["product_parts", "add_masked"]),
    ("dense_backward_input_with_mask", {"db": True}, "", ["drelu_bgrad"]),
    ("dense_backward_input_with_mask", {"db": True}, "drelu_bgrad", ["drelu", SUMS]),
    ("dense_backward_input_with_mask", {"db": True}, "drelu_bgrad drelu", ["none", "add_masked", SUMS]),
    ("dense_backward_input_with_mask", {"db": True}, "all", ["product_parts", "add_masked", SUMS]),
]  # fmt: skip
"""A call, the epilogues that are refused, and the works that it is made of then."""


def check_by_products(
    name: str, setting: Any, refused: str, sizes: tuple[int, int, int], dtype: str, wide: str, tolerance: float
) -> list[str]:
    """Run a call on operands of `dtype` (gradients of parameters: of `wide`) and compare it. Returns its works."""
    m, n, k = sizes
    shapes: dict[str, list[tuple[int, ...]]] = {
        "dense": [(m, k), (k, n), (n,), (m, n)],
        "dense_with_mask": [(m, k), (k, n), (n,), (m, n), (m, mask_pitch(n))],
        "dense_backward_input": [(m, k), (n, k), (m, n), (m, n)],
        "dense_backward_input_with_mask": [(m, k), (n, k), (m, mask_pitch(n)), (m, n)],
        "dense_backward_weight": [(k, m), (k, n), (m, n), (n,)],
    }
    attributes = setting
    if not isinstance(setting, dict):
        attributes = {"activation": setting} | ({"alpha": 0.125} if setting in ALPHA_ACTIVATIONS else {})
    written = list(KERNELS[name].outputs)
    if name == "matmul":
        a, b = attributes.values()
        shapes["matmul"] = [(k, m) if a else (m, k), (n, k) if b else (k, n), (m, n)]
    elif "db" in attributes:
        attributes, written = {}, ["dx", "db"]
        shapes[name].append((n,))
    rng = np.random.default_rng(1)
    arrays = []
    for operand, shape in zip((*KERNELS[name].inputs, *written), shapes[name], strict=True):
        kind = "uint8" if operand == "mask" else wide if operand in ("dw", "db") else dtype
        values = rng.integers(0, 256, shape) if operand == "mask" else rng.uniform(-1, 1, shape)
        arrays.append(placed(values.astype(kind)))
    expected = [array.copy() if array.dtype == np.uint8 else array.astype(np.float64) for array in arrays]
    for array in arrays[-len(written) :]:
        array[...] = 0xA5 if array.dtype == np.uint8 else np.nan
    getattr(definition, name)(*expected, **attributes)
    works = run(name, arrays, attributes, refused)
    for actual, wanted in zip(arrays, expected, strict=True):
        exact = actual.dtype == np.uint8
        assert_close(actual if exact else actual.astype(np.float64), wanted, tolerance, name)
    return works


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is too small for cuBLASLt."""
    monkeypatch.setattr(dense, "OWN_UP_TO", dict.fromkeys(dense.OWN_UP_TO, 0))


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "setting", "refused", "works"), CALLS)
def test_dense_kernels_by_products(name: str, setting: Any, refused: str, works: list[str], dtype: str) -> None:
    assert check_by_products(name, setting, refused, (33, 20, 7), dtype, dtype, 32 * EPSILON[dtype]) == works


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize(
    ("name", "setting", "refused", "works"),
    [("dense", "relu", "", ["relu_bias"]), ("dense", "relu", "relu_bias", ["none", "add_dense"]),
     ("dense", "relu", "all", ["dense"]),
     (SUMS, {}, "", ["bgradb"]), (SUMS, {}, "bgradb", ["none", SUMS]), (SUMS, {}, "all", [SUMS]),
     ("dense_with_mask", {}, "", ["relu_aux_bias"]), ("dense_with_mask", {}, "relu_aux_bias", ["relu_bias", "mask_of"]),
     ("dense_with_mask", {}, "all", ["dense", "mask_of"]),
     ("dense_backward_input_with_mask", {}, "", ["drelu"]),
     ("dense_backward_input_with_mask", {"db": True}, "", ["drelu", SUMS]),
     ("dense_backward_input_with_mask", {"db": True}, "drelu", ["none", "add_masked", SUMS])],
)  # fmt: skip
def test_dense_kernels_by_products_of_bfloat16(name: str, setting: Any, refused: str, works: list[str]) -> None:
    """Gradients of parameters stay float32: no epilogue makes such a db with a dx of another type."""
    assert check_by_products(name, setting, refused, (33, 20, 7), "bfloat16", "float32", 2.0**-6) == works


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "parts"), [((3, 5, 4000), True), ((1, 1, 1), False), ((3, 33, 31), False)])
def test_sums_of_rows_alone(sizes: tuple[int, int, int], parts: bool, dtype: str) -> None:
    works = check_by_products(SUMS, {}, "bgradb", sizes, dtype, dtype, 2000 * EPSILON[dtype])
    assert works == ["none", "product_and_sum_parts", "add_product"] if parts else ["none", SUMS]


@pytest.mark.usefixtures("by_products")
def test_vectors_have_the_type_of_the_result() -> None:
    """Whatever a heuristic may say: cublasLt.h knows no other."""
    short, wide = np.dtype(ml_dtypes.bfloat16), np.dtype("float32")
    for bias, epilogues in ((short, ["relu_bias"]), (wide, ["none"])):
        operands = [Operand((8, 8), short), Operand((8, 8), short), Operand((8,), bias), Operand((8, 8), short)]
        works = lower("dense", operands, {"activation": "relu"}, Device()).works
        assert [work.epilogue for work in works if isinstance(work, Product)] == epilogues


def test_operands_say_how_they_are_aligned() -> None:
    """Which is what cuBLASLt is asked for, and part of what a choice is made for."""
    asked: list[Product] = []

    def supports(product: Product) -> bool:
        asked.append(product)
        return True

    operands = [Operand((2**10, 2**10), np.dtype("float32")) for _ in range(3)]
    for offsets, expected in (((), (16, 16, 16)), ((256, 4, 40), (16, 4, 8)), ((16, 2, 0), (16, 2, 16))):
        (work,) = lower("matmul", operands, {}, Device(supports=supports), offsets).works
        assert work is asked[-1]
        assert tuple(pointer.alignment for pointer in work.pointers) == expected
    names = {
        dense.key(request("matmul", operands, {}, Device(), offsets)) for offsets in ((), (4, 0, 0), (0, 4, 0), (8,), (32,))
    }
    assert len(names) == 4


def test_choice_follows_size_and_precision() -> None:
    def chosen(rows: int, columns: int, inner: int, device: Device, dtype: str = "float32") -> Any:
        shapes = ((rows, inner), (inner, columns), (rows, columns))
        (work, *_) = lower("matmul", [Operand(shape, np.dtype(dtype)) for shape in shapes], {}, device).works
        return work.compute if isinstance(work, Product) else "own"

    assert chosen(10, 30, 784, Device()) == "own"
    assert chosen(8192, 1024, 1024, Device()) == "float32"
    assert chosen(8192, 1024, 1024, Device(precision="tf32")) == "tf32"
    assert chosen(8192, 1024, 1024, Device(precision="tf32"), "float64") == "float64"
    assert chosen(8192, 1024, 1024, Device(products=False)) == "own"
    assert chosen(256, 256, 256, Device()) == "own"
    assert chosen(256, 256, 256, Device(precision="tf32")) == "tf32"
    assert chosen(2**31, 1024, 0, Device()) == chosen(0, 1024, 2**30, Device()) == chosen(2**31, 8, 8, Device()) == "own"
