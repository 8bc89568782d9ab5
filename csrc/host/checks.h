// What both hosts of operators, ONNX Runtime and TensorRT, refuse in the same words: numbers of attributes, steps, and
// shapes that do not fit each other. Header alone; each host brings its own tensors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bitcompress/bits.h"

namespace host {

// Why something is not taken, in one sentence. It never crosses the border to the runtime.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void require(bool holds, const std::string& sentence) {
  if (!holds) throw Refused(sentence);
}

using Shape = std::vector<int64_t>;

inline std::string text(const Shape& shape) {
  std::string all = "(";
  for (size_t i = 0; i < shape.size(); ++i) all += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return all + ")";
}

// How many elements. Refuses sizes that are negative, or too large together even where one of them is 0: what is
// made of some of them fits then, too.
inline int64_t product(const Shape& shape) {
  constexpr int64_t most = int64_t{1} << 46;
  int64_t count = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    require(size >= 0, "the sizes " + text(shape) + " are negative");
    empty = empty || size == 0;
    if (size == 0) continue;
    require(count <= most / size, "the sizes " + text(shape) + " are too large");
    count *= size;
  }
  return empty ? 0 : count;
}

// ---- Attributes ----

inline void require_whole(const char* name, int64_t value, int64_t least, int64_t most) {
  require(value >= least && value <= most,
          std::string("the attribute ") + name + " is " + std::to_string(value) + ", not " + std::to_string(least) +
              " to " + std::to_string(most));
}

inline void require_wholes(const char* name, const Shape& values, size_t count, int64_t least, int64_t most) {
  require(values.size() == count, std::string("the attribute ") + name + " has " + std::to_string(values.size()) +
                                      " numbers, not " + std::to_string(count));
  for (const int64_t value : values) {
    require(value >= least && value <= most, std::string("the attribute ") + name + " holds " + std::to_string(value) +
                                                 ", not " + std::to_string(least) + " to " + std::to_string(most));
  }
}

// The decimal number of seven digits that a float32 stands for: group norm is in double, and 1e-5 there is not what
// 1e-5 in float32 is.
inline double written(float number) {
  std::stringstream decimal;
  decimal.imbue(std::locale::classic());
  decimal.precision(7);
  decimal << number;
  double read = number;
  decimal >> read;
  return read;
}

// ---- Steps ----

// How many inputs a step takes.
inline int operands_of(int64_t kind) {
  switch (kind) {
    case BC_NORM:
      return 2;
    case BC_ADD:
    case BC_MUL:
    case BC_SUB:
    case BC_LEAKY:
    case BC_PRELU:
      return 1;
    default:
      return 0;
  }
}

// The steps of the attribute `name`: known ones, without stores. Returns: how many inputs they take.
inline int require_steps(const char* name, const Shape& kinds) {
  int operands = 0;
  for (const int64_t kind : kinds) {
    require(kind >= BC_ADD && kind <= BC_PRELU && kind != BC_STORE,
            std::string("the attribute ") + name + " holds the unknown step " + std::to_string(kind));
    operands += operands_of(kind);
  }
  return operands;
}

// How an operand lies beside rows of channels, whose shape has them last.
enum class Operand { one, vector, whole };

// One number, a number a channel, or where `whole` as many as the rows have.
inline Operand operand_kind(const Shape& operand, const Shape& rows, bool whole) {
  const int64_t size = product(operand), channels = rows.back();
  if (size == 1) return Operand::one;
  if (size == channels && operand.back() == channels) return Operand::vector;
  require(whole && operand == rows, "an operand of a step is " + text(operand) + ", the rows are " + text(rows));
  return Operand::whole;
}

// ---- Products ----

inline int64_t from_last(const Shape& shape, size_t axis) { return shape[shape.size() - axis]; }

// Leading axes as one, all but the last two; heads is the last of them.
struct Batch {
  int64_t count, heads;
};

inline Batch batch_of(const Shape& a) {
  require(a.size() >= 2, "an operand is " + text(a) + ", a product takes (..., M, K)");
  product(a);
  return {product(Shape(a.begin(), a.end() - 2)), a.size() > 2 ? from_last(a, 3) : 1};
}

inline void require_same_lead(const Shape& a, const Shape& b) {
  const bool same = a.size() == b.size() && std::equal(a.begin(), a.end() - 2, b.begin());
  require(same, "the operands are " + text(a) + " and " + text(b) + ": their leading sizes must be equal");
}

// a (..., M, K) and b (..., K, N), or (..., N, K) where `turned`. Returns: N.
inline int64_t require_product(const Shape& a, const Shape& b, bool turned) {
  require_same_lead(a, b);
  require(from_last(b, turned ? 1 : 2) == from_last(a, 1),
          "the operands " + text(a) + " and " + text(b) + " do not fit each other");
  return from_last(b, turned ? 2 : 1);
}

// q (..., M, D), k (..., D, N) or turned, v (..., N, V). Returns: N.
inline int64_t require_attention(const Shape& q, const Shape& k, const Shape& v, bool turned) {
  require_same_lead(q, k), require_same_lead(q, v);
  const int64_t keys = from_last(k, turned ? 2 : 1);
  require(from_last(k, turned ? 1 : 2) == from_last(q, 1) && from_last(v, 2) == keys,
          "q " + text(q) + ", k " + text(k) + " and v " + text(v) + " do not fit each other");
  return keys;
}

inline void require_terms(const Shape& multiplies, const Shape& repeats) {
  require(multiplies.size() == repeats.size(), "multiplies and repeats differ in length");
  for (const int64_t repeat : repeats) {
    require(repeat >= 1 && repeat <= int64_t{1} << 31, "the attribute repeats holds " + std::to_string(repeat));
  }
}

// A term of logits (B, M, N): (T, M or 1, N or 1), matrix b / repeat mod T for each of the batch.
inline void require_term(const Shape& term, int64_t repeat, const Shape& logits) {
  const bool fits = term.size() == 3 && term[0] > 0 && (term[1] == logits[1] || term[1] == 1) &&
                    (term[2] == logits[2] || term[2] == 1) && logits[0] % repeat == 0 &&
                    logits[0] / repeat % term[0] == 0;
  require(fits, "a term is " + text(term) + ", the logits are " + text(logits));
}

// ---- What stands between ----

// An axis that may be counted from the end. Returns: from the start.
inline int64_t require_axis(const Shape& x, int64_t axis) {
  const int64_t axes = static_cast<int64_t>(x.size()), found = axis < 0 ? axis + axes : axis;
  require(found >= 0 && found < axes, "x is " + text(x) + " and has no axis " + std::to_string(axis));
  return found;
}

// Gain and shift of a norm, so many numbers of each.
inline void require_channels(const Shape& x, int64_t numbers, int64_t channels) {
  require(numbers == channels, "x is " + text(x) + ", gain and shift have another number of channels");
}

struct Pictures {
  int64_t images, pixels, channels;
};

// x (N, C, ...), or (N, ..., C) where channels are last.
inline Pictures pictures_of(const Shape& x, bool last) {
  require(x.size() >= 3, "x is " + text(x) + ", pictures are (N, C, ...)");
  product(x);
  const size_t channel = last ? x.size() - 1 : 1;
  Pictures all{x[0], 1, x[channel]};
  for (size_t i = 1; i < x.size(); ++i) {
    if (i != channel) all.pixels *= x[i];
  }
  require(all.images == 0 || all.channels == 0 || all.pixels > 0, "x is " + text(x) + " and has no pixel");
  return all;
}

inline void require_groups(const Shape& x, int64_t channels, int64_t groups) {
  require(channels % groups == 0,
          "x is " + text(x) + ", its channels do not part into " + std::to_string(groups) + " groups");
}

inline void require_centre(const Shape& centre, const Pictures& of) {
  const Shape wanted{of.images, of.channels};
  require(centre == wanted, "centre is " + text(centre) + ", not " + text(wanted));
}

}  // namespace host
