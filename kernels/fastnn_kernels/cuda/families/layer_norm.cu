// Layer normalization of the rows of x (rows, columns), with an activation behind it.
//
// A group of lanes has a row, in registers where it fits, so that mean and variance are those of what was read once. The
// gradients of gamma and beta are sums down the columns.
#include "columns.cuh"
#include "functions.cuh"
#include "rows.cuh"

template <class F> __device__ __forceinline__ NormSums<F> across(NormSums<F> x, int mask) {
  return {__shfl_xor_sync(ALL, x.a, mask), __shfl_xor_sync(ALL, x.b, mask)};
}

// Sums of make(element) over a row, divided by its columns.
template <class F, class Lanes, class Make>
__device__ __forceinline__ NormSums<F> row_means(Grid grid, typename Lanes::Index width, Make make) {
  NormSums<F> sums = {0, 0};
  each_of_row<Lanes>(width, [&](RowElement<Lanes> element) {
    NormSums<F> one = make(element);
    sums.a += one.a;
    sums.b += one.b;
  });
  sums = reduce_row<Lanes>(grid, sums, [](NormSums<F> a, NormSums<F> b) { return NormSums<F>{a.a + b.a, a.b + b.b}; });
  F count = F(width > 0 ? width : 1);
  return {sums.a / count, sums.b / count};
}

// gamma * normal + beta, and that passed through the activation, for which both passes have the same bits: see `normalized`.
template <class F, class Activation>
__device__ __forceinline__ F activated(F normal, F gamma, F beta, F alpha) {
  return rounded(Activation::forward(fma(normal, gamma, beta), alpha));
}

// y = activation(gamma * (x - mean) * inverse_deviation + beta), inverse_deviation = 1 / sqrt(biased variance + epsilon). What
// deviations from a rounded mean sum to corrects mean and variance.
template <class F, class Activation, class Lanes, class X, class P, class Y>
__device__ void layer_norm(
    Grid grid, const X* x, const P* gamma, const P* beta, Y* y, P* mean, P* inverse_deviation, i64 rows, i64 columns, F epsilon,
    F alpha) {
  Row<F, Lanes, P> gain(gamma, columns), shift(beta, columns);
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, X> from(x + row * columns, width);
    F middle = row_means<F, Lanes>(grid, width, [&](auto j) { return NormSums<F>{from[j], 0}; }).a;
    auto means = row_means<F, Lanes>(grid, width, [&](auto j) {
      F deviation = from[j] - middle;
      return NormSums<F>{deviation, deviation * deviation};
    });
    F center = middle + means.a, inverse = 1 / sqrt(larger(means.b - means.a * means.a, F(0)) + epsilon);
    if (row >= 0 && threadIdx.x % Lanes::COUNT == 0) {
      mean[row] = P(center);
      inverse_deviation[row] = P(inverse);
    }
    write_row<Lanes>(y + row * columns, width, [&](auto j) {
      return activated<F, Activation>((from[j] - center) * inverse, gain[j], shift[j], alpha);
    });
  });
}

// dx = inverse_deviation * (g - mean of g - h * mean of g h) over each row, where h is the normalized input and g = gamma dz, dz
// being dy times the derivative of the activation at its output, which is computed anew.
template <class F, class Activation, class Lanes, class D, class X, class P, class E>
__device__ __forceinline__ void layer_norm_slopes(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* beta, const P* mean, const P* inverse_deviation, E* dx,
    i64 rows, i64 columns, F alpha) {
  Row<F, Lanes, P> gain(gamma, columns), shift(beta, columns);
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, D> gradient(dy + row * columns, width);
    Row<F, Lanes, X> from(x + row * columns, width);
    F center = row >= 0 ? F(mean[row]) : F(0), inverse = row >= 0 ? F(inverse_deviation[row]) : F(0);
    auto scaled = made_row<F, Lanes>(width, [&](auto j) {
      F y = activated<F, Activation>((from[j] - center) * inverse, gain[j], shift[j], alpha);
      return rounded(rounded(Activation::backward(gradient[j], y, alpha)) * gain[j]);  // so that what equals its mean becomes 0
    });
    auto means = row_means<F, Lanes>(grid, width, [&](auto j) {
      return NormSums<F>{scaled[j], scaled[j] * ((from[j] - center) * inverse)};
    });
    write_row<Lanes>(dx + row * columns, width, [&](auto j) {
      return inverse * (scaled[j] - means.a - (from[j] - center) * inverse * means.b);
    });
  });
}

// What the rows of a thread add to dbeta and dgamma: dz, and dz times the normalized input. `mean` and `inverse_deviation` begin
// with the first of these rows.
template <class F, class Activation, int WIDTH, class D, class X, class P> struct LayerTerms {
  const NormStrip<WIDTH>& strip;
  const D* dy;
  const X* x;
  const P *mean, *inverse_deviation;
  F gamma, beta, alpha;
  __device__ __forceinline__ int batch(int i) const { return i; }
  __device__ __forceinline__ NormSums<F> at(int i, i64 element, int k) const {
    int row = min(i + k, strip.count - 1) * (THREADS / WIDTH);
    F normal = (F(x[element]) - F(mean[row])) * F(inverse_deviation[row]);
    F y = activated<F, Activation>(normal, gamma, beta, alpha);
    F dz = rounded(Activation::backward(F(dy[element]), y, alpha));
    return {dz, dz * normal};
  }
};

// dx of the rows; dbeta = sum of dz, dgamma = sum of dz h over parts of `length` rows: `sums` and `products` (parts, columns).
// The first `row_blocks` blocks begin with rows, the others with columns.
template <class F, class Activation, class Lanes, int WIDTH, class D, class X, class P, class E, class S>
__device__ void layer_norm_backward(
    Grid grid, const D* dy, const X* x, const P* gamma, const P* beta, const P* mean, const P* inverse_deviation, E* dx,
    S* products, S* sums, i64 rows, i64 columns, i64 length, i64 row_blocks, F alpha) {
  layer_norm_slopes<F, Activation, Lanes>(grid, dy, x, gamma, beta, mean, inverse_deviation, dx, rows, columns, alpha);
  i64 turned = (grid.block + grid.blocks - row_blocks % grid.blocks) % grid.blocks;
  each_norm_part<WIDTH>({turned, grid.blocks, grid.shared}, rows, columns, length, [&](i64 tile, i64 part, i64 low, i64 high) {
    NormStrip<WIDTH> strip(tile, low, high, columns);
    F gain = strip.inside ? F(gamma[strip.column]) : F(0), shift = strip.inside ? F(beta[strip.column]) : F(0);
    i64 first = low + threadIdx.x / WIDTH;
    LayerTerms<F, Activation, WIDTH, D, X, P> read = {
        strip, dy, x, mean + first, inverse_deviation + first, gain, shift, alpha};
    auto terms = norm_rows<NormSums<F>>(strip.count, read);
    auto of_thread = terms.template sums<F, false>([](NormSums<F> row) { return row; });
    auto of_part = sums_of_column<WIDTH>(of_thread, grid.shared);
    if (strip.first()) {
      sums[part * columns + strip.column] = S(of_part.a);
      products[part * columns + strip.column] = S(of_part.b);
    }
  });
}

// dbeta and dgamma from the sums of the parts of `length` rows.
template <class F, int WIDTH, class P>
__device__ void layer_norm_sums(
    Grid grid, const double* products, const double* sums, P* dgamma, P* dbeta, i64 rows, i64 columns, i64 length) {
  for (i64 tile = grid.block; tile * WIDTH < columns; tile += grid.blocks) {
    NormStrip<WIDTH> strip(tile, 0, 0, columns);
    auto of_all = sums_of_norm_parts<WIDTH>(rows, length, strip.inside, grid.shared, [&](i64 part) {
      return NormSums<double>{sums[part * columns + strip.column], products[part * columns + strip.column]};
    });
    if (strip.first()) {
      dbeta[strip.column] = P(F(of_all.a));
      dgamma[strip.column] = P(F(of_all.b));
    }
  }
}
