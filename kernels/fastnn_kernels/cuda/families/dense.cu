// Matrix products and dense layers.
//
// Everything rests on one device function, `tiles`: the M x N elements of op(a) @ op(b) are cut into tiles of TM x TN, which the
// blocks take in turn. A block stages TK columns of its rows of op(a) and TK rows of its columns of op(b) in shared memory while
// the next ones are already being loaded into registers. A thread holds 4 x 4 elements of the tile; where that leaves threads
// over, they form GROUPS groups that take every GROUPS-th piece of the inner axis, and their sums are added up in the end. Small
// tiles thus have many groups: they are for products with few elements, where loading, not computing, takes the time.
//
// The order of every sum follows from M, N, K and the tile alone: not from the number of blocks, nor from who comes first.
#include "functions.cuh"

// The threads of a block at a tile. Both operands are staged as [row of op(a) or column of op(b)][inner], which is read in
// pieces of 16 bytes along the inner axis; PITCH keeps the pieces that 8 threads read at once in different banks.
template <class F, int TM, int TN, int TK> struct Tile {
  static constexpr int PIECE = 16 / sizeof(F);
  static constexpr int PITCH = TK + PIECE;
  static constexpr int MEMBERS = TM * TN / 16;  // threads of a group
  static constexpr int GROUPS = THREADS / MEMBERS;
  static constexpr int ACROSS = TN / 4, DOWN = TM / 4;  // a thread's elements are so far apart
  static constexpr int SLOT = THREADS + 8;              // elements from one of a thread's sums to the next
  static constexpr int SLICES = THREADS > TM * TN ? THREADS / (TM * TN) : 1;
  // Neighbors are members of one group, or members of different groups where a group is smaller than what is read at once.
  static constexpr bool NEIGHBORS = MEMBERS >= 8;
  static_assert(TM % 4 == 0 && TN % 4 == 0 && MEMBERS * GROUPS == THREADS && TK % (PIECE * GROUPS) == 0, "no such tile");
  static_assert(SLICES <= WARP && GROUPS % SLICES == 0, "no such tile");

  static __device__ __forceinline__ int thread(int group, int member) {
    return NEIGHBORS ? group * MEMBERS + member : member * GROUPS + group;
  }
};

template <int MOST> __device__ __forceinline__ int at_most(i64 x) { return x < MOST ? (int)x : MOST; }

// One operand on its way to shared memory: TO rows (of op(a); of op(b), columns) by TK, in pieces of P neighbors in memory.
// Element (o, k) lies at o * pitch + k where ALONG_K, else at k * pitch + o.
template <class F, class T, int TO, int TK, int PITCH, bool ALONG_K> struct Staged {
  static constexpr int P = 16 / sizeof(F);
  static constexpr int COUNT = TO * TK / P / THREADS;
  static constexpr int SEGMENT = (TO < 8 ? TO : 8) / P;  // pieces side by side that neighboring threads load
  static_assert(COUNT * P * THREADS == TO * TK, "a tile must give every thread as much to load");
  static_assert(sizeof(T) <= sizeof(F), "a piece must be loaded at once");
  Pack<T, P> held[COUNT];

  static __device__ __forceinline__ void place(int i, int& o, int& k) {
    int piece = i * THREADS + threadIdx.x;
    if (ALONG_K) {
      o = piece / (TK / P), k = piece % (TK / P) * P;
    } else {
      o = (piece / (SEGMENT * TK) * SEGMENT + piece % SEGMENT) * P, k = piece / SEGMENT % TK;
    }
  }

  // Loads what lies at `from`, of which `outer` rows and `inner` columns are there. `packed`: pieces are aligned.
  __device__ __forceinline__ void load(const T* from, i64 pitch, int outer, int inner, bool packed) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int o, k;
      place(i, o, k);
      const T* at = ALONG_K ? from + o * pitch + k : from + k * pitch + o;
      int left = o >= outer || k >= inner ? 0 : ALONG_K ? inner - k : outer - o;
      if (packed && left >= P) {
        held[i] = *(const Pack<T, P>*)at;
      } else {
#pragma unroll
        for (int j = 0; j < P; j++) held[i].at[j] = j < left ? at[j] : T(0);
      }
    }
  }

  // Stores the first `inner` columns.
  __device__ __forceinline__ void store(F* shared, int inner) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int o, k;
      place(i, o, k);
      if (k >= inner) continue;
      if (ALONG_K) {
        Pack<F, P> piece;
#pragma unroll
        for (int j = 0; j < P; j++) piece.at[j] = F(held[i].at[j]);
        *(Pack<F, P>*)(shared + o * PITCH + k) = piece;
      } else {
#pragma unroll
        for (int j = 0; j < P; j++) shared[(o + j) * PITCH + k] = F(held[i].at[j]);
      }
    }
  }
};

// The sum over all groups of what their member `member` left in slot `slot`. Called by whole warps; SLICES neighboring threads
// ask for the same sum, share the work, and all get it.
template <class T, class F> __device__ __forceinline__ F sum_of_groups(const F* sums, int slot, int member) {
  F sum = 0;
#pragma unroll 8
  for (int group = threadIdx.x % T::SLICES; group < T::GROUPS; group += T::SLICES)
    sum += sums[slot * T::SLOT + T::thread(group, member)];
  for (int distance = T::SLICES / 2; distance; distance /= 2) sum += __shfl_xor_sync(ALL, sum, distance);
  return sum;
}

// Calls write(split, i, j, sum of op(a)[i, k] * op(b)[k, j] over the k of this split) once for each split, i < M and j < N;
// where SUMS, also write_sum(split, j, sum of op(b)[k, j] over these k). A split is `length` long, a multiple of TK.
// a is (M, K), or (K, M) if TA; b is (K, N), or (N, K) if TB.
template <class F, int TM, int TN, int TK, bool TA, bool TB, bool SUMS, class A, class B, class Write, class WriteSum>
__device__ __forceinline__ void tiles(const Grid& grid, const A* a, const B* b, i64 M, i64 N, i64 K, i64 splits, i64 length,
                                      const Write& write, const WriteSum& write_sum) {
  using T = Tile<F, TM, TN, TK>;
  constexpr int V = T::PIECE, SLOTS = SUMS ? 20 : 16;
  F* left_shared = (F*)grid.shared;
  F* right_shared = left_shared + TM * T::PITCH;
  F* sums = left_shared;

  int t = threadIdx.x;
  int group = T::NEIGHBORS ? t / T::MEMBERS : t % T::GROUPS, member = T::NEIGHBORS ? t % T::MEMBERS : t / T::GROUPS;
  int down = member / T::ACROSS, across = member % T::ACROSS;
  i64 pitch_a = TA ? M : K, pitch_b = TB ? K : N;
  using Left = Staged<F, A, TM, TK, T::PITCH, !TA>;
  using Right = Staged<F, B, TN, TK, T::PITCH, TB>;
  bool packed_a = is_aligned(a, sizeof(A) * Left::P) && pitch_a % Left::P == 0;
  bool packed_b = is_aligned(b, sizeof(B) * Right::P) && pitch_b % Right::P == 0;

  // A count of tiles fits into 32 bits, whose division is fast: results with more would be cut into larger ones.
  u32 tiles_across = (u32)((N + TN - 1) / TN), tiles_down = (u32)((M + TM - 1) / TM);
  if (SUMS && tiles_down == 0) tiles_down = 1;
  u32 tile_count = tiles_across * tiles_down;
  for (i64 work = grid.block; work < tile_count * splits; work += grid.blocks) {
    u32 split = (u32)work / tile_count, tile = (u32)work % tile_count;
    i64 row = (i64)(tile / tiles_across) * TM, column = (i64)(tile % tiles_across) * TN;
    i64 begin = split * length, end = begin + length < K ? begin + length : K;
    bool summing = SUMS && row == 0;

    int rows = at_most<TM>(M - row), columns = at_most<TN>(N - column);

    Left left;
    Right right;
    F total[4][4] = {}, column_total[4] = {};
    int staged = 0;  // columns of op(a) in shared memory: whole pieces, filled up with zeros
    for (i64 k0 = begin;; k0 += TK) {
      int inner = k0 < end ? at_most<TK>(end - k0) : 0;
      if (inner) {
        left.load(TA ? a + k0 * M + row : a + row * K + k0, pitch_a, rows, inner, packed_a);
        right.load(TB ? b + column * K + k0 : b + k0 * N + column, pitch_b, columns, inner, packed_b);
      }
#pragma unroll 1
      for (int k = group * V; k < staged; k += T::GROUPS * V) {
        Pack<F, V> x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = *(const Pack<F, V>*)(left_shared + (down + i * T::DOWN) * T::PITCH + k);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          Pack<F, V> y = *(const Pack<F, V>*)(right_shared + (across + j * T::ACROSS) * T::PITCH + k);
#pragma unroll
          for (int v = 0; v < V; v++) {
#pragma unroll
            for (int i = 0; i < 4; i++) total[i][j] += x[i].at[v] * y.at[v];
            if (summing) column_total[j] += y.at[v];
          }
        }
      }
      __syncthreads();  // nobody reads what was staged, or the sums of the last tile, any more
      if (!inner) break;
      staged = (inner + V - 1) / V * V;
      left.store(left_shared, staged);
      right.store(right_shared, staged);
      __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) sums[(4 * i + j) * T::SLOT + t] = total[i][j];
    }
    if (summing && down == 0) {
#pragma unroll
      for (int j = 0; j < 4; j++) sums[(SLOTS - 4 + j) * T::SLOT + t] = column_total[j];
    }
    __syncthreads();
#pragma unroll 1
    for (int e = t / T::SLICES; e < TM * TN; e += THREADS / T::SLICES) {
      int i = e / TN, j = e % TN;
      int slot = i / T::DOWN * 4 + j / T::ACROSS;
      F sum = sum_of_groups<T>(sums, slot, i % T::DOWN * T::ACROSS + j % T::ACROSS);
      if (t % T::SLICES == 0 && i < rows && j < columns) write(split, row + i, column + j, sum);
    }
    if (summing && t < TN * T::SLICES) {
      int j = t / T::SLICES;
      F sum = sum_of_groups<T>(sums, SLOTS - 4 + j / T::ACROSS, j % T::ACROSS);
      if (t % T::SLICES == 0 && j < columns) write_sum(split, column + j, sum);
    }
  }
}

struct Unwritten {
  template <class F> __device__ __forceinline__ void operator()(i64, i64, F) const {}
};

// c (M, N) = op(a) @ op(b).
template <class F, int TM, int TN, int TK, bool TA, bool TB, class A, class B, class C>
__device__ void matmul(Grid grid, const A* a, const B* b, C* c, i64 M, i64 N, i64 K) {
  auto write = [&](i64, i64 i, i64 j, F sum) { c[i * N + j] = C(sum); };
  tiles<F, TM, TN, TK, TA, TB, false>(grid, a, b, M, N, K, 1, K, write, Unwritten());
}

// y (M, N) = activation(x (M, K) @ w (K, N) + b (N,)).
template <class F, int TM, int TN, int TK, class Activation, class X, class W, class V, class Y>
__device__ void dense(Grid grid, const X* x, const W* w, const V* b, Y* y, i64 M, i64 N, i64 K, F alpha) {
  auto write = [&](i64, i64 i, i64 j, F sum) { y[i * N + j] = Y(Activation::forward(sum + F(b[j]), alpha)); };
  tiles<F, TM, TN, TK, false, false, false>(grid, x, w, M, N, K, 1, K, write, Unwritten());
}

// dx (M, N) = (dz (M, K) @ w (N, K).T) * activation'(at its output y (M, N)).
template <class F, int TM, int TN, int TK, class Activation, class Z, class W, class Y, class X>
__device__ void dense_backward_input(Grid grid, const Z* dz, const W* w, const Y* y, X* dx, i64 M, i64 N, i64 K, F alpha) {
  auto write = [&](i64, i64 i, i64 j, F sum) {
    i64 at = i * N + j;
    dx[at] = X(Activation::backward(sum, F(y[at]), alpha));
  };
  tiles<F, TM, TN, TK, false, true, false>(grid, dz, w, M, N, K, 1, K, write, Unwritten());
}

// dw (M, N) = x (K, M).T @ dz (K, N), db (N,) = sum of dz over its rows; the blocks of the first rows of dw make db.
template <class F, int TM, int TN, int TK, class X, class Z, class W, class V>
__device__ void dense_backward_weight(Grid grid, const X* x, const Z* dz, W* dw, V* db, i64 M, i64 N, i64 K) {
  auto write = [&](i64, i64 i, i64 j, F sum) { dw[i * N + j] = W(sum); };
  auto write_sum = [&](i64, i64 j, F sum) { db[j] = V(sum); };
  tiles<F, TM, TN, TK, true, false, true>(grid, x, dz, M, N, K, 1, K, write, write_sum);
}

// parts (splits, M, N): op(a) @ op(b) over each split of the inner axis.
template <class F, int TM, int TN, int TK, bool TA, bool TB, class A, class B>
__device__ void product_parts(Grid grid, const A* a, const B* b, F* parts, i64 M, i64 N, i64 K, i64 splits, i64 length) {
  auto write = [&](i64 split, i64 i, i64 j, F sum) { parts[(split * M + i) * N + j] = sum; };
  tiles<F, TM, TN, TK, TA, TB, false>(grid, a, b, M, N, K, splits, length, write, Unwritten());
}

// The same of a.T @ b, and sums (splits, N): those of b over its rows in each split.
template <class F, int TM, int TN, int TK, class A, class B>
__device__ void product_and_sum_parts(Grid grid, const A* a, const B* b, F* parts, F* sums, i64 M, i64 N, i64 K, i64 splits,
                                      i64 length) {
  auto write = [&](i64 split, i64 i, i64 j, F sum) { parts[(split * M + i) * N + j] = sum; };
  auto write_sum = [&](i64 split, i64 j, F sum) { sums[split * N + j] = sum; };
  tiles<F, TM, TN, TK, true, false, true>(grid, a, b, M, N, K, splits, length, write, write_sum);
}

// Calls write(e, sum of parts[s, e] over the splits s, in their order) for each of `size` elements.
template <class F, class P, class Write>
__device__ __forceinline__ void add_parts(const Grid& grid, const P* parts, i64 splits, i64 size, const Write& write) {
  for (i64 e = first_of(grid); e < size; e += stride_of(grid)) {
    F sum = F(parts[e]);
#pragma unroll 8
    for (i64 split = 1; split < splits; split++) sum += F(parts[split * size + e]);
    write(e, sum);
  }
}

// c = sum of parts (splits, size).
template <class F, class P, class C> __device__ void add_product(Grid grid, const P* parts, C* c, i64 splits, i64 size) {
  add_parts<F>(grid, parts, splits, size, [&](i64 e, F sum) { c[e] = C(sum); });
}

// y (M, N) = activation(sum of parts (splits, M, N) + b (N,)). parts may be y itself.
template <class F, class Activation, class P, class V, class Y>
__device__ void add_dense(Grid grid, const P* parts, const V* b, Y* y, i64 splits, i64 M, i64 N, F alpha) {
  add_parts<F>(grid, parts, splits, M * N, [&](i64 e, F sum) { y[e] = Y(Activation::forward(sum + F(b[e % N]), alpha)); });
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
