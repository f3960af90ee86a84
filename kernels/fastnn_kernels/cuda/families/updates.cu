// Optimizers: one pass over the arena of parameters; and the block sums over it. The formulas are those of
// fastnn_kernels/numpy/updates.py, with the same operations in the same order.
#include "blocks.cuh"

// The segment of the arena that a thread is in, with its penalties; it goes forward only.
template <class F> struct Segment {
  const i64* starts;
  const F* penalties;
  i64 segments, at = 0, stop = 0;  // elements below `stop` are in segment `at`; the last one has no end
  F l2 = 0, l1 = 0, decay = 0, factor = 0;

  __device__ __forceinline__ Segment(const i64* starts, const F* penalties, i64 segments)
      : starts(starts), penalties(penalties), segments(segments) {}

  // Goes to the segment of element i: the last one that starts at i or before.
  __device__ __forceinline__ void reach(i64 i) {
    if (i < stop) return;
    for (i64 last = segments - 1; at < last;) {
      i64 middle = (at + last + 1) / 2;
      if (starts[middle] <= i)
        at = middle;
      else
        last = middle - 1;
    }
    stop = at + 1 < segments ? starts[at + 1] : 0x7fffffffffffffffll;
    const F* row = penalties + 4 * at;
    l2 = row[0], l1 = row[1], decay = row[2], factor = row[3];
  }

  // Calls visit(from, to) for each run of elements first + from .. first + to - 1, of the next N and below `size`, that lie in
  // one segment, while this is that segment.
  template <int N, class Visit> __device__ __forceinline__ void runs(i64 first, i64 size, Visit visit) {
    for (i64 i = first; i < min(first + N, size); i = stop) {
      reach(i);
      visit((int)(i - first), (int)min(min(stop, size) - first, (i64)N));
    }
  }
};

// A row of `scalars`: the columns SCALARS of the contract.
template <class F> struct Scalars {
  F rate, correction1, correction2, gradient_factor;
};

// The N states that an optimizer keeps, (P,) each.
template <class F, int N> struct States {
  F* at[N > 0 ? N : 1];
};

// w = formula(now, state, w - rate * decay * w, g) with g the gradient, clipped and with penalties, for each parameter and its
// `state`, an array of N, which the formula changes; the rate of `now` is that of the segment. Where the factor of the rate is
// 0, w and state stay as they are, but for a last state that AVERAGES the parameters, which becomes w. Clipping that is off has
// `clip` infinite or `clip_norm` 0; then no bit is changed and `norm` is not read. `low_precision_weights`, if it is not null,
// becomes a copy of the new parameters.
template <bool AVERAGES = false, class F, int N, class Formula, class G, class S = bf16>
__device__ __forceinline__ void update(const Grid& grid, F* w, States<F, N> states, Formula formula, const G* gradient,
                                       const F* norm, const F* scalars, const i64* index, i64 ahead, const i64* starts,
                                       const F* penalties, i64 size, i64 segments, F clip, F clip_norm,
                                       S* low_precision_weights = nullptr) {
  constexpr int E = PACKED<F>;
  bool aligned = is_aligned(w) && is_aligned(gradient, E * sizeof(G)) && is_aligned(low_precision_weights, E * sizeof(S));
  for (int k = 0; k < N; k++) aligned = aligned && is_aligned(states.at[k]);

  i64 first = first_of(grid) * E;
  if (first >= size) return;
  const i64 step = *index + ahead;
  Segment<F> segment(starts, penalties, segments);
  segment.reach(first);  // what it reads comes while `index` does
  const Scalars<F> now = reinterpret_cast<const Scalars<F>*>(scalars)[step];
  F scale = 1;
  if (clip_norm > 0) scale = smaller(clip_norm / *norm, F(1));

  for (; first < size; first += stride_of(grid) * E) {
    const i64 left = size - first;
    const bool whole = aligned && left >= E;
    Pack<G, E> gradients;
    Pack<F, E> weights, kept[N > 0 ? N : 1];
    auto load = [&](i64 count, bool packed) {
      gradients = load_pack<E>(gradient + first, count, packed);
      weights = load_pack<E>(w + first, count, packed);
      for (int k = 0; k < N; k++) kept[k] = load_pack<E>(states.at[k] + first, count, packed);
    };
    if (whole)
      load(E, true);
    else
      load(left, false);

    F g[E], factors[E] = {};
    for (int j = 0; j < E; j++) g[j] = smaller(larger(F(gradients.at[j]), -clip), clip) * scale;
    segment.template runs<E>(first, size, [&](int from, int to) {
      const bool penalized = segment.factor != 0 && (segment.l2 != 0 || segment.l1 != 0 || segment.decay != 0);
      for (int j = 0; j < E; j++) {
        if (j < from || j >= to) continue;
        factors[j] = segment.factor;
        if (!penalized) continue;
        F old = weights.at[j], sign = old > 0 ? F(1) : old < 0 ? F(-1) : F(0);
        g[j] += segment.l2 * old + segment.l1 * sign;
        weights.at[j] = old - now.rate * segment.factor * segment.decay * old;
      }
    });
    for (int j = 0; j < E; j++) {
      F state[N > 0 ? N : 1];
      for (int k = 0; k < N; k++) state[k] = kept[k].at[j];
      Scalars<F> of_segment = now;
      of_segment.rate = now.rate * factors[j];
      F moved = formula(of_segment, state, weights.at[j], g[j]);
      if (factors[j] == 0) {
        if (AVERAGES) kept[N - 1].at[j] = weights.at[j];
        continue;
      }
      weights.at[j] = moved;
      for (int k = 0; k < N; k++) kept[k].at[j] = state[k];
    }

    auto store = [&](i64 count, bool packed) {
      store_pack<E>(w + first, weights, count, packed);
      for (int k = 0; k < N; k++) store_pack<E>(states.at[k] + first, kept[k], count, packed);
      if (!low_precision_weights) return;
      Pack<S, E> copies;
      for (int j = 0; j < E; j++) copies.at[j] = S(weights.at[j]);
      store_pack<E>(low_precision_weights + first, copies, count, packed);
    };
    if (whole)
      store(E, true);
    else
      store(left, false);
  }
}

// The same, and average += rest * (w - average) with the new w and rest = 1 - ema.
template <class F, int N, class Formula, class G, class S = bf16>
__device__ __forceinline__ void update(const Grid& grid, F* w, States<F, N> states, Formula formula, const G* gradient,
                                       const F* norm, const F* scalars, const i64* index, i64 ahead, const i64* starts,
                                       const F* penalties, i64 size, i64 segments, F clip, F clip_norm, F rest, F* average,
                                       S* low_precision_weights = nullptr) {
  States<F, N + 1> with_average;
  for (int k = 0; k < N; k++) with_average.at[k] = states.at[k];
  with_average.at[N] = average;
  auto step = [=](const Scalars<F>& now, F* state, F old, F g) {
    F moved = formula(now, state, old, g);
    state[N] += rest * (moved - state[N]);
    return moved;
  };
  update<true>(grid, w, with_average, step, gradient, norm, scalars, index, ahead, starts, penalties, size, segments, clip,
               clip_norm, low_precision_weights);
}

// The optimizers; `arguments` are what `update` takes from `gradient` on.

// w -= rate * g.
template <class F, class... Arguments> __device__ void sgd(Grid grid, F* w, Arguments... arguments) {
  auto formula = [](const Scalars<F>& now, F*, F old, F g) { return old - now.rate * g; };
  update(grid, w, States<F, 0>{}, formula, arguments...);
}

// v = beta * v + g; w -= rate * v.
template <class F, class... Arguments> __device__ void momentum(Grid grid, F* w, F* v, F beta, Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    state[0] = beta * state[0] + g;
    return old - now.rate * state[0];
  };
  update(grid, w, States<F, 1>{{v}}, formula, arguments...);
}

// v = beta * v + g; w -= rate * (g + beta * v).
template <class F, class... Arguments> __device__ void nesterov(Grid grid, F* w, F* v, F beta, Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    state[0] = beta * state[0] + g;
    return old - now.rate * (g + beta * state[0]);
  };
  update(grid, w, States<F, 1>{{v}}, formula, arguments...);
}

// v = beta * v + rest * g with rest = 1 - beta; w -= rate * v.
template <class F, class... Arguments>
__device__ void averaged_momentum(Grid grid, F* w, F* v, F beta, F rest, Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    state[0] = beta * state[0] + rest * g;
    return old - now.rate * state[0];
  };
  update(grid, w, States<F, 1>{{v}}, formula, arguments...);
}

// s = beta * s + rest * g^2 with rest = 1 - beta; w -= rate * g / (sqrt(s + inside) + outside).
template <class F, class... Arguments>
__device__ void rmsprop(Grid grid, F* w, F* s, F beta, F rest, F inside, F outside, Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    state[0] = beta * state[0] + rest * (g * g);
    return old - now.rate * g / (sqrt(state[0] + inside) + outside);
  };
  update(grid, w, States<F, 1>{{s}}, formula, arguments...);
}

// s += g^2; w -= rate * g / (sqrt(s) + epsilon).
template <class F, class... Arguments> __device__ void adagrad(Grid grid, F* w, F* s, F epsilon, Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    state[0] = state[0] + g * g;
    return old - now.rate * g / (sqrt(state[0]) + epsilon);
  };
  update(grid, w, States<F, 1>{{s}}, formula, arguments...);
}

// m = beta1 * m + rest1 * g; s = beta2 * s + rest2 * g^2 with rest = 1 - beta;
// w -= rate * (m * correction1) / (sqrt(s * correction2 + inside) + outside).
template <class F, class... Arguments>
__device__ void adam(Grid grid, F* w, F* m, F* s, F beta1, F rest1, F beta2, F rest2, F inside, F outside,
                     Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    state[0] = beta1 * state[0] + rest1 * g;
    state[1] = beta2 * state[1] + rest2 * (g * g);
    return old - now.rate * (state[0] * now.correction1) / (sqrt(state[1] * now.correction2 + inside) + outside);
  };
  update(grid, w, States<F, 2>{{m, s}}, formula, arguments...);
}

// m and s as in adam; w -= rate * (gradient_factor * g + m * correction1) / (sqrt(s * correction2 + inside) + outside).
template <class F, class... Arguments>
__device__ void nadam(Grid grid, F* w, F* m, F* s, F beta1, F rest1, F beta2, F rest2, F inside, F outside,
                      Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    state[0] = beta1 * state[0] + rest1 * g;
    state[1] = beta2 * state[1] + rest2 * (g * g);
    F ahead = now.gradient_factor * g + state[0] * now.correction1;
    return old - now.rate * ahead / (sqrt(state[1] * now.correction2 + inside) + outside);
  };
  update(grid, w, States<F, 2>{{m, s}}, formula, arguments...);
}

// w -= rate * sign(beta1 * m + rest1 * g); m = beta2 * m + rest2 * g with rest = 1 - beta.
template <class F, class... Arguments>
__device__ void lion(Grid grid, F* w, F* m, F beta1, F rest1, F beta2, F rest2, Arguments... arguments) {
  auto formula = [=](const Scalars<F>& now, F* state, F old, F g) {
    F ahead = beta1 * state[0] + rest1 * g;
    state[0] = beta2 * state[0] + rest2 * g;
    return old - now.rate * (ahead > 0 ? F(1) : ahead < 0 ? F(-1) : ahead);  // NaN stays, so that divergence is seen
  };
  update(grid, w, States<F, 1>{{m}}, formula, arguments...);
}

// partial[k] = sum of (scale * min(max(x, -clip), clip))^2 over block k; infinite `clip`: of (scale * x)^2.
template <class F, class X>
__device__ void block_sum_squares(Grid grid, const X* x, F* partial, i64 size, F clip, F scale) {
  sum_blocks<F>(grid, x, partial, size, [=](i64, const auto& pack) {
    F sum = 0;
    for (X element : pack.at) {
      F value = scale * smaller(larger(F(element), -clip), clip);
      sum += value * value;
    }
    return sum;
  });
}

// partial[k] = sum of l2 / 2 * w^2 + l1 * |w| over block k.
template <class F>
__device__ void block_penalty(Grid grid, const F* w, const i64* starts, const F* penalties, F* partial, i64 size,
                              i64 segments) {
  Segment<F> segment(starts, penalties, segments);
  sum_blocks<F>(grid, w, partial, size, [&](i64 first, const auto& pack) {
    F sum = 0;
    segment.template runs<PACKED<F>>(first, size, [&](int from, int to) {
      for (int j = 0; j < PACKED<F>; j++) {
        if (j < from || j >= to) continue;
        F value = pack.at[j];
        sum += segment.l2 / 2 * (value * value) + segment.l1 * fabs(value);
      }
    });
    return sum;
  });
}
