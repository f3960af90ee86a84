// Losses, one value an example, and what is made of them. t is the target, z the output of the model.
#include "rows.cuh"

// The target of a row: its elements, or 1 at the column that is its class and 0 elsewhere.
template <class F, class Lanes, class T> struct TargetRow : Row<F, Lanes, T> {
  __device__ __forceinline__ TargetRow(const T* t, i64 row, i64 columns, typename Lanes::Index width)
      : Row<F, Lanes, T>(t + row * columns, width) {}
  __device__ __forceinline__ F sum(Grid grid, typename Lanes::Index width) const {
    return row_sum<F, Lanes>(grid, width, [&](auto j) { return (*this)[j]; });
  }
  __device__ __forceinline__ i64 argmax(Grid grid, typename Lanes::Index width) const {
    return row_argmax<F, Lanes>(grid, width, *this);
  }
};
template <class F, class Lanes> struct TargetRow<F, Lanes, i64> {
  i64 label;
  __device__ __forceinline__ TargetRow(const i64* t, i64 row, i64, typename Lanes::Index) : label(row >= 0 ? t[row] : -1) {}
  __device__ __forceinline__ F operator[](RowElement<Lanes> j) const { return F(j.j == label); }
  __device__ __forceinline__ F sum(Grid, typename Lanes::Index width) const { return F(label >= 0 && label < width); }
  __device__ __forceinline__ i64 argmax(Grid, typename Lanes::Index) const { return label; }
};

// A loss is an object that, for a row z with the target t, gives the loss to all lanes (where LOSSES) and writes
// dz = slope * dloss/dz (where GRADIENT). Both at once give the bits of one after the other.

// -sum_j t_j log p_j, p the softmax of z; 0 log 0 is 0. dloss/dz_j = p_j sum_k t_k - t_j.
template <class F> struct softmax_cross_entropy {
  template <class Lanes, bool LOSSES, bool GRADIENT, class Z, class T, class D>
  __device__ __forceinline__ F row(Grid grid, const Z& z, const T& t, F slope, D* dz, typename Lanes::Index width) const {
    F top = row_maximum<F, Lanes>(grid, width, z);
    auto powers = made_row<F, Lanes>(width, [&](auto j) { return exp(z[j] - top); });
    F sum = row_sum<F, Lanes>(grid, width, [&](auto j) { return powers[j]; });
    F loss = 0;
    if constexpr (LOSSES) {
      F logarithm = log(sum);
      loss = row_sum<F, Lanes>(grid, width, [&](auto j) {
        F target = t[j], cost = logarithm - (z[j] - top);
        return target == 0 && cost == infinity<F>() ? F(0) : target * cost;
      });
    }
    if constexpr (GRADIENT) {
      F factor = t.sum(grid, width) / sum;
      write_row<Lanes>(dz, width, [&](auto j) { return slope * (powers[j] * factor - t[j]); });
    }
    return loss;
  }
};

// sum_j of max(z, 0) - z t + log(1 + exp(-|z|)), the cross entropy of t and sigmoid(z). dloss/dz = sigmoid(z) - t.
template <class F> struct sigmoid_cross_entropy {
  template <class Lanes, bool LOSSES, bool GRADIENT, class Z, class T, class D>
  __device__ __forceinline__ F row(Grid grid, const Z& z, const T& t, F slope, D* dz, typename Lanes::Index width) const {
    auto small = made_row<F, Lanes>(width, [&](auto j) { return exp(-fabs(z[j])); });
    F loss = 0;
    if constexpr (LOSSES)
      loss = row_sum<F, Lanes>(grid, width, [&](auto j) { return larger(z[j], F(0)) - z[j] * t[j] + log1p(small[j]); });
    if constexpr (GRADIENT)
      write_row<Lanes>(dz, width, [&](auto j) { return slope * ((z[j] >= 0 ? F(1) : small[j]) / (1 + small[j]) - t[j]); });
    return loss;
  }
};

// scale * sum_j (z_j - t_j)^2. dloss/dz = 2 scale (z - t).
template <class F> struct squared_error {
  F scale;
  template <class Lanes, bool LOSSES, bool GRADIENT, class Z, class T, class D>
  __device__ __forceinline__ F row(Grid grid, const Z& z, const T& t, F slope, D* dz, typename Lanes::Index width) const {
    F loss = 0;
    if constexpr (LOSSES)
      loss = scale * row_sum<F, Lanes>(grid, width, [&](auto j) { return (z[j] - t[j]) * (z[j] - t[j]); });
    if constexpr (GRADIENT) {
      F factor = 2 * scale * slope;
      write_row<Lanes>(dz, width, [&](auto j) { return factor * (z[j] - t[j]); });
    }
    return loss;
  }
};

// The kernels of a loss; what is not asked for is not touched.
template <class F, class Lanes, bool LOSSES, bool GRADIENT, class Loss, class Z, class T, class S, class L, class D>
__device__ __forceinline__ void all_losses(
    Grid grid, const Z* z, const T* t, const S* dlosses, L* losses, D* dz, i64 rows, i64 columns, Loss of) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, Z> output(z + row * columns, width);
    TargetRow<F, Lanes, T> target(t, row, columns, width);
    F slope = 0;
    D* gradient = dz;
    if constexpr (GRADIENT) {
      if (row >= 0) slope = F(dlosses[row]);
      gradient += row * columns;
    }
    F loss = of.template row<Lanes, LOSSES, GRADIENT>(grid, output, target, slope, gradient, width);
    if constexpr (LOSSES)
      if (row >= 0 && threadIdx.x % Lanes::COUNT == 0) losses[row] = L(loss);
  });
}

template <class F, class Lanes, template <class> class Loss, class Z, class T, class L, class... Numbers>
__device__ void loss(Grid grid, const Z* z, const T* t, L* losses, i64 rows, i64 columns, Numbers... numbers) {
  all_losses<F, Lanes, true, false>(grid, z, t, (F*)nullptr, losses, (F*)nullptr, rows, columns, Loss<F>{numbers...});
}
template <class F, class Lanes, template <class> class Loss, class Z, class T, class S, class D, class... Numbers>
__device__ void loss_backward(
    Grid grid, const Z* z, const T* t, const S* dlosses, D* dz, i64 rows, i64 columns, Numbers... numbers) {
  all_losses<F, Lanes, false, true>(grid, z, t, dlosses, (F*)nullptr, dz, rows, columns, Loss<F>{numbers...});
}
template <class F, class Lanes, template <class> class Loss, class Z, class T, class S, class L, class D, class... Numbers>
__device__ void loss_with_gradient(
    Grid grid, const Z* z, const T* t, const S* dlosses, L* losses, D* dz, i64 rows, i64 columns, Numbers... numbers) {
  all_losses<F, Lanes, true, true>(grid, z, t, dlosses, losses, dz, rows, columns, Loss<F>{numbers...});
}

// What is to be divided: 0 where it is by 0.
template <class F> struct Quotient {
  F numerator, denominator;
  __device__ __forceinline__ F value() const { return denominator == 0 ? F(0) : numerator / denominator; }
};

// The sum of get(i) for low <= i < high, by a block, for all its threads: four sums a thread, so that few rounding errors
// follow one another and many loads are under way. grid.shared: WARPS elements.
template <class F, class Get> __device__ __forceinline__ Quotient<F> block_sums(Grid grid, i64 low, i64 high, Get get) {
  constexpr int SUMS = 4;
  Quotient<F> sums[SUMS] = {};
  for (i64 i = low + threadIdx.x; i < high; i += THREADS * SUMS) {
#pragma unroll
    for (int s = 0; s < SUMS; s++) {
      Quotient<F> term = i + s * THREADS < high ? get(i + s * THREADS) : Quotient<F>{0, 0};
      sums[s].numerator += term.numerator;
      sums[s].denominator += term.denominator;
    }
  }
  F* scratch = (F*)grid.shared;
  F numerator = (sums[0].numerator + sums[1].numerator) + (sums[2].numerator + sums[3].numerator);
  F denominator = (sums[0].denominator + sums[1].denominator) + (sums[2].denominator + sums[3].denominator);
  return {block_sum(numerator, scratch), block_sum(denominator, scratch)};
}

// visit(part, low, high) for the parts of `length` rows that are this block's.
template <class Visit> __device__ __forceinline__ void each_part(Grid grid, i64 rows, i64 length, i64 parts, Visit visit) {
  for (i64 part = grid.block; part < parts; part += grid.blocks)
    visit(part, part * length, (part + 1) * length < rows ? (part + 1) * length : rows);
}

// Sums of weights * losses and of weights over the rows from low to high - 1.
template <class F, class L, class W>
__device__ __forceinline__ Quotient<F> weighted(Grid grid, const L* losses, const W* weights, i64 low, i64 high) {
  return block_sums<F>(grid, low, high, [&](i64 i) {
    F weight = F(weights[i]);
    return Quotient<F>{weight * F(losses[i]), weight};
  });
}

// mean = sum(weights * losses) / sum(weights), 0 where the weights sum to 0.
template <class F, class L, class W, class M>
__device__ void weighted_mean(Grid grid, const L* losses, const W* weights, M* mean, i64 rows) {
  if (grid.block) return;
  F value = weighted<F>(grid, losses, weights, 0, rows).value();
  if (threadIdx.x == 0) mean[0] = M(value);
}

// The same in two stages: first both sums over each part, side by side in `sums`; then what they give.
template <class F, class L, class W>
__device__ void weighted_sums(Grid grid, const L* losses, const W* weights, F* sums, i64 rows, i64 length, i64 parts) {
  each_part(grid, rows, length, parts, [&](i64 part, i64 low, i64 high) {
    Quotient<F> of_part = weighted<F>(grid, losses, weights, low, high);
    if (threadIdx.x == 0) sums[2 * part] = of_part.numerator, sums[2 * part + 1] = of_part.denominator;
  });
}
template <class F, class M> __device__ void quotient_of_sums(Grid grid, const F* sums, M* mean, i64 parts) {
  if (grid.block) return;
  F value = block_sums<F>(grid, 0, parts, [&](i64 p) { return Quotient<F>{sums[2 * p], sums[2 * p + 1]}; }).value();
  if (threadIdx.x == 0) mean[0] = M(value);
}

// sums[p] = sum of x over part p.
template <class F, class X> __device__ void sums_of_parts(Grid grid, const X* x, F* sums, i64 rows, i64 length, i64 parts) {
  each_part(grid, rows, length, parts, [&](i64 part, i64 low, i64 high) {
    F sum = block_sums<F>(grid, low, high, [&](i64 i) { return Quotient<F>{0, F(x[i])}; }).denominator;
    if (threadIdx.x == 0) sums[part] = sum;
  });
}

// dlosses = dmean * weights / total, 0 where the total is 0; the total is the sum of `sums`, which every block takes itself:
// the weights, or sums of parts of them.
template <class F, class M, class W, class S, class D>
__device__ void weighted_mean_backward(
    Grid grid, const M* dmean, const W* weights, const S* sums, D* dlosses, i64 rows, i64 parts) {
  F total = block_sums<F>(grid, 0, parts, [&](i64 p) { return Quotient<F>{0, F(sums[p])}; }).denominator;
  F factor = Quotient<F>{F(dmean[0]), total}.value();
  for (i64 i = first_of(grid); i < rows; i += stride_of(grid)) dlosses[i] = D(total == 0 ? F(0) : factor * F(weights[i]));
}

// 1 where argmax(z) is the class t, or argmax(t), else 0.
template <class F, class Lanes, class Z, class T, class C>
__device__ void is_correct(Grid grid, const Z* z, const T* t, C* correct, i64 rows, i64 columns) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    i64 predicted = row_argmax<F, Lanes>(grid, width, Row<F, Lanes, Z>(z + row * columns, width));
    i64 wanted = TargetRow<F, Lanes, T>(t, row, columns, width).argmax(grid, width);
    if (row >= 0 && threadIdx.x % Lanes::COUNT == 0) correct[row] = C(F(predicted == wanted));
  });
}

// The share of columns in which (z > threshold) == (t > 0.5).
template <class F, class Lanes, class Z, class T, class C>
__device__ void is_correct_by_column(Grid grid, const Z* z, const T* t, C* correct, i64 rows, i64 columns, F threshold) {
  each_row<Lanes>(grid, rows, columns, [&](i64 row, typename Lanes::Index width) {
    Row<F, Lanes, Z> output(z + row * columns, width);
    Row<F, Lanes, T> target(t + row * columns, width);
    F agreeing = row_sum<F, Lanes>(grid, width, [&](auto j) { return F((output[j] > threshold) == (target[j] > F(0.5))); });
    if (row >= 0 && threadIdx.x % Lanes::COUNT == 0) correct[row] = C(agreeing / F(columns));
  });
}
