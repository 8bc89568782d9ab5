// What does not fit into memory is thrown, as without sanitizers: theirs would end the process. In a file of its
// own, so that the compiler does not see through it.
#include <cstdlib>
#include <new>

void* operator new(size_t size) {
  void* const made = std::malloc(size == 0 ? 1 : size);
  if (made == nullptr) throw std::bad_alloc();
  return made;
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
