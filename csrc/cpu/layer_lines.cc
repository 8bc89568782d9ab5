// A convolution, a few lines of the picture at a time.
//
// A task cuts its input lines into codes, with a border of code 0, and keeps what each pixel's codes
// add up to; then each output row is a product on overlapping rows (see conv2d.cc), read as reals
// while it is in the cache. Channels first or last is settled when a line is cut and when a row is
// read.
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
        in_place_(layer.depthwise() || layer.form.load == nullptr),
        each_(in_place_ ? group_channels(c_) : layer.form.pixel_bytes(group_channels(c_))),
        pixel_(c_.groups * each_),
        line_((c_.width + 2 * c_.pad_w) * pixel_),
        pixel_sums_((c_.width + 2 * c_.pad_w) * c_.groups),
        plan_(plan_rows(c_, p_.out_h, p_.out_w, line_, threads)),
        whole_rows_(c_.groups == 1 && c_.dilation_w == 1),
        segments_(whole_rows_ ? c_.kernel_h : taps(c_)),
        pixels_(whole_rows_ ? c_.kernel_w : 1),
        columns_of_taps_((c_.kernel_h + 3) / 4),
        interleaved_(Scratch::bytes<uint8_t>(4 * line_ + kPad)),
        head_{&layer.k, picture.run.head, picture.run.head_count, c_.channels},
        landing_(layer.k, picture.run, picture.out_h, picture.out_w, c_.filters),
        reader_(layer, picture) {}

  int64_t scratch_bytes() const {
    int64_t all = Scratch::bytes<uint8_t>(plan_.lines * line_ + kPad) +
                  Scratch::bytes<int32_t>(p_.out_w * c_.filters) +
                  Scratch::bytes<int32_t>(p_.out_w * c_.groups) +
                  Scratch::bytes<double>(reader_.constants()) +
                  Scratch::bytes<LineReader::Range>(1) +
                  Scratch::bytes<void*>(2 * segments_ + 2 * taps(c_)) +
                  Scratch::bytes<float>(p_.out_w * c_.filters);
    if (needs_copy()) all += Scratch::bytes<float>(c_.width * c_.channels);
    if (!in_place_) all += Scratch::bytes<uint8_t>(c_.width * c_.channels + kPad);
    if (columns_) all += columns_of_taps_ * interleaved_;
    if (!l_.depthwise()) all += Scratch::bytes<int32_t>((plan_.lines + 1) * pixel_sums_);
    return all;
  }

  void run(Scratch& scratch, int threads) {
    std::vector<Slot> slots;
    for (int i = 0; i < threads; ++i) slots.push_back(slot(scratch));
    const Cutter cutter = l_.cutter();
    each_task(plan_, threads, [&](int64_t image, int64_t first, int64_t rows, int number) {
      const Slot& s = slots[static_cast<size_t>(number)];
      for (int64_t i = 0; i < lines_for(c_, rows); ++i)
        load(image, first * c_.stride_h - c_.pad_h + i, i, cutter, s);
      for (int64_t r = 0; r < rows; ++r) row(image, first + r, r, s);
    });
  }

 private:
  struct Slot {
    uint8_t *lines, *narrow, *interleaved;
    int32_t *sums, *code_sums, *pixel_sums;
    float *turned, *reals;
    double* constants;
    LineReader::Range* rows;  // whose constants they are
    const void** pointers;
  };

  static bc_conv2d with_picture(bc_conv2d c, const Picture& p) {
    c.images = p.images, c.height = p.height, c.width = p.width;
    return c;
  }

  bool needs_copy() const {
    const bc_run& r = p_.run;
    return r.x_codes == 0 &&
           (r.x_order == BC_CHANNELS_FIRST || r.pitch != c_.channels || !head_.empty());
  }

  Slot slot(Scratch& scratch) const {
    Slot s{};
    s.lines = scratch.part<uint8_t>(plan_.lines * line_ + kPad);
    s.sums = scratch.part<int32_t>(p_.out_w * c_.filters);
    s.code_sums = scratch.part<int32_t>(p_.out_w * c_.groups);
    s.constants = scratch.part<double>(reader_.constants());
    s.rows = scratch.part<LineReader::Range>(1);
    *s.rows = {-1, -1};
    s.pointers = scratch.part<const void*>(2 * segments_ + 2 * taps(c_));
    if (needs_copy()) s.turned = scratch.part<float>(c_.width * c_.channels);
    s.reals = scratch.part<float>(p_.out_w * c_.filters);
    if (!in_place_) s.narrow = scratch.part<uint8_t>(c_.width * c_.channels + kPad);
    if (columns_) s.interleaved = scratch.part<uint8_t>(columns_of_taps_ * interleaved_);
    if (!l_.depthwise()) s.pixel_sums = scratch.part<int32_t>((plan_.lines + 1) * pixel_sums_);
    return s;
  }

  // Line y of the picture to place i, cut, bordered and added up.
  void load(int64_t image, int64_t y, int64_t i, const Cutter& cutter, const Slot& s) const {
    uint8_t* line = s.lines + i * line_;
    int32_t* sums = l_.depthwise() ? nullptr : s.pixel_sums + i * pixel_sums_;
    if (y < 0 || y >= c_.height) {
      std::memset(line, 0, static_cast<size_t>(line_));
      if (sums != nullptr) std::fill_n(sums, pixel_sums_, 0);
      return;
    }
    const int64_t left = c_.pad_w * pixel_, pixels = c_.width * c_.channels;
    uint8_t* narrow = in_place_ ? line + left : s.narrow;
    const uint8_t* codes = narrow;
    if (p_.run.x_codes != 0) {
      codes = codes_of(image, y, narrow);
    } else {
      k_.cut(reals_of(image, y, s.turned), pixels, cutter, narrow);
    }
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

  // Line y of an image as reals or as codes, pixels side by side.
  const float* reals_of(int64_t image, int64_t y, float* scratch) const {
    const bc_run& r = p_.run;
    if (r.x_order == BC_CHANNELS_FIRST) {
      const int64_t plane = c_.height * c_.width;
      k_.turn(p_.reals() + image * c_.channels * plane + y * c_.width, c_.channels, c_.width, plane,
              scratch, c_.channels);
      return scratch;
    }
    const int64_t first = (image * c_.height + y) * c_.width;
    const float* x = p_.reals() + first * r.pitch;
    if (head_.empty()) return close_up(x, c_.width, c_.channels, r.pitch, scratch);
    head_.run(first, c_.width, x, r.pitch, scratch, scratch, c_.channels);
    return scratch;
  }
  const uint8_t* codes_of(int64_t image, int64_t y, uint8_t* to) const {
    const int64_t pitch = p_.run.pitch;
    const uint8_t* x = p_.codes() + (image * c_.height + y) * c_.width * pitch;
    for (int64_t i = 0; i < c_.width; ++i)
      std::copy_n(x + i * pitch, c_.channels, to + i * c_.channels);
    return to;
  }

  // Output row oy, the r-th of its task.
  void row(int64_t image, int64_t oy, int64_t r, const Slot& s) const {
    if (columns_) {
      by_columns(r, s);
    } else if (l_.depthwise()) {
      by_taps(r, s);
    } else {
      add_up(r, s);
      for (int64_t g = 0; g < c_.groups; ++g) multiply(r, g, s);
    }
    const int64_t first = (image * p_.out_h + oy) * p_.out_w;
    reader_.read(oy, s.sums, s.code_sums, s.constants, *s.rows, landing_.place(first, s.reals),
                 landing_.pitch());
    landing_.land(first, p_.out_w, s.reals);
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
    for (int64_t ox = 0; ox < p_.out_w; ++ox) {
      for (int64_t g = 0; g < c_.groups; ++g) {
        int32_t sum = 0;
        for (int64_t tx = 0; tx < c_.kernel_w; ++tx) sum += column[ox * step + tx * tap + g];
        s.code_sums[ox * c_.groups + g] = sum;
      }
    }
  }

  void multiply(int64_t r, int64_t group, const Slot& s) const {
    const uint8_t** runs = reinterpret_cast<const uint8_t**>(s.pointers);
    for (int64_t i = 0; i < segments_; ++i) {
      const int64_t ty = whole_rows_ ? i : i / c_.kernel_w, tx = whole_rows_ ? 0 : i % c_.kernel_w;
      runs[i] = s.lines + (r * c_.stride_h + ty * c_.dilation_h) * line_ +
                tx * c_.dilation_w * pixel_ + group * each_;
    }
    const Panel& panel = l_.panels[static_cast<size_t>(group)];
    l_.form.product({runs, segments_, pixels_ * group_channels(c_), c_.stride_w * pixel_, p_.out_w,
                     panel.data(), group_filters(c_), panel.shifted(),
                     s.sums + group * group_filters(c_), c_.filters, pixels_});
  }

  // Depthwise, four taps of a column in one word.
  void by_columns(int64_t r, const Slot& s) const {
    int64_t* offsets = reinterpret_cast<int64_t*>(s.pointers);
    for (int64_t j = 0; j < columns_of_taps_; ++j) {
      const uint8_t* rows[4] = {};
      for (int64_t ty = 4 * j; ty < std::min(c_.kernel_h, 4 * j + 4); ++ty)
        rows[ty % 4] = s.lines + (r * c_.stride_h + ty * c_.dilation_h) * line_;
      k_.interleave(rows, line_, s.interleaved + j * interleaved_);
      for (int64_t tx = 0; tx < c_.kernel_w; ++tx)
        offsets[j * c_.kernel_w + tx] = j * interleaved_ + tx * c_.dilation_w * c_.channels * 4;
    }
    k_.depthwise_row(s.interleaved, offsets, columns_of_taps_ * c_.kernel_w,
                     c_.stride_w * c_.channels * 4, l_.by_column.data(), p_.out_w, c_.channels,
                     s.sums, s.code_sums);
  }

  // Depthwise, one place at a time.
  void by_taps(int64_t r, const Slot& s) const {
    const int64_t all = taps(c_);
    const uint8_t** codes = reinterpret_cast<const uint8_t**>(s.pointers);
    const int32_t** weights = reinterpret_cast<const int32_t**>(s.pointers + all);
    for (int64_t ox = 0; ox < p_.out_w; ++ox) {
      for (int64_t t = 0; t < all; ++t) {
        const int64_t ty = t / c_.kernel_w, tx = t % c_.kernel_w;
        codes[t] = s.lines + (r * c_.stride_h + ty * c_.dilation_h) * line_ +
                   (ox * c_.stride_w + tx * c_.dilation_w) * pixel_;
        weights[t] = l_.by_tap.data() + t * c_.channels;
      }
      k_.depthwise(codes, weights, all, c_.channels, s.sums + ox * c_.channels);
      int32_t* sums = s.code_sums + ox * c_.channels;
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
  bool columns_;
  bool in_place_;
  int64_t each_, pixel_, line_, pixel_sums_;
  Plan plan_;
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
  const int use = worthwhile(threads, places * work / 100);
  Lines lines(layer, picture, use);
  Scratch scratch(lines.scratch_bytes() * use);
  lines.run(scratch, use);
}

}  // namespace bc
