// Means over the pixels of pictures, and group norm.
#include "pixels.h"

#include "checks.h"

namespace bc_cuda {
namespace {

// Sums of so many kinds, tile by tile until one a line is left; two rooms take turns.
struct Rooms {
  float *one, *other;

  Rooms(Scratch* scratch, int64_t kinds, int64_t lines, int64_t pixels)
      : one(scratch->take<float>(kinds * lines * tiles_of(pixels))),
        other(scratch->take<float>(kinds * lines * tiles_of(tiles_of(pixels)))) {}
};

template <class What>
bc_status line_sums(const Lines& lines, const What& what, int64_t kinds, Rooms* rooms, void* stream) {
  const auto grid = [](int64_t rows) { return Grid{(rows + kRowsOfBlock - 1) / kRowsOfBlock, 1, 1}; };
  const TileSums<What> first(lines, what, kinds, rooms->one);
  bc_status status = blocks(first, grid(first.rows()), stream);
  for (int64_t left = tiles_of(lines.pixels); status == BC_OK && left > 1; left = tiles_of(left)) {
    const int64_t all = kinds * lines.count();
    const Lines sums{{rooms->one, BC_CUDA_FLOAT32, all * left}, all, left, 1, false};
    const TileSums<Plainly> next(sums, Plainly(), 1, rooms->other);
    status = blocks(next, grid(next.rows()), stream);
    float* const made = rooms->other;
    rooms->other = rooms->one, rooms->one = made;
  }
  return status;
}

bc_status check_sizes(const bc_cuda_pixels* p) {
  if (p == nullptr || (p->order != BC_CHANNELS_LAST && p->order != BC_CHANNELS_FIRST)) return BC_BAD_ARGUMENT;
  // The room of the sums, too, where a picture has fewer pixels than a tile.
  if (volume({p->images, p->pixels, p->channels}) < 0 || volume({p->images, p->channels, 16}) < 0) return BC_BAD_SHAPE;
  return p->images * p->channels > 0 && p->pixels == 0 ? BC_EMPTY : BC_OK;
}

bc_status check(const bc_cuda_pixels* p) {
  const bc_status status = check_sizes(p);
  if (status != BC_OK) return status;
  const bool empty = p->images * p->channels == 0;
  return is_real(p->x) && (empty || p->x.data != nullptr) ? BC_OK : BC_BAD_ARGUMENT;
}

Lines lines_of(const bc_cuda_pixels& p) {
  return {p.x, p.images, p.pixels, p.channels, p.order == BC_CHANNELS_LAST};
}

}  // namespace
}  // namespace bc_cuda

using namespace bc_cuda;

extern "C" int64_t bc_cuda_pixels_scratch_bytes(const bc_cuda_pixels* pixels) {
  if (check_sizes(pixels) != BC_OK) return -1;
  Scratch scratch(nullptr);
  const int64_t lines = pixels->images * pixels->channels;
  Rooms(&scratch, 2, lines, pixels->pixels);
  scratch.take<float>(2 * lines);
  return scratch.used();
}

extern "C" bc_status bc_cuda_pixel_means(const bc_cuda_pixels* pixels, bc_cuda_numbers from, void* out, int out_type,
                                         void* scratch, void* stream) {
  const bc_status status = check(pixels);
  if (status != BC_OK) return status;
  const Lines lines = lines_of(*pixels);
  if (!is_real(out_type) || !absent_or(from, lines.count())) return BC_BAD_ARGUMENT;
  if (lines.count() == 0) return BC_OK;
  if (out == nullptr || scratch == nullptr) return BC_BAD_ARGUMENT;
  Scratch memory(scratch);
  Rooms rooms(&memory, 1, lines.count(), lines.pixels);
  const bc_status made = from.data == nullptr ? line_sums(lines, Plainly(), 1, &rooms, stream)
                                              : line_sums(lines, FarFrom{from}, 1, &rooms, stream);
  if (made != BC_OK) return made;
  const float share = static_cast<float>(1.0 / static_cast<double>(lines.pixels));
  return each(Means{rooms.one, share, out, out_type}, lines.count(), stream);
}

extern "C" bc_status bc_cuda_group_norm(const bc_cuda_pixels* pixels, int64_t groups, bc_cuda_numbers gain,
                                        bc_cuda_numbers shift, double eps, void* out, int out_type, void* scratch,
                                        void* stream) {
  const bc_status status = check(pixels);
  if (status != BC_OK) return status;
  const Lines lines = lines_of(*pixels);
  if (groups < 1 || lines.channels % groups != 0) return BC_BAD_SHAPE;
  if (!is_real(out_type) || !absent_or(gain, lines.channels) || !absent_or(shift, lines.channels))
    return BC_BAD_ARGUMENT;
  const int64_t all = lines.count();
  if (all == 0) return BC_OK;
  if (out == nullptr || scratch == nullptr) return BC_BAD_ARGUMENT;
  Scratch memory(scratch);
  Rooms rooms(&memory, 2, all, lines.pixels);
  float* const scales = memory.take<float>(2 * all);
  bc_status made = line_sums(lines, Moved(), 2, &rooms, stream);
  if (made != BC_OK) return made;
  const GroupScales found{lines, groups, rooms.one, rooms.one + all, gain, shift, eps, scales, scales + all};
  made = each(found, lines.images * groups, stream);
  if (made != BC_OK) return made;
  return each(Scaled{lines, scales, scales + all, out, out_type}, all * lines.pixels, stream);
}
