#include "code_grid.h"

#include <algorithm>
#include <cmath>

#include "scratch.h"

namespace bc {
namespace {

constexpr double kUnit = 1.0 / (1 << 24);
// Beyond this so many codes are near a tie that finding them in float32 does not pay.
constexpr double kMostError = 1.0 / 1024;
// A code is converted to int32 before it is clamped.
constexpr double kMostCode = 1 << 30;

uint8_t code_of(float x, float scale, float offset) {
  const float code = std::nearbyint((x - offset) / scale);
  return static_cast<uint8_t>(code > 0.0f ? std::min(code, 255.0f) : 0.0f);
}

}  // namespace

int64_t Folded::bytes(int64_t columns) {
  return Scratch::bytes<float>(room_of(columns)) + Scratch::bytes<int32_t>(room_of(columns));
}

int64_t CodeGrid::bytes(int64_t columns) {
  return 4 * Scratch::bytes<float>(columns) + 4 * Scratch::bytes<float>(room_of(columns)) + 2 * Scratch::bytes<uint8_t>(columns);
}

CodeGrid::CodeGrid(const bc_sink& sink, int64_t columns, bool floor, const bc_step* step,
                   uint8_t* memory)
    : columns_(columns) {
  Parts parts(memory);
  for (float** part : {&scale_, &offset_, &factor_}) *part = parts.part<float>(columns);
  float* numbers = parts.part<float>(columns);
  if (step != nullptr) {
    times_ = numbers, leaks_ = step->kind != BC_MUL;
    for (int64_t i = 0; i < columns; ++i)
      numbers[i] = step->data == nullptr ? step->value : step->data[i * step->column];
  }
  for (float** part : {&product_, &row_, &leak_, &leak_base_}) *part = parts.part<float>(room_of(columns));
  least_ = parts.part<uint8_t>(columns), top_ = parts.part<uint8_t>(columns);
  float highest = 0;
  double base = 0;
  bool normal = true, compares = !floor;
  for (int64_t i = 0; i < columns; ++i) {
    const int64_t g = sink.groups == 1 ? 0 : i;
    scale_[i] = sink.scale[g], offset_[i] = sink.offset[g], factor_[i] = 1.0f / scale_[i];
    compares = compares && scale_[i] == 0.0f;
    normal = normal && scale_[i] > 0 && std::isnormal(scale_[i]) && std::isnormal(factor_[i]) &&
             std::isfinite(offset_[i]) && std::isfinite(times(i)) &&
             (!leaks_ || (times_[i] > 0.0f && times_[i] <= 1.0f));
    top_[i] = static_cast<uint8_t>(sink.top[g]);
    least_[i] = floor ? std::min(code_of(0.0f, scale_[i], offset_[i]), top_[i]) : 0;
    highest = std::max(highest, sink.top[g]);
    base = std::max(base, std::fabs(static_cast<double>(offset_[i]) / static_cast<double>(scale_[i])));
  }
  const float tie = normal ? 0.5f - (highest + 1.0f) * 9.5367431640625e-7f : -1.0f;
  cutter_ = {scale_, offset_, factor_, least_, top_, tie, compares};
  const double more = step == nullptr ? 0.0 : leaks_ ? 3.0 : 1.0;
  fixed_error_ = (7.0 + more) * (static_cast<double>(highest) + 2.0) +
                 1.25 * (1.0 + (leaks_ ? 4.0 : more)) * base + 2.0;
}

void CodeGrid::set(const Readout& r, bool spread) {
  spread_ = spread;
  for (float* part : {product_, row_, leak_, leak_base_})
    std::fill_n(part, room_of(columns_), 0.0f);
  most_row_ = 0;
  for (int64_t i = 0; i < columns_; ++i) {
    const double scale = static_cast<double>(scale_[i]);
    product_[at(i)] = static_cast<float>(r.product[i] * times(i) / scale);
    row_[at(i)] = static_cast<float>(r.row[i] * times(i) / scale);
    if (leaks_) {
      const double slope = static_cast<double>(times_[i]);
      leak_[at(i)] = times_[i];
      leak_base_[at(i)] =
          static_cast<float>(-static_cast<double>(offset_[i]) / scale * (1.0 - slope));
    }
    const double row = std::fabs(static_cast<double>(row_[at(i)]));
    most_row_ = row <= most_row_ ? most_row_ : row;  // a NaN stays
  }
}

Folded CodeGrid::fold(const Readout& r, const Bounds& bounds, uint8_t* memory) const {
  Parts parts(memory);
  const int64_t room = room_of(columns_);
  float* constants = parts.part<float>(room);
  int32_t* centres = parts.part<int32_t>(room);
  std::fill_n(constants, room, 0.0f);
  std::fill_n(centres, room, 0);
  const double row_centre = r.has_row ? std::floor(std::min(bounds.codes, 1e9) / 2) : 0.0;
  const double rows = r.has_row ? most_row_ : 0.0;
  double most = 0, most_code = 0;
  for (int64_t i = 0; i < columns_; ++i) {
    const double scale = static_cast<double>(scale_[i]);
    const double product = r.product[i] * times(i);
    const double rest = (r.constant[i] + r.bias[i] + (r.has_row ? row_centre * r.row[i] : 0.0)) * times(i) -
                        static_cast<double>(offset_[i]);
    const double wanted = std::round(-rest / product);
    const double centre = wanted > 0.0 ? std::min(wanted, 2147483647.0) : 0.0;
    const double constant = (rest + centre * product) / scale;
    constants[at(i)] = static_cast<float>(constant);
    centres[at(i)] = static_cast<int32_t>(centre);
    const double size = std::fabs(constant);
    const double code = std::fabs(product) / scale * std::max(centre, bounds.sums[i]) + size;
    most = size <= most ? most : size;
    most_code = code <= most_code ? most_code : code;
  }
  const double error = kUnit * (fixed_error_ + 5.25 * most), slope = kUnit * 7.25 * rows;
  const bool fits = cutter_.tie >= 0.0f && error < kMostError &&
                    most_code + rows * bounds.codes < kMostCode;
  double tie = fits ? 0.5 - error : -1.0;
  // With a sum of codes for each element the bound is that of the largest.
  if (r.each) tie -= slope * (bounds.codes - row_centre);
  return {constants, centres, static_cast<int32_t>(row_centre),
          static_cast<float>(tie), static_cast<float>(slope * 1.001)};
}

CodeReadout CodeGrid::from(int64_t o, const Readout& exact, const Folded& f) const {
  const RowCutter cutter{scale_ + o, offset_ + o, factor_ + o,
                         least_ + o, top_ + o,    cutter_.tie, cutter_.compares};
  return {exact, cutter, product_ + o, row_ + o, f.constant + o, f.centre + o, f.row_centre, f.tie,
          f.slope, spread_, times_ == nullptr ? nullptr : times_ + o,
          leaks_ ? leak_ + o : nullptr, leaks_ ? leak_base_ + o : nullptr};
}

}  // namespace bc
