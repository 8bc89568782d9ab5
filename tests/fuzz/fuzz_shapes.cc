// The C interface with any sizes, bits and null pointers: a status comes back, never a crash, not a
// byte beside the memory that the sizes name, and the same numbers at every instruction set.
//
// With clang this is a target of libFuzzer (make fuzz); elsewhere driver.cc has the loop.
#include <iterator>

#include "calls.h"

namespace {

constexpr struct {
  const char* name;
  fuzz::Call call;
} kCalls[] = {
    {"stored form", fuzz::stored_form},     {"reals and codes", fuzz::reals_and_codes},
    {"learning", fuzz::learning},
    {"statistics", fuzz::statistics},       {"products", fuzz::products},
    {"convolutions", fuzz::convolutions},   {"layers", fuzz::layers},
    {"chains", fuzz::chains},               {"multiplications", fuzz::multiplications},
    {"attentions", fuzz::attentions},       {"between layers", fuzz::between_layers},
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const auto& chosen = kCalls[in.byte() % std::size(kCalls)];
  fuzz::g_call = chosen.name;
  chosen.call(in);
  return 0;
}
