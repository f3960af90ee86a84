// Kernels along the last axis of (rows, columns).
#include "rows.cuh"

// y_j = exp(x_j) / sum_k exp(x_k), from x - max(x).
template <class F, class Lanes, class X, class Y> __device__ void softmax(Grid grid, const X* x, Y* y, i64 rows, i64 columns) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, X> from(x + row * columns, width);
    F top = row_maximum<F, Lanes>(grid, width, from);
    auto powers = made_row<F, Lanes>(width, [&](auto j) { return exp(from[j] - top); });
    F inverse = 1 / row_sum<F, Lanes>(grid, width, [&](auto j) { return powers[j]; });
    write_row<Lanes>(y + row * columns, width, [&](auto j) { return powers[j] * inverse; });
  });
}

// dx_j = y_j (dy_j - sum_k dy_k y_k).
template <class F, class Lanes, class D, class Y, class X>
__device__ void softmax_backward(Grid grid, const D* dy, const Y* y, X* dx, i64 rows, i64 columns) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, D> slope(dy + row * columns, width);
    Row<F, Lanes, Y> at(y + row * columns, width);
    F mean = row_sum<F, Lanes>(grid, width, [&](auto j) { return slope[j] * at[j]; });
    write_row<Lanes>(dx + row * columns, width, [&](auto j) { return at[j] * (slope[j] - mean); });
  });
}

// y_j = x_j - log sum_k exp(x_k), from x - max(x).
template <class F, class Lanes, class X, class Y>
__device__ void log_softmax(Grid grid, const X* x, Y* y, i64 rows, i64 columns) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, X> from(x + row * columns, width);
    F top = row_maximum<F, Lanes>(grid, width, from);
    F logarithm = log(row_sum<F, Lanes>(grid, width, [&](auto j) { return exp(from[j] - top); }));
    write_row<Lanes>(y + row * columns, width, [&](auto j) { return from[j] - top - logarithm; });
  });
}

// dx_j = dy_j - exp(y_j) sum_k dy_k.
template <class F, class Lanes, class D, class Y, class X>
__device__ void log_softmax_backward(Grid grid, const D* dy, const Y* y, X* dx, i64 rows, i64 columns) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, D> slope(dy + row * columns, width);
    Row<F, Lanes, Y> at(y + row * columns, width);
    auto p = made_row<F, Lanes>(width, [&](auto j) { return exp(at[j]); });
    F sum = row_sum<F, Lanes>(grid, width, [&](auto j) { return slope[j]; });
    write_row<Lanes>(dx + row * columns, width, [&](auto j) { return slope[j] - p[j] * sum; });
  });
}

// indices = column of the greatest element.
template <class F, class Lanes, class X>
__device__ void argmax(Grid grid, const X* x, i64* indices, i64 rows, i64 columns) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    i64 index = row_argmax<F, Lanes>(grid, width, Row<F, Lanes, X>(x + row * columns, width));
    if (row >= 0 && threadIdx.x % Lanes::COUNT == 0) indices[row] = index;
  });
}

// y_j = 1 where j is the label, else 0.
template <class F, class Lanes, class Y>
__device__ void one_hot(Grid grid, const i64* labels, Y* y, i64 rows, i64 columns) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    i64 label = row >= 0 ? labels[row] : -1;
    write_row<Lanes>(y + row * columns, width, [&](auto j) { return F(j.j == label); });
  });
}
