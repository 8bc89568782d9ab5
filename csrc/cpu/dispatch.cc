// Which instruction set runs: what the build has, what the CPU and the operating system have, what
// was asked for. This is the only file that lists the levels.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "bitcompress/bits.h"
#include "kernels.h"

#if defined(BITCOMPRESS_X86)
#include <cpuid.h>

#include "isa/amx.h"
#include "isa/avx512vbmi.h"
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#if defined(BITCOMPRESS_ARM64)
#include "isa/neon.h"
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace bc {
namespace {

bool always() { return true; }

#if defined(BITCOMPRESS_X86)
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers leaf(unsigned number) {
  Registers r;
  __get_cpuid_count(number, 0, &r.a, &r.b, &r.c, &r.d);
  return r;
}

constexpr bool bit(unsigned word, int position) { return ((word >> position) & 1u) != 0; }

// The parts of the register file that the operating system saves: an instruction set without them
// may not be used.
unsigned saved_state() {
  if (!bit(leaf(1).c, 27)) return 0;  // OSXSAVE
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool look_for_avx2() {
  const Registers one = leaf(1), seven = leaf(7);
  return (saved_state() & 0x6u) == 0x6u && bit(one.c, 28) && bit(seven.b, 5);
}

bool look_for_avx512vnni() {
  const Registers seven = leaf(7);
  const bool zmm = (saved_state() & 0xe6u) == 0xe6u;
  const bool f_bw_dq_vl =
      bit(seven.b, 16) && bit(seven.b, 30) && bit(seven.b, 17) && bit(seven.b, 31);
  return look_for_avx2() && zmm && f_bw_dq_vl && bit(seven.c, 11);
}
#endif

#if defined(BITCOMPRESS_X86)
bool look_for_avx512vbmi() {
  const Registers seven = leaf(7);
  return look_for_avx512vnni() && bit(seven.c, 1) && bit(seven.c, 14);  // VBMI, VPOPCNTDQ
}

// Linux gives the tile registers to a process that asks for them.
bool look_for_amx() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  const Registers seven = leaf(7);
  const bool there = bit(seven.d, 24) && bit(seven.d, 25) && (saved_state() & 0x60000u) == 0x60000u;
  return look_for_avx512vnni() && there &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Asking takes long where a hypervisor answers: once is enough.
template <bool (*kLook)()>
bool has() {
  static const bool found = kLook();
  return found;
}
constexpr bool (*has_avx2)() = has<look_for_avx2>;
constexpr bool (*has_avx512vnni)() = has<look_for_avx512vnni>;
constexpr bool (*has_avx512vbmi)() = has<look_for_avx512vbmi>;
constexpr bool (*has_amx)() = has<look_for_amx>;

// avx512vnni with products of its own. The table is put together here, where no instruction of the
// level can be in the way of a CPU that lacks it.
const Kernels& avx512vbmi() {
  static const Kernels table = [] {
    Kernels k = kAvx512vnni;
    k.name = "avx512vbmi";
    k.form_for = [](int x_bits, int w_bits, const Extent& extent) -> const Form& {
      return vbmi_form_for(x_bits, w_bits, extent, *kAvx512vnni.codes);
    };
    return k;
  }();
  return table;
}

// The level that amx builds on: its products are faster where sums are short.
const Kernels& below_amx() { return has_avx512vbmi() ? avx512vbmi() : kAvx512vnni; }

const Kernels& amx() {
  static const Kernels table = [] {
    Kernels k = kAvx512vnni;
    k.name = "amx";
    k.step = 64;
    k.panel_bytes = amx_panel_bytes;
    k.pack_panel = amx_pack_panel;
    k.product = amx_product;
    k.for_short_sums = &below_amx();
    k.codes = &kAmxBytes;
    k.form_for = [](int x_bits, int w_bits, const Extent& extent) -> const Form& {
      if (extent.length() >= kShortSum) return kAmxBytes;
      return below_amx().form_for(x_bits, w_bits, extent);
    };
    return k;
  }();
  return table;
}
#endif

#if defined(BITCOMPRESS_ARM64)
bool has_dot() {
#if defined(__ARM_FEATURE_DOTPROD)
  return true;
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}

// With dot products where the CPU has them: codes of any width stay bytes.
const Kernels& neon() {
  static const Kernels table = [] {
    Kernels k = neon_kernels();
    if (!has_dot()) return k;
    k.code_bytes = 1;
    k.load_rows = neon_dot_load_rows;
    k.panel_bytes = neon_dot_panel_bytes;
    k.pack_panel = neon_dot_pack_panel;
    k.product = neon_dot_product;
    k.codes = &kNeonDot;
    k.form_for = [](int x_bits, int w_bits, const Extent& extent) -> const Form& {
      return neon_form_for(x_bits, w_bits, extent, true);
    };
    return k;
  }();
  return table;
}
#endif

struct Level {
  const Kernels& (*kernels)();
  bool (*available)();
};

// From best to plainest.
constexpr Level kLevels[] = {
#if defined(BITCOMPRESS_X86)
    {amx, has_amx},
    {avx512vbmi, has_avx512vbmi},
    {[]() -> const Kernels& { return kAvx512vnni; }, has_avx512vnni},
    {[]() -> const Kernels& { return kAvx2; }, has_avx2},
#endif
#if defined(BITCOMPRESS_ARM64)
    {neon, always},
#endif
    {[]() -> const Kernels& { return kScalar; }, always},
};

const Kernels* find(const char* name) {
  for (const Level& level : kLevels) {
    if (std::strcmp(level.kernels().name, name) == 0 && level.available()) return &level.kernels();
  }
  return nullptr;
}

const Kernels* choose() {
  const char* wish = std::getenv("BITCOMPRESS_ISA");
  if (wish != nullptr) {
    if (const Kernels* found = find(wish)) return found;
  }
  for (const Level& level : kLevels) {
    if (level.available()) return &level.kernels();
  }
  return &kScalar;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> chosen{choose()};
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_acquire); }

}  // namespace bc

extern "C" {

const char* bc_isa(void) { return bc::kernels().name; }

int bc_isa_available(const char* name) {
  return name != nullptr && bc::find(name) != nullptr ? 1 : 0;
}

bc_status bc_set_isa(const char* name) {
  if (name == nullptr) return BC_BAD_ARGUMENT;
  const bc::Kernels* found = bc::find(name);
  if (found == nullptr) return BC_UNAVAILABLE;
  bc::current().store(found, std::memory_order_release);
  return BC_OK;
}

}  // extern "C"
