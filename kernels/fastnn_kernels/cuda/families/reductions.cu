// Sums, means and maxima along axes, and their converse.
#include "strided.cuh"

struct sum_reduction {
  template <class F> static __device__ __forceinline__ F of_nothing() { return 0; }
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return a + b; }
};
struct max_reduction {
  template <class F> static __device__ __forceinline__ F of_nothing() { return -infinity<F>(); }
  template <class F> static __device__ __forceinline__ F of(F a, F b) { return larger(a, b); }
};

// y (outer, pieces, inner) = x (outer, length, inner) reduced in pieces of `piece` entries along its second axis, / divisor.
// A block is cut into THREADS / (lanes * columns) rows of `outer`, by `lanes` threads that share a piece, by `columns`, both
// powers of two: neighboring threads read neighboring columns, or neighboring entries where there is one column. Entry r of
// a piece belongs to lane r % lanes; the lanes are put together in a tree. So the order is set by the numbers given alone.
// There are fewer than 2^31 tiles of this kind.
template <class F, class Reduction, class X, class Y>
__device__ void reduce(
    Grid grid, const X* x, Y* y, i64 outer, i64 length, i64 inner, i64 pieces, i64 piece, i64 lanes, i64 columns, F divisor) {
  constexpr int CHAINS = 4;  // entries that a thread reads at once
  F* shared = reinterpret_cast<F*>(grid.shared);
  int column = threadIdx.x % int(columns), lane = threadIdx.x / int(columns) % int(lanes);
  i64 rows = THREADS / int(lanes * columns), row = threadIdx.x / int(lanes * columns);
  u32 across = (inner + columns - 1) / columns;
  i64 tiles = (outer + rows - 1) / rows * pieces * across;
  for (i64 tile = grid.block; tile < tiles; tile += grid.blocks) {
    u32 rest = u32(tile) / across, strip = rest / u32(pieces);
    i64 part = rest - strip * u32(pieces), i = strip * rows + row, j = i64(u32(tile) - rest * across) * columns + column;
    bool inside = i < outer && j < inner;
    F chain[CHAINS];
#pragma unroll
    for (int k = 0; k < CHAINS; k++) chain[k] = Reduction::template of_nothing<F>();
    if (inside) {
      i64 end = part * piece + piece < length ? part * piece + piece : length, r = part * piece + lane;
      const X* from = x + i * length * inner + j;
      for (; r + (CHAINS - 1) * lanes < end; r += CHAINS * lanes) {
        F value[CHAINS];
#pragma unroll
        for (int k = 0; k < CHAINS; k++) value[k] = F(from[(r + k * lanes) * inner]);
#pragma unroll
        for (int k = 0; k < CHAINS; k++) chain[k] = Reduction::of(chain[k], value[k]);
      }
#pragma unroll
      for (int k = 0; k < CHAINS - 1; k++)
        if (r + k * lanes < end) chain[k] = Reduction::of(chain[k], F(from[(r + k * lanes) * inner]));
    }
    F total = Reduction::of(Reduction::of(chain[0], chain[1]), Reduction::of(chain[2], chain[3]));
    for (int half = int(lanes) / 2; half; half /= 2) {
      int distance = half * int(columns);
      F other;
      if (distance < WARP) {
        other = __shfl_down_sync(ALL, total, distance);
      } else {
        shared[threadIdx.x] = total;
        __syncthreads();
        other = shared[(threadIdx.x + distance) % THREADS];
        __syncthreads();
      }
      if (lane < half) total = Reduction::of(total, other);
    }
    if (inside && lane == 0) y[(i * pieces + part) * inner + j] = Y(total / divisor);
  }
}

// y = x repeated along some axes, / divisor.
template <class F, class X, class Y, class... Numbers>
__device__ void expand(Grid grid, const X* x, Y* y, i64 size, F divisor, Numbers... axes) {
  elementwise<F>(grid, [=](F x) { return x / divisor; }, axes_of<1>(axes...), size, y, x);
}
