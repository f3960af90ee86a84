// Elementwise kernels: functions of one array, activations and their backwards, functions of two and three with broadcasting.
// `axes`: those of the output, as strided.cuh wants them.
#include "functions.cuh"
#include "strided.cuh"

template <class F, class Function, class X, class Y> __device__ void unary(Grid grid, const X* x, Y* y, i64 size) {
  elementwise<F>(grid, [](F x) { return Function::of(x); }, Axes<1, 1>{{{size, 1}}}, size, y, x);
}

template <class F, class Function, class X, class Y>
__device__ void activation(Grid grid, const X* x, Y* y, i64 size, F alpha) {
  elementwise<F>(grid, [=](F x) { return Function::forward(x, alpha); }, Axes<1, 1>{{{size, 1}}}, size, y, x);
}

template <class F, class Function, class DY, class A, class DX>
__device__ void activation_backward(Grid grid, const DY* dy, const A* at, DX* dx, i64 size, F alpha) {
  auto op = [=](F dy, F at) { return Function::backward(dy, at, alpha); };
  elementwise<F>(grid, op, Axes<2, 1>{{{size, 1, 1}}}, size, dx, dy, at);
}

template <class F, class Function, class A, class B, class C, class... Numbers>
__device__ void binary(Grid grid, const A* a, const B* b, C* c, i64 size, Numbers... axes) {
  elementwise<F>(grid, [](F a, F b) { return Function::of(a, b); }, axes_of<2>(axes...), size, c, a, b);
}

// c = a where the condition holds, else b.
template <class F, class A, class B, class C, class... Numbers>
__device__ void where(Grid grid, const bool* condition, const A* a, const B* b, C* c, i64 size, Numbers... axes) {
  auto op = [](F condition, F a, F b) { return where_function::of(condition, a, b); };
  elementwise<F>(grid, op, axes_of<3>(axes...), size, c, condition, a, b);
}
