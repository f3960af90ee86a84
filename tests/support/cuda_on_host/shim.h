// CUDA C++ on the host: what the sources of fastnn_kernels/cuda use of the language, for g++. One fiber is one thread; the
// scheduler (scheduler.cpp) is linked in when the library is loaded. No header of the C++ library is included, so that a
// kernel compiles in a fraction of a second.
//
// Covered: thread and block numbers in x, dynamic shared memory, __syncthreads, __syncwarp, shuffles, votes, integer atomics.
// Not covered: tensor cores, flushing of denormals, races that need two threads at the very same moment, real memory order.
#pragma once

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __host__
#define DYNAMIC_SHARED(name) char* name = host_shared

struct HostIndex {
  unsigned x;
};

extern "C" {
extern HostIndex threadIdx, blockIdx, blockDim, gridDim;
extern char* host_shared;
void host_block_barrier(int line);
void host_warp_barrier(unsigned mask, int line);
unsigned host_show(const void* mine, unsigned bytes, unsigned mask, int line);  // to the lanes of the mask; those that came
const void* host_shown(unsigned lane);                                          // what one of them showed
[[noreturn]] void host_trap();
}

// A place where threads wait for each other is known by its line.
#define HOST_LINE int line = __builtin_LINE()
inline void __syncthreads(HOST_LINE) { host_block_barrier(line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, HOST_LINE) { host_warp_barrier(mask, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap() { host_trap(); }

template <class T> inline T host_shuffle(unsigned mask, T value, unsigned source, int line) {
  host_show(&value, sizeof value, mask, line);
  __builtin_memcpy(&value, host_shown(source), sizeof value);
  return value;
}
template <class T> inline T __shfl_sync(unsigned mask, T v, int source, HOST_LINE) {
  return host_shuffle(mask, v, source & 31u, line);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int lanes, HOST_LINE) {
  return host_shuffle(mask, v, (threadIdx.x ^ lanes) & 31u, line);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned distance, HOST_LINE) {
  unsigned lane = threadIdx.x & 31u;
  return host_shuffle(mask, v, lane + distance < 32 ? lane + distance : lane, line);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned distance, HOST_LINE) {
  unsigned lane = threadIdx.x & 31u;
  return host_shuffle(mask, v, lane >= distance ? lane - distance : lane, line);
}
struct HostVotes {
  unsigned present, yes;
};
inline HostVotes host_votes(unsigned mask, int predicate, int line) {
  HostVotes votes = {host_show(&predicate, sizeof predicate, mask, line), 0};
  for (unsigned lane = 0; lane < 32; lane++) {
    if (!(votes.present >> lane & 1u)) continue;
    int vote;
    __builtin_memcpy(&vote, host_shown(lane), sizeof vote);
    votes.yes |= (vote ? 1u : 0u) << lane;
  }
  return votes;
}
inline unsigned __ballot_sync(unsigned mask, int predicate, HOST_LINE) { return host_votes(mask, predicate, line).yes; }
inline int __any_sync(unsigned mask, int predicate, HOST_LINE) { return host_votes(mask, predicate, line).yes != 0; }
inline int __all_sync(unsigned mask, int predicate, HOST_LINE) {
  HostVotes votes = host_votes(mask, predicate, line);
  return votes.yes == votes.present;
}
#undef HOST_LINE

template <class T> inline T atomicAdd(T* p, T v) { T old = *p; *p = old + v; return old; }
template <class T> inline T atomicExch(T* p, T v) { T old = *p; *p = v; return old; }
inline unsigned atomicInc(unsigned* p, unsigned limit) { unsigned old = *p; *p = old >= limit ? 0 : old + 1; return old; }

template <class To, class From> inline To host_bits(From x) {
  To y;
  static_assert(sizeof x == sizeof y);
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}
inline unsigned __float_as_uint(float x) { return host_bits<unsigned>(x); }
inline int __float_as_int(float x) { return host_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return host_bits<float>(x); }
inline float __int_as_float(int x) { return host_bits<float>(x); }
inline double __longlong_as_double(long long x) { return host_bits<double>(x); }
inline long long __double_as_longlong(double x) { return host_bits<long long>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, T v) { *p = v; }

#define HOST_UNARY(name) \
  inline float name(float x) { return __builtin_##name##f(x); } \
  inline double name(double x) { return __builtin_##name(x); }
HOST_UNARY(exp) HOST_UNARY(exp2) HOST_UNARY(expm1) HOST_UNARY(log) HOST_UNARY(log1p) HOST_UNARY(sqrt) HOST_UNARY(tanh)
HOST_UNARY(erf) HOST_UNARY(erfc) HOST_UNARY(fabs) HOST_UNARY(floor) HOST_UNARY(ceil) HOST_UNARY(rint) HOST_UNARY(trunc)
#undef HOST_UNARY
#define HOST_BINARY(name) \
  inline float name(float x, float y) { return __builtin_##name##f(x, y); } \
  inline double name(double x, double y) { return __builtin_##name(x, y); }
HOST_BINARY(pow) HOST_BINARY(fmod) HOST_BINARY(fmax) HOST_BINARY(fmin) HOST_BINARY(copysign)
#undef HOST_BINARY
inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline float rsqrt(float x) { return 1 / sqrt(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
inline bool signbit(float x) { return __builtin_signbit(x); }
inline bool signbit(double x) { return __builtin_signbit(x); }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
