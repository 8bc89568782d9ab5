// Matrices of reals turned: rows become columns, a block at a time that stays in the first cache.
#include <algorithm>

#include "bitcompress/bits.h"
#include "guard.h"
#include "kernels.h"
#include "threads.h"

namespace bc {
namespace {

// An axis in parts of so many places; the last part takes what is left over.
constexpr int64_t kPart = 128;

int64_t parts_of(int64_t size) { return std::max<int64_t>(1, size / kPart); }

struct Part {
  int64_t first, count;
  Part(int64_t number, int64_t size)
      : first(number * kPart), count(number + 1 < parts_of(size) ? kPart : size - first) {}
};

}  // namespace
}  // namespace bc

extern "C" bc_status bc_turn(const float* x, int64_t count, int64_t rows, int64_t columns,
                             int64_t x_next, int64_t x_pitch, float* out, int64_t out_next,
                             int64_t out_pitch, int threads) {
  const int64_t size = bc::volume({count, rows, columns});
  if (size < 0 || x_pitch < columns || out_pitch < rows || x_next < 0 || out_next < 0)
    return BC_BAD_SHAPE;
  for (const int64_t span : {bc::volume({rows, x_pitch}), bc::volume({columns, out_pitch}),
                             bc::volume({count, x_next}), bc::volume({count, out_next})}) {
    if (span < 0) return BC_BAD_SHAPE;
  }
  if (threads < 1 || bc::missing(size, {x, out})) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  return bc::guarded([&] {
    const bc::Kernels& k = bc::kernels();
    const int use = bc::worthwhile(threads, 0.3 * static_cast<double>(size));
    const int64_t down = bc::parts_of(rows), across = bc::parts_of(columns);
    bc::parallel_for(count * down * across, use, [&](int64_t task, int) {
      const bc::Part r(task / across % down, rows), c(task % across, columns);
      const int64_t matrix = task / across / down;
      k.turn(x + matrix * x_next + r.first * x_pitch + c.first, r.count, c.count, x_pitch,
             out + matrix * out_next + c.first * out_pitch + r.first, out_pitch);
    });
    return BC_OK;
  });
}
