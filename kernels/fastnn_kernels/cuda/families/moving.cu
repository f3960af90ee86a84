// Kernels that move elements of any type. All but `scatter_add` copy bits: they are called with integers as wide as an element.
#include "strided.cuh"

// y (rows, width) = what lies at from(row, column), N elements at a time.
template <int N, class T, class From>
__device__ __forceinline__ void copy_packs(Grid grid, T* y, i64 rows, i64 width, From from) {
  i64 across = width / N, packs = rows * across;
  for (i64 i = first_of(grid); i < packs; i += stride_of(grid)) {
    i64 row = u64(i) / u64(across), column = (i - row * across) * N;
    reinterpret_cast<Pack<T, N>*>(y)[i] = *reinterpret_cast<const Pack<T, N>*>(from(row, column));
  }
}

// The same, 16 bytes at a time where all rows begin and end at multiples of them: where the sources are `aligned`, and all
// widths and offsets that from(row, column) is made of, or-ed together in `steps`, are integers of packs.
template <class T, class From>
__device__ __forceinline__ void copy_rows(Grid grid, T* y, i64 rows, i64 width, bool aligned, i64 steps, From from) {
  if (aligned && is_aligned(y) && (width | steps) % PACKED<T> == 0) {
    copy_packs<PACKED<T>>(grid, y, rows, width, from);
  } else {
    copy_packs<1>(grid, y, rows, width, from);
  }
}

// y (rows, width) = columns `offset` and on of x (rows, x_width).
template <class F, class T> __device__ void slice(Grid grid, const T* x, T* y, i64 rows, i64 width, i64 x_width, i64 offset) {
  auto from = [=](i64 row, i64 column) { return x + row * x_width + offset + column; };
  copy_rows(grid, y, rows, width, is_aligned(x), x_width | offset, from);
}

// c (rows, a_width + b_width) = a (rows, a_width) beside b (rows, b_width).
template <class F, class T>
__device__ void concatenate(Grid grid, const T* a, const T* b, T* c, i64 rows, i64 a_width, i64 b_width) {
  auto from = [=](i64 row, i64 column) {
    return column < a_width ? a + row * a_width + column : b + row * b_width + (column - a_width);
  };
  copy_rows(grid, c, rows, a_width + b_width, is_aligned(a) && is_aligned(b), a_width | b_width, from);
}

// Row i of y (count, width) = row indices[i] of x.
template <class F, class T> __device__ void gather(Grid grid, const T* x, const i64* indices, T* y, i64 count, i64 width) {
  auto from = [=](i64 row, i64 column) { return x + indices[row] * width + column; };
  copy_rows(grid, y, count, width, is_aligned(x), width, from);
}

// y = x with its axes in another order; `axes`: those of y with their steps in x.
template <class F, class T, class... Numbers> __device__ void permute(Grid grid, const T* x, T* y, i64 size, Numbers... axes) {
  elementwise<T>(grid, [](T x) { return x; }, axes_of<1>(axes...), size, y, x);
}

// Transposes matrices: y[i * y_step + j] = x[i + j * x_step] for i < rows, j < columns, for each of `matrices` that begin where
// the outer axes (steps in y, then in x) say. Square tiles go through shared memory, so that reading and writing are coalesced;
// its rows are one element longer, so that the elements of a column lie in different banks. There are fewer than 2^31 tiles.
template <class F, class T, class... Numbers>
__device__ void transpose(
    Grid grid, const T* x, T* y, i64 matrices, i64 rows, i64 columns, i64 x_step, i64 y_step, Numbers... outer) {
  T* shared = reinterpret_cast<T*>(grid.shared);
  auto axes = axes_of<2>(outer...);
  int lane = lane_of_warp();
  u32 across = (columns + WARP - 1) / WARP, down = (rows + WARP - 1) / WARP;
  i64 tiles = matrices * down * across;
  for (i64 tile = grid.block; tile < tiles; tile += grid.blocks) {
    u32 strip = u32(tile) / across, matrix = strip / down;
    i64 i = i64(strip - matrix * down) * WARP, j = i64(u32(tile) - strip * across) * WARP;
    const T* from = x + axes.offset(1, matrix) + i + j * x_step;
    T* to = y + axes.offset(0, matrix) + i * y_step + j;
#pragma unroll
    for (int k = warp_of_block(); k < WARP; k += WARPS)
      if (i + lane < rows && j + k < columns) shared[k * (WARP + 1) + lane] = from[k * x_step + lane];
    __syncthreads();
#pragma unroll
    for (int k = warp_of_block(); k < WARP; k += WARPS)
      if (i + k < rows && j + lane < columns) to[k * y_step + lane] = shared[lane * (WARP + 1) + k];
    __syncthreads();
  }
}

// What `scatter_add` keeps in shared memory: of CHUNK indices those that lead into the block's rows, in ascending order.
struct Matches {
  static constexpr int EACH = 4, CHUNK = EACH * THREADS;
  int counts[WARPS];  // found by each warp
  int place[CHUNK];   // in the chunk
  int row[CHUNK];     // of the block's
};

// dx (rows, width) = 0, then dx[indices[i]] += dy[i] for i = 0 .. count - 1, in this order.
// A tile is `height` rows by `columns` (a power of two) columns of dx; `across` lie beside each other, and there are fewer than
// 2^31. Every element of a tile belongs to one thread. The block reads all indices, CHUNK at a time, and lists those of its
// rows; each thread goes through the list. So the time is about that of reading `count` indices in each tile, plus that of
// `count` additions one after another if all lead to one row.
template <class F, class T>
__device__ void scatter_add(
    Grid grid, const i64* indices, const T* dy, T* dx, i64 count, i64 rows, i64 width, i64 height, i64 columns, i64 across,
    i64 tiles) {
  Matches& matches = *reinterpret_cast<Matches*>(grid.shared);
  int column = threadIdx.x % int(columns), group = threadIdx.x / int(columns), groups = THREADS / int(columns);
  int warp = warp_of_block(), lane = lane_of_warp();
  for (i64 tile = grid.block; tile < tiles; tile += grid.blocks) {
    u32 strip = u32(tile) / u32(across);
    i64 first = strip * height, end = first + height < rows ? first + height : rows;
    i64 j = (tile - strip * across) * columns + column;
    bool inside = j < width;
    for (i64 r = first + group; inside && r < end; r += groups) dx[r * width + j] = T(0);
    for (i64 chunk = 0; chunk < count; chunk += Matches::CHUNK) {
      int start = warp * WARP * Matches::EACH + lane, row[Matches::EACH], matched = 0;
      u32 votes[Matches::EACH];
#pragma unroll
      for (int k = 0; k < Matches::EACH; k++) {
        i64 i = chunk + start + k * WARP, index = i < count ? indices[i] : -1;
        row[k] = index >= first && index < end ? int(index - first) : -1;
      }
#pragma unroll
      for (int k = 0; k < Matches::EACH; k++) {
        votes[k] = __ballot_sync(ALL, row[k] >= 0);
        matched += __popc(votes[k]);
      }
      if (lane == 0) matches.counts[warp] = matched;
      __syncthreads();
      int before = 0, total = 0;
      for (int w = 0; w < WARPS; w++) {
        if (w < warp) before += matches.counts[w];
        total += matches.counts[w];
      }
#pragma unroll
      for (int k = 0; k < Matches::EACH; k++) {
        if (row[k] >= 0) {
          int at = before + __popc(votes[k] & ((1u << lane) - 1));
          matches.place[at] = start + k * WARP;
          matches.row[at] = row[k];
        }
        before += __popc(votes[k]);
      }
      __syncthreads();
      for (int m = 0; inside && m < total; m++) {
        int r = matches.row[m];
        if ((r & (groups - 1)) != group) continue;
        T* to = dx + (first + r) * width + j;
        *to = T(*to + dy[(chunk + matches.place[m]) * width + j]);
      }
      __syncthreads();
    }
  }
}
