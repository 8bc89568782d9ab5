// The inner loops of what binary blocks compute in training, on runs of n elements.
//
// Every array has n elements; tables repeat the numbers of the channels as often as the run is long, so
// that no loop knows of channels. Sums are added to, element by element. Halves are bfloat16.
#pragma once

#include <cstdint>

namespace bc {

using Half = uint16_t;

// See bitcompress/learn.h for what each gives.
template <class T>
struct LearningOf {
  void (*cut)(const float* x, const float* theta, int64_t n, T* out);
  void (*cut_back)(const float* x, const T* grad, const float* gain, const float* shift, bool window,
                   int64_t n, float* out, float* sum);
  void (*moments)(const T* p, int64_t n, float* sum, float* squares);
  // tables: after, factor, shift, slope. beside may be null; it is added before the slope or behind it.
  void (*tail)(const T* p, const float* const* tables, const float* beside, bool behind, int64_t n,
               float* out);
  // tables: factor, shift, slope, back. sums: of grad, of what leaks, of to_v, of to_v * p.
  void (*tail_back)(const T* p, const float* const* tables, const float* beside, const float* grad,
                    int64_t n, float* to_v, T* to_p, float* const* sums);
  // tables: of to_v, of p, constant.
  void (*norm_back)(const float* to_v, const T* p, const float* const* tables, int64_t n, T* out);
};

struct Learning {
  LearningOf<Half> half;
  LearningOf<float> real;
};

}  // namespace bc
