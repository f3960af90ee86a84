// Images changed at random. Every product that is added to something is rounded first, so that the bits are those of the
// definition, fastnn_kernels/numpy/augment.py.
#include "functions.cuh"
#include "philox.cuh"

constexpr int AFFINE = 8;         // numbers of a row of transforms before the displacements
constexpr int DRAWN_BLOCKS = 3;   // Philox blocks that they take
constexpr double UNIT = 1.0 / (1 << 24);

// a x + b, rounded twice.
template <class F> __device__ __forceinline__ F linear(F a, F x, F b) { return rounded(a * x) + b; }

template <int N> __device__ __forceinline__ double polynomial(const double (&coefficients)[N], double x) {
  double total = coefficients[N - 1];
#pragma unroll
  for (int k = N - 2; k >= 0; k--) total = linear(total, x, coefficients[k]);
  return total;
}

// Of an angle from -1/2 to 1/2 turn: the Taylor series around the nearest quarter of a turn.
__device__ __forceinline__ void sine_and_cosine(double turns, double& sine, double& cosine) {
  constexpr double SINE[] = {1.5707963267948966,     -0.6459640975062463,    0.07969262624616705,   -0.004681754135318688,
                             0.00016044118478735983, -3.598843235212085e-06, 5.692172921967927e-08, -6.688035109811468e-10};
  constexpr double COSINE[] = {1.0,
                               -1.2337005501361697,
                               0.25366950790104803,
                               -0.02086348076335296,
                               0.0009192602748394266,
                               -2.5202042373060607e-05,
                               4.710874778818172e-07,
                               -6.386603083791852e-09,
                               6.565963114979473e-11};
  const double quarter = floor(4.0 * turns + 0.5), rest = 4.0 * turns - quarter;
  const double square = rounded(rest * rest), s = rest * polynomial(SINE, square), c = polynomial(COSINE, square);
  const bool beside = fabs(quarter) == 1.0, behind = fabs(quarter) == 2.0;
  sine = beside ? quarter * c : behind ? -s : s;
  cosine = beside ? -quarter * s : behind ? -c : c;
}

// What a row of transforms is made of, beside its displacements. `ranges`: the least and the width of each number drawn.
template <class T>
__device__ __forceinline__ void draw_affine(T* to, const u32 (&words)[4 * DRAWN_BLOCKS], const double* ranges, double row,
                                            double column, double pivot) {
  const auto drawn = [&](int k) { return linear(ranges[2 * k + 1], (words[k] >> 8) * UNIT, ranges[2 * k]); };
  double sine, cosine, opposite, adjacent;
  sine_and_cosine(drawn(0), sine, cosine);
  sine_and_cosine(drawn(4), opposite, adjacent);
  const double shear = opposite / adjacent, zoom = drawn(1), flip_rows = drawn(5) < 0 ? -1 : 1;
  const double flip_columns = drawn(6) < 0 ? -1 : 1, from_row = row + drawn(2), from_column = column + drawn(3);
  const double m00 = flip_rows * (cosine / zoom), m01 = flip_rows * (sine / zoom);
  const double m10 = flip_columns * ((-sine - rounded(shear * cosine)) / zoom);
  const double m11 = flip_columns * ((cosine - rounded(shear * sine)) / zoom);
  const double m02 = row - (rounded(m00 * from_row) + rounded(m01 * from_column));
  const double m12 = column - (rounded(m10 * from_row) + rounded(m11 * from_column));
  const double gain = drawn(7), offset = (pivot - rounded(gain * pivot)) + drawn(8);
  const double numbers[AFFINE] = {m00, m01, m02, m10, m11, m12, gain, offset};
#pragma unroll
  for (int k = 0; k < AFFINE; k++) to[k] = T(numbers[k]);
}

// A thread draws the affine map of an example, or four of its displacements.
template <class F, class T, class... Ranges>
__device__ void draw_transforms(Grid grid, const i64* step, i64 ahead, T* transforms, i64 examples, i64 columns, i64 k0, i64 k1,
                                double row, double column, double pivot, F amplitude, Ranges... bounds) {
  const double ranges[] = {bounds...};
  const u64 count = *step + ahead;
  const i64 tasks = 1 + (columns - AFFINE + 3) / 4, blocks = tasks + DRAWN_BLOCKS - 1;
  const auto draw = [&](u64 n) { return philox((u32)n, (u32)(n >> 32), (u32)count, (u32)(count >> 32), (u32)k0, (u32)k1); };
  for (i64 i = first_of(grid); i < examples * tasks; i += stride_of(grid)) {
    const i64 example = i / tasks, task = i - example * tasks;
    T* to = transforms + example * columns;
    if (task == 0) {
      u32 words[4 * DRAWN_BLOCKS];
#pragma unroll
      for (int block = 0; block < DRAWN_BLOCKS; block++) {
        const Words four = draw(example * blocks + block);
#pragma unroll
        for (int k = 0; k < 4; k++) words[4 * block + k] = four.at[k];
      }
      draw_affine(to, words, ranges, row, column, pivot);
      continue;
    }
    const Words four = draw(example * blocks + DRAWN_BLOCKS - 1 + task);
    const i64 first = AFFINE + 4 * (task - 1);
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (first + k < columns) to[first + k] = T(amplitude * (F(2 * UNIT) * F(four.at[k] >> 8) - F(1)));
  }
}

// The weights of the four control points around a place `t` behind the second of them.
template <class F> struct Spline {
  F at[4];
  __device__ __forceinline__ Spline(F t) {
    const F s = 1 - t, tt = t * t, ss = s * s, sixth = F(1.0 / 6);
    at[0] = ss * s * sixth;
    at[1] = (4 - rounded((6 - rounded(3 * t)) * tt)) * sixth;
    at[2] = (4 - rounded((6 - rounded(3 * s)) * ss)) * sixth;
    at[3] = tt * t * sixth;
  }
  template <class G> __device__ __forceinline__ F of(G values) const {
    F sum = rounded(at[0] * values(0));
#pragma unroll
    for (int k = 1; k < 4; k++) sum += rounded(at[k] * values(k));
    return sum;
  }
};

template <class F> __device__ __forceinline__ F clipped(F x, F low, F high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// A block handles THREADS pixels of an example at a time. `points`: control points of a row of them.
template <class F, class X, class T, class Y>
__device__ void transform_images(Grid grid, const X* x, const T* transforms, Y* y, i64 examples, i64 height, i64 width,
                                 i64 channels, i64 columns, i64 spacing, i64 points, F fill, bool edge) {
  const i64 pixels = height * width, pieces = (pixels + THREADS - 1) / THREADS;
  const F first = edge ? 0 : -1, beyond = edge ? 1 : 0;
  for (i64 piece = grid.block; piece < examples * pieces; piece += grid.blocks) {
    const i64 example = piece / pieces, pixel = (piece - example * pieces) * THREADS + threadIdx.x;
    if (pixel >= pixels) continue;
    const int r = (int)((u32)pixel / (u32)width), c = (int)((u32)pixel % (u32)width);
    const T* m = transforms + example * columns;
    F u = rounded(F(m[0]) * F(r)) + rounded(F(m[1]) * F(c)) + F(m[2]);
    F v = rounded(F(m[3]) * F(r)) + rounded(F(m[4]) * F(c)) + F(m[5]);
    if (spacing) {
      const int every = (int)spacing;
      const Spline<F> down(F(r % every) / F(every)), right(F(c % every) / F(every));
      const T* grid_points = m + AFFINE + 2 * (r / every * points + c / every);
      const auto displacement = [&](int axis) {
        return down.of([&](int p) { return right.of([&](int q) { return F(grid_points[2 * (p * points + q) + axis]); }); });
      };
      u += displacement(0);
      v += displacement(1);
    }
    u = clipped(u, first, F(height) - beyond);
    v = clipped(v, first, F(width) - beyond);
    const int i = (int)floor(u), j = (int)floor(v);
    const F share_down = u - F(i), share_right = v - F(j);
    const X* image = x + example * pixels * channels;
    for (i64 channel = 0; channel < channels; channel++) {
      const auto at = [&](int row, int column) {
        return row >= 0 && row < height && column >= 0 && column < width
                   ? F(image[(row * width + column) * channels + channel]) : fill;
      };
      const auto between = [](F a, F b, F share) { return linear(share, b - a, a); };
      const F above = between(at(i, j), at(i, j + 1), share_right);
      const F below = between(at(i + 1, j), at(i + 1, j + 1), share_right);
      y[(example * pixels + pixel) * channels + channel] = Y(linear(between(above, below, share_down), F(m[6]), F(m[7])));
    }
  }
}
