// Chains of steps on rows of channels, and where the rows end up; what they mean is in bits.h.
#pragma once

#include <cstdint>

#include "bitcompress/bits.h"
#include "kernels.h"

namespace bc {

// Sizes and pointers of a chain on so many rows.
bc_status check_steps(const bc_step* steps, int64_t count, int64_t rows, int64_t channels);
bc_status check_sink(const bc_sink& sink, int64_t channels);

// Whether the rows of a chain go somewhere before its end.
bool stores(const bc_step* steps, int64_t count);

struct Steps {
  const Kernels* k;
  const bc_step* steps;
  int64_t count;
  int64_t channels;

  bool empty() const { return count == 0; }

  // Codes of the rows at the end of a chain.
  struct Cut {
    const RowCutter& cutter;
    uint8_t* out;
    int64_t pitch;
  };

  // Rows first, first + 1, ... of the chain's rows: x to `to`, which may be x where the pitches are
  // the same. Between steps rows lie in `scratch` [rows][channels], which may be x or `to` where
  // they are dense. null `to`: only what is stored or cut counts.
  void run(int64_t first, int64_t rows, const float* x, int64_t pitch, float* scratch, float* to,
           int64_t to_pitch, const Cut* cut = nullptr) const;

  // Asks memory for operands of these rows that are read once, number by number.
  void ask(int64_t first, int64_t rows) const;

  // Rough nanoseconds for a row.
  double cost() const;

 private:
  // How far steps from i on can go through registers together; i where not at all.
  int64_t together(int64_t i) const;
  // Steps [begin, end) through registers.
  void pass(int64_t begin, int64_t end, int64_t first, int64_t rows, const float* x, int64_t pitch,
            float* to, int64_t to_pitch, const Cut* cut) const;
};

}  // namespace bc
