// Which form the level avx512vbmi takes for codes of so many bits: that of the least time, by what was
// measured on Zen 5.
#include "avx512vbmi.h"

namespace bc {
namespace {

// Nanoseconds for a row of sums.
struct Speed {
  int64_t channels, columns;  // that are filled up
  double products;            // in a nanosecond
  double sum;                 // nanoseconds for each sum, however short

  double time(const Extent& e) const {
    const auto filled = [](int64_t n, int64_t step) {
      return static_cast<double>((n + step - 1) / step * step);
    };
    const double length = static_cast<double>(e.pixels) * filled(e.channels, channels);
    return filled(e.columns, columns) * (length / products + sum);
  }
};

constexpr Speed kBytes{1, 16, 510, 0.02};
constexpr Speed kBits{32, 16, 2600, 0.05};
constexpr Speed kTriples{3, 64, 900, 0.06}, kWideTriples{3, 64, 1080, 0.06};

}  // namespace

const Form& vbmi_form_for(int x_bits, int w_bits, const Extent& extent, const Form& bytes) {
  if (x_bits > 2 || w_bits > 2) return bytes;
  const double by_bytes = kBytes.time(extent);
  const double by_triples = (extent.columns > 64 ? kWideTriples : kTriples).time(extent);
  if (x_bits == 1 && w_bits == 1) {
    const double by_bits = kBits.time(extent);
    if (by_bits < by_bytes && by_bits < by_triples) return kVbmiBits;
  }
  return by_triples < by_bytes ? kVbmiTriples : bytes;
}

}  // namespace bc
