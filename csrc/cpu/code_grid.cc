#include "code_grid.h"

#include <algorithm>
#include <cmath>

#include "scratch.h"

namespace bc {
namespace {

constexpr double kUnit = 1.0 / (1 << 24);
// Beyond this so many codes are near a tie that finding them in float32 does not pay.
constexpr double kMostError = 1.0 / 1024;

uint8_t code_of(float x, float scale, float offset) {
  const float code = std::nearbyint((x - offset) / scale);
  return static_cast<uint8_t>(code > 0.0f ? std::min(code, 255.0f) : 0.0f);
}

}  // namespace

int64_t CodeGrid::bytes(int64_t columns) {
  return 5 * Scratch::bytes<float>(columns) + Scratch::bytes<double>(columns) +
         2 * Scratch::bytes<uint8_t>(columns);
}

CodeGrid::CodeGrid(const bc_sink& sink, int64_t columns, bool floor, uint8_t* memory)
    : columns_(columns) {
  for (float** part : {&scale_, &offset_, &factor_, &product_, &row_}) {
    *part = reinterpret_cast<float*>(memory);
    memory += Scratch::bytes<float>(columns);
  }
  error_ = reinterpret_cast<double*>(memory);
  least_ = memory + Scratch::bytes<double>(columns);
  top_ = least_ + Scratch::bytes<uint8_t>(columns);
  float highest = 0;
  bool normal = true;
  for (int64_t i = 0; i < columns; ++i) {
    const int64_t g = sink.groups == 1 ? 0 : i;
    scale_[i] = sink.scale[g], offset_[i] = sink.offset[g], factor_[i] = 1.0f / scale_[i];
    normal = normal && scale_[i] > 0 && std::isnormal(scale_[i]) && std::isnormal(factor_[i]) &&
             std::isfinite(offset_[i]);
    top_[i] = static_cast<uint8_t>(sink.top[g]);
    least_[i] = floor ? std::min(code_of(0.0f, scale_[i], offset_[i]), top_[i]) : 0;
    highest = std::max(highest, sink.top[g]);
  }
  const float tie = normal ? 0.5f - (highest + 1.0f) * 9.5367431640625e-7f : -1.0f;
  cutter_ = {scale_, offset_, factor_, least_, top_, tie};
}

void CodeGrid::set(const Readout& r, const Bounds& bounds) {
  for (int64_t i = 0; i < columns_; ++i) {
    const double scale = static_cast<double>(scale_[i]);
    const double product = r.product[i] / scale, row = r.row[i] / scale;
    product_[i] = static_cast<float>(product), row_[i] = static_cast<float>(row);
    const double base = std::fabs(static_cast<double>(offset_[i])) / scale;
    error_[i] = 2.25 * std::fabs(product) * bounds.sums[i] +
                3.25 * std::fabs(row) * bounds.codes + 4.0 * (top_[i] + 2.0) + 1.25 * base;
    if (!(bounds.sums[i] < 1 / kUnit && bounds.codes < 1 / kUnit)) error_[i] = HUGE_VAL;
  }
}

float CodeGrid::fold(const double* constant, const double* bias, float* out) const {
  double most = cutter_.tie < 0.0f ? HUGE_VAL : 0.0;
  for (int64_t i = 0; i < columns_; ++i) {
    const double offset = static_cast<double>(offset_[i]);
    const double folded = (constant[i] + bias[i] - offset) / static_cast<double>(scale_[i]);
    out[i] = static_cast<float>(folded);
    const double error = error_[i] + 2.25 * std::fabs(folded);
    most = error <= most ? most : error;  // a NaN stays
  }
  const double error = most * kUnit + kUnit;
  return error < kMostError ? static_cast<float>(0.5 - error) : -1.0f;
}

CodeReadout CodeGrid::from(int64_t o, const Readout& exact, const float* folded, float tie) const {
  const RowCutter cutter{scale_ + o, offset_ + o, factor_ + o, least_ + o, top_ + o, cutter_.tie};
  return {exact, cutter, product_ + o, row_ + o, folded + o, tie};
}

}  // namespace bc
