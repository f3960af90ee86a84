// Matrix products in tiles, for every family whose operands can be staged in pieces.
//
// Everything rests on one device function, `tiles`: the M x N elements of op(a) @ op(b) are cut into tiles of TM x TN, which the
// blocks take in turn. A block stages TK columns of its rows of op(a) and TK rows of its columns of op(b) in shared memory while
// the next ones are already being loaded into registers. A thread holds 4 x 4 elements of the tile; where that leaves threads
// over, they form GROUPS groups that take every GROUPS-th piece of the inner axis, and their sums are added up in the end. Small
// tiles thus have many groups: they are for products with few elements, where loading, not computing, takes the time.
//
// The order of every sum follows from M, N, K and the tile alone: not from the number of blocks, nor from who comes first.
#pragma once
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
  __device__ __forceinline__ void load_at(const T* from, i64 pitch, int outer, int inner, bool packed) {
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

// A matrix as an operand: (rows, K) where ALONG_K, else (K, rows); of op(b), "rows" are columns. An operand has a class Operand,
// what a thread holds of it, which is told once a tile where to start and loads it from there on, depth by depth.
template <class F, class T, bool ALONG_K> struct Matrix {
  static constexpr int P = 16 / sizeof(F);
  const T* at;
  i64 pitch;
  bool packed;  // pieces are aligned

  __device__ __forceinline__ Matrix(const T* at, i64 pitch)
      : at(at), pitch(pitch), packed(is_aligned(at, sizeof(T) * P) && pitch % P == 0) {}

  template <int TO, int TK, int PITCH> struct Operand : Staged<F, T, TO, TK, PITCH, ALONG_K> {
    __device__ __forceinline__ void start(const Matrix&, u32, i64, int, i64) {}
    __device__ __forceinline__ void load(const Matrix& of, u32, i64 first, int outer, i64 k, int inner) {
      this->load_at(ALONG_K ? of.at + first * of.pitch + k : of.at + k * of.pitch + first, of.pitch, outer, inner, of.packed);
    }
  };
};

// The inner axis of length K in `count` splits, each `length` long, a multiple of TK.
struct Splits {
  i64 count, length, K;
  __device__ __forceinline__ i64 begin(u32 split) const { return split * length; }
  __device__ __forceinline__ i64 end(u32 split) const { return split * length + length < K ? split * length + length : K; }
};

// Calls write(part, i, j, sum of op(a)[i, k] * op(b)[k, j] over the k of this part) once for each of `parts`, i < M and j < N;
// where SUMS, also write_sum(part, j, sum of op(b)[k, j] over these k). Which k those are `parts` says; operands may be others
// in every part.
template <class F, int TM, int TN, int TK, bool SUMS, class A, class B, class Parts, class Write, class WriteSum>
__device__ __forceinline__ void tiles(const Grid& grid, const A& a, const B& b, i64 M, i64 N, const Parts& parts,
                                      const Write& write, const WriteSum& write_sum) {
  using T = Tile<F, TM, TN, TK>;
  constexpr int V = T::PIECE, SLOTS = SUMS ? 20 : 16;
  F* left_shared = (F*)grid.shared;
  F* right_shared = left_shared + TM * T::PITCH;
  F* sums = left_shared;

  int t = threadIdx.x;
  int group = T::NEIGHBORS ? t / T::MEMBERS : t % T::GROUPS, member = T::NEIGHBORS ? t % T::MEMBERS : t / T::GROUPS;
  int down = member / T::ACROSS, across = member % T::ACROSS;

  // A count of tiles fits into 32 bits, whose division is fast: results with more would be cut into larger ones.
  u32 tiles_across = (u32)((N + TN - 1) / TN), tiles_down = (u32)((M + TM - 1) / TM);
  if (SUMS && tiles_down == 0) tiles_down = 1;
  u32 tile_count = tiles_across * tiles_down;
  for (i64 work = grid.block; work < tile_count * parts.count; work += grid.blocks) {
    u32 part = (u32)work / tile_count, tile = (u32)work % tile_count;
    i64 row = (i64)(tile / tiles_across) * TM, column = (i64)(tile % tiles_across) * TN;
    i64 begin = parts.begin(part), end = parts.end(part);
    bool summing = SUMS && row == 0;

    int rows = at_most<TM>(M - row), columns = at_most<TN>(N - column);

    typename A::template Operand<TM, TK, T::PITCH> left;
    typename B::template Operand<TN, TK, T::PITCH> right;
    left.start(a, part, row, rows, begin);
    right.start(b, part, column, columns, begin);
    F total[4][4] = {}, column_total[4] = {};
    int staged = 0;  // columns of op(a) in shared memory: whole pieces, filled up with zeros
    for (i64 k0 = begin;; k0 += TK) {
      int inner = k0 < end ? at_most<TK>(end - k0) : 0;
      if (inner) {
        left.load(a, part, row, rows, k0, inner);
        right.load(b, part, column, columns, k0, inner);
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
      if (t % T::SLICES == 0 && i < rows && j < columns) write(part, row + i, column + j, sum);
    }
    if (summing && t < TN * T::SLICES) {
      int j = t / T::SLICES;
      F sum = sum_of_groups<T>(sums, SLOTS - 4 + j / T::ACROSS, j % T::ACROSS);
      if (t % T::SLICES == 0 && j < columns) write_sum(part, column + j, sum);
    }
  }
}

struct Unwritten {
  template <class F> __device__ __forceinline__ void operator()(i64, i64, F) const {}
};

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

// y (M, N) = activation(sum of parts (splits, M, N) + b (N,)). parts may be y itself.
template <class F, class Activation, class P, class V, class Y>
__device__ void add_dense(Grid grid, const P* parts, const V* b, Y* y, i64 splits, i64 M, i64 N, F alpha) {
  add_parts<F>(grid, parts, splits, M * N, [&](i64 e, F sum) { y[e] = Y(Activation::forward(sum + F(b[e % N]), alpha)); });
}
