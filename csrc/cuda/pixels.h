// Sums over the pixels of pictures, and the group norm that is made of them: bc_pixel_sums and bc_group_scales.
//
// 256 pixels in a row add up as all rows do (sums.h); then 256 of these sums in a row, and so on until one is
// left. So it does not matter how a picture lies in memory. A line is a channel of a picture.
#pragma once

#include "sums.h"

namespace bc_cuda {

constexpr int64_t kTile = 256;

BC_HD int64_t tiles_of(int64_t count) { return count <= kTile ? 1 : (count + kTile - 1) / kTile; }

// Numbers of pictures by line and pixel.
struct Lines {
  bc_cuda_numbers x;
  int64_t images, pixels, channels;
  bool last;  // channels last

  BC_HD int64_t count() const { return images * channels; }
  BC_HD int64_t place(int64_t line, int64_t pixel) const {
    return last ? (line / channels * pixels + pixel) * channels + line % channels : line * pixels + pixel;
  }
  BC_HD float operator()(int64_t line, int64_t pixel) const { return at(x, place(line, pixel)); }
};

// What is added up: x, or its distance from a number of the line.
struct Plainly {
  BC_HD float operator()(const Lines& lines, int64_t line, int64_t pixel, int64_t) const { return lines(line, pixel); }
};
struct FarFrom {
  bc_cuda_numbers from;
  BC_HD float operator()(const Lines& lines, int64_t line, int64_t pixel, int64_t) const {
    return real_of(word_of(sub(lines(line, pixel), at(from, line))) & 0x7fffffff);
  }
};
// From the first pixel: itself, then its square.
struct Moved {
  BC_HD float operator()(const Lines& lines, int64_t line, int64_t pixel, int64_t kind) const {
    const float apart = sub(lines(line, pixel), lines(line, 0));
    return kind == 0 ? apart : mul(apart, apart);
  }
};

// The sums of tiles, of so many kinds: out [kinds][lines][tiles]. Neighbouring rows of threads have
// neighbouring memory: channels of one tile where they are last, else tiles of one line.
template <class What>
struct TileSums : RowPlace {
  Lines lines;
  What what;
  int64_t kinds;
  float* out;

  TileSums(const Lines& lines_, const What& what_, int64_t kinds_, float* out_)
      : lines(lines_), what(what_), kinds(kinds_), out(out_) {}

  struct Mine {
    int64_t line, tile;
    int thread;
  };
  BC_HD int64_t rows() const { return lines.count() * tiles_of(lines.pixels); }
  BC_HD int64_t steps() const { return kinds; }
  BC_HD void begin(Mine& mine, const Block& block, int thread) const {
    const int64_t row = block.x * kRowsOfBlock + row_of(thread), tiles = tiles_of(lines.pixels);
    mine.thread = thread, mine.tile = lines.last ? row / lines.channels % tiles : row % tiles;
    mine.line = lines.last ? row / (lines.channels * tiles) * lines.channels + row % lines.channels : row / tiles;
  }
  BC_HD void load(RowSums& shared, const Mine& mine, int thread, int64_t step) const {
    float sum = 0;
    const int64_t first = mine.tile * kTile, end = first + kTile < lines.pixels ? first + kTile : lines.pixels;
    for (int64_t i = first + lane_in(thread); mine.line < lines.count() && i < end; i += kLanes)
      sum = add(sum, what(lines, mine.line, i, step));
    shared.partial[row_of(thread)][lane_in(thread)] = sum;
  }
  BC_HD void multiply(const RowSums& shared, Mine* lanes, int, int64_t step) const {
    for (int l = 0; l < kLanesHeld; ++l) {
      const Mine& mine = lanes[l];
      if (mine.line >= lines.count() || lane_in(mine.thread) != 0) continue;
      const int64_t place = (step * lines.count() + mine.line) * tiles_of(lines.pixels) + mine.tile;
      out[place] = folded(shared.partial[row_of(mine.thread)]);
    }
  }
  BC_HD void end(const RowSums&, const Mine&, int) const {}
};

struct Means {
  const float* sums;
  float share;  // 1 / pixels
  void* out;
  int out_type;

  BC_HD void operator()(int64_t line) const { put(out, out_type, line, mul(sums[line], share)); }
};

// The scale and the offset of each line of a group, in double.
struct GroupScales {
  Lines lines;
  int64_t groups;
  const float *sums, *squares;
  bc_cuda_numbers gain, shift;
  double eps;
  float *scale, *offset;

  BC_HD void operator()(int64_t group) const {
    const int64_t n = lines.channels / groups, first = group * n;
    const double pixels = static_cast<double>(lines.pixels), count = static_cast<double>(n);
    double mean = 0, variance = 0;
    for (int64_t l = first; l < first + n; ++l) mean = add(mean, mean_of(l, pixels));
    mean = div(mean, count);
    for (int64_t l = first; l < first + n; ++l) {
      const double moved = div(static_cast<double>(sums[l]), pixels);
      const double own = sub(div(static_cast<double>(squares[l]), pixels), mul(moved, moved));
      const double apart = sub(mean_of(l, pixels), mean);
      variance = add(variance, add(own < 0.0 ? 0.0 : own, mul(apart, apart)));
    }
    const double factor = div(1.0, root(add(div(variance, count), eps)));
    for (int64_t l = first; l < first + n; ++l) {
      const int64_t c = l % lines.channels;
      const double by = gain.data == nullptr ? factor : mul(factor, static_cast<double>(at(gain, c)));
      const double low = shift.data == nullptr ? 0.0 : static_cast<double>(at(shift, c));
      scale[l] = static_cast<float>(by);
      offset[l] = static_cast<float>(sub(low, mul(mean, by)));
    }
  }
  BC_HD double mean_of(int64_t line, double pixels) const {
    return add(static_cast<double>(lines(line, 0)), div(static_cast<double>(sums[line]), pixels));
  }
};

struct Scaled {
  Lines lines;
  const float *scale, *offset;
  void* out;
  int out_type;

  BC_HD void operator()(int64_t i) const {
    const int64_t line =
        lines.last ? i / (lines.pixels * lines.channels) * lines.channels + i % lines.channels : i / lines.pixels;
    put(out, out_type, i, add(mul(at(lines.x, i), scale[line]), offset[line]));
  }
};

}  // namespace bc_cuda
