// Loaded first, ends every tensor at a page that nobody may touch: a kernel that reads or writes
// beyond it faults, as does one that uses it after it was freed. PyTorch takes the memory of
// tensors from posix_memalign.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPages = size_t(1) << 32;  // 16 TB of addresses, of which none is used twice
constexpr size_t kWord = 16;                // the widest access of a kernel, to which tensors begin
constexpr size_t kFilled = 64 << 10;        // garbage in what is no larger

void* reserve(size_t bytes, int access) {
  void* at = mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) abort();
  return at;
}

char* region() {
  static char* const at = static_cast<char*>(reserve(kPages * kPage, PROT_NONE));
  return at;
}

// Of the block that begins in a page.
uint32_t& pages_from(size_t page) {
  static auto* const all =
      static_cast<uint32_t*>(reserve(kPages * sizeof(uint32_t), PROT_READ | PROT_WRITE));
  return all[page];
}

}  // namespace

extern "C" int posix_memalign(void** out, size_t alignment, size_t bytes) {
  static std::atomic<size_t> next = 0;
  alignment = alignment > 64 ? alignment : kWord;
  const size_t length = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  const size_t pages = (length + kPage - 1) / kPage, first = next.fetch_add(pages + 1);
  char* const block = region() + first * kPage;
  if (first + pages >= kPages || mprotect(block, pages * kPage, PROT_READ | PROT_WRITE) != 0) {
    return ENOMEM;
  }
  pages_from(first) = static_cast<uint32_t>(pages);
  *out = block + pages * kPage - length;
  if (bytes <= kFilled) memset(*out, 0xcb, length);
  return 0;
}

extern "C" void free(void* address) {
  static const auto next = reinterpret_cast<void (*)(void*)>(dlsym(RTLD_NEXT, "free"));
  const size_t offset =
      reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(region());
  if (offset >= kPages * kPage) return next(address);
  const size_t first = offset / kPage, bytes = pages_from(first) * kPage;
  mmap(region() + first * kPage, bytes, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}
