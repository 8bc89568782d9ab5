// Training of binary blocks: what stands before and behind their products, forward and backward, each in
// one pass. Runs of a few thousand numbers go through the loops of learn.h, whose tables repeat the
// numbers of the channels; sums are kept for each place of a run and added up over channels at its end.
#include "learn.h"

#include <algorithm>
#include <vector>

#include "bitcompress/learn.h"
#include "guard.h"
#include "kernels.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kRun = 1024;    // numbers of a run, or one pixel if that is more
constexpr int64_t kTask = 1 << 16;  // numbers of a task: sums of float32 are not longer than this

const LearningOf<Half>& loops(const Half*) { return kernels().learning->half; }
const LearningOf<float>& loops(const float*) { return kernels().learning->real; }

// Cuts groups into tasks and tasks into runs, with tables and sums of the length of a run.
class Pass {
 public:
  Pass(const bc_learn& size, const float* tables, int64_t kinds, float* sums, int64_t counted)
      : size_(size),
        tables_(tables),
        kinds_(kinds),
        sums_(sums),
        counted_(counted),
        repeats_(std::max<int64_t>(1, kRun / size.channels)),
        pixels_(std::max<int64_t>(1, kTask / size.channels)),
        blocks_((size.pixels + pixels_ - 1) / pixels_) {}

  // Calls f(first, count, tables, sums) for every run.
  template <class F>
  void run(int threads, F&& f) const {
    const int64_t c = size_.channels, run = repeats_ * c, tasks = size_.groups * blocks_;
    std::vector<double> parts(static_cast<size_t>(tasks * counted_ * c));
    const double work = 0.5 * static_cast<double>(size_.groups * size_.pixels * c);
    parallel_for(tasks, worthwhile(threads, work), [&](int64_t task, int) {
      std::vector<float> memory(static_cast<size_t>((kinds_ + counted_) * run));
      const int64_t group = task / blocks_, begin = task % blocks_ * pixels_;
      const float* tables[4] = {};
      float* sums[4] = {};
      for (int64_t k = 0; k < kinds_; ++k) {
        float* to = memory.data() + k * run;
        for (int64_t i = 0; i < repeats_; ++i)
          std::copy_n(tables_ + (group * kinds_ + k) * c, c, to + i * c);
        tables[k] = to;
      }
      for (int64_t k = 0; k < counted_; ++k) sums[k] = memory.data() + (kinds_ + k) * run;
      const int64_t end = std::min(size_.pixels, begin + pixels_);
      for (int64_t at = begin; at < end; at += repeats_)
        f((group * size_.pixels + at) * c, std::min(repeats_, end - at) * c, tables, sums);
      for (int64_t k = 0; k < counted_; ++k) {
        double* to = parts.data() + (task * counted_ + k) * c;
        for (int64_t r = 0; r < repeats_; ++r) {
          for (int64_t i = 0; i < c; ++i) to[i] += static_cast<double>(sums[k][r * c + i]);
        }
      }
    });
    collect(parts);
  }

 private:
  void collect(const std::vector<double>& parts) const {
    const int64_t row = counted_ * size_.channels;
    for (int64_t group = 0; group < size_.groups; ++group) {
      for (int64_t i = 0; i < row; ++i) {
        double total = 0;
        for (int64_t b = 0; b < blocks_; ++b)
          total += parts[static_cast<size_t>((group * blocks_ + b) * row + i)];
        sums_[group * row + i] = static_cast<float>(total);
      }
    }
  }

  bc_learn size_;
  const float* tables_;
  int64_t kinds_;
  float* sums_;
  int64_t counted_, repeats_, pixels_, blocks_;
};

template <class T>
T* at(T* pointer, int64_t place) {
  return pointer == nullptr ? nullptr : pointer + place;
}

bc_status check(const bc_learn* size, int threads, std::initializer_list<const void*> pointers,
                std::initializer_list<const void*> by_channel) {
  if (size == nullptr || threads < 1) return BC_BAD_ARGUMENT;
  const int64_t all = volume({size->groups, size->pixels, size->channels, 64});
  const int64_t rows = volume({size->groups, size->channels, 64});
  if (all < 0 || rows < 0) return BC_BAD_SHAPE;
  return missing(all, pointers) || missing(rows, by_channel) ? BC_BAD_ARGUMENT : BC_OK;
}

// Runs f(a number of the type of halves or reals) unless the check failed or nothing is there.
template <class F>
bc_status by_type(bc_status status, const bc_learn* size, F&& f) {
  if (status != BC_OK || size->groups * size->channels == 0) return status;
  return guarded([&] {
    if (size->halves != 0) {
      f(Half{});
    } else {
      f(float{});
    }
    return BC_OK;
  });
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_learn_cut(const bc_learn* size, const float* x, const float* theta, void* out,
                       int threads) {
  const bc_status status = bc::check(size, threads, {x, out}, {theta});
  return bc::by_type(status, size, [&](auto type) {
    using T = decltype(type);
    T* to = static_cast<T*>(out);
    bc::Pass(*size, theta, 1, nullptr, 0)
        .run(threads, [&](int64_t i, int64_t n, const float* const* tables, float* const*) {
          bc::loops(to).cut(x + i, tables[0], n, to + i);
        });
  });
}

bc_status bc_learn_cut_back(const bc_learn* size, const float* x, const void* grad,
                            const float* tables, int window, float* out, float* sums, int threads) {
  const bc_status status = bc::check(size, threads, {x, grad, out}, {tables, sums});
  return bc::by_type(status, size, [&](auto type) {
    using T = decltype(type);
    const T* from = static_cast<const T*>(grad);
    bc::Pass(*size, tables, 2, sums, 1)
        .run(threads, [&](int64_t i, int64_t n, const float* const* t, float* const* sum) {
          bc::loops(from).cut_back(x + i, from + i, t[0], t[1], window != 0, n, out + i, sum[0]);
        });
  });
}

bc_status bc_learn_moments(const bc_learn* size, const void* p, float* sums, int threads) {
  const bc_status status = bc::check(size, threads, {p}, {sums});
  return bc::by_type(status, size, [&](auto type) {
    using T = decltype(type);
    const T* from = static_cast<const T*>(p);
    bc::Pass(*size, nullptr, 0, sums, 2)
        .run(threads, [&](int64_t i, int64_t n, const float* const*, float* const* sum) {
          bc::loops(from).moments(from + i, n, sum[0], sum[1]);
        });
  });
}

bc_status bc_learn_tail(const bc_learn* size, const void* p, const float* tables,
                        const float* beside, int behind, float* out, int threads) {
  const bc_status status = bc::check(size, threads, {p, out}, {tables});
  return bc::by_type(status, size, [&](auto type) {
    using T = decltype(type);
    const T* from = static_cast<const T*>(p);
    bc::Pass(*size, tables, 4, nullptr, 0)
        .run(threads, [&](int64_t i, int64_t n, const float* const* t, float* const*) {
          bc::loops(from).tail(from + i, t, bc::at(beside, i), behind != 0, n, out + i);
        });
  });
}

bc_status bc_learn_tail_back(const bc_learn* size, const void* p, const float* tables,
                             const float* beside, const float* grad, float* to_v, void* to_p,
                             float* sums, int threads) {
  bc_status status = bc::check(size, threads, {p, grad}, {tables, sums});
  if (status == BC_OK && to_v == nullptr && to_p == nullptr)
    status = bc::check(size, threads, {to_v}, {});
  return bc::by_type(status, size, [&](auto type) {
    using T = decltype(type);
    const T* from = static_cast<const T*>(p);
    T* to = static_cast<T*>(to_p);
    bc::Pass(*size, tables, 4, sums, 4)
        .run(threads, [&](int64_t i, int64_t n, const float* const* t, float* const* sum) {
          bc::loops(from).tail_back(from + i, t, bc::at(beside, i), grad + i, n, bc::at(to_v, i),
                                    bc::at(to, i), sum);
        });
  });
}

bc_status bc_learn_norm_back(const bc_learn* size, const float* to_v, const void* p,
                             const float* tables, void* out, int threads) {
  const bc_status status = bc::check(size, threads, {to_v, p, out}, {tables});
  return bc::by_type(status, size, [&](auto type) {
    using T = decltype(type);
    const T* from = static_cast<const T*>(p);
    T* to = static_cast<T*>(out);
    bc::Pass(*size, tables, 3, nullptr, 0)
        .run(threads, [&](int64_t i, int64_t n, const float* const* t, float* const*) {
          bc::loops(from).norm_back(to_v + i, from + i, t, n, to + i);
        });
  });
}

}  // extern "C"
