// A convolution, a few lines of the picture at a time.
//
// A task cuts its input lines into codes, with a border of code 0; then each output row, a stretch of
// places at a time, is a product on overlapping rows (see conv2d.cc), read while its sums are in L1.
// What codes add up to comes out of the product where it has a column to spare, else it is kept for
// each pixel. Channels first or last is settled when a line is cut and when a row lands.
#include <algorithm>
#include <cstring>

#include "layer.h"
#include "plan.h"
#include "threads.h"

namespace bc {
namespace {

class Lines {
 public:
  Lines(const bc_layer& layer, const Picture& picture, int threads)
      : l_(layer),
        k_(layer.k),
        p_(picture),
        c_(with_picture(layer.c, picture)),
        columns_(layer.depthwise() && k_.depthwise_row != nullptr),
        own_sums_(layer.adds_up()),
        in_place_(layer.depthwise() || layer.form.load == nullptr),
        each_(in_place_ ? group_channels(c_) : layer.form.pixel_bytes(group_channels(c_))),
        pixel_(columns_ ? (c_.channels + 15) / 16 * 16 : c_.groups * each_),
        width_(columns_ ? pixel_ : layer.sums_stride()),
        line_((c_.width + 2 * c_.pad_w) * pixel_),
        pixel_sums_((c_.width + 2 * c_.pad_w) * c_.groups),
        plan_(plan_rows(c_, p_.out_h, p_.out_w, line_, threads)),
        stretch_(stretch_of(layer.depthwise() ? 2 * width_ : width_, p_.out_w)),
        whole_rows_(c_.groups == 1 && c_.dilation_w == 1),
        segments_(whole_rows_ ? c_.kernel_h : taps(c_)),
        pixels_(whole_rows_ ? c_.kernel_w : 1),
        columns_of_taps_((c_.kernel_h + 3) / 4),
        interleaved_(Scratch::bytes<uint8_t>(4 * line_ + 4 * kPad)),
        head_{&layer.k, picture.run.head, picture.run.head_count, c_.channels},
        landing_(layer.k, picture.run, picture.out_h, picture.out_w, c_.filters),
        reader_(layer, picture, landing_) {}

  void run(int threads) {
    const int64_t each_slot = slot(nullptr).bytes;
    Scratch scratch(landing_.bytes() + threads * each_slot);
    landing_.prepare(l_.readout(),
                     scratch.part<uint8_t>(landing_.bytes()));
    uint8_t* slots = scratch.part<uint8_t>(threads * each_slot);
    for (int i = 0; i < threads; ++i) reader_.prepare(slot(slots + i * each_slot).constants);
    each_task(plan_, threads, [&](int64_t image, int64_t first, int64_t rows, int number) {
      const Slot s = slot(slots + number * each_slot);
      const int64_t lines = lines_for(c_, rows);
      for (int64_t i = 0; i < lines; ++i) load(image, first * c_.stride_h - c_.pad_h + i, i, s);
      clear_pad(s.lines + lines * line_);
      for (int64_t r = 0; r < rows; ++r) row(image, first + r, r, s);
    });
  }

 private:
  struct Slot {
    uint8_t *constants, *lines, *codes, *interleaved;
    int32_t *sums, *code_sums, *pixel_sums;
    float *pixels, *reals;
    const void** pointers;
    int64_t bytes;
  };

  Slot slot(uint8_t* memory) const {
    Parts parts(memory);
    Slot s{};
    s.constants = parts.part<uint8_t>(reader_.bytes());
    s.lines = parts.part<uint8_t>(plan_.lines * line_ + kPad);
    s.sums = parts.part<int32_t>(stretch_ * width_);
    s.code_sums = parts.part<int32_t>(l_.depthwise() ? stretch_ * width_ : p_.out_w * c_.groups);
    s.pointers = parts.part<const void*>(2 * segments_ + 2 * taps(c_));
    if (turns()) s.pixels = parts.part<float>(c_.width * c_.channels);
    s.reals = parts.part<float>(stretch_ * c_.filters);
    if (!in_place_) s.codes = parts.part<uint8_t>(c_.width * c_.channels + kPad);
    if (columns_) s.interleaved = parts.part<uint8_t>(columns_of_taps_ * interleaved_);
    if (own_sums_) s.pixel_sums = parts.part<int32_t>((plan_.lines + 1) * pixel_sums_);
    s.bytes = parts.bytes();
    return s;
  }

  static bc_conv2d with_picture(bc_conv2d c, const Picture& p) {
    c.images = p.images, c.height = p.height, c.width = p.width;
    return c;
  }

  // Places whose sums fill half of L1: whole tiles, and stretches of about one length.
  static int64_t stretch_of(int64_t width, int64_t out_w) {
    constexpr int64_t kBytes = 20480, kTile = 24;
    const int64_t fit = std::max<int64_t>(kBytes / (4 * width) / kTile, 1) * kTile;
    const int64_t parts = (out_w + fit - 1) / fit;
    return std::min(out_w, ((out_w + parts - 1) / parts + kTile - 1) / kTile * kTile);
  }

  // Whether pixels are brought side by side before the cut.
  bool turns() const {
    return p_.run.x_codes == 0 && (p_.run.x_order == BC_CHANNELS_FIRST || !head_.empty());
  }

  // Line y of the picture to place i, cut and bordered.
  void load(int64_t image, int64_t y, int64_t i, const Slot& s) const {
    uint8_t* line = s.lines + i * line_;
    int32_t* sums = own_sums_ ? s.pixel_sums + i * pixel_sums_ : nullptr;
    if (y < 0 || y >= c_.height) {
      std::memset(line, 0, static_cast<size_t>(line_));
      if (sums != nullptr) std::fill_n(sums, pixel_sums_, 0);
      return;
    }
    const int64_t left = c_.pad_w * pixel_;
    const uint8_t* codes = codes_of(image, y, in_place_ ? line + left : s.codes, s.pixels);
    if (sums != nullptr) {
      const int64_t margin = c_.pad_w * c_.groups, inside = c_.width * c_.groups;
      std::fill_n(sums, margin, 0);
      k_.sum_rows(codes, inside, group_channels(c_), sums + margin);
      std::fill_n(sums + margin + inside, margin, 0);
    }
    if (!in_place_) l_.form.load(codes, c_.width * c_.groups, group_channels(c_), line + left);
    std::memset(line, 0, static_cast<size_t>(left));
    std::memset(line + left + c_.width * pixel_, 0, static_cast<size_t>(left));
  }

  // The codes of a line: at `to`, pixels side by side or as lines hold them, or where they lie if they
  // need not be there.
  const uint8_t* codes_of(int64_t image, int64_t y, uint8_t* to, float* pixels) const {
    const bc_run& r = p_.run;
    const int64_t first = (image * c_.height + y) * c_.width, n = c_.channels;
    const int64_t pitch = in_place_ ? pixel_ : n;
    if (r.x_codes != 0) {
      const uint8_t* x = p_.codes() + first * r.pitch;
      if (!in_place_) return close_up(x, c_.width, n, r.pitch, to);
      if (r.pitch == n && pitch == n) {
        std::memcpy(to, x, static_cast<size_t>(c_.width * n));
      } else if (r.pitch == n && columns_) {
        k_.load_rows(x, c_.width, n, pitch, to);
      } else {
        for (int64_t i = 0; i < c_.width; ++i) std::copy_n(x + i * r.pitch, n, to + i * pitch);
      }
      return to;
    }
    if (r.x_order == BC_CHANNELS_FIRST) {
      const int64_t plane = c_.height * c_.width;
      k_.turn(p_.reals() + image * n * plane + y * c_.width, n, c_.width, plane, pixels, n);
      l_.cut(pixels, c_.width, n, to, pitch);
    } else if (head_.empty()) {
      l_.cut(p_.reals() + first * r.pitch, c_.width, r.pitch, to, pitch);
    } else {
      run_head(first, p_.reals() + first * r.pitch, pixels, to, pitch);
    }
    return to;
  }

  // The codes of a line that goes through the head.
  void run_head(int64_t first, const float* x, float* pixels, uint8_t* to, int64_t pitch) const {
    if (l_.compares) {
      const RowCutter cutter = l_.row_cutter();
      const Steps::Cut cut{cutter, to, pitch};
      head_.run(first, c_.width, x, p_.run.pitch, pixels, nullptr, 0, &cut);
      return;
    }
    head_.run(first, c_.width, x, p_.run.pitch, pixels, pixels, c_.channels);
    l_.cut(pixels, c_.width, c_.channels, to, pitch);
  }

  // Output row oy, the r-th of its task.
  void row(int64_t image, int64_t oy, int64_t r, const Slot& s) const {
    if (own_sums_) add_up(r, s);
    if (columns_) interleave(r, s);
    for (int64_t first = 0; first < p_.out_w; first += stretch_) {
      const int64_t last = std::min(p_.out_w, first + stretch_);
      landing_.ask((image * p_.out_h + oy) * p_.out_w + first, last - first);
      if (columns_) {
        by_columns(first, last, s);
      } else if (l_.depthwise()) {
        by_taps(r, first, last, s);
      } else {
        for (int64_t g = 0; g < c_.groups; ++g) multiply(r, first, last, g, s);
      }
      const int32_t* code_sums = s.code_sums;
      int64_t code_stride = l_.depthwise() || l_.ones ? width_ : c_.groups;
      if (l_.ones) {
        code_sums = s.sums + c_.filters;
      } else if (!l_.depthwise()) {
        code_sums += first * c_.groups;
      }
      reader_.read(image, oy, first, last, {s.sums, width_, code_sums, code_stride}, s.constants,
                   s.reals);
    }
  }

  // Sums of codes under each place: down the columns of taps, then along the row.
  void add_up(int64_t r, const Slot& s) const {
    int32_t* column = s.pixel_sums + plan_.lines * pixel_sums_;
    const int32_t* top = s.pixel_sums + r * c_.stride_h * pixel_sums_;
    std::copy_n(top, pixel_sums_, column);
    for (int64_t ty = 1; ty < c_.kernel_h; ++ty) {
      const int32_t* line = top + ty * c_.dilation_h * pixel_sums_;
      for (int64_t i = 0; i < pixel_sums_; ++i) column[i] += line[i];
    }
    const int64_t step = c_.stride_w * c_.groups, tap = c_.dilation_w * c_.groups;
    if (step == 1) {  // a loop along the row for each tap
      std::copy_n(column, p_.out_w, s.code_sums);
      for (int64_t tx = 1; tx < c_.kernel_w; ++tx) {
        const int32_t* __restrict from = column + tx * tap;
        int32_t* __restrict to = s.code_sums;
        for (int64_t ox = 0; ox < p_.out_w; ++ox) to[ox] += from[ox];
      }
      return;
    }
    for (int64_t ox = 0; ox < p_.out_w; ++ox) {
      for (int64_t g = 0; g < c_.groups; ++g) {
        int32_t sum = 0;
        for (int64_t tx = 0; tx < c_.kernel_w; ++tx) sum += column[ox * step + tx * tap + g];
        s.code_sums[ox * c_.groups + g] = sum;
      }
    }
  }

  const uint8_t* input(int64_t r, int64_t ty, int64_t x, const Slot& s) const {
    return s.lines + (r * c_.stride_h + ty * c_.dilation_h) * line_ + x * pixel_;
  }

  // Places [first, last) of a row.
  void multiply(int64_t r, int64_t first, int64_t last, int64_t group, const Slot& s) const {
    const uint8_t** runs = reinterpret_cast<const uint8_t**>(s.pointers);
    for (int64_t i = 0; i < segments_; ++i) {
      const int64_t ty = whole_rows_ ? i : i / c_.kernel_w, tx = whole_rows_ ? 0 : i % c_.kernel_w;
      runs[i] = input(r, ty, first * c_.stride_w + tx * c_.dilation_w, s) + group * each_;
    }
    const Panel& panel = l_.panels[static_cast<size_t>(group)];
    l_.form.product({runs, segments_, pixels_ * group_channels(c_), c_.stride_w * pixel_,
                     last - first, panel.data(), l_.columns(), panel.shifted(),
                     s.sums + group * group_filters(c_), width_, pixels_, false,
                     own_sums_ ? s.code_sums + first * c_.groups + group : nullptr, c_.groups});
  }

  // Depthwise, four taps of a column in one word.
  void interleave(int64_t r, const Slot& s) const {
    for (int64_t j = 0; j < columns_of_taps_; ++j) {
      const uint8_t* rows[4] = {};
      for (int64_t ty = 4 * j; ty < std::min(c_.kernel_h, 4 * j + 4); ++ty)
        rows[ty % 4] = input(r, ty, 0, s);
      k_.interleave(rows, line_, s.interleaved + j * interleaved_);
    }
  }

  void by_columns(int64_t first, int64_t last, const Slot& s) const {
    int64_t* offsets = reinterpret_cast<int64_t*>(s.pointers);
    const int64_t step = c_.stride_w * pixel_ * 4;
    for (int64_t j = 0; j < columns_of_taps_; ++j) {
      for (int64_t tx = 0; tx < c_.kernel_w; ++tx)
        offsets[j * c_.kernel_w + tx] = j * interleaved_ + tx * c_.dilation_w * pixel_ * 4;
    }
    k_.depthwise_row({s.interleaved + first * step, offsets, columns_of_taps_ * c_.kernel_w, step,
                      l_.by_column.data(), l_.shifted_columns, last - first, pixel_, s.sums,
                      l_.has_row ? s.code_sums : nullptr});
  }

  // Depthwise, one place at a time.
  void by_taps(int64_t r, int64_t first, int64_t last, const Slot& s) const {
    const int64_t all = taps(c_);
    const uint8_t** codes = reinterpret_cast<const uint8_t**>(s.pointers);
    const int32_t** weights = reinterpret_cast<const int32_t**>(s.pointers + all);
    for (int64_t ox = first; ox < last; ++ox) {
      for (int64_t t = 0; t < all; ++t) {
        const int64_t ty = t / c_.kernel_w, tx = t % c_.kernel_w;
        codes[t] = input(r, ty, ox * c_.stride_w + tx * c_.dilation_w, s);
        weights[t] = l_.by_tap.data() + t * c_.channels;
      }
      k_.depthwise(codes, weights, all, c_.channels, s.sums + (ox - first) * c_.channels);
      int32_t* sums = s.code_sums + (ox - first) * c_.channels;
      std::fill_n(sums, c_.channels, 0);
      for (int64_t t = 0; t < all; ++t) {
        for (int64_t i = 0; i < c_.channels; ++i) sums[i] += codes[t][i];
      }
    }
  }

  const bc_layer& l_;
  const Kernels& k_;
  Picture p_;
  bc_conv2d c_;
  bool columns_, own_sums_;  // depthwise by columns of taps; sums of codes pixel by pixel
  bool in_place_;
  int64_t each_, pixel_, width_, line_, pixel_sums_;
  Plan plan_;
  int64_t stretch_;
  bool whole_rows_;
  int64_t segments_, pixels_;
  int64_t columns_of_taps_, interleaved_;
  Steps head_;
  Landing landing_;
  LineReader reader_;
};

}  // namespace

void run_lines(const bc_layer& layer, const Picture& picture, int threads) {
  const bc_conv2d& c = layer.c;
  const double places = static_cast<double>(picture.images * picture.out_h * picture.out_w);
  const double work = static_cast<double>(c.filters * (taps(c) * group_channels(c) + 60));
  const int use = worthwhile(threads, places * work / 200);
  Lines(layer, picture, use).run(use);
}

}  // namespace bc
