// What the test programs go through: instruction sets, and how much of each.
//
// BITCOMPRESS_ISA leaves one level; without it every one of this CPU is tested. BITCOMPRESS_TEST_SMALL
// leaves fewer and smaller cases, for runs under valgrind or on an emulated CPU.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "bitcompress/bits.h"

inline std::vector<std::string> levels() {
  const char* wish = std::getenv("BITCOMPRESS_ISA");
  std::vector<std::string> here;
  for (const char* name : {"scalar", "avx2", "avx512vnni", "avx512vbmi", "amx", "neon"}) {
    if (bc_isa_available(name) == 0) continue;
    if (wish == nullptr || *wish == '\0' || wish == std::string(name)) here.push_back(name);
  }
  return here;
}

inline bool small_tests() { return std::getenv("BITCOMPRESS_TEST_SMALL") != nullptr; }
