// See scratch.h.
#include "scratch.h"

#include <array>
#include <cstdlib>
#include <memory>

namespace bc {
namespace {

constexpr int kMostDepth = 4;

struct Block {
  struct Free {
    void operator()(uint8_t* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<uint8_t, Free> bytes;
  int64_t size = 0;
};

struct Blocks {
  std::array<Block, kMostDepth> at;
  int depth = 0;
};

thread_local Blocks t_blocks;

}  // namespace

Scratch::Scratch(int64_t bytes) : next_(nullptr) {
  if (bytes < 0 || t_blocks.depth == kMostDepth) throw std::bad_alloc();
  Block& block = t_blocks.at[static_cast<size_t>(t_blocks.depth)];
  if (block.size < bytes) {
    block.bytes.reset();
    block.size = 0;
    const size_t size = static_cast<size_t>((bytes + 63) / 64 * 64);
    block.bytes.reset(static_cast<uint8_t*>(std::aligned_alloc(64, size)));
    if (block.bytes == nullptr) throw std::bad_alloc();
    block.size = static_cast<int64_t>(size);
  }
  ++t_blocks.depth;
  next_ = block.bytes.get();
}

Scratch::~Scratch() { --t_blocks.depth; }

}  // namespace bc
