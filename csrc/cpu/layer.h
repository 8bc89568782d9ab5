// A linear or convolution whose weights are ready: what its drivers share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "bitcompress/bits.h"
#include "geometry.h"
#include "kernels.h"
#include "landing.h"
#include "panel.h"
#include "reading.h"
#include "scratch.h"

struct bc_layer {
  bc_layer(const bc::Kernels& kernels, const bc_layer_spec& spec);

  const bc::Kernels& level = bc::kernels();  // that in use when it was made

  bool depthwise() const {
    return c.groups > 1 && c.groups == c.channels && c.filters == c.channels;
  }
  bc::Cutter cutter() const {
    const bool fast = !factor.empty();
    return {scale.data(), offset.data(), fast ? factor.data() : nullptr,
            static_cast<int64_t>(scale.size()), bc::top_code(bits)};
  }

  const bc::Kernels& k;
  const bc::Form& form;  // not looked at where depthwise
  bc_conv2d c;  // without a picture
  int bits;
  std::vector<float> scale, offset, factor;  // of the cut, a whole number of vectors
  bc::Grid left;
  std::vector<bc::Grid> right;    // [filters]
  bc::Reading reading;            // its constants are those of a place with all taps inside
  std::vector<int64_t> tap_sums;  // [filters][taps]
  std::vector<bc::Panel> panels;  // [groups], not where depthwise
  std::vector<int32_t> by_tap;    // depthwise: [taps][channels]
  std::vector<int8_t> by_column;  // depthwise by columns of four taps
};

namespace bc {

struct Picture {
  int64_t images, height, width, out_h, out_w;
  const bc_run& run;

  const float* reals() const { return static_cast<const float*>(run.x); }
  const uint8_t* codes() const { return static_cast<const uint8_t*>(run.x); }
};

// Rows of channels: a 1 x 1 kernel without stride or border on pictures with channels last.
void run_rows(const bc_layer& layer, const Picture& picture, int threads);

// Pixels that lie `pitch` apart side by side: x itself where they do, else a copy.
template <class T>
const T* close_up(const T* x, int64_t pixels, int64_t channels, int64_t pitch, T* scratch) {
  if (pitch == channels) return x;
  for (int64_t i = 0; i < pixels; ++i)
    std::copy_n(x + i * pitch, channels, scratch + i * channels);
  return scratch;
}

// Any convolution, by lines of the picture.
void run_lines(const bc_layer& layer, const Picture& picture, int threads);

// Reads rows of sums as reals; the border has other constants than the inside (see conv_reader.h).
class LineReader {
 public:
  LineReader(const bc_layer& layer, const Picture& picture);

  // Doubles of scratch for each thread.
  int64_t constants() const { return static_cast<int64_t>(classes_.size()) * layer_.c.filters; }

  // Taps [first, last) of one axis that lie inside.
  struct Range {
    int64_t first, last;
    bool operator==(const Range& other) const { return first == other.first && last == other.last; }
  };

  // Sums [out_w][filters] and code sums [out_w][groups] of row oy to reals, `pitch`
  // from place to place.
  // `constants` are those of the taps in `rows`, and made anew where row oy has others.
  void read(int64_t oy, const int32_t* sums, const int32_t* code_sums, double* constants,
            Range& rows, float* out, int64_t pitch) const;

 private:
  struct Class {
    Range taps;
    int64_t first, last;  // places
  };
  static Range inside(int64_t place, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                      int64_t dilation);
  void set_constants(const Range& rows, const Range& columns, double* constants) const;

  const bc_layer& layer_;
  int64_t height_;
  std::vector<Class> classes_;
};

}  // namespace bc
