// Layer norm, GELU, sigmoid and SiLU: drivers over rows and over runs of elements.
#include <algorithm>

#include "bitcompress/bits.h"
#include "guard.h"
#include "kernels.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kChunk = 1 << 13;  // elements a task: x and out stay in the first cache

using Row = void (*)(const float* x, int64_t n, float* out);

bc_status map(Row row, const float* x, int64_t n, float* out, int threads, double nanoseconds) {
  if (n < 0) return BC_BAD_SHAPE;
  if (threads < 1 || missing(n, {x, out})) return BC_BAD_ARGUMENT;
  return guarded([&] {
    const int use = worthwhile(threads, nanoseconds * static_cast<double>(n));
    parallel_for((n + kChunk - 1) / kChunk, use, [&](int64_t task, int) {
      const int64_t first = task * kChunk;
      row(x + first, std::min(kChunk, n - first), out + first);
    });
    return BC_OK;
  });
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_layer_norm(const float* x, int64_t rows, int64_t n, int64_t pitch, const float* gain,
                        const float* shift, float eps, float* out, int64_t out_pitch, int threads) {
  const int64_t size = bc::volume({rows, n});
  if (size < 0 || pitch < n || out_pitch < n) return BC_BAD_SHAPE;
  if (bc::volume({rows, pitch}) < 0 || bc::volume({rows, out_pitch}) < 0) return BC_BAD_SHAPE;
  if (threads < 1 || bc::missing(size, {x, out})) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  return bc::guarded([&] {
    const bc::Kernels& k = bc::kernels();
    const int use = bc::worthwhile(threads, 0.3 * static_cast<double>(size));
    const int64_t chunk = std::max<int64_t>(1, bc::kChunk / n);
    bc::parallel_for((rows + chunk - 1) / chunk, use, [&](int64_t task, int) {
      const int64_t first = task * chunk;
      k.layer_norm_rows(x + first * pitch, std::min(chunk, rows - first), n, pitch, gain, shift,
                        eps, out + first * out_pitch, out_pitch);
    });
    return BC_OK;
  });
}

bc_status bc_unit(const float* x, int64_t count, int64_t rows, int64_t columns, int64_t x_next,
                  int64_t pitch, int by_column, float least, float* out, int64_t out_next,
                  int64_t out_pitch, int threads) {
  const int64_t size = bc::volume({count, rows, columns});
  if (size < 0 || pitch < columns || out_pitch < columns || x_next < 0 || out_next < 0)
    return BC_BAD_SHAPE;
  for (const int64_t span : {bc::volume({rows, pitch}), bc::volume({rows, out_pitch}),
                             bc::volume({count, x_next}), bc::volume({count, out_next})}) {
    if (span < 0) return BC_BAD_SHAPE;
  }
  if (threads < 1 || bc::missing(size, {x, out})) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  return bc::guarded([&] {
    const bc::Kernels& k = bc::kernels();
    const int use = bc::worthwhile(threads, 0.2 * static_cast<double>(size));
    // A part is a few rows, or 16 columns, of one matrix.
    const int64_t chunk = by_column != 0 ? 16 : std::max<int64_t>(1, bc::kChunk / columns);
    const int64_t parts = ((by_column != 0 ? columns : rows) + chunk - 1) / chunk;
    bc::parallel_for(count * parts, use, [&](int64_t task, int) {
      const int64_t first = task % parts * chunk;
      const float* from = x + task / parts * x_next;
      float* to = out + task / parts * out_next;
      if (by_column != 0) {
        k.unit_columns(from + first, rows, std::min(chunk, columns - first), pitch, least,
                       to + first, out_pitch);
      } else {
        k.unit_rows(from + first * pitch, std::min(chunk, rows - first), columns, pitch, least,
                    to + first * out_pitch, out_pitch);
      }
    });
    return BC_OK;
  });
}

bc_status bc_gelu(const float* x, int64_t n, int tanh_form, float* out, int threads) {
  const bc::Kernels& k = bc::kernels();
  return bc::map(tanh_form != 0 ? k.gelu_tanh_row : k.gelu_row, x, n, out, threads, 0.2);
}

bc_status bc_sigmoid(const float* x, int64_t n, float* out, int threads) {
  return bc::map(bc::kernels().sigmoid_row, x, n, out, threads, 0.3);
}

bc_status bc_silu(const float* x, int64_t n, float* out, int threads) {
  return bc::map(bc::kernels().silu_row, x, n, out, threads, 0.3);
}

}  // extern "C"
