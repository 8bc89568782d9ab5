// Attention with AVX2.
#include <immintrin.h>

#define BITCOMPRESS_VECTOR 8
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
inline Reals stayed(Reals x) {
  __asm__ volatile("" : "+x"(x));
  return x;
}

inline Reals min_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(
      _mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline Reals max_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(
      _mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}

inline Ints multiply_pairs(Ints left, uint32_t right) {
  const __m256i pair = _mm256_set1_epi32(static_cast<int>(right));
  return reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(left), pair));
}

}  // namespace

const Attending kAttendAvx2 = {Attention<Pairs>::bytes, Attention<Pairs>::run, Pairs::cut,
                                cut_weights};

}  // namespace bc
