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
      class_bytes_(Scratch::bytes<double>(layer.c.filters) +
                   Scratch::bytes<float>(layer.c.filters) + landing.folded_bytes()),
      class_count_(find_classes(layer.c, picture, nullptr)),
      memory_(Scratch::bytes<Class>(class_count_)),
      classes_(memory_.part<Class>(class_count_)) {
  find_classes(layer.c, picture, classes_);
}

int64_t LineReader::find_classes(const bc_conv2d& c, const Picture& picture, Class* classes) {
  int64_t count = 0;
  Range taps{-1, -1};
  for (int64_t ox = 0; ox < picture.out_w; ++ox) {
    const Range here = inside(ox, picture.width, c.kernel_w, c.stride_w, c.pad_w, c.dilation_w);
    if (!(here == taps)) {
      taps = here;
      if (classes != nullptr) classes[count] = {taps, ox, ox};
      ++count;
    }
    if (classes != nullptr) ++classes[count - 1].last;
  }
  return count;
}

LineReader::Range LineReader::inside(int64_t place, int64_t size, int64_t kernel, int64_t stride,
                                     int64_t pad, int64_t dilation) {
  const int64_t start = place * stride - pad;  // where tap 0 reads
  const int64_t first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  const int64_t last = start >= size ? 0 : (size - 1 - start) / dilation + 1;
  return {std::min(first, kernel), std::max(std::min(first, kernel), std::min(last, kernel))};
}

LineReader::Kept LineReader::kept(uint8_t* memory) const {
  Parts parts(memory);
  const int64_t all = class_count_ + 1;
  Kept k{};
  k.rows = parts.part<Range>(1);
  k.folded = parts.part<Folded>(all);
  k.bases = parts.part<const float*>(all);
  k.constants = parts.part<uint8_t>(all * class_bytes_);
  return k;
}

// codes: how many codes a sum has.
void LineReader::fold(const Kept& k, int64_t i, double codes) const {
  double* constant = constants(k, i);
  uint8_t* memory = reinterpret_cast<uint8_t*>(constant) +
                    Scratch::bytes<double>(layer_.c.filters);
  float* base = reinterpret_cast<float*>(memory);
  memory += Scratch::bytes<float>(layer_.c.filters);
  k.bases[i] = layer_.whole.set(constant, layer_.most_sums.data(), base) ? base : nullptr;
  k.folded[i] = landing_.fold(
      layer_.readout(0, constant, k.bases[i]),
      {layer_.most_sums.data(), static_cast<double>(top_code(layer_.bits)) * codes}, memory);
}

void LineReader::set_constants(const Range& rows, const Range& columns, const Kept& k,
                               int64_t i) const {
  const bc_conv2d& c = layer_.c;
  const int64_t terms =
      (rows.last - rows.first) * (columns.last - columns.first) * group_channels(c);
  double* constant = constants(k, i);
  for (int64_t o = 0; o < c.filters; ++o) {
    const int64_t* of_filter = layer_.tap_sums.data() + o * taps(c);
    int64_t sum = 0;
    for (int64_t ty = rows.first; ty < rows.last; ++ty) {
      for (int64_t tx = columns.first; tx < columns.last; ++tx) sum += of_filter[ty * c.kernel_w + tx];
    }
    constant[o] = Reading::constant_of(layer_.left, layer_.right[static_cast<size_t>(o)], sum, terms);
  }
  fold(k, i, static_cast<double>(terms));
}

void LineReader::prepare(uint8_t* memory) const {
  const Kept k = kept(memory);
  *k.rows = {-1, -1};
  const std::vector<double>& constant = layer_.reading.constant;
  std::copy(constant.begin(), constant.end(), constants(k, class_count_));
  fold(k, class_count_, static_cast<double>(taps(layer_.c) * group_channels(layer_.c)));
}

void LineReader::read(int64_t image, int64_t oy, int64_t first, int64_t last, const Row& row,
                      uint8_t* memory, float* scratch) const {
  const bc_conv2d& c = layer_.c;
  const Range here = inside(oy, height_, c.kernel_h, c.stride_h, c.pad_h, c.dilation_h);
  const Range all_h{0, c.kernel_h}, all_w{0, c.kernel_w};
  const Kept k = kept(memory);
  const bool anew = !(here == *k.rows);
  *k.rows = here;
  const int64_t line = (image * out_h_ + oy) * out_w_;
  for (int64_t i = 0; i < class_count_; ++i) {
    const Class& place = classes_[i];
    const bool inner = here == all_h && place.taps == all_w;
    if (anew && !inner) set_constants(here, place.taps, k, i);
    const int64_t from = std::max(place.first, first), to = std::min(place.last, last);
    if (from >= to) continue;
    const Row part{row.sums + (from - first) * row.stride, row.stride,
                   row.code_sums + (from - first) * row.code_stride, row.code_stride};
    const int64_t at = inner ? class_count_ : i;
    read_class(line + from, to - from, part, k, at, scratch + (from - first) * c.filters);
  }
  landing_.land(line + first, last - first, scratch);
}

void LineReader::read_class(int64_t pixel, int64_t count, const Row& row, const Kept& k, int64_t i,
                            float* scratch) const {
  const bc_conv2d& c = layer_.c;
  const bool whole = layer_.depthwise();  // its code sums are those of elements
  const int64_t groups = whole ? 1 : c.groups, each = c.filters / groups;
  for (int64_t g = 0, o = 0; g < groups; ++g, o += each) {
    landing_.read(layer_.readout(o, constants(k, i), k.bases[i]), k.folded[i],
                  {pixel, count, o, each, row.sums + o, row.stride, row.code_sums + g,
                   row.code_stride},
                  scratch);
  }
}

}  // namespace bc
