// Softmax and cut in one pass, a few rows at a time in L1: the middle of attention by itself.
#include <algorithm>

#include "bitcompress/bits.h"
#include "guard.h"
#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kRows = 16;

void run(const Kernels& k, const float* x, int64_t rows, int64_t n, float scale, float offset,
         float top, uint8_t* out, int threads) {
  const int64_t stride = (n + 15) / 16 * 16, blocks = (rows + kRows - 1) / kRows;
  Scratch memory(Scratch::bytes<float>(kRows * stride * threads));
  float* scratch = memory.part<float>(kRows * stride * threads);
  // A task is several blocks: short rows are not worth a claim each.
  const int64_t together = std::max<int64_t>(1, (1 << 14) / (kRows * n));
  parallel_for((blocks + together - 1) / together, threads, [&](int64_t task, int slot) {
    float* own = scratch + slot * kRows * stride;
    const int64_t end = std::min(rows, (task + 1) * together * kRows);
    for (int64_t first = task * together * kRows; first < end; first += kRows) {
      const int64_t count = std::min(kRows, end - first);
      for (int64_t r = 0; r < count; ++r)
        std::copy_n(x + (first + r) * n, n, own + r * stride);
      k.softmax_codes(own, count, n, stride, scale, offset, top, out + first * n);
    }
  });
}

}  // namespace
}  // namespace bc

extern "C" bc_status bc_softmax_codes(const float* x, int64_t rows, int64_t n, float scale,
                                      float offset, int bits, uint8_t* out, int threads) {
  const int64_t size = bc::volume({rows, n});
  if (size < 0 || n > INT32_MAX) return BC_BAD_SHAPE;
  if (!bc::bits_ok(bits) || threads < 1 || bc::missing(size, {x, out})) return BC_BAD_ARGUMENT;
  if (rows > 0 && n == 0) return BC_EMPTY;
  if (size == 0) return BC_OK;
  return bc::guarded([&] {
    const int use = bc::worthwhile(threads, 0.5 * static_cast<double>(size));
    bc::run(bc::kernels(), x, rows, n, scale, offset, bc::top_code(bits), out, use);
    return BC_OK;
  });
}
