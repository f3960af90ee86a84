// What every family uses: types, where a body runs, vectors of elements, and sums within a warp and a block.
// No header is included: each would cost more time than all of a family's kernels take to compile.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

constexpr int THREADS = 256;
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;
constexpr u32 ALL = 0xffffffffu;

// Where a body runs: its block, of how many, and its shared memory (aligned to 16 bytes, holding nothing yet).
struct Grid {
  i64 block, blocks;
  char* shared;
};

__device__ __forceinline__ int lane_of_warp() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_of_block() { return threadIdx.x / WARP; }

// The first element of this thread, and how far it is to its next one, in a loop over all threads of the grid.
__device__ __forceinline__ i64 first_of(const Grid& grid) { return grid.block * THREADS + threadIdx.x; }
__device__ __forceinline__ i64 stride_of(const Grid& grid) { return grid.blocks * THREADS; }

// bfloat16, stored as the upper half of a float32; it is computed with as float. Rounds to nearest, ties to even.
struct bf16 {
  u16 bits;
  bf16() = default;
  __device__ __forceinline__ bf16(float x) {
    u32 word = __float_as_uint(x);
    u32 rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    bits = (u16)((word & 0x7fffffffu) > 0x7f800000u ? (word >> 16) | 0x40u : rounded);
  }
  __device__ __forceinline__ operator float() const { return __uint_as_float((u32)bits << 16); }
};

template <class F> __device__ __forceinline__ F infinity();
template <> __device__ __forceinline__ float infinity<float>() { return __int_as_float(0x7f800000); }
template <> __device__ __forceinline__ double infinity<double>() { return __longlong_as_double(0x7ff0000000000000ll); }
template <class F> __device__ __forceinline__ F not_a_number() { return infinity<F>() - infinity<F>(); }

template <class F> __device__ __forceinline__ bool is_nan(F x) { return x != x; }
// The larger or the smaller of two, NaN where either is.
template <class F> __device__ __forceinline__ F larger(F a, F b) { return a > b || is_nan(a) ? a : b; }
template <class F> __device__ __forceinline__ F smaller(F a, F b) { return a < b || is_nan(a) ? a : b; }

// N elements that are loaded and stored at once where they are aligned to their size.
template <class T, int N> struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <class T> constexpr int PACKED = 16 / sizeof(T);  // elements of 16 bytes
template <class T> __device__ __forceinline__ bool is_aligned(const T* p, i64 bytes = 16) { return (u64)p % bytes == 0; }

// N elements from p on, of which `left` are there: zeros for the others. `aligned`: whether p is, to the size of a Pack<T, N>.
template <int N, class T> __device__ __forceinline__ Pack<T, N> load_pack(const T* p, i64 left, bool aligned) {
  if (aligned && left >= N) return *(const Pack<T, N>*)p;
  Pack<T, N> pack;
  for (int j = 0; j < N; j++) pack.at[j] = j < left ? p[j] : T(0);
  return pack;
}
// The converse: those that are there are written.
template <int N, class T> __device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack, i64 left, bool aligned) {
  if (aligned && left >= N) {
    *(Pack<T, N>*)p = pack;
    return;
  }
  for (int j = 0; j < N; j++)
    if (j < left) p[j] = pack.at[j];
}

// The sum over the lanes of a warp, in a fixed order; every lane gets the result. All 32 lanes must take part.
template <class F> __device__ __forceinline__ F warp_sum(F x) {
  for (int distance = WARP / 2; distance; distance /= 2) x += __shfl_xor_sync(ALL, x, distance);
  return x;
}

// The same over all threads of a block. `scratch`: shared memory for WARPS elements; it may be used again after the call.
template <class F> __device__ __forceinline__ F block_sum(F x, F* scratch) {
  x = warp_sum(x);
  if (lane_of_warp() == 0) scratch[warp_of_block()] = x;
  __syncthreads();
  F total = scratch[0];
  for (int w = 1; w < WARPS; w++) total += scratch[w];
  __syncthreads();
  return total;
}
