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

  bc::RowCutter row_cutter() const {
    const bool fast = !factor.empty();
    const float tie = fast ? 0.5f - (bc::top_code(bits) + 1.0f) * 9.5367431640625e-7f : -1.0f;
    return {scale.data(), offset.data(), factor.data(), least.data(), top.data(), tie, compares};
  }

  // Rows of the reals that it takes to codes.
  void cut(const float* x, int64_t rows, int64_t pitch, uint8_t* out, int64_t out_pitch) const;
  // Of filters from o on, with the constants of some place, and those of its whole reading or null.
  bc::Readout readout(int64_t o, const double* constant, const float* base) const {
    return {reading.product.data() + o, reading.row.data() + o, constant + o,
            reading.bias.data() + o, has_row, has_bias, depthwise(),
            base == nullptr ? nullptr : whole.unit.data() + o,
            base == nullptr ? nullptr : base + o, whole.share};
  }
  // Where all taps are inside.
  bc::Readout readout() const {
    return readout(0, reading.constant.data(), base.empty() ? nullptr : base.data());
  }
  // Whether sums of codes are added up outside of the product.
  bool adds_up() const { return (has_row || shifts) && !ones && !depthwise(); }
  // Columns of a panel: the filters of a group, and where `ones` a last one that adds up the codes.
  int64_t columns() const { return c.filters / c.groups + (ones ? 1 : 0); }
  // Elements from one row of sums to the next, whole vectors.
  int64_t sums_stride() const {
    return ones ? (columns() + 15) / 16 * 16 : c.filters;
  }

  const bc::Kernels& k;
  const bc::Form& form;  // not looked at where depthwise
  bc_conv2d c;  // without a picture
  int bits;
  std::vector<float> scale, offset, factor;  // of the cut, a whole number of vectors and of pixels
  std::vector<uint8_t> least, top;           // likewise, codes
  bool compares;                             // no grid of the cut has a step
  bc::Grid left;
  std::vector<bc::Grid> right;    // [filters]
  bc::Reading reading;            // its constants are those of a place with all taps inside
  bc::WholeReading whole;
  std::vector<float> base;        // of it, with all taps inside; none where it is not exact
  std::vector<int64_t> tap_sums;  // [filters][taps]
  std::vector<double> most_sums;  // [filters]: no sum of products is larger
  double most_codes;              // no sum of codes is larger
  bool has_row, has_bias;         // see Readout
  bool shifts;                    // some panel holds codes - 128
  bool ones;
  std::vector<bc::Panel> panels;  // [groups], not where depthwise
  std::vector<int32_t> by_tap;    // depthwise: [taps][channels]
  std::vector<int8_t> by_column;  // depthwise by columns of four taps
  bool shifted_columns = false;   // they are codes - 128
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

// Reads rows of sums to where they land; the border has other constants than the inside (see
// conv_reader.h).
class LineReader {
 public:
  LineReader(const bc_layer& layer, const Picture& picture, const Landing& landing);

  // Bytes of scratch for each thread.
  int64_t bytes() const {
    const int64_t all = class_count_ + 1;
    return Scratch::bytes<uint8_t>(all * class_bytes_) + Scratch::bytes<Range>(1) +
           Scratch::bytes<Folded>(all) + Scratch::bytes<const float*>(all);
  }
  void prepare(uint8_t* memory) const;

  // Sums of places, `stride` from one to the next, and of their codes.
  struct Row {
    const int32_t* sums;
    int64_t stride;
    const int32_t* code_sums;
    int64_t code_stride;
  };
  // Places [first, last) of row oy, by way of scratch [last - first][filters]. `memory` was
  // prepared, and holds constants that are made anew where row oy has others.
  void read(int64_t image, int64_t oy, int64_t first, int64_t last, const Row& row,
            uint8_t* memory, float* scratch) const;

 private:
  // Taps [first, last) of one axis that lie inside.
  struct Range {
    int64_t first, last;
    bool operator==(const Range& other) const { return first == other.first && last == other.last; }
  };
  struct Class {
    Range taps;
    int64_t first, last;  // places
  };
  // Classes of places one after the other to `classes`, or null; gives how many they are.
  static int64_t find_classes(const bc_conv2d& c, const Picture& picture, Class* classes);
  static Range inside(int64_t place, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                      int64_t dilation);
  // What a thread keeps of each class, the last being that of all taps inside.
  struct Kept {
    Range* rows;  // whose constants they are
    Folded* folded;
    uint8_t* constants;
    const float** bases;  // of whole readings; null where they are not exact
  };
  Kept kept(uint8_t* memory) const;
  double* constants(const Kept& kept, int64_t i) const {
    return reinterpret_cast<double*>(kept.constants + i * class_bytes_);
  }
  void set_constants(const Range& rows, const Range& columns, const Kept& kept, int64_t i) const;
  void fold(const Kept& kept, int64_t i, double codes) const;
  // By the constants of class i.
  void read_class(int64_t pixel, int64_t count, const Row& row, const Kept& kept, int64_t i,
                  float* scratch) const;

  const bc_layer& layer_;
  const Landing& landing_;
  int64_t height_, out_h_, out_w_, class_bytes_;
  int64_t class_count_;
  Scratch memory_;
  Class* classes_;  // [class_count_]
};

}  // namespace bc
