// The loops of learn.h, written once for the compiler to vectorise; every file in isa/ compiles them.
#pragma once

#include <string.h>

#include "learn.h"

namespace bc {
namespace {

inline float real_of(float x) { return x; }
inline float real_of(Half x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float real;
  memcpy(&real, &bits, sizeof real);
  return real;
}

inline void put(float x, float* out) { *out = x; }
// To the nearest, ties to even; what is no number stays none.
inline void put(float x, Half* out) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *out = static_cast<Half>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

inline void put_sign(bool plus, float* out) { *out = plus ? 1.0f : -1.0f; }
inline void put_sign(bool plus, Half* out) { *out = static_cast<Half>(plus ? 0x3f80u : 0xbf80u); }

template <class T>
void learn_cut(const float* __restrict__ x, const float* __restrict__ theta, int64_t n,
               T* __restrict__ out) {
  for (int64_t i = 0; i < n; ++i) put_sign(x[i] >= theta[i], out + i);
}

template <class T, bool kWindow>
void cut_back_as(const float* __restrict__ x, const T* __restrict__ grad,
                 const float* __restrict__ gain, const float* __restrict__ shift, int64_t n,
                 float* __restrict__ out, float* __restrict__ sum) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float v = gain[i] * x[i] + shift[i], size = v < 0.0f ? -v : v;
    const float rest = 2.0f - 2.0f * size;
    const float slope = kWindow ? (size < 1.0f ? 1.0f : 0.0f) : (rest <= 0.0f ? 0.0f : rest);
    const float to_shift = real_of(grad[i]) * slope;
    sum[i] += to_shift;
    out[i] = to_shift * gain[i];
  }
}

template <class T>
void learn_cut_back(const float* x, const T* grad, const float* gain, const float* shift,
                    bool window, int64_t n, float* out, float* sum) {
  (window ? cut_back_as<T, true> : cut_back_as<T, false>)(x, grad, gain, shift, n, out, sum);
}

template <class T>
void learn_moments(const T* __restrict__ p, int64_t n, float* __restrict__ sum,
                   float* __restrict__ squares) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float here = real_of(p[i]);
    sum[i] += here;
    squares[i] += here * here;
  }
}

template <class T, bool kInside, bool kBehind>
void tail_as(const T* __restrict__ p, const float* const* tables, const float* __restrict__ beside,
             int64_t n, float* __restrict__ out) {
  const float *__restrict__ after = tables[0], *__restrict__ factor = tables[1],
              *__restrict__ shift = tables[2], *__restrict__ slope = tables[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    float v = real_of(p[i]) * factor[i] + shift[i];
    if (kInside) v += beside[i];
    const float leaked = v * slope[i];
    float y = (v < 0.0f ? leaked : v) + after[i];
    if (kBehind) y += beside[i];
    out[i] = y;
  }
}

template <class T>
void learn_tail(const T* p, const float* const* tables, const float* beside, bool behind, int64_t n,
                float* out) {
  if (beside == nullptr) return tail_as<T, false, false>(p, tables, nullptr, n, out);
  (behind ? tail_as<T, false, true> : tail_as<T, true, false>)(p, tables, beside, n, out);
}

template <class T, bool kInside, bool kToV, bool kToP>
void tail_back_as(const T* __restrict__ p, const float* const* tables,
                  const float* __restrict__ beside, const float* __restrict__ grad, int64_t n,
                  float* __restrict__ to_v, T* __restrict__ to_p, float* const* sums) {
  const float *__restrict__ factor = tables[0], *__restrict__ shift = tables[1],
              *__restrict__ slope = tables[2], *__restrict__ back = tables[3];
  float *__restrict__ of_grad = sums[0], *__restrict__ of_leak = sums[1],
        *__restrict__ of_v = sums[2], *__restrict__ of_product = sums[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float here = real_of(p[i]), g = grad[i];
    float v = here * factor[i] + shift[i];
    if (kInside) v += beside[i];
    const bool leaks = v < 0.0f;
    const float leaked = g * slope[i], lost = g * v, through = leaks ? leaked : g;
    of_grad[i] += g;
    of_leak[i] += leaks ? lost : 0.0f;
    of_v[i] += through;
    of_product[i] += through * here;
    if (kToV) to_v[i] = through;
    if (kToP) put(through * back[i], to_p + i);
  }
}

template <class T, bool kInside>
auto tail_back_for(bool to_v, bool to_p) {
  if (!to_p) return tail_back_as<T, kInside, true, false>;
  return to_v ? tail_back_as<T, kInside, true, true> : tail_back_as<T, kInside, false, true>;
}

template <class T>
void learn_tail_back(const T* p, const float* const* tables, const float* beside, const float* grad,
                     int64_t n, float* to_v, T* to_p, float* const* sums) {
  const bool v = to_v != nullptr, back = to_p != nullptr;
  const auto loop =
      beside == nullptr ? tail_back_for<T, false>(v, back) : tail_back_for<T, true>(v, back);
  loop(p, tables, beside, grad, n, to_v, to_p, sums);
}

template <class T>
void learn_norm_back(const float* __restrict__ to_v, const T* __restrict__ p,
                     const float* const* tables, int64_t n, T* __restrict__ out) {
  const float *__restrict__ of_v = tables[0], *__restrict__ of_p = tables[1],
              *__restrict__ constant = tables[2];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i)
    put(to_v[i] * of_v[i] + real_of(p[i]) * of_p[i] + constant[i], out + i);
}

template <class T>
constexpr LearningOf<T> learning_of() {
  return {learn_cut<T>,  learn_cut_back<T>,  learn_moments<T>,
          learn_tail<T>, learn_tail_back<T>, learn_norm_back<T>};
}

constexpr Learning kLearning = {learning_of<Half>(), learning_of<float>()};

}  // namespace
}  // namespace bc
