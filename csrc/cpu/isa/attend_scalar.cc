// Attention at the portable level.
#define BITCOMPRESS_VECTOR 4
#include "attend_pairs.h"

namespace bc {
namespace {

inline void store_codes(uint8_t* to, Reals sum) {
  uint32_t words[kVector];
  memcpy(words, &sum, sizeof words);
  for (int i = 0; i < kVector; ++i) to[i] = static_cast<uint8_t>(words[i]);
}

inline Half plus(Half a, Half b) { return a + b; }
inline Reals plus(Reals a, Reals b) { return a + b; }
inline Reals stayed(Reals x) { return x; }

inline Reals min_of(Reals a, Reals b) { return a < b ? a : b; }
inline Reals max_of(Reals a, Reals b) { return a > b ? a : b; }

inline Ints multiply_pairs(Ints left, uint32_t right) {
  const int32_t low = static_cast<int32_t>(right & 0xffff), high = static_cast<int32_t>(right >> 16);
  return (left & 0xffff) * low + (left >> 16) * high;
}

}  // namespace

const Attending kAttendScalar = {Attention<Pairs>::bytes, Attention<Pairs>::run, Pairs::cut,
                                  cut_weights};

}  // namespace bc
