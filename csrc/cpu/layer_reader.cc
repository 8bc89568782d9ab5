// Sums of a row of places to reals; see layer.h.
#include <algorithm>

#include "layer.h"

namespace bc {

LineReader::LineReader(const bc_layer& layer, const Picture& picture, const Landing& landing)
    : layer_(layer),
      landing_(landing),
      height_(picture.height),
      out_h_(picture.out_h),
      out_w_(picture.out_w),
      class_bytes_(Scratch::bytes<double>(layer.c.filters + (layer.c.filters + 2) / 2)) {
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

// The first class is that of all taps inside.
void LineReader::prepare(uint8_t* memory) const {
  *reinterpret_cast<Range*>(memory) = {-1, -1};
  double* whole = reinterpret_cast<double*>(memory + Scratch::bytes<Range>(1));
  const Reading& r = layer_.reading;
  std::copy(r.constant.begin(), r.constant.end(), whole);
  landing_.fold(whole, r.bias.data(), folded(whole));
}

void LineReader::read(int64_t image, int64_t oy, int64_t first, int64_t last, const Row& row,
                      uint8_t* memory, float* scratch) const {
  const bc_conv2d& c = layer_.c;
  const Range here = inside(oy, height_, c.kernel_h, c.stride_h, c.pad_h, c.dilation_h);
  const Range all_h{0, c.kernel_h}, all_w{0, c.kernel_w};
  Range& rows = *reinterpret_cast<Range*>(memory);
  uint8_t* next = memory + Scratch::bytes<Range>(1);
  double* whole = reinterpret_cast<double*>(next);
  const bool anew = !(here == rows);
  rows = here;
  const int64_t line = (image * out_h_ + oy) * out_w_;
  for (const Class& place : classes_) {
    next += class_bytes_;
    const bool inner = here == all_h && place.taps == all_w;
    double* constants = inner ? whole : reinterpret_cast<double*>(next);
    if (anew && !inner) {
      set_constants(here, place.taps, constants);
      landing_.fold(constants, layer_.reading.bias.data(), folded(constants));
    }
    const int64_t from = std::max(place.first, first), to = std::min(place.last, last);
    if (from >= to) continue;
    const Row part{row.sums + (from - first) * row.stride, row.stride,
                   row.code_sums + (from - first) * row.code_stride, row.code_stride};
    read_class(line + from, to - from, part, constants, folded(constants),
               scratch + (from - first) * c.filters);
  }
  landing_.land(line + first, last - first, scratch);
}

void LineReader::read_class(int64_t pixel, int64_t count, const Row& row, const double* constant,
                            const float* folded, float* scratch) const {
  const bc_conv2d& c = layer_.c;
  const int64_t each = group_filters(c);
  if (layer_.depthwise()) {
    float* out = landing_.place(pixel, scratch);
    const Readout r = layer_.readout(0, constant);
    for (int64_t i = 0; i < count; ++i) {
      layer_.k.read_each(row.sums + i * row.stride, c.filters, row.code_sums + i * row.code_stride,
                         r.product, r.row, r.constant, r.bias, out + i * landing_.pitch());
    }
    return;
  }
  for (int64_t g = 0, o = 0; g < c.groups; ++g, o += each) {
    landing_.read(layer_.readout(o, constant), folded,
                  {pixel, count, o, each, row.sums + o, row.stride, row.code_sums + g,
                   row.code_stride},
                  scratch);
  }
}

}  // namespace bc
