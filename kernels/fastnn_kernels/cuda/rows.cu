// Kernels along the last axis of (rows, columns): one warp a row up to 1,024 columns, a block beyond.
#include "common.cuh"

// y_j = exp(x_j) / sum_k exp(x_k), from x - max(x).
template <class F, class X, class Y> __device__ void softmax(Grid grid, const X* x, Y* y, i64 rows, i64 columns) {
  i64 stride = grid.blocks * WARPS;
  for (i64 row = grid.block * WARPS + warp_of_block(); row < rows; row += stride) {
    const X* from = x + row * columns;
    F top = -infinity<F>();
    for (i64 j = lane_of_warp(); j < columns; j += WARP) top = larger(top, F(from[j]));
    top = warp_max(top);
    F sum = 0;
    for (i64 j = lane_of_warp(); j < columns; j += WARP) sum += exp(F(from[j]) - top);
    sum = warp_sum(sum);
    for (i64 j = lane_of_warp(); j < columns; j += WARP) y[row * columns + j] = exp(F(from[j]) - top) / sum;
  }
}
