// Where the taps of a convolution lie, and what its integer sums become.
#pragma once

#include "words.h"

namespace bc_cuda {

// The taps [first, last) of one axis that lie inside a picture of `size`; none where first >= last.
struct Taps {
  int first, last;
};
BC_HD Taps taps_inside(int64_t start, int64_t dilation, int64_t taps, int64_t size) {
  const int64_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int64_t end = size - start <= 0 ? 0 : (size - start + dilation - 1) / dilation;
  return {static_cast<int>(first < taps ? first : taps), static_cast<int>(end < taps ? end : taps)};
}

struct Picture {
  int64_t images, height, width, out_h, out_w;
  int64_t groups, filters, channels, words;  // filters and channels of a group
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;

  BC_HD int64_t rows() const { return images * out_h * out_w; }
  BC_HD int64_t row_words() const { return kernel_h * kernel_w * words; }

  struct Place {
    int64_t image, y, x;  // of the tap 0, 0; may lie outside
  };
  BC_HD Place place(int64_t row) const {
    const int64_t pixel = row % (out_h * out_w);
    return {row / (out_h * out_w), pixel / out_w * stride_h - pad_h, pixel % out_w * stride_w - pad_w};
  }
  // Word k of the taps of a place; a tap outside is 0.
  BC_HD uint32_t word(const uint32_t* x, const Place& p, int64_t group, int64_t k) const {
    const int tap = static_cast<int>(k / words), wide = static_cast<int>(kernel_w);
    const int64_t py = p.y + tap / wide * dilation_h, px = p.x + tap % wide * dilation_w;
    if (py < 0 || py >= height || px < 0 || px >= width) return 0;
    return x[(((p.image * height + py) * width + px) * groups + group) * words + k % words];
  }
};

// Sums of the codes of x over the taps of each row: [rows][groups].
template <class W>
struct TapSums {
  Picture p;
  const uint32_t* x;
  int32_t* out;

  BC_HD void operator()(int64_t i) const {
    const int64_t group = i % p.groups;
    const typename Picture::Place place = p.place(i / p.groups);
    int sum = 0;
    for (int64_t k = 0; k < p.row_words(); ++k) sum = W::total(p.word(x, place, group, k), sum);
    out[i] = sum;
  }
};

// What a convolution multiplies, by the names of tiles.h: batches are groups, rows places of the
// output, columns the filters of a group.
struct PictureOperands {
  Picture p;
  const uint32_t *x, *w;

  using Row = Picture::Place;
  BC_HD int64_t rows() const { return p.rows(); }
  BC_HD int64_t columns() const { return p.filters; }
  BC_HD int64_t length() const { return p.row_words(); }
  BC_HD Row row(int64_t, int64_t r) const { return p.place(r); }
  BC_HD uint32_t left(const Row& row, int64_t group, int64_t k) const { return p.word(x, row, group, k); }
  BC_HD uint32_t right(int64_t group, int64_t column, int64_t k) const {
    return w[(group * p.filters + column) * p.row_words() + k];
  }
};

// From integer sums to reals in memory, through the steps of the tail.
struct PictureReading {
  Picture p;
  const int32_t *x_sums, *w_sums;
  bc_cuda_numbers x_scale, x_offset, w_scale, w_offset, bias;
  Chain tail;
  void* out;
  int out_type;
  int64_t image_step, pixel_step, filter_step;
  bool rows_first;  // neighbouring pixels lie side by side in memory

  BC_HD void operator()(int64_t group, int64_t row, int64_t column, int32_t products) const {
    const Picture::Place place = p.place(row);
    const Taps ty = taps_inside(place.y, p.dilation_h, p.kernel_h, p.height);
    const Taps tx = taps_inside(place.x, p.dilation_w, p.kernel_w, p.width);
    const int64_t filter = group * p.filters + column, pitch = p.kernel_w + 1;
    Sums sums{products, x_sums[row * p.groups + group], 0, 0};
    if (ty.first < ty.last && tx.first < tx.last) {
      const int32_t* w = w_sums + filter * (p.kernel_h + 1) * pitch;
      sums.w = w[ty.last * pitch + tx.last] - w[ty.first * pitch + tx.last] - w[ty.last * pitch + tx.first] +
               w[ty.first * pitch + tx.first];
      sums.terms = static_cast<int64_t>(ty.last - ty.first) * (tx.last - tx.first) * p.channels;
    }
    double real = affine(sums, at(x_scale, 0), at(x_offset, 0), one_of(w_scale, filter), one_of(w_offset, filter));
    real = add(real, bias.data != nullptr ? static_cast<double>(at(bias, filter)) : 0.0);
    const float read = tail(static_cast<float>(real), row, filter);
    const int64_t pixel = row % (p.out_h * p.out_w);
    put(out, out_type, place.image * image_step + pixel * pixel_step + filter * filter_step, read);
  }
};

}  // namespace bc_cuda
