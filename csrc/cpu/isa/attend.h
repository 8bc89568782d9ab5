// Attention on codes, one matrix at a time; every file isa/attend_*.cc compiles it.
//
// The lanes of a register are queries. A key is one register of logits, so that the largest logit,
// the sum of the exponentials and the codes of a row are plain operations between registers, and the
// order of the 16 partial sums costs nothing. The codes of the weights come out a few keys to a word,
// which is how the second product reads them.
//
// L says how codes lie in words, and does what intrinsics do better; attend_lanes.h has its plain
// part.
#pragma once

#include "../attend.h"
#include "attend_lanes.h"

namespace bc {
namespace {

template <class L>
class Attention {
 public:
  static int64_t bytes(const Attend& a) {
    Attention all(a, nullptr);
    return reinterpret_cast<intptr_t>(all.end_);
  }
  static void run(const Attend& a, void* scratch) {
    Attention all(a, static_cast<uint8_t*>(scratch));
    all.prepare();
    for (int64_t first = 0; first < a.queries; first += kVector) all.block(first);
  }

 private:
  static constexpr int N = L::kCodes;
  static constexpr int64_t kGroup = kLanes;  // partial sums; keys that far apart are added in turn
  static constexpr int64_t kFused = 2;   // terms that are added while logits are made

  struct Lanes {  // a term as registers of queries, one for each key
    const float* at;
    int64_t step;
  };

  Attention(const Attend& a, uint8_t* scratch)
      : a_(a),
        cut_(a.p_scale, a.p_offset, a.p_bits),
        steps_((a.depth + N - 1) / N),
        lines_(a.keys < kGroup ? a.keys : kGroup),
        words_(((a.keys + kGroup - 1) / kGroup + N - 1) / N),
        value_words_((a.values + 15) / 16 * 16),
        end_(scratch) {
    const int64_t keys = (a.keys + kVector - 1) / kVector * kVector;
    keys_ = part<uint32_t>(keys * L::key_words(a.depth_pitch));
    values_ = part<uint32_t>(lines_ * words_ * value_words_);
    constants_ = part<double>(keys);
    centre_ = part<double>(value_words_);
    mean_ = part<double>(value_words_);
    q_ = part<Ints>(L::key_words(a.depth_pitch));
    logits_ = part<float>(a.keys * kVector);
    scales_ = part<float>(a.keys * kVector);
    for (float*& turned : turned_) turned = part<float>(a.term_count > 0 ? a.keys * kVector : 0);
    p_ = part<Ints>(lines_ * words_);
    out_ = part<float>(value_words_ * kVector);
  }

  template <class T>
  T* part(int64_t count) {
    T* at = reinterpret_cast<T*>(end_);
    end_ = reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(end_) +
                                      static_cast<uintptr_t>(count * sizeof(T) + 63) / 64 * 64);
    return at;
  }

  void prepare() {
    const Wide product(a_.q_offset * a_.k_scale);
    const Wide rest(a_.q_offset * a_.k_offset * static_cast<double>(a_.depth));
    for (int64_t j = 0; j < a_.keys; j += kVector) {
      L::columns(a_.k + j * a_.depth_pitch, a_.depth_pitch, q_);
      const Wide constants = product * Wide(sum_of(q_, steps_)) + rest;
      memcpy(constants_ + j, &constants, sizeof constants);
    }
    L::spread(a_.k, a_.keys, a_.depth_pitch, a_.k_shifted, keys_);
    const uint8_t* rows[N];
    for (int64_t l = 0; l < lines_; ++l) {
      for (int64_t w = 0; w < words_; ++w) {
        for (int i = 0; i < N; ++i) {
          const int64_t key = l + kGroup * (w * N + i);
          rows[i] = key < a_.keys ? a_.v + key * a_.value_pitch : nullptr;
        }
        L::interleave(rows, value_words_, values_ + (l * words_ + w) * value_words_);
      }
    }
    for (int64_t c = 0; c < value_words_; c += kVector) prepare_values(c);
  }

  // Columns [c, c + kVector) of the values: the sums of their codes, and what follows from them.
  void prepare_values(int64_t c) {
    const int64_t count = lines_ * words_;
    Ints sums[2] = {};
    for (int64_t s = 0; s < count; ++s) {
      Ints* const words = reinterpret_cast<Ints*>(values_ + s * value_words_ + c);
      sums[s % 2] = L::dot(sums[s % 2], *words, L::kOnes);
      if (a_.v_shifted) *words = L::shifted(*words);
    }
    const double p = a_.p_offset, keys = static_cast<double>(a_.keys);
    const Wide sum(sums[0] + sums[1]);
    Wide mean = Wide(p * a_.v_scale) * sum + Wide(p * a_.v_offset * keys);
    if (a_.per_row) {
      const Wide centre = sum / Wide(keys);
      mean = centre * Wide(a_.v_scale) + Wide(a_.v_offset);
      memcpy(centre_ + c, &centre, sizeof centre);
    }
    memcpy(mean_ + c, &mean, sizeof mean);
  }

  static Ints sum_of(const Ints* words, int64_t count) {
    Ints sums[4] = {};
    int64_t s = 0;
    for (; s + 4 <= count; s += 4)
      each<4>([&](int i) { sums[i] = L::dot(sums[i], words[s + i], L::kOnes); });
    for (; s < count; ++s) sums[0] = L::dot(sums[0], words[s], L::kOnes);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  void block(int64_t first) {
    L::columns(a_.q + first * a_.depth_pitch, a_.depth_pitch, q_);
    Lanes fused[kFused];
    int64_t count = 0;
    while (count < a_.term_count && count < kFused && !a_.terms[count].multiply) {
      fused[count] = lanes(a_.terms[count], first, turned_[count]);
      ++count;
    }
    Reals most = logits(fused, count);
    if (count < a_.term_count) {
      for (; count < a_.term_count; ++count) {
        const AttendTerm& term = a_.terms[count];
        apply(lanes(term, first, turned_[0]), term.multiply);
      }
      most = largest();
    }
    const bool wide = a_.p_bits == 8;
    const Reals sum = a_.per_row ? (wide ? rows<15>(most) : rows<16>(most))
                                 : (wide ? softmax<15>(most) : softmax<16>(most));
    const Ints codes = sum_of(p_, lines_ * words_);
    const Columns columns(a_, sum, codes);
    values(columns, a_.v_shifted ? L::lacking(codes) : Ints{});
    const int64_t queries = a_.queries - first < kVector ? a_.queries - first : kVector;
    L::write(a_, first, queries, out_);
  }

  Lanes lanes(const AttendTerm& term, int64_t first, float* turned) const {
    const int64_t count = a_.queries - first < kVector ? a_.queries - first : kVector;
    const float* from = term.data + first * term.row;
    if (term.row == 1 && count == kVector) return {from, term.column};
    const int64_t keys = term.column == 0 ? 1 : a_.keys;
    L::turn(from, term.row, term.column, count, keys, turned);
    return {turned, term.column == 0 ? 0 : kVector};
  }

  Reals logits(const Lanes* terms, int64_t count) {
    switch (steps_) {
      case 3: return logits<3>(terms, count);
      case 4: return logits<4>(terms, count);
      case 5: return logits<5>(terms, count);
      case 8: return logits<8>(terms, count);
      default: return logits<0>(terms, count);
    }
  }

  template <int kSteps>
  Reals logits(const Lanes* terms, int64_t count) {
    switch (count) {
      case 0: return logits<kSteps, 0>(terms);
      case 1: return logits<kSteps, 1>(terms);
      default: return logits<kSteps, 2>(terms);
    }
  }

  template <int kSteps, int kTerms>
  Reals logits(const Lanes* terms) {
    const int64_t steps = kSteps > 0 ? kSteps : steps_, pitch = L::key_words(a_.depth_pitch);
    const Ints codes = sum_of(q_, steps), start = a_.k_shifted ? L::lacking(codes) : Ints{};
    Ints q[kSteps > 0 ? kSteps : 1];
    for (int s = 0; s < kSteps; ++s) q[s] = q_[s];
    const Line line(a_.q_scale * a_.k_scale, codes, a_.q_scale * a_.k_offset);
    const uint32_t* key = keys_;
    const double* const constants = constants_;
    float* to = logits_;
    const int64_t keys = a_.keys;
    const float *one = kTerms > 0 ? terms[0].at : nullptr, *two = kTerms > 1 ? terms[1].at : nullptr;
    const int64_t one_step = kTerms > 0 ? terms[0].step : 0;
    const int64_t two_step = kTerms > 1 ? terms[1].step : 0;
    Reals most{};
    const auto some = [&](auto count_of, int64_t j) {
      constexpr int kCount = decltype(count_of)::value;
      Ints sums[kCount];
      each<kCount>([&](int i) { sums[i] = start; });
#pragma GCC unroll 8
      for (int64_t s = 0; s < steps; ++s)
        each<kCount>([&](int i) { sums[i] = L::dot(sums[i], kSteps > 0 ? q[s] : q_[s], key[i * pitch + s]); });
      Reals x[kCount];
      line.template read<kCount>(sums, constants + j, x);
      if (kTerms > 0) each<kCount>([&](int i) { x[i] = x[i] + load(one + i * one_step); });
      if (kTerms > 1) each<kCount>([&](int i) { x[i] = x[i] + load(two + i * two_step); });
      each<kCount>([&](int i) { store(to + i * kVector, x[i]); });
      if (j == 0) most = x[0];
      each<kCount>([&](int i) { most = max_of(x[i], most); });
      key += kCount * pitch, to += kCount * kVector;
      one += kCount * one_step, two += kCount * two_step;
    };
    constexpr int kTogether = L::kTogether;
    int64_t j = 0;
    for (; j + kTogether <= keys; j += kTogether) some(Number<kTogether>(), j);
    for (; j < keys; ++j) some(Number<1>(), j);
    return most;
  }

  void apply(const Lanes& term, bool multiply) {
    const float* from = term.at;
    float* x = logits_;
    for (int64_t j = 0; j < a_.keys; ++j, x += kVector, from += term.step) {
      const Reals here = load(x), there = load(from);
      store(x, multiply ? here * there : here + there);
    }
  }

  Reals largest() const {
    Reals most = load(logits_);
    for (int64_t j = 1; j < a_.keys; ++j) most = max_of(load(logits_ + j * kVector), most);
    return most;
  }

  // The 16 partial sums of each row, added up.
  static Reals total(Reals* sums) {
    for (int half = 8; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) sums[l] = sums[l] + sums[l + half];
    }
    return sums[0];
  }

  // How many of the keys of a word there are.
  int64_t present(int64_t line, int64_t word) const {
    const int64_t count = (a_.keys - line + kGroup - 1) / kGroup - word * N;
    return count < N ? count : N;
  }

  void reduce_all(Reals most) {
    int64_t j = 0;
    for (; j + 8 <= a_.keys; j += 8)
      reduce<8>(logits_ + j * kVector, most, scales_ + j * kVector);
    for (; j < a_.keys; ++j) reduce<1>(logits_ + j * kVector, most, scales_ + j * kVector);
  }

  static int64_t place_of(int64_t line, int64_t word, int64_t i) {
    return (line + kGroup * (N * word + i)) * kVector;
  }

  // Codes of the exponentials to p_; gives their sums. kShift: that of the cut.
  template <int kShift>
  Reals rows(Reals most) {
    reduce_all(most);
    const WeightCut cut = cut_;
    const Reals factor = all(cut.factor / a_.p_scale);
    Reals sums[kGroup] = {};
    // Words whose keys are there in every line.
    const int64_t whole = lines_ < kGroup ? 0 : a_.keys / (kGroup * N);
    for (int64_t l = 0; l < lines_ && whole > 0; l += 4) {
      for (int64_t w = 0; w < whole; ++w)
        L::template four_words<kShift>(cut, logits_ + place_of(l, w, 0), scales_ + place_of(l, w, 0),
                                       factor, sums + l, p_ + l * words_ + w, words_);
    }
    for (int64_t l = 0; l < lines_; ++l) {
      for (int64_t w = whole; w < words_; ++w) {
        const int64_t count = present(l, w);
        Reals e[N];
        for (int64_t i = 0; i < count; ++i) {
          const int64_t at = place_of(l, w, i);
          powers<1>(logits_, scales_, [&](int) { return at; }, e + i);
          sums[l] = sums[l] + e[i];
        }
        p_[l * words_ + w] = codes_of<kShift, 0>(cut, e, count, factor, all(1.0f));
      }
    }
    return total(sums);
  }

  // Codes of the softmax to p_; gives the sums of the exponentials.
  template <int kShift>
  Reals softmax(Reals most) {
    reduce_all(most);
    const WeightCut cut = cut_;
    Reals sums[kGroup] = {};
    for (int64_t j = 0; j < a_.keys; j += kGroup) {
      for (int64_t l = 0; l < kGroup && j + l < a_.keys; l += 8) {
        Reals e[8];
        float *f = logits_ + (j + l) * kVector, *scale = scales_ + (j + l) * kVector;
        const int64_t count = a_.keys - j - l < 8 ? a_.keys - j - l : 8;
        if (count == 8) {
          powers<8>(f, scale, [](int i) { return i * kVector; }, e);
        } else {
          for (int64_t i = 0; i < count; ++i)
            powers<1>(f, scale, [&](int) { return i * kVector; }, e + i);
        }
        for (int64_t i = 0; i < count; ++i) {
          sums[l + i] = sums[l + i] + e[i];
          store(f + i * kVector, e[i]);
        }
      }
    }
    const Reals sum = total(sums), factor = all(cut.factor) / (sum * all(a_.p_scale));
    for (int64_t l = 0; l < lines_; ++l) {
      for (int64_t w = 0; w < words_; ++w) {
        const int64_t count = present(l, w);
        Reals e[N];
        for (int64_t i = 0; i < count; ++i) e[i] = load(logits_ + place_of(l, w, i));
        p_[l * words_ + w] = count == N ? codes_of<kShift, N>(cut, e, N, factor, sum)
                                        : codes_of<kShift, 0>(cut, e, count, factor, sum);
      }
    }
    return sum;
  }

  // A word of codes; kCount of them where it is not 0.
  template <int kShift, int kCount>
  static Ints codes_of(const WeightCut& cut, const Reals* e, int64_t count, Reals factor,
                       Reals sum) {
    Ints z[N] = {}, near = Ints{} + cut.mask;
#pragma GCC unroll 4
    for (int64_t i = 0; i < (kCount > 0 ? kCount : count); ++i) {
      z[i] = cut.clamped(L::fused(e[i], factor, cut.base));
      near = L::template nearer<kShift>(near, z[i]);
    }
    if (__builtin_expect(L::template below<kShift>(near, cut.doubtful), 0)) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < (kCount > 0 ? kCount : count); ++i)
        z[i] = cut.exactly<kShift>(e[i] / sum);
    }
    return L::template pack<kShift>(z);
  }

  void values(const Columns& columns, Ints start) {
    constexpr int64_t kTile = L::kTile;
    int64_t c = 0;
    for (; c + kTile <= a_.values; c += kTile) tile<L::kTile>(c, columns, start);
    const int64_t rest = a_.values - c;
    if (rest >= 8) tile<8>(c, columns, start), c += 8;
    if (rest & 4) tile<4>(c, columns, start), c += 4;
    if (rest & 2) tile<2>(c, columns, start), c += 2;
    if (rest & 1) tile<1>(c, columns, start);
  }

  template <int kCount>
  void tile(int64_t c, const Columns& columns, Ints start) {
    Ints sums[kCount];
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) sums[i] = start;
    const uint32_t* words = values_ + c;
#pragma GCC unroll 1
    for (int64_t s = 0; s < lines_ * words_; ++s, words += value_words_) {
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) sums[i] = L::dot(sums[i], p_[s], words[i]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i)
      store(out_ + (c + i) * kVector, columns.read(sums[i], centre_[c + i], mean_[c + i]));
  }

  const Attend& a_;
  const WeightCut cut_;
  int64_t steps_, lines_, words_, value_words_;
  uint8_t* end_;
  uint32_t *keys_, *values_;
  double *constants_, *centre_, *mean_;
  Ints *q_, *p_;
  float *logits_, *scales_, *turned_[kFused], *out_;
};

}  // namespace
}  // namespace bc
