// Peak loops for Python.
#include "bitcompress/peak.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"

namespace host {
namespace {

std::vector<std::pair<std::string, std::string>> peaks() {
  std::vector<std::pair<std::string, std::string>> found;
  const char *primitive = nullptr, *set = nullptr;
  for (int i = 0; bc_peak_name(i, &primitive, &set) == BC_OK; ++i)
    found.emplace_back(primitive, set);
  return found;
}

double peak(const std::string& primitive, const std::string& set, int64_t rounds,
            const In& buffer) {
  const uint8_t* bytes = read_any<uint8_t>(buffer, "buffer", 1);
  double work = 0;
  call("peak", [&] {
    return bc_peak_run(primitive.c_str(), set.c_str(), rounds, bytes,
                       static_cast<int64_t>(buffer.shape(0)), &work);
  });
  return work;
}

}  // namespace

void bind_peak(nb::module_& m) {
  using namespace nb::literals;
  m.def("peaks", &peaks, "The loops (primitive, set) that this CPU can run.");
  m.def("peak", &peak, "primitive"_a, "set"_a, "rounds"_a, "buffer"_a,
        "Runs a loop; gives its multiply-accumulates, or the bytes read of buffer u8[n].");
}

}  // namespace host
