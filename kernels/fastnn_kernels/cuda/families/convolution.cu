// Convolution of images (B, H, W, C), its gradients, and the sum of the rows that these leave.
//
// All but depthwise convolutions are products of `tiles`, whose operand is read where it lies in the images: `Patches` is a
// matrix with a row for every spot of a grid and a column for every tap of the kernel and channel, of which nothing is stored.
// Forward, spots are those of y and images x; backward, spots are those of dx, images dz, and taps count from the last one on,
// so that windows come in ascending order. What divides does so by a multiplication; images have fewer than 2^28 pixels, and
// there are fewer than 2^30 taps times channels.
#include "tiles.cuh"

// Division of numbers below 2^31 by one that stays the same, by floor(2^shift / number) + 1 with shift = 31 + ceil(log2(number)):
// that is too large by a share of less than 2^-31, so that the quotient is exact.
struct Divisor {
  i64 number, multiplier, shift;
  __device__ __forceinline__ u32 of(u32 n) const { return (u32)((u64)n * (u32)multiplier >> (int)shift); }
};

// Where the taps of spots lie in images of height x width pixels of `pitch` channels, `channels` of them for each group: tap
// (i, j) of spot (r, c) at row (r * down + top + i * row_step) / row_divisor, where that is a whole number and in the image, and
// likewise its column. The grid of spots has `spots` of them an image, `across` in a row; a row of taps has `wide`. All of it are
// arguments of the kernel, which take no registers.
struct Laid {
  i64 height, width, pitch, image_size, down, right, top, left, row_step, column_step, wide_end, groups;
  Divisor channels, wide, spots, across, row_divisor, column_divisor;
};

// The place of a tap: rows and columns behind that of its spot, and the channel within its group.
struct Tap {
  int row, column, channel;
  Tap() = default;
  __device__ __forceinline__ Tap(const Laid& laid, u32 k) {
    u32 tap = laid.channels.of(k), line = laid.wide.of(tap);
    channel = (int)(k - tap * (u32)laid.channels.number);
    row = (int)line * (int)laid.row_step;
    column = (int)(tap - line * (u32)laid.wide.number) * (int)laid.column_step;
  }
  // The next channel, or the first one of the next tap.
  __device__ __forceinline__ void advance(const Laid& laid) {
    if (++channel < (int)laid.channels.number) return;
    channel = 0;
    column += (int)laid.column_step;
    if (column < (int)laid.wide_end) return;
    column = 0;
    row += (int)laid.row_step;
  }
};

// A spot: where its taps begin, and in which image, counted on from a known one.
struct Spot {
  u32 images;
  int row, column;
  Spot() = default;
  // The spot with this number, counted from the first one of the known image.
  __device__ __forceinline__ Spot(const Laid& laid, u32 number) {
    images = laid.spots.of(number);
    u32 at = number - images * (u32)laid.spots.number, line = laid.across.of(at);
    row = (int)line * (int)laid.down + (int)laid.top;
    column = (int)(at - line * (u32)laid.across.number) * (int)laid.right + (int)laid.left;
  }
};

// The number of the pixel of an image in which a tap of a spot lies, -1 where there is none. DIVIDED: a divisor is not 1.
template <bool DIVIDED> __device__ __forceinline__ int pixel_of(const Laid& laid, const Spot& spot, const Tap& tap) {
  int row = spot.row + tap.row, column = spot.column + tap.column;
  if (DIVIDED) {
    if (row < 0 || column < 0) return -1;
    u32 r = laid.row_divisor.of((u32)row), c = laid.column_divisor.of((u32)column);
    if (r * (u32)laid.row_divisor.number != (u32)row || c * (u32)laid.column_divisor.number != (u32)column) return -1;
    row = (int)r, column = (int)c;
  }
  return (u32)row < (u32)laid.height && (u32)column < (u32)laid.width ? row * (int)laid.width + column : -1;
}

// The taps of all spots as an operand: (spots, taps) where TAPS_ALONG_K, else its transpose.
template <class F, class T, bool TAPS_ALONG_K, bool DIVIDED> struct Patches {
  static constexpr int P = 16 / sizeof(F);
  const T* at;
  const Laid& laid;
  bool packed;  // pieces are aligned, and of one tap

  __device__ __forceinline__ Patches(const T* at, const Laid& laid)
      : at(at), laid(laid),
        packed(is_aligned(at, sizeof(T) * P) && laid.pitch % P == 0 && laid.channels.number % P == 0) {}

  template <int TO, int TK, int PITCH> struct Operand : Staged<F, T, TO, TK, PITCH, TAPS_ALONG_K> {
    using Base = Staged<F, T, TO, TK, PITCH, TAPS_ALONG_K>;
    const T* image;           // of the first of the spots, from the first channel of the group on
    u32 rest;                 // which spot of that image it is
    Spot spots[Base::COUNT];  // where the tile's rows are spots, these, counted from the first one of that image,
    Tap taps[Base::COUNT];    // else its taps: what stays the same along k

    __device__ __forceinline__ void start(const Patches& of, u32 part, i64 first, int, i64 k) {
      const Laid& laid = of.laid;
      i64 spot = TAPS_ALONG_K ? first : k, images = (u64)spot / (u64)laid.spots.number;
      image = of.at + images * laid.image_size + part % (u32)laid.groups * laid.channels.number;
      rest = (u32)(spot - images * laid.spots.number);
#pragma unroll
      for (int i = 0; i < Base::COUNT; i++) {
        int o, inner;
        Base::place(i, o, inner);
        if (TAPS_ALONG_K) {
          spots[i] = Spot(laid, rest + o);
        } else {
          taps[i] = Tap(laid, (u32)first + o);
        }
      }
    }

    __device__ __forceinline__ void load(const Patches& of, u32, i64, int outer, i64 k0, int inner) {
      const Laid& laid = of.laid;
#pragma unroll
      for (int i = 0; i < Base::COUNT; i++) {
        int o, k;
        Base::place(i, o, k);
        const Spot spot = TAPS_ALONG_K ? spots[i] : Spot(laid, rest + k);
        Tap tap = TAPS_ALONG_K ? Tap(laid, (u32)k0 + k) : taps[i];
        int left = o >= outer || k >= inner ? 0 : TAPS_ALONG_K ? inner - k : outer - o;
        const T* pixels = image + spot.images * laid.image_size;
        Base::held[i] = {};
        if (of.packed && left) {
          int pixel = pixel_of<DIVIDED>(laid, spot, tap);
          if (pixel >= 0) Base::held[i] = *(const Pack<T, P>*)(pixels + (pixel * laid.pitch + tap.channel));
        } else if (left) {
#pragma unroll
          for (int j = 0; j < P; j++) {
            int pixel = j < left ? pixel_of<DIVIDED>(laid, spot, tap) : -1;
            Base::held[i].at[j] = pixel >= 0 ? pixels[pixel * laid.pitch + tap.channel] : T(0);
            tap.advance(laid);
          }
        }
      }
      if (!TAPS_ALONG_K) {
        u32 images = laid.spots.of(rest + TK);
        image += images * laid.image_size;
        rest += TK - images * (u32)laid.spots.number;
      }
    }
  };
};

// The columns of a group of a matrix (K, groups * columns), as an operand.
template <class F, class T> struct GroupColumns {
  using All = Matrix<F, T, false>;
  All all;
  u32 groups;
  i64 columns;

  __device__ __forceinline__ GroupColumns(const T* at, i64 groups, i64 columns)
      : all(at, groups * columns), groups((u32)groups), columns(columns) {
    all.packed = all.packed && (groups == 1 || columns % All::P == 0);
  }

  template <int TO, int TK, int PITCH> struct Operand : All::template Operand<TO, TK, PITCH> {
    using Base = typename All::template Operand<TO, TK, PITCH>;
    __device__ __forceinline__ void start(const GroupColumns&, u32, i64, int, i64) {}
    __device__ __forceinline__ void load(const GroupColumns& of, u32 part, i64 first, int outer, i64 k, int inner) {
      Base::load(of.all, part, first + part % of.groups * of.columns, outer, k, inner);
    }
  };
};

// w (taps, C / groups, O) as an operand (columns C / groups, k), k the outputs of a group for every tap, from the last one on.
template <class F, class T> struct TurnedWeights {
  static constexpr int P = 16 / sizeof(F);
  const T* last;  // the last tap
  const Laid& laid;
  i64 channels;
  bool packed;

  __device__ __forceinline__ TurnedWeights(const T* w, const Laid& laid, i64 channels, i64 K)
      : last(w + (K - laid.channels.number) * channels * laid.groups), laid(laid), channels(channels),
        packed(is_aligned(w, sizeof(T) * P) && laid.channels.number % P == 0) {}

  template <int TO, int TK, int PITCH> struct Operand : Staged<F, T, TO, TK, PITCH, true> {
    using Base = Staged<F, T, TO, TK, PITCH, true>;
    __device__ __forceinline__ void start(const TurnedWeights&, u32, i64, int, i64) {}
    __device__ __forceinline__ void load(const TurnedWeights& of, u32 part, i64 first, int outer, i64 k0, int inner) {
      const Divisor& outputs = of.laid.channels;
      const T* group = of.last + part % (u32)of.laid.groups * outputs.number;
#pragma unroll
      for (int i = 0; i < Base::COUNT; i++) {
        int o, k;
        Base::place(i, o, k);
        u32 tap = outputs.of((u32)k0 + k), output = (u32)k0 + k - tap * (u32)outputs.number;
        const T* at = group + (first + o - tap * of.channels) * of.laid.pitch + output;
        int left = o >= outer || k >= inner ? 0 : inner - k;
        Base::held[i] = {};
        if (of.packed && left) {
          Base::held[i] = *(const Pack<T, P>*)at;
        } else if (left) {
#pragma unroll
          for (int j = 0; j < P; j++) {
            Base::held[i].at[j] = j < left ? *at : T(0);
            at++;
            if (++output == (u32)outputs.number) {
              output = 0;
              at -= of.channels * of.laid.pitch + outputs.number;
            }
          }
        }
      }
    }
  };
};

// Parts of `groups` products: part = split * groups + group, the inner axis in splits as always.
struct GroupSplits : Splits {
  u32 groups;
  __device__ __forceinline__ GroupSplits(i64 splits, i64 length, i64 K, u32 groups)
      : Splits{splits * groups, length, K}, groups(groups) {}
  __device__ __forceinline__ i64 begin(u32 part) const { return Splits::begin(part / groups); }
  __device__ __forceinline__ i64 end(u32 part) const { return Splits::end(part / groups); }
};

// part = (leaf * splits + split) * groups + group: an inner axis of K in leaves, and each of them in splits.
struct Leaves {
  i64 count, leaf, length, K;
  u32 splits, groups;
  __device__ __forceinline__ Leaves(i64 leaves, i64 splits, i64 leaf, i64 length, i64 K, u32 groups)
      : count(leaves * splits * groups), leaf(leaf), length(length), K(K), splits((u32)splits), groups(groups) {}
  __device__ __forceinline__ i64 begin(u32 part) const {
    u32 split = part / groups;
    return split / splits * leaf + split % splits * length;
  }
  __device__ __forceinline__ i64 end(u32 part) const {
    i64 behind_leaf = (part / groups / splits + 1) * leaf, behind_split = begin(part) + length;
    i64 end = behind_split < behind_leaf ? behind_split : behind_leaf;
    return end < K ? end : K;
  }
};

// y (M, O) = activation(the taps of x at each of M spots @ w (K, O) + b (O,)), N outputs in each group.
template <class F, int TM, int TN, int TK, class Activation, class X, class W, class V, class Y, class... Numbers>
__device__ void conv2d(Grid grid, const X* x, const W* w, const V* b, Y* y, i64 M, i64 N, i64 K, F alpha, Numbers... numbers) {
  const Laid laid{numbers...};
  const i64 pitch = N * laid.groups;
  auto write = [&](u32 part, i64 i, i64 j, F sum) {
    i64 column = part * N + j;
    y[i * pitch + column] = Y(Activation::forward(sum + F(b[column]), alpha));
  };
  tiles<F, TM, TN, TK, false>(grid, Patches<F, X, true, false>(x, laid), GroupColumns<F, W>(w, laid.groups, N), M, N,
                              GroupSplits(1, K, K, (u32)laid.groups), write, Unwritten());
}

// parts (splits, M, O): x @ w as above over each split of the inner axis.
template <class F, int TM, int TN, int TK, class X, class W, class... Numbers>
__device__ void conv2d_parts(Grid grid, const X* x, const W* w, F* parts, i64 M, i64 N, i64 K, i64 splits, i64 length,
                             Numbers... numbers) {
  const Laid laid{numbers...};
  auto write = [&](u32 part, i64 i, i64 j, F sum) {
    u32 split = part / (u32)laid.groups, group = part % (u32)laid.groups;
    parts[((split * M + i) * laid.groups + group) * N + j] = sum;
  };
  tiles<F, TM, TN, TK, false>(grid, Patches<F, X, true, false>(x, laid), GroupColumns<F, W>(w, laid.groups, N), M, N,
                              GroupSplits(splits, length, K, (u32)laid.groups), write, Unwritten());
}

// parts (splits, M, C): for each of M pixels, dz of the windows that it is in @ w turned round, over each split of the inner axis
// of K, N channels in each group. One split is dx itself.
template <class F, int TM, int TN, int TK, bool DIVIDED, class Z, class W, class X, class... Numbers>
__device__ void conv2d_backward_input(Grid grid, const Z* dz, const W* w, X* parts, i64 M, i64 N, i64 K, i64 splits, i64 length,
                                      Numbers... numbers) {
  const Laid laid{numbers...};
  auto write = [&](u32 part, i64 i, i64 j, F sum) {
    u32 split = part / (u32)laid.groups, group = part % (u32)laid.groups;
    parts[((split * M + i) * laid.groups + group) * N + j] = X(sum);
  };
  tiles<F, TM, TN, TK, false>(grid, Patches<F, Z, true, DIVIDED>(dz, laid), TurnedWeights<F, W>(w, laid, N, K), M, N,
                              GroupSplits(splits, length, K, (u32)laid.groups), write, Unwritten());
}

// rows (leaves * splits, M * O + O): dw, M taps and channels by O, then db, of each split of each leaf of the K spots, N outputs
// in each group.
template <class F, int TM, int TN, int TK, class X, class Z, class... Numbers>
__device__ void conv2d_backward_weight(Grid grid, const X* x, const Z* dz, F* rows, i64 M, i64 N, i64 K, i64 leaves, i64 splits,
                                       i64 leaf, i64 length, Numbers... numbers) {
  const Laid laid{numbers...};
  const i64 outputs = N * laid.groups, pitch = (M + 1) * outputs;
  auto write = [&](u32 part, i64 i, i64 j, F sum) {
    rows[part / (u32)laid.groups * pitch + i * outputs + part % (u32)laid.groups * N + j] = sum;
  };
  auto write_sum = [&](u32 part, i64 j, F sum) { write(part, M, j, sum); };
  tiles<F, TM, TN, TK, true>(grid, Patches<F, X, false, false>(x, laid), GroupColumns<F, Z>(dz, laid.groups, N), M, N,
                             Leaves(leaves, splits, leaf, length, K, (u32)laid.groups), write, write_sum);
}

// sums (leaves, size) = those of rows (leaves, splits, size) over the splits, in their order.
template <class F> __device__ void add_splits(Grid grid, const F* rows, F* sums, i64 leaves, i64 splits, i64 size) {
  for (i64 e = first_of(grid); e < leaves * size; e += stride_of(grid)) {
    const F* at = rows + e / size * splits * size + e % size;
    F sum = *at;
#pragma unroll 8
    for (i64 split = 1; split < splits; split++) sum += at[split * size];
    sums[e] = sum;
  }
}

// dx = sum of parts (splits, size).
template <class F, class X> __device__ void add_input_parts(Grid grid, const F* parts, X* dx, i64 splits, i64 size) {
  add_parts<F>(grid, parts, splits, size, [&](i64 e, F sum) { dx[e] = X(sum); });
}

// Depthwise: channel c makes the outputs c * each ... of w (taps, 1, O), each >= 1 of them.

// visit(tap, pixel) for the taps of a spot that lie in its image, in ascending order; `tall` rows of them.
template <bool DIVIDED, class V>
__device__ __forceinline__ void each_tap(const Laid& laid, const Spot& spot, int tall, const V& visit) {
  Tap tap = {};
  for (int i = 0, n = 0; i < tall; i++, tap.row += (int)laid.row_step) {
    tap.column = 0;
    for (int j = 0; j < (int)laid.wide.number; j++, n++, tap.column += (int)laid.column_step) {
      int pixel = pixel_of<DIVIDED>(laid, spot, tap);
      if (pixel >= 0) visit(n, pixel);
    }
  }
}

// The spot with this number, of all images, and the first number of its own one.
__device__ __forceinline__ Spot spot_at(const Laid& laid, i64 number, i64& image) {
  i64 images = (u64)number / (u64)laid.spots.number;
  image = images * laid.image_size;
  return Spot(laid, (u32)(number - images * laid.spots.number));
}

// A thread makes an element of y.
template <class F, class Activation, class X, class W, class V, class Y, class... Numbers>
__device__ void depthwise(Grid grid, const X* x, const W* w, const V* b, Y* y, i64 size, i64 each, i64 tall, F alpha,
                          Numbers... numbers) {
  const Laid laid{numbers...};
  const i64 outputs = laid.pitch * each;
  for (i64 e = first_of(grid); e < size; e += stride_of(grid)) {
    i64 number = (u64)e / (u64)outputs, output = e - number * outputs, image;
    const Spot spot = spot_at(laid, number, image);
    const X* at = x + image + (u32)output / (u32)each;
    F sum = 0;
    each_tap<false>(laid, spot, (int)tall,
                    [&](int tap, int pixel) { sum += F(at[pixel * laid.pitch]) * F(w[tap * outputs + output]); });
    y[e] = Y(Activation::forward(sum + F(b[output]), alpha));
  }
}

// A thread makes an element of dx.
template <class F, bool DIVIDED, class Z, class W, class X, class... Numbers>
__device__ void depthwise_backward_input(Grid grid, const Z* dz, const W* w, X* dx, i64 size, i64 each, i64 tall,
                                         Numbers... numbers) {
  const Laid laid{numbers...};
  const i64 outputs = laid.pitch;
  const int last = (int)tall * (int)laid.wide.number - 1;
  for (i64 e = first_of(grid); e < size; e += stride_of(grid)) {
    i64 number = (u64)e / (u64)laid.groups, first = (e - number * laid.groups) * each, image;
    const Spot spot = spot_at(laid, number, image);
    const Z* at = dz + image + first;
    F sum = 0;
    each_tap<DIVIDED>(laid, spot, (int)tall, [&](int tap, int pixel) {
      for (int o = 0; o < each; o++) sum += F(at[pixel * outputs + o]) * F(w[(last - tap) * outputs + first + o]);
    });
    dx[e] = X(sum);
  }
}

// rows (leaves, taps * O + O): a block makes WARP outputs of one tap of a leaf, or of db behind the taps; warps take the spots in
// turn, and what they have is added up. Shared memory: THREADS elements.
template <class F, class X, class Z, class... Numbers>
__device__ void depthwise_backward_weight(Grid grid, const X* x, const Z* dz, F* rows, i64 leaves, i64 taps, i64 each, i64 leaf,
                                          i64 K, Numbers... numbers) {
  const Laid laid{numbers...};
  const i64 outputs = laid.pitch * each;
  const u32 across = (u32)((outputs + WARP - 1) / WARP), down = (u32)taps + 1;
  F* sums = (F*)grid.shared;
  for (i64 work = grid.block; work < leaves * down * across; work += grid.blocks) {
    i64 row = (u64)work / across, begin = row / down * leaf, end = begin + leaf < K ? begin + leaf : K;
    i64 output = (work - row * across) * WARP + lane_of_warp(), number = row % down;
    F sum = 0;
    if (output < outputs) {
      const X* channel = x + (u64)begin / (u64)laid.spots.number * laid.image_size + (u32)output / (u32)each;
      const bool of_bias = number == taps;
      const Tap tap(laid, (u32)number);
      for (i64 k = begin + warp_of_block(); k < end; k += WARPS) {
        F slope = F(dz[k * outputs + output]);
        if (of_bias) {
          sum += slope;
          continue;
        }
        const Spot spot(laid, (u32)(k - begin));
        int pixel = pixel_of<false>(laid, spot, tap);
        if (pixel >= 0) sum += F(channel[spot.images * laid.image_size + pixel * laid.pitch]) * slope;
      }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp_of_block() == 0 && output < outputs) {
      for (int warp = 1; warp < WARPS; warp++) sum += sums[warp * WARP + threadIdx.x];
      rows[row / down * (down * outputs) + number * outputs + output] = sum;
    }
    __syncthreads();
  }
}

// The sum of `count` > 0 values at(0), at(1), ... in the tree of the leaves: that of the first 2^k, the largest power of two
// below their number, plus that of the others, and so on for both. Values are taken by EACH at once; of so many, sums of aligned
// runs wait for their neighbors as the digits of a counter do. There may be EACH * 2^LEVELS.
template <class F, int LEVELS, class At> __device__ __forceinline__ F sum_in_tree(i64 count, const At& at) {
  constexpr int EACH = 4;
  F waiting[LEVELS] = {};
  F sum = 0;
  u32 runs = (u32)((count + EACH - 1) / EACH);
  for (u32 run = 0; run < runs; run++) {
    F values[EACH];
    i64 first = (i64)run * EACH;
    int here = at_most<EACH>(count - first);
#pragma unroll
    for (int i = 0; i < EACH; i++) values[i] = i < here ? at(first + i) : F(0);
    F left = here > 1 ? values[0] + values[1] : values[0];
    sum = here > 3 ? left + (values[2] + values[3]) : here > 2 ? left + values[2] : left;
    if (run + 1 == runs) break;
    bool carries = true;
#pragma unroll
    for (int level = 0; level < LEVELS; level++) {
      bool waits = run >> level & 1;
      if (carries && waits) sum = waiting[level] + sum;
      if (carries && !waits) waiting[level] = sum;
      carries = carries && waits;
    }
  }
  // The last run: all that waits lies before it, the smaller the nearer.
#pragma unroll
  for (int level = 0; level < LEVELS; level++)
    if (runs - 1 >> level & 1) sum = waiting[level] + sum;
  return sum;
}

// (dw, db) of `split` and `size - split` elements = the sum of leaves (count, size) over its rows, in their tree. A thread adds
// up an aligned run of `run` rows, a power of two, the threads of a column in WARPS warps what these have. Shared memory:
// THREADS elements.
template <class F, class W, class V>
__device__ void add_leaves(Grid grid, const F* leaves, W* dw, V* db, i64 count, i64 size, i64 split, i64 run) {
  F* sums = (F*)grid.shared;
  for (i64 first = grid.block * WARP; first < size; first += grid.blocks * WARP) {
    i64 e = first + lane_of_warp(), row = warp_of_block() * run, rows = row < count ? min(run, count - row) : 0;
    if (e < size && rows) sums[threadIdx.x] = sum_in_tree<F, 24>(rows, [&](i64 i) { return leaves[(row + i) * size + e]; });
    __syncthreads();
    if (warp_of_block() == 0 && e < size) {
      i64 runs = (count + run - 1) / run;
      F sum = runs ? sum_in_tree<F, 1>(runs, [&](i64 i) { return sums[i * WARP + threadIdx.x]; }) : F(0);
      if (e < split) {
        dw[e] = W(sum);
      } else {
        db[e - split] = V(sum);
      }
    }
    __syncthreads();
  }
}
