// Philox 4x32-10 (Salmon et al., SC 2011): the random bits of every kernel set; fastnn/random.py says what is drawn from them.
#pragma once
#include "common.cuh"

struct Words {
  u32 at[4];
};

// Four words for a counter of four words under a key of two.
__device__ __forceinline__ Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    u64 p0 = (u64)c0 * 0xD2511F53u, p1 = (u64)c2 * 0xCD9E8D57u;
    c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
    c1 = (u32)p1;
    c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
    c3 = (u32)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// What dropout does in one step of a layer: the elements of which the upper 24 bits of the word of (key, step) are at least
// `least` are multiplied by `scale`, the others become 0.
template <class F> struct Dropout {
  u64 step;
  u32 least;
  F scale;
  u32 k0, k1;

  __device__ __forceinline__ Dropout(i64 step, i64 least, F scale, i64 k0, i64 k1)
      : step(step), least(least), scale(scale), k0(k0), k1(k1) {}

  __device__ __forceinline__ F of(F x, u32 word) const { return word >> 8 >= least ? x * scale : F(0); }

  // The words of N elements, 2 or a multiple of 4, from `first` on, a multiple of N. Four elements share a Philox counter.
  template <int N> __device__ __forceinline__ void draw(u32 (&words)[N], i64 first) const {
    static_assert(N == 2 || N % 4 == 0, "packs lie within counters, or counters within packs");
#pragma unroll
    for (int k = 0; k < N; k += 4) {
      const u64 n = u64(first + k) / 4;
      const Words four = philox((u32)n, (u32)(n >> 32), (u32)step, (u32)(step >> 32), k0, k1);
      if constexpr (N == 2) {
        words[0] = first % 4 ? four.at[2] : four.at[0];
        words[1] = first % 4 ? four.at[3] : four.at[1];
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++) words[k + j] = four.at[j];
      }
    }
  }
};
