// BitWindows: attention among the tokens of windows, which are found in pictures by a table.
//
// Cutting into windows, the shift, the heads side by side in a token and the way back are one table of places. It
// follows from the size of the picture, is made when a size comes first, and shared by all nodes that need it.
#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>

#include "host.h"
#include "operands.h"

namespace ort {
namespace {

struct Picture {
  int64_t count, height, width;
  int64_t pixels() const { return height * width; }
};

Picture picture_of(const Tensor& x) {
  require(x.shape.size() >= 4, "a picture is " + text(x.shape) + ", not (N, H, W, ...)");
  return {x.shape[0], x.shape[1], x.shape[2]};
}

int64_t channels_of(const Tensor& x) { return product(Shape(x.shape.begin() + 3, x.shape.end())); }

// Where each token of each window begins: [pictures * windows][tokens] elements from the start of its picture.
using Table = std::vector<int32_t>;
// Pictures, height, width, channels, window, shift.
using Key = std::array<int64_t, 8>;

Table made(const Key& key) {
  const auto [count, height, width, channels, high, wide, down, right] = key;
  Table table;
  table.reserve(static_cast<size_t>(count * height * width));
  for (int64_t n = 0; n < count; ++n) {
    for (int64_t i = 0; i < height; i += high) {
      for (int64_t j = 0; j < width; j += wide) {
        for (int64_t y = i; y < i + high; ++y) {
          for (int64_t x = j; x < j + wide; ++x) {
            const int64_t pixel = (y + down) % height * width + (x + right) % width;
            table.push_back(static_cast<int32_t>(pixel * channels));
          }
        }
      }
    }
  }
  return table;
}

// The table of a size, which lives as long as somebody holds it.
std::shared_ptr<const Table> table_of(const Key& key) {
  static std::mutex mutex;
  static std::map<Key, std::weak_ptr<const Table>> tables;
  const std::lock_guard<std::mutex> lock(mutex);
  if (std::shared_ptr<const Table> known = tables[key].lock()) return known;
  for (auto at = tables.begin(); at != tables.end();) at = at->second.expired() ? tables.erase(at) : ++at;
  auto table = std::make_shared<const Table>(made(key));
  tables[key] = table;
  return table;
}

class Windows final : public Kernel {
 public:
  explicit Windows(const Info& info)
      : grids_(grids_of(info, {"q", "k", "p", "v"})),
        terms_(info),
        per_row_(info.integer("per_row", 0, 1) != 0),
        factor_(info.real("factor")),
        window_(info.integers("window", 2, 1, kSide)),
        shift_(info.integers("shift", 2, 0, kSide)),
        heads_(info.integer("heads", 1, kSide)),
        widths_(info.integers("widths", 2, 1, kSide)),
        firsts_(info.integers("firsts", 3, 0, kLongest)) {
    if (!info.schema().codes) return;
    out_ = out_grid(info);
    const int64_t groups = static_cast<int64_t>(out_.scale.size());
    require(groups == 1 || groups == heads_ * widths_[1],
            "there are " + std::to_string(groups) + " grids for " + std::to_string(heads_ * widths_[1]) +
                " channels of y");
    require(out_.bits > 0, "codes of windows have one width");
  }

  void compute(const Context& context) const override {
    const std::array<Tensor, 3> in{context.number(0), context.number(1), context.number(2)};
    const Picture p = picture_of(in[0]);
    check_sizes(in, p);
    const int64_t out_channels = heads_ * widths_[1];
    void* out = context.output({p.count, p.height, p.width, out_channels});
    if (p.count * p.pixels() == 0) return;
    bc_attention a{};
    a.queries = a.keys = window_[0] * window_[1];
    a.batch = p.count * (p.pixels() / a.keys) * heads_;
    a.depth = widths_[0], a.values = widths_[1], a.heads = heads_;
    std::array<Placed, 4> places;
    bc_operand* const operands[] = {&a.q, &a.k, &a.v};
    for (size_t i = 0; i < 3; ++i) {
      places[i] = placed(p, a.batch, channels_of(in[i]), firsts_[i], widths_[i == 2 ? 1 : 0]);
      *operands[i] = {in[i].data, in[i].type == kUint8 ? 1 : 0, places[i].starts.data(), 0, 1, places[i].table->data()};
    }
    places[3] = placed(p, a.batch, out_channels, 0, widths_[1]);
    a.out = {out, places[3].starts.data(), a.values, places[3].table->data(), nullptr, nullptr, 0, 0};
    if (!out_.scale.empty()) {
      a.out.scale = out_.scale.data(), a.out.offset = out_.offset.data();
      a.out.groups = static_cast<int64_t>(out_.scale.size()), a.out.bits = out_.bits;
    }
    attend(context, a);
    keep({places[0].table, places[1].table, places[2].table, places[3].table});
  }

 private:
  static constexpr int64_t kSide = 1 << 20;
  using Tables = std::array<std::shared_ptr<const Table>, 4>;
  struct Placed {
    std::shared_ptr<const Table> table;
    std::vector<int64_t> starts;
  };

  void check_sizes(const std::array<Tensor, 3>& in, const Picture& p) const {
    require(p.height % window_[0] == 0 && p.width % window_[1] == 0,
            "the picture is " + text({p.height, p.width}) + ", whose sides are no multiples of the window " +
                text(window_));
    for (size_t i = 0; i < 3; ++i) {
      const Picture other = picture_of(in[i]);
      require(other.count == p.count && other.height == p.height && other.width == p.width,
              "q is " + text(in[0].shape) + ", another picture is " + text(in[i].shape));
      const int64_t channels = channels_of(in[i]), last = firsts_[i] + heads_ * widths_[i == 2 ? 1 : 0];
      require(last <= channels, "a picture is " + text(in[i].shape) + ", and its heads reach channel " +
                                    std::to_string(last));
      require(product({p.height, p.width, channels}) <= std::numeric_limits<int32_t>::max(),
              "a picture of " + text(in[i].shape) + " has more than 2^31 numbers: run it in tiles");
    }
    require(product({p.height, p.width, heads_ * widths_[1]}) <= std::numeric_limits<int32_t>::max(),
            "y has more than 2^31 numbers in a picture: run it in tiles");
  }

  Placed placed(const Picture& p, int64_t batch, int64_t channels, int64_t first, int64_t width) const {
    Placed out;
    out.table = table_of({p.count, p.height, p.width, channels, window_[0], window_[1], shift_[0] % p.height,
                          shift_[1] % p.width});
    out.starts.resize(static_cast<size_t>(batch));
    const int64_t each = batch / p.count;
    for (int64_t b = 0; b < batch; ++b) {
      out.starts[b] = b / each * p.pixels() * channels + first + b % heads_ * width;
    }
    return out;
  }

  void attend(const Context& context, bc_attention& a) const {
    std::array<OperandGrid::Spread, 4> spread;
    std::array<bc_operand_grid, 4> grids;
    for (size_t i = 0; i < 4; ++i) {
      spread[i] = grids_[i].spread(a.batch, heads_, i < 2 ? a.depth : a.keys);
      grids[i] = {spread[i].scale.data(), spread[i].offset.data(), grids_[i].bits};
    }
    a.q_grid = grids[0], a.k_grid = grids[1], a.p_grid = grids[2], a.v_grid = grids[3];
    const Terms::Bound terms = terms_.bound(context, a);
    a.terms = terms.records.data(), a.term_count = static_cast<int64_t>(terms.records.size());
    a.q_factor = factor_, a.per_row = per_row_ ? 1 : 0;
    context.with_threads([&] { check(bc_attend(&a, Context::threads()), "the attention"); });
  }

  // The tables of the last size stay, so that the next run of it finds them.
  void keep(Tables tables) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_ = std::move(tables);
  }

  std::vector<OperandGrid> grids_;
  Terms terms_;
  bool per_row_;
  float factor_;
  Shape window_, shift_;
  int64_t heads_;
  Shape widths_, firsts_;
  OutGrid out_;
  mutable std::mutex mutex_;
  mutable Tables kept_;
};

}  // namespace

std::unique_ptr<Kernel> make_windows(const Info& info) { return std::make_unique<Windows>(info); }

}  // namespace ort
