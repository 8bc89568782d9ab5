// The portable level: plain loops that any compiler takes on any CPU.
#define BITCOMPRESS_VECTOR 4
#include "rows.h"
#include "softmax.h"
#include "cut.h"
#include "read.h"
#include "reals.h"
#include "lengths.h"
#include "pixels.h"
#include "learn.h"
#include "steps.h"
#include "floats.h"
#include "chain.h"
#include "forms.h"
#include "scalar_bits.h"

namespace bc {
namespace {

inline Reals min_of(Reals a, Reals b) { return a < b ? a : b; }
inline Reals max_of(Reals a, Reals b) { return a > b ? a : b; }

inline void store_codes(uint8_t* to, Reals sum) {
  uint32_t words[kVector];
  memcpy(words, &sum, sizeof words);
  for (int i = 0; i < kVector; ++i) to[i] = static_cast<uint8_t>(words[i]);
}

inline Reals root(Reals x) {
  for (int l = 0; l < kVector; ++l) x[l] = __builtin_sqrtf(x[l]);
  return x;
}

inline Reals load_first(const float* x, int64_t n) {
  if (n >= kVector) return load(x);
  float first[kVector] = {};
  for (int64_t i = 0; i < n; ++i) first[i] = x[i];
  return load(first);
}
inline void store_first(float* to, int64_t n, Reals x) {
  if (n >= kVector) return store(to, x);
  for (int64_t i = 0; i < n; ++i) to[i] = x[i];
}

inline void turn_block(const float* __restrict x, int64_t x_stride, float* __restrict out,
                       int64_t out_stride) {
  for (int64_t c = 0; c < 16; ++c) {
    for (int64_t r = 0; r < 16; ++r) out[c * out_stride + r] = x[r * x_stride + c];
  }
}

void widen_rows(const uint8_t* codes, int64_t rows, int64_t n, int64_t stride, uint8_t* out) {
  for (int64_t r = 0; r < rows; ++r) {
    int16_t* wide = reinterpret_cast<int16_t*>(out + r * stride);
    for (int64_t i = 0; i < n; ++i) wide[i] = codes[r * n + i];
  }
}

int64_t panel_bytes(int64_t columns, int64_t segments, int64_t length) {
  return columns * segments * length * static_cast<int64_t>(sizeof(int16_t));
}

void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length, bool,
                void* panel) {
  int16_t* out = static_cast<int16_t*>(panel);
  for (int64_t i = 0; i < columns * segments * length; ++i) out[i] = right[i];
}

int32_t dot(const int16_t* a, const int16_t* b, int64_t n) {
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<int32_t>(a[i]) * static_cast<int32_t>(b[i]);
  return sum;
}

void product(const Product& p) {
  const int16_t* panel = static_cast<const int16_t*>(p.panel);
  for (int64_t r = 0; r < p.rows; ++r) {
    const int16_t* right = panel;
    for (int64_t c = 0; c < p.columns; ++c) {
      int32_t sum = 0;
      for (int64_t s = 0; s < p.segments; ++s, right += p.length) {
        sum += dot(reinterpret_cast<const int16_t*>(p.runs[s] + r * p.row_bytes), right, p.length);
      }
      p.out[r * p.out_stride + c] = sum;
    }
  }
}

void depthwise(const uint8_t* const* x, const int32_t* const* w, int64_t taps, int64_t channels,
               int32_t* out) {
  depthwise_from(0, x, w, taps, channels, out);
}

constexpr Form kWords = words_form<panel_bytes, pack_panel, product, 1>();

// A word of 64 bits takes the time of a few products of 16 bits.
const Form& form_for(int x_bits, int w_bits, const Extent& extent) {
  const bool bits = x_bits == 1 && w_bits == 1 && extent.channels >= 12 && extent.columns >= 4;
  return bits ? kScalarBits : kWords;
}

}  // namespace

const Kernels kScalar = {
    "scalar",    encode_row,   encode_each,   fake_row,
    fake_each,   backward_row, backward_each, minmax_row,
    minmax_each, bins_row,     bins_each,     2,
    1,           widen_rows,   panel_bytes,   pack_panel,
    product,     depthwise,    sum_rows,      read_row,
    read_each,
    &kAttendScalar,
    read_centred,
    exp2_row,
    softmax_codes,
    layer_norm_rows,
    layer_norm_row,
    gelu_row,
    gelu_tanh_row,
    sigmoid_row,
    silu_row,
    unit_rows,
    unit_columns,
    cut,
    turn,
    read_rows,
    read_codes,
    cut_rows,
    nullptr,
    nullptr,
    &kWords,
    form_for,
    step_rows,
    chain_rows,
    sum_columns,
    sum_line,
    floats_few,
    &kLearning,
};

}  // namespace bc
