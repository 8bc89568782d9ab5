// Arithmetic of bits.h for one number: one rounding an operation on a device and on a CPU alike.
//
// Device code names the rounding of every operation, so that no flag of a compiler fuses two. The CPU
// twin is compiled with -ffp-contract=off. The numbers of the polynomials are those of csrc/cpu/isa.
#pragma once

#include <cmath>

#include "machine.h"

namespace bc_cuda {

#if defined(__CUDA_ARCH__)
BC_HD float add(float a, float b) { return __fadd_rn(a, b); }
BC_HD float sub(float a, float b) { return __fsub_rn(a, b); }
BC_HD float mul(float a, float b) { return __fmul_rn(a, b); }
BC_HD float div(float a, float b) { return __fdiv_rn(a, b); }
BC_HD float root(float a) { return __fsqrt_rn(a); }
BC_HD float whole(float a) { return rintf(a); }
BC_HD double add(double a, double b) { return __dadd_rn(a, b); }
BC_HD double sub(double a, double b) { return __dsub_rn(a, b); }
BC_HD double mul(double a, double b) { return __dmul_rn(a, b); }
BC_HD double div(double a, double b) { return __ddiv_rn(a, b); }
BC_HD double root(double a) { return __dsqrt_rn(a); }
BC_HD uint32_t word_of(float a) { return __float_as_uint(a); }
BC_HD float real_of(uint32_t a) { return __uint_as_float(a); }
BC_HD int ones(uint32_t a) { return __popc(a); }
BC_HD int dots(uint32_t a, uint32_t b, int sum) {
  return static_cast<int>(__dp4a(a, b, static_cast<unsigned>(sum)));
}
#else
BC_HD float add(float a, float b) { return a + b; }
BC_HD float sub(float a, float b) { return a - b; }
BC_HD float mul(float a, float b) { return a * b; }
BC_HD float div(float a, float b) { return a / b; }
BC_HD float root(float a) { return std::sqrt(a); }
BC_HD float whole(float a) { return std::nearbyint(a); }
BC_HD double add(double a, double b) { return a + b; }
BC_HD double sub(double a, double b) { return a - b; }
BC_HD double mul(double a, double b) { return a * b; }
BC_HD double div(double a, double b) { return a / b; }
BC_HD double root(double a) { return std::sqrt(a); }
BC_HD uint32_t word_of(float a) {
  uint32_t word;
  std::memcpy(&word, &a, sizeof word);
  return word;
}
BC_HD float real_of(uint32_t a) {
  float real;
  std::memcpy(&real, &a, sizeof real);
  return real;
}
BC_HD int ones(uint32_t a) {
  int count = 0;
  for (; a != 0; a &= a - 1) ++count;
  return count;
}
BC_HD int dots(uint32_t a, uint32_t b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += static_cast<int>((a >> i & 255) * (b >> i & 255));
  return sum;
}
#endif

// float16 and back: exactly, and to nearest even.
BC_HD float widened(uint16_t h) {
#if defined(__CUDA_ARCH__)
  float real;
  asm("cvt.f32.f16 %0, %1;" : "=f"(real) : "h"(h));
  return real;
#else
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = h >> 10 & 31, rest = h & 1023;
  if (exponent == 31) return real_of(sign | 0x7f800000 | rest << 13);
  if (exponent != 0) return real_of(sign | (exponent + 112) << 23 | rest << 13);
  const float small = static_cast<float>(rest) * 5.9604644775390625e-08f;  // 2^-24
  return real_of(word_of(small) | sign);
#endif
}

BC_HD uint16_t narrowed(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
#else
  const uint32_t word = word_of(x), sign = word >> 16 & 0x8000, size = word & 0x7fffffff;
  if (size > 0x7f800000) return static_cast<uint16_t>(sign | 0x7fff);
  if (size >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 2^16 or more
  if (size < 0x38800000) {  // below 2^-14: whole numbers of 2^-24, found by a sum
    const float sum = real_of(size) + 0.5f;
    return static_cast<uint16_t>(sign | (word_of(sum) - word_of(0.5f)));
  }
  const uint32_t odd = size >> 13 & 1;
  return static_cast<uint16_t>(sign | ((size + 0xfff + odd - (112u << 23)) >> 13));
#endif
}

// One of some numbers; those of a single one are all the same.
BC_HD float at(const bc_cuda_numbers& numbers, int64_t i) {
  if (numbers.type == BC_CUDA_FLOAT16) return widened(static_cast<const uint16_t*>(numbers.data)[i]);
  return static_cast<const float*>(numbers.data)[i];
}
BC_HD float one_of(const bc_cuda_numbers& numbers, int64_t i) { return at(numbers, numbers.count == 1 ? 0 : i); }

BC_HD uint8_t byte_at(const bc_cuda_numbers& bytes, int64_t i) {
  if (bytes.type == BC_CUDA_INT32) return static_cast<uint8_t>(static_cast<const int32_t*>(bytes.data)[i]);
  return static_cast<const uint8_t*>(bytes.data)[i];
}

BC_HD void put(void* out, int type, int64_t i, float x) {
  if (type == BC_CUDA_FLOAT16) {
    static_cast<uint16_t*>(out)[i] = narrowed(x);
  } else {
    static_cast<float*>(out)[i] = x;
  }
}

// bc_encode.
BC_HD uint32_t code_of(float x, float scale, float offset, float top) {
  if (scale == 0.0f) return x >= offset ? 1u : 0u;
  const float u = whole(div(sub(x, offset), scale));
  return u > 0.0f ? static_cast<uint32_t>(u < top ? u : top) : 0u;  // NaN is not above 0
}

// Scale or offset by which channel c is cut: bc_channel_grid.
struct Cut {
  bc_cuda_numbers scale, offset, stretch, shift;
  float top;

  BC_HD uint32_t code(float x, int64_t c) const {
    float s = at(scale, 0), o = at(offset, 0);
    if (stretch.data != nullptr) {
      const float by = at(stretch, c);
      s = mul(by, s), o = mul(by, o);
      if (shift.data != nullptr) o = add(o, at(shift, c));
    }
    return code_of(x, s, o, top);
  }
};

// 2^t for t up to 0, never below 2^-126; NaN stays NaN.
BC_HD float power_of_two(float t) {
  t = -126.0f > t ? -126.0f : t;
  const float n = whole(t), f = sub(t, n);
  float p = add(mul(f, 0.001326472614891827f), 0.009671512991189957f);
  p = add(mul(p, f), 0.05550733581185341f);
  p = add(mul(p, f), 0.24022242426872253f);
  p = add(mul(p, f), 0.6931470036506653f);
  p = add(mul(p, f), 1.0f);
  if (t != t) return t;
  return mul(p, real_of(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23));
}
constexpr float kLog2E = 1.4426950408889634f;

BC_HD float one_and_power(float x) {
  const float t = mul(x, -kLog2E);
  return add(power_of_two(126.0f < t ? 126.0f : t), 1.0f);
}
BC_HD float sigmoid(float x) { return div(1.0f, one_and_power(x)); }
BC_HD float silu(float x) { return div(-100.0f > x ? -100.0f : x, one_and_power(x)); }

BC_HD float gelu_of(float x, float cutoff, int squarings, const float* terms) {
  const float size = real_of(word_of(x) & 0x7fffffff), a = cutoff < size ? cutoff : size;
  float s = terms[0];
  for (int i = 1; i < 8; ++i) s = add(mul(s, a), terms[i]);
  s = mul(sub(cutoff, a), s);
  for (int i = 0; i < squarings; ++i) s = mul(s, s);
  return sub(x > 0.0f ? x : 0.0f, mul(a, s));
}
BC_HD float gelu(float x) {
  const float terms[] = {3.252998112657224e-06f, -3.761619882425293e-05f,  7.909361738711596e-05f,
                         0.0005315100424923003f, -0.0008552198996767402f,  -0.009434265084564686f,
                         -0.00349725061096251f,  0.1478499174118042f};
  return gelu_of(x, 5.6875f, 2, terms);
}
BC_HD float gelu_tanh(float x) {
  const float terms[] = {3.3595792956475634e-06f, -2.4660106646479107e-05f, 5.073249485576525e-05f,
                         0.00014682125765830278f, -0.0007244840962812304f,  -0.003406218718737364f,
                         0.012721256352961063f,   0.1630229353904724f};
  return gelu_of(x, 5.625f, 3, terms);
}

// The four integer sums read as a real: bc_gemm_reals.
struct Sums {
  int32_t products, x, w;
  int64_t terms;
};
BC_HD double affine(const Sums& s, double sx, double lx, double sw, double lw) {
  const double by_weight = mul(mul(lx, sw), static_cast<double>(s.w));
  const double constant = add(by_weight, mul(mul(lx, lw), static_cast<double>(s.terms)));
  const double real = add(mul(static_cast<double>(s.products), mul(sx, sw)),
                          mul(static_cast<double>(s.x), mul(sx, lw)));
  return add(real, constant);
}

// Steps without a sum; see bc_step_kind.
BC_HD float stepped(const bc_cuda_step& step, float x, int64_t row, int64_t channel) {
  float t = step.value;
  if (step.data.data != nullptr) {
    const int64_t each = step.each > 1 ? step.each : 1;
    t = at(step.data, row / each * step.row + channel * step.column);
  }
  switch (step.kind) {
    case BC_ADD: return add(x, t);
    case BC_SUB: return sub(x, t);
    case BC_MUL: return mul(x, t);
    case BC_LEAKY: return x < 0.0f ? mul(x, t) : x;
    case BC_PRELU: return x > 0.0f ? x : mul(x, t);
    case BC_RELU: return x < 0.0f ? 0.0f : x;
    case BC_GELU: return gelu(x);
    case BC_GELU_TANH: return gelu_tanh(x);
    case BC_SIGMOID: return sigmoid(x);
    case BC_SILU: return silu(x);
    default: return x;
  }
}

struct Chain {
  bc_cuda_step steps[BC_CUDA_MOST_STEPS];
  int count;

  BC_HD float operator()(float x, int64_t row, int64_t channel) const {
    for (int i = 0; i < count; ++i) x = stepped(steps[i], x, row, channel);
    return x;
  }
};

}  // namespace bc_cuda
