// How exact sums of codes become reals.
//
// With a = sa A + la and b = sb B + lb (capital letters are codes, K terms in a sum):
//
//     sum a b = sa sb sum(A B) + sa lb sum(A) + la sb sum(B) + K la lb
//
// For one column (one right-hand side) this is product * sum(A B) + row * sum(A) + constant. All of
// it is double, each operation rounded once and in this order, then rounded to float32 at the end.
#pragma once

#include <cstdint>
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
