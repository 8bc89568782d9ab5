// A convolution of reals to few channels: the tail that stays float behind packed layers.
//
// A lane is an input channel. Where pixels fill whole registers, places that lie inside of the picture are
// multiplied where they lie; patches of all others are gathered first, a few places at a time, filled up
// with 0.
#include <algorithm>

#include "guard.h"
#include "kernels.h"
#include "plan.h"
#include "scratch.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kLanes = 16, kTogether = 16;

int64_t filled(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

class Floats {
 public:
  Floats(const bc_conv2d& c, int64_t out_h, int64_t out_w, const float* x, const float* w,
         const float* bias, float* out)
      : k_(kernels()),
        c_(c),
        out_h_(out_h),
        out_w_(out_w),
        x_(x),
        w_(w),
        bias_(bias),
        out_(out),
        pixel_(filled(c.channels)),
        patch_(taps(c) * pixel_),
        whole_rows_(c.dilation_w == 1),
        segments_(whole_rows_ ? c.kernel_h : taps(c)) {
    if (pixel_ != c.channels) return;
    const int64_t reach = (c.kernel_w - 1) * c.dilation_w;
    const int64_t room = c.width + c.pad_w - reach - 1;  // of the first tap of the last place inside
    first_ = std::min(out_w, (c.pad_w + c.stride_w - 1) / c.stride_w);
    last_ = room < 0 ? first_ : std::clamp(room / c.stride_w + 1, first_, out_w);
  }

  void run(int most) {
    const double each = static_cast<double>(c_.filters * patch_) / 25 + 20;
    const int threads = worthwhile(most, each * static_cast<double>(c_.images * out_h_ * out_w_));
    const Plan plan = plan_rows(c_, out_h_, out_w_, c_.width * pixel_, threads);
    const int64_t of_slot = slot(nullptr).bytes, line = c_.width * pixel_;
    Scratch memory(Scratch::bytes<float>(c_.filters * patch_) + Scratch::bytes<float>(c_.filters) +
                   Scratch::bytes<float>(line) + threads * of_slot);
    panel_ = memory.part<float>(c_.filters * patch_);
    biases_ = memory.part<float>(c_.filters);
    zeros_ = memory.part<float>(line);
    uint8_t* slots = memory.part<uint8_t>(threads * of_slot);
    pack();
    std::fill_n(zeros_, line, 0.0f);
    each_task(plan, threads, [&](int64_t image, int64_t first, int64_t rows, int number) {
      const Slot s = slot(slots + number * of_slot);
      for (int64_t r = 0; r < rows; ++r) row(image, first + r, s);
    });
  }

 private:
  struct Slot {
    float* patches;
    const float** runs;
    int64_t bytes;
  };

  Slot slot(uint8_t* memory) const {
    Parts parts(memory);
    Slot s{};
    s.patches = parts.part<float>(kTogether * patch_);
    s.runs = parts.part<const float*>(segments_);
    s.bytes = parts.bytes();
    return s;
  }

  // Weights as tiles read them: [filters][taps][pixel].
  void pack() const {
    std::fill_n(panel_, c_.filters * patch_, 0.0f);
    std::fill_n(biases_, c_.filters, 0.0f);
    if (bias_ != nullptr) std::copy_n(bias_, c_.filters, biases_);
    for (int64_t i = 0; i < c_.filters * taps(c_); ++i)
      std::copy_n(w_ + i * c_.channels, c_.channels, panel_ + i * pixel_);
  }

  // Line y of a picture; null outside of it.
  const float* line(int64_t image, int64_t y) const {
    return y < 0 || y >= c_.height ? nullptr
                                   : x_ + (image * c_.height + y) * c_.width * c_.channels;
  }

  void row(int64_t image, int64_t oy, const Slot& s) const {
    gather(image, oy, 0, first_, s);
    if (first_ < last_) inside(image, oy, s);
    gather(image, oy, last_, out_w_, s);
  }

  // Places that have all taps of a line inside of the picture.
  void inside(int64_t image, int64_t oy, const Slot& s) const {
    for (int64_t i = 0; i < segments_; ++i) {
      const int64_t ty = whole_rows_ ? i : i / c_.kernel_w, tx = whole_rows_ ? 0 : i % c_.kernel_w;
      const float* from = line(image, oy * c_.stride_h - c_.pad_h + ty * c_.dilation_h);
      const int64_t x = first_ * c_.stride_w - c_.pad_w + tx * c_.dilation_w;
      s.runs[i] = (from == nullptr ? zeros_ : from) + x * pixel_;
    }
    const int64_t length = whole_rows_ ? c_.kernel_w * pixel_ : pixel_;
    multiply(s.runs, segments_, length, c_.stride_w * pixel_, image, oy, first_, last_);
  }

  // Places [first, last), by copies of their patches.
  void gather(int64_t image, int64_t oy, int64_t first, int64_t last, const Slot& s) const {
    for (; first < last; first += kTogether) {
      const int64_t end = std::min(last, first + kTogether);
      float* to = s.patches;
      std::fill_n(to, (end - first) * patch_, 0.0f);
      for (int64_t ox = first; ox < end; ++ox) {
        for (int64_t ty = 0; ty < c_.kernel_h; ++ty) {
          const float* from = line(image, oy * c_.stride_h - c_.pad_h + ty * c_.dilation_h);
          for (int64_t tx = 0; tx < c_.kernel_w; ++tx, to += pixel_) {
            const int64_t x = ox * c_.stride_w - c_.pad_w + tx * c_.dilation_w;
            if (from != nullptr && x >= 0 && x < c_.width)
              std::copy_n(from + x * c_.channels, c_.channels, to);
          }
        }
      }
      s.runs[0] = s.patches;
      multiply(s.runs, 1, patch_, patch_, image, oy, first, end);
    }
  }

  void multiply(const float* const* runs, int64_t segments, int64_t length, int64_t stride,
                int64_t image, int64_t oy, int64_t first, int64_t last) const {
    float* to = out_ + ((image * out_h_ + oy) * out_w_ + first) * c_.filters;
    k_.floats_few({runs, segments, length, stride, last - first, panel_, c_.filters, biases_, to,
                   c_.filters});
  }

  const Kernels& k_;
  const bc_conv2d& c_;
  int64_t out_h_, out_w_;
  const float *x_, *w_, *bias_;
  float* out_;
  int64_t pixel_, patch_;
  bool whole_rows_;
  int64_t segments_;
  int64_t first_ = 0, last_ = 0;  // places that are multiplied where they lie
  float *panel_ = nullptr, *biases_ = nullptr, *zeros_ = nullptr;
};

bc_status check(const bc_conv2d* c, int64_t* out_h, int64_t* out_w) {
  const bc_status status = check_sizes(c, out_h, out_w);
  if (status != BC_OK) return status;
  if (c->groups != 1) return BC_BAD_SHAPE;
  const int64_t most = std::max<int64_t>(c->filters, kTogether);
  const bool fits = volume({c->width, filled(c->channels), 8}) >= 0 &&
                    volume({most, taps(*c), filled(c->channels), 8}) >= 0;
  return fits ? BC_OK : BC_BAD_SHAPE;
}

}  // namespace
}  // namespace bc

extern "C" bc_status bc_conv2d_floats(const bc_conv2d* c, const float* x, const float* w,
                                      const float* bias, float* out, int threads) {
  int64_t out_h = 0, out_w = 0;
  const bc_status status = bc::check(c, &out_h, &out_w);
  if (status != BC_OK) return status;
  const int64_t size = c->images * out_h * out_w * c->filters;
  if (threads < 1 || bc::missing(bc::input_size(*c), {x}) || bc::missing(bc::weight_size(*c), {w}) ||
      bc::missing(size, {out}))
    return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  if (bc::input_size(*c) == 0) return BC_EMPTY;
  return bc::guarded([&] {
    bc::Floats(*c, out_h, out_w, x, w, bias, out).run(threads);
    return BC_OK;
  });
}
