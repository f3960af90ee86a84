// Pooling of images (B, H, W, C) over windows of pixels. A thread makes an element of what is written.
#include "common.cuh"

// Images of height x width pixels, rows x columns windows of tall x wide pixels, each down and right of the one before.
struct Windows {
  i64 height, width, channels, rows, columns, tall, wide, down, right, top, left;
};

// An element of images (B, H, W, C) by its number.
struct Place {
  i64 image;
  int row, column;
  i64 channel;
  __device__ __forceinline__ Place(i64 element, i64 height, i64 width, i64 channels) {
    u64 pixel = (u64)element / (u64)channels, line = pixel / (u64)width;
    channel = element - (i64)pixel * channels;
    column = (int)(pixel - line * width);
    image = line / (u64)height;
    row = (int)(line - (u64)image * height);
  }
};

// visit(place in the window, element of x) for the pixels of a window that lie in the image, row by row.
template <class V> __device__ __forceinline__ void each_pixel(const Windows& w, const Place& at, V visit) {
  int row = int(at.row * w.down - w.top), column = int(at.column * w.right - w.left);
  int last_row = int(row + w.tall < w.height ? w.tall : w.height - row);
  int last_column = int(column + w.wide < w.width ? w.wide : w.width - column);
  int first_column = column < 0 ? -column : 0;
  for (int r = row < 0 ? -row : 0; r < last_row; r++)
    for (int c = first_column; c < last_column; c++)
      visit(r * int(w.wide) + c, ((at.image * w.height + row + r) * w.width + column + c) * w.channels + at.channel);
}

// How many pixels of a window along an axis lie in the image.
__device__ __forceinline__ int pixels_of(int start, int size, int length) {
  return (start + size < length ? start + size : length) - (start > 0 ? start : 0);
}

// visit(place in the window, element of y, pixels of the window that lie in the image) for the windows that a pixel is in.
template <class V> __device__ __forceinline__ void each_window(const Windows& w, const Place& at, V visit) {
  int row = int(at.row + w.top), column = int(at.column + w.left), down = int(w.down), right = int(w.right);
  int first_row = row < w.tall ? 0 : (row - int(w.tall) + down) / down;
  int first_column = column < w.wide ? 0 : (column - int(w.wide) + right) / right;
  for (int r = first_row; r < w.rows && r * down <= row; r++) {
    int tall = pixels_of(r * down - int(w.top), int(w.tall), int(w.height));
    for (int c = first_column; c < w.columns && c * right <= column; c++) {
      i64 window = ((at.image * w.rows + r) * w.columns + c) * w.channels + at.channel;
      int wide = pixels_of(c * right - int(w.left), int(w.wide), int(w.width));
      visit((row - r * down) * int(w.wide) + column - c * right, window, tall * wide);
    }
  }
}

// The largest pixel of each window, and which it is: the first of equal ones; NaN is the largest.
template <class F, class X, class Y, class... Numbers>
__device__ void max_pool2d(Grid grid, const X* x, Y* y, u8* places, i64 size, Numbers... numbers) {
  const Windows w{numbers...};
  for (i64 element = first_of(grid); element < size; element += stride_of(grid)) {
    F most = 0;
    int found = -1;
    each_pixel(w, Place(element, w.rows, w.columns, w.channels), [&](int place, i64 pixel) {
      F value = F(x[pixel]);
      if (found < 0 || value > most || (is_nan(value) && !is_nan(most))) {
        most = value;
        found = place;
      }
    });
    y[element] = Y(most);
    places[element] = (u8)found;
  }
}

template <class F, class D, class X, class... Numbers>
__device__ void max_pool2d_backward(Grid grid, const D* dy, const u8* places, X* dx, i64 size, Numbers... numbers) {
  const Windows w{numbers...};
  for (i64 element = first_of(grid); element < size; element += stride_of(grid)) {
    F sum = 0;
    each_window(w, Place(element, w.height, w.width, w.channels), [&](int place, i64 window, int) {
      if (places[window] == place) sum += F(dy[window]);
    });
    dx[element] = X(sum);
  }
}

template <class F, class X, class Y, class... Numbers>
__device__ void mean_pool2d(Grid grid, const X* x, Y* y, i64 size, Numbers... numbers) {
  const Windows w{numbers...};
  for (i64 element = first_of(grid); element < size; element += stride_of(grid)) {
    F sum = 0;
    int pixels = 0;
    each_pixel(w, Place(element, w.rows, w.columns, w.channels), [&](int, i64 pixel) {
      sum += F(x[pixel]);
      pixels++;
    });
    y[element] = Y(sum / F(pixels));
  }
}

template <class F, class D, class X, class... Numbers>
__device__ void mean_pool2d_backward(Grid grid, const D* dy, X* dx, i64 size, Numbers... numbers) {
  const Windows w{numbers...};
  for (i64 element = first_of(grid); element < size; element += stride_of(grid)) {
    F sum = 0;
    each_window(w, Place(element, w.height, w.width, w.channels),
                [&](int, i64 window, int pixels) { sum += F(dy[window]) / F(pixels); });
    dx[element] = X(sum);
  }
}

// The root of the sum of the squares of each window's pixels.
template <class F, class X, class Y, class... Numbers>
__device__ void l2_pool2d(Grid grid, const X* x, Y* y, i64 size, Numbers... numbers) {
  const Windows w{numbers...};
  for (i64 element = first_of(grid); element < size; element += stride_of(grid)) {
    F sum = 0;
    each_pixel(w, Place(element, w.rows, w.columns, w.channels), [&](int, i64 pixel) { sum += F(x[pixel]) * F(x[pixel]); });
    y[element] = Y(sqrt(sum));
  }
}

template <class F, class D, class X, class Y, class S, class... Numbers>
__device__ void l2_pool2d_backward(Grid grid, const D* dy, const X* x, const Y* y, S* dx, i64 size, Numbers... numbers) {
  const Windows w{numbers...};
  for (i64 element = first_of(grid); element < size; element += stride_of(grid)) {
    F sum = 0;
    each_window(w, Place(element, w.height, w.width, w.channels), [&](int, i64 window, int) {
      F norm = F(y[window]);
      if (norm != 0) sum += F(dy[window]) / norm;
    });
    dx[element] = S(sum * F(x[element]));
  }
}
