// Sums over blocks of an array: one a block of SUM_BLOCK elements, in an order that the number of elements sets alone.
#pragma once
#include "common.cuh"

constexpr int SUM_BLOCK = 4096;

// sums[k] = sum over the elements of block k, as T, where term(i, pack) is that of a pack of 16 bytes from element i on; what
// is beyond the end of x is 0 there. A thread adds up its packs, in ascending order, then the threads of the block are added.
// Shared memory: WARPS elements of T.
template <class T, class X, class Y, class Term>
__device__ __forceinline__ void sum_blocks(const Grid& grid, const X* x, Y* sums, i64 size, Term term) {
  constexpr int N = PACKED<X>;
  constexpr int SPAN = THREADS * N;  // elements that the threads of a block load at once
  constexpr int ROUNDS = SUM_BLOCK / SPAN;
  const bool aligned = is_aligned(x);
  for (i64 k = grid.block; k * SUM_BLOCK < size; k += grid.blocks) {
    const i64 start = k * SUM_BLOCK + threadIdx.x * N, end = min(size, (k + 1) * SUM_BLOCK);
    T sum = 0;
    if (aligned && end == (k + 1) * SUM_BLOCK) {
      Pack<X, N> packs[ROUNDS];
#pragma unroll
      for (int r = 0; r < ROUNDS; r++) packs[r] = *(const Pack<X, N>*)(x + start + r * SPAN);
#pragma unroll
      for (int r = 0; r < ROUNDS; r++) sum += term(start + r * SPAN, packs[r]);
    } else {
#pragma unroll 1
      for (i64 i = start; i < end; i += SPAN) sum += term(i, load_pack<N>(x + i, end - i, aligned));
    }
    sum = block_sum(sum, (T*)grid.shared);
    if (threadIdx.x == 0) sums[k] = sum;
  }
}
