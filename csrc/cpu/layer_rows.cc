// A linear: rows of channels, a few at a time, so that all between input and output stays in L1.
#include <algorithm>

#include "layer.h"
#include "threads.h"

namespace bc {
namespace {

class Rows {
 public:
  Rows(const bc_layer& layer, const Picture& picture)
      : l_(layer),
        k_(layer.k),
        r_(picture.run),
        c_(layer.c),
        rows_(picture.images * picture.height * picture.width),
        pixel_(layer.form.pixel_bytes(c_.channels)),
        in_place_(layer.form.load == nullptr),
        own_sums_(layer.adds_up()),
        head_{&layer.k, picture.run.head, picture.run.head_count, c_.channels},
        landing_(layer.k, picture.run, picture.out_h, picture.out_w, c_.filters),
        spread_(layer.form.spreads && landing_.takes_spread()),
        width_(spread_ ? room_of(layer.columns()) : layer.sums_stride()),
        block_(fitting()) {}

  int threads(int most) const {
    const double products = static_cast<double>(c_.channels * c_.filters) / 250;
    const double reals = 0.05 * static_cast<double>(c_.filters + c_.channels);
    return worthwhile(most, static_cast<double>(rows_) *
                                (products + reals + head_.cost() + landing_.cost()));
  }

  void run(int use) {
    const int64_t each_slot = slot(nullptr).bytes;
    Scratch scratch(landing_.bytes() + landing_.folded_bytes() + use * each_slot);
    const Readout readout = l_.readout();
    uint8_t* shared = scratch.part<uint8_t>(landing_.bytes());
    uint8_t* constants = scratch.part<uint8_t>(landing_.folded_bytes());
    const auto fold = [&] {
      landing_.prepare(readout, shared, spread_);
      return landing_.fold(readout, {l_.most_sums.data(), l_.most_codes}, constants);
    };
    Folded folded = fold();
    if (spread_ && !(landing_.takes_spread() && folded.tie >= 0.0f)) {
      spread_ = false;  // sums are read as reals after all
      folded = fold();
    }
    uint8_t* slots = scratch.part<uint8_t>(use * each_slot);
    const int64_t blocks = (rows_ + block_ - 1) / block_;
    const int64_t each = std::max<int64_t>(1, std::min<int64_t>(16, blocks / (8 * use)));
    parallel_for((blocks + each - 1) / each, use, [&](int64_t task, int number) {
      const Slot s = slot(slots + number * each_slot);
      const int64_t end = std::min(rows_, (task + 1) * each * block_);
      for (int64_t first = task * each * block_; first < end; first += block_)
        block(first, std::min(block_, end - first), s, folded);
    });
  }

 private:
  // Rows of a block: a whole number of tiles whose codes, sums and reals fill about half of L1.
  int64_t fitting() const {
    constexpr int64_t kBytes = 20480, kTile = 24;
    const int64_t of_row = c_.channels + pixel_ + 4 * width_;
    return std::clamp<int64_t>(kBytes / of_row, kTile, 10 * kTile) / kTile * kTile;
  }

  struct Slot {
    uint8_t *codes, *form;
    int32_t *sums, *row_sums;
    float* reals;
    int64_t bytes;
  };

  Slot slot(uint8_t* memory) const {
    Parts parts(memory);
    Slot s{};
    s.codes = parts.part<uint8_t>(block_ * c_.channels + kPad);
    if (!in_place_) s.form = parts.part<uint8_t>(block_ * pixel_ + kPad);
    s.sums = parts.part<int32_t>(block_ * width_);
    s.row_sums = parts.part<int32_t>(block_);
    s.reals = parts.part<float>(block_ * std::max(c_.channels, c_.filters));
    s.bytes = parts.bytes();
    return s;
  }

  // What the product reads of rows: x itself where its codes lie so and what lies behind them can be
  // read.
  bool reads_x(int64_t first, int64_t count) const {
    if (r_.x_codes == 0 || !in_place_ || (own_sums_ && r_.pitch != c_.channels)) return false;
    return c_.channels % l_.form.step == 0 || (rows_ - first - count) * r_.pitch >= kPad;
  }

  const uint8_t* codes_of(int64_t first, int64_t count, uint8_t* codes, float* reals) const {
    const int64_t n = c_.channels;
    if (r_.x_codes != 0) {
      const uint8_t* x = static_cast<const uint8_t*>(r_.x) + first * r_.pitch;
      if (!in_place_ || reads_x(first, count)) return close_up(x, count, n, r_.pitch, codes);
      for (int64_t i = 0; i < count; ++i) std::copy_n(x + i * r_.pitch, n, codes + i * n);
      return codes;
    }
    const float* x = static_cast<const float*>(r_.x) + first * r_.pitch;
    if (head_.empty()) {
      l_.cut(x, count, r_.pitch, codes, n);
    } else if (l_.compares) {
      const RowCutter cutter = l_.row_cutter();
      const Steps::Cut cut{cutter, codes, n};
      head_.run(first, count, x, r_.pitch, reals, nullptr, 0, &cut);
    } else {
      head_.run(first, count, x, r_.pitch, reals, reals, n);
      l_.cut(reals, count, n, codes, n);
    }
    return codes;
  }

  void block(int64_t first, int64_t count, const Slot& s, const Folded& folded) const {
    const uint8_t* left = nullptr;
    int64_t stride = pixel_;
    landing_.ask(first, count);
    if (reads_x(first, count)) {
      left = static_cast<const uint8_t*>(r_.x) + first * r_.pitch, stride = r_.pitch;
    } else {
      left = codes_of(first, count, s.codes, s.reals);
      if (left == s.codes) clear_pad(s.codes + count * c_.channels);
    }
    if (own_sums_) k_.sum_rows(left, count, c_.channels, s.row_sums);
    if (!in_place_) {
      l_.form.load(left, count, c_.channels, s.form);
      clear_pad(s.form + count * pixel_);
      left = s.form;
    }
    const Panel& panel = l_.panels[0];
    l_.form.product({&left, 1, c_.channels, stride, count, panel.data(), l_.columns(),
                     panel.shifted(), s.sums, width_, 1, spread_, own_sums_ ? s.row_sums : nullptr});
    const int64_t ones = spread_ ? place_of(c_.filters) : c_.filters;
    const int32_t* of_rows = l_.ones ? s.sums + ones : s.row_sums;
    landing_.read(
        l_.readout(), folded,
        {first, count, 0, c_.filters, s.sums, width_, of_rows, l_.ones ? width_ : 1}, s.reals);
    landing_.land(first, count, s.reals);
  }

  const bc_layer& l_;
  const Kernels& k_;
  const bc_run& r_;
  const bc_conv2d& c_;
  int64_t rows_, pixel_;
  bool in_place_, own_sums_;
  Steps head_;
  Landing landing_;
  bool spread_;  // sums stand in the order of place_of
  int64_t width_;
  int64_t block_;
};

}  // namespace

void run_rows(const bc_layer& layer, const Picture& picture, int threads) {
  Rows rows(layer, picture);
  rows.run(rows.threads(threads));
}

}  // namespace bc
