// The stored form of codes: dense bytes for 1, 2, 4, 8 bits, bit planes for 3, 5, 6, 7; and the
// words of bit planes.
#include <algorithm>
#include <cstring>

#include "bitcompress/bits.h"
#include "guard.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kChunk =
    1 << 16;  // codes a task; a multiple of 8, so that no byte has two writers

constexpr bool dense(int bits) { return (bits & (bits - 1)) == 0; }

// Codes [first, last) to bytes of the dense form; last may end within a byte.
template <int kBits>
void pack_dense(const uint8_t* codes, int64_t first, int64_t last, uint8_t* out) {
  constexpr int64_t kEach = 8 / kBits;
  int64_t i = first;
  uint8_t* byte = out + first / kEach;
  for (; i + kEach <= last; i += kEach, ++byte) {
    unsigned word = 0;
    for (int64_t c = 0; c < kEach; ++c) word |= static_cast<unsigned>(codes[i + c]) << (kBits * c);
    *byte = static_cast<uint8_t>(word);
  }
  if (i < last) {
    unsigned word = 0;
    for (int64_t c = 0; i + c < last; ++c)
      word |= static_cast<unsigned>(codes[i + c]) << (kBits * c);
    *byte = static_cast<uint8_t>(word);
  }
}

template <int kBits>
void unpack_dense(const uint8_t* packed, int64_t first, int64_t last, uint8_t* codes) {
  constexpr int64_t kEach = 8 / kBits;
  constexpr unsigned kMask = (1u << kBits) - 1;
  int64_t i = first;
  for (; i + kEach <= last; i += kEach) {
    const unsigned byte = packed[i / kEach];
    for (int64_t c = 0; c < kEach; ++c)
      codes[i + c] = static_cast<uint8_t>((byte >> (kBits * c)) & kMask);
  }
  for (; i < last; ++i)
    codes[i] = static_cast<uint8_t>((packed[i / kEach] >> (kBits * (i % kEach))) & kMask);
}

// Eight bytes, each 0 or 1, to one byte: byte k of the word gives bit k. The products of the two
// constants meet in the top byte without a carry.
inline uint8_t gather(uint64_t ones) {
  return static_cast<uint8_t>((ones * 0x0102040810204080ull) >> 56);
}

// The reverse: bit k of the byte is spread to byte k of the word, then brought down to 0 or 1.
inline uint64_t spread(uint8_t byte) {
  const uint64_t chosen = (byte * 0x0101010101010101ull) & 0x8040201008040201ull;
  return ((chosen + 0x7f7f7f7f7f7f7f7full) >> 7) & 0x0101010101010101ull;
}

// The byte order of the machine does not matter to the eight codes: they are put together by
// shifts.
inline uint64_t load8(const uint8_t* codes, int64_t n) {
  uint64_t word = 0;
  for (int64_t k = 0; k < n; ++k) word |= static_cast<uint64_t>(codes[k]) << (8 * k);
  return word;
}

void pack_planes(const uint8_t* codes, int64_t first, int64_t last, int bits, int64_t plane,
                 uint8_t* out) {
  for (int64_t i = first; i < last; i += 8) {
    const uint64_t word = last - i >= 8 ? load8(codes + i, 8) : load8(codes + i, last - i);
    for (int j = 0; j < bits; ++j)
      out[j * plane + i / 8] = gather((word >> j) & 0x0101010101010101ull);
  }
}

void unpack_planes(const uint8_t* packed, int64_t first, int64_t last, int bits, int64_t plane,
                   uint8_t* codes) {
  for (int64_t i = first; i < last; i += 8) {
    uint64_t word = 0;
    for (int j = 0; j < bits; ++j) word |= spread(packed[j * plane + i / 8]) << j;
    const int64_t n = std::min<int64_t>(8, last - i);
    for (int64_t k = 0; k < n; ++k) codes[i + k] = static_cast<uint8_t>(word >> (8 * k));
  }
}

void pack_chunk(const uint8_t* codes, int64_t first, int64_t last, int64_t n, int bits,
                uint8_t* out) {
  switch (bits) {
    case 1:
      return pack_dense<1>(codes, first, last, out);
    case 2:
      return pack_dense<2>(codes, first, last, out);
    case 4:
      return pack_dense<4>(codes, first, last, out);
    case 8:
      std::memcpy(out + first, codes + first, static_cast<size_t>(last - first));
      return;
    default:
      return pack_planes(codes, first, last, bits, (n + 7) / 8, out);
  }
}

void unpack_chunk(const uint8_t* packed, int64_t first, int64_t last, int64_t n, int bits,
                  uint8_t* codes) {
  switch (bits) {
    case 1:
      return unpack_dense<1>(packed, first, last, codes);
    case 2:
      return unpack_dense<2>(packed, first, last, codes);
    case 4:
      return unpack_dense<4>(packed, first, last, codes);
    case 8:
      std::memcpy(codes + first, packed + first, static_cast<size_t>(last - first));
      return;
    default:
      return unpack_planes(packed, first, last, bits, (n + 7) / 8, codes);
  }
}

bool all_fit(const uint8_t* codes, int64_t n, int bits) {
  unsigned seen = 0;
  for (int64_t i = 0; i < n; ++i) seen |= codes[i];
  return (seen >> bits) == 0;
}

template <class F>
void in_chunks(int64_t n, int threads, F&& f) {
  const int64_t tasks = (n + kChunk - 1) / kChunk;
  parallel_for(tasks, worthwhile(threads, 0.5 * static_cast<double>(n)),
               [&](int64_t task, int) { f(task * kChunk, std::min(n, (task + 1) * kChunk)); });
}

}  // namespace
}  // namespace bc

extern "C" {

int64_t bc_packed_bytes(int64_t n, int bits) {
  if (n < 0 || n > (INT64_MAX >> 4) || !bc::bits_ok(bits)) return -1;
  if (bc::dense(bits)) return (n * bits + 7) / 8;
  return (n + 7) / 8 * bits;
}

bc_status bc_pack(const uint8_t* codes, int64_t n, int bits, uint8_t* out, int64_t out_bytes,
                  int threads) {
  if (!bc::bits_ok(bits) || threads < 1 || bc::missing(n, {codes, out})) return BC_BAD_ARGUMENT;
  if (n < 0 || out_bytes != bc_packed_bytes(n, bits)) return BC_BAD_SHAPE;
  if (!bc::all_fit(codes, n, bits)) return BC_BAD_CODE;
  return bc::guarded([&] {
    bc::in_chunks(n, threads, [&](int64_t first, int64_t last) {
      bc::pack_chunk(codes, first, last, n, bits, out);
    });
    return BC_OK;
  });
}

bc_status bc_unpack(const uint8_t* packed, int64_t packed_bytes, int bits, int64_t n, uint8_t* out,
                    int threads) {
  if (!bc::bits_ok(bits) || threads < 1 || bc::missing(n, {packed, out})) return BC_BAD_ARGUMENT;
  if (n < 0 || packed_bytes != bc_packed_bytes(n, bits)) return BC_BAD_SHAPE;
  return bc::guarded([&] {
    bc::in_chunks(n, threads, [&](int64_t first, int64_t last) {
      bc::unpack_chunk(packed, first, last, n, bits, out);
    });
    return BC_OK;
  });
}

int64_t bc_plane_words(int64_t channels) {
  return channels < 0 ? -1 : (channels / 64 + (channels % 64 != 0)) * 2;
}

bc_status bc_pack_words(const uint8_t* codes, int64_t rows, int64_t channels, int bits,
                        uint32_t* out, int threads) {
  const int64_t words = bc_plane_words(channels);
  if (!bc::bits_ok(bits) || threads < 1) return BC_BAD_ARGUMENT;
  const int64_t size = bc::volume({rows, channels});
  if (size < 0 || bc::volume({rows, words, 8}) < 0) return BC_BAD_SHAPE;
  if (bc::missing(size, {codes, out})) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  if (!bc::all_fit(codes, size, bits)) return BC_BAD_CODE;
  return bc::guarded([&] {
    const int use = bc::worthwhile(threads, static_cast<double>(size) * bits);
    bc::parallel_for(rows, use, [&](int64_t row, int) {
      const uint8_t* code = codes + row * channels;
      for (int j = 0; j < bits; ++j) {
        uint32_t* word = out + (j * rows + row) * words;
        std::memset(word, 0, static_cast<size_t>(words) * sizeof *word);
        for (int64_t c = 0; c < channels; ++c)
          word[c / 32] |= static_cast<uint32_t>((code[c] >> j) & 1) << (c % 32);
      }
    });
    return BC_OK;
  });
}

}  // extern "C"
