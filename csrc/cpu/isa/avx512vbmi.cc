// Which form the level avx512vbmi takes for codes of so many bits.
#include "avx512vbmi.h"

namespace bc {
namespace {

int64_t filled(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Products a form would do for each that is asked for, over what it does in a nanosecond.
double cost(const Extent& e, int64_t channels, int64_t columns, double products) {
  return static_cast<double>(filled(e.channels, channels)) / static_cast<double>(e.channels) *
         static_cast<double>(filled(e.columns, columns)) / static_cast<double>(e.columns) /
         products;
}

}  // namespace

const Form& vbmi_form_for(int x_bits, int w_bits, const Extent& extent, const Form& bytes) {
  if (x_bits > 2 || w_bits > 2 || extent.length() == 0 || extent.columns == 0) return bytes;
  const double by_bytes = cost(extent, 1, 16, 500);
  const double by_triples = cost(extent, 3, 64, extent.columns > 64 ? 1000 : 800);
  const double by_bits = x_bits == 1 && w_bits == 1 ? cost(extent, 32, 16, 2600) : by_bytes;
  if (by_bits < by_bytes && by_bits < by_triples) return kVbmiBits;
  return by_triples < by_bytes ? kVbmiTriples : bytes;
}

}  // namespace bc
