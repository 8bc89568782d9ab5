// Exact products of code matrices: blocks, threads and the repacking of the right-hand side.
#include <algorithm>
#include <cstring>
#include <vector>

#include "bitcompress/bits.h"
#include "guard.h"
#include "kernels.h"
#include "panel.h"
#include "reading.h"
#include "threads.h"

namespace bc {
namespace {

constexpr double kNanosecondsPerProduct = 1.0 / 150;  // a careful guess, to decide on threads

struct Shape {
  int64_t batch, m, n, k;
};

// Rows of left codes in the form that the kernel reads: in place where they have it and the last
// step of the last row ends with it.
class Rows {
 public:
  Rows(const Form& form, int64_t k) : form_(form), k_(k) {}

  bool in_place() const { return form_.load == nullptr && k_ % form_.step == 0; }
  int64_t stride() const { return form_.pixel_bytes(k_); }

  const uint8_t* load(const uint8_t* a, int64_t rows, uint8_t* scratch) const {
    if (in_place()) return a;
    load_pixels(form_, a, rows, k_, scratch);
    return scratch;
  }

 private:
  const Form& form_;
  int64_t k_;
};

// Where the sums go: to the caller as they are, or read as reals.
struct Output {
  int32_t* sums;
  float* reals;
  const bc_grids* grids;
};

// One or many products of one shape: what a block of rows needs, for each thread.
class Gemm {
 public:
  Gemm(const Kernels& kernels, const Form& form, const Shape& shape, const uint8_t* a,
       const uint8_t* w, const Output& output, int64_t block, int threads)
      : kernels_(kernels),
        form_(form),
        s_(shape),
        a_(a),
        w_(w),
        output_(output),
        rows_(form, shape.k),
        code_bytes_(rows_.in_place() ? 0 : block * rows_.stride() + kPad),
        sums_size_(output.reals == nullptr ? 0 : block * (shape.n + 1) + shape.n),
        codes_(static_cast<size_t>(code_bytes_ * threads)),
        sums_(static_cast<size_t>(sums_size_ * threads)) {}

  // Packs the right-hand side of one batch, with the reading that belongs to it.
  void prepare(int64_t batch, Panel& panel, Reading& reading, int slot) {
    const uint8_t* w = w_ + batch * s_.n * s_.k;
    panel.pack(w);
    if (output_.reals == nullptr) return;
    int32_t* column_sums = sums_.data() + slot * sums_size_;
    kernels_.sum_rows(w, s_.n, s_.k, column_sums);
    const bc_grids& g = *output_.grids;
    const Grid left{g.a_scale[batch], g.a_offset[batch]};
    for (int64_t c = 0; c < s_.n; ++c) {
      const int64_t at = batch * g.w_groups + (g.w_groups == 1 ? 0 : c);
      reading.set(static_cast<size_t>(c), left, {g.w_scale[at], g.w_offset[at]}, column_sums[c],
                  s_.k);
    }
  }

  // Rows [first, first + count) of one batch.
  void multiply(int64_t batch, int64_t first, int64_t count, const Panel& panel,
                const Reading& reading, int slot) {
    const uint8_t* a = a_ + (batch * s_.m + first) * s_.k;
    const int64_t place = (batch * s_.m + first) * s_.n;
    const bool real = output_.reals != nullptr;
    int32_t* row_sums = sums_.data() + slot * sums_size_;
    int32_t* sums = real ? row_sums + count : output_.sums + place;
    const uint8_t* run = rows_.load(a, count, codes_.data() + slot * code_bytes_);
    form_.product(
        {&run, 1, s_.k, rows_.stride(), count, panel.data(), s_.n, panel.shifted(), sums, s_.n});
    if (!real) return;
    kernels_.sum_rows(a, count, s_.k, row_sums);
    for (int64_t r = 0; r < count; ++r) {
      kernels_.read_row(sums + r * s_.n, s_.n, row_sums[r], reading.product.data(),
                        reading.row.data(), reading.constant.data(), reading.bias.data(),
                        output_.reals + place + r * s_.n);
    }
  }

 private:
  const Kernels& kernels_;
  const Form& form_;
  Shape s_;
  const uint8_t *a_, *w_;
  Output output_;
  Rows rows_;
  int64_t code_bytes_, sums_size_;
  std::vector<uint8_t> codes_;
  std::vector<int32_t> sums_;
};

Reading reading_for(const Shape& s, const Output& output) {
  return output.reals == nullptr ? Reading(0, nullptr) : Reading(s.n, output.grids->bias);
}

// A block of rows stays in L1, and so do its sums where they are read at once (L2 at worst).
int64_t rows_of_a_block(const Shape& s, bool real) {
  int64_t fit = (int64_t{1} << 15) / s.k;
  if (real) fit = std::min(fit, (int64_t{1} << 15) / s.n);
  return std::max<int64_t>(24, std::min<int64_t>(480, fit / 24 * 24));
}

// Few right-hand sides, many rows: blocks of rows are the tasks.
void by_rows(const Kernels& kernels, const Shape& s, const uint8_t* a, const uint8_t* w,
             const Output& output, int threads) {
  const int64_t block = rows_of_a_block(s, output.reals != nullptr);
  const Form& form = kernels.form_for(8, 8, {1, s.k, s.n});
  Gemm gemm(kernels, form, s, a, w, output, block, threads);
  Panel panel(form, s.n, 1, 1, s.k);
  Reading reading = reading_for(s, output);
  for (int64_t batch = 0; batch < s.batch; ++batch) {
    gemm.prepare(batch, panel, reading, 0);
    parallel_for((s.m + block - 1) / block, threads, [&](int64_t task, int slot) {
      const int64_t first = task * block;
      gemm.multiply(batch, first, std::min(block, s.m - first), panel, reading, slot);
    });
  }
}

// Many small products: each is a task with a panel of its own.
void by_batch(const Kernels& kernels, const Shape& s, const uint8_t* a, const uint8_t* w,
              const Output& output, int threads) {
  const Form& form = kernels.form_for(8, 8, {1, s.k, s.n});
  Gemm gemm(kernels, form, s, a, w, output, s.m, threads);
  std::vector<Panel> panels(static_cast<size_t>(threads), Panel(form, s.n, 1, 1, s.k));
  std::vector<Reading> readings(panels.size(), reading_for(s, output));
  parallel_for(s.batch, threads, [&](int64_t batch, int slot) {
    Panel& panel = panels[static_cast<size_t>(slot)];
    Reading& reading = readings[static_cast<size_t>(slot)];
    gemm.prepare(batch, panel, reading, slot);
    gemm.multiply(batch, 0, s.m, panel, reading, slot);
  });
}

bc_status run(const Shape& s, const uint8_t* a, const uint8_t* w, const Output& output,
              int threads) {
  const double products = static_cast<double>(s.batch) * s.m * s.n * s.k;
  const int use = worthwhile(threads, products * kNanosecondsPerProduct);
  constexpr int64_t kSmall = 512;  // rows up to here are one task where there are several products
  (s.batch > 1 && s.m <= kSmall ? by_batch : by_rows)(kernels(), s, a, w, output, use);
  return BC_OK;
}

bc_status check(const Shape& s, const uint8_t* a, const uint8_t* w, const void* out, int threads) {
  const int64_t left = volume({s.batch, s.m, s.k}), right = volume({s.batch, s.n, s.k});
  const int64_t size = volume({s.batch, s.m, s.n, 8});
  if (left < 0 || right < 0 || size < 0) return BC_BAD_SHAPE;
  if (threads < 1 || missing(left, {a}) || missing(right, {w}) || missing(size, {out})) {
    return BC_BAD_ARGUMENT;
  }
  return s.k > BC_MAX_REDUCTION ? BC_OVERFLOW : BC_OK;
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_gemm_codes(const uint8_t* a, const uint8_t* w, int64_t batch, int64_t m, int64_t n,
                        int64_t k, int32_t* out, int threads) {
  const bc::Shape shape{batch, m, n, k};
  const bc_status status = bc::check(shape, a, w, out, threads);
  if (status != BC_OK || batch * m * n == 0) return status;
  if (k == 0) {
    std::memset(out, 0, static_cast<size_t>(batch * m * n) * sizeof *out);
    return BC_OK;
  }
  return bc::guarded([&] { return bc::run(shape, a, w, {out, nullptr, nullptr}, threads); });
}

bc_status bc_gemm_reals(const uint8_t* a, const uint8_t* w, int64_t batch, int64_t m, int64_t n,
                        int64_t k, const bc_grids* grids, float* out, int threads) {
  const bc::Shape shape{batch, m, n, k};
  const bc_status status = bc::check(shape, a, w, out, threads);
  if (status == BC_OK && bc::lacking_grids(grids)) return BC_BAD_ARGUMENT;
  if (status == BC_OK && grids->w_groups != 1 && grids->w_groups != n) return BC_BAD_SHAPE;
  if (status != BC_OK || batch * m * n == 0) return status;
  if (k == 0) return BC_EMPTY;
  return bc::guarded([&] { return bc::run(shape, a, w, {nullptr, out, grids}, threads); });
}

}  // extern "C"
