// Batch normalisation of x (rows, columns) over the rows, with an activation behind it.
//
// A block takes a tile of WIDTH columns. Lanes lie over columns, so that neighbours read neighbours, and the threads of a column
// share its rows. What a thread has read it keeps in shared memory where there is room, for the passes that follow. Sums are
// taken over eight rows in F, and from there on in double: neither many rows nor a large mean cost precision.
#include "functions.cuh"

constexpr int NORM_ROWS = 8;  // rows whose loads a thread has under way, and whose sums are taken in F

// The rows of a tile that belong to this thread: `count` of them, the first one at `start`, `step` elements from one to the next.
// `there`: whether its column is one of the array; `first`: whether it also writes what belongs to the column.
template <int WIDTH> struct NormStrip {
  i64 column, start, step, count;
  bool there, first;
  __device__ __forceinline__ NormStrip(i64 tile, i64 low, i64 high, i64 columns) {
    constexpr int BESIDE = THREADS / WIDTH;
    int row = threadIdx.x / WIDTH;
    column = tile * WIDTH + threadIdx.x % WIDTH;
    start = (low + row) * columns + column;
    step = BESIDE * columns;
    there = column < columns;
    count = there && low + row < high ? (high - low - row + BESIDE - 1) / BESIDE : 0;
    first = there && row == 0;
  }
};

// Two sums, taken together.
template <class F> struct NormSums {
  F a, b;
};

// Sums of visit(i) for i < count, by one thread.
template <class F, class Visit> __device__ __forceinline__ NormSums<double> sums_of_strip(i64 count, Visit visit) {
  NormSums<double> total = {0, 0};
  for (i64 i = 0; i < count; i += NORM_ROWS) {
    NormSums<F> some = {0, 0};
#pragma unroll
    for (int k = 0; k < NORM_ROWS; k++) {
      NormSums<F> one = i + k < count ? visit(i + k) : NormSums<F>{0, 0};
      some.a += one.a;
      some.b += one.b;
    }
    total.a += some.a;
    total.b += some.b;
  }
  return total;
}

// put(i, get(i)) for i < count, by one thread: the values of NORM_ROWS rows are there before the first of them is put.
template <class Get, class Put> __device__ __forceinline__ void each_of_strip(i64 count, Get get, Put put) {
  for (i64 i = 0; i < count; i += NORM_ROWS) {
    decltype(get(i)) some[NORM_ROWS];
#pragma unroll
    for (int k = 0; k < NORM_ROWS; k++)
      if (i + k < count) some[k] = get(i + k);
#pragma unroll
    for (int k = 0; k < NORM_ROWS; k++)
      if (i + k < count) put(i + k, some[k]);
  }
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

// What read(i) gives for the i-th row of a thread; the first `kept` are put into shared memory when they are first read.
template <class F, class Read> struct NormKept {
  F* memory;
  i64 kept;
  Read read;
  __device__ __forceinline__ F first(i64 i) const {
    F value = read(i);
    if (i < kept) memory[i * THREADS + threadIdx.x] = value;
    return value;
  }
  __device__ __forceinline__ F again(i64 i) const { return i < kept ? memory[i * THREADS + threadIdx.x] : read(i); }
};
template <class F, class Read> __device__ __forceinline__ NormKept<F, Read> norm_kept(char* memory, i64 kept, Read read) {
  return {(F*)memory, kept, read};
}

// Mean of some values and the sum of the squares of their deviations from it.
struct NormMoments {
  double mean, squares;
};

// What a row counts in a mean over so many of them; with it, nothing is divided while others wait.
__device__ __forceinline__ double norm_share(i64 rows) { return 1.0 / (rows > 0 ? rows : 1); }

// The moments from the sums of the deviations from `middle` and of their squares: what deviations from a rounded mean sum to
// corrects it. each: norm_share of the rows.
__device__ __forceinline__ NormMoments corrected(double middle, NormSums<double> sums, double each) {
  double left_over = sums.a * each;
  return {middle + left_over, larger(sums.b - sums.a * left_over, 0.0)};
}

// The moments of a column of which this thread has `count` rows.
template <class F, int WIDTH, class Kept>
__device__ __forceinline__ NormMoments moments_of_column(i64 count, double each, const Kept& x, char* scratch) {
  auto sums = sums_of_column<WIDTH>(sums_of_strip<F>(count, [&](i64 i) { return NormSums<F>{x.first(i), 0}; }), scratch);
  F middle = F(sums.a * each);
  sums = sums_of_column<WIDTH>(sums_of_strip<F>(count, [&](i64 i) {
    F deviation = x.again(i) - middle;
    return NormSums<F>{deviation, deviation * deviation};
  }), scratch);
  return corrected(middle, sums, each);
}

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
__device__ __forceinline__ NormSums<double> sums_of_norm_parts(i64 rows, i64 length, bool there, char* scratch, Get get) {
  i64 parts = (rows + length - 1) / length;
  NormSums<double> sums = {0, 0};
  for (i64 part = threadIdx.x / WIDTH; there && part < parts; part += THREADS / WIDTH) {
    NormSums<double> one = get(part);
    sums.a += one.a;
    sums.b += one.b;
  }
  return sums_of_column<WIDTH>(sums, scratch);
}

// Arrays and numbers that belong to the columns, in the forward pass. P: the type in which they are stored.
template <class F, class P> struct NormColumns {
  const P *gamma, *beta;
  P *running_mean, *running_variance, *mean, *inverse_deviation;
  F momentum, rest, epsilon;

  // 1 / sqrt(variance + epsilon); where `write`, it and the mean are stored and the running statistics moved.
  __device__ __forceinline__ F finish(NormMoments moments, i64 rows, double each, i64 column, bool write) const {
    F inverse = 1 / sqrt(F(moments.squares * each) + epsilon);
    if (write) {
      mean[column] = P(F(moments.mean));
      inverse_deviation[column] = P(inverse);
      if (rows > 0) {
        F unbiased = F(moments.squares * norm_share(rows - 1));
        running_mean[column] = P(momentum * F(running_mean[column]) + rest * F(moments.mean));
        running_variance[column] = P(momentum * F(running_variance[column]) + rest * unbiased);
      }
    }
    return inverse;
  }
};

// y = activation(scale * (x - mean) + beta) for the rows of a thread, get(i) being the i-th of x.
template <class F, class Activation, int WIDTH, class Y, class Get>
__device__ __forceinline__ void write_normalised(
    const NormStrip<WIDTH>& strip, Y* y, F mean, F scale, F beta, F alpha, Get get) {
  each_of_strip(strip.count, get, [&](i64 i, F x) {
    y[strip.start + i * strip.step] = Y(Activation::forward(scale * (x - mean) + beta, alpha));
  });
}

// y = activation(gamma * (x - mean) * inverse_deviation + beta), inverse_deviation = 1 / sqrt(biased variance + epsilon);
// running = momentum * running + rest * batch. Each thread keeps `kept` rows in shared memory, behind NORM_SHARED bytes.
template <class F, class Activation, int WIDTH, class X, class P, class Y>
__device__ void batch_norm(
    Grid grid, const X* x, const P* gamma, const P* beta, P* running_mean, P* running_variance, Y* y, P* mean,
    P* inverse_deviation, i64 rows, i64 columns, i64 kept, F momentum, F rest, F epsilon, F alpha) {
  NormColumns<F, P> of = {gamma, beta, running_mean, running_variance, mean, inverse_deviation, momentum, rest, epsilon};
  double each = norm_share(rows);
  for (i64 tile = grid.block; tile * WIDTH < columns; tile += grid.blocks) {
    NormStrip<WIDTH> strip(tile, 0, rows, columns);
    F gain = strip.there ? F(gamma[strip.column]) : F(0), shift = strip.there ? F(beta[strip.column]) : F(0);
    auto values = norm_kept<F>(grid.shared + NORM_SHARED, kept, [&](i64 i) { return F(x[strip.start + i * strip.step]); });
    NormMoments moments = moments_of_column<F, WIDTH>(strip.count, each, values, grid.shared);
    F inverse = of.finish(moments, rows, each, strip.column, strip.first);
    write_normalised<F, Activation>(
        strip, y, F(moments.mean), gain * inverse, shift, alpha, [&](i64 i) { return values.again(i); });
  }
}

// The same in two stages. First the moments of each part of `length` rows, put together from those of chunks of which each
// thread keeps `kept` rows (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
// variances").
template <class F, int WIDTH, class X>
__device__ void batch_norm_moments(
    Grid grid, const X* x, double* means, double* squares, i64 rows, i64 columns, i64 length, i64 kept) {
  i64 chunk = kept * (THREADS / WIDTH);
  each_norm_part<WIDTH>(grid, rows, columns, length, [&](i64 tile, i64 part, i64 start, i64 end) {
    NormMoments moments = {0, 0};
    for (i64 low = start; low < end; low += chunk) {
      i64 high = low + chunk < end ? low + chunk : end;
      double each = norm_share(high - low), share = (high - low) * norm_share(high - start);
      NormStrip<WIDTH> strip(tile, low, high, columns);
      auto values = norm_kept<F>(grid.shared + NORM_SHARED, kept, [&](i64 i) { return F(x[strip.start + i * strip.step]); });
      NormMoments more = moments_of_column<F, WIDTH>(strip.count, each, values, grid.shared);
      double apart = more.mean - moments.mean;
      moments.mean += apart * share;
      moments.squares += more.squares + apart * apart * (share * (low - start));
    }
    NormStrip<WIDTH> strip(tile, start, end, columns);
    if (strip.first) {
      means[part * columns + strip.column] = moments.mean;
      squares[part * columns + strip.column] = moments.squares;
    }
  });
}

// Then y of each part of `share` rows, by blocks that put the moments of the parts together themselves.
template <class F, class Activation, int WIDTH, class X, class P, class Y>
__device__ void batch_norm_apply(
    Grid grid, const X* x, const P* gamma, const P* beta, P* running_mean, P* running_variance, Y* y, P* mean,
    P* inverse_deviation, const double* means, const double* squares, i64 rows, i64 columns, i64 length, i64 share,
    F momentum, F rest, F epsilon, F alpha) {
  NormColumns<F, P> of = {gamma, beta, running_mean, running_variance, mean, inverse_deviation, momentum, rest, epsilon};
  auto rows_of = [&](i64 part) { return double((part + 1) * length < rows ? length : rows - part * length); };
  double each = norm_share(rows);
  each_norm_part<WIDTH>(grid, rows, columns, share, [&](i64 tile, i64, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    F gain = strip.there ? F(gamma[strip.column]) : F(0), shift = strip.there ? F(beta[strip.column]) : F(0);
    double middle = sums_of_norm_parts<WIDTH>(rows, length, strip.there, grid.shared, [&](i64 part) {
      return NormSums<double>{rows_of(part) * means[part * columns + strip.column], 0};
    }).a * each;
    auto sums = sums_of_norm_parts<WIDTH>(rows, length, strip.there, grid.shared, [&](i64 part) {
      double apart = means[part * columns + strip.column] - middle;
      return NormSums<double>{rows_of(part) * apart, squares[part * columns + strip.column] + rows_of(part) * (apart * apart)};
    });
    NormMoments moments = corrected(middle, sums, each);
    F inverse = of.finish(moments, rows, each, strip.column, strip.first && low == 0);
    write_normalised<F, Activation>(
        strip, y, F(moments.mean), gain * inverse, shift, alpha, [&](i64 i) { return F(x[strip.start + i * strip.step]); });
  });
}

// y = activation(gamma * (x - running_mean) / sqrt(running_variance + epsilon) + beta), by parts of `share` rows.
template <class F, class Activation, int WIDTH, class X, class P, class Y>
__device__ void batch_norm_inference(
    Grid grid, const X* x, const P* gamma, const P* beta, const P* running_mean, const P* running_variance, Y* y, i64 rows,
    i64 columns, i64 share, F epsilon, F alpha) {
  each_norm_part<WIDTH>(grid, rows, columns, share, [&](i64 tile, i64, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    if (strip.there)
      write_normalised<F, Activation>(
          strip, y, F(running_mean[strip.column]),
          F(gamma[strip.column]) / sqrt(F(running_variance[strip.column]) + epsilon), F(beta[strip.column]), alpha,
          [&](i64 i) { return F(x[strip.start + i * strip.step]); });
  });
}

// dy times the derivative of the activation at its output or input `at`, of the element `index`.
template <class F, class Activation, class D, class A> struct NormSlope {
  const D* dy;
  const A* at;
  F alpha;
  __device__ __forceinline__ F operator[](i64 index) const {
    return Activation::backward(F(dy[index]), F(at[index]), alpha);
  }
};

// Stores dbeta and dgamma where `write`, and dx = scale * (dy - mean of dy - (x - mean) * mean of dy (x - mean) * inverse^2) for
// the rows of a thread, scale = gamma * inverse. `sums`: of dy and of dy * (x - mean) over the column; get(i): both for row i.
template <class F, int WIDTH, class P, class E, class Get>
__device__ __forceinline__ void write_norm_gradient(
    const NormStrip<WIDTH>& strip, NormSums<double> sums, F gamma, F inverse, P* dgamma, P* dbeta, E* dx, double each, bool write,
    Get get) {
  double product = sums.b * inverse;
  if (write) {
    dbeta[strip.column] = P(F(sums.a));
    dgamma[strip.column] = P(F(product));
  }
  F scale = gamma * inverse, level = F(sums.a * each), tilt = F(product * inverse * each);
  each_of_strip(strip.count, get, [&](i64 i, NormSums<F> at) {
    dx[strip.start + i * strip.step] = E(scale * (at.a - level - at.b * tilt));
  });
}

// dgamma = sum dy h, dbeta = sum dy, dx = gamma inverse_deviation / rows (rows dy - dbeta - h dgamma), h the normalised input;
// behind an activation, dy times its derivative at `at` stands for dy. Each thread keeps `kept` rows of dy and of x in shared
// memory.
template <class F, class Activation, int WIDTH, class D, class X, class P, class A, class E>
__device__ void batch_norm_backward(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* mean, const P* inverse_deviation, const A* at, E* dx,
    P* dgamma, P* dbeta, i64 rows, i64 columns, i64 kept, F alpha) {
  NormSlope<F, Activation, D, A> slope = {dy, at, alpha};
  double each = norm_share(rows);
  char* memory = grid.shared + NORM_SHARED;
  for (i64 tile = grid.block; tile * WIDTH < columns; tile += grid.blocks) {
    NormStrip<WIDTH> strip(tile, 0, rows, columns);
    F gain = strip.there ? F(gamma[strip.column]) : F(0), middle = strip.there ? F(mean[strip.column]) : F(0);
    F inverse = strip.there ? F(inverse_deviation[strip.column]) : F(0);
    auto slopes = norm_kept<F>(memory, kept, [&](i64 i) { return slope[strip.start + i * strip.step]; });
    auto deviations = norm_kept<F>(memory + kept * THREADS * sizeof(F), kept, [&](i64 i) {
      return F(x[strip.start + i * strip.step]) - middle;
    });
    auto sums = sums_of_column<WIDTH>(sums_of_strip<F>(strip.count, [&](i64 i) {
      F dy = slopes.first(i);
      return NormSums<F>{dy, dy * deviations.first(i)};
    }), grid.shared);
    write_norm_gradient<F>(strip, sums, gain, inverse, dgamma, dbeta, dx, each, strip.first, [&](i64 i) {
      return NormSums<F>{slopes.again(i), deviations.again(i)};
    });
  }
}

// The same in two stages. First the sums of dy and of dy * (x - mean) over each part of `length` rows.
template <class F, class Activation, int WIDTH, class D, class X, class P, class A>
__device__ void batch_norm_backward_sums(
    Grid grid, const D* dy, const X* x, const P* mean, const A* at, double* sums, double* products, i64 rows, i64 columns,
    i64 length, F alpha) {
  NormSlope<F, Activation, D, A> slope = {dy, at, alpha};
  each_norm_part<WIDTH>(grid, rows, columns, length, [&](i64 tile, i64 part, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    F middle = strip.there ? F(mean[strip.column]) : F(0);
    auto of_part = sums_of_column<WIDTH>(sums_of_strip<F>(strip.count, [&](i64 i) {
      i64 index = strip.start + i * strip.step;
      F dy = slope[index];
      return NormSums<F>{dy, dy * (F(x[index]) - middle)};
    }), grid.shared);
    if (strip.first) {
      sums[part * columns + strip.column] = of_part.a;
      products[part * columns + strip.column] = of_part.b;
    }
  });
}

// Then dx of each part of `share` rows, by blocks that add the sums of the parts themselves.
template <class F, class Activation, int WIDTH, class D, class X, class P, class A, class E>
__device__ void batch_norm_backward_apply(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* mean, const P* inverse_deviation, const A* at, E* dx,
    P* dgamma, P* dbeta, const double* sums, const double* products, i64 rows, i64 columns, i64 length, i64 share, F alpha) {
  NormSlope<F, Activation, D, A> slope = {dy, at, alpha};
  double each = norm_share(rows);
  each_norm_part<WIDTH>(grid, rows, columns, share, [&](i64 tile, i64, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    F gain = strip.there ? F(gamma[strip.column]) : F(0), middle = strip.there ? F(mean[strip.column]) : F(0);
    F inverse = strip.there ? F(inverse_deviation[strip.column]) : F(0);
    auto of_all = sums_of_norm_parts<WIDTH>(rows, length, strip.there, grid.shared, [&](i64 part) {
      return NormSums<double>{sums[part * columns + strip.column], products[part * columns + strip.column]};
    });
    write_norm_gradient<F>(
        strip, of_all, gain, inverse, dgamma, dbeta, dx, each, strip.first && low == 0, [&](i64 i) {
          i64 index = strip.start + i * strip.step;
          return NormSums<F>{slope[index], F(x[index]) - middle};
        });
  });
}
