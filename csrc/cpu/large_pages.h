// Large pages for memory that is about to be written for the first time.
#pragma once

#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastheads {

// malloc takes blocks of this size from the system anew, above 32 MiB always, below where the end
// of its heap has been given back: in small pages, to touch them first takes ten times as long as
// an operator takes to fill them.
constexpr int64_t kTakenAnew = int64_t{4} << 20;

// Only a hint; pages that have been touched stay as they are.
inline void ask_for_large_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kTakenAnew) return;
  constexpr uintptr_t kLargePage = uintptr_t{2} << 20;
  const auto start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (start + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t end = (start + static_cast<uintptr_t>(bytes)) / kLargePage * kLargePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace fastheads
