// Memory of large results on the CPU, which later results use again.
#pragma once

#include "../common.h"

namespace fastheads {

// Above 32 MiB glibc maps every block by itself and unmaps it when it is freed. To touch the
// cleared pages of the next one takes as long as an operator takes to fill them.
constexpr int64_t kUnmappedWhenFreed = int64_t{32} << 20;

// Not initialised. When its last tensor is gone, the memory stays for a later call that needs at
// least half of it; a call that finds none so gives all of that to the system first, so what lies
// idle is never more than what was in use since then. Any thread may call, and free.
Tensor large_empty(int64_t dims, const int64_t* sizes, const int64_t* strides, ScalarType dtype,
                   int64_t bytes);

}  // namespace fastheads
