// The passes of training, in rows of any sizes.
#include "bitcompress/learn.h"
#include "calls.h"

namespace fuzz {

void learning(Input& in) {
  const bc_learn size{in.size(0, 5), in.size(0, 40), in.size(0, 70), 0};
  const int which = in.byte() % 6, threads = in.small(1, 3);
  const int64_t n = elements({size.groups, size.pixels, size.channels});
  const int64_t row = elements({size.groups, size.channels});
  const auto some = [&](int64_t kinds) { return row < 0 ? -1 : elements({kinds, row}); };
  const Memory<float> x = reals(in, n, -3, 3), grad = reals(in, n, -1, 1),
                      tables = reals(in, some(4), -1, 1);
  const Memory<float> out(in, n), more(in, n), sums(in, some(4));
  const bool beside = in.once_in(2), behind = in.once_in(2), only = in.once_in(2);
  at_two_levels(in, out, [&] {
    switch (which) {
      case 0:
        return bc_learn_cut(&size, x.get(), tables.get(), out.get(), threads);
      case 1:
        return bc_learn_cut_back(&size, x.get(), grad.get(), tables.get(), behind ? 1 : 0,
                                 out.get(), sums.get(), threads);
      case 2:
        return bc_learn_moments(&size, x.get(), sums.get(), threads);
      case 3:
        return bc_learn_tail(&size, x.get(), tables.get(), beside ? grad.get() : nullptr,
                             behind ? 1 : 0, out.get(), threads);
      case 4:
        return bc_learn_tail_back(&size, x.get(), tables.get(), beside ? grad.get() : nullptr,
                                  grad.get(), out.get(), only ? nullptr : more.get(), sums.get(),
                                  threads);
      default:
        return bc_learn_norm_back(&size, grad.get(), x.get(), tables.get(), out.get(), threads);
    }
  });
}

}  // namespace fuzz
