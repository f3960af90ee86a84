// Linear layers of several small models side by side: neighboring threads compute the same element of neighboring models, so
// that whatever differs between models is read and written side by side. A thread adds one element up, in the order of k.
#include "common.cuh"

// The sum over k < K of a[k * a_step] * b[k * b_step].
template <class F, class A, class B>
__device__ __forceinline__ F grouped_sum(const A* a, i64 a_step, const B* b, i64 b_step, i64 K) {
  F sum = 0;
#pragma unroll 4
  for (i64 k = 0; k < K; k++) sum += F(a[k * a_step]) * F(b[k * b_step]);
  return sum;
}

// y (B, O, G) = x @ w (I, O, G) + b (O, G). The inputs of a row of x are `step` apart, and those of the models `apart`: 0 where
// all models read the same.
template <class F, class X, class W, class V, class Y>
__device__ void grouped_dense(Grid grid, const X* x, const W* w, const V* b, Y* y, i64 size, i64 I, i64 O, i64 G, i64 step,
                              i64 apart) {
  for (i64 e = first_of(grid); e < size; e += stride_of(grid)) {
    i64 column = e % (O * G);
    F sum = grouped_sum<F>(x + e / (O * G) * I * step + column % G * apart, step, w + column, O * G, I);
    y[e] = Y(sum + F(b[column]));
  }
}

// dx (B, I, G) = dz (B, O, G) @ w (I, O, G).T.
template <class F, class Z, class W, class X>
__device__ void grouped_dense_backward_input(Grid grid, const Z* dz, const W* w, X* dx, i64 size, i64 I, i64 O, i64 G) {
  for (i64 e = first_of(grid); e < size; e += stride_of(grid)) {
    i64 g = e % G, i = e / G % I, row = e / (I * G);
    dx[e] = X(grouped_sum<F>(dz + row * O * G + g, G, w + i * O * G + g, G, O));
  }
}

// dw (I, O, G) = x.T @ dz (B, O, G), db (O, G) = sum of dz over its rows, as one more input that is always 1.
template <class F, class X, class Z, class W, class V>
__device__ void grouped_dense_backward_weight(Grid grid, const X* x, const Z* dz, W* dw, V* db, i64 B, i64 I, i64 O, i64 G,
                                              i64 step, i64 apart) {
  for (i64 e = first_of(grid); e < (I + 1) * O * G; e += stride_of(grid)) {
    i64 i = e / (O * G), column = e % (O * G);
    if (i < I) {
      dw[e] = W(grouped_sum<F>(x + i * step + column % G * apart, I * step, dz + column, O * G, B));
    } else {
      F sum = 0;
      for (i64 row = 0; row < B; row++) sum += F(dz[row * O * G + column]);
      db[column] = V(sum);
    }
  }
}
