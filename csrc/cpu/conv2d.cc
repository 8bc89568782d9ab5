// Exact convolution of codes, channels last.
//
// The general form is a product without a copy of the patches: a few input lines are padded with
// code 0, and the patch of an output place is then, for each row of taps, one run of KW * C codes;
// the patch of the next place starts stride * C codes further. So the product of gemm.cc works on
// overlapping rows. Dilated or grouped taps are runs of their own. Code 0 contributes nothing to a
// sum of products, so padding with it gives the sum over the valid taps.
#include <cstring>
#include <vector>

#include "bitcompress/bits.h"
#include "conv_reader.h"
#include "geometry.h"
#include "guard.h"
#include "kernels.h"
#include "panel.h"
#include "plan.h"
#include "threads.h"

namespace bc {
namespace {

// Where a row of sums goes: to the caller as it is, or through a reader.
struct Output {
  int32_t* sums;
  ConvReader* reader;

  int32_t* row(const Plan& p, int64_t image, int64_t oy, int slot) const {
    if (reader != nullptr) return reader->row(slot);
    return sums + (image * p.out_h + oy) * p.out_w * p.c.filters;
  }
  void done(const Kernels& kernels, int64_t image, int64_t oy, int slot) const {
    if (reader != nullptr) reader->read(kernels, image, oy, slot);
  }
};

// ---- General form -------------------------------------------------------------------------------

class General {
 public:
  General(const Kernels& kernels, const bc_conv2d& c, int64_t out_h, int64_t out_w,
          const uint8_t* w, int threads)
      : kernels_(kernels),
        form_(kernels.form_for(8, 8, {taps(c), group_channels(c), group_filters(c)})),
        whole_rows_(c.groups == 1 && c.dilation_w == 1),
        segments_(whole_rows_ ? c.kernel_h : taps(c)),
        pixels_(whole_rows_ ? c.kernel_w : 1),
        each_(form_.pixel_bytes(group_channels(c))),
        pixel_(c.groups * each_),
        line_((c.width + 2 * c.pad_w) * pixel_),
        plan_(plan_rows(c, out_h, out_w, line_, threads)),
        scratch_bytes_(plan_.lines * line_ + kPad),
        scratch_(static_cast<size_t>(scratch_bytes_ * threads)),
        runs_(static_cast<size_t>(segments_ * threads)) {
    for (int64_t g = 0; g < c.groups; ++g) {
      panels_.emplace_back(form_, w + g * group_filters(c) * taps(c) * group_channels(c),
                           group_filters(c), segments_, pixels_, group_channels(c));
    }
  }

  void run(const uint8_t* x, const Output& out, int threads) {
    each_task(plan_, threads, [&](int64_t image, int64_t first, int64_t rows, int slot) {
      uint8_t* lines = scratch_.data() + slot * scratch_bytes_;
      load_lines(x, image, first, rows, lines);
      for (int64_t r = 0; r < rows; ++r) {
        int32_t* row = out.row(plan_, image, first + r, slot);
        for (int64_t g = 0; g < plan_.c.groups; ++g) multiply(lines, r, g, row, slot);
        out.done(kernels_, image, first + r, slot);
      }
    });
  }

 private:
  void load_lines(const uint8_t* x, int64_t image, int64_t first, int64_t rows,
                  uint8_t* lines) const {
    const bc_conv2d& c = plan_.c;
    const int64_t left = c.pad_w * pixel_, inside = c.width * pixel_;
    for (int64_t l = 0; l < lines_for(c, rows); ++l) {
      const int64_t y = first * c.stride_h - c.pad_h + l;
      uint8_t* line = lines + l * line_;
      if (y < 0 || y >= c.height) {
        std::memset(line, 0, static_cast<size_t>(line_));
        continue;
      }
      std::memset(line, 0, static_cast<size_t>(left));
      load_pixels(form_, x + (image * c.height + y) * c.width * c.channels, c.width * c.groups,
                  group_channels(c), line + left);
      std::memset(line + left + inside, 0, static_cast<size_t>(left));
    }
  }

  void multiply(const uint8_t* lines, int64_t row, int64_t group, int32_t* out, int slot) {
    const bc_conv2d& c = plan_.c;
    const uint8_t** runs = runs_.data() + slot * segments_;
    for (int64_t s = 0; s < segments_; ++s) {
      const int64_t tap_y = whole_rows_ ? s : s / c.kernel_w,
                    tap_x = whole_rows_ ? 0 : s % c.kernel_w;
      runs[s] = lines + (row * c.stride_h + tap_y * c.dilation_h) * line_ +
                tap_x * c.dilation_w * pixel_ + group * each_;
    }
    const Panel& panel = panels_[static_cast<size_t>(group)];
    form_.product({runs, segments_, pixels_ * group_channels(c), c.stride_w * pixel_, plan_.out_w,
                   panel.data(), group_filters(c), panel.shifted(),
                   out + group * group_filters(c), c.filters, pixels_});
  }

  const Kernels& kernels_;
  const Form& form_;
  bool whole_rows_;
  int64_t segments_, pixels_;
  int64_t each_, pixel_, line_;  // bytes: a group of a pixel, all of them, a line
  Plan plan_;
  int64_t scratch_bytes_;
  std::vector<uint8_t> scratch_;
  std::vector<const uint8_t*> runs_;
  std::vector<Panel> panels_;
};

// ---- Depthwise: each channel has one filter -----------------------------------------------------

class Depthwise {
 public:
  Depthwise(const Kernels& kernels, const Plan& plan, const uint8_t* x, const uint8_t* w,
            int threads)
      : kernels_(kernels),
        plan_(plan),
        x_(x),
        by_tap_(static_cast<size_t>(plan.c.channels * taps(plan.c))),
        codes_(static_cast<size_t>(taps(plan.c) * threads)),
        weights_(codes_.size()) {
    const int64_t all = taps(plan.c), channels = plan.c.channels;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = 0; t < all; ++t)
        by_tap_[static_cast<size_t>(t * channels + c)] = w[c * all + t];
    }
  }

  void run(const Output& out, int threads) {
    each_task(plan_, threads, [&](int64_t image, int64_t first, int64_t rows, int slot) {
      for (int64_t oy = first; oy < first + rows; ++oy) {
        int32_t* row = out.row(plan_, image, oy, slot);
        for (int64_t ox = 0; ox < plan_.out_w; ++ox) {
          place(image, oy, ox, slot, row + ox * plan_.c.channels);
        }
        out.done(kernels_, image, oy, slot);
      }
    });
  }

 private:
  void place(int64_t image, int64_t oy, int64_t ox, int slot, int32_t* out) {
    const bc_conv2d& c = plan_.c;
    const uint8_t** codes = codes_.data() + slot * taps(c);
    const int32_t** weights = weights_.data() + slot * taps(c);
    int64_t inside = 0;
    for (int64_t ty = 0, iy = oy * c.stride_h - c.pad_h; ty < c.kernel_h;
         ++ty, iy += c.dilation_h) {
      if (iy < 0 || iy >= c.height) continue;
      for (int64_t tx = 0, ix = ox * c.stride_w - c.pad_w; tx < c.kernel_w;
           ++tx, ix += c.dilation_w) {
        if (ix < 0 || ix >= c.width) continue;
        codes[inside] = x_ + ((image * c.height + iy) * c.width + ix) * c.channels;
        weights[inside++] = by_tap_.data() + (ty * c.kernel_w + tx) * c.channels;
      }
    }
    kernels_.depthwise(codes, weights, inside, c.channels, out);
  }

  const Kernels& kernels_;
  Plan plan_;
  const uint8_t* x_;
  std::vector<int32_t> by_tap_;
  std::vector<const uint8_t*> codes_;
  std::vector<const int32_t*> weights_;
};

// ---- Choice -------------------------------------------------------------------------------------

bool is_product(const bc_conv2d& c) {
  return taps(c) == 1 && c.groups == 1 && c.stride_h == 1 && c.stride_w == 1 && c.pad_h == 0 &&
         c.pad_w == 0;
}

int threads_for(const bc_conv2d& c, int64_t out_h, int64_t out_w, int threads) {
  const double places = static_cast<double>(c.images) * out_h * out_w;
  const double products = places * c.filters * taps(c) * group_channels(c);
  return worthwhile(threads, products / (group_channels(c) == 1 ? 10 : 100));
}

void conv2d(const bc_conv2d& c, int64_t out_h, int64_t out_w, const uint8_t* x, const uint8_t* w,
            const Output& out, int threads) {
  if (c.groups == c.channels && c.filters == c.channels) {
    const Plan plan = plan_rows(c, out_h, out_w, c.width * c.channels, threads);
    Depthwise(kernels(), plan, x, w, threads).run(out, threads);
    return;
  }
  General(kernels(), c, out_h, out_w, w, threads).run(x, out, threads);
}

bc_status check(const bc_conv2d* conv, int64_t* out_h, int64_t* out_w, const uint8_t* x,
                const uint8_t* w, const void* out, int threads) {
  const bc_status status = check_geometry(conv, out_h, out_w);
  if (status != BC_OK) return status;
  const int64_t size = conv->images * *out_h * *out_w * conv->filters;
  const bool lacking = missing(input_size(*conv), {x}) || missing(weight_size(*conv), {w});
  return threads < 1 || lacking || missing(size, {out}) ? BC_BAD_ARGUMENT : BC_OK;
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_conv2d_size(const bc_conv2d* conv, int64_t* out_h, int64_t* out_w) {
  return bc::check_geometry(conv, out_h, out_w);
}

bc_status bc_conv2d_codes(const bc_conv2d* conv, const uint8_t* x, const uint8_t* w, int32_t* out,
                          int threads) {
  int64_t out_h = 0, out_w = 0;
  const bc_status status = bc::check(conv, &out_h, &out_w, x, w, out, threads);
  if (status != BC_OK) return status;
  const bc_conv2d& c = *conv;
  const int64_t size = c.images * out_h * out_w * c.filters;
  if (size == 0) return BC_OK;
  if (bc::input_size(c) == 0) {
    std::memset(out, 0, static_cast<size_t>(size) * sizeof *out);
    return BC_OK;
  }
  if (bc::is_product(c)) {
    const int64_t rows = c.images * c.height * c.width;
    return bc_gemm_codes(x, w, 1, rows, c.filters, c.channels, out, threads);
  }
  return bc::guarded([&] {
    bc::conv2d(c, out_h, out_w, x, w, {out, nullptr}, bc::threads_for(c, out_h, out_w, threads));
    return BC_OK;
  });
}

bc_status bc_conv2d_reals(const bc_conv2d* conv, const uint8_t* x, const uint8_t* w,
                          const bc_grids* grids, float* out, int threads) {
  int64_t out_h = 0, out_w = 0;
  const bc_status status = bc::check(conv, &out_h, &out_w, x, w, out, threads);
  if (status != BC_OK) return status;
  const bc_conv2d& c = *conv;
  if (bc::lacking_grids(grids)) return BC_BAD_ARGUMENT;
  if (grids->w_groups != 1 && grids->w_groups != c.filters) return BC_BAD_SHAPE;
  if (c.images * out_h * out_w * c.filters == 0) return BC_OK;
  if (bc::input_size(c) == 0) return BC_EMPTY;
  if (bc::is_product(c)) {
    const int64_t rows = c.images * c.height * c.width;
    return bc_gemm_reals(x, w, 1, rows, c.filters, c.channels, grids, out, threads);
  }
  return bc::guarded([&] {
    const int use = bc::threads_for(c, out_h, out_w, threads);
    std::vector<int32_t> code_sums(static_cast<size_t>(c.images * out_h * out_w * c.groups));
    const bc_status summed = bc_conv2d_code_sums(conv, x, code_sums.data(), threads);
    if (summed != BC_OK) return summed;
    bc::ConvReader reader(c, out_h, out_w, w, *grids, code_sums.data(), out, use);
    bc::conv2d(c, out_h, out_w, x, w, {nullptr, &reader}, use);
    return BC_OK;
  });
}

}  // extern "C"
