// Scalar functions: what the elementwise kernels do to an element, and what is fused behind products and into chains.
// Each is a struct, so that its name can be a template argument. NaN is passed on: by all functions of x or of a and b but
// `step`, comparisons and powers that are 1 whatever the other number; by derivatives where dy is NaN and they are not 0.
#pragma once
#include "common.cuh"

// x, as a number that was rounded: nothing behind it is contracted with the product that it may be. Adding -0 changes no
// number, and an addition told how to round is neither contracted nor left out. (Empty inline assembly is seen through by
// the assembler, and a product with 1 is left out.)
__device__ __forceinline__ float rounded(float x) { return __fadd_rn(x, -0.0f); }
__device__ __forceinline__ double rounded(double x) { return __dadd_rn(x, -0.0); }

// Activations: y = forward(x, alpha); dx = backward(dy, at, alpha), where `at` is the output y for those of
// ACTIVATIONS_FROM_OUTPUT and the input x for those of ACTIVATIONS_FROM_INPUT. Only leaky_relu and elu read alpha.

// 1 / (1 + exp(-x)); exp may overflow, the result is then 0.
template <class F> __device__ __forceinline__ F logistic(F x) { return 1 / (1 + exp(-x)); }

// Phi(x), the distribution function of the standard normal distribution.
template <class F> __device__ __forceinline__ F normal_distribution(F x) {
  return F(0.5) * erfc(x * F(-0.70710678118654752440));  // -1 / sqrt(2)
}

struct none_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F) { return x; }
  template <class F> static __device__ __forceinline__ F backward(F dy, F, F) { return dy; }
};

// max(x, 0); the derivative at 0 is 0.
struct relu_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F) { return x <= 0 ? F(0) : x; }
  template <class F> static __device__ __forceinline__ F backward(F dy, F y, F) { return y <= 0 ? F(0) : dy; }
};

// x where x > 0, else alpha x.
struct leaky_relu_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F alpha) { return x > 0 ? x : alpha * x; }
  template <class F> static __device__ __forceinline__ F backward(F dy, F y, F alpha) { return y > 0 ? dy : alpha * dy; }
};

// x where x > 0, else alpha (exp(x) - 1).
struct elu_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F alpha) { return x > 0 ? x : alpha * expm1(x); }
  template <class F> static __device__ __forceinline__ F backward(F dy, F y, F alpha) { return y > 0 ? dy : dy * (y + alpha); }
};

struct sigmoid_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F) { return logistic(x); }
  template <class F> static __device__ __forceinline__ F backward(F dy, F y, F) { return dy * (y * (1 - y)); }
};

struct tanh_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F) { return tanh(x); }
  template <class F> static __device__ __forceinline__ F backward(F dy, F y, F) { return dy * fma(-y, y, F(1)); }
};

// x Phi(x); its derivative is Phi(x) + x phi(x), phi(x) = exp(-x^2 / 2) / sqrt(2 pi) the density.
struct gelu_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F) { return x * normal_distribution(x); }
  template <class F> static __device__ __forceinline__ F backward(F dy, F x, F) {
    F phi = normal_distribution(x);
    return dy * fma(x, F(0.39894228040143267794) * exp(F(-0.5) * x * x), phi);
  }
};

// x s(x), s the logistic function; its derivative is s (1 + x (1 - s)).
struct silu_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F) { return x * logistic(x); }
  template <class F> static __device__ __forceinline__ F backward(F dy, F x, F) {
    F s = logistic(x);
    return dy * (s * fma(x, 1 - s, F(1)));
  }
};

// log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which does not overflow.
struct softplus_function {
  template <class F> static __device__ __forceinline__ F forward(F x, F) {
    return (x <= 0 ? F(0) : x) + log1p(exp(-fabs(x)));
  }
  template <class F> static __device__ __forceinline__ F backward(F dy, F x, F) { return dy * logistic(x); }
};

// x tanh(log(1 + exp(x))): the hyperbolic tangent is a / b and its derivative c / b^2, without overflow or cancellation.
struct mish_function {
  template <class F> static __device__ __forceinline__ void terms(F x, F& a, F& b, F& c) {
    F w = exp(-fabs(x));
    a = x > 0 ? F(1) + F(2) * w : w * (w + F(2));
    b = a + (x > 0 ? F(2) * w * w : F(2));
    c = F(4) * w * (F(1) + w) * (x > 0 ? w : F(1));
  }
  template <class F> static __device__ __forceinline__ F forward(F x, F) {
    F a, b, c;
    terms(x, a, b, c);
    return x * (a / b);
  }
  template <class F> static __device__ __forceinline__ F backward(F dy, F x, F) {
    F a, b, c;
    terms(x, a, b, c);
    return dy * fma(x, c / (b * b), a / b);
  }
};

// Functions of one number.
struct identity_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return x; }
};
struct negative_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return -x; }
};
struct exp_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return exp(x); }
};
struct log_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return log(x); }
};
struct sqrt_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return sqrt(x); }
};
struct abs_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return fabs(x); }
};
struct sign_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return x > 0 ? F(1) : x < 0 ? F(-1) : x == 0 ? F(0) : x; }
};
// 1 where x > 0, else 0, also for NaN.
struct step_function {
  template <class F> static __device__ __forceinline__ F of(F x) { return x > 0 ? F(1) : F(0); }
};

// Functions of two numbers.
struct add_function {
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return a + b; }
};
struct subtract_function {
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return a - b; }
};
struct multiply_function {
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return a * b; }
};
struct divide_function {
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return a / b; }
};
// IEEE 754's pow, squares and reciprocals correctly rounded. float is computed in double, so that the error
// of pow (CUDA C++ Programming Guide: 2 units in the last place) is rounded away and whole powers are exact, as powf's are not.
struct power_function {
  template <class F> static __device__ __forceinline__ F of(F a, F b) {
    return b == 2 ? a * a : b == -1 ? 1 / a : F(pow(double(a), double(b)));
  }
};
struct maximum_function {
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return larger(a, b); }
};
struct minimum_function {
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return smaller(a, b); }
};

// a where the condition holds, else b.
struct where_function {
  template <class C, class F> static __device__ __forceinline__ F of(C condition, F a, F b) { return condition != 0 ? a : b; }
};

// Comparisons.
struct equal_function {
  template <class F> static __device__ __forceinline__ bool of(F a, F b) { return a == b; }
};
struct not_equal_function {
  template <class F> static __device__ __forceinline__ bool of(F a, F b) { return a != b; }
};
struct less_function {
  template <class F> static __device__ __forceinline__ bool of(F a, F b) { return a < b; }
};
struct less_equal_function {
  template <class F> static __device__ __forceinline__ bool of(F a, F b) { return a <= b; }
};
struct greater_function {
  template <class F> static __device__ __forceinline__ bool of(F a, F b) { return a > b; }
};
struct greater_equal_function {
  template <class F> static __device__ __forceinline__ bool of(F a, F b) { return a >= b; }
};
