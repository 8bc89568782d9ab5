// The peak loop of AMX: four tiles of 16 x 16 sums, operands at rest in the other four.
#include <immintrin.h>

#include "../peak.h"

namespace bc {
namespace {

struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

double int8(int64_t rounds, const uint8_t*, int64_t) {
  static const Shapes shapes;
  _tile_loadconfig(&shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t r = 0; r < rounds * kPeakSteps / 16; ++r) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
  return static_cast<double>(rounds * kPeakSteps / 16) * 4 * (16 * 16 * 64);
}

}  // namespace

const Peak kPeaksAmx[] = {{"int8", "amx", int8}, {nullptr, nullptr, nullptr}};

}  // namespace bc
