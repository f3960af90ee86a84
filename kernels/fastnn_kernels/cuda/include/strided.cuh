// Loops over the elements of an output whose inputs are walked through in strides: broadcasting and permuted axes.
#pragma once
#include "common.cuh"

// Up to R axes of an output, innermost first: the length, then the step of each of M inputs in elements.
template <int M, int R> struct Axes {
  i64 table[R][M + 1];

  __device__ __forceinline__ i64 step(int input) const { return table[0][input + 1]; }

  // Where the element of an input lies that belongs to an element of the output.
  __device__ __forceinline__ i64 offset(int input, i64 element) const {
    u64 rest = element;  // unsigned: division is then done in 32 bits wherever the numbers allow
    i64 offset = 0;
#pragma unroll
    for (int axis = 0; axis < R - 1; axis++) {
      u64 length = table[axis][0], next = rest / length;
      offset += i64(rest - next * length) * table[axis][input + 1];
      rest = next;
    }
    return offset + i64(rest) * table[R - 1][input + 1];
  }
};

// From R * (M + 1) numbers.
template <int M, class... Numbers> __device__ __forceinline__ auto axes_of(Numbers... numbers) {
  return Axes<M, sizeof...(Numbers) / (M + 1)>{{numbers...}};
}

// Bytes of the largest of some types.
template <class... T> __device__ constexpr int widest() {
  int bytes = 0;
  ((bytes = sizeof(T) > bytes ? sizeof(T) : bytes), ...);
  return bytes;
}

// `values` = what belongs to `count` <= N elements of the output from `first` on. `together`: they lie on one row of the
// innermost axis. `aligned`: N of them that follow one another may be read at once.
template <class V, int N, class X, int M, int R>
__device__ __forceinline__ void fetch(
    V (&values)[N], const X* x, int input, const Axes<M, R>& axes, i64 first, int count, bool together, bool aligned) {
  const X* from = x + axes.offset(input, first);
  i64 step = axes.step(input);
  if (together && step == 1) {
    auto pack = load_pack<N>(from, count, aligned);
#pragma unroll
    for (int k = 0; k < N; k++) values[k] = V(pack.at[k]);
  } else if (together && step == 0) {
    V value = V(*from);
#pragma unroll
    for (int k = 0; k < N; k++) values[k] = value;
  } else {
#pragma unroll
    for (int k = 0; k < N; k++)
      values[k] = k < count ? V(together ? from[k * step] : x[axes.offset(input, first + k)]) : V();
  }
}

// `fetch` for the inputs from the I-th on. Their numbers are constants, so that `values` and `axes` stay in registers.
template <int I, class V, int N, int M, int R, class X, class... More>
__device__ __forceinline__ void fetch_all(
    V (&values)[M][N], const Axes<M, R>& axes, i64 first, int count, bool together, bool aligned, const X* x,
    const More*... more) {
  fetch(values[I], x, I, axes, first, count, together, aligned);
  if constexpr (I + 1 < M) fetch_all<I + 1>(values, axes, first, count, together, aligned, more...);
}

// Whether those of the inputs from the I-th on that are read in packs of N begin at a boundary of such.
template <int I, int N, int M, int R, class X, class... More>
__device__ __forceinline__ bool all_aligned(const Axes<M, R>& axes, const X* x, const More*... more) {
  bool aligned = axes.step(I) != 1 || is_aligned(x, sizeof(Pack<X, N>));
  if constexpr (I + 1 < M) aligned = aligned && all_aligned<I + 1, N>(axes, more...);
  return aligned;
}

// y from x..., pack by pack, computed in V; y lies in one stretch of `size` elements. Each thread takes 16 bytes of the widest
// operand at a time: `op(first, values, pack)` fills the pack of y from `first` on, given `values[input][k]`; what lies behind
// the end is no matter. y may be one of the inputs that are not broadcast.
template <class V, class Op, int R, class Y, class... X>
__device__ __forceinline__ void packwise(
    Grid grid, Op op, const Axes<sizeof...(X), R>& axes, i64 size, Y* y, const X*... x) {
  constexpr int M = sizeof...(X), N = 16 / widest<Y, X...>();
  bool together = R == 1 || axes.table[0][0] % N == 0;
  bool aligned = is_aligned(y, sizeof(Pack<Y, N>)) && all_aligned<0, N>(axes, x...);
  for (i64 first = first_of(grid) * N; first < size; first += stride_of(grid) * N) {
    int count = size - first < N ? int(size - first) : N;
    V values[M][N];
    fetch_all<0>(values, axes, first, count, together, aligned, x...);
    Pack<Y, N> pack;
    op(first, values, pack);
    store_pack<N>(y + first, pack, count, aligned);
  }
}

// y = op(x...), element by element, likewise.
template <class V, class Op, int R, class Y, class... X>
__device__ __forceinline__ void elementwise(
    Grid grid, Op op, const Axes<sizeof...(X), R>& axes, i64 size, Y* y, const X*... x) {
  constexpr int M = sizeof...(X), N = 16 / widest<Y, X...>();
  auto each = [=](i64, const V(&values)[M][N], Pack<Y, N>& pack) {
#pragma unroll
    for (int k = 0; k < N; k++) {
      if constexpr (M == 1) pack.at[k] = Y(op(values[0][k]));
      if constexpr (M == 2) pack.at[k] = Y(op(values[0][k], values[1][k]));
      if constexpr (M == 3) pack.at[k] = Y(op(values[0][k], values[1][k], values[2][k]));
    }
  };
  packwise<V>(grid, each, axes, size, y, x...);
}
