// Layers: the weight made ready, then cut, multiplied and read.
#include "checks.h"
#include "picture.h"
#include "tiles.h"

namespace bc_cuda {
namespace {

struct Sizes {
  int64_t words, channels, filters, taps;  // channels and filters of a group
};

bc_status sizes_of(const bc_cuda_layer& layer, Sizes* sizes) {
  const bc_conv2d& c = layer.conv;
  constexpr int64_t most = int64_t{1} << 30;
  for (const int64_t size : {c.channels, c.filters, c.groups, c.kernel_h, c.kernel_w, c.stride_h, c.stride_w,
                             c.dilation_h, c.dilation_w}) {
    if (size < 1 || size > most) return BC_BAD_SHAPE;
  }
  for (const int64_t pad : {c.pad_h, c.pad_w}) {
    if (pad < 0 || pad > most) return BC_BAD_SHAPE;
  }
  if (c.channels % c.groups != 0 || c.filters % c.groups != 0) return BC_BAD_SHAPE;
  if (!bits_ok(layer.x_bits) || !bits_ok(layer.w_bits)) return BC_BAD_ARGUMENT;
  sizes->channels = c.channels / c.groups, sizes->filters = c.filters / c.groups;
  sizes->taps = volume({c.kernel_h, c.kernel_w});
  const int64_t terms = volume({sizes->taps, sizes->channels});
  if (terms < 0 || volume({terms, c.filters}) < 0) return BC_BAD_SHAPE;
  if (!fits_int32(layer.x_bits, layer.w_bits, terms)) return BC_OVERFLOW;
  sizes->words = words_for(sizes->channels, codes_in_word(layer.x_bits, layer.w_bits));
  return BC_OK;
}

struct Ready {
  uint32_t* words;
  int32_t* sums;
  int64_t bytes;
};

Ready ready_of(const bc_cuda_layer& layer, const Sizes& sizes, void* base) {
  Scratch parts(base);
  Ready ready{};
  ready.words = parts.take<uint32_t>(layer.conv.filters * sizes.taps * sizes.words);
  ready.sums = parts.take<int32_t>(layer.conv.filters * (layer.conv.kernel_h + 1) * (layer.conv.kernel_w + 1));
  ready.bytes = parts.used();
  return ready;
}

bc_status picture_of(const bc_cuda_layer& layer, const Sizes& sizes, const bc_cuda_run& run, Picture* p) {
  const bc_conv2d& c = layer.conv;
  const int64_t size[] = {run.height, run.width}, kernel[] = {c.kernel_h, c.kernel_w};
  const int64_t stride[] = {c.stride_h, c.stride_w}, pad[] = {c.pad_h, c.pad_w};
  const int64_t dilation[] = {c.dilation_h, c.dilation_w};
  int64_t out[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t span = volume({dilation[i], kernel[i] - 1});
    if (size[i] < 0 || size[i] > (int64_t{1} << 31) || span < 0) return BC_BAD_SHAPE;
    const int64_t room = size[i] + 2 * pad[i] - span - 1;
    if (room < 0) return BC_BAD_SHAPE;
    out[i] = room / stride[i] + 1;
  }
  const bool fits = volume({run.images, run.height, run.width, c.channels, 4}) >= 0 &&
                    volume({run.images, out[0], out[1], c.filters, 4}) >= 0 &&
                    volume({run.images, run.height, run.width, c.groups, sizes.words, 4}) >= 0;
  if (!fits) return BC_BAD_SHAPE;
  *p = {run.images, run.height, run.width, out[0], out[1], c.groups, sizes.filters, sizes.channels,
        sizes.words, c.kernel_h, c.kernel_w, c.stride_h, c.stride_w, c.pad_h, c.pad_w, c.dilation_h,
        c.dilation_w};
  return BC_OK;
}

struct Parts {
  uint32_t* words;
  int32_t* sums;
  float* head;
  int64_t bytes;
};

Parts parts_of(const Picture& p, int64_t head_count, void* base) {
  Scratch scratch(base);
  Parts parts{};
  const int64_t pixels = p.images * p.height * p.width;
  parts.words = scratch.take<uint32_t>(pixels * p.groups * p.words);
  parts.sums = scratch.take<int32_t>(p.rows() * p.groups);
  if (head_count > 0) parts.head = scratch.take<float>(pixels * p.groups * p.channels);
  parts.bytes = scratch.used();
  return parts;
}

bc_status check_numbers(const bc_cuda_layer& layer) {
  const int64_t filters = layer.conv.filters, channels = layer.conv.channels;
  const bool grids = one_or(layer.w_scale, filters) && one_or(layer.w_offset, filters) &&
                     given(layer.x_scale, 1) && given(layer.x_offset, 1);
  const bool rest = absent_or(layer.bias, filters) && absent_or(layer.stretch, channels) &&
                    absent_or(layer.shift, channels);
  const bool cut = layer.stretch.data != nullptr || layer.shift.data == nullptr;
  return grids && rest && cut ? BC_OK : BC_BAD_ARGUMENT;
}

template <class W>
bc_status run_words(const bc_cuda_layer& layer, const Ready& ready, const bc_cuda_run& run, const Picture& p,
                    const Chain& tail, bc_cuda_numbers x, const Parts& parts, void* stream) {
  const int64_t pixels = p.height * p.width, channels = layer.conv.channels, filters = layer.conv.filters;
  const bool first = run.x_order == BC_CHANNELS_FIRST, out_first = run.out_order == BC_CHANNELS_FIRST;
  const Cut cut{layer.x_scale, layer.x_offset, layer.stretch, layer.shift,
                static_cast<float>((1 << layer.x_bits) - 1)};
  const CutPixels<W> cutting{x, cut, pixels, p.groups, p.channels, p.words, pixels * channels,
                             first ? 1 : channels, first ? pixels : 1, p.images, first, parts.words};
  bc_status status = each(cutting, p.images * pixels * p.groups * p.words, stream);
  if (status != BC_OK) return status;
  status = each(TapSums<W>{p, parts.words, parts.sums}, p.rows() * p.groups, stream);
  if (status != BC_OK) return status;
  const int64_t places = p.out_h * p.out_w;
  const PictureReading reading{p, parts.sums, ready.sums, layer.x_scale, layer.x_offset, layer.w_scale,
                               layer.w_offset, layer.bias, tail, run.out, run.out_type, places * filters,
                               out_first ? 1 : filters, out_first ? places : 1, out_first};
  return multiply<W>(PictureOperands{p, parts.words, ready.words}, reading, p.groups, run.form, stream);
}

bc_status check_run(const bc_cuda_run& run) {
  const bool orders = (run.x_order == BC_CHANNELS_FIRST || run.x_order == BC_CHANNELS_LAST) &&
                      (run.out_order == BC_CHANNELS_FIRST || run.out_order == BC_CHANNELS_LAST);
  const bool types = is_real(run.x) && is_real(run.out_type);
  const bool head = run.head_count == 0 || (run.head_count > 0 && run.head != nullptr &&
                                            run.x_order == BC_CHANNELS_LAST);
  const bool form = run.form >= BC_CUDA_AUTO && run.form <= BC_CUDA_TENSOR;
  return orders && types && head && form ? BC_OK : BC_BAD_ARGUMENT;
}

}  // namespace
}  // namespace bc_cuda

using namespace bc_cuda;

extern "C" int64_t bc_cuda_ready_bytes(const bc_cuda_layer* layer) {
  Sizes sizes;
  if (layer == nullptr || sizes_of(*layer, &sizes) != BC_OK) return -1;
  return ready_of(*layer, sizes, nullptr).bytes;
}

extern "C" bc_status bc_cuda_make_ready(const bc_cuda_layer* layer, void* memory, void* stream) {
  if (layer == nullptr || memory == nullptr) return BC_BAD_ARGUMENT;
  Sizes sizes;
  bc_status status = sizes_of(*layer, &sizes);
  if (status != BC_OK) return status;
  const int64_t codes = layer->conv.filters * sizes.channels * sizes.taps;
  const bool stored = layer->weight.data != nullptr && is_bytes(layer->weight);
  if (!stored) return BC_BAD_ARGUMENT;
  if (layer->weight.count != stored_bytes(codes, layer->w_bits)) return BC_BAD_SHAPE;
  const Ready ready = ready_of(*layer, sizes, memory);
  return with_words(layer->x_bits, layer->w_bits, [&](auto form) {
    using W = decltype(form);
    const WeightWords<W> words{layer->weight, layer->w_bits, layer->conv.filters, sizes.taps, sizes.channels,
                               sizes.words, ready.words};
    status = each(words, layer->conv.filters * sizes.taps * sizes.words, stream);
    if (status != BC_OK) return status;
    return each(WeightSums<W>{ready.words, layer->conv.kernel_h, layer->conv.kernel_w, sizes.words, ready.sums},
                layer->conv.filters, stream);
  });
}

extern "C" int64_t bc_cuda_scratch_bytes(const bc_cuda_layer* layer, const bc_cuda_run* run) {
  Sizes sizes;
  Picture p;
  if (layer == nullptr || run == nullptr || sizes_of(*layer, &sizes) != BC_OK) return -1;
  if (picture_of(*layer, sizes, *run, &p) != BC_OK) return -1;
  return parts_of(p, run->head_count, nullptr).bytes;
}

extern "C" bc_status bc_cuda_layer_run(const bc_cuda_layer* layer, const void* memory, const bc_cuda_run* run,
                                       void* scratch, void* stream) {
  if (layer == nullptr || run == nullptr) return BC_BAD_ARGUMENT;
  Sizes sizes;
  Picture p;
  Chain tail;
  bc_status status = sizes_of(*layer, &sizes);
  if (status == BC_OK) status = picture_of(*layer, sizes, *run, &p);
  if (status == BC_OK) status = check_numbers(*layer);
  if (status == BC_OK) status = check_run(*run);
  if (status != BC_OK) return status;
  if (!chain_of(run->tail, run->tail_count, &tail)) return BC_BAD_ARGUMENT;
  const int64_t pixels = p.images * p.height * p.width;
  if (pixels == 0) return p.images == 0 ? BC_OK : BC_BAD_SHAPE;
  if (memory == nullptr || scratch == nullptr || run->x.data == nullptr || run->out == nullptr)
    return BC_BAD_ARGUMENT;
  const Ready ready = ready_of(*layer, sizes, const_cast<void*>(memory));
  const Parts parts = parts_of(p, run->head_count, scratch);
  bc_cuda_numbers x = run->x;
  if (run->head_count > 0) {
    status = bc_cuda_rows(run->head, run->head_count, pixels, layer->conv.channels, x, parts.head,
                          BC_CUDA_FLOAT32, stream);
    if (status != BC_OK) return status;
    x = {parts.head, BC_CUDA_FLOAT32, pixels * layer->conv.channels};
  }
  return with_words(layer->x_bits, layer->w_bits, [&](auto form) {
    return run_words<decltype(form)>(*layer, ready, *run, p, tail, x, parts, stream);
  });
}
