// The right-hand side of a product in the order in which the kernel in use reads it.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace bc {

constexpr int64_t kPad = 64;  // readable bytes behind left codes, for kernels that read whole steps

// What stands there is multiplied by 0, but only numbers that were written are the same in every run.
inline void clear_pad(uint8_t* end) { std::memset(end, 0, static_cast<size_t>(kPad)); }

// Codes to their form, copied where that is all there is to do.
inline void load_pixels(const Form& form, const uint8_t* codes, int64_t pixels, int64_t channels,
                        uint8_t* out) {
  if (form.load == nullptr) {
    std::memcpy(out, codes, static_cast<size_t>(pixels * channels));
  } else {
    form.load(codes, pixels, channels, out);
  }
}

class Panel {
 public:
  Panel(const Form& form, int64_t columns, int64_t segments, int64_t pixels, int64_t channels)
      : form_(&form),
        columns_(columns),
        segments_(segments),
        pixels_(pixels),
        channels_(channels),
        bytes_(static_cast<size_t>(form.panel_bytes(columns, segments, pixels, channels) + kAlign)) {
  }

  Panel(const Form& form, const uint8_t* right, int64_t columns, int64_t segments, int64_t pixels,
        int64_t channels)
      : Panel(form, columns, segments, pixels, channels) {
    pack(right);
  }

  // In the form for codes of any width.
  Panel(const Kernels& kernels, int64_t columns, int64_t segments, int64_t length)
      : Panel(*kernels.codes, columns, segments, 1, length) {}
  void pack(const Kernels&, const uint8_t* right) { pack(right); }

  void pack(const uint8_t* right) {
    unsigned seen = 0;
    for (int64_t i = 0; i < columns_ * segments_ * pixels_ * channels_; ++i) seen |= right[i];
    shifted_ = form_->shifts && seen > 127;
    form_->pack_panel(right, columns_, segments_, pixels_, channels_, shifted_, start());
  }

  const void* data() const { return const_cast<Panel*>(this)->start(); }
  bool shifted() const { return shifted_; }

 private:
  static constexpr uintptr_t kAlign = 64;

  void* start() {
    const uintptr_t address = reinterpret_cast<uintptr_t>(bytes_.data());
    return reinterpret_cast<void*>((address + kAlign - 1) / kAlign * kAlign);
  }

  const Form* form_;
  int64_t columns_, segments_, pixels_, channels_;
  bool shifted_ = false;
  std::vector<uint8_t> bytes_;
};

}  // namespace bc
