// Random layers for the CUDA kernels, and the CPU library as what they must equal.
#pragma once

#include <vector>

#include "bitcompress/cuda.h"
#include "check.h"

inline Random& random_numbers() {
  static Random random;
  return random;
}

inline std::vector<float> reals(int64_t n, float low, float high) {
  std::vector<float> all(static_cast<size_t>(n));
  for (float& real : all) real = random_numbers().real(low, high);
  return all;
}

inline bc_cuda_numbers numbers(const std::vector<float>& all) {
  return {all.empty() ? nullptr : all.data(), BC_CUDA_FLOAT32, static_cast<int64_t>(all.size())};
}

struct LayerCase {
  bc_conv2d conv;
  int x_bits, w_bits;
  std::vector<uint8_t> codes, stored;  // codes [filters][taps][channels of a group]; stored as in files
  std::vector<float> w_scale, w_offset, x_scale, x_offset, stretch, shift, bias, x;

  bc_cuda_layer layer() const {
    bc_cuda_layer made{};
    made.conv = conv, made.x_bits = x_bits, made.w_bits = w_bits;
    made.weight = {stored.data(), BC_CUDA_UINT8, static_cast<int64_t>(stored.size())};
    made.w_scale = numbers(w_scale), made.w_offset = numbers(w_offset);
    made.x_scale = numbers(x_scale), made.x_offset = numbers(x_offset);
    made.stretch = numbers(stretch), made.shift = numbers(shift), made.bias = numbers(bias);
    return made;
  }
};

// step: cut by x >= theta, as binary layers do.
inline LayerCase layer_case(const bc_conv2d& conv, int x_bits, int w_bits, bool step) {
  LayerCase made;
  made.conv = conv, made.x_bits = x_bits, made.w_bits = w_bits;
  const int64_t inner = conv.channels / conv.groups, taps = conv.kernel_h * conv.kernel_w;
  const int64_t n = conv.filters * inner * taps;
  std::vector<uint8_t> in_files(static_cast<size_t>(n));
  for (uint8_t& code : in_files) code = static_cast<uint8_t>(random_numbers().below(int64_t{1} << w_bits));
  made.codes.resize(in_files.size());
  for (int64_t f = 0; f < conv.filters; ++f) {
    for (int64_t c = 0; c < inner; ++c) {
      for (int64_t t = 0; t < taps; ++t)
        made.codes[(f * taps + t) * inner + c] = in_files[(f * inner + c) * taps + t];
    }
  }
  made.stored.resize(static_cast<size_t>(bc_packed_bytes(n, w_bits)));
  bc_pack(in_files.data(), n, w_bits, made.stored.data(), static_cast<int64_t>(made.stored.size()), 1);
  made.w_scale = reals(conv.filters, 0.01f, 0.2f), made.w_offset = reals(conv.filters, -0.3f, 0.1f);
  made.bias = reals(conv.filters, -1, 1);
  made.x = reals(conv.images * conv.height * conv.width * conv.channels, -2, 2);
  if (step) {
    made.x_scale = {2.0f}, made.x_offset = {-1.0f};
    made.stretch.assign(static_cast<size_t>(conv.channels), 0.0f), made.shift = reals(conv.channels, -1, 1);
    for (int64_t f = 0; f < conv.filters; ++f) made.w_offset[f] = -made.w_scale[f], made.w_scale[f] *= 2.0f;
  } else {
    made.x_scale = {4.0f / static_cast<float>((1 << x_bits) - 1)}, made.x_offset = {-1.9f};
    if (conv.channels % 2 == 0) {
      made.stretch = reals(conv.channels, 0.5f, 2.0f), made.shift = reals(conv.channels, -0.5f, 0.5f);
    }
  }
  return made;
}

// The same layer by the CPU library: float32, in the given order.
inline std::vector<float> by_cpu(const LayerCase& c, bc_order order, const std::vector<bc_step>& tail,
                                 int64_t* out_h, int64_t* out_w) {
  std::vector<float> scale(c.x_scale), offset(c.x_offset);
  if (!c.stretch.empty()) {
    scale.resize(c.stretch.size()), offset.resize(c.stretch.size());
    bc_channel_grid(c.x_scale[0], c.x_offset[0], c.stretch.data(), c.shift.data(), c.conv.channels, scale.data(),
                    offset.data());
  }
  bc_layer_spec spec{};
  spec.conv = c.conv, spec.w = c.codes.data(), spec.cut_scale = scale.data(), spec.cut_offset = offset.data();
  spec.cut_groups = static_cast<int64_t>(scale.size()), spec.x_bits = c.x_bits, spec.w_bits = c.w_bits;
  spec.grids = {c.x_scale.data(), c.x_offset.data(), c.w_scale.data(), c.w_offset.data(),
                static_cast<int64_t>(c.w_scale.size()), c.bias.empty() ? nullptr : c.bias.data()};
  bc_layer* layer = nullptr;
  std::vector<float> out;
  if (bc_layer_new(&spec, &layer) != BC_OK) return out;
  bc_layer_size(layer, c.conv.height, c.conv.width, out_h, out_w);
  out.resize(static_cast<size_t>(c.conv.images * *out_h * *out_w * c.conv.filters));
  bc_run run{};
  run.images = c.conv.images, run.height = c.conv.height, run.width = c.conv.width;
  run.x = c.x.data(), run.x_order = order, run.out_order = order, run.pitch = c.conv.channels;
  run.tail = tail.data(), run.tail_count = static_cast<int64_t>(tail.size());
  run.sink.out = out.data(), run.sink.pitch = c.conv.filters;
  const bc_status status = bc_layer_run(layer, &run, 2);
  bc_layer_free(layer);
  if (status != BC_OK) out.clear();
  return out;
}
