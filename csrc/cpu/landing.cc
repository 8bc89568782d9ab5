#include "landing.h"

namespace bc {

void Landing::land(int64_t first, int64_t count, float* scratch) const {
  if (straight()) return;
  const int64_t filters = tail_.channels;
  if (lies_as_rows() || sink_.out == nullptr) {
    float* to = sink_.out == nullptr ? nullptr : reals() + first * sink_.pitch;
    tail_.run(first, count, scratch, filters, scratch, to, sink_.pitch);
    return;
  }
  tail_.run(first, count, scratch, filters, scratch, scratch, filters);
  if (sink_.scale != nullptr) {
    sink_codes(k_, sink_, count, filters, scratch, filters,
               static_cast<uint8_t*>(sink_.out) + first * sink_.pitch, sink_.pitch);
  } else if (turned_) {
    const int64_t plane = out_h_ * out_w_;
    k_.turn(scratch, count, filters, filters,
            reals() + first / plane * filters * plane + first % plane, plane);
  } else {
    shuffle(first, count, scratch);
  }
}

// A line of pixels becomes `shuffle_` lines.
void Landing::shuffle(int64_t first, int64_t count, const float* x) const {
  const int64_t r = shuffle_, wide = out_w_ * r, each = tail_.channels / (r * r);
  const int64_t line = first / out_w_, ox = first % out_w_;
  for (int64_t i = 0; i < r; ++i) {
    float* to = reals() + ((line * r + i) * wide + ox * r) * sink_.pitch;
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t j = 0; j < r; ++j, to += sink_.pitch) {
        const float* from = x + p * tail_.channels + i * r + j;
        for (int64_t k = 0; k < each; ++k) to[k] = from[k * r * r];
      }
    }
  }
}

}  // namespace bc
