// Batch normalisation of x (rows, columns) over the rows, with an activation behind it.
//
// A block takes a tile of WIDTH columns. Lanes lie over columns, so that neighbours read neighbours, and the threads of a column
// share its rows. What a thread has read it keeps in shared memory where there is room, for the passes that follow. Sums are
// taken over eight rows in F, and from there on in double: neither many rows nor a large mean cost precision.
#include "functions.cuh"

constexpr int NORM_ROWS = 8;  // rows whose loads a thread has under way, and whose sums are taken in F

// The rows of a tile that belong to this thread: `count` of them, the first one at `start`, `step` elements from one to the next.
// `first`: whether this thread writes what belongs to its column.
template <int WIDTH> struct NormStrip {
  i64 column, start, step, count;
  bool first;
  __device__ __forceinline__ NormStrip(i64 tile, i64 low, i64 high, i64 columns) {
    constexpr int BESIDE = THREADS / WIDTH;
    int row = threadIdx.x / WIDTH;
    column = tile * WIDTH + threadIdx.x % WIDTH;
    start = (low + row) * columns + column;
    step = BESIDE * columns;
    count = column < columns && low + row < high ? (high - low - row + BESIDE - 1) / BESIDE : 0;
    first = column < columns && row == 0;
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

// The moments of a column of `rows` rows. A rounded mean leaves deviations that do not sum to 0; what they sum to corrects it.
template <class F, int WIDTH, class Kept>
__device__ __forceinline__ NormMoments moments_of_column(i64 count, i64 rows, const Kept& x, char* scratch) {
  auto sums = sums_of_column<WIDTH>(sums_of_strip<F>(count, [&](i64 i) { return NormSums<F>{x.first(i), 0}; }), scratch);
  double divisor = rows > 0 ? rows : 1;
  F middle = F(sums.a / divisor);
  sums = sums_of_column<WIDTH>(sums_of_strip<F>(count, [&](i64 i) {
    F deviation = x.again(i) - middle;
    return NormSums<F>{deviation, deviation * deviation};
  }), scratch);
  double left_over = sums.a / divisor;
  return {middle + left_over, larger(sums.b - sums.a * left_over, 0.0)};
}

// The moments of all rows from those of parts of `length` rows, of one column.
template <int WIDTH>
__device__ __forceinline__ NormMoments moments_of_parts(
    const double* means, const double* squares, i64 column, i64 rows, i64 columns, i64 parts, i64 length, char* scratch) {
  constexpr int BESIDE = THREADS / WIDTH;
  i64 first = column < columns ? threadIdx.x / WIDTH : parts;
  auto rows_of = [&](i64 part) { return double((part + 1) * length < rows ? length : rows - part * length); };
  NormSums<double> sums = {0, 0};
  for (i64 part = first; part < parts; part += BESIDE) sums.a += rows_of(part) * means[part * columns + column];
  double mean = sums_of_column<WIDTH>(sums, scratch).a / rows;
  sums = {0, 0};
  for (i64 part = first; part < parts; part += BESIDE) {
    double apart = means[part * columns + column] - mean;
    sums.a += rows_of(part) * apart;
    sums.b += squares[part * columns + column] + rows_of(part) * (apart * apart);
  }
  sums = sums_of_column<WIDTH>(sums, scratch);
  return {mean + sums.a / rows, larger(sums.b - sums.a * (sums.a / rows), 0.0)};
}

// Arrays and numbers that belong to the columns, in the forward pass. P: the type in which they are stored.
template <class F, class P> struct NormColumns {
  const P *gamma, *beta;
  P *running_mean, *running_variance, *mean, *inverse_deviation;
  F momentum, rest, epsilon;

  // 1 / sqrt(variance + epsilon); where `write`, it and the mean are stored and the running statistics moved.
  __device__ __forceinline__ F finish(NormMoments moments, i64 rows, i64 column, bool write) const {
    F variance = F(moments.squares / (rows > 0 ? rows : 1)), inverse = 1 / sqrt(variance + epsilon);
    if (write) {
      mean[column] = P(F(moments.mean));
      inverse_deviation[column] = P(inverse);
      if (rows > 0) {
        F unbiased = F(moments.squares / (rows > 1 ? rows - 1 : 1));
        running_mean[column] = P(momentum * F(running_mean[column]) + rest * F(moments.mean));
        running_variance[column] = P(momentum * F(running_variance[column]) + rest * unbiased);
      }
    }
    return inverse;
  }
};

// y = activation(scale * (x - mean) + beta) for the rows of a thread, x(i) being the i-th.
template <class F, class Activation, int WIDTH, class Y, class Get>
__device__ __forceinline__ void write_normalised(
    const NormStrip<WIDTH>& strip, Y* y, F mean, F scale, F beta, F alpha, Get x) {
#pragma unroll 8
  for (i64 i = 0; i < strip.count; i++)
    y[strip.start + i * strip.step] = Y(Activation::forward(scale * (x(i) - mean) + beta, alpha));
}

// y = activation(gamma * (x - mean) * inverse_deviation + beta), inverse_deviation = 1 / sqrt(biased variance + epsilon);
// running = momentum * running + rest * batch. Each thread keeps `kept` rows in shared memory, behind NORM_SHARED bytes.
template <class F, class Activation, int WIDTH, class X, class P, class Y>
__device__ void batch_norm(
    Grid grid, const X* x, const P* gamma, const P* beta, P* running_mean, P* running_variance, Y* y, P* mean,
    P* inverse_deviation, i64 rows, i64 columns, i64 kept, F momentum, F rest, F epsilon, F alpha) {
  NormColumns<F, P> of = {gamma, beta, running_mean, running_variance, mean, inverse_deviation, momentum, rest, epsilon};
  for (i64 tile = grid.block; tile * WIDTH < columns; tile += grid.blocks) {
    NormStrip<WIDTH> strip(tile, 0, rows, columns);
    auto values = norm_kept<F>(grid.shared + NORM_SHARED, kept, [&](i64 i) { return F(x[strip.start + i * strip.step]); });
    NormMoments moments = moments_of_column<F, WIDTH>(strip.count, rows, values, grid.shared);
    F inverse = of.finish(moments, rows, strip.column, strip.first);
    if (strip.count)
      write_normalised<F, Activation>(
          strip, y, F(moments.mean), F(gamma[strip.column]) * inverse, F(beta[strip.column]), alpha,
          [&](i64 i) { return values.again(i); });
  }
}

// The same in two stages. First the moments of each part of `length` rows, put together from those of chunks of which each
// thread keeps `kept` rows (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
// variances").
template <class F, int WIDTH, class X>
__device__ void batch_norm_moments(
    Grid grid, const X* x, double* means, double* squares, i64 rows, i64 columns, i64 parts, i64 length, i64 kept) {
  i64 tiles = (columns + WIDTH - 1) / WIDTH;
  for (i64 unit = grid.block; unit < tiles * parts; unit += grid.blocks) {
    i64 part = unit / tiles, tile = unit % tiles, chunk = kept * (THREADS / WIDTH);
    i64 start = part * length, end = start + length < rows ? start + length : rows;
    NormMoments moments = {0, 0};
    for (i64 low = start; low < end; low += chunk) {
      i64 high = low + chunk < end ? low + chunk : end;
      NormStrip<WIDTH> strip(tile, low, high, columns);
      auto values = norm_kept<F>(grid.shared + NORM_SHARED, kept, [&](i64 i) { return F(x[strip.start + i * strip.step]); });
      NormMoments more = moments_of_column<F, WIDTH>(strip.count, high - low, values, grid.shared);
      double share = double(high - low) / (high - start), apart = more.mean - moments.mean;
      moments.mean += apart * share;
      moments.squares += more.squares + apart * apart * (share * (low - start));
    }
    NormStrip<WIDTH> strip(tile, start, end, columns);
    if (strip.first) {
      means[part * columns + strip.column] = moments.mean;
      squares[part * columns + strip.column] = moments.squares;
    }
  }
}

// visit(tile, low, high) for `ranges` ranges of rows of every tile of columns.
template <int WIDTH, class Visit>
__device__ __forceinline__ void each_norm_range(Grid grid, i64 rows, i64 columns, i64 ranges, Visit visit) {
  i64 tiles = (columns + WIDTH - 1) / WIDTH, length = (rows + ranges - 1) / ranges;
  for (i64 unit = grid.block; unit < tiles * ranges; unit += grid.blocks) {
    i64 low = unit / tiles * length, high = low + length;
    visit(unit % tiles, low, high < rows ? high : rows);
  }
}

// Then y, by blocks that put the moments of the parts together themselves.
template <class F, class Activation, int WIDTH, class X, class P, class Y>
__device__ void batch_norm_apply(
    Grid grid, const X* x, const P* gamma, const P* beta, P* running_mean, P* running_variance, Y* y, P* mean,
    P* inverse_deviation, const double* means, const double* squares, i64 rows, i64 columns, i64 parts, i64 length, i64 ranges,
    F momentum, F rest, F epsilon, F alpha) {
  NormColumns<F, P> of = {gamma, beta, running_mean, running_variance, mean, inverse_deviation, momentum, rest, epsilon};
  each_norm_range<WIDTH>(grid, rows, columns, ranges, [&](i64 tile, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    NormMoments moments =
        moments_of_parts<WIDTH>(means, squares, strip.column, rows, columns, parts, length, grid.shared);
    F inverse = of.finish(moments, rows, strip.column, strip.first && low == 0);
    if (strip.count)
      write_normalised<F, Activation>(
          strip, y, F(moments.mean), F(gamma[strip.column]) * inverse, F(beta[strip.column]), alpha,
          [&](i64 i) { return F(x[strip.start + i * strip.step]); });
  });
}

// y = activation(gamma * (x - running_mean) / sqrt(running_variance + epsilon) + beta).
template <class F, class Activation, int WIDTH, class X, class P, class Y>
__device__ void batch_norm_inference(
    Grid grid, const X* x, const P* gamma, const P* beta, const P* running_mean, const P* running_variance, Y* y, i64 rows,
    i64 columns, i64 ranges, F epsilon, F alpha) {
  each_norm_range<WIDTH>(grid, rows, columns, ranges, [&](i64 tile, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    if (strip.count)
      write_normalised<F, Activation>(
          strip, y, F(running_mean[strip.column]),
          F(gamma[strip.column]) / sqrt(F(running_variance[strip.column]) + epsilon), F(beta[strip.column]), alpha,
          [&](i64 i) { return F(x[strip.start + i * strip.step]); });
  });
}

// What the backward pass reads: x - mean, and dy times the derivative of the activation at its output or input `at`.
template <class F, class Activation, class D, class A> struct NormSlope {
  const D* dy;
  const A* at;
  F alpha;
  __device__ __forceinline__ F operator[](i64 index) const {
    return Activation::backward(F(dy[index]), F(at[index]), alpha);
  }
};

// dx = scale * (dy - mean of dy - (x - mean) * mean of dy (x - mean) / variance) for the rows of a thread. `sums`: of dy and of
// dy * (x - mean) over the column; where `write`, dbeta and dgamma are stored.
template <class F, int WIDTH, class P, class D, class Deviation, class Slope>
__device__ __forceinline__ void write_norm_gradient(
    const NormStrip<WIDTH>& strip, NormSums<double> sums, F gamma, F inverse, P* dgamma, P* dbeta, D* dx, i64 rows, bool write,
    Deviation deviation, Slope slope) {
  double product = sums.b * inverse, divisor = rows > 0 ? rows : 1;
  if (write) {
    dbeta[strip.column] = P(F(sums.a));
    dgamma[strip.column] = P(F(product));
  }
  F scale = gamma * inverse, of_all = F(sums.a / divisor), tilt = F(product * inverse / divisor);
#pragma unroll 8
  for (i64 i = 0; i < strip.count; i++)
    dx[strip.start + i * strip.step] = D(scale * (slope(i) - of_all - deviation(i) * tilt));
}

// dgamma = sum dy h, dbeta = sum dy, dx = gamma inverse_deviation / rows (rows dy - dbeta - h dgamma), h the normalised input and
// dy times the derivative of the activation at `at` for dy. Each thread keeps `kept` rows of x and of dy in shared memory.
template <class F, class Activation, int WIDTH, class D, class X, class P, class A, class E>
__device__ void batch_norm_backward(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* mean, const P* inverse_deviation, const A* at, E* dx,
    P* dgamma, P* dbeta, i64 rows, i64 columns, i64 kept, F alpha) {
  NormSlope<F, Activation, D, A> slope_at = {dy, at, alpha};
  char* memory = grid.shared + NORM_SHARED;
  for (i64 tile = grid.block; tile * WIDTH < columns; tile += grid.blocks) {
    NormStrip<WIDTH> strip(tile, 0, rows, columns);
    bool there = strip.column < columns;
    F middle = there ? F(mean[strip.column]) : F(0), inverse = there ? F(inverse_deviation[strip.column]) : F(0);
    auto deviations = norm_kept<F>(memory, kept, [&](i64 i) { return F(x[strip.start + i * strip.step]) - middle; });
    auto slopes = norm_kept<F>(
        memory + kept * THREADS * sizeof(F), kept, [&](i64 i) { return slope_at[strip.start + i * strip.step]; });
    auto sums = sums_of_column<WIDTH>(sums_of_strip<F>(strip.count, [&](i64 i) {
      F slope = slopes.first(i);
      return NormSums<F>{slope, slope * deviations.first(i)};
    }), grid.shared);
    write_norm_gradient<F>(
        strip, sums, there ? F(gamma[strip.column]) : F(0), inverse, dgamma, dbeta, dx, rows, strip.first,
        [&](i64 i) { return deviations.again(i); }, [&](i64 i) { return slopes.again(i); });
  }
}

// The same in two stages: the sums of each part of `length` rows, then dx by blocks that add those of the parts themselves.
template <class F, class Activation, int WIDTH, class D, class X, class P, class A>
__device__ void batch_norm_backward_sums(
    Grid grid, const D* dy, const X* x, const P* mean, const A* at, double* sums, double* products, i64 rows, i64 columns,
    i64 parts, F alpha) {
  NormSlope<F, Activation, D, A> slope_at = {dy, at, alpha};
  i64 length = (rows + parts - 1) / parts;
  each_norm_range<WIDTH>(grid, rows, columns, parts, [&](i64 tile, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    F middle = strip.column < columns ? F(mean[strip.column]) : F(0);
    auto of_part = sums_of_column<WIDTH>(sums_of_strip<F>(strip.count, [&](i64 i) {
      i64 index = strip.start + i * strip.step;
      F slope = slope_at[index];
      return NormSums<F>{slope, slope * (F(x[index]) - middle)};
    }), grid.shared);
    if (strip.first) {
      sums[low / length * columns + strip.column] = of_part.a;
      products[low / length * columns + strip.column] = of_part.b;
    }
  });
}
