// Rows of a (rows, columns) array, each in the hands of a group of lanes. The lanes and the order of every sum follow from the
// number of columns alone.
#pragma once
#include "common.cuh"

// The type of a column number: rows that are kept in registers are short.
template <bool SHORT> struct RowIndex {
  using type = int;
};
template <> struct RowIndex<false> {
  using type = i64;
};

// COUNT lanes (1, 8, WARP or THREADS) share a row. Each keeps up to KEPT of its elements in registers, in runs of PACK that
// lie side by side in memory: the columns are a multiple of PACK, and at most COUNT * KEPT. KEPT 0: rows of any length, which
// are read again wherever they are needed.
template <int COUNT_, int KEPT_, int PACK_> struct RowLanes {
  static constexpr int COUNT = COUNT_, KEPT = KEPT_, PACK = PACK_;
  using Index = typename RowIndex<(KEPT > 0)>::type;
};

// An element of a row: number k of those of its lane, in column j.
template <class Lanes> struct RowElement {
  int k;
  typename Lanes::Index j;
};

// visit(row, width) for all rows, by the whole group; groups that have no row any more get -1 and the width 0, because all
// lanes of a warp must take part in what rows are reduced by.
template <class Lanes, class Visit> __device__ __forceinline__ void each_row(Grid grid, i64 rows, i64 columns, Visit visit) {
  constexpr int GROUPS = THREADS / Lanes::COUNT;
  for (i64 first = grid.block * GROUPS; first < rows; first += grid.blocks * GROUPS) {
    i64 row = first + threadIdx.x / Lanes::COUNT;
    bool inside = row < rows;
    visit(inside ? row : -1, typename Lanes::Index(inside ? columns : 0));
  }
}

// visit(element) for those elements of a row that belong to this lane, from left to right.
template <class Lanes, class Visit> __device__ __forceinline__ void each_of_row(typename Lanes::Index width, Visit visit) {
  int lane = threadIdx.x % Lanes::COUNT;
  if constexpr (Lanes::KEPT > 0) {
#pragma unroll
    for (int k = 0; k < Lanes::KEPT; k++) {
      int j = (k / Lanes::PACK * Lanes::COUNT + lane) * Lanes::PACK + k % Lanes::PACK;
      if (j < width) visit(RowElement<Lanes>{k, j});
    }
  } else {
#pragma unroll 2
    for (i64 j = lane; j < width; j += Lanes::COUNT) visit(RowElement<Lanes>{0, j});
  }
}

// What a lane has of a row x: row[element], converted to F. Kept in registers, or read when asked for.
template <class F, class Lanes, class X, bool KEPT = (Lanes::KEPT > 0)> struct Row {
  F at[Lanes::KEPT];
  __device__ __forceinline__ Row(const X* x, int width) {
    constexpr int PACK = Lanes::PACK;
    bool aligned = PACK == 1 || is_aligned(x, sizeof(Pack<X, PACK>));
    int lane = threadIdx.x % Lanes::COUNT;
#pragma unroll
    for (int k = 0; k < Lanes::KEPT; k += PACK) {
      int j = (k / PACK * Lanes::COUNT + lane) * PACK;
      if (j < width) {
        Pack<X, PACK> pack = load_pack<PACK>(x + j, PACK, aligned);
#pragma unroll
        for (int i = 0; i < PACK; i++) at[k + i] = F(pack.at[i]);
      }
    }
  }
  __device__ __forceinline__ F operator[](RowElement<Lanes> element) const { return at[element.k]; }
};
template <class F, class Lanes, class X> struct Row<F, Lanes, X, false> {
  const X* x;
  __device__ __forceinline__ Row(const X* x, i64) : x(x) {}
  __device__ __forceinline__ F operator[](RowElement<Lanes> element) const { return F(x[element.j]); }
};

// make(element) of a row as another row: kept in registers, or computed when asked for.
template <class F, class Lanes, class Make, bool KEPT = (Lanes::KEPT > 0)> struct MadeRow {
  F at[Lanes::KEPT];
  __device__ __forceinline__ MadeRow(int width, Make make) {
    each_of_row<Lanes>(width, [&](RowElement<Lanes> element) { at[element.k] = make(element); });
  }
  __device__ __forceinline__ F operator[](RowElement<Lanes> element) const { return at[element.k]; }
};
template <class F, class Lanes, class Make> struct MadeRow<F, Lanes, Make, false> {
  Make make;
  __device__ __forceinline__ MadeRow(i64, Make make) : make(make) {}
  __device__ __forceinline__ F operator[](RowElement<Lanes> element) const { return make(element); }
};
template <class F, class Lanes, class Make>
__device__ __forceinline__ MadeRow<F, Lanes, Make> made_row(typename Lanes::Index width, Make make) {
  return MadeRow<F, Lanes, Make>(width, make);
}

// y = make(element) for all elements of a row.
template <class Lanes, class Y, class Make>
__device__ __forceinline__ void write_row(Y* y, typename Lanes::Index width, Make make) {
  if constexpr (Lanes::PACK > 1) {
    constexpr int PACK = Lanes::PACK;
    bool aligned = is_aligned(y, sizeof(Pack<Y, PACK>));
    int lane = threadIdx.x % Lanes::COUNT;
#pragma unroll
    for (int k = 0; k < Lanes::KEPT; k += PACK) {
      int j = (k / PACK * Lanes::COUNT + lane) * PACK;
      if (j < width) {
        Pack<Y, PACK> pack;
#pragma unroll
        for (int i = 0; i < PACK; i++) pack.at[i] = Y(make(RowElement<Lanes>{k + i, j + i}));
        store_pack(y + j, pack, PACK, aligned);
      }
    }
  } else {
    each_of_row<Lanes>(width, [&](RowElement<Lanes> element) { y[element.j] = Y(make(element)); });
  }
}

// The place of the greatest element; in a row of which nothing was looked at yet, `index` is beyond all columns.
template <class F, class Index> struct Greatest {
  F value;
  Index index;
};
// The one of two that NumPy's argmax takes: NaN before all numbers, then the greater, then the one that is further left.
template <class F, class Index>
__device__ __forceinline__ Greatest<F, Index> greater_of(Greatest<F, Index> a, Greatest<F, Index> b) {
  if (is_nan(a.value) != is_nan(b.value)) return is_nan(b.value) ? b : a;
  if (is_nan(a.value) || a.value == b.value) return b.index < a.index ? b : a;
  return b.value > a.value ? b : a;
}

// The value of the lane whose number differs in the bits of `mask`.
template <class F> __device__ __forceinline__ F across(F x, int mask) { return __shfl_xor_sync(ALL, x, mask); }
template <class F, class Index>
__device__ __forceinline__ Greatest<F, Index> across(Greatest<F, Index> x, int mask) {
  return {__shfl_xor_sync(ALL, x.value, mask), __shfl_xor_sync(ALL, x.index, mask)};
}

// join(...) of what the lanes of a group have, for all of them, in a fixed order; join(a, b) is join(b, a). Where the group is
// the block, `shared` is ROW_SHARED bytes of shared memory, which may be used again after the call.
constexpr int ROW_SHARED = 16 * WARPS;
template <class Lanes, class A, class Join> __device__ __forceinline__ A reduce_row(Grid grid, A mine, Join join) {
  constexpr int WIDTH = Lanes::COUNT < WARP ? Lanes::COUNT : WARP;
#pragma unroll
  for (int distance = WIDTH / 2; distance; distance /= 2) mine = join(mine, across(mine, distance));
  if constexpr (Lanes::COUNT > WARP) {
    static_assert(sizeof(A) * WARPS <= ROW_SHARED, "does not fit");
    A* of_warps = (A*)grid.shared;
    if (lane_of_warp() == 0) of_warps[warp_of_block()] = mine;
    __syncthreads();
    mine = of_warps[0];
    for (int w = 1; w < WARPS; w++) mine = join(mine, of_warps[w]);
    __syncthreads();
  }
  return mine;
}

// Sum of make(element) over a row, 0 for no columns.
template <class F, class Lanes, class Make>
__device__ __forceinline__ F row_sum(Grid grid, typename Lanes::Index width, Make make) {
  F sum = 0;
  each_of_row<Lanes>(width, [&](RowElement<Lanes> element) { sum += make(element); });
  return reduce_row<Lanes>(grid, sum, [](F a, F b) { return a + b; });
}

// The greatest element of a row, NaN where one is, -inf for no columns.
template <class F, class Lanes, class Values>
__device__ __forceinline__ F row_maximum(Grid grid, typename Lanes::Index width, const Values& row) {
  F top = -infinity<F>();
  each_of_row<Lanes>(width, [&](RowElement<Lanes> element) { top = larger(top, row[element]); });
  return reduce_row<Lanes>(grid, top, [](F a, F b) { return larger(a, b); });
}

// The column of the greatest element, NaN being the greatest and the first of equal ones taken; 0 for no columns.
template <class F, class Lanes, class Values>
__device__ __forceinline__ i64 row_argmax(Grid grid, typename Lanes::Index width, const Values& row) {
  using Index = typename Lanes::Index;
  Greatest<F, Index> best{-infinity<F>(), width};
  each_of_row<Lanes>(width, [&](RowElement<Lanes> element) {
    best = greater_of(best, Greatest<F, Index>{row[element], element.j});
  });
  best = reduce_row<Lanes>(grid, best, [](Greatest<F, Index> a, Greatest<F, Index> b) { return greater_of(a, b); });
  return width ? best.index : 0;
}
