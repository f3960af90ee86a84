"""cuBLASLt by ctypes: products given to a stream, with a workspace of ours, so that they can be captured into graphs.

cuBLASLt computes D (m, n) = epilogue(op(A) (m, k) @ op(B) (k, n)) of column-major matrices. A row-major matrix is its transpose
in column-major order, so a row-major c = op(a) @ op(b) is asked for as c.T = op(b).T @ op(a).T: A is our b, B our a, D our c,
m our columns, n our rows, and the flags of transposition stay with their operands. A vector along the m rows of D is one along
our columns, which is where a bias lies.

The same product gives the same bits on the same GPU and version of cuBLASLt: its heuristic is asked with one workspace size and
only for algorithms that add up in a fixed order, and the first it names is taken. Numbers are those of cublasLt.h,
cublas_api.h (cublasComputeType_t, cublasOperation_t, cublasStatus_t) and library_types.h (cudaDataType).
"""

from __future__ import annotations

import ctypes
import importlib
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from fastnn_kernels.contract import mask_pitch
from fastnn_kernels.cuda.lowering import ALIGNMENT, Pointer, Product
from fastnn_kernels.cuda.runtime import CudaError, CudaUnavailable

WORKSPACE = 32 * 2**20
"""Bytes that a product may use beside its operands: what NVIDIA recommends for Hopper."""

EPILOGUES = {
    "none": 1,  # CUBLASLT_EPILOGUE_DEFAULT
    "bias": 4,  # BIAS
    "relu_bias": 6,  # RELU_BIAS
    "relu_aux_bias": 134,  # RELU_AUX_BIAS
    "drelu": 136,  # DRELU
    "drelu_bgrad": 152,  # DRELU_BGRAD
    "bgrada": 512,  # BGRADB, whose B is our a
    "bgradb": 256,  # BGRADA, whose A is our b
}
"""What is done to p = op(a) @ op(b) (rows, columns) on its way to c, in terms of the row-major product:

    none           c = p
    bias           c = p + bias (columns,)
    relu_bias      c = max(p + bias, 0)
    relu_aux_bias  the same, and mask = (p + bias > 0), one bit an element, `mask_pitch` bytes a row
    drelu          c = p where the mask is set, else 0
    drelu_bgrad    the same, and bias (columns,) = sum of c over its rows
    bgrada         c = p, and bias (rows,) = sum of op(a) over the inner axis
    bgradb         c = p, and bias (columns,) = sum of op(b) over the inner axis

cublasLt.h documents ReLU as max(x, 0) and says nothing of NaN, for which CUDA's max gives 0: a NaN of p may be hidden by the
two epilogues with a ReLU. A divergence is then found by the loss later than where our own bodies pass the NaN on.
"""

READS_BIAS = ("bias", "relu_bias", "relu_aux_bias")
WRITES_BIAS = ("drelu_bgrad", "bgrada", "bgradb")
USES_MASK = ("relu_aux_bias", "drelu", "drelu_bgrad")

TYPES = {"float": 0, "double": 1, "bf16": 14}
"""cudaDataType: CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF."""

COMPUTE = {"float32": (68, "float"), "tf32": (77, "float"), "float64": (70, "double")}
"""cublasComputeType_t (CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_64F) and the type of alpha and beta."""

STATUSES = {
    1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED", 16: "LICENSE_ERROR",
}  # fmt: skip
"""cublasStatus_t, without CUBLAS_STATUS_."""

REFUSALS = (7, 15)
"""INVALID_VALUE and NOT_SUPPORTED: what a product is answered with each time. Other statuses are of the moment."""

DESCRIPTION = {
    "TRANSA": (3, ctypes.c_int32),
    "TRANSB": (4, ctypes.c_int32),
    "EPILOGUE": (7, ctypes.c_uint32),
    "BIAS_POINTER": (8, ctypes.c_void_p),
    "EPILOGUE_AUX_POINTER": (11, ctypes.c_void_p),
    "EPILOGUE_AUX_LD": (12, ctypes.c_int64),
    "BIAS_DATA_TYPE": (26, ctypes.c_int32),
}
"""CUBLASLT_MATMUL_DESC_ attributes."""

LAYOUT = {
    "TYPE": (0, ctypes.c_uint32),
    "ORDER": (1, ctypes.c_int32),
    "ROWS": (2, ctypes.c_uint64),
    "COLS": (3, ctypes.c_uint64),
    "LD": (4, ctypes.c_int64),
}
"""CUBLASLT_MATRIX_LAYOUT_ attributes. The order is column-major, 0, unless it is set."""

PREFERENCE = {
    "MAX_WORKSPACE_BYTES": (1, ctypes.c_uint64),
    "REDUCTION_SCHEME_MASK": (3, ctypes.c_uint32),
    "MIN_ALIGNMENT_A_BYTES": (5, ctypes.c_uint32),
    "MIN_ALIGNMENT_B_BYTES": (6, ctypes.c_uint32),
    "MIN_ALIGNMENT_C_BYTES": (7, ctypes.c_uint32),
    "MIN_ALIGNMENT_D_BYTES": (8, ctypes.c_uint32),
}
"""CUBLASLT_MATMUL_PREF_ attributes."""

FIXED_ORDER = 2
"""Reduction schemes: parts of a split inner axis are kept in the workspace (COMPUTE_TYPE), or it is not split (NONE, 0)."""


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t."""

    _fields_ = (("data", ctypes.c_uint64 * 8),)


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_P = ctypes.c_void_p
_CREATE, _DESTROY, _SET, _GET = (
    [ctypes.POINTER(_P)], [_P], [_P, ctypes.c_int, _P, ctypes.c_size_t],
    [_P, ctypes.c_int, _P, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)],
)  # fmt: skip
SIGNATURES: dict[str, list[Any]] = {
    "Create": _CREATE,
    "Destroy": _DESTROY,
    "MatmulDescCreate": [*_CREATE, ctypes.c_int, ctypes.c_int],
    "MatmulDescDestroy": _DESTROY,
    "MatmulDescSetAttribute": _SET,
    "MatmulDescGetAttribute": _GET,
    "MatrixLayoutCreate": [*_CREATE, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64],
    "MatrixLayoutDestroy": _DESTROY,
    "MatrixLayoutSetAttribute": _SET,
    "MatrixLayoutGetAttribute": _GET,
    "MatmulPreferenceCreate": _CREATE,
    "MatmulPreferenceDestroy": _DESTROY,
    "MatmulPreferenceSetAttribute": _SET,
    "MatmulPreferenceGetAttribute": _GET,
    "MatmulAlgoGetHeuristic": [*[_P] * 7, ctypes.c_int, ctypes.POINTER(Heuristic), ctypes.POINTER(ctypes.c_int)],
    "MatmulAlgoCheck": [*[_P] * 6, ctypes.POINTER(Algorithm), ctypes.POINTER(Heuristic)],
    "Matmul": [*[_P] * 12, ctypes.POINTER(Algorithm), _P, ctypes.c_size_t, _P],
}
"""Functions of the library, without cublasLt, by what they take; all return a status."""


class CublasError(CudaError):
    """cuBLASLt refused something; the message names its status and what was asked."""

    def __init__(self, status: int, what: str) -> None:
        self.status = f"CUBLAS_STATUS_{STATUSES.get(status, status)}"
        self.is_refusal = status in REFUSALS
        super().__init__(f"{self.status}: {what}")


def load_library() -> Any:
    """libcublasLt with its functions declared. Raises CudaUnavailable where it is not installed or cannot be loaded."""
    try:
        library = ctypes.CDLL(importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception as error:  # without the package ImportError; what it raises else has changed between its versions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CudaUnavailable(f'cuBLASLt is not found ({reason}); pip install "fastnn-xp[cuda13]"') from error
    for name, arguments in SIGNATURES.items():
        function = getattr(library, f"cublasLt{name}")
        function.argtypes, function.restype = arguments, ctypes.c_int
    library.cublasLtGetVersion.argtypes, library.cublasLtGetVersion.restype = [], ctypes.c_size_t
    return library


@dataclass(frozen=True)
class Candidate:
    """An algorithm for a product, opaque; the bytes of workspace that it needs; and how often its blocks would fill the GPU."""

    data: bytes
    workspace: int
    waves: float


class CublasLt:
    """The library and a handle for the current GPU; `close` destroys the handle and every plan. Safe to use from any thread.

    `library` is given by tests; `workspace`: bytes of the memory that every `Plan.run` is given.
    """

    def __init__(self, library: Any = None, workspace: int = WORKSPACE) -> None:
        self.library = load_library() if library is None else library
        self.workspace = workspace
        self.lock = threading.RLock()
        self._plans: dict[Product, Plan] = {}
        self._supported: dict[Product, bool] = {}
        self.handle: ctypes.c_void_p | None = None
        self.handle = self.make("Create", "a handle of cuBLASLt")

    def __enter__(self) -> CublasLt:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Destroy everything; may be called again."""
        with self.lock:
            for plan in self._plans.values():
                plan.close()
            self._plans.clear()
            if self.handle is not None:
                handle, self.handle = self.handle, None
                self.call("Destroy", "a handle of cuBLASLt", handle)

    @property
    def version(self) -> int:
        """Of the library."""
        return int(self.library.cublasLtGetVersion())

    def plan(self, product: Product) -> Plan:
        """How a product is computed, made once."""
        with self.lock:
            if product not in self._plans:
                self._plans[product] = Plan(self, product)
            return self._plans[product]

    def supports(self, product: Product) -> bool:
        """Whether the heuristic has an algorithm for a product, its operands aligned as they say; asked until it is known.

        Raises CublasError where cuBLASLt fails for another reason than the product.
        """
        with self.lock:
            if product not in self._supported:
                try:
                    self._supported[product] = bool(self.algorithms(product, 1))
                except CublasError as error:
                    if not error.is_refusal:
                        raise
                    self._supported[product] = False
            return self._supported[product]

    def algorithms(self, product: Product, count: int = 16) -> list[Candidate]:
        """Up to `count` algorithms for a product, its operands aligned as they say, the most promising first."""
        plan = self.plan(replace(product, algorithm=b""))
        with self.lock:
            candidates = plan.heuristics(tuple(pointer.alignment for pointer in product.pointers), count)
        return [Candidate(bytes(each.algorithm), each.workspace, each.waves) for each in candidates]

    def call(self, name: str, what: str, *arguments: Any) -> None:
        """Call a function of the library. Raises CublasError unless it succeeds."""
        status = getattr(self.library, f"cublasLt{name}")(*arguments)
        if status:
            raise CublasError(status, what)

    def make(self, name: str, what: str, *arguments: Any) -> ctypes.c_void_p:
        """The object that a function of the library creates."""
        handle = ctypes.c_void_p()
        self.call(name, what, ctypes.byref(handle), *arguments)
        return handle

    def set(self, kind: str, what: str, target: ctypes.c_void_p, attribute: tuple[int, Any], value: int) -> None:
        """Set an attribute of a `kind` of object: MatmulDesc, MatrixLayout or MatmulPreference."""
        number, type = attribute
        c_value = type(value)
        self.call(f"{kind}SetAttribute", what, target, number, ctypes.byref(c_value), ctypes.sizeof(c_value))


class Plan:
    """Descriptors of a product, and its algorithm for every alignment of its operands that has come up."""

    def __init__(self, cublas: CublasLt, product: Product) -> None:
        _check(product)
        self.product = product
        self._cublas = cublas
        self._chosen: dict[tuple[int, ...], Heuristic] = {}
        self._descriptors: list[tuple[str, ctypes.c_void_p]] = []
        compute, scale = COMPUTE[product.compute]
        number = ctypes.c_double if scale == "double" else ctypes.c_float
        self._one, self._zero = number(1), number(0)
        self._what = describe(product)
        try:
            self._describe(compute, TYPES[scale])
        except CublasError:
            self.close()
            raise

    def _describe(self, compute: int, scale: int) -> None:
        product = self.product
        self._description = self._make("MatmulDesc", compute, scale)
        self._set("TRANSA", int(product.transpose_b))
        self._set("TRANSB", int(product.transpose_a))
        self._set("EPILOGUE", EPILOGUES[product.epilogue])
        if product.bias is not None:
            self._set("BIAS_DATA_TYPE", TYPES[product.bias.type])
        if product.mask is not None:
            self._set("EPILOGUE_AUX_LD", 8 * mask_pitch(product.columns))
        inner, columns, rows = product.inner, product.columns, product.rows
        self._a = self._layout(product.a, inner, rows) if not product.transpose_a else self._layout(product.a, rows, inner)
        self._b = (
            self._layout(product.b, columns, inner) if not product.transpose_b else self._layout(product.b, inner, columns)
        )
        self._c = self._layout(product.c, columns, rows)

    def _make(self, kind: str, *arguments: Any) -> ctypes.c_void_p:
        descriptor = self._cublas.make(f"{kind}Create", self._what, *arguments)
        self._descriptors.append((kind, descriptor))
        return descriptor

    def _set(self, attribute: str, value: int) -> None:
        self._cublas.set("MatmulDesc", self._what, self._description, DESCRIPTION[attribute], value)

    def _layout(self, pointer: Pointer, rows: int, columns: int) -> ctypes.c_void_p:
        """A column-major (rows, columns), which is a row-major (columns, rows)."""
        return self._make("MatrixLayout", TYPES[pointer.type], rows, columns, rows)

    def close(self) -> None:
        """Destroy the descriptors."""
        while self._descriptors:
            kind, descriptor = self._descriptors.pop()
            self._cublas.call(f"{kind}Destroy", self._what, descriptor)

    def alignments(self, addresses: Sequence[int]) -> tuple[int, ...]:
        """Bytes that divide each address, at most ALIGNMENT."""
        return tuple(min(address & -address, ALIGNMENT) if address else ALIGNMENT for address in addresses)

    def heuristics(self, alignments: tuple[int, ...], count: int) -> list[Heuristic]:
        """What cuBLASLt would run for operands so aligned, best first. Raises CublasError if it has nothing."""
        a, b, c = alignments[:3]
        self._point(alignments)
        wanted = {
            "MAX_WORKSPACE_BYTES": self._cublas.workspace, "REDUCTION_SCHEME_MASK": FIXED_ORDER,
            "MIN_ALIGNMENT_A_BYTES": b, "MIN_ALIGNMENT_B_BYTES": a, "MIN_ALIGNMENT_C_BYTES": c, "MIN_ALIGNMENT_D_BYTES": c,
        }  # fmt: skip
        preference = self._cublas.make("MatmulPreferenceCreate", self._what)
        try:
            for attribute, value in wanted.items():
                self._cublas.set("MatmulPreference", self._what, preference, PREFERENCE[attribute], value)
            results, returned = (Heuristic * count)(), ctypes.c_int()
            self._cublas.call(
                "MatmulAlgoGetHeuristic", self._what, self._cublas.handle, *self._operands, preference, count, results,
                ctypes.byref(returned),
            )  # fmt: skip
        finally:
            self._cublas.call("MatmulPreferenceDestroy", self._what, preference)
        usable = [each for each in results[: returned.value] if each.state == 0]
        if not usable:
            raise CublasError(15, f"there is no algorithm for {self._what}")
        return usable

    @property
    def _operands(self) -> tuple[ctypes.c_void_p, ...]:
        return self._description, self._b, self._a, self._c, self._c

    def _point(self, addresses: Sequence[int]) -> None:
        """Tell the descriptor where bias and mask lie; the heuristic looks at these addresses for their alignment only."""
        rest = list(addresses[3:])
        if self.product.bias is not None:
            self._set("BIAS_POINTER", rest.pop(0))
        if self.product.mask is not None:
            self._set("EPILOGUE_AUX_POINTER", rest.pop(0))

    def prepare(self, addresses: Sequence[int]) -> Heuristic:
        """Choose the algorithm for operands aligned as these are, unless that has been done.

        The one that the product names is taken where the operands are aligned as it says and cuBLASLt takes it; else the
        heuristic's first.
        """
        alignments = self.alignments(addresses)
        with self._cublas.lock:
            chosen = self._chosen.get(alignments)
            if chosen is None:
                chosen = self._named_algorithm(alignments) or self.heuristics(alignments, 1)[0]
                self._chosen[alignments] = chosen
            return chosen

    def _named_algorithm(self, alignments: tuple[int, ...]) -> Heuristic | None:
        enough = all(real >= pointer.alignment for real, pointer in zip(alignments, self.product.pointers, strict=True))
        if not self.product.algorithm or not enough:
            return None
        heuristic, algorithm = Heuristic(), Algorithm.from_buffer_copy(self.product.algorithm)
        self._point(alignments)
        try:
            self._cublas.call(
                "MatmulAlgoCheck", self._what, self._cublas.handle, *self._operands, ctypes.byref(algorithm),
                ctypes.byref(heuristic),
            )  # fmt: skip
            if heuristic.workspace > self._cublas.workspace:
                raise CublasError(7, f"{heuristic.workspace} bytes of workspace are needed for {self._what}")
        except CublasError as error:
            if not error.is_refusal:
                raise
            warnings.warn(f"an algorithm that was chosen by timing is not taken ({error})", RuntimeWarning, stacklevel=2)
            return None
        heuristic.algorithm = algorithm
        return heuristic

    def run(self, addresses: Sequence[int], workspace: int, stream: int) -> None:
        """Give the product to a stream. Addresses: of `Product.pointers`, in order, and of `CublasLt.workspace` bytes."""
        a, b, c = addresses[:3]
        with self._cublas.lock:
            chosen = self.prepare(addresses)
            self._point(addresses)
            self._cublas.call(
                "Matmul", self._what, self._cublas.handle, self._description, ctypes.byref(self._one), b, self._b, a, self._a,
                ctypes.byref(self._zero), c, self._c, c, self._c, ctypes.byref(chosen.algorithm), workspace,
                self._cublas.workspace, stream,
            )  # fmt: skip


def describe(product: Product) -> str:
    """`float (128, 784) @ float.T (784, 30) -> float, tf32, relu_bias`."""
    a = f"{product.a.type}{'.T' if product.transpose_a else ''} ({product.rows}, {product.inner})"
    b = f"{product.b.type}{'.T' if product.transpose_b else ''} ({product.inner}, {product.columns})"
    return f"{a} @ {b} -> {product.c.type}, {product.compute}, {product.epilogue}"


def _check(product: Product) -> None:
    """What cuBLASLt would answer with INVALID_VALUE, in words."""
    wrong = ""
    if min(product.rows, product.columns, product.inner) < 1:
        wrong = "an axis is empty"
    elif product.epilogue not in EPILOGUES or product.compute not in COMPUTE:
        wrong = f"epilogues are {', '.join(EPILOGUES)}; computed in are {', '.join(COMPUTE)}"
    elif (product.bias is not None) != (product.epilogue in READS_BIAS + WRITES_BIAS):
        wrong = "a bias goes with its epilogues, and they with it"
    elif (product.mask is not None) != (product.epilogue in USES_MASK):
        wrong = "a mask goes with its epilogues, and they with it"
    if wrong:
        raise ValueError(f"{describe(product)}: {wrong}")
