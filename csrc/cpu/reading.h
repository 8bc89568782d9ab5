// How exact sums of codes become reals.
//
// With a = sa A + la and b = sb B + lb (capital letters are codes, K terms in a sum):
//
//     sum a b = sa sb sum(A B) + sa lb sum(A) + la sb sum(B) + K la lb
//
// For one column (one right-hand side) this is product * sum(A B) + row * sum(A) + constant. All of
// it is double, each operation rounded once and in this order, then rounded to float32 at the end.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "bitcompress/bits.h"

namespace bc {

struct Grid {
  double scale, offset;
};

struct Reading {
  std::vector<double> product, row, constant, bias;

  Reading(int64_t columns, const float* bias_or_null)
      : product(static_cast<size_t>(columns)),
        row(product.size()),
        constant(product.size()),
        bias(product.size()) {
    if (bias_or_null != nullptr) bias.assign(bias_or_null, bias_or_null + columns);
  }

  // Column c with its grid; sum of its codes, number of terms.
  void set(size_t c, const Grid& left, const Grid& right, int64_t sum, int64_t terms) {
    product[c] = left.scale * right.scale;
    row[c] = left.scale * right.offset;
    constant[c] = constant_of(left, right, sum, terms);
  }

  static double constant_of(const Grid& left, const Grid& right, int64_t sum, int64_t terms) {
    const double of_sum = left.offset * right.scale * static_cast<double>(sum);
    return of_sum + left.offset * right.offset * static_cast<double>(terms);
  }
};

// The same reals in float32, where that is exact: unit * (sum + row_sum * share + base), the product of a
// column being its unit. Layers of signs are so: with a = 2 A - 1 and b = s (2 B - 1) a sum of products is
// 4 s (sum(A B) - sum(A) / 2 + ...), a whole number of quarters, and few of them. No term is rounded in
// double then, the sum in brackets is exact in float32, and both ways round once.
struct WholeReading {
  std::vector<float> unit;  // none where this does not hold
  float share = 0.0f;
  double most_row = 0.0;  // no row_sum * share is larger

  WholeReading() = default;
  WholeReading(const Reading& reading, bool has_row, double most_codes) {
    const double ratio = has_row ? reading.row[0] / reading.product[0] : 0.0;
    if (!quarters(ratio, kMost)) return;
    std::vector<float> found;
    for (size_t c = 0; c < reading.product.size(); ++c) {
      const double product = reading.product[c];
      // Far from what has fewer bits and from what is infinite.
      if (!(product >= 0x1p-60 && product <= 0x1p60)) return;
      found.push_back(static_cast<float>(product));
      if (static_cast<double>(found.back()) != product) return;
      if (has_row && reading.row[c] != ratio * product) return;
    }
    unit = std::move(found), share = static_cast<float>(ratio);
    most_row = std::fabs(ratio) * most_codes;
  }

  // base [columns] for the constants of a place; gives whether that is exact. most_sums: of each column.
  bool set(const double* constant, const double* most_sums, float* base) const {
    for (size_t c = 0; c < unit.size(); ++c) {
      const double product = static_cast<double>(unit[c]), quotient = constant[c] / product;
      if (!quarters(quotient, kMost - most_row - most_sums[c])) return false;
      if (quotient * product != constant[c]) return false;
      base[c] = static_cast<float>(quotient);
    }
    return !unit.empty();
  }

 private:
  static constexpr double kMost = 1 << 21;
  static bool quarters(double x, double most) {
    return std::fabs(x) <= most && 4.0 * x == std::nearbyint(4.0 * x);
  }
};

// How products with attention weights that were cut row by row become reals; packed/rows.py has the
// formula. For each column the mean code of its values, and their mean.
struct Centred {
  std::vector<double> centre, mean;

  explicit Centred(int64_t columns)
      : centre(static_cast<size_t>(columns)), mean(centre.size()) {}

  static void set(int64_t columns, const Grid& right, const int32_t* sums, int64_t terms,
                  double* centre, double* mean) {
    for (int64_t c = 0; c < columns; ++c) {
      centre[c] = static_cast<double>(sums[c]) / static_cast<double>(terms);
      mean[c] = centre[c] * right.scale + right.offset;
    }
  }

  static double gain(float of_row, const Grid& left, const Grid& right) {
    return static_cast<double>(of_row) * (left.scale * right.scale);
  }
};

}  // namespace bc
