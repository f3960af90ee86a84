// Kernels for data: dropout, mini-batches, the shuffle, and the bookkeeping of a program.
#include "blocks.cuh"
#include "philox.cuh"

// y = what dropout makes of x, four elements at a time.
template <class F, class X, class Y>
__device__ void dropout(Grid grid, const X* x, const i64* step, i64 ahead, Y* y, i64 size, i64 least, F scale, i64 k0, i64 k1) {
  const Dropout<F> drop(*step + ahead, least, scale, k0, k1);
  const bool aligned = is_aligned(x, 4 * sizeof(X)) && is_aligned(y, 4 * sizeof(Y));
  for (i64 n = first_of(grid); 4 * n < size; n += stride_of(grid)) {
    const i64 left = size - 4 * n;
    Pack<X, 4> from = load_pack<4>(x + 4 * n, left, aligned);
    u32 words[4];
    drop.draw(words, 4 * n);
    Pack<Y, 4> to;
    for (int j = 0; j < 4; j++) to.at[j] = Y(drop.of(F(from.at[j]), words[j]));
    store_pack<4>(y + 4 * n, to, left, aligned);
  }
}

// An element of a data set as one of a mini-batch: converted to F, then scaled; integers stay as they are.
template <class F, class S, class Y> struct Converted {
  static __device__ __forceinline__ Y of(S x, F scale) { return Y(F(x) * scale); }
};
template <class F, class S> struct Converted<F, S, i64> {
  static __device__ __forceinline__ i64 of(S x, F) { return x; }
};

// y[b] = the elements x of source[order[b]] as of(x, column), for rows of `width` elements. `threads_per_row` threads, a power
// of two up to THREADS, share a row; N, which divides the width, elements are moved at once.
template <int N, class S, class Y, class Of>
__device__ __forceinline__ void gather(Grid grid, const S* source, const i64* order, Y* y, i64 rows, i64 width,
                                       i64 threads_per_row, const Of& of) {
  const int each = THREADS / (int)threads_per_row;  // rows of a block
  const int column = threadIdx.x % (int)threads_per_row * N;
  const bool aligned = is_aligned(source, N * sizeof(S)) && is_aligned(y, N * sizeof(Y));
  for (i64 row = grid.block * each + threadIdx.x / (int)threads_per_row; row < rows; row += grid.blocks * each) {
    const S* from = source + order[row] * width;
    Y* to = y + row * width;
    for (i64 j = column; j < width; j += threads_per_row * N) {
      Pack<S, N> pack = load_pack<N>(from + j, N, aligned);
      Pack<Y, N> gathered;
      for (int e = 0; e < N; e++) gathered.at[e] = of(pack.at[e], j + e);
      store_pack<N>(to + j, gathered, N, aligned);
    }
  }
}

// y[b] = source[order[position + b]] * scale.
template <class F, int N, class S, class Y>
__device__ void gather_rows(Grid grid, const S* source, const i64* order, const i64* position, i64 ahead, Y* y, i64 rows,
                            i64 width, i64 threads_per_row, F scale) {
  gather<N>(grid, source, order + *position + ahead, y, rows, width, threads_per_row,
            [=](S x, i64) { return Converted<F, S, Y>::of(x, scale); });
}

// y[b] = (source[order[position + b]] * scale - offset) * factor, computed in F, which is double.
template <class F, int N, class S, class Y>
__device__ void gather_standardized(Grid grid, const S* source, const i64* order, const i64* position, i64 ahead,
                                    const F* offset, const F* factor, Y* y, i64 rows, i64 width, i64 threads_per_row, F scale) {
  gather<N>(grid, source, order + *position + ahead, y, rows, width, threads_per_row,
            [=](S x, i64 j) { return Y((F(x) * scale - offset[j]) * factor[j]); });
}

// order[i] = the place of i in the permutation of (key, epoch): a Feistel network on positions of left + right bits, walked
// until the place is below n. The halves have at most 32 bits.
template <class F>
__device__ void shuffle(Grid grid, const i64* epoch, i64* order, i64 n, i64 left, i64 right, i64 k0, i64 k1) {
  const u32 low = (u32)*epoch, high = (u32)((u64)*epoch >> 32);
  const u32 left_mask = (u32)(((u64)1 << left) - 1), right_mask = (u32)(((u64)1 << right) - 1);
  for (i64 i = first_of(grid); i < n; i += stride_of(grid)) {
    u64 place = i;
    do {
      u32 l = (u32)(place >> right), r = (u32)place & right_mask;
#pragma unroll
      for (int word = 0; word < 4; word++) {
        r ^= philox(l, 0, low, high, (u32)k0, (u32)k1).at[word] & right_mask;
        l ^= philox(r, 1, low, high, (u32)k0, (u32)k1).at[word] & left_mask;
      }
      place = (u64)l << right | r;
    } while (place >= (u64)n);
    order[i] = place;
  }
}

// y = value, everywhere.
template <class F, class Y, class V> __device__ void fill(Grid grid, Y* y, V value, i64 size) {
  constexpr int N = PACKED<Y>;
  Pack<Y, N> pack;
  for (int j = 0; j < N; j++) pack.at[j] = Y(value);
  const bool aligned = is_aligned(y);
  for (i64 i = first_of(grid) * N; i < size; i += stride_of(grid) * N) store_pack<N>(y + i, pack, size - i, aligned);
}

// log[index, column + k] = value[k] for k < count.
template <class F, class V, class L>
__device__ void log_value(Grid grid, const V* value, const i64* index, i64 ahead, L* log, i64 columns, i64 column, i64 count) {
  if (grid.block) return;
  for (i64 k = threadIdx.x; k < count; k += THREADS) log[(*index + ahead) * columns + column + k] = L(F(value[k]));
}

// control[:3] += (s, s * rows, s) with s = 1 + ahead: `ahead` steps went before this one since the control block was moved on.
template <class F> __device__ void advance(Grid grid, i64* control, i64 ahead, i64 rows) {
  if (grid.block == 0 && threadIdx.x == 0) {
    control[0] += 1 + ahead;
    control[1] += (1 + ahead) * rows;
    control[2] += 1 + ahead;
  }
}

// counts[k] = how many elements of block k are NaN or infinite: those of which x - x is not 0.
template <class F, class X> __device__ void count_nonfinite(Grid grid, const X* x, i64* counts, i64 size) {
  sum_blocks<int>(grid, x, counts, size, [](i64, const auto& pack) {
    int nonfinite = 0;
    for (X element : pack.at) {
      F value = element;
      nonfinite += value - value == 0 ? 0 : 1;
    }
    return nonfinite;
  });
}
