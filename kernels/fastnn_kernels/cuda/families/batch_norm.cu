// Batch normalization of x (rows, columns) over the rows, with an activation and dropout behind it.
//
// A block takes a tile of columns. What a thread has read it keeps in shared memory where there is room, for the passes that
// follow.
#include "columns.cuh"
#include "functions.cuh"
#include "philox.cuh"

// What dropout does to NORM_ROWS rows of a thread. Where rows have a multiple of four columns, four neighboring columns share
// a Philox counter, and the threads that have them share the work: each draws the words of every fourth row, and shows the
// others which elements are kept.
template <class F> struct NormDropout {
  Dropout<F> dropout;
  bool fours;

  // Bit place(k): whether row k is kept.
  struct Batch {
    u32 bits;
    F scale;
    static constexpr __device__ __forceinline__ int place(int k) { return k % 4 * NORM_ROWS + k / 4 * 4; }
    __device__ __forceinline__ F of(F x, int k) const { return bits >> place(k) & 1 ? x * scale : F(0); }
  };

  __device__ __forceinline__ u32 keeps(u32 word) const { return word >> 8 >= dropout.least; }
  __device__ __forceinline__ Words words(i64 four) const {
    return philox((u32)four, (u32)(four >> 32), (u32)dropout.step, (u32)(dropout.step >> 32), dropout.k0, dropout.k1);
  }

  // That of the rows from i on. Threads of four neighboring columns must take part together.
  template <int WIDTH> __device__ __forceinline__ Batch batch(const NormStrip<WIDTH>& strip, int i) const {
    u32 bits = 0;
    if (fours) {
      int lane = threadIdx.x % 4;
      u32 four = 0xfu << (lane_of_warp() - lane);
#pragma unroll
      for (int half = 0; half < NORM_ROWS; half += 4) {
        Words drawn = words(strip.at(i + half + lane) / 4);
#pragma unroll
        for (int j = 0; j < 4; j++) bits |= keeps(drawn.at[j]) << (half + j);
      }
      bits <<= lane * NORM_ROWS;
      bits |= __shfl_xor_sync(four, bits, 1);
      bits |= __shfl_xor_sync(four, bits, 2);
      bits >>= lane;
    } else {
#pragma unroll 1
      for (int k = 0; k < NORM_ROWS; k++) {
        i64 element = strip.at(i + k);
        Words drawn = words(element / 4);
        u32 low = element & 1 ? drawn.at[1] : drawn.at[0], high = element & 1 ? drawn.at[3] : drawn.at[2];
        bits |= keeps(element & 2 ? high : low) << Batch::place(k);
      }
    }
    return {bits, dropout.scale};
  }
};
struct NoDropout {
  struct Batch {
    template <class F> __device__ __forceinline__ F of(F x, int) const { return x; }
  };
  template <int WIDTH> __device__ __forceinline__ Batch batch(const NormStrip<WIDTH>&, int) const { return {}; }
};
// What the last arguments of a body mean: none, or the step and the numbers of a Dropout.
template <class F> __device__ __forceinline__ NoDropout norm_dropout(i64) { return {}; }
template <class F>
__device__ __forceinline__ NormDropout<F> norm_dropout(
    i64 columns, const i64* step, i64 ahead, i64 least, F scale, i64 k0, i64 k1) {
  return {Dropout<F>(*step + ahead, least, scale, k0, k1), columns % 4 == 0};
}

// The rows of x, as F.
template <class F, int WIDTH, class X> struct NormInput {
  const NormStrip<WIDTH>& strip;
  const X* x;
  __device__ __forceinline__ NoDropout::Batch batch(int) const { return {}; }
  __device__ __forceinline__ F at(NoDropout::Batch, i64 element, int) const { return F(x[element]); }
};
template <class F, int WIDTH, class X>
__device__ __forceinline__ auto norm_inputs(const NormStrip<WIDTH>& strip, const X* x, char* memory = nullptr, int kept = 0) {
  return norm_rows<F>(strip.count, NormInput<F, WIDTH, X>{strip, x}, memory, kept);
}

// Mean of some values and the sum of the squares of their deviations from it.
struct NormMoments {
  double mean, squares;
};

// The moments from the sums of the deviations from `middle` and of their squares: what deviations from a rounded mean sum to
// corrects it. each: norm_share of the rows.
__device__ __forceinline__ NormMoments corrected(double middle, NormSums<double> sums, double each) {
  double left_over = sums.a * each;
  return {middle + left_over, larger(sums.b - sums.a * left_over, 0.0)};
}

// The moments of a column of which this thread has the rows x.
template <class F, int WIDTH, class Rows>
__device__ __forceinline__ NormMoments moments_of_column(const Rows& x, double each, char* scratch) {
  auto sums = sums_of_column<WIDTH>(x.template sums<F, true>([](F x) { return NormSums<F>{x, 0}; }), scratch);
  F middle = F(sums.a * each);
  sums = sums_of_column<WIDTH>(x.template sums<F, false>([&](F x) {
    F deviation = x - middle;
    return NormSums<F>{deviation, deviation * deviation};
  }), scratch);
  return corrected(middle, sums, each);
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

// activation(scale * (x - mean) + beta), for which both passes have the same bits: as a fused multiply-add, and rounded.
template <class F, class Activation>
__device__ __forceinline__ F normalized(F x, F mean, F scale, F beta, F alpha) {
  return rounded(Activation::forward(fma(scale, x - mean, beta), alpha));
}

// y = dropout(activation(scale * (x - mean) + beta)) for the rows x of a thread.
template <class F, class Activation, int WIDTH, class Y, class Rows, class Drop>
__device__ __forceinline__ void write_normalized(
    const NormStrip<WIDTH>& strip, const Rows& x, Y* y, F mean, F scale, F beta, F alpha, Drop dropout) {
  x.each([&](int i) { return dropout.batch(strip, i); }, [&](const auto& batch, int i, int k, F x) {
    y[strip.at(i)] = Y(batch.of(normalized<F, Activation>(x, mean, scale, beta, alpha), k));
  });
}

// y = dropout(activation(gamma * (x - mean) * inverse_deviation + beta)), where inverse_deviation is 1 / sqrt(biased variance +
// epsilon); running = momentum * running + rest * batch. Each thread keeps `kept` rows in shared memory, behind NORM_SHARED
// bytes.
template <class F, class Activation, int WIDTH, class X, class P, class Y, class... Drop>
__device__ void batch_norm(
    Grid grid, const X* x, const P* gamma, const P* beta, P* running_mean, P* running_variance, Y* y, P* mean,
    P* inverse_deviation, i64 rows, i64 columns, i64 kept, F momentum, F rest, F epsilon, F alpha, Drop... drop) {
  auto dropout = norm_dropout<F>(columns, drop...);
  NormColumns<F, P> of = {gamma, beta, running_mean, running_variance, mean, inverse_deviation, momentum, rest, epsilon};
  double each = norm_share(rows);
  for (i64 tile = grid.block; tile * WIDTH < columns; tile += grid.blocks) {
    NormStrip<WIDTH> strip(tile, 0, rows, columns);
    F gain = strip.inside ? F(gamma[strip.column]) : F(0), shift = strip.inside ? F(beta[strip.column]) : F(0);
    auto values = norm_inputs<F>(strip, x, grid.shared + NORM_SHARED, kept);
    NormMoments moments = moments_of_column<F, WIDTH>(values, each, grid.shared);
    F inverse = of.finish(moments, rows, each, strip.column, strip.first());
    write_normalized<F, Activation>(strip, values, y, F(moments.mean), gain * inverse, shift, alpha, dropout);
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
      auto values = norm_inputs<F>(strip, x, grid.shared + NORM_SHARED, kept);
      NormMoments more = moments_of_column<F, WIDTH>(values, each, grid.shared);
      double apart = more.mean - moments.mean;
      moments.mean += apart * share;
      moments.squares += more.squares + apart * apart * (share * (low - start));
    }
    NormStrip<WIDTH> strip(tile, start, end, columns);
    if (strip.first()) {
      means[part * columns + strip.column] = moments.mean;
      squares[part * columns + strip.column] = moments.squares;
    }
  });
}

// Then y of each part of `share` rows, by blocks that put the moments of the parts together themselves.
template <class F, class Activation, int WIDTH, class X, class P, class Y, class... Drop>
__device__ void batch_norm_apply(
    Grid grid, const X* x, const P* gamma, const P* beta, P* running_mean, P* running_variance, Y* y, P* mean,
    P* inverse_deviation, const double* means, const double* squares, i64 rows, i64 columns, i64 length, i64 share,
    F momentum, F rest, F epsilon, F alpha, Drop... drop) {
  auto dropout = norm_dropout<F>(columns, drop...);
  NormColumns<F, P> of = {gamma, beta, running_mean, running_variance, mean, inverse_deviation, momentum, rest, epsilon};
  auto rows_of = [&](i64 part) { return double((part + 1) * length < rows ? length : rows - part * length); };
  double each = norm_share(rows);
  each_norm_part<WIDTH>(grid, rows, columns, share, [&](i64 tile, i64, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    F gain = strip.inside ? F(gamma[strip.column]) : F(0), shift = strip.inside ? F(beta[strip.column]) : F(0);
    double middle = sums_of_norm_parts<WIDTH>(rows, length, strip.inside, grid.shared, [&](i64 part) {
      return NormSums<double>{rows_of(part) * means[part * columns + strip.column], 0};
    }).a * each;
    auto sums = sums_of_norm_parts<WIDTH>(rows, length, strip.inside, grid.shared, [&](i64 part) {
      double apart = means[part * columns + strip.column] - middle;
      return NormSums<double>{rows_of(part) * apart, squares[part * columns + strip.column] + rows_of(part) * (apart * apart)};
    });
    NormMoments moments = corrected(middle, sums, each);
    F inverse = of.finish(moments, rows, each, strip.column, strip.first() && low == 0);
    auto values = norm_inputs<F>(strip, x);
    write_normalized<F, Activation>(strip, values, y, F(moments.mean), gain * inverse, shift, alpha, dropout);
  });
}

// y = activation(gamma * (x - running_mean) / sqrt(running_variance + epsilon) + beta), by parts of `share` rows.
template <class F, class Activation, int WIDTH, class X, class P, class Y>
__device__ void batch_norm_inference(
    Grid grid, const X* x, const P* gamma, const P* beta, const P* running_mean, const P* running_variance, Y* y, i64 rows,
    i64 columns, i64 share, F epsilon, F alpha) {
  each_norm_part<WIDTH>(grid, rows, columns, share, [&](i64 tile, i64, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    if (!strip.inside) return;
    auto values = norm_inputs<F>(strip, x);
    F scale = F(gamma[strip.column]) / sqrt(F(running_variance[strip.column]) + epsilon);
    write_normalized<F, Activation>(
        strip, values, y, F(running_mean[strip.column]), scale, F(beta[strip.column]), alpha, NoDropout{});
  });
}

// What the backward pass reads of a column, zeros where it is none of the array; scale = gamma * inverse deviation.
template <class F> struct NormColumn {
  F mean, scale, beta;
};
template <class F, int WIDTH, class P>
__device__ __forceinline__ NormColumn<F> norm_column(
    const NormStrip<WIDTH>& strip, const P* gamma, const P* beta, const P* mean, const P* inverse_deviation) {
  if (!strip.inside) return {};
  F scale = F(gamma[strip.column]) * F(inverse_deviation[strip.column]);
  return {F(mean[strip.column]), scale, F(beta[strip.column])};
}

// What it needs of a row: dz, the derivative behind the activation, and x - mean.
template <class F> struct NormSlope {
  F dz, deviation;
  // What it adds to dbeta, and to dgamma before that is divided by the deviation of the column.
  __device__ __forceinline__ NormSums<F> terms() const { return {dz, dz * deviation}; }
};

// The rows of dy and x as such: dz = dropout(dy) times the derivative of the activation at its output, which is computed anew.
template <class F, class Activation, int WIDTH, class D, class X, class Drop> struct NormGradient {
  const NormStrip<WIDTH>& strip;
  const D* dy;
  const X* x;
  NormColumn<F> of;
  F alpha;
  Drop dropout;
  __device__ __forceinline__ auto batch(int i) const { return dropout.batch(strip, i); }
  template <class Batch> __device__ __forceinline__ NormSlope<F> at(const Batch& batch, i64 element, int k) const {
    F gradient = batch.of(F(dy[element]), k), from = F(x[element]);
    F y = normalized<F, Activation>(from, of.mean, of.scale, of.beta, alpha);
    return {rounded(Activation::backward(gradient, y, alpha)), from - of.mean};
  }
};
template <class F, class Activation, int WIDTH, class D, class X, class Drop>
__device__ __forceinline__ auto norm_slopes(
    const NormStrip<WIDTH>& strip, const D* dy, const X* x, NormColumn<F> of, F alpha, Drop dropout, char* memory = nullptr,
    int kept = 0) {
  NormGradient<F, Activation, WIDTH, D, X, Drop> read = {strip, dy, x, of, alpha, dropout};
  return norm_rows<NormSlope<F>>(strip.count, read, memory, kept);
}

// Stores dbeta and dgamma where `write`, and dx = scale * (dz - mean of dz - (x - mean) * mean of dz (x - mean) * inverse^2)
// for the rows of a thread. `sums`: of the terms of the whole column.
template <class F, int WIDTH, class P, class E, class Rows>
__device__ __forceinline__ void write_norm_gradient(
    const NormStrip<WIDTH>& strip, const Rows& rows, NormSums<double> sums, double each, F scale, const P* inverse_deviation,
    E* dx, P* dgamma, P* dbeta, bool write) {
  F inverse = strip.inside ? F(inverse_deviation[strip.column]) : F(0);
  double product = sums.b * inverse;
  if (write) {
    dbeta[strip.column] = P(F(sums.a));
    dgamma[strip.column] = P(F(product));
  }
  F level = F(sums.a * each), tilt = F(product * inverse * each);
  rows.each([](int) { return 0; }, [&](int, int i, int, NormSlope<F> row) {
    dx[strip.at(i)] = E(scale * (row.dz - level - row.deviation * tilt));
  });
}

// dgamma = sum dz h, dbeta = sum dz, dx = gamma inverse_deviation / rows (rows dz - dbeta - h dgamma), h the normalized input.
// Each thread keeps dz and x - mean of `kept` rows in shared memory.
template <class F, class Activation, int WIDTH, class D, class X, class P, class E, class... Drop>
__device__ void batch_norm_backward(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* beta, const P* mean, const P* inverse_deviation, E* dx,
    P* dgamma, P* dbeta, i64 rows, i64 columns, i64 kept, F alpha, Drop... drop) {
  auto dropout = norm_dropout<F>(columns, drop...);
  double each = norm_share(rows);
  for (i64 tile = grid.block; tile * WIDTH < columns; tile += grid.blocks) {
    NormStrip<WIDTH> strip(tile, 0, rows, columns);
    auto of = norm_column<F>(strip, gamma, beta, mean, inverse_deviation);
    auto slopes = norm_slopes<F, Activation>(strip, dy, x, of, alpha, dropout, grid.shared + NORM_SHARED, kept);
    auto of_thread = slopes.template sums<F, true>([](NormSlope<F> row) { return row.terms(); });
    auto sums = sums_of_column<WIDTH>(of_thread, grid.shared);
    write_norm_gradient<F>(strip, slopes, sums, each, of.scale, inverse_deviation, dx, dgamma, dbeta, strip.first());
  }
}

// The same in two stages. First the sums of dz and of dz * (x - mean) over each part of `length` rows.
template <class F, class Activation, int WIDTH, class D, class X, class P, class... Drop>
__device__ void batch_norm_backward_sums(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* beta, const P* mean, const P* inverse_deviation, double* sums,
    double* products, i64 rows, i64 columns, i64 length, F alpha, Drop... drop) {
  auto dropout = norm_dropout<F>(columns, drop...);
  each_norm_part<WIDTH>(grid, rows, columns, length, [&](i64 tile, i64 part, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    auto of = norm_column<F>(strip, gamma, beta, mean, inverse_deviation);
    auto slopes = norm_slopes<F, Activation>(strip, dy, x, of, alpha, dropout);
    auto of_thread = slopes.template sums<F, false>([](NormSlope<F> row) { return row.terms(); });
    auto of_part = sums_of_column<WIDTH>(of_thread, grid.shared);
    if (strip.first()) {
      sums[part * columns + strip.column] = of_part.a;
      products[part * columns + strip.column] = of_part.b;
    }
  });
}

// Then dx of each part of `share` rows, by blocks that add the sums of the parts themselves.
template <class F, class Activation, int WIDTH, class D, class X, class P, class E, class... Drop>
__device__ void batch_norm_backward_apply(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* beta, const P* mean, const P* inverse_deviation, E* dx,
    P* dgamma, P* dbeta, const double* sums, const double* products, i64 rows, i64 columns, i64 length, i64 share, F alpha,
    Drop... drop) {
  auto dropout = norm_dropout<F>(columns, drop...);
  double each = norm_share(rows);
  each_norm_part<WIDTH>(grid, rows, columns, share, [&](i64 tile, i64, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    auto of = norm_column<F>(strip, gamma, beta, mean, inverse_deviation);
    auto of_all = sums_of_norm_parts<WIDTH>(rows, length, strip.inside, grid.shared, [&](i64 part) {
      return NormSums<double>{sums[part * columns + strip.column], products[part * columns + strip.column]};
    });
    auto slopes = norm_slopes<F, Activation>(strip, dy, x, of, alpha, dropout);
    write_norm_gradient<F>(
        strip, slopes, of_all, each, of.scale, inverse_deviation, dx, dgamma, dbeta, strip.first() && low == 0);
  });
}
