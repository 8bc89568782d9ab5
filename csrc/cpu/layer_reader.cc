// Sums of a row of places to reals; see layer.h.
#include <algorithm>

#include "layer.h"

namespace bc {

LineReader::LineReader(const bc_layer& layer, const Picture& picture)
    : layer_(layer), height_(picture.height) {
  const bc_conv2d& c = layer.c;
  for (int64_t ox = 0; ox < picture.out_w; ++ox) {
    const Range taps = inside(ox, picture.width, c.kernel_w, c.stride_w, c.pad_w, c.dilation_w);
    if (classes_.empty() || !(classes_.back().taps == taps)) classes_.push_back({taps, ox, ox});
    ++classes_.back().last;
  }
}

LineReader::Range LineReader::inside(int64_t place, int64_t size, int64_t kernel, int64_t stride,
                                     int64_t pad, int64_t dilation) {
  const int64_t start = place * stride - pad;  // where tap 0 reads
  const int64_t first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  const int64_t last = start >= size ? 0 : (size - 1 - start) / dilation + 1;
  return {std::min(first, kernel), std::max(std::min(first, kernel), std::min(last, kernel))};
}

void LineReader::set_constants(const Range& rows, const Range& columns, double* constants) const {
  const bc_conv2d& c = layer_.c;
  const int64_t terms =
      (rows.last - rows.first) * (columns.last - columns.first) * group_channels(c);
  for (int64_t o = 0; o < c.filters; ++o) {
    const int64_t* of_filter = layer_.tap_sums.data() + o * taps(c);
    int64_t sum = 0;
    for (int64_t ty = rows.first; ty < rows.last; ++ty) {
      for (int64_t tx = columns.first; tx < columns.last; ++tx) sum += of_filter[ty * c.kernel_w + tx];
    }
    constants[o] = Reading::constant_of(layer_.left, layer_.right[static_cast<size_t>(o)], sum, terms);
  }
}

void LineReader::read(int64_t oy, const int32_t* sums, const int32_t* code_sums, double* constants,
                      Range& rows, float* out, int64_t pitch) const {
  const bc_conv2d& c = layer_.c;
  const Range here = inside(oy, height_, c.kernel_h, c.stride_h, c.pad_h, c.dilation_h);
  const Range all_h{0, c.kernel_h}, all_w{0, c.kernel_w};
  const int64_t each = group_filters(c);
  if (!(here == rows)) {
    double* at = constants;
    for (const Class& place : classes_) {
      if (!(here == all_h && place.taps == all_w)) set_constants(here, place.taps, at);
      at += c.filters;
    }
    rows = here;
  }
  const double* of_class = constants;
  for (const Class& place : classes_) {
    const bool whole = here == all_h && place.taps == all_w;
    const double* constant = whole ? layer_.reading.constant.data() : of_class;
    of_class += c.filters;
    const Reading& r = layer_.reading;
    const int64_t first = place.first, count = place.last - first;
    if (each == 1) {
      for (int64_t ox = first; ox < place.last; ++ox) {
        layer_.k.read_each(sums + ox * c.filters, c.filters, code_sums + ox * c.filters,
                           r.product.data(), r.row.data(), constant, r.bias.data(),
                           out + ox * pitch);
      }
      continue;
    }
    for (int64_t g = 0, o = 0; g < c.groups; ++g, o += each) {
      const Readout readout{r.product.data() + o, r.row.data() + o, constant + o, r.bias.data() + o};
      layer_.k.read_rows(readout, count, each, sums + first * c.filters + o, c.filters,
                         code_sums + first * c.groups + g, c.groups, out + first * pitch + o, pitch);
    }
  }
}

}  // namespace bc
