// Stored form, reals and codes, statistics.
#include <algorithm>

#include "calls.h"

namespace fuzz {

void stored_form(Input& in) {
  const int bits = in.small(1, 8), threads = in.small(1, 3);
  const int64_t n = in.size(0, 255), channels = in.size(0, 70);
  const int64_t bytes = bc_packed_bytes(n, bits), words = bc_plane_words(channels);
  if (bytes < -1 || words < -1) fail("a size that is none");
  const Memory<uint8_t> x = codes(in, elements({n}), in.once_in(8) ? 8 : bits);
  const int64_t wrong = in.once_in(8) ? in.size(-1, 40) : bytes;
  const Memory<uint8_t> packed(in, elements({wrong})), back(in, elements({n}));
  const bc_status status = bc_pack(x.get(), n, bits, packed.get(), wrong, threads);
  check_status(status);
  const bc_status unpacked = bc_unpack(packed.get(), wrong, bits, n, back.get(), threads);
  check_status(unpacked);
  if (status == BC_OK && unpacked == BC_OK && n > 0 &&
      std::memcmp(x.get(), back.get(), static_cast<size_t>(n)) != 0)
    fail("pack and unpack give something else");
  const int64_t rows = in.size(0, 9);
  const Memory<uint8_t> to_words = codes(in, elements({rows, channels}), bits);
  const Memory<uint32_t> out(in, elements({bits, rows, words}));
  check_status(bc_pack_words(to_words.get(), rows, channels, bits, out.get(), threads));
}

namespace {

bc_view view_of(Input& in) {
  return {in.size(0, 6), in.size(1, 40), in.once_in(2) ? in.size(0, 70) : in.size(1, 1)};
}

int64_t elements_of(const bc_view& v) { return elements({v.outer, v.groups, v.inner}); }

}  // namespace

void reals_and_codes(Input& in) {
  const bc_view view = view_of(in);
  const int64_t n = elements_of(view), groups = elements({view.groups});
  const int bits = in.small(1, 8), threads = in.small(1, 3);
  const Memory<float> x = reals(in, n, -3, 3), lo = reals(in, groups, -2, 0),
                      hi = reals(in, groups, 0.5f, 2);
  if (in.once_in(2)) {
    const Memory<uint8_t> out(in, n);
    for (float& scale : hi) scale = in.once_in(3) ? 0.0f : scale;
    at_two_levels(in, out, [&] {
      return bc_encode(x.get(), view, hi.get(), lo.get(), bits, out.get(), threads);
    });
    return;
  }
  const Memory<float> out(in, n), grad = reals(in, n, -1, 1), grad_lo(in, groups),
                      grad_hi(in, groups);
  at_two_levels(in, out, [&] {
    return bc_fake_quantize(x.get(), view, hi.get(), lo.get(), bits, out.get(), threads);
  });
  at_two_levels(in, grad_lo, [&] {
    return bc_fake_quantize_backward(x.get(), grad.get(), view, lo.get(), hi.get(), bits, out.get(),
                                     grad_lo.get(), grad_hi.get(), threads);
  });
}

void statistics(Input& in) {
  const bc_view view = view_of(in);
  const int64_t n = elements_of(view), groups = elements({view.groups});
  const int threads = in.small(1, 3);
  const int64_t bins = in.size(1, 60);
  const Memory<float> x = reals(in, n, -3, 3), lo = reals(in, groups, -2, 0),
                      hi = reals(in, groups, 0.5f, 2), least(in, groups), most(in, groups);
  at_two_levels(in, least, [&] {
    return bc_minmax(x.get(), view, least.get(), most.get(), threads);
  });
  const Memory<int64_t> counts(in, elements({groups, bins}));
  at_two_levels(in, counts, [&] {
    std::fill(counts.begin(), counts.end(), 0);
    return bc_histogram(x.get(), view, lo.get(), hi.get(), bins, counts.get(), threads);
  });
  const int64_t length = in.size(0, 200);
  const Memory<float> powers = reals(in, elements({length}), -130, 0), out(in, elements({length}));
  at_two_levels(in, out, [&] { return bc_exp2(powers.get(), length, out.get()); });
}

}  // namespace fuzz
