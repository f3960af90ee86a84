"""Elementary functions for use inside kernels: one scalar in, one out, without a branch, so that loops over them vectorize.

Each name is a memoized factory: `exp(F)` is the function for the Numba float type F. Arguments that are subnormal may count
as zero and results that would be may be zero; NaN, infinities and signed zeros come out as in IEEE 754.

Where a polynomial is named "near minimax", its coefficients were found by least squares at Chebyshev nodes in 60-digit
arithmetic, weighted for the relative error of the result, each coefficient rounded to the float type before those behind
it were fitted. The error given with it is the largest on 400 points, as a power of two relative to the result.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastnn_kernels.cpu.compiling import helper
from fastnn_kernels.cpu.intrinsics import float32_bits, float32_from_bits, float64_bits, float64_from_bits, fma
from fastnn_kernels.cpu.processor import features

Function = Callable[..., Any]

FUSED = "fma" in features() or platform.machine().lower() in ("aarch64", "arm64")
"""Whether the processor multiplies and adds in one instruction. Where it does not, `fma` would be a slow library call."""


@helper
def multiply_then_add(a: Any, b: Any, c: Any) -> Any:
    return a * b + c


multiply_add: Any = fma if FUSED else multiply_then_add
"""a * b + c, with one rounding where the processor can."""


def polynomial(F: Any, coefficients: Sequence[float]) -> Function:
    """x -> c[0] + c[1] x + c[2] x^2 + ..., by Horner's rule."""
    constants = [float(F(coefficient)) for coefficient in coefficients]

    @intrinsic
    def evaluate(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = context.get_data_type(F)
            value = ir.Constant(kind, constants[-1])
            for constant in reversed(constants[:-1]):
                term = ir.Constant(kind, constant)
                value = builder.fma(value, args[0], term) if FUSED else builder.fadd(builder.fmul(value, args[0]), term)
            return value

        return F(F), codegen

    function: Function = evaluate
    return function


@functools.cache
def with_sign_of(F: Any) -> Function:
    """(magnitude, x) -> magnitude (which is not negative) with the sign of x, zeros included."""
    if F is types.float32:

        @helper
        def with_sign_of(magnitude: Any, x: Any) -> Any:
            return float32_from_bits(types.int32(float32_bits(magnitude) | (float32_bits(x) & types.int32(-(2**31)))))
    else:

        @helper
        def with_sign_of(magnitude: Any, x: Any) -> Any:
            return float64_from_bits(float64_bits(magnitude) | (float64_bits(x) & types.int64(-(2**63))))

    return with_sign_of


# ln 2 = LN2_HIGH + LN2_LOW, the first with so few bits that its product with any exponent is exact.
_LN2 = {types.float32: (0.693145751953125, 1.428606765330187e-06), types.float64: (0.6931471805582987, 1.6465949582897082e-12)}

# (exp(r) - 1 - r) / r^2 for |r| <= 0.347, near minimax: 2^-28.0 of exp(r) in float32, 2^-57.6 in float64.
_EXP = {
    types.float32: (0.49999988079071045, 0.166665181517601, 0.041669655591249466, 0.008368965238332748, 0.0013744854368269444),
    types.float64: (
        0.5000000000000013, 0.16666666666666488, 0.0416666666665119, 0.00833333333344728, 0.0013888888947761694,
        0.0001984126960715116, 2.480148927152954e-05, 2.7557497446585526e-06, 2.763149866801833e-07, 2.502802615187348e-08,
    ),
}  # fmt: skip

# The arguments between which exp is a finite normal number.
_EXP_LIMITS = {types.float32: (-87.33654022216797, 88.72283172607422), types.float64: (-708.3964185322641, 709.782712893384)}


@functools.cache
def _reduce(F: Any) -> Function:
    """x -> (n, r, exponent): x = n ln 2 + r, |r| <= ln(2) / 2; exponent is n instead of a float's exponent."""
    high, low = F(_LN2[F][0]), F(_LN2[F][1])
    per_ln2 = F(1 / math.log(2))
    # Adding it leaves n, rounded to nearest, in the lowest bits of the sum.
    shift = F(1.5 * 2.0 ** (23 if F is types.float32 else 52))
    if F is types.float32:

        @helper
        def reduce(x: Any) -> Any:
            shifted = multiply_add(x, per_ln2, shift)
            n = shifted - shift
            r = multiply_add(n, -low, multiply_add(n, -high, x))
            return n, r, types.int32(float32_bits(shifted) << types.int32(23))
    else:

        @helper
        def reduce(x: Any) -> Any:
            shifted = multiply_add(x, per_ln2, shift)
            n = shifted - shift
            r = multiply_add(n, -low, multiply_add(n, -high, x))
            return n, r, float64_bits(shifted) << types.int64(52)

    return reduce


@functools.cache
def _scale(F: Any) -> Function:
    """(value, exponent) -> value * 2^n, where both are normal numbers."""
    if F is types.float32:

        @helper
        def scale(value: Any, exponent: Any) -> Any:
            return float32_from_bits(types.int32(float32_bits(value) + exponent))
    else:

        @helper
        def scale(value: Any, exponent: Any) -> Any:
            return float64_from_bits(float64_bits(value) + exponent)

    return scale


@functools.cache
def exp(F: Any) -> Function:
    """e^x; zero where that would be subnormal."""
    reduce, scale, quadratic = _reduce(F), _scale(F), polynomial(F, (1.0, 1.0, *_EXP[F]))
    lowest, highest, infinity, zero = F(_EXP_LIMITS[F][0]), F(_EXP_LIMITS[F][1]), F(np.inf), F(0)

    @helper
    def exp(x: Any) -> Any:
        _, r, exponent = reduce(x)
        y = scale(quadratic(r), exponent)
        y = infinity if x > highest else y
        y = zero if x < lowest else y
        return y if x == x else x

    return exp


@functools.cache
def _expm1_between(F: Any) -> Function:
    """e^x - 1 for -40 <= x <= the logarithm of the largest number; NaN gives anything."""
    reduce, scale, quadratic = _reduce(F), _scale(F), polynomial(F, _EXP[F])
    half, two = F(0.5), F(2)

    @helper
    def expm1_between(x: Any) -> Any:
        _, r, exponent = reduce(x)
        y = multiply_add(r * r, quadratic(r), r)
        # 2^n y + (2^n - 1), in halves, since 2^n itself may be beyond the largest number.
        factor = scale(half, exponent)
        return multiply_add(factor, y, factor - half) * two

    return expm1_between


@functools.cache
def expm1(F: Any) -> Function:
    """e^x - 1, accurate near 0."""
    between = _expm1_between(F)
    highest, infinity, lowest, minus_one = F(_EXP_LIMITS[F][1]), F(np.inf), F(-40), F(-1)
    tiny = F(np.finfo(F.name).eps / 4)  # below it x is the result to the last place, and halves of it are not flushed

    @helper
    def expm1(x: Any) -> Any:
        y = between(x)
        y = infinity if x > highest else y
        y = minus_one if x < lowest else y
        y = x if abs(x) < tiny else y
        return y if x == x else x

    return expm1


@functools.cache
def _split(F: Any) -> Function:
    """x -> (k, m, factor): x = 2^k m with sqrt(1/2) <= m < sqrt(2), factor = 2^-k; x is normal and positive."""
    if F is types.float32:
        low = int(np.float32(math.sqrt(0.5)).view(np.int32))

        @helper
        def split(x: Any) -> Any:
            bits = float32_bits(x)
            k = types.int32(types.int32(bits - types.int32(low)) >> types.int32(23))
            exponent = types.int32(k << types.int32(23))
            factor = float32_from_bits(types.int32(types.int32(127 << 23) - exponent))
            return types.float32(k), float32_from_bits(types.int32(bits - exponent)), factor
    else:
        low = int(np.float64(math.sqrt(0.5)).view(np.int64))
        # Its lowest bits take up k, so that 64-bit integers need not be converted, which only AVX-512 can.
        shift = 1.5 * 2.0**52
        shift_bits = int(np.float64(shift).view(np.int64))

        @helper
        def split(x: Any) -> Any:
            bits = float64_bits(x)
            k = (bits - types.int64(low)) >> types.int64(52)
            exponent = k << types.int64(52)
            factor = float64_from_bits(types.int64(1023 << 52) - exponent)
            return float64_from_bits(k + types.int64(shift_bits)) - shift, float64_from_bits(bits - exponent), factor

    return split


# (log(1 + f) - f + f^2/2) / f^3 for 1 + f between sqrt(1/2) and sqrt(2), near minimax: 2^-27.1 of log(1 + f).
_LOG32 = (
    0.3333335518836975, -0.25000855326652527, 0.19999772310256958, -0.16621218621730804, 0.1422785520553589,
    -0.13204123079776764, 0.12617425620555878, -0.07355056703090668,
)  # fmt: skip
# (2 artanh(s) / s - 2) / z, z = s^2, on the same interval with s = f / (2 + f), near minimax: 2^-59.4 of 2 artanh(s).
_LOG64 = (
    0.6666666666666737, 0.3999999999939863, 0.28571428745551214, 0.22222198273544116, 0.1818357906686337,
    0.1531368752092411, 0.14799487338447104,
)  # fmt: skip


@functools.cache
def _log_parts(F: Any) -> Function:
    """(k, f) -> k ln 2 + log(1 + f) for 1 + f between sqrt(1/2) and sqrt(2)."""
    high, low, half = F(_LN2[F][0]), F(_LN2[F][1]), F(0.5)
    if F is types.float32:
        cubic = polynomial(F, _LOG32)

        @helper
        def log_parts(k: Any, f: Any) -> Any:
            square = f * f
            # The largest term first, and what its rounding lost with the smallest.
            large = multiply_add(k, high, f)
            lost = f - (large - k * high)
            small = multiply_add(square * f, cubic(f), multiply_add(k, low, lost))
            return large + multiply_add(square, -half, small)
    else:
        even, two = polynomial(F, _LOG64), F(2)

        @helper
        def log_parts(k: Any, f: Any) -> Any:
            s = f / (two + f)
            z = s * s
            half_square = half * f * f
            # log(1 + f) = f - f^2/2 + s (f^2/2 + z P(z)), which rounds f - f^2/2 alone, not 2 s.
            large = multiply_add(k, high, f)
            lost = f - (large - k * high)
            small = multiply_add(s, multiply_add(z, even(z), half_square), multiply_add(k, low, lost))
            return large - (half_square - small)

    return log_parts


@functools.cache
def log(F: Any) -> Function:
    """The natural logarithm; subnormal arguments count as zero."""
    split, log_parts = _split(F), _log_parts(F)
    infinity, nan, zero, one = F(np.inf), F(np.nan), F(0), F(1)
    smallest = F(np.finfo(F.name).tiny)

    @helper
    def log(x: Any) -> Any:
        k, m, _ = split(x)
        y = log_parts(k, m - one)
        y = y if x < infinity else x
        y = -infinity if x < smallest else y
        return nan if x < zero else y

    return log


@functools.cache
def log1p(F: Any) -> Function:
    """log(1 + x), accurate near 0."""
    split, log_parts = _split(F), _log_parts(F)
    infinity, nan, zero, one = F(np.inf), F(np.nan), F(0), F(1)
    large = F(4 / np.finfo(F.name).eps)  # beyond it what the sum loses is nothing, and 2^-k may be no normal number

    @helper
    def log1p(x: Any) -> Any:
        u = one + x
        # What the sum lost: the smaller of the two addends, less the part of it that went into u.
        lost = x - (u - one) if x < one else one - (u - x)
        k, m, factor = split(u)
        rest = lost * factor
        y = log_parts(k, (m - one) + (zero if u > large else rest))
        y = y if x < infinity else x
        y = x if x == zero else y
        y = -infinity if u == zero else y
        return nan if u < zero else y

    return log1p


@functools.cache
def tanh(F: Any) -> Function:
    """Hyperbolic tangent: h / (1 + h) with h = (exp(2 |x|) - 1) / 2, and the sign of x."""
    between, sign = _expm1_between(F), with_sign_of(F)
    one, two, half, highest = F(1), F(2), F(0.5), F(40)

    @helper
    def tanh(x: Any) -> Any:
        doubled = two * abs(x)
        h = half * between(highest if doubled > highest else doubled)
        quotient = h / (one + h)
        # The same, but the roundings of the quotient count for less where h is small.
        difference = multiply_add(-h, quotient, h)
        y = sign(difference if h < half else quotient, x)
        return y if x == x else x

    return tanh


@functools.cache
def sigmoid(F: Any) -> Function:
    """1 / (1 + exp(-x))."""
    exponential, one = exp(F), F(1)

    @helper
    def sigmoid(x: Any) -> Any:
        return one / (one + exponential(-x))

    return sigmoid


# erf(x) / x - 1 in w = x^2 for |x| <= 1, near minimax: 2^-29.3 of erf(x) / x in float32, 2^-56.0 in float64.
_ERF = {
    types.float32: (
        0.12837916612625122, -0.3761262595653534, 0.1128358244895935, -0.026853643357753754, 0.005187962669879198,
        -0.0008006793214008212, 7.842288323445246e-05,
    ),
    types.float64: (
        0.12837916709551256, -0.37612638903183454, 0.11283791670942442, -0.02686617064289931, 0.005223977604689966,
        -0.0008548325870703971, 0.00012055292035174393, -1.4924685750072198e-05, 1.6446833684025832e-06,
        -1.6204216644959769e-07, 1.370256913134439e-08, -7.764805895007783e-10,
    ),
}  # fmt: skip
# exp(z^2) erfc(z) / t for z from 1 to 9.5 (float32) or 27 (float64), t = 1 / (z + 2.5), in u = p - q t, which runs from
# -1 to 1 there: near minimax, 2^-25.1 in float32, 2^-54.3 in float64. First p and q, then the coefficients.
_ERFC_VARIABLE = {
    types.float32: (1.8235293626785278, 9.882352828979492),
    types.float64: (1.2692307692307692, 7.9423076923076925),
}
_ERFC = {
    types.float32: (
        0.9944067001342773, -0.37310221791267395, 0.10629063099622726, -0.02098366990685463, 0.0020389549899846315,
        0.00020270183449611068, -7.698682020418346e-05,
    ),
    types.float64: (
        0.9093136524966002, -0.4041501285639378, 0.1419225195230687, -0.03639114559582416, 0.005314015425857554,
        0.0002503374625000102, -0.00028899798661866165, 2.5884024028117178e-05, 1.4661940027821894e-05,
        -2.68805332173622e-06, -9.492778966282771e-07, 2.1476089142006958e-07, 8.1605397424176e-08,
        -1.5234421835529477e-08, -8.39668152200118e-09, 7.991779212095901e-10, 8.640937708473995e-10,
        -1.3045265044869376e-11, -6.247763873280956e-11,
    ),
}  # fmt: skip


@functools.cache
def _erfc_beyond_one(F: Any) -> Function:
    """(z, exp(-z^2)) -> erfc(z) for z >= 1; anything below."""
    p, q, even, one, c = F(_ERFC_VARIABLE[F][0]), F(_ERFC_VARIABLE[F][1]), polynomial(F, _ERFC[F]), F(1), F(2.5)

    @helper
    def erfc_beyond_one(z: Any, exponential: Any) -> Any:
        t = one / (z + c)
        return exponential * (t * even(multiply_add(t, -q, p)))

    return erfc_beyond_one


@functools.cache
def erf(F: Any) -> Function:
    """The error function."""
    exponential, beyond, small, sign, one = exp(F), _erfc_beyond_one(F), polynomial(F, _ERF[F]), with_sign_of(F), F(1)

    @helper
    def erf(x: Any) -> Any:
        z = abs(x)
        square = z * z
        inner = multiply_add(x, small(square), x)
        outer = sign(one - beyond(z, exponential(-square)), x)
        y = outer if z > one else inner
        return y if x == x else x

    return erf


@functools.cache
def normal(F: Any) -> Function:
    """x -> (Phi(x), exp(-x^2 / 2)): the normal distribution function and its density times sqrt(2 pi).

    Phi(x) = erfc(-x / sqrt(2)) / 2 keeps its relative accuracy where it is small.
    """
    exponential, beyond, small = exp(F), _erfc_beyond_one(F), polynomial(F, _ERF[F])
    one, half, zero, root_half = F(1), F(0.5), F(0), F(math.sqrt(0.5))

    @helper
    def normal(x: Any) -> Any:
        z = abs(x) * root_half
        half_square = half * (x * x)
        density = exponential(-half_square)
        upper = half * beyond(z, density)
        lower = one - upper
        outer = upper if x < zero else lower
        scaled = x * root_half
        inner = multiply_add(half, multiply_add(scaled, small(half_square), scaled), half)
        y = outer if z > one else inner
        return (y if x == x else x), density

    return normal


@functools.cache
def mish_terms(F: Any) -> Function:
    """(a, b, c) = f(x): tanh(log(1 + exp(x))) = a / b and its derivative = c / b^2, without overflow or cancellation."""
    exponential = exp(F)
    zero, one, two, four = F(0), F(1), F(2), F(4)

    @helper
    def terms(x: Any) -> Any:
        w = exponential(-abs(x))
        over = one + two * w if x > zero else w * (w + two)
        under = over + (two * w * w if x > zero else two)
        rest = four * w * (one + w) * (w if x > zero else one)
        return over, under, rest

    return terms


@functools.cache
def activation(F: Any, name: str) -> Function:
    """The activation `name` as y = f(x, alpha); alpha is read by leaky_relu and elu alone.

    Used by the elementwise kernels and by the dense epilogues, which so agree bit for bit.
    """
    zero, one = F(0), F(1)
    exponential_less_one, logistic, hyperbolic, distribution = expm1(F), sigmoid(F), tanh(F), normal(F)
    terms = mish_terms(F)
    exponential, logarithm = exp(F), log1p(F)

    @helper
    def identity_activation(x: Any, alpha: Any) -> Any:
        return x

    @helper
    def step_activation(x: Any, alpha: Any) -> Any:
        return one if x > zero else zero

    @helper
    def relu_activation(x: Any, alpha: Any) -> Any:
        return zero if x <= zero else x  # NaN stays, so that divergence is seen

    @helper
    def leaky_relu_activation(x: Any, alpha: Any) -> Any:
        scaled = alpha * x
        return x if x > zero else scaled

    @helper
    def elu_activation(x: Any, alpha: Any) -> Any:
        scaled = alpha * exponential_less_one(x)
        return x if x > zero else scaled

    @helper
    def sigmoid_activation(x: Any, alpha: Any) -> Any:
        return logistic(x)

    @helper
    def tanh_activation(x: Any, alpha: Any) -> Any:
        return hyperbolic(x)

    @helper
    def gelu_activation(x: Any, alpha: Any) -> Any:
        phi, _ = distribution(x)
        return x * phi

    @helper
    def silu_activation(x: Any, alpha: Any) -> Any:
        return x * logistic(x)

    @helper
    def softplus_activation(x: Any, alpha: Any) -> Any:
        positive = zero if x <= zero else x
        return positive + logarithm(exponential(-abs(x)))

    @helper
    def mish_activation(x: Any, alpha: Any) -> Any:
        over, under, _ = terms(x)
        return x * (over / under)

    functions: dict[str, Function] = {
        "identity": identity_activation, "step": step_activation, "relu": relu_activation,
        "leaky_relu": leaky_relu_activation, "elu": elu_activation, "sigmoid": sigmoid_activation,
        "tanh": tanh_activation, "gelu": gelu_activation, "silu": silu_activation, "softplus": softplus_activation,
        "mish": mish_activation,
    }  # fmt: skip
    return functions[name]


@functools.cache
def activation_backward(F: Any, name: str) -> Function:
    """The backward of `name` as dx = f(dy, at, alpha); `at` is y for ACTIVATIONS_FROM_OUTPUT, x for ACTIVATIONS_FROM_INPUT."""
    zero, one, per_root_two_pi = F(0), F(1), F(1 / math.sqrt(2 * math.pi))
    logistic, distribution, terms = sigmoid(F), normal(F), mish_terms(F)

    @helper
    def identity_backward(dy: Any, at: Any, alpha: Any) -> Any:
        return dy

    @helper
    def relu_backward(dy: Any, at: Any, alpha: Any) -> Any:
        return zero if at <= zero else dy

    @helper
    def leaky_relu_backward(dy: Any, at: Any, alpha: Any) -> Any:
        scaled = alpha * dy
        return dy if at > zero else scaled

    @helper
    def elu_backward(dy: Any, at: Any, alpha: Any) -> Any:
        scaled = dy * (at + alpha)
        return dy if at > zero else scaled

    @helper
    def sigmoid_backward(dy: Any, at: Any, alpha: Any) -> Any:
        return dy * (at * (one - at))

    @helper
    def tanh_backward(dy: Any, at: Any, alpha: Any) -> Any:
        return dy * multiply_add(-at, at, one)

    @helper
    def gelu_backward(dy: Any, at: Any, alpha: Any) -> Any:
        phi, density = distribution(at)
        return dy * multiply_add(at * per_root_two_pi, density, phi)

    @helper
    def silu_backward(dy: Any, at: Any, alpha: Any) -> Any:
        s = logistic(at)
        return dy * (s * multiply_add(at, one - s, one))

    @helper
    def softplus_backward(dy: Any, at: Any, alpha: Any) -> Any:
        return dy * logistic(at)

    @helper
    def mish_backward(dy: Any, at: Any, alpha: Any) -> Any:
        over, under, rest = terms(at)
        return dy * multiply_add(at, rest / (under * under), over / under)

    functions: dict[str, Function] = {
        "identity": identity_backward, "relu": relu_backward, "leaky_relu": leaky_relu_backward, "elu": elu_backward,
        "sigmoid": sigmoid_backward, "tanh": tanh_backward, "gelu": gelu_backward, "silu": silu_backward,
        "softplus": softplus_backward, "mish": mish_backward,
    }  # fmt: skip
    return functions[name]
