// Chains of steps on rows, a few rows at a time so that they stay in L1 from step to step.
#include "steps.h"

#include <algorithm>
#include <optional>

#include "code_grid.h"
#include "geometry.h"
#include "scratch.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kTogether = 16;  // steps that go through registers together

bool known(int32_t kind) { return kind >= BC_ADD && kind <= BC_MUL_ADD; }

bool has_operand(int32_t kind) {
  return kind == BC_ADD || kind == BC_MUL || kind == BC_SUB || kind == BC_LEAKY ||
         kind == BC_PRELU || kind == BC_MUL_ADD;
}

bool in_reach(int64_t rows, int64_t channels, int64_t row, int64_t column) {
  if (row < 0 || row > kMostSize || column < 0 || column > kMostSize) return false;
  return volume({rows, row, 8}) >= 0 && volume({channels, column, 8}) >= 0;
}

void copy_rows(int64_t rows, int64_t n, const float* x, int64_t pitch, float* out,
               int64_t out_pitch) {
  if (x == out) return;
  if (pitch == n && out_pitch == n) {
    std::copy_n(x, rows * n, out);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) std::copy_n(x + r * pitch, n, out + r * out_pitch);
}

// Of the functions of one element.
void elementwise(void (*f)(const float* x, int64_t n, float* out), int64_t rows, int64_t n,
                 const float* x, int64_t pitch, float* out, int64_t out_pitch) {
  if (pitch == n && out_pitch == n) return f(x, rows * n, out);
  for (int64_t r = 0; r < rows; ++r) f(x + r * pitch, n, out + r * out_pitch);
}

void one(const Kernels& k, const bc_step& s, int64_t first, int64_t rows, int64_t n, const float* x,
         int64_t pitch, float* out, int64_t out_pitch) {
  switch (s.kind) {
    case BC_NORM:
      return k.layer_norm_rows(x, rows, n, pitch, s.data, s.shift, s.value, out, out_pitch);
    case BC_GELU:
      return elementwise(k.gelu_row, rows, n, x, pitch, out, out_pitch);
    case BC_GELU_TANH:
      return elementwise(k.gelu_tanh_row, rows, n, x, pitch, out, out_pitch);
    case BC_SIGMOID:
      return elementwise(k.sigmoid_row, rows, n, x, pitch, out, out_pitch);
    case BC_SILU:
      return elementwise(k.silu_row, rows, n, x, pitch, out, out_pitch);
    default:
      break;
  }
  if (s.data == nullptr || s.each <= 1 || s.row == 0) {
    const float* data = s.data == nullptr ? nullptr : s.data + first * s.row;
    return k.step_rows({s.kind, s.value, data, s.row, s.column, x, pitch, rows, n, out, out_pitch,
                        s.shift});
  }
  for (int64_t r = 0; r < rows;) {  // as far as rows share their operand
    const int64_t place = (first + r) / s.each;
    const int64_t count = std::min(rows - r, (place + 1) * s.each - first - r);
    k.step_rows({s.kind, s.value, s.data + place * s.row, 0, s.column, x + r * pitch, pitch, count,
                 n, out + r * out_pitch, out_pitch, s.shift});
    r += count;
  }
}

}  // namespace

bc_status check_steps(const bc_step* steps, int64_t count, int64_t rows, int64_t channels) {
  if (count < 0 || count > kMostSize) return BC_BAD_SHAPE;
  if (count > 0 && steps == nullptr) return BC_BAD_ARGUMENT;
  for (int64_t i = 0; i < count; ++i) {
    const bc_step& s = steps[i];
    if (!known(s.kind)) return BC_BAD_ARGUMENT;
    if (has_operand(s.kind) && s.data != nullptr &&
        (s.each < 0 || s.each > kMostSize || !in_reach(rows, channels, s.row, s.column)))
      return BC_BAD_SHAPE;
    if (s.kind == BC_MUL_ADD && missing(channels, {s.shift})) return BC_BAD_ARGUMENT;
    if (s.kind == BC_NORM && channels == 0) return BC_EMPTY;
    if (s.kind == BC_STORE) {
      if (missing(rows * channels, {s.out})) return BC_BAD_ARGUMENT;
      if (s.out_pitch < channels || !in_reach(rows, 1, s.out_pitch, 0)) return BC_BAD_SHAPE;
    }
  }
  return BC_OK;
}

bc_status check_sink(const bc_sink& sink, int64_t channels) {
  if (sink.scale == nullptr)
    return sink.offset == nullptr && sink.top == nullptr ? BC_OK : BC_BAD_ARGUMENT;
  if (sink.offset == nullptr || sink.top == nullptr) return BC_BAD_ARGUMENT;
  if (sink.groups != 1 && sink.groups != channels) return BC_BAD_SHAPE;
  for (int64_t g = 0; g < sink.groups; ++g) {
    const float top = sink.top[g];
    if (!(top >= 1.0f && top <= 255.0f) || top != static_cast<float>(static_cast<int>(top)))
      return BC_BAD_ARGUMENT;
  }
  return BC_OK;
}

bool stores(const bc_step* steps, int64_t count) {
  return std::any_of(steps, steps + count, [](const bc_step& s) { return s.kind == BC_STORE; });
}

int64_t Steps::together(int64_t i) const {
  if (channels % 16 != 0) return i;
  const int64_t most = std::min(count, i + kTogether);
  for (; i < most; ++i) {
    const bc_step& s = steps[i];
    const bool simple = s.kind == BC_STORE || s.kind == BC_RELU || has_operand(s.kind);
    const bool apart = has_operand(s.kind) && s.data != nullptr && s.column != 0 && s.column != 1;
    if (!simple || apart) break;
  }
  return i;
}

void Steps::pass(int64_t begin, int64_t end, int64_t first, int64_t rows, const float* x,
                 int64_t pitch, float* to, int64_t to_pitch, const Cut* cut) const {
  ChainStep chain[kTogether];
  for (int64_t r = 0; r < rows;) {  // as far as rows share their operands
    int64_t many = rows - r;
    const int64_t row = first + r;
    for (int64_t i = begin; i < end; ++i) {
      const bc_step& s = steps[i];
      ChainStep& made = chain[i - begin] = {s.kind, s.value, nullptr, 0, s.column, s.shift, nullptr, 0};
      if (s.kind == BC_STORE) {
        made.out = s.out + row * s.out_pitch, made.out_pitch = s.out_pitch;
      } else if (s.kind != BC_RELU && s.data != nullptr && s.each > 1 && s.row != 0) {
        const int64_t place = row / s.each;
        made.data = s.data + place * s.row;
        many = std::min(many, (place + 1) * s.each - row);
      } else if (s.kind != BC_RELU && s.data != nullptr) {
        made.data = s.data + row * s.row, made.row = s.row;
      }
    }
    k->chain_rows({chain, end - begin, x + r * pitch, pitch, many, channels,
                   to == nullptr ? nullptr : to + r * to_pitch, to_pitch,
                   cut == nullptr ? nullptr : cut->cutter.offset,
                   cut == nullptr ? nullptr : cut->out + r * cut->pitch,
                   cut == nullptr ? 0 : cut->pitch});
    r += many;
  }
}

void Steps::run(int64_t first, int64_t rows, const float* x, int64_t pitch, float* scratch,
                float* to, int64_t to_pitch, const Cut* cut) const {
  int64_t last = count;  // the last step that changes rows; it writes to `to`
  while (last > 0 && steps[last - 1].kind == BC_STORE) --last;
  for (int64_t i = 0; i < count;) {
    const int64_t end = together(i);
    const bool cuts = cut != nullptr && end == count && cut->cutter.compares;
    if (end > i + 1 || (end > i && cuts)) {
      const bool ends = end >= last && (to != nullptr || end == count);
      float* out = i >= last || (ends && cuts) ? nullptr : ends ? to : scratch;
      if (out == nullptr && i < last && cut != nullptr && !cuts) out = scratch;
      const int64_t out_pitch = ends && out == to ? to_pitch : channels;
      pass(i, end, first, rows, x, pitch, out, out_pitch, cuts ? cut : nullptr);
      if (cuts) return;
      if (out != nullptr) x = out, pitch = out_pitch;
      i = end;
      continue;
    }
    const bc_step& s = steps[i++];
    if (s.kind == BC_STORE) {
      copy_rows(rows, channels, x, pitch, s.out + first * s.out_pitch, s.out_pitch);
      continue;
    }
    const bool ends = i == last && to != nullptr;
    float* out = ends ? to : scratch;
    const int64_t out_pitch = ends ? to_pitch : channels;
    one(*k, s, first, rows, channels, x, pitch, out, out_pitch);
    x = out, pitch = out_pitch;
  }
  if (last == 0 && to != nullptr) copy_rows(rows, channels, x, pitch, to, to_pitch);
  if (cut != nullptr) k->cut_rows(cut->cutter, rows, channels, x, pitch, cut->out, cut->pitch);
}

void Steps::ask(int64_t first, int64_t rows) const {
  constexpr int64_t kLine = 16;  // reals
  for (int64_t i = 0; i < count; ++i) {
    const bc_step& s = steps[i];
    if (!has_operand(s.kind) || s.data == nullptr || s.column != 1 || s.each > 1) continue;
    if (s.row < channels) continue;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = s.data + (first + r) * s.row;
      for (int64_t at = 0; at < channels; at += kLine) __builtin_prefetch(row + at, 0, 2);
    }
  }
}

double Steps::cost() const {
  double all = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool hard = steps[i].kind == BC_NORM || steps[i].kind == BC_GELU ||
                      steps[i].kind == BC_GELU_TANH || steps[i].kind == BC_SIGMOID ||
                      steps[i].kind == BC_SILU;
    all += (hard ? 0.3 : 0.05) * static_cast<double>(channels);
  }
  return all;
}

namespace {

bc_status check_rows(const bc_step* steps, int64_t count, int64_t rows, int64_t channels,
                     const float* x, int64_t x_pitch, const bc_sink* sink, int threads) {
  if (threads < 1 || sink == nullptr) return BC_BAD_ARGUMENT;
  if (rows < 0 || channels < 0 || rows > kMostSize || channels > kMostSize) return BC_BAD_SHAPE;
  if (x_pitch < channels || !in_reach(rows, 1, x_pitch, 0)) return BC_BAD_SHAPE;
  bc_status status = check_steps(steps, count, rows, channels);
  if (status == BC_OK) status = check_sink(*sink, channels);
  if (status != BC_OK) return status;
  if (missing(rows * channels, {x})) return BC_BAD_ARGUMENT;
  if (sink->out != nullptr) {
    if (sink->pitch < channels || !in_reach(rows, 1, sink->pitch, 0)) return BC_BAD_SHAPE;
  } else if (rows * channels > 0 && !stores(steps, count)) {
    return BC_BAD_ARGUMENT;
  }
  return BC_OK;
}

void run_chain(const Steps& chain, int64_t rows, const float* x, int64_t x_pitch,
               const bc_sink& sink, int threads) {
  const int64_t n = chain.channels;
  const int64_t block = std::max<int64_t>(1, std::min<int64_t>(64, (int64_t{1} << 12) / n));
  const double each = chain.cost() + 0.1 * static_cast<double>(n);
  const int64_t tasks_of = std::max<int64_t>(1, (int64_t{1} << 15) / (block * n));
  const int use = worthwhile(threads, each * static_cast<double>(rows));
  const bool codes = sink.scale != nullptr && sink.out != nullptr;
  const int64_t grid_bytes = codes ? CodeGrid::bytes(n) : 0;
  Scratch memory(Scratch::bytes<float>(block * n) * use + grid_bytes);
  std::optional<CodeGrid> grid;
  if (codes) grid.emplace(sink, n, false, nullptr, memory.part<uint8_t>(grid_bytes));
  float* scratch = memory.part<float>(block * n * use);
  const int64_t blocks = (rows + block - 1) / block;
  parallel_for((blocks + tasks_of - 1) / tasks_of, use, [&](int64_t task, int slot) {
    float* here = scratch + slot * block * n;
    const int64_t end = std::min(rows, (task + 1) * tasks_of * block);
    for (int64_t r = task * tasks_of * block; r < end; r += block) {
      const int64_t count = std::min(block, end - r);
      if (!codes) {
        float* to = static_cast<float*>(sink.out);
        chain.run(r, count, x + r * x_pitch, x_pitch, here,
                  to == nullptr ? nullptr : to + r * sink.pitch, sink.pitch);
        continue;
      }
      const Steps::Cut cut{grid->cutter(), static_cast<uint8_t*>(sink.out) + r * sink.pitch,
                           sink.pitch};
      chain.run(r, count, x + r * x_pitch, x_pitch, here, nullptr, 0, &cut);
    }
  });
}

}  // namespace
}  // namespace bc

extern "C" bc_status bc_rows(const bc_step* steps, int64_t count, int64_t rows, int64_t channels,
                             const float* x, int64_t x_pitch, const bc_sink* sink, int threads) {
  const bc::Kernels& k = bc::kernels();
  const bc_status status =
      bc::check_rows(steps, count, rows, channels, x, x_pitch, sink, threads);
  if (status != BC_OK || rows * channels == 0) return status;
  return bc::guarded([&] {
    bc::run_chain({&k, steps, count, channels}, rows, x, x_pitch, *sink, threads);
    return BC_OK;
  });
}
