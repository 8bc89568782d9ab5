// Forms in which a unit is a code: as stored, or widened to 16 bits. Every file in isa/ compiles it.
//
// The pixels of a run lie side by side, so such a product sees one run of pixels * channels codes.
#pragma once

#include <stdint.h>

#include "../kernels.h"

namespace bc {
namespace {

inline int64_t units_of_codes(int64_t channels) { return channels; }

inline void widen(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
  int16_t* wide = reinterpret_cast<int16_t*>(out);
  for (int64_t i = 0; i < pixels * channels; ++i) wide[i] = codes[i];
}

using PanelBytes = int64_t(int64_t columns, int64_t segments, int64_t length);
using PackPanel = void(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                       bool shifted, void* panel);

template <PanelBytes* kBytes>
int64_t run_panel_bytes(int64_t columns, int64_t segments, int64_t pixels, int64_t channels) {
  return kBytes(columns, segments, pixels * channels);
}

template <PackPanel* kPack>
void pack_run_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t pixels,
                    int64_t channels, bool shifted, void* panel) {
  kPack(right, columns, segments, pixels * channels, shifted, panel);
}

template <PanelBytes* kBytes, PackPanel* kPack, void (*kProduct)(const Product&), int64_t kStep>
constexpr Form bytes_form() {
  return {"bytes", 1, units_of_codes, nullptr, run_panel_bytes<kBytes>, pack_run_panel<kPack>,
          kProduct, kStep, true};
}

template <PanelBytes* kBytes, PackPanel* kPack, void (*kProduct)(const Product&), int64_t kStep>
constexpr Form words_form() {
  return {"words", 2, units_of_codes, widen, run_panel_bytes<kBytes>, pack_run_panel<kPack>,
          kProduct, kStep, false};
}

}  // namespace
}  // namespace bc
