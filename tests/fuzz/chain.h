// Steps on rows and sinks of rows, with memory that ends where they do.
#pragma once

#include <algorithm>
#include <list>
#include <vector>

#include "input.h"

namespace fuzz {

// Elements from the first to the last of `rows` rows of n, `pitch` apart; -1 if more than kMost.
inline int64_t spread(int64_t rows, int64_t pitch, int64_t n) {
  if (elements({rows, n}) <= 0) return elements({rows, n});
  const __int128 all = static_cast<__int128>(rows - 1) * pitch + n;
  return pitch < 0 || all > kMost ? -1 : static_cast<int64_t>(all);
}

class Chain {
 public:
  Chain(Input& in, int64_t rows, int64_t channels, int64_t most) {
    for (int64_t i = in.from(0, most); i > 0; --i) add(in, rows, channels);
    null_ = in.wild() && in.once_in(16);
  }

  const bc_step* get() const { return null_ ? nullptr : steps_.data(); }
  int64_t count() const { return static_cast<int64_t>(steps_.size()); }

 private:
  void add(Input& in, int64_t rows, int64_t channels) {
    bc_step s{};
    s.kind = in.small(BC_ADD, BC_MUL_ADD);
    s.value = static_cast<float>(in.from(-20, 20)) * 0.1f;
    if (s.kind == BC_STORE) {
      s.out_pitch = pitch_of(in, channels);
      s.out = keep(Memory<float>(in, spread(rows, s.out_pitch, channels)));
    } else if (s.kind == BC_NORM) {
      if (!in.once_in(4)) s.data = keep(reals(in, elements({channels}), -1, 1));
      if (!in.once_in(4)) s.shift = keep(reals(in, elements({channels}), -1, 1));
    } else if (in.once_in(2)) {
      s.row = in.once_in(2) ? in.size(0, 60) : 0;
      s.column = in.once_in(2) ? 1 : in.size(0, 3);
      s.each = in.once_in(2) ? in.size(0, 30) : 0;
      const bool shares = s.each > 1 && s.each < kMost && rows > 0 && rows < kMost;
      const int64_t operands = shares ? (rows + s.each - 1) / s.each : rows;
      const int64_t one = spread(channels, s.column, 1);
      s.data = keep(reals(in, one < 0 ? -1 : spread(operands, s.row, one), -1, 1));
    }
    if (s.kind == BC_MUL_ADD) s.shift = keep(reals(in, elements({channels}), -1, 1));
    steps_.push_back(s);
  }

  float* keep(Memory<float> memory) {
    kept_.push_back(std::move(memory));
    return kept_.back().get();
  }

  std::vector<bc_step> steps_;
  std::list<Memory<float>> kept_;
  bool null_ = false;
};

// Where rows end: as reals or as codes, `size` being the elements of the output.
class Sink {
 public:
  Sink(Input& in, int64_t channels, int64_t pitch, int64_t size)
      : coded_(in.once_in(3)),
        groups_(in.once_in(2) ? 1 : in.once_in(12) ? in.size(0, 5) : channels),
        scale_(reals(in, coded_ ? elements({groups_}) : 0, 0.01f, 1)),
        offset_(reals(in, coded_ ? elements({groups_}) : 0, -2, 1)),
        top_(in, coded_ ? elements({groups_}) : 0),
        codes_(in, coded_ ? size : 0),
        reals_(in, coded_ ? 0 : size) {
    const int64_t bits = in.from(1, 8);
    if (in.once_in(3)) std::fill(scale_.begin(), scale_.end(), 0.0f);
    if (in.once_in(8) && scale_.size() > 0) *scale_.get() = 0.0f;
    for (float& top : top_) top = static_cast<float>((1 << (in.once_in(4) ? in.from(1, 8) : bits)) - 1);
    if (in.wild() && in.once_in(8) && top_.size() > 0) *top_.get() = static_cast<float>(in.byte()) - 0.5f;
    record_.pitch = pitch;
    if (in.once_in(12)) return;  // no output
    record_.out = coded_ ? static_cast<void*>(codes_.get()) : reals_.get();
    if (!coded_) return;
    record_.scale = scale_.get(), record_.offset = offset_.get(), record_.top = top_.get();
    record_.groups = groups_;
    // Without its scale the memory would have to hold reals.
    if (record_.scale == nullptr) record_.out = nullptr;
  }

  const bc_sink& get() const { return record_; }

  template <class F>
  void at_levels(Input& in, F&& f, bool no_meaning = false) const {
    if (coded_) {
      at_two_levels(in, codes_, f, no_meaning);
    } else {
      at_two_levels(in, reals_, f, no_meaning);
    }
  }

 private:
  bool coded_;
  int64_t groups_;
  Memory<float> scale_, offset_, top_;
  Memory<uint8_t> codes_;
  Memory<float> reals_;
  bc_sink record_{};
};

}  // namespace fuzz
