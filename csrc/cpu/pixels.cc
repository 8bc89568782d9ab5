// Sums over the pixels of pictures, and the group norm that is made of them.
#include <algorithm>
#include <cmath>

#include "bitcompress/bits.h"
#include "geometry.h"
#include "guard.h"
#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kTile = 256;

int64_t tiles_of(int64_t pixels) { return std::max<int64_t>(1, (pixels + kTile - 1) / kTile); }

// Rows of numbers [rows][channels] to their sum in row 0, tile by tile until one is left.
void fold(const Kernels& k, float* rows, int64_t count, int64_t channels) {
  while (count > 1) {
    const int64_t tiles = tiles_of(count);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t first = i * kTile;
      k.sum_columns({rows + first * channels, std::min(kTile, count - first), channels, channels,
                     nullptr, rows + i * channels, nullptr, nullptr});
    }
    count = tiles;
  }
}

// Up to three kinds of sums, each [images][channels] or null.
struct Wanted {
  float *sums, *sizes, *squares;
};

class Pixels {
 public:
  Pixels(const bc_pixels& p, const float* from, const Wanted& wanted)
      : k_(kernels()), p_(p), from_(from), wanted_(wanted), tiles_(tiles_of(p.pixels)) {}

  void run(int threads) const {
    const double work = 0.15 * static_cast<double>(p_.images * p_.pixels * p_.channels);
    const int use = worthwhile(threads, work);
    if (p_.order == BC_CHANNELS_FIRST) {
      lines(use);
    } else {
      columns(use);
    }
  }

 private:
  bool wants(int i) const { return out(i) != nullptr; }
  float* out(int i) const {
    return i == 0 ? wanted_.sums : i == 1 ? wanted_.sizes : wanted_.squares;
  }

  // One tile to the places `to`, [3].
  PixelTile tile(const float* x, int64_t pixels, const float* from, float* const* to) const {
    return {x, pixels, p_.channels, p_.pitch, from, to[0], to[1], to[2]};
  }

  // A channel of a picture is a task of its own.
  void lines(int threads) const {
    const int64_t room = 3 * tiles_;
    Scratch memory(Scratch::bytes<float>(room * threads));
    float* scratch = memory.part<float>(room * threads);
    parallel_for(p_.images * p_.channels, threads, [&](int64_t task, int slot) {
      float* parts = scratch + slot * room;
      const float* x = p_.x + task * p_.pixels;
      const float* from = from_ == nullptr ? nullptr : from_ + task;
      for (int64_t i = 0; i < tiles_; ++i) {
        float* to[3];
        for (int j = 0; j < 3; ++j) to[j] = wants(j) ? parts + j * tiles_ + i : nullptr;
        const int64_t first = i * kTile;
        k_.sum_line(tile(x + first, std::min(kTile, p_.pixels - first), from, to));
      }
      for (int j = 0; j < 3; ++j) {
        if (!wants(j)) continue;
        fold(k_, parts + j * tiles_, tiles_, 1);
        out(j)[task] = parts[j * tiles_];
      }
    });
  }

  // A tile of a picture is a task of its own; their sums are then added up.
  void columns(int threads) const {
    const int64_t n = p_.channels, room = tiles_ * n;
    Scratch memory(Scratch::bytes<float>(3 * room * p_.images));
    float* parts = memory.part<float>(3 * room * p_.images);
    parallel_for(p_.images * tiles_, threads, [&](int64_t task, int) {
      const int64_t image = task / tiles_, i = task % tiles_, first = i * kTile;
      float* to[3];
      for (int j = 0; j < 3; ++j)
        to[j] = wants(j) ? parts + (image * 3 + j) * room + i * n : nullptr;
      k_.sum_columns(tile(p_.x + (image * p_.pixels + first) * p_.pitch,
                          std::min(kTile, p_.pixels - first),
                          from_ == nullptr ? nullptr : from_ + image * n, to));
    });
    for (int64_t image = 0; image < p_.images; ++image) {
      for (int j = 0; j < 3; ++j) {
        if (!wants(j)) continue;
        float* rows = parts + (image * 3 + j) * room;
        fold(k_, rows, tiles_, n);
        std::copy_n(rows, n, out(j) + image * n);
      }
    }
  }

  const Kernels& k_;
  const bc_pixels& p_;
  const float* from_;
  Wanted wanted_;
  int64_t tiles_;
};

bc_status check(const bc_pixels* p, int threads) {
  if (p == nullptr || threads < 1) return BC_BAD_ARGUMENT;
  if (p->order != BC_CHANNELS_LAST && p->order != BC_CHANNELS_FIRST) return BC_BAD_ARGUMENT;
  const int64_t size = volume({p->images, p->pixels, p->channels, 8});
  if (size < 0) return BC_BAD_SHAPE;
  if (p->order == BC_CHANNELS_LAST &&
      (p->pitch < p->channels || volume({p->images, p->pixels, p->pitch, 8}) < 0))
    return BC_BAD_SHAPE;
  if (size > 0 && p->x == nullptr) return BC_BAD_ARGUMENT;
  return p->images * p->channels > 0 && p->pixels == 0 ? BC_EMPTY : BC_OK;
}

// The first pixel of each channel: deviations from it are small where the mean is large.
void first_pixels(const bc_pixels& p, float* out) {
  const bool last = p.order == BC_CHANNELS_LAST;
  for (int64_t i = 0; i < p.images; ++i) {
    for (int64_t c = 0; c < p.channels; ++c)
      *out++ = last ? p.x[i * p.pixels * p.pitch + c] : p.x[(i * p.channels + c) * p.pixels];
  }
}

struct Affine {
  const float *gain, *shift;
  double eps;
};

// The channels of one group: x * scale + offset is its norm.
void group_scales(int64_t pixels, int64_t channels, const float* from, const float* sums,
                  const float* squares, const Affine& affine, int64_t first, float* scale,
                  float* offset) {
  const double count = static_cast<double>(pixels), n = static_cast<double>(channels);
  double mean = 0, variance = 0;
  for (int64_t c = 0; c < channels; ++c)
    mean += static_cast<double>(from[c]) + static_cast<double>(sums[c]) / count;
  mean /= n;
  for (int64_t c = 0; c < channels; ++c) {
    const double moved = static_cast<double>(sums[c]) / count;
    const double own = static_cast<double>(squares[c]) / count - moved * moved;
    const double apart = static_cast<double>(from[c]) + moved - mean;
    variance += (own < 0.0 ? 0.0 : own) + apart * apart;
  }
  const double factor = 1.0 / std::sqrt(variance / n + affine.eps);
  for (int64_t c = 0; c < channels; ++c) {
    const double gain =
        affine.gain == nullptr ? factor : factor * static_cast<double>(affine.gain[first + c]);
    const double shift =
        affine.shift == nullptr ? 0.0 : static_cast<double>(affine.shift[first + c]);
    scale[c] = static_cast<float>(gain);
    offset[c] = static_cast<float>(shift - mean * gain);
  }
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_pixel_sums(const bc_pixels* pixels, const float* from, float* sums, float* sizes,
                        float* squares, int threads) {
  const bc_status status = bc::check(pixels, threads);
  if (status != BC_OK) return status;
  if (pixels->images * pixels->channels == 0) return BC_OK;
  return bc::guarded([&] {
    bc::Pixels(*pixels, from, {sums, sizes, squares}).run(threads);
    return BC_OK;
  });
}

bc_status bc_group_scales(const bc_pixels* pixels, int64_t groups, const float* gain,
                          const float* shift, double eps, float* scale, float* offset,
                          int threads) {
  const bc_status status = bc::check(pixels, threads);
  if (status != BC_OK) return status;
  const int64_t channels = pixels->channels, size = pixels->images * channels;
  if (groups < 1 || channels % groups != 0) return BC_BAD_SHAPE;
  if (bc::missing(size, {scale, offset})) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  return bc::guarded([&] {
    bc::Scratch memory(3 * bc::Scratch::bytes<float>(size));
    float *from = memory.part<float>(size), *sums = memory.part<float>(size),
          *squares = memory.part<float>(size);
    bc::first_pixels(*pixels, from);
    bc::Pixels(*pixels, from, {sums, nullptr, squares}).run(threads);
    const int64_t each = channels / groups;
    for (int64_t i = 0; i < size; i += each) {
      bc::group_scales(pixels->pixels, each, from + i, sums + i, squares + i, {gain, shift, eps},
                       i % channels, scale + i, offset + i);
    }
    return BC_OK;
  });
}

}  // extern "C"
