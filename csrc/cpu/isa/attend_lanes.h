// Steps of attention on registers of queries: sums to reals, weights to codes.
//
// Included by attend.h alone. A weight's code takes two divisions by definition; it is found with one
// multiplication, and the divisions are done only where the result lies so near to a tie that they
// could decide otherwise.
#pragma once

#include "softmax.h"

namespace bc {
namespace {

typedef int32_t Ints __attribute__((vector_size(4 * kVector)));
typedef int32_t HalfInts __attribute__((vector_size(2 * kVector)));
typedef float HalfReals __attribute__((vector_size(2 * kVector)));
typedef double Half __attribute__((vector_size(4 * kVector)));

// One step for all of a few registers, so that none waits for its own last result.
template <int kCount, class F>
[[gnu::always_inline]] inline void each(F&& step) {
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) step(i);
}
template <int kValue>
struct Number {
  static constexpr int value = kValue;
};

inline Ints bits_of(Reals x) {
  Ints bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline Reals reals_of(Ints bits) {
  Reals x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// x, where the compiler may not move anything across: it would finish one register after the other.
// The including file has it.
inline Reals stayed(Reals x);


// a + b by whichever unit has less to do: the including file has them.
inline Half plus(Half a, Half b);
inline Reals plus(Reals a, Reals b);

// A register in double: its lower half and its upper half. The including file widens and narrows.
struct Wide {
  Half low, high;

  Wide(Half lower, Half upper) : low(lower), high(upper) {}
  explicit Wide(double x) : low(x - Half{}), high(x - Half{}) {}
  explicit Wide(Ints x);
  explicit Wide(Reals x);
  Reals narrow() const;
};

inline Wide operator*(Wide a, Wide b) {
  a.low *= b.low, a.high *= b.high;
  return a;
}
inline Wide operator+(Wide a, Wide b) {
  a.low += b.low, a.high += b.high;
  return a;
}
inline Wide operator/(Wide a, Wide b) {
  a.low /= b.low, a.high /= b.high;
  return a;
}
inline Wide operator-(Wide a, Wide b) {
  a.low -= b.low, a.high -= b.high;
  return a;
}

// Logits: float(sums * product + codes * row + constant), in double from left to right.
struct Line {
  Wide product, row;
  Line(double product_of, Ints codes, double row_of)
      : product(product_of), row(Wide(codes) * Wide(row_of)) {}
  template <int kCount>
  [[gnu::always_inline]] void read(const Ints* sums, const double* constants, Reals* out) const {
    Half low[kCount], high[kCount];
    each<kCount>([&](int i) {
      const Wide x(sums[i]);
      low[i] = x.low, high[i] = x.high;
    });
    each<kCount>([&](int i) { low[i] *= product.low, high[i] *= product.high; });
    each<kCount>([&](int i) { low[i] = plus(low[i], row.low), high[i] = plus(high[i], row.high); });
    each<kCount>([&](int i) {
      const Wide constant(constants[i]);
      low[i] = plus(low[i], constant.low), high[i] = plus(high[i], constant.high);
    });
    each<kCount>([&](int i) { out[i] = Wide(low[i], high[i]).narrow(); });
  }
};

// Outputs; reading.h has the two formulas.
struct Columns {
  bool per_row;
  Wide codes, gain;
  Columns(const Attend& a, Reals sum, Ints row_codes)
      : per_row(a.per_row),
        codes(row_codes),
        gain(static_cast<double>(a.p_scale) * a.v_scale) {
    if (per_row) {
      gain = Wide(all(1.0f) / sum) * gain;
    } else {
      codes = codes * Wide(static_cast<double>(a.p_scale) * a.v_offset);
    }
  }
  [[gnu::always_inline]] Reals read(Ints sums, double centre, double mean) const {
    if (per_row) return ((Wide(sums) - codes * Wide(centre)) * gain + Wide(mean)).narrow();
    return (Wide(sums) * gain + codes + Wide(mean) + Wide(0.0)).narrow();
  }
};

// How weights become codes. A weight e / sum lies u = (e / sum - offset) / scale codes above the
// lowest. z = 2^23 + (u + 1/2) 2^shift + margin, a float whose low bits are those of an integer: its
// upper part is the code, its lower part how far u lies above a tie, plus margin. In units of
// 2^-shift codes, with d = 2^-24 and B = offset / scale, definition and z err by less than
// 8 d (top + 1 + |B|) 2^shift + 2, which is (top + 1 + |B|) / 32 + 2 at most; margin is more.
struct WeightCut {
  float scale, offset, top, factor;
  Reals base, least, most;
  int32_t mask, doubtful;  // a lower part below `doubtful` is too near to a tie

  WeightCut(float p_scale, float p_offset, int bits)
      : scale(p_scale), offset(p_offset), top(static_cast<float>((1 << bits) - 1)) {
    const int shift = bits < 8 ? 16 : 15;
    mask = (1 << shift) - 1;
    factor = static_cast<float>(1 << shift);
    const float low = p_offset / p_scale, size = low < 0 ? -low : low;
    const bool good = size < 64.0f && 1.0f / p_scale < 1e30f && p_scale > 1e-30f;
    const int32_t margin = static_cast<int32_t>((top + 1.0f + (good ? size : 0.0f)) / 32.0f) + 4;
    doubtful = good ? 2 * margin : mask + 1;
    const float zero = 8388608.0f + factor / 2 + static_cast<float>(margin);
    least = all(zero), most = all(zero + top * factor);
    base = all(good ? zero - low * factor : 0.0f);
  }

  Ints clamped(Reals z) const {
    return bits_of(min_of(max_of(z, least), most));
  }
  // The same, but a NaN becomes any code: integers are compared, which is cheaper.
  Ints clamped_number(Reals z) const {
    const Ints bits = bits_of(z), low = bits_of(least), high = bits_of(most);
    const Ints raised = bits > low ? bits : low;
    return raised < high ? raised : high;
  }
  // From the weight itself, as the definition has it.
  template <int kShift>
  Ints exactly(Reals weight) const {
    return bits_of(position(weight, all(offset), all(scale), all(top)) + 8388608.0f) << kShift;
  }
};

// The same for reals, from x - offset: one division by scale, so 2 d (top + 1) 2^shift + 1 units are
// enough, and that is 2 at most.
template <int kShift>
struct ChannelCut {
  static constexpr float factor = static_cast<float>(1 << kShift);
  static constexpr int32_t kMargin = 4, doubtful = 2 * kMargin;
  Reals least, most;
  float top;

  explicit ChannelCut(float top_code)
      : least(all(8388608.0f + factor / 2 + static_cast<float>(kMargin))),
        most(least + all(top_code * factor)),
        top(top_code) {}
  static bool takes(float scale) { return scale > 1e-30f && scale < 1e30f; }

  Ints clamped(Reals z) const {
    return bits_of(min_of(max_of(z, least), most));
  }
  Ints exactly(Reals x, float offset, float scale) const {
    return bits_of(position(x, all(offset), all(scale), all(top)) + 8388608.0f) << kShift;
  }
};

// e to the (x - most) as power_of_two has it, in two halves, so that many keys are under way at once:
// what each half keeps in registers is little. x becomes the fraction f, scale the power 2^(n + 1) of
// the whole part. The powers of f are halved in turn, which changes no bit and saves an addition.
template <int kCount>
[[gnu::always_inline]] inline void reduce(float* x, Reals most, float* scale) {
  constexpr float kRound = 12582912.0f + 128.0f;  // the low bits of a sum are round(t) + 128
  Reals t[kCount], n[kCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) t[i] = stayed(load(x + i * kVector) - most);
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) t[i] = stayed(t[i] * all(kLog2E));
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) t[i] = stayed(max_of(all(-126.0f), t[i]));
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) n[i] = stayed(t[i] + all(kRound));
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store(scale + i * kVector, reals_of(bits_of(n[i]) << 23));
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store(x + i * kVector, t[i] - (n[i] - all(kRound)));
}

// Half the polynomial of power_of_two.
constexpr float kHalfPowers[] = {0.001326472614891827f / 2, 0.009671512991189957f / 2,
                                 0.05550733581185341f / 2,  0.24022242426872253f / 2,
                                 0.6931470036506653f / 2,   0.5f};

// e[i] from f + at(i) and scale + at(i).
template <int kCount, class At>
[[gnu::always_inline]] inline void powers(const float* f, const float* scale, At&& at, Reals* e) {
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) e[i] = stayed(load(f + at(i)) * all(kHalfPowers[0]));
#pragma GCC unroll 5
  for (int c = 1; c < 6; ++c) {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) e[i] = stayed(e[i] + all(kHalfPowers[c]));
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) e[i] = stayed(e[i] * load((c < 5 ? f : scale) + at(i)));
  }
}

inline void copy_few(uint8_t* to, const uint8_t* from, int64_t n) {
  if (n >= 8) {
    for (int64_t i = 0; i + 8 <= n; i += 8) memcpy(to + i, from + i, 8);
    memcpy(to + n - 8, from + n - 8, 8);
  } else if (n >= 4) {
    memcpy(to, from, 4);
    memcpy(to + n - 4, from + n - 4, 4);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  }
}

// See WeightRow. A weight is x / most where that of WeightCut is e / sum.
inline void cut_weights(WeightRow& row) {
  const int64_t whole = row.n / kLanes * kLanes;
  float last[kLanes] = {};  // the rest of a row in a group of its own; 0 raises neither of both
  memcpy(last, row.x + whole, static_cast<size_t>(row.n - whole) * sizeof(float));
  const auto group = [&](int64_t i, int v) {
    return load((i < whole ? row.x + i : last) + v * kVector);
  };
  Reals most[kVectors], sums[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) most[v] = all(1.17549435e-38f);
  for (int64_t i = 0; i < row.n; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      most[v] = max_of(group(i, v), most[v]);
      sums[v] = sums[v] + group(i, v);
    }
  }
  row.most = largest_lane(most)[0], row.total = lane_sum(sums);
  const WeightCut cut(row.scale, row.offset, row.bits);
  const float factor = cut.factor / (row.most * row.scale);
  const int shift = row.bits < 8 ? 16 : 15;
  Ints near = Ints{} + cut.mask;
  for (int64_t i = 0; i < row.n; i += kLanes) {
    uint8_t codes[kLanes];
    for (int v = 0; v < kVectors; ++v) {
      const Ints z = cut.clamped(group(i, v) * all(factor) + cut.base), rest = z & cut.mask;
      near = rest < near ? rest : near;
      store_codes(codes + v * kVector, reals_of(z >> shift));
    }
    memcpy(row.out + i, codes, i < whole ? kLanes : static_cast<size_t>(row.n - whole));
  }
  int32_t lanes[kVector], least = cut.mask;
  memcpy(lanes, &near, sizeof near);
  for (const int32_t lane : lanes) least = lane < least ? lane : least;
  if (least < cut.doubtful)
    cut_quotients(row.x, row.n, row.most, row.scale, row.offset, cut.top, row.out);
}

// What any instruction set can do, word by word.
struct PlainLanes {
  // out[j] = term of key j for `count` queries, the other lanes 0.
  static void turn(const float* from, int64_t row, int64_t column, int64_t count, int64_t keys,
                   float* out) {
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t i = 0; i < kVector; ++i)
        out[j * kVector + i] = i < count ? from[i * row + j * column] : 0.0f;
    }
  }

  // a * b + c; the product may be rounded or not.
  static Reals fused(Reals a, Reals b, Reals c) { return a * b + c; }

  // The smallest lower part of z so far.
  template <int kShift>
  static Ints nearer(Ints near, Ints z) {
    const Ints lower = z & ((1 << kShift) - 1);
    return lower < near ? lower : near;
  }
  template <int kShift>
  static Ints nearest(Ints a, Ints b) {
    return a < b ? a : b;
  }
  template <int kShift>
  static bool below(Ints near, int32_t limit) {
    int32_t lanes[kVector];
    memcpy(lanes, &near, sizeof near);
    int32_t least = lanes[0];
    for (int i = 1; i < kVector; ++i) least = lanes[i] < least ? lanes[i] : least;
    return least < limit;
  }

  // columns [values] of queries from `first` on to the rows of the output.
  static void write(const Attend& a, int64_t first, int64_t queries, const float* columns) {
    constexpr int64_t kMost = 64;
    float row[kMost];
    for (int64_t i = 0; i < queries; ++i) {
      for (int64_t c = 0; c < a.values; c += kMost) {
        const int64_t n = a.values - c < kMost ? a.values - c : kMost;
        for (int64_t j = 0; j < n; ++j) row[j] = columns[(c + j) * kVector + i];
        if (a.out_scale == nullptr) {
          float* to = static_cast<float*>(a.out) + a.places[first + i] + c;
          memcpy(to, row, static_cast<size_t>(n) * sizeof(float));
        } else {
          encode_each(row, n, a.out_scale + c, a.out_offset + c, a.out_top,
                      static_cast<uint8_t*>(a.out) + a.places[first + i] + c);
        }
      }
    }
  }

  static void cut(const AttendRows& r) {
    if (r.codes) return copy(r);
    for (int64_t i = 0; i < r.rows; ++i) {
      uint8_t* out = r.out + i * r.pitch;
      float row[64];
      const float* from = static_cast<const float*>(r.data) + r.places[i];
      for (int64_t c = 0; c < r.columns; c += 64) {
        const int64_t n = r.columns - c < 64 ? r.columns - c : 64;
        for (int64_t j = 0; j < n; ++j) row[j] = from[c + j] * r.factor;
        encode_row(row, n, r.scale, r.offset, r.top, out + c);
      }
    }
  }

  static void copy(const AttendRows& r) {
    const uint8_t* from = static_cast<const uint8_t*>(r.data);
    const int64_t n = r.columns;
    if (n < 8 || n > 16) {
      for (int64_t i = 0; i < r.rows; ++i) copy_few(r.out + i * r.pitch, from + r.places[i], n);
      return;
    }
    for (int64_t i = 0; i < r.rows; ++i) {
      const uint8_t* row = from + r.places[i];
      memcpy(r.out + i * r.pitch, row, 8);
      memcpy(r.out + i * r.pitch + n - 8, row + n - 8, 8);
    }
  }
};

}  // namespace
}  // namespace bc
