// See operands.h.
#include "operands.h"

#include <algorithm>
#include <cstring>

namespace ort {
namespace {

OperandGrid grid_of(const Info& info, const std::string& of, const Shape& bits, const Shape& per_length,
                    const Shape& shortest, size_t i) {
  OperandGrid grid;
  grid.scale = info.parameter((of + "_scale").c_str());
  require(!grid.scale.empty(), "the scale of " + of + " is empty");
  grid.offset = info.parameter((of + "_offset").c_str(), static_cast<int64_t>(grid.scale.size()));
  grid.bits = static_cast<int>(bits[i]), grid.per_length = static_cast<int>(per_length[i]);
  grid.shortest = shortest[i];
  return grid;
}

// Whether all numbers are 0, whatever their sign.
bool is_zero(const float* x, int64_t n) {
  constexpr int64_t kBlock = 64;
  for (int64_t at = 0; at < n; at += kBlock) {
    uint32_t seen = 0;
    for (int64_t i = at; i < std::min(n, at + kBlock); ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, x + i, sizeof bits);
      seen |= bits;
    }
    if ((seen & 0x7fffffffu) != 0) return false;
  }
  return true;
}

}  // namespace

OperandGrid::Spread OperandGrid::spread(int64_t batch, int64_t heads, int64_t length) const {
  const int64_t groups = static_cast<int64_t>(scale.size());
  require(groups == 1 || groups == heads, "there are " + std::to_string(groups) + " grids for " +
                                              std::to_string(heads) + " matrices");
  std::vector<float> s(scale), o(offset);
  check(bc_length_grid(length, bits, per_length, shortest, groups, s.data(), o.data()), "a grid");
  Spread out;
  out.scale.resize(static_cast<size_t>(batch)), out.offset.resize(static_cast<size_t>(batch));
  for (int64_t b = 0; b < batch; ++b) {
    out.scale[b] = s[b % groups], out.offset[b] = o[b % groups];
  }
  return out;
}

std::vector<OperandGrid> grids_of(const Info& info, const std::vector<const char*>& names) {
  const Shape bits = info.integers("bits", names.size(), 1, 8);
  const Shape per_length = info.integers("per_length", names.size(), 0, 1);
  const Shape shortest = info.integers("shortest", names.size(), 0, kLongest);
  std::vector<OperandGrid> grids;
  for (size_t i = 0; i < names.size(); ++i) {
    grids.push_back(grid_of(info, names[i], bits, per_length, shortest, i));
  }
  return grids;
}

OutGrid out_grid(const Info& info) {
  OutGrid grid;
  grid.scale = info.parameter("out_scale");
  require(!grid.scale.empty(), "the input out_scale is empty");
  const size_t count = grid.scale.size();
  grid.offset = info.parameter("out_offset", static_cast<int64_t>(count));
  Shape bits = info.integers("out_bits");
  if (bits.size() == 1) bits.assign(count, bits[0]);
  require(bits.size() == count, "the attribute out_bits has " + std::to_string(bits.size()) + " numbers, not " +
                                    std::to_string(count));
  for (const int64_t b : bits) {
    require(b >= 1 && b <= 8, "the attribute out_bits holds " + std::to_string(b) + ", not 1 to 8");
    grid.top.push_back(static_cast<float>((1 << b) - 1));
  }
  const bool one = std::all_of(bits.begin(), bits.end(), [&](int64_t b) { return b == bits[0]; });
  grid.bits = one ? static_cast<int>(bits[0]) : 0;
  return grid;
}

Terms::Terms(const Info& info)
    : multiplies_(info.integers("multiplies")),
      repeats_(info.integers("repeats")),
      first_term_(info.schema().port("term0")) {
  host::require_terms(multiplies_, repeats_);
}

Terms::Bound Terms::bound(const Context& context, const bc_attention& a) const {
  Bound bound;
  const size_t count = repeats_.size();
  bound.starts.resize(count), bound.skips.resize(count), bound.turned.resize(count);
  for (size_t t = 0; t < count; ++t) bind(term(context, t, a), t, a, bound);
  return bound;
}

Tensor Terms::term(const Context& context, size_t t, const bc_attention& a) const {
  Tensor term = context.real(first_term_ + t);
  host::require_term(term.shape, repeats_[t], {a.batch, a.queries, a.keys});
  return term;
}

void Terms::bind(const Tensor& term, size_t t, const bc_attention& a, Bound& bound) const {
  const int64_t count = term.shape[0], rows = term.shape[1], columns = term.shape[2], size = rows * columns;
  const bool multiply = multiplies_[t] != 0;
  std::vector<int64_t> place(static_cast<size_t>(count), 0);
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < count; ++i) {
    if (!multiply && is_zero(term.reals() + i * size, size)) {
      place[i] = -1;
    } else {
      place[i] = static_cast<int64_t>(kept.size()) * size;
      kept.push_back(i);
    }
  }
  std::vector<float>& turned = bound.turned[t];
  turned.resize(kept.size() * static_cast<size_t>(size));
  for (size_t i = 0; i < kept.size(); ++i) {
    const int64_t to = static_cast<int64_t>(i) * size;
    check(bc_turn(term.reals() + kept[i] * size, 1, rows, columns, size, columns, turned.data() + to, size, rows, 1),
          "a term");
  }
  std::vector<int64_t>& starts = bound.starts[t];
  std::vector<uint8_t>& skips = bound.skips[t];
  starts.resize(static_cast<size_t>(a.batch)), skips.resize(static_cast<size_t>(a.batch));
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t at = place[b / repeats_[t] % count];
    starts[b] = std::max<int64_t>(at, 0), skips[b] = at < 0 ? 1 : 0;
  }
  if (kept.empty()) return;  // it changes nothing anywhere
  const int64_t row = rows > 1 || a.queries == 1 ? 1 : 0;
  const int64_t column = columns > 1 || a.keys == 1 ? rows : 0;
  bound.records.push_back({{turned.data(), starts.data(), row, column}, multiply ? 1 : 0, skips.data()});
}

}  // namespace ort
