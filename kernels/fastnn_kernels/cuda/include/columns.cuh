// Sums down the columns of a (rows, columns) array, for what is normalized.
//
// A block takes a tile of WIDTH columns. Lanes lie over columns, so that neighbors read neighbors, and the threads of a
// column share its rows. Sums are taken over eight rows in F, and from there on in double: neither many rows nor a large mean
// cost precision.
#pragma once
#include "common.cuh"

constexpr int NORM_ROWS = 8;  // rows whose loads a thread has under way, and whose sums are taken in F

// The rows of a tile that belong to this thread: `count` of them, the first one at `start`, the next one `step` elements on.
// `inside`: whether its column is one of the array; first(): whether it also writes what belongs to the column. Of many
// rows a block takes 1/64 at a time, so that an int can count those of a thread.
template <int WIDTH> struct NormStrip {
  i64 column, start, step;
  int count;
  bool inside;
  __device__ __forceinline__ NormStrip(i64 tile, i64 low, i64 high, i64 columns) {
    constexpr int BESIDE = THREADS / WIDTH;
    int row = threadIdx.x / WIDTH;
    column = tile * WIDTH + threadIdx.x % WIDTH;
    start = (low + row) * columns + column;
    step = BESIDE * columns;
    inside = column < columns;
    count = inside && low + row < high ? int((high - low - row + BESIDE - 1) / BESIDE) : 0;
  }
  __device__ __forceinline__ i64 at(int i) const { return start + i * step; }
  __device__ __forceinline__ bool first() const { return inside && threadIdx.x < WIDTH; }
};

// Two sums, taken together.
template <class F> struct NormSums {
  F a, b;
};

// What `read` gives for the rows of a thread, NORM_ROWS of them at a time and all loads before the first use. read.batch(i) is
// told of the rows from i on, and read.at(batch, element, k) is the k-th of them, which lies at `element`. The first `kept`
// rows, a multiple of NORM_ROWS, are put into `memory` (kept * THREADS elements) when they are read FIRST, and come from there
// afterwards.
template <class V, class Read> struct NormRows {
  int count;
  V* memory;
  int kept;
  Read read;

  template <bool FIRST, class Visit> __device__ __forceinline__ void each_batch(Visit visit) const {
    const i64 last = read.strip.at(count - 1);
    for (int i = 0; i < count; i += NORM_ROWS) {
      V some[NORM_ROWS];
      V* slots = memory + (i64)i * THREADS + threadIdx.x;
      if (!FIRST && i < kept) {
#pragma unroll
        for (int k = 0; k < NORM_ROWS; k++) some[k] = slots[k * THREADS];
      } else {
        auto batch = read.batch(i);
#pragma unroll
        for (int k = 0; k < NORM_ROWS; k++) some[k] = read.at(batch, min(read.strip.at(i + k), last), k);
        if (FIRST && i < kept) {
#pragma unroll
          for (int k = 0; k < NORM_ROWS; k++) slots[k * THREADS] = some[k];
        }
      }
      visit(i, some);
    }
  }

  // Sums of get(row), in F over a batch and in double over all.
  template <class F, bool FIRST, class Get> __device__ __forceinline__ NormSums<double> sums(Get get) const {
    NormSums<double> total = {0, 0};
    each_batch<FIRST>([&](int i, const V(&some)[NORM_ROWS]) {
      NormSums<F> of_batch = {0, 0};
#pragma unroll
      for (int k = 0; k < NORM_ROWS; k++) {
        NormSums<F> one = get(some[k]);
        of_batch.a += i + k < count ? one.a : F(0);
        of_batch.b += i + k < count ? one.b : F(0);
      }
      total.a += of_batch.a;
      total.b += of_batch.b;
    });
    return total;
  }

  // put(batch, i, k, row) for every row i, the k-th of a batch of which batch_of(first row) is told.
  template <class Of, class Put> __device__ __forceinline__ void each(Of batch_of, Put put) const {
    each_batch<false>([&](int i, const V(&some)[NORM_ROWS]) {
      auto batch = batch_of(i);
#pragma unroll
      for (int k = 0; k < NORM_ROWS; k++)
        if (i + k < count) put(batch, i + k, k, some[k]);
    });
  }
};
template <class V, class Read>
__device__ __forceinline__ NormRows<V, Read> norm_rows(int count, Read read, char* memory = nullptr, int kept = 0) {
  return {count, (V*)memory, kept, read};
}

// Sums over all threads of a column, for each of them; `scratch`: NORM_SHARED bytes, which may be used again after the call.
constexpr int NORM_SHARED = 2 * WARPS * WARP * sizeof(double);
template <int WIDTH> __device__ __forceinline__ NormSums<double> sums_of_column(NormSums<double> sums, char* scratch) {
#pragma unroll
  for (int distance = WIDTH; distance < WARP; distance *= 2) {
    sums.a += __shfl_xor_sync(ALL, sums.a, distance);
    sums.b += __shfl_xor_sync(ALL, sums.b, distance);
  }
  NormSums<double>* of_warps = (NormSums<double>*)scratch;
  int column = threadIdx.x % WIDTH;
  if (lane_of_warp() < WIDTH) of_warps[warp_of_block() * WIDTH + column] = sums;
  __syncthreads();
  sums = of_warps[column];
  for (int w = 1; w < WARPS; w++) {
    sums.a += of_warps[w * WIDTH + column].a;
    sums.b += of_warps[w * WIDTH + column].b;
  }
  __syncthreads();
  return sums;
}

// What a row counts in a mean over so many of them; with it, nothing is divided while others wait.
__device__ __forceinline__ double norm_share(i64 rows) { return 1.0 / (rows > 0 ? rows : 1); }

// visit(tile, part, low, high) for every tile of columns and every part of `length` rows, of which the last may be shorter.
template <int WIDTH, class Visit>
__device__ __forceinline__ void each_norm_part(Grid grid, i64 rows, i64 columns, i64 length, Visit visit) {
  i64 tiles = (columns + WIDTH - 1) / WIDTH, parts = (rows + length - 1) / length;
  for (i64 unit = grid.block; unit < tiles * parts; unit += grid.blocks) {
    i64 part = unit / tiles, low = part * length;
    visit(unit % tiles, part, low, low + length < rows ? low + length : rows);
  }
}

// The sum of get(part) over all parts of `length` rows, for all threads of a column.
template <int WIDTH, class Get>
__device__ __forceinline__ NormSums<double> sums_of_norm_parts(i64 rows, i64 length, bool inside, char* scratch, Get get) {
  i64 parts = (rows + length - 1) / length;
  NormSums<double> sums = {0, 0};
  for (i64 part = threadIdx.x / WIDTH; inside && part < parts; part += THREADS / WIDTH) {
    NormSums<double> one = get(part);
    sums.a += one.a;
    sums.b += one.b;
  }
  return sums_of_column<WIDTH>(sums, scratch);
}
