// Matrix products and dense layers.
#include "tiles.cuh"

// `tiles` of matrices: a is (M, K), or (K, M) if TA; b is (K, N), or (N, K) if TB.
template <class F, int TM, int TN, int TK, bool TA, bool TB, bool SUMS, class A, class B, class Write, class WriteSum>
__device__ __forceinline__ void product(const Grid& grid, const A* a, const B* b, i64 M, i64 N, i64 K, i64 splits, i64 length,
                                        const Write& write, const WriteSum& write_sum) {
  const Matrix<F, A, !TA> left(a, TA ? M : K);
  const Matrix<F, B, TB> right(b, TB ? K : N);
  tiles<F, TM, TN, TK, SUMS>(grid, left, right, M, N, Splits{splits, length, K}, write, write_sum);
}

// c (M, N) = op(a) @ op(b).
template <class F, int TM, int TN, int TK, bool TA, bool TB, class A, class B, class C>
__device__ void matmul(Grid grid, const A* a, const B* b, C* c, i64 M, i64 N, i64 K) {
  auto write = [&](i64, i64 i, i64 j, F sum) { c[i * N + j] = C(sum); };
  product<F, TM, TN, TK, TA, TB, false>(grid, a, b, M, N, K, 1, K, write, Unwritten());
}

// y (M, N) = activation(x (M, K) @ w (K, N) + b (N,)).
template <class F, int TM, int TN, int TK, class Activation, class X, class W, class V, class Y>
__device__ void dense(Grid grid, const X* x, const W* w, const V* b, Y* y, i64 M, i64 N, i64 K, F alpha) {
  auto write = [&](i64, i64 i, i64 j, F sum) { y[i * N + j] = Y(Activation::forward(sum + F(b[j]), alpha)); };
  product<F, TM, TN, TK, false, false, false>(grid, x, w, M, N, K, 1, K, write, Unwritten());
}

// dx (M, N) = (dz (M, K) @ w (N, K).T) * activation'(at its output y (M, N)).
template <class F, int TM, int TN, int TK, class Activation, class Z, class W, class Y, class X>
__device__ void dense_backward_input(Grid grid, const Z* dz, const W* w, const Y* y, X* dx, i64 M, i64 N, i64 K, F alpha) {
  auto write = [&](i64, i64 i, i64 j, F sum) {
    i64 at = i * N + j;
    dx[at] = X(Activation::backward(sum, F(y[at]), alpha));
  };
  product<F, TM, TN, TK, false, true, false>(grid, dz, w, M, N, K, 1, K, write, Unwritten());
}

// dw (M, N) = x (K, M).T @ dz (K, N), db (N,) = sum of dz over its rows; the blocks of the first rows of dw make db.
template <class F, int TM, int TN, int TK, class X, class Z, class W, class V>
__device__ void dense_backward_weight(Grid grid, const X* x, const Z* dz, W* dw, V* db, i64 M, i64 N, i64 K) {
  auto write = [&](i64, i64 i, i64 j, F sum) { dw[i * N + j] = W(sum); };
  auto write_sum = [&](i64, i64 j, F sum) { db[j] = V(sum); };
  product<F, TM, TN, TK, true, false, true>(grid, x, dz, M, N, K, 1, K, write, write_sum);
}

// parts (splits, M, N): op(a) @ op(b) over each split of the inner axis.
template <class F, int TM, int TN, int TK, bool TA, bool TB, class A, class B>
__device__ void product_parts(Grid grid, const A* a, const B* b, F* parts, i64 M, i64 N, i64 K, i64 splits, i64 length) {
  auto write = [&](i64 split, i64 i, i64 j, F sum) { parts[(split * M + i) * N + j] = sum; };
  product<F, TM, TN, TK, TA, TB, false>(grid, a, b, M, N, K, splits, length, write, Unwritten());
}

// The same of a.T @ b, and sums (splits, N): those of b over its rows in each split.
template <class F, int TM, int TN, int TK, class A, class B>
__device__ void product_and_sum_parts(Grid grid, const A* a, const B* b, F* parts, F* sums, i64 M, i64 N, i64 K, i64 splits,
                                      i64 length) {
  auto write = [&](i64 split, i64 i, i64 j, F sum) { parts[(split * M + i) * N + j] = sum; };
  auto write_sum = [&](i64 split, i64 j, F sum) { sums[split * N + j] = sum; };
  product<F, TM, TN, TK, true, false, true>(grid, a, b, M, N, K, splits, length, write, write_sum);
}

// c = sum of parts (splits, size).
template <class F, class P, class C> __device__ void add_product(Grid grid, const P* parts, C* c, i64 splits, i64 size) {
  add_parts<F>(grid, parts, splits, size, [&](i64 e, F sum) { c[e] = C(sum); });
}

// dx = sum of parts (splits, size) * activation'(at its output y). parts may be dx itself.
template <class F, class Activation, class P, class Y, class X>
__device__ void add_backward_input(Grid grid, const P* parts, const Y* y, X* dx, i64 splits, i64 size, F alpha) {
  add_parts<F>(grid, parts, splits, size, [&](i64 e, F sum) { dx[e] = X(Activation::backward(sum, F(y[e]), alpha)); });
}

// dw = sum of parts (splits, size), db = sum of sums (splits, N).
template <class F, class W, class V>
__device__ void add_backward_weight(Grid grid, const F* parts, const F* sums, W* dw, V* db, i64 splits, i64 size, i64 N) {
  add_parts<F>(grid, parts, splits, size, [&](i64 e, F sum) { dw[e] = W(sum); });
  add_parts<F>(grid, sums, splits, N, [&](i64 e, F sum) { db[e] = V(sum); });
}

// mask (M, pitch): bit j % 8 of byte j / 8 of a row is set where y (M, N) > 0; bits beyond the columns are not.
template <class F, class Y> __device__ void mask_of(Grid grid, const Y* y, u8* mask, i64 M, i64 N, i64 pitch) {
  for (i64 e = first_of(grid); e < M * pitch; e += stride_of(grid)) {
    i64 first = e % pitch * 8;
    const Y* row = y + e / pitch * N;
    u32 bits = 0;
    for (int j = 0; j < 8 && first + j < N; j++) bits |= (u32)(F(row[first + j]) > 0) << j;
    mask[e] = (u8)bits;
  }
}

// dx (M, N) = sum of parts (splits, M, N) where the bit of mask (M, pitch) is set, else 0. parts may be dx itself.
template <class F, class P, class X>
__device__ void add_masked(Grid grid, const P* parts, const u8* mask, X* dx, i64 splits, i64 M, i64 N, i64 pitch) {
  add_parts<F>(grid, parts, splits, M * N, [&](i64 e, F sum) {
    i64 j = e % N;
    dx[e] = X(mask[e / N * pitch + j / 8] >> (j % 8) & 1 ? sum : F(0));
  });
}
