// Which peak loops this CPU can run, and the C interface to them.
#include "peak.h"

#include <cstring>

#include "bitcompress/peak.h"

namespace bc {
namespace {

struct Set {
  const Peak* loops;
  bool (*available)();
};

constexpr Set kSets[] = {
    {kPeaksScalar, [] { return true; }},
#if defined(BITCOMPRESS_X86)
    {kPeaksAvx2, [] { return bc_isa_available("avx2") != 0; }},
    {kPeaksAvx512vnni, [] { return bc_isa_available("avx512vnni") != 0; }},
    {kPeaksAvx512vbmi, [] { return bc_isa_available("avx512vbmi") != 0; }},
    {kPeaksAmx, [] { return bc_isa_available("amx") != 0; }},
#endif
};

// Calls f(loop) for each loop of this CPU until one gives true.
template <class F>
bool any(F&& f) {
  for (const Set& set : kSets) {
    if (!set.available()) continue;
    for (const Peak* loop = set.loops; loop->primitive != nullptr; ++loop) {
      if (f(*loop)) return true;
    }
  }
  return false;
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_peak_name(int index, const char** primitive, const char** set) {
  if (index < 0 || primitive == nullptr || set == nullptr) return BC_BAD_ARGUMENT;
  const bool found = bc::any([&](const bc::Peak& loop) {
    *primitive = loop.primitive, *set = loop.set;
    return index-- == 0;
  });
  return found ? BC_OK : BC_BAD_ARGUMENT;
}

bc_status bc_peak_run(const char* primitive, const char* set, int64_t rounds, const uint8_t* buffer,
                      int64_t bytes, double* work) {
  if (primitive == nullptr || set == nullptr || work == nullptr) return BC_BAD_ARGUMENT;
  if (rounds < 0 || bytes < 0 || (bytes > 0 && buffer == nullptr)) return BC_BAD_ARGUMENT;
  const bool found = bc::any([&](const bc::Peak& loop) {
    if (std::strcmp(loop.primitive, primitive) != 0 || std::strcmp(loop.set, set) != 0) return false;
    *work = loop.run(rounds, buffer, bytes);
    return true;
  });
  return found ? BC_OK : BC_UNAVAILABLE;
}

}  // extern "C"
