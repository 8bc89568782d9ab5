// Peak loops of plain C++: what any CPU of the family can do, vectorised as far as its baseline goes.
// Operands lie in the first cache; a barrier after each round makes the compiler read them again.
#include "../peak.h"

namespace bc {
namespace {

constexpr int kNumbers = 2048;

// The compiler may not know what lies at either place.
void again(void* x, void* w) { __asm__ volatile("" : : "r"(x), "r"(w) : "memory"); }

// A place that the results go to, so that they are wanted.
template <class T>
void keep(T value) {
  __asm__ volatile("" : : "m"(value));
}

double fma(int64_t rounds, const uint8_t*, int64_t) {
  typedef float Four __attribute__((vector_size(16)));
  constexpr int kSums = 10;
  Four sums[kSums] = {};
  Four x = {1.0f, 1.0f, 1.0f, 1.0f};
  const Four w = {0.999f, 0.998f, 0.997f, 0.996f};
  for (int64_t r = 0; r < rounds; ++r) {
    for (int s = 0; s < kPeakSteps; ++s) {
      for (Four& sum : sums) sum = sum * w + x;
    }
  }
  for (const Four& sum : sums) keep(sum);
  return static_cast<double>(rounds) * kPeakSteps * kSums * 4;
}

double int8(int64_t rounds, const uint8_t*, int64_t) {
  static int16_t x[kNumbers], w[kNumbers];
  int32_t sum = 0;
  for (int64_t r = 0; r < rounds; ++r) {
    again(x, w);
    for (int i = 0; i < kNumbers; ++i) sum += x[i] * w[i];
  }
  keep(sum);
  return static_cast<double>(rounds) * kNumbers;
}

// Bits counted in the bytes of words, which the compiler vectorises; the bytes are added up now and
// then, which is left out here.
double popcount(int64_t rounds, const uint8_t*, int64_t) {
  static uint64_t x[kNumbers / 8], w[kNumbers / 8];
  constexpr int kSums = 8;
  uint64_t sums[kSums] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    again(x, w);
    for (int i = 0; i < kNumbers / 8; i += kSums) {
      for (int s = 0; s < kSums; ++s) {
        uint64_t bits = x[i] & w[i + s];
        bits -= bits >> 1 & 0x5555555555555555;
        bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
        sums[s] += (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
      }
    }
  }
  keep(sums);
  return static_cast<double>(rounds) * (kNumbers / 8) * 64;
}

double read(int64_t rounds, const uint8_t* buffer, int64_t bytes) {
  typedef uint64_t Two __attribute__((vector_size(16), may_alias, aligned(1)));
  bytes -= bytes % kPeakBlock;
  Two sums[4] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    again(nullptr, nullptr);
    const Two* from = reinterpret_cast<const Two*>(buffer);
    for (int64_t i = 0; i < bytes / 16; i += 4) {
      for (int j = 0; j < 4; ++j) sums[j] ^= from[i + j];
    }
  }
  for (const Two& sum : sums) keep(sum);
  return static_cast<double>(rounds) * static_cast<double>(bytes);
}

}  // namespace

const Peak kPeaksScalar[] = {{"fma", "scalar", fma},
                             {"int8", "scalar", int8},
                             {"popcount", "scalar", popcount},
                             {"read", "scalar", read},
                             {nullptr, nullptr, nullptr}};

}  // namespace bc
