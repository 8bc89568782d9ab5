// A loop for fuzz_shapes.cc and fuzz_onnx.cc where there is no libFuzzer: replays files and folders of
// inputs, then makes `-runs=N` of its own, or for `-seconds=N`, from `-seed=S`. Where the target has a
// mutator of its own, they are changed files. An input that kills the process is named.
#include <algorithm>
#include <cinttypes>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed);

namespace {

uint64_t g_seed = 1, g_run = 0;
std::string g_file;
std::vector<std::vector<uint8_t>> g_replayed;

void say_where(int signal) {
  if (!g_file.empty()) {
    std::fprintf(stderr, "input: %s\n", g_file.c_str());
  } else {
    std::fprintf(stderr, "input: -seed=%" PRIu64 " -runs=1, with the same files\n", g_seed + g_run);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  g_file = path.string();
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  g_file.clear();
  g_replayed.push_back(bytes);
}

// The files of a folder, in the same order on every machine.
void replay_all(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) replay(path);
}

// A file, changed by the mutator of the target.
std::vector<uint8_t> changed(uint64_t seed) {
  std::vector<uint8_t> bytes = g_replayed[seed % g_replayed.size()];
  const size_t size = bytes.size();
  bytes.resize(2 * size + 1024);
  bytes.resize(LLVMFuzzerCustomMutator(bytes.data(), size, bytes.size(), static_cast<unsigned>(seed)));
  return bytes;
}

// Input number `seed`: the same bytes on every machine.
std::vector<uint8_t> made(uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
  const auto next = [&] {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  };
  for (int i = 0; i < 4; ++i) next();
  std::vector<uint8_t> bytes(8 + next() % 120);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(next() >> 32);
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGBUS}) std::signal(signal, say_where);
  uint64_t runs = 0;
  std::time_t end = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "-runs=", 6) == 0) {
      runs = std::strtoull(argv[i] + 6, nullptr, 10);
    } else if (std::strncmp(argv[i], "-seconds=", 9) == 0) {
      runs = UINT64_MAX, end = std::time(nullptr) + std::atoi(argv[i] + 9);
    } else if (std::strncmp(argv[i], "-seed=", 6) == 0) {
      g_seed = std::strtoull(argv[i] + 6, nullptr, 10);
    } else if (std::filesystem::is_directory(argv[i])) {
      replay_all(argv[i]);
    } else {
      replay(argv[i]);
    }
  }
  for (g_run = 0; g_run < runs && (end == 0 || std::time(nullptr) < end); ++g_run) {
    const bool changes = LLVMFuzzerCustomMutator != nullptr && !g_replayed.empty();
    const std::vector<uint8_t> bytes = changes ? changed(g_seed + g_run) : made(g_seed + g_run);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu files and %" PRIu64 " made inputs: all came back\n", g_replayed.size(), g_run);
  return 0;
}
