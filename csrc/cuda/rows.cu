// Rows through steps, norms among them; and what is divided by its length.
#include "checks.h"
#include "sums.h"

namespace bc_cuda {

bool is_elementwise(int kind) {
  switch (kind) {
    case BC_ADD: case BC_MUL: case BC_SUB: case BC_RELU: case BC_LEAKY: case BC_GELU:
    case BC_SIGMOID: case BC_GELU_TANH: case BC_SILU: case BC_PRELU:
      return true;
    default:
      return false;
  }
}

bool chain_of(const bc_cuda_step* steps, int64_t count, Chain* chain) {
  if (count < 0 || count > BC_CUDA_MOST_STEPS || (count > 0 && steps == nullptr)) return false;
  chain->count = static_cast<int>(count);
  for (int64_t i = 0; i < count; ++i) {
    const bc_cuda_step& step = steps[i];
    const bool operand = step.data.data == nullptr || is_real(step.data);
    if (!is_elementwise(step.kind) || !operand || step.row < 0 || step.column < 0 || step.each < 0) return false;
    chain->steps[i] = step;
  }
  return true;
}

namespace {

struct Mapped {
  bc_cuda_numbers x;
  Chain chain;
  int64_t channels;
  void* out;
  int out_type;

  BC_HD void operator()(int64_t i) const {
    put(out, out_type, i, chain(at(x, i), i / channels, i % channels));
  }
};

// One step where it is a norm, else as many as a kernel takes.
bc_status some_steps(const bc_cuda_step* steps, int64_t count, int64_t rows, int64_t channels,
                     bc_cuda_numbers x, void* out, int out_type, void* stream, int64_t* done) {
  if (count > 0 && steps[0].kind == BC_NORM) {
    *done = 1;
    const bool affine = absent_or(steps[0].data, channels) && absent_or(steps[0].shift, channels);
    if (!affine) return BC_BAD_ARGUMENT;
    const Normalized norm{x, steps[0].data, steps[0].shift, steps[0].value, rows, channels, out, out_type};
    return blocks(norm, {(rows + kRowsOfBlock - 1) / kRowsOfBlock, 1, 1}, stream);
  }
  int64_t length = 0;
  while (length < count && length < BC_CUDA_MOST_STEPS && steps[length].kind != BC_NORM) ++length;
  *done = length;
  Chain chain;
  if (!chain_of(steps, length, &chain)) return BC_BAD_ARGUMENT;
  return each(Mapped{x, chain, channels, out, out_type}, rows * channels, stream);
}

}  // namespace
}  // namespace bc_cuda

using namespace bc_cuda;

extern "C" int bc_cuda_version(void) { return BC_CUDA_VERSION; }

extern "C" int bc_cuda_on_device(void) {
#if defined(__CUDACC__)
  return 1;
#else
  return 0;
#endif
}

extern "C" bc_status bc_cuda_rows(const bc_cuda_step* steps, int64_t count, int64_t rows, int64_t channels,
                                  bc_cuda_numbers x, void* out, int out_type, void* stream) {
  const int64_t size = volume({rows, channels});
  if (size < 0) return BC_BAD_SHAPE;
  if (count < 0 || (count > 0 && steps == nullptr) || !is_real(x) || !is_real(out_type)) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  if (x.data == nullptr || out == nullptr) return BC_BAD_ARGUMENT;
  for (int64_t i = 0; i < count; ++i) {
    if (steps[i].kind != BC_NORM && !is_elementwise(steps[i].kind)) return BC_BAD_ARGUMENT;
  }
  int64_t first = 0;
  do {
    int64_t done = 0;
    // What is kept between two kernels must not be rounded.
    const bc_status status =
        some_steps(steps + first, count - first, rows, channels, x, out, out_type, stream, &done);
    if (status != BC_OK) return status;
    first += done;
    if (first < count && out_type != BC_CUDA_FLOAT32) return BC_BAD_ARGUMENT;
    x = {out, out_type, size};
  } while (first < count);
  return BC_OK;
}

extern "C" bc_status bc_cuda_unit(bc_cuda_numbers x, int64_t outer, int64_t n, int64_t inner, float least,
                                  void* out, int out_type, void* stream) {
  const int64_t size = volume({outer, n, inner});
  if (size < 0) return BC_BAD_SHAPE;
  if (!is_real(x) || !is_real(out_type)) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  if (x.data == nullptr || out == nullptr) return BC_BAD_ARGUMENT;
  const Divided divided{x, outer * inner, n, inner, least, out, out_type};
  return blocks(divided, {(outer * inner + kRowsOfBlock - 1) / kRowsOfBlock, 1, 1}, stream);
}
